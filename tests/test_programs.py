"""programs.py and sandbox.py: whether a program passes its tests is not for the program to decide.

The programs are in hostile_programs.py. The real data is in the folder SCORE_DATA (HumanEval.jsonl, mbpp.jsonl,
mbpp_sanitized.jsonl); without it those tests are skipped. SCORE_FUZZ is the number of random programs (default 100).
"""

import ast
import doctest
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import programs
import sandbox
from hostile_programs import BREACHES, CHECK, HONEST, HOSTILE, LYING, SOLVE, STACK, TESTS
from programs import TestResult, VerifierError, extract_program, run_tests, run_tests_batch, shutdown_sandbox

ROOT = Path(programs.__file__).parent


def job_of(entry, **more):
    """run_tests' arguments for an entry of a battery."""
    _, source, *rest = entry
    rest = rest[0] if rest else {}
    return {**({} if "tests" in rest else TESTS), **more, **rest, "program": source}


@pytest.fixture(scope="module", autouse=True)
def servers_end():
    yield
    shutdown_sandbox()


def processes():
    """Pids of this checkout's servers, judges and candidates."""
    pids = set()
    for path in Path("/proc").glob("[0-9]*"):
        try:
            command = (path / "cmdline").read_bytes()
            state = (path / "stat").read_text().rsplit(")", 1)[1].split()[0]
        except OSError:
            continue
        if command.rstrip(b"\0").endswith(f"{ROOT}/programs.py".encode()) and state != "Z":
            pids.add(int(path.name))
    return pids


# --- The batteries ------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("entry", HOSTILE, ids=[entry[0] for entry in HOSTILE])
def test_hostile_program_fails(entry):
    with socket.socket() as listener:  # a door that must not open
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        job = job_of(entry, timeout=2.0)
        job["program"] = job["program"].replace("PORT", str(listener.getsockname()[1]))
        if entry in BREACHES and run_tests(SOLVE, **TESTS).level == "limits":
            pytest.skip("nothing here keeps it from the user's files and processes")
        result = run_tests(**job)
        assert result.passed is False, result
        listener.settimeout(0)
        with pytest.raises(BlockingIOError):
            listener.accept()


@pytest.mark.parametrize("entry", HONEST, ids=[entry[0] for entry in HONEST])
def test_honest_program_passes(entry):
    result = run_tests(**job_of(entry, timeout=30.0))
    assert result.passed is True, result


def test_nothing_is_left_behind():
    """Bugs: a thread, a process or a candidate whose judge died outlives its job; a judge is never reaped."""
    litter = ("import os, threading, time\nfor _ in range(8): threading.Thread(target=time.sleep, args=(600,)).start()\n"
              "try:\n    if os.fork() == 0:\n        os.setsid()\n        time.sleep(600)\nexcept OSError: pass\n" + SOLVE)
    assert run_tests_batch([job_of(("", litter))] * 8)[0].passed
    asleep = job_of(("", "import time\ntime.sleep(600)"), timeout=0.1)
    assert "timed out" in run_tests_batch([asleep] * 8)[7].reason
    assert len(processes()) <= 2 * sandbox.CORES  # servers and judges
    shutdown_sandbox()
    assert not processes()


@pytest.mark.skipif(sys.platform != "linux", reason="there is no seccomp here")
def test_other_processes_are_out_of_reach():
    """Bug: this very process, whose user the candidate has, gets a signal, or its memory is read."""
    pid = os.getpid()
    refused = f"import os\ntry:\n    os.kill({pid}, 0)\nexcept PermissionError:\n    def solve(x): return x * x + 8\n"
    assert run_tests(refused, **TESTS).passed
    assert not run_tests(f"open('/proc/{pid}/mem', 'rb')\n" + SOLVE, **TESTS).passed


def test_limits_alone_still_judge(tmp_path, monkeypatch):
    """Bug: without seccomp, as on macOS, every program fails or a lie passes."""
    script = tmp_path / "server.py"
    script.write_text(f"import sys\nsys.path[0] = {str(ROOT)!r}\nimport programs, sandbox\nsandbox._ARCHITECTURES = {{}}\n"
                      "del sys.path[0]\nsandbox.serve(programs._verdict)\n")
    monkeypatch.setattr(programs, "__file__", str(script))
    shutdown_sandbox()
    assert run_tests(SOLVE, **TESTS) == TestResult(True, "passed all 3 tests", "limits")
    assert not run_tests(**job_of(LYING[0])).passed
    assert "timed out" in run_tests("while True: pass", **TESTS, timeout=0.3).reason
    shutdown_sandbox()


def test_the_modules_can_be_imported_on_windows():
    """Bug: a call of POSIX at import time keeps a user of Windows from the tasks that run no program."""
    code = """if True:
        import ctypes, os, signal, socket, subprocess, sys
        sys.platform, sys.modules["resource"], ctypes.CDLL = "win32", None, None
        for module, names in [(os, "fork register_at_fork sched_getaffinity getuid uname"), (socket, "send_fds recv_fds"),
                              (signal, "SIGKILL SIGALRM setitimer")]:
            for name in names.split():
                delattr(module, name)
        import programs
        assert programs.extract_program("f = 1") == "f = 1\\n"
        try:
            programs.run_tests("def f(): return 1", ["assert f() == 1"])
        except programs.VerifierError as error:
            assert "Windows lacks" in str(error)
        else:
            raise SystemExit("no error")"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can become another user")
def test_no_privileges_are_needed():
    """Bug: only root gets the level "seccomp"."""
    code = (f"import sys; sys.path.insert(0, {str(ROOT)!r}); import programs; "
            "print(programs.run_tests('def f(): return 2', ['assert f() == 2']).level)")
    drop = "import os, sys; os.setgroups([]); os.setgid(65534); os.setuid(65534); os.execv(sys.argv[1], sys.argv[1:])"
    command = [sys.executable, "-c", drop, sys.executable, "-c", code]
    run = subprocess.run(command, capture_output=True, text=True, cwd="/")
    if "Permission denied" in run.stderr or "ModuleNotFound" in run.stderr:
        pytest.skip("another user cannot read Python or this folder")
    assert run.stdout.strip() == run_tests(SOLVE, **TESTS).level, run


# --- Tests that cannot be run are errors --------------------------------------------------------------------------

@pytest.mark.parametrize("tests, more, message", [
    ([], {}, "not empty"),
    ("", {}, "not empty"),
    (None, {}, "list of assert"),
    ([1], {}, "list of assert"),
    (["assert solve(3) = 17"], {}, "not Python"),
    (["assert solve(3) == 17", "assert ("], {}, "not Python"),
    (["solve(3)"], {}, "assert nothing"),
    (["assert solve(3) == answer"], {}, "answer"),
    (["import no_such_module", "assert solve(3) == 17"], {}, "no_such_module"),
    (["assert True"], {"entry_point": "solve"}, "never call"),
    (["assert len([]) == 0 == int(0)"], {}, "entry_point"),
    (["assert solve(open('/dev/null')) == 17"], {}, "cannot be sent"),
    (["assert [].pop() == solve(3)"], {}, "IndexError"),
    (["raise SystemExit\nassert solve(3)"], {}, "SystemExit"),
    (["assert solve(3) == 17"], {"setup": "1 / 0"}, "ZeroDivisionError"),
    (["assert solve(3) == 17"], {"setup": "def"}, "not Python"),
    (["assert solve(3) == 17"], {"timeout": 0}, "positive"),
    (["assert solve(3) == 17"], {"timeout": float("nan")}, "positive"),
    ("def check(candidate):\n    assert candidate(3) == 17", {}, "entry_point"),
    ("def test(candidate):\n    assert candidate(3) == 17", {"entry_point": "solve"}, "never call"),
])
def test_broken_tests_raise(tests, more, message):
    """A failure of the harness is not a wrong answer."""
    with pytest.raises(VerifierError, match=message):
        run_tests(SOLVE, tests, **more)


def test_a_program_that_is_no_text_or_broken_beside_broken_tests_raises():
    with pytest.raises(VerifierError, match="must be a str"):
        run_tests(b"def solve(x): ...", **TESTS)
    with pytest.raises(VerifierError, match="not Python"):
        run_tests("x = (", ["assert"])


@pytest.mark.parametrize("source", [
    "def f(x): return (y for y in x)", "def f(x): return [[1]] * 9 ** 5", "def f(x): return lambda: 0",
    "def f(x):\n    a = []\n    for i in range(99): a = [a]\n    return a", "def f(x): return '('", "def f(x): return []"])
def test_no_value_of_the_program_is_blamed_on_the_tests(source):
    """Passed back to the program, parsed by the test, or a loop that never runs: a wrong answer, never an error."""
    source += "\ndef g(x): return 0"
    for test in ["assert g([[f([1])]]) == 1", "import ast\nassert ast.literal_eval(f(1)) == 1",
                 "for x in f([]):\n    last = x\nassert last == 1"]:
        assert not run_tests(source, [test]).passed


# --- Values on the wire -------------------------------------------------------------------------------------------

@pytest.mark.parametrize("value", [
    None, True, 0, -1, 2 ** 63, -2 ** 200, 0.1, float("inf"), 1e-320, "a\0é🎉\ud800", b"\0\xff", [], [[1], (2,)],
    {1: {2}, (3,): None, "k": frozenset([4])}, range(1, 9, 2), 1 + 2j, {True: "bool"}, set(), (),
])
def test_plain_values_survive_the_encoding(value):
    data = json.loads(json.dumps(sandbox.encode(value, pytest.fail)))
    back = sandbox.decode(data, pytest.fail)
    assert type(back) is type(value) and repr(back) == repr(value)


def test_subclasses_are_sent_as_their_bases():
    """What an overridden method says must not be asked."""
    class Lying(int):
        __eq__ = __lt__ = lambda self, other: True
        __hash__ = __index__ = __int__ = __repr__ = lambda self: 17

    liar = type("D", (dict,), {"items": lambda self: [(1, 2)]})(a=1)
    assert sandbox.encode([Lying(5), liar], pytest.fail) == ["list", 5, ["dict", "a", 1]]


@pytest.mark.parametrize("forged", [
    {}, ["set", ["list"]], ["dict", 1], ["dict", ["list"], 1], ["eval", "1"], [], [1], ["range", 1, 2], ["range", 1, 2, 0],
    ["Fraction", "1e999999999", 1], ["Fraction", 1, 0], ["int", "zz"], ["int", 5], ["bytes", "\u0100"], ["date", 0, 0, 0],
    ["Decimal", "x"], ["complex", "1", "2"], ["object", 0], ["timedelta", 10 ** 30, 0, 0], ["deque", 1, ["deque", 1, {}]],
])
def test_forged_values_are_refused(forged):
    def other(tag, items):
        raise ValueError(tag)

    with pytest.raises(ValueError):
        sandbox.decode(["list", forged], other)


def test_nesting_is_bounded_on_both_sides():
    deep = []
    for _ in range(250):
        deep = ["list", deep]
    for function in (sandbox.encode, sandbox.decode):
        with pytest.raises(ValueError, match="nested|plain"):
            function(deep, None)


# --- The judge ----------------------------------------------------------------------------------------------------

def test_the_program_sees_one_call_at_a_time_and_no_expected_value():
    """A program that returns all that ever reached it: the answer is not there."""
    recorder = ("import gc, os, sys\nseen = []\ndef solve(x):\n    seen.append(x)\n"
                "    holders = [o for o in gc.get_objects() if type(o) in (list, tuple, dict)]\n"
                "    text = str([s for o in holders for s in (o.values() if type(o) is dict else o) if type(s) is str])\n"
                "    return seen, ''.join(['424', '242']) in text, ''.join(['SECRET', 'SETUP']) in text\n")
    tests = ["assert solve(1) == ([1], False, False)", "assert solve(2) == ([1, 2], False, False), 424242"]
    for _ in range(3):  # also after another candidate had these tests
        assert run_tests(recorder, tests, setup="secret = 'SECRETSETUP'").passed


def test_only_what_the_tests_use_as_objects_are_objects():
    """The names whose objects may answer `in`, `<` and `==` come from the tests, never from the program."""
    def objects(*tests):
        return programs._outline("", tests, None)["objects"]

    assert objects("s = stack()\ns.push(1)\nassert 1 in s", "assert f(1) == 2") == ["stack"]
    assert objects("a = Node(1)\nb = a\nb.next = f(2)\nassert f(a) == 1") == ["Node"]
    assert objects("assert f(3).issubset({3})", "r = g(1)\nr.sort()\nassert r == [4]", "assert 3 in h(3)") == []
    assert objects("q = queue()\nq.append(1)\nassert len(q) == 1", "assert Color.RED == f(1)") == ["Color", "queue"]


def test_reasons_are_in_words():
    for source, words in [(SOLVE.replace("8", "9"), "test 1 of 3, assert solve(3) == 17, does not hold"),
                          ("def solve(x): return 1 / 0", "raised ZeroDivisionError: division by zero"),
                          ("x = (", "raised SyntaxError"), ("import os\nos._exit(3)", "exit status 3"),
                          ("def f(): pass", "name 'solve' is not defined"), (SOLVE, "passed all 3 tests"),
                          ("def solve(x): raise AssertionError('no')", "raised AssertionError: no"),
                          ("class A(Exception): pass\ndef solve(x): raise A('no')", "raised A: no")]:
        assert words in run_tests(source, **TESTS).reason
    assert "timed out after 0.3 s" in run_tests("while True: pass", **TESTS, timeout=0.3).reason
    assert "raised MemoryError" in run_tests("x = bytearray(300 << 20)", **TESTS, memory_mb=200).reason


def test_a_program_of_any_length_has_a_verdict():
    assert not run_tests("x = 1\n" + "# " + "é" * (3 << 20), **TESTS).passed


def test_memory_limit_counts_beyond_the_interpreter():
    assert run_tests("x = bytearray(40 << 20)\n" + SOLVE, **TESTS, memory_mb=64).passed
    assert not run_tests("x = bytearray(80 << 20)\n" + SOLVE, **TESTS, memory_mb=64).passed


def test_level_is_reported():
    result = run_tests(SOLVE, **CHECK)
    assert result == TestResult(True, "passed check", result.level) and result.level in ("seccomp", "limits")


# --- Servers ------------------------------------------------------------------------------------------------------

def test_importing_is_cheap_and_starts_nothing():
    code = ("import sys, threading, programs, sandbox; assert not {'torch', 'sympy', 'numpy'} & set(sys.modules); "
            "assert threading.active_count() == 1 and not sandbox._idle")
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_the_calling_process_is_never_forked():
    """Servers are started by exec, from any thread: the caller may hold threads, torch and the tests."""
    shutdown_sandbox()
    forks, results = [], []
    os.register_at_fork(before=lambda: forks.append(1))
    thread = threading.Thread(target=lambda: results.append(run_tests(SOLVE, **TESTS)))
    thread.start()
    thread.join()
    assert results[0].passed and not forks


def test_a_killed_server_is_an_error_and_then_replaced():
    """Bugs: a server that another program killed counts as a wrong answer, or every later job fails too."""
    shutdown_sandbox()
    assert run_tests(SOLVE, **TESTS).passed
    os.kill(sandbox._idle[0].process.pid, signal.SIGKILL)
    with pytest.raises(VerifierError, match="server died"):
        run_tests(SOLVE, **TESTS)
    assert run_tests(SOLVE, **TESTS).passed


def test_a_dead_judge_costs_the_next_program_nothing():
    """Bug: a judge that the clock or a crash ended raises, or the rest of its job is read as the next one."""
    endless = {"program": "def pair(x): return range(10 ** 15)", "tests": ["assert sum(pair(1)) == 7"], "timeout": 0.1}
    crash = {"program": "def f(): return 0", "tests": ["import ctypes\nassert f() or ctypes.string_at(0)"]}
    results = run_tests_batch([endless, crash, job_of(("", SOLVE))] * 4)
    assert [result.passed for result in results] == [False, False, True] * 4
    assert "timed out" in results[0].reason and "judge died" in results[1].reason


def test_batch_keeps_the_order_and_raises_for_broken_tests():
    jobs = [{"program": f"def f(): return {k}", "tests": ["assert f() % 3 == 0"]} for k in range(12)]
    assert [result.passed for result in run_tests_batch(jobs)] == [k % 3 == 0 for k in range(12)]
    with pytest.raises(VerifierError):
        run_tests_batch(jobs + [{"program": "", "tests": []}])


def test_servers_end_with_the_process_that_started_them():
    code = ("import os, signal, programs; print(programs.run_tests('def f(): return 1', ['assert f() == 1']).passed, "
            "flush=True); os.kill(os.getpid(), signal.SIGKILL)")
    shutdown_sandbox()
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True).stdout == "True\n"
    for _ in range(1000):
        if not processes():
            return
        time.sleep(0.01)
    pytest.fail("the server outlived its caller")


# --- extract_program ----------------------------------------------------------------------------------------------

CODE = "def f(x):\n    return x\n"
FENCED = f"```python\n{CODE}```\n"


@pytest.mark.parametrize("response, expected", [
    (f" {CODE.strip()}\n[DONE]\n", "def f(x):\n   return x\n"),
    ('```python\ndef f(x):\n    """Doc.\n\n```\nf(1)\n```\n    """\n    return x\n```\nDone.',
     'def f(x):\n    """Doc.\n\n```\nf(1)\n```\n    """\n    return x\n'),
    ('def f(x):\n    """Doc:\n    ```\n    f(1)\n    ```\n    """\n    return x\n',
     'def f(x):\n    """Doc:\n    ```\n    f(1)\n    ```\n    """\n    return x\n'),
    (f"Sure! The function is:\n\nimport math\n\n{CODE}\nThis works because x is x.", f"import math\n\n{CODE}"),
    (f"K = 3\n\n{CODE}", f"K = 3\n\n{CODE}"),
    ("I do not know.", "I do not know.\n"),
    ("def f(x):\n    return '(' + x  # (\n\nThis adds a bracket.", "def f(x):\n    return '(' + x  # (\n"),
    ("print('[DONE]')\n", "print('[DONE]')\n"),
    ("", "\n"),
    (f"{CODE}\nassert f(1) == 1\nif True:\n    pass\nx: int = 3\nx += 1\n", f"{CODE}\nassert f(1) == 1\nif True:\n    pass\nx: int = 3\nx += 1\n"),
    ("    y = x\n    return y\n", "y = x\nreturn y\n"),  # the rest of a function, for a completion
])
def test_extract_program_to_the_letter(response, expected):
    assert extract_program(response) == expected


EXTRACTED = {
    "bare code": CODE,
    "MBPP's marks": f"[BEGIN]\n{CODE}[DONE]\nYou are an expert [BEGIN]\nno\n[DONE]",
    "a fence": f"Here it is:\n{FENCED}It returns x.",
    "an untagged fence": f"```\n{CODE}```",
    "tildes": f"~~~py\n{CODE}~~~",
    "four backticks": f"````python\n{CODE}````",
    "a fence cut off": f"```python\n{CODE}",
    "a fence closed on the last line": "```python\ndef f(x):\n    return x```\nDone.",
    "code on the label's line": "```python def f(x): return x```",
    "a fence after words": f"Solution: ```python\n{CODE}```",
    "a numbered item": "1. Like this:\n   ```python\n   def f(x):\n       return x\n   ```",
    "a fence on the item's line": "1. ```python\n   def f(x):\n       return x\n   ```",
    "a nested list": "- a\n  - b\n\n        ```python\n        def f(x):\n            return x\n        ```\n",
    "a quote": "> Sure:\n>\n> ```\n> def f(x):\n>     return x\n> ```\n> Done.",
    "an attribute of the fence": f"```python title=\"a.py\"\n{CODE}```",
    "braces around the tag": f"```{{.python}}\n{CODE}```",
    "Python3": f"``` Python3\n{CODE}```",
    "the corrected second block": f"The old one was\n```python\ndef f(x): pass\n```\nbut this is right:\n{FENCED}",
    "usage after it": f"{FENCED}Example:\n```python\nprint(f(1))\n```\nprints\n```\n1\n```",
    "tests after it": f"{FENCED}Tests:\n```python\ndef test_f():\n    assert f(1) == 1\n```",
    "a test class after it": f"{FENCED}```python\nclass TestF(unittest.TestCase):\n    def test(self): pass\n```",
    "main after it": f"{FENCED}```python\ndef main():\n    print(f(1))\n\nmain()\n```",
    "JavaScript after it": f"{FENCED}```javascript\nclass F {{ static f(x) {{ return x }} }}\n```",
    "untagged Ruby after it": f"{FENCED}In Ruby:\n```\ndef f(x)\n  x\nend\n```",
    "a diff after it": f"{FENCED}```diff\n def f(x):\n-    return x - 1\n+    return x\n```",
    "an untagged diff after it": f"{FENCED}```\n def f(x):\n-    return x - 1\n+    return x\n```",
    "a fence that was forgotten": f"```python\n{CODE}```python\nf(1)\n```",
    "an end-of-turn token": f"{FENCED.strip()}<|im_end|>",
    "an end-of-turn token for a fence": f"```python\n{CODE.strip()}<|eot_id|>",
    "another turn": f"{FENCED}<|im_end|>\n<|im_start|>user\n```python\ndef f(x): return 0\n```",
    "thoughts before it": f"<think>\n```python\ndef f(x): return 0\n```\n</think>\n{FENCED}",
    "prompts": "```python\n>>> def f(x):\n...     return x\n...\n>>> f(1)\n1\n```",
    "prompts without a fence": "In the shell:\n\n>>> def f(x):\n...     return x\n>>> f(1)\n1\n",
    "CRLF": FENCED.replace("\n", "\r\n"),
    "CR": FENCED.replace("\n", "\r"),
    "non-breaking spaces": FENCED.replace("    ", "\u00a0" * 4),
    "a byte order mark": "\ufeff" + CODE,
    "HTML": "<pre><code class=\"language-python\">def f(x):\n    return x if x &lt; 9 else x\n</code></pre>\n<p>Done.</p>",
    "HTML with breaks": "<code>def f(x):<br>&nbsp;&nbsp;&nbsp;&nbsp;return x</code>",
    "inline code": "You can write `def f(x): return x`.",
    "an inline lambda": "Use ``f = lambda x: x`` for that.",
    "inline backticks before it": f"Use ```f``` so:\n{FENCED}",
    "an indented block": "Sure.\n\n    def f(x):\n        return x\n\nDone.",
    "a comment with a fence": f"```python\n# ```\n{CODE}```",
}


@pytest.mark.parametrize("name", EXTRACTED)
def test_extract_program_finds_the_function(name):
    scope = {"__name__": "extracted"}
    exec(extract_program(EXTRACTED[name]), scope)
    assert scope["f"](1) == 1


def test_the_docstring_of_programs_is_true():
    assert doctest.testmod(programs).failed == 0


def test_the_entry_point_chooses_the_block():
    response = f"{FENCED}A helper:\n```python\ndef g(x): return 0\n```\n"
    assert "def g" in extract_program(response) and extract_program(response, "f") == CODE
    assert extract_program("```python\nf = g\n```\n" + FENCED.replace("f(", "h("), "f") == "f = g\n"


@pytest.mark.parametrize("part", [
    "```\n", "(", "def f(\n", "'''", "a", "> ", "- ", "`a", ">>>\n", "+\n-\n", "<pre>", "<code ", "<br ", "</s> ", "a: ", "def f()->",
    "def f(\na[", "'", "\"\\", "if : ", "class a("])
def test_extract_program_is_linear(part):
    """At 300,000 characters a quadratic step would take minutes."""
    for text in (part * (300_000 // len(part)), "```" + part * (300_000 // len(part)), "def f(\n" + part * 100_000 + "b"):
        assert isinstance(extract_program(text, "f"), str)


# --- Real data and fuzzing ----------------------------------------------------------------------------------------

def rows(name):
    folder = os.environ.get("SCORE_DATA")
    if not folder:
        pytest.skip("SCORE_DATA does not name the folder of the real data")
    return [json.loads(line) for line in (Path(folder) / name).read_text().splitlines()]


def real_jobs():
    """Name -> job of HumanEval, MBPP and MBPP sanitized, with their reference solutions."""
    jobs = {}
    for row in rows("HumanEval.jsonl"):
        jobs[row["task_id"]] = {"program": row["prompt"] + row["canonical_solution"], "tests": row["test"],
                                "setup": row["prompt"], "entry_point": row["entry_point"]}
    for row in rows("mbpp.jsonl"):
        jobs[row["task_id"]] = {"program": row["code"], "tests": row["test_list"], "setup": row["test_setup_code"]}
    for row in rows("mbpp_sanitized.jsonl"):
        jobs[f"sanitized {row['task_id']}"] = {"program": row["code"], "tests": row["test_list"],
                                               "setup": "\n".join(row["test_imports"])}
    return jobs


def with_wrong_returns(source, last_only):
    """The program with `return v` -> () where v is true, ("wrong", v) where it is false."""
    tree = ast.parse(source)
    returns = [node for node in ast.walk(tree) if isinstance(node, ast.Return) and node.value]
    returns.sort(key=lambda node: (node.lineno, node.col_offset))
    for node in returns[-1:] if last_only else returns:
        wrong = ast.parse("(lambda v: () if v else ('wrong', v))(0)", mode="eval").body
        wrong.args = [node.value]
        node.value = wrong
    return ast.unparse(ast.fix_missing_locations(tree))


# MBPP tasks whose tests never reach the last return: "not found", or a line after another return.
UNREACHED = {9, 20, 29, 34, 177, 189, 223, 351, 382, 404, 485, 617, 627, 631, 802, 823, 838, 842, 916, 928}


def test_reference_solutions_pass():
    jobs = real_jobs()
    results = run_tests_batch(jobs.values(), timeout=60.0)
    assert {name: result for name, result in zip(jobs, results) if not result.passed} == {}


def test_wrong_returns_fail():
    jobs = {name: job for name, job in real_jobs().items() if not str(name).startswith("sanitized")}
    for last_only, survivors in [(True, UNREACHED), (False, set())]:
        wrong = [{**job, "program": with_wrong_returns(job["program"], last_only)} for job in jobs.values()]
        results = run_tests_batch(wrong, timeout=20.0)
        assert {name for name, result in zip(jobs, results) if result.passed} == survivors


def test_random_programs_get_a_verdict_and_leave_nothing():
    rng = random.Random(0)
    sources = [entry[1] for entry in HOSTILE[:-60] + HONEST if len(entry[1]) < 5000] + [STACK]
    jobs = []
    for _ in range(int(os.environ.get("SCORE_FUZZ", 100))):
        a, b = rng.choice(sources), rng.choice(sources)
        noise = [rng.choice("()[]{}:=\n \t\"'\\\0\udc80deflambdax1.@#*") for _ in range(rng.randrange(300))]
        source = rng.choice([a[:rng.randrange(len(a) + 1)], a[:rng.randrange(len(a) + 1)] + b[rng.randrange(len(b) + 1):],
                             "".join(c for c in a if rng.random() > 0.01), "".join(noise)])
        jobs.append({"program": source, "timeout": 0.5, **TESTS})
    run_tests(SOLVE, **TESTS)
    outside = {path: path.stat().st_mtime_ns for path in [ROOT, ROOT / "tests", ROOT / "programs.py", Path.home(), Path("/etc")]}
    results = run_tests_batch(jobs)
    assert outside == {path: path.stat().st_mtime_ns for path in outside}
    right = [job["program"].replace(" ", "") for job, result in zip(jobs, results) if result.passed]
    assert all("x*x" in source or ".x**2" in source for source in right), right  # the solution is in them
    shutdown_sandbox()
    assert not processes()
