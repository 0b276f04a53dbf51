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
from collections import Counter
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
from arms import ARMS, BASES  # noqa: E402
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


def flat(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def checkpoint(path, stage, seed=0, **changes):
    """Write an untrained model as a finished stage."""
    model = tiny(seed)
    path.parent.mkdir(exist_ok=True)
    head = {"stage": stage, "settings": remembered(train.Settings(**changes), stage)}
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
    """Policy, average and Adam start anew; each step's problems are sampled once."""
    s, trained, averages, collectors = settings("--keep_right"), [], [], []
    sample, update = evaluate.sample_and_judge, baselines.update_average

    def sample_and_judge(policy, *rest, **sampling):
        collectors.append(flat(policy))
        return sample(policy, *rest, **sampling)

    def update_average(average, policy, *rest):
        trained.append(flat(policy))
        update(average, policy, *rest)
        averages.append(flat(average))

    monkeypatch.setattr(evaluate, "sample_and_judge", sample_and_judge)
    monkeypatch.setattr(baselines, "update_average", update_average)
    baselines.fine_tune(s, HALF_RIGHT, tiny(), tiny(), tmp_path)
    assert len(trained) == len(collectors) == 6
    rate = s.stage2_lr * train.learning_rate(s, 0, 2)
    for step, last in ((0, flat(tiny())), (2, averages[1]), (4, averages[3])):
        assert torch.equal(collectors[step], last) and torch.equal(collectors[step + 1], last)
        moved = trained[step] - flat(tiny())
        # Adam's first step moves a weight with a gradient by the learning rate; the average's first decay is 0.1
        assert moved[moved != 0].abs().median().item() == pytest.approx(rate, rel=0.02)
        assert torch.allclose(averages[step], flat(tiny()) + 0.9 * moved, atol=1e-6)


# step 1: inside round 1; 2: between two rounds; 3: inside round 2; 6: between the last checkpoint and stage2.pt
@pytest.mark.parametrize("run", [("star", 1), ("star", 2), ("star", 3), ("star", 6), ("pairs", 2), ("pairs", -1)])
def test_fine_tuning_resumes_to_the_bit(tmp_path, monkeypatch, run):
    method, killed = run
    s = settings("--method", method, "--keep_right")
    (tmp_path / "whole").mkdir(), (tmp_path / "killed").mkdir()
    whole = baselines.fine_tune(s, HALF_RIGHT, tiny(), tiny(), tmp_path / "whole")
    losses = [line["loss"] for line in evaluate.read_log(tmp_path / "whole" / "stage2.jsonl")]
    killed, save = killed % (len(losses) + 1), baselines.Recorder.save

    def save_and_die(record, step, *rest):
        save(record, step, *rest)
        if step + 1 == killed:
            raise RuntimeError("killed")

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="killed"):
        patch.setattr(baselines.Recorder, "save", save_and_die)
        baselines.fine_tune(s, HALF_RIGHT, tiny(), tiny(), tmp_path / "killed")
    again = baselines.fine_tune(s, HALF_RIGHT, tiny(), tiny(), tmp_path / "killed")
    assert all(torch.equal(again[name], x) for name, x in whole.items())
    assert not torch.equal(whole["wte.weight"], tiny().wte.weight)
    assert [line["loss"] for line in evaluate.read_log(tmp_path / "killed" / "stage2.jsonl")] == losses


def test_pairs_end_after_one_epoch_and_the_learning_rate_with_them(tmp_path, monkeypatch):
    """Decaying over all steps of RL, it would be cut off at a high value. No dialogue to imitate is an error."""
    asked, rate = [], train.learning_rate
    monkeypatch.setattr(train, "learning_rate", lambda s, at, steps: asked.append((at, steps)) or rate(s, at, steps))
    baselines.fine_tune(settings("--method", "pairs"), HALF_RIGHT, tiny(), tiny(), tmp_path)
    epoch = -(-evaluate.read_log(tmp_path / "stage2.jsonl")[0]["examples"] // 8)
    assert asked == [(at, epoch) for at in range(epoch)] and 1 < epoch < 6
    with pytest.raises(UserError, match="--method star: 2 steps hold no dialogue to imitate"):
        baselines.collect(settings(), TASK, tiny(), range(2))  # an untrained model is never right


def test_stage2_of_a_baseline_is_read_like_that_of_train(tmp_path, monkeypatch):
    """It starts from --start, evaluate.py reads it, the same command keeps it, and other settings are refused."""
    monkeypatch.setattr(data, "make_task", lambda *names: HALF_RIGHT)
    base, start = checkpoint(tmp_path / "base" / "stage0.pt", 0), checkpoint(tmp_path / "one" / "stage1.pt", 1, seed=1)
    flags = ["--base", base, "--start", start, "--folder", tmp_path / "star", "--keep_right"]
    started, fine_tune = [], baselines.fine_tune
    monkeypatch.setattr(baselines, "fine_tune", lambda *args: started.append(args) or fine_tune(*args))
    baselines.run(settings(*flags))
    baselines.run(settings(*flags))
    [(_, _, first, reference, _)] = started
    assert torch.equal(flat(first), flat(tiny(1))) and torch.equal(flat(reference), flat(tiny(0)))
    assert [p.name for p in (tmp_path / "star").glob("*.pt")] == ["stage2.pt"]
    assert evaluate.open_policy(tmp_path / "star" / "stage2.pt", evaluate.parse([]))[2]["method"] == "star"
    with pytest.raises(UserError, match="--method star"):
        baselines.run(settings(*flags, "--method", "pairs"))


@pytest.mark.parametrize("flags", ["--alpha 3", "--dtype=bf16", "--method rest", "--base=", "--warmup -1"])
def test_a_flag_that_baselines_do_not_read_is_refused(flags, capsys):
    with pytest.raises(SystemExit):
        settings(*flags.split())
    assert re.match(r"--\w+", flags)[0] in capsys.readouterr().err.splitlines()[-1]


# ------------------------------------------------------------------ the runs


def runs_of(*flags):
    """The runs by name, and the settings that their commands have."""
    runs = {run.result.parent.name: run for run in reproduce.all_runs(Path("x"), reproduce.parse(["x", *flags]))}
    programs = {"train.py": train, "baselines.py": baselines}
    return runs, {name: programs[Path(run.command[1]).name].parse(run.command[2:]) for name, run in runs.items()}


def test_every_arm_has_the_budget_of_score_and_starts_from_runs_before_it():
    """As many steps of as many dialogues as SCoRe has, counting those of the runs that an arm starts from."""
    runs, s = runs_of()
    before = {"": 0, "score/stage1": 300, "round1/stage2": 400}  # steps, by the arm and stage that an arm starts from
    made = set()
    for name, run in runs.items():
        arm, seed = ARMS[name.rsplit("-", 1)[0]], name.rsplit("-", 1)[1]
        assert run.needs is None or run.needs.parent.name in made
        made.add(name)
        if arm.flags:
            steps = before[arm.start] + s[name].stage1_steps + s[name].stage2_steps
            assert steps == 400 if name.startswith("round1") else 800, name
            assert s[name].problems * s[name].attempts * s[name].siblings == 256
            assert s[name].base == f"x/{BASES[arm.task]}-{seed}/stage0.pt" and s[name].task == arm.task
    # a second round with the first one's seed would draw the same problems
    assert len({s[name].seed for name in ("rounds-0", "rounds-1", "round1-0", "round1-1")}) == 4


def test_only_the_runs_that_arms_need_are_made():
    """One base per seed; `round1` has no row, but `rounds` starts from it; other arms have fewer seeds."""
    runs, _ = runs_of("--arms", "rounds,naive,self-refine,no-shaping")
    arms = {"base": 5, "naive": 5, "rounds": 3, "round1": 3, "no-shaping": 3, "score": 3}
    assert Counter(name.rsplit("-", 1)[0] for name in runs) == arms
    assert runs["no-shaping-1"].needs == Path("x/score-1/stage1.pt")


def a_run(folder, name, code, needs=None):
    result, code = folder / name / "stage2.pt", f"import sys, pathlib; p = pathlib.Path(sys.argv[1]); {code}"
    return reproduce.Run([sys.executable, "-c", code, str(result)], result, needs)


@pytest.mark.parametrize("code, words", [("print('x\\rno luck'); sys.exit(3)", "3: no luck"), ("pass", "0: no output")])
def test_a_failed_run_is_reported_with_its_last_line(tmp_path, code, words):
    """Also one that leaves no result. It starts after the run that it needs."""
    first = a_run(tmp_path, "base-0", "import time; time.sleep(0.5); p.write_text('x')")
    second = a_run(tmp_path, "score-0", f"assert pathlib.Path({str(first.result)!r}).exists(); {code}", first.result)
    with pytest.raises(UserError, match=f"score-0 ended with code {words}"):
        reproduce.run_all([second, first], 2)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_sends_one_sigterm_to_each_run_and_waits_for_its_checkpoint(tmp_path, monkeypatch, number):
    """A second signal would end train.py without a checkpoint."""
    code = (
        "import time, signal; seen = []\n"
        "signal.signal(signal.SIGTERM, lambda *_: seen.append(1))\n"
        "p.with_name('begun').write_text('')\n"
        "while not seen: time.sleep(0.01)\n"
        "time.sleep(0.3); p.with_name('saved').write_text(str(len(seen)))"
    )
    run = a_run(tmp_path, "base-0", code)
    monkeypatch.setattr(reproduce, "reproduce", lambda args: reproduce.run_all([run], 1))

    def command():
        os.setsid()
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a shell does for a command in the background
        reproduce.main(["x"])

    process = multiprocessing.get_context("fork").Process(target=command)
    process.start()
    while process.is_alive() and not run.result.with_name("begun").exists():
        time.sleep(0.01)
    os.killpg(process.pid, number)  # the whole group, as Ctrl-C does
    process.join(60)
    assert process.exitcode == 1 and run.result.with_name("saved").read_text() == "1"


# ------------------------------------------------------------------ measurements


def test_the_last_of_three_answers_counts_as_the_second(tmp_path, monkeypatch):
    """Self-Refine."""
    same = {"prompt": "", "ended": [True, False, True]}
    dialogues = [same | {"answers": list("aab"), "right": [True, False, False]}]
    dialogues.append(same | {"answers": list("aba"), "right": [False, False, True]})
    monkeypatch.setattr(evaluate, "evaluate", lambda *args, turns: dialogues)
    found = reproduce.measure(checkpoint(tmp_path / "base" / "stage0.pt", 0), 3, "val", 2)
    assert found["ratios"] == [0.5, 0.0] and found["metrics"]["fixed"] == found["metrics"]["spoiled"] == 50
    assert found["metrics"]["same"] == 50 and found["metrics"]["truncated"] == 0


def test_edit_ratio_and_votes_by_hand():
    """Disjoint groups of answers are trials; of equally frequent answers the first one given counts."""
    pairs = {("", ""): 0, ("", "ab"): 2, ("ab", "ba"): 2, ("kitten", "sitting"): 3, ("aabb", "bb"): 2}
    for (a, b), distance in pairs.items():
        assert reproduce.edit_ratio(a, b) == reproduce.edit_ratio(b, a) == distance / max(len(a + b), 1)
    problem, wrong, right = TASK.read("?+7-2+5=16"), "4,11,9,14;-2", "6,13,11,16;0"
    answers = [right, wrong, wrong, wrong]
    assert [reproduce.vote_accuracy(TASK, problem, answers, size) for size in (1, 2, 4)] == [0.25, 0.5, 0.0]


def test_tables_and_figures_of_untrained_models(tmp_path, monkeypatch):
    """All that follows the runs: both JSON files, and the markers of the README."""
    monkeypatch.setattr(reproduce, "VOTES", (1, 2))
    monkeypatch.setattr(report, "draw", lambda figures, folder: None)
    for name in ("base-0/stage0", "base-1/stage0", "score-0/stage1", "score-0/stage2", "score-1/stage2"):
        checkpoint(tmp_path / f"{name}.pt", int(name[-1]))
    metrics = {"t1": 1.0, "t2": 2.0, "same": 97.0}
    line = json.dumps({"step": 49, "held_out": metrics, "repairs_base": 3.0}) + "\n"
    (tmp_path / "base-0" / "stage0.val9.json").write_text(json.dumps({"metrics": metrics | {"same": 100.0}}))
    (tmp_path / "score-0" / "stage1.jsonl").write_text('{"step": 0}\n' + line)
    (tmp_path / "score-0" / "stage2.jsonl").write_text(line)
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- table main -->\n<!-- end -->\nafter\n<!-- end -->\n")  # bug: an empty table takes the text after it
    flags = ["--results", str(tmp_path), "--arms", "base,self-refine,score", "--no_runs"]
    args = reproduce.parse([str(tmp_path), *flags])
    args.n = 4
    reproduce.reproduce(args)
    paper, figures = (json.loads((tmp_path / name).read_text()) for name in ("paper.json", "figures.json"))
    table = report.all_tables(paper["arms"], figures)["main"]
    assert readme.read_text() == f"before\n<!-- table main -->\n{table}\n<!-- end -->\nafter\n<!-- end -->\n"
    seeds = {arm: len(by_seed) for arm, by_seed in paper["arms"].items()}
    assert seeds == {"base": 2, "self-refine": 2, "score": 2}
    assert [(p["step"], p["changed"]) for p in figures["training"]["score-0"]] == [(0, 0.0), (50, 3.0), (52, 3.0)]
    assert sum(figures["edit ratios"]["score"]) == 8 and len(figures["ten attempts"]["score"]["1"]) == 10
    assert figures["votes"]["base"].keys() == {"0", "1"}


# ------------------------------------------------------------------ statistics, tables and figures


def seeds_of(**metrics):
    """The data of an arm: these metrics have one value per seed."""
    others = dict(t1=50.0, t2=50.0, delta=0.0, spoiled=0.0, same=90.0)
    return {str(i): {"metrics": others | dict(zip(metrics, values))} for i, values in enumerate(zip(*metrics.values()))}


def test_intervals_and_the_number_of_seeds_by_hand():
    t = {2: 12.706, 3: 4.303, 5: 2.776, 10: 2.262}  # Student's t, from a textbook
    for values in ([1.0, 2.0, 6.0], [1.0, 2.0, 6.0, 0.0, 3.0]):
        n, mean_ci = len(values), report.mean_ci(values)
        assert mean_ci == pytest.approx((sum(values) / n, t[n] * torch.tensor(values).std().item() / n**0.5))
    values = [1.0, 2.0, 6.0]  # 3 ± 6.6; the interval of n seeds of that spread
    spread = torch.tensor(values).std().item()
    assert report.seeds_needed(values) == "6 seeds" and 2.571 * spread / 6**0.5 < 3 < 2.776 * spread / 5**0.5
    assert report.seeds_needed([0.0, 1e-9, 9.0, -9.0]) == "more than 100 seeds" and report.seeds_needed([1.0]) == "more than one seed"


def test_differences_are_those_of_the_same_seed():
    """Bug: the seeds of two arms are joined in the order in which they are found."""
    found = {"score": seeds_of(delta=(1.0, 2.0, 6.0), same=(90.0, 80.0, 70.0)), "base": seeds_of(delta=(0.0, 5.0), same=(100.0, 60.0))}
    found["base"] = dict(reversed(found["base"].items()))
    assert report.differences(found, "score", "base", "delta") == [1.0, -3.0]
    assert report.differences(found, "", "base", "delta") == [0.0, -5.0]
    assert report.differences(found, "score", "", "changed") == [10.0, 20.0, 30.0]


def test_claims_hold_do_not_hold_stay_undecided_or_were_not_run():
    """Each verdict once, from seeds made for it. The data of one seed decides nothing."""
    found = {"base": seeds_of(delta=(-9.0, -8.0, -9.0), t1=(80.0, 80.0, 80.0), t2=(70.0, 70.0, 70.0), spoiled=(15.0, 15.0, 15.0))}
    found["score"] = seeds_of(delta=(5.0, 6.0, 5.5), t1=(80.0, 79.0, 81.5), t2=(95.0, 96.0, 97.0), spoiled=(0.0, 0.1, 0.0))
    found["naive"] = seeds_of(delta=(6.0, 7.0, 6.5), t2=(80.0, 99.0, 80.0), same=(100.0, 100.0, 100.0))
    found["single"] = seeds_of(t2=(90.0,))
    found["star-d"] = found["star-d+"] = seeds_of(t2=(90.0, 91.0, 90.0))
    votes = {"score": {str(i): {"1": [80.0, 82.0 + i], "2": [80.0, 80.0 + i - 1]} for i in range(3)}}
    rows = [row[2:].split(" | ") for row in report.claims_table(found, votes).splitlines()[2:]]
    words = {row[0]: row[1] for row in rows}
    assert words.items() >= {
        "the base model makes its answers worse: Δ below 0": "holds",
        "SCoRe's Δ is above naive RL's": "does not hold",
        "SCoRe's first answers are better than the base model's": "undecided: more than 100 seeds",
        "SCoRe's Accuracy@t2 is above that of: naive multi-turn RL": "undecided: 8 seeds",  # 15, −3 and 17: 9.7 exceeds 2.365 · 11.0 / √8
        "SCoRe's Accuracy@t2 is above that of: single-turn RL": "undecided: more than one seed",
        "STaR on D spoils more than STaR on D⁺": "no difference",
        "without Stage I Δ is lower": "not run",
        "K + K votes beat 2K, K = 1": "holds",
        "K + K votes beat 2K, K = 2": "undecided: more than 100 seeds",
    }.items(), words
    assert {row[0]: row[2] for row in rows}["SCoRe's Δ is above naive RL's"] == "-1.0 ± 0.0 (-1.0, -1.0, -1.0) |"


@pytest.mark.parametrize("path", ["README.md", "results/README.md"])
def test_committed_tables_say_what_the_committed_data_says(path):
    paper, figures = (json.loads((ROOT / "results" / name).read_text()) for name in ("paper.json", "figures.json"))
    tables = report.all_tables(paper["arms"], figures)
    found = re.findall(r"<!-- table (\S+) -->\n(.*?)\n<!-- end -->", (ROOT / path).read_text(), flags=re.S)
    assert found and [name for name, rows in found if rows != tables[name]] == []


def test_figures_are_drawn_from_committed_data_and_from_none(tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib draws the figures; their data does not need it")
    committed = json.loads((ROOT / "results" / "figures.json").read_text())
    for figures in (committed, {"training": {}, "edit ratios": {}, "ten attempts": {}, "votes": {}}):
        report.draw(figures, tmp_path)
        drawn = {p.name for p in tmp_path.glob("*.png") if p.read_bytes()[:4] == b"\x89PNG"}
        assert drawn == {p.name for p in (ROOT / "results").glob("*.png")}
