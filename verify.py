"""The reward r(y, y*) in {0, 1}: which verifier judges which kind of problem.

A task (data.Task) owns one of the functions below. Each takes problems and as many answers, and returns one reward per
answer. What reward 1 means:

| task | `problem.gold` | reward 1 if |
|---|---|---|
| false-position | (steps, target) | every step of the written working is right, and it ends with `;0` |
| math, gsm8k | the final answer as text | the response's final answer has the same value (answers.py) |
| mbpp | arguments of `run_tests` | the program in the response passes all its unit tests (programs.py) |
| humaneval | the same | the prompt's function, completed or rewritten by the response, passes them |
| code | the same | the function `f=lambda x:` followed by the answer, up to its comment, passes them |

An answer that was cut at the length limit is a failed answer: evaluate.py sets its reward to 0, whatever its text.
"""

import re
import textwrap

# The public names of both rooms are available here, too.
from answers import extract_answer, grade_answer, is_equivalent  # noqa: F401
from programs import TestResult, VerifierError, extract_program, run_tests, run_tests_batch, shutdown_sandbox  # noqa: F401

# ------------------------------------------------------------------ the embedded task


def position_rewards(problems: list, answers: list[str]) -> list[float]:
    """Return the rewards of false-position answers; gold is (steps, target)."""
    return [float(check_position(*p.gold, answer)) for p, answer in zip(problems, answers, strict=True)]


def check_position(steps: list[int], target: int, answer: str) -> bool:
    """Return whether a false-position answer, as data.py writes it ('6,13,11,16;0'), is right in every step.

    Right means: one value more than there are steps, each value the one before plus its step, the last value the target,
    and ';0' at the end. Anything else is wrong, including a right start with a slip after it.

    >>> check_position([7, -2], 16, "11,18,16;0"), check_position([7, -2], 16, "12,19,17;1")
    (True, False)
    >>> check_position([7, -2], 16, "11,18,16;1"), check_position([7, -2], 16, "11,17,16;0")
    (False, False)
    """
    values = [target]
    for step in reversed(steps):  # only one working is right; it is computed from its end
        values.append(values[-1] - step)
    return answer == ",".join(map(str, reversed(values))) + ";0"


# ------------------------------------------------------------------ final answers: MATH, GSM8K


def answer_rewards(problems: list, answers: list[str]) -> list[float]:
    """Return the rewards of responses that state a final answer; gold is that answer as text."""
    return [float(grade_answer(answer, p.gold)) for p, answer in zip(problems, answers, strict=True)]


# ------------------------------------------------------------------ programs: MBPP, HumanEval, the embedded code task


def mbpp_rewards(problems: list, answers: list[str]) -> list[float]:
    """Return the rewards of responses that contain a program; gold is the keyword arguments of `run_tests`."""
    return _test_programs(problems, [extract_program(answer) for answer in answers])


def code_rewards(problems: list, answers: list[str]) -> list[float]:
    """Return the rewards of answers to the embedded code task: a lambda's body, then the model's comment."""
    return _test_programs(problems, ["f=lambda x:" + answer.split("#")[0] for answer in answers])


def humaneval_rewards(problems: list, answers: list[str]) -> list[float]:
    """Return the rewards of responses that complete HumanEval's prompt, or that rewrite its function."""
    return _test_programs(problems, [completed(p.gold, answer) for p, answer in zip(problems, answers, strict=True)])


def completed(gold: dict, answer: str) -> str:
    """Return HumanEval's program: the prompt's head and the function that the response rewrites or completes."""
    prompt, name = gold["setup"], gold["entry_point"]
    head = re.compile(rf"(?m)^(async +)?def +{re.escape(name)}\b")
    program = extract_program(answer, name)
    if head.search(program):  # rewritten; it may use what the prompt imports and defines
        return prompt[: head.search(prompt).start()] + program
    if re.match(r"(\s*\n)?[ \t]+\S", answer):  # an indented body: it ends with the function
        return prompt + re.split(r"\n(?=[^\s#)\]}])", answer, maxsplit=1)[0] + "\n"
    return prompt + textwrap.indent(program, "    ")  # a fenced body, whose margin extract_program removed


# A verdict depends on program and tests alone, and a policy writes the same small programs again and again.
_verdicts: dict[tuple[str, str], float] = {}
_MOST_VERDICTS = 100_000  # some 30 MB


def _test_programs(problems: list, programs: list[str]) -> list[float]:
    """Run each distinct pair of program and tests once, on all cores.

    Raises VerifierError, naming the problem, if the tests themselves are broken: that is no fault of the answer.
    """
    keys = [(program, repr(p.gold)) for p, program in zip(problems, programs, strict=True)]
    new = {key: p for key, p in zip(keys, problems) if key not in _verdicts}
    results = run_tests_batch([{"program": program, "name": p.id, **p.gold} for (program, _), p in new.items()])
    verdicts = {key: float(result.passed) for key, result in zip(new, results)}
    rewards = [verdicts[key] if key in verdicts else _verdicts[key] for key in keys]
    # Time-outs are not cached: the machine may be at fault.
    _verdicts.update({key: verdicts[key] for key, result in zip(new, results) if "timed out" not in result.reason})
    if len(_verdicts) > _MOST_VERDICTS:
        _verdicts.clear()
    return rewards
