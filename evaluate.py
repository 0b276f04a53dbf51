"""The five metrics of the paper, with intervals, for any checkpoint; and a model to talk to.

    python evaluate.py --folder runs/default --split test           every stage of a run
    python evaluate.py --checkpoint runs/default/stage2.pt --problems mine.jsonl
    python evaluate.py --folder runs/default --ask "?+7-2+5=16"   the first answer and its correction
    python evaluate.py --reproduce runs/paper                       every table and figure of the paper, in miniature
    python evaluate.py --reproduce runs/quick --quick               the same with few steps, as a check

Accuracy@t_i and Δ are fractions of *all* problems, as are Δ^{i→c} (wrong, then right) and Δ^{c→i}:
Accuracy@t2 = Accuracy@t1 + Δ^{i→c} − Δ^{c→i} holds to the last digit.
"""

import argparse
import dataclasses
import fcntl
import json
import os
import re
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
    same: float  # second answer equal to the first, as text
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


def metrics_of(dialogues: list[dict]) -> Metrics:
    """The metrics of dialogues as `evaluate` returns them, of several calls too."""
    right, answers = ([list(turn) for turn in zip(*(d[key] for d in dialogues))] for key in ("right", "answers"))
    return metrics(right, answers, torch.tensor([d["ended"] for d in dialogues]))


HEADER = (
    f"{'':<22}{'Acc@t1':>8}{'Acc@t2':>8}{'Δ(t1,t2)':>15}{'Δ i→c':>8}{'Δ c→i':>8}{'same':>7}\n" + "─" * 76
)


def row(name: str, m: Metrics) -> str:
    """One line under HEADER."""
    delta = f"{m.delta:+.1f} ± {m.delta_ci:.1f}"
    return f"{name:<22}{m.t1:>8.1f}{m.t2:>8.1f}{delta:>15}{m.fixed:>8.1f}{m.spoiled:>8.1f}{m.same:>6.0f}%"


def evaluate(policy, task, problems, *, turns=2, temperature=0.0, seed=0, batch=512, first_from=None):
    """Answers every problem `turns` times in a row, each time asked to correct the last answer.

    temperature 0 is greedy, the paper's evaluation. first_from: another model whose first attempts
    are to be corrected; a problem's own `first` is, too. Returns (Metrics, dialogues), a dialogue a
    dict of prompt, the answers' texts, whether each is right, whether it ended; none of it is shown to the model.
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
        {"prompt": p.prompt, "answers": [turn[n] for turn in texts], "right": [turn[n] for turn in right], "ended": ended}
        for (n, p), ended in zip(enumerate(problems), finished.tolist())
    ]
    return metrics_of(dialogues), dialogues


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
ON_D = FROM_BASE + " --stage2_lr 5e-6"  # D holds second answers alone: a higher one loses the first (results/README.md)
ARMS = {
    "base": Arm("base, prompted twice", None, (52.6, 41.4, -11.2, 4.6, 15.8)),
    "self-refine": Arm("Self-Refine", None, (52.8, 51.8, -1.0, 3.2, 4.2), turns=3),
    "star-d": Arm("STaR, D", ON_D + " --learn star", (55.4, 41.2, -14.2, 5.4, 19.6)),
    "star-d+": Arm("STaR, D⁺", FROM_BASE + " --learn star --keep_right", (53.6, 54.0, 0.4, 2.6, 2.2)),
    "pairs-d": Arm("Pair-SFT, D", ON_D + " --learn pairs", (52.4, 54.2, 1.8, 5.4, 3.6)),
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
    "code-pairs-d": Arm("Pair-SFT, D", ON_D + " --learn pairs", (56.1, 54.3, -1.8, 4.3, 6.1), task="code"),
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
MAIN = ("base", "self-refine", "star-d+", "pairs-d", "naive", "score")  # these have more seeds than the others
CURVES = {"score": 50, "naive": 50, "pairs-d": 10, "gamma": 50}  # drawn over training (Fig. 5, 6, 9): updates between two points


@dataclass
class Job:
    """One run of train.py. It is done when `result` exists, and can begin when `needs` does."""

    name: str
    command: list[str]
    result: Path
    needs: Path | None
    steps: int  # of the stages that it makes itself, for the time that is left


def jobs(folder: Path, arms: list[str], seeds: int, quick: bool, others: int = 3) -> list[Job]:
    """All runs of a comparison, those first that others need; each arm of a seed shares its seed's base model."""
    import train

    s = train.parse("--base_steps 1000 --stage1_steps 30 --stage2_steps 40".split() if quick else [])
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
        words = f"{flags} --base_steps {s.base_steps} --seed {seed} --folder {at} --threads 1 --device cpu".split()
        words += f"--eval_every {CURVES.get(arm, 0)} --eval_problems {200 if quick else s.eval_problems}".split()
        made = train.parse(words)
        stages = train.plan(made)[0 if a.flags is None else 1 :]
        result = at / f"{'stage0' if a.flags is None else stages[-1][1]}.pt"
        steps = sum((0, made.stage1_steps, made.stage2_steps)[k] for k, _ in stages if not (a.stage1 and k == 1))
        command = [sys.executable, str(Path(__file__).with_name("train.py")), *words]
        found.setdefault(at.name, Job(at.name, command, result, needs, steps or s.base_steps // 4))

    for seed in range(seeds):  # a whole seed before the next: an interruption leaves a comparison
        for arm in arms:
            if seed < others or arm in MAIN:
                add(arm, seed)
    return list(found.values())


def check_done(job: Job) -> None:
    """DataError where a finished run was made with other settings than are asked for now: it would be in the tables unseen."""
    import train

    if job.result.exists():
        state, s = train.load(job.result), train.parse(job.command[2:])
        for name, now in train.remembered(s, state["stage"]).items():
            then = state["settings"].get(name, now)
            if then != now and name != "base":  # a path, which may be written in many ways
                raise data.DataError(f"{job.result}: made with --{name} {then}, and this comparison asks for {now}; remove {job.result.parent}")


def run_jobs(todo: list[Job], workers: int, grace: float = 60.0) -> None:
    """Runs what is not done yet, `workers` at a time; says what is done, what runs, and how long is left.

    Interrupted, it lets every run write its checkpoint, and goes on from there the next time. A run that has not ended
    `grace` seconds later (it may be collecting) is killed: its last checkpoint is whole."""
    open_, running, done, began = [j for j in todo if not j.result.exists()], {}, 0, time.monotonic()
    print(f"{len(todo) - len(open_)} of {len(todo)} runs are done", flush=True)
    # SIGTERM ends like a Ctrl-C; and where a shell started this with SIGINT ignored, it is heard all the same, here and in the runs.
    before = {number: signal.signal(number, signal.default_int_handler) for number in (signal.SIGINT, signal.SIGTERM)}
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
            try:
                process.wait(grace)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for number, handler in before.items():
            signal.signal(number, handler)


def clock(seconds: float) -> str:
    """0:04:06"""
    return f"{int(seconds) // 3600}:{int(seconds) // 60 % 60:02}:{int(seconds) % 60:02}"


def start_job(job: Job) -> subprocess.Popen:
    """Starts a run in a session of its own (a Ctrl-C reaches it through `run_jobs` alone), its output into its folder.

    The run holds a lock on that output for as long as it lives: where this program was killed and its
    runs were not, the next call will not set a second writer on the same checkpoints. DataError there."""
    import train

    folder = job.result.parent
    folder.mkdir(parents=True, exist_ok=True)
    if job.needs is not None and job.needs.name == "stage2.pt":  # the Stage I of `score` is this arm's, too
        for old in sorted(job.needs.parent.glob("stage1.*")):
            if not (folder / old.name).exists():
                train.write(folder / old.name, old.read_bytes())
    with open(folder / "output.txt", "a") as log:
        try:
            fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise data.DataError(f"{folder}: a run from an earlier call still writes here; wait for it, or end it") from None
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


def beside(checkpoint: Path, name: str, make):
    """What make() returns, kept as JSON beside the checkpoint for as long as that is not made anew."""
    import train

    path = checkpoint.with_name(f"{checkpoint.stem}.{name}.measured")
    if not path.exists() or path.stat().st_mtime_ns < checkpoint.stat().st_mtime_ns:
        train.write(path, json.dumps(make()).encode())
    return json.loads(path.read_text())


def measure(path: Path, arm: Arm, split: str, n: int) -> dict:
    """What a finished run is: metrics; outcomes, a digit a problem, r1 + 2·r2; the edit ratio of each dialogue; its budget."""
    import train

    def make():
        policy, state = train.load_policy(path)
        task = data.TASKS[state["settings"]["task"]]
        turns = max(arm.turns, state["settings"].get("turns", 2))
        _, dialogues = evaluate(policy, task, task.problems(split, n), turns=turns)
        pick = (0, turns - 1) if arm.turns > 2 else (0, 1)
        right, texts = ([[d[key][i] for d in dialogues] for i in pick] for key in ("right", "answers"))
        m = metrics(right, texts, torch.tensor([[d["ended"][i] for i in pick] for d in dialogues]))
        m.accuracy = [100 * sum(d["right"][i] for d in dialogues) / n for i in range(turns)]
        found = {"metrics": dataclasses.asdict(m), "outcomes": "".join(str(a + 2 * b) for a, b in zip(*right))}
        return found | {"ratios": [round(edit_ratio(*pair), 3) for pair in zip(*texts)], "budget": budget(path, state)}

    return beside(path, f"{split}{n}-turns{arm.turns}", make)


def budget(path: Path, state: dict) -> list[int]:
    """[answers drawn for training, updates made] of the run that left this checkpoint, all its stages of RL or fine-tuning."""
    import train

    s, answers, updates = train.Settings(**state["settings"], stage=state["stage"]), 0, 0
    for stage, name in train.plan(s)[1:]:
        log = path.with_name(f"{name}.jsonl")
        answers += (s.stage1_steps if stage == 1 else s.stage2_steps) * s.problems * s.attempts * s.siblings * s.turns
        updates += len(log.read_text().splitlines()) if log.exists() else 0
    return [answers, updates]


def gather(folder: Path, todo: list[Job], arms: list[str], seeds: int, split: str, n: int, others: int = 3) -> dict:
    """arm -> seed -> what `measure` found, for the runs that are done."""
    results, found = {job.name: job.result for job in todo}, {}
    for arm in arms:
        run = arm.replace("self-refine", "base")
        for seed in range(seeds):
            path = results.get(f"{run}-{seed}")
            if path is not None and path.exists() and (seed < others or arm in MAIN):
                found.setdefault(arm, {})[str(seed)] = measure(path, ARMS[arm], split, n)
    return found


def paired(found: dict, arm: str, other: str, what: str) -> tuple[float, float, float]:
    """How far `arm` is ahead of `other` in t1, t2 or delta: the mean, and two 95 % half-widths of it.

    Each seed and each problem is compared with itself. The first half-width is over seeds (Student's t on
    their means: would other seeds say the same?), the second over problems (on each one's mean over the
    seeds: would other problems?). One seed has none of the first: nan."""
    worth = {"t1": (0, 100, 0, 100), "t2": (0, 0, 100, 100), "delta": (0, -100, 100, 0)}[what]  # of outcomes 0, 1, 2, 3
    seeds = sorted(found[arm].keys() & found[other].keys())
    if not seeds:
        return float("nan"), float("nan"), float("nan")
    pairs = [zip(found[arm][seed]["outcomes"], found[other][seed]["outcomes"], strict=True) for seed in seeds]
    gaps = torch.tensor([[worth[int(a)] - worth[int(b)] for a, b in pair] for pair in pairs], dtype=torch.float64)  # (seeds, n)
    mean, over_seeds = mean_ci(gaps.mean(1).tolist())
    return mean, over_seeds, 1.96 * (gaps.mean(0).std(correction=0) / gaps.shape[1] ** 0.5).item()


def order(found: dict, arm: str, best: str, what: str) -> str:
    """Whether SCoRe is ahead of an arm, as in the paper, by more than both half-widths of the paired test."""
    mean, over_seeds, over_problems = paired(found, best, arm, what)
    if not over_seeds == over_seeds:
        return "undecided"
    clear = abs(mean) > max(over_seeds, over_problems)
    verdict = "undecided" if not clear else "found" if mean > 0 else "not found"
    return f"{verdict} ({mean:+.1f} ± {over_seeds:.1f}; ± {over_problems:.1f})"


def table(found: dict, arms) -> str:
    """A table of the paper with ours and the paper's own rows, Markdown."""
    lines = [
        "| arm | seeds | answers drawn, updates | Acc@t1 | Acc@t2 | Δ(t1,t2) | Δ i→c | Δ c→i | changed | the paper: t1 / t2 / Δ / i→c / c→i "
        "| SCoRe's Δ above it? (seeds; problems) | SCoRe's Acc@t2 above it? |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for arm in arms:
        if arm not in found:
            continue
        ms = [x["metrics"] for x in found[arm].values()]
        means = {f: mean_ci([m[f] for m in ms]) for f in ("t1", "t2", "delta", "fixed", "spoiled", "same")}
        cells = [f"{mean:.1f}" + (f" ± {ci:.1f}" if len(ms) > 1 else "") for mean, ci in list(means.values())[:5]]
        answers, updates = (sum(x["budget"][i] for x in found[arm].values()) / len(ms) for i in (0, 1))
        best = "code-score" if ARMS[arm].task == "code" else "score"
        beside_it = [order(found, arm, best, what) if arm != best and best in found else "" for what in ("delta", "t2")]
        paper = " / ".join(f"{x:.1f}" for x in ARMS[arm].paper) or "no row"
        spent = f"{answers / 1000:.0f}k, {updates:.0f}" if answers else "none"
        row = [ARMS[arm].title, str(len(ms)), spent, *cells, f"{100 - means['same'][0]:.0f} %", paper, *beside_it]
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)


def turns_table(ten: dict) -> str:
    """More attempts than two: accuracy at each of the first four, and whether the third and fourth still gain.

    ten: arm -> seed -> accuracy at each attempt, of figures.json; ± is over seeds."""
    lines = ["| arm | seeds | Acc@t1 | Acc@t2 | Acc@t3 | Acc@t4 | Δ(t2,t3) | Δ(t3,t4) | Acc@t10 |", "|---|---|---|---|---|---|---|---|---|"]
    for arm, by_seed in ten.items():
        runs = list(by_seed.values())
        values = [[a[i] for a in runs] for i in range(4)] + [[a[i + 1] - a[i] for a in runs] for i in (1, 2)] + [[a[9] for a in runs]]
        cells = [f"{mean:.1f}" + (f" ± {ci:.1f}" if len(runs) > 1 else "") for mean, ci in map(mean_ci, values)]
        lines.append("| " + " | ".join([ARMS[arm].title, str(len(runs)), *cells]) + " |")
    return "\n".join(lines)


def claims(found: dict, votes_of: dict) -> str:
    """The paper's main claims, each with what these seeds say: holds, does not hold, or undecided.

    Three tests, the first the strictest. Arms "below" and "fewer": the two intervals over seeds do not touch. The highest of
    all arms, votes: the interval of the paired difference has no 0. An ablation: its loss, the larger of the two, is
    more than one standard error."""
    lines = ["| claim | here | |", "|---|---|---|"]

    def within(mean, ci, form=".1f"):
        return f"{mean:{form}}" + (f" ± {ci:.1f}" if ci == ci else " (one seed)")

    def say(claim, low, high, numbers):
        """The claim is that a quantity is above 0; low, high: its interval."""
        lines.append(f"| {claim} | {'holds' if low > 0 else 'does not hold' if high < 0 else 'undecided'} | {numbers} |")

    def apart(claim, arm, what, sign=1):
        """The claim is that SCoRe's mean is above the arm's, and the intervals over seeds apart."""
        ours, theirs = (mean_ci([sign * x["metrics"][what] for x in found[a].values()]) for a in ("score", arm))
        gap, reach = ours[0] - theirs[0], ours[1] + theirs[1]
        shown = [(100 if what == "same" else 0) + m for m, _ in (ours, theirs)]  # sign is −1 for `same`
        numbers = f"{within(shown[0], ours[1])} against {within(shown[1], theirs[1])}"
        if what == "delta":  # the seeds share their base models, so that pairs say more than two intervals
            numbers += f"; seed by seed {within(*paired(found, 'score', arm, what)[:2], '+.1f')}"
        say(claim, gap - reach, gap + reach, numbers)

    if "base" in found:
        mean, ci = mean_ci([x["metrics"]["delta"] for x in found["base"].values()])
        verdict = "holds" if mean <= 0 else "does not hold" if mean - ci > 0 else "undecided"
        lines.append(f"| base: Δ is not above 0 | {verdict} | {within(mean, ci, '+.1f')} |")
    if "score" in found:
        for arm in ("star-d", "star-d+", "pairs-d", "pairs-d+"):
            if arm in found:
                apart(f"{ARMS[arm].title}: fewer changed answers than SCoRe", arm, "same", -1)
                apart(f"{ARMS[arm].title}: Δ below SCoRe's", arm, "delta")
        if "naive" in found:
            apart("naive multi-turn RL: Δ below SCoRe's", "naive", "delta")
        rivals = [a for a in found if ARMS[a].task == "false-position" and a != "score"]
        gaps = {a: paired(found, "score", a, "t2") for a in rivals}
        if gaps:
            a, (mean, seeds, problems) = min(gaps.items(), key=lambda x: x[1][0])
            say("SCoRe: the highest Accuracy@t2 of all arms", mean - max(seeds, problems), mean + max(seeds, problems),
                f"the nearest, {ARMS[a].title}: {within(mean, seeds, '+.1f')}")  # fmt: skip
    for arm in ("no-stage1", "no-shaping"):
        if arm in found and "score" in found:
            what, (mean, ci, _) = max(((w, paired(found, "score", arm, w)) for w in ("delta", "t2")), key=lambda x: x[1][0])
            n = len(found["score"].keys() & found[arm].keys())
            error = ci / T975[n - 2] if n > 1 else float("nan")  # one standard error, not two: three seeds are few
            say(f"{ARMS[arm].title}: lowers Δ or Accuracy@t2", mean - error, mean + error, f"{what} by {mean:.1f}, s.e. {error:.1f}")
    for k in votes_of.get("score", {}).get("0", {}):
        mean, ci = mean_ci([by_k[k][1] - by_k[k][0] for by_k in votes_of["score"].values()])
        say(f"K + K votes beat 2K, K = {k}", mean - ci, mean + ci, within(mean, ci, "+.1f"))
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
    return {str(k): [round(x, 3) for x in right[k]] for k in counts}


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
    """The data of every figure for which the runs are there. What takes long is kept beside its checkpoint."""
    import train

    data_ = {"training": curves(folder, CURVES, seeds), "split": split, "problems": n}
    data_["edit ratios"] = {}
    for arm, by_seed in found.items():
        if (ARMS[arm].task, ARMS[arm].turns) == ("false-position", 2):
            bins = Counter(min(int(r / 0.05 + 1e-9), len(RATIOS) - 1) for x in by_seed.values() for r in x["ratios"])
            data_["edit ratios"][arm] = [bins[i] for i in range(len(RATIOS))]
    data_["ten attempts"], data_["votes"] = {}, {}
    for arm in ("base", "score", "anneal", "three", "four"):
        for seed in found.get(arm, {}):
            path = folder / f"{arm}-{seed}" / ("stage0.pt" if arm == "base" else "stage2.pt")
            policy, state = train.load_policy(path)
            task = data.TASKS[state["settings"]["task"]]
            problems = task.problems(split, n)
            ten = beside(path, f"{split}{n}-ten", lambda: evaluate(policy, task, problems, turns=10)[0].accuracy)
            data_["ten attempts"].setdefault(arm, {})[seed] = ten
            if arm in ("base", "score"):
                some = problems[: n // 4]
                voted = beside(path, f"{split}{n}-votes", lambda: votes(policy, task, some, 16, int(seed)))
                data_["votes"].setdefault(arm, {})[seed] = voted
    first = folder / "score-0" / "stage1.pt"
    if first.exists():
        variance = beside(first, "variance", lambda: gradient_variance(first, folder / "base-0" / "stage0.pt"))
        data_["gradient variance"] = variance
    return data_


RATIOS = [round(0.05 * i, 2) for i in range(21)]  # lower edges of Fig. 4's bins


def name_of(arm: str) -> str:
    """An arm's title without the bold of the tables."""
    return ARMS[arm].title.strip("*")


def in_common(curves_: dict, arms, key: str) -> dict:
    """The runs of these arms, of the seeds for which each arm that has any has its `key`: what is drawn side by side."""
    runs = [name for name, points in curves_.items() if any(p[key] is not None for p in points)]
    seeds = [{name.rsplit("-", 1)[1] for name in runs if name.rsplit("-", 1)[0] == arm} for arm in arms]
    shared = set.intersection(*[s for s in seeds if s] or [set()])
    return {f"{arm}-{seed}": curves_[f"{arm}-{seed}"] for arm, has in zip(arms, seeds) if has for seed in sorted(shared)}


def mean_curve(ax, curves_: dict, arm: str, key: str, label: str, **style) -> None:
    """One number over training, mean over seeds, as far as all of them have it."""
    runs = [points for name, points in curves_.items() if name.rsplit("-", 1)[0] == arm]
    runs = [[(p["step"], p[key]) for p in points if p[key] is not None] for points in runs]
    length = min(map(len, runs), default=0)
    if length:
        mean = [sum(run[i][1] for run in runs) / len(runs) for i in range(length)]
        ax.plot([step for step, _ in runs[0][:length]], mean, label=label, **style)


def draw_attempts(ten, vote, data_: dict) -> None:
    """Fig. 8 and Fig. 1, right, means over seeds; in Fig. 8 over those that all its arms have."""
    seeds = set.intersection(*(list(map(set, data_["ten attempts"].values())) or [set()]))
    for arm, by_seed in data_["ten attempts"].items():
        if seeds:
            ten.plot(range(1, 11), [mean_ci(x)[0] for x in zip(*(by_seed[seed] for seed in seeds))], label=name_of(arm))
    for arm, by_seed in data_["votes"].items():
        ks = list(next(iter(by_seed.values())))
        for which, label, style in ((0, "2K in parallel", "--"), (1, "K, each corrected", "-")):
            means = [mean_ci([by_k[k][which] for by_k in by_seed.values()])[0] for k in ks]
            vote.plot([2 * int(k) for k in ks], means, style, label=f"{name_of(arm)}: {label}")
    vote.set_xscale("log", base=2)


def draw_variance(ax, data_: dict) -> None:
    """A bar a baseline and α; a log scale, since α = 10 has some thirty times the variance of α = 1."""
    for i, (name, value) in enumerate(data_.get("gradient variance", {}).items()):
        ax.barh(i, value, label=name)
    ax.set(xscale="log", yticks=[])


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
            if ax.get_legend_handles_labels()[0]:
                ax.legend(fontsize=7)
        figure.tight_layout()
        figure.savefig(folder / f"{name}.png", dpi=110)
        plt.close(figure)

    def accuracies(ax, arms):
        runs = in_common(data_["training"], arms, "t2")
        for arm, color in zip(arms, ("C1", "C0")):
            for key, style in (("t1", "--"), ("t2", "-")):
                mean_curve(ax, runs, arm, key, f"{name_of(arm)}, {key}", color=color, linestyle=style)

    def training(accuracy, changed):
        accuracies(accuracy, ("naive", "score"))
        for arm, color in (("naive", "C1"), ("score", "C0")):
            mean_curve(changed, in_common(data_["training"], ("naive", "score"), "t2"), arm, "changed", name_of(arm), color=color)

    def repairs(*axes):
        for ax, arm in zip(axes, ("pairs-d", "score")):
            runs = in_common(data_["training"], (arm,), "repairs")
            mean_curve(ax, runs, arm, "repairs", "on the base's first answers")
            mean_curve(ax, runs, arm, "t2", "on its own")

    def gamma(ax):
        accuracies(ax, ("gamma", "score"))

    def edits(ax):
        for arm in TABLES["main"]:
            counts = data_["edit ratios"].get(arm, [])
            if counts:
                ax.plot(RATIOS, [100 * c / max(sum(counts), 1) for c in counts], label=name_of(arm))
        ax.set_yscale("log")

    steps, accuracy = "updates", "accuracy, %"
    save("training", training, ("Fig. 6", steps, accuracy), ("second answer differs from the first", steps, "%"))
    save("repairs", repairs, ("Fig. 5: Pair-SFT", steps, "Accuracy@t2, %"), ("SCoRe", steps, "Accuracy@t2, %"))
    save("gamma", gamma, ("Fig. 9: γ above 0", steps, accuracy))
    save("edits", edits, ("Fig. 4", "edit distance over both lengths", "% of answers"))
    panels = ("Fig. 8", "attempt", accuracy), ("Fig. 1, right", "answers drawn", "vote's accuracy, %")
    save("attempts", lambda ten, vote: draw_attempts(ten, vote, data_), *panels)
    save("variance", lambda ax: draw_variance(ax, data_), ("variance of the second turn's gradient", "trace of the covariance", ""))
    return "figures drawn: training, repairs, gamma, edits, attempts, variance (.png)"


def reproduce(folder: Path, results: Path, arms: list[str], *, seeds: int, others: int, workers: int, quick: bool, run: bool, n: int):
    """Everything from nothing, or from what is already there: runs, tables, figures.

    Settings were chosen on the validation split, so the tables are of the test split; `quick` is a
    check of the machinery, and leaves the test split alone."""
    import train

    todo = jobs(folder, arms, seeds, quick, others)
    if run:
        for job in todo:
            check_done(job)
        run_jobs(todo, workers)
    split = "val" if quick else "test"
    found = gather(folder, todo, arms, seeds, split, n, others)
    if not found:
        raise data.DataError(f"{folder}: no run is finished; leave out --no_runs")
    results.mkdir(parents=True, exist_ok=True)
    kept = {arm: {seed: {k: x[k] for k in ("metrics", "outcomes", "budget")} for seed, x in by.items()} for arm, by in found.items()}
    data_ = figures(folder, found, seeds, split, n)
    train.write(results / "paper.json", (json.dumps({"split": split, "problems": n, "arms": kept}) + "\n").encode())
    train.write(results / "figures.json", (json.dumps(data_) + "\n").encode())
    tables = tables_of(kept, data_)
    for path in (results / "README.md", results.resolve().parent / "README.md"):
        if path.exists() and not quick:
            fill(path, tables)
    for name, rows in tables.items():
        print(f"\n{name}\n{rows}")
    print(f"\n{results}/paper.json, figures.json written; {draw(data_, results)}")


def tables_of(found: dict, figures_: dict) -> dict[str, str]:
    """Name -> Markdown of every table, from the arms of paper.json and the data of figures.json."""
    tables = {name: table(found, arms) for name, arms in TABLES.items()} | {"seeds": seed_table(found, ("base", "naive", "no-stage1", "alpha10", "score"))}
    return tables | {"turns": turns_table(figures_["ten attempts"]), "claims": claims(found, figures_["votes"])}


def flags(argv) -> argparse.Namespace:
    """The command line; a value that makes no sense ends the program with one line."""
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
    parser.add_argument("--seeds", type=int, default=5, help=f"with --reproduce: seeds of {', '.join(MAIN)}")
    parser.add_argument("--other_seeds", type=int, default=3, help="with --reproduce: seeds of the other arms")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="with --reproduce: runs side by side, one thread each")
    parser.add_argument("--quick", action="store_true", help="with --reproduce: one seed, a tenth of the steps, validation split: does it work?")
    parser.add_argument("--no_runs", action="store_true", help="with --reproduce: tables and figures of what is there, nothing is trained")
    parser.add_argument("--results", default="", help="with --reproduce: where tables and figures go (default: results; FOLDER if --quick)")
    args = parser.parse_args(argv)
    if args.turns < 2 or args.eval_problems < 1 or args.temperature < 0 or not 1 <= args.seeds <= 10 or min(args.other_seeds, args.workers) < 1:
        parser.error("--turns must be 2 or more, --temperature 0 or more, --seeds 1 to 10, --eval_problems, --workers, --other_seeds 1 or more")
    unknown = [arm for arm in args.arms.split(",") if arm not in ARMS]
    if unknown:
        parser.error(f"--arms: {unknown[0]!r} is none of {', '.join(ARMS)}")
    return args


def main(argv=None) -> None:
    import train  # it imports this module; here it only lends the reading of checkpoints

    args = flags(argv)
    try:
        if args.reproduce:
            arms = args.arms.split(",")
            results = Path(args.results or (args.reproduce if args.quick else "results"))
            torch.set_num_threads(1)
            reproduce(Path(args.reproduce), results, arms, seeds=1 if args.quick else args.seeds, others=args.other_seeds, workers=args.workers,
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
