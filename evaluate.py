"""The five metrics of the paper, with intervals, for any checkpoint; and a model to talk to.

    python evaluate.py --folder runs/default --split test           every stage of a run
    python evaluate.py --checkpoint runs/default/stage2.pt --problems mine.jsonl
    python evaluate.py --folder runs/default --ask "?+7-2+5=16"   the first answer and its correction
    python evaluate.py --reproduce runs/paper                       every table and figure of the paper, in miniature
    python evaluate.py --reproduce runs/quick --quick               the same in a quarter of an hour, as a check

Accuracy@t_i and Δ are fractions of *all* problems, as are Δ^{i→c} (wrong, then right) and Δ^{c→i}:
Accuracy@t2 = Accuracy@t1 + Δ^{i→c} − Δ^{c→i} holds to the last digit.
"""

import argparse
import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch

import data
import rollout
import verify


@dataclass
class Metrics:
    """All in percent of the n problems; ± is the half-width of the 95 % interval over problems."""

    n: int
    t1: float
    t2: float
    delta: float
    delta_ci: float
    fixed: float  # Δ^{i→c}
    spoiled: float  # Δ^{c→i}
    same: float  # second answer equal to the first, token by token
    truncated: float  # second answers cut at the length limit
    accuracy: list[float]  # at every turn, where there are more than two


def metrics(right: list[list[bool]], answers: list[list[str]], finished: torch.Tensor) -> Metrics:
    """right, answers: one list of n a turn; finished (n, turns). Δ is paired: its standard error is
    that of the mean of r2 − r1 over problems, sqrt(var / n)."""
    r = torch.tensor(right, dtype=torch.float64).T * 100  # (n, turns)
    n, first, second = len(r), r[:, 0], r[:, 1]
    gain = second - first
    return Metrics(
        n=n,
        t1=first.mean().item(),
        t2=second.mean().item(),
        delta=gain.mean().item(),
        delta_ci=1.96 * gain.std(correction=0).item() / n**0.5,
        fixed=100 * (gain > 0).double().mean().item(),
        spoiled=100 * (gain < 0).double().mean().item(),
        same=100 * sum(a == b for a, b in zip(answers[0], answers[1])) / n,
        truncated=100 * (~finished[:, 1]).double().mean().item(),
        accuracy=r.mean(0).tolist(),
    )


HEADER = (
    f"{'':<22}{'Acc@t1':>8}{'Acc@t2':>8}{'Δ(t1,t2)':>15}{'Δ i→c':>8}{'Δ c→i':>8}{'same':>7}\n" + "─" * 76
)


def row(name: str, m: Metrics) -> str:
    delta = f"{m.delta:+.1f} ± {m.delta_ci:.1f}"
    return f"{name:<22}{m.t1:>8.1f}{m.t2:>8.1f}{delta:>15}{m.fixed:>8.1f}{m.spoiled:>8.1f}{m.same:>6.0f}%"


def evaluate(policy, task, problems, *, turns=2, temperature=0.0, seed=0, batch=512, first_from=None):
    """Answers every problem `turns` times in a row, each time asked to correct the last answer.

    temperature 0 is greedy, the paper's evaluation. first_from: another model whose first attempts
    are to be corrected; a problem's own `first` is, too. Returns (Metrics, dialogues), a dialogue a
    dict of prompt, the answers' texts and whether each is right; none of it is shown to the model.
    """
    generator = torch.Generator(policy.wte.weight.device).manual_seed(seed)
    sampling = dict(eos=task.eos, max_new=task.max_new, vocab=task.vocab, temperature=temperature, generator=generator)
    texts, finished = [[] for _ in range(turns)], []
    for at in range(0, len(problems), batch):
        prompts, given = [task.ask(p.prompt) for p in problems[at : at + batch]], None
        if first_from is not None:
            drawn = rollout.sample(first_from, prompts, task.instruction, turns=1, **sampling)
            given = [a + [task.eos] * done for a, done in zip(drawn.answers(1), drawn.finished[:, 0].tolist())]
        elif any(p.first is not None for p in problems):  # offline repair: data.load_first_attempts
            firsts = [p.first for p in problems[at : at + batch]]
            given = [None if first is None else task.encode(first) + [task.eos] for first in firsts]
        draw = rollout.sample_pairs if turns > 2 and task.pairs else lambda *args, **kw: [rollout.sample(*args, **kw)]
        answers, ended = rollout.attempts(draw(policy, prompts, task.instruction, turns=turns, given=given, **sampling))
        finished.append(ended.cpu())
        for i in range(turns):
            texts[i] += [task.decode(ids) for ids in answers[i]]
    finished = torch.cat(finished)  # (n, turns)
    judged = torch.tensor(verify.rewards(problems * turns, sum(texts, []))).view(turns, -1)  # (turns, n)
    right = ((judged == 1) & finished.T).tolist()  # an answer that was cut is a failed one
    dialogues = [
        {"prompt": p.prompt, "answers": [turn[n] for turn in texts], "right": [turn[n] for turn in right]}
        for n, p in enumerate(problems)
    ]
    return metrics(right, texts, finished), dialogues


def pick_dialogues(dialogues) -> dict:
    """The first dialogue in which the model corrected itself, kept a right answer, failed, spoiled one."""
    kinds = {"corrected": (False, True), "kept": (True, True), "failed": (False, False), "spoiled": (True, False)}
    found = {kind: next((d for d in dialogues if tuple(d["right"][:2]) == rights), None) for kind, rights in kinds.items()}
    return {kind: d for kind, d in found.items() if d is not None}


def ask(policy, task, text: str) -> dict:
    """One problem as a person types it: the dialogue, greedy. Raises data.DataError for what is none."""
    _, dialogues = evaluate(policy, task, [task.read(text)])
    return dialogues[0]


def read_problems(path: str, task) -> list[data.Problem]:
    """A JSON Lines file with one {"prompt": "?+7-2+5=16"} a line. DataError names file, line and field."""
    problems = []
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), 1):
        try:
            problems.append(task.read(json.loads(line)["prompt"]))
        except json.JSONDecodeError as error:
            raise data.DataError(f"{path}:{number}: not JSON ({error.msg}); write one object a line") from error
        except (KeyError, TypeError) as error:
            raise data.DataError(f'{path}:{number}: no field "prompt"; write {{"prompt": "..."}}') from error
        except data.DataError as error:
            raise data.DataError(f"{path}:{number}: prompt: {error}") from error
    if not problems:
        raise data.DataError(f"{path}: holds no problem; write one a line")
    return problems


def checkpoints(run: str) -> list[Path]:
    """The finished stages of a run folder, in the order in which they were made."""
    paths = [p for p in Path(run).glob("stage*.pt") if not p.name.endswith(".partial.pt")]
    if not paths:
        raise data.DataError(f"{run}: no finished stage; run train.py --folder {run} first")
    return sorted(paths, key=lambda p: p.stat().st_mtime_ns)


# ------------------------------------------------------------------ the paper in miniature: its arms


@dataclass
class Arm:
    """One row of the paper's tables: flags of train.py, and the paper's own numbers on MATH (HumanEval for code)."""

    title: str
    flags: str | None = None  # None: the base model itself
    paper: tuple = ()  # t1, t2, Δ, i→c, c→i; ablations have the first three
    stage1: bool = False  # goes on from the Stage I of `score` with the same seed
    turns: int = 2  # the answers in a row when it is measured, of which the last counts as the second
    task: str = "false-position"


# {all}: Stage I's and Stage II's steps together, so that every arm has the same rollouts and updates.
FROM_BASE = "--stage2_from base --stage2_steps {all}"
ARMS = {
    "base": Arm("base, prompted twice", None, (52.6, 41.4, -11.2, 4.6, 15.8)),
    "self-refine": Arm("Self-Refine", None, (52.8, 51.8, -1.0, 3.2, 4.2), turns=3),
    "star-d": Arm("STaR, D", FROM_BASE + " --learn star", (55.4, 41.2, -14.2, 5.4, 19.6)),
    "star-d+": Arm("STaR, D⁺", FROM_BASE + " --learn star --keep_right", (53.6, 54.0, 0.4, 2.6, 2.2)),
    "pairs-d": Arm("Pair-SFT, D", FROM_BASE + " --learn pairs", (52.4, 54.2, 1.8, 5.4, 3.6)),
    "pairs-d+": Arm("Pair-SFT, D⁺", FROM_BASE + " --learn pairs --keep_right", (55.0, 55.0, 0.0, 0.0, 0.0)),
    "rest-em": Arm("ReST-EM", FROM_BASE + " --learn rest-em"),
    "single": Arm("single-turn RL", FROM_BASE + " --train_turns 1 --offline 0", (61.8, 59.4, -2.4)),
    "naive": Arm("naive multi-turn RL", FROM_BASE + " --alpha 0 --offline 0"),
    "no-stage1": Arm("SCoRe without Stage I", FROM_BASE, (59.2, 61.4, 2.2)),
    "no-shaping": Arm("SCoRe without shaping", "--alpha 0", (60.0, 62.6, 2.6), stage1=True),
    "star-stage2": Arm("STaR for REINFORCE in Stage II", "--learn star --keep_right", (56.2, 58.4, 2.2), stage1=True),
    "gamma": Arm("SCoRe with γ = 0.8", "--gamma 0.8"),
    "rounds": Arm("SCoRe, two rounds of I and II", "--rounds 2 --stage1_steps {half1} --stage2_steps {half2}"),
    "no-offline": Arm("SCoRe without offline first attempts", "--offline 0", stage1=True),
    "alpha10": Arm("SCoRe with the paper's α = 10", "--alpha 10", stage1=True),
    "anneal": Arm("one stage: β falls as α rises", FROM_BASE + " --anneal"),
    "three": Arm("SCoRe, three attempts", "--turns 3 --stage1_steps {third1} --stage2_steps {third2}"),
    "four": Arm("SCoRe, four attempts", "--turns 4 --stage1_steps {half1} --stage2_steps {half2}"),
    "score": Arm("**SCoRe**", "", (60.0, 64.4, 4.4, 5.8, 1.4)),
    "code-base": Arm("base, prompted twice", None, (53.7, 56.7, 3.0, 7.9, 4.9), task="code"),
    "code-self-refine": Arm("Self-Refine", None, (53.7, 52.5, -1.2, 9.8, 11.0), turns=3, task="code"),
    "code-pairs-d": Arm("Pair-SFT, D", FROM_BASE + " --learn pairs", (56.1, 54.3, -1.8, 4.3, 6.1), task="code"),
    "code-score": Arm("**SCoRe**", "", (52.4, 64.6, 12.2, 15.2, 3.0), task="code"),
}
TABLES = {
    "sft": ("base", "star-d", "star-d+", "pairs-d", "pairs-d+", "score"),  # Table 1
    "main": ("base", "self-refine", "star-d+", "pairs-d", "naive", "score"),  # Table 2
    "code": ("code-base", "code-self-refine", "code-pairs-d", "code-score"),  # Table 3
    "ablations": (
        "score", "single", "naive", "no-stage1", "no-shaping", "star-stage2", "gamma", "rounds", "no-offline", "alpha10", "rest-em",
    ),  # Table 4, and more
    "beyond": ("score", "anneal", "three", "four"),
}  # fmt: skip
FIVE_SEEDS = ("base", "star-d+", "pairs-d", "naive", "score")  # the others have three


@dataclass
class Job:
    """One run of train.py. It is done when `result` exists, and can begin when `needs` does."""

    name: str
    command: list[str]
    result: Path
    needs: Path | None
    steps: int  # of the stages that it makes itself, for the time that is left


def jobs(folder: Path, arms: list[str], seeds: int, quick: bool) -> list[Job]:
    """All runs of a comparison, those first that others need; each arm of a seed shares its seed's base model."""
    import train

    s = train.parse("--base_steps 1500 --stage1_steps 60 --stage2_steps 100".split() if quick else [])
    one, two = s.stage1_steps, s.stage2_steps
    names = dict(all=one + two, half1=one // 2, half2=two // 2, third1=one * 2 // 3, third2=two * 2 // 3)
    found = {}

    def add(arm, seed):
        a, task = ARMS[arm], ARMS[arm].task
        prefix = "" if task == "false-position" else f"{task}-"
        at, base, first = (folder / f"{x}-{seed}" for x in (arm, f"{prefix}base", f"{prefix}score"))
        if a.flags is None:
            at, flags, needs = base, f"--stage 0 --task {task}", None
        else:
            add(f"{prefix}base", seed)
            needs = base / "stage0.pt"
            if a.stage1:
                add(f"{prefix}score", seed)
                needs = first / "stage2.pt"
            flags = f"--stage 2 --task {task} --base {base}/stage0.pt --stage1_steps {one} --stage2_steps {two} {a.flags.format(**names)}"
        words = f"{flags} --base_steps {s.base_steps} --seed {seed} --folder {at} --threads 1 --eval_every 50".split()
        made = train.parse(words)
        stages = train.plan(made)[0 if a.flags is None else 1 :]
        result = at / f"{'stage0' if a.flags is None else stages[-1][1]}.pt"
        steps = sum((0, made.stage1_steps, made.stage2_steps)[k] for k, _ in stages if not (a.stage1 and k == 1))
        command = [sys.executable, str(Path(__file__).with_name("train.py")), *words]
        found.setdefault(at.name, Job(at.name, command, result, needs, steps or s.base_steps // 4))

    for seed in range(seeds):  # a whole seed before the next: an interruption leaves a comparison
        for arm in arms:
            if seed < 3 or arm in FIVE_SEEDS:
                add(arm, seed)
    return list(found.values())


def run_jobs(todo: list[Job], workers: int) -> None:
    """Runs what is not done yet, `workers` at a time; says what is done, what runs, and how long is left.

    Interrupted, it lets every run write its checkpoint, and goes on from there the next time."""
    open_, running, done, began = [j for j in todo if not j.result.exists()], {}, 0, time.monotonic()
    print(f"{len(todo) - len(open_)} of {len(todo)} runs are done", flush=True)
    try:
        while open_ or running:
            for job in [j for j in open_ if j.needs is None or j.needs.exists()][: workers - len(running)]:
                open_.remove(job)
                running[job.name] = (job, start_job(job))
                print(f"{clock(time.monotonic() - began)}  begins  {job.name}", flush=True)
            time.sleep(0.2)
            for name, (job, process) in list(running.items()):
                if process.poll() is None:
                    continue
                del running[name]
                if process.returncode or not job.result.exists():
                    log = job.result.parent / "output.txt"
                    last = (log.read_text(errors="replace").replace("\r", "\n").strip().splitlines() or ["no output"])[-1]
                    raise data.DataError(f"run {name} ended with code {process.returncode}: {last} (all of it: {log})")
                done += job.steps
                rest = sum(j.steps for j in open_) + sum(j.steps for j, _ in running.values())
                left = (time.monotonic() - began) * rest / done
                print(
                    f"{clock(time.monotonic() - began)}  done    {name}; {', '.join(running) or 'nothing'} still runs, "
                    f"{len(open_)} to begin; about {clock(left)} left", flush=True,
                )  # fmt: skip
    finally:
        for _, process in running.values():
            process.send_signal(signal.SIGINT)
        for _, process in running.values():
            process.wait()


def clock(seconds: float) -> str:
    return f"{int(seconds) // 3600}:{int(seconds) // 60 % 60:02}:{int(seconds) % 60:02}"


def start_job(job: Job) -> subprocess.Popen:
    """Starts a run in a session of its own (a Ctrl-C reaches it through `run_jobs` alone), its output into its folder."""
    job.result.parent.mkdir(parents=True, exist_ok=True)
    if job.needs is not None and job.needs.name == "stage2.pt":  # the Stage I of `score` is this arm's, too
        for old in job.needs.parent.glob("stage1.*"):
            if not (job.result.parent / old.name).exists():
                shutil.copy(old, job.result.parent)
    with open(job.result.parent / "output.txt", "a") as log:
        return subprocess.Popen(job.command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)


# ------------------------------------------------------------------ the paper in miniature: its tables

T975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)  # Student's t, 97.5 %, for 1 to 9 degrees of freedom


def mean_ci(values: list[float]) -> tuple[float, float]:
    """The mean over seeds and the half-width of its 95 % interval (Student's t); nan where one seed is all."""
    n, mean = len(values), sum(values) / len(values)
    if n == 1:
        return mean, float("nan")
    return mean, T975[n - 2] * (sum((v - mean) ** 2 for v in values) / (n - 1) / n) ** 0.5


def edit_ratio(a: str, b: str) -> float:
    """Edit distance over the length of both answers together, as in the paper's Fig. 4; 0 for equal ones."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        before, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (x != y))
    return row[-1] / max(len(a) + len(b), 1)


def measure(path: Path, arm: Arm, split: str, n: int) -> dict:
    """The metrics of a finished run, and the edit ratio of each dialogue; kept beside the checkpoint."""
    import train

    kept = path.with_name(f"{path.stem}.{split}{n}.turns{arm.turns}.measured")
    if not kept.exists():
        policy, state = train.load_policy(path)
        task = data.TASKS[state["settings"]["task"]]
        turns = max(arm.turns, state["settings"].get("turns", 2))
        _, dialogues = evaluate(policy, task, task.problems(split, n), turns=turns)
        pick = (0, turns - 1) if arm.turns > 2 else (0, 1)
        right, texts = ([[d[key][i] for d in dialogues] for i in pick] for key in ("right", "answers"))
        m = metrics(right, texts, torch.ones(n, 2, dtype=torch.bool))
        m.accuracy = [100 * sum(d["right"][i] for d in dialogues) / n for i in range(turns)]
        ratios = [round(edit_ratio(*pair), 3) for pair in zip(*texts)]
        train.write(kept, json.dumps({"metrics": dataclasses.asdict(m), "ratios": ratios}).encode())
    return json.loads(kept.read_text())


def gather(folder: Path, todo: list[Job], arms: list[str], seeds: int, split: str, n: int) -> dict:
    """arm -> seed -> what `measure` found, for the runs that are done."""
    results, found = {job.name: job.result for job in todo}, {}
    for arm in arms:
        run = arm.replace("self-refine", "base")
        for seed in range(seeds):
            path = results.get(f"{run}-{seed}")
            if path is not None and path.exists() and (seed < 3 or arm in FIVE_SEEDS):
                found.setdefault(arm, {})[str(seed)] = measure(path, ARMS[arm], split, n)
    return found


def order(found: dict, arm: str, best: str, what: str) -> str:
    """Whether SCoRe is ahead of an arm, as in the paper: paired over the seeds that both have."""
    seeds = found[arm].keys() & found[best].keys()
    gaps = [found[best][seed]["metrics"][what] - found[arm][seed]["metrics"][what] for seed in seeds]
    if len(gaps) < 2:
        return "undecided"
    mean, ci = mean_ci(gaps)
    verdict = "found" if mean - ci > 0 else "not found" if mean + ci < 0 else "undecided"
    return f"{verdict} ({mean:+.1f} ± {ci:.1f})"


def table(found: dict, arms) -> str:
    """A table of the paper with ours and the paper's own rows, Markdown."""
    lines = [
        "| arm | seeds | Acc@t1 | Acc@t2 | Δ(t1,t2) | Δ i→c | Δ c→i | changed | the paper: t1 / t2 / Δ / i→c / c→i | SCoRe's Δ above it? | SCoRe's Acc@t2 above it? |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for arm in arms:
        if arm not in found:
            continue
        ms = [x["metrics"] for x in found[arm].values()]
        means = {f: mean_ci([m[f] for m in ms]) for f in ("t1", "t2", "delta", "fixed", "spoiled", "same")}
        cells = [f"{mean:.1f}" + (f" ± {ci:.1f}" if len(ms) > 1 else "") for mean, ci in list(means.values())[:5]]
        best = "code-score" if ARMS[arm].task == "code" else "score"
        beside = [order(found, arm, best, what) if arm != best and best in found else "" for what in ("delta", "t2")]
        paper = " / ".join(f"{x:.1f}" for x in ARMS[arm].paper) or "no row"
        row = [ARMS[arm].title, str(len(ms)), *cells, f"{100 - means['same'][0]:.0f} %", paper, *beside]
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)


def seed_table(found: dict, arms) -> str:
    """Every seed of an arm in a row of its own; ± is the interval over problems."""
    lines = ["| arm | seed | Acc@t1 | Acc@t2 | Δ(t1,t2) | Δ i→c | Δ c→i | changed |", "|---|---|---|---|---|---|---|---|"]
    for arm in arms:
        for seed, x in found.get(arm, {}).items():
            m = Metrics(**x["metrics"])
            lines.append(
                f"| {ARMS[arm].title} | {seed} | {m.t1:.1f} | {m.t2:.1f} | {m.delta:+.1f} ± {m.delta_ci:.1f} | {m.fixed:.1f} | "
                f"{m.spoiled:.1f} | {100 - m.same:.0f} % |"
            )
    return "\n".join(lines)


def fill(path: Path, tables: dict[str, str]) -> None:
    """Puts each table between its marks in a Markdown file: <!-- table NAME --> … <!-- end -->."""
    import train

    text = path.read_text(encoding="utf-8")
    for name, rows in tables.items():
        text = re.sub(rf"(<!-- table {name} -->\n).*?(<!-- end -->)", lambda m: f"{m[1]}{rows}\n{m[2]}", text, flags=re.S)
    train.write(path, text.encode())


# ------------------------------------------------------------------ the paper in miniature: its figures


def curves(folder: Path, arms, seeds: int) -> dict:
    """Fig. 5, 6 and 9: the held-out metrics over training, from the logs: arm-seed -> a list of points.

    repairs is Accuracy@t2 where the first answers are the base model's, and fixed."""
    found = {}
    for arm in arms:
        for seed in range(seeds):
            points, before = [], 0
            for log in sorted(folder.glob(f"{arm}-{seed}/stage[12].jsonl")):
                lines = [json.loads(line) for line in log.read_text().splitlines()]
                for x in lines:
                    if "held_out" in x:
                        m = x["held_out"]
                        point = {"step": before + x["step"] + 1, "t1": m["t1"], "t2": m["t2"], "changed": 100 - m["same"]}
                        points.append(point | {"repairs": x.get("repairs_base")})
                before += len(lines)
            if points:
                found[f"{arm}-{seed}"] = points
    return found


def majority(answers: list[str]) -> str:
    """The most frequent answer; of several, the one that was given first."""
    return Counter(answers).most_common(1)[0][0]


def votes(policy, task, problems, most: int, seed: int = 0) -> dict:
    """Fig. 1, right: K -> (2K answers in parallel, K answers each corrected once), majority vote, accuracy in percent.

    Temperature 0.7, as in the paper. The vote is over the K corrected answers alone: they replace the first ones."""
    generator = torch.Generator(policy.wte.weight.device).manual_seed(seed)
    sampling = dict(max_new=task.max_new, temperature=0.7, generator=generator)
    counts = [k for k in (1, 2, 4, 8, 16) if k <= most]
    right = {k: [0.0, 0.0] for k in counts}
    for at in range(0, len(problems), 16):
        some = problems[at : at + 16]
        drawn = rollout.sample(policy, [task.ask(p.prompt) for p in some], task.instruction, task.eos, K=2 * most, **sampling)
        turns = [[task.decode(ids) for ids in drawn.answers(i)] for i in (1, 2)]
        for i, problem in enumerate(some):
            first, second = (turn[i * 2 * most : (i + 1) * 2 * most] for turn in turns)
            for k in counts:
                # Every disjoint group of what was drawn is a trial of its own.
                parallel = [majority(first[g : g + 2 * k]) for g in range(0, 2 * most, 2 * k)]
                corrected = [majority(second[g : g + k]) for g in range(0, 2 * most, k)]
                for which, chosen in enumerate((parallel, corrected)):
                    judged = verify.rewards([problem] * len(chosen), chosen)
                    right[k][which] += 100 * sum(judged) / len(judged) / len(problems)
    return {str(k): right[k] for k in counts}


def gradient_variance(checkpoint: Path, base: Path, batches: int = 32) -> dict:
    """Ours: the variance of the second turn's gradient under each baseline, at α = 1 and 10.

    The trace of the covariance of one batch's gradient, 64 dialogues of 8 problems, over `batches` batches."""
    import score
    import train

    policy, state = train.load_policy(checkpoint)
    reference, _ = train.load_policy(base)
    task, found = data.TASKS[state["settings"]["task"]], {}
    for alpha in (1.0, 10.0):
        for baseline in ("none", "problem", "siblings", "first"):
            M = 2 if baseline == "siblings" else 1
            s = train.parse(f"--problems 8 --attempts {8 // M} --siblings {M} --baseline {baseline} --alpha {alpha} --offline 0".split())
            total = squares = 0.0
            for step in range(batches):
                batch = train.make_rollouts(s, task, policy, reference, 2, step)
                shape = (s.problems, s.attempts, s.siblings)
                A = score.advantages(score.stage2_returns(batch.rewards, alpha), batch.rewards, shape, baseline, alpha)
                drawn = batch.parts[0]
                turn = drawn.turn * (drawn.turn == 2)
                logp, kl, _ = score.answer_stats(policy, None, drawn.ids, turn)
                loss = score.stage2_loss(logp, kl, turn, A, 0.0, [1, len(A)])
                g = torch.cat([x.reshape(-1) for x in torch.autograd.grad(loss, list(policy.parameters()))]).double()
                total, squares = total + g, squares + g.square()
            found[f"{baseline}, α = {alpha:.0f}"] = ((squares / batches - (total / batches).square()).sum() * batches / (batches - 1)).item()
    return found


def figures(folder: Path, found: dict, seeds: int, split: str, n: int) -> dict:
    """The data of every figure for which the runs are there; the dearer ones from seed 0."""
    import train

    data_ = {"training": curves(folder, ("score", "naive", "pairs-d", "gamma"), seeds), "split": split, "problems": n}
    data_["edit ratios"] = {
        arm: [sum(x["ratios"].count(r) for x in by_seed.values() for r in {*x["ratios"]} if lo <= r < lo + 0.05) for lo in RATIOS]
        for arm, by_seed in found.items()
        if (ARMS[arm].task, ARMS[arm].turns) == ("false-position", 2)
    }
    data_["ten attempts"], data_["votes"] = {}, {}
    for arm in ("base", "score", "three"):
        path = folder / f"{arm}-0" / ("stage0.pt" if arm == "base" else "stage2.pt")
        if path.exists():
            policy, state = train.load_policy(path)
            task = data.TASKS[state["settings"]["task"]]
            problems = task.problems(split, n)
            data_["ten attempts"][arm] = evaluate(policy, task, problems, turns=10)[0].accuracy
            data_["votes"][arm] = votes(policy, task, problems[: n // 4], 16)
    first = folder / "score-0" / "stage1.pt"
    if first.exists():
        data_["gradient variance"] = gradient_variance(first, folder / "base-0" / "stage0.pt")
    return data_


RATIOS = [round(0.05 * i, 2) for i in range(21)]  # lower edges of Fig. 4's bins


def draw(data_: dict, folder: Path) -> str:
    """The figures as PNG, if matplotlib is there; says what it did."""
    try:
        import matplotlib
    except ImportError:
        return "matplotlib is not installed: the figures' data is in figures.json, no PNG was drawn"
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    def save(name, draw_on, *panels):
        figure, axes = plt.subplots(1, len(panels), figsize=(4.5 * len(panels), 3.2), squeeze=False)
        for ax, (title, x, y) in zip(axes[0], panels):
            ax.set(title=title, xlabel=x, ylabel=y)
        draw_on(*axes[0])
        for ax in axes[0]:
            ax.legend(fontsize=7)
        figure.tight_layout()
        figure.savefig(folder / f"{name}.png", dpi=110)
        plt.close(figure)

    def mean_curve(ax, arm, key, label, **kw):
        runs = [points for name, points in data_["training"].items() if name.rsplit("-", 1)[0] == arm]
        runs = [[(p["step"], p[key]) for p in points if p[key] is not None] for points in runs]
        length = min(map(len, runs), default=0)
        if length:
            mean = [sum(run[i][1] for run in runs) / len(runs) for i in range(length)]
            ax.plot([step for step, _ in runs[0][:length]], mean, label=label, **kw)

    def training(accuracy, changed):
        for arm, color in (("naive", "C1"), ("score", "C0")):
            for key, style in (("t1", "--"), ("t2", "-")):
                mean_curve(accuracy, arm, key, f"{ARMS[arm].title.strip('*')}, {key}", color=color, linestyle=style)
            mean_curve(changed, arm, "changed", ARMS[arm].title.strip("*"), color=color)

    steps = "updates"
    save("training", training, ("Fig. 6", steps, "accuracy, %"), ("second answer differs from the first", steps, "%"))

    def repairs(*axes):
        for ax, arm in zip(axes, ("pairs-d", "score")):
            mean_curve(ax, arm, "repairs", "on the base's first answers")
            mean_curve(ax, arm, "t2", "on its own")

    panels = (("Fig. 5: Pair-SFT", steps, "Accuracy@t2, %"), ("SCoRe", steps, "Accuracy@t2, %"))
    save("repairs", repairs, *panels)
    save("gamma", lambda ax: [mean_curve(ax, a, k, f"{ARMS[a].title.strip('*')}, {k}") for a in ("score", "gamma") for k in ("t1", "t2")],
         ("Fig. 9: γ above 0", steps, "accuracy, %"))  # fmt: skip

    def ratios(ax):
        for arm, counts in data_["edit ratios"].items():
            if arm in TABLES["main"]:
                ax.plot(RATIOS, [100 * c / max(sum(counts), 1) for c in counts], label=ARMS[arm].title.strip("*"))
        ax.set_yscale("log")

    save("edits", ratios, ("Fig. 4", "edit distance over both lengths", "% of answers"))

    def attempts(ten, vote):
        for arm, accuracy in data_["ten attempts"].items():
            ten.plot(range(1, 11), accuracy, label=ARMS[arm].title.strip("*"))
        for arm, by_k in data_["votes"].items():
            for which, label, style in ((0, "2K in parallel", "--"), (1, "K, each corrected", "-")):
                vote.plot([2 * int(k) for k in by_k], [v[which] for v in by_k.values()], style, label=f"{ARMS[arm].title.strip('*')}: {label}")
        vote.set_xscale("log", base=2)

    save("attempts", attempts, ("Fig. 8", "attempt", "accuracy, %"), ("Fig. 1, right", "answers drawn", "vote's accuracy, %"))
    return "figures drawn: training, repairs, gamma, edits, attempts (.png)"


def reproduce(folder: Path, results: Path, arms: list[str], *, seeds: int, workers: int, quick: bool, run: bool, n: int) -> None:
    """Everything from nothing, or from what is already there: runs, tables, figures.

    Settings were chosen on the validation split, so the tables are of the test split; `quick` is a
    check of the machinery, and leaves the test split alone."""
    import train

    todo = jobs(folder, arms, seeds, quick)
    if run:
        run_jobs(todo, workers)
    split = "val" if quick else "test"
    found = gather(folder, todo, arms, seeds, split, n)
    if not found:
        raise data.DataError(f"{folder}: no run is finished; leave out --no_runs")
    results.mkdir(parents=True, exist_ok=True)
    kept = {arm: {seed: x["metrics"] for seed, x in by_seed.items()} for arm, by_seed in found.items()}
    train.write(results / "paper.json", (json.dumps({"split": split, "problems": n, "arms": kept}) + "\n").encode())
    data_ = figures(folder, found, seeds, split, n)
    train.write(results / "figures.json", (json.dumps(data_) + "\n").encode())
    tables = tables_of(found)
    for path in (results / "README.md", Path(__file__).with_name("README.md")):
        if path.exists() and not quick:
            fill(path, tables)
    for name, rows in tables.items():
        print(f"\n{name}\n{rows}")
    print(f"\n{results}/paper.json, figures.json written; {draw(data_, results)}")


def tables_of(found: dict) -> dict[str, str]:
    """Name -> Markdown of every table; found as in `gather`, or as in paper.json."""
    found = {arm: {seed: x if "metrics" in x else {"metrics": x} for seed, x in by_seed.items()} for arm, by_seed in found.items()}
    return {name: table(found, arms) for name, arms in TABLES.items()} | {"seeds": seed_table(found, ("base", "naive", "score"))}


def main(argv=None) -> None:
    import train  # it imports this module; here it only lends the reading of checkpoints

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", default="runs/default", help="run folder; all its stages are evaluated, or its last one asked")
    parser.add_argument("--checkpoint", nargs="*", default=[], help="checkpoints to evaluate instead")
    parser.add_argument("--split", default="val", choices=("val", "test"), help="held-out problems")
    parser.add_argument("--eval_problems", type=int, default=1000, help="how many of them")
    parser.add_argument("--problems", help="a JSON Lines file of problems to use instead of a split")
    parser.add_argument("--turns", type=int, default=2, help="answers in a row, each asked to correct the last")
    parser.add_argument("--temperature", type=float, default=0.0, help="0: greedy, as in the paper's tables")
    parser.add_argument("--seed", type=int, default=0, help="seed of the sampling, where the temperature is above 0")
    parser.add_argument("--ask", help="one problem, as you would write it")
    parser.add_argument("--json", help="also write the metrics to this file")
    parser.add_argument("--reproduce", metavar="FOLDER", help="the paper in miniature: every arm's runs into this folder, tables and figures")
    parser.add_argument("--arms", default=",".join(ARMS), help="with --reproduce: which arms (default: all)")
    parser.add_argument("--seeds", type=int, default=5, help="with --reproduce: seeds of the main arms; the others have at most 3")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="with --reproduce: runs side by side, one thread each")
    parser.add_argument("--quick", action="store_true", help="with --reproduce: one seed, a fifth of the steps, validation split: does it work?")
    parser.add_argument("--no_runs", action="store_true", help="with --reproduce: tables and figures of what is there, nothing is trained")
    parser.add_argument("--results", default="", help="with --reproduce: where tables and figures go (default: results; FOLDER if --quick)")
    args = parser.parse_args(argv)
    if args.turns < 2 or args.eval_problems < 1 or args.temperature < 0 or not 1 <= args.seeds <= 10 or args.workers < 1:
        parser.error("--turns must be 2 or more, --eval_problems and --workers 1 or more, --temperature 0 or more, --seeds 1 to 10")
    try:
        if args.reproduce:
            arms = args.arms.split(",")
            unknown = [arm for arm in arms if arm not in ARMS]
            if unknown:
                parser.error(f"--arms: {unknown[0]!r} is none of {', '.join(ARMS)}")
            results = Path(args.results or (args.reproduce if args.quick else "results"))
            torch.set_num_threads(1)
            reproduce(Path(args.reproduce), results, arms, seeds=1 if args.quick else args.seeds, workers=args.workers,
                      quick=args.quick, run=not args.no_runs, n=200 if args.quick else args.eval_problems)  # fmt: skip
            return
        paths = [Path(p) for p in args.checkpoint] or checkpoints(args.folder)
        rows = {}
        for path in paths[-1:] if args.ask else paths:
            policy, task, made_with = train.load_to_evaluate(path)
            if args.ask:
                dialogue = ask(policy, task, args.ask)
                for i, (text, right) in enumerate(zip(dialogue["answers"], dialogue["right"]), 1):
                    print(f"answer {i}   {text}" + ("" if made_with.model else f"   ({'right' if right else 'wrong'})"))
                return
            if args.problems and made_with.model:
                problems = data.load_problems(made_with.task, args.problems, "test")
            else:
                problems = read_problems(args.problems, task) if args.problems else task.problems(args.split, args.eval_problems)
            how = dict(turns=args.turns, temperature=args.temperature, seed=args.seed, batch=made_with.sample_batch or 512)
            m, _ = evaluate(policy, task, problems, **how)
            print(("" if rows else HEADER + "\n") + row(path.stem, m), flush=True)
            if args.turns > 2:
                print("  accuracy at each turn: " + " ".join(f"{a:.1f}" for a in m.accuracy))
            rows[str(path)] = dataclasses.asdict(m)
        if args.json:
            train.write(Path(args.json), (json.dumps(rows, indent=1) + "\n").encode())
    except (train.UserError, train.WeightsError, data.DataError) as error:
        sys.exit(f"evaluate.py: {error}")
    except ValueError as error:  # a dialogue that outgrows the model's context
        sys.exit(f"evaluate.py: {error}")
    except KeyboardInterrupt:
        sys.exit("evaluate.py: stopped; the same command goes on from there")
    except OSError as error:
        sys.exit(f"evaluate.py: {error.filename or 'file'}: {error.strerror}")


if __name__ == "__main__":
    main()
