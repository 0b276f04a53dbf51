"""train.py: what each stage trains on, what it starts from, what it leaves; settings; Hugging Face folders.

test_runtime.py has the rest of a run: kills, signals, checkpoints, several processes. The processes of a run are forks of
the test's own process: torch is imported once, and a test can stop a run at an exact step.
"""

import dataclasses
import json
import multiprocessing
import os
import random
import re
import shutil
import socket
import sys
import zlib
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

import data
import evaluate
import train
from model import GPT, GPTConfig, UserError, load_checkpoint, load_model, save_checkpoint, save_hf

ROOT = Path(__file__).resolve().parent.parent
TINY = (
    "--device cpu --n_layer 1 --n_embd 16 --base_steps 6 --problems 4 --attempts 2 --stage1_steps 6 --stage2_steps 6 "
    "--save_every 2 --eval_problems 5"
).split()
TASK = data.TASKS["false-position"]
torch.set_num_threads(1)  # resuming is tested to the last bit


# ------------------------------------------------------------------ runs and models for the tests


def vary_rewards(setattr=setattr) -> None:
    """Let half of an untrained model's answers count as finished, and half of those as right; by itself it is never right."""
    sample = train.rollout.sample

    def half_finished(*args, **kw):
        rollouts = sample(*args, **kw)
        rollouts.finished[::2] = True
        return rollouts

    setattr(train.rollout, "sample", half_finished)
    setattr(TASK, "rewards", lambda *columns: [float(zlib.crc32((p.prompt + text).encode()) % 2) for p, text in zip(*columns)])


class Done(NamedTuple):
    """The processes of a run that has ended: their exit codes, and what they printed."""

    codes: list[int]
    text: str


def processes(function, out: Path, ranks: int = 1, encoding: str = "utf-8") -> Done:
    """Fork processes that call function(rank), with the environment that torchrun gives them, and wait for them."""
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
    for process in children:
        process.join(120)
    return Done([process.exitcode for process in children], out.read_text(encoding, errors="replace"))


def command(folder: Path, *flags, ranks: int = 1, before=lambda rank: None, **how) -> Done:
    """Run train.py with tiny settings to its end. `before` is called in each process first, to plant something."""

    def child(rank):
        before(rank)
        train.main(["--folder", str(folder), *TINY, *flags])

    return processes(child, folder.with_name(folder.name + ".out"), ranks, **how)


def settings(folder, *flags) -> train.Settings:
    return train.parse([*TINY, "--folder", str(folder), *map(str, flags)])


def tiny(seed: int = 0) -> GPT:
    """An untrained laptop model. With another seed, its KL to the first is not 0."""
    torch.manual_seed(seed)
    return GPT(train.laptop_config(settings(""), TASK))


def save_tiny(path: Path, seed: int = 0, task: str = "false-position") -> None:
    state = {"config": dataclasses.asdict(tiny().config), "model": tiny(seed).state_dict(), "settings": {"task": task}}
    save_checkpoint(state, path)


def same(a: dict, b: dict) -> bool:
    """Whether two state dicts are equal to the bit."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def clone(model: GPT) -> dict:
    return {name: x.clone() for name, x in model.state_dict().items()}


def weights(path: Path) -> dict:
    return load_checkpoint(path)["model"]


def log_of(path: Path) -> list[dict]:
    """The lines of a log, as strict JSON, without the clock's numbers."""

    def refuse(text):
        raise ValueError(f"{text} is not JSON")

    lines = [json.loads(line, parse_constant=refuse) for line in path.read_text().splitlines()]
    clocks = ("tokens_per_second", "seconds_rollout", "seconds_update")
    return [{name: value for name, value in line.items() if name not in clocks} for line in lines]


@pytest.fixture
def seen(monkeypatch):
    """What train_score uses: models = [policy, reference, average], the weights that each got first; policy and average
    after each step."""
    seen = {"models": [], "first": [], "policy": [], "average": [], "batches": []}
    distribute, judge, update = train.distribute, evaluate.sample_and_judge, train.update_average

    def record_model(s, whole):
        seen["models"].append(distribute(s, whole))
        seen["first"].append(clone(seen["models"][-1]))
        return seen["models"][-1]

    def record_batch(*args, **kw):
        seen["batches"].append(judge(*args, **kw))
        return seen["batches"][-1]

    def record_weights(average, policy, *rest):
        update(average, policy, *rest)
        for name, model in (("policy", policy), ("average", average)):
            seen[name].append(clone(model))

    monkeypatch.setattr(train, "distribute", record_model)
    monkeypatch.setattr(evaluate, "sample_and_judge", record_batch)
    monkeypatch.setattr(train, "update_average", record_weights)
    monkeypatch.setattr(train, "draw", lambda folder: None)
    return seen


class Measured(Exception):
    """Ends a step after its gradient."""


def gradient(s, stage: int, batch, start, base, folder) -> dict:
    """The gradient, summed over processes, that train_score computes for a given batch of dialogues."""
    found = {}

    def measure(model):
        for name, p in model.named_parameters():
            found[name] = p.grad.full_tensor() if hasattr(p.grad, "full_tensor") else p.grad.clone()
        raise Measured

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Measured):
        patch.setattr(evaluate, "sample_and_judge", lambda *args, **kw: batch)
        patch.setattr(train, "clip_gradient", measure)
        train.train_score(s, TASK, stage, start, base, folder)
    return found


def dialogues(s, policy, problems):
    """A batch of dialogues with rewards of every kind."""
    random_numbers = torch.Generator().manual_seed(0)
    batch = evaluate.sample_and_judge(policy, TASK, problems, K=s.attempts, M=s.siblings, generator=random_numbers)
    return dataclasses.replace(batch, rewards=torch.randint(0, 2, batch.rewards.shape, generator=random_numbers).float())


# ------------------------------------------------------------------ stage 0


def test_stage0_ends_at_a_level_and_does_not_train_on_when_it_is_resumed_there(tmp_path, monkeypatch):
    s = settings(tmp_path, "--base_steps", 120, "--save_every", 20, "--base_until", 0.5)
    levels = iter([0.4, 0.5])
    monkeypatch.setattr(train, "greedy_accuracy", lambda *_: next(levels))
    monkeypatch.setattr(train, "BASE_BATCH", 4)
    left = train.train_base(s, TASK, tmp_path)
    log = log_of(tmp_path / "stage0.jsonl")
    assert [line["right"] for line in log[48:51]] == [0.0, 0.4, 0.4] and len(log) == 100
    # killed between the last checkpoint and stage0.pt
    assert same(left, train.train_base(s, TASK, tmp_path)) and log_of(tmp_path / "stage0.jsonl") == log
    state = load_checkpoint(tmp_path / "stage0.partial.pt")
    assert same(left, state["model"]) and not same(left, state["policy"]), "the stage leaves the moving average"


def test_the_level_of_stage0_is_the_accuracy_of_the_tables(monkeypatch):
    """An answer that was cut at the length limit is wrong in both."""
    vary_rewards(monkeypatch.setattr)
    problems = TASK.problems("train", 64, random.Random("accuracy, 0, 7"))
    accuracy = evaluate.metrics(evaluate.evaluate(tiny(), TASK, problems)).t1
    assert 100 * train.greedy_accuracy(settings(""), TASK, tiny(), 7, 64) == accuracy
    assert 10 < accuracy < 40, "a quarter: those that are right and not cut"


# ------------------------------------------------------------------ Stage I and II


@pytest.mark.parametrize("second_round", [False, True])
def test_the_reference_is_the_base_in_both_stages_and_stage2_continues_stage1(tmp_path, seen, second_round):
    """π_ref drifted, or was the Stage I checkpoint in Stage II. With --base and --start, Stage I starts from --start."""
    flags, run = [], tmp_path / "run"
    if second_round:
        for seed, name in enumerate(("base", "start")):
            save_tiny(tmp_path / name, seed)
            flags += [f"--{name}", tmp_path / name]
    train.run(settings(run, "--stage", 2, *flags))
    base = weights(tmp_path / "base" if second_round else run / "stage0.pt")
    start = weights(tmp_path / "start") if second_round else base
    assert (run / "stage0.pt").exists() != second_round
    # a report after each stage loads one model
    _, policy1, reference1, _, _, policy2, reference2, _, _ = range(9)
    assert len(seen["models"]) == 9
    assert same(seen["first"][policy1], start) and same(seen["first"][policy2], weights(run / "stage1.pt"))
    for reference in (reference1, reference2):
        model = seen["models"][reference]
        assert same(model.state_dict(), base) and not any(p.requires_grad for p in model.parameters())
    assert not same(weights(run / "stage1.pt"), start) and not same(weights(run / "stage2.pt"), weights(run / "stage1.pt"))


def test_offline_first_attempts_come_from_the_base_and_get_no_gradient(tmp_path, seen, monkeypatch):
    """Drawn from the policy instead, or trained on, they are off-policy data in an on-policy gradient."""
    samplers, sample = [], train.rollout.sample

    def record(model, *args, **kw):
        samplers.append((model, kw.get("turns", 2)))
        return sample(model, *args, **kw)

    monkeypatch.setattr(train.rollout, "sample", record)
    s = settings(tmp_path, "--offline", 0.5, "--stage2_steps", 1)
    train.train_score(s, TASK, 2, tiny(1), tiny(0), tmp_path)
    policy, reference, _ = seen["models"]
    assert [(model is reference, turns) for model, turns in samplers] == [(True, 1), (False, 2)] and samplers[1][0] is policy
    (batch,) = seen["batches"]
    online = (batch.rollouts.turn == 1).any(1)
    assert online.tolist() == [False] * 4 + [True] * 4, "the first half of the problems, K = 2 dialogues each"
    assert (batch.rollouts.turn == 2).any(1).all()
    samplers.clear()
    train.train_score(settings(tmp_path, "--offline", 0.5, "--stage1_steps", 1), TASK, 1, tiny(1), tiny(0), tmp_path)
    assert len(samplers) == 1, "Stage I has none"


def test_single_turn_rl_leaves_the_second_answer_alone(tmp_path):
    """--single_turn: r2 changes nothing, and r1 does."""
    s, base = settings(tmp_path, "--single_turn", "--offline", 0), tiny()
    batch = dialogues(s, base, TASK.problems("train", 4))
    found = []
    for r1, r2 in ((torch.arange(8) % 2, 0), (torch.arange(8) % 2, 1), (torch.arange(8) % 2 - 1, torch.arange(8) % 2)):
        batch.rewards = torch.stack([r1.float(), torch.zeros(8) + r2], dim=1)
        found.append(gradient(s, 2, batch, tiny(1), base, tmp_path))
    assert same(found[0], found[1]) and any(g.abs().max() > 0 for g in found[0].values())
    two_turns = gradient(settings(tmp_path, "--offline", 0), 2, batch, tiny(1), base, tmp_path)
    assert not same(two_turns, found[2])


def test_micro_batches_cover_every_row_once_and_cut_nothing_off():
    length = torch.tensor([10, 200, 64, 65, 130, 1, 128])
    found = [(rows.tolist(), width) for rows, width in train.micro_batches(length, 2)]
    assert found == [([0, 2], 64), ([5, 3], 128), ([6, 4], 192), ([1], 256)]


def test_beta2_follows_the_kl_of_first_attempts_and_reaches_the_loss(tmp_path, monkeypatch):
    """--kl_target: above the target β2 rises, below it falls; it was logged and not used."""
    used, loss = [], train.score.stage1_loss
    monkeypatch.setattr(train.score, "stage1_loss", lambda *args: used.append(args[5]) or loss(*args))
    for target, rises in ((1e-9, True), (100.0, False)):
        used.clear()
        folder = tmp_path / str(rises)
        folder.mkdir()
        train.train_score(settings(folder, "--kl_target", target), TASK, 1, tiny(1), tiny(0), folder)
        betas = [line["beta2"] for line in log_of(folder / "stage1.jsonl")]
        assert (betas[-1] > 0.25) == rises and betas == sorted(betas, reverse=not rises) and len(set(betas)) == 6
        assert used == pytest.approx(betas, abs=1e-6)
    assert train.adapted(0.25, float("nan"), 1.0) == train.adapted(0.25, 3.0, 0.0) == 0.25


def test_the_learning_rate_reaches_adam_and_warms_up_and_decays(tmp_path, seen):
    """Adam's first step moves every weight by the learning rate, here a quarter of its peak."""
    s = settings(tmp_path, "--warmup", 4, "--stage1_steps", 10, "--stage1_lr", 0.01)
    rates = [train.learning_rate(s, step, 10) for step in range(10)]
    assert rates == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1, 1, 1, 2 / 3, 1 / 3])
    train.train_score(s, TASK, 1, tiny(1), tiny(0), tmp_path)
    before = tiny(1).state_dict()
    moved = torch.cat([(seen["policy"][0][name] - before[name]).abs().flatten() for name in before])
    assert moved[moved > 0].median().item() == pytest.approx(0.01 * 0.25, rel=0.02)


@pytest.mark.parametrize("average, kind", [(0, "policy"), (0.9, "average")])
def test_best_weights_are_chosen_by_training_reward(tmp_path, seen, monkeypatch, average, kind):
    """A window's mean reward decides, of two equal windows the later. The weights are those of the moving average."""
    line = {"r1": 0.25, "r2": 0.5, "held_out": {"t2": 9}}
    s = settings(tmp_path, "--average", average)
    assert [train.trained_reward(s, stage, line) for stage in (1, 2)] == [0.5, 0.75]
    assert train.trained_reward(dataclasses.replace(s, single_turn=True), 2, line) == 0.25
    for folder, rewards, best in (("a", [0.1, 0.1, 0.9, 0.5, 0.2, 0.9], 3), ("b", [0.5] * 6, 5)):
        (tmp_path / folder).mkdir()
        for name in ("policy", "average"):
            seen[name].clear()
        source = iter(rewards)
        monkeypatch.setattr(train, "trained_reward", lambda *_: next(source))
        left = train.train_score(s, TASK, 1, tiny(1), tiny(0), tmp_path / folder)
        assert same(left, seen[kind][best]) and not same(left, seen[kind][best - 2])


def test_the_moving_average_forgets_the_start_early():
    """Without warm-up, half of a short stage's result would be its initial weights."""
    average, policy = tiny(0), tiny(1)
    start, decay = average.wte.weight.clone(), min(0.98, 3 / 12)
    train.update_average(average, policy, 2, 0.98)
    torch.testing.assert_close(average.wte.weight, decay * start + (1 - decay) * policy.wte.weight)


@pytest.mark.parametrize("checkpointing", [[], ["--checkpointing"]])
def test_sampler_and_trainer_agree(tmp_path, checkpointing):
    """log π as it was sampled and as it is scored differ by rounding only, or the gradient is off-policy."""
    s = settings(tmp_path, "--temperature", 0.7, "--stage2_steps", 2, *checkpointing)
    train.train_score(s, TASK, 2, tiny(1), tiny(0), tmp_path)
    assert all(line["sampler_gap"] < 1e-5 and line["tokens"] > 50 for line in log_of(tmp_path / "stage2.jsonl"))


@pytest.mark.parametrize(
    "flags, names",
    [
        ("--stage 1", "stage0 stage1"),
        ("--stage 2 --stage1_steps 0 --alpha 0 --offline 0", "stage0 stage2"),
        ("--stage 2 --stage1_steps 0 --single_turn --offline 0", "stage0 stage2"),
        ("--stage 2 --alpha 0 --gamma 0.8 --eval_every 1 --sample_batch 3", "stage0 stage1 stage2"),
        ("--stage 2 --siblings 2 --baseline siblings --kl_target 0.01 --average 0 --alpha 10", "stage0 stage1 stage2"),
        ("--stage 2 --dtype bf16 --checkpointing --baseline none --eval_every 1", "stage0 stage1 stage2"),
        ("--stage 1 --task code --baseline problem", "stage0 stage1"),
    ],
)
def test_every_system_of_the_paper_runs(tmp_path, flags, names):
    """Each is a setting of one program, and leaves the stages that it consists of."""
    short = "--stage1_steps 1 --stage2_steps 1 --base_steps 1 --save_every 1".split()
    done = command(tmp_path / "run", *short, *flags.split())
    assert done.codes == [0], done.text
    assert {path.stem for path in (tmp_path / "run").glob("*.pt")} == set(names.split())
    last = log_of(tmp_path / "run" / f"{names.split()[-1]}.jsonl")[-1]
    assert ("held_out" in last) == ("eval_every" in flags)


# ------------------------------------------------------------------ settings


def test_every_setting_is_read():
    """A flag that nothing reads is a lie in -h."""
    source = (ROOT / "train.py").read_text() + (ROOT / "runtime.py").read_text()
    for f in dataclasses.fields(train.Settings):
        assert re.search(rf"\bs\.{f.name}\b", source) and f.metadata["help"], f.name
    assert train.parse(["--task", "code"]).stage2_steps == train.CODE["stage2_steps"] != train.parse([]).stage2_steps
    assert train.parse(["--task", "code", "--stage2_steps", "9"]).stage2_steps == 9


def test_defaults_with_real_weights_are_the_papers():
    flags = ["--model", "folder", "--data", "file", "--task"]
    s = train.parse([*flags, "math"])
    assert (s.problems * s.attempts, s.stage1_lr, s.stage2_lr, s.alpha, s.beta1, s.beta2) == (512, 5e-6, 5e-6, 10, 0.01, 0.1)
    assert (s.stage1_steps + s.stage2_steps, s.temperature, s.gamma) == (3000, 1.0, 0.0)
    s = train.parse([*flags, "mbpp", "--alpha", "3"])
    assert (s.problems * s.attempts, s.stage2_lr, s.alpha, s.beta2) == (128, 1e-5, 3, 0.25)
    assert s.stage1_steps + s.stage2_steps == 1500


def one_line(text: str, *words) -> None:
    """The last line has the words, and nothing is a traceback."""
    last = text.strip().splitlines()[-1]
    assert "Traceback" not in text and all(word in last for word in words), text


@pytest.mark.parametrize(
    "flags, words",
    [
        ("--alhpa 3", ["--alhpa"]),
        ("--alph 3", ["--alph"]),
        ("--stage 3", ["--stage", "0, 1, 2"]),
        ("--stage 1 --stage1_steps 0", ["nothing to do"]),
        ("--task chess", ["--task", "false-position"]),
        ("--task math", ["--task", "must be one of false-position, code"]),
        ("--offline 2", ["--offline", "between 0 and 1"]),
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
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(train, "listen_for_signals", lambda: None)
    with pytest.raises(SystemExit) as stop:
        train.main([*TINY, "--folder", str(tmp_path / "run"), *flags.split()])
    assert stop.value.code != 0 and not list(tmp_path.glob("run/*.pt"))
    one_line(capsys.readouterr().err, *words)


def test_a_number_of_processes_that_does_not_fit_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(UserError, match=r"2 processes for 1 GPU\(s\)"):
        train.check(train.Settings())
    train.check(train.Settings(device="cpu"))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    train.check(train.Settings())
    monkeypatch.setenv("WORLD_SIZE", "3")  # and problems that processes cannot share evenly
    with pytest.raises(UserError, match="--problems 32 must be a multiple of the 3 processes"):
        train.check(train.Settings())


@pytest.mark.parametrize("flag", ["base", "start"])
def test_a_model_of_another_task_is_refused(tmp_path, flag):
    save_tiny(tmp_path / "code.pt", task="code")
    with pytest.raises(UserError, match="code.pt: a model of the task code, and --task is false-position"):
        train.run(settings(tmp_path / "run", "--stage", 1, "--base_steps", 1, f"--{flag}", tmp_path / "code.pt"))


# ------------------------------------------------------------------ Hugging Face weights and published problems


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A random Qwen2-shaped model and a small tokenizer; its embedding has more rows than the tokenizer has ids."""
    tokenizers = pytest.importorskip("tokenizers")
    folder = tmp_path_factory.mktemp("hf") / "base"
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    special = ["<|im_start|>", "<|im_end|>"]
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=700, initial_alphabet=alphabet, special_tokens=special)
    tokenizer.train_from_iterator([data.MATH_FIRST, data.MATH_SECOND] * 2, trainer)
    torch.manual_seed(0)
    rows = 64 * (tokenizer.get_vocab_size() // 64 + 2)
    config = GPTConfig(rows, n_layer=1, n_head=2, n_kv_head=1, n_embd=32, head_dim=16, n_ff=48, n_ctx=2048, qkv_bias=True)
    save_hf(GPT(config), folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    template = (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|im_end|>", "chat_template": template}))
    return folder


@pytest.fixture(scope="module")
def problems(tmp_path_factory):
    """A file of MATH's form, in which one problem is too long."""
    path = tmp_path_factory.mktemp("data") / "math.jsonl"
    rows = [{"problem": f"What is ${i} + {i % 7}$?", "solution": f"It is $\\boxed{{{i + i % 7}}}$."} for i in range(120)]
    rows[11]["problem"] += " and why" * 400
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def hf_flags(folder, problems) -> list[str]:
    short = "--max_new 6 --n_ctx 512 --stage1_steps 2 --stage2_steps 2 --stage1_lr 1e-2 --stage2_lr 1e-2 --warmup 0"
    return ["--model", str(folder), "--task", "math", "--data", str(problems), *short.split()]


@pytest.mark.parametrize("dtype, ranks", [("float32", 1), ("bf16", 2)])
def test_a_hugging_face_folder_goes_through_both_stages_and_is_exported(folder, problems, tmp_path, dtype, ranks):
    """The export has the trained weights, in the precision asked for, and loads as the base model of a next run would."""
    run = tmp_path / "run"
    (run / "stage1-hf").mkdir(parents=True)
    (run / "stage1-hf" / "old").write_text("of weights that are made anew")
    done = command(run, *hf_flags(folder, problems), "--stage", "2", "--dtype", dtype, ranks=ranks)
    assert done.codes == [0] * ranks, done.text
    assert "1 problems are left out: they have more than" in done.text and "math/12" in done.text, "too long for --n_ctx"
    assert not (run / "stage0.pt").exists() and not list(run.glob("*.partial*"))
    base = GPT.from_hf(folder, torch.float32)
    for name in ("stage1", "stage2"):
        policy, exported = load_model(run / f"{name}.pt")[0], GPT.from_hf(run / f"{name}-hf")
        wanted = torch.bfloat16 if dtype == "bf16" else torch.float32
        assert exported.wte.weight.dtype == wanted and policy.wte.weight.dtype == torch.float32
        assert same({k: x.to(wanted) for k, x in policy.state_dict().items()}, exported.state_dict())
        assert not same(policy.state_dict(), base.state_dict())
        assert all(line["sampler_gap"] < (1e-5 if dtype == "float32" else 0.1) for line in log_of(run / f"{name}.jsonl"))
    ids = [data.load_tokenizer(path).encode_ordinary("a<|im_end|>b") for path in (folder, run / "stage2-hf")]
    assert ids[0] == ids[1]


def test_files_are_known_by_their_content_not_by_their_path(folder, problems, tmp_path, monkeypatch):
    """A moved file, `model` and `model/` are the same run; a file that lost twenty rows is not, nor are other weights."""
    run, moved, fewer, other = (tmp_path / name for name in ("run", "moved.jsonl", "fewer.jsonl", "other"))
    flags = ["--stage", "1", "--stage1_steps", "1"]
    assert command(run, *hf_flags(folder, problems), *flags).codes == [0]
    moved.write_bytes(problems.read_bytes())
    fewer.write_text("".join(problems.read_text().splitlines(keepends=True)[:-20]))
    monkeypatch.chdir(folder.parent)
    done = command(run, *hf_flags("base/", moved), *flags)
    assert done.codes == [0] and "already there" in done.text
    one_line(command(run, *hf_flags(folder, fewer), *flags).text, "stage1.pt: made with --data", "has another content")
    shutil.copytree(folder, other)
    content = bytearray((other / "model.safetensors").read_bytes())
    content[-9] ^= 1
    (other / "model.safetensors").write_bytes(content)
    one_line(command(run, *hf_flags(other, moved), *flags).text, "stage1.pt: made with --model", "has another content")


def test_problems_that_all_exceed_the_context_are_named_before_weights_are_loaded(folder, problems, tmp_path, monkeypatch):
    monkeypatch.setattr(GPT, "from_hf", None)
    with pytest.raises(UserError, match="all train problems are too long for --n_ctx 100"):
        train.run(settings(tmp_path / "run", *hf_flags(folder, problems), "--n_ctx", 100))


@pytest.mark.skipif(not os.environ.get("SCORE_DATA"), reason="SCORE_DATA names no folder of published problems and tokenizers")
def test_the_command_of_the_readme_starts_on_the_real_math_file(tmp_path):
    """A real tokenizer, a tiny model, MATH as published: the long problems are left out, and both stages end."""
    source, real = Path(os.environ["SCORE_DATA"]), tmp_path / "model"
    tokenizer = source / "models" / "SmolLM2-135M-Instruct"
    words = json.loads((tokenizer / "config.json").read_text())["vocab_size"]
    config = GPTConfig(words, n_layer=1, n_head=2, n_kv_head=1, n_embd=8, head_dim=4, n_ff=8, n_ctx=4096, qkv_bias=True)
    save_hf(GPT(config), real)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (real / name).write_bytes((tokenizer / name).read_bytes())
    files = ["--data", str(source / "math_train.jsonl"), "--eval_data", str(source / "math500.jsonl")]
    flags = "--stage 2 --model {} --task math --dtype bf16 --checkpointing --n_ctx 2048".format(real)
    short = "--max_new 16 --stage1_steps 1 --stage2_steps 1 --eval_problems 1"
    done = command(tmp_path / "run", *flags.split(), *files, *short.split(), ranks=2)
    assert done.codes == [0, 0] and re.search(r"\d+ problems are left out", done.text), done.text
    assert (tmp_path / "run" / "stage2-hf" / "model.safetensors").exists()
