"""The five metrics of the paper, with intervals, for any checkpoint; and a model to talk to.

    python evaluate.py --folder runs/default --split test           every stage of a run
    python evaluate.py --checkpoint runs/default/stage2.pt --problems mine.jsonl
    python evaluate.py --folder runs/default --ask "?+7-2+5=16"   the first answer and its correction

Accuracy@t_i and Δ are fractions of *all* problems, as are Δ^{i→c} (wrong, then right) and Δ^{c→i}:
Accuracy@t2 = Accuracy@t1 + Δ^{i→c} − Δ^{c→i} holds to the last digit.
"""

import argparse
import dataclasses
import json
import sys
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
    sampling = dict(eos=task.eos, max_new=task.max_new, temperature=temperature, generator=generator)
    texts, finished = [[] for _ in range(turns)], []
    for at in range(0, len(problems), batch):
        prompts, given = [task.encode(p.prompt) for p in problems[at : at + batch]], None
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


def summary(path: str) -> str:
    """The rows of a --json file whose paths end in ARM-SEED/STAGE.pt, by arm and stage, as Markdown.

    Mean over seeds; for Δ also every seed with its 95 % interval over problems, since three seeds
    are too few for an interval over seeds.
    """
    groups = {}
    for name, m in json.loads(Path(path).read_text(encoding="utf-8")).items():
        arm = f"{Path(name).parent.name.rsplit('-', 1)[0]}, {Path(name).stem}"
        groups.setdefault(arm, []).append(Metrics(**m))
    lines = ["| arm | Acc@t1 | Acc@t2 | Δ | Δ i→c | Δ c→i | same | Δ of each seed |", "|---|---|---|---|---|---|---|---|"]
    for arm, ms in groups.items():
        mean = {f: sum(getattr(m, f) for m in ms) / len(ms) for f in ("t1", "t2", "delta", "fixed", "spoiled", "same")}
        each = ", ".join(f"{m.delta:+.1f} ± {m.delta_ci:.1f}" for m in ms)
        lines.append(
            f"| {arm} | {mean['t1']:.1f} | {mean['t2']:.1f} | {mean['delta']:+.1f} | {mean['fixed']:.1f} | "
            f"{mean['spoiled']:.1f} | {mean['same']:.0f} % | {each} |"
        )
    return "\n".join(lines)


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
    parser.add_argument("--summary", help="only print a --json file of several arms and seeds as a table")
    args = parser.parse_args(argv)
    if args.turns < 2 or args.eval_problems < 1 or args.temperature < 0:
        parser.error("--turns must be 2 or more, --eval_problems 1 or more, --temperature 0 or more")
    try:
        if args.summary:
            print(summary(args.summary))
            return
        paths = [Path(p) for p in args.checkpoint] or checkpoints(args.folder)
        rows = {}
        for path in paths[-1:] if args.ask else paths:
            policy, state = train.load_policy(path)
            task = data.TASKS[state["settings"]["task"]]
            if args.ask:
                dialogue = ask(policy, task, args.ask)
                for i, (text, right) in enumerate(zip(dialogue["answers"], dialogue["right"]), 1):
                    print(f"answer {i}   {text}   ({'right' if right else 'wrong'})")
                return
            problems = read_problems(args.problems, task) if args.problems else task.problems(args.split, args.eval_problems)
            m, _ = evaluate(policy, task, problems, turns=args.turns, temperature=args.temperature, seed=args.seed)
            print(("" if rows else HEADER + "\n") + row(path.stem, m), flush=True)
            if args.turns > 2:
                print("  accuracy at each turn: " + " ".join(f"{a:.1f}" for a in m.accuracy))
            rows[str(path)] = dataclasses.asdict(m)
        if args.json:
            train.write(Path(args.json), (json.dumps(rows, indent=1) + "\n").encode())
    except (train.UserError, data.DataError) as error:
        sys.exit(f"evaluate.py: {error}")
    except ValueError as error:  # a dialogue that outgrows the model's context
        sys.exit(f"evaluate.py: {error}")
    except OSError as error:
        sys.exit(f"evaluate.py: {error.filename or 'file'}: {error.strerror}")


if __name__ == "__main__":
    main()
