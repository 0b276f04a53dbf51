"""evaluate.py: the metrics, the sampling of two and more answers, and the program that a user types."""

import dataclasses
import io
import json
import sys

import pytest
import torch

import data
import evaluate
import rollout
from model import GPT, GPTConfig, save_checkpoint

TASK = data.make_task("false-position")


def dialogue(first: bool, second: bool, answers=("a", "b"), ended=(True, True)):
    return {"prompt": "p", "answers": list(answers), "right": [first, second], "ended": list(ended)}


# ------------------------------------------------------------------ metrics


def test_metrics_by_hand():
    """Bugs: Δ i→c is a share of the wrong first answers, not of all problems, so that the identity fails; an interval
    of two independent accuracies, which ignores that both answers are to the same problem."""
    dialogues = [
        dialogue(True, True, "aa"),
        dialogue(True, False, "bx"),
        dialogue(False, True, "cy"),
        dialogue(False, True, "dz", (False, True)),
        dialogue(False, False, "ee", (True, False)),
    ]
    m = evaluate.metrics(dialogues)
    assert (m.t1, m.t2, m.fixed, m.spoiled, m.same, m.truncated) == pytest.approx((40, 60, 40, 20, 40, 20))
    assert m.n == 5 and m.accuracy == pytest.approx([40, 60])
    assert m.delta_ci == pytest.approx(1.96 * (5600 / 5) ** 0.5)  # gains 0, −100, 100, 100, 0: mean 20, variance 5600
    assert m.t2 == pytest.approx(m.t1 + m.fixed - m.spoiled) and m.delta == pytest.approx(m.t2 - m.t1)


def test_examples_are_of_their_kind():
    """Bug: the dialogue printed as corrected was right from the start."""
    kept, corrected, failed = dialogue(True, True), dialogue(False, True), dialogue(False, False)
    found = evaluate.examples([kept, corrected, failed, dialogue(False, True, "xx")])
    assert found == {"corrected": corrected, "kept": kept, "failed": failed}


def test_an_example_of_long_texts_takes_a_few_lines():
    """Bug: a 3-shot prompt and two solutions fill the terminal."""
    lines = evaluate.example_lines("kept", {"prompt": "p\n" * 900, "answers": ["a " * 500, "b"]}).split("\n")
    assert len(lines) == 3 and max(map(len, lines)) < 180


# ------------------------------------------------------------------ dialogues


def tiny(seed=0) -> GPT:
    torch.manual_seed(seed)
    return GPT(GPTConfig(TASK.n_tokens, n_layer=1, n_embd=16, n_head=4, n_kv_head=4, head_dim=4, n_ff=16))


def test_batches_change_no_dialogue():
    """Bug: dialogues of a later batch belong to other problems, or the last, smaller batch is lost."""
    policy, problems = tiny(), TASK.problems("val", 7)
    whole = evaluate.evaluate(policy, TASK, problems)
    assert evaluate.evaluate(policy, TASK, problems, batch=3) == whole
    assert [d["prompt"] for d in whole] == [p.prompt for p in problems]


def test_each_answer_is_judged_by_its_own_problem():
    """Bugs: a turn's rewards go to another turn or problem, since one call judges all; a truncated answer counts."""
    problems, calls = TASK.problems("val", 5), []

    def rewards(problems, answers):
        calls.append(problems)
        return [float(i % 3 == 0) for i in range(len(answers))]

    policy, task = tiny(1), dataclasses.replace(TASK, rewards=rewards)
    policy.wte.weight.data[TASK.stops[0]] *= 8  # an untrained policy seldom ends an answer
    batch = evaluate.sample_and_judge(policy, task, problems, K=2, temperature=0.0)
    wanted = [[float(n % 3 == 0), float((n + 10) % 3 == 0)] for n in range(10)]
    assert batch.finished.sum() > 10
    assert batch.rewards.tolist() == (torch.tensor(wanted) * batch.finished).tolist()
    assert calls == [[p for p in problems for _ in range(2)] * 2]


def test_ten_attempts_of_a_model_of_pairs():
    """Bug: the embedded model, which knows two answers per dialogue, is shown its whole history from the third on."""
    policy, problems = tiny(2), TASK.problems("val", 2)
    found = evaluate.evaluate(policy, TASK, problems, turns=10)
    assert TASK.pairs and all(len(d["right"]) == len(d["ended"]) == 10 for d in found)
    for problem, dialogue in zip(problems, found):
        x1 = prompt = TASK.ask(problem.prompt)
        for answer in dialogue["answers"]:
            r = rollout.sample(policy, TASK, [prompt], turns=1, temperature=0.0)
            assert TASK.decode(r.answers(1)[0]) == answer
            prompt = x1 + r.answers(1, with_stop=True)[0] + TASK.instruction
    whole = evaluate.evaluate(policy, dataclasses.replace(TASK, pairs=False), problems, turns=3)
    assert [d["answers"][:2] for d in whole] == [d["answers"][:2] for d in found]
    assert [d["answers"][2] for d in whole] != [d["answers"][2] for d in found]


def test_first_attempts_come_from_another_model_or_from_the_problem():
    """Bugs: the policy corrects its own first answer instead of the given one; a given stop id is lost."""
    one, other, problems = tiny(0), tiny(1), TASK.problems("val", 6)
    own = evaluate.evaluate(other, TASK, problems)
    given = evaluate.evaluate(one, TASK, problems, first_from=other)
    assert [d["answers"][0] for d in given] == [d["answers"][0] for d in own]
    problems[2].first = "4,11;-2"
    mixed = evaluate.evaluate(one, TASK, problems)
    assert mixed[2]["answers"][0] == "4,11;-2" and mixed[2]["ended"][0]
    assert mixed[1] == evaluate.evaluate(one, TASK, problems[1:2])[0]


# ------------------------------------------------------------------ the program


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """A run that finished stage 0 and is in the middle of Stage I; the last line of its log is half-written."""
    folder = tmp_path_factory.mktemp("run")
    state = {"settings": {"task": "false-position", "model": "", "data": ""}, "model": tiny().state_dict()}
    state["config"] = dataclasses.asdict(tiny().config)
    save_checkpoint(state, folder / "stage0.pt")
    save_checkpoint(state | {"step": 50, "done": False, "policy": tiny(1).state_dict()}, folder / "stage1.partial.pt")
    line = {"r1": 0.5, "r2": 0.6, "delta": 0.1, "kl1": None, "kl2": 0.2, "changed": 0.3, "step": 0}
    (folder / "stage1.jsonl").write_text((json.dumps(line) + "\n") * 3 + '{"r1": 0.5, "r')
    return folder


@pytest.fixture
def printed(capsys):
    """A function that returns what evaluate.py prints, or the one line with which it ends."""

    def run(*flags, fails=False):
        if not fails:
            evaluate.main([str(flag) for flag in flags])
            return capsys.readouterr().out
        with pytest.raises((SystemExit, KeyboardInterrupt)) as caught:  # an interrupt that escapes would end pytest
            evaluate.main([str(flag) for flag in flags])
        text = str(caught.value.code)
        if text == "2":  # argparse prints its own line
            text = capsys.readouterr().err.strip().split("\n")[-1]
        assert "\n" not in text
        return text

    return run


def lines_of(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_folder_a_partial_checkpoint_and_an_unfinished_run(run_folder, printed):
    """Bugs: a run under way cannot be evaluated; a partial checkpoint is listed among the finished stages."""
    text = printed("--folder", run_folder, "--eval_problems", 5)
    assert "Acc@t1" in text and "stage0" in text and "stage1" not in text
    assert "stage1.partial" in printed("--checkpoint", run_folder / "stage1.partial.pt", "--eval_problems", 5)


def test_files_of_dialogues_and_metrics(run_folder, tmp_path, printed):
    """Bugs: --dialogues and --json disagree with each other, or hold one checkpoint of several."""
    paths = [run_folder / "stage0.pt", run_folder / "stage1.partial.pt"]
    problems, dialogues, table = (tmp_path / name for name in ("p.jsonl", "d.jsonl", "m.json"))
    problems.write_text('{"prompt": "?+7-2+5=16"}\n{"prompt": "? +1 +1 +1 = 9"}\n')
    files = ["--problems", problems, "--dialogues", dialogues, "--json", table]
    text = printed("--checkpoint", *paths, "--turns", 3, *files)
    assert text.count("accuracy at each turn") == 2
    for path in map(str, paths):
        mine = [line for line in lines_of(dialogues) if line["checkpoint"] == path]
        assert [d["prompt"] for d in mine] == ["?+7-2+5=16:", "?+1+1+1=9:"]
        assert all(len(d["answers"]) == 3 for d in mine)
        assert json.loads(table.read_text())[path] == dataclasses.asdict(evaluate.metrics(mine))


def test_one_problem_that_a_person_types(run_folder, printed):
    """Bug: --ask shows no correction, or no verdict although the task can judge."""
    lines = printed("--folder", run_folder, "--ask", "? + 7 - 2 + 5 = 16").splitlines()
    assert [line.split()[:2] for line in lines] == [["answer", "1"], ["answer", "2"]]
    assert all(line.endswith(("(right)", "(wrong)")) for line in lines)


def test_a_hugging_face_folder_and_given_first_attempts(hf_folder, math_file, tmp_path, printed):
    """Bugs: a base model can only be evaluated through a checkpoint; --first_attempts answers other problems."""
    flags = ["--model", hf_folder, "--task", "math", "--data", math_file, "--eval_problems", 3, "--max_new", 4]
    flags += ["--dialogues", tmp_path / "d.jsonl"]
    assert "base" in printed(*flags, "--turns", 3)
    dialogues = lines_of(tmp_path / "d.jsonl")
    assert len(dialogues) == 3 and "What is $0 + 0$?" in dialogues[0]["prompt"]
    (tmp_path / "first.jsonl").write_text('{"id": "math/2", "first": "2."}\n')
    printed(*flags, "--first_attempts", tmp_path / "first.jsonl")
    (only,) = lines_of(tmp_path / "d.jsonl")
    assert only["answers"][0] == "2." and "What is $1 + 1$?" in only["prompt"]


def test_an_export_remembers_the_task_and_the_data_of_its_run(hf_folder, math_file, tmp_path, printed):
    """Bug: the folder that a run exported needs the run's flags again, or the model's path before the run."""
    (tmp_path / "stage2-hf").symlink_to(hf_folder)
    settings = {"task": "math", "model": "moved", "data": str(math_file), "dtype": "float32", "max_new": 4}
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    assert "stage2-hf" in printed("--checkpoint", tmp_path / "stage2-hf", "--eval_problems", 3)


def test_a_moved_model_is_found_by_its_new_path(hf_folder, math_file, tmp_path, printed):
    """Bug: a checkpoint whose Hugging Face folder or data file was moved can never be evaluated again."""
    policy = GPT.from_hf(hf_folder, torch.float32, n_tokens=258)
    settings = {"task": "math", "model": str(tmp_path / "gone"), "data": str(tmp_path / "gone.jsonl"), "max_new": 4}
    state = {"settings": settings, "config": dataclasses.asdict(policy.config), "model": policy.state_dict()}
    save_checkpoint(state, tmp_path / "stage1.pt")
    assert "gone" in printed("--folder", tmp_path, fails=True)
    moved = ["--checkpoint", tmp_path / "stage1.pt", "--model", hf_folder, "--data", math_file]
    assert "stage1" in printed(*moved, "--eval_problems", 2)


def test_the_log_as_a_picture(run_folder, printed):
    """Bug: --plot fails on a log whose last line is half-written, or on a null."""
    pytest.importorskip("matplotlib", reason="matplotlib is optional")
    assert printed("--folder", run_folder, "--plot").strip() == str(run_folder / "training.png")
    assert (run_folder / "training.png").read_bytes()[:4] == b"\x89PNG"


def test_bad_input_is_one_line_that_names_it(run_folder, hf_folder, math_file, tmp_path, printed):
    """Bugs: a traceback for a missing file or a bad problem; the advice to remove a file that is good."""
    (tmp_path / "zeros.pt").write_bytes(bytes(1000))
    (tmp_path / "p.jsonl").write_text('{"prompt": "?+7-2+5=16"}\n{"prompt": "2+2=?"}')
    checkpoint = ["--checkpoint", run_folder / "stage0.pt"]
    folder = ["--model", hf_folder, "--task", "math", "--max_new", "4", "--data"]
    for flags, words in [
        (["--folder", tmp_path / "none"], "no finished stage"),
        (["--checkpoint", tmp_path / "none.pt"], "none.pt: no such checkpoint"),
        (["--checkpoint", tmp_path / "zeros.pt"], "zeros.pt: damaged, or not a checkpoint"),
        ([*checkpoint, "--ask", "?+70-2+5=16"], "steps of 1 to 29"),
        ([*checkpoint, "--turns", "1"], "--turns is 1, and must be 2 or more"),
        ([*checkpoint, "--temperature", "nan"], "--temperature is nan"),
        ([*checkpoint, "--problems", tmp_path / "p.jsonl"], "p.jsonl:2: prompt: '2+2=?' is not a problem"),
        ([*checkpoint, "--json", tmp_path / "none" / "m.json", "--eval_problems", 2], "m.json: cannot be written"),
        ([*folder, tmp_path / "none.jsonl"], "none.jsonl"),
        ([*folder, math_file, "--task", "mth"], "--task is 'mth'"),
        ([*folder, math_file, "--max_new", 4000], "--max_new 4000 leave -6309 tokens for a problem"),
        (["--model", hf_folder], "needs --task and --data"),
        (["--model", tmp_path, "--task", "math", "--data", math_file], str(tmp_path)),
        (["--plot", "--folder", tmp_path], "no log of Stage I or II"),
    ]:
        text = printed(*flags, fails=True)
        assert words in text, (flags, text)
        assert "remove" not in text or "zeros.pt" in text, text


def test_output_in_latin_1(run_folder, monkeypatch):
    """Bugs: UnicodeEncodeError for Δ after the evaluation is done; characters that Latin-1 has are replaced, too."""
    output = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(output, encoding="latin-1"))
    evaluate.main(["--folder", str(run_folder), "--eval_problems", "3"])
    sys.stdout.flush()
    assert b"D(t1,t2)" in output.getvalue() and "+0.0 ± 0.0".encode("latin-1") in output.getvalue()


def test_ctrl_c_is_one_line(run_folder, monkeypatch, printed):
    """Bug: a traceback after Ctrl-C, or the claim that the evaluation can be resumed."""

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(rollout, "sample", interrupted)
    assert "evaluations are not resumed" in printed("--folder", run_folder, fails=True)
