"""The five metrics of the paper, with intervals, for any checkpoint; and a model to talk to.

    python evaluate.py --run runs/default --split test           every stage of a run
    python evaluate.py --checkpoint runs/default/stage2.pt --problems mine.jsonl
    python evaluate.py --run runs/default --ask "3 9 11=16"      the first answer and its correction

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
    generator = torch.Generator().manual_seed(seed)
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
        r = rollout.sample(policy, prompts, task.instruction, turns=turns, given=given, **sampling)
        finished.append(r.finished)
        for i in range(turns):
            texts[i] += [task.decode(ids) for ids in r.answers(i + 1)]
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
