"""Training at size: what a split of the work among processes and passes does not change; precision and memory.

tests/test_real_models.py has the whole run of a Hugging Face folder.
"""

import dataclasses
import json
import os
import random
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp

import data
import evaluate
import rollout
import score
import train
from make_hf_fixtures import TOKENIZERS, tokenizer_config, tokenizer_spec
from model import GPT, GPTConfig, save_hf

ROOT = Path(__file__).resolve().parent.parent
FLAGS = (
    "--device cpu --threads 1 --problems 4 --attempts 2 --max_new 6 --n_ctx 2048 --stage1_steps 4 --stage2_steps 4 "
    "--save_every 2 --eval_problems 4 --micro_batch 3 --sample_batch 6 --stage1_lr 1e-2 --stage2_lr 1e-2 --keep last"
).split()


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A random model of Qwen2's form, whose embedding has more rows than the tokenizer has ids, and a small tokenizer."""
    folder = tmp_path_factory.mktemp("hf") / "base"
    spec = tokenizer_spec("qwen2", json.loads(TOKENIZERS.read_text(encoding="utf-8"))["merges"])
    torch.manual_seed(0)
    words = 64 * (len(spec["model"]["vocab"]) // 64 + 2)
    config = GPTConfig(words, n_layer=2, n_head=4, n_kv_head=2, n_embd=32, head_dim=8, n_ff=48, n_ctx=4096, qkv_bias=True)
    save_hf(GPT(config), folder)
    (folder / "tokenizer.json").write_text(json.dumps(spec))
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer_config("qwen2")))
    return folder


@pytest.fixture(scope="module")
def problems(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "math.jsonl"
    rows = [{"problem": f"What is ${i} + {i % 7}$?", "solution": f"It is $\\boxed{{{i + i % 7}}}$."} for i in range(40)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def words(base, problems, run, *more):
    return ["--stage", "2", "--model", str(base), "--task", "math", "--data", str(problems), "--folder", str(run), *FLAGS, *more]


def settings(base, problems, run, *more):
    return train.parse(words(base, problems, run, *more))


def finish(base, problems, run, *flags, ranks=2):
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(ranks)] if ranks > 1 else []
    command = [sys.executable, *launcher, str(ROOT / "train.py"), *words(base, problems, run, *flags)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600)


def lines_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


# ------------------------------------------------------------------ the same gradient, however the work is split


def drawn(s, task, policy, reference):
    """A batch of dialogues with rewards of every kind, as `make_rollouts` draws it."""
    batch = train.make_rollouts(s, task, policy, reference, 2, 0)
    batch.rewards = torch.randint(0, 2, batch.rewards.shape, generator=torch.Generator().manual_seed(0)).float()
    return batch


def share(batch, rows):
    """The part of a batch that one process would have."""
    def cut(x):
        return type(x)(*(getattr(x, f.name)[rows] for f in dataclasses.fields(x)))

    return train.Batch([cut(part) for part in batch.parts], *(x[rows] for x in (batch.rewards, batch.finished, batch.same, batch.online)))


def gradient(s, batch, policy, reference, vocab):
    """{weight: gradient}, as the optimizer would see it."""
    policy = policy.copy()
    train.policy_step(s, train.worker_of(s, policy), reference, 2, batch, 1.0, 0.1, vocab, policy)
    return [p.grad for p in policy.parameters()]


def on_rank(index, world, port, folder, s, micro_batches):
    """Process `index` of `world`: its rows of the batch, an uneven share; the reduced gradient goes into a file."""
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(index), WORLD_SIZE=str(world))
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    batch, policy, reference, vocab = torch.load(folder / "given.pt", weights_only=False)
    mine = share(batch, [slice(0, 6), slice(6, 8)][index])
    found = [gradient(dataclasses.replace(s, micro_batch=n), mine, policy, reference, vocab) for n in micro_batches]
    optimizer = train.adam(dataclasses.replace(s, shard=True), policy, 1e-3)
    for p in policy.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    optimizer.consolidate_state_dict(to=0)
    state = [optimizer.state_dict() if index == 0 else None]
    torch.distributed.broadcast_object_list(state)
    again = train.adam(dataclasses.replace(s, shard=True), policy, 1e-3)
    train.load_optimizer(again, state[0])
    assert not again.state, "each moment once"
    assert all(torch.equal(kept[k], again.optim.state[p][k]) for p, kept in optimizer.optim.state.items() for k in kept)
    torch.save((found, len(again.optim.state)), folder / f"{index}.pt")
    torch.distributed.destroy_process_group()


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def test_the_same_gradient_however_the_work_is_split(base, problems, tmp_path):
    """One process or two, 1 to 8 dialogues a pass, with and without the activations kept: equal to 1e-6 in float32."""
    s = settings(base, problems, tmp_path, "--micro_batch", "8", "--max_new", "40")
    task = train.task_of(s)
    policy, reference = train.hf_base(s, task), GPT.from_hf(base, n_ctx=2048)
    policy.wte.weight.data[task.eos] *= 5  # so that answers end at different places
    for p in reference.parameters():
        p.data += 0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1))
    batch = drawn(s, task, policy, reference)
    assert batch.parts[0].length.unique().numel() > 2
    whole = gradient(s, batch, policy, reference, task.vocab)
    largest = max(g.abs().max() for g in whole)
    assert all(g.abs().max() > 0 for g in whole)

    torch.save((batch, policy, reference, task.vocab), tmp_path / "given.pt")
    mp.spawn(on_rank, (2, free_port(), tmp_path, s, (1, 3)), nprocs=2)
    ranks = [torch.load(tmp_path / f"{index}.pt") for index in (0, 1)]
    for a, b in ((a, b) for found, _ in ranks for grads in found for a, b in zip(whole, grads)):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6 * float(largest))
    moments = [n for _, n in ranks]
    assert min(moments) > 0 and sum(moments) == len(whole), "--shard: each weight's moments in one process"
    assert train.worker_of(dataclasses.replace(s, checkpointing=True), policy.copy()).checkpointing
    for change in (dict(micro_batch=1), dict(micro_batch=3), dict(micro_batch=5), dict(checkpointing=True)):
        for a, b in zip(whole, gradient(dataclasses.replace(s, **change), batch, policy, reference, task.vocab)):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-6 * float(largest))


def test_gradients_go_in_messages(monkeypatch):
    """However many numbers a message holds, each gradient is summed once."""
    model = GPT(GPTConfig(10, n_layer=1, n_embd=8, n_head=2, n_kv_head=2, head_dim=4, n_ff=8))
    sent = []
    monkeypatch.setattr(train, "world", lambda: 2)
    monkeypatch.setattr(train.dist, "all_reduce", lambda x: sent.append(len(x)) or x.mul_(2))
    for message in (1, 100, 1 << 24):
        sent.clear()
        for p in model.parameters():
            p.grad = torch.ones_like(p)
        train.reduce_gradients(model, message)
        assert all((p.grad == 2).all() for p in model.parameters()) and sum(sent) == sum(p.numel() for p in model.parameters())
    assert len(sent) == 1


# ------------------------------------------------------------------ precision


def test_bf16_computes_over_float32_weights(base, problems, tmp_path):
    """Sampler, loss and reference are one bf16 network; gradients and weights are float32, and a step that bf16
    rounds away is kept."""
    s = settings(base, problems, tmp_path, "--dtype", "bf16", "--max_new", "30")
    task = train.task_of(s)
    policy = train.hf_base(s, task)
    worker, reference = train.worker_of(s, policy), policy.copy(torch.bfloat16)
    assert {p.dtype for p in worker.parameters()} == {torch.bfloat16} and worker.cos.dtype == torch.float32
    assert worker.lm_head.weight is worker.wte.weight
    batch = drawn(s, task, worker, reference)
    log = train.policy_step(s, worker, reference, 2, batch, 1.0, 0.1, task.vocab, policy)
    assert log["kl1"] == 0 and log["sampler_gap"] < 0.02
    assert all(p.grad.dtype == torch.float32 for p in policy.parameters()) and all(p.grad is None for p in worker.parameters())
    exact = gradient(dataclasses.replace(s, dtype="float32"), batch, policy, policy.copy(), task.vocab)
    for a, b in zip(exact, (p.grad for p in policy.parameters())):
        assert torch.nn.functional.cosine_similarity(a.flatten(), b.flatten(), dim=0) > 0.99

    optimizer, before = train.adam(s, policy, 1e-6), [p.clone() for p in policy.parameters()]
    optimizer.step()
    train.renew(worker, policy)
    assert all(not torch.equal(a, p) for a, p in zip(before, policy.parameters()))
    assert all(torch.equal(w, p.bfloat16()) for w, p in zip(worker.parameters(), policy.parameters()))


def test_a_copy_is_its_own(base):
    model = GPT.from_hf(base)
    twin, half = model.copy(), model.copy(torch.bfloat16)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), twin.state_dict().values()))
    ids = torch.arange(20)[None]
    assert torch.equal(model(ids), twin(ids)) and torch.equal(half.cos, model.cos)
    twin.wte.weight.data.zero_()
    assert model.wte.weight.abs().sum() > 0 and twin.lm_head.weight is twin.wte.weight


# ------------------------------------------------------------------ compiled blocks


@pytest.mark.parametrize("dtype", ["float32", "bf16"])
def test_compiled_blocks_compute_the_same(base, problems, tmp_path, dtype):
    """Dialogues and gradients with --compile; no call of a block goes around the compiled code, and neither shapes nor
    the number of models and of blocks make more than a few kinds of it."""
    s = settings(base, problems, tmp_path, "--dtype", dtype, "--compile", "--max_new", "40")
    try:
        train.check_compiler(s)
    except train.UserError as error:
        pytest.skip(str(error))
    task = train.task_of(s)
    policy = train.hf_base(s, task)
    policy.wte.weight.data[task.eos] *= 5  # so that answers end at different places
    plain, reference = policy.copy(train.compute_dtype(s)), policy.copy(train.compute_dtype(s))
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    batch = drawn(s, task, train.worker_of(s, policy.copy()), train.computing(s, reference))
    part, gap = batch.parts[0], []
    assert part.length.unique().numel() > 2
    with torch.no_grad():
        for n in range(len(part.ids)):
            ids = part.ids[n : n + 1, : part.length[n]]
            logp = torch.log_softmax(plain(ids)[0, :-1, : task.vocab].float(), -1).gather(-1, ids[0, 1:, None])[:, 0]
            gap.append((logp - part.logp[n, 1 : part.length[n]])[part.turn[n, 1 : part.length[n]] > 0].abs().max().item())
    assert max(gap) < (1e-5 if dtype == "float32" else 0.1)
    wanted = gradient(dataclasses.replace(s, compile=False), batch, policy, reference, task.vocab)
    for change in (dict(), dict(checkpointing=True), dict(micro_batch=1)):
        found = gradient(dataclasses.replace(s, **change), batch, policy, train.computing(s, reference), task.vocab)
        for a, b in zip(wanted, found):
            if dtype == "float32":
                torch.testing.assert_close(a, b, rtol=0, atol=1e-5 * float(max(g.abs().max() for g in wanted)))
            else:
                assert torch.nn.functional.cosine_similarity(a.flatten(), b.flatten(), dim=0) > 0.99
    counters = torch._dynamo.utils.counters
    assert not counters["graph_break"] and 3 < counters["stats"]["unique_graphs"] < 16, counters


def test_no_compiler_is_said_in_one_line(tmp_path):
    command = [sys.executable, str(ROOT / "train.py"), "--smoke", "--compile", "--device", "cpu", "--folder", str(tmp_path)]
    cache = {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | cache | {"CXX": "no-such-compiler"})
    assert done.returncode != 0 and "Traceback" not in done.stderr and not list(tmp_path.glob("stage*"))
    assert "--compile" in done.stderr and "no-such-compiler" in done.stderr and "leave --compile out" in done.stderr


# ------------------------------------------------------------------ bounded memory


@pytest.mark.parametrize("shape", [dict(qkv_bias=True), dict(qk_norm=True, tied_head=False), dict(n_kv_head=4)])
def test_memory_counts_what_is_there(shape):
    """Parameters, activations and cache of the formula against those of a model; bench.py has the peak of a whole step."""
    c = GPTConfig(100, **{**dict(n_layer=4, n_head=4, n_kv_head=2, n_embd=96, head_dim=24, n_ff=256), **shape})
    model, ids = GPT(c), torch.zeros(2, 128, dtype=torch.long)
    of_model = {p.untyped_storage().data_ptr() for p in [*model.parameters(), model.cos, model.sin]}
    kept = {}

    def keep(x):
        if x.untyped_storage().data_ptr() not in of_model:
            kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        alive.append(x)
        return x

    for checkpointing in (False, True):
        s = train.Settings(micro_batch=2, problems=1, attempts=2, max_new=8, checkpointing=checkpointing)
        said = train.memory(c, s, 120)
        assert said["parameters"] == sum(p.numel() for p in model.parameters()) == said["weights"] / 4
        model.checkpointing, alive = checkpointing, []
        kept.clear()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            model.hidden(ids)
        final = 4 * 2 * 128 * 2 * c.n_embd  # input and quotient of the last norm
        computed_again = train.memory(dataclasses.replace(c, n_layer=1), dataclasses.replace(s, checkpointing=False), 120)["activations"]
        expected = said["activations"] - computed_again * checkpointing
        assert 0.95 < (sum(kept.values()) - final) / expected < 1.05
        cache = rollout.KVCache.empty(model, 2, 120)
        assert said["cache"] == (cache.k.nbytes + cache.v.nbytes) * 7 / 4
    half = train.memory(c, dataclasses.replace(s, shard=True, dtype="bf16", average=0.0), 120, ranks=2)
    assert half["adam"] == said["adam"] / 2 and half["average"] == 0 and half["reference"] == half["copy"] == said["weights"] / 2


def test_a_vocabulary_in_chunks(base):
    """Log-probabilities, KL and the supervised loss, and their gradients, are the same in chunks of 7 tokens."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 200, (3, 15), generator=generator)
    turn = torch.randint(0, 3, (3, 15), generator=generator)
    policy, reference = GPT.from_hf(base), GPT.from_hf(base)
    reference.wte.weight.data *= 1.1

    def of(chunk):
        policy.zero_grad()
        stats = score.answer_stats(policy, reference, ids, turn, chunk=chunk)
        (stats[0].sum() + stats[1].sum() + score.supervised_loss(policy, ids, turn, 9, chunk=chunk)).backward()
        return [*stats, *(p.grad.clone() for p in policy.parameters())]

    for a, b in zip(of(7), of(1000)):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    assert score.logit_chunk(151936) * 151936 * 4 <= 2**29 and score.logit_chunk(358) == 8192


def test_sampling_in_parts_keeps_order_and_given_answers(base):
    """Greedy dialogues are the same in any batch; each problem keeps its rows, and each given answer its row."""
    model = GPT.from_hf(base, n_ctx=512)
    prompts = [[i] * n for i, n in ((5, 3), (6, 9), (7, 1), (8, 4), (9, 2))]
    given = [[20 + i, 1] if i % 3 == 0 else None for i in range(10)]
    how = dict(K=2, max_new=7, temperature=0.0, given=given)
    whole = rollout.sample(model, prompts, [3, 4], 1, **how)
    sizes, original = [], rollout._prefill
    rollout._prefill = lambda model, prompts, slots: sizes.append(len(prompts)) or original(model, prompts, slots)
    try:
        parts = rollout.sample(model, prompts, [3, 4], 1, batch=5, **how)
    finally:
        rollout._prefill = original
    assert sizes == [2, 2, 1]
    for f in dataclasses.fields(rollout.Rollouts):
        torch.testing.assert_close(getattr(whole, f.name), getattr(parts, f.name))


def test_micro_batches_cover_every_row_once():
    """Rows of a like length together, nothing cut off; short dialogues, as the laptop's, stay in their order."""
    length = torch.tensor([10, 200, 64, 65, 130, 1, 128])
    seen = [(row, width) for rows, width in train.micro_batches(train.Settings(micro_batch=2), length) for row in rows.tolist()]
    assert sorted(row for row, _ in seen) == list(range(7)) and all(length[row] <= width for row, width in seen)
    assert [row for row, _ in seen] == [0, 2, 5, 3, 6, 4, 1] and [width for _, width in seen] == [64, 64, 128, 128, 192, 192, 256]


# ------------------------------------------------------------------ many processes


def test_problems_of_a_step_do_not_depend_on_the_number_of_processes(base, problems, tmp_path, monkeypatch):
    s = settings(base, problems, tmp_path)
    task = train.task_of(s)
    policy = train.hf_base(s, task)

    def asked(ranks):
        prompts = []
        monkeypatch.setattr(train, "world", lambda: ranks)
        for r in range(ranks):
            monkeypatch.setattr(train, "rank", lambda: r)
            part = train.make_rollouts(s, task, policy, policy, 1, 7).parts[0]
            prompts += [tuple(ids[:start]) for ids, start in zip(part.ids.tolist(), part.start[:, 0].tolist())]
        return sorted(prompts)

    assert asked(1) == asked(2) == asked(4) and len(set(asked(1))) == 4


def test_shared_optimizer_is_the_same_optimizer(base, problems, tmp_path):
    """Two processes, Adam's state shared or not, activations kept or not: the same log and weights. Then one
    process goes on from a checkpoint that two have written, and the run ends in a folder of bf16."""
    plain, shared = tmp_path / "plain", tmp_path / "shared"
    done = finish(base, problems, plain, "--stage", "1")
    assert done.returncode == 0, done.stderr
    (shared / "stage1-hf").mkdir(parents=True)  # of weights that somebody removed
    done = finish(base, problems, shared, "--stage", "1", "--shard", "--checkpointing")
    assert done.returncode == 0, done.stderr
    states = [train.load(run / "stage1.pt")["model"] for run in (plain, shared)]
    assert all(torch.allclose(states[0][k], states[1][k], rtol=0, atol=1e-6) for k in states[0])
    assert (shared / "stage1-hf" / "config.json").exists()


def stopped(s, monkeypatch, steps):
    """A run in this process that is killed behind a checkpoint after so many steps."""
    original = train.Partial.checkpoint

    def checkpoint(self, step, *rest):
        original(self, step, *rest)
        if step == steps:
            raise KeyboardInterrupt

    monkeypatch.setattr(train.Partial, "checkpoint", checkpoint)
    with pytest.raises(KeyboardInterrupt):
        train.run(s)
    monkeypatch.undo()


def test_another_number_of_processes_goes_on_in_bf16(base, problems, tmp_path, monkeypatch):
    """Begun by one process, gone on with by two that share Adam's state, ended by one; the export is bf16."""
    flags = ["--dtype", "bf16", "--stage", "1", "--stage1_steps", "6"]
    stopped(settings(base, problems, tmp_path, *flags), monkeypatch, 2)
    begun = train.load(tmp_path / "stage1.partial.pt")
    done = finish(base, problems, tmp_path, *flags, "--shard")
    assert done.returncode == 0, done.stderr
    assert "goes on from step 2" in done.stdout + done.stderr and begun["step"] == 2
    assert [line["step"] for line in lines_of(tmp_path / "stage1.jsonl")] == list(range(6))
    kept, exported = train.load(tmp_path / "stage1.pt")["model"], GPT.from_hf(tmp_path / "stage1-hf", n_ctx=2048)
    assert exported.wte.weight.dtype == torch.bfloat16 and kept["wte.weight"].dtype == torch.float32
    assert all(torch.equal(kept[k].bfloat16(), v) for k, v in exported.state_dict().items())


def evaluate_on_rank(index, world, port, folder, s):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(index), WORLD_SIZE=str(world))
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    task, asked, original = train.task_of(s), [], evaluate.evaluate
    evaluate.evaluate = lambda policy, task, problems, **how: asked.append(len(problems)) or original(policy, task, problems, **how)
    found = train.evaluate_together(s, task, train.hf_base(s, task), 2)
    torch.save((found, asked), folder / f"{index}.pt")
    torch.distributed.destroy_process_group()


def test_processes_share_the_evaluation(base, problems, tmp_path):
    """An odd number of problems on two processes: the same answers in the same order as on one, in both."""
    s = settings(base, problems, tmp_path, "--eval_data", str(problems), "--data", str(problems.with_name("more.jsonl")), "--eval_problems", "5")
    problems.with_name("more.jsonl").write_text('{"problem": "What is $9 + 9$, then?", "answer": "18"}\n')
    task = train.task_of(s)
    metrics, dialogues = train.evaluate_together(s, task, train.hf_base(s, task), 2)
    assert (metrics, dialogues) == evaluate.evaluate(train.hf_base(s, task), task, task.problems("val", 5), batch=6)
    mp.spawn(evaluate_on_rank, (2, free_port(), tmp_path, s), nprocs=2)
    for index, share in ((0, 3), (1, 2)):
        found, asked = torch.load(tmp_path / f"{index}.pt", weights_only=False)
        assert found == (metrics, dialogues) and asked == [share]


# ------------------------------------------------------------------ talking to it, and bad input


def test_ask_a_checkpoint_of_a_folder(base, problems, tmp_path, capsys):
    """The checkpoint remembers tokenizer and template; no verdict, since nobody has said what is right."""
    s = settings(base, problems, tmp_path, "--stage", "1", "--stage1_steps", "1", "--save_every", "1")
    train.run(s)
    capsys.readouterr()
    evaluate.main(["--folder", str(tmp_path), "--ask", "What is $1+1$?"])
    out = capsys.readouterr().out
    assert out.count("answer ") == 2 and "(wrong)" not in out and "(right)" not in out


def test_what_cannot_fit_is_said_before_anything_is_made(base, problems, tmp_path):
    s = settings(base, problems, tmp_path, "--n_ctx", "300")
    with pytest.raises(train.UserError, match="math/.* tokens, and --n_ctx 300 with --max_new 6 leaves"):
        train.run(s)
    assert not list(tmp_path.glob("stage*"))


def test_defaults_with_real_weights_are_the_papers(base, problems):
    flags = ["--model", str(base), "--data", str(problems), "--task"]
    s = train.parse([*flags, "math"])
    assert (s.problems * s.attempts, s.stage1_lr, s.alpha, s.beta1, s.beta2) == (512, 5e-6, 10, 0.01, 0.1)
    s = train.parse([*flags, "mbpp", "--alpha", "3"])
    assert (s.problems * s.attempts, s.stage2_lr, s.alpha, s.beta1, s.beta2) == (128, 1e-5, 3, 0.01, 0.25)
    assert train.parse([]).stage1_lr == train.Settings.stage1_lr
