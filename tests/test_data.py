"""The embedded tasks and the real data: what the model reads, what the corpus says, what bad files meet.

The real files are in the folder SCORE_DATA (HumanEval.jsonl, mbpp.jsonl, math_train.jsonl, …); without
it those tests are skipped.
"""

import doctest
import hashlib
import json
import os
import random
import re
from collections import Counter
from pathlib import Path

import pytest
import torch

import data
import evaluate
import verify
from model import GPT, GPTConfig

POSITION = data.TASKS["false-position"]


def test_the_docstrings_example_is_true():
    result = doctest.testmod(data)
    assert result.attempted >= 4 and result.failed == 0


# ------------------------------------------------------------------ the embedded tokenizer


def test_tokenizer_round_trip():
    rng = random.Random(0)
    texts = ["", "0", "007", "12345", "1a23", "é→\u2028", "\n\r\t\0"]
    texts += ["".join(rng.choice("0123456789+-,;=?: #*xé") for _ in range(rng.randint(1, 40))) for _ in range(500)]
    for text in texts:
        ids = POSITION.encode(text)
        assert POSITION.decode(ids) == text
        assert all(0 <= i < 356 for i in ids)
    for n in range(100):
        assert len(POSITION.encode(str(n))) == 1
    assert POSITION.encode("123") == [ord("1"), 256 + 23]  # pairs from the right


def test_text_that_looks_like_a_special_token_stays_text():
    for special in (data.EOS, data.INSTRUCTION):
        ids = POSITION.encode(special)
        assert len(ids) > 1 and max(ids) < 256 and POSITION.decode(ids) == special
    assert POSITION.decode(POSITION.instruction) == data.INSTRUCTION and POSITION.decode([POSITION.eos]) == data.EOS


# ------------------------------------------------------------------ false position


@pytest.mark.parametrize("name", data.TASKS)
def test_splits_are_disjoint(name):
    task = data.TASKS[name]
    prompts = {split: {p.prompt for p in task.problems(split, 400)} for split in ("train", "val", "test")}
    drawn = {p.prompt for seed in range(3) for p in task.problems("train", 500, random.Random(seed))}
    assert not prompts["val"] & prompts["test"] and not (prompts["train"] | drawn) & (prompts["val"] | prompts["test"])
    assert all(len(p) > 200 for p in prompts.values()) and len(drawn) > 1000


PINNED = {  # of the first 100 problems; a change here changes what every published number was measured on
    ("false-position", "train"): "4712a846a3930e05",
    ("false-position", "val"): "a4981f5788622d91",
    ("code", "train"): "40a87f2515068240",
    ("code", "val"): "05c11459f8de40d9",
    ("code", "test"): "aa5614469a67416e",
    ("false-position", "test"): "b18f9ed74ec3e300",
}


@pytest.mark.parametrize("name, split", PINNED)
def test_splits_are_the_same_everywhere(name, split):
    problems = data.TASKS[name].problems(split, 100)
    text = "\n".join(f"{p.prompt} {p.gold}" for p in problems)
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == PINNED[name, split]
    assert [p.prompt for p in data.TASKS[name].problems(split, 120)[:100]] == [p.prompt for p in problems]


def test_position_problems_have_one_right_start():
    for problem in POSITION.problems("train", 300):
        steps, target = problem.gold
        right = [x for x in range(data.TOP + 1) if 0 <= x + sum(steps) <= data.TOP and x + sum(steps) == target]
        assert len(right) == 1
        assert problem.prompt == "?" + "".join(("+" if x > 0 else "-") + str(abs(x)) for x in steps) + f"={target}:"
        assert POSITION.read(problem.prompt).gold == problem.gold


def test_large_steps_are_rare_and_known():
    """Small ones of every size alike; large ones leave the range 0..TOP more often, and are rarer than they are drawn."""
    count = Counter(abs(x) for p in POSITION.problems("train", 4000, random.Random(0)) for x in p.gold[0])
    n = sum(count.values())
    assert set(count) == {*data.SMALL, *data.LARGE}
    large = sum(count[x] for x in data.LARGE) / n
    assert data.LARGE_SHARE / 3 < large < data.LARGE_SHARE
    assert all(abs(count[x] / n - (1 - large) / 9) < 0.02 for x in data.SMALL)


def test_corpus_of_false_position_is_honest():
    """Every answer's arithmetic is right, and so is what it says of its end; RIGHT of the first ones hit."""
    rng, n, right = random.Random(0), 2000, 0
    for problem in POSITION.problems("train", n, rng):
        steps, target = problem.gold
        answers = POSITION.dialogue(problem, rng)
        for answer in answers:
            values, end = answer.split(";")
            values = [int(v) for v in values.split(",")]
            assert [b - a for a, b in zip(values, values[1:])] == steps and int(end) == values[-1] - target
            assert len(POSITION.encode(answer)) < POSITION.max_new
            assert verify.reward(problem, answer) == float(int(end) == 0)
        right += answers[0].endswith(";0")
    assert abs(right / n - data.RIGHT) < 4 * (data.RIGHT * (1 - data.RIGHT) / n) ** 0.5


def ends_right(answer):
    """Whether the answer says of itself that it is right; the corpora are honest, as other tests see to."""
    return answer.endswith(";0")


@pytest.mark.parametrize("name", data.TASKS)
@pytest.mark.parametrize("repeat", [None, 0.0, 1.0])
def test_second_answers_do_not_know_whether_the_first_was_right(monkeypatch, name, repeat):
    """The corpus of stage 0 holds no hint of when to correct: the base model has that to learn by RL."""
    if repeat is not None:
        monkeypatch.setattr(data, "REPEAT", repeat)
    task, rng, n = data.TASKS[name], random.Random(1), 3000
    count = Counter()
    for problem in task.problems("train", n, rng):
        count[tuple(ends_right(answer) for answer in task.dialogue(problem, rng))] += 1
    first = {right: count[right, True] + count[right, False] for right in (True, False)}
    turned = {True: count[True, False] / first[True], False: count[False, True] / first[False]}
    expected = {True: (1 - data.REPEAT) * (1 - data.RIGHT), False: (1 - data.REPEAT) * data.RIGHT}
    for right, p in expected.items():
        assert abs(turned[right] - p) <= 4 * (p * (1 - p) / first[right]) ** 0.5, (right, turned, expected)


@pytest.mark.parametrize(
    "text", ["", "?", "?+7-2=", "?+7-2+5", "?+7-2=16", "?+7-2+5+1=16", "?+0-2+5=16", "?+30-2+5=16", "?+7-2+5=50", "?+7-2+5=1e1", "7-2+5=16"]
)
def test_bad_problems_of_false_position_are_refused(text):
    with pytest.raises(data.DataError) as caught:
        POSITION.read(text)
    message = str(caught.value)
    assert "\n" not in message and repr(text)[1:-1] in message and ("like '?+7-2+5=16'" in message or "the model knows" in message)


def test_check_position_against_brute_force():
    """An answer is right exactly if some start, tried out in the way of the docstring, writes it."""
    rng = random.Random(2)
    for problem in POSITION.problems("val", 150):
        steps, target = problem.gold
        written = set()
        for start in range(-30, 80):
            values = [start]
            for step in steps:
                values.append(values[-1] + step)
            if values[-1] == target:
                written.add(",".join(f"{v}" for v in values) + ";0")
        answers = set(written)
        for right in written:
            at = rng.randrange(len(right))
            answers |= {right[:at] + c + right[at + 1 :] for c in "0123456789-,; "}
            answers |= {right[:at], right + "0", " " + right, right + "\n", right + ";0", right.replace(",", ", "), "+" + right}
        for _ in range(20):
            good = target - sum(steps)
            answers.add(data.position_answer([x + rng.choice((0, 0, 0, 1)) for x in data.position_values(steps, good)], target))
        answers |= set(POSITION.dialogue(problem, rng))
        for answer in answers:
            assert verify.check_position(steps, target, answer) == (answer in written), answer


# ------------------------------------------------------------------ the embedded code task

CODE = data.TASKS["code"]


def test_corpus_of_code_is_honest():
    """What a comment says of its program, Python says too; RIGHT of the first ones pass all tests."""
    rng, n, right = random.Random(0), 2000, 0
    for problem in CODE.problems("train", n, rng):
        x, y, steps = data.parts_of(problem.prompt)
        answers = CODE.dialogue(problem, rng)
        for answer in answers:
            program, comment = answer.split("#")
            values, end = comment.split(";")
            terms = re.findall(r"[+-]\d+", program)
            assert program == "x" + "".join(terms) and [int(t) for t in terms[1:]] == steps
            # our own corpus, not a policy's answer; every prefix of the program is a program
            so_far = [eval("x" + "".join(terms[: k + 1]), {"x": x}) for k in range(len(terms))]
            assert values == ",".join(map(str, so_far)) and int(end) == so_far[-1] - y
            assert len(CODE.encode(answer)) < CODE.max_new
            tests = [test.removeprefix("assert ") for test in problem.gold["tests"]]
            assert (so_far[-1] == y) == ends_right(answer) == all(eval(test, {"f": eval("lambda x:" + program)}) for test in tests)
        right += ends_right(answers[0])
    assert abs(right / n - data.RIGHT) < 4 * (data.RIGHT * (1 - data.RIGHT) / n) ** 0.5


def test_code_is_judged_by_its_program_on_held_out_calls_too():
    problem = CODE.read(" 5>23, x?+7-2 ")
    assert problem.gold["tests"][0] == "assert f(5) == 23" and len(problem.gold["tests"]) == 1 + len(data.HELD_OUT)
    answers = {
        "x+13+7-2#18,25,23;0": 1,
        "x+13+7-2": 1,  # the comment is the model's own working: it is not judged
        "x+13+7-2#99;-9": 1,
        "18+x": 1,  # another program, the same function
        "x+11+7-2#16,23,21;-2": 0,
        "x+11+7-2#18,25,23;0": 0,  # a comment that claims to be right
        "23": 0, "x*4+3": 0, "23 if x==5 else 0": 0,  # what is shown, learnt by heart
        "x+18 if x<30 else 0": 0, "x+18 if x>0 else 0": 0,
        "": 0, "#18,25,23;0": 0, "x+13+": 0, "x+18,": 0, "f(x)": 0, "9**9**9**x": 0,
        "exit(0)": 0, "__import__('os')._exit(0)": 0, "x+18\nimport sys;sys.exit(0)": 0, "print('passed')": 0,
        "type('E',(),{'__eq__':lambda s,o:True})()": 0,
    }  # fmt: skip
    assert verify.rewards([problem] * len(answers), list(answers)) == list(answers.values())


def test_code_is_tested_by_its_call_and_by_held_out_ones():
    """The shown call is tested first; the held-out ones are of the same function, at inputs that no problem can show."""
    for problem in CODE.problems("train", 500):
        x, y, steps = data.parts_of(problem.prompt)
        calls = [tuple(map(int, re.fullmatch(r"assert f\((-?\d+)\) == (-?\d+)", test).groups())) for test in problem.gold["tests"]]
        inputs = [z for z, _ in calls]
        assert calls[0] == (x, y) and len(set(inputs)) == len(inputs) == 1 + len(data.HELD_OUT)
        assert all(result - z == y - x for z, result in calls)
        assert not set(inputs[1:]) & set(range(1, data.LARGE[-1] + 1))  # what read_code lets a problem show


def test_a_verdict_is_kept_for_its_program_and_its_tests_alone(monkeypatch):
    """A program that is met again is not run again; with other tests it is."""
    ran, run = [], verify.run_tests_batch
    monkeypatch.setattr(verify, "run_tests_batch", lambda jobs, **kw: ran.append([j["program"] for j in jobs]) or run(jobs, **kw))
    monkeypatch.setattr(verify, "_verdicts", {})
    one, other = CODE.read("5>23,x?+7-2"), CODE.read("5>25,x?+7-2")
    same = CODE.read("5>23,x?+9-4")  # the same function, another sketch of it
    answers = ["x+18", "x+20", "x+18#23;0", "x+18", "x+20", "x+18"]
    problems = [one, one, one, other, other, same]
    assert verify.rewards(problems, answers) == [1, 0, 1, 0, 1, 1]
    assert ran == [["f=lambda x:x+18", "f=lambda x:x+20"] * 2]
    assert verify.rewards(problems, answers) == [1, 0, 1, 0, 1, 1] and len(ran) == 1
    late = verify.TestResult(False, "timed out after 2 s", "")
    monkeypatch.setattr(verify, "run_tests_batch", lambda jobs, **kw: ran.append(jobs) or [late for _ in jobs])
    for _ in range(2):  # that may have been the machine's fault
        assert verify.reward(one, "x+19") == 0
    assert len(ran) == 3


@pytest.mark.parametrize(
    "text",
    ["", "5>23", "5>23;x?+7-2", "5>23,x?", "5>23,x?+7", "5>23,x?+7-2+1", "0>23,x?+7-2", "30>35,x?+1-2", "5>23,x?+0-2", "5>50,x?+7-2",
     "5>23,x+7-2", "5>23,x?+7-x", "9>3,x?+1-2", "2>49,x?+1-2", "²>23,x?+7-2"],
)  # fmt: skip
def test_bad_problems_of_code_are_refused(text):
    with pytest.raises(data.DataError) as caught:
        CODE.read(text)
    message = str(caught.value)
    assert "\n" not in message and repr(text)[1:-1] in message
    assert "like '5>23,x?+7-2'" in message or "the model knows" in message or "in the hole" in message


# ------------------------------------------------------------------ real data: tiny files


def write(path, *rows):
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


MATH_ROW = {"problem": "What is $1+1$?", "solution": "It is $\\boxed{2}$.", "answer": "2"}
MBPP_ROWS = [
    {"task_id": i, "text": f"Write f{i}.", "code": f"def f{i}(x):\r\n    return x", "test_list": [f"assert f{i}({i}) == {i}", f"assert f{i}(0) == 0"],
     "test_setup_code": "", "challenge_test_list": []}
    for i in (2, 3, 4, 11, 510, 511, 600, 601, 974)
]  # fmt: skip
EVAL_ROW = {
    "task_id": "HumanEval/0", "entry_point": "double",
    "prompt": "from math import floor\n\ndef one():\n    return 1\n\ndef double(x):\n    \"\"\" Twice x. \"\"\"\n",
    "test": "def check(candidate):\n    assert candidate(2) == 4 and candidate(5) == 10\n",
}  # fmt: skip


def test_the_papers_prompts_word_for_word():
    """Against hashes of the paper's own words (App. C), so that no edit slips in."""
    hashes = ["7b5fa6d224e2d5eb", "224b7a4b64af6297", "a37f148bce74a1c8", "63026ab3411e3ff3"]
    prompts = [data.MATH_FIRST, data.MATH_SECOND, data.CODE_FIRST, data.CODE_SECOND]
    assert [hashlib.sha256(p.encode()).hexdigest()[:16] for p in prompts] == hashes


def test_math(tmp_path):
    boxed = {"problem": "Half of 3?", "solution": "First $\\boxed{1}$, no: $\\boxed{\\frac{3}{2}}$."}
    first, second = data.load_math(write(tmp_path / "m.jsonl", MATH_ROW, "", boxed))
    assert first.prompt.startswith(data.MATH_FIRST) and "\nWhat is $1+1$?\n" in first.prompt and "boxed" not in first.prompt
    assert (first.gold, second.gold, second.id) == ("2", r"\frac{3}{2}", "m/3")
    assert verify.reward(second, "Final Answer: The final answer is $1.5$. I hope it is correct.") == 1
    assert verify.reward(first, "Final Answer: The final answer is $1.5$. I hope it is correct.") == 0


def test_lightman_split_lets_nothing_through(tmp_path):
    rows = [{**MATH_ROW, "problem": f"What is {i}?"} for i in range(6)]
    train, test, held_out = (tmp_path / f"{name}.jsonl" for name in ("train", "test", "500"))
    write(train, rows[0], rows[1], rows[4]), write(test, *rows[2:6]), write(held_out, rows[4], rows[5])
    mine, held = data.load_math_split(train, test, held_out)  # row 4 stands in train as well: it is taken out
    assert [p.prompt.split()[-2] for p in mine] == ["0?", "1?", "2?", "3?"] and len(held) == 2
    write(test, *rows[2:5])
    with pytest.raises(data.DataError, match="500.jsonl: field 'problem' of 1 rows is not in .*test.jsonl"):
        data.load_math_split(train, test, held_out)


def test_gsm8k(tmp_path):
    (problem,) = data.load_gsm8k(write(tmp_path / "g.jsonl", {"question": "How many?", "answer": "48/2 = 24\n#### 1,024"}))
    assert problem.gold == "1,024" and verify.reward(problem, "so\n#### 1024") == 1 and verify.reward(problem, "#### 24") == 0


def test_mbpp_splits_prompt_and_line_ends(tmp_path):
    path = write(tmp_path / "mbpp.jsonl", *MBPP_ROWS)
    ids = {split: [p.id for p in data.load_mbpp(path, split)] for split in ("train", "val", "test")}
    assert ids == {"train": ["MBPP/601", "MBPP/974"], "val": ["MBPP/511", "MBPP/600"], "test": ["MBPP/11", "MBPP/510"]}
    problem = data.load_mbpp(path, "train")[0]
    assert "\r" not in problem.prompt
    shot = (
        "You are an expert Python programmer, and here is your task: Write f2. Your code should pass these tests:\n\n"
        "assert f2(2) == 2\nassert f2(0) == 0\n[BEGIN]\ndef f2(x):\n    return x\n[DONE]\n"
    )
    assert problem.prompt.startswith(shot) and problem.prompt.count("[DONE]") == 3
    assert problem.prompt.endswith("Write f601. Your code should pass these tests:\n\nassert f601(601) == 601\nassert f601(0) == 0\n[BEGIN]\n")
    answers = ["def f601(x):\n    return x\n[DONE]\nmore", "def f601(x):\n    return 601", "import sys; sys.exit(0)"]
    assert verify.rewards([problem] * 3, answers) == [1, 0, 0]


def test_sanitized_mbpp_brings_its_imports(tmp_path):
    rows = [{k: v for k, v in row.items() if "te" not in k or k == "test_list"} | {"task_id": row["task_id"]} for row in MBPP_ROWS]
    rows = [row | {"prompt": "Do it.", "test_imports": []} for row in rows]
    rows[7] |= {"test_imports": ["import math"], "test_list": ["assert f601(math.pi) == math.pi"]}
    problem = data.load_mbpp(write(tmp_path / "s.jsonl", *rows), "train")[0]
    assert problem.gold["setup"] == "import math" and verify.reward(problem, "def f601(x): return x") == 1


def test_humaneval_answers_go_on_or_start_anew(tmp_path):
    (problem,) = data.load_humaneval(write(tmp_path / "h.jsonl", EVAL_ROW))
    assert problem.prompt == EVAL_ROW["prompt"]
    answers = {
        "    return 2 * x\n": 1,
        "    y = floor(x)\n    return y + x": 1,
        "```python\ndef double(x):\n    return x + x * one()\n```": 1,  # with the prompt's helper
        "Here you are:\n```python\n    return x + x\n```\nDone.": 1,
        "    def two():\n        return 2\n\n    return two() * x\n": 1,
        "    return 2 * x\n\nThis doubles x.\nassert double(1) == 3": 1,
        "\n    return 2 * x": 1,
        "return 2 * x": 1,
        "    return 2 + x\n": 0,
        "def twice(x):\n    return 2 * x\n": 0,
        "": 0,
    }
    assert verify.rewards([problem] * len(answers), list(answers)) == list(answers.values())


def test_one_batch_judges_all_kinds_in_order(tmp_path):
    kinds = [
        (data.load_humaneval(write(tmp_path / "h.jsonl", EVAL_ROW))[0], "    return 2 * x\n", "    return x\n"),
        (data.load_math(write(tmp_path / "m.jsonl", MATH_ROW))[0], "#### 2", "#### 3"),
        (data.read_position("?+7-2+5=16"), "6,13,11,16;0", "4,11,9,14;-2"),
        (data.load_mbpp(write(tmp_path / "c.jsonl", *MBPP_ROWS), "val")[0], "def f511(n): return n", "def f511(n): return 0"),
    ]
    cases = [(p, text, value) for p, right, wrong in kinds for text, value in ((right, 1.0), (wrong, 0.0), (right, 1.0))]
    random.Random(0).shuffle(cases)
    problems, texts, values = zip(*cases)
    assert verify.rewards(list(problems), list(texts)) == list(values) == [verify.reward(p, t) for p, t in zip(problems, texts)]
    with pytest.raises(ValueError, match="no verifier is called 'smell'"):
        verify.reward(data.Problem("x", check="smell"), "x")


def test_given_first_attempts_are_what_is_repaired(tmp_path):
    position = data.read_position("?+7-2+5=16")
    position.id = "p/1"
    path = write(tmp_path / "r.jsonl", {"id": "p/1", "first": "4,11,9,14;-2"}, {"id": "p/1", "first": "6,13,11,16;0"})
    repairs = data.load_first_attempts(path, [position])
    assert [r.first for r in repairs] == ["4,11,9,14;-2", "6,13,11,16;0"] and position.first is None
    torch.manual_seed(0)
    model = GPT(GPTConfig(vocab_size=POSITION.vocab, n_layer=1, n_embd=16, head_dim=4, n_ff=16))
    metrics, dialogues = evaluate.evaluate(model, POSITION, repairs)
    assert [d["answers"][0] for d in dialogues] == [r.first for r in repairs] and metrics.t1 == 50
    write(path, {"id": "p/2", "first": "x"})
    with pytest.raises(data.DataError, match="r.jsonl:1: field 'id': no problem is called 'p/2'"):
        data.load_first_attempts(path, [position])


# ------------------------------------------------------------------ real data: wrong and half-written files

LOADERS = {
    "math": (data.load_math, [MATH_ROW]),
    "gsm8k": (data.load_gsm8k, [{"question": "How many?", "answer": "#### 5"}]),
    "mbpp": (lambda path: data.load_mbpp(path, "train"), MBPP_ROWS),
    "humaneval": (data.load_humaneval, [EVAL_ROW]),
}
WRONG = [  # (loader, what to do to the last row, the field that the message names)
    ("math", {"problem": None}, "problem"), ("math", {"problem": "  "}, "problem"), ("math", {"answer": 2}, "answer"),
    ("math", {"answer": ..., "solution": ...}, "solution"), ("math", {"answer": ..., "solution": "none"}, "solution"),
    ("gsm8k", {"question": ...}, "question"), ("gsm8k", {"answer": "5"}, "answer"), ("gsm8k", {"answer": "#### "}, "answer"),
    ("mbpp", {"task_id": "974"}, "task_id"), ("mbpp", {"task_id": True}, "task_id"), ("mbpp", {"task_id": 601}, "task_id"),
    ("mbpp", {"test_list": []}, "test_list"), ("mbpp", {"test_list": "assert 1"}, "test_list"), ("mbpp", {"test_list": [1]}, "test_list"),
    ("mbpp", {"text": ...}, "text"), ("mbpp", {"code": ""}, "code"), ("mbpp", {"test_setup_code": 7}, "test_setup_code"),
    ("humaneval", {"test": ...}, "test"), ("humaneval", {"entry_point": "triple"}, "prompt"), ("humaneval", {"task_id": 0}, "task_id"),
]  # fmt: skip


@pytest.mark.parametrize("name, change, field", WRONG)
def test_a_wrong_row_is_named(tmp_path, name, change, field):
    loader, rows = LOADERS[name]
    last = {k: v for k, v in {**rows[-1], **change}.items() if v is not ...}
    path = write(tmp_path / "file.jsonl", *rows[:-1], last)
    with pytest.raises(data.DataError) as caught:
        loader(path)
    message = str(caught.value)
    assert message.startswith(f"{path}:{len(rows)}: ") and f"'{field}'" in message and "\n" not in message
    assert "mend" in message or "remove" in message or "meant" in message


@pytest.mark.parametrize("name", LOADERS)
def test_half_written_files(tmp_path, name):
    """Cut anywhere within the last row: one line, with the number of the row that is cut."""
    loader, rows = LOADERS[name]
    path = write(tmp_path / "file.jsonl", *rows)
    whole = path.read_bytes()
    loader(path)
    begins = whole.rstrip().rfind(b"\n") + 1
    for cut in range(begins + 1, len(whole) - 1, 7):
        path.write_bytes(whole[:cut])
        with pytest.raises(data.DataError) as caught:
            loader(path)
        assert str(caught.value).startswith(f"{path}:{len(rows)}: not a whole JSON object") and "\n" not in str(caught.value)


@pytest.mark.parametrize("content, says", [
    (b"", "no rows in it"), (b"\n\n", "no rows in it"), (b"[1, 2]\n", ":1: a JSON list"), (b"\xff\xfe{}", ":1: not a whole JSON object"),
    (b"\n" + b"[" * 100_000, ":2: not a whole JSON object"), (b"version https://git-lfs.github.com/spec/v1\n", ":1: not a whole JSON object"),
])  # fmt: skip
@pytest.mark.parametrize("name", LOADERS)
def test_files_that_are_something_else(tmp_path, name, content, says):
    path = tmp_path / "file.jsonl"
    path.write_bytes(content)
    with pytest.raises(data.DataError) as caught:
        LOADERS[name][0](path)
    assert str(caught.value).startswith(str(path)) and says in str(caught.value) and "\n" not in str(caught.value)


def test_missing_files_and_other_datasets(tmp_path):
    for loader, _ in LOADERS.values():
        with pytest.raises(data.DataError, match="nowhere.jsonl: No such file"):
            loader(tmp_path / "nowhere.jsonl")
    for mine, (loader, _) in LOADERS.items():
        for other, (_, rows) in LOADERS.items():
            if mine != other:
                with pytest.raises(data.DataError, match=r"other.jsonl:1: field '\w+' is "):
                    loader(write(tmp_path / "other.jsonl", *rows))
    with pytest.raises(data.DataError, match="field 'task_id': no row 3, which the 3-shot prompt needs"):
        data.load_mbpp(write(tmp_path / "c.jsonl", *(row for row in MBPP_ROWS if row["task_id"] != 3)), "train")


# ------------------------------------------------------------------ real data: the files themselves


@pytest.fixture
def real():
    folder = os.environ.get("SCORE_DATA")
    if not folder:
        pytest.skip("SCORE_DATA does not name the folder of the real data")
    return Path(folder)


def test_real_math(real):
    train, held_out = data.load_math_split(*(real / f"{name}.jsonl" for name in ("math_train", "math_test", "math500")))
    assert (len(train), len(held_out)) == (12_000, 500)
    assert not {p.prompt for p in train} & {p.prompt for p in held_out}
    rows = data.read_rows(real / "math500.jsonl", solution=str)
    assert all(verify.reward(p, row["solution"]) == 1 for p, row in zip(held_out, rows))


def test_real_gsm8k(real):
    problems = [data.load_gsm8k(real / f"gsm8k_{split}.jsonl") for split in ("train", "test")]
    assert [len(p) for p in problems] == [7_473, 1_319]
    rows = data.read_rows(real / "gsm8k_test.jsonl", answer=str)
    assert all(verify.reward(p, row["answer"]) == 1 for p, row in zip(problems[1], rows))


@pytest.mark.parametrize("name, sizes", [("mbpp", [374, 90, 500]), ("mbpp_sanitized", [120, 43, 257])])
def test_real_mbpp(real, name, sizes):
    path = real / f"{name}.jsonl"
    splits = [data.load_mbpp(path, split) for split in ("train", "val", "test")]
    assert [len(problems) for problems in splits] == sizes
    code = {f"MBPP/{row['task_id']}": row["code"] for row in data.read_rows(path, task_id=int, code=str)}
    val = splits[1]
    assert all("\r" not in p.prompt and p.prompt.count("[BEGIN]") == 4 and code[p.id] not in p.prompt for p in val)
    assert verify.rewards(val, [code[p.id] + "\n[DONE]" for p in val]) == [1.0] * len(val)


def test_real_humaneval(real):
    """The reference solutions as the rest of the prompt, and as whole programs in a fence."""
    path = real / "HumanEval.jsonl"
    problems = data.load_humaneval(path)
    assert len(problems) == 164
    for problem in problems:
        problem.gold["timeout"] = 60  # one reference takes seconds, on a busy machine more
    rows = data.read_rows(path, canonical_solution=str)
    bodies = [row["canonical_solution"] for row in rows]
    whole = [f"Sure:\n```python\n{row['prompt']}{row['canonical_solution']}```\nDone." for row in rows]
    assert verify.rewards(problems * 2, bodies + whole) == [1.0] * 328
