"""Metrics, the evaluation program, and the embedded task's data."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import data
import evaluate
import train
from model import GPT, GPTConfig

ROOT = Path(__file__).resolve().parent.parent
TASK = data.TASKS["false-position"]


def test_metrics_by_hand():
    """i→c and c→i over *all* problems, not over the wrong or the right ones; the identity holds."""
    right = [[True, True, False, False, False], [True, False, True, True, False]]
    answers = [["a", "b", "c", "d", "e"], ["a", "x", "y", "z", "e"]]
    m = evaluate.metrics(right, answers, torch.tensor([[True, True]] * 4 + [[True, False]]))
    assert (m.t1, m.t2, m.fixed, m.spoiled, m.same, m.truncated) == pytest.approx((40, 60, 40, 20, 40, 20))
    assert m.t2 == pytest.approx(m.t1 + m.fixed - m.spoiled) and m.delta == pytest.approx(m.t2 - m.t1)


def test_interval_of_delta_against_the_bootstrap():
    """± is the paired interval: resampling problems gives the same half-width, to the bootstrap's own noise."""
    torch.manual_seed(0)
    first, second = torch.rand(400) < 0.5, torch.rand(400) < 0.6
    m = evaluate.metrics([first.tolist(), second.tolist()], [["x"] * 400] * 2, torch.ones(400, 2, dtype=torch.bool))
    gain = 100 * (second.double() - first.double())
    means = gain[torch.randint(0, 400, (20000, 400))].mean(1)
    assert m.delta_ci == pytest.approx(1.96 * means.std().item(), rel=0.03)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    model = GPT(GPTConfig(vocab_size=TASK.vocab, n_layer=1, n_embd=16, n_head=4, n_kv_head=4, head_dim=4, n_ff=16))
    path = tmp_path_factory.mktemp("run") / "stage0.pt"
    train.save(train.final_state(train.Settings(), 0, model), path)
    return path


def program(*flags):
    return subprocess.run([sys.executable, str(ROOT / "evaluate.py"), *map(str, flags)], capture_output=True, text=True, timeout=120)


def test_program_on_a_split_and_on_a_file(checkpoint, tmp_path):
    problems, out = tmp_path / "p.jsonl", tmp_path / "out.json"
    problems.write_text('{"prompt": "?+7-2+5=16"}\n{"prompt": "? +1 +1 +1 = 9"}\n')
    done = program("--checkpoint", checkpoint, "--problems", problems, "--json", out, "--turns", 3)
    assert done.returncode == 0, done.stderr
    assert json.loads(out.read_text())[str(checkpoint)]["n"] == 2 and "accuracy at each turn" in done.stdout
    assert "stage0" in program("--folder", checkpoint.parent, "--eval_problems", 5).stdout
    assert "answer 2" in program("--folder", checkpoint.parent, "--ask", "?+7-2+5=16").stdout


@pytest.mark.parametrize(
    "content, words",
    [
        ('{"prompt": "?+7-2+5=16"}\nnonsense', ["p.jsonl:2", "not JSON"]),
        ('{"question": "?+7-2+5=16"}', ["p.jsonl:1", "prompt"]),
        ('{"prompt": "?+7-2+5=16"}\n{"prompt": "2+2=?"}', ["p.jsonl:2", "not a problem"]),
        ("", ["no problem"]),
    ],
)
def test_bad_problem_files(checkpoint, tmp_path, content, words):
    (tmp_path / "p.jsonl").write_text(content)
    done = program("--checkpoint", checkpoint, "--problems", tmp_path / "p.jsonl")
    assert done.returncode != 0 and "Traceback" not in done.stderr
    assert all(w in done.stderr for w in words), done.stderr


def test_other_bad_input(checkpoint, tmp_path):
    for flags, words in [
        (["--folder", tmp_path / "none"], ["no finished stage"]),
        (["--checkpoint", checkpoint, "--ask", "?+70-2+5=16"], ["steps of 1 to 9"]),
        (["--checkpoint", checkpoint, "--ask", "?+7-2=\u00bd"], ["not a problem"]),
        (["--checkpoint", checkpoint, "--turns", "40"], ["context is 256"]),
    ]:
        done = program(*flags)
        assert done.returncode != 0 and "Traceback" not in done.stderr
        assert all(w in done.stderr for w in words), done.stderr


def test_first_attempts_of_another_model_are_corrected_not_ones_own():
    """first_from: the first answers are exactly the other model's greedy ones."""
    torch.manual_seed(1)
    make = lambda: GPT(GPTConfig(vocab_size=TASK.vocab, n_layer=1, n_embd=16, n_head=4, n_kv_head=4, head_dim=4, n_ff=16))
    one, other, problems = make(), make(), TASK.problems("val", 6, None)
    _, own = evaluate.evaluate(other, TASK, problems)
    _, given = evaluate.evaluate(one, TASK, problems, first_from=other)
    assert [d["answers"][0] for d in given] == [d["answers"][0] for d in own]


def test_picked_dialogues_are_of_their_kind():
    d = [{"prompt": str(i), "answers": ["a", "b"], "right": r} for i, r in enumerate([[True, True], [False, True], [False, False]])]
    assert {k: v["prompt"] for k, v in evaluate.pick_dialogues(d).items()} == {"corrected": "1", "kept": "0", "failed": "2"}
