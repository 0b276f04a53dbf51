"""Section 3 of verify.py: whether a program passes its tests is not for the program to decide.

The batteries are in hostile_programs.py. The real data is in the folder SCORE_DATA (HumanEval.jsonl,
mbpp.jsonl, mbpp_sanitized.jsonl); without it those tests are skipped. SCORE_FUZZ is the number of
random programs (default 100).
"""

import ast
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

import verify
from hostile_programs import BREACHES, CHECK, ENDING, HONEST, HOSTILE, LYING, PRETENDING, SOLVE, SPYING, TESTS
from verify import TestResult, VerifierError, extract_program, run_tests, run_tests_batch

ROOT = Path(verify.__file__).parent
DEFAULTS = {"setup": "", "entry_point": None, "timeout": 5.0, "memory_mb": 1024}


def job_of(entry, **more):
    """run_tests' arguments for an entry of a battery."""
    _, source, *rest = entry
    rest = rest[0] if rest else {}
    return {**({} if "tests" in rest else TESTS), **more, **rest, "program": source}


@pytest.fixture(scope="module")
def level():
    return run_tests(SOLVE, **TESTS).level


@pytest.fixture(scope="module", autouse=True)
def servers_end():
    yield
    verify.shutdown_sandbox()


def processes():
    """Pid -> command line of every process of this checkout's servers, candidates included."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            command = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            state = (path / "stat").read_text().rsplit(")", 1)[1].split()[0]
        except OSError:
            continue
        if "_evaluator" in command and str(ROOT) in command and state != "Z":  # not another checkout's
            found[int(path.name)] = command
    return found


# --- The batteries ------------------------------------------------------------------------------

def names(battery):
    return [entry[0] for entry in battery]


@pytest.mark.parametrize("entry", HOSTILE, ids=names(HOSTILE))
def test_hostile_program_fails(entry, level):
    if not {"namespaces", "seccomp"} & set(level.split(" + ")):
        pytest.skip("nothing here would keep it from the user's other processes: " + level)
    with socket.socket() as listener:  # a door that must not open
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        job = job_of(entry, timeout=2.0)
        job["program"] = job["program"].replace("PORT", str(listener.getsockname()[1]))
        result = run_tests(**job)
        assert result.passed is False, result
        listener.settimeout(0)
        with pytest.raises(BlockingIOError):
            listener.accept()


@pytest.mark.parametrize("entry", HONEST, ids=names(HONEST))
def test_honest_program_passes(entry):
    result = run_tests(**job_of(entry, timeout=30.0))
    assert result.passed is True, result


def test_batteries_are_large_and_without_doubles():
    assert len({str(entry[1:]) for entry in HOSTILE}) == len(HOSTILE) >= 80
    assert len({entry[0] for entry in HONEST}) == len(HONEST) >= 40


def test_nothing_is_left_behind(tmp_path):
    """No process beyond the servers' own, no file, no folder, and the next /tmp is empty."""
    run_tests_batch([job_of(("", SOLVE))] * 4)
    before = set(processes())
    daemon = ("import os, threading, time\nopen('litter', 'w').write('x')\n"
              "for _ in range(8): threading.Thread(target=time.sleep, args=(600,)).start()\n"
              "try:\n    if os.fork() == 0:\n        os.setsid()\n        os.fork()\n        time.sleep(600)\n"
              "except OSError: pass\n" + SOLVE)
    assert run_tests_batch([job_of(("", daemon))] * 4)[0].passed
    assert set(processes()) == before
    empty = "import os\ndef solve(x): return x * x + 8 if os.listdir('.') == [] else 0"
    assert run_tests(**job_of(("", empty))).passed
    folders = {server.base for server in list(verify._the_pool().idle.queue) if server}
    verify.shutdown_sandbox()
    assert folders and not any(map(os.path.exists, folders))
    assert not set(processes()) & before


# --- Weaker levels --------------------------------------------------------------------------------

def run_at(without, job):
    """One job on a server that does without some layers of containment."""
    server = verify._Server(without)
    try:
        return server.run({**DEFAULTS, **job})
    finally:
        server.close()


HARMLESS = [entry for entry in ENDING + PRETENDING + LYING + SPYING if "'/bin" not in entry[1]]


@pytest.mark.skipif(sys.platform != "linux", reason="there is only one level here")
@pytest.mark.parametrize("without", ["namespaces", "namespaces landlock", "namespaces landlock seccomp"])
def test_weaker_levels_do_not_change_the_verdict(without):
    server = verify._Server(without)
    layers = server.level.split(" + ")
    assert not set(without.split()) & set(layers) and layers[-1] == "limits"
    # Programs that reach for other processes or files only where something would stop them.
    hostile = HARMLESS[::3] + (BREACHES[::2] if "seccomp" in layers else [])
    try:
        for entry, expected in [(e, False) for e in hostile] + [(e, True) for e in HONEST[:12]]:
            if server.closed:
                server = verify._Server(without)
            result = server.run({**DEFAULTS, **job_of(entry, timeout=10.0 if expected else 2.0)})
            assert result.passed is expected, (entry, result)
        assert os.listdir(server.base) == []  # the working folder of the last one is gone
    finally:
        server.close()
    assert not os.path.exists(server.base)


@pytest.mark.skipif(sys.platform != "linux", reason="Linux's seccomp")
def test_without_namespaces_others_are_out_of_reach():
    """What the pid namespace hides must be refused by seccomp: here it is this very process."""
    attack = (f"import os\ntry:\n    os.kill({os.getpid()}, 0)\nexcept PermissionError:\n    "
              "def solve(x): return x * x + 8\n")
    result = run_at("namespaces", job_of(("", attack)))
    if "seccomp" in result.level:
        assert result.passed, result
        memory = f"open('/proc/{os.getpid()}/mem', 'rb')\n" + SOLVE
        assert not run_at("namespaces", job_of(("", memory))).passed
        assert not run_at("namespaces landlock", job_of(("", memory))).passed


def test_folders_thousands_deep_are_removed(tmp_path):
    deep = tmp_path / "deep"
    deep.mkdir()
    (deep / "file").write_text("x")
    (deep / "link").symlink_to(tmp_path)
    back = os.getcwd()
    os.chdir(deep)
    for _ in range(1500):
        os.mkdir("d")
        os.chdir("d")
    os.chdir(back)
    verify._remove_tree(str(deep))
    assert os.listdir(tmp_path) == []


# --- Tests that cannot be run are errors ------------------------------------------------------------

@pytest.mark.parametrize("tests, more, message", [
    ([], {}, "not empty"),
    ("", {}, "not empty"),
    (None, {}, "list of assert"),
    ([1], {}, "list of assert"),
    (["assert solve(3) = 17"], {}, "not Python"),
    (["assert solve(3) == 17"], {"timeout": float("nan")}, "positive"),
    (["assert solve(3) == 17", "assert ("], {}, "not Python"),
    (["solve(3)"], {}, "assert nothing"),
    (["assert solve(3) == answer"], {}, "answer"),
    (["import no_such_module", "assert solve(3) == 17"], {}, "no_such_module"),
    (["assert True"], {"entry_point": "solve"}, "never call"),
    (["assert min(1, 0) == max(1, 0)"], {}, "entry_point"),
    (["assert solve(open('/dev/null')) == 17"], {}, "cannot be sent"),
    (["assert solve(lambda: 1) == 17"], {}, "cannot be sent"),
    (["assert [].pop() == solve(3)"], {}, "IndexError"),
    (["while True: pass\nassert solve(3)"], {"timeout": 0.5}, "ran out of time"),
    (["raise SystemExit\nassert solve(3)"], {}, "SystemExit"),
    (["assert solve(3) == 17"], {"setup": "1 / 0"}, "ZeroDivisionError"),
    (["assert solve(3) == 17"], {"setup": "def"}, "not Python"),
    (["assert solve(3) == 17"], {"timeout": 0}, "positive"),
    ("def check(candidate):\n    assert candidate(3) == 17", {}, "entry_point"),
    ("def test(candidate):\n    assert candidate(3) == 17", {"entry_point": "solve"}, "never call"),
])
def test_broken_tests_raise(tests, more, message):
    with pytest.raises(VerifierError, match=message):
        run_tests(SOLVE, tests, **more)


def test_broken_tests_raise_for_broken_programs_too():
    with pytest.raises(VerifierError, match="not Python"):
        run_tests("x = (", ["assert"])


@pytest.mark.parametrize("source", ["def f(x): return (y for y in x)\ndef g(x): return 0", "def f(x): return [[1]] * 9 ** 5\ndef g(x): 0",
                                    "def f(x):\n    a = []\n    for i in range(99): a = [a]\n    return a\ndef g(x): return 0",
                                    "def f(x): return lambda: 0\ndef g(x): return 0", "def f(x): return '('\ndef g(x): return 0"])
def test_no_value_of_the_program_is_blamed_on_the_tests(source):
    """Passed back to the program, wrapped, or parsed by the test: a wrong answer, never an error."""
    assert not run_tests(source, ["assert g([[f([1])]]) == 1"]).passed
    assert not run_tests(source, ["import ast\nassert ast.literal_eval(f(1)) == 1"]).passed


def test_an_iterator_goes_back_to_the_program():
    assert run_tests("def f(n): return iter(range(n))\ndef g(it): return sum(it)", ["assert g(f(5)) == 10"]).passed


def test_a_program_that_is_no_text_raises():
    with pytest.raises(VerifierError, match="must be a str"):
        run_tests(b"def solve(x): ...", **TESTS)


# --- What is sent, and what is not ----------------------------------------------------------------

def test_the_program_sees_one_call_at_a_time_and_no_expected_value():
    """An honest-looking program that returns all that ever reached it: the answer is not there."""
    recorder = ("import gc, os, sys\nseen = []\ndef solve(x):\n    seen.append(x)\n"
                "    strings = [o for o in gc.get_objects() if type(o) in (list, tuple, dict)]\n"
                "    text = str([s for o in strings for s in (o.values() if type(o) is dict else o) if type(s) is str])\n"
                "    return seen, ''.join(['424', '242']) in text, ''.join(['SECRET', 'SETUP']) in text\n")
    tests = ["assert solve(1) == ([1], False, False)", "assert solve(2) == ([1, 2], False, False), 424242"]
    assert run_tests(recorder, tests, setup="secret = 'SECRETSETUP'").passed


@pytest.mark.parametrize("value", [
    None, True, 0, -1, 2 ** 63, -2 ** 200, 0.1, float("inf"), 1e-320, "a\0é🎉\ud800", b"\0\xff", [], [[1], (2,)],
    {1: {2}, (3,): None, "k": frozenset([4])}, range(1, 9, 2), 1 + 2j, {True: "bool"}, set(), (),
])
def test_plain_values_survive_the_encoding(value):
    data = json.loads(json.dumps(verify._encode(value, pytest.fail)))
    back = verify._decode(data, pytest.fail)
    assert back == value and type(back) is type(value) and repr(back) == repr(value)


def test_subclasses_are_sent_as_their_bases():
    class Lying(int):
        __eq__ = __lt__ = lambda self, other: True
        __hash__ = __index__ = __int__ = __repr__ = lambda self: 17

    assert verify._encode([Lying(5), type("D", (dict,), {"items": lambda self: [(1, 2)]})(a=1)],
                          pytest.fail) == ["list", 5, ["dict", "a", 1]]


@pytest.mark.parametrize("forged", [
    {}, ["set", ["list"]], ["dict", 1], ["dict", ["list"], 1], ["eval", "1"], [], [1], ["range", 1, 2], ["range", 1, 2, 0],
    ["Fraction", "1e999999999", 1], ["Fraction", 1, 0], ["int", "zz"], ["int", 5], ["bytes", "\u0100"], ["date", 0, 0, 0],
    ["Decimal", "x"], ["complex", "1", "2"], ["object", 0], ["timedelta", 10 ** 30, 0, 0],
])
def test_forged_values_are_refused(forged):
    def other(tag, items):
        raise ValueError(tag)

    with pytest.raises(ValueError):
        verify._decode(["list", forged], other)


def test_nesting_is_bounded_on_both_sides():
    deep = []
    for _ in range(verify._MAX_NESTING + 2):
        deep = ["list", deep]
    with pytest.raises(ValueError):
        verify._decode(deep, None)
    with pytest.raises(ValueError):
        verify._encode(deep, None)


def test_reasons_are_in_words():
    for source, words in [(SOLVE.replace("8", "9"), "test 1 of 3, assert solve(3) == 17, does not hold"),
                          ("def solve(x): return 1 / 0", "raised ZeroDivisionError: division by zero"),
                          ("x = (", "raised SyntaxError"), ("import os\nos._exit(3)", "exit status 3"),
                          ("def f(): pass", "name 'solve' is not defined"), (SOLVE, "passed all 3 tests")]:
        assert words in run_tests(source, **TESTS).reason
    assert "timed out after 0.3 s" in run_tests("while True: pass", **TESTS, timeout=0.3).reason
    assert "raised MemoryError" in run_tests("x = bytearray(300 << 20)", **TESTS, memory_mb=200).reason


def test_memory_limit_counts_beyond_the_interpreter():
    assert run_tests("x = bytearray(40 << 20)\n" + SOLVE, **TESTS, memory_mb=64).passed
    assert not run_tests("x = bytearray(80 << 20)\n" + SOLVE, **TESTS, memory_mb=64).passed


# --- Servers ------------------------------------------------------------------------------------

def test_importing_verify_is_cheap_and_starts_nothing():
    code = ("import sys, threading, verify; assert not {'torch', 'sympy', 'ctypes', 'numpy'} & set(sys.modules); "
            "assert threading.active_count() == 1 and verify._pool is None")
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_the_calling_process_is_never_forked(monkeypatch):
    """Servers are started by exec, from any thread, and candidates forked from them."""
    verify.shutdown_sandbox()
    forks = []
    os.register_at_fork(before=lambda: forks.append(1))
    results = []
    thread = threading.Thread(target=lambda: results.append(run_tests(SOLVE, **TESTS)))
    thread.start()
    thread.join()
    assert results[0].passed and not forks
    server = next(server for server in list(verify._the_pool().idle.queue) if server)
    mapped = Path(f"/proc/{server.process.pid}/maps")
    if mapped.exists() and os.geteuid() == 0:  # the evaluator is not dumpable
        assert "torch" not in mapped.read_text()


def test_a_killed_server_is_replaced():
    assert run_tests(SOLVE, **TESTS).passed
    for server in list(verify._the_pool().idle.queue):
        if server:
            os.kill(server.process.pid, signal.SIGKILL)
    assert all(result.passed for result in run_tests_batch([job_of(("", SOLVE))] * 8))


def test_a_server_killed_at_work_is_replaced(monkeypatch):
    slow = "import time\ndef solve(x):\n    time.sleep(0.4)\n    return x * x + 8\n"
    at_work, run = [], verify._Server.run
    monkeypatch.setattr(verify._Server, "run", lambda self, job: at_work.append(self) or run(self, job))
    results = []
    thread = threading.Thread(target=lambda: results.append(run_tests(slow, **TESTS, timeout=20.0)))
    thread.start()
    while not at_work:
        time.sleep(0.01)
    time.sleep(0.2)
    os.killpg(at_work[0].process.pid, signal.SIGKILL)
    thread.join()
    assert results[0].passed and len(at_work) == 2


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
    assert len(processes()) <= 3 * verify._the_pool().size


def test_batch_keeps_the_order_and_raises_for_broken_tests():
    jobs = [{"program": f"def f(): return {k}", "tests": ["assert f() % 3 == 0"]} for k in range(12)]
    assert [result.passed for result in run_tests_batch(jobs)] == [k % 3 == 0 for k in range(12)]
    with pytest.raises(VerifierError):
        run_tests_batch(jobs + [{"program": "", "tests": []}])


def test_servers_end_with_the_process_that_started_them():
    code = ("import os, signal, sys, verify; print(verify.run_tests('def f(): return 1', ['assert f() == 1']).passed); "
            "s = next(s for s in verify._the_pool().idle.queue if s); print(s.process.pid, s.base, flush=True); "
            "os.kill(os.getpid(), signal.SIGKILL)")
    output = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True).stdout.split()
    passed, pid, base = output
    assert passed == "True"
    for _ in range(1000):
        if not os.path.exists(base) and int(pid) not in processes():
            return
        time.sleep(0.01)
    pytest.fail("the evaluator outlived its caller")


def test_level_is_reported(level):
    assert level.split(" + ")[-1] == "limits"
    assert run_tests(SOLVE, **CHECK) == TestResult(True, "passed check", level)


# --- extract_program ------------------------------------------------------------------------------

CODE = "def f(x):\n    return x\n"


@pytest.mark.parametrize("response, expected", [
    (CODE, CODE),
    (f"[BEGIN]\n{CODE}[DONE]\nYou are an expert [BEGIN]\nno\n[DONE]", CODE),
    (f" {CODE.strip()}\n[DONE]\n", "def f(x):\n   return x\n"),
    (f"Here it is:\n```python\n{CODE}```\nIt returns x.", CODE),
    (f"```\n{CODE}```", CODE),
    (f"~~~py\n{CODE}~~~", CODE),
    (f"````python\n{CODE}````", CODE),
    ("1. Like this:\n   ```python\n   def f(x):\n       return x\n   ```", CODE),
    (f"```python\n{CODE}", CODE),
    (f"The old one was\n```python\ndef f(x): pass\n```\nbut this is right:\n```python\n{CODE}```", CODE),
    (f"```python\n{CODE}```\nExample:\n```python\nprint(f(1))\n```\nprints\n```\n1\n```", CODE),
    ('```python\ndef f(x):\n    """Doc.\n\n```\nf(1)\n```\n    """\n    return x\n```\nDone.',
     'def f(x):\n    """Doc.\n\n```\nf(1)\n```\n    """\n    return x\n'),
    ('def f(x):\n    """Doc:\n    ```\n    f(1)\n    ```\n    """\n    return x\n', 'def f(x):\n    """Doc:\n    ```\n    f(1)\n    ```\n    """\n    return x\n'),
    (f"Sure! The function is:\n\nimport math\n\n{CODE}\nThis works because x is x.", f"import math\n\n{CODE}"),
    (f"K = 3\n\n{CODE}", f"K = 3\n\n{CODE}"),
    ("```python\r\ndef f(x):\r\n    return x\r\n```", CODE),
    ("I do not know.", "I do not know.\n"),
    ("def f(x):\n    return '(' + x  # (\n\nThis adds a bracket.", "def f(x):\n    return '(' + x  # (\n"),
    ("Use ```f``` so:\n```python\ndef f(x):\n    return x\n```", CODE),
    ("print('[DONE]')\n", "print('[DONE]')\n"),
    ("", "\n"),
    (f"{CODE}\nassert f(1) == 1\nif True:\n    pass\nx: int = 3\nx += 1\nprint(x)\n", f"{CODE}\nassert f(1) == 1\nif True:\n    pass\nx: int = 3\nx += 1\nprint(x)\n"),
])
def test_extract_program(response, expected):
    assert extract_program(response) == expected


def test_extract_program_is_linear():
    for text in ["```\n" * 50_000, "(" * 10 ** 6, "def f(\n" * 100_000, "'''" * 300_000, "a" * 10 ** 6, "```" + "a" * 300_000 + "`",
                 *("def f(\n" + line for line in ["x, " * 300_000, "a: " * 300_000, "a[" * 300_000, "if " + ": " * 300_000 + "x",
                                                  "a" + " " * 10 ** 6 + "b", "'" * 300_000, '"' + "\\" * 300_000])]:
        assert isinstance(extract_program(text), str)


# --- Real data and fuzzing ------------------------------------------------------------------------

def rows(name):
    folder = os.environ.get("SCORE_DATA")
    if not folder:
        pytest.skip("SCORE_DATA does not name the folder of the real data")
    return [json.loads(line) for line in (Path(folder) / name).read_text().splitlines()]


def real_jobs():
    """(name, job) of HumanEval, MBPP and MBPP sanitized, with their reference solutions."""
    for row in rows("HumanEval.jsonl"):
        yield row["task_id"], {"program": row["prompt"] + row["canonical_solution"], "tests": row["test"],
                               "setup": row["prompt"], "entry_point": row["entry_point"]}
    for row in rows("mbpp.jsonl"):
        yield row["task_id"], {"program": row["code"], "tests": row["test_list"], "setup": row["test_setup_code"]}
    for row in rows("mbpp_sanitized.jsonl"):
        yield f"sanitized {row['task_id']}", {"program": row["code"], "tests": row["test_list"],
                                              "setup": "\n".join(row["test_imports"])}


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
    jobs = dict(real_jobs())
    results = run_tests_batch(jobs.values(), timeout=60.0)
    assert {name: result for name, result in zip(jobs, results) if not result.passed} == {}


def test_wrong_returns_fail():
    jobs = {name: job for name, job in real_jobs() if not str(name).startswith("sanitized")}
    for last_only, survivors in [(True, UNREACHED), (False, set())]:
        wrong = [{**job, "program": with_wrong_returns(job["program"], last_only)} for job in jobs.values()]
        results = run_tests_batch(wrong, timeout=20.0)
        assert {name for name, result in zip(jobs, results) if result.passed} == survivors


def test_fuzz():
    """Random and truncated programs: a verdict each, in time, and nothing is left or touched."""
    rng = random.Random(0)
    sources = [entry[1] for entry in HOSTILE[:-60] + HONEST if len(entry[1]) < 5000]
    jobs = []
    for _ in range(int(os.environ.get("SCORE_FUZZ", 100))):
        a, b = rng.choice(sources), rng.choice(sources)
        kind = rng.randrange(4)
        source = [a[:rng.randrange(len(a) + 1)], a[:rng.randrange(len(a) + 1)] + b[rng.randrange(len(b) + 1):],
                  "".join(c for c in a if rng.random() > 0.01),
                  "".join(rng.choice("()[]{}:=\n \t\"'\\\0\udc80deflambdax1.@#*") for _ in range(rng.randrange(300)))][kind]
        jobs.append({"program": source, "timeout": 0.5, **TESTS})
    run_tests(SOLVE, **TESTS)
    outside = {path: path.stat().st_mtime_ns for path in [ROOT, ROOT / "tests", Path(verify.__file__), Path.home(), Path("/etc")]}
    results = run_tests_batch(jobs)
    assert all(isinstance(result, TestResult) for result in results)
    assert outside == {path: path.stat().st_mtime_ns for path in outside}
    right = [job["program"].replace(" ", "") for job, result in zip(jobs, results) if result.passed]
    assert all("x*x" in source or ".x**2" in source for source in right), right  # the solution is in them
    verify.shutdown_sandbox()
    assert not processes()
