"""Speed, side by side in one run: against what the machine can do, and against peers where installed.

    python bench.py                the laptop model and batch of train.py's defaults
    python bench.py --threads 1
    python bench.py --model FOLDER
    python bench.py --model        at size, on the GPU if there is one: decoding against the memory's bandwidth, two turns against
                                   `transformers`, the update against matrix products, peak memory against train.memory, all with
                                   torch.compile and without; no folder: random weights of Qwen2.5-1.5B's shape, on a CPU a smaller one

Ratios, not seconds, are what travels between machines. The limits are measured here as well: the
matrix-product rate on the shapes of this model and on large squares, and the copy bandwidth.
`transformers` and `trl` are optional; a line says so where they are absent.
"""

import argparse
import copy
import dataclasses
import multiprocessing
import os
import random
import resource
import tempfile
import time
import warnings
from pathlib import Path

import torch

import data
import rollout
import train
import verify
from model import GPT, GPTConfig, KVCache, save_hf


def wait():
    """Until a GPU has done what it was asked for."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def best_of(f, seconds=3.0, at_least=3):
    """The fastest of repeated calls, in seconds: on a shared machine the others measure the neighbours."""
    times, began = [], time.perf_counter()
    while len(times) < at_least or time.perf_counter() - began < seconds:
        wait()
        t = time.perf_counter()
        f()
        wait()
        times.append(time.perf_counter() - t)
    return min(times)


def gflops(m, k, n, **where):
    """Measured rate of an (m, k) x (k, n) product."""
    a, b = torch.randn(m, k, **where), torch.randn(n, k, **where)
    return 2 * m * k * n / best_of(lambda: torch.nn.functional.linear(a, b), 1.0) / 1e9


def parameters(model):
    """Weights that multiply: all matrices; the tied embedding once, as the head."""
    return sum(p.numel() for p in model.parameters() if p.ndim == 2)


def laptop_model(task):
    """The model of train.py's defaults, untrained."""
    torch.manual_seed(0)
    return GPT(train.laptop_config(train.Settings(), task))


def in_transformers(model, folder, **how):
    """The same weights as `transformers` loads them from a folder."""
    from transformers import AutoModelForCausalLM

    save_hf(model, folder)
    return AutoModelForCausalLM.from_pretrained(folder, **how).eval()


def transformers_two_turns(theirs, prompts, task, K, max_new, **more):
    """Both turns with `generate`, as a trainer built on it does: turn 2 starts from a longer prompt."""
    ids = torch.tensor(prompts, device=theirs.device).repeat_interleave(K, 0)
    how = dict(do_sample=True, temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=max_new, min_new_tokens=max_new, pad_token_id=0) | more
    with torch.no_grad():
        first = theirs.generate(ids, attention_mask=torch.ones_like(ids), **how)
        second = torch.cat([first, torch.tensor(task.instruction, device=ids.device).expand(len(first), -1)], dim=1)
        return theirs.generate(second, attention_mask=torch.ones_like(second), **how)


def bench_rollouts(s, task, model, rate):
    """Tokens a second of both turns, no answer ending early, so that everybody makes the same tokens."""
    prompts = [task.ask(p.prompt) for p in task.problems("train", 4 * s.problems, random.Random(0))]
    width = max(set(map(len, prompts)), key=[len(p) for p in prompts].count)
    prompts = [p for p in prompts if len(p) == width]
    prompts = (prompts * 9)[: s.problems]
    N, new = s.problems * s.attempts, task.max_new
    generator = torch.Generator().manual_seed(0)

    def ours():
        rollout.sample(model, prompts, task.instruction, -1, K=s.attempts, max_new=new, generator=generator)

    seconds = best_of(ours)
    tokens, flops = 2 * N * new, 2 * parameters(model) * (N * (2 * new + len(task.instruction)) + s.problems * width)
    print(f"rollout: {N} dialogues, 2 answers of {new} tokens: {seconds:.3f} s, {tokens / seconds / 1e3:.1f}k tokens/s, "
          f"{flops / seconds / 1e9:.0f} GFLOP/s = {100 * flops / seconds / 1e9 / rate:.0f} % of the matrix-product rate")  # fmt: skip
    try:
        with tempfile.TemporaryDirectory() as folder:
            peer = in_transformers(model, f"{folder}/model")
    except ImportError:
        print("  transformers is not installed: not compared")
        return
    ids = torch.tensor(prompts)
    with torch.no_grad():
        gap = (peer(ids).logits - model(ids)).abs().max().item()
    theirs = best_of(lambda: transformers_two_turns(peer, prompts, task, s.attempts, new))
    print(f"  transformers generate, same weights (logits differ by {gap:.1e}), batch and lengths: {theirs:.3f} s; "
          f"ours is {theirs / seconds:.1f} times as fast")  # fmt: skip


def bench_step(s, task, model, rate):
    """One whole RL step of Stage II, split; the update against the matrix-product rate."""
    base = copy.deepcopy(model).requires_grad_(False)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.0)
    batch = train.make_rollouts(s, task, model, base, 2, 0)  # an untrained model rarely stops: full lengths
    tokens = int(batch.parts[0].length.sum())

    def update():
        train.policy_step(s, model, base, 2, batch, s.alpha, s.beta1)
        optimizer.step()
        optimizer.zero_grad()

    rolling = best_of(lambda: train.make_rollouts(s, task, model, base, 2, 0))
    texts = [task.decode(ids) for i in (1, 2) for ids in batch.parts[0].answers(i)]
    problem = task.problems("train", 1, random.Random(0))[0]
    judging = best_of(lambda: [verify.reward(problem, t) for t in texts], 1.0)
    updating = best_of(update)
    # forward and backward of the policy are 6 operations a weight and token, the reference's forward 2
    flops = 8 * parameters(model) * tokens
    whole = rolling + updating
    print(f"one RL step, {len(batch.rewards)} dialogues, {tokens} tokens: {whole:.3f} s = rollout {rolling - judging:.3f} + "
          f"verification {judging:.3f} + update {updating:.3f}; the update runs at {flops / updating / 1e9:.0f} GFLOP/s = "
          f"{100 * flops / updating / 1e9 / rate:.0f} % of the matrix-product rate")  # fmt: skip
    return whole, tokens, len(batch.rewards)


def bench_trl(s, task, model, ours, tokens, N):
    """A step of TRL's RLOO trainer with as many rollouts and tokens: single-turn, answers twice as long."""
    try:
        from datasets import Dataset
        from transformers import PreTrainedTokenizerFast
        from tokenizers import Tokenizer, models, pre_tokenizers
        from trl import RLOOConfig, RLOOTrainer
    except ImportError as error:
        print(f"  trl is not installed ({error.name}): not compared")
        return
    words = {f"w{i}": i for i in range(model.config.vocab_size)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="w0", eos_token="w1", unk_token="w0")
    problems = task.problems("train", s.problems, random.Random(0))
    rows = [{"prompt": " ".join(f"w{i}" for i in task.ask(p.prompt))} for p in problems]
    steps, stamps = 4, []
    new = (tokens - sum(len(task.ask(p.prompt)) for p in problems) * s.attempts) // N  # both turns' tokens in one

    def reward(completions, **_):
        stamps.append(time.perf_counter())
        return [float(len(c) % 2) for c in completions]

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = RLOOConfig(
            output_dir=folder, per_device_train_batch_size=N, num_generations=s.attempts, max_completion_length=new,
            max_steps=steps, beta=s.beta1, use_cpu=True, report_to=[], logging_strategy="no", save_strategy="no",
            temperature=s.temperature, gradient_checkpointing=False, bf16=False, disable_tqdm=True,
            generation_kwargs={"min_new_tokens": new, "top_k": 0},
        )  # fmt: skip
        save_hf(model, f"{folder}/model")  # the trainer reads policy and reference from a folder
        fast.save_pretrained(f"{folder}/model")
        RLOOTrainer(f"{folder}/model", reward_funcs=reward, args=config, train_dataset=Dataset.from_list(rows * (steps + 1)), processing_class=fast).train()
    theirs = min(b - a for a, b in zip(stamps, stamps[1:]))
    print(f"  TRL's RLOO trainer, {N} rollouts of {new} tokens a step: {theirs:.3f} s; ours is {theirs / ours:.1f} times as fast")


# ------------------------------------------------------------------ at size
#
# No GPU was at hand when this was written: on a CPU all of it has run, but not the recording of graphs
# (rollout._Decoder), which the first check is about.


def qwen_shape() -> GPTConfig:
    """Qwen2.5-1.5B."""
    return GPTConfig(
        151936, n_layer=28, n_head=12, n_kv_head=2, n_embd=1536, head_dim=128, n_ff=8960, n_ctx=4096, rope_theta=1e6, qkv_bias=True
    )  # fmt: skip


def random_model(config: GPTConfig, device, dtype) -> GPT:
    """Made where it is needed, since a CPU takes a minute for so many weights."""
    model = GPT.empty(config, dtype, device)
    generator = torch.Generator(device).manual_seed(0)
    for name, p in model.named_parameters():
        p.data.fill_(1.0) if p.ndim == 1 and "ln" in name else p.data.normal_(std=0.02, generator=generator)
    return model


@torch.no_grad()
def check_decoding(model, device, how) -> None:
    """The sampler's log-probabilities against the plain pass over the whole dialogue, which knows no cache and no graph."""
    generator = torch.Generator(device).manual_seed(1)
    prompts = [torch.randint(0, 200, (n,)).tolist() for n in (5, 40, 17)]
    gaps = []
    for rows in (1, 3):
        r = rollout.sample(model, prompts[:rows], [1, 2, 3], 0, K=4, max_new=300, generator=generator)
        for n in range(len(r.ids)):
            ids = r.ids[n : n + 1, : r.length[n]]
            logp = torch.log_softmax(model(ids).float(), -1)[0, :-1].gather(-1, ids[0, 1:, None])[:, 0]
            gaps.append((logp - r.logp[n, 1 : r.length[n]]).abs()[r.turn[n, 1 : r.length[n]] > 0].mean().item())
    print(f"check{how}: log-probabilities of the sampler and of the plain pass differ by {max(gaps):.1e} nats a token; rounding of bf16 is some 1e-2")


@torch.no_grad()
def bench_decode(model, device, bandwidth, batches, filled, how) -> None:
    """A decode step at several batches: the weights and the filled cache, read once, over the measured copy bandwidth."""
    c = model.config
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    weights -= 0 if c.tied_head else model.wte.weight.numel() * model.wte.weight.element_size()  # one row a token is read
    for n in batches:
        cache = KVCache.empty(model, n, 2 * filled)
        decode = rollout._Decoder(model, cache)
        token, pos = torch.zeros(n, dtype=torch.long, device=device), torch.full((n, 1), filled - 1, device=device)
        decode(token, pos, filled)
        seconds = best_of(lambda: [decode(token, pos, filled) for _ in range(20)], 1.0) / 20
        read = weights + cache.k[:, :, :, :filled].numel() * 2 * cache.k.element_size()
        print(f"decode{how}, batch {n}, {filled} slots filled: {seconds * 1e3:.2f} ms, {n / seconds:.0f} tokens/s, "
              f"{read / seconds / 1e9:.0f} GB/s = {100 * read / seconds / 1e9 / bandwidth:.0f} % of the copy bandwidth")  # fmt: skip


def bench_generate(models, device, problems, K, width, new) -> None:
    """Both turns of K attempts a problem, with each of `models`, against `transformers` generate with either cache; no answer ends early."""
    model, batch = models[0][1], problems * K
    prompts = torch.randint(0, model.config.vocab_size, (problems, width)).tolist()
    task = data.Task(None, None, None, None, None, None, [1, 2, 3], -1, model.config.vocab_size, new)
    generator, ours = torch.Generator(device).manual_seed(0), []
    for how, policy in models:
        def both():
            rollout.sample(policy, prompts, task.instruction, -1, K=K, max_new=new, generator=generator)

        both()  # what is compiled is compiled now
        ours.append(best_of(both, 1.0, 2))
        print(f"two turns of {new} tokens{how}, {problems} problems of {width} tokens, {K} attempts each: {ours[-1]:.2f} s, {2 * batch * new / ours[-1]:.0f} tokens/s")
    try:
        with tempfile.TemporaryDirectory() as folder:
            theirs = in_transformers(model, f"{folder}/model", dtype=model.wte.weight.dtype).to(device)
    except ImportError:
        print("  transformers is not installed: not compared")
        return
    for cache in ("dynamic", "static"):
        seconds = best_of(lambda: transformers_two_turns(theirs, prompts, task, K, new, cache_implementation=cache), 1.0, 2)
        print(f"  transformers generate, {cache} cache, same weights and lengths: {seconds:.2f} s; "
              f"ours is {', '.join(f'{seconds / x:.1f}' for x in ours)} times as fast")  # fmt: skip


def one_update(config, s, tokens, device):
    """Everything that a training step of full-length dialogues has in memory: (sampling, update), two functions."""
    policy = random_model(config, device, torch.float32)
    base = train.computing(s, policy).requires_grad_(False)
    average = policy.copy() if s.average else policy
    worker, optimizer = train.worker_of(s, policy), train.adam(s, policy, 1e-6)
    N, new = s.problems * s.attempts, s.max_new
    width = tokens - 2 * new - 8
    prompts = torch.randint(0, config.vocab_size, (s.problems, width)).tolist()
    turn = torch.zeros(N, tokens, dtype=torch.long)
    turn[:, width : width + new], turn[:, tokens - new :] = 1, 2
    length, done = torch.full((N,), tokens), torch.ones(N, 2, dtype=torch.bool)
    start = torch.tensor([width, tokens - new]).expand(N, 2)
    parts = (torch.randint(0, config.vocab_size, (N, tokens)), turn, torch.zeros(N, tokens), length, start, start + new, done)
    drawn = rollout.Rollouts(*(x.to(device) for x in parts))
    rewards = torch.randint(0, 2, (N, 2)).float()
    batch = train.Batch([drawn], rewards, done, torch.zeros(N, dtype=torch.bool), torch.ones(N, dtype=torch.bool))

    def sampling():
        rollout.sample(worker, prompts, [1] * 8, -1, K=s.attempts, max_new=new, batch=s.sample_batch)

    def update():
        train.policy_step(s, worker, base, 2, batch, s.alpha, s.beta1, None, policy)
        optimizer.step()
        optimizer.zero_grad()
        train.renew(worker, policy)
        train.blend(average, policy, 1000, s.average)

    return sampling, update


def peak_of(config, s, tokens, device) -> tuple[int, float]:
    """Most bytes at a time in two steps, and the seconds of the faster update. On a GPU what tensors had, by
    torch.cuda.max_memory_allocated; on a CPU by how much the process grew (ru_maxrss): call it in a process of its own."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    else:
        before = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    sampling, update = one_update(config, s, tokens, device)
    seconds = []
    for _ in range(2):  # the first makes the optimizer's state
        sampling()
        wait()
        began = time.perf_counter()
        update()
        wait()
        seconds.append(time.perf_counter() - began)
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() - before, min(seconds)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before, min(seconds)


def bench_memory(config, s, tokens, device, rate) -> None:
    """A whole step's peak against the formula, and the update against the matrix-product rate."""
    said = train.memory(config, s, tokens)
    if device.type == "cuda":
        peak, seconds = peak_of(config, s, tokens, device)
    else:  # a process has one peak in its life
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            peak, seconds = pool.apply(peak_of, (config, s, tokens, device))
    matrices = said["parameters"] - (0 if config.tied_head else config.vocab_size * config.n_embd)
    done = s.problems * s.attempts * tokens
    flops = (8 + 2 * s.checkpointing) * matrices * done  # as in bench_step; computing blocks again is a forward more
    print(f"update of {done} tokens, {said['parameters']:,} parameters, {s.dtype}{', checkpointing' if s.checkpointing else ''}{', compiled' if s.compile else ''}: {seconds:.2f} s, "
          f"{flops / seconds / 1e9:.0f} GFLOP/s = {100 * flops / seconds / 1e9 / rate:.0f} % of the matrix-product rate")  # fmt: skip
    print(f"  peak {peak / 1e9:.2f} GB; train.memory says {said['peak'] / 1e9:.2f} GB ({100 * peak / said['peak']:.0f} %): "
          + ", ".join(f"{k} {v / 1e9:.2f}" for k, v in said.items() if v and k not in ("peak", "parameters")))  # fmt: skip


def at_size(folder: str, device) -> None:
    """Everything about --model in one call. On a CPU with a model that a CPU can bear."""
    gpu = device.type == "cuda"
    n, dtype = (8192, torch.bfloat16) if gpu else (2048, torch.float32)
    rate = gflops(n, n, n, device=device, dtype=dtype)
    source = torch.randn((1 << 28) if gpu else (32 << 20), device=device)
    target = torch.empty_like(source)
    bandwidth = 2 * 4 * source.numel() / best_of(lambda: target.copy_(source), 1.0) / 1e9
    del source, target
    print(f"{torch.cuda.get_device_name() if gpu else 'CPU'}: {dtype} products {rate:.0f} GFLOP/s, copy {bandwidth:.0f} GB/s")
    small = GPTConfig(32000, n_layer=6, n_head=8, n_kv_head=2, n_embd=512, head_dim=64, n_ff=1408, n_ctx=1024, qkv_bias=True)
    dtype = torch.bfloat16 if gpu else torch.float32
    model = GPT.from_hf(folder, dtype, device=device) if folder else random_model(qwen_shape() if gpu else small, device, dtype)
    models, config = [("", model)], model.config
    try:
        train.check_compiler(train.Settings(device=device.type))
        models.append((", compiled", model.copy().compile_blocks()))
    except train.UserError as error:
        print(f"not measured: {error}")
    ways = [(checkpointing, compiled) for compiled in (False, True)[: len(models)] for checkpointing in (False, True)]
    for how, model in models:
        check_decoding(model, device, how)
        bench_decode(model, device, bandwidth, (1, 4, 16, 64, 256) if gpu else (1, 4), 512 if gpu else 64, how)
    bench_generate(models, device, *((8, 8, 256, 256) if gpu else (2, 8, 128, 32)))
    models.clear()
    del model
    s = train.Settings(model="-", problems=8 if gpu else 2, attempts=8 if gpu else 2, max_new=512 if gpu else 128, average=0.0)
    for checkpointing, compiled in ways:
        s = dataclasses.replace(s, dtype="bf16" if gpu else "float32", micro_batch=4 if gpu else 2, checkpointing=checkpointing, compile=compiled)
        bench_memory(config, s, 1536 if gpu else 512, device, rate)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="CPU threads (default: all cores)")
    parser.add_argument("--model", nargs="?", const="", metavar="FOLDER", help="measure at size: a Hugging Face folder, or random weights")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.model is not None:
        return at_size(args.model, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    s, task = train.Settings(), data.TASKS[train.Settings().task]
    model = laptop_model(task)
    shapes = [(s.micro_batch * 32, s.n_embd, 2 * model.config.n_ff), (2048, 2048, 2048)]
    rates = [gflops(*shape) for shape in shapes]
    source, target = torch.randn(32 << 20), torch.empty(32 << 20)
    copying = 2 * 4 * source.numel() / best_of(lambda: target.copy_(source), 1.0) / 1e9
    print(f"machine: {args.threads} thread(s); matrix products {rates[0]:.0f} GFLOP/s in this model's MLP, "
          f"{rates[1]:.0f} on 2048 x 2048; copy {copying:.0f} GB/s; model of {sum(p.numel() for p in model.parameters()):,} parameters")  # fmt: skip
    rate = rates[1]
    bench_rollouts(s, task, model, rate)
    whole, tokens, N = bench_step(s, task, model, rate)
    bench_trl(s, task, model, whole, tokens, N)


if __name__ == "__main__":
    main()
