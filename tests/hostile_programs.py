"""Programs for tests/test_programs.py: HOSTILE ones, each of which must fail, and HONEST ones.

A program is (reason, source) or (reason, source, arguments of run_tests other than TESTS').
The task is a function that no program can guess from its name: solve(x) = x * x + 8. Hostile
programs do not know it, with one exception: those under "breaches" work it out only if they got
through (`right` below), so that their failing shows that the wall held.
"""

TESTS = {"tests": ["assert solve(3) == 17", "assert solve(10) == 108", "assert solve(-2) == 12"]}
CHECK = {"tests": "def check(candidate):\n    assert candidate(3) == 17\n    assert candidate(-2) == 12\n",
         "entry_point": "solve"}


def about(*asserts, setup=""):
    """The arguments of run_tests for other tests than TESTS."""
    return {"tests": list(asserts), "setup": setup}


ENDING = [
    ("sys.exit(0) at import", "import sys\nsys.exit(0)"),
    ("sys.exit(0) in the call", "import sys\ndef solve(x): sys.exit(0)"),
    ("os._exit(0) at import", "import os\nos._exit(0)"),
    ("os._exit(0) in the call", "import os\ndef solve(x): os._exit(0)"),
    ("raise SystemExit", "raise SystemExit"),
    ("raise SystemExit in the call of a check", "def solve(x): raise SystemExit(0)", CHECK),
    ("quit()", "def solve(x): quit(0)"),
    ("exit through an exception hook", "import os, sys\nsys.excepthook = lambda *a: os._exit(0)\n1 / 0"),
    ("exit at exit", "import atexit, os\natexit.register(os._exit, 0)\ndef solve(x): raise SystemExit"),
    ("exit in a destructor", "import os\nclass A:\n    def __del__(self): os._exit(0)\ndef solve(x): A()"),
    ("exit in a thread", "import os, threading\ndef solve(x): threading.Thread(target=os._exit, args=(0,)).start()"),
    ("exit by a signal handler", "import os, signal\nsignal.signal(signal.SIGALRM, lambda *a: os._exit(0))\n"
     "def solve(x):\n    signal.setitimer(signal.ITIMER_REAL, 0.01)\n    while True: pass"),
    ("kill itself", "import os, signal\ndef solve(x): os.kill(os.getpid(), signal.SIGKILL)"),
    ("KeyboardInterrupt", "def solve(x): raise KeyboardInterrupt"),
    ("GeneratorExit", "def solve(x): raise GeneratorExit"),
    ("AssertionError of its own", "def solve(x): raise AssertionError"),
    ("exec another program", "import os\ndef solve(x): os.execv('/bin/true', ['true'])"),
    ("a segmentation fault", "import ctypes\ndef solve(x): return ctypes.string_at(0)"),
    ("abort", "import os\ndef solve(x): os.abort()"),
]

PRETENDING = [
    ("print what a harness prints", "def solve(x): print('OK passed 3 tests'); print('{\"passed\": true}')"),
    ("write 'passed' to every descriptor", "import os\nfor fd in range(64):\n"
     "    try: os.write(fd, b'passed')\n    except OSError: pass\ndef solve(x): return 0"),
    ("close every descriptor", "import os\nos.closerange(0, 64)\ndef solve(x): return 0"),
    ("forge verdicts in the frames of the protocol", "import os, json, struct\n"
     "for message in (['verdict', True, 'passed'], ['ready'], ['value', True], ['started']):\n"
     "    data = json.dumps(message).encode()\n    for fd in range(3, 64):\n"
     "        try: os.write(fd, struct.pack('>I', len(data)) + data)\n        except OSError: pass\n"
     "def solve(x): return 0"),
    ("claim that the sandbox is broken", "import os, json, struct\ndata = json.dumps(['broken', 'x']).encode()\n"
     "for fd in range(3, 64):\n    try: os.write(fd, struct.pack('>I', len(data)) + data)\n"
     "    except OSError: pass\ndef solve(x): return 0"),
    ("promise 4 GiB", "import os\nfor fd in range(3, 64):\n    try: os.write(fd, b'\\xff' * 100)\n"
     "    except OSError: pass\ndef solve(x): return 0"),
    ("half a frame, then silence", "import os, time\nfor fd in range(3, 64):\n"
     "    try: os.write(fd, b'\\0\\0\\0\\x10[\"va')\n    except OSError: pass\ntime.sleep(100)",
     {"timeout": 0.5}),
    ("frames without end", "import os, struct, threading\n"
     "def flood():\n    while True:\n        for fd in range(3, 64):\n"
     "            try: os.write(fd, struct.pack('>I', 13) + b'[\"value\", 17]')\n            except OSError: pass\n"
     "threading.Thread(target=flood, daemon=True).start()\ndef solve(x): return 17"),
    ("a check of its own", "def check(candidate): return True\ndef solve(x): return 0", CHECK),
    ("a candidate of its own", "candidate = lambda x: 17\ndef solve(x): return 0", CHECK),
    ("no function at all", "pass"),
    ("an empty program", ""),
    ("not Python", "I think that the answer is to square it."),
    ("a null byte", "def solve(x): return 0\0"),
    ("a lone surrogate", "def solve(x): return '\udc80'"),
    ("the function is a module attribute made up on demand", "def __getattr__(name): return lambda x: 17"),
    ("an exception class named like the harness's own", "class _Failure(BaseException): pass\n"
     "class VerifierError(Exception): pass\ndef solve(x): raise VerifierError('passed')"),
    ("an exception whose text never comes", "class ValueError(Exception):\n    def __str__(self):\n"
     "        while True: pass\ndef solve(x): raise ValueError", {"timeout": 0.5}),
    ("an exception with a huge name", "def solve(x): raise type('E' * 10 ** 7, (Exception,), {})"),
]

LYING = [
    ("equal to everything", "class A:\n    def __eq__(self, o): return True\n    def __ne__(self, o): return False\n"
     "    def __hash__(self): return 0\ndef solve(x): return A()"),
    ("an int that is equal to everything", "class A(int):\n    def __eq__(self, o): return True\n"
     "    __hash__ = int.__hash__\ndef solve(x): return A(0)"),
    ("a str that is equal to everything", "class A(str):\n    def __eq__(self, o): return True\n"
     "    __hash__ = str.__hash__\ndef solve(x): return A('')"),
    ("a list of things equal to everything", "class A(int):\n    def __eq__(self, o): return True\n"
     "    __hash__ = int.__hash__\ndef pair(x): return [A(), A()]", about("assert pair(1) == [3, 4]")),
    ("a list that is equal to everything", "class A(list):\n    def __eq__(self, o): return True\n"
     "def pair(x): return A()", about("assert pair(1) == [3, 4]")),
    ("a dict that has every key", "class A(dict):\n    def __missing__(self, k): return 9\n"
     "    def __eq__(self, o): return True\ndef pair(x): return A()", about("assert pair(1)['nine'] == 9")),
    ("a set that is a subset of all and contains all", "class A(set):\n    def __contains__(self, o): return True\n"
     "    def __le__(self, o): return True\n    def __ge__(self, o): return True\ndef pair(x): return A()",
     about("assert 3 in pair(1)", "assert pair(1) >= {3, 4}")),
    ("an object that contains everything", "class A:\n    def __contains__(self, o): return True\n"
     "    def __len__(self): return 2\n    def __getitem__(self, i): return 3\ndef pair(x): return A()",
     about("assert 3 in pair(1)")),
    ("a method that says yes to the expected value", "class A:\n    def issubset(self, o): return True\n"
     "    __eq__ = lambda s, o: True\ndef pair(x): return A()", about("assert pair(1).issubset({3, 4})")),
    ("a lying __class__", "class A:\n    __class__ = int\n    def __eq__(self, o): return True\n"
     "    def __index__(self): return 17\ndef solve(x): return A()"),
    ("a metaclass that is every type's instance", "class M(type):\n    def __eq__(s, o): return True\n"
     "    def __instancecheck__(s, o): return True\n    __hash__ = type.__hash__\n"
     "class A(metaclass=M): pass\ndef solve(x): return A"),
    ("a subtraction that is always nothing", "class A(float):\n    def __sub__(s, o): return 0.0\n"
     "    __rsub__ = __sub__\n    def __abs__(s): return 0.0\ndef root(x): return A(99)",
     about("assert abs(root(2) - 1.4142) < 1e-3")),
    ("a number that is less than everything", "class A(float):\n    def __lt__(s, o): return True\n"
     "    __gt__ = __le__ = __ge__ = __lt__\ndef root(x): return A(99)", about("assert root(2) < 1.5")),
    ("a float that rounds to the answer", "class A(float):\n    def __round__(s, n=None): return A(1.41)\n"
     "    def __eq__(s, o): return True\ndef root(x): return A(9)", about("assert round(root(2), 2) == 1.41")),
    ("patched abs", "import builtins\nbuiltins.abs = lambda x: 0\ndef root(x): return 99.",
     about("assert abs(root(2) - 1.4142) < 1e-3")),
    ("a global abs", "def abs(x): return 0\ndef root(x): return 99.",
     about("assert abs(root(2) - 1.4142) < 1e-3")),
    ("patched set and sorted", "import builtins\nclass E(list):\n    def __eq__(s, o): return True\n"
     "builtins.set = builtins.sorted = lambda *a, **k: E()\ndef pair(x): return [0]",
     about("assert sorted(pair(1)) == [3, 4]", "assert set(pair(1)) == {3, 4}")),
    ("patched isclose", "import math\nmath.isclose = lambda *a, **k: True\ndef root(x): return 99.",
     about("assert math.isclose(root(2), 1.4142, rel_tol=1e-3)", setup="import math")),
    ("an isclose of its own, for tests that forgot to import it", "def isclose(*a, **k): return True\n"
     "def root(x): return 99.", about("assert isclose(root(2), 1.4142, rel_tol=1e-3)")),
    ("helper of the prompt replaced", "def twice(x): return 0\ndef half(x): return 0",
     about("assert twice(half(8)) == 0 and half(8) == 4", setup="def twice(x): return 2 * x")),
    ("patched type, len, isinstance and all", "import builtins\nfor n in ('type', 'len', 'isinstance', 'all'):\n"
     "    setattr(builtins, n, lambda *a: True)\ndef pair(x): return 0",
     about("assert isinstance(pair(1), list) and len(pair(1)) == 2")),
    ("patched json, so that every reply is 17", "import json\njson.dumps = lambda *a, **k: '[\"value\", 17]'\n"
     "def solve(x): return 0"),
    ("a tuple that is equal to everything", "class A(tuple):\n    def __eq__(s, o): return True\n"
     "    __hash__ = tuple.__hash__\ndef pair(x): return A((0,))", about("assert pair(1) == (3, 4)")),
    ("a namedtuple that says what is asked", "from collections import namedtuple\nclass A(namedtuple('A', 'a b')):\n"
     "    def __eq__(s, o): return True\n    def __getitem__(s, i): return 3\ndef pair(x): return A(0, 0)",
     about("assert pair(1) == (3, 4)")),
    ("NaN for a comparison that is turned round", "def root(x): return float('nan')",
     about("assert not root(2) > 1.5 and root(2) > 1.3")),
    ("infinity", "def root(x): return float('inf')", about("assert abs(root(2) - 1.4142) < 1e-3")),
    ("the function is the comparison", "def solve(x):\n    class A:\n        def __call__(s, *a): return s\n"
     "        def __eq__(s, o): return True\n    return A()"),
    ("a generator of things equal to everything", "class A(int):\n    def __eq__(s, o): return True\n"
     "    __hash__ = None\ndef pair(x):\n    yield A()\n    yield A()", about("assert list(pair(1)) == [3, 4]")),
    ("StopIteration, so that the test's loop stops early", "def solve(x): raise StopIteration",
     about("assert all(map(lambda x: solve(x) == x * x + 8, [3, 10]))")),
    ("an empty iterator for a loop of asserts", "def pair(x): return iter(())",
     about("assert [y for y in pair(1)] == [3, 4]")),
    ("__iter__ that never ends", "class A(list):\n    def __iter__(s):\n        while True: yield 3\n"
     "def pair(x): return A([3])", about("assert pair(1) == [3, 4]")),
    ("its arguments changed, from which the test computes what it expects",
     "def longest(xs):\n    xs.clear()\n    return 0", {"tests": "def check(candidate):\n    xs = [1, 2, 3]\n"
     "    assert candidate(xs) == len(xs)\n", "entry_point": "longest"}),
]

# A class in place of the function: its objects answer whatever the tests ask them.
YES = """
class FUNCTION(BASE):
    def __new__(c, *a): return BASE.__new__(c)
    def __init__(s, *a): pass
    def __eq__(s, o): return True
    def __ne__(s, o): return False
    __lt__ = __gt__ = __le__ = __ge__ = __contains__ = __eq__
    def __hash__(s): return 0
    def __sub__(s, o): return 0.0
    __rsub__ = __sub__
    def __abs__(s): return 0.0
    def sort(s): pass
    def __getattr__(s, n): return lambda *a: True
"""
for name, base in [("pair", "object"), ("Pair", "object"), ("Pair", "list"), ("pair", "int"), ("Find_Pair", "float")]:
    tests = [f"assert {name}(3) == 17", f"assert 3 in {name}(3)", f"assert {name}(3) < -5.0",
             f"assert abs({name}(3) - 1.41) < 1e-3", f"assert {name}(3).issubset({{3}})", f"r = {name}(3)\nassert r == [4]",
             f"r = {name}(3)\nr.sort()\nassert r == [4]", f"assert {{{name}(3)}} == {{3}}"]
    LYING += [(f"a class {name}({base}) that says yes to: {test}",
               YES.replace("FUNCTION", name).replace("BASE", base), about(test)) for test in tests]
    LYING += [(f"a class {name}({base}) that says yes to unittest's {method}",
               YES.replace("FUNCTION", name).replace("BASE", base),
               {"tests": f"import unittest\ndef check(candidate):\n    unittest.TestCase().{method}(17, candidate(3))",
                "entry_point": name}) for method in ("assertEqual", "assertIn", "assertAlmostEqual")]

ROW = "def row(n): return [1, 1]\n"
NAMES = [  # beside another function, Python's own must not stand in for the one that is missing or wrong
    entry for call in ("comb(5, 2) == 10", "factorial(5) == 120", "dist((0, 0), (3, 4)) == 5", "gcd(4, 6) == 2",
                       "prod([2, 3]) == 6", "sum([5]) == 5", "max(3, 5) == 5", "pow(2, 3) == 8")
    for entry in [(f"a missing function that Python has: {call}", ROW, about(f"assert {call}", "assert row(1) == [1, 1]")),
                  (f"a wrong function that Python has: {call}", ROW + f"def {call.split('(')[0]}(*a): return -1",
                   about(f"assert {call}", "assert row(1) == [1, 1]"))]
] + [
    ("another exception than the test expects", "def f(x): raise ValueError",
     about("try:\n    f(-1)\n    assert False\nexcept NegativeError:\n    pass")),
    ("no exception where the test expects the program's own", "class NegativeError(Exception): pass\ndef f(x): return x",
     about("try:\n    f(-1)\n    assert False\nexcept NegativeError:\n    pass")),
    ("no exception where unittest expects one", "class NegativeError(Exception): pass\ndef f(x): return x",
     {"tests": "import unittest\ndef check(candidate):\n    unittest.TestCase().assertRaises(NegativeError, candidate, -1)",
      "entry_point": "f"}),
    ("a stack that forgets", "class stack:\n    def push(s, x): pass\n    def __len__(s): return 0",
     about("s = stack()\ns.push(1)\nassert len(s) == 1")),
    ("a function that the test's other name hides", "def f(x): return 0", about("func = f\nassert func(1) == 2")),
]

SPYING = [
    ("the tests in the frames above", "import sys\ndef solve(x):\n    f = sys._getframe()\n    while f:\n"
     "        for v in list(f.f_locals.values()) + list(f.f_globals.values()) + list(f.f_code.co_consts):\n"
     "            if isinstance(v, (str, list, tuple)) and 'solve(' in str(v): return eval(str(v).split(f'solve({x}) == ')[1][:3])\n"
     "        f = f.f_back"),
    ("the tests in the garbage collector's lists", "import gc\ndef solve(x):\n    for o in gc.get_objects():\n"
     "        if isinstance(o, (list, tuple, dict)):\n            for v in (o.values() if isinstance(o, dict) else o):\n"
     "                if type(v) is str and v.startswith('assert solve('): return int(v.split('== ')[1])"),
    ("the tests in this process's memory", "import ctypes, re\ndef solve(x):\n"
     "    with open('/proc/self/maps') as maps:\n        for line in maps:\n"
     "            a, b = (int(p, 16) for p in line.split()[0].split('-'))\n"
     "            if line.split()[1].startswith('rw'):\n                m = re.search(rb'solve\\(%d\\) == (\\d+)' % x, ctypes.string_at(a, b - a))\n"
     "                if m: return int(m[1])"),
    ("the tests on the heap, without /proc", "import ctypes, re\nB = bytearray(1 << 16)\ndef solve(x):\n"
     "    address = id(B) & ~0xfff\n    for page in range(64):\n"
     "        m = re.search(rb'solve\\(%d\\) == (\\d+)' % x, ctypes.string_at(address + page * 4096, 4096))\n"
     "        if m: return int(m[1])", {"timeout": 2.0}),
    ("the tests in the parent's memory", "import os, re\ndef solve(x):\n    for pid in (os.getppid(), 1):\n"
     "        for line in open(f'/proc/{pid}/maps'):\n            a, b = (int(p, 16) for p in line.split()[0].split('-'))\n"
     "            with open(f'/proc/{pid}/mem', 'rb') as f:\n                f.seek(a)\n"
     "                m = re.search(rb'solve\\(%d\\) == (\\d+)' % x, f.read(b - a))\n                if m: return int(m[1])"),
    ("the tests in argv and the environment", "import os, sys\ndef solve(x):\n"
     "    return int((' '.join(sys.argv) + str(os.environ)).split(f'solve({x}) == ')[1][:3])"),
    ("the tests in other processes' command lines", "import glob\ndef solve(x):\n    for p in glob.glob('/proc/*/cmdline'):\n"
     "        t = open(p).read()\n        if f'solve({x}) == ' in t: return int(t.split(f'solve({x}) == ')[1][:3])"),
    ("the tests in a file next to the program", "import glob, re\ndef solve(x):\n"
     "    for p in glob.glob('**', recursive=True) + glob.glob('/tmp/**', recursive=True):\n"
     "        m = re.search(r'solve\\(%d\\) == (\\d+)' % x, open(p).read())\n        if m: return int(m[1])"),
    ("a trace function for the frames of the tests", "import sys\nseen = []\ndef trace(f, e, a):\n"
     "    seen.append(f.f_locals); return trace\nsys.settrace(trace)\nsys._getframe().f_back.f_trace = trace\n"
     "def solve(x): return next(v for d in seen for v in d.values() if v in (17, 108, 12))"),
    ("a trace function that jumps over the next line", "import sys\ndef trace(f, e, a):\n"
     "    try: f.f_lineno += 1\n    except ValueError: pass\n    return trace\nsys.settrace(trace)\n"
     "f = sys._getframe()\nwhile f: f.f_trace = trace; f = f.f_back\ndef solve(x): return 0"),
    ("the harness's module", "import sys\nv = next((m for n, m in list(sys.modules.items()) if hasattr(m, 'run_tests')), None)\n"
     "if v:\n    v._judge = v._verdict = lambda *a: (True, 'passed')\n    v.sandbox.decode = lambda *a: 17\ndef solve(x): return 0"),
    ("the harness's caller, through the frames", "import sys\nf = sys._getframe()\nwhile f:\n"
     "    for k in list(f.f_locals): f.f_locals[k] = True\n    f = f.f_back\ndef solve(x): return 0"),
    ("the source of its own call", "import inspect\ndef solve(x):\n    text = ''.join(inspect.stack()[1].code_context or [])\n"
     "    return int(text.split('== ')[1])"),
    ("the later calls, read ahead", "import os, re\ndef solve(x):\n    for fd in range(3, 64):\n        try: os.set_blocking(fd, False)\n"
     "        except OSError: continue\n        m = re.search(rb'== (\\d+)', os.read(fd, 1 << 16))\n        if m: return int(m[1])"),
    ("the harness's traceback", "import sys\ndef solve(x):\n    try: raise ValueError\n    except ValueError as e:\n"
     "        f = e.__traceback__.tb_frame\n        while f.f_back: f = f.f_back\n        return eval(str(f.f_locals['tests'][0]).split('== ')[1])"),
]

RIGHT = "def right(x): return x * x + 8\n"
BREACHES = [(reason, RIGHT + source, *rest) for reason, source, *rest in [
    ("the machine's files", "open('/etc/passwd').read()\nsolve = right"),
    ("the root's folders", "import os\nif len(set(os.listdir('/')) - {'tmp', 'dev'}) > 3: solve = right"),
    ("the home folders", "import glob\nif glob.glob('/home/*') + glob.glob('/root/*.*'): solve = right"),
    ("files through a relative path", "open('../../../../../../etc/hostname').read()\nsolve = right"),
    ("files through a symbolic link", "import os\nos.symlink('/etc/passwd', 'link')\nopen('link').read()\nsolve = right"),
    ("files through /proc/self/root", "open('/proc/self/root/etc/passwd').read()\nsolve = right"),
    ("files through posix, past os", "import posix\nposix.open('/etc/passwd', 0)\nsolve = right"),
    ("files through ctypes", "import ctypes\nc = ctypes.CDLL(None)\nif c.open(b'/etc/passwd', 0) >= 0: solve = right"),
    ("files through a reloaded io", "import importlib, io\nimportlib.reload(io)\nio.open('/etc/passwd')\nsolve = right"),
    ("a raw open system call", "import ctypes\nif ctypes.CDLL(None).syscall(257, -100, b'/etc/passwd', 0) >= 0: solve = right"),
    ("write outside the folder", "open('/etc/score-was-here', 'w').write('x')\nsolve = right"),
    ("write into the standard library", "import os\nopen(os.__file__.replace('os.py', 'x.py'), 'w').write('x')\nsolve = right"),
    ("remove a file of the standard library", "import os, this\nos.remove(this.__file__)\nsolve = right"),
    ("change a mode outside", "import os\nos.chmod(os.path.dirname(os.__file__), 0o777)\nsolve = right"),
    ("a network connection", "import socket\nsocket.create_connection(('127.0.0.1', PORT), 1).send(b'x')\nsolve = right"),
    ("a UDP packet", "import socket\nsocket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', PORT))\nsolve = right"),
    ("a Unix socket", "import socket\nsocket.socket(socket.AF_UNIX).connect('/run/dbus/system_bus_socket')\nsolve = right"),
    ("a fork", "import os\nif os.fork() == 0: os._exit(0)\nsolve = right"),
    ("a subprocess", "import subprocess, sys\nsubprocess.run([sys.executable, '-c', 'pass'])\nsolve = right"),
    ("a shell", "import os\nif os.system('true') == 0: solve = right"),
    ("a daemon by double fork and setsid", "import os, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n"
     "        time.sleep(600)\n    os._exit(0)\nsolve = right"),
    ("a process by a raw clone", "import ctypes, os\npid = ctypes.CDLL(None).syscall(56, 17, 0, 0, 0, 0)\n"
     "if pid == 0: os._exit(0)\nif pid > 0: solve = right"),
    ("a process by clone3", "import ctypes, os\na = (ctypes.c_uint64 * 11)(0, 0, 0, 0, 17)\n"
     "pid = ctypes.CDLL(None).syscall(435, a, 88)\nif pid == 0: os._exit(0)\nif pid > 0: solve = right"),
    ("multiprocessing", "import multiprocessing as m\np = m.get_context('fork').Process(target=int)\np.start()\np.join()\nsolve = right"),
    ("kill the parent", "import os, signal\nif os.getppid() > 0: os.kill(os.getppid(), signal.SIGKILL)\nelse: 1 / 0\nsolve = right"),
    ("kill everything", "import os, signal\nos.kill(-1, signal.SIGKILL)\nsolve = right"),
    ("kill the parent's group", "import os, signal\nos.killpg(os.getpgid(os.getppid()), signal.SIGKILL)\nsolve = right"),
    ("a signal to the parent, from a file that it owns", "import fcntl, os, socket\na, b = socket.socketpair()\n"
     "fcntl.fcntl(a, fcntl.F_SETOWN, os.getppid() or 1)\nsolve = right"),
    ("trace the parent", "import ctypes, os\nif ctypes.CDLL(None).ptrace(16, os.getppid(), 0, 0) == 0: solve = right"),
    ("a new user namespace, for capabilities", "import ctypes\nif ctypes.CDLL(None).unshare(0x10000000) == 0: solve = right"),
    ("mount something", "import ctypes\nif ctypes.CDLL(None).mount(b'proc', b'/tmp', b'proc', 0, None) == 0: solve = right"),
    ("out by chroot", "import os\nos.mkdir('x')\nos.chroot('x')\nfor i in range(50): os.chdir('..')\nos.chroot('.')\n"
     "open('/etc/passwd')\nsolve = right"),
    ("more memory than it was given", "import resource\nresource.setrlimit(resource.RLIMIT_AS, (-1, -1))\nsolve = right"),
    ("more CPU time than it was given", "import resource\nresource.setrlimit(resource.RLIMIT_CPU, (99, 99))\nsolve = right"),
    ("limits of another process", "import resource, os\nresource.prlimit(os.getppid() or 4194303, resource.RLIMIT_NOFILE, (1, 1))\nsolve = right"),
    ("System V shared memory, which outlives it", "import ctypes\nif ctypes.CDLL(None).shmget(0, 4096, 0o1600) >= 0: solve = right"),
    ("a memory file beyond every limit", "import os\nos.memfd_create('x')\nsolve = right"),
    ("a secret in the environment", "import os\nif os.environ: solve = right"),
    ("input", "if len(input()) >= 0: solve = right"),
    ("a file left by another candidate", "import os\nif os.listdir('.') + [f for f in os.listdir('/tmp') if '/tmp' == os.getcwd()]: solve = right"),
    ("a file of 64 MiB", "with open('big', 'wb') as f:\n    for _ in range(64): f.write(bytes(1 << 20))\nsolve = right"),
    ("a thousand open files", "import os\nfor i in range(1000): os.dup(0)\nsolve = right"),
]]

WASTING = [
    ("an endless loop", "def solve(x):\n    while True: pass", {"timeout": 0.5}),
    ("an endless loop that catches everything", "def solve(x):\n    while True:\n        try:\n            while True: pass\n"
     "        except BaseException: pass", {"timeout": 0.5}),
    ("an endless loop at import", "while True: pass", {"timeout": 0.5}),
    ("sleep", "import time\ndef solve(x): time.sleep(1000)", {"timeout": 0.5}),
    ("sleep, deaf to signals", "import time, signal\nfor s in set(range(1, 32)) - {9, 19}: signal.signal(s, signal.SIG_IGN)\n"
     "def solve(x):\n    while True: time.sleep(1000)", {"timeout": 0.5}),
    ("a loop in C: a power", "def solve(x): return 10 ** 10 ** 8 % 7", {"timeout": 0.5}),
    ("a loop in C: a sum", "def solve(x): return sum(range(10 ** 12))", {"timeout": 0.5}),
    ("a loop in C: a regular expression", "import re\ndef solve(x): return re.match('(a+)+$', 'a' * 40 + 'b')", {"timeout": 0.5}),
    ("a loop in C: containment", "import itertools\ndef solve(x): return -1 in itertools.count()", {"timeout": 0.5}),
    ("a terabyte of a", "def solve(x): return 'a' * 10 ** 12"),
    ("a list that grows", "def solve(x):\n    a = []\n    while True: a.append(bytearray(1 << 20))"),
    ("a list that grows, and swallows MemoryError", "a = []\ndef solve(x):\n    while True:\n        try: a.append(bytearray(1 << 20))\n"
     "        except MemoryError: pass", {"timeout": 1.0}),
    ("a flood of output", "import os\ndef solve(x):\n    while True: os.write(1, b'x' * (1 << 20))", {"timeout": 0.5}),
    ("a flood of output by print", "def solve(x):\n    while True: print('x' * 10 ** 6)", {"timeout": 0.5}),
    ("a fork bomb", "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass", {"timeout": 0.5}),
    ("a bomb of threads", "import threading, time\ndef solve(x):\n    while True:\n        try: threading.Thread(target=time.sleep, args=(99,)).start()\n"
     "        except RuntimeError: pass", {"timeout": 0.5}),
    ("endless recursion", "def solve(x): return solve(x)"),
    ("endless recursion without the limit", "import sys\nsys.setrecursionlimit(10 ** 9)\ndef solve(x): return solve(x)"),
    ("endless recursion in C", "import sys\nsys.setrecursionlimit(10 ** 9)\nclass A:\n    def __getattr__(s, n): return getattr(s, n + 'a')\n"
     "def solve(x): return A().a"),
    ("brackets that exhaust the parser", "x = " + "(" * 10 ** 5),
    ("minus signs that exhaust the compiler", "x = " + "-" * 10 ** 6 + "1"),
    ("a constant that the compiler folds", "x = " + "((1 << 10 ** 4) * " * 20 + "1" + ")" * 20 + "\nx **= 10 ** 9", {"timeout": 0.5}),
    ("disk space", "i = 0\nwhile True:\n    with open(f'f{i}', 'wb') as f:\n        try: f.write(bytes(1 << 20))\n        except OSError: pass\n"
     "    i += 1\n    if i > 99: break\ndef solve(x): return 0"),
    ("folders in folders", "import os\nfor i in range(10 ** 4): os.mkdir('d'); os.chdir('d')\ndef solve(x): return 0"),
    ("a reply of 100 MB", "def solve(x): return 'a' * 10 ** 8"),
    ("a reply nested 100,000 deep", "def solve(x):\n    a = []\n    for i in range(10 ** 5): a = [a]\n    return a"),
    ("a reply that contains itself", "def solve(x):\n    a = []\n    a.append(a)\n    return a"),
    ("an integer of 100 million bits", "def solve(x): return 1 << 10 ** 8"),
    ("an endless generator", "def pair(x):\n    while True: yield 3", {**about("assert list(pair(1)) == [3, 4]"), "timeout": 0.5}),
    ("a range that takes the test forever", "def pair(x): return range(10 ** 15)",
     {**about("assert sum(1 for _ in pair(1)) == 2"), "timeout": 0.5}),
    ("a range that takes the test's memory", "def pair(x): return range(10 ** 15)", about("assert list(pair(1)) == [3, 4]")),
    ("a range that takes the test forever, in C", "def pair(x): return range(10 ** 15)",
     {**about("assert sum(pair(1)) == 7"), "timeout": 0.5}),
    ("integers with one hash", "def pair(x): return [i * (2 ** 61 - 1) for i in range(60000)]",
     {**about("assert set(pair(1)) == {3, 4}"), "timeout": 0.5}),
    ("a Decimal that the test cannot convert in time", "from decimal import Decimal\ndef root(x): return Decimal('1e999999999')",
     {**about("assert int(root(2)) == 1"), "timeout": 0.5}),
    ("a million digits that the test converts", "def root(x): return '9' * 10 ** 6",
     {**about("assert int(root(2)) == 1", setup="import sys\nsys.set_int_max_str_digits(0)"), "timeout": 0.5}),
    ("ten million digits", "import sys\nsys.set_int_max_str_digits(0)\ndef solve(x): return int('9' * 10 ** 7)", {"timeout": 0.5}),
    ("a forged fraction of 10^999999999", "import json\njson.dumps = lambda *a, **k: '[\"value\", [\"Fraction\", \"1e999999999\"]]'\n"
     "def solve(x): return 0", {"timeout": 1.0}),
    ("a forged iterator that never ends", "import json\nr = ['[\"value\", [\"iterator\", 0, true]]']\n"
     "def solve(x): json.dumps = lambda *a, **k: '[\"value\", [\"iterator\", 0, true]]'\n", {**about("assert list(solve(1)) == [3]"), "timeout": 0.5}),
    ("forged JSON, nested 100,000 deep", "import json\ndef solve(x): json.dumps = lambda *a, **k: '[' * 10 ** 5"),
    ("forged JSON of the wrong shape", "import json\ndef solve(x): json.dumps = lambda *a, **k: '{\"value\": [1, {}]}'"),
    ("a forged exception of the wrong shape", "import json\ndef solve(x): json.dumps = lambda *a, **k: '[\"raise\", 17, {}]'"),
    ("a forged tag", "import json\ndef solve(x): json.dumps = lambda *a, **k: '[\"value\", [\"eval\", \"1\"]]'"),
    ("a forged set of lists", "import json\ndef solve(x): json.dumps = lambda *a, **k: '[\"value\", [\"set\", [\"list\"]]]'"),
]

HOSTILE = ENDING + PRETENDING + LYING + NAMES + SPYING + BREACHES + WASTING


SOLVE = "def solve(x): return x * x + 8\n"
HONEST = [
    ("the plain solution", SOLVE),
    ("the plain solution for a check", SOLVE, CHECK),
    ("a lambda", "solve = lambda x: x * x + 8"),
    ("a partial", "from functools import partial\nsolve = partial(lambda a, x: x * x + a, 8)"),
    ("an instance with __call__", "class S:\n    def __call__(self, x): return x * x + 8\nsolve = S()"),
    ("a cached recursion", "from functools import lru_cache\n@lru_cache(None)\ndef f(n): return n if n < 2 else f(n - 1) + f(n - 2)",
     about("assert f(90) == 2880067194370816120")),
    ("recursion 900 deep", "def f(n): return n and 1 + f(n - 1)", about("assert f(900) == 900")),
    ("recursion 20,000 deep with a limit of its own", "import sys\nsys.setrecursionlimit(10 ** 6)\ndef f(n): return n and 1 + f(n - 1)",
     about("assert f(20000) == 20000")),
    ("text on stdout and stderr", "import sys\nprint('hello')\nsys.stderr.write('x')\n" + SOLVE.replace("return", "print(x); return")),
    ("bytes on stdout", "import sys, os\nsys.stdout.buffer.write(b'\\xff\\xfe')\nos.write(1, b'\\x80')\n" + SOLVE),
    ("stdout replaced and restored", "import io, sys, contextlib\nwith contextlib.redirect_stdout(io.StringIO()) as s: print(1)\n" + SOLVE),
    ("stdout closed", "import sys\nsys.stdout.close()\n" + SOLVE),
    ("a megabyte of output", "print('x' * 10 ** 6)\n" + SOLVE),
    ("a source of 300 KB", "# " + "x" * 300_000 + "\n" + SOLVE),
    ("a table of 20,000 lines", "T = [\n" + "    12345,\n" * 20_000 + "]\n" + SOLVE),
    ("from __future__ import annotations", "from __future__ import annotations\ndef solve(x: NotYet) -> Later: return x * x + 8"),
    ("a module docstring and __future__", '"""Doc."""\nfrom __future__ import division, annotations\n' + SOLVE),
    ("a dataclass", "from dataclasses import dataclass, field\n@dataclass(order=True)\nclass P:\n    x: int\n    ys: list = field(default_factory=list)\n"
     "def solve(x): return P(x).x ** 2 + 8"),
    ("a dataclass under __future__ annotations", "from __future__ import annotations\nfrom dataclasses import dataclass\nfrom typing import ClassVar\n"
     "@dataclass\nclass P:\n    x: int\n    k: ClassVar[int] = 8\ndef solve(x): return P(x).x ** 2 + P.k"),
    ("an enum and a named tuple", "from enum import IntEnum\nfrom typing import NamedTuple\nclass E(IntEnum):\n    A = 8\n"
     "class T(NamedTuple):\n    a: int\ndef solve(x): return E.A + T(x * x).a"),
    ("an IntEnum returned", "from enum import IntEnum\nclass E(IntEnum):\n    A = 8\ndef f(): return E.A", about("assert f() == 8")),
    ("type hints looked up", "from typing import get_type_hints, List\nclass A: pass\ndef g(x: 'A') -> List['A']: ...\nget_type_hints(g)\n" + SOLVE),
    ("abstract classes and protocols", "from abc import ABC, abstractmethod\nfrom typing import Protocol\nclass B(ABC):\n    @abstractmethod\n"
     "    def f(self): ...\nclass C(B):\n    def f(self): return 8\ndef solve(x): return x * x + C().f()"),
    ("non-ASCII text and names", "größe = {'ключ': 'значение', '鍵': '値', 'e': '🎉'}\ndef f(k): return größe[k] + 'é'",
     about("assert f('ключ') == 'значениеé'", "assert f('e') == '🎉é'", "assert f('鍵') == '値é'")),
    ("a lone surrogate returned", "def f(): return '\\udc80'", about("assert f() == '\\udc80'")),
    ("a main block that reads input", SOLVE + "if __name__ == '__main__':\n    print(solve(int(input())))\n"),
    ("a main block that exits", "import sys\n" + SOLVE + "def main(): sys.exit(0)\nif __name__ == '__main__': main()"),
    ("CRLF line ends", "def solve(x):\r\n    y = x * x\r\n    return y + 8\r\n"),
    ("tabs", "def solve(x):\n\tif x:\n\t\treturn x * x + 8\n\treturn 8\n"),
    ("a byte order mark", "\ufeffdef solve(x): return x * x + 8"),
    ("an encoding comment", "# -*- coding: utf-8 -*-\n" + SOLVE),
    ("a docstring with a fence and an assert", 'def solve(x):\n    """Squares.\n    ```\n    assert solve(3) == 0\n    ```\n    """\n    return x * x + 8'),
    ("globals kept from one call to the next", "count = 0\ndef f():\n    global count\n    count += 1\n    return count",
     about("assert f() == 1", "assert f() == 2")),
    ("a global called like a built-in", "list = [8]\nsum = 0\ndef solve(x): return x * x + list[0]"),
    ("a function called like a built-in", "def sum(a, b): return a * 10 + b", about("assert sum(1, 2) == 12", "assert sum(3, 4) == 34")),
    ("a function called like a name of math", "def gcd(a, b): return b and gcd(b, a % b) or a", about("assert gcd(12, 18) == 6")),
    ("defaultdict and Counter returned", "from collections import defaultdict, Counter\ndef f(s):\n    d = defaultdict(list)\n"
     "    for c in s: d[c].append(1)\n    return d\ndef g(s): return Counter(s)",
     about("assert f('aab') == {'a': [1, 1], 'b': [1]}", "assert g('aab') == {'b': 1, 'a': 2}")),
    ("OrderedDict and deque returned", "from collections import OrderedDict, deque\ndef f(): return OrderedDict(b=1, a=2)\ndef g(): return deque([1, 2])",
     about("assert f() == {'a': 2, 'b': 1}", "from collections import deque\nassert g() == deque([1, 2])")),
    ("a named tuple returned", "from collections import namedtuple\nP = namedtuple('P', 'x y')\ndef f(): return [P(1, 2)]", about("assert f() == [(1, 2)]")),
    ("sets and frozensets returned", "def f(): return {frozenset({1, 2}), frozenset()}", about("assert f() == {frozenset(), frozenset({2, 1})}")),
    ("a generator returned", "def f(n): yield from range(n)", about("assert list(f(3)) == [0, 1, 2]")),
    ("an endless generator, of which the test takes three", "def f():\n    n = 0\n    while True:\n        yield n\n        n += 1",
     about("g = f()\nassert [next(g), next(g), next(g)] == [0, 1, 2]")),
    ("map, zip, reversed and dict views returned", "def f(): return map(str, [1, 2])\ndef g(): return zip('ab', [1, 2])\ndef h(): return {1: 2}.keys()\n"
     "def k(): return {1: 2}.items()", about("assert list(f()) == ['1', '2']", "assert dict(g()) == {'a': 1, 'b': 2}",
                                             "assert list(h()) == [1] and len(h()) == 1", "assert sorted(k()) == [(1, 2)]")),
    ("range, bytes and complex returned", "def f(): return range(3), b'\\xff\\0', 1 - 2j",
     about("assert f() == (range(3), b'\\xff\\0', 1 - 2j)")),
    ("numbers of all sizes returned", "def f(): return [2 ** 100, -2 ** 64, 0.1 + 0.2, -0.0, float('inf'), 2 ** 63, 1e308, 5e-324]",
     about("assert f() == [2 ** 100, -2 ** 64, 0.1 + 0.2, 0, float('inf'), 2 ** 63, 1e308, 5e-324]")),
    ("a factorial of 35,660 digits", "from math import factorial\ndef f(n): return factorial(n)", about("import math\nassert f(10000) == math.factorial(10000)")),
    ("Fraction, Decimal and dates returned", "from fractions import Fraction as F\nfrom decimal import Decimal as D\nfrom datetime import date, datetime, timedelta\n"
     "def f(): return F(1, 3), D('1.10'), date(2024, 2, 29), datetime(2024, 1, 1, 12), timedelta(days=1)",
     about("from fractions import Fraction\nfrom datetime import *\nassert f()[0] == Fraction(1, 3) and f()[2:] == (date(2024, 2, 29), datetime(2024, 1, 1, 12), timedelta(1))",
           "import decimal\nassert f()[1] == decimal.Decimal('1.1')")),
    ("NaN returned", "import math\ndef f(): return [math.nan]", about("import math\nassert math.isnan(f()[0])")),
    ("a match object returned for its truth", "import re\ndef f(s): return re.match('a+$', s)", about("assert f('aa')", "assert not f('ab')")),
    ("None returned", "def f(x): x.append(1)", about("assert f([]) is None", "assert f([]) == None")),
    ("types as arguments", "def f(xs, t): return [x for x in xs if not isinstance(x, t)]", about("assert f((1, 'a', 2.5), int) == ['a', 2.5]")),
    ("keyword arguments and defaults", "def f(a, /, b=2, *c, d=4, **e): return a, b, c, d, e", about("assert f(1, 3, 5, d=6, z=7) == (1, 3, (5,), 6, {'z': 7})")),
    ("a function that returns functions", "def adder(n): return lambda x: x + n", about("assert adder(3)(4) == 7")),
    ("functions passed to functions", "def double(x): return 2 * x\ndef apply(f, xs): return [f(x) for x in xs]",
     about("assert apply(double, [1, 2]) == [2, 4]", "assert list(map(double, [1, 2])) == [2, 4]")),
    ("classes that the tests build (MBPP/601)", "class Pair:\n    def __init__(self, a, b): self.a, self.b = a, b\n"
     "def total(ps): return sum(p.a * p.b for p in ps)", about("assert total([Pair(1, 2), Pair(3, 4)]) == 14")),
    ("trees that the setup builds (MBPP/927)", "class Node:\n    def __init__(self, v): self.v, self.left, self.right = v, None, None\n"
     "def height(n): return 0 if n is None else 1 + max(height(n.left), height(n.right))",
     about("assert height(root) == 3", setup="root = Node(1)\nroot.left = Node(2)\nroot.left.right = Node(3)")),
    ("a class whose methods the tests call", "class Stack:\n    def __init__(self): self.xs = []\n    def push(self, x): self.xs.append(x)\n    def pop(self): return self.xs.pop()",
     about("s = Stack()\ns.push(1)\ns.push(2)\nassert s.pop() == 2 and s.xs == [1]")),
    ("exceptions that the test expects", "def f(x):\n    if x < 0: raise ValueError('negative')\n    return x",
     about("try:\n    f(-1)\nexcept ValueError as e:\n    assert str(e) == 'negative'\nelse:\n    assert False", "assert f(1) == 1")),
    ("threads", "import threading\nfrom concurrent.futures import ThreadPoolExecutor\ndef solve(x):\n    with ThreadPoolExecutor(4) as e:\n"
     "        return sum(e.map(lambda y: y, [x * x, 8]))"),
    ("asyncio", "import asyncio\nasync def f(x):\n    await asyncio.sleep(0.001)\n    return x * x + 8\ndef solve(x): return asyncio.run(f(x))"),
    ("modules seldom imported", "import difflib, sqlite3, csv, xml.etree.ElementTree, argparse, logging, uuid, zlib, html, ipaddress\n" + SOLVE),
    ("what Python imports when a function needs it", "import codecs, datetime, decimal, functools, locale, pprint, re, statistics\n"
     "def f():\n    a = datetime.datetime.strptime('29 Feb 2024', '%d %b %Y')\n    functools.singledispatch(f)\n    pprint.pformat([1])\n"
     "    '\\u00e9'.encode('idna'), 'a'.encode('utf-16'), b'\\xe9'.decode('cp1252'), statistics.NormalDist().cdf(0)\n"
     "    return codecs.encode('uryyb', 'rot13'), a.day, len(str(int('9' * 2000) ** 2)), str(decimal.Decimal(1) / 3)[:4], f'{1:n}'",
     about("assert f() == ('hello', 29, 4000, '0.33', '1')")),
    ("random numbers", "import random\ndef f(xs):\n    random.shuffle(xs)\n    return sorted(xs)", about("assert f([3, 1, 2]) == [1, 2, 3]")),
    ("a signal handler and an alarm", "import signal\nhit = []\nsignal.signal(signal.SIGALRM, lambda *a: hit.append(8))\ndef solve(x):\n"
     "    signal.setitimer(signal.ITIMER_REAL, 0.01)\n    signal.pause()\n    return x * x + hit.pop()"),
    ("exec, eval and globals", "exec('def g(x): return x * x')\ndef solve(x): return eval('g(x) + 8', globals(), {'x': x})"),
    ("a limit of memory that is enough", "def solve(x):\n    big = bytearray(200 << 20)\n    return x * x + 8"),
    ("half of a second", "import time\ndef solve(x):\n    time.sleep(0.15)\n    return x * x + 8"),
    ("100,000 integers returned", "def f(n): return list(range(n))", about("assert f(100000) == list(range(100000))")),
    ("values nested 60 deep", "def f(n):\n    a = []\n    for i in range(n): a = [a]\n    return a",
     about("a = []\nfor i in range(60): a = [a]\nassert f(60) == a")),
    ("the prompt's helper on the trusted side (HumanEval/38)", "def shift(s): return s[1:] + s[:1]\ndef unshift(s): return s[-1:] + s[:-1]",
     {"tests": "def check(candidate):\n    assert candidate(shift('abc')) == 'abc'", "entry_point": "unshift",
      "setup": "def shift(s):\n    return s[1:] + s[:1]\ndef unshift(s):\n    '''Undo shift.'''\n"}),
    ("the entry point by its own name (HumanEval/33)", SOLVE, {"tests": "def check(candidate):\n    assert candidate(3) == solve(3)\n    assert solve(3) == 17",
                                                               "entry_point": "solve", "setup": "def solve(x):\n    '''Doc.'''\n"}),
    ("a module that the tests forget to import (MBPP/596)", "import sys\ndef f(t): return sys.getsizeof(t)", about("assert f((1, 2)) == sys.getsizeof((1, 2))")),
    ("a result wrapped and rounded by the test", "def root(x): return x ** 0.5", about("assert round(root(2), 2) == 1.41", "assert abs(root(2) - 1.41421) < 1e-4",
                                                                                      "import math\nassert math.isclose(root(2), 1.4142, rel_tol=1e-3)")),
    ("comb imported from math, beside another function", "from math import comb\n" + ROW,
     about("assert comb(5, 2) == 10", "assert row(1) == [1, 1]")),
    ("a gcd and a sum of its own, beside another function", ROW + "def gcd(a, b): return 1\ndef sum(a): return 15",
     about("assert gcd(4, 6) == 1", "assert sum(5) == 15", "assert row(1) == [1, 1]")),
    ("a function that takes objects and is called like one of math's", "class P:\n    def __init__(s, x): s.x = x\n"
     "def dist(a, b): return abs(a.x - b.x)", about("assert dist(P(1), P(4)) == 3")),
    ("another name for the function", "def f(x): return x + 1",
     about("func = f\nassert func(1) == 2", "for g in (f, func):\n    assert g(2) == 3")),
    ("a lambda, a function of the test's and an iterator as arguments", "def apply(f, xs): return [f(x) for x in xs]",
     about("assert apply(lambda x: 2 * x, [1]) == [2]", "def g(x): return x + 1\nassert apply(g, iter([1])) == [2]",
           "import math\nassert apply(math.floor, [1.5]) == [1]")),
    ("exceptions of the program's own", "class NegativeError(Exception): pass\nclass Small(NegativeError, ValueError): pass\n"
     "def f(x):\n    if x < 0: raise Small(f'got {x}')\n    return x",
     about("try:\n    f(-1)\n    assert False\nexcept NegativeError as e:\n    assert str(e) == 'got -1'",
           "try:\n    f(-1)\n    assert False\nexcept (KeyError, ValueError):\n    pass")),
    ("unittest's assert methods", "class NegativeError(Exception): pass\ndef f(x):\n    if x < 0: raise NegativeError\n    return x ** 0.5",
     {"tests": "import unittest\ndef check(candidate):\n    t = unittest.TestCase()\n    t.assertEqual(candidate(9), 3.0)\n"
               "    t.assertAlmostEqual(candidate(2), 1.41421, places=4)\n    with t.assertRaises(NegativeError):\n        candidate(-1)",
      "entry_point": "f"}),
    ("an enum's members", "from enum import Enum\nclass Color(Enum):\n    RED = 1\ndef f(x): return Color.RED",
     about("assert f(1) == Color.RED", "assert Color(1).name == 'RED' and Color.RED.value == 1")),
    ("a named tuple's fields", "from collections import namedtuple\nP = namedtuple('P', 'x y')\ndef f(): return P(1, 2)",
     about("p = f()\nassert p.x == 1", "q = P(3, 4)\nassert q.y == 4 and q == (3, 4)")),
    ("a subclass of list with a method of its own", "class Stack(list):\n    def peek(s): return s[-1]",
     about("s = Stack()\ns.append(3)\nassert s.peek() == 3 and len(s) == 1 and s == [3]")),
    ("a context manager", "class Door:\n    def __enter__(s):\n        s.open = True\n        return s\n"
     "    def __exit__(s, *e): s.open = False", about("with Door() as d:\n    assert d.open\nassert not d.open")),
    ("operators of vectors", "class V:\n    def __init__(s, x): s.x = x\n    def __add__(s, o): return V(s.x + o.x)\n"
     "    def __mul__(s, k): return V(s.x * k)\n    __rmul__ = __mul__\n    def __eq__(s, o): return s.x == o.x\n"
     "    def __lt__(s, o): return s.x < o.x\n    def __neg__(s): return V(-s.x)\n    def __abs__(s): return abs(s.x)\n"
     "    def __hash__(s): return hash(s.x)\ndef add(a, b): return a + b",
     about("assert V(1) + V(2) == V(3) and add(V(1), V(1)) == V(2)", "assert 3 * V(2) == V(2) * 3 == V(6) != V(5)",
           "assert abs(-V(2)) == 2 and V(1) < V(2)", "assert min([V(2), V(1)]) == V(1) and len({V(1), V(1)}) == 1",
           "v = V(1)\nv += V(1)\nv.x = v.x + 1\nassert v == V(3)")),
    ("a linked list of nodes, in lower case", "class node:\n    def __init__(s, v, next=None): s.v, s.next = v, next\n"
     "def reverse(h):\n    p = None\n    while h: h.next, p, h = p, h, h.next\n    return p",
     about("h = reverse(node(1, node(2)))\nassert h.v == 2 and h.next.v == 1 and h.next.next is None")),
]

STACK = """class Stack:
    def __init__(self): self.items = []
    def push(self, x): self.items.append(x); return self
    def pop(self): return self.items.pop()
    def __len__(self): return len(self.items)
    def __str__(self): return str(self.items)
    def __contains__(self, x): return x in self.items
    def __eq__(self, o): return self.items == o.items
    def __getitem__(self, i): return self.items[i]
    def __iter__(self): return iter(self.items)
"""
for case in ("Stack", "stack"):
    for line in ("assert len(s) == 1", "assert str(s) == '[1]' == f'{s}'", "assert 1 in s and 2 not in s", "assert s[0] == 1",
                 "assert list(s) == [1] == [x for x in s]", "t = Stack()\nt.push(1)\nassert s == t", "assert s and not Stack()",
                 "assert s.push(2).pop() == 2", "assert s.items == [1] and isinstance(s, Stack)", "assert hasattr(s, 'pop')",
                 "ss = [Stack() for _ in range(2)]\nss[0].push(5)\nassert 5 in ss[0]",
                 "try:\n    Stack().pop()\nexcept IndexError:\n    pass\nelse:\n    assert False"):
        HONEST.append((f"a class {case}: {line}", STACK.replace("Stack", case),
                       about(f"s = Stack()\ns.push(1)\n{line}".replace("Stack", case))))
