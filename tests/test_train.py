"""The recipe: resuming to the bit, many processes, the arms, and what bad input meets."""

import copy
import dataclasses
import errno
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp

import data
import train
from model import GPT, GPTConfig

ROOT = Path(__file__).resolve().parent.parent
TINY = (
    "--threads 1 --n_layer 1 --n_embd 16 --base_steps 6 --base_batch 8 --problems 4 --attempts 2 --stage1_steps 6 "
    "--stage2_steps 6 --save_every 2 --eval_problems 5"
).split()
TASK = data.TASKS["false-position"]


def command(run, *flags):
    return [sys.executable, str(ROOT / "train.py"), "--folder", str(run), *TINY, *flags]


def finish(run, *flags, **kw):
    return subprocess.run(command(run, *flags), capture_output=True, text=True, timeout=300, **kw)


def weights(path):
    return train.load(Path(path))["model"]


def same_weights(a, b):
    return all(torch.equal(a[k], b[k]) for k in a) and a.keys() == b.keys()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of all stages that nobody interrupts."""
    run = tmp_path_factory.mktemp("whole")
    done = finish(run, "--stage", "2")
    assert done.returncode == 0, done.stderr
    return run


@pytest.mark.parametrize("stage", ["stage0", "stage1", "stage2"])
def test_killed_and_resumed_equals_never_interrupted(whole, tmp_path, stage):
    """kill -9 as soon as a stage has a checkpoint of its own, twice; then the same command to the end."""
    for moment in (2, 4):
        process = subprocess.Popen(command(tmp_path, "--stage", "2"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        log = tmp_path / f"{stage}.jsonl"
        while process.poll() is None and not (log.exists() and log.read_text().count("\n") > moment):
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
    done = finish(tmp_path, "--stage", "2")
    assert done.returncode == 0, done.stderr
    for name in ("stage0", "stage1", "stage2"):
        assert same_weights(weights(whole / f"{name}.pt"), weights(tmp_path / f"{name}.pt")), name
        lines = [[json.loads(x) for x in (run / f"{name}.jsonl").read_text().splitlines()] for run in (whole, tmp_path)]
        clocks = ("tokens_per_second", "seconds_rollout", "seconds_update")
        lines = [[{k: v for k, v in line.items() if k not in clocks} for line in log] for log in lines]
        assert lines[0] == lines[1]


def test_ctrl_c_loses_nothing(whole, tmp_path):
    process = subprocess.Popen(
        command(tmp_path, "--stage", "2", "--save_every", "2"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    log = tmp_path / "stage1.jsonl"
    while process.poll() is None and not (log.exists() and log.read_text().count("\n") >= 1):
        time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1 and "the same command goes on from there" in err and "Traceback" not in err
    assert finish(tmp_path, "--stage", "2").returncode == 0
    assert same_weights(weights(whole / "stage2.pt"), weights(tmp_path / "stage2.pt"))


def test_finished_stages_are_not_made_again(whole):
    before = {p.name: p.stat().st_mtime_ns for p in whole.glob("*.pt")}
    again = finish(whole, "--stage", "2")
    assert again.returncode == 0 and again.stdout.count("already there") == 3
    assert before == {p.name: p.stat().st_mtime_ns for p in whole.glob("*.pt")}
    assert not list(whole.glob("*.partial.pt")) and not list(whole.glob("*.tmp"))


def test_stage0_ends_at_a_level(tmp_path, monkeypatch):
    """At the first check that reaches `base_until`, and there for good: what was killed behind the last checkpoint
    is not trained on."""
    s = train.parse([*TINY, "--base_steps", "120", "--save_every", "20", "--base_until", "0.5"])
    levels = iter([0.4, 0.5])
    monkeypatch.setattr(train, "greedy_accuracy", lambda *_: next(levels))
    model = train.train_base(s, TASK, tmp_path)
    log = (tmp_path / "stage0.jsonl").read_text()
    assert [json.loads(x)["right"] for x in log.splitlines()[48:51]] == [0.0, 0.4, 0.4] and len(log.splitlines()) == 100
    again = train.train_base(s, TASK, tmp_path)
    assert same_weights(model.state_dict(), again.state_dict()) and (tmp_path / "stage0.jsonl").read_text() == log
    state = train.load(tmp_path / "stage0.partial.pt")
    assert same_weights(model.state_dict(), state["average"]) and not same_weights(model.state_dict(), state["model"])


def test_greedy_accuracy_is_that_of_the_tables(whole):
    """The level at which stage 0 ends against evaluate.py, with a verifier that finds half of the answers right."""
    model, _ = train.load_policy(whole / "stage0.pt")
    s = train.parse(TINY)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train.verify, "rewards", lambda problems, answers: [float(hash(p.prompt) % 2) for p in problems])
        patch.setattr(train.rollout, "sample", finished_rollouts(train.rollout.sample))
        problems = TASK.problems("train", 64, random.Random("accuracy, 0, 7"))
        metrics, _ = train.evaluate.evaluate(model, TASK, problems)
        assert 100 * train.greedy_accuracy(s, TASK, model, 7, 64) == metrics.t1 > 0


def finished_rollouts(sample):
    """The sampler, in whose rollouts every other answer counts as finished; an untrained model ends none."""

    def sampled(*args, **kw):
        rollouts = sample(*args, **kw)
        rollouts.finished[::2] = True
        return rollouts

    return sampled


def test_reference_is_the_base_in_both_stages(whole):
    """π_ref neither drifts nor becomes the Stage I checkpoint: it is stage 0, bit by bit, after training too."""
    s = train.parse([*TINY, "--folder", str(whole)])
    base, _ = train.load_policy(whole / "stage0.pt")
    policy, _ = train.load_policy(whole / "stage1.pt")
    train.train_rl(s, TASK, 2, "again", policy, base, whole)
    (whole / "again.partial.pt").unlink(), (whole / "again.jsonl").unlink()
    assert same_weights(base.state_dict(), weights(whole / "stage0.pt"))
    assert not same_weights(policy.state_dict(), base.state_dict())


@pytest.mark.parametrize(
    "flags, names",
    [
        ("--stage2_from base --train_turns 1 --offline 0", "stage0 stage2"),
        ("--stage2_from base --alpha 0 --offline 0", "stage0 stage2"),
        ("--alpha 0", "stage0 stage1 stage2"),
        ("--stage2_from base --anneal", "stage0 stage2"),
        ("--turns 3", "stage0 stage1 stage2"),
        ("--rounds 2 --gamma 0.8", "stage0 stage1 stage2 stage1-round2 stage2-round2"),
        ("--siblings 2 --baseline siblings --kl_target 0.01 --average 0 --keep last --decay 0.5 --alpha 10", "stage0 stage1 stage2"),
    ],
)
def test_every_arm_runs(tmp_path, flags, names):
    """The paper's arms are settings of one program; each leaves the stages that it says."""
    done = finish(tmp_path, "--stage", "2", "--stage1_steps", "2", "--stage2_steps", "2", "--base_steps", "2", *flags.split())
    assert done.returncode == 0, done.stderr
    assert {p.stem for p in tmp_path.glob("*.pt")} == set(names.split())


def hand_made():
    """Two problems of two dialogues: right/wrong first answers before right/wrong second ones."""
    rows = [  # prompt, first answer, p1, second answer; 9 is EOS
        ([1, 2], [11, 9], [8], [12, 9], (0, 1)),
        ([1, 2], [13, 9], [8], [14, 9], (1, 1)),
        ([3], [15, 15], [8], [16, 9], (0, 0)),  # its first answer was cut
        ([3], [17, 9], [8], [18, 9], (1, 0)),
    ]
    ids = [p + a + i + b for p, a, i, b, _ in rows]
    start = torch.tensor([[len(p), len(p) + len(a) + 1] for p, a, *_ in rows])
    stop = torch.tensor([[len(p) + len(a), len(row)] for (p, a, *_), row in zip(rows, ids)])
    length = torch.tensor([len(row) for row in ids])
    rewards = torch.tensor([r for *_, r in rows]).float()
    finished = torch.tensor([[True, True], [True, True], [False, True], [True, True]])
    padded = train.rollout.pad(ids)
    drawn = train.rollout.Rollouts(padded, torch.zeros_like(padded), torch.zeros(padded.shape), length, start, stop, finished)
    return train.Batch([drawn], rewards, finished, torch.zeros(4, dtype=torch.bool), torch.ones(4, dtype=torch.bool))


@pytest.mark.parametrize(
    "flags, expected",
    [
        ("star", [([1, 2, 11, 9, 8, 12, 9], [0, 0, 0, 0, 0, 2, 2])]),
        ("star --keep_right", [([1, 2, 11, 9, 8, 12, 9], [0, 0, 0, 0, 0, 2, 2]), ([1, 2, 13, 9, 8, 14, 9], [0, 0, 1, 1, 0, 2, 2])]),
        (
            "rest-em",
            [
                ([1, 2, 11, 9, 8, 12, 9], [0, 0, 0, 0, 0, 2, 2]), ([1, 2, 13, 9, 8, 14, 9], [0, 0, 1, 1, 0, 2, 2]),
                ([3, 17, 9, 8, 18, 9], [0, 1, 1, 0, 0, 0]),
            ],
        ),
    ],
)  # fmt: skip
def test_what_is_imitated_by_hand(flags, expected):
    s = train.parse(["--attempts", "2", "--learn", *flags.split()])
    assert train.examples(s, TASK, hand_made(), random.Random(0)) == expected


def test_pairs_by_hand():
    """Each wrong first answer with any right one to the same problem, of either turn; D⁺ pairs a right one with another."""
    s, plus = (train.parse(["--attempts", "2", "--learn", "pairs", *more]) for more in ([], ["--keep_right"]))
    seen = {str(x) for seed in range(40) for x in train.examples(s, TASK, hand_made(), random.Random(seed))}
    rights = ([12, 9], [13, 9], [14, 9])
    wrong = {str(([1, 2, 11, 9, 8, *y], [0, 0, 0, 0, 0, 2, 2])) for y in rights} | {str(([3, 15, 15, 8, 17, 9], [0, 0, 0, 0, 2, 2]))}
    assert seen == wrong
    seen = {str(x) for seed in range(40) for x in train.examples(plus, TASK, hand_made(), random.Random(seed))}
    # 17 is the only right answer to its problem: no other to pair it with
    assert seen == wrong | {str(([1, 2, 13, 9, 8, *y], [0, 0, 1, 1, 0, 2, 2])) for y in rights if y != [13, 9]}


@pytest.fixture
def able(tmp_path, monkeypatch):
    """A base model that gets some answers right: four problems, learnt by heart; fine-tuning can begin with nothing less."""
    few = [TASK.read(text) for text in ("?+7-2+5=16", "?+1-2+5=16", "?+3+2-5=16", "?+7-2+5=36")]
    monkeypatch.setattr(TASK, "problems", lambda split, n, rng=None: [(rng or random.Random(0)).choice(few) for _ in range(n)])
    flags = "--threads 1 --n_layer 1 --n_embd 32 --base_steps 120 --base_batch 16 --base_until 1".split()
    return train.train_base(train.parse(flags), TASK, tmp_path)


@pytest.mark.parametrize("learn", ["star --keep_right", "pairs", "rest-em"])
def test_fine_tuning_resumes_to_the_bit(able, tmp_path, monkeypatch, learn):
    """Killed in its second round: what was collected is drawn again, from the same model. The learning rate ends with the round."""
    s = train.parse([*TINY, "--stage2_from", "base", "--learn", *learn.split(), "--stage2_steps", "9", "--attempts", "8"])
    runs, step, rate, asked = [], train.supervised_step, train.rate, []
    monkeypatch.setattr(train, "rate", lambda s, at, steps: asked.append((at, steps)) or rate(s, at, steps))
    for name in ("whole", "cut"):
        (tmp_path / name).mkdir()
        with pytest.MonkeyPatch.context() as patch:
            if name == "cut":
                left = [1] * 5
                patch.setattr(train, "supervised_step", lambda *args: left.pop() and step(*args))
                with pytest.raises(IndexError):
                    train.train_sft(s, TASK, "stage2", copy.deepcopy(able), able, tmp_path / name)
        runs.append(train.train_sft(s, TASK, "stage2", copy.deepcopy(able), able, tmp_path / name).state_dict())
    assert same_weights(*runs) and not same_weights(runs[0], able.state_dict())
    logs = [[json.loads(x) for x in (tmp_path / name / "stage2.jsonl").read_text().splitlines()] for name in ("whole", "cut")]
    keep = [[(x["loss"], x["examples"], x["round"]) for x in log] for log in logs]
    assert keep[0] == keep[1] and len(keep[0]) >= 6
    if s.learn == "pairs":  # one epoch: as many dialogues as there are examples
        assert (len(keep[0]) == 9) or (len(keep[0]) - 1) * 32 < keep[0][0][1] <= len(keep[0]) * 32
    else:
        assert [x[2] for x in keep[0]] == [1, 1, 1, 2, 2, 2, 3, 3, 3]
    steps = len(keep[0]) if learn == "pairs" else 3
    assert asked[: len(keep[0])] == [(at % steps, steps) for at in range(len(keep[0]))]


def test_each_round_begins_with_the_first_weights_and_collects_with_the_last(able, tmp_path, monkeypatch):
    """STaR's rule. A new Adam, too: its first step moves every weight that has a gradient by the learning rate."""
    s = train.parse([*TINY, "--stage2_from", "base", "--learn", "rest-em", "--stage2_steps", "6", "--attempts", "8", "--average", "0"])
    before, collectors = [], []
    step, collect = train.supervised_step, train.collect
    monkeypatch.setattr(train, "supervised_step", lambda s, m, *args: before.append(copy.deepcopy(m.state_dict())) or step(s, m, *args))
    monkeypatch.setattr(train, "collect", lambda s, task, m, *args: collectors.append(copy.deepcopy(m.state_dict())) or collect(s, task, m, *args))
    train.train_sft(s, TASK, "stage2", copy.deepcopy(able), able, tmp_path)
    start = able.state_dict()
    assert len(before) == 6 and all(same_weights(before[i], start) for i in (0, 2, 4)) and not same_weights(before[1], start)
    assert same_weights(collectors[0], start) and len(collectors) == 3
    assert not same_weights(collectors[1], start) and not same_weights(collectors[1], collectors[2])
    moved = torch.cat([(before[3][k] - start[k]).abs().flatten() for k in start])
    assert moved[moved > 0].median().item() == pytest.approx(s.stage2_lr * train.rate(s, 0, 2), rel=0.02)


def test_a_third_attempt_is_paid_for_itself_alone(whole):
    """--turns 3: with r1 = r2 = 0 and r3 drawn, the gradient is REINFORCE on the third answers, and nothing else."""
    s = train.parse([*TINY, "--turns", "3", "--baseline", "none", "--beta1", "0", "--offline", "0", "--alpha", "2"])
    base, _ = train.load_policy(whole / "stage0.pt")
    batch = train.make_rollouts(s, TASK, base, base, 2, 0)
    assert len(batch.parts) == 2 and batch.rewards.shape == batch.finished.shape == (8, 3)
    batch.rewards = torch.stack([torch.zeros(8), torch.zeros(8), torch.arange(8.0) % 2], dim=1)
    policy, _ = train.load_policy(whole / "stage0.pt")
    log = train.policy_step(s, policy, base, 2, batch, s.alpha, s.beta1)
    assert (log["r3"], log["r2"]) == (0.5, 0)
    last = batch.parts[1]
    logp, _, _ = train.score.answer_stats(base.requires_grad_(True), None, last.ids, last.turn)
    third = (last.turn[:, 1:] == 3).float()
    assert (third.sum(1) > 0).all() and not (last.turn == 1).any()
    exact = torch.autograd.grad(-(3 * batch.rewards[:, 2] * (logp * third).sum(1)).mean(), list(base.parameters()))
    for a, p in zip(exact, policy.parameters()):
        torch.testing.assert_close(a, p.grad, rtol=1e-4, atol=1e-7)


def test_annealing_goes_from_strict_to_weak(whole, tmp_path, monkeypatch):
    """β on the first attempt falls from β2 to β1 in equal steps while α rises from 0; the loss takes both."""
    seen, step = [], train.policy_step
    monkeypatch.setattr(train, "policy_step", lambda *args: seen.append(args[5:7]) or step(*args))
    stage1 = train.score.stage1_loss
    monkeypatch.setattr(train.score, "stage1_loss", lambda *args: seen.append(args[-3:-1]) or stage1(*args))
    s = train.parse([*TINY, "--anneal", "--stage2_from", "base", "--stage2_steps", "4", "--alpha", "2", "--beta1", "0.01", "--beta2", "0.25"])
    base, _ = train.load_policy(whole / "stage0.pt")
    train.train_rl(s, TASK, 2, "stage2", train.load_policy(whole / "stage0.pt")[0], base, tmp_path)
    assert seen[::2] == [(0.0, 0.25), (0.5, pytest.approx(0.19)), (1.0, pytest.approx(0.13)), (1.5, pytest.approx(0.07))]
    assert [x[1] for x in seen[1::2]] == [x[1] for x in seen[::2]]
    logged = [json.loads(line)["beta2"] for line in (tmp_path / "stage2.jsonl").read_text().splitlines()]
    assert logged == pytest.approx([x[1] for x in seen[::2]])


def test_single_turn_leaves_the_second_answer_alone(whole):
    """--train_turns 1: the gradient of a batch is that of its first answers, whatever r2 is."""
    s = train.parse([*TINY, "--train_turns", "1", "--stage2_from", "base", "--offline", "0"])
    base, _ = train.load_policy(whole / "stage0.pt")
    batch = train.make_rollouts(s, TASK, base, base, 2, 0)
    grads = []
    for r2 in (0.0, 1.0):
        batch.rewards = torch.stack([torch.arange(8.0) % 2, torch.full((8,), r2)], dim=1)
        policy, _ = train.load_policy(whole / "stage0.pt")
        train.policy_step(s, policy, base, 2, batch, s.alpha, s.beta1)
        grads.append([p.grad.clone() for p in policy.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*grads)) and any(g.abs().max() > 0 for g in grads[0])
    batch.parts[0].turn[batch.parts[0].turn == 1] = 0  # --offline 1: first answers are given, and nothing is left to train
    log = train.policy_step(s, policy, base, 2, batch, s.alpha, s.beta1)
    assert log["tokens"] == log["entropy"] == 0


def _gradient_of_share(index, world, port, paths, s, results):
    """One process's part of a fixed batch: 3 of 4 problems for the first, 1 for the second."""
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(index), WORLD_SIZE=str(world))
    torch.set_num_threads(1)
    if world > 1:
        torch.distributed.init_process_group("gloo")
    batch, policy, base = torch.load(paths / "batch.pt", weights_only=False), *(GPT(GPTConfig(**torch.load(paths / "config.pt"))).double() for _ in "pb")
    policy.load_state_dict(torch.load(paths / "policy.pt")), base.load_state_dict(torch.load(paths / "base.pt"))
    rows = {1: [slice(0, 8)], 2: [slice(0, 6), slice(6, 8)]}[world][index]
    share = [dataclasses.replace(r, **{f.name: getattr(r, f.name)[rows] for f in dataclasses.fields(r)}) for r in batch.parts]
    batch = train.Batch(share, batch.rewards[rows].double(), *(x[rows] for x in (batch.finished, batch.same, batch.online)))
    train.policy_step(s, policy, base, 2, batch, s.alpha, s.beta1)
    torch.save([p.grad for p in policy.parameters()], results / f"{world}-{index}.pt")
    if world > 1:
        torch.distributed.destroy_process_group()


def test_two_processes_have_the_gradient_of_one(whole, tmp_path):
    """Unequal shares with unequal token counts: per-rank denominators, or a mean over ranks, would show."""
    s = train.parse([*TINY, "--micro_batch", "3"])
    base, _ = train.load_policy(whole / "stage0.pt")
    policy, _ = train.load_policy(whole / "stage2.pt")
    batch = train.make_rollouts(s, TASK, policy, base, 2, 0)
    batch.rewards = torch.tensor([[0, 1], [1, 1], [0, 0], [1, 0], [1, 1], [0, 1], [0, 0], [0, 1]]).float()
    for name, x in dict(batch=batch, policy=policy.double().state_dict(), base=base.double().state_dict()).items():
        torch.save(x, tmp_path / f"{name}.pt")
    torch.save(dataclasses.asdict(policy.config), tmp_path / "config.pt")
    for world in (1, 2):
        port = random.randint(20000, 40000)
        mp.spawn(_gradient_of_share, (world, port, tmp_path, s, tmp_path), nprocs=world)
    one, *two = (torch.load(tmp_path / f"{name}.pt") for name in ("1-0", "2-0", "2-1"))
    for ranks in two:
        for a, b in zip(one, ranks):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-9)


def test_torchrun_trains_on_two_processes(tmp_path):
    """The whole program under torchrun: it ends, writes each file once, and its processes draw different problems."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(launcher + command(tmp_path, "--stage", "2")[1:], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "stage2.jsonl").read_text().splitlines()) == 6


def test_sampler_and_trainer_agree(whole):
    """log π as it was drawn and as it is scored: the same to rounding, or the gradient is off-policy."""
    for line in (whole / "stage2.jsonl").read_text().splitlines():
        assert json.loads(line)["sampler_gap"] < 1e-5


def test_best_weights_are_chosen_by_training_reward(whole, tmp_path, monkeypatch):
    """The window with the highest reward wins, ties go to the later one; held-out numbers are never asked."""
    s = train.parse([*TINY, "--folder", str(tmp_path), "--average", "0"])
    base, _ = train.load_policy(whole / "stage0.pt")
    policy, _ = train.load_policy(whole / "stage0.pt")
    rewards, seen, original = iter([0.1, 0.1, 0.9, 0.9, 0.2, 0.2]), [], train.policy_step

    def step(s, policy, *rest):
        seen.append({k: v.clone() for k, v in policy.state_dict().items()})
        return original(s, policy, *rest) | {"r2": next(rewards)}

    monkeypatch.setattr(train, "policy_step", step)
    left = train.train_rl(s, TASK, 1, "stage1", policy, base, tmp_path)
    assert same_weights(left.state_dict(), seen[4])  # the weights that step 4 starts from: the end of window 2


def test_what_is_made_anew_is_measured_anew(whole, tmp_path):
    """A checkpoint that its user removed: the tables of the old weights go with it."""
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    (tmp_path / "stage2.pt").unlink()
    old = {path.name: path.read_text() for path in tmp_path.glob("stage*.val5.json")}
    for name, text in old.items():
        (tmp_path / name).write_text(text.replace('"n": 5', '"n": 77'))
    done = finish(tmp_path, "--stage", "2")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "stage2.val5.json").read_text() == old["stage2.val5.json"]
    assert '"n": 77' in (tmp_path / "stage1.val5.json").read_text()  # whose weights are still there


def _smoke_on_rank(index, world, port, folder):
    """What this process sees of an earlier smoke run when it begins with the first stage; process 0 is slow to remove it."""
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(index), WORLD_SIZE=str(world))
    os.chdir(folder)
    torch.distributed.init_process_group("gloo")
    unlink = Path.unlink
    Path.unlink = lambda *args, **kw: time.sleep(1) or unlink(*args, **kw)

    def make_stage(*args):
        (folder / f"seen-{index}").write_text(str([p.name for p in Path("runs/smoke").glob("stage*")]))
        raise KeyboardInterrupt

    train.make_stage = make_stage
    with pytest.raises(KeyboardInterrupt):
        train.run(train.parse(["--smoke"]))
    torch.distributed.destroy_process_group()


def test_a_smoke_run_of_two_processes_starts_from_nothing(tmp_path):
    """Nobody looks into the folder before process 0 has emptied it."""
    (tmp_path / "runs" / "smoke").mkdir(parents=True)
    (tmp_path / "runs" / "smoke" / "stage0.pt").write_text("old")
    mp.spawn(_smoke_on_rank, (2, random.randint(20000, 40000), tmp_path), nprocs=2)
    assert [(tmp_path / f"seen-{index}").read_text() for index in (0, 1)] == ["[]", "[]"]


def test_adaptive_beta2_follows_the_kl(whole, tmp_path):
    """Above the target β2 rises, below it falls."""
    base, _ = train.load_policy(whole / "stage0.pt")
    for target, rises in ((1e-9, True), (10.0, False)):
        s = train.parse([*TINY, "--folder", str(tmp_path), "--kl_target", str(target)])
        policy, _ = train.load_policy(whole / "stage2.pt")
        train.train_rl(s, TASK, 1, f"t{rises}", policy, base, tmp_path)
        betas = [json.loads(x)["beta2"] for x in (tmp_path / f"t{rises}.jsonl").read_text().splitlines()]
        assert (betas[-1] > s.beta2) == rises and betas == sorted(betas, reverse=not rises)


# ------------------------------------------------------------------ settings and bad input


def test_every_setting_is_read():
    """A flag that nothing reads is a lie in -h."""
    source = (ROOT / "train.py").read_text()
    for f in dataclasses.fields(train.Settings):
        assert re.search(rf"\bs\.{f.name}\b", source) or f.name in ("smoke",), f.name
        assert f.metadata["help"]
    assert train.parse(["--smoke"]).base_steps == train.SMOKE["base_steps"]
    assert train.parse(["--smoke", "--base_steps", "9"]).base_steps == 9
    assert train.parse(["--task", "code"]).stage2_steps == train.CODE["stage2_steps"] != train.parse([]).stage2_steps
    assert train.parse(["--task", "code", "--stage2_steps", "9"]).stage2_steps == 9


def test_speed_in_the_bar():
    """A laptop's tens of thousands of tokens a second, and the tens of a large model."""
    log = dict(loss=1.0, right=0.5)
    assert train.bar_text(log | {"tokens_per_second": 34.2}).endswith(" 34 tok/s")
    assert train.bar_text(log | {"tokens_per_second": 15400.0}).endswith(" 15k tok/s")


def one_line(done, *words):
    """Exit status not 0, no traceback, and the words in the last line."""
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode != 0 and "Traceback" not in done.stderr
    assert all(w in last for w in words), last


@pytest.mark.parametrize(
    "flags, words",
    [
        ("--alhpa 3", ["--alhpa"]),
        ("--stage 3", ["--stage", "0, 1, 2"]),
        ("--task chess", ["--task", "false-position"]),
        ("--offline 2", ["--offline", "between 0 and 1"]),
        ("--attempts 0", ["--attempts", "above 0"]),
        ("--baseline siblings", ["--siblings 2"]),
        ("--alpha nan", ["--alpha", "0 or more"]),
        ("--alph 3", ["--alph"]),
        ("--n_embd 30", ["--n_embd", "multiple"]),
        ("--base nowhere.pt", ["nowhere.pt", "no such checkpoint"]),
        ("--learn star --alpha 3", ["--alpha", "--learn star does not read it"]),
        ("--learn pairs --stage2_from base --gamma 0.5", ["--gamma", "--learn pairs does not read it"]),
        ("--learn rest-em --keep_right", ["--keep_right", "--learn star or pairs"]),
        ("--kl_target 1 --beta2 0", ["--kl_target", "--beta2 is 0"]),
    ],
)
def test_bad_flags(tmp_path, flags, words):
    one_line(finish(tmp_path, *flags.split()), *words)


def test_more_processes_than_gpus(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(SystemExit):
        train.parse([])
    assert "2 processes for 1 GPU(s)" in capsys.readouterr().err
    assert train.parse(["--device", "cpu"]).device == "cpu"
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    assert train.parse([]).device == "auto"


def test_a_folder_of_other_settings_is_refused(whole):
    before = {p.name: p.read_bytes() for p in whole.glob("*.pt")}
    one_line(finish(whole, "--stage", "2", "--seed", "5"), "stage0.pt", "--seed 0", "5", "another --folder")
    one_line(finish(whole, "--stage", "2", "--alpha", "5"), "stage2.pt", "--alpha 1.0", "another --folder")
    assert before == {p.name: p.read_bytes() for p in whole.glob("*.pt")}


@pytest.mark.parametrize("content, word", [(b"", "damaged"), (b"PK\x03\x04 torn", "damaged"), (None, "not a checkpoint of this program")])
def test_damaged_and_foreign_checkpoints(whole, tmp_path, content, word):
    path = tmp_path / "stage0.pt"
    torch.save({"hello": 1}, path) if content is None else path.write_bytes(content)
    kept = path.read_bytes()
    one_line(finish(tmp_path, "--stage", "1"), "stage0.pt", word)
    assert path.read_bytes() == kept


def test_cut_checkpoint_is_damaged_not_half_loaded(whole, tmp_path):
    raw = (whole / "stage0.pt").read_bytes()
    (tmp_path / "stage0.pt").write_bytes(raw[: len(raw) // 2])
    one_line(finish(tmp_path, "--stage", "1"), "stage0.pt", "damaged")


def test_full_disk(tmp_path, monkeypatch):
    """The old file stays, no temporary one does, and the error names the path."""
    path = tmp_path / "x.pt"
    train.save({"a": 1}, path)
    before = path.read_bytes()

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(train.UserError, match="x.pt.*No space left"):
        train.save({"a": 2}, path)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["x.pt"]


def test_unwritable_run_folder(tmp_path):
    (tmp_path / "file").write_text("")
    one_line(finish(tmp_path / "file"), "file")
