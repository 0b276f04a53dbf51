"""Speed, side by side in one run: against what the machine can do, and against peers where installed.

    python bench.py                the laptop model and batch of train.py's defaults
    python bench.py --threads 1

Ratios, not seconds, are what travels between machines. The limits are measured here as well: the
matrix-product rate on the shapes of this model and on large squares, and the copy bandwidth.
`transformers` and `trl` are optional; a line says so where they are absent.
"""

import argparse
import copy
import os
import random
import tempfile
import time
import warnings

import torch

import data
import rollout
import train
import verify
from model import GPT, save_hf


def best_of(f, seconds=3.0, at_least=3):
    """The fastest of repeated calls, in seconds: on a shared machine the others measure the neighbours."""
    times, began = [], time.perf_counter()
    while len(times) < at_least or time.perf_counter() - began < seconds:
        t = time.perf_counter()
        f()
        times.append(time.perf_counter() - t)
    return min(times)


def gflops(m, k, n):
    """Measured rate of an (m, k) x (k, n) product."""
    a, b = torch.randn(m, k), torch.randn(n, k)
    return 2 * m * k * n / best_of(lambda: torch.nn.functional.linear(a, b), 1.0) / 1e9


def parameters(model):
    """Weights that multiply: all matrices; the tied embedding once, as the head."""
    return sum(p.numel() for p in model.parameters() if p.ndim == 2)


def laptop_model(task):
    torch.manual_seed(0)
    return GPT(train.laptop_config(train.Settings(), task))


def in_transformers(model, folder):
    """The same weights as `transformers` loads them from a folder."""
    from transformers import AutoModelForCausalLM

    save_hf(model, folder)
    return AutoModelForCausalLM.from_pretrained(folder).eval()


def transformers_two_turns(theirs, prompts, task, K, max_new):
    """Both turns with `generate`, as a trainer built on it does: turn 2 starts from a longer prompt."""
    ids = torch.tensor(prompts).repeat_interleave(K, 0)
    how = dict(do_sample=True, temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=max_new, min_new_tokens=max_new, pad_token_id=0)
    with torch.no_grad():
        first = theirs.generate(ids, attention_mask=torch.ones_like(ids), **how)
        second = torch.cat([first, torch.tensor(task.instruction).expand(len(first), -1)], dim=1)
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


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="CPU threads (default: all cores)")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
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
