"""Sample and judge a set of problems, and compute the five metrics of the paper, with intervals.

    python evaluate.py --folder runs/default --split test                       every finished stage of a run
    python evaluate.py --checkpoint runs/default/stage1.partial.pt              one checkpoint, also while training runs
    python evaluate.py --model FOLDER --task math --data math500.jsonl          a Hugging Face folder
    python evaluate.py --folder runs/default --ask "?+7-2+5=16"                 one problem: the answer and its correction
    python evaluate.py --folder runs/default --plot                             draw the run's log

Accuracy@t_i, Δ, Δ^{i→c} (wrong, then right) and Δ^{c→i} (right, then wrong) are fractions of *all* problems, so that
Accuracy@t2 = Accuracy@t1 + Δ^{i→c} − Δ^{c→i} holds exactly.
"""

import argparse
import codecs
import dataclasses
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

import data
import rollout
from model import GPT, UserError, load_model, read_json, write_file

# ------------------------------------------------------------------ sample and judge


@dataclass
class Batch:
    """N dialogues and their verdicts."""

    rollouts: rollout.Rollouts
    texts: list[list[str]]  # one list of N answers per turn
    finished: torch.Tensor  # (N, turns) whether each answer ended by itself; CPU
    rewards: torch.Tensor  # (N, turns) r_i in {0, 1}; CPU


def sample_and_judge(policy, task, problems, *, K=1, M=1, turns=2, **sampling) -> Batch:
    """Sample dialogues and judge every answer. Training and evaluation both call this function.

    Arguments are those of `rollout.sample`, with problems in place of prompts. An answer that was cut at the length limit
    gets reward 0.
    """
    prompts = [task.ask(p.prompt) for p in problems]
    rollouts = rollout.sample(policy, task, prompts, K=K, M=M, turns=turns, **sampling)
    texts = []
    for i in range(1, turns + 1):
        texts.append([task.decode(ids) for ids in rollouts.answers(i)])
    repeated = [p for p in problems for _ in range(K * M)]  # one per dialogue
    rewards = task.rewards(repeated * turns, sum(texts, []))  # one call for all turns: equal programs run once
    rewards = torch.tensor(rewards).view(turns, -1).T  # (N, turns)
    finished = rollouts.finished.cpu()  # (N, turns)
    return Batch(rollouts, texts, finished, rewards * finished)


def evaluate(policy, task, problems, *, turns=2, temperature=0.0, seed=0, batch=512, first_from=None) -> list[dict]:
    """Answer every problem `turns` times in a row; each answer after the first is asked to correct the one before.

    temperature: 0 is greedy, as in the paper. first_from: another model, whose first attempts are corrected. A problem's own
    `first` attempt is corrected as well (offline repair).
    Returns one dict per problem: prompt, the answers' texts, whether each is right, whether each ended by itself.
    """
    sampling = dict(temperature=temperature, generator=torch.Generator(policy.wte.weight.device).manual_seed(seed))
    dialogues = []
    for at in range(0, len(problems), batch):
        some = problems[at : at + batch]
        given = _first_attempts(task, some, first_from, sampling)
        # The embedded base model has only seen dialogues of two answers. A third attempt is therefore asked for in a new
        # dialogue, in which the second attempt is the first answer.
        together = 2 if task.pairs else turns
        batches = [sample_and_judge(policy, task, some, turns=together, given=given, **sampling)]
        while together + len(batches) - 1 < turns:
            given = batches[-1].rollouts.answers(2, with_stop=True)
            batches.append(sample_and_judge(policy, task, some, given=given, **sampling))
        dialogues += dialogues_of(some, *batches)
    return dialogues


def _first_attempts(task, problems, first_from, sampling) -> list | None:
    """Return given first answers as ids with the stop id, None per problem that has none, or None if no problem has one."""
    if first_from is not None:
        prompts = [task.ask(p.prompt) for p in problems]
        return rollout.sample(first_from, task, prompts, turns=1, **sampling).answers(1, with_stop=True)
    if all(p.first is None for p in problems):
        return None
    return [None if p.first is None else task.encode(p.first) + task.stops[:1] for p in problems]


def dialogues_of(problems, *batches: Batch) -> list[dict]:
    """Return one dict per problem: its first dialogue. The turns of the first batch are joined with the others' second turns."""
    per_problem = len(batches[0].rewards) // len(problems)  # dialogues
    texts, right, ended = list(batches[0].texts), [batches[0].rewards], [batches[0].finished]
    for more in batches[1:]:
        texts.append(more.texts[1])
        right.append(more.rewards[:, 1:])
        ended.append(more.finished[:, 1:])
    right = (torch.cat(right, 1) == 1).tolist()  # N lists of `turns`
    ended = torch.cat(ended, 1).tolist()
    found = []
    for i, problem in enumerate(problems):
        n = i * per_problem
        answers = [turn[n] for turn in texts]
        found.append({"prompt": problem.prompt, "answers": answers, "right": right[n], "ended": ended[n]})
    return found


# ------------------------------------------------------------------ metrics


@dataclass
class Metrics:
    """All in percent of the n problems. delta_ci is the half-width of the 95 % interval over problems."""

    n: int
    t1: float
    t2: float
    delta: float
    delta_ci: float
    fixed: float  # Δ^{i→c}
    spoiled: float  # Δ^{c→i}
    same: float  # second answers equal to the first, as text
    truncated: float  # second answers cut at the length limit
    accuracy: list[float]  # at every turn


def metrics(dialogues: list[dict]) -> Metrics:
    """Compute the metrics of dialogues as `evaluate` returns them.

    Δ is paired: its standard error is that of the mean of r2 − r1 over problems, sqrt(var / n).
    """
    n = len(dialogues)
    r = 100 * torch.tensor([d["right"] for d in dialogues], dtype=torch.float64)  # (n, turns)
    gain = r[:, 1] - r[:, 0]
    same = sum(d["answers"][0] == d["answers"][1] for d in dialogues)
    truncated = sum(not d["ended"][1] for d in dialogues)
    return Metrics(
        n=n,
        t1=r[:, 0].mean().item(),
        t2=r[:, 1].mean().item(),
        delta=gain.mean().item(),
        delta_ci=1.96 * gain.std(correction=0).item() / n**0.5,
        fixed=100 * (gain > 0).double().mean().item(),
        spoiled=100 * (gain < 0).double().mean().item(),
        same=100 * same / n,
        truncated=100 * truncated / n,
        accuracy=r.mean(0).tolist(),
    )


HEADER = f"{'':<22}{'Acc@t1':>8}{'Acc@t2':>8}{'Δ(t1,t2)':>15}{'Δ i→c':>8}{'Δ c→i':>8}{'same':>7}\n" + "─" * 76


def row(name: str, m: Metrics) -> str:
    """Format one line under HEADER."""
    delta = f"{m.delta:+.1f} ± {m.delta_ci:.1f}"
    return f"{name:<22}{m.t1:>8.1f}{m.t2:>8.1f}{delta:>15}{m.fixed:>8.1f}{m.spoiled:>8.1f}{m.same:>6.0f}%"


KINDS = {"corrected": (False, True), "kept": (True, True), "failed": (False, False), "spoiled": (True, False)}


def examples(dialogues: list[dict]) -> dict:
    """Return the first dialogue of each kind: corrected, kept, failed, spoiled."""
    first = {}
    for d in dialogues:
        for kind, right in KINDS.items():
            if tuple(d["right"][:2]) == right:
                first.setdefault(kind, d)
    return {kind: first[kind] for kind in KINDS if kind in first}


def example_lines(kind: str, dialogue: dict, width: int = 160) -> str:
    """Format a dialogue for a terminal; long texts are shortened in the middle."""

    def short(text):
        text = " ".join(text.split())
        return text if len(text) <= width else f"{text[: width // 2]} … {text[-width // 2 :]}"

    texts = [short(text) for text in (dialogue["prompt"], *dialogue["answers"][:2])]
    if sum(map(len, texts)) < 80:  # the embedded tasks
        return f"  {kind:<10} {texts[0]}  {texts[1]}  →  {texts[2]}"
    return f"  {kind:<10} " + "\n             ".join(texts)


# ------------------------------------------------------------------ the log as a picture


def read_log(path: Path) -> list[dict]:
    """Read a stage's log, one JSON object per step; a half-written last line is left out."""
    lines = path.read_text(encoding="utf-8").split("\n") if path.exists() else [""]
    return [json.loads(line) for line in lines[:-1]]


PANELS = {  # title -> the log's fields that it shows
    "rewards of both answers (sampled)": ("r1", "r2"),
    "Δ: second reward minus first": ("delta",),
    "KL to the base, nats per answer": ("kl1", "kl2"),
    "second answers that differ from the first": ("changed",),
}
LABELS = {"r1": "first", "r2": "second", "kl1": "first", "kl2": "second"}


def plot_run(folder: Path) -> Path:
    """Draw rewards, Δ, KL and the share of changed answers over the steps of Stage I and II into training.png."""
    logs = {name: read_log(folder / f"{name}.jsonl") for name in ("stage1", "stage2")}
    logs = {name: log for name, log in logs.items() if log}
    if not logs:
        raise UserError(f"{folder}: no log of Stage I or II to draw; run train.py --folder {folder} first")
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(len(PANELS), 1, figsize=(8, 2.4 * len(PANELS)), sharex=True)
    for ax, (title, names) in zip(axes, PANELS.items()):
        ax.set_title(title, fontsize=10)
        _draw_panel(ax, logs, names)
    axes[-1].set_xlabel("training step")
    figure.suptitle(str(folder))
    figure.tight_layout()
    path = folder / "training.png"
    figure.savefig(path, dpi=100)
    plt.close(figure)
    return path


def _draw_panel(ax, logs: dict, names: tuple) -> None:
    """Draw some fields of all stages, one after the other; a vertical line between two stages."""
    offset = 0
    for stage, log in logs.items():
        for color, name in zip(("C1", "C0"), names):
            values = [float("nan") if line[name] is None else line[name] for line in log]
            label = LABELS.get(name, "") if offset == 0 else ""
            ax.plot(range(offset, offset + len(log)), values, color=color, linewidth=1, label=label)
        ax.axvline(offset, color="gray", linewidth=0.5)
        ax.annotate(stage, (offset, 1), xycoords=("data", "axes fraction"), xytext=(3, -10), textcoords="offset points", fontsize=8)
        offset += len(log)
    if len(names) > 1:
        ax.legend(fontsize=8, loc="lower right")


# ------------------------------------------------------------------ command line


def finished_stages(folder: str) -> list[Path]:
    """Return the checkpoints of a run's finished stages, in order. UserError if there are none."""
    paths = [Path(folder) / f"stage{i}.pt" for i in (0, 1, 2)]
    paths = [path for path in paths if path.exists()]
    if not paths:
        raise UserError(f"{folder}: no finished stage; run train.py --folder {folder}, or give --checkpoint")
    return paths


def open_policy(path: Path, args) -> tuple[GPT, data.Task, dict]:
    """Load a checkpoint, or a Hugging Face folder, which a run may have exported: the model, its task, the run's settings.

    --model, --task, --data, --eval_data and --max_new replace what the run was made with, for example after its files have
    moved. With a folder, all problems of --data are held out.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    policy, settings = None, {"dtype": "float32", "max_new": 512}
    if path.is_dir():
        settings["dtype"] = "bf16" if device.type == "cuda" else "float32"
        run_settings = path.parent / "settings.json"
        settings |= (read_json(run_settings) if run_settings.exists() else {}) | {"model": str(path)}
    else:
        policy, state = load_model(path)
        settings |= state["settings"]
    for name in ("model", "task", "data", "eval_data", "max_new"):
        settings[name] = getattr(args, name) or settings.get(name)
    if path.is_dir() and args.data:
        settings |= {"data": "", "eval_data": args.data}
    if path.is_dir() and not (settings["task"] and (settings["data"] or settings["eval_data"])):
        raise UserError(f"{path}: a Hugging Face folder also needs --task and --data FILE")
    task = data.make_task(*(settings[name] for name in ("task", "model", "data", "eval_data", "max_new")))
    dtype = torch.bfloat16 if settings["dtype"] == "bf16" else torch.float32
    if policy is None:
        policy = GPT.from_hf(path, dtype, settings.get("n_ctx") or None, device, task.n_tokens)
    _, dropped = data.drop_long(task, policy.config.n_ctx, 2 if task.pairs else args.turns)
    if dropped:
        print(dropped, file=sys.stderr)
    return policy.copy(dtype).to(device), task, settings


def problems_of(args, task) -> list[data.Problem]:
    """Return the problems to evaluate: a split, a file of prompts, or given first attempts to correct."""
    if args.problems:
        return data.read_problems(args.problems, task)
    problems = task.problems(args.split, args.eval_problems)
    return data.load_first_attempts(args.first_attempts, problems) if args.first_attempts else problems


def parse(argv) -> argparse.Namespace:
    """Parse the command line; a wrong value ends the program with one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", default="runs/default", help="run folder; all its finished stages are evaluated")
    parser.add_argument("--checkpoint", nargs="*", default=[], help="checkpoints, or folders of exported weights, to evaluate instead")
    parser.add_argument("--model", default="", help="Hugging Face folder: evaluate it, or (with --checkpoint) where it lies now")
    parser.add_argument("--task", default="", help="with --model: " + ", ".join(data.PUBLISHED))
    parser.add_argument("--data", default="", help="with --model: JSON Lines file of problems, as published; all are held out")
    parser.add_argument("--eval_data", default="", help="with --checkpoint: where the run's file of held-out problems lies now")
    parser.add_argument("--max_new", type=int, default=0, help="with --model: longest answer in tokens (default: the run's, or 512)")
    parser.add_argument("--split", default="val", choices=("val", "test"), help="held-out problems")
    parser.add_argument("--eval_problems", type=int, default=1000, help="how many of them")
    parser.add_argument("--problems", help='JSON Lines file of {"prompt": …} to use instead of a split')
    parser.add_argument("--first_attempts", help='JSON Lines file of {"id": …, "first": …}: first answers to correct (as MBPP-R)')
    parser.add_argument("--turns", type=int, default=2, help="answers in a row; each is asked to correct the one before")
    parser.add_argument("--temperature", type=float, default=0.0, help="0: greedy, as in the paper's tables")
    parser.add_argument("--seed", type=int, default=0, help="seed of the sampler if the temperature is above 0")
    parser.add_argument("--batch", type=int, default=0, help="dialogues at a time (default: the run's --sample_batch, or 512)")
    parser.add_argument("--ask", help="one problem, as you would write it")
    parser.add_argument("--dialogues", help="write every dialogue and its verdicts to this JSON Lines file")
    parser.add_argument("--json", help="write the metrics to this file")
    parser.add_argument("--plot", action="store_true", help="draw the run's log into training.png, and evaluate nothing")
    args = parser.parse_args(argv)
    for name, least in (("turns", 2), ("eval_problems", 1), ("temperature", 0), ("max_new", 0), ("batch", 0)):
        if not getattr(args, name) >= least:
            parser.error(f"--{name} is {getattr(args, name)}, and must be {least} or more")
    return args


def run(args) -> None:
    """Evaluate each checkpoint and print one line per checkpoint."""
    if args.model and not args.checkpoint:
        paths = [Path(args.model)]
    else:
        paths = [Path(p) for p in args.checkpoint] or finished_stages(args.folder)
    if args.ask:
        policy, task, _ = open_policy(paths[-1], args)
        return ask(policy, task, args.ask)
    found, lines = {}, []
    for path in paths:
        policy, task, settings = open_policy(path, args)
        problems = problems_of(args, task)
        batch = args.batch or settings.get("sample_batch") or 512
        dialogues = evaluate(policy, task, problems, turns=args.turns, temperature=args.temperature, seed=args.seed, batch=batch)
        m = metrics(dialogues)
        print(("" if found else HEADER + "\n") + row(path.name.removesuffix(".pt"), m), flush=True)
        if args.turns > 2:
            print("  accuracy at each turn: " + " ".join(f"{a:.1f}" for a in m.accuracy))
        found[str(path)] = dataclasses.asdict(m)
        lines += [json.dumps({"checkpoint": str(path)} | d, ensure_ascii=False) for d in dialogues]
    if args.dialogues:
        write_file(Path(args.dialogues), ("\n".join(lines) + "\n").encode())
    if args.json:
        write_file(Path(args.json), (json.dumps(found, indent=1) + "\n").encode())


def ask(policy, task, text: str) -> None:
    """Answer one problem that a person typed, and correct the answer."""
    problem = task.read(text)
    dialogue = evaluate(policy, task, [problem])[0]
    for i, (answer, right) in enumerate(zip(dialogue["answers"], dialogue["right"]), 1):
        verdict = "" if problem.gold in (None, "") else f"   ({'right' if right else 'wrong'})"
        print(f"answer {i}   {answer}{verdict}")


ASCII = {"Δ": "D", "→": "->", "±": "+-", "─": "-", "…": "...", "β": "beta", "α": "alpha", "γ": "gamma", "π": "pi"}


def replace_unprintable() -> None:
    """Let print replace what the terminal's encoding lacks, such as Δ in Latin-1, instead of raising UnicodeEncodeError."""

    def replace(error):
        text = error.object[error.start : error.end]
        return "".join(ASCII.get(c, "?") for c in text), error.end

    codecs.register_error("ascii-spelling", replace)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # not so under a test runner that captures output
            stream.reconfigure(errors="ascii-spelling")


def main(argv=None) -> None:
    """Run the program; every expected failure ends it with one line."""
    replace_unprintable()
    args = parse(argv)
    try:
        if args.plot:
            print(plot_run(Path(args.folder)))
        else:
            run(args)
    except ImportError as error:
        sys.exit(f"evaluate.py: {error.name} is not installed; pip install {error.name}")
    except (UserError, ValueError) as error:  # ValueError: a dialogue that exceeds the model's context
        sys.exit(f"evaluate.py: {error}")
    except KeyboardInterrupt:
        sys.exit("evaluate.py: stopped; evaluations are not resumed: the same command starts again")
    except OSError as error:
        sys.exit(f"evaluate.py: {error.filename or 'file'}: {error.strerror}")


if __name__ == "__main__":
    main()
