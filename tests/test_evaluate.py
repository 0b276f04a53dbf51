"""Metrics, the evaluation program, and the embedded task's data."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

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


def seeds_of(*outcomes, same=90.0):
    """What `gather` has of an arm: a string of outcomes (r1 + 2·r2, a digit a problem) for each seed."""
    found = {}
    for i, o in enumerate(outcomes):
        n = len(o) / 100
        m = dict(t1=(o.count("1") + o.count("3")) / n, t2=(o.count("2") + o.count("3")) / n, fixed=o.count("2") / n, spoiled=o.count("1") / n)
        found[str(i)] = {"metrics": m | dict(delta=m["t2"] - m["t1"], same=same), "outcomes": o, "budget": [1000, 8]}
    return found


def test_paired_by_seed_and_problem():
    """The mean and both half-widths against the definitions, problem by problem; only seeds that both have count."""
    a, b = ("0123" * 5, "2222" * 5, "3210" * 5, "3333" * 5), ("0000" * 5, "2121" * 5, "0211" * 5)
    found = {"score": seeds_of(*a), "naive": seeds_of(*b)}
    for what, value in [("t1", lambda r1, r2: r1), ("t2", lambda r1, r2: r2), ("delta", lambda r1, r2: r2 - r1)]:
        worth = lambda digit: 100.0 * value(int(digit) % 2, int(digit) // 2)
        gaps = [[worth(x) - worth(y) for x, y in zip(*pair)] for pair in zip(a, b)]
        by_seed, by_problem = [sum(g) / 20 for g in gaps], [sum(g) / 3 for g in zip(*gaps)]
        mean, seeds, problems = evaluate.paired(found, "score", "naive", what)
        assert mean == pytest.approx(sum(by_seed) / 3) and seeds == pytest.approx(4.303 * torch.tensor(by_seed).std().item() / 3**0.5)
        assert problems == pytest.approx(1.96 * torch.tensor(by_problem).std(correction=0).item() / 20**0.5, abs=1e-4)
        assert mean == pytest.approx(sum(found["score"][k]["metrics"][what] - found["naive"][k]["metrics"][what] for k in "012") / 3)


def test_order_is_found_not_found_or_undecided():
    """Seeds that differ much, and always in the same direction: found, though their spreads overlap."""
    ahead = [("3" * n + "0" * (100 - n)) for n in (50, 70, 90)]
    behind = [("3" * (n - 8 - i) + "0" * (108 - n + i)) for i, n in enumerate((50, 70, 90))]
    found = {"score": seeds_of(*ahead), "naive": seeds_of(*behind), "single": seeds_of("1" * 100), "gamma": seeds_of(*ahead[::-1])}
    assert evaluate.order(found, "naive", "score", "t2").startswith("found (+9.0 ± 2.5; ± ")
    assert evaluate.order(found, "score", "naive", "t2").startswith("not found")
    assert evaluate.order(found, "naive", "score", "delta").startswith("undecided (+0.0")
    assert evaluate.order(found, "gamma", "score", "t2").startswith("undecided")  # seeds disagree
    assert evaluate.order(found, "single", "score", "t2") == "undecided"  # one seed decides nothing
    one = {"score": seeds_of(*["2" + "0" * 99] * 3), "naive": seeds_of(*["0" * 100] * 3)}
    assert evaluate.order(one, "naive", "score", "t2") == "undecided (+1.0 ± 0.0; ± 2.0)"  # one problem, in every seed
    two = {"score": seeds_of(*["2" * k + "0" * (100 - k) for k in (20, 30, 70)]), "naive": seeds_of(*["0" * 100] * 3)}
    assert evaluate.order(two, "naive", "score", "t2").startswith("undecided (+40.0 ± 65.7; ± ")  # clear over problems, not over seeds
    rows = evaluate.table(found, ("score", "naive", "base")).splitlines()
    assert len(rows) == 4 and "| **SCoRe** | 3 | 1k, 8 | 70.0 ± 49.7 | 70.0 ± 49.7 |" in rows[2] and "10 %" in rows[3]


def test_claims_hold_do_not_hold_or_stay_undecided():
    """Each verdict once, from seeds made for it."""
    score = seeds_of(*[("2" * n + "3" * 60 + "0" * (40 - n)) for n in (20, 21, 22)], same=75.0)
    found = {"score": score, "base": seeds_of(*["3" * 60 + "0" * 40] * 3, same=100.0), "naive": seeds_of(*["2" * 20 + "3" * 60 + "0" * 20] * 3)}
    found["star-d"] = seeds_of(*["2" * 40 + "3" * 60] * 3, same=60.0)
    found["no-shaping"] = seeds_of(*[("2" * n + "3" * 60 + "0" * (40 - n)) for n in (16, 18, 17)])
    voted = {"score": {str(i): {"1": [80.0, 82.0 + i], "2": [80.0, 80.0 + i - 1], "4": [80.0, 78.0]} for i in range(3)}}
    rows = [row.split(" | ") for row in evaluate.claims(found, voted).splitlines()[2:]]
    verdicts = {row[0].removeprefix("| "): row[1] for row in rows}
    assert verdicts == {
        "base: Δ is not above 0": "holds",
        "STaR, D: fewer changed answers than SCoRe": "does not hold",
        "STaR, D: Δ below SCoRe's": "does not hold",
        "naive multi-turn RL: Δ below SCoRe's": "undecided",
        "SCoRe: the highest Accuracy@t2 of all arms": "does not hold",
        "SCoRe without shaping: lowers Δ or Accuracy@t2": "holds",
        "K + K votes beat 2K, K = 1": "holds",
        "K + K votes beat 2K, K = 2": "undecided",
        "K + K votes beat 2K, K = 4": "does not hold",
    }
    assert "21.0 ± 2.5 against 20.0 ± 0.0; seed by seed +1.0 ± 2.5" in rows[3][2]
    assert "25.0 ± 0.0 against 40.0 ± 0.0" in rows[1][2] and "by 4.0, s.e. 0.6" in rows[5][2]
    del found["star-d"], found["naive"]
    assert "| SCoRe: the highest Accuracy@t2 of all arms | holds | the nearest, SCoRe without shaping: +4.0" in evaluate.claims(found, {})


def test_table_of_turns():
    ten = {"score": {"0": [80.0, 90.0, 91.0, 91.0] + [90.0] * 6, "1": [82.0, 92.0, 95.0, 93.0] + [94.0] * 6}, "base": {"0": [80.0] * 10}}
    rows = evaluate.turns_table(ten).splitlines()[2:]
    t = 12.706 / 2  # s.e. of two values is half their distance
    assert rows[0].startswith(f"| **SCoRe** | 2 | 81.0 ± {2 * t:.1f} | 91.0 ± {2 * t:.1f} | 93.0 ± {4 * t:.1f} | 92.0")
    assert rows[0].endswith(f"| 2.0 ± {2 * t:.1f} | -1.0 ± {2 * t:.1f} | 92.0 ± {4 * t:.1f} |")
    assert rows[1] == "| base, prompted twice | 1 | 80.0 | 80.0 | 80.0 | 80.0 | 0.0 | 0.0 | 80.0 |"


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
        assert s.device == "cpu"  # side by side, one thread each: a GPU would be shared by all, and no run be the same twice
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


def test_no_second_writer(tmp_path):
    """A run whose starter was killed lives on; the next call says so, and leaves its folder alone. When it has ended, all goes on."""
    slow = job(tmp_path, "base-0", "import time; time.sleep(60)")
    left = evaluate.start_job(slow)
    try:
        with pytest.raises(data.DataError, match="base-0: a run from an earlier call still writes here"):
            evaluate.run_jobs([slow], 1)
    finally:
        left.kill()
        left.wait()
    slow.command[2] = "import sys, pathlib; pathlib.Path(sys.argv[1]).write_text('x')"
    evaluate.run_jobs([slow], 1)


def test_a_stop_lets_every_run_write_its_checkpoint(tmp_path):
    """SIGTERM or Ctrl-C to the one command: SIGINT to each run, and the command waits for it."""
    code = (
        "import sys, time, signal, pathlib; p = pathlib.Path(sys.argv[1])\n"
        "signal.signal(signal.SIGINT, lambda *_: (time.sleep(0.3), p.with_name('saved').write_text(''), sys.exit(1)))\n"
        "p.with_name('begun').write_text(''); time.sleep(60)"
    )
    script = f"""import sys; sys.path.insert(0, {str(ROOT)!r})
import evaluate; from pathlib import Path
p = Path({str(tmp_path)!r}) / "base-0" / "stage0.pt"
evaluate.run_jobs([evaluate.Job("base-0", [sys.executable, "-c", {code!r}, str(p)], p, None, 1)], 1)"""
    for number in (signal.SIGTERM, signal.SIGINT):
        process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True)
        while process.poll() is None and not (tmp_path / "base-0" / "begun").exists():
            time.sleep(0.01)
        process.send_signal(number)
        assert b"KeyboardInterrupt" in process.communicate(timeout=60)[1]
        (tmp_path / "base-0" / "saved").unlink()
        (tmp_path / "base-0" / "begun").unlink()


def test_a_run_that_does_not_stop_is_killed(tmp_path):
    """One run fails, the other does not hear: the call ends all the same, and leaves no process behind."""
    deaf = job(tmp_path, "base-0", "import os, sys, time, signal, pathlib; signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
               "p = pathlib.Path(sys.argv[1]); p.with_name('new').write_text(str(os.getpid())); p.with_name('new').rename(p.with_name('pid')); time.sleep(60)")  # fmt: skip
    pid = deaf.result.with_name("pid")
    fails = job(tmp_path, "base-1", f"import time, pathlib\nwhile not pathlib.Path({str(pid)!r}).exists(): time.sleep(0.01)\nraise SystemExit('no luck')")
    with pytest.raises(data.DataError, match="base-1 ended with code 1: no luck"):
        evaluate.run_jobs([deaf, fails], 2, grace=0.1)
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


def test_stage1_is_shared_not_made_again(tmp_path):
    """An arm that goes on from the Stage I of `score` finds it in its own folder, whole; what is there already stays."""
    score = tmp_path / "score-0"
    score.mkdir()
    for name in ("stage1.pt", "stage1.jsonl", "stage2.pt"):
        (score / name).write_text(name)
    arm = job(tmp_path, "no-shaping-0", "import sys, pathlib; pathlib.Path(sys.argv[1]).write_text('made')", score / "stage2.pt")
    evaluate.run_jobs([arm], 1)
    made = {p.name: p.read_text() for p in arm.result.parent.iterdir() if p.name != "output.txt"}
    assert made == {"stage1.pt": "stage1.pt", "stage1.jsonl": "stage1.jsonl", "stage2.pt": "made"}


def test_a_finished_run_of_other_settings_is_not_taken(tmp_path):
    """What is there was made with the flags of this arm, or is refused by name; the base's path may be written otherwise."""
    arm = next(j for j in evaluate.jobs(tmp_path, ["naive"], 1, False) if j.name == "naive-0")
    evaluate.check_done(arm)  # not there yet
    s = train.parse([*arm.command[2:], "--n_layer", "1", "--n_embd", "16", "--base", "elsewhere"])
    arm.result.parent.mkdir()
    train.save(train.final_state(s, 2, GPT(train.laptop_config(s, TASK))), arm.result)
    arm.command += ["--n_layer", "1", "--n_embd", "16"]
    evaluate.check_done(arm)
    arm.command += ["--stage2_lr", "0.5"]
    with pytest.raises(data.DataError, match=r"stage2.pt: made with --stage2_lr 0.0002, and this comparison asks for 0.5"):
        evaluate.check_done(arm)


def test_measured_once_for_each_checkpoint(tmp_path):
    checkpoint, made = tmp_path / "stage2.pt", []
    checkpoint.write_text("")
    make = lambda: made.append(1) or [len(made)]
    assert evaluate.beside(checkpoint, "x", make) == evaluate.beside(checkpoint, "x", make) == [1]
    later = checkpoint.stat().st_mtime_ns + 10**10
    os.utime(checkpoint, ns=(later, later))
    assert evaluate.beside(checkpoint, "x", make) == [2]


def test_budget_is_what_was_drawn_and_done(tmp_path):
    """All stages of the run count, with the answers of every turn; updates are those that the logs hold."""
    s = train.parse("--stage 2 --turns 3 --rounds 2 --stage1_steps 5 --stage2_steps 7 --problems 4 --attempts 2".split())
    for name, lines in {"stage0": 9, "stage1": 5, "stage2": 7, "stage1-round2": 5, "stage2-round2": 3}.items():
        (tmp_path / f"{name}.jsonl").write_text("{}\n" * lines)
    state = {"stage": 2, "settings": train.remembered(s, 2)}
    assert evaluate.budget(tmp_path / "stage2-round2.pt", state) == [2 * (5 + 7) * 4 * 2 * 3, 20]
    assert evaluate.budget(tmp_path / "stage0.pt", {"stage": 0, "settings": train.remembered(s, 0)}) == [0, 0]


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
    readmes = (results / "README.md", tmp_path / "README.md")  # and no other: results may be written anywhere
    for readme in readmes:
        readme.write_text("before\n<!-- table main -->\nold\n<!-- end -->\nafter\n")
    ours = Path(evaluate.__file__).with_name("README.md")
    before = ours.read_text()
    evaluate.reproduce(tmp_path, results, ["base", "score", "three"], seeds=2, others=1, workers=1, quick=False, run=False, n=4)
    text, beside = (readme.read_text() for readme in readmes)
    assert text == beside and ours.read_text() == before
    kept, figures = (json.loads((results / name).read_text()) for name in ("paper.json", "figures.json"))
    assert text == f"before\n<!-- table main -->\n{evaluate.tables_of(kept['arms'], figures)['main']}\n<!-- end -->\nafter\n"
    assert stale(text, kept, figures) == [] and stale(text.replace("| 0.0 ± 0.0 |", "| 0.1 ± 0.0 |", 1), kept, figures) == ["main"]
    for by_seed in kept["arms"].values():
        for x in by_seed.values():
            o, m = x["outcomes"], x["metrics"]
            assert m["t1"] == 25 * (o.count("1") + o.count("3")) and m["fixed"] == 25 * o.count("2") and len(o) == 4
    assert kept["arms"]["score"]["0"]["metrics"]["truncated"] > 0  # an untrained model seldom ends an answer
    assert kept["split"] == "test" and kept["arms"].keys() == {"base", "score", "three"} and "| **SCoRe** | 2 |" in text
    assert [p["step"] for p in figures["training"]["score-0"]] == [50, 52] and figures["training"]["score-0"][0]["changed"] == 3
    assert sum(figures["edit ratios"]["score"]) == 8 and len(figures["ten attempts"]["three"]["0"]) == 10
    assert figures["votes"].keys() == {"base", "score"} and figures["votes"]["score"].keys() == {"0", "1"}
    assert len(figures["gradient variance"]) == 8


def test_curves_side_by_side_are_of_the_same_seeds():
    """Two arms, one with more seeds; an arm without a run takes nothing away, nor counts one whose log lacks the number."""
    with_, without = [{"t2": 1.0, "repairs": 2.0}], [{"t2": 1.0, "repairs": None}]
    runs = {"a-0": with_, "a-1": with_, "a-b-1": with_, "c-1": with_, "c-2": without}
    assert evaluate.in_common(runs, ("a", "c"), "t2").keys() == {"a-1", "c-1"}
    assert evaluate.in_common(runs, ("c",), "t2").keys() == {"c-1", "c-2"} and evaluate.in_common(runs, ("c",), "repairs").keys() == {"c-1"}
    assert evaluate.in_common(runs, ("a", "none"), "t2").keys() == {"a-0", "a-1"} and evaluate.in_common({}, ("a",), "t2") == {}


def test_ten_attempts_side_by_side_are_of_the_same_seeds():
    """An arm with more seeds than the others is drawn with theirs."""
    drawn = {}
    ten, vote = (SimpleNamespace(plot=lambda x, y, *_, label, **__: drawn.update({label: y}), set_xscale=lambda *_, **__: None) for _ in "tv")
    data_ = {"ten attempts": {"score": {"0": [80.0] * 10, "1": [90.0] * 10}, "three": {"1": [70.0] * 10}}, "votes": {}}
    evaluate.draw_attempts(ten, vote, data_)
    assert drawn == {"SCoRe": [90.0] * 10, "SCoRe, three attempts": [70.0] * 10}
    data_["ten attempts"]["four"] = {"2": [60.0] * 10}
    drawn.clear()
    evaluate.draw_attempts(ten, vote, data_)
    assert drawn == {}


def test_figures_are_drawn(tmp_path):
    """Every PNG, from data of two seeds of unequal length, and from none at all."""
    pytest.importorskip("matplotlib", reason="matplotlib draws the figures; their data does not need it")
    point = {"t1": 1.0, "t2": 2.0, "changed": 3.0, "repairs": None}
    seeds = {f"{arm}-{seed}": [point | {"step": 50 * i} for i in range(3 - seed)] for arm in ("score", "naive") for seed in (0, 1)}
    full = {
        "training": seeds, "edit ratios": {"base": [3] + [0] * 20}, "ten attempts": {"base": {"0": [80.0] * 10, "1": [81.0] * 10}},
        "votes": {"score": {"0": {"1": [1.0, 2.0], "16": [2.0, 3.0]}}}, "gradient variance": {"none, α = 1": 2.0, "first, α = 1": 1.0},
    }  # fmt: skip
    empty = {"training": {}, "edit ratios": {}, "ten attempts": {}, "votes": {}}
    for name, data_ in (("full", full), ("empty", empty)):
        folder = tmp_path / name
        folder.mkdir()
        said = evaluate.draw(data_, folder)
        drawn = {p.stem for p in folder.glob("*.png") if p.read_bytes()[:4] == b"\x89PNG"}
        assert drawn == {"training", "repairs", "gamma", "edits", "attempts", "variance"} and all(name in said for name in drawn)


def stale(text, kept, figures):
    """The tables between marks that do not say what the JSON says."""
    tables = evaluate.tables_of(kept["arms"], figures)
    found = re.findall(r"<!-- table (\S+) -->\n(.*?)\n<!-- end -->", text, flags=re.S)
    assert found
    return [name for name, rows in found if rows != tables[name]]


@pytest.mark.parametrize("path", ["README.md", "results/README.md"])
def test_tables_are_those_of_the_results(path):
    """Every table between marks says what results/paper.json and figures.json say."""
    kept, figures = (json.loads((ROOT / "results" / name).read_text()) for name in ("paper.json", "figures.json"))
    assert stale((ROOT / path).read_text(), kept, figures) == []
