"""Metrics, the evaluation program, and the embedded task's data."""

import json
import re
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
        (["--checkpoint", checkpoint, "--ask", "?+70-2+5=16"], ["steps of 1 to 29"]),
        (["--checkpoint", checkpoint, "--ask", "?+7-2=\u00bd"], ["not a problem"]),
        (["--checkpoint", checkpoint, "--turns", "1"], ["must be 2 or more"]),
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


# ------------------------------------------------------------------ the paper in miniature


def test_interval_over_seeds_against_the_t_distribution():
    """T975 by integrating Student's density; the interval by the textbook's formula."""
    for df, t in enumerate(evaluate.T975, 1):
        x = torch.linspace(0, t, 200_001, dtype=torch.float64)
        log_c = torch.lgamma(torch.tensor((df + 1) / 2)) - torch.lgamma(torch.tensor(df / 2))
        density = log_c.double().exp() / (df * torch.pi) ** 0.5 * (1 + x**2 / df) ** (-(df + 1) / 2)
        assert torch.trapezoid(density, x).item() == pytest.approx(0.475, abs=5e-5)
    mean, ci = evaluate.mean_ci([1.0, 2.0, 6.0])
    assert mean == 3 and ci == pytest.approx(4.303 * torch.tensor([1.0, 2.0, 6.0]).std().item() / 3**0.5)


def test_edit_ratio_against_its_definition():
    def distance(a, b):
        if not a or not b:
            return len(a) + len(b)
        return min(distance(a[1:], b) + 1, distance(a, b[1:]) + 1, distance(a[1:], b[1:]) + (a[0] != b[0]))

    words = ["", "a", "ab", "ba", "abc", "bca", "aabb", "b,a;0"]
    for a in words:
        for b in words:
            assert evaluate.edit_ratio(a, b) == distance(a, b) / max(len(a + b), 1)


def test_votes_by_hand(monkeypatch):
    """2K first answers against K second ones, in disjoint groups; of equally frequent answers the first given counts."""
    assert evaluate.majority(list("abcbac")) == "a" and evaluate.majority(list("abb")) == "b"
    problem, wrong = TASK.read("?+7-2+5=16"), "4,11,9,14;-2"
    right = "6,13,11,16;0"
    drawn = {1: [right, wrong, wrong, wrong], 2: [wrong, right, right, right]}

    class Drawn:
        def answers(self, i):
            return [TASK.encode(text) for text in drawn[i]]

    policy = GPT(GPTConfig(vocab_size=TASK.vocab, n_layer=1, n_embd=16, n_head=4, n_kv_head=4, head_dim=4, n_ff=16))
    monkeypatch.setattr(evaluate.rollout, "sample", lambda *_, **__: Drawn())
    assert evaluate.votes(policy, TASK, [problem], 2) == {"1": [50.0, 75.0], "2": [0.0, 50.0]}


def seeds_of(*pairs):
    """(t2, Δ) a seed, as `gather` has them."""
    blank = dict(t1=0.0, fixed=0.0, spoiled=0.0, same=90.0)
    return {str(i): {"metrics": blank | dict(t2=t2, delta=delta)} for i, (t2, delta) in enumerate(pairs)}


def test_order_is_paired_over_seeds():
    """Seeds that differ much, and always in the same direction: found, though their spreads overlap."""
    found = {"score": seeds_of((50, 5), (70, 6), (90, 7)), "naive": seeds_of((48, 5.1), (67.9, 6), (88, 6.9)), "single": seeds_of((1, 1))}
    assert evaluate.order(found, "naive", "score", "t2").startswith("found (+2.0")
    assert evaluate.order(found, "score", "naive", "t2").startswith("not found")
    assert evaluate.order(found, "naive", "score", "delta").startswith("undecided")
    assert evaluate.order(found, "single", "score", "t2") == "undecided"  # one seed decides nothing
    rows = evaluate.table(found, ("score", "naive", "base")).splitlines()
    assert len(rows) == 4 and "| **SCoRe** | 3 | 0.0 ± 0.0 | 70.0 ± 49.7 |" in rows[2] and "10 %" in rows[3]


def test_every_arm_has_the_same_budget():
    """Answers drawn and updates of dialogues: as many as both stages of SCoRe have, to a rounding."""
    for job in evaluate.jobs(Path("runs/x"), list(evaluate.ARMS), 5, False):
        s = train.parse(job.command[2:])
        arm = evaluate.ARMS[job.name.rsplit("-", 1)[0]]
        stages = [stage for stage, _ in train.plan(s)]
        steps = s.stage1_steps * stages.count(1) + s.stage2_steps * stages.count(2)
        assert (s.stage == 0) == (arm.flags is None) and job.result.parent == Path(s.folder)
        if s.stage == 2:
            whole = train.Settings()
            assert abs(steps * s.turns - 2 * (whole.stage1_steps + whole.stage2_steps)) <= 4, job.name
            assert s.problems * s.attempts * s.siblings == whole.problems * whole.attempts * whole.siblings
            assert Path(s.base).parent.name.endswith(f"base-{s.seed}") and s.task == arm.task
    names = [job.name for job in evaluate.jobs(Path("x"), ["naive", "no-shaping"], 5, False)]
    assert names.count("base-0") == 1 and "naive-4" in names and "no-shaping-2" in names and "no-shaping-3" not in names
    assert set(sum(evaluate.TABLES.values(), ())) == set(evaluate.ARMS)


def job(folder, name, code, needs=None):
    result = folder / name / "stage2.pt"
    return evaluate.Job(name, [sys.executable, "-c", code, str(result)], result, needs, 1)


def test_runs_go_on_where_they_were(tmp_path, capsys):
    """What is done is not done again; what needs a result waits for it; a run that fails is named with its last line."""
    make = "import sys, pathlib; p = pathlib.Path(sys.argv[1]); p.write_text('x')"
    first = job(tmp_path, "base-0", make)
    second = job(tmp_path, "score-0", "import sys, pathlib; print('loss\\rno luck'); sys.exit(3)", first.result)
    with pytest.raises(data.DataError, match="score-0 ended with code 3: no luck"):
        evaluate.run_jobs([second, first], 2)
    stamp = first.result.stat().st_mtime_ns
    second.command[2] = make
    evaluate.run_jobs([second, first], 2)
    assert first.result.stat().st_mtime_ns == stamp and second.result.exists()
    assert "1 of 2 runs are done" in capsys.readouterr().out


def test_tables_and_figures_of_what_is_there(tmp_path, monkeypatch):
    """The whole of --reproduce behind the runs, on untrained models: every file, and the marks of a README filled."""
    monkeypatch.setattr(evaluate.gradient_variance, "__defaults__", (2,))
    torch.manual_seed(1)
    s = train.parse(["--n_layer", "1", "--n_embd", "16"])
    for name in ("base-0/stage0", "base-1/stage0", "score-0/stage1", "score-0/stage2", "score-1/stage2", "three-0/stage2"):
        path = tmp_path / f"{name}.pt"
        path.parent.mkdir(exist_ok=True)
        train.save(train.final_state(s, int(name[-1]), GPT(train.laptop_config(s, TASK))), path)
    line = {"step": 49, "held_out": {"t1": 1.0, "t2": 2.0, "same": 97.0}, "repairs_base": 3.0}
    (tmp_path / "score-0" / "stage1.jsonl").write_text(json.dumps({"step": 0}) + "\n" + json.dumps(line) + "\n")
    (tmp_path / "score-0" / "stage2.jsonl").write_text(json.dumps(line) + "\n")
    results = tmp_path / "results"
    results.mkdir()
    (results / "README.md").write_text("before\n<!-- table main -->\nold\n<!-- end -->\nafter\n")
    monkeypatch.setattr(evaluate, "__file__", str(tmp_path / "evaluate.py"))
    evaluate.reproduce(tmp_path, results, ["base", "score", "three"], seeds=2, workers=1, quick=False, run=False, n=4)
    text = (results / "README.md").read_text()
    kept = json.loads((results / "paper.json").read_text())
    assert text == f"before\n<!-- table main -->\n{evaluate.tables_of(kept['arms'])['main']}\n<!-- end -->\nafter\n"
    assert kept["split"] == "test" and kept["arms"].keys() == {"base", "score", "three"} and "| **SCoRe** | 2 |" in text
    figures = json.loads((results / "figures.json").read_text())
    assert [p["step"] for p in figures["training"]["score-0"]] == [50, 52] and figures["training"]["score-0"][0]["changed"] == 3
    assert sum(figures["edit ratios"]["score"]) == 8 and len(figures["ten attempts"]["three"]) == 10
    assert len(figures["gradient variance"]) == 8


@pytest.mark.parametrize("path", ["README.md", "results/README.md"])
def test_tables_are_those_of_the_results(path):
    """Every table between marks says what results/paper.json says."""
    tables = evaluate.tables_of(json.loads((ROOT / "results" / "paper.json").read_text())["arms"])
    found = re.findall(r"<!-- table (\S+) -->\n(.*?)\n<!-- end -->", (ROOT / path).read_text(), flags=re.S)
    assert found
    for name, rows in found:
        assert rows == tables[name]
