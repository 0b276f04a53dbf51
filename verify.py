"""The verifiers: what r(y, y*) in {0, 1} is, for each kind of problem.

1. The embedded task: every step of a written-out answer is checked.
2. Answers: MATH and GSM8K final answers, compared as exact values.
3. Programs: unit tests on programs that no one trusts.
"""

# ============================================================================
# 1. The embedded task
# ============================================================================


# ============================================================================
# 2. Answers
# ============================================================================


# ============================================================================
# 3. Programs
# ============================================================================
