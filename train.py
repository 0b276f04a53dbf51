"""The recipe: a base model (stage 0), Stage I and Stage II of SCoRe, from top to bottom.

    python train.py --stage 1                     base model and Stage I, on a laptop
    python train.py --stage 2                     goes on to Stage II in the same run folder
    torchrun --nproc_per_node 2 train.py …        the same over several processes
    … --model FOLDER --task math --data FILE      with Hugging Face weights and published problems

A stage whose predecessor is missing in the run folder makes it first. Every stage can be killed at
any moment: the same command goes on from the last checkpoint and ends, on a CPU, with the same weights
to the bit, because the random numbers of a step come from a seed that is a function of (seed, stage, step),
and no generator outlives its step. (Some of a GPU's sums come out in another order each time.)

A stage may go on with another number of processes than it began with. Equal whatever their number: the
problems of every step, the state of the optimizer and of the average, and the gradient of given
dialogues, to rounding. Not equal: the dialogues themselves, since each process has random numbers of
its own; so the weights are those of another draw of the same run.

What the paper compares with are settings of the same code, not forks of it:

    single-turn RL          --stage 2 --stage2_from base --train_turns 1 --offline 0
    naive multi-turn RL     --stage 2 --stage2_from base --alpha 0 --offline 0
    SCoRe without Stage I   --stage 2 --stage2_from base
    SCoRe without shaping   --stage 2 --alpha 0
    two rounds of I and II  --stage 2 --rounds 2
    one stage for two       --stage 2 --stage2_from base --anneal
    three attempts          --stage 2 --turns 3
    STaR on D, on D⁺        --stage 2 --stage2_from base --learn star [--keep_right]
    Pair-SFT on D, on D⁺    --stage 2 --stage2_from base --learn pairs [--keep_right]
    ReST-EM                 --stage 2 --stage2_from base --learn rest-em
"""

import argparse
import dataclasses
import datetime
import json
import os
import random
import shutil
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.optim import ZeroRedundancyOptimizer
from tqdm import tqdm

import data
import evaluate
import rollout
import score
import verify
from model import GPT, GPTConfig, WeightsError, save_hf


# ------------------------------------------------------------------ settings


def setting(default, help, stages=""):
    """A field of Settings. stages: those whose weights it changes; they remember it, and a run folder
    that holds such a stage made with another value is refused."""
    return field(default=default, metadata={"help": help, "stages": stages})


@dataclass
class Settings:
    """Everything that can be set; each field is a flag. The defaults are the laptop run of the README."""

    stage: int = setting(1, "last stage to run: 0 base model, 1 Stage I, 2 Stage II; earlier ones are made if missing")
    folder: str = setting("runs/default", "run folder: checkpoints, one JSON line a step, tables")
    base: str = setting("", "stage 0 checkpoint to start from, instead of training one", "012")
    task: str = setting("false-position", "an embedded task: " + ", ".join(data.TASKS) + "; or with --model " + ", ".join(data.REAL), "012")
    model: str = setting("", "Hugging Face folder: the base model, in place of stage 0; Stage I and II leave such folders, too", "012")
    data: str = setting("", "with --model: JSON Lines file of problems to train on, as published", "012")
    eval_data: str = setting("", "with --model: problems to evaluate on; none: a twentieth of --data, kept out of training", "012")
    max_new: int = setting(512, "with --model: longest answer in tokens", "012")
    n_ctx: int = setting(0, "with --model: longest dialogue in tokens; 0: as its config.json says", "012")
    seed: int = setting(0, "seed of every random number", "012")
    smoke: bool = setting(False, "every step once with tiny numbers, in runs/smoke: does it work here?", "012")
    device: str = setting("auto", "auto: the GPU of this process if there is one, else the CPU; or cpu, cuda")
    threads: int = setting(0, "CPU threads of each process; 0: the cores, shared among the processes of this machine")
    # the laptop's model
    n_layer: int = setting(3, "blocks of the GPT", "012")
    n_embd: int = setting(96, "its width, a multiple of 4 heads", "012")
    # stage 0
    base_steps: int = setting(3000, "stage 0: supervised steps, at most", "012")
    base_until: float = setting(0.83, "stage 0 ends when this share of its greedy answers to training problems is right", "012")
    base_batch: int = setting(64, "stage 0: dialogues a step", "012")
    base_lr: float = setting(0.015, "stage 0: peak learning rate of Muon (matrices); AdamW (the rest) takes a fifth", "012")
    # both stages of RL
    problems: int = setting(32, "problems a step, over all processes", "12")
    attempts: int = setting(8, "K, first attempts a problem; leave-one-out needs 2", "12")
    siblings: int = setting(1, "M, second attempts that share a first one and its cache", "12")
    temperature: float = setting(1.0, "sampling temperature in training, and of the policy that is trained", "12")
    beta1: float = setting(0.01, "β1, the weak KL to the base on every attempt (Table 5)", "12")
    beta2: float = setting(0.25, "β2, the strict KL on the first attempt in Stage I (Table 5: 0.1 for MATH, 0.25 for MBPP)", "12")
    kl_target: float = setting(0.0, "adapt β2 so that the first attempt's KL stays near this many nats; 0: fixed β2", "12")
    alpha: float = setting(1.0, "α of the bonus α·(r2 − r1) in Stage II; the paper has 10 (results/README.md says why not here)", "2")
    gamma: float = setting(0.0, "γ: 0 is the method; above it turn 1 is paid for turn 2, too (in the paper that collapses, Fig. 9)", "12")
    baseline: str = setting("first", "turn 2's baseline: none, problem, siblings, first (score.advantages)", "12")
    stage1_steps: int = setting(300, "Stage I: steps", "12")
    stage2_steps: int = setting(500, "Stage II: steps; 300 with --task code", "2")
    stage1_lr: float = setting(5e-4, "Stage I: Adam's learning rate", "12")
    stage2_lr: float = setting(2e-4, "Stage II: Adam's learning rate", "2")
    warmup: int = setting(40, "steps over which Adam's learning rate rises in Stage I and II", "12")
    decay: float = setting(0.3, "share of Stage I's and II's steps, at their end, over which the learning rate falls to 0; 0: constant", "12")
    offline: float = setting(0.125, "Stage II: share of the problems whose first attempt comes from the base model", "2")
    stage2_from: str = setting("stage1", "what Stage II starts from: stage1, or base (no Stage I)", "2")
    train_turns: int = setting(2, "Stage II: 1 rewards the first attempt alone (single-turn RL)", "2")
    anneal: bool = setting(False, "Stage II as the only stage: the first attempt's β falls from β2 to β1 as α rises from 0", "2")
    learn: str = setting("reinforce", "how Stage II learns: reinforce, or fine-tuning on what was drawn: star, pairs, rest-em", "2")
    keep_right: bool = setting(False, "star and pairs on D⁺, which also holds right first answers with right second ones", "2")
    turns: int = setting(2, "answers to a problem in Stage I and II, each asked to correct the one before", "12")
    rounds: int = setting(1, "rounds of Stage I and II, one behind the other (v1 of the paper)", "2")
    average: float = setting(0.98, "decay of the running average of the weights, which is what a stage leaves; 0: none", "012")
    keep: str = setting("best", "a stage leaves its best weights by training reward, or its last: best, last", "12")
    # machinery
    micro_batch: int = setting(64, "dialogues a forward pass; changes the memory, not the gradient")
    sample_batch: int = setting(0, "dialogues sampled at a time, which bounds the cache; 0: all of a step's", "012")
    dtype: str = setting("float32", "of sampling, gradients and reference: float32, bf16; the trained weights are always float32", "012")
    checkpointing: bool = setting(False, "keep no activations inside a block, but compute them again: less memory, a third more work")
    compile: bool = setting(False, "run the blocks through torch.compile, but where stage 0 trains: fewer and larger kernels behind a minute of making them")
    shard: bool = setting(False, "share Adam's state among the processes")
    save_every: int = setting(50, "steps between checkpoints, and the window of `keep best`", "12")
    split: str = setting("val", "held-out problems of the tables: val, or test (once, at the very end)")
    eval_problems: int = setting(1000, "how many of them")
    eval_every: int = setting(0, "also evaluate every so many steps of RL, into the log; 0: before and after only")


SMOKE = dict(
    folder="runs/smoke", base_steps=4, base_batch=16, problems=4, attempts=4, stage1_steps=4, stage2_steps=4,
    save_every=2, eval_problems=20, max_new=24,
)  # fmt: skip


# A third of a step of the code task is the sandbox's: with these, base and both stages take a quarter of an hour on two cores.
CODE = dict(stage2_steps=300)

# With real weights the paper's own numbers (Table 5) are the defaults; it gives no split of the steps
# between the stages, no warm-up and no lengths. No average: it would be one more copy of the weights.
PAPER = dict(
    problems=64, alpha=10.0, beta2=0.1, stage1_steps=1500, stage2_steps=1500, stage1_lr=5e-6, stage2_lr=5e-6, average=0.0,
    micro_batch=4, sample_batch=256,
)  # fmt: skip
PAPER_CODE = PAPER | dict(problems=16, beta2=0.25, stage1_steps=750, stage2_steps=750, stage1_lr=1e-5, stage2_lr=1e-5)


def parse(argv=None) -> Settings:
    """Settings from the command line; a value that makes no sense ends the program with one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    fields = dataclasses.fields(Settings)
    for f in fields:
        kind = dict(action="store_true") if f.type is bool else dict(type=f.type, default=None, metavar=f.type.__name__)
        paper = f"; with --model {PAPER[f.name]}, for code {PAPER_CODE[f.name]}" if f.name in PAPER else ""
        parser.add_argument(f"--{f.name}", help=f"{f.metadata['help']} (default: {f.default}{paper})", **kind)
    args = {k: v for k, v in vars(parser.parse_args(argv)).items() if v is not None}
    defaults = CODE if args.get("task") == "code" else {}
    if args.get("model"):
        defaults = PAPER if args.get("task") in ("math", "gsm8k") else PAPER_CODE
    s = Settings(**{**defaults, **(SMOKE if args.get("smoke") else {}), **args})
    choices = dict(stage=(0, 1, 2), task=data.REAL if s.model else tuple(data.TASKS), stage2_from=("stage1", "base"), keep=("best", "last"))
    choices |= dict(dtype=("float32", "bf16"), split=("val", "test"), train_turns=(1, 2), device=("auto", "cpu", "cuda"))
    choices |= dict(baseline=("none", "problem", "siblings", "first"), learn=("reinforce", *ROUNDS))
    for name, allowed in choices.items():
        if getattr(s, name) not in allowed:
            parser.error(f"--{name} is {getattr(s, name)!r}, and must be one of {', '.join(map(str, allowed))}")
    positive = "base_steps base_batch problems attempts siblings temperature stage1_steps stage2_steps rounds"
    for name in (positive + " micro_batch save_every eval_problems max_new n_layer n_embd base_lr stage1_lr stage2_lr").split():
        if not getattr(s, name) > 0:
            parser.error(f"--{name} is {getattr(s, name)}, and must be above 0")
    for name in "beta1 beta2 kl_target alpha warmup threads eval_every sample_batch n_ctx".split():
        if not 0 <= getattr(s, name) < float("inf"):
            parser.error(f"--{name} is {getattr(s, name)}, and must be 0 or more")
    for name in ("base_until", "offline", "average", "gamma", "decay"):
        if not 0 <= getattr(s, name) <= 1:
            parser.error(f"--{name} is {getattr(s, name)}, and must lie between 0 and 1")
    if s.baseline == "siblings" and s.siblings < 2:
        parser.error("--baseline siblings needs --siblings 2 or more")
    if s.turns < 2 or (s.turns > 2 and (s.siblings > 1 or s.learn != "reinforce")):
        parser.error(f"--turns is {s.turns}, and must be 2 or more; with --siblings or --learn {s.learn} exactly 2")
    if s.learn != "reinforce":  # what only RL reads: in Stage II, and where there is no Stage I
        for name in ("alpha", "anneal") + ("gamma", "baseline", "keep") * (s.stage2_from == "base"):
            if args.get(name, False) is not False:
                parser.error(f"--{name}: --learn {s.learn} does not read it; leave one of the two out")
    if s.keep_right and s.learn not in ("star", "pairs"):
        parser.error(f"--keep_right means nothing with --learn {s.learn}; give --learn star or pairs, or leave it out")
    if s.kl_target and not s.beta2:
        parser.error("--kl_target multiplies β2, and --beta2 is 0; give a β2 to begin with")
    if s.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device is cuda, and torch sees no GPU here; leave it at auto")
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    if s.device != "cpu" and 0 < torch.cuda.device_count() < processes:
        parser.error(f"{processes} processes for {torch.cuda.device_count()} GPU(s) of this machine; start as many as it has, or give --device cpu")
    if s.n_embd % 8:
        parser.error(f"--n_embd is {s.n_embd}, and must be a multiple of 8 (4 heads of even size)")
    check_size(parser, s)
    return s


def check_size(parser, s: Settings) -> None:
    """What --model needs, and what needs --model."""
    for name in ("data", "eval_data", "n_ctx", "base"):
        if getattr(s, name) and bool(s.model) == (name == "base"):
            parser.error(f"--{name} {getattr(s, name)}: {'with' if s.model else 'without'} --model it means nothing; leave one of the two out")
    if s.model and not s.data:
        parser.error(f"--model {s.model} needs --data FILE, the problems to train on")


# ------------------------------------------------------------------ many processes


def rank() -> int:
    """Which of the processes this one is, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def device(s: Settings) -> torch.device:
    """Where the models live: one GPU a process under torchrun, or the CPU."""
    if s.device == "cpu" or (s.device == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))


def summed(x: torch.Tensor) -> torch.Tensor:
    """The sum of a small CPU tensor over all processes."""
    if world() > 1:
        there = x.to("cuda") if dist.get_backend() == "nccl" else x  # NCCL speaks from GPU to GPU only
        dist.all_reduce(there)
        x = there.cpu()
    return x


def reduce_gradients(model, message: int = 1 << 24) -> None:
    """Sums every gradient over all processes, once a step, in messages of some `message` numbers.

    A sum and not a mean: each loss is divided by the *global* number of answers, so that neither the
    number of processes nor an uneven split of the tokens among them changes the gradient. This is
    all that data parallelism needs; torch's DDP would average, and hold every gradient twice.
    """
    if world() == 1:
        return
    together = []
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    for i, grad in enumerate(grads):
        together.append(grad)
        if sum(g.numel() for g in together) < message and i + 1 < len(grads):
            continue
        flat = torch.cat([g.reshape(-1) for g in together])
        dist.all_reduce(flat)
        for g, part in zip(together, flat.split([g.numel() for g in together])):
            g.copy_(part.view_as(g))
        together.clear()


# ------------------------------------------------------------------ real weights


def hf_base(s: Settings, task) -> GPT:
    """The folder's model in float32, which is what Adam's small steps need. UserError where a dialogue may not fit."""
    policy = GPT.from_hf(s.model, torch.float32, s.n_ctx or None, device(s))
    behind = s.turns * task.max_new + (s.turns - 1) * len(task.instruction)
    problems = [p for split in ("train", s.split) for p in task.problems(split, sys.maxsize)]
    longest, problem = max(((len(task.ask(p.prompt)), p) for p in problems), key=lambda x: x[0])
    if longest + behind > policy.config.n_ctx:
        raise UserError(f"problem {problem.id} has {longest} tokens, and --n_ctx {policy.config.n_ctx} with --max_new {task.max_new} leaves "
                        f"{policy.config.n_ctx - behind}; change these two, or remove the problem")  # fmt: skip
    if task.vocab > policy.config.vocab_size:
        raise UserError(f"{s.model}: the tokenizer has {task.vocab} tokens, and the model {policy.config.vocab_size}; they do not belong together")
    m = memory(policy.config, s, longest + behind, world())
    say(f"{s.model}: {m['parameters']:,} parameters, dialogues of at most {longest + behind} tokens; some {m['peak'] / 1e9:.1f} GB "
        f"on each process (train.memory says for what)")  # fmt: skip
    return policy


def export(s: Settings, policy: GPT, folder: Path) -> None:
    """The folder that `transformers` and vLLM load: the weights in --dtype, the rest as --model has it."""
    if rank() == 0 and not folder.exists():
        shutil.rmtree(folder.with_name(folder.name + ".tmp"), ignore_errors=True)  # of a run that was killed here
        save_hf(policy.copy(compute_dtype(s)), folder, source=s.model)
        say(f"{folder}: a folder like {s.model}, for transformers or vLLM")


def compute_dtype(s: Settings) -> torch.dtype:
    """--dtype, as torch names it."""
    return torch.bfloat16 if s.dtype == "bf16" else torch.float32


def computing(s: Settings, policy: GPT) -> GPT:
    """A copy that samples, judges or is measured: in --dtype, its blocks compiled with --compile."""
    twin = policy.copy(compute_dtype(s))
    return twin.compile_blocks() if s.compile else twin


def check_compiler(s: Settings) -> None:
    """UserError where --compile finds nothing to compile with, before anything is made."""
    try:
        torch.compile(lambda x: x.exp() + 1)(torch.zeros(8, device=device(s)))
    except RuntimeError as error:
        why = str(error).splitlines()[0]
        raise UserError(f"--compile: {why}; mend that, or leave --compile out") from error


def worker_of(s: Settings, policy: GPT) -> GPT:
    """What samples and is differentiated: the policy itself, or its copy in bf16.

    A step of Adam changes a weight by a thousandth and less, and bf16 rounds that away: the weights that
    are trained are float32, and the copy is made anew behind every step (`renew`). Sampler and
    loss are the same network in the same precision. The copy's gradients are added to the policy's in float32
    as soon as a micro-batch has made one, so that no second set of them is ever held.
    """
    worker = policy if compute_dtype(s) == policy.wte.weight.dtype else policy.copy(compute_dtype(s))
    if s.compile:
        worker.compile_blocks()
    worker.checkpointing = s.checkpointing
    if worker is not policy:
        for trained, p in zip(policy.parameters(), worker.parameters()):

            def hand_over(p, trained=trained):
                trained.grad = p.grad.float() if trained.grad is None else trained.grad.add_(p.grad)
                p.grad = None

            p.register_post_accumulate_grad_hook(hand_over)
    return worker


@torch.no_grad()
def renew(worker: GPT, policy: GPT) -> None:
    """Brings the copy of `worker_of` to the policy's weights."""
    if worker is not policy:
        for w, p in zip(worker.parameters(), policy.parameters()):
            w.copy_(p)


def adam(s: Settings, policy: GPT, lr: float):
    """Adam; with --shard each process holds the two moments of its share of the weights and sends round what it updated."""
    how = dict(lr=lr, betas=(0.9, 0.99), fused=device(s).type == "cuda")  # fused: no temporary copy of all weights
    if s.shard and world() > 1:
        return ZeroRedundancyOptimizer(policy.parameters(), torch.optim.Adam, **how)
    return torch.optim.Adam(policy.parameters(), **how)


def load_optimizer(optimizer, state: dict) -> None:
    """`load_state_dict`, and for --shard two things that torch's ZeroRedundancyOptimizer leaves to be done: it puts Adam's
    step counts on the CPU, where fused Adam on a GPU cannot use them, and keeps this process's moments a second time."""
    optimizer.load_state_dict(state)
    if isinstance(optimizer, ZeroRedundancyOptimizer):
        optimizer.state.clear()
        for p, kept in optimizer.optim.state.items():
            kept["step"] = kept["step"].to(p.device)


def memory(c: GPTConfig, s: Settings, tokens: int, ranks: int = 1) -> dict[str, int]:
    """Bytes that training needs on each of `ranks` processes, by what they are for; "peak" is what is there at once.

    tokens: of the longest dialogue, prompt and all answers. With N weights, 4 bytes each in float32 and e = 2 in bf16:

        trained weights 4N, gradients 4N, Adam 8N (with --shard 8N / ranks), the copy that computes 2N (bf16),
        reference eN, average 4N (unless --average 0)
        activations   e · micro_batch · tokens · n_layer · a, with a the numbers that a block keeps of a token;
                      with --checkpointing one of n_embd for each block, and a for the one that is computed again
        logits        eight (chunk, V) tensors of float32, most of them in the backward pass (score.logit_chunk)
        cache         e · dialogues · tokens · keys and values of a token, and once more for the rows that go on
                      when the others have ended; dialogues: --sample_batch, or all of a process's
        sampler       the logits of each dialogue's next token in float32, and what is made of them
        message       the longest message of the all-reduce

    Sampling and updating take turns: the peak has cache and sampler, or gradients, activations and logits. Not in it:
    what the allocator does not give back, CUDA's own half a gigabyte and more, and, on a GPU in float32, the square matrices of
    attention with grouped queries, for which torch has no kernel of one piece there: use bf16.
    bench.py measures it.
    """
    e, Q, KV, V = (2 if s.dtype == "bf16" else 4), c.n_head * c.head_dim, c.n_kv_head * c.head_dim, c.vocab_size
    block = c.n_embd * (2 * Q + 2 * KV + 3 * c.n_ff + 2) + (Q + 2 * KV) * c.qkv_bias + 2 * c.head_dim * c.qk_norm
    N = V * c.n_embd * (1 if c.tied_head else 2) + c.n_layer * block + c.n_embd
    # of a block: input, quotient and output of both norms; q, k, v before and behind RoPE; attention's output; gate, up,
    # silu, product. Norms of one piece (on a GPU) keep no quotient.
    a = 6 * c.n_embd + 2 * (Q + KV) + KV + Q + 2 * (Q + KV) * c.qk_norm + 4 * c.n_ff
    width = 64 * -(-tokens // 64)
    kept = c.n_layer * c.n_embd + a if s.checkpointing else c.n_layer * a
    drawn = s.problems * s.attempts * s.siblings // ranks
    drawn, rows = min(s.sample_batch or drawn, drawn), min(s.micro_batch, drawn)
    parts = {
        "weights": 4 * N,
        "gradients": 4 * N,
        "adam": 8 * N // (ranks if s.shard else 1),
        "copy": 2 * N if s.dtype == "bf16" else 0,
        "reference": e * N,
        "average": 4 * N if s.average else 0,
        "activations": e * rows * width * kept,
        "logits": 8 * 4 * V * min(score.logit_chunk(V), rows * s.turns * s.max_new),
        "cache": e * drawn * tokens * 2 * KV * c.n_layer * 7 // 4,
        "sampler": drawn * V * (2 * e + 4 * 8),
        "message": 4 * max(1 << 24, V * c.n_embd) if ranks > 1 else 0,
    }
    always = sum(parts[k] for k in ("weights", "adam", "copy", "reference", "average"))
    update = parts["gradients"] + max(parts["activations"] + parts["logits"], parts["message"])
    return parts | {"parameters": N, "peak": always + max(update, parts["cache"] + parts["sampler"])}


# ------------------------------------------------------------------ checkpoints


class UserError(Exception):
    """Something the user can mend; its text is one line that says what and how."""


def save(state: dict, path: Path) -> None:
    """Writes to a temporary name and renames it: a file under its final name is always whole."""
    _replace(path, lambda f: torch.save(state, f))  # tensor by tensor, and not first into memory once more


def write(path: Path, content: bytes) -> None:
    """`save` for bytes; UserError where they cannot be written."""
    _replace(path, lambda f: f.write(content))


def _replace(path: Path, write_to) -> None:
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "wb") as f:
            write_to(f)
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:  # torch's writer, of a disk that is full, says the second
        temporary.unlink(missing_ok=True)
        why = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise UserError(f"{path}: cannot be written ({why}); nothing was overwritten") from error


def load(path: Path) -> dict:
    """A checkpoint of `save`; UserError for a missing, damaged or foreign file."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)  # read when it is used
    except FileNotFoundError:
        raise UserError(f"{path}: no such checkpoint") from None
    except Exception as error:  # torch raises a dozen kinds for bytes that are no checkpoint; none is hidden
        why = (str(error) or type(error).__name__).splitlines()[0][:80]
        raise UserError(f"{path}: damaged, or not a checkpoint ({why}); remove it to make it anew") from error
    if not isinstance(state, dict) or state.get("format") != "score-1":
        raise UserError(f"{path}: not a checkpoint of this program; give another file, or remove it")
    return state


def remembered(s: Settings, stage: int) -> dict:
    """The settings that a stage's weights depend on."""
    return {f.name: getattr(s, f.name) for f in dataclasses.fields(s) if str(stage) in f.metadata["stages"]}


def check_settings(state: dict, s: Settings, stage: int, path: Path) -> None:
    """UserError where a checkpoint of this run folder was made with settings other than today's."""
    for name, now in remembered(s, stage).items():
        then = state["settings"].get(name, getattr(Settings, name))  # a setting that is younger than the checkpoint
        if then != now:
            raise UserError(f"{path}: made with --{name} {then}, and you ask for {now}; give it as it was, or another --folder")


def load_policy(path) -> tuple[GPT, dict]:
    """A trained model and what its checkpoint says about it, for training and evaluation alike."""
    state = load(Path(path))
    model = GPT.empty(GPTConfig(**state["config"]))
    model.load_state_dict(state["model"])
    return model, state


def load_to_evaluate(path) -> tuple[GPT, data.Task, Settings]:
    """A checkpoint's model, in the precision of its training, on the GPU if there is one; its task; the settings it was made with."""
    policy, state = load_policy(path)
    names = {f.name for f in dataclasses.fields(Settings)}
    s = Settings(**{name: value for name, value in state["settings"].items() if name in names})
    return policy.copy(compute_dtype(s)).to(device(s)), task_of(s), s


def final_state(s: Settings, stage: int, model: GPT) -> dict:
    """The checkpoint that a finished stage leaves; `load_policy` reads it."""
    return {
        "format": "score-1",
        "stage": stage,
        "settings": remembered(s, stage) | {"task": s.task},
        "config": dataclasses.asdict(model.config),
        "model": {k: v.clone() for k, v in model.state_dict().items()},
    }


# ------------------------------------------------------------------ stage 0: a base model


def base_batch(s: Settings, task, step: int):
    """This process's share of step's dialogues: ids and turn (B, T), and the answer tokens of the whole batch."""
    rng = random.Random(f"stage 0, {s.seed}, {step}")
    rows = []
    for problem in task.problems("train", s.base_batch, rng):
        prompt, first, second = (task.encode(text) for text in (problem.prompt, *task.dialogue(problem, rng)))
        first, second = first + [task.eos], second + [task.eos]
        mask = [0] * len(prompt) + [1] * len(first) + [0] * len(task.instruction) + [2] * len(second)
        rows.append((prompt + first + task.instruction + second, mask))
    count = sum(sum(map(bool, mask)) for _, mask in rows)
    ids, turn = zip(*rows[rank() :: world()])
    return rollout.pad(ids, device=device(s)), rollout.pad(turn, device=device(s)), count


def laptop_config(s: Settings, task) -> GPTConfig:
    """The shape of the model that stage 0 makes. With q/k norm, attention stands Muon's large steps better."""
    heads, n_ff = 4, s.n_embd * 8 // 3 // 8 * 8
    return GPTConfig(
        vocab_size=task.vocab, n_layer=s.n_layer, n_embd=s.n_embd, n_head=heads, n_kv_head=heads,
        head_dim=s.n_embd // heads, n_ff=n_ff, qk_norm=True,
    )  # fmt: skip


def train_base(s: Settings, task, folder: Path) -> GPT:
    """Next-token prediction on the corpus: people's answers, right and wrong, and what they said next."""
    torch.manual_seed(s.seed)
    model = GPT(laptop_config(s, task)).to(device(s))
    # Muon for the matrices of the blocks: a third of the steps that AdamW takes to learn the arithmetic.
    matrices = [p for name, p in model.named_parameters() if name.startswith("h.") and p.ndim == 2]
    rest = [p for name, p in model.named_parameters() if not (name.startswith("h.") and p.ndim == 2)]
    muon = torch.optim.Muon(matrices, lr=s.base_lr, weight_decay=0.01)
    adamw = torch.optim.AdamW(rest, lr=s.base_lr / 5, betas=(0.9, 0.99), weight_decay=0.01)
    optimizers = {"muon": muon, "adamw": adamw}
    peaks = {"muon": s.base_lr, "adamw": s.base_lr / 5}
    average = model.copy()
    partial = Partial(s, 0, "stage0", folder)
    step = partial.resume(model, optimizers)
    right = {"right": 0.0}
    if partial.state:
        average.load_state_dict(partial.state["average"])
        right.update(partial.state["right"])

    def one_step(step):
        warm, decay = (step + 1) / 50, (1 - step / s.base_steps) / 0.6
        for name, optimizer in optimizers.items():
            optimizer.param_groups[0]["lr"] = peaks[name] * min(1.0, warm, decay)
        ids, turn, count = base_batch(s, task, step)
        loss = supervised_step(s, model, ids, turn, count)
        for optimizer in optimizers.values():
            optimizer.step()
            optimizer.zero_grad()
        blend(average, model, step, s.average)
        if (step + 1) % 50 == 0:
            right["right"] = greedy_accuracy(s, task, average, step)
        return {"loss": loss, "tokens": count, "done": right["right"] >= s.base_until, **right}

    def state(_):
        return dict(model=model.state_dict(), average=average.state_dict(), right=right)

    partial.loop(one_step, step, s.base_steps, state, optimizers)
    return average


def supervised_step(s: Settings, model: GPT, ids, turn, count: int, trained=None) -> float:
    """Leaves the gradient of the supervised loss of all processes' answers in .grad; returns the loss. trained: as in `policy_step`."""
    total = 0.0
    for i, t in zip(ids.split(s.micro_batch), turn.split(s.micro_batch)):
        loss = score.supervised_loss(model, i, t, count)
        loss.backward()
        total += loss.item()
    reduce_gradients(trained or model)
    torch.nn.utils.clip_grad_norm_((trained or model).parameters(), 1.0)
    return summed(torch.tensor(total)).item()


def greedy_accuracy(s: Settings, task, model: GPT, step: int, n: int = 512) -> float:
    """Share of n training problems that the model answers rightly at temperature 0, in one answer.

    Seeds learn the arithmetic at different speeds, and Stage I and II have nothing to show on a base
    that knows it all or nothing: so stage 0 ends at a level, not at a step.
    """
    problems = task.problems("train", n, random.Random(f"accuracy, {s.seed}, {step}"))[rank() :: world()]
    prompts = [task.ask(p.prompt) for p in problems]
    drawn = rollout.sample(model, prompts, task.instruction, task.eos, max_new=task.max_new, temperature=0.0, turns=1)
    right = torch.tensor(verify.rewards(problems, [task.decode(ids) for ids in drawn.answers(1)]))
    return summed((right * drawn.finished[:, 0].cpu()).sum()).item() / n


@torch.no_grad()
def blend(average: GPT, policy: GPT, step: int, decay: float) -> None:
    """One step of the running average of the weights; a young one forgets faster, or it would remember the start for ever."""
    if average is policy:  # --average 0
        return
    decay = min(decay, (1 + step) / (10 + step))
    for a, p in zip(average.parameters(), policy.parameters()):
        a.lerp_(p, 1 - decay)


# ------------------------------------------------------------------ Stage I and Stage II


@dataclass
class Batch:
    """One step's dialogues with their rewards; N rows, in the order problem, attempt, sibling."""

    parts: list[rollout.Rollouts]  # one, or one for each pair of attempts (rollout.sample_pairs)
    rewards: torch.Tensor  # (N, turns), as is
    finished: torch.Tensor  # whether each answer ended by EOS
    same: torch.Tensor  # (N,) whether the second answer equals the first
    online: torch.Tensor  # (N,) whether the first answer is the policy's own


def make_rollouts(s: Settings, task, policy, base, stage: int, step: int) -> Batch:
    """Draws this process's share of a step's dialogues, and judges them.

    step: which draw of this stage it is; a second round goes on counting (`steps_before`)."""
    name = f"stage {stage}, {s.seed}, {step}"
    problems = task.problems("train", s.problems, random.Random(name))
    mine = range(rank(), s.problems, world())  # each process its own problems, and its own random numbers
    generator = torch.Generator(policy.wte.weight.device).manual_seed(random.Random(f"{name}, {rank()}").getrandbits(60))
    prompts = [task.ask(problems[i].prompt) for i in mine]
    sampling = dict(eos=task.eos, max_new=task.max_new, vocab=task.vocab, temperature=s.temperature, generator=generator)
    sampling["batch"] = s.sample_batch
    # Offline first attempts: the base model's, for a share of the problems. They are part of the
    # prompt of y2, and keep wrong first answers coming when the policy's own have become rare.
    offline = [stage == 2 and i < round(s.offline * s.problems) for i in mine]
    given = [None] * (len(prompts) * s.attempts)
    if any(offline):
        asked = [p for p, off in zip(prompts, offline) if off]
        drawn = rollout.sample(base, asked, task.instruction, K=s.attempts, turns=1, **sampling)
        answers = iter([a + [task.eos] * done for a, done in zip(drawn.answers(1), drawn.finished[:, 0].tolist())])
        given = [next(answers) if off else None for off in offline for _ in range(s.attempts)]
    if s.turns > 2 and task.pairs:
        parts = rollout.sample_pairs(policy, prompts, task.instruction, turns=s.turns, K=s.attempts, given=given, **sampling)
    else:
        parts = [
            rollout.sample(policy, prompts, task.instruction, K=s.attempts, M=s.siblings, turns=s.turns, given=given, **sampling)
        ]
    each = s.attempts * s.siblings
    answers, finished = rollout.attempts(parts)
    texts = [[task.decode(ids) for ids in turn] for turn in answers]
    asked = [problems[i] for i in mine for _ in range(each)]
    judged = verify.rewards(asked * s.turns, sum(texts, []))  # one call: a program that is repeated runs once
    finished = finished.cpu()
    rewards = torch.tensor(judged).view(s.turns, -1).T * finished  # (N, turns); an answer that was cut is a failed one
    same = torch.tensor([a == b for a, b in zip(texts[0], texts[1])])
    online = ~torch.tensor(offline).repeat_interleave(each)
    return Batch(parts, rewards, finished, same, online)


def steps_before(name: str, steps: int) -> int:
    """How many steps the same stage has made in the rounds before: each round draws problems and random numbers of its own."""
    return steps * (int(name.partition("-round")[2] or 1) - 1)


def micro_batches(s: Settings, length: torch.Tensor):
    """Rows and width of each forward pass. Rows of a like length go together, and a width is a multiple of 64, so
    that long answers do not make padding of the short ones, and the GPU sees few shapes."""
    steps = -(-length.cpu() // 64)  # (N,)
    for rows in steps.argsort(stable=True).split(s.micro_batch):
        yield rows, 64 * int(steps[rows].max())


def policy_step(s: Settings, policy, base, stage: int, batch: Batch, alpha: float, beta2: float, vocab=None, trained=None) -> dict:
    """The gradient of one batch, left in .grad and summed over processes; returns what to log.

    alpha: 0 in Stage I, which knows no bonus. beta2: of the first attempt, β1 in Stage II. vocab: the ids that can be drawn.
    trained: the model whose gradients are wanted, where `policy` is its copy (`worker_of`)."""
    r, (N, turns) = batch.rewards, batch.rewards.shape
    shape = (N // (s.attempts * s.siblings), s.attempts, s.siblings)
    returns = score.stage1_returns(r, s.gamma) if stage == 1 else score.stage2_returns(r, alpha, s.gamma)
    A = score.advantages(returns, r, shape, s.baseline, alpha)
    labels = [part.turn for part in batch.parts]
    if stage == 2 and s.train_turns == 1:  # single-turn RL: the second answer is not trained at all
        labels = [turn * (turn == 1) for turn in labels]
    count = summed(torch.tensor([sum(int((turn == i + 1).any(1).sum()) for turn in labels) for i in range(turns)]))
    A_there, stats = A.to(labels[0].device), torch.zeros(turns + 3, dtype=torch.float64, device=labels[0].device)
    passes = [(*at, *x) for at in zip(batch.parts, labels) for x in micro_batches(s, at[0].length)]
    for drawn, label, rows, width in passes:
        ids, t = drawn.ids[rows, :width], label[rows, :width]
        logp, kl, entropy = score.answer_stats(policy, base, ids, t, s.temperature, vocab=vocab)
        if stage == 1 or s.anneal:  # annealing is Stage I's loss, whose β2 falls, with Stage II's returns
            loss = score.stage1_loss(logp, kl, t, A_there[rows], s.beta1, beta2, count.tolist())
        else:
            loss = score.stage2_loss(logp, kl, t, A_there[rows], s.beta1, count.tolist())
        loss.backward()
        with torch.no_grad():
            gap = (logp - drawn.logp[rows, 1:width]).abs() * (t[:, 1:] > 0)
            per_turn = [(kl * (t[:, 1:] == i + 1)).sum() for i in range(turns)]
            stats += torch.stack([*per_turn, entropy.sum(), (t > 0).sum(), gap.sum()]).double()
    reduce_gradients(trained or policy)
    return step_log(batch, A, count, summed(stats.cpu()), shape)


def step_log(batch: Batch, A, count, stats, shape) -> dict:
    """What the progress bar and the log show; means over all processes. Rewards are of the policy's
    own first attempts where there are any, since that is what it would do alone."""
    on, r = batch.online, batch.rewards
    groups = A[:, 1].view(shape[0], -1)
    tally = [
        on.sum(), (~on).sum(), r[~on, 1].sum(), (~batch.same[on]).sum(), (~batch.finished).sum(), r.numel(),
        (groups.abs().amax(1) > 0).sum(), shape[0], *r[on].sum(0),
    ]  # fmt: skip
    tally = summed(torch.tensor(tally, dtype=torch.float64)).tolist()
    online, offline, r2_off, changed, cut, answers, signal_groups, n_groups, *paid = tally
    *kl, entropy, tokens, gap = stats.tolist()
    r1, r2 = paid[0] / max(online, 1), paid[1] / max(online, 1)
    more = {f"r{i}": x / max(online, 1) for i, x in enumerate(paid[2:], 3)}
    return {"r1": r1, "r2": r2, **more, "delta": r2 - r1, "r2_offline": r2_off / offline if offline else None} | {
        **{f"kl{i}": x / max(n, 1) for i, (x, n) in enumerate(zip(kl, count.tolist()), 1)},
        "entropy": entropy / max(tokens, 1),
        "changed": changed / max(online, 1),
        "truncated": cut / answers,
        "signal": signal_groups / n_groups,
        "sampler_gap": gap / max(tokens, 1),
        "tokens": tokens,
    }


def rate(s: Settings, step: int, steps: int) -> float:
    """The learning rate as a share of its peak. Adam's first steps have no scale yet, and would shake
    first answers that nobody pays for; the last ones carry the noise of single batches."""
    return min(1.0, (step + 1) / max(s.warmup, 1), (1 - step / steps) / max(s.decay, 1e-9))


def evaluate_together(s: Settings, task, policy: GPT, turns: int, first_from=None):
    """(Metrics, dialogues) of the held-out problems, in each process; each answers its share of them."""
    problems = task.problems(s.split, s.eval_problems)
    mine, dialogues = problems[rank() :: world()], []
    if mine:
        _, dialogues = evaluate.evaluate(policy, task, mine, turns=turns, first_from=first_from, batch=s.sample_batch or 512)
    if world() > 1:
        shares = [None] * world()
        dist.all_gather_object(shares, dialogues)
        dialogues = [shares[i % world()][i // world()] for i in range(len(problems))]
    return evaluate.metrics_of(dialogues), dialogues


def held_out(s: Settings, task, average: GPT, base: GPT, step: int) -> dict:
    """For the log, every `eval_every` steps: the metrics, and Accuracy@t2 where the first answers are the base's."""
    if not s.eval_every or (step + 1) % s.eval_every:
        return {}
    average = computing(s, average)
    own, fixed = (evaluate_together(s, task, average, 2, first)[0] for first in (None, base))
    return {"held_out": dataclasses.asdict(own), "repairs_base": fixed.t2}


def train_rl(s: Settings, task, stage: int, name: str, policy: GPT, base: GPT, folder: Path) -> GPT:
    """Stage I or Stage II from `policy`, with `base` as π_ref in both. Returns the weights it leaves."""
    steps, lr = (s.stage1_steps, s.stage1_lr) if stage == 1 else (s.stage2_steps, s.stage2_lr)
    optimizer = adam(s, policy, lr)
    average = policy.copy() if s.average else policy
    base.requires_grad_(False)
    best = {"reward": float("-inf"), "model": None}
    beta2 = {"value": s.beta2}
    partial = Partial(s, stage, name, folder)
    window = []

    def state(whole_window):
        if whole_window:  # the reward of the answers that were trained on, never a held-out one, and never Δ
            reward = sum(window) / len(window)
            window.clear()
            if reward >= best["reward"] or s.keep == "last":
                best.update(reward=reward, model={k: v.to("cpu", copy=True) for k, v in average.state_dict().items()})
        return dict(model=policy.state_dict(), average=average.state_dict(), best=best, beta2=beta2, window=window)

    step = partial.resume(policy, {"adam": optimizer})
    if partial.state:
        average.load_state_dict(partial.state["average"])
        best.update(partial.state["best"])
        beta2.update(partial.state["beta2"])
        window.extend(partial.state["window"])
    worker, before = worker_of(s, policy), steps_before(name, steps)

    def one_step(step):
        began = time.perf_counter()
        batch = make_rollouts(s, task, worker, base, stage, before + step)
        sampled = time.perf_counter()
        first_beta, alpha = (beta2["value"], 0.0) if stage == 1 else (s.beta1, s.alpha)
        if s.anneal and stage == 2:
            first_beta, alpha = s.beta2 + (s.beta1 - s.beta2) * step / steps, s.alpha * step / steps
        log = policy_step(s, worker, base, stage, batch, alpha, first_beta, task.vocab, policy)
        log["grad_norm"] = torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0).item()
        optimizer.param_groups[0]["lr"] = lr * rate(s, step, steps)
        optimizer.step()
        optimizer.zero_grad()
        renew(worker, policy)
        if s.kl_target:  # a proportional controller, as old as RLHF: too far from the base, stricter
            error = log["kl1"] / s.kl_target - 1
            beta2["value"] *= 1 + 0.1 * min(max(error, -0.2), 0.2)
        log |= {"beta2": first_beta, "seconds_rollout": sampled - began, "seconds_update": time.perf_counter() - sampled}
        blend(average, policy, step, s.average)
        paid = [log[f"r{i + 1}"] for i in range(s.turns)]
        window.append(sum(paid[1:]) if stage == 1 else sum(paid[: 1 if s.train_turns == 1 else None]))
        return log | held_out(s, task, average, base, step)

    partial.loop(one_step, step, steps, state, {"adam": optimizer})
    policy.load_state_dict(best["model"])
    return policy


# ------------------------------------------------------------------ fine-tuning in place of RL


ROUNDS = {"star": 3, "pairs": 1, "rest-em": 3}  # of collecting and fine-tuning; ReST-EM's is ours


def examples(s: Settings, task, batch: Batch, rng) -> list[tuple[list[int], list[int]]]:
    """The dialogues of a batch that are to be imitated, as (ids, mask); the rest of a dialogue is data.

    star      drawn second answers that are right behind a first one that is wrong (D)
    pairs     to each first answer that is wrong, a right answer to the same problem, drawn at random (D)
    rest-em   every right answer, first or second
    keep_right adds (right, right) to either D, which makes it D⁺. The paper does not say which answers of
    a dialogue are imitated. Ours: those that are right, so in D the second alone, in a (right, right) both.
    """
    r, each, found = batch.rewards.bool().tolist(), s.attempts * s.siblings, []
    drawn = batch.parts[0]
    rows = [ids[:n] for ids, n in zip(drawn.ids.tolist(), drawn.length.tolist())]
    start, stop = drawn.start.tolist(), drawn.stop.tolist()

    def mask(row, *spans):
        return [next((i for i, (a, b) in spans if a <= at < b), 0) for at in range(len(row))]

    for n, (row, a, b) in enumerate(zip(rows, start, stop)):
        imitated = [(i + 1, (a[i], b[i])) for i in range(2) if r[n][i]]
        if s.learn == "rest-em":
            if imitated:
                found.append((row, mask(row, *imitated)))
        elif r[n][0] and not s.keep_right:
            continue
        elif s.learn == "star":
            if r[n][1]:
                found.append((row, mask(row, *imitated)))
        else:
            group = range(n - n % each, n - n % each + each)
            rights = [rows[m][start[m][i] : stop[m][i]] for m in group for i in range(2) if r[m][i] and (m, i) != (n, 0)]
            if rights:
                pair = row[: a[1]] + rng.choice(rights)
                first = imitated[:1] if r[n][0] else []
                found.append((pair, mask(pair, *first, (2, (a[1], len(pair))))))
    return found


def collect(s: Settings, task, model: GPT, base: GPT, steps: range) -> tuple[list, int]:
    """This process's examples of as many rollouts as RL draws in these steps, and how many there are in all processes."""
    drawing, found = dataclasses.replace(s, offline=0.0), []
    for step in tqdm(steps, desc="collecting", disable=rank() != 0, ncols=150, leave=False):
        batch = make_rollouts(drawing, task, model, base, 2, step)
        found += examples(s, task, batch, random.Random(f"pairs, {s.seed}, {step}, {rank()}"))
    n = [int(x) for x in summed(torch.tensor([len(found)] * world()) * torch.eye(world())[rank()]).tolist()]
    if not all(n):
        raise UserError(f"--learn {s.learn}: {s.stage2_steps} steps of rollouts hold nothing to imitate; draw more (--stage2_steps)")
    random.Random(f"order, {s.seed}, {steps.start}, {rank()}").shuffle(found)
    return found, sum(n)


def train_sft(s: Settings, task, name: str, policy: GPT, base: GPT, folder: Path) -> GPT:
    """STaR, Pair-SFT, ReST-EM: rounds of collecting with the last round's model and fine-tuning the first one.

    As many rollouts as RL in as many steps, and as many updates of as many dialogues; Pair-SFT stops
    after one epoch, as in the paper. Returns the weights it leaves.
    """
    each = -(-s.stage2_steps // ROUNDS[s.learn])  # steps a round
    size = s.problems * s.attempts * s.siblings // world()
    optimizer = adam(s, policy, s.stage2_lr)
    start = {k: v.to("cpu", copy=True) for k, v in policy.state_dict().items()}
    collector, average = computing(s, policy), policy.copy() if s.average else policy
    partial = Partial(s, 2, name, folder)
    step = partial.resume(policy, {"adam": optimizer})
    if partial.state:
        average.load_state_dict(partial.state["average"])
        collector.load_state_dict(partial.state["collector"])
    worker = worker_of(s, policy)
    rows, total = [], [0]

    def one_step(step):
        at = step % each
        if at == 0 and step > 0:  # STaR's rule: each round begins from the first weights, or errors would add up
            collector.load_state_dict(average.state_dict())
            policy.load_state_dict(start)
            average.load_state_dict(start)
            renew(worker, policy)
            getattr(optimizer, "optim", optimizer).state.clear()  # --shard has Adam inside
        if at == 0 or not rows:  # or an interruption: what was collected is not kept, but drawn again
            began, before = step - at, steps_before(name, s.stage2_steps)
            draws = range(before + began, before + min(began + each, s.stage2_steps))
            rows[:], total[0] = collect(s, task, collector, base, draws)
        steps = min(each, -(-total[0] // (size * world()))) if s.learn == "pairs" else each  # one epoch: the learning rate ends with it
        chosen = [rows[(at * size + k) % len(rows)] for k in range(size)]
        ids, turn = (rollout.pad(x, device=device(s)) for x in zip(*chosen))
        count = int(summed((turn > 0).sum().cpu()))
        optimizer.param_groups[0]["lr"] = s.stage2_lr * rate(s, at, steps)
        loss = supervised_step(s, worker, ids, turn, count, policy)
        optimizer.step()
        optimizer.zero_grad()
        renew(worker, policy)
        blend(average, policy, at, s.average)
        log = {"loss": loss, "tokens": count, "examples": total[0], "round": step // each + 1}
        log["done"] = s.learn == "pairs" and at + 1 == steps
        return log | held_out(s, task, average, base, step)

    def state(_):
        return dict(model=policy.state_dict(), average=average.state_dict(), collector=collector.state_dict())

    partial.loop(one_step, step, s.stage2_steps, state, {"adam": optimizer})
    return average


# ------------------------------------------------------------------ one loop for every stage


class Partial:
    """A stage under way: its checkpoint, its log, its progress bar.

    The checkpoint holds everything that a step depends on but the step's number, and the number.
    """

    def __init__(self, s: Settings, stage: int, name: str, folder: Path):
        self.s, self.stage, self.name = s, stage, name
        self.path, self.log = folder / f"{name}.partial.pt", folder / f"{name}.jsonl"
        self.state = None

    def resume(self, model, optimizers) -> int:
        """The step to go on from; loads the model's and the optimizers' state if there is one."""
        if not self.path.exists():
            return 0
        self.state = load(self.path)
        check_settings(self.state, self.s, self.stage, self.path)
        model.load_state_dict(self.state["model"])
        for name, optimizer in optimizers.items():
            load_optimizer(optimizer, self.state["optimizers"][name])
        say(f"{self.name}: goes on from step {self.state['step']}")
        return self.state["step"]

    def checkpoint(self, step: int, state: dict, optimizers: dict) -> None:
        """One file, the same whether and among how many processes Adam's state is shared."""
        for optimizer in optimizers.values():
            if isinstance(optimizer, ZeroRedundancyOptimizer):
                optimizer.consolidate_state_dict(to=0)  # everybody sends its share
        if rank() == 0:
            head = {"format": "score-1", "step": step, "settings": remembered(self.s, self.stage)}
            save({**head, **state, "optimizers": {k: o.state_dict() for k, o in optimizers.items()}}, self.path)

    def loop(self, one_step, first: int, last: int, state, optimizers) -> None:
        """Steps first..last-1, or to the first whose log says `done`, with a bar, a log line each, and a
        checkpoint every `save_every`; one more on Ctrl-C, which ends the program after the step under way."""
        if self.state and self.state["done"]:  # killed between its last checkpoint and its result
            return
        stopped = []
        before = signal.signal(signal.SIGINT, lambda *_: stopped.append(True))
        lines = self._cut_log(first) if rank() == 0 else None
        bar = tqdm(range(first, last), initial=first, total=last, desc=self.name, disable=rank() != 0, ncols=150)
        for step in bar:
            began = time.perf_counter()
            log = one_step(step)
            log |= {"step": step, "tokens_per_second": log["tokens"] / (time.perf_counter() - began)}
            if rank() == 0:
                lines.write(json.dumps({k: round(v, 6) if isinstance(v, float) else v for k, v in log.items()}) + "\n")
                lines.flush()
                bar.set_postfix_str(bar_text(log))
            stop = summed(torch.tensor(len(stopped))).item() > 0  # all processes stop at the same step
            done = step + 1 == last or log.get("done", False)
            due = (step + 1) % self.s.save_every == 0 or done
            if due or stop:
                self.checkpoint(step + 1, {**state(due), "done": done}, optimizers)
            if stop:
                signal.signal(signal.SIGINT, before)
                raise UserError(f"{self.name}: stopped after step {step + 1} of {last}; the same command goes on from there")
            if done:
                break
        signal.signal(signal.SIGINT, before)

    def _cut_log(self, step: int):
        """The log, opened to go on behind line `step`: lines of steps that will be done again go."""
        kept = self.log.read_text().splitlines(keepends=True)[:step] if self.log.exists() else []
        write(self.log, "".join(kept).encode())
        return open(self.log, "a")


def bar_text(log: dict) -> str:
    """The progress bar's numbers; README.md says what each means."""
    speed = log["tokens_per_second"]
    speed = f"{speed / 1e3:.0f}k" if speed >= 1e4 else f"{speed:.0f}"
    if "examples" in log:
        return f"loss {log['loss']:.3f} round {log['round']}, {log['examples']} examples {speed} tok/s"
    if "loss" in log:
        return f"loss {log['loss']:.3f} right {log['right']:.2f} {speed} tok/s"
    return (
        f"r1 {log['r1']:.2f} r2 {log['r2']:.2f} Δ {log['delta']:+.2f} KL {log['kl1']:.2f}/{log['kl2']:.2f} H {log['entropy']:.2f} "
        f"chg {log['changed']:.2f} cut {log['truncated']:.2f} sig {log['signal']:.2f} {speed} tok/s"
    )


def say(text: str) -> None:
    """Prints a line, once for all processes, above a progress bar if there is one."""
    if rank() == 0:
        tqdm.write(text)


# ------------------------------------------------------------------ the run


def plan(s: Settings) -> list[tuple[int, str]]:
    """(stage, name) of everything this run consists of, in order."""
    stages = [(0, "stage0")]
    for k in range(1, s.rounds + 1):
        suffix = "" if k == 1 else f"-round{k}"
        if s.stage >= 1 and (s.stage2_from == "stage1" or s.stage == 1):
            stages.append((1, f"stage1{suffix}"))
        if s.stage == 2:
            stages.append((2, f"stage2{suffix}"))
    return stages


def run(s: Settings) -> None:
    """Makes what the plan lists and the run folder lacks, and prints the tables."""
    torch.set_num_threads(s.threads or max(1, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", 1))))
    folder, task = Path(s.folder), task_of(s)
    folder.mkdir(parents=True, exist_ok=True)
    if rank() == 0:
        if s.folder == SMOKE["folder"]:  # a smoke run starts from nothing, every time
            for old in folder.glob("stage*"):
                shutil.rmtree(old) if old.is_dir() else old.unlink()
        write(folder / "settings.json", json.dumps(dataclasses.asdict(s), indent=1).encode())
    summed(torch.zeros(1))  # nobody looks into the folder before that is done
    stages = plan(s)
    if s.compile:
        check_compiler(s)
    if s.problems < world():
        raise UserError(f"--problems {s.problems} cannot be shared by {world()} processes; start fewer, or ask for more")
    say(f"run folder {folder}: {', '.join(name for _, name in stages)}; task {s.task}, seed {s.seed}, "
        f"{world()} process(es), {device(s)}, {torch.get_num_threads()} CPU thread(s) each")  # fmt: skip
    policy = base = None
    rows = []
    for stage, name in stages:
        policy = make_stage(s, task, stage, name, policy, base, folder)
        if stage == 0:
            base = computing(s, policy)
        elif s.model:
            export(s, policy, folder / f"{name}-hf")
        rows.append(report(s, task, folder, name, policy))
        if len(rows) > 1:
            say("\n" + evaluate.HEADER + "\n" + "\n".join(evaluate.row(*r) for r in rows) + "\n")


def make_stage(s: Settings, task, stage: int, name: str, policy, base, folder: Path) -> GPT:
    """The weights of a stage: given, found in the run folder, or made from `policy`, those of the stage before."""
    path = folder / f"{name}.pt"
    if stage == 0 and s.model:
        return hf_base(s, task)
    if stage == 0 and s.base:
        policy, state = load_policy(s.base)
        if state["settings"]["task"] != s.task:
            raise UserError(f"{s.base}: a model of the task {state['settings']['task']}, and you ask for {s.task}")
    elif path.exists():
        policy, state = load_policy(path)
        check_settings(state, s, stage, path)
        say(f"{name}: already there")
    else:
        if stage == 0:
            policy = train_base(s, task, folder)
        elif stage == 2 and s.learn != "reinforce":
            policy = train_sft(s, task, name, policy, base, folder)
        else:
            policy = train_rl(s, task, stage, name, policy, base, folder)
        if rank() == 0:
            for old in folder.glob(f"{name}.*.json"):  # of weights that were here before, and were removed
                old.unlink()
            shutil.rmtree(folder / f"{name}-hf", ignore_errors=True)
            save(final_state(s, stage, policy), path)
    if rank() == 0:
        (folder / f"{name}.partial.pt").unlink(missing_ok=True)
    return policy.to(device(s))


def task_of(s: Settings) -> data.Task:
    """The task that these settings, of today or of a checkpoint, ask for."""
    return data.real_task(s.task, s.model, s.data, s.eval_data, s.max_new) if s.model else data.TASKS[s.task]


def report(s: Settings, task, folder: Path, name: str, policy: GPT):
    """The held-out metrics of one stage, measured once and kept beside it; three dialogues as well."""
    path = folder / f"{name}.{s.split}{s.eval_problems}.json"
    kept = json.loads(path.read_text()) if path.exists() else None
    if summed(torch.tensor(int(kept is None))).item():  # at least one process has not seen it: all take part
        metrics, dialogues = evaluate_together(s, task, computing(s, policy), s.turns)
        kept = {"metrics": dataclasses.asdict(metrics), "dialogues": evaluate.pick_dialogues(dialogues)}
        if rank() == 0:
            write(path, json.dumps(kept, indent=1, ensure_ascii=False).encode())
    metrics = evaluate.Metrics(**kept["metrics"])
    say("\n" + evaluate.HEADER + "\n" + evaluate.row(name, metrics))
    for kind, d in kept["dialogues"].items():
        text = f"{d['prompt']}  {'  →  '.join(d['answers'])}"  # whole in the file
        say(f"  {kind:<10} {text if len(text) < 400 else text[:200] + ' … ' + text[-200:]}")
    return name, metrics


def main(argv=None) -> None:
    s = parse(argv)
    distributed = int(os.environ.get("WORLD_SIZE", 1)) > 1
    if distributed:
        hours = datetime.timedelta(hours=4)  # the others wait for as long as process 0 writes, and answers may be long
        dist.init_process_group("gloo" if device(s).type == "cpu" else "nccl", timeout=hours)
        if device(s).type == "cuda":
            torch.cuda.set_device(device(s))
    try:
        run(s)
    except (UserError, data.DataError, WeightsError) as error:
        sys.exit(f"train.py: {error}")
    except OSError as error:
        sys.exit(f"train.py: {error.filename or 'file'}: {error.strerror}; mend that and give the same command again")
    except KeyboardInterrupt:
        sys.exit("train.py: stopped; the same command goes on from the last checkpoint")
    finally:
        if distributed:
            dist.destroy_process_group()


if __name__ == "__main__":
    main()
