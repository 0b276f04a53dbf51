"""results/: the supervised baselines, the runs of the comparison, and the statistics in its tables."""

import dataclasses
import json
import multiprocessing
import os
import random
import re
import signal
import sys
import time
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "results"))

import baselines  # noqa: E402
import data  # noqa: E402
import evaluate  # noqa: E402
import report  # noqa: E402
import reproduce  # noqa: E402
import rollout  # noqa: E402
import train  # noqa: E402
from arms import ARMS, PARTS, TABLES  # noqa: E402
from model import GPT, UserError, save_checkpoint  # noqa: E402
from runtime import remembered  # noqa: E402

TASK = data.make_task("false-position")
# An untrained model that nearly always ends its answers, and a verifier that finds half of them right.
HALF_RIGHT = dataclasses.replace(
    TASK, stops=list(range(0, 350, 2)), rewards=lambda problems, answers: [len(answer) % 2 for answer in answers]
)


def settings(*flags):
    small = "--problems 4 --attempts 2 --stage2_steps 6 --save_every 1 --eval_problems 5 --warmup 1 --device cpu"
    base = __file__  # a checkpoint remembers a fingerprint of the base's file: any file will do
    return baselines.parse([*small.split(), "--stage2_lr", "0.01", "--base", base, *map(str, flags)])


def tiny(seed=0):
    torch.manual_seed(seed)
    return GPT(train.laptop_config(train.Settings(n_layer=1, n_embd=16), TASK))


def weights_of(model):
    return {name: x.clone() for name, x in model.state_dict().items()}


def same_weights(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def checkpoint(path, stage, s=None, seed=0, **changes):
    """Write an untrained model as a finished stage."""
    model, s = tiny(seed), s or train.Settings(**changes)
    path.parent.mkdir(exist_ok=True)
    head = {"stage": stage, "settings": remembered(s, stage)}
    save_checkpoint(head | {"config": dataclasses.asdict(model.config), "model": model.state_dict()}, path)
    return path


# ------------------------------------------------------------------ STaR and Pair-SFT

ROWS = [  # prompt, first answer, p1, second answer, rewards; 9 is EOS; two problems of two dialogues
    ([1, 2], [11, 9], [8], [12, 9], (0, 1)),
    ([1, 2], [13, 9], [8], [14, 9], (1, 1)),
    ([3], [15, 15], [8], [16, 9], (0, 0)),  # its first answer was cut
    ([3], [17, 9], [8], [18, 9], (1, 0)),
]


def hand_made():
    ids = [x + y1 + p1 + y2 for x, y1, p1, y2, _ in ROWS]
    start = torch.tensor([[len(x), len(x + y1 + p1)] for x, y1, p1, _, _ in ROWS])
    stop = torch.tensor([[len(x + y1), len(row)] for (x, y1, *_), row in zip(ROWS, ids)])
    finished = torch.tensor([[True, True], [True, True], [False, True], [True, True]])
    padded, length = rollout.pad(ids), torch.tensor([len(row) for row in ids])
    drawn = rollout.Rollouts(padded, torch.zeros_like(padded), torch.zeros(padded.shape), length, start, stop, finished)
    return evaluate.Batch(drawn, [], finished, torch.tensor([r for *_, r in ROWS]).float())


def test_star_imitates_only_the_right_answers_of_corrected_dialogues():
    corrected = ([1, 2, 11, 9, 8, 12, 9], [0, 0, 0, 0, 0, 2, 2])
    kept = ([1, 2, 13, 9, 8, 14, 9], [0, 0, 1, 1, 0, 2, 2])
    assert baselines.select(settings("--method", "star"), hand_made(), random.Random(0)) == [corrected]
    assert baselines.select(settings("--keep_right"), hand_made(), random.Random(0)) == [corrected, kept]


def test_pairs_join_a_first_answer_with_any_right_answer_to_the_same_problem():
    """Of either turn, but never with itself: on D⁺ 17 is the only right answer to its problem, and has no partner."""
    rights = ([12, 9], [13, 9], [14, 9])
    wrong = {str(([1, 2, 11, 9, 8, *y], [0, 0, 0, 0, 0, 2, 2])) for y in rights}
    wrong.add(str(([3, 15, 15, 8, 17, 9], [0, 0, 0, 0, 2, 2])))
    right = {str(([1, 2, 13, 9, 8, *y], [0, 0, 1, 1, 0, 2, 2])) for y in rights if y != [13, 9]}
    for flags, expected in ((["--method", "pairs"], wrong), (["--method", "pairs", "--keep_right"], wrong | right)):
        seen = set()
        for seed in range(40):
            seen |= {str(x) for x in baselines.select(settings(*flags), hand_made(), random.Random(seed))}
        assert seen == expected


def test_star_rounds_start_from_the_first_weights_and_collect_with_the_last(tmp_path, monkeypatch):
    """Policy, average and Adam start anew. The problems are those of RL, each step once, and all answers are sampled."""
    s, steps, collectors, trained, averages = settings("--keep_right"), [], [], [], []
    loss, update = baselines.score.supervised_loss, baselines.update_average
    draw, sample = train.draw_problems, evaluate.sample_and_judge

    def supervised_loss(model, *rest):
        trained.append(weights_of(model))
        return loss(model, *rest)

    def draw_problems(s, task, stage, step):
        steps.append((stage, step))
        return draw(s, task, stage, step)

    def sample_and_judge(policy, task, problems, **sampling):
        collectors.append(weights_of(policy))
        assert len(problems) == 4 and sampling["K"] == 2 and sampling.get("given") is None
        return sample(policy, task, problems, **sampling)

    def update_average(average, *rest):
        averages.append(weights_of(average))
        update(average, *rest)

    monkeypatch.setattr(baselines.score, "supervised_loss", supervised_loss)
    monkeypatch.setattr(train, "draw_problems", draw_problems)
    monkeypatch.setattr(evaluate, "sample_and_judge", sample_and_judge)
    monkeypatch.setattr(baselines, "update_average", update_average)
    baselines.fine_tune(s, HALF_RIGHT, tiny(), tiny(), tmp_path)
    first = tiny().state_dict()
    assert steps == [(2, step) for step in range(6)]
    assert len(trained) == len(averages) == 6
    for step in (0, 2, 4):
        assert same_weights(trained[step], first) and same_weights(averages[step], first)
        assert same_weights(collectors[step], collectors[step + 1])
    assert not same_weights(trained[1], first) and same_weights(collectors[0], first)
    assert not same_weights(collectors[2], first) and not same_weights(collectors[2], collectors[4])
    # Adam's first step moves a weight with a gradient by the learning rate: so does the first of round 2
    moved = torch.cat([(trained[3][name] - first[name]).abs().flatten() for name in first])
    rate = s.stage2_lr * train.learning_rate(s, 0, 2)
    assert moved[moved > 0].median().item() == pytest.approx(rate, rel=0.02)


# step 1: inside round 1; 2: between two rounds; 3: inside round 2; 6: between the last checkpoint and stage2.pt
@pytest.mark.parametrize("method, killed", [("star", 1), ("star", 2), ("star", 3), ("star", 6), ("pairs", 2), ("pairs", -1)])
def test_fine_tuning_resumes_to_the_bit(tmp_path, monkeypatch, method, killed):
    s = settings("--method", method, "--keep_right")
    (tmp_path / "whole").mkdir(), (tmp_path / "killed").mkdir()
    whole = baselines.fine_tune(s, HALF_RIGHT, tiny(), tiny(), tmp_path / "whole")
    log = [json.loads(line) for line in (tmp_path / "whole" / "stage2.jsonl").read_text().splitlines()]
    if method == "pairs":  # one epoch: as many dialogues as were collected, and no more
        assert len(log) == -(-log[0]["examples"] // 8) < 6
    killed = len(log) if killed == -1 else killed
    save = baselines.Recorder.save

    def save_and_die(record, step, *rest):
        save(record, step, *rest)
        if step + 1 == killed:
            raise RuntimeError("killed")

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="killed"):
        patch.setattr(baselines.Recorder, "save", save_and_die)
        baselines.fine_tune(s, HALF_RIGHT, tiny(), tiny(), tmp_path / "killed")
    assert same_weights(whole, baselines.fine_tune(s, HALF_RIGHT, tiny(), tiny(), tmp_path / "killed"))
    resumed = [json.loads(line) for line in (tmp_path / "killed" / "stage2.jsonl").read_text().splitlines()]
    assert [x["loss"] for x in resumed] == [x["loss"] for x in log] and not same_weights(whole, tiny().state_dict())


def test_the_learning_rate_of_pairs_ends_with_the_epoch(tmp_path, monkeypatch):
    """Decaying over all steps of RL, it would be cut off at a high value."""
    asked, rate = [], train.learning_rate
    monkeypatch.setattr(train, "learning_rate", lambda s, at, steps: asked.append((at, steps)) or rate(s, at, steps))
    baselines.fine_tune(settings("--method", "pairs"), HALF_RIGHT, tiny(), tiny(), tmp_path)
    assert asked == [(at, len(asked)) for at in range(len(asked))] and 1 < len(asked) < 6


def test_nothing_to_imitate_is_an_error(tmp_path):
    with pytest.raises(UserError, match="--method star: 2 steps hold no dialogue to imitate"):
        baselines.fine_tune(settings(), TASK, tiny(), tiny(), tmp_path)  # an untrained model is never right


def test_stage2_of_a_baseline_is_read_like_that_of_train(tmp_path, monkeypatch):
    """The folder is finished, evaluate.py reads it, and other settings are refused."""
    monkeypatch.setattr(data, "make_task", lambda *names: HALF_RIGHT)
    base, start = checkpoint(tmp_path / "base" / "stage0.pt", 0), checkpoint(tmp_path / "one" / "stage1.pt", 1, seed=1)
    folder, fine_tune = tmp_path / "star", baselines.fine_tune
    flags = ["--base", base, "--start", start, "--folder", folder, "--keep_right"]

    def check_and_fine_tune(s, task, first, reference, folder):
        assert same_weights(first.state_dict(), tiny(1).state_dict())
        assert same_weights(reference.state_dict(), tiny(0).state_dict())
        return fine_tune(s, task, first, reference, folder)

    monkeypatch.setattr(baselines, "fine_tune", check_and_fine_tune)
    baselines.run(settings(*flags))
    policy, task, s = evaluate.open_policy(folder / "stage2.pt", evaluate.parse([]))
    assert s["method"] == "star" and sorted(p.name for p in folder.glob("*.pt")) == ["stage2.pt"]
    written = (folder / "stage2.pt").stat().st_mtime_ns
    baselines.run(settings(*flags))
    assert (folder / "stage2.pt").stat().st_mtime_ns == written
    with pytest.raises(UserError, match="--method star"):
        baselines.run(settings(*flags, "--method", "pairs"))


@pytest.mark.parametrize(
    "flags, words", [("--alpha 3", "--alpha"), ("--method rest", "star, pairs"), ("--base=", "--base FILE"), ("--warmup -1", "--warmup")]
)
def test_flags_of_the_baselines(flags, words, capsys):
    with pytest.raises(SystemExit):
        settings(*flags.split())
    assert words in capsys.readouterr().err.splitlines()[-1]


# ------------------------------------------------------------------ the runs


def arguments(*flags, **more):
    args = reproduce.parse(["runs/x", *flags])
    vars(args).update(more)
    return args


def test_every_arm_has_the_budget_of_score():
    """As many dialogues and updates as SCoRe has, counting those of the runs that an arm starts from."""
    args, defaults = arguments(), train.Settings()
    runs = {run.name: run for run in reproduce.all_runs(Path("runs/x"), list(ARMS), args)}

    def steps(run):
        s = reproduce.parse_run(run)
        own = s.stage1_steps + s.stage2_steps
        if s.start:  # of the first stage only, if it starts from Stage I
            other, stage = Path(s.start).parent.name, Path(s.start).stem
            own += reproduce.parse_run(runs[other]).stage1_steps if stage == "stage1" else steps(runs[other])
        return own

    for run in runs.values():
        s, name = reproduce.parse_run(run), run.name.rsplit("-", 1)[0]
        arm = (ARMS | PARTS)[name]
        assert run.result.parent == Path(s.folder) and s.task == arm.task and s.device == "cpu"
        if arm.flags is None:
            assert s.stage == 0
        elif name not in PARTS:
            assert steps(run) == defaults.stage1_steps + defaults.stage2_steps, name
            assert s.problems * s.attempts * s.siblings == defaults.problems * defaults.attempts * defaults.siblings
            assert Path(s.base).parent.name == f"{reproduce.base_of(arm)}-{run.name.rsplit('-', 1)[1]}"
    assert set(sum(TABLES.values(), ())) == set(ARMS)


def test_runs_come_after_those_that_they_start_from():
    """One base per seed; a run without its own row is made for the arm that starts from it; other arms have fewer seeds."""
    runs = reproduce.all_runs(Path("x"), ["rounds", "naive", "self-refine", "no-shaping"], arguments())
    names = [run.name for run in runs]
    assert len(set(names)) == len(names) and {"naive-4", "base-4", "no-shaping-2", "round1-2"} <= set(names)
    assert not {"rounds-3", "score-3", "self-refine-0"} & set(names)
    made = set()
    for run in runs:
        assert run.needs is None or run.needs.parent.name in made
        made.add(run.name)
    by_name = {run.name: run for run in runs}
    assert by_name["no-shaping-1"].needs == Path("x/score-1/stage1.pt")
    seeds = {reproduce.parse_run(by_name[name]).seed for name in ("rounds-0", "rounds-1", "round1-0", "round1-1")}
    assert len(seeds) == 4  # a second round with the first one's seed would draw the same problems


def a_run(folder, name, code, needs=None):
    result = folder / name / "stage2.pt"
    return reproduce.Run(name, [sys.executable, "-c", code, str(result)], result, needs, 1)


MAKE = "import sys, pathlib; pathlib.Path(sys.argv[1]).write_text('x')"


def test_finished_runs_are_kept_and_a_failed_one_is_reported_with_its_last_line(tmp_path, capsys):
    first = a_run(tmp_path, "base-0", "import time; time.sleep(0.5); " + MAKE)
    early = f"import sys, pathlib; sys.exit(4) if not pathlib.Path({str(first.result)!r}).exists() else 0"
    second = a_run(tmp_path, "score-0", f"{early}; print('loss\\rno luck'); sys.exit(3)", first.result)
    with pytest.raises(UserError, match="score-0 ended with code 3: no luck"):
        reproduce.run_all([second, first], 2)
    written = first.result.stat().st_mtime_ns
    second.command[2] = MAKE
    reproduce.run_all([second, first], 2)
    assert first.result.stat().st_mtime_ns == written and second.result.exists()
    assert "1 of 2 runs are finished" in capsys.readouterr().out


def test_a_run_that_ends_well_without_a_result_has_failed(tmp_path):
    with pytest.raises(UserError, match="base-0 ended with code 0: no output"):
        reproduce.run_all([a_run(tmp_path, "base-0", "pass")], 1)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_sends_one_sigterm_to_each_run_and_waits_for_its_checkpoint(tmp_path, number):
    """A second signal would end train.py without a checkpoint."""
    code = (
        "import sys, time, signal, pathlib; p = pathlib.Path(sys.argv[1]); seen = []\n"
        "signal.signal(signal.SIGTERM, lambda *_: seen.append(1))\n"
        "p.with_name('begun').write_text('')\n"
        "while not seen: time.sleep(0.01)\n"
        "time.sleep(0.3); p.with_name('saved').write_text(str(len(seen)))"
    )
    run = a_run(tmp_path, "base-0", code)

    def command():
        os.setsid()
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a shell does for a command in the background
        reproduce.run_all([run], 1)

    process = multiprocessing.get_context("fork").Process(target=command)
    process.start()
    while process.is_alive() and not run.result.with_name("begun").exists():
        time.sleep(0.01)
    os.killpg(process.pid, number)  # the whole group, as Ctrl-C does
    process.join(60)
    assert process.exitcode == 1 and run.result.with_name("saved").read_text() == "1"


def test_a_run_that_does_not_stop_is_killed(tmp_path):
    """Another run fails, this one ignores the signal: the command ends all the same, and leaves no process."""
    code = (
        "import os, sys, time, signal, pathlib; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "p = pathlib.Path(sys.argv[1]); p.with_name('new').write_text(str(os.getpid()))\n"
        "p.with_name('new').rename(p.with_name('pid')); time.sleep(60)"
    )
    deaf = a_run(tmp_path, "base-0", code)
    pid = deaf.result.with_name("pid")
    wait = f"import time, pathlib\nwhile not pathlib.Path({str(pid)!r}).exists(): time.sleep(0.01)\nraise SystemExit('no luck')"
    with pytest.raises(UserError, match="base-1 ended with code 1: no luck"):
        reproduce.run_all([deaf, a_run(tmp_path, "base-1", wait)], 2, grace=0.1)
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


def test_a_finished_run_of_other_settings_is_refused(tmp_path):
    """It would be in the tables under the name of this arm."""
    run = next(r for r in reproduce.all_runs(tmp_path, ["naive"], arguments()) if r.name == "naive-0")
    reproduce.check_finished(run)  # not there yet
    checkpoint(tmp_path / "base-0" / "stage0.pt", 0)
    checkpoint(run.result, 2, reproduce.parse_run(run))
    reproduce.check_finished(run)
    run.command += ["--stage2_lr", "0.5"]
    with pytest.raises(UserError, match=r"stage2.pt: made with --stage2_lr 0.0002, and now it is 0.5"):
        reproduce.check_finished(run)


# ------------------------------------------------------------------ measurements


def test_a_measurement_is_repeated_for_a_new_checkpoint(tmp_path):
    path, calls = tmp_path / "stage2.pt", []
    path.write_text("")

    def measure(path, name):
        calls.append(name)
        return len(calls)

    assert reproduce.cached(path, "x", measure, "a") == reproduce.cached(path, "x", measure, "a") == 1
    later = path.stat().st_mtime_ns + 10**10
    os.utime(path, ns=(later, later))
    assert reproduce.cached(path, "x", measure, "a") == 2


def test_budget_counts_the_stages_that_led_to_a_checkpoint(tmp_path):
    """Answers that were drawn, of the run and of what it starts from, wherever the folder is now; updates that were made."""
    sizes = {"stage1_steps": 5, "stage2_steps": 7, "problems": 4, "attempts": 2}
    stage1, base = (checkpoint(tmp_path / "score-0" / f"stage{i}.pt", i, **sizes) for i in (1, 0))
    (tmp_path / "score-0" / "stage1.jsonl").write_text("{}\n" * 5)
    (tmp_path / "score-0" / "stage2.jsonl").write_text("{}\n" * 7)  # Stage II of that run does not count
    own = sizes | {"stage1_steps": 0, "start": str(stage1)}
    last = checkpoint(tmp_path / "pairs-0" / "stage2.pt", 2, **own)
    last.with_name("stage2.jsonl").write_text("{}\n" * 3)  # one epoch
    assert reproduce.budget(base) == [0, 0] and reproduce.budget(stage1) == [5 * 8 * 2, 5]
    tmp_path.joinpath("score-0").rename(tmp_path / "moved")
    (tmp_path / "new").mkdir()
    (tmp_path / "moved").rename(tmp_path / "new" / "score-0")
    (tmp_path / "pairs-0").rename(tmp_path / "new" / "pairs-0")
    assert reproduce.budget(tmp_path / "new" / "pairs-0" / "stage2.pt") == [(5 + 7) * 8 * 2, 8]


def test_the_last_of_three_answers_counts_as_the_second(tmp_path, monkeypatch):
    """Self-Refine. An outcome is r1 + 2·r2: the comparison of arms reads nothing else."""
    dialogues = []
    for answers, right in (("aab", (1, 0, 0)), ("aba", (0, 1, 0)), ("abb", (0, 0, 1)), ("aaa", (1, 0, 1))):
        right = [bool(r) for r in right]
        dialogues.append({"prompt": "", "answers": list(answers), "right": right, "ended": [True, False, True]})
    monkeypatch.setattr(evaluate, "evaluate", lambda *args, turns: dialogues)
    found = reproduce.measure(checkpoint(tmp_path / "base" / "stage0.pt", 0), 3, "val", 4)
    m = found["metrics"]
    assert found["outcomes"] == "1023" and found["ratios"] == [0.5, 0.0, 0.5, 0.0]
    assert (m["t1"], m["t2"], m["fixed"], m["spoiled"], m["same"], m["truncated"]) == (50, 50, 25, 25, 50, 0)


def test_edit_ratio_by_its_definition():
    def distance(a, b):
        if not a or not b:
            return len(a) + len(b)
        return min(distance(a[1:], b) + 1, distance(a, b[1:]) + 1, distance(a[1:], b[1:]) + (a[0] != b[0]))

    words = ["", "a", "ab", "ba", "abc", "bca", "aabb", "b,a;0"]
    for a in words:
        for b in words:
            assert reproduce.edit_ratio(a, b) == distance(a, b) / max(len(a + b), 1)


def test_votes_by_hand():
    """Disjoint groups are trials; of equally frequent answers the first one given counts."""
    assert reproduce.majority(list("abcbac")) == "a" and reproduce.majority(list("abb")) == "b"
    problem, wrong, right = TASK.read("?+7-2+5=16"), "4,11,9,14;-2", "6,13,11,16;0"
    answers = [right, wrong, wrong, wrong]
    assert [reproduce.vote_accuracy(TASK, problem, answers, size) for size in (1, 2, 4)] == [0.25, 0.5, 0.0]


def test_tables_and_figures_of_untrained_models(tmp_path, monkeypatch):
    """All that follows the runs: both JSON files, the markers of both READMEs, and the figures."""
    monkeypatch.setattr(reproduce.gradient_variance, "__defaults__", (2,))
    monkeypatch.setattr(reproduce, "VOTES", (1, 2))
    monkeypatch.setattr(report, "draw", lambda figures, folder: "drawn")  # has a test of its own
    for name in ("base-0/stage0", "base-1/stage0", "score-0/stage1", "score-0/stage2", "score-1/stage2", "naive-0/stage2"):
        checkpoint(tmp_path / f"{name}.pt", int(name[-1]))
    line = {"step": 49, "held_out": {"t1": 1.0, "t2": 2.0, "same": 97.0}, "repairs_base": 3.0}
    (tmp_path / "score-0" / "stage1.jsonl").write_text(json.dumps({"step": 0}) + "\n" + json.dumps(line) + "\n")
    (tmp_path / "score-0" / "stage2.jsonl").write_text(json.dumps(line) + "\n")
    results = tmp_path / "results"
    results.mkdir()
    readmes = [results / "README.md", tmp_path / "README.md"]
    for readme in readmes:
        readme.write_text("before\n<!-- table main -->\nold\n<!-- end -->\nafter\n<!-- end -->\n")
    more = {"folder": tmp_path, "results": results, "arms": "base,self-refine,score,naive", "no_runs": True, "n": 4}
    reproduce.reproduce(arguments(**more, seeds=2))
    paper, figures = (json.loads((results / name).read_text()) for name in ("paper.json", "figures.json"))
    table = report.all_tables(paper["arms"], figures)["main"]
    for readme in readmes:
        assert readme.read_text() == f"before\n<!-- table main -->\n{table}\n<!-- end -->\nafter\n<!-- end -->\n"
    for by_seed in paper["arms"].values():
        for x in by_seed.values():
            o, m = x["outcomes"], x["metrics"]
            assert m["t1"] == 25 * (o.count("1") + o.count("3")) and m["fixed"] == 25 * o.count("2") and len(o) == 4
    assert {arm: len(by_seed) for arm, by_seed in paper["arms"].items()} == {"base": 2, "self-refine": 2, "score": 2, "naive": 1}
    assert [(p["step"], p["changed"]) for p in figures["training"]["score-0"]] == [(50, 3.0), (52, 3.0)]
    assert sum(figures["edit ratios"]["score"]) == 8 and len(figures["ten attempts"]["score"]["1"]) == 10
    assert figures["votes"]["base"].keys() == {"0", "1"} and len(figures["gradient variance"]) == 8


# ------------------------------------------------------------------ statistics and tables


def test_intervals_are_those_of_students_t():
    """T975 by integrating the density; the interval by the textbook's formula."""
    for df, t in enumerate(report.T975, 1):
        x = torch.linspace(0, t, 200_001, dtype=torch.float64)
        log_c = torch.lgamma(torch.tensor((df + 1) / 2)) - torch.lgamma(torch.tensor(df / 2))
        density = log_c.double().exp() / (df * torch.pi) ** 0.5 * (1 + x**2 / df) ** (-(df + 1) / 2)
        assert torch.trapezoid(density, x).item() == pytest.approx(0.475, abs=5e-5)
    mean, ci = report.mean_ci([1.0, 2.0, 6.0])
    assert mean == 3 and ci == pytest.approx(4.303 * torch.tensor([1.0, 2.0, 6.0]).std().item() / 3**0.5)


def seeds_of(*outcomes, same=90.0):
    """The data of an arm, from one string of outcomes (a digit r1 + 2·r2 per problem) for each seed."""
    found = {}
    for i, o in enumerate(outcomes):
        counts = {digit: 100 * o.count(digit) / len(o) for digit in "123"}
        m = {"t1": counts["1"] + counts["3"], "t2": counts["2"] + counts["3"], "fixed": counts["2"], "spoiled": counts["1"]}
        m |= {"delta": m["t2"] - m["t1"], "same": same}
        found[str(i)] = {"metrics": m, "outcomes": o, "budget": [1000, 8]}
    return found


def test_paired_differences_by_hand():
    """The mean and both half-widths by their definitions, problem by problem; only seeds that both have count."""
    a, b = ("0123" * 5, "2222" * 5, "3210" * 5, "3333" * 5), ("0000" * 5, "2121" * 5, "0211" * 5)
    found = {"score": seeds_of(*a), "naive": seeds_of(*b)}
    worth = {"t1": lambda d: 100 * (d % 2), "t2": lambda d: 100 * (d // 2), "delta": lambda d: 100 * (d // 2 - d % 2)}
    for metric, value in worth.items():
        gaps = torch.tensor([[value(int(x)) - value(int(y)) for x, y in zip(*pair)] for pair in zip(a, b)]).double()
        mean, over_seeds, over_problems = report.paired(found, "score", "naive", metric)
        assert mean == pytest.approx(gaps.mean().item())
        assert over_seeds == pytest.approx(4.303 * gaps.mean(1).std().item() / 3**0.5)
        assert over_problems == pytest.approx(1.96 * gaps.mean(0).std(correction=0).item() / 20**0.5)


def test_a_lead_is_found_only_if_seeds_and_problems_agree():
    """Seeds that differ much, always in the same direction: found, although their spreads overlap."""
    ahead = ["3" * n + "0" * (100 - n) for n in (50, 70, 90)]
    behind = ["3" * (n - 8 - i) + "0" * (108 - n + i) for i, n in enumerate((50, 70, 90))]
    zero = seeds_of(*["0" * 100] * 3)
    found = {"score": seeds_of(*ahead), "naive": seeds_of(*behind), "single": seeds_of("1" * 100), "base": zero}
    found |= {"gamma": seeds_of(*ahead[::-1]), "star-d": seeds_of(*["2" + "0" * 99] * 3)}
    found["pairs-d"] = seeds_of(*["2" * n + "0" * (100 - n) for n in (20, 30, 70)])
    for best, arm, metric, expected in (
        ("score", "naive", "t2", "found (+9.0 ± 2.5; ± "),
        ("naive", "score", "t2", "not found (-9.0"),
        ("score", "naive", "delta", "undecided (+0.0"),
        ("score", "gamma", "t2", "undecided"),  # seeds disagree
        ("star-d", "base", "t2", "undecided (+1.0 ± 0.0; ± 2.0)"),  # one problem, in every seed
        ("pairs-d", "base", "t2", "undecided (+40.0 ± 65.7; ± "),  # clear over problems, not over seeds
    ):
        assert report.is_ahead(found, best, arm, metric).startswith(expected), (best, arm)
    assert report.is_ahead(found, "score", "single", "t2") == "undecided"  # and no interval of one seed
    rows = report.arm_table(found, ("score", "naive", "code-score")).splitlines()
    assert len(rows) == 4 and "| **SCoRe** | 3 | 1k, 8 | 70.0 ± 49.7 | 70.0 ± 49.7 |" in rows[2] and "10 %" in rows[3]


def test_claims_hold_do_not_hold_or_stay_undecided():
    """Each verdict once, from seeds made for it."""
    score = seeds_of(*["2" * n + "3" * 60 + "0" * (40 - n) for n in (20, 21, 22)], same=75.0)
    found = {"score": score, "base": seeds_of(*["3" * 60 + "0" * 40] * 3, same=100.0)}
    found["naive"] = seeds_of(*["2" * 20 + "3" * 60 + "0" * 20] * 3)
    found["star-d"] = seeds_of(*["2" * 40 + "3" * 60] * 3, same=60.0)
    found["no-shaping"] = seeds_of(*["2" * n + "3" * 60 + "0" * (40 - n) for n in (16, 18, 17)])
    votes = {"score": {str(i): {"1": [80.0, 82.0 + i], "2": [80.0, 80.0 + i - 1], "4": [80.0, 78.0]} for i in range(3)}}
    rows = [row.strip("| ").split(" | ") for row in report.claims_table(found, votes).splitlines()[2:]]
    assert [row[:2] for row in rows] == [
        ["base: Δ is not above 0", "holds"],
        ["STaR, D: fewer changed answers than SCoRe", "does not hold"],
        ["STaR, D: Δ below SCoRe's", "does not hold"],
        ["naive multi-turn RL: Δ below SCoRe's", "undecided"],
        ["SCoRe: the highest Accuracy@t2 of all arms", "does not hold"],
        ["SCoRe without shaping: lowers Δ or Accuracy@t2", "holds"],
        ["K + K votes beat 2K, K = 1", "holds"],
        ["K + K votes beat 2K, K = 2", "undecided"],
        ["K + K votes beat 2K, K = 4", "does not hold"],
    ]
    assert rows[3][2] == "21.0 ± 2.5 against 20.0 ± 0.0; seed by seed +1.0 ± 2.5"
    assert rows[1][2] == "25.0 ± 0.0 against 40.0 ± 0.0" and "by 4.0, s.e. 0.6" in rows[5][2]
    del found["star-d"], found["naive"]
    assert "| holds | the nearest, SCoRe without shaping: +4.0" in report.claims_table(found, {})


def test_table_of_turns():
    score = {"0": [80.0, 90.0, 91.0, 91.0] + [90.0] * 6, "1": [82.0, 92.0, 95.0, 93.0] + [94.0] * 6}
    rows = report.turns_table({"score": score, "base": {"0": [80.0] * 10}}).splitlines()[2:]
    t = 12.706 / 2  # the standard error of two values is half their distance
    assert rows[0].startswith(f"| **SCoRe** | 2 | 81.0 ± {2 * t:.1f} | 91.0 ± {2 * t:.1f} | 93.0 ± {4 * t:.1f} | 92.0")
    assert rows[0].endswith(f"| 2.0 ± {2 * t:.1f} | -1.0 ± {2 * t:.1f} | 92.0 ± {4 * t:.1f} |")
    assert rows[1] == "| base, prompted twice | 1 | 80.0 | 80.0 | 80.0 | 80.0 | 0.0 | 0.0 | 80.0 |"


@pytest.mark.parametrize("path", ["README.md", "results/README.md"])
def test_committed_tables_say_what_the_committed_data_says(path):
    paper, figures = (json.loads((ROOT / "results" / name).read_text()) for name in ("paper.json", "figures.json"))
    tables = report.all_tables(paper["arms"], figures)
    found = re.findall(r"<!-- table (\S+) -->\n(.*?)\n<!-- end -->", (ROOT / path).read_text(), flags=re.S)
    assert found and [name for name, rows in found if rows != tables[name]] == []


# ------------------------------------------------------------------ figures


def test_arms_are_drawn_side_by_side_over_the_same_seeds():
    """An arm without runs takes nothing away; a run whose log lacks the number does not count."""
    both, one = [{"t2": 1.0, "repairs": 2.0}], [{"t2": 1.0, "repairs": None}]
    runs = {"a-0": both, "a-1": both, "a-b-1": both, "c-1": both, "c-2": one}
    assert report.in_common(runs, ("a", "c"), "t2").keys() == {"a-1", "c-1"}
    assert report.in_common(runs, ("c",), "t2").keys() == {"c-1", "c-2"}
    assert report.in_common(runs, ("c",), "repairs").keys() == {"c-1"}
    assert report.in_common(runs, ("a", "none"), "t2").keys() == {"a-0", "a-1"} and report.in_common({}, ("a",), "t2") == {}


def test_figures_are_drawn_from_committed_data_and_from_none(tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib draws the figures; their data does not need it")
    committed = json.loads((ROOT / "results" / "figures.json").read_text())
    empty = {"training": {}, "edit ratios": {}, "ten attempts": {}, "votes": {}}
    for name, figures in (("committed", committed), ("empty", empty)):
        folder = tmp_path / name
        folder.mkdir()
        text = report.draw(figures, folder)
        drawn = {p.name for p in folder.glob("*.png") if p.read_bytes()[:4] == b"\x89PNG"}
        assert drawn == {p.name for p in (ROOT / "results").glob("*.png")} and all(name in text for name in drawn)


def test_fig_8_averages_over_the_seeds_that_all_arms_have():
    plt = pytest.importorskip("matplotlib.figure", reason="matplotlib draws the figures")
    axes = plt.Figure().subplots(1, 2)
    ten = {"score": {"0": [80.0] * 10, "1": [90.0] * 10}, "base": {"1": [70.0] * 10}}
    report.draw_attempts(axes, {"ten attempts": ten, "votes": {}})
    assert [list(line.get_ydata()) for line in axes[0].lines] == [[90.0] * 10, [70.0] * 10]
