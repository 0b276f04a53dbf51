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
linux = pytest.mark.skipif(sys.platform != "linux", reason="there is only one level here")


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
        if b"programs.py" in command and b"score-sandbox-" in command and str(ROOT).encode() in command and state != "Z":
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
        result = run_tests(**job)
        if result.level == "limits" and entry in BREACHES:
            pytest.skip("nothing here keeps it from the user's files and processes")
        assert result.passed is False, result
        listener.settimeout(0)
        with pytest.raises(BlockingIOError):
            listener.accept()


@pytest.mark.parametrize("entry", HONEST, ids=[entry[0] for entry in HONEST])
def test_honest_program_passes(entry):
    result = run_tests(**job_of(entry, timeout=30.0))
    assert result.passed is True, result


def test_the_batteries_have_no_doubles():
    assert len({str(entry[1:]) for entry in HOSTILE}) == len(HOSTILE) >= 200
    assert len({entry[0] for entry in HONEST}) == len(HONEST) >= 90


def test_nothing_is_left_behind():
    """No process beyond the servers' own, no file, no folder, and the next working folder is empty."""
    litter = ("import os, threading, time\nopen('litter', 'w').write('x')\nos.makedirs('a/b')\n"
              "for _ in range(8): threading.Thread(target=time.sleep, args=(600,)).start()\n"
              "try:\n    if os.fork() == 0:\n        os.setsid()\n        time.sleep(600)\nexcept OSError: pass\n" + SOLVE)
    assert run_tests_batch([job_of(("", litter))] * 8)[0].passed
    assert len(processes()) <= 2 * sandbox.CORES  # servers and judges
    empty = "import os\ndef solve(x): return x * x + 8 if os.listdir('.') == [] else 0"
    assert all(result.passed for result in run_tests_batch([job_of(("", empty))] * 4))
    folders = [server.base for server in sandbox._idle]
    shutdown_sandbox()
    assert folders and not any(map(os.path.exists, folders))
    assert not processes()


# --- Weaker levels ------------------------------------------------------------------------------------------------

@pytest.fixture
def server_at(tmp_path):
    """A function that starts a server of one level, without namespaces, and gives a function that judges there."""
    servers = []

    def start(level):
        script = tmp_path / "server.py"
        script.write_text(f"import sys\nsys.path.insert(0, {str(ROOT)!r})\nimport programs, sandbox\n"
                          f"del sys.path[:2]\nsandbox.LEVELS = [{level!r}]\nsandbox._mount_working_folder = None\n"
                          "sandbox.serve(programs._verdict, *sys.argv[1:])\n")

        def judge(entry, timeout):
            if not servers or servers[-1].closed:
                servers.append(sandbox._Server(str(script)))
            job = {"setup": "", "entry_point": None, **job_of(entry)}
            tests = job["tests"] if isinstance(job["tests"], list) else [job["tests"]]
            job["outline"] = programs._outline(job["setup"], tuple(tests), job["entry_point"])
            verdict, _, _ = servers[-1].run(job, timeout, 1024.0)
            assert verdict is None or verdict[0] == "verdict", verdict
            return verdict is not None and verdict[1]

        return judge

    yield start
    for server in servers:
        assert not os.path.exists(f"{server.base}/work") or os.listdir(f"{server.base}/work") == []
        server.close()
        assert not os.path.exists(server.base)


@linux
@pytest.mark.parametrize("level", ["seccomp + landlock", "seccomp"])
def test_weaker_levels_do_not_change_the_verdict(level, server_at):
    judge = server_at(level)
    for entry in BREACHES + LYING[::6]:
        assert not judge(entry, 2.0), entry
    for entry in HONEST[::5]:
        assert judge(entry, 30.0) != (level == "seccomp" and " file" in entry[0]), entry  # there it can open none


@linux
@pytest.mark.parametrize("level", ["seccomp + landlock", "seccomp"])
def test_other_processes_are_out_of_reach(level, server_at):
    """Neither a signal nor a look into the memory of this very process, whose user the candidate has."""
    judge, pid = server_at(level), os.getpid()
    refused = f"import os\ntry:\n    os.kill({pid}, 0)\nexcept PermissionError:\n    def solve(x): return x * x + 8\n"
    assert judge(("", refused), 10.0)
    assert not judge(("", f"open('/proc/{pid}/mem', 'rb')\n" + SOLVE), 10.0)
    assert not judge(("", "import os\nos.stat('/etc/passwd')\nos.open('/etc/passwd', 0)\n" + SOLVE), 10.0)


@linux
def test_limits_alone_still_judge(server_at):
    judge = server_at("limits")
    assert judge(("", SOLVE), 10.0) and not judge(LYING[0], 10.0)


@linux
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_no_privileges_are_needed():
    """The same level for a user without capabilities as for root."""
    code = (f"import sys; sys.path.insert(0, {str(ROOT)!r}); import programs; "
            "print(programs.run_tests('def f(): return open(\"x\", \"w\").write(\"ab\")', ['assert f() == 2']))")
    drop = "import os, sys; os.setgroups([]); os.setgid(65534); os.setuid(65534); os.execv(sys.argv[1], sys.argv[1:])"
    run = subprocess.run([sys.executable, "-c", drop, sys.executable, "-c", code], capture_output=True, text=True, cwd="/")
    if "Permission denied" in run.stderr or "ModuleNotFound" in run.stderr:
        pytest.skip("another user cannot read Python or this folder")
    assert f"TestResult(passed=True, reason='passed all 1 tests', level={run_tests(SOLVE, **TESTS).level!r})" in run.stdout, run


def test_folders_thousands_deep_are_removed(tmp_path):
    deep, back = tmp_path / "deep", os.getcwd()
    deep.mkdir()
    (deep / "link").symlink_to(tmp_path)
    os.chdir(deep)
    for _ in range(1200):
        os.mkdir("d")
        os.chdir("d")
    os.chdir(back)
    sandbox._empty(str(tmp_path))
    assert os.listdir(tmp_path) == []


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
    ["Decimal", "x"], ["complex", "1", "2"], ["object", 0], ["timedelta", 10 ** 30, 0, 0], ["Counter", 1],
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


def test_an_iterator_goes_back_to_the_program():
    assert run_tests("def f(n): return iter(range(n))\ndef g(it): return sum(it)", ["assert g(f(5)) == 10"]).passed


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
    assert result == TestResult(True, "passed check", result.level) and result.level in sandbox.LEVELS


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


def test_a_killed_server_or_judge_is_replaced():
    assert run_tests(SOLVE, **TESTS).passed
    for pid in processes():
        os.kill(pid, signal.SIGKILL)
    assert all(result.passed for result in run_tests_batch([job_of(("", SOLVE))] * 8))


def test_a_server_killed_at_work_is_replaced(monkeypatch):
    slow = "import time\ndef solve(x):\n    time.sleep(0.4)\n    return x * x + 8\n"
    at_work, results, run = [], [], sandbox._Server.run
    monkeypatch.setattr(sandbox._Server, "run", lambda self, *job: at_work.append(self) or run(self, *job))
    thread = threading.Thread(target=lambda: results.append(run_tests(slow, **TESTS, timeout=20.0)))
    thread.start()
    while not at_work:
        time.sleep(0.01)
    time.sleep(0.2)
    at_work[0].process.kill()
    thread.join()
    assert results[0].passed and len(at_work) == 2


def test_a_timeout_costs_the_next_program_nothing():
    """The judge is killed with the candidate; what the caller had not sent must not be read as the next job."""
    endless = {"program": "def pair(x): return range(10 ** 15)", "tests": ["assert sum(pair(1)) == 7"], "timeout": 0.1}
    results = run_tests_batch([endless, job_of(("", SOLVE))] * 4)
    assert [result.passed for result in results] == [False, True] * 4


def test_many_threads_share_the_servers():
    results = {}

    def work(k):
        results[k] = run_tests(f"def f(): return {k}", [f"assert f() == {k if k % 2 else -1}"])

    threads = [threading.Thread(target=work, args=(k,)) for k in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {k for k, result in results.items() if result.passed} == set(range(1, 24, 2))
    assert len(processes()) <= 2 * sandbox.CORES


def test_batch_keeps_the_order_and_raises_for_broken_tests():
    jobs = [{"program": f"def f(): return {k}", "tests": ["assert f() % 3 == 0"]} for k in range(12)]
    assert [result.passed for result in run_tests_batch(jobs)] == [k % 3 == 0 for k in range(12)]
    with pytest.raises(VerifierError):
        run_tests_batch(jobs + [{"program": "", "tests": []}])


def test_servers_end_with_the_process_that_started_them():
    code = ("import os, signal, programs, sandbox; print(programs.run_tests('def f(): return 1', ['assert f() == 1']).passed); "
            "server = sandbox._idle[0]; print(server.process.pid, server.base, flush=True); os.kill(os.getpid(), signal.SIGKILL)")
    output = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True).stdout.split()
    passed, pid, base = output
    assert passed == "True"
    for _ in range(1000):
        if not os.path.exists(base) and int(pid) not in processes():
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
