"""What a run needs besides the method: processes, shards, memory, checkpoints, logs, signals.

In float32 every process holds the whole model, and the gradients are summed in one all-reduce. With --dtype bf16 the
float32 weights are sharded over the processes (FSDP2), computation is in bf16, and gradients are reduced in float32.
Only rank 0 reads or writes files: checkpoints are whole state dicts, which any number of processes can resume.
`s` is train.Settings throughout.
"""

import contextlib
import dataclasses
import datetime
import gc
import hashlib
import json
import math
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from tqdm import tqdm

import score
from model import GPT, GPTConfig, UserError, load_checkpoint, save_checkpoint, write_file

try:
    import fcntl  # locks the run folder
except ImportError:  # Windows has none: there, two runs in one folder are not detected
    fcntl = None

# ------------------------------------------------------------------ processes


def rank() -> int:
    """Return the index of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Return the number of processes."""
    return int(os.environ.get("WORLD_SIZE", 1))


def device_of(s) -> torch.device:
    """Return the device of this process: one GPU per process, or the CPU."""
    if s.device == "mps":
        return torch.device("mps")
    if s.device == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))


def all_sum(numbers: dict) -> dict:
    """Sum each number over all processes, in one all-reduce."""
    if world_size() == 1:
        return {name: float(value) for name, value in numbers.items()}
    x = torch.tensor([float(value) for value in numbers.values()], dtype=torch.float64)
    x = x.to("cuda") if dist.get_backend() == "nccl" else x  # NCCL only has GPU tensors
    dist.all_reduce(x)
    return dict(zip(numbers, x.tolist()))


def from_rank0(value):
    """Return rank 0's value on every rank."""
    if world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def say(text: str) -> None:
    """Print a line on rank 0, above the progress bar if there is one."""
    if rank() == 0:
        tqdm.write(text)


@contextlib.contextmanager
def processes(s):
    """Initialize and destroy the process group; FSDP2 needs one for a single process, too."""
    device = device_of(s)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "nccl" if device.type == "cuda" else "gloo"
    # The other ranks wait for as long as rank 0 writes a checkpoint, and rollouts may take different times.
    timeout = datetime.timedelta(hours=4)
    if world_size() > 1:
        dist.init_process_group(backend, timeout=timeout)
    elif s.dtype == "bf16":
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    yield
    if dist.is_initialized():
        gc.collect()  # sharded modules that outlive their process group can abort the program at exit
        dist.barrier()
        dist.destroy_process_group()


def use_cores() -> None:
    """Set the number of CPU threads per process: OMP_NUM_THREADS, or the cores that this process may use, shared."""
    if "OMP_NUM_THREADS" not in os.environ:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        torch.set_num_threads(max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", 1))))


def check_compiler(device) -> None:
    """Raise UserError if torch.compile finds no compiler here, before anything is trained."""
    try:
        torch.compile(lambda x: x.exp() + 1)(torch.zeros(8, device=device))
    except RuntimeError as error:
        raise UserError(f"--compile: {str(error).splitlines()[0]}; install a compiler, or leave --compile out") from error


def check_ranks_agree(s) -> None:
    """Raise UserError on every rank if the ranks were started with different settings, or with different problems."""
    if world_size() == 1:
        return
    mine = dataclasses.asdict(s) | {"folder": ""}  # each machine may have its own
    for name in FILES:
        if mine[name]:  # all ranks read the problems, only rank 0 reads weights
            mine[name] = f"content {fingerprint(mine[name])}" if name in ("data", "eval_data") else "given"
    shares = [None] * world_size()
    dist.all_gather_object(shares, mine)
    for name in shares[0]:
        values = {str(share[name]) for share in shares}
        if len(values) > 1:
            raise UserError(f"the processes were started with different --{name}: {', '.join(sorted(values))}; give all the same")


# ------------------------------------------------------------------ models on many processes


def distribute(s, whole: GPT | None) -> GPT:
    """Return rank 0's model on every rank's device: replicated in float32, sharded with --dtype bf16.

    whole: a float32 model on the CPU of rank 0; None on the other ranks.
    """
    config = from_rank0(whole and whole.config)
    with torch.device("meta"):  # shapes only
        model = GPT(config)
    model.checkpointing = s.checkpointing
    if s.compile:
        model.compile_blocks()
    if s.dtype == "bf16":
        shard(model)
    model.to_empty(device=device_of(s))
    model.tie_head_and_build_rope()  # to_empty untied the head, and left the RoPE tables empty
    load_whole(model, whole.state_dict() if whole else {})
    return model


def shard(model: GPT) -> None:
    """Shard the weights over all processes (FSDP2): float32 shards, bf16 compute, float32 gradients.

    Adam's steps are smaller than bf16's precision, so the weights that are trained stay float32. Gradients are summed, not
    averaged: the loss is already divided by the global number of answers.
    """
    # cast_forward_inputs would round the float32 RoPE tables to bf16
    precision = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False)
    for module in (*model.h, model):
        fully_shard(module, mp_policy=precision)
        module.set_gradient_divide_factor(1.0)
        module.set_force_sum_reduction_for_comms(True)  # gloo has no pre-multiplied sum
    register_fsdp_forward_method(model, "hidden")


@contextlib.contextmanager
def unsharded(model: GPT):
    """Give the model for sampling: itself, or (FSDP2) a plain GPT over the gathered bf16 weights.

    Every process must enter, since gathering is collective. Inside, processes may make different numbers of passes.
    """
    if not isinstance(model, FSDPModule):
        yield model
        return
    wrapped = [module for module in model.modules() if isinstance(module, FSDPModule)]
    for module in wrapped:
        module.unshard()
    plain = GPT.with_weights(model.config, dict(model.named_parameters(remove_duplicate=False)))
    yield plain.compile_blocks() if model.compiled else plain
    for module in wrapped:
        module.reshard()


def whole_weights(model: GPT) -> dict:
    """Return the full float32 weights on the CPU of rank 0, an empty dict on the others. A collective operation."""
    weights = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    return {name: x.clone() for name, x in weights.items()} if rank() == 0 else {}


def whole_optimizer(model: GPT, optimizer) -> dict:
    """Return the optimizer's full state on the CPU of rank 0. A collective operation."""
    return get_optimizer_state_dict(model, optimizer, options=StateDictOptions(full_state_dict=True, cpu_offload=True))


def load_whole(model: GPT, weights: dict, optimizer=None, state: dict | None = None) -> None:
    """Load rank 0's full weights, and its optimizer's state, into every rank's model. A collective operation."""
    options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=world_size() > 1)
    set_model_state_dict(model, weights, options=options)
    if optimizer is not None:
        set_optimizer_state_dict(model, optimizer, state, options=options)


def sum_gradients(model: GPT) -> None:
    """Sum every gradient over all processes. FSDP2 has already done it in the backward pass.

    A sum, not a mean as in torch's DDP: each loss is divided by the *global* number of answers, so that neither the number
    of processes nor an uneven split of the tokens changes the gradient.
    """
    if world_size() == 1 or isinstance(model, FSDPModule):
        return
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    flat = torch.cat([g.reshape(-1) for g in grads])
    dist.all_reduce(flat)
    for g, summed in zip(grads, flat.split([g.numel() for g in grads])):
        g.copy_(summed.view_as(g))


def clip_gradient(model: GPT, largest: float = 1.0) -> float:
    """Scale the gradient to at most this norm; return the norm before."""
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), largest)
    return (norm.full_tensor() if isinstance(norm, DTensor) else norm).item()


@torch.no_grad()
def update_average(average: GPT, policy: GPT, step: int, decay: float) -> None:
    """Update the moving average (EMA) of the weights; with warm-up, so that the initial weights do not dominate early."""
    if average is policy:  # --average 0
        return
    decay = min(decay, (1 + step) / (10 + step))
    for a, p in zip(average.parameters(), policy.parameters()):
        a, p = (x.to_local() if isinstance(x, DTensor) else x for x in (a, p))
        a.lerp_(p, 1 - decay)


def memory(c: GPTConfig, s, tokens: int, ranks: int = 1) -> dict[str, int]:
    """Estimate the bytes of RL training per rank, by category, and their peak.

    tokens: of the longest dialogue, prompt and both answers. N weights; with bf16 everything float32 is sharded:

        weights, gradients 4N each, Adam 8N, reference 4N, average 4N (0 with --average 0); with bf16 divided by ranks
        gathered     2N: the bf16 weights while sampling (bf16); during an update two blocks, embedding and head
        activations  bytes · micro_batch · tokens · n_layer · a, with a the numbers per token that a block keeps;
                     with --checkpointing n_embd per block, and a for the block that is recomputed
        logits       eight float32 tensors (chunk, V), most of them in the backward pass (score.logit_chunk)
        cache        keys and values of all dialogues that are sampled together, and again for a compacted copy
        sampler      logits of each dialogue's next token, and what the sampler computes from them

    Sampling and updating alternate: the peak has gathered weights, cache and sampler, or gradients, activations and logits.
    Not included: the allocator's fragmentation, and CUDA's own half gigabyte.
    """
    bf16 = s.dtype == "bf16"
    e, shards = (2, ranks) if bf16 else (4, 1)
    Q, KV, V = c.n_head * c.head_dim, c.n_kv_head * c.head_dim, c.vocab_size
    block = c.n_embd * (2 * Q + 2 * KV + 3 * c.n_ff + 2) + (Q + 2 * KV) * c.qkv_bias + 2 * c.head_dim * c.qk_norm
    outside = V * c.n_embd * (1 if c.tied_head else 2) + c.n_embd
    N = outside + c.n_layer * block
    # per token and block: input, quotient and output of both norms; q, k, v before and after RoPE; attention's output; gate,
    # up, silu, product
    a = 6 * c.n_embd + 2 * (Q + KV) + KV + Q + 2 * (Q + KV) * c.qk_norm + 4 * c.n_ff
    kept = c.n_layer * c.n_embd + a if s.checkpointing else c.n_layer * a
    width = 64 * -(-tokens // 64)
    dialogues = s.problems * s.attempts * s.siblings // ranks
    sampled, rows = min(s.sample_batch or dialogues, dialogues), min(s.micro_batch, dialogues)
    parts = {
        "weights": 4 * N // shards,
        "gradients": 4 * N // shards,
        "adam": 8 * N // shards,
        "reference": 4 * N // shards,
        "average": 4 * N // shards if s.average else 0,
        "gathered": 2 * N if bf16 else 0,
        "activations": e * rows * width * kept,
        "logits": 8 * 4 * V * min(score.logit_chunk(V), rows * 2 * s.max_new),
        "cache": e * sampled * tokens * 2 * KV * c.n_layer * 7 // 4,
        "sampler": sampled * V * (2 * e + 4 * 8),
    }
    always = sum(parts[name] for name in ("weights", "adam", "reference", "average"))
    always += 2 * outside * bf16  # the reference's embedding and head stay gathered after its forward pass
    gathered = 2 * (outside + 4 * block) + 4 * outside if bf16 else 0  # the policy's, two blocks of each, and a gradient
    update = parts["gradients"] + gathered + parts["activations"] + parts["logits"]
    if ranks > 1 and not bf16:
        update = max(update, 8 * N)  # the flat copy of the gradients
    sampling = parts["gathered"] + parts["cache"] + parts["sampler"]
    return parts | {"parameters": N, "peak": always + max(update, sampling)}


# ------------------------------------------------------------------ checkpoint, log and progress bar of a stage


class Stopped(UserError):
    """A signal asked the run to stop; its checkpoint is written."""


class Recorder:
    """Checkpoint, log and progress bar of one stage. Only rank 0 reads and writes the run folder.

    A checkpoint holds everything that a step depends on, except its random numbers, which come from the step's number.
    """

    MINUTES = 10  # between checkpoints, at most
    signals = 0  # received so far, by this process
    stepping = False  # whether this process is in a training loop

    def __init__(self, s, stage: int, folder: Path, steps: int):
        self.s, self.stage, self.name, self.steps = s, stage, f"stage{stage}", steps
        self.path, self.log_path = folder / f"{self.name}.partial.pt", folder / f"{self.name}.jsonl"
        self.previous = folder / f"{self.name}.partial.previous.pt"
        self.state = self._read() if rank() == 0 else None
        self.first = self.resume("step", 0)
        self.saved, self.skipped, self.lines = time.monotonic(), 0, None
        if self.first:
            say(f"{self.name}: resumes from step {self.first} of {steps}")

    def _read(self) -> dict | None:
        """Return the last checkpoint, or the one before it if the last is missing or damaged."""
        for path in (self.path, self.previous):
            try:
                state = load_checkpoint(path) if path.exists() else None
            except UserError as error:
                if path == self.previous or not self.previous.exists():
                    raise
                say(f"{error}. Resuming from the checkpoint before it.")
                continue
            if state is not None:
                check_settings(state, self.s, self.stage, path)
                return state
        return None

    def resume(self, name: str, default):
        """Return a small value of the checkpoint on every rank; the default if there is no checkpoint."""
        return from_rank0(self.state[name] if self.state else default)

    def resume_model(self, name: str, model: GPT, optimizer=None) -> None:
        """Load a model's weights, and its optimizer's state, if there is a checkpoint."""
        if self.first:
            state = self.state or {}  # ranks other than 0 receive theirs
            load_whole(model, state.get(name, {}), optimizer, state.get("adam", {}))

    def range(self):
        """Iterate over the steps to do, with a progress bar on a terminal."""
        if rank() == 0:
            lines = self.log_path.read_text(encoding="utf-8").splitlines(keepends=True) if self.log_path.exists() else []
            write_file(self.log_path, "".join(lines[: self.first]).encode())  # without the steps that will be done again
            self.lines = open(self.log_path, "a", encoding="utf-8")
        self.began, Recorder.stepping = time.perf_counter(), True
        self.bar = tqdm(
            range(self.first, self.steps), self.name, self.steps, initial=self.first, dynamic_ncols=True,
            bar_format="{desc} {n_fmt}/{total_fmt}, {remaining} left{postfix}", disable=rank() != 0 or not sys.stderr.isatty(),
        )  # fmt: skip
        return self.bar

    def log(self, step: int, line: dict) -> None:
        """Write one line to the log, as strict JSON, and show it: in the bar, or now and then as a line without a terminal."""
        now = time.perf_counter()
        line |= {"step": step, "tokens_per_second": line["tokens"] / (now - self.began)}
        self.began = now
        if rank() != 0:
            return
        line = {name: jsonable(value) for name, value in line.items()}
        self.lines.write(json.dumps(line, allow_nan=False) + "\n")
        self.lines.flush()
        if not self.bar.disable:
            self.bar.set_postfix_str(bar_text(line, shutil.get_terminal_size().columns - 32))
        elif (step + 1) % max(1, self.steps // 20) == 0:
            print(f"{self.name} {step + 1}/{self.steps}, {bar_text(line, 100)}", flush=True)

    def is_finite(self, step: int, norm: float) -> bool:
        """Return whether a step's gradient is finite and may be used. Ten in a row that are not end the run."""
        self.skipped = 0 if math.isfinite(norm) else self.skipped + 1
        if self.skipped:
            say(f"{self.name}: step {step} is skipped, its gradient is not finite")
        if self.skipped == 10:
            raise UserError(f"{self.name}: the gradients of ten steps, to step {step}, were not finite; the last checkpoint is "
                            f"good. Give a lower learning rate and another --folder")  # fmt: skip
        return not self.skipped

    def window_ends(self, step: int) -> bool:
        """Return whether a window of `save_every` steps ends with this step."""
        return (step + 1) % self.s.save_every == 0 or step + 1 == self.steps

    def due(self, step: int, done: bool = False) -> bool:
        """Return whether to save after this step: at a window's end, after ten minutes, on a signal. All ranks agree."""
        late = rank() == 0 and time.monotonic() - self.saved > 60 * self.MINUTES
        asked = all_sum({"signals": Recorder.signals, "late": late})
        self.stopping = asked["signals"] > 0
        return self.window_ends(step) or done or self.stopping or asked["late"] > 0

    def save(self, step: int, state: dict, done: bool = False) -> None:
        """Write a checkpoint and keep the one before it. Raises Stopped if a signal asked for it."""
        done = done or step + 1 == self.steps
        if rank() == 0:
            head = {"stage": self.stage, "settings": remembered(self.s, self.stage), "step": step + 1, "done": done}
            if self.path.exists():
                os.replace(self.path, self.previous)
            save_checkpoint(head | state, self.path)
        self.saved = time.monotonic()
        if self.stopping and not done:
            from_rank0(None)  # the others wait for the file: torchrun kills all processes soon after one has ended
            self.close()
            raise Stopped(f"{self.name}: stopped after step {step + 1} of {self.steps}; the same command resumes from there")

    def close(self) -> None:
        """Close the bar and the log."""
        Recorder.stepping = False
        if self.lines is not None:
            self.bar.close()
            self.lines.close()


def jsonable(value):
    """Round a float for the log; a number that is not finite becomes null, since JSON has no NaN."""
    if not isinstance(value, float):
        return value
    return round(value, 6) if math.isfinite(value) else None


def bar_text(line: dict, width: int) -> str:
    """Format a log line for the progress bar, the most important numbers first, as many as fit."""

    def number(name, form):
        return "-" if line[name] is None else format(line[name], form)

    if "loss" in line:  # supervised
        words = [f"loss {number('loss', '.3f')}"]
        words += [f"right {line['right']:.2f}"] if "right" in line else []
    else:
        words = [f"r1 {number('r1', '.2f')} r2 {number('r2', '.2f')}", f"Δ {number('delta', '+.2f')}"]
        words += [f"KL {number('kl1', '.2f')}/{number('kl2', '.2f')}", f"chg {number('changed', '.2f')}"]
        words += [f"cut {number('truncated', '.2f')}", f"H {number('entropy', '.2f')}", f"sig {number('signal', '.2f')}"]
    words.append(f"{line['tokens_per_second']:.0f} tok/s")
    text = words[0]
    for word in words[1:]:
        if len(text) + 1 + len(word) <= width:
            text += " " + word
    return text


def listen_for_signals() -> None:
    """Let Ctrl-C, SIGTERM and SIGHUP end the run after the current training step, with a checkpoint.

    A second Ctrl-C ends it at once. So does the first signal outside the training loop, while the run loads or evaluates:
    nothing would be lost.
    """

    def handle(number, frame):
        first, Recorder.signals = Recorder.signals == 0, Recorder.signals + 1
        if not first and number != signal.SIGINT:
            return  # Slurm signals torchrun and its workers, and torchrun then signals the workers again
        if not first or not Recorder.stepping:
            raise KeyboardInterrupt
        with contextlib.suppress(OSError):  # after SIGHUP the terminal is gone
            os.write(2, b"\nstopping after this step, with a checkpoint; press Ctrl-C again to stop at once\n" * (rank() == 0))

    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number is not None and signal.getsignal(number) != signal.SIG_IGN:  # nohup ignores SIGHUP
            signal.signal(number, handle)


# ------------------------------------------------------------------ which settings made a checkpoint


def fingerprint(path: str) -> str:
    """Identify a file or a folder by its content: names of a folder's files, sizes, and a hash of samples."""
    root, found = Path(path), hashlib.sha256()
    files = [root]
    if root.is_dir():
        files = sorted(p for p in root.iterdir() if p.suffix in (".json", ".safetensors", ".txt", ".jinja", ".model"))
    for file in files:
        size = file.stat().st_size
        found.update(f"{file.name if root.is_dir() else ''} {size}\n".encode())
        with open(file, "rb") as f:
            for at in range(0, size, max(1 << 16, size // 16)):  # the header and samples
                f.seek(at)
                found.update(f.read(1 << 16))
    return found.hexdigest()[:16]


FILES = ("base", "start", "model", "data", "eval_data")  # settings that are paths


def remembered(s, stage: int) -> dict:
    """Return the settings that a stage's weights depend on; files with their fingerprints, since paths may change."""
    found = {f.name: getattr(s, f.name) for f in dataclasses.fields(s) if str(stage) in f.metadata["stages"]}
    prints = {name: fingerprint(found[name]) for name in FILES if found.get(name)}
    return found | {"fingerprints": prints}


def check_settings(state: dict, s, stage: int, path: Path) -> None:
    """Raise UserError if a checkpoint of this run folder was made with other settings, or from other files."""
    then, now = state["settings"], remembered(s, stage)
    for name, value in now.items():
        if name in FILES:
            if then.get("fingerprints", {}).get(name) != now["fingerprints"].get(name):
                raise UserError(f"{path}: made with --{name} {then.get(name) or '(none)'}, and {value or 'none'} has different content; "
                                f"give the same file, or another --folder")  # fmt: skip
        elif name != "fingerprints" and then.get(name, value) != value:
            raise UserError(f"{path}: made with --{name} {then[name]}, and now it is {value}; give the old value, or another --folder")


@contextlib.contextmanager
def lock(folder: Path):
    """Hold the run folder's lock, which the system releases when the process ends. UserError if another run holds it."""
    with open(folder / "lock", "wb") as f:
        if fcntl is not None:
            try:
                fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(f"{folder}: another run writes here; wait for it, or give another --folder") from None
        yield
