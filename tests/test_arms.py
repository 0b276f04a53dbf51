"""The arms beside REINFORCE: their rounds, and more attempts than two. What each imitates: test_train.py."""

import json
import random

import pytest
import torch

import data
import rollout
import train
from model import GPT

TASK = data.TASKS["false-position"]
TINY = (
    "--threads 1 --n_layer 1 --n_embd 16 --problems 4 --attempts 2 --stage2_steps 6 --save_every 1 --eval_problems 5 "
    "--stage 2 --stage2_from base --warmup 1 --stage2_lr 0.01"
).split()


def settings(*flags):
    return train.parse([*TINY, *map(str, flags)])


def tiny(s, seed=0):
    torch.manual_seed(seed)
    return GPT(train.laptop_config(s, TASK))


def same_weights(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.values(), b.values(), strict=True))


# ------------------------------------------------------------------ rounds


@pytest.fixture
def half_right(monkeypatch):
    """An untrained model whose answers end, and half of which the verifier finds right."""
    real = rollout.sample

    def sample(*args, **kw):
        drawn = real(*args, **kw)
        drawn.finished[:] = True
        return drawn

    monkeypatch.setattr(train.rollout, "sample", sample)
    monkeypatch.setattr(train.verify, "rewards", lambda problems, answers: [float(len(a) % 2) for a in answers])


@pytest.mark.parametrize("learn, rounds", [("star", 3), ("rest-em", 3), ("pairs", 1)])
def test_fine_tuning_draws_what_reinforce_would(half_right, monkeypatch, tmp_path, learn, rounds):
    """The rollouts of all steps of RL, once each, none of them offline: the budget is the same."""
    s, seen, make = settings("--learn", learn), [], train.make_rollouts

    def make_rollouts(s, task, model, base, stage, at):
        seen.append((at, s.offline, stage, s.problems * s.attempts))
        return make(s, task, model, base, stage, at)

    monkeypatch.setattr(train, "make_rollouts", make_rollouts)
    train.train_sft(s, TASK, "stage2", tiny(s), tiny(s), tmp_path)
    assert seen == [(at, 0.0, 2, 8) for at in range(6)]
    log = [json.loads(line)["round"] for line in (tmp_path / "stage2.jsonl").read_text().splitlines()]
    assert log == [1 + at * rounds // 6 for at in range(len(log))] and (learn == "pairs" or len(log) == 6)


@pytest.mark.parametrize("learn", ["reinforce", "star"])
def test_a_second_round_draws_anew(half_right, monkeypatch, tmp_path, learn):
    """--rounds 2: round 2 goes on where round 1 stopped counting, with other problems and other random numbers."""
    s, seen, make = settings("--learn", learn, "--rounds", 2), [], train.make_rollouts

    def make_rollouts(*args):
        batch = make(*args)
        seen.append((args[-1], batch.parts[0].ids[0].tolist()))
        return batch

    monkeypatch.setattr(train, "make_rollouts", make_rollouts)
    for name in ("stage2", "stage2-round2"):
        if learn == "star":
            train.train_sft(s, TASK, name, tiny(s), tiny(s), tmp_path)
        else:
            train.train_rl(s, TASK, 2, name, tiny(s), tiny(s), tmp_path)
    assert [at for at, _ in seen] == list(range(12)) and len({tuple(ids) for _, ids in seen}) == 12


def test_random_numbers_are_made_where_the_model_is(monkeypatch):
    """A model on the CPU draws on the CPU, whatever device the settings would choose."""
    s = settings()
    monkeypatch.setattr(train, "device", lambda s: torch.device("meta"))
    assert train.make_rollouts(s, TASK, tiny(s), tiny(s), 2, 0).parts[0].ids.device.type == "cpu"


def test_killed_between_two_rounds(half_right, monkeypatch, tmp_path, killed=2):
    """Behind the last checkpoint of a round: the next one begins from the first weights all the same, and collects with the last."""
    s, folders = settings("--learn", "star"), [tmp_path / "whole", tmp_path / "killed"]
    for folder in folders:
        folder.mkdir()
    whole = train.train_sft(s, TASK, "stage2", tiny(s), tiny(s), folders[0])
    write = train.Partial.checkpoint

    def checkpoint(self, step, *rest):
        write(self, step, *rest)
        if step == killed:
            raise RuntimeError("killed")

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="killed"):
        patch.setattr(train.Partial, "checkpoint", checkpoint)
        train.train_sft(s, TASK, "stage2", tiny(s), tiny(s), folders[1])
    resumed = train.train_sft(s, TASK, "stage2", tiny(s), tiny(s), folders[1])
    assert same_weights(whole.state_dict(), resumed.state_dict())


def test_nothing_to_imitate_is_said(tmp_path):
    s = settings("--learn", "star")
    with pytest.raises(train.UserError, match="--learn star: 6 steps of rollouts hold nothing to imitate"):
        train.train_sft(s, TASK, "stage2", tiny(s), tiny(s), tmp_path)  # an untrained model is never right


# ------------------------------------------------------------------ more attempts than two


def drawn_in_three(s):
    policy = tiny(s, 1).double()
    batch = train.make_rollouts(s, TASK, policy, policy, 2, 0)
    batch.rewards = torch.tensor(random.Random(0).choices([0.0, 1.0], k=batch.rewards.numel())).double().view(-1, 3)
    return policy, batch


def test_third_attempts_correct_the_second_ones():
    """Each part's dialogue is problem, an attempt, the instruction, the next attempt; each attempt is drawn, and labelled, once."""
    s = settings("--turns", 3, "--offline", 0)
    _, batch = drawn_in_three(s)
    first, second = batch.parts
    problems = TASK.problems("train", s.problems, random.Random("stage 2, 0, 0"))
    for n, (ids, length, turn) in enumerate(zip(second.ids, second.length.tolist(), second.turn)):
        before = first.ids[n, first.start[n, 1] : first.stop[n, 1]].tolist()
        known = TASK.encode(problems[n // s.attempts].prompt) + before + TASK.instruction
        assert ids[: len(known)].tolist() == known
        assert turn[:length].tolist() == [0] * len(known) + [3] * (length - len(known))
    assert {*first.turn.unique().tolist()} == {0, 1, 2}


@pytest.mark.parametrize("stage", [1, 2])
def test_gradient_of_three_turns(stage):
    """policy_step against autograd of −Σ_i E[A_i log π(y_i|x_i)], with A_i by hand: r_i + α(r_i − r_{i−1}), without a baseline.

    β = 0: the KL's gradient is enumerated in test_exact_gradient.py."""
    s = settings("--turns", 3, "--offline", 0, "--baseline", "none", "--beta1", 0, "--micro_batch", 3)
    policy, batch = drawn_in_three(s)
    alpha, r = (0.0, 3.0)[stage - 1], batch.rewards
    train.policy_step(s, policy, policy, stage, batch, alpha, 0.0)
    ours = [p.grad.clone() for p in policy.parameters()]
    policy.zero_grad()
    paid = r.clone()
    paid[:, 1:] += alpha * (r[:, 1:] - r[:, :-1])
    if stage == 1:
        paid[:, 0] = 0
    pairs = paid[:, 0].view(-1, 2)
    paid[:, 0] = (pairs - pairs.flip(1)).view(-1)  # the first attempt always has the other one as its baseline
    loss = 0.0
    for part in batch.parts:
        logp = torch.log_softmax(policy.lm_head(policy.hidden(part.ids)), -1)[:, :-1]
        logp = logp.gather(-1, part.ids[:, 1:, None])[..., 0]
        for i in range(3):
            loss = loss - (paid[:, i] * (logp * (part.turn[:, 1:] == i + 1)).sum(1)).mean()
    loss.backward()
    for a, p in zip(ours, policy.parameters(), strict=True):
        assert torch.allclose(a, p.grad, atol=1e-9) and (p.grad.abs().max() > 0 or p.numel() == 0)
