"""The verifiers: what r(y, y*) in {0, 1} is, for each kind of problem.

1. The embedded task: every step of a written-out answer is checked.
2. Answers: MATH and GSM8K final answers, compared as exact values.
3. Programs: unit tests on programs that no one trusts.
"""

# ============================================================================
# 1. The embedded task
# ============================================================================


def reward(problem, answer: str) -> float:
    """r(y, y*) of one answer, 1.0 or 0.0: the verifier that the problem names judges its text."""
    if problem.check == "false-position":
        return float(check_position(*problem.gold, answer))
    raise ValueError(f"no verifier is called {problem.check!r}")


def check_position(steps: list[int], target: int, answer: str) -> bool:
    """Every step of a false-position answer, as data.py writes it: '6,13,11,16;0'.

    Right are: one value more than there are steps, each the one before plus its step, the last the
    target, and the words ';0' that say so. Anything else is wrong, a right start with a slip behind
    it too.

    >>> check_position([7, -2], 16, "11,18,16;0"), check_position([7, -2], 16, "12,19,17;1")
    (True, False)
    >>> check_position([7, -2], 16, "11,18,16;1"), check_position([7, -2], 16, "11,17,16;0")
    (False, False)
    """
    values = [target]
    for step in reversed(steps):  # there is one right working, and it is found backwards
        values.append(values[-1] - step)
    return answer == ",".join(map(str, reversed(values))) + ";0"


# ============================================================================
# 2. Answers
# ============================================================================


# ============================================================================
# 3. Programs
# ============================================================================
