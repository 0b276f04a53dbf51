"""Speed and memory: one table, in which each figure stands beside its limit or its peer.

    python bench.py                    the laptop model, with the settings that train.py has by default
    python bench.py --quick            the same in about a minute: fewer repetitions, fewer programs
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
import io
import multiprocessing
import tempfile
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch

import data
import evaluate
import programs
import rollout
import train
from model import GPT, GPTConfig, KVCache, save_hf
from runtime import Recorder, device_of, memory, processes, use_cores

# ------------------------------------------------------------------ what is measured

QWEN = GPTConfig(
    151936, n_layer=28, n_head=12, n_kv_head=2, n_embd=1536, head_dim=128, n_ff=8960, n_ctx=2048, qkv_bias=True
)
SMALL = GPTConfig(32000, n_layer=6, n_head=8, n_kv_head=2, n_embd=512, head_dim=64, n_ff=1408, n_ctx=2048)


def workload(folder: str | None, dtype: torch.dtype | None = None):
    """Return settings, task, prompt and model. folder: of --model; "": random weights; None: the laptop model.

    All problems of a step are one and the same: speed does not depend on the words, only on their number.
    """
    s = train.Settings(device="cpu", offline=0.0)
    task = data.make_task(s.task)
    (problem,) = task.problems("val", 1)
    prompt, config = task.ask(problem.prompt), train.laptop_config(s, task)
    if folder is None:
        s.max_new = task.max_new
    else:
        s.micro_batch, s.average, config = 4, 0.0, SMALL
        s.problems, s.attempts, s.max_new, prompt = 2, 4, 64, (prompt * 128)[:128]
        if torch.cuda.is_available():
            s.device, s.dtype, config = "cuda", "bf16", QWEN
            s.problems, s.attempts, s.max_new, prompt = 8, 8, 256, (prompt * 512)[:512]
    task = dataclasses.replace(task, ask=lambda _: prompt, decode=str, stops=[-1], max_new=s.max_new)
    task.problems = lambda *_: [problem] * s.problems
    dtype = dtype or (torch.bfloat16 if s.dtype == "bf16" else torch.float32)
    if folder:
        return s, task, prompt, GPT.from_hf(folder, dtype, device=device_of(s))
    with device_of(s):  # a CPU takes a minute to draw 1.5 billion weights
        return s, task, prompt, GPT(config).copy(dtype)


def multiplied(model: GPT) -> int:
    """Return the weights that are multiplied per token: those of the blocks and of the head, not the embedding."""
    return sum(p.numel() for p in model.h.parameters()) + model.lm_head.weight.numel()


def fastest(f, repeats: int) -> float:
    """Return the seconds of the fastest of several calls: on a shared machine the others measure the neighbours."""
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        f()
        if torch.cuda.is_available():
            torch.cuda.synchronize()  # CUDA is asynchronous
        times.append(time.perf_counter() - began)
    return min(times)


def row(figure: str, value: float, unit: str, against: str = "", other: float | None = None) -> None:
    """Print a line of the table: a figure, its limit or peer, and their ratio."""
    peer = f"{against:<26}{other:>10,.4g}{value / other:>7.2f}" if other else ""
    print(f"{figure:<46}{value:>10,.4g} {unit:<13}{peer}", flush=True)


def bench_limits(device: torch.device, dtype: torch.dtype, repeats: int) -> tuple[float, float]:
    """Measure the rate of matrix products in GFLOP/s, and the bandwidth of a copy, read and written, in GB/s."""
    n, numbers = (8192, 1 << 28) if device.type == "cuda" else (2048, 1 << 25)
    a, b = torch.randn(2, n, n, device=device, dtype=dtype)
    rate = 2 * n**3 / fastest(lambda: a @ b, repeats) / 1e9
    source = torch.randn(numbers, device=device)
    target = torch.empty_like(source)
    bandwidth = 2 * 4 * numbers / fastest(lambda: target.copy_(source), repeats) / 1e9
    row(f"limit: {n} x {n} products, {str(dtype)[6:]}", rate, "GFLOP/s")
    row("limit: copy, bytes read and written", bandwidth, "GB/s")
    return rate, bandwidth


# ------------------------------------------------------------------ the sampler


@torch.no_grad()
def bench_decode(model: GPT, rows: int, filled: int, bandwidth: float, repeats: int) -> None:
    """Measure one decode step. It must read the weights and the filled cache at least once."""
    cache = KVCache.empty(model, rows, 2 * filled)
    decode = rollout._Decoder(model, cache)
    token = torch.zeros(rows, dtype=torch.long, device=cache.k.device)
    pos = torch.full((rows, 1), filled - 1, device=cache.k.device)
    decode(token, pos, filled)  # compiles, or records the CUDA graph
    seconds = fastest(lambda: [decode(token, pos, filled) for _ in range(20)], repeats) / 20
    read = cache.k.element_size() * (multiplied(model) + 2 * cache.k[:, :, :, :filled].numel())
    figure = f"decode step{', compiled' * model.compiled}: {rows} rows, {1e3 * seconds:.2f} ms"
    row(figure, read / seconds / 1e9, "GB/s", "copy bandwidth", bandwidth)


@torch.no_grad()
def rate_of_transformers(s: train.Settings, task, prompt: list[int], model: GPT) -> float:
    """Return the tokens per second of `generate`, with the same weights; turn 2 starts from a longer prompt."""
    from transformers import AutoModelForCausalLM, logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    device = device_of(s)
    with tempfile.TemporaryDirectory() as folder:
        save_hf(model, f"{folder}/model")
        theirs = AutoModelForCausalLM.from_pretrained(f"{folder}/model", dtype=model.wte.weight.dtype).eval().to(device)
    N = s.problems * s.attempts
    x, instruction = (torch.tensor(ids, device=device).expand(N, -1) for ids in (prompt, task.instruction))  # (N, T)
    lengths = dict(max_new_tokens=s.max_new, min_new_tokens=s.max_new, pad_token_id=0)

    def answer(ids):
        return theirs.generate(ids, attention_mask=torch.ones_like(ids), do_sample=True, top_k=0, top_p=1.0, **lengths)

    return 2 * s.max_new * N / fastest(lambda: answer(torch.cat([answer(x), instruction], 1)), 2)


# ------------------------------------------------------------------ training


def train_steps(s: train.Settings, folder: str | None) -> tuple[list[dict], dict]:
    """Run Stage II of train.py without checkpoints; return its log, and the sizes of the model and of a step.

    The peak is on a GPU what tensors took, and on a CPU how much the process grew. The latter never falls: call this in
    a new process. The log's seconds are right on a GPU too, since the loop reads numbers from it before the clock.
    """
    use_cores()
    Recorder.due = lambda *_: False
    _, task, prompt, model = workload(folder, torch.float32)
    whole, before = model.to("cpu"), kilobytes("VmRSS")
    silence = contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO())  # also of the bar
    with tempfile.TemporaryDirectory() as run, processes(s), silence[0], silence[1]:
        train.train_score(s, task, 2, whole, whole, Path(run))
        peak = torch.cuda.max_memory_allocated() or 1024 * (kilobytes("VmHWM") - before)
        log = evaluate.read_log(Path(run) / "stage2.jsonl")
    T = len(prompt) + len(task.instruction) + 2 * s.max_new
    sizes = dict(T=T, weights=multiplied(whole), peak=peak, estimate=memory(whole.config, s, T)["peak"])
    return log, sizes


def kilobytes(name: str) -> int:
    """Return this process's memory: VmRSS now, VmHWM at most. getrusage's maximum may be the parent's."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1])


def bench_training(s: train.Settings, folder: str | None, rate: float, peers: dict) -> None:
    """Measure sampling, update and peak memory of several training steps in a row."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        steps, sizes = pool.submit(train_steps, s, folder).result()
    N, T, how = s.attempts * s.problems, sizes["T"], ", compiled" * s.compile
    sampling, update = (min(line[f"seconds_{part}"] for line in steps[1:]) for part in ("rollout", "update"))
    if not s.checkpointing:  # which changes the update only
        row(f"sampling{how}: {N} dialogues", 2 * s.max_new * N / sampling, "tokens/s", *peers["sampling"])
        gap = max(line["sampler_gap"] for line in steps)
        row("  gap of log-probabilities to a plain pass", gap, "nats/token", "rounding of bf16, about", 1e-2)
        row(f"RL step{how}: {N} dialogues", N / (sampling + update), "dialogues/s", *peers["step"])
    # policy: forward 2 operations per weight and token, backward 4; reference: 2; checkpointing: 2 again
    operations = (8 + 2 * s.checkpointing) * sizes["weights"] * N * T
    figure = f"update{', checkpointing' * s.checkpointing}{how}: {N} x {T} tokens"
    row(figure, operations / update / 1e9, "GFLOP/s", "matrix products", rate)
    row("  peak memory of a step", sizes["peak"] / 1e9, "GB", "runtime.memory", sizes["estimate"] / 1e9)


def rate_of_trl(s: train.Settings, prompt: list[int], model: GPT) -> float:
    """Return the dialogues per second of TRL's RLOO trainer: single-turn, with one answer as long as our two."""
    from datasets import Dataset
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast
    from trl import RLOOConfig, RLOOTrainer

    warnings.simplefilter("ignore")  # deprecations inside these libraries
    words = Tokenizer(models.WordLevel({str(i): i for i in range(model.config.vocab_size)}, unk_token="0"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    N, new, stamps = s.problems * s.attempts, 2 * s.max_new, []

    def reward(completions, **_):
        stamps.append(time.perf_counter())  # once per step
        return [0.0] * len(completions)

    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(None):
        config = RLOOConfig(
            output_dir=folder, per_device_train_batch_size=N, num_generations=s.attempts, max_completion_length=new,
            max_steps=s.stage2_steps, beta=s.beta1, use_cpu=True, report_to=[], logging_strategy="no",
            save_strategy="no", gradient_checkpointing=False, bf16=False, disable_tqdm=True,
            generation_kwargs={"min_new_tokens": new, "top_k": 0},
        )  # fmt: skip
        save_hf(model, f"{folder}/model")  # the trainer reads policy and reference from a folder
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="0", eos_token="1", unk_token="0")
        tokenizer.save_pretrained(f"{folder}/model")
        rows = Dataset.from_list([{"prompt": " ".join(map(str, prompt))}] * N * s.stage2_steps)
        RLOOTrainer(f"{folder}/model", reward_funcs=reward, args=config, train_dataset=rows).train()
    return N / min(b - a for a, b in zip(stamps, stamps[1:]))


def bench_programs(count: int) -> None:
    """Measure programs per second. The peer runs each in a fork of the caller, which trusts the program."""
    program = "def similar_elements(a, b):\n    return tuple(sorted(set(a) & set(b)))"
    tests = [f"assert similar_elements((3, 4, 5, {i}), (5, 7, 4, {i + 9})) == (4, 5)" for i in (20, 40, 60)]
    source = "\n".join([program, *tests])

    def ours():
        results = programs.run_tests_batch([{"program": program, "tests": tests}] * count)
        assert all(result.passed for result in results)

    def theirs():
        process = multiprocessing.get_context("fork").Process(target=exec, args=(source, {}))
        process.start()
        process.join()
        assert process.exitcode == 0

    ours()  # starts the servers
    peer = 1 / fastest(theirs, 10)
    row("sandbox: programs with three tests", count / fastest(ours, 2), "programs/s", "fork in place", peer)


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer repetitions, about a minute")
    parser.add_argument("--model", nargs="?", const="", metavar="FOLDER", help="a larger model, by default random")
    parser.add_argument("--compile", action="store_true", help="also with torch.compile")
    args = parser.parse_args()
    use_cores()
    s, task, prompt, model = workload(args.model)
    repeats = 2 if args.quick else 5
    s.stage2_steps = 1 + repeats  # the first step compiles, and makes the optimizer's state
    print(torch.cuda.get_device_name() if s.device == "cuda" else f"CPU, {torch.get_num_threads()} thread(s)")
    print(f"{'figure':<46}{'measured':>10} {'unit':<13}{'limit or peer':<26}{'its figure':>10}{'ratio':>7}")
    rate, bandwidth = bench_limits(device_of(s), model.wte.weight.dtype, repeats)
    peers = {"sampling": (), "step": ()}
    for one in (model, model.copy().compile_blocks()) if args.compile else (model,):
        for rows in (1, s.problems * s.attempts):
            bench_decode(one, rows, len(prompt) + s.max_new, bandwidth, repeats)
    if importlib.util.find_spec("transformers"):
        peers["sampling"] = "transformers generate", rate_of_transformers(s, task, prompt, model)
    if importlib.util.find_spec("trl") and args.model is None:
        peers["step"] = "TRL's RLOO, single-turn", rate_of_trl(s, prompt, model)
    del model, one
    torch.cuda.empty_cache()  # for the processes that train
    for s.compile in (False, True) if args.compile else (False,):
        for s.checkpointing in (False, True):
            bench_training(s, args.model, rate, peers)
    if args.model is None:
        bench_programs(40 if args.quick else 400)


if __name__ == "__main__":
    main()
