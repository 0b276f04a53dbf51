"""train.py: what each stage trains on, starts from and leaves; its settings; Hugging Face folders.

test_runtime.py tests the rest of a run: kills, signals, checkpoints, several processes. The processes of a run are
forks of the test's process: torch is imported once, and a test can stop a run at an exact step.
"""

import copy
import dataclasses
import json
import multiprocessing
import os
import random
import re
import socket
import sys
import time
import zlib
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import data
import evaluate
import train
from model import GPT, UserError, load_checkpoint, load_model, save_checkpoint

ROOT = Path(__file__).resolve().parent.parent
TINY = (
    "--device cpu --n_layer 1 --n_embd 16 --base_steps 6 --problems 4 --attempts 2 --stage1_steps 6 --stage2_steps 6 "
    "--save_every 2 --eval_problems 5"
).split()
TASK = data.TASKS["false-position"]
torch.set_num_threads(1)  # resuming is tested to the last bit


# ------------------------------------------------------------------ runs and models for the tests


def vary_rewards(setattr=setattr) -> None:
    """Let half of an untrained model's answers count as finished and half as right, which by itself none is."""
    sample = train.rollout.sample

    def half_finished(*args, **kw):
        rollouts = sample(*args, **kw)
        rollouts.finished[::2] = True
        return rollouts

    def rewards(problems, texts):
        return [float(zlib.crc32((p.prompt + text).encode()) % 2) for p, text in zip(problems, texts)]

    setattr(train.rollout, "sample", half_finished)
    setattr(TASK, "rewards", rewards)


def processes(function, out: Path, ranks: int = 1, encoding: str = "utf-8"):
    """Fork processes that call function(rank) in torchrun's environment. Returns their exit codes and their text."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = str(s.getsockname()[1])  # a free one

    def child(rank):
        sys.stdout = sys.stderr = open(out, "a", buffering=1, encoding=encoding)
        for number in (1, 2):  # for what is not written through Python's files
            os.dup2(sys.stdout.fileno(), number)
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
        os.environ.update(WORLD_SIZE=str(ranks), LOCAL_WORLD_SIZE=str(ranks))
        train.draw = lambda folder: None  # matplotlib takes seconds
        vary_rewards()
        function(rank)

    out.write_text("")
    fork = multiprocessing.get_context("fork")
    children = [fork.Process(target=child, args=(rank,)) for rank in range(ranks)]
    for process in children:
        process.start()
    deadline = time.monotonic() + 60
    for process in children:
        process.join(max(0, deadline - time.monotonic()))
    codes = [process.exitcode for process in children]  # None: it hangs
    for process in children:
        process.kill()
    return SimpleNamespace(codes=codes, text=out.read_text(encoding, errors="replace"))


def command(folder: Path, *flags, ranks: int = 1, before=lambda rank: None, **how):
    """Run train.py with tiny settings to its end; `before` is called in each process first."""

    def child(rank):
        before(rank)
        train.main(["--folder", str(folder), *TINY, *flags])

    return processes(child, folder.with_name(folder.name + ".out"), ranks, **how)


def settings(folder, *flags) -> train.Settings:
    return train.parse([*TINY, "--folder", str(folder), *map(str, flags)])


def tiny(seed: int = 0) -> GPT:
    """An untrained laptop model."""
    torch.manual_seed(seed)
    return GPT(train.laptop_config(settings(""), TASK))


def save_tiny(path: Path, seed: int = 0, task: str = "false-position") -> None:
    model = tiny(seed)
    state = {"config": dataclasses.asdict(model.config), "model": model.state_dict(), "settings": {"task": task}}
    save_checkpoint(state, path)


def same(a: dict, b: dict) -> bool:
    """Whether two state dicts are equal to the bit."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def weights(path: Path) -> dict:
    return load_checkpoint(path)["model"]


def log_of(path: Path) -> list[dict]:
    """The lines of a log, as strict JSON, without the clock's numbers."""
    lines = [json.loads(line, parse_constant=pytest.fail) for line in path.read_text().splitlines()]
    for line in lines:
        for name in ("tokens_per_second", "seconds_rollout", "seconds_update"):
            line.pop(name, None)
    return lines


@pytest.fixture
def seen(monkeypatch):
    """What train_score uses: its models, their first weights, and those of policy and average after each step."""
    seen = {"models": [], "first": [], "policy": [], "average": []}
    distribute, update = train.distribute, train.update_average

    def record_model(s, whole):
        seen["models"].append(distribute(s, whole))
        seen["first"].append(copy.deepcopy(seen["models"][-1].state_dict()))
        return seen["models"][-1]

    def record_weights(average, policy, *rest):
        update(average, policy, *rest)
        seen["policy"].append(copy.deepcopy(policy.state_dict()))
        seen["average"].append(copy.deepcopy(average.state_dict()))

    monkeypatch.setattr(train, "distribute", record_model)
    monkeypatch.setattr(train, "update_average", record_weights)
    monkeypatch.setattr(train, "draw", lambda folder: None)
    return seen


def gradient(s, stage: int, batch, start, base, folder) -> dict:
    """The gradient, summed over processes, that train_score computes for a given batch of dialogues."""
    found = {}

    def measure(model):
        for name, p in model.named_parameters():
            found[name] = p.grad.full_tensor() if hasattr(p.grad, "full_tensor") else p.grad.clone()
        raise StopIteration  # ends the step here

    with pytest.MonkeyPatch.context() as patch, pytest.raises(StopIteration):
        patch.setattr(evaluate, "sample_and_judge", lambda *args, **kw: batch)
        patch.setattr(train, "clip_gradient", measure)
        train.train_score(s, TASK, stage, start, base, folder)
    return found


def dialogues(s, policy):
    """A batch of dialogues with rewards of every kind."""
    generator = torch.Generator().manual_seed(0)
    problems = TASK.problems("train", 4)
    batch = evaluate.sample_and_judge(policy, TASK, problems, K=s.attempts, M=s.siblings, generator=generator)
    return dataclasses.replace(batch, rewards=torch.randint(0, 2, batch.rewards.shape, generator=generator).float())


# ------------------------------------------------------------------ stage 0


def test_stage0_cools_down_from_a_level_on_also_when_it_is_resumed_there(tmp_path, monkeypatch):
    """A run that was killed between the last checkpoint and stage0.pt trained the base model beyond its level."""
    s = settings(tmp_path, "--base_steps", 300, "--save_every", 5, "--base_until", 0.5)
    levels, rates, step = iter([0.4, 0.5, 0.9]), [], torch.optim.AdamW.step
    monkeypatch.setattr(train, "greedy_accuracy", lambda *_: next(levels))
    monkeypatch.setattr(train, "BASE_BATCH", 4)
    monkeypatch.setattr(train, "COOL_DOWN", 60)  # the level is measured again in it, and must not extend it
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self: rates.append(self.param_groups[0]["lr"]) or step(self))
    left = train.train_base(s, TASK, tmp_path)
    log = log_of(tmp_path / "stage0.jsonl")
    assert [line["right"] for line in log[48:51]] == [0.0, 0.4, 0.4] and len(log) == 160
    shares = torch.tensor(rates) / (train.BASE_LR / 5)
    assert shares[[0, 99]].tolist() == pytest.approx([0.02, 1])
    assert shares[100:].tolist() == pytest.approx([(60 - i) / 60 for i in range(60)])
    assert same(left, train.train_base(s, TASK, tmp_path)) and log_of(tmp_path / "stage0.jsonl") == log
    state = load_checkpoint(tmp_path / "stage0.partial.pt")
    assert same(left, state["model"]) and not same(left, state["policy"]), "the stage leaves the moving average"
    assert load_checkpoint(tmp_path / "stage0.partial.previous.pt")["step"] == 155
    (tmp_path / "stage0.partial.previous.pt").replace(tmp_path / "stage0.partial.pt")  # killed in the cool-down
    assert same(left, train.train_base(s, TASK, tmp_path)) and len(log_of(tmp_path / "stage0.jsonl")) == 160


def test_the_level_of_stage0_is_the_accuracy_of_the_tables(monkeypatch):
    """An answer that was cut at the length limit counted as right in one of the two."""
    vary_rewards(monkeypatch.setattr)
    problems = TASK.problems("train", 64, random.Random("accuracy, 0, 7"))
    accuracy = evaluate.metrics(evaluate.evaluate(tiny(), TASK, problems)).t1
    assert 100 * train.greedy_accuracy(settings(""), TASK, tiny(), 7, 64) == accuracy
    assert 10 < accuracy < 40, "a quarter: those that are right and not cut"


# ------------------------------------------------------------------ Stage I and II


@pytest.mark.parametrize("second_round", [False, True])
def test_the_reference_is_the_base_in_both_stages_and_stage2_continues_stage1(tmp_path, seen, second_round):
    """π_ref drifted, or was the model from which a stage starts: the Stage I checkpoint, or that of --start."""
    flags, run = [], tmp_path / "run"
    if second_round:
        for seed, name in enumerate(("base", "start")):
            save_tiny(tmp_path / name, seed)
            flags += [f"--{name}", tmp_path / name]
    train.run(settings(run, "--stage", 2, *flags))
    base = weights(tmp_path / "base" if second_round else run / "stage0.pt")
    start = weights(tmp_path / "start") if second_round else base
    stage1, stage2 = weights(run / "stage1.pt"), weights(run / "stage2.pt")
    assert (run / "stage0.pt").exists() != second_round
    # policy, reference and average of both stages, each after a report's model
    _, policy1, reference1, _, _, policy2, reference2, _, _ = range(len(seen["models"]))
    assert same(seen["first"][policy1], start) and same(seen["first"][policy2], stage1)
    for reference in (reference1, reference2):
        model = seen["models"][reference]
        assert same(model.state_dict(), base) and not any(p.requires_grad for p in model.parameters())
    assert not same(stage1, start) and not same(stage2, stage1)


def test_offline_first_attempts_come_from_the_base_and_get_no_gradient(tmp_path, seen, monkeypatch):
    """Drawn from the policy, or trained on, they are off-policy data in an on-policy gradient."""
    calls, sample = [], train.rollout.sample

    def record(model, *args, **kw):
        calls.append((model, kw.get("turns", 2), sample(model, *args, **kw)))
        return calls[-1][2]

    monkeypatch.setattr(train.rollout, "sample", record)
    s = settings(tmp_path, "--offline", 0.5, "--stage1_steps", 1, "--stage2_steps", 1)
    train.train_score(s, TASK, 2, tiny(1), tiny(0), tmp_path)
    (first_model, first_turns, _), (model, turns, rollouts) = calls
    assert (first_turns, turns) == (1, 2)
    assert first_model is seen["models"][1] and model is seen["models"][0], "the reference's, then the policy's"
    assert (rollouts.turn == 1).any(1).tolist() == [False] * 4 + [True] * 4  # K = 2 per problem
    assert (rollouts.turn == 2).any(1).all()
    calls.clear()
    train.train_score(s, TASK, 1, tiny(1), tiny(0), tmp_path)
    assert len(calls) == 1, "Stage I has none"


def test_single_turn_rl_leaves_the_second_answer_alone(tmp_path):
    """--single_turn still trained on r2, or on nothing."""
    s, base = settings(tmp_path, "--single_turn", "--offline", 0), tiny()
    batch = dialogues(s, base)
    r1, r2 = torch.arange(8) % 2, torch.arange(8) // 2 % 2

    def with_rewards(s, *rewards):
        batch.rewards = torch.stack(rewards, dim=1).float()
        return gradient(s, 2, batch, tiny(1), base, tmp_path)

    found = with_rewards(s, r1, 0 * r2)
    assert same(found, with_rewards(s, r1, r2)) and not same(found, with_rewards(s, 1 - r1, r2))
    assert not same(found, with_rewards(settings(tmp_path, "--offline", 0), r1, r2))


def test_micro_batches_cover_every_row_once_and_cut_nothing_off():
    """A row was left out, or lost its last tokens to a width that was too small."""
    length = torch.tensor([10, 200, 64, 65, 130, 1, 128])
    found = [(rows.tolist(), width) for rows, width in train.micro_batches(length, 2)]
    assert found == [([0, 2], 64), ([5, 3], 128), ([6, 4], 192), ([1], 256)]


def test_beta2_follows_the_kl_of_first_attempts_and_reaches_the_loss(tmp_path, monkeypatch):
    """--kl_target: β2 was logged and not used, or moved away from the target."""
    used, loss = [], train.score.stage1_loss
    monkeypatch.setattr(train.score, "stage1_loss", lambda *args: used.append(args[5]) or loss(*args))
    for target, rises in ((1e-9, True), (100.0, False)):
        used.clear()
        s = settings(tmp_path / str(rises), "--kl_target", target)
        Path(s.folder).mkdir()
        train.train_score(s, TASK, 1, tiny(1), tiny(0), Path(s.folder))
        betas = [line["beta2"] for line in log_of(Path(s.folder) / "stage1.jsonl")]
        assert (betas[-1] > 0.25) == rises and betas == sorted(betas, reverse=not rises) and len(set(betas)) == 6
        assert used == pytest.approx(betas, abs=1e-6)


def test_the_learning_rate_reaches_adam_and_warms_up_and_decays(tmp_path, seen):
    """The schedule was computed and not applied: Adam's first step moves each weight by the learning rate."""
    s = settings(tmp_path, "--warmup", 4, "--stage1_steps", 10, "--stage1_lr", 0.01)
    rates = [train.learning_rate(s, step, 10) for step in range(10)]
    assert rates == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1, 1, 1, 2 / 3, 1 / 3])
    train.train_score(s, TASK, 1, tiny(1), tiny(0), tmp_path)
    before = tiny(1).state_dict()
    moved = torch.cat([(seen["policy"][0][name] - before[name]).abs().flatten() for name in before])
    assert moved[moved > 0].median().item() == pytest.approx(0.01 * 0.25, rel=0.02)


@pytest.mark.parametrize("average, kind", [(0, "policy"), (0.9, "average")])
@pytest.mark.parametrize("rewards, best", [([0.1, 0.1, 0.9, 0.5, 0.2, 0.9], 3), ([0.5] * 6, 5)])
def test_best_weights_are_chosen_by_training_reward(tmp_path, seen, monkeypatch, average, kind, rewards, best):
    """They were chosen by a held-out number, by one step's reward, or were not those of the moving average."""
    line = {"r1": 0.25, "r2": 0.5, "held_out": {"t2": 9}}
    s = settings(tmp_path, "--average", average)
    assert [train.trained_reward(s, stage, line) for stage in (1, 2)] == [0.5, 0.75]
    assert train.trained_reward(dataclasses.replace(s, single_turn=True), 2, line) == 0.25
    source = iter(rewards)
    monkeypatch.setattr(train, "trained_reward", lambda *_: next(source))
    left = train.train_score(s, TASK, 1, tiny(1), tiny(0), tmp_path)
    assert same(left, seen[kind][best]) and not same(left, seen[kind][best - 2])


def test_the_moving_average_forgets_the_start_early():
    """Without warm-up, half of a short stage's result is its initial weights."""
    average, policy = tiny(0), tiny(1)
    start, decay = average.wte.weight.clone(), 3 / 12
    train.update_average(average, policy, 2, 0.98)
    torch.testing.assert_close(average.wte.weight, decay * start + (1 - decay) * policy.wte.weight)


@pytest.mark.parametrize(
    "flags, names",
    [
        ("--stage 1", "stage0 stage1"),
        ("--stage 2 --stage1_steps 0 --alpha 0 --offline 0", "stage0 stage2"),
        ("--stage 2 --stage1_steps 0 --single_turn --offline 0", "stage0 stage2"),
        ("--stage 2 --alpha 0 --gamma 0.8 --eval_every 1 --sample_batch 3", "stage0 stage1 stage2"),
        ("--stage 2 --siblings 2 --baseline siblings --kl_target 0.01 --average 0", "stage0 stage1 stage2"),
        ("--stage 2 --temperature 0.7 --checkpointing --alpha 10", "stage0 stage1 stage2"),
        ("--stage 2 --dtype bf16 --checkpointing --baseline none --eval_every 1", "stage0 stage1 stage2"),
        ("--stage 1 --task code --baseline problem", "stage0 stage1"),
    ],
)
def test_every_system_of_the_paper_runs_and_its_sampler_and_trainer_agree(tmp_path, flags, names):
    """A log π that differs between sampler and trainer, as without the temperature, makes the gradient off-policy."""
    short = "--stage1_steps 1 --stage2_steps 1 --base_steps 1 --save_every 1".split()
    done = command(tmp_path / "run", *short, *flags.split())
    assert done.codes == [0], done.text
    assert {path.stem for path in (tmp_path / "run").glob("*.pt")} == set(names.split())
    last = log_of(tmp_path / "run" / f"{names.split()[-1]}.jsonl")[-1]
    assert last["sampler_gap"] < (0.1 if "bf16" in flags else 1e-5) and last["tokens"] > 20
    assert ("held_out" in last) == ("eval_every" in flags)


# ------------------------------------------------------------------ settings


def test_settings_are_read_and_their_defaults_are_the_papers():
    """A flag that nothing reads is a lie in -h; a run on MATH with a laptop's settings is no reproduction."""
    source = (ROOT / "train.py").read_text() + (ROOT / "runtime.py").read_text()
    for f in dataclasses.fields(train.Settings):
        assert re.search(rf"\bs\.{f.name}\b", source) and f.metadata["help"], f.name
    flags = ["--model", "folder", "--data", "file", "--task"]
    s = train.parse([*flags, "math"])
    assert (s.problems * s.attempts, s.stage1_lr, s.stage2_lr, s.alpha, s.beta2) == (512, 5e-6, 5e-6, 10, 0.1)
    assert (s.stage1_steps + s.stage2_steps, s.temperature, s.beta1, s.gamma) == (3000, 1.0, 0.01, 0.0)
    s = train.parse([*flags, "mbpp", "--alpha", "3"])
    assert (s.problems * s.attempts, s.stage1_lr, s.stage2_lr, s.alpha, s.beta2) == (128, 1e-5, 1e-5, 3, 0.25)
    assert s.stage1_steps + s.stage2_steps == 1500
    assert train.parse(["--task", "code"]).stage2_steps == train.CODE["stage2_steps"] != train.parse([]).stage2_steps


def one_line(text: str, *words) -> None:
    """Assert that the last line has the words, and that nothing is a traceback."""
    last = text.strip().splitlines()[-1]
    assert "Traceback" not in text and all(word in last for word in words), text


@pytest.mark.parametrize(
    "flags, words",
    [
        ("--alph 3", ["--alph"]),
        ("--stage 3", ["--stage", "0, 1, 2"]),
        ("--stage 1 --stage1_steps 0", ["nothing to do"]),
        ("--task math", ["--task", "must be one of false-position, code"]),
        ("--offline 2", ["--offline", "between 0 and 1"]),
        ("--offline 1", ["--offline", "leaves no problem"]),
        ("--attempts 0", ["--attempts", "above 0"]),
        ("--baseline siblings", ["--siblings 2"]),
        ("--alpha nan", ["--alpha", "0 or more"]),
        ("--n_embd 30", ["--n_embd", "multiple of 8"]),
        ("--kl_target 1 --beta2 0", ["--kl_target", "--beta2 is 0"]),
        ("--base nowhere.pt", ["nowhere.pt", "no such checkpoint"]),
        ("--model folder --task math", ["needs --data"]),
        ("--model folder --data file", ["--task", "must be one of math, gsm8k"]),
        ("--model folder --task math --data file --base x.pt", ["--base and --model"]),
        ("--model nowhere --task math --data file", ["nowhere"]),
        ("--data file", ["--data", "without --model"]),
        ("--device cuda", ["--device is cuda", "no GPU"]),
        ("--device mps", ["--device is mps"]),
    ],
)
def test_a_wrong_setting_is_refused_in_one_line(tmp_path, capsys, monkeypatch, flags, words):
    """It was ignored, or found out after hours of training, by a traceback."""
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(train, "listen_for_signals", lambda: None)
    with pytest.raises(SystemExit) as stop:
        train.main([*TINY, "--folder", str(tmp_path / "run"), *flags.split()])
    assert stop.value.code != 0 and not list(tmp_path.glob("run/*.pt"))
    one_line(capsys.readouterr().err, *words)


def test_a_number_of_processes_that_does_not_fit_is_refused(monkeypatch):
    """Two processes shared a GPU, or a step lost the problems that three could not share evenly."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    train.check(train.Settings())
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    train.check(train.Settings(device="cpu"))
    with pytest.raises(UserError, match="2 processes for 1 GPU"):
        train.check(train.Settings())
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(UserError, match="--problems 32 must be a multiple of the 3 processes"):
        train.check(train.Settings(device="cpu"))


@pytest.mark.parametrize("flag", ["base", "start"])
def test_a_model_of_another_task_is_refused(tmp_path, flag):
    """Its token ids mean something else."""
    save_tiny(tmp_path / "code.pt", task="code")
    with pytest.raises(UserError, match="code.pt: a model of the task code, and --task is false-position"):
        train.run(settings(tmp_path / "run", "--stage", 1, "--base_steps", 1, f"--{flag}", tmp_path / "code.pt"))


# ------------------------------------------------------------------ Hugging Face weights and published problems


def hf_flags(folder, problems) -> list[str]:
    short = "--task math --max_new 6 --stage1_steps 2 --stage2_steps 2 --stage1_lr 1e-2 --stage2_lr 1e-2 --warmup 0"
    return ["--model", str(folder), "--data", str(problems), *short.split()]


@pytest.mark.parametrize("dtype, ranks", [("float32", 1), ("bf16", 2)])
def test_a_hugging_face_folder_goes_through_both_stages_and_is_exported(hf_folder, math_file, tmp_path, dtype, ranks):
    """The export had the initial weights, another precision or another tokenizer, or was one of an earlier run."""
    run, problems = tmp_path / "run", tmp_path / "problems.jsonl"
    (run / "stage1-hf").mkdir(parents=True)  # an export of weights that are made anew
    long = {"problem": "Why? " * 400, "solution": "$\\boxed{1}$"}
    problems.write_text(math_file.read_text() + json.dumps(long) + "\n")
    done = command(run, *hf_flags(hf_folder, problems), "--stage", "2", "--dtype", dtype, ranks=ranks)
    assert done.codes == [0] * ranks, done.text
    assert "1 problem is left out" in done.text and "problems/41" in done.text, "too long for the model"
    assert not (run / "stage0.pt").exists() and not list(run.glob("*.partial*"))
    wanted, base = torch.bfloat16 if dtype == "bf16" else torch.float32, GPT.from_hf(hf_folder, torch.float32)
    for name in ("stage1", "stage2"):
        policy, exported = load_model(run / f"{name}.pt")[0], GPT.from_hf(run / f"{name}-hf")
        assert policy.wte.weight.dtype == torch.float32 and not same(policy.state_dict(), base.state_dict())
        assert same({k: x.to(wanted) for k, x in policy.state_dict().items()}, exported.state_dict())
    ids = [data.load_tokenizer(path).encode_ordinary("a<|im_end|>b") for path in (hf_folder, run / "stage2-hf")]
    assert ids[0] == ids[1]


def test_problems_that_all_exceed_the_context_are_named_before_weights_are_loaded(
    hf_folder, math_file, tmp_path, monkeypatch
):
    """A wrong --n_ctx was found out after the minutes that large weights take."""
    monkeypatch.setattr(GPT, "from_hf", None)
    with pytest.raises(UserError, match="--n_ctx 100 and --max_new 6 leave .* too few for all of train"):
        train.run(settings(tmp_path / "run", *hf_flags(hf_folder, math_file), "--n_ctx", 100))
