"""verify.py: each task's verifier, and what is done once per distinct program."""

from types import SimpleNamespace

import pytest

import verify


def problem(gold, id="p/1"):
    """What a verifier needs to know of a data.Problem."""
    return SimpleNamespace(gold=gold, id=id)


DOUBLE = problem(
    {
        "setup": 'from math import floor\n\ndef one():\n    return 1\n\ndef double(x):\n    """ Twice x. """\n',
        "tests": "def check(candidate):\n    assert candidate(2) == 4 and candidate(5) == 10\n",
        "entry_point": "double",
    }
)
ADD = problem({"tests": ["assert add(1, 2) == 3", "assert add(-1, 1) == 0"]})


def sketch(x, y):
    """A problem of the embedded code task: f(x) is y, and f(0) is y − x."""
    return problem({"tests": [f"assert f({x}) == {y}", f"assert f(0) == {y - x}"], "timeout": 2.0})


# ------------------------------------------------------------------ one verifier per task


def test_position_rewards_need_every_step_right():
    """Bugs: only the last value is compared; a right start with a slip after it, or a wrong verdict, earns a reward."""
    answers = {
        "6,13,11,16;0": 1, "6,13,11,16;-1": 0, "6,13,11,16": 0, "6,14,11,16;0": 0, "6,16;0": 0, "6,13,11,16,16;0": 0,
        " 6,13,11,16;0": 0, "06,13,11,16;0": 0, "6,13,11,16;0;0": 0, "4,11,9,14;-2": 0, "4,11,9,16;0": 0, "": 0,
    }  # fmt: skip
    problems = [problem(([7, -2, 5], 16))] * len(answers)
    assert verify.position_rewards(problems, list(answers)) == list(answers.values())


def test_answer_rewards_compare_the_final_answer_with_its_own_gold():
    """Bugs: response and gold change places; the text is compared, not the value."""
    answers = [r"It is $\boxed{\frac{6}{4}}$.", "#### 1,000", r"It is $\boxed{2}$.", ""]
    problems = [problem(gold) for gold in ("1.5", "1000", "3", "2")]
    assert verify.answer_rewards(problems, answers) == [1, 1, 0, 0]


def test_mbpp_rewards_run_the_program_in_the_response():
    """Bugs: the prose around a program is run; a program that fails its second test, or of another name, passes."""
    answers = {
        "Sure:\n```python\ndef add(a, b):\n    return a + b\n```\nDone.": 1,
        "def add(a, b):\n    return 3": 0,
        "def plus(a, b):\n    return a + b": 0,
        "I do not know.": 0,
        "": 0,
    }
    assert verify.mbpp_rewards([ADD] * len(answers), list(answers)) == list(answers.values())


def test_code_rewards_ignore_the_comment():
    """Bugs: the model's own working in the comment is judged, or decides; a constant passes the shown call."""
    answers = {"x+13+7-2#18,25,23;0": 1, "x+13+7-2#1,2,3;9": 1, "x+18": 1, "x+11+7-2#16,23,21;-2": 0, "23": 0, "#;0": 0}
    assert verify.code_rewards([sketch(5, 23)] * len(answers), list(answers)) == list(answers.values())


def test_humaneval_rewards_complete_the_prompt_or_rewrite_its_function():
    """Bugs: an indented body is not appended to the prompt; prose after it is run; a rewritten function loses the
    prompt's imports and helpers; another function's name counts."""
    answers = {
        "    y = floor(x)\n    return y + x": 1,
        "\n    return 2 * x": 1,
        "return 2 * x": 1,
        "    def two():\n        return 2\n\n    return two() * x\n": 1,
        "    return 2 * x\n\nThis doubles x.\nassert double(1) == 3": 1,
        "```python\ndef double(x):\n    return x + x * one()\n```": 1,
        "Here you are:\n```python\n    return x + x\n```\nDone.": 1,
        "    return 2 + x\n": 0,
        "def twice(x):\n    return 2 * x\n": 0,
        "": 0,
    }
    rewards = verify.humaneval_rewards([DOUBLE] * len(answers), list(answers))
    assert dict(zip(answers, rewards)) == answers


def test_a_missing_problem_is_not_ignored():
    """Bug: zip drops the answers that have no problem, and every later reward belongs to another answer."""
    one = {verify.position_rewards: problem(([7, -2], 16)), verify.answer_rewards: problem("2")}
    for judge in (*one, verify.mbpp_rewards, verify.code_rewards, verify.humaneval_rewards):
        with pytest.raises(ValueError):
            judge([one.get(judge, DOUBLE)], ["x", "y"])


# ------------------------------------------------------------------ programs are run once, and broken tests are named


@pytest.fixture
def batches(monkeypatch):
    """The programs of every call of the sandbox; no verdict is known at the start."""
    run, batches = verify.run_tests_batch, []

    def record(jobs):
        batches.append([job["program"] for job in jobs])
        return run(jobs)

    monkeypatch.setattr(verify, "_verdicts", {})
    monkeypatch.setattr(verify, "run_tests_batch", record)
    return batches


def test_equal_programs_run_once(batches):
    """Bugs: a program is run again for each dialogue that wrote it; a verdict is used for other tests."""
    five, seven = sketch(5, 23), sketch(5, 25)
    answers = ["x+18", "x+20", "x+18#23;0", "x+18", "x+20"]
    for _ in range(2):
        assert verify.code_rewards([five, five, five, seven, seven], answers) == [1, 0, 1, 0, 1]
    assert batches == [["f=lambda x:x+18", "f=lambda x:x+20"] * 2, []]


def test_a_time_out_is_not_kept(batches, monkeypatch):
    """Bug: a program that a busy machine was too slow for is wrong for the rest of the run."""
    late = verify.TestResult(False, "timed out after 2 s", "")
    with monkeypatch.context() as slow:
        slow.setattr(verify, "run_tests_batch", lambda jobs: [late for _ in jobs])
        assert verify.code_rewards([sketch(5, 23)], ["x+18"]) == [0]
    assert verify.code_rewards([sketch(5, 23)], ["x+18"]) == [1]


def test_verdicts_do_not_grow_without_bound(batches, monkeypatch):
    """Bug: a long run fills the memory with programs; or the cache is emptied while its verdicts are still needed."""
    monkeypatch.setattr(verify, "_MOST_VERDICTS", 2)
    for _ in range(2):
        assert verify.code_rewards([sketch(5, 23)] * 3, ["x+18", "x+19", "x+20"]) == [1, 0, 0]
    assert len(verify._verdicts) <= 2


def test_verifier_error_names_the_problem():
    """Bug: broken tests count as a wrong answer, or stop the run without saying which problem has them."""
    broken = problem({"tests": ["assert add(1, 2) =="]}, "MBPP/77")
    with pytest.raises(verify.VerifierError, match="MBPP/77"):
        verify.mbpp_rewards([ADD, broken], ["def add(a, b):\n    return a + b"] * 2)
