"""Call the functions of a program that nobody trusts, and end it by the clock.

    caller ──job──> judge ──one call──> candidate       The judge keeps the tests and evaluates each assert.
                          <──one value──                The candidate loads the program and answers calls.
                    fork server                         It forks both, and kills and reaps the candidate.

The fork server is a clean interpreter started by exec, one per core: a fork of a process that runs threads or
holds torch would be neither safe nor fast. It never reads a job, so that the candidate, which is a copy of it, holds no
trace of a test. What the judge does is up to the caller of `serve` (programs.py). The judge stays for the next job,
unless the clock ended it: its tests are trusted, and a fork less per job halves the cost.

What a program can do depends on the platform. `TestResult.level` names the column:

    level                       "seccomp"                          "limits"
    where                       Linux on x86-64 and arm64,         macOS, other Linux
                                also in containers
    -------------------------------------------------------------------------------------------
    see the tests               no                                 through the judge's memory
    start a process             no                                 no (on Linux nor a thread)
    signal or trace a process   no                                 yes: any of the same user
    use the network             no                                 yes
    read or write a file        no                                 yes: any of the same user
    import a module             of the standard library, if it     of the standard library
                                is in _PRELOAD
    leave anything behind       no                                 yes: files
    use more time or memory     no                                 memory, on macOS

Nothing here needs root, capabilities or namespaces, and root gains nothing at the level "seccomp". At the level
"limits" run only programs that you would run yourself. Windows has no fork, so no sandbox.
So an honest program fails if it needs a file, even one of its own, a time zone of the system or a rare module.
Not covered at any level: bugs of the kernel, and side channels such as timing or the CPU's caches.
"""

import collections
import contextlib
import ctypes
import datetime
import decimal
import fractions
import functools
import gc
import importlib
import itertools
import json
import marshal
import math
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import types
from dataclasses import dataclass

try:
    import resource
except ImportError:  # Windows
    resource = None


class VerifierError(RuntimeError):
    """The tests or the sandbox are broken, so there is no verdict. A program cannot cause this."""


@dataclass(frozen=True)
class TestResult:
    """A verdict on one program: whether it passed, the reason in words, and the level of containment."""
    passed: bool
    reason: str
    level: str
    __test__ = False  # pytest would collect a class of this name


# --- 1. Values on the wire ---------------------------------------------------------------------------------------
# JSON's null, booleans, numbers and strings stand for themselves. Everything else is a list that begins with a tag:
# ["tuple", 1, 2], ["dict", key, value, ...], ["int", "0xfff..."], ["object", 7].

MAX_REPLY = 16 << 20     # bytes of what a candidate sends; a list of 10^6 integers takes 8 MB
_MAX_NESTING = 200       # lists within lists
_MAX_INT = 1 << 20       # bits; 10,000! has 118,459

_SEQUENCES = {kind.__name__: kind for kind in [list, tuple, set, frozenset, collections.deque]}
RECORDS = {  # tag: (type, its parts as plain values, the types of the parts, how to build it from them)
    "int": (int, lambda v: [hex(v)], [str], lambda text: int(text[:_MAX_INT // 4], 16)),
    "complex": (complex, lambda v: [v.real, v.imag], [float] * 2, complex),
    "bytes": (bytes, lambda v: [v.decode("latin-1")], [str], lambda text: text.encode("latin-1")),
    "range": (range, lambda v: [v.start, v.stop, v.step], [int] * 3, range),
    "Fraction": (fractions.Fraction, lambda v: [v.numerator, v.denominator], [int] * 2, fractions.Fraction),
    "Decimal": (decimal.Decimal, lambda v: [str(v)], [str], lambda text: decimal.Decimal(text[:10_000])),
    "date": (datetime.date, lambda v: [v.year, v.month, v.day], [int] * 3, datetime.date),
    "datetime": (datetime.datetime, lambda v: [*v.timetuple()[:6], v.microsecond], [int] * 7, datetime.datetime),
    "timedelta": (datetime.timedelta, lambda v: [v.days, v.seconds, v.microseconds], [int] * 3, datetime.timedelta),
}
PLAIN_TYPES = {dict: "dict"} | {kind: tag for tag, kind in _SEQUENCES.items()}
PLAIN_TYPES |= {kind: tag for tag, (kind, *_) in RECORDS.items()}
_BASES = {  # type: how to make an exact copy of a subclass's instance, past the methods that it overrides
    int: int.__int__, float: float.__float__, complex: complex.__complex__, str: str.__str__,
    bytes: lambda v: bytes.__add__(v, b""), list: lambda v: list(list.__iter__(v)),
    tuple: lambda v: tuple(tuple.__iter__(v)), dict: lambda v: dict(dict.items(v)),
    set: lambda v: set(set.__iter__(v)), frozenset: lambda v: frozenset(frozenset.__iter__(v)),
    collections.deque: lambda v: collections.deque(collections.deque.__iter__(v)),
}


def encode(value, other, exact=False, depth=0):
    """Return a value as JSON-able data. `other(value)` encodes what is not plain.

    exact: whether instances of subclasses go to `other` too, instead of counting as their base.
    Raise ValueError if the value is too large or nested too deep.
    """
    kind = type(value)  # what the value says of its __class__ is not asked
    if value is None or kind in (bool, float, str):
        return value
    if kind is int and -(1 << 63) < value < 1 << 63:
        return value
    if depth > _MAX_NESTING:
        raise ValueError(f"the value is nested more than {_MAX_NESTING} deep")
    tag = PLAIN_TYPES.get(kind)
    if tag in _SEQUENCES:
        return [tag, *[encode(item, other, exact, depth + 1) for item in value]]
    if tag == "dict":
        pairs = itertools.chain.from_iterable(value.items())
        return [tag, *[encode(part, other, exact, depth + 1) for part in pairs]]
    if tag and getattr(value, "tzinfo", None) is None:
        if kind is int and value.bit_length() > _MAX_INT:
            raise ValueError(f"the integer has {value.bit_length()} bits")
        return [tag, *[encode(part, other) for part in RECORDS[tag][1](value)]]
    for base, copy in _BASES.items():
        if not exact and not tag and issubclass(kind, base):
            return encode(copy(value), other, exact, depth)
    return other(value)


def decode(data, other, depth=0):
    """Return the value of `encode`'s data, which may have been forged: exact plain types, or raise ValueError.

    `other(tag, items)` decodes the tags that are not plain values', or raises ValueError.
    """
    if data is None or type(data) in (bool, int, str):
        return data
    if type(data) is float:
        return math.nan if data != data else data  # one NaN, so that [nan] == [nan] as in one process
    if type(data) is not list or not data or type(data[0]) is not str or depth > _MAX_NESTING:
        raise ValueError("not a plain value")
    tag, *items = data
    if tag not in PLAIN_TYPES.values():
        return other(tag, items)
    values = [decode(item, other, depth + 1) for item in items]
    try:
        if tag == "dict":
            return dict(zip(values[::2], values[1::2], strict=True))
        if tag in _SEQUENCES:
            return _SEQUENCES[tag](values)
        _, _, kinds, build = RECORDS[tag]
        if [type(value) for value in values] != kinds:
            raise ValueError(f"not the parts of a {tag}")
        return build(*values)
    except (TypeError, ArithmeticError, UnicodeError) as error:  # a set of lists, 1/0, a date 0-0-0
        raise ValueError(f"not a {tag}: {error}") from None


def send(sock, message, limit=1 << 30):
    """Send one message: four bytes of length, then JSON. Raise ValueError if it is too long, before it is sent."""
    data = json.dumps(message, separators=(",", ":")).encode("ascii")
    if len(data) > limit:
        raise ValueError(f"the value takes {len(data)} bytes, more than {limit}")
    sock.sendall(struct.pack(">I", len(data)) + data)


def receive(sock, limit=1 << 30):
    """Return the next message. Raise EOFError at the end, ValueError if it is too long or not JSON."""
    (length,) = struct.unpack(">I", _receive_bytes(sock, 4))
    if length > limit:
        raise ValueError(f"a message of {length} bytes, more than {limit}")
    try:
        return json.loads(_receive_bytes(sock, length))
    except RecursionError:
        raise ValueError("nested too deep") from None


def _receive_bytes(sock, count):
    data = bytearray()
    while len(data) < count:
        chunk = sock.recv(min(count - len(data), 1 << 16))
        if not chunk:
            raise EOFError
        data += chunk
    return bytes(data)


# --- 2. The candidate's process: contained, loads the program, answers calls -------------------------------------

# The system calls that a candidate gets, with their numbers on x86-64 and arm64 ("-": there is none). All others are
# refused, also those of future kernels. None names a file, a process or an address: no open, fork, execve, socket, ...
_CALLS = """read 0 63, write 1 64, close 3 57, fstat 5 80, poll 7 -, lseek 8 62, mmap 9 222, mprotect 10 226,
munmap 11 215, brk 12 214, rt_sigaction 13 134, rt_sigprocmask 14 135, rt_sigreturn 15 139, readv 19 65, writev 20 66,
pipe 22 -, select 23 -, sched_yield 24 124, mremap 25 216, madvise 28 233, dup 32 23, dup2 33 -, pause 34 -,
nanosleep 35 101, getitimer 36 102, alarm 37 -, setitimer 38 103, getpid 39 172, sendto 44 206, recvfrom 45 207,
shutdown 48 210, getsockname 51 204, getpeername 52 205, setsockopt 54 208, getsockopt 55 209, exit 60 93, uname 63 160,
gettimeofday 96 169, getrlimit 97 163, getrusage 98 165, times 100 153, getuid 102 174, getgid 104 176, geteuid 107 175,
getegid 108 177, getppid 110 173, rt_sigpending 127 136, rt_sigtimedwait 128 137, rt_sigsuspend 130 133,
sigaltstack 131 132, setrlimit 160 164, gettid 186 178, time 201 -, futex 202 98, sched_getaffinity 204 123,
restart_syscall 219 128, clock_gettime 228 113, clock_getres 229 114, clock_nanosleep 230 115, exit_group 231 94,
epoll_wait 232 -, epoll_ctl 233 21, pselect6 270 72, ppoll 271 73, set_robust_list 273 99, epoll_pwait 281 22,
eventfd2 290 19, epoll_create1 291 20, dup3 292 24, pipe2 293 59, getrandom 318 278, membarrier 324 283,
rseq 334 293"""
_PID = 0x7E577E57  # in the filter's place for the process's own number
_ARGUMENT_CALLS = [  # (call, argument, mask, values): allowed only if argument & mask is one of the values
    ("clone 56 220", 0, 0x10000, [0x10000]),                         # threads, no processes
    ("kill 62 129", 0, 0xFFFFFFFF, [_PID]),                          # only itself
    ("tgkill 234 131", 0, 0xFFFFFFFF, [_PID]),
    ("prlimit64 302 261", 0, 0xFFFFFFFF, [0]),                       # its own limits, which can only fall
    ("socketpair 53 199", 1, 0xF, [1]),                              # connected streams (asyncio's)
    ("fcntl 72 25", 1, 0xFFFFFFFF, [0, 1, 2, 3, 4, 1030]),           # no F_SETOWN: it sends signals to others
    ("ioctl 16 29", 1, 0xFFFFFFFF, [0x5401, 0x541B, 0x5421, 0x5450, 0x5451]),  # isatty, FIONREAD, (non)blocking
]
_CLONE3 = "clone3 435 435"  # answered by ENOSYS, so that the C library falls back to clone
_ARCHITECTURES = {"x86_64": (1, 0xC000003E), "aarch64": (2, 0xC00000B7)}  # column of the tables, AUDIT_ARCH
_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 22, 38
_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def _c(name, *arguments):
    """Call a function of the C library. Raise OSError if it returns -1."""
    arguments = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    if getattr(_LIBC, name)(*arguments) == -1:
        raise OSError(ctypes.get_errno(), f"{name}: {os.strerror(ctypes.get_errno())}")


@functools.cache
def _filter_code():
    """Return the seccomp filter in BPF, with _PID in place of the process."""
    column, architecture = _ARCHITECTURES[os.uname().machine]
    load, equal, mask, give = 0x20, 0x15, 0x54, 0x06  # BPF's operations
    allow, refuse, absent, kill = 0x7FFF0000, 0x50000 | 1, 0x50000 | 38, 0x80000000  # EPERM, ENOSYS

    def number(call):
        return int(call.split()[column])

    program = [(load, 0, 0, 4), (equal, 1, 0, architecture), (give, 0, 0, kill), (load, 0, 0, 0)]
    for call in _CALLS.split(","):
        if call.split()[column] != "-":
            program += [(equal, 0, 1, number(call)), (give, 0, 0, allow)]
    for call, argument, bits, values in _ARGUMENT_CALLS:
        body = [(load, 0, 0, 16 + 8 * argument), (mask, 0, 0, bits)]
        for value in values:
            body += [(equal, 0, 1, value), (give, 0, 0, allow)]
        body += [(give, 0, 0, refuse)]
        program += [(equal, 0, len(body), number(call)), *body]
    program += [(equal, 0, 1, number(_CLONE3)), (give, 0, 0, absent), (give, 0, 0, refuse)]
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)


def _limits(level, timeout, memory_mb):
    """Return a candidate's limits, in its own process: memory counts beyond what that has already."""
    try:
        with open("/proc/self/statm") as file:
            baseline = int(file.read().split()[0]) * resource.getpagesize()
    except OSError:
        baseline = 0
    limits = {"AS": baseline + int(memory_mb * (1 << 20)), "CPU": math.ceil(timeout) + 1, "FSIZE": 0, "NOFILE": 64,
              "CORE": 0, "MEMLOCK": 0, "STACK": 64 << 20}
    if level == "limits":  # no processes; Linux counts threads too
        limits["NPROC"] = 0 if sys.platform == "linux" else 1
    return limits


def _contain(level, limits):
    """Close every door of this process, just forked, but its socket. limits: {"AS": bytes, ...} of setrlimit.

    Raise OSError if the system refuses.
    """
    os.setsid()
    for name, value in limits.items():
        kind = getattr(resource, f"RLIMIT_{name}", None)
        if kind is not None and not (name == "AS" and sys.platform == "darwin"):
            hard = resource.getrlimit(kind)[1]
            value = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.setrlimit(kind, (value, value))
    if level != "seccomp":
        return
    _c("prctl", _PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    _c("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    _c("capset", struct.pack("Ii", 0x20080522, 0), bytes(24))  # no capability is left, also to root
    code = _filter_code().replace(struct.pack("I", _PID), struct.pack("I", os.getpid()))
    buffer = ctypes.create_string_buffer(code, len(code))
    header = struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(buffer))
    _c("prctl", _PR_SET_SECCOMP, 2, ctypes.c_char_p(header), 0, 0)


class _Answering:
    """Answer the judge's requests in the candidate's process. Nothing in this process is secret."""

    def __init__(self):
        self.objects, self.numbers = [], {}     # what could not be sent; its place there, by id
        module = types.ModuleType("candidate")  # not __main__, so `if __name__ == "__main__"` does not run
        sys.modules["candidate"] = module       # dataclasses and typing look a class's module up
        self.names = vars(module)

    def keep(self, value):
        number = self.numbers.setdefault(id(value), len(self.objects))
        if number == len(self.objects):
            self.objects.append(value)
        return ["object", number]

    def find(self, tag, items):
        """Return what a tag means that is no plain value's."""
        if tag == "load":
            return lambda source: exec(compile(source, "<program>", "exec", dont_inherit=True), self.names)
        if tag == "python":  # a function or class of Python's: its module and name
            return getattr(importlib.import_module(items[0]), items[1])
        if tag == "code":  # a function of the tests
            return types.FunctionType(marshal.loads(decode(items[0], None)), self.names)
        if tag == "iterator":
            return iter([decode(item, self.find) for item in items])
        if tag == "object":
            return self.objects[items[0]]
        if items[0] not in self.names:
            raise NameError(f"name {items[0]!r} is not defined")
        return self.names[items[0]]

    def reply(self, request):
        """Return the value of one request, or the exception that came instead."""
        try:
            *call, exact = request
            function, args, kwargs = [decode(part, self.find) for part in call]
            return ["value", encode(function(*args, **kwargs), self.keep, exact)]
        except BaseException as error:  # SystemExit too: ending is not answering
            names = [kind.__name__ for kind in type(error).__mro__]
            args = error.args if type(error).__module__ == "builtins" else ()
            simple = len(args) == 1 and type(args[0]) in (int, str)  # str(KeyError("a")) is "'a'"
            return ["raise", names, args[0] if simple else str(error)]


def _candidate(sock, level, timeout, memory_mb):
    """Live the candidate's whole life, in a fresh copy of the fork server."""
    _contain(level, _limits(level, timeout, memory_mb))
    os.closerange(3, sock.fileno())  # 0, 1 and 2 are /dev/null
    os.closerange(sock.fileno() + 1, 256)
    send(sock, "ready")
    answering = _Answering()
    while True:
        reply = answering.reply(receive(sock))
        try:
            send(sock, reply, MAX_REPLY)
        except ValueError as error:  # too long
            send(sock, ["raise", ["ValueError"], str(error)])


# --- 3. The fork server: forks judge and candidate, ends both -----------------------------------------------------

_JUDGE_MB = 2048   # of address space for the judge
_PATIENCE = 120.0  # seconds for the sandbox's own steps, on a machine that has much else to do
# A candidate cannot open a file, so all that programs import is imported before. Some of it Python itself imports only
# when a function needs it: _strptime for strptime, _pylong for large integers.
_PRELOAD = """__future__ _strptime argparse array asyncio base64 bisect bz2 calendar cmath concurrent.futures.thread
copy csv dataclasses difflib encodings.ascii encodings.cp1252 encodings.hex_codec encodings.idna encodings.latin_1
encodings.punycode encodings.rot_13 encodings.unicode_escape encodings.utf_16 encodings.utf_32 enum gettext glob
graphlib gzip hashlib heapq hmac html.parser inspect ipaddress locale logging lzma numbers pathlib pickle platform
pprint queue random re sched secrets shlex shutil sqlite3 statistics string tempfile textwrap time timeit tokenize
traceback typing unicodedata unittest urllib.parse uuid warnings weakref xml.etree.ElementTree zlib
zoneinfo""".split()


def _fork(function, *args):
    """Run function(*args) in a fork of this process. -> pid"""
    pid = os.fork()
    if pid:
        return pid
    try:
        function(*args)
        os._exit(0)
    finally:
        os._exit(1)


def serve(judge):
    """Be a fork server, of judges and candidates, until the caller, whose socket is stdin, hangs up.

    judge: function (job, socket to the candidate) -> ["verdict", passed, reason] or ["error", reason].
    """
    control = socket.socket(fileno=os.dup(0))
    os.dup2(1, 0)  # stdin is /dev/null, as stdout is
    os.environ.clear()
    for name in _PRELOAD:
        importlib.import_module(name)
    known = sys.platform == "linux" and os.uname().machine in _ARCHITECTURES
    if known:
        _filter_code()  # computed once, for all candidates
    works = known and os.waitpid(_fork(_contain, "seccomp", {}), 0)[1] == 0
    level = "seccomp" if works else "limits"
    send(control, level)
    gc.collect()
    gc.freeze()  # so that a candidate's collector does not copy these pages
    with contextlib.suppress(ConnectionError):  # the caller is gone
        while True:
            link, judges_end = socket.socketpair()
            pid = _fork(_judge_jobs, judge, control, link, judges_end)
            judges_end.close()
            with link:
                _fork_candidates(link, level)
            _, status = os.waitpid(pid, 0)
            if not os.WIFSIGNALED(status):
                return  # the caller is gone
            send(control, [["died"], os.WTERMSIG(status)])


def _fork_candidates(link, level):
    """Fork a candidate for each job of the judge at `link`; kill and reap it as soon as the judge is done, or dead."""
    while True:
        numbers, descriptors, _, _ = socket.recv_fds(link, 16, 1)
        if not numbers:
            return
        with socket.socket(fileno=descriptors[0]) as sock:  # no copy stays here: the judge must see it end
            pid = _fork(_candidate, sock, level, *struct.unpack("dd", numbers))
        link.recv(1)
        os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError, PermissionError):  # no group yet, or no longer
            os.killpg(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        with contextlib.suppress(ConnectionError):  # the judge is dead
            send(link, status)


def _judge_jobs(judge, control, servers_end, link):
    """Live a judge's whole life: it stays for the next job, unless the clock or a crash ended it."""
    servers_end.close()  # so that the judge sees when the fork server is dead
    resource.setrlimit(resource.RLIMIT_AS, (_JUDGE_MB << 20, _JUDGE_MB << 20))
    while True:
        job, timeout, memory_mb = receive(control)
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                socket.send_fds(link, [struct.pack("dd", timeout, memory_mb)], [theirs.fileno()])
            receive(ours)  # ready
            # The clock. Its signal has no handler, so the kernel ends this process, even within a loop in C.
            signal.setitimer(signal.ITIMER_REAL, timeout)
            verdict = judge(job, ours)
            signal.setitimer(signal.ITIMER_REAL, 0)
        link.send(b"!")
        send(control, [verdict, receive(link)])


# --- 4. The caller's side: one server per core --------------------------------------------------------------------

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
_idle = []                             # servers without a job
_slots = threading.Semaphore(CORES)    # as many jobs run at once
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_idle.clear)  # a child must not share its parent's sockets


class _Server:
    """A server and the socket to it. One job at a time."""

    def __init__(self, script):
        self.sock, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-S", "-s", "-B", "-X", "utf8", script], env={"PYTHONHASHSEED": "0"}, cwd="/",
                stdin=theirs, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        self.sock.settimeout(_PATIENCE)
        try:
            self.level = receive(self.sock)
        except (OSError, EOFError) as error:
            self.sock.close()
            raise VerifierError(f"the sandbox server did not start: {type(error).__name__} {error}") from None

    def run(self, job, timeout, memory_mb):
        """Return (what the judge says, the status of the candidate, or the judge's signal if it died)."""
        try:
            self.sock.settimeout(timeout + 2 * _PATIENCE)
            send(self.sock, [job, timeout, memory_mb])
            return receive(self.sock)
        except BaseException as error:  # KeyboardInterrupt too: an answer would be left in the socket
            self.sock.close()
            if isinstance(error, (OSError, EOFError)):
                raise VerifierError(f"the sandbox server died: {error}") from None
            raise


def run(script, job, timeout, memory_mb):
    """Let the judge of `script` judge one job (JSON-able data). -> TestResult. Callable from any thread.

    script: a Python file that calls `serve`. timeout: seconds of wall time. memory_mb: MiB beyond an empty interpreter.
    Raise VerifierError if the judge says so, or if there is no sandbox.
    """
    if not hasattr(os, "fork"):
        raise VerifierError("the sandbox needs fork, which Windows lacks")
    with _slots:
        try:
            server = _idle.pop()
        except IndexError:
            server = _Server(script)
        (kind, *verdict), status = server.run(job, timeout, memory_mb)
        _idle.append(server)
    if kind == "died":
        late = status == signal.SIGALRM
        reason = f"timed out after {timeout:g} s" if late else "the judge died of what the program returned"
        return TestResult(False, reason, server.level)
    if kind == "error":
        raise VerifierError(verdict[0])
    passed, reason = verdict
    if reason == "ended":
        how = (f"by signal {os.WTERMSIG(status)} (a crash, or the limit on CPU time)"
               if os.WIFSIGNALED(status) else f"with exit status {os.WEXITSTATUS(status)}")
        reason = f"the program's process ended {how} before it had answered"
    return TestResult(passed, reason, server.level)


def shutdown_sandbox():
    """End the servers that have no job. They also end with this process; the next run starts new ones."""
    while _idle:
        server = _idle.pop()
        server.sock.close()
        server.process.wait()
