"""Hugging Face weights and published problems through the whole program: two processes, a kill, an export.

The folder is made here: a tiny model of Qwen2's shape that has learnt to answer in the right form, and a file
of MATH's form. With SCORE_DATA the real file is read instead.
"""

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import data
import rollout
import score
import train
from make_hf_fixtures import TOKENIZERS, tokenizer_config, tokenizer_spec
from model import GPT, GPTConfig, save_hf

ROOT = Path(__file__).resolve().parent.parent
SHORT = "--problems 4 --attempts 4 --stage1_steps 3 --stage2_steps 3 --save_every 1 --max_new 12 --eval_problems 6 --threads 1 --warmup 0"


def math_file(folder: Path) -> Path:
    real = os.environ.get("SCORE_DATA")
    rows = [{"problem": f"What is ${a}+{b}$?", "solution": f"It is $\\boxed{{{(a + b) % 3}}}$."} for a in range(12) for b in range(12)]
    if real and (Path(real) / "math_train.jsonl").exists():
        rows = [json.loads(line) for line in (Path(real) / "math_train.jsonl").read_text().splitlines()]
        rows = [row for row in rows if len(row["problem"]) < 120][:400]
    path = folder / "math.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(folder of weights and tokenizer, data file): the model says \\boxed{0}, \\boxed{1} or \\boxed{2} to everything."""
    folder = tmp_path_factory.mktemp("real")
    spec = tokenizer_spec("qwen2", json.loads(TOKENIZERS.read_text(encoding="utf-8"))["merges"])
    made, path = folder / "qwen", math_file(folder)
    torch.manual_seed(0)
    words = 64 * (len(spec["model"]["vocab"]) // 64 + 2)  # padded, as Qwen's is
    config = GPTConfig(
        vocab_size=words, n_layer=1, n_embd=32, n_head=2, n_kv_head=1, head_dim=16, n_ff=64, qkv_bias=True, n_ctx=2048
    )  # fmt: skip
    model = GPT(config)
    save_hf(model, made)
    (made / "tokenizer.json").write_text(json.dumps(spec))
    (made / "tokenizer_config.json").write_text(json.dumps(tokenizer_config("qwen2")))
    task = data.real_task("math", made, path, max_new=12)
    optimizer, rng = torch.optim.Adam(model.parameters(), lr=1e-2), random.Random(0)
    for _ in range(60):
        rows = []
        for p in task.problems("train", 4, rng):
            said = [task.encode("\\boxed{%d}" % rng.randrange(3)) + [task.eos] for _ in "12"]
            x1 = task.ask(p.prompt)
            mask = [0] * len(x1) + [1] * len(said[0]) + [0] * len(task.instruction) + [2] * len(said[1])
            rows.append((x1 + said[0] + task.instruction + said[1], mask))
        ids, turn = (rollout.pad(x) for x in zip(*rows))
        score.supervised_loss(model, ids, turn, int((turn > 0).sum())).backward()
        optimizer.step()
        optimizer.zero_grad()
    trained = folder / "trained"
    save_hf(model, trained, made)
    return trained, path


def command(made, run, *flags, ranks=2):
    folder, path = made
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(ranks)]
    return [*start, str(ROOT / "train.py"), *f"--model {folder} --task math --data {path} --stage 2 --folder {run} {SHORT}".split(), *flags]


def killed_and_resumed(made, run, flags, ranks):
    """Begun on two processes, killed as soon as Stage I has a checkpoint, and gone on with on `ranks`."""
    process = subprocess.Popen(command(made, run, *flags), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not (run / "stage1.partial.pt").exists():
        time.sleep(0.01)
    subprocess.run(["pkill", "-9", "-f", str(run)])  # the launcher and its workers, which are sessions of their own
    process.wait()
    done = subprocess.run(command(made, run, *flags, ranks=ranks), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "stage1: goes on from step" in done.stdout + done.stderr


@pytest.fixture(scope="module")
def run(made, tmp_path_factory):
    run = tmp_path_factory.mktemp("run")
    killed_and_resumed(made, run, [], 2)
    return run


def test_two_processes_train_and_export(made, run):
    """The exported folders hold the trained weights, and load as the base model of a next run would."""
    assert not (run / "stage0.pt").exists()
    base, task = GPT.from_hf(made[0]), data.real_task("math", *made, max_new=12)
    for name in ("stage1", "stage2"):
        policy, state = train.load_policy(run / f"{name}.pt")
        again = GPT.from_hf(run / f"{name}-hf")
        assert all(torch.equal(a, b) for a, b in zip(policy.state_dict().values(), again.state_dict().values()))
        assert any(not torch.equal(a, b) for a, b in zip(policy.parameters(), base.parameters()))
        log = [json.loads(line) for line in (run / f"{name}.jsonl").read_text().splitlines()]
        assert len(log) == 3 and all(x["sampler_gap"] < 1e-4 for x in log) and any(x["r1"] > 0 for x in log)
    assert task.encode("a<|im_end|>b") == data.load_tokenizer(run / "stage2-hf").encode_ordinary("a<|im_end|>b")


def test_export_answers_alike_in_transformers(made, run):
    """The greedy first and second answers of the exported folder, by the library's own code."""
    transformers = pytest.importorskip("transformers")
    task = data.real_task("math", *made, max_new=12)
    ours, theirs = GPT.from_hf(run / "stage2-hf"), transformers.AutoModelForCausalLM.from_pretrained(run / "stage2-hf", dtype=torch.float32)
    prompts = [task.ask(p.prompt) for p in task.problems("val", 5)]
    drawn = rollout.sample(ours, prompts, task.instruction, task.eos, max_new=12, temperature=0, vocab=task.vocab)
    for n, x1 in enumerate(prompts):
        for i in (0, 1):
            before = drawn.ids[n, : drawn.start[n, i]].tolist()
            out = theirs.generate(torch.tensor([before]), max_new_tokens=12, do_sample=False, eos_token_id=task.eos, pad_token_id=task.eos)
            assert out[0, len(before) :].tolist() == drawn.ids[n, drawn.start[n, i] : drawn.stop[n, i]].tolist()


SERVE = """
import json, sys
from vllm import LLM, SamplingParams
folder, prompts, new = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3])
llm = LLM(folder, dtype="float32", max_model_len=512, enforce_eager=True)
done = llm.generate([{"prompt_token_ids": ids} for ids in prompts], SamplingParams(temperature=0, max_tokens=new, ignore_eos=True))
print("answers", json.dumps([list(x.outputs[0].token_ids) for x in done]))
"""


@pytest.mark.parametrize("shape", [dict(qkv_bias=True), dict(qk_norm=True), dict(tied_head=False, rope_scaling=(8.0, 1.0, 4.0, 128.0))])
def test_vllm_serves_an_export(made, tmp_path, shape):
    """Greedy answers of a folder of Qwen2's, Qwen3's and Llama 3's form, by vLLM and by the sampler. (In vLLM, as in all
    published weights, a head of Qwen2 has width / heads numbers, whatever config.json says.)"""
    pytest.importorskip("vllm", reason="vLLM is not installed")
    torch.manual_seed(0)
    task = data.real_task("math", *made, max_new=24)
    words = GPT.from_hf(made[0]).config.vocab_size
    model = GPT(GPTConfig(words, **dict(n_layer=2, n_head=4, n_kv_head=2, n_embd=256, head_dim=64, n_ff=256, n_ctx=512) | shape))
    save_hf(model, tmp_path / "export")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "export" / name).write_bytes((made[0] / name).read_bytes())
    prompts = [task.ask(p.prompt)[:200] for p in task.problems("val", 4)]
    drawn = rollout.sample(model, prompts, task.instruction, -1, turns=1, max_new=24, temperature=0)
    environment = os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", SERVE, str(tmp_path / "export"), json.dumps(prompts), "24"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    theirs = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("answers")).removeprefix("answers "))
    assert theirs == drawn.answers(1)


def test_evaluation_of_a_real_run(made, run, tmp_path):
    out = tmp_path / "metrics.json"
    words = ["--folder", str(run), "--eval_problems", "4", "--json", str(out)]
    done = subprocess.run([sys.executable, str(ROOT / "evaluate.py"), *words], capture_output=True, text=True)
    assert done.returncode == 0 and "stage2" in done.stdout, done.stderr
    assert [m["n"] for m in json.loads(out.read_text()).values()] == [4, 4]
    words = ["--checkpoint", str(run / "stage2.pt"), "--problems", str(made[1])]
    done = subprocess.run([sys.executable, str(ROOT / "evaluate.py"), *words], capture_output=True, text=True)
    assert done.returncode == 0 and "stage2" in done.stdout, done.stderr


def test_a_run_goes_on_with_another_number_of_processes(made, tmp_path):
    """Each step still has the same problems; who draws for them changes, and with it the random numbers."""
    killed_and_resumed(made, tmp_path, ["--stage", "1", "--stage1_steps", "5"], 1)
    assert len((tmp_path / "stage1.jsonl").read_text().splitlines()) == 5 and (tmp_path / "stage1-hf" / "config.json").exists()


@pytest.mark.parametrize(
    "flags, words",
    [
        ("--model {model} --task math", "needs --data"),
        ("--model {model} --data {data}", "--task is 'false-position', and must be one of math, gsm8k"),
        ("--task math", "must be one of false-position, code"),
        ("--data {data}", "without --model"),
        ("--model {model} --task math --data {data} --base x.pt", "leave one of the two out"),
        ("--model {model}/none --task math --data {data}", "none"),
        ("--model {model} --task gsm8k --data {data}", "math.jsonl:1: field 'question'"),
        ("--model {model} --task math --data {model}/none.jsonl", "none.jsonl"),
    ],
)
def test_bad_input_is_one_line(made, tmp_path, flags, words):
    flags = flags.format(model=made[0], data=made[1]).split()
    done = subprocess.run([sys.executable, str(ROOT / "train.py"), "--folder", str(tmp_path), *flags], capture_output=True, text=True)
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode != 0 and "Traceback" not in done.stderr and words in last, done.stderr


def test_held_out_problems_are_not_trained_on(made, tmp_path):
    task = data.real_task("math", *made)
    prompts = {split: {p.prompt for p in task.problems(split, 1000)} for split in ("train", "val", "test")}
    assert not prompts["train"] & (prompts["val"] | prompts["test"]) and not prompts["val"] & prompts["test"]
    few = tmp_path / "few.jsonl"
    few.write_text("".join(made[1].read_text().splitlines(keepends=True)[:5]))
    other = data.real_task("math", *made, eval_path=few)
    assert {p.prompt for p in other.problems("test", 9)} == {p.prompt for p in data.load_math(few)}
    assert len(other.problems("train", 1000)) == len(data.load_math(made[1])) - 5
    assert len(task.problems("train", 1000, random.Random(0))) == 1000  # more than there are: some twice
    with pytest.raises(data.DataError, match="none is left for"):
        data.real_task("math", made[0], few)
