"""data.py: what the model reads, what the corpus says, and what bad files give.

SCORE_DATA names a folder with the published files (HumanEval.jsonl, mbpp.jsonl, math_train.jsonl, …); without it, the
tests of the files themselves are skipped.
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

import data
import verify
from data import DataError, Problem, make_task
from make_hf_fixtures import write_tokenizer

POSITION, CODE = make_task("false-position"), make_task("code")
ROOT = Path(__file__).resolve().parent.parent


def test_the_dialogue_in_the_docstring_is_true():
    result = doctest.testmod(data)
    assert result.attempted >= 4 and result.failed == 0


# ------------------------------------------------------------------ the embedded tokenizer


def test_each_text_comes_back_and_numbers_are_split_into_pairs():
    rng = random.Random(0)
    texts = ["", "0", "007", "12345", "1a23", "é→\u2028", "\n\r\t\0", data.EOS, data.INSTRUCTION]
    texts += ["".join(rng.choice("0123456789+-,;=?: #*xé") for _ in range(rng.randint(1, 40))) for _ in range(500)]
    for text in texts:
        ids = POSITION.encode(text)
        assert POSITION.decode(ids) == text
        assert all(0 <= i < POSITION.stops[0] for i in ids)  # bug: text that looks like EOS is EOS
    assert all(len(POSITION.encode(str(n))) == 1 for n in range(100))
    assert POSITION.encode("123") == [ord("1"), 256 + 23]
    assert POSITION.decode(POSITION.instruction) == data.INSTRUCTION and POSITION.decode(POSITION.stops) == data.EOS


# ------------------------------------------------------------------ the embedded tasks

PINNED = {  # of the first 100 problems; a change here changes what every published number was measured on
    ("false-position", "train"): "4712a846a3930e05",
    ("false-position", "val"): "a4981f5788622d91",
    ("false-position", "test"): "b18f9ed74ec3e300",
    ("code", "train"): "40a87f2515068240",
    ("code", "val"): "05c11459f8de40d9",
    ("code", "test"): "aa5614469a67416e",
}


@pytest.mark.parametrize("name, split", PINNED)
def test_problems_of_a_split_never_change(name, split):
    problems = make_task(name).problems(split, 100)
    text = "\n".join(f"{p.prompt} {p.gold}" for p in problems)
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == PINNED[name, split]
    assert make_task(name).problems(split, 120)[:100] == problems


CORPUS = {
    "false-position": "0d2f56d2a725c0d7",
    "code": "e9b87c9295f2e805",
}  # of 300 dialogues: the base model of every published number


@pytest.mark.parametrize("name", CORPUS)
def test_the_corpus_never_changes(name):
    """Bug: a random number that is drawn earlier or later changes every base model after it."""
    rng = random.Random(0)
    dialogues = [make_task(name).dialogue(p, rng) for p in make_task(name).problems("train", 300, rng)]
    assert hashlib.sha256(repr(dialogues).encode()).hexdigest()[:16] == CORPUS[name]


@pytest.mark.parametrize("name", data.TASKS)
def test_splits_are_disjoint(name):
    task = make_task(name)
    prompts = {split: {p.prompt for p in task.problems(split, 400)} for split in ("train", "val", "test")}
    drawn = {p.prompt for seed in range(3) for p in task.problems("train", 500, random.Random(seed))}
    assert not prompts["val"] & prompts["test"] and not (prompts["train"] | drawn) & (prompts["val"] | prompts["test"])
    assert all(len(p) > 200 for p in prompts.values()) and len(drawn) > 1000


def ends_right(answer):
    """Whether the answer says of itself that it is right."""
    return answer.endswith(";0")


def test_corpus_of_false_position_tells_the_truth():
    """Bug: an answer of stage 0 with wrong arithmetic, or one that claims to be right and is not."""
    rng = random.Random(0)
    for problem in POSITION.problems("train", 1000, rng):
        steps, target = problem.gold
        assert POSITION.read(problem.prompt) == problem
        answers = POSITION.dialogue(problem, rng)
        for answer in answers:
            values, end = answer.split(";")
            values = [int(v) for v in values.split(",")]
            assert [b - a for a, b in zip(values, values[1:])] == steps and int(end) == values[-1] - target
            assert len(POSITION.encode(answer)) < POSITION.max_new
        assert POSITION.rewards([problem] * 2, list(answers)) == [float(ends_right(answer)) for answer in answers]


def test_corpus_of_code_tells_the_truth():
    """Bug: a comment that Python contradicts, or a program that a held-out call refutes."""
    rng = random.Random(0)
    for problem in CODE.problems("train", 1000, rng):
        x, y, steps = data.parts_of(problem.prompt)
        assert CODE.read(problem.prompt) == problem
        for answer in CODE.dialogue(problem, rng):
            program, comment = answer.split("#")
            values, end = comment.split(";")
            terms = re.findall(r"[+-]\d+", program)
            assert program == "x" + "".join(terms) and [int(t) for t in terms[1:]] == steps
            # our own corpus, not a policy's answer; every prefix of the program is a program
            so_far = [eval("x" + "".join(terms[: k + 1]), {"x": x}) for k in range(len(terms))]
            assert values == ",".join(map(str, so_far)) and int(end) == so_far[-1] - y
            assert len(CODE.encode(answer)) < CODE.max_new
            tests = [test.removeprefix("assert ") for test in problem.gold["tests"]]
            assert ends_right(answer) == all(eval(test, {"f": eval("lambda x:" + program)}) for test in tests)


def test_second_answers_do_not_know_whether_the_first_was_right(monkeypatch):
    """Bug: the corpus of stage 0 hints at when to correct; that is what RL has to teach."""
    monkeypatch.setattr(data, "REPEAT", 0.6)
    rng, n, seen = random.Random(1), 40000, Counter()
    for _ in range(n):
        good = rng.randrange(50)
        first, second = map(int, data.draw_answers(good, lambda number: str(number) if 0 <= number < 50 else None, rng))
        assert abs(first - good) <= data.SPREAD and abs(second - good) <= data.SPREAD + 5
        doubted = first % 5 == 0 and first + 5 < 50
        what = "next" if second == first + 5 else "same" if second == first else "right" if second == good else "other"
        seen[first == good, doubted, what] += 1
    firsts = Counter()
    for (right, doubted, _), count in seen.items():
        firsts[right] += count
        firsts[right, doubted] += count
    fresh = 1 - data.REPEAT
    for count, total, chance in (
        (firsts[True], n, data.RIGHT),
        (seen[True, True, "next"], firsts[True, True], data.DOUBT),  # and then, by luck, a fresh attempt
        (seen[False, True, "next"], firsts[False, True], data.DOUBT),
        (seen[True, False, "same"], firsts[True, False], 1 - fresh * (1 - data.RIGHT)),
        (seen[False, False, "right"], firsts[False, False], fresh * data.RIGHT),
    ):
        assert abs(count / total - chance) < 0.03, (count, total, chance)


@pytest.mark.parametrize("name", data.TASKS)
def test_without_doubt_and_with_repeats_only_both_answers_are_equal(monkeypatch, name):
    """Bug: a task writes its second answers by rules of its own."""
    monkeypatch.setattr(data, "DOUBT", 0.0)
    monkeypatch.setattr(data, "REPEAT", 1.0)
    task, rng = make_task(name), random.Random(1)
    dialogues = [task.dialogue(problem, rng) for problem in task.problems("train", 300, rng)]
    assert all(first == second for first, second in dialogues)
    assert 0.7 < sum(ends_right(first) for first, _ in dialogues) / 300 < 0.9


def test_code_is_judged_by_held_out_calls_too():
    """Bug: a program that repeats the shown call passes."""
    problem = CODE.read(" 5>23, x?+7-2 ")
    calls = [
        tuple(map(int, re.fullmatch(r"assert f\((-?\d+)\) == (-?\d+)", test).groups()))
        for test in problem.gold["tests"]
    ]
    assert calls[0] == (5, 23) and all(y - x == 18 for x, y in calls)
    assert not {x for x, _ in calls[1:]} & set(range(1, data.LARGE[-1] + 1))  # what a problem can show
    right = ["x+13+7-2#18,25,23;0", "x+13+7-2", "x+13+7-2#99;-9", "18+x"]  # nobody judges the comment
    wrong = [
        "x+11+7-2#18,25,23;0",
        "23",
        "x*4+3",
        "23 if x==5 else 0",
        "x+18 if x<30 else 0",
        "",
        "#18,25,23;0",
        "x+13+",
    ]
    assert CODE.rewards([problem] * 12, right + wrong) == [1.0] * 4 + [0.0] * 8


BAD_POSITION = ["", "?", "?+7-2=", "?+7-2+5", "?+7-2=16", "?+7-2+5+1=16", "?+0-2+5=16", "?+30-2+5=16", "?+7-2+5=50",
                "?+7-2+5=1e1", "7-2+5=16", "?+7-2+5=\ud800", "?+²-2+5=16", "?+7-2+5=" + "9" * 5000]  # fmt: skip
BAD_CODE = ["", "5>23", "5>23;x?+7-2", "5>23,x?", "5>23,x?+7", "5>23,x?+7-2+1", "0>23,x?+7-2", "30>35,x?+1-2",
            "5>23,x?+0-2", "5>50,x?+7-2", "5>23,x+7-2", "5>23,x?+7-x", "9>3,x?+1-2", "2>49,x?+1-2",
            "²>23,x?+7-2"]  # fmt: skip


@pytest.mark.parametrize(
    "task, text", [(POSITION, text) for text in BAD_POSITION] + [(CODE, text) for text in BAD_CODE]
)
def test_a_bad_problem_is_one_line_with_its_text(task, text):
    with pytest.raises(DataError) as caught:
        task.read(text)
    message = str(caught.value)
    assert "\n" not in message and repr(text)[1:-1][:40] in message
    assert any(words in message for words in ("write one like", "sketch like", "the model knows", "in the hole"))


# ------------------------------------------------------------------ published problems: small files


def write(path, *rows):
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


MATH_ROW = {"problem": "What is $1+1$?", "solution": "It is $\\boxed{2}$.", "answer": "2"}
MBPP_ROWS = [
    {
        "task_id": i,
        "text": f"Write f{i}.",
        "code": f"def f{i}(x):\r\n    return x",
        "test_list": [f"assert f{i}({i}) == {i}", f"assert (\r\nf{i}(0) == 0)"],
        "test_setup_code": "",
    }
    for i in (2, 3, 4, 11, 510, 511, 600, 601, 974)
]
EVAL_ROW = {
    "task_id": "HumanEval/0", "entry_point": "double",
    "prompt": "from math import floor\n\ndef double(x):\n    \"\"\" Twice x. \"\"\"\n",
    "test": "def check(candidate):\n    assert candidate(2) == 4 and candidate(5) == 10\n",
}  # fmt: skip


def test_the_prompts_are_the_papers_words():
    """Against hashes of App. C, so that no edit slips in."""
    hashes = ["7b5fa6d224e2d5eb", "224b7a4b64af6297", "a37f148bce74a1c8", "63026ab3411e3ff3"]
    prompts = [data.MATH_FIRST, data.MATH_SECOND, data.CODE_FIRST, data.CODE_SECOND]
    assert [hashlib.sha256(p.encode()).hexdigest()[:16] for p in prompts] == hashes


def test_math_takes_the_answer_or_the_last_box(tmp_path):
    boxed = {"problem": "Half of 3?", "solution": "First $\\boxed{1}$, no: $\\boxed{\\frac{3}{2}}$."}
    numbers = [{"problem": "x", "answer": 204}, {"problem": "x", "answer": -0.5}]  # bug: a number is refused
    problems = data.load_math(write(tmp_path / "m.jsonl", MATH_ROW, "", boxed, *numbers))
    assert problems[0].prompt == f"{data.MATH_FIRST}\n\nProblem:\nWhat is $1+1$?\n\nSolution:\n"
    assert [p.gold for p in problems] == ["2", r"\frac{3}{2}", "204", "-0.5"] and problems[1].id == "m/3"
    answer = "Final Answer: The final answer is $1.5$. I hope it is correct."
    assert verify.answer_rewards(problems[:2], [answer] * 2) == [0, 1]


def test_gsm8k_takes_what_follows_the_mark(tmp_path):
    (problem,) = data.load_gsm8k(
        write(tmp_path / "g.jsonl", {"question": "How many?", "answer": "48/2 = 24\n#### 1,024"})
    )
    assert problem.gold == "1,024" and verify.answer_rewards([problem] * 2, ["so\n#### 1024", "#### 24"]) == [1, 0]


def test_mbpp_has_three_shots_and_the_published_splits(tmp_path):
    problems = data.load_mbpp(write(tmp_path / "mbpp.jsonl", *MBPP_ROWS))
    splits = [(p.id, data.mbpp_split(p)) for p in problems]
    numbers = {"test": (11, 510), "val": (511, 600), "train": (601, 974)}
    assert splits == [(f"MBPP/{i}", split) for split, ids in numbers.items() for i in ids]
    shot = (
        "You are an expert Python programmer, and here is your task: Write f2. Your code should pass these tests:\n\n"
        "assert f2(2) == 2\nassert (\nf2(0) == 0)\n[BEGIN]\ndef f2(x):\n    return x\n[DONE]\n"
    )
    problem = problems[4]
    assert "\r" not in problem.prompt and problem.prompt.startswith(shot) and problem.prompt.count("[DONE]") == 3
    assert problem.prompt.endswith(
        "Write f601. Your code should pass these tests:\n\nassert f601(601) == 601\nassert (\nf601(0) == 0)\n[BEGIN]\n"
    )
    answers = ["def f601(x):\n    return x\n[DONE]\nmore", "def f601(x):\n    return 601", "import sys; sys.exit(0)"]
    assert verify.mbpp_rewards([problem] * 3, answers) == [1, 0, 0]


def test_sanitized_mbpp_brings_its_imports(tmp_path):
    rows = [{key: row[key] for key in ("task_id", "code", "test_list")} for row in MBPP_ROWS]
    rows = [row | {"prompt": "Do it.", "test_imports": []} for row in rows]
    rows[7] |= {"test_imports": ["import math"], "test_list": ["assert f601(math.pi) == math.pi"]}
    problem = data.load_mbpp(write(tmp_path / "s.jsonl", *rows))[4]
    assert problem.gold["setup"] == "import math" and verify.mbpp_rewards([problem], ["def f601(x): return x"]) == [1]


def test_humaneval_answers_continue_the_prompt_or_are_whole(tmp_path):
    (problem,) = data.load_humaneval(write(tmp_path / "h.jsonl", EVAL_ROW))
    assert problem.prompt == EVAL_ROW["prompt"] and problem.id == "HumanEval/0"
    answers = ["    return 2 * x\n", "```python\ndef double(x):\n    return floor(2 * x)\n```", "    return 2 + x\n"]
    assert verify.humaneval_rewards([problem] * 3, answers) == [1, 1, 0]


def test_given_first_attempts_belong_to_their_problems(tmp_path):
    problems = [Problem("a", id="p/1"), Problem("b", id="p/2")]
    path = write(tmp_path / "r.jsonl", {"id": "p/1", "first": "x"}, {"id": "p/1", "first": "y"})
    repairs = data.load_first_attempts(path, problems)
    assert [(r.prompt, r.first) for r in repairs] == [("a", "x"), ("a", "y")] and problems[0].first is None
    with pytest.raises(DataError, match="r.jsonl:1: field 'id': no problem is called 'p/3', but one is called 'p/1'"):
        data.load_first_attempts(write(path, {"id": "p/3", "first": "x"}), problems)


# ------------------------------------------------------------------ published problems: wrong and half-written files

READERS = {
    "math": (data.load_math, [MATH_ROW]),
    "gsm8k": (data.load_gsm8k, [{"question": "How many?", "answer": "#### 5"}]),
    "mbpp": (data.load_mbpp, MBPP_ROWS),
    "humaneval": (data.load_humaneval, [EVAL_ROW]),
    "typed": (lambda path: data.read_problems(path, POSITION), [{"prompt": "?+7-2+5=16"}]),
}
WRONG = [  # (reader, change of the last row, what the message names)
    ("math", {"problem": None}, "'problem'"),
    ("math", {"problem": "  "}, "'problem'"),
    ("math", {"answer": [2]}, "'answer'"),
    ("math", {"answer": True}, "'answer'"),
    ("math", {"answer": ..., "solution": ...}, "'solution'"),
    ("gsm8k", {"question": ...}, "'question'"),
    ("gsm8k", {"answer": "5"}, "'answer'"),
    ("gsm8k", {"answer": "#### "}, "'answer'"),
    ("mbpp", {"task_id": "974"}, "'task_id'"),
    ("mbpp", {"task_id": True}, "'task_id'"),
    ("mbpp", {"task_id": 601}, "'task_id'"),
    ("mbpp", {"test_list": []}, "'test_list'"),
    ("mbpp", {"test_list": "assert 1"}, "'test_list'"),
    ("mbpp", {"test_list": [1]}, "'test_list'"),
    ("mbpp", {"text": ...}, "'text'"),
    ("mbpp", {"code": ""}, "'code'"),
    ("mbpp", {"test_setup_code": 7}, "'test_setup_code'"),
    ("humaneval", {"test": ...}, "'test'"),
    ("humaneval", {"entry_point": "triple"}, "'prompt'"),
    ("humaneval", {"task_id": 0}, "'task_id'"),
    ("typed", {"prompt": 7}, "'prompt'"),
    ("typed", {"prompt": "?+7=1"}, "prompt: '?+7=1'"),
    ("typed", {"prompt": "\ud800"}, "surrogate"),
]


@pytest.mark.parametrize("name, change, words", WRONG)
def test_a_wrong_row_is_named(tmp_path, name, change, words):
    read, rows = READERS[name]
    last = {k: v for k, v in {**rows[-1], **change}.items() if v is not ...}
    path = write(tmp_path / "file.jsonl", *rows[:-1], last)
    with pytest.raises(DataError) as caught:
        read(path)
    message = str(caught.value)
    assert message.startswith(f"{path}:{len(rows)}: ") and words in message and "\n" not in message


@pytest.mark.parametrize("name", READERS)
def test_a_file_that_is_cut_off_is_named_with_the_line(tmp_path, name):
    read, rows = READERS[name]
    path = write(tmp_path / "file.jsonl", *rows)
    whole = path.read_bytes()
    begin = whole.rstrip().rfind(b"\n") + 1
    for cut in range(begin + 1, len(whole) - 1, 7):
        path.write_bytes(whole[:cut])
        with pytest.raises(DataError) as caught:
            read(path)
        assert str(caught.value).startswith(f"{path}:{len(rows)}: not a whole JSON object") and "\n" not in str(
            caught.value
        )


OTHER = [  # (content, what the message says)
    (b"", "has no rows"),
    (b"\n\n", "has no rows"),
    (b"[1, 2]\n", ":1: a JSON list"),
    (b"\xff\xfe{}", ":1: not a whole JSON object"),
    (b"\n" + b"[" * 100_000, ":2: not a whole JSON object"),
    (b'{"a": ' * 100_000, ":1: not a whole JSON object"),
    (b'\n\n{"a": "\\udc00"}', ":3: not a whole JSON object"),
    (b"version https://git-lfs.github.com/spec/v1\n", ":1: not a whole JSON object"),
]


@pytest.mark.parametrize("content, words", OTHER)
@pytest.mark.parametrize("name", READERS)
def test_a_file_that_is_something_else_is_one_line(tmp_path, name, content, words):
    path = tmp_path / "file.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        READERS[name][0](path)
    assert str(caught.value).startswith(str(path)) and words in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(DataError, match="nowhere.jsonl: No such file"):
        READERS[name][0](tmp_path / "nowhere.jsonl")


@pytest.mark.parametrize("name", READERS)
def test_a_bom_and_a_line_separator_are_text(tmp_path, name):
    """Bug: U+2028 inside a text ends the line, or a BOM makes the first line unreadable."""
    read, rows = READERS[name]
    path = tmp_path / "file.jsonl"
    rows = [row | {"comment": "one\u2028two"} for row in rows]
    path.write_text(
        "\ufeff" + "\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8", newline=""
    )
    assert read(path) == read(write(tmp_path / "file.jsonl", *rows))


def test_another_dataset_is_named(tmp_path):
    for mine, (read, _) in READERS.items():
        for other, (_, rows) in READERS.items():
            if mine != other and {mine, other} != {"humaneval", "typed"}:
                with pytest.raises(DataError, match=r"other.jsonl:1: field '\w+' is "):
                    read(write(tmp_path / "other.jsonl", *rows))
    with pytest.raises(DataError, match="field 'task_id': no row 3 for the 3-shot prompt"):
        data.load_mbpp(write(tmp_path / "c.jsonl", *(row for row in MBPP_ROWS if row["task_id"] != 3)))


# ------------------------------------------------------------------ published problems as a Task


@pytest.fixture
def folder(tmp_path):
    return write_tokenizer(tmp_path / "model")


def math_rows(n):
    return [{"problem": f"What is {i}+{i}?", "answer": 2 * i} for i in range(n)]


def test_held_out_problems_are_not_trained_on(tmp_path, folder):
    """Bug: a problem of the evaluation file stays in the training file."""
    path = write(tmp_path / "m.jsonl", *math_rows(100))
    task = make_task("math", folder, path)
    splits = {split: {p.prompt for p in task.problems(split, 1000)} for split in ("train", "val", "test")}
    assert sum(map(len, splits.values())) == 100 == len(set().union(*splits.values())) and all(splits.values())
    few = write(tmp_path / "few.jsonl", *math_rows(7), {"problem": "new", "answer": "1"})
    other = make_task("math", folder, path, few)
    assert {p.prompt for p in other.problems("test", 99)} == {p.prompt for p in data.load_math(few)}
    assert len(other.problems("train", 1000)) == 93
    assert len(task.problems("train", 1000, random.Random(0))) == 1000  # more than there are: some occur twice
    only = make_task("math", folder, eval_data=few)  # for evaluate.py: nothing to train on
    assert len(only.problems("test", 99)) == 8 and only.problems("train", 99) == []
    with pytest.raises(DataError, match="few.jsonl: no problem is left for"):
        make_task("math", folder, few)


def test_a_task_of_published_problems(tmp_path, folder):
    task = make_task("mbpp", folder, write(tmp_path / "c.jsonl", *MBPP_ROWS), max_new=40)
    assert [p.id for p in task.problems("val", 9)] == ["MBPP/511", "MBPP/600"]
    x1 = task.decode(task.ask("the x"))
    assert x1.endswith("user\nthe x<|im_end|>\n<|im_start|>assistant\n") and data.CODE_SECOND in task.decode(
        task.instruction
    )
    assert task.decode(task.stops) == "<|im_end|>" and task.close == task.stops and task.max_new == 40
    val = task.problems("val", 1)[0]
    typed = task.read("Write g.")  # nobody knows its solution: no answer is right
    assert task.rewards([typed, val, typed, val], ["x", "def f511(x): return x", "", "x"]) == [0, 1, 0, 0]
    for text in (" ", "\udcff"):
        with pytest.raises(DataError, match="is not a problem"):
            task.read(text)
    for arguments, words in ((("mbpp",), "without --model it must be one of false-position, code"),
                             (("code", folder), "with --model it must be one of math, gsm8k")):  # fmt: skip
        with pytest.raises(DataError, match=words):
            make_task(*arguments)


def test_long_problems_are_left_out_and_named(tmp_path, folder):
    """Bug: the run stops at the first problem that is too long, hours after its start."""
    rows = math_rows(80)
    rows[3]["problem"] += " the" * 500
    rows[50]["problem"] += " the" * 900
    task = make_task("math", folder, write(tmp_path / "m.jsonl", *rows), max_new=20)
    lengths = {p.id: len(task.ask(p.prompt)) for split in task.splits for p in task.problems(split, 99)}
    other = 2 * 20 + len(task.close) + len(task.instruction)  # two answers, and what stands between them
    longest = sorted(lengths.values())[-3]
    assert data.drop_long(task, max(lengths.values()) + other) == (max(lengths.values()) + other, "")
    total, line = data.drop_long(task, longest + other)
    assert total == longest + other and "\n" not in line
    assert line.startswith("2 problems are left out") and {"m/4", "m/51"} == set(re.findall(r"m/\d+", line))
    left = {p.id for split in task.splits for p in task.problems(split, 99, random.Random(0))}
    assert left and not left & {"m/4", "m/51"} and max(lengths[i] for i in left) <= longest
    with pytest.raises(DataError, match="too few for all of"):
        data.drop_long(task, 10)
    assert data.drop_long(POSITION, 10) == (2 * POSITION.max_new + 1, "")


def test_the_example_of_a_task_of_your_own_runs(tmp_path, folder, monkeypatch):
    """The README's example, put into data.py as a user would."""
    monkeypatch.setattr(data, "PUBLISHED", dict(data.PUBLISHED))
    section = (ROOT / "README.md").read_text().partition("## A task of your own")[2]
    exec(section.partition("```python\n")[2].partition("```")[0], vars(data))
    rows = [{"word": word} for word in ("stone", "river", "cloud", "bread", "light")]
    path, held_out = write(tmp_path / "0.jsonl", *rows), write(tmp_path / "3.jsonl", *rows[3:])
    task = make_task("reverse", folder, path, held_out)
    assert [p.gold for p in task.problems("train", 9)] == ["enots", "revir", "duolc"]
    assert task.rewards(task.problems("val", 9), ["daerb", "light"]) == [1, 0]
    with pytest.raises(DataError, match="0.jsonl:1: field 'word' is missing"):
        make_task("reverse", folder, write(path, {"letter": "x"}))


# ------------------------------------------------------------------ published problems: the files themselves


@pytest.fixture
def real():
    folder = os.environ.get("SCORE_DATA")
    if not folder:
        pytest.skip("SCORE_DATA does not name the folder of the real data")
    return Path(folder)


def test_real_math(real, folder, tmp_path):
    """The Lightman split: 12,000 problems to train on, and MATH500."""
    both = tmp_path / "math.jsonl"
    both.write_bytes((real / "math_train.jsonl").read_bytes() + (real / "math_test.jsonl").read_bytes())
    task = make_task("math", folder, both, real / "math500.jsonl")
    assert [len(task.problems(split, 10**6)) for split in ("train", "val")] == [12_000, 500]
    solutions = [row["solution"] for row in data.read_rows(real / "math500.jsonl", solution=str)]
    assert task.rewards(task.problems("test", 500), solutions) == [1.0] * 500


def test_real_gsm8k(real):
    problems = [data.load_gsm8k(real / f"gsm8k_{split}.jsonl") for split in ("train", "test")]
    assert [len(p) for p in problems] == [7_473, 1_319]
    answers = [row["answer"] for row in data.read_rows(real / "gsm8k_test.jsonl", answer=str)]
    assert verify.answer_rewards(problems[1], answers) == [1.0] * 1_319


@pytest.mark.parametrize("name, sizes", [("mbpp", [374, 90, 500]), ("mbpp_sanitized", [120, 43, 257])])
def test_real_mbpp(real, folder, name, sizes):
    path = real / f"{name}.jsonl"
    task = make_task("mbpp", folder, path)
    assert [len(task.problems(split, 10**6)) for split in ("train", "val", "test")] == sizes
    code = {f"MBPP/{row['task_id']}": row["code"] for row in data.read_rows(path, task_id=int, code=str)}
    val = task.problems("val", 99)
    assert all("\r" not in p.prompt and p.prompt.count("[BEGIN]") == 4 and code[p.id] not in p.prompt for p in val)
    assert task.rewards(val, [code[p.id] + "\n[DONE]" for p in val]) == [1.0] * len(val)


def test_real_humaneval(real):
    """The reference solutions continue the prompt, or stand in a fence as whole programs."""
    path = real / "HumanEval.jsonl"
    problems = data.load_humaneval(path)
    assert len(problems) == 164
    for problem in problems:
        problem.gold["timeout"] = 60  # one reference takes seconds, and longer on a busy machine
    rows = data.read_rows(path, canonical_solution=str)
    bodies = [row["canonical_solution"] for row in rows]
    whole = [f"Sure:\n```python\n{row['prompt']}{row['canonical_solution']}```\nDone." for row in rows]
    assert verify.humaneval_rewards(problems * 2, bodies + whole) == [1.0] * 328
