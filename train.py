"""The recipe: a base model (stage 0), Stage I and Stage II of SCoRe, from top to bottom.

    python train.py --stage 1                     base model and Stage I, on a laptop
    python train.py --stage 2                     continues to Stage II in the same run folder
    torchrun --nproc_per_node 8 train.py …        the same on many GPUs
    … --model FOLDER --task math --data FILE      with Hugging Face weights and published problems

Missing earlier stages are trained first. A stage can be killed at any moment: the same command
resumes from the last checkpoint and ends, on a CPU, with the same weights to the bit, because the random numbers of
a step come from a seed that is a function of (seed, stage, step). (Some sums on a GPU have no fixed order.)

The systems that the paper compares with are settings of this program; README.md, "Experiments", lists their commands.

A run may resume on another number of processes. The problems of every step, the optimizer's state and the gradient of given
dialogues are then the same, to rounding. The dialogues are not: each process has its own random numbers.
"""

import argparse
import contextlib
import dataclasses
import json
import math
import os
import random
import shutil
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.distributed as dist

import data
import evaluate
import rollout
import score
from model import GPT, GPTConfig, UserError, config_from_hf, load_model, save_checkpoint, save_hf, write_file
from runtime import (
    Recorder, Stopped, all_sum, check_compiler, check_ranks_agree, check_settings, clip_gradient, device_of, distribute, from_rank0,
    listen_for_signals, lock, memory, processes, rank, remembered, say, sum_gradients, unsharded, update_average, use_cores,
    whole_optimizer, whole_weights, world_size,
)  # fmt: skip
from verify import VerifierError

# ------------------------------------------------------------------ settings


def setting(default, help, stages=""):
    """Define a field of Settings. stages: those whose weights depend on it; see `check_settings`."""
    return field(default=default, metadata={"help": help, "stages": stages})


@dataclass
class Settings:
    """All settings; each field is a flag. The defaults are the laptop run of the README."""

    # what to train, on what
    stage: int = setting(1, "last stage to run: 0 base model, 1 Stage I, 2 Stage II; earlier ones are made if missing")
    folder: str = setting("runs/default", "run folder: checkpoints, logs, tables")
    task: str = setting("false-position", "embedded task: " + ", ".join(data.TASKS) + "; with --model: " + ", ".join(data.PUBLISHED), "012")
    base: str = setting("", "stage 0 checkpoint to use as the base model instead of training one", "012")
    start: str = setting("", "checkpoint from which the first RL stage starts, instead of the base model", "12")
    model: str = setting("", "Hugging Face folder: the base model instead of stage 0", "012")
    data: str = setting("", "with --model: JSON Lines file of problems to train on, as published", "012")
    eval_data: str = setting("", "with --model: problems to evaluate on (default: a twentieth of --data, left out of training)", "012")
    max_new: int = setting(512, "with --model: longest answer in tokens", "012")
    n_ctx: int = setting(0, "with --model: longest dialogue in tokens; 0: the model's own limit", "012")
    seed: int = setting(0, "seed of every random number", "012")
    # stage 0: the laptop's base model
    n_layer: int = setting(3, "blocks of the laptop model", "012")
    n_embd: int = setting(96, "width of the laptop model, a multiple of 8", "012")
    base_steps: int = setting(2500, "stage 0: largest number of supervised steps", "012")
    base_until: float = setting(0.75, "stage 0 ends 250 steps after this share of its greedy answers to training problems is right", "012")
    # Stage I and Stage II
    stage1_steps: int = setting(300, "Stage I: steps; 0: no Stage I", "12")
    stage2_steps: int = setting(500, "Stage II: steps", "2")
    stage1_lr: float = setting(5e-4, "Stage I: learning rate of Adam", "12")
    stage2_lr: float = setting(2e-4, "Stage II: learning rate of Adam", "2")
    warmup: int = setting(40, "Stage I and II: steps over which the learning rate rises", "12")
    problems: int = setting(32, "problems per step, over all processes", "12")
    attempts: int = setting(8, "K, first attempts per problem; leave-one-out baselines need 2", "12")
    siblings: int = setting(1, "M, second attempts per first attempt", "12")
    temperature: float = setting(1.0, "sampling temperature in training, and of the policy that is trained", "12")
    beta1: float = setting(0.01, "β1, weak KL to the base on every attempt", "12")
    beta2: float = setting(0.25, "β2, strict KL on the first attempt in Stage I (the paper: 0.1 for MATH, 0.25 for MBPP)", "12")
    kl_target: float = setting(0.0, "adapt β2 so that the first attempt's KL stays near this many nats; 0: fixed β2", "12")
    alpha: float = setting(1.0, "α of the bonus α·(r2 − r1) in Stage II (the paper: 10)", "2")
    gamma: float = setting(0.0, "γ: turn 1's return is its reward plus γ times turn 2's return; the method has 0 (Fig. 9)", "12")
    baseline: str = setting("none", "turn 2's baseline: none, problem, siblings, first (score.advantages)", "12")
    offline: float = setting(0.125, "Stage II: share of the problems whose first attempts come from the base model", "2")
    single_turn: bool = setting(False, "Stage II trains the first attempt only: single-turn RL", "2")
    average: float = setting(0.98, "decay of the EMA of the weights that a stage returns; 0: none in Stage I and II, 0.98 in stage 0", "012")
    # machinery: none of it changes the gradient
    device: str = setting("auto", "auto: the GPU of this process, or the CPU if there is none; or cpu, cuda, mps")
    dtype: str = setting("float32", "precision of sampling and gradients: float32, or bf16 with float32 weights, sharded (FSDP2)", "12")
    micro_batch: int = setting(64, "dialogues per forward pass")
    sample_batch: int = setting(0, "dialogues sampled at a time, which bounds the cache; 0: all of a step", "12")
    checkpointing: bool = setting(False, "recompute activations in the backward pass: less memory, a third more work")
    compile: bool = setting(False, "compile the blocks with torch.compile: fewer, larger kernels after a minute of compilation")
    save_every: int = setting(50, "steps between checkpoints; also the window over which the best weights are chosen", "12")
    eval_problems: int = setting(1000, "held-out problems of the tables (validation split)")
    eval_every: int = setting(0, "RL steps between evaluations into the log; 0: only after each stage")


# The code task spends a third of a step in the sandbox.
CODE = dict(stage2_steps=300)
# The paper's settings (Table 5). It gives no split of the steps between the stages, no warm-up, no lengths and no baseline;
# that of the laptop task is only measured there (results/earlier.md).
PAPER_MATH = dict(
    problems=64, attempts=8, alpha=10.0, beta2=0.1, baseline="first", stage1_steps=1500, stage2_steps=1500, stage1_lr=5e-6, stage2_lr=5e-6,
    average=0.0, micro_batch=4, sample_batch=256,
)  # fmt: skip
PAPER_CODE = PAPER_MATH | dict(problems=16, beta2=0.25, stage1_steps=750, stage2_steps=750, stage1_lr=1e-5, stage2_lr=1e-5)


def defaults_of(task: str) -> dict:
    """Return the settings in which a task differs from Settings' own defaults."""
    if task in ("mbpp", "humaneval"):
        return PAPER_CODE
    if task in data.PUBLISHED:
        return PAPER_MATH
    return CODE if task == "code" else {}


CHOICES = dict(
    stage=(0, 1, 2), baseline=("none", "problem", "siblings", "first"), dtype=("float32", "bf16"), device=("auto", "cpu", "cuda", "mps"),
)  # fmt: skip
POSITIVE = "n_layer n_embd base_steps stage2_steps stage1_lr stage2_lr problems attempts siblings temperature micro_batch save_every eval_problems max_new"
NOT_NEGATIVE = "stage1_steps beta1 beta2 kl_target alpha warmup eval_every sample_batch n_ctx"
UNIT_INTERVAL = "base_until offline average gamma"


def parse(argv=None) -> Settings:
    """Parse the command line; a wrong value ends the program with one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    for f in dataclasses.fields(Settings):
        kind = dict(action="store_true") if f.type is bool else dict(type=f.type, metavar=f.type.__name__)
        text = f"{f.metadata['help']} (default: {f.default or 'none'})"
        if f.name in PAPER_MATH:
            text += f"; with --model {PAPER_MATH[f.name]}, for programs {PAPER_CODE[f.name]}"
        parser.add_argument(f"--{f.name}", default=None, help=text.replace("%", "%%"), **kind)
    given = {name: value for name, value in vars(parser.parse_args(argv)).items() if value is not None}
    s = Settings(**defaults_of(given.get("task", Settings.task)) | given)
    try:
        check(s)
    except UserError as error:
        parser.error(str(error))
    return s


def check(s: Settings) -> None:
    """Raise UserError for a setting that is out of range, or that means nothing together with another."""

    def require(condition, text):
        if not condition:
            raise UserError(text)

    choices = CHOICES | dict(task=data.PUBLISHED if s.model else tuple(data.TASKS))
    for name, allowed in choices.items():
        require(getattr(s, name) in allowed, f"--{name} is {getattr(s, name)!r}, and must be one of {', '.join(map(str, allowed))}")
    for name in POSITIVE.split():
        require(0 < getattr(s, name) < math.inf, f"--{name} is {getattr(s, name)}, and must be above 0")
    for name in NOT_NEGATIVE.split():
        require(0 <= getattr(s, name) < math.inf, f"--{name} is {getattr(s, name)}, and must be 0 or more")
    for name in UNIT_INTERVAL.split():
        require(0 <= getattr(s, name) <= 1, f"--{name} is {getattr(s, name)}, and must lie between 0 and 1")
    require(s.n_embd % 8 == 0, f"--n_embd is {s.n_embd}, and must be a multiple of 8 (4 heads of even size)")
    require(s.baseline != "siblings" or s.siblings > 1, "--baseline siblings needs --siblings 2 or more")
    require(s.stage != 1 or s.stage1_steps, "--stage 1 with --stage1_steps 0 has nothing to do; give --stage 0 or 2")
    require(s.beta2 or not s.kl_target, "--kl_target multiplies β2, and --beta2 is 0; give a β2 to start from")
    require(s.data or not s.model, f"--model {s.model} needs --data FILE, the problems to train on")
    require(not (s.model and s.base), "--base and --model are both base models; give one of them")
    for name in ("data", "eval_data", "n_ctx"):
        require(s.model or not getattr(s, name), f"--{name} means nothing without --model")
    require(round(s.offline * s.problems) < s.problems, f"--offline {s.offline} leaves no problem whose first answers are the policy's")
    require(s.problems % world_size() == 0, f"--problems {s.problems} must be a multiple of the {world_size()} processes")
    check_device(s, require)


def check_device(s: Settings, require) -> None:
    """Check that this machine has the device that the settings name, and one GPU per process."""
    require(s.device != "cuda" or torch.cuda.is_available(), "--device is cuda, and torch sees no GPU here; leave it at auto")
    require(s.device != "mps" or torch.backends.mps.is_available(), "--device is mps, and torch has none here; leave it at auto")
    local = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    gpus = torch.cuda.device_count() if s.device != "cpu" else 0
    require(not 0 < gpus < local, f"{local} processes for {gpus} GPU(s) of this machine; start as many as it has, or give --device cpu")


# ------------------------------------------------------------------ stage 0: a base model


def laptop_config(s: Settings, task) -> GPTConfig:
    """Return the shape of stage 0's model. With q/k norm, attention tolerates Muon's large steps better."""
    heads, n_ff = 4, s.n_embd * 8 // 3 // 8 * 8
    return GPTConfig(
        vocab_size=task.n_tokens, n_layer=s.n_layer, n_embd=s.n_embd, n_head=heads, n_kv_head=heads,
        head_dim=s.n_embd // heads, n_ff=n_ff, qk_norm=True,
    )  # fmt: skip


BASE_BATCH, BASE_LR = 64, 0.015  # dialogues per step; peak learning rate of Muon, AdamW takes a fifth
COOL_DOWN = 250  # steps from `base_until` to the end of stage 0, in which the learning rate falls to 0


def base_batch(s: Settings, task, step: int):
    """Return this process's share of a step's dialogues: ids and turn (B, T), and the answer tokens of the whole batch."""
    rng = random.Random(f"stage 0, {s.seed}, {step}")
    rows = []
    for problem in task.problems("train", BASE_BATCH, rng):
        rows.append(data.encode_dialogue(task, problem.prompt, task.dialogue(problem, rng)))
    count = sum(i > 0 for _, turn in rows for i in turn)
    ids, turn = zip(*rows[rank() :: world_size()])
    return rollout.pad(ids, device=device_of(s)), rollout.pad(turn, device=device_of(s)), count


def base_optimizers(model: GPT) -> dict:
    """Return the optimizers: Muon for the matrices of the blocks, AdamW for the rest. Muon learns in a third of the steps."""
    matrices, rest = [], []
    for name, p in model.named_parameters():
        (matrices if name.startswith("h.") and p.ndim == 2 else rest).append(p)
    return {
        "muon": torch.optim.Muon(matrices, lr=BASE_LR, weight_decay=0.01),
        "adamw": torch.optim.AdamW(rest, lr=BASE_LR / 5, betas=(0.9, 0.99), weight_decay=0.01),
    }


def train_base(s: Settings, task, folder: Path) -> dict:
    """Stage 0: train on the answer tokens of the embedded corpus. Returns the averaged weights."""
    torch.manual_seed(s.seed)
    model = GPT(laptop_config(s, task)).to(device_of(s))
    average = model.copy()
    optimizers = base_optimizers(model)
    peaks = {name: optimizer.param_groups[0]["lr"] for name, optimizer in optimizers.items()}
    record = Recorder(s, 0, folder, s.base_steps)
    right = record.resume("right", 0.0)
    if record.first:  # a laptop-sized model: its whole state goes to the other ranks as one object
        model.load_state_dict(record.resume("policy", None))
        average.load_state_dict(record.resume("model", None))
        for name, optimizer in optimizers.items():
            optimizer.load_state_dict(record.resume(name, None))
    end = record.resume("end", s.base_steps)
    for step in record.range() if record.first < end else ():
        # 1. The supervised loss of this process's dialogues, divided by the answer tokens of all.
        ids, turn, count = base_batch(s, task, step)
        loss = 0.0
        for i, t in zip(ids.split(s.micro_batch), turn.split(s.micro_batch)):
            part = score.supervised_loss(model, i, t, count)
            part.backward()
            loss += part.item()
        sum_gradients(model)
        norm = clip_gradient(model)
        # 2. Update: 50 steps of warm-up, a constant rate, a linear decay over the last 60 %, and the cool-down.
        if record.is_finite(step, norm):
            share = min(1.0, (step + 1) / 50, (1 - step / s.base_steps) / 0.6, (end - step) / COOL_DOWN)
            for name, optimizer in optimizers.items():
                optimizer.param_groups[0]["lr"] = peaks[name] * share
                optimizer.step()
            update_average(average, model, step, s.average or 0.98)
        model.zero_grad()
        # 3. Measure, log, save.
        if (step + 1) % 50 == 0:
            right = greedy_accuracy(s, task, average, step)
            if right >= s.base_until:
                end = min(end, step + 1 + COOL_DOWN)
        record.log(step, {"loss": all_sum({"loss": loss})["loss"], "tokens": count, "right": right, "grad_norm": norm})
        done = step + 1 == end
        if record.due(step, done):
            state = {"policy": model.state_dict(), "model": average.state_dict(), "right": right, "end": end}
            state |= {name: optimizer.state_dict() for name, optimizer in optimizers.items()}
            record.save(step, state | {"config": dataclasses.asdict(model.config)}, done)
        if done:
            break
    record.close()
    return whole_weights(average)


def greedy_accuracy(s: Settings, task, model: GPT, step: int, n: int = 512) -> float:
    """Return the share of n training problems that the model answers rightly at temperature 0, in one answer.

    Seeds learn the arithmetic at different speeds, and Stage I and II need a base model that errs sometimes: stage 0 cools
    down from an accuracy on, not after a number of steps.
    """
    problems = task.problems("train", n, random.Random(f"accuracy, {s.seed}, {step}"))[rank() :: world_size()]
    batch = evaluate.sample_and_judge(model, task, problems, turns=1, temperature=0.0)
    return all_sum({"right": batch.rewards.sum()})["right"] / n


# ------------------------------------------------------------------ Stage I and Stage II


def train_score(s: Settings, task, stage: int, start: GPT | None, base: GPT | None, folder: Path) -> dict:
    """Stage I (Eq. 3) or Stage II (Eq. 4) from `start`, with `base` as π_ref in both. Returns the best weights.

    start, base: whole models on the CPU of rank 0, None on the other ranks.
    """
    steps, peak_lr = (s.stage1_steps, s.stage1_lr) if stage == 1 else (s.stage2_steps, s.stage2_lr)
    policy, reference = distribute(s, start), distribute(s, base).requires_grad_(False)
    average = distribute(s, start).requires_grad_(False) if s.average else policy
    optimizer = torch.optim.Adam(policy.parameters(), lr=peak_lr, betas=(0.9, 0.99))
    record = Recorder(s, stage, folder, steps)
    record.resume_model("policy", policy, optimizer)
    if s.average:
        record.resume_model("model", average)
    beta2 = record.resume("beta2", s.beta2)
    window = record.resume("window", [])  # training rewards since the last window ended
    best_reward = record.resume("best_reward", -math.inf)
    best = record.state["best"] if record.state else {}  # full weights stay on rank 0
    alpha = s.alpha if stage == 2 else 0.0  # Stage I has no bonus
    for step in record.range():
        # 1. Draw problems, sample two answers to each with the current policy, judge them.
        began = time.perf_counter()
        problems, sampling = draw_problems(s, task, stage, step)
        given = offline_attempts(s, task, problems, reference, sampling) if stage == 2 else None
        with unsharded(policy) as model:
            batch = evaluate.sample_and_judge(model, task, problems, K=s.attempts, M=s.siblings, given=given, **sampling)
        drawn, r = batch.rollouts, batch.rewards  # r (N, 2)
        sampled = time.perf_counter()
        # 2. Returns and advantages.
        R = score.stage1_returns(r, s.gamma) if stage == 1 else score.stage2_returns(r, alpha, s.gamma)  # (N, 2)
        shape = (s.problems // world_size(), s.attempts, s.siblings)
        A = score.advantages(R, r, shape, s.baseline, alpha)  # (N, 2)
        # 3. Loss and gradient, one micro-batch at a time.
        turn = drawn.turn * (drawn.turn == 1) if s.single_turn and stage == 2 else drawn.turn  # (N, T)
        answers = all_sum({"turn1": (turn == 1).any(1).sum(), "turn2": (turn == 2).any(1).sum()})
        count = list(answers.values())  # answers that are trained on, of each turn, over all processes
        A_device, sums = A.to(turn.device), Sums()
        for rows, width in micro_batches(drawn.length, s.micro_batch):
            ids, t = drawn.ids[rows, :width], turn[rows, :width]  # (B, T)
            logp, kl, entropy = score.answer_stats(policy, reference, ids, t, s.temperature)  # (B, T-1)
            if stage == 1:
                loss = score.stage1_loss(logp, kl, t, A_device[rows], s.beta1, beta2, count)
            else:
                loss = score.stage2_loss(logp, kl, t, A_device[rows], s.beta1, count)
            loss.backward()
            sums.add_tokens(t[:, 1:], logp, kl, entropy, drawn.logp[rows, 1:width])
        sum_gradients(policy)
        # 4. Clip, update, average.
        norm = clip_gradient(policy)
        finite = record.is_finite(step, norm)
        if finite:
            optimizer.param_groups[0]["lr"] = peak_lr * learning_rate(s, step, steps)
            optimizer.step()
            update_average(average, policy, step, s.average)
        optimizer.zero_grad()
        # 5. Log, adapt β2, keep the best weights, save.
        sums.add_dialogues(batch, A, shape)
        line = sums.log_line(answers) | {"grad_norm": norm, "beta2": beta2 if stage == 1 else None}
        line |= {"seconds_rollout": sampled - began, "seconds_update": time.perf_counter() - sampled}
        if s.eval_every and (step + 1) % s.eval_every == 0:
            line |= held_out(s, task, average, reference)
        record.log(step, line | {"dialogues": evaluate.dialogues_of(problems, batch)[:2]})
        if finite and stage == 1 and s.kl_target:
            beta2 = adapted(beta2, line["kl1"], s.kl_target)
        window.append(trained_reward(s, stage, line))
        if record.due(step):
            if record.window_ends(step):
                reward, window = sum(window) / len(window), []
                if reward >= best_reward:
                    best_reward, best = reward, whole_weights(average)
            state = {"policy": whole_weights(policy), "model": whole_weights(average), "best": best, "best_reward": best_reward}
            state |= {"adam": whole_optimizer(policy, optimizer), "beta2": beta2, "window": window}
            record.save(step, state | {"config": dataclasses.asdict(policy.config)})
    record.close()
    return best


def draw_problems(s: Settings, task, stage: int, step: int):
    """Return this process's problems of a step, and the sampler's settings with the step's own random numbers."""
    name = f"stage {stage}, {s.seed}, {step}"
    problems = task.problems("train", s.problems, random.Random(name))[rank() :: world_size()]
    seed = random.Random(f"{name}, {rank()}").getrandbits(60)
    generator = torch.Generator(device_of(s)).manual_seed(seed)
    return problems, dict(temperature=s.temperature, generator=generator, batch=s.sample_batch)


def offline_attempts(s: Settings, task, problems, reference: GPT, sampling: dict) -> list:
    """Return first attempts of the base model for a share of the step's problems, None for those that the policy answers.

    They are part of the prompt of y2. They keep wrong first answers in the data after the policy's own have become rare.
    """
    given = [None] * (len(problems) * s.attempts)
    from_base = round(s.offline * s.problems)  # the step's first problems, of which this process has every n-th
    prompts = [task.ask(p.prompt) for p in problems[: len(range(rank(), from_base, world_size()))]]
    if from_base:
        with unsharded(reference) as base:  # a collective operation: every process enters, also one without such a problem
            if prompts:
                first = rollout.sample(base, task, prompts, K=s.attempts, turns=1, **sampling).answers(1, with_stop=True)
                given[: len(first)] = first
    return given


def micro_batches(length: torch.Tensor, size: int):
    """Yield the rows and the width of each forward pass.

    Rows of similar length go together, and a width is a multiple of 64, capped at the longest dialogue: long answers do not
    pad short ones, and the GPU sees few shapes.
    """
    width = 64 * -(-length.cpu() // 64)  # (N,)
    for rows in width.argsort(stable=True).split(size):
        yield rows, int(width[rows].max())


def learning_rate(s: Settings, step: int, steps: int) -> float:
    """Return the learning rate as a share of its peak: warm-up, constant, then a linear decay over the last 30 %.

    Warm-up: Adam's first updates are full-size and would disturb first attempts, which Stage I does not reward. Decay: the
    last updates carry the noise of single batches.
    """
    return min(1.0, (step + 1) / max(s.warmup, 1), (1 - step / steps) / 0.3)


def adapted(beta2: float, kl1: float, target: float) -> float:
    """Return the next β2 of the proportional controller of --kl_target: stricter if the first attempt's KL is too large."""
    return beta2 * (1 + 0.1 * min(max(kl1 / target - 1, -0.2), 0.2))


def trained_reward(s: Settings, stage: int, line: dict) -> float:
    """Return the mean reward that a stage maximizes, without the bonus: it chooses the best weights. Never a held-out one."""
    if stage == 1:
        return line["r2"]
    return line["r1"] if s.single_turn else line["r1"] + line["r2"]


class Sums(dict):
    """Sums over a step's tokens and dialogues, by name; one all-reduce makes a log line of them."""

    def add(self, **values) -> None:
        """Add each value to the sum of its name."""
        for name, value in values.items():
            self[name] = self.get(name, 0.0) + value

    @torch.no_grad()
    def add_tokens(self, turn, logp, kl, entropy, sampled_logp) -> None:
        """Add a micro-batch's KL per turn, entropy, and the gap between the sampler's log-probabilities and the loss's."""
        gap = (logp - sampled_logp).abs() * (turn > 0)  # (B, T-1)
        self.add(kl1=(kl * (turn == 1)).sum(), kl2=(kl * (turn == 2)).sum())
        self.add(entropy=entropy.sum(), tokens=(turn > 0).sum(), sampler_gap=gap.sum())

    def add_dialogues(self, batch, A, shape) -> None:
        """Add the counts of dialogues. Rewards are those of the policy's own first attempts: what it would do alone."""
        r, same = batch.rewards, torch.tensor([a == b for a, b in zip(*batch.texts)])
        online = (batch.rollouts.turn == 1).any(1).cpu()  # (N,) the first answer is the policy's own
        self.add(online=online.sum(), r1=r[online, 0].sum(), r2=r[online, 1].sum(), changed=(~same[online]).sum())
        self.add(offline=(~online).sum(), r2_offline=r[~online, 1].sum())
        self.add(answers=r.numel(), truncated=(~batch.finished).sum())
        self.add(groups=shape[0], signal=(A[:, 1].view(shape[0], -1).abs().amax(1) > 0).sum())

    def log_line(self, answers: dict) -> dict:
        """Return the means over all processes; KLs are per answer that is trained on."""
        x = all_sum(self)
        n, tokens = max(x["online"], 1), max(x["tokens"], 1)
        return {
            "r1": x["r1"] / n,
            "r2": x["r2"] / n,
            "delta": (x["r2"] - x["r1"]) / n,
            "r2_offline": x["r2_offline"] / x["offline"] if x["offline"] else None,
            "kl1": x["kl1"] / max(answers["turn1"], 1),
            "kl2": x["kl2"] / max(answers["turn2"], 1),
            "entropy": x["entropy"] / tokens,
            "changed": x["changed"] / n,
            "truncated": x["truncated"] / x["answers"],
            "signal": x["signal"] / x["groups"],
            "sampler_gap": x["sampler_gap"] / tokens,
            "tokens": x["tokens"],
        }


# ------------------------------------------------------------------ held-out problems


def evaluate_together(s: Settings, task, model: GPT, first_from: GPT | None = None) -> list[dict]:
    """Return the dialogues of the validation problems on every process; each process answers its share of them."""
    problems = task.problems("val", s.eval_problems)
    mine = problems[rank() :: world_size()]
    dialogues = evaluate.evaluate(model, task, mine, first_from=first_from, batch=s.sample_batch or 512) if mine else []
    if world_size() == 1:
        return dialogues
    shares = [None] * world_size()
    dist.all_gather_object(shares, dialogues)
    return [shares[i % world_size()][i // world_size()] for i in range(len(problems))]


def held_out(s: Settings, task, average: GPT, reference: GPT) -> dict:
    """Return the held-out metrics for the log, and Accuracy@t2 if the first answers are the base model's (Fig. 5)."""
    with unsharded(average) as model, unsharded(reference) as base:
        own = evaluate.metrics(evaluate_together(s, task, model))
        repairs = evaluate.metrics(evaluate_together(s, task, model, first_from=base))
    return {"held_out": dataclasses.asdict(own), "repairs_base": repairs.t2}


def report(s: Settings, task, folder: Path, stage: int, whole: GPT | None):
    """Print the held-out metrics of a stage and some of its dialogues; measured once and kept in the run folder."""
    name, made_with = f"stage{stage}", from_rank0(remembered(s, stage) if rank() == 0 else None)
    path = folder / f"{name}.val{s.eval_problems}.json"
    saved = from_rank0(json.loads(path.read_text(encoding="utf-8")) if rank() == 0 and path.exists() else None)
    if saved is None or saved.get("settings") != made_with:
        with unsharded(distribute(s, whole)) as model:
            dialogues = evaluate_together(s, task, model)
        saved = {"metrics": dataclasses.asdict(evaluate.metrics(dialogues)), "dialogues": evaluate.examples(dialogues)}
        saved["settings"] = made_with
        if rank() == 0:
            write_file(path, json.dumps(saved, indent=1, ensure_ascii=False).encode())
    metrics = evaluate.Metrics(**saved["metrics"])
    say("\n" + evaluate.HEADER + "\n" + evaluate.row(name, metrics))
    for kind, dialogue in saved["dialogues"].items():
        say(evaluate.example_lines(kind, dialogue))
    return name, metrics


# ------------------------------------------------------------------ the run


def plan(s: Settings) -> list[int]:
    """Return the stages that this run consists of."""
    stages = [0]
    if s.stage >= 1 and s.stage1_steps:
        stages.append(1)
    if s.stage == 2:
        stages.append(2)
    return stages


def run(s: Settings) -> None:
    """Make the stages that the run folder lacks, and print the tables."""
    check_ranks_agree(s)
    folder, task = Path(s.folder), data.make_task(s.task, s.model, s.data, s.eval_data, s.max_new)
    with contextlib.ExitStack() as stack:
        if rank() == 0:
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(lock(folder))
            write_file(folder / "settings.json", json.dumps(dataclasses.asdict(s), indent=1).encode())
        stages = plan(s)
        if s.compile:
            check_compiler(device_of(s))
        say(f"run folder {folder}: {', '.join(f'stage{i}' for i in stages)}; task {s.task}, seed {s.seed}, "
            f"{world_size()} process(es), {device_of(s)}, {torch.get_num_threads()} CPU thread(s) each")  # fmt: skip
        rows, base, start = [], None, None
        for stage in stages:
            whole = make_stage(s, task, stage, start, base, folder)
            if stage == 0:
                base = whole
                start = load_start(s.start, s) if s.start and rank() == 0 else whole
            else:
                start = whole
            rows.append(report(s, task, folder, stage, whole))
            if len(rows) > 1:
                say("\n" + evaluate.HEADER + "\n" + "\n".join(evaluate.row(*r) for r in rows) + "\n")
        if rank() == 0 and s.stage:
            draw(folder)


def make_stage(s: Settings, task, stage: int, start: GPT | None, base: GPT | None, folder: Path) -> GPT | None:
    """Return a stage's model on the CPU of rank 0 (else None): given, found in the run folder, or trained."""
    path = folder / f"stage{stage}.pt"
    if stage == 0 and s.model:
        return hf_base(s, task)
    if stage == 0 and s.base:
        return load_start(s.base, s) if rank() == 0 else None
    if from_rank0(path.exists()):
        if rank() != 0:
            return None
        whole, state = load_model(path)
        check_settings(state, s, stage, path)
        say(f"stage{stage}: already there")
    else:
        weights = train_base(s, task, folder) if stage == 0 else train_score(s, task, stage, start, base, folder)
        if rank() != 0:
            return None
        config = laptop_config(s, task) if stage == 0 else start.config
        whole = GPT.with_weights(config, weights)
        for old in folder.glob(f"stage{stage}.val*.json"):  # of weights that were here before
            old.unlink()
        shutil.rmtree(folder / f"stage{stage}-hf", ignore_errors=True)
        head = {"stage": stage, "settings": remembered(s, stage), "config": dataclasses.asdict(config)}
        save_checkpoint(head | {"model": weights}, path)
    for leftover in folder.glob(f"stage{stage}.partial*.pt"):
        leftover.unlink()
    if s.model:
        export(s, whole, folder / f"stage{stage}-hf")
    return whole


def load_start(path: str, s: Settings) -> GPT:
    """Load the checkpoint of --base or --start. UserError if it is a model of another task."""
    whole, state = load_model(path)
    if state["settings"]["task"] != s.task:
        raise UserError(f"{path}: a model of the task {state['settings']['task']}, and --task is {s.task}")
    return whole


def hf_base(s: Settings, task) -> GPT | None:
    """Leave out problems that are too long, then load the folder's model in float32 on rank 0."""
    n_ctx = config_from_hf(s.model, s.n_ctx or None).n_ctx
    longest, dropped = data.drop_long(task, n_ctx)
    for line in (dropped, task.note):
        if line:
            say(line)
    if rank() != 0:
        return None
    whole = GPT.from_hf(s.model, torch.float32, n_ctx, n_tokens=task.n_tokens)
    m = memory(whole.config, s, longest, world_size())
    say(f"{s.model}: {m['parameters']:,} parameters, dialogues of at most {longest} tokens; some {m['peak'] / 1e9:.1f} GB per "
        f"process (runtime.memory explains the estimate)")  # fmt: skip
    return whole


def export(s: Settings, whole: GPT, folder: Path) -> None:
    """Write the folder that `transformers` and vLLM load: the weights in --dtype, the rest from --model."""
    if folder.exists():
        return
    shutil.rmtree(folder.with_name(folder.name + ".tmp"), ignore_errors=True)  # of a run that was killed here
    save_hf(whole.copy(torch.bfloat16 if s.dtype == "bf16" else torch.float32), folder, source=s.model)
    say(f"{folder}: a folder like {s.model}, for transformers or vLLM")


def draw(folder: Path) -> None:
    """Draw the run's log, if matplotlib is installed."""
    try:
        say(f"plot of the run: {evaluate.plot_run(folder)}")
    except ImportError:
        say(f"to plot the run: pip install matplotlib, then python evaluate.py --folder {folder} --plot")


def main(argv=None) -> None:
    """Run the program."""
    evaluate.replace_unprintable()
    guarded(run, parse(argv))


def guarded(run, s: Settings) -> None:
    """Call run(s) in its process group, and listen for signals; every expected failure ends the program with one line."""
    use_cores()
    listen_for_signals()
    try:
        with processes(s):
            run(s)
    except Stopped as error:
        fail(error if rank() == 0 else "")
    except UserError as error:
        fail(error)
    except VerifierError as error:
        fail(f"{error}; remove that problem from --data and give the same command again")
    except RuntimeError as error:  # torch.OutOfMemoryError, the CPU's allocator and gloo's errors are all of this type
        fail(explain(error))
    except OSError as error:
        fail(f"{error.filename or 'file'}: {error.strerror}; fix that and give the same command again")
    except KeyboardInterrupt:
        fail("stopped at once; the same command resumes from the last checkpoint")


def explain(error: RuntimeError) -> str:
    """Return one line for the errors of torch that a user can fix; raise any other again."""
    text = str(error)
    if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in text:
        return (f"out of memory ({text.splitlines()[0][:80]}); lower --micro_batch or --sample_batch, or give --checkpointing or "
                f"--dtype bf16; the same command then resumes. The first lines state what runtime.memory expected")  # fmt: skip
    if "gloo" in text and "onnection" in text:
        return f"process {rank()}: another process has ended; its own line says why"
    raise error


def fail(text) -> None:
    """Print one line and end this process with status 1.

    After an error the other processes may wait for this one in a collective operation: the process group is not destroyed,
    which would wait for them; torchrun ends them.
    """
    with contextlib.suppress(OSError):  # a closed terminal
        if text:
            print(f"{Path(sys.argv[0]).name}: {text}", file=sys.stderr, flush=True)
        sys.stdout.flush()
    os._exit(1) if dist.is_initialized() else sys.exit(1)


if __name__ == "__main__":
    main()
