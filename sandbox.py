"""Call the functions of a program that nobody trusts, and end it by the clock.

    caller ──job──> judge ──one call──> candidate       The judge keeps the tests and evaluates each assert.
                          <──one value──                The candidate loads the program and answers calls.
                    fork server                         It forks both, kills both by the clock, and reaps them.

The fork server is a clean interpreter started by exec, one per core: a fork of a process that runs threads or
holds torch would be neither safe nor fast. It never reads a job, so that the candidate, which is a copy of it,
holds no trace of a test. What the judge does is up to the caller of `serve` (programs.py). The judge stays for the
next job, unless the clock ended it: its tests are trusted, and a fork less per job halves the cost.

What a program can do depends on the platform. `TestResult.level` names the column:

    level                       "seccomp + landlock"       "seccomp"                  "limits"
    where                       Linux 5.13 or later, also  older Linux, containers    macOS; Linux on other CPUs
                                in most containers         without Landlock           than x86-64 and arm64
    ----------------------------------------------------------------------------------------------------------
    see the tests               no                         no                         through the judge's memory
    start a process             no                         no                         no (on Linux nor a thread)
    signal or trace a process   no                         no                         yes: any of the same user
    use the network             no                         no                         yes
    read files                  the standard library       none                       all of the same user
    write files                 its own working folder     none                       all of the same user
    leave anything behind       no                         no                         yes: files
    use more time or memory     no                         no                         memory, on macOS
    fill the disk               16 MB where the system     no                         yes
                                allows user namespaces,
                                else until it is killed

Nothing here needs root, capabilities or user namespaces, and root gains nothing by it. At the level "limits" run
only programs that you would run yourself. At every level the working folder is removed afterwards.
Not covered at any level: bugs of the kernel, and side channels such as timing or the CPU's caches.
"""

import atexit
import builtins
import collections
import contextlib
import ctypes
import datetime
import decimal
import fractions
import functools
import gc
import importlib
import json
import marshal
import math
import os
import resource
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import types
from dataclasses import dataclass


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

_DICTS = {"dict": dict, "Counter": collections.Counter, "OrderedDict": collections.OrderedDict}
_SEQUENCES = {  # tag: (type, how to build it from a list)
    "list": (list, list), "tuple": (tuple, tuple), "set": (set, set), "frozenset": (frozenset, frozenset),
    "deque": (collections.deque, collections.deque),
    "keys": (type({}.keys()), lambda items: dict.fromkeys(items).keys()),
    "values": (type({}.values()), lambda items: dict(enumerate(items)).values()),
    "items": (type({}.items()), lambda items: dict(items).items()),
}
RECORDS = {  # tag: (type, its parts as plain values, the types of the parts, how to build it from them)
    "int": (int, lambda v: [hex(v)], [str], lambda text: int(text[:_MAX_INT // 4], 16)),
    "complex": (complex, lambda v: [v.real, v.imag], [float] * 2, complex),
    "bytes": (bytes, lambda v: [v.decode("latin-1")], [str], lambda text: text.encode("latin-1")),
    "bytearray": (bytearray, lambda v: [v.decode("latin-1")], [str], lambda text: bytearray(text, "latin-1")),
    "range": (range, lambda v: [v.start, v.stop, v.step], [int] * 3, range),
    "Fraction": (fractions.Fraction, lambda v: [v.numerator, v.denominator], [int] * 2, fractions.Fraction),
    "Decimal": (decimal.Decimal, lambda v: [str(v)], [str], lambda text: decimal.Decimal(text[:10_000])),
    "date": (datetime.date, lambda v: [v.year, v.month, v.day], [int] * 3, datetime.date),
    "time": (datetime.time, lambda v: [v.hour, v.minute, v.second, v.microsecond], [int] * 4, datetime.time),
    "datetime": (datetime.datetime, lambda v: [*v.timetuple()[:6], v.microsecond], [int] * 7, datetime.datetime),
    "timedelta": (datetime.timedelta, lambda v: [v.days, v.seconds, v.microseconds], [int] * 3, datetime.timedelta),
}
PLAIN_TYPES = {kind: tag for tag, kind in _DICTS.items()} | {
    kind: tag for tag, (kind, *_) in (_SEQUENCES | RECORDS).items()}
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
    if tag in _DICTS:
        data = [tag]
        for pair in value.items():
            data += [encode(part, other, exact, depth + 1) for part in pair]
        return data
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
    if tag not in _SEQUENCES and tag not in RECORDS and tag not in _DICTS:
        return other(tag, items)
    values = [decode(item, other, depth + 1) for item in items]
    try:
        if tag in _DICTS:
            return _DICTS[tag](dict(zip(values[::2], values[1::2], strict=True)))
        if tag in _SEQUENCES:
            return _SEQUENCES[tag][1](values)
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

# The system calls that a candidate gets, with their numbers on x86-64 and arm64 ("-": there is none). All others
# are refused, also those of future kernels: fork, execve, socket, ptrace, prctl, chmod, memfd_create, shmget, ...
_CALLS = """read 0 63, write 1 64, close 3 57, fstat 5 80, poll 7 -, lseek 8 62, mmap 9 222, mprotect 10 226,
munmap 11 215, brk 12 214, rt_sigaction 13 134, rt_sigprocmask 14 135, rt_sigreturn 15 139, pread64 17 67,
pwrite64 18 68, readv 19 65, writev 20 66, pipe 22 -, select 23 -, sched_yield 24 124, mremap 25 216, msync 26 227,
madvise 28 233, dup 32 23, dup2 33 -, pause 34 -, nanosleep 35 101, getitimer 36 102, alarm 37 -, setitimer 38 103,
getpid 39 172, sendto 44 206, recvfrom 45 207, shutdown 48 210, getsockname 51 204, getpeername 52 205,
setsockopt 54 208, getsockopt 55 209, exit 60 93, uname 63 160, flock 73 32, fsync 74 82, fdatasync 75 83,
ftruncate 77 46, gettimeofday 96 169, getrlimit 97 163, getrusage 98 165, sysinfo 99 179, times 100 153,
getuid 102 174, getgid 104 176, geteuid 107 175, getegid 108 177, getppid 110 173, getpgrp 111 -, getgroups 115 158,
getpgid 121 155, getsid 124 156, rt_sigpending 127 136, rt_sigtimedwait 128 137, rt_sigsuspend 130 133,
sigaltstack 131 132, setrlimit 160 164, gettid 186 178, time 201 -, futex 202 98, sched_getaffinity 204 123,
epoll_create 213 -, set_tid_address 218 96, restart_syscall 219 128, clock_gettime 228 113, clock_getres 229 114,
clock_nanosleep 230 115, exit_group 231 94, epoll_wait 232 -, epoll_ctl 233 21, pselect6 270 72, ppoll 271 73,
set_robust_list 273 99, epoll_pwait 281 22, eventfd2 290 19, epoll_create1 291 20, dup3 292 24, pipe2 293 59,
getcpu 309 168, getrandom 318 278, membarrier 324 283, rseq 334 293"""
_FILE_CALLS = """open 2 -, stat 4 -, lstat 6 -, access 21 -, sendfile 40 71, getdents 78 -, getcwd 79 17, chdir 80 49,
fchdir 81 50, rename 82 -, mkdir 83 -, rmdir 84 -, creat 85 -, link 86 -, unlink 87 -, symlink 88 -, readlink 89 -,
umask 95 166, statfs 137 43, fstatfs 138 44, getdents64 217 61, fadvise64 221 223, openat 257 56, mkdirat 258 34,
newfstatat 262 79, unlinkat 263 35, renameat 264 38, linkat 265 37, symlinkat 266 36, readlinkat 267 78,
faccessat 269 48, renameat2 316 276, copy_file_range 326 285, statx 332 291, faccessat2 439 439"""
_PID = 0x7E577E57  # in the filter's place for the process's own number
_ARGUMENT_CALLS = [  # (call, argument, mask, values): allowed only if argument & mask is one of the values
    ("clone 56 220", 0, 0x10000, [0x10000]),                         # threads, no processes
    ("kill 62 129", 0, 0xFFFFFFFF, [_PID]),                          # only itself
    ("tgkill 234 131", 0, 0xFFFFFFFF, [_PID]),
    ("prlimit64 302 261", 0, 0xFFFFFFFF, [0]),                       # its own limits, which can only fall
    ("socketpair 53 199", 1, 0xF, [1]),                              # connected streams (asyncio's)
    ("fcntl 72 25", 1, 0xFFFFFFFF, [0, 1, 2, 3, 4, 5, 6, 7, 1030]),  # no F_SETOWN: it sends signals to others
    ("ioctl 16 29", 1, 0xFFFFFFFF, [0x5401, 0x541B, 0x5421, 0x5450, 0x5451]),  # isatty, FIONREAD, (non)blocking
]
_CLONE3 = "clone3 435 435"  # answered by ENOSYS, so that the C library falls back to clone
_ARCHITECTURES = {"x86_64": (1, 0xC000003E), "aarch64": (2, 0xC00000B7)}  # column of the tables, AUDIT_ARCH
LEVELS = ["seccomp + landlock", "seccomp", "limits"]
_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 22, 38
_LIBC = ctypes.CDLL(None, use_errno=True)
_PATIENCE = 120.0  # seconds for the sandbox's own steps, on a machine that has much else to do


def _c(name, *arguments):
    """Call a function of the C library. Raise OSError if it returns -1."""
    arguments = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    result = getattr(_LIBC, name)(*arguments)
    if result == -1:
        raise OSError(ctypes.get_errno(), f"{name}: {os.strerror(ctypes.get_errno())}")
    return result


@functools.cache
def _filter_code(with_files):
    """Return the seccomp filter in BPF, with _PID in place of the process. with_files: whether it may name files."""
    column, architecture = _ARCHITECTURES[os.uname().machine]
    load, equal, mask, give = 0x20, 0x15, 0x54, 0x06  # BPF's operations
    allow, refuse, absent, kill = 0x7FFF0000, 0x50000 | 1, 0x50000 | 38, 0x80000000  # EPERM, ENOSYS

    def number(call):
        return call.split()[column]

    program = [(load, 0, 0, 4), (equal, 1, 0, architecture), (give, 0, 0, kill), (load, 0, 0, 0)]
    for call in (_CALLS + ", " + _FILE_CALLS if with_files else _CALLS).split(","):
        if number(call) != "-":
            program += [(equal, 0, 1, int(number(call))), (give, 0, 0, allow)]
    for call, argument, bits, values in _ARGUMENT_CALLS:
        body = [(load, 0, 0, 16 + 8 * argument), (mask, 0, 0, bits)]
        for value in values:
            body += [(equal, 0, 1, value), (give, 0, 0, allow)]
        body += [(give, 0, 0, refuse)]
        program += [(equal, 0, len(body), int(number(call))), *body]
    program += [(equal, 0, 1, int(number(_CLONE3))), (give, 0, 0, absent), (give, 0, 0, refuse)]
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)


def _seccomp(code):
    """Let the kernel refuse what the filter refuses, from here on."""
    buffer = ctypes.create_string_buffer(code, len(code))
    header = struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(buffer))
    _c("prctl", _PR_SET_SECCOMP, 2, ctypes.c_char_p(header), 0, 0)


@functools.cache
def _landlock_rules(folder):
    """Return a descriptor of these rules: read only the standard library's files and write only in `folder`."""
    version = _c("syscall", 444, None, 0, 1)  # landlock_create_ruleset
    every_right = (1 << {1: 13, 2: 14, 3: 15, 4: 15}.get(version, 16)) - 1
    for_files, reading = 0b110, 0b1100  # write and read a file; read a file, list a folder
    ruleset = _c("syscall", 444, ctypes.c_char_p(struct.pack("Q", every_right)), 8, 0)
    rules = [(path, reading) for path in [*sys.path, "/usr/share/zoneinfo", "/dev/urandom"]]
    for path, rights in [*rules, ("/dev/null", for_files), (folder, every_right)]:
        if os.path.exists(path):
            descriptor = os.open(path, os.O_PATH)
            rights = rights if os.path.isdir(path) else rights & for_files
            _c("syscall", 445, ruleset, 1, ctypes.c_char_p(struct.pack("=Qi", rights, descriptor)), 0)
            os.close(descriptor)
    return ruleset


def _contain(folder, level, limits):
    """Close every door of this process, just forked, but its socket. limits: {"AS": bytes, ...} of setrlimit.

    Raise OSError if the system refuses.
    """
    os.setsid()
    os.chdir(folder)
    if level == "limits" and os.getuid() == 0:  # root could signal every process
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
    for name, value in limits.items():
        kind = getattr(resource, f"RLIMIT_{name}", None)
        if kind is not None and not (name == "AS" and sys.platform == "darwin"):
            hard = resource.getrlimit(kind)[1]
            value = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.setrlimit(kind, (value, value))
    if sys.platform != "linux":
        return
    _c("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if "landlock" in level:
        _c("syscall", 446, _landlock_rules(folder), 0)  # landlock_restrict_self
    _c("capset", struct.pack("Ii", 0x20080522, 0), bytes(24))  # no capability is left, also to root
    if "seccomp" in level:
        code = _filter_code("landlock" in level)
        _seccomp(code.replace(struct.pack("I", _PID), struct.pack("I", os.getpid())))


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


def _candidate(sock, folder, level, limits):
    """Live the candidate's whole life, in a fresh copy of the fork server."""
    try:
        _contain(folder, level, limits)
    except Exception as error:  # the judge reports it: no program has been read
        send(sock, ["broken", f"{type(error).__name__}: {error}"])
        return
    os.closerange(3, sock.fileno())  # 0, 1 and 2 are /dev/null
    os.closerange(sock.fileno() + 1, 256)
    send(sock, ["ready", ""])
    answering = _Answering()
    while True:
        reply = answering.reply(receive(sock))
        try:
            send(sock, reply, MAX_REPLY)
        except ValueError as error:  # too long
            send(sock, ["raise", ["ValueError"], str(error)])


# --- 3. The fork server: forks judge and candidate, kills both by the clock ---------------------------------------

# The common modules, for speed, and those with system libraries, which a candidate cannot open.
_PRELOAD = """__future__ abc array base64 bisect bz2 calendar cmath copy dataclasses enum hashlib heapq inspect io
itertools lzma numbers pprint random re secrets sqlite3 statistics string time traceback typing unicodedata uuid
warnings zlib""".split()
_PRELOAD_WITHOUT_FILES = """argparse asyncio concurrent.futures.thread csv difflib glob ipaddress logging pickle sched
shlex shutil timeit xml.etree.ElementTree zoneinfo""".split()


def _fork(function, *args):
    """Run function(*args) in a fork of this process, which dies with it. -> pid"""
    pid = os.fork()
    if pid:
        return pid
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if sys.platform == "linux":
            _c("prctl", _PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        function(*args)
        os._exit(0)
    finally:
        os._exit(1)


def _succeeds(function, *args):
    """Whether function(*args) ends without an exception, tried in a fork."""
    return os.waitpid(_fork(function, *args), 0)[1] == 0


def _mount_working_folder(folder):
    """Give this process, in namespaces of its own, a file system of 16 MB at `folder`."""
    uid, gid = os.getuid(), os.getgid()
    _c("unshare", 0x10000000 | 0x20000)  # CLONE_NEWUSER, CLONE_NEWNS
    for name, text in [("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")]:
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)
    _c("mount", b"tmpfs", folder.encode(), b"tmpfs", 2 | 4, b"size=16m,nr_inodes=1000,mode=777")  # no suid, no devices


def _make_ready(folder):
    """Prepare this process for its forks: working folder, modules, filters. -> the strongest level that works"""
    os.mkdir(folder)
    os.chmod(folder, 0o777)
    known = sys.platform == "linux" and os.uname().machine in _ARCHITECTURES
    if known and _succeeds(_mount_working_folder, folder):
        _mount_working_folder(folder)
    level = next(level for level in LEVELS if level == "limits" or known and _succeeds(_contain, folder, level, {}))
    for name in _PRELOAD + (_PRELOAD_WITHOUT_FILES if level == "seccomp" else []):
        importlib.import_module(name)
    if level != "limits":
        _filter_code("landlock" in level)
    if "landlock" in level:
        _landlock_rules(folder)
    gc.collect()
    gc.freeze()  # so that a candidate's collector does not copy these pages
    return level


class _JudgeProcess:
    """The fork server's handle on the judge, which is forked at the first job and again after it was killed."""

    def __init__(self, judge, control):
        self.judge, self.control, self.pid = judge, control, None

    def begin(self, sock):
        """Hand over the socket to the next job's candidate."""
        if self.pid is None:
            self.link, theirs = socket.socketpair()
            self.pid = _fork(_judge, self.judge, self.control, theirs)
            theirs.close()
        socket.send_fds(self.link, [b"!"], [sock.fileno()])

    def wait(self, timeout):
        """Wait for the end of its job, for `timeout` seconds from its start. -> whether it was late, and killed"""
        for seconds in (_PATIENCE, timeout):
            in_time = select.select([self.link], [], [], seconds)[0]
            if not in_time or not self.link.recv(1):  # late, or dead
                self.end()
                return not in_time
        return False

    def end(self):
        if self.pid is not None:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self.link.close()
            self.pid = None


def _judge(judge, control, link):
    """Live the judge's whole life: read a job from the caller, send it the verdict, and so on."""
    while True:
        _, descriptors, _, _ = socket.recv_fds(link, 1, 1)
        if not descriptors:
            return
        with socket.socket(fileno=descriptors[0]) as sock:
            job = receive(control)
            kind, reason = receive(sock)
            link.send(b"s")  # the clock runs from here
            broken = ["error", f"the sandbox could not be closed: {reason}"]
            send(control, broken if kind == "broken" else judge(job, sock))
        link.send(b"d")


def _run_one(judge, folder, level, limits, timeout):
    """Fork a candidate for one job, which the judge reads. -> ["done", status, late]

    status: of the candidate, as waitpid returns it. late: whether the clock ended the job.
    """
    for_judge, for_candidate = socket.socketpair()
    with for_judge:
        with for_candidate:  # no copy of it for the judge, which must see when the candidate ends
            pid = _fork(_candidate, for_candidate, folder, level, limits)
        judge.begin(for_judge)
    try:
        late = judge.wait(timeout)
    finally:
        os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError, PermissionError):  # no group yet, or no longer
            os.killpg(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        _empty(folder)
    return ["done", status, late]


def _empty(folder):
    """Remove what is in a folder. Folders in folders may be thousands deep, so each is first moved to the top."""
    moved = 0
    while entries := list(os.scandir(folder)):
        for entry in entries:
            if not entry.is_dir(follow_symlinks=False):
                os.unlink(entry.path)
                continue
            os.chmod(entry.path, 0o700)
            for inner in os.listdir(entry.path):
                os.rename(f"{entry.path}/{inner}", f"{folder}/moved-{moved}")
                moved += 1
            os.rmdir(entry.path)


def serve(judge, descriptor, base):
    """Be the fork server: fork a candidate and a judge per job, until the caller hangs up.

    judge: function (job, socket to the candidate) -> ["verdict", passed, reason] or ["error", reason].
    descriptor: of the socket to the caller. base: an empty folder, which is removed at the end.
    Of each job the server reads the two limits, 16 bytes. The rest is for the judge's eyes.
    """
    control = socket.socket(fileno=int(descriptor)).dup()  # the lowest number that is free
    os.environ.clear()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    folder, judge = f"{base}/work", _JudgeProcess(judge, control)
    try:
        level = _make_ready(folder)
        baseline = 0  # bytes of address space before the program
        with contextlib.suppress(OSError), open("/proc/self/statm") as file:
            baseline = int(file.read().split()[0]) * resource.getpagesize()
        send(control, ["level", level])
        while True:
            timeout, memory_mb = struct.unpack("dd", _receive_bytes(control, 16))
            limits = {"AS": baseline + int(memory_mb * (1 << 20)), "CPU": math.ceil(timeout) + 1, "FSIZE": 16 << 20,
                      "NOFILE": 64, "CORE": 0, "MEMLOCK": 0, "STACK": 64 << 20}
            if level == "limits":  # no processes; Linux counts threads too
                limits["NPROC"] = 0 if sys.platform == "linux" else 1
            send(control, _run_one(judge, folder, level, limits, timeout))
    except (EOFError, ConnectionError):
        pass  # the caller is gone
    finally:
        judge.end()
        if os.path.ismount(folder):
            _c("umount2", folder.encode(), 2)  # MNT_DETACH
        _empty(base)
        os.rmdir(base)


# --- 4. The caller's side: one fork server per core ---------------------------------------------------------------

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
_idle = []                             # servers without a job
_slots = threading.Semaphore(CORES)    # as many jobs run at once


class _Server:
    """A fork server and the socket to it. One job at a time; `closed` after a failure."""

    def __init__(self, script):
        self.base = tempfile.mkdtemp(prefix="score-sandbox-")
        os.chmod(self.base, 0o755)
        self.sock, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-S", "-s", "-B", "-X", "utf8", script, str(theirs.fileno()), self.base],
                env={"PYTHONHASHSEED": "0"}, cwd=self.base, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        self.sock.settimeout(_PATIENCE)
        try:
            _, self.level = receive(self.sock)
        except (OSError, EOFError) as error:
            self.close()
            raise VerifierError(f"the sandbox server did not start: {type(error).__name__} {error}") from None

    def run(self, job, timeout, memory_mb):
        """Return (verdict or None, status of the candidate, whether it was late). Raise EOFError, OSError if gone."""
        verdict = None
        try:
            self.sock.settimeout(timeout + 2 * _PATIENCE)
            self.sock.sendall(struct.pack("dd", timeout, memory_mb))
            send(self.sock, job)
            while (message := receive(self.sock))[0] != "done":
                verdict = message
            return verdict, *message[1:]
        except BaseException:  # KeyboardInterrupt too: an answer would be left in the socket
            self.close()
            raise

    @property
    def closed(self):
        return self.sock.fileno() == -1

    def close(self):
        """End the server, which ends its judge and candidate and removes its folder."""
        self.sock.close()
        self.process.terminate()
        self.process.wait()
        if os.path.exists(self.base):  # it was killed
            _empty(self.base)
            os.rmdir(self.base)


def run(script, job, timeout, memory_mb):
    """Let the judge of `script` judge one job (JSON-able data). -> TestResult. Callable from any thread.

    script: a Python file that calls `serve`. timeout: seconds of wall time. memory_mb: MiB beyond an empty interpreter.
    Raise VerifierError if the judge says so, or if there is no sandbox.
    """
    with _slots:
        for last in (False, True):  # a server that was killed from outside is replaced, once
            try:
                server = _idle.pop()
            except IndexError:
                server = _Server(script)
            try:
                verdict, status, late = server.run(job, timeout, memory_mb)
                break
            except (OSError, EOFError) as error:
                if last:
                    raise VerifierError(f"the sandbox server died twice on the same program: {error}") from None
            finally:
                if not server.closed:
                    _idle.append(server)
    if verdict is None:
        reason = f"timed out after {timeout:g} s" if late else "the judge died of what the program returned"
        return TestResult(False, reason, server.level)
    if verdict[0] == "error":
        raise VerifierError(verdict[1])
    _, passed, reason = verdict
    if reason == "ended":
        how = (f"by signal {os.WTERMSIG(status)} (a crash, or the limit on CPU time)"
               if os.WIFSIGNALED(status) else f"with exit status {os.WEXITSTATUS(status)}")
        reason = f"the program's process ended {how} before it had answered"
    return TestResult(passed, reason, server.level)


@atexit.register
def shutdown_sandbox():
    """End the fork servers after the jobs under way. The next run starts new ones."""
    for _ in range(CORES):
        _slots.acquire()
    while _idle:
        _idle.pop().close()
    _slots.release(CORES)


def _leave_servers_to_parent():
    """In a forked child of the caller: the sockets are shared, and a slot may be taken for ever."""
    global _slots
    _idle.clear()
    _slots = threading.Semaphore(CORES)


os.register_at_fork(after_in_child=_leave_servers_to_parent)
