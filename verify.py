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
#
# Who is trusted. The problem's tests are; the program is not: it was written by a policy that is
# paid for passing, so whatever can be cheated will be. Three processes share the work:
#
#   training process --- evaluator ("E") --- zygote ("Z") --- one candidate after another ("C")
#    torch, threads       holds the tests     holds nothing      runs the program and nothing else
#
# * E keeps the tests. For `assert f(2) == 4` it sends the call `f(2)` to C, gets a value back and
#   compares it with 4 itself. C never sees an expected value, a later call or the text of a test;
#   Z, of which C is a copy, never saw any either, so there is nothing to find in the heap.
# * C owes E values, in a plain encoding (JSON with tags, below). Whatever C does to its own
#   interpreter, or writes to its end of the socket, amounts to returning some plain value; objects
#   that claim to be equal to everything do not survive the encoding. Ending the process, by
#   whatever status, is no value, so it fails. The only way to pass is to return the right values.
# * The decoder on E's side builds exact built-in types from at most 16 MiB, and never unpickles.
#   What a value can still do is to make a test slow; E has a memory limit and an alarm, and
#   behind it the training process kills E (and with it Z and C) and starts another.
# * E is started by exec from the training process, never by fork: threads and torch stay there.
#   Z is a small, single-threaded, warm interpreter; a fork of it costs a millisecond.
#
# What keeps C in its place, each where the system has it; `TestResult.level` says what was there:
#
#   layer        Linux                                                       elsewhere
#   namespaces   own user, mount, network, IPC and pid namespaces: no        -
#                network, none but its own process, and as its files the
#                standard library (read-only) and an empty 16 MiB /tmp
#   landlock     the same view of the files, by access rules                 -
#   seccomp      no new process, no exec, no sockets, no signals to          -
#                others, no ptrace; where neither layer above hides
#                the files, none can be opened, changed or removed
#   limits       memory, CPU and wall time, file size, open files,           the same; macOS does
#                processes, no core; a session of its own, empty             not enforce memory
#                environment, no input, output to /dev/null
#
# No program can start a process, except where there are namespaces and no seccomp (they end with it).
# Not covered: with "limits" alone (macOS, or a Linux that refuses the rest) C can read the user's
# files, write and signal what the user may, use the network, and look for the tests in other
# processes where the system lets a user debug his own; for root's sake it then runs as nobody. Do
# not train at that level outside a container. Kernel bugs and hardware side channels are outside
# every level.

import ast
import atexit
import builtins
import concurrent.futures
import contextlib
import functools
import gc
import importlib
import itertools
import json
import math
import os
import queue
import re
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import types
from dataclasses import dataclass


class VerifierError(RuntimeError):
    """The tests or the sandbox are broken, so there is no verdict. A program cannot cause this."""


@dataclass(frozen=True)
class TestResult:
    """A verdict on one program: whether it passed, why in words, and what contained it."""
    passed: bool
    reason: str
    level: str
    __test__ = False  # not a test class, whatever pytest makes of the name


def run_tests(program, tests, *, setup="", entry_point=None, timeout=5.0, memory_mb=1024):
    """Run `program` in a sandbox and judge it by `tests`, which it never sees.

    program: Python source (see `extract_program`). It must stand alone: `setup` is not sent to it.
    tests: a list of assert statements (MBPP), or one text that defines `check(candidate)`
        (HumanEval); `candidate` is then the function called `entry_point`.
    setup: source to run before the tests, on the trusted side: MBPP's `test_setup_code`,
        HumanEval's prompt (for the helpers that its tests call). A name that the tests call and
        that neither they nor `setup` define is looked up in the program: that is how a list of
        asserts names its function and its classes. So whatever is to be trusted stands in `setup`.
    timeout: seconds of wall time for the program and all its tests together.
    memory_mb: MiB of address space for the program, beyond what an empty interpreter takes.

    The value of a call is what plain data it consists of: subclasses count as their base (a
    Counter as a dict), an object of the program's own class equals nothing, and what a call does
    to its arguments stays in the sandbox. Callable from any thread. Raises VerifierError if the
    tests cannot be run; nothing that a program does raises.
    """
    if not isinstance(program, str):
        raise VerifierError(f"the program must be a str, not {type(program).__name__}")
    is_list = isinstance(tests, (list, tuple)) and all(isinstance(test, str) for test in tests)
    if not (is_list or isinstance(tests, str)) or not tests:
        raise VerifierError("tests must be a list of assert statements or a text that defines "
                            "check(candidate), and not empty")
    if not (0 < timeout < 1e6 and 0 < memory_mb < 1e6):
        raise VerifierError(f"timeout and memory_mb must be positive and below 10^6, not {timeout}, "
                            f"{memory_mb}")
    job = {"program": program, "tests": tests if isinstance(tests, str) else list(tests),
           "setup": setup or "", "entry_point": entry_point, "timeout": float(timeout),
           "memory_mb": int(memory_mb)}
    return _the_pool().run(job)


def run_tests_batch(jobs, *, timeout=5.0, memory_mb=1024):
    """`run_tests` for many programs at once, one at a time on each core; results in order.

    jobs: dicts of run_tests' arguments, {"program": ..., "tests": ..., "setup": ...}; a job's own
    timeout or memory_mb goes before the ones given here. Raises VerifierError as run_tests does.
    """
    def run_one(job):
        return run_tests(**{"timeout": timeout, "memory_mb": memory_mb, **job})

    with concurrent.futures.ThreadPoolExecutor(max_workers=_the_pool().size) as executor:
        return list(executor.map(run_one, jobs))


# --- 3a. The program in a model's answer -------------------------------------------------------
# By its lines alone: a parser in the training process would be a target (deep nesting has crashed
# CPython's), and the answer is unbounded text.

_FENCE = re.compile(r"[ \t]{0,3}(`{3,}|~{3,})[ \t]*([^`\s]*)")
_STRINGS = re.compile(r"\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*'|#.*")  # on one line, and comments
_CODE_LINE = re.compile(  # an unindented line that reads as Python rather than as English
    r"(?:(?:async\s+)?def\s+\w+\s*\(|class\s+\w+\s*[(:]|import\s+[\w.]+|from\s+[\w.]+\s+import\b|@\w"
    r"|(?:if|elif|while|for|with|try|else|except|finally|match|async)\b.*:\s*(?:#.*)?$"
    r"|(?:assert|raise|del|global|pass)\b|#|\"\"\"|'''|[)\]}]"
    r"|[A-Za-z_][\w.]*(?:\[[^\]]*\])*(?:\s*,\s*[A-Za-z_]\w*)*\s*(?::[^=]*)?(?:[-+*/%&|^@]|//|\*\*)?=(?!=)"
    r"|[A-Za-z_][\w.]*\()")
_OPENING_LINE = re.compile(r"(?:async\s+)?def\s+\w+\s*\(|class\s+\w+\s*[(:]|import\s+\w|@\w"
                           r"|from\s+[\w.]+\s+import\b|[A-Z_]+\s*=|#!")


def extract_program(response):
    """The program in a model's answer: str -> str, in linear time, without running anything.

    Cut at MBPP's [DONE] and after its [BEGIN]; of fenced blocks the last that defines something
    (SCoRe's second turn may quote the first attempt before it mends it); without fences, from the
    first line of code to the last. Text in which no code is found comes back as it is.
    """
    text = response.replace("\r\n", "\n").lstrip("\ufeff")
    text = re.split(r"(?m)^[ \t]*\[DONE\]", text, maxsplit=1)[0]
    text = re.split(r"(?m)^[ \t]*\[BEGIN\]", text)[-1]
    lines = text.split("\n")
    blocks = _fenced_blocks(lines)
    if blocks:
        defining = [block for block in blocks if re.search(r"(?m)^[ \t]*(async |def |class )", block)]
        return (defining or blocks)[-1].strip("\n") + "\n"
    return _strip_prose(_dedent(lines)).strip("\n") + "\n"


def _fenced_blocks(lines):
    """The texts between Markdown fences. A fence within a docstring of the block is not its end."""
    blocks, start, quote = [], 0, None
    fence = None  # the mark that opened the block that we are in
    for number, line in enumerate(lines):
        match = _FENCE.match(line)
        match = None if match and "`" in line[match.end():] else match  # ```code``` within a line
        if fence is None:
            quote = _open_quote(line, quote)
            if match and quote is None:
                fence, start = match[1], number + 1
        elif match and not match[2] and match[1].startswith(fence) and quote is None:
            blocks.append(lines[start:number])
            fence = None
        else:
            quote = _open_quote(line, quote)
    if fence is not None:  # never closed: cut off at the length limit, or by a stray quote
        ends = [i for i in range(start, len(lines)) if lines[i].strip() == fence] if quote else []
        blocks.append(lines[start:ends[0] if ends else len(lines)])
    return ["\n".join(_dedent(block)) for block in blocks]


def _open_quote(line, quote):
    """The triple quote that is open after `line`, if `quote` was open before it, else None."""
    if quote is None and line.lstrip().startswith("#"):
        return None
    for mark in re.findall(r"\"\"\"|'''", line):
        quote = mark if quote is None else None if mark == quote else quote
    return quote


def _dedent(lines):
    """Take off the indentation of the first line that is not blank, where the others share it."""
    first = next((line for line in lines if line.strip()), "")
    margin = first[:len(first) - len(first.lstrip())]
    return [line.removeprefix(margin) for line in lines]


def _strip_prose(lines):
    """Without fences: from the first line of code to the last, by how unindented lines read."""
    first = next((i for i, line in enumerate(lines) if _OPENING_LINE.match(line)), None)
    if first is None:
        return "\n".join(lines)
    if all(not line.strip() or line[0] in " \t" or _CODE_LINE.match(line) for line in lines[:first]):
        first = 0  # all code so far: constants, a docstring, comments
    quote, depth, end = None, 0, first
    for number, line in enumerate(lines[first:], first):
        inside = quote is not None or depth > 0
        if not inside and line.strip() and line[0] not in " \t" and not _CODE_LINE.match(line):
            break
        quote = _open_quote(line, quote)
        if quote is None:
            bare = _STRINGS.sub("", line)
            depth = max(0, depth + sum(map(bare.count, "([{")) - sum(map(bare.count, ")]}")))
        end = number + 1
    return "\n".join(lines[first:end])


# --- 3b. Plain values --------------------------------------------------------------------------
# JSON's null, booleans, numbers and strings stand for themselves; everything else is a list that
# begins with a tag: ["tuple", 1, 2], ["dict", key, value, ...], ["int", "0xfff..."], ["bytes", s].

_MAX_MESSAGE = 16 << 20  # bytes of a reply; a list of 10^6 integers takes 8 MB
_MAX_DEPTH = 200         # of nesting
_MAX_INT = 1 << 20       # bits; 10,000! has 118,459


@functools.cache
def _containers():
    """Tag -> (type, how to build it from a list). In function form, for the import to stay cheap."""
    from collections import deque
    return {"list": (list, list), "tuple": (tuple, tuple), "set": (set, set),
            "frozenset": (frozenset, frozenset), "deque": (deque, deque),
            "keys": (type({}.keys()), lambda items: dict.fromkeys(items).keys()),
            "values": (type({}.values()), lambda items: dict(enumerate(items)).values()),
            "items": (type({}.items()), lambda items: dict(items).items())}


@functools.cache
def _records():
    """Tag -> (type, its parts as plain values, the parts' types, how to build it from them)."""
    from datetime import date, datetime, timedelta
    from decimal import Decimal
    from fractions import Fraction
    return {
        "int": (int, lambda v: [hex(v)], [str], lambda text: int(text[:_MAX_INT // 4], 16)),
        "complex": (complex, lambda v: [v.real, v.imag], [float] * 2, complex),
        "bytes": (bytes, lambda v: [v.decode("latin-1")], [str], lambda s: s.encode("latin-1")),
        "bytearray": (bytearray, lambda v: [v.decode("latin-1")], [str],
                      lambda s: bytearray(s, "latin-1")),
        "range": (range, lambda v: [v.start, v.stop, v.step], [int] * 3, range),
        "Fraction": (Fraction, lambda v: [v.numerator, v.denominator], [int] * 2, Fraction),
        "Decimal": (Decimal, lambda v: [str(v)], [str], lambda text: Decimal(text[:10_000])),
        "date": (date, lambda v: [v.year, v.month, v.day], [int] * 3, date),
        "datetime": (datetime, lambda v: [*v.timetuple()[:6], v.microsecond], [int] * 7, datetime),
        "timedelta": (timedelta, lambda v: [v.days, v.seconds, v.microseconds], [int] * 3, timedelta),
    }


@functools.cache
def _plain_bases():
    """Type -> how to make an exact copy of an instance of a subclass, past what it overrides."""
    from collections import deque
    return {int: int.__int__, float: float.__float__, complex: complex.__complex__,
            str: str.__str__, bytes: lambda v: bytes.__add__(v, b""),
            list: lambda v: list(list.__iter__(v)), tuple: lambda v: tuple(tuple.__iter__(v)),
            dict: lambda v: dict(dict.items(v)), set: lambda v: set(set.__iter__(v)),
            frozenset: lambda v: frozenset(frozenset.__iter__(v)),
            deque: lambda v: deque(deque.__iter__(v))}


def _encode(value, other, depth=0):
    """A value as JSON-able data, exact types only; `other(value)` encodes what is not plain."""
    kind = type(value)
    if value is None or kind in (bool, float, str):
        return value
    if kind is int and -(1 << 63) < value < 1 << 63:
        return value
    if depth > _MAX_DEPTH:
        raise ValueError(f"the value is nested more than {_MAX_DEPTH} deep")
    if kind is dict:
        flat = (part for pair in value.items() for part in pair)
        return ["dict", *(_encode(part, other, depth + 1) for part in flat)]
    for tag, (container, _) in _containers().items():
        if kind is container:
            return [tag, *(_encode(item, other, depth + 1) for item in value)]
    for tag, (record, parts, _, _) in _records().items():
        if kind is record and getattr(value, "tzinfo", None) is None:
            if kind is int and value.bit_length() > _MAX_INT:
                raise ValueError(f"the integer has {value.bit_length()} bits")
            return [tag, *(_encode(part, other, depth + 1) for part in parts(value))]
    for base, copy in _plain_bases().items():
        if issubclass(kind, base):  # of the type: what the value says of its __class__ is not asked
            return _encode(copy(value), other, depth)
    return other(value)


def _decode(data, other, depth=0):
    """The value of `_encode`'s data, which may have been forged: exact plain types or ValueError.

    `other(tag, items)` decodes tags that are not plain values', or raises ValueError.
    """
    if data is None or type(data) in (bool, int, str):
        return data
    if type(data) is float:
        return math.nan if data != data else data  # one NaN, so that [nan] == [nan] as in place
    if type(data) is not list or not data or type(data[0]) is not str or depth > _MAX_DEPTH:
        raise ValueError("not a plain value")
    tag, *items = data
    if tag not in _containers() and tag not in _records() and tag != "dict":
        return other(tag, items)
    values = [_decode(item, other, depth + 1) for item in items]
    try:
        if tag == "dict":
            return dict(zip(values[::2], values[1::2], strict=True))
        if tag in _containers():
            return _containers()[tag][1](values)
        _, _, kinds, build = _records()[tag]
        if [type(value) for value in values] != kinds:
            raise ValueError(f"not the parts of a {tag}")
        return build(*values)
    except (TypeError, ArithmeticError, UnicodeError) as error:  # a set of lists, 1/0, a date 0-0-0
        raise ValueError(f"not a {tag}: {error}") from None


def _send(sock, message):
    """One message: four bytes of length, then JSON."""
    data = json.dumps(message, separators=(",", ":")).encode("ascii")
    sock.sendall(struct.pack(">I", len(data)) + data)


def _receive(sock, limit, deadline=None):
    """The next message. EOFError at the end, ValueError if it is too long or not JSON, TimeoutError."""
    (length,) = struct.unpack(">I", _receive_bytes(sock, 4, deadline))
    if length > limit:
        raise ValueError(f"a message of {length} bytes, more than {limit}")
    data = _receive_bytes(sock, length, deadline)
    try:
        return json.loads(data)
    except RecursionError:
        raise ValueError("nested too deep") from None


def _receive_bytes(sock, count, deadline):
    data = bytearray()
    while len(data) < count:
        if deadline is not None:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            sock.settimeout(left)
        chunk = sock.recv(min(count - len(data), 1 << 16))
        if not chunk:
            raise EOFError
        data += chunk
    return bytes(data)


# --- 3c. The candidate's process (C): runs the program, answers calls ------------------------------

def _serve_calls(sock):
    """Load the program, then answer one call after another until killed. Nothing here is secret."""
    _send(sock, ["ready"])
    module = types.ModuleType("candidate")  # not __main__: `if __name__ == "__main__"` blocks rest
    sys.modules["candidate"] = module       # dataclasses and typing look a class's module up
    objects = []                            # what could not be sent: E knows these by their index

    def keep(value):
        objects.append(value)
        kind = "iterator" if hasattr(type(value), "__next__") else "object"
        return [kind, len(objects) - 1, bool(value)]

    def find(tag, items):
        if tag == "global":
            if not hasattr(module, items[0]):
                raise NameError(f"name {items[0]!r} is not defined")
            return getattr(module, items[0])
        return getattr(builtins, items[0]) if tag == "builtin" else objects[items[0]]

    def load(program):
        source = program.removeprefix("\ufeff")
        exec(compile(source, "<program>", "exec", dont_inherit=True), module.__dict__)

    def answer(operation, target, *rest):
        if operation == "load":
            return load(target)
        target = _decode(target, find)
        rest = [_decode(part, find) for part in rest]
        if operation == "call":
            return target(*rest[0], **rest[1])
        return {"get": getattr, "set": setattr, "next": next}[operation](target, *rest)

    while True:
        request = _receive(sock, 1 << 30)
        try:
            reply = ["value", _encode(answer(*request), keep)]
            data = json.dumps(reply)
            if len(data) > _MAX_MESSAGE:
                raise ValueError(f"the value takes {len(data)} bytes, more than {_MAX_MESSAGE}")
        except BaseException as error:  # SystemExit too: ending is not answering
            names = [kind.__name__ for kind in type(error).__mro__]
            reply = ["raise", names, str(error)[:200] if names[0] in dir(builtins) else ""]
        _send(sock, reply)


# --- 3d. Containment: what is done to C before the program is read ---------------------------------
# Through ctypes, since Python has most of these calls from 3.12 on or not at all. Every function
# raises OSError where the system refuses.

_CLONE_NEWNS, _CLONE_NEWIPC, _CLONE_NEWUSER = 0x20000, 0x8000000, 0x10000000
_CLONE_NEWPID, _CLONE_NEWNET = 0x20000000, 0x40000000
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC = 1, 2, 4, 8
_MS_REMOUNT, _MS_BIND, _MS_REC, _MS_PRIVATE, _MNT_DETACH = 32, 4096, 16384, 1 << 18, 2
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 4, 22, 38

# System calls that a candidate does not get: (number on x86-64, on arm64); None: there is none.
_NO_ONE_ELSE = {  # other processes, the network, and memory or state that outlives the process
    "fork": (57, None), "vfork": (58, None), "execve": (59, 221), "execveat": (322, 281),
    "socket": (41, 198), "connect": (42, 203), "bind": (49, 200), "tkill": (200, 130),
    "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240), "ptrace": (101, 117),
    "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kcmp": (312, 272),
    "pidfd_send_signal": (424, 424), "pidfd_open": (434, 434), "pidfd_getfd": (438, 438),
    "process_madvise": (440, 440), "setpriority": (141, 140), "ioprio_set": (251, 30),
    "sched_setparam": (142, 118), "sched_setscheduler": (144, 119), "sched_setattr": (314, 274),
    "sched_setaffinity": (203, 122), "migrate_pages": (256, 238), "move_pages": (279, 239),
    "shmget": (29, 194), "semget": (64, 190), "msgget": (68, 186), "mq_open": (240, 180),
    "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219), "bpf": (321, 280),
    "memfd_create": (319, 279), "memfd_secret": (447, 447), "userfaultfd": (323, 282),
    "perf_event_open": (298, 241), "io_uring_setup": (425, 425), "unshare": (272, 97),
    "setns": (308, 268), "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41),
    "chroot": (161, 51), "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430),
}
_NO_MARKS = {  # changes to files that landlock does not know: modes, owners, times, attributes
    "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452),
    "chown": (92, None), "lchown": (94, None), "fchown": (93, 55), "fchownat": (260, 54),
    "utime": (132, None), "utimes": (235, None), "futimesat": (261, None), "utimensat": (280, 88),
    "setxattr": (188, 5), "lsetxattr": (189, 6), "removexattr": (197, 14), "lremovexattr": (198, 15),
    "fsetxattr": (190, 7), "fremovexattr": (199, 16), "setxattrat": (463, 463),
    "removexattrat": (466, 466), "truncate": (76, 45),
}
_NO_FILES = {  # every way to open, make, move or remove a file by its name
    "open": (2, None), "creat": (85, None), "openat": (257, 56), "openat2": (437, 437),
    "open_by_handle_at": (304, 265), "unlink": (87, None), "unlinkat": (263, 35),
    "rmdir": (84, None), "mkdir": (83, None), "mkdirat": (258, 34), "rename": (82, None),
    "renameat": (264, 38), "renameat2": (316, 276), "link": (86, None), "linkat": (265, 37),
    "symlink": (88, None), "symlinkat": (266, 36), "mknod": (133, None), "mknodat": (259, 33),
}
_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column, AUDIT_ARCH


@functools.cache
def _libc():
    import ctypes
    return ctypes.CDLL(None, use_errno=True)


def _c(name, *arguments):
    """Call a function of the C library; OSError if it says -1."""
    import ctypes
    arguments = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    result = getattr(_libc(), name)(*arguments)
    if result == -1:
        raise OSError(ctypes.get_errno(), f"{name}: {os.strerror(ctypes.get_errno())}")
    return result


def _enter_namespaces(flags):
    """E: user, pid, network and IPC namespaces; the next fork is pid 1 in them."""
    uid, gid = os.getuid(), os.getgid()
    _c("unshare", flags | _CLONE_NEWPID | _CLONE_NEWNET | _CLONE_NEWIPC)
    if flags & _CLONE_NEWUSER:  # without a map every file would belong to nobody
        for name, text in [("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"),
                           ("gid_map", f"{gid} {gid} 1")]:
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)


def _hide_files(root, visible):
    """Z: make a new root of `visible` paths, read-only, and leave the old one. root: an empty folder."""
    _c("unshare", _CLONE_NEWNS)
    _c("mount", None, b"/", None, _MS_REC | _MS_PRIVATE, None)
    sources = [(path, os.open(path, os.O_PATH)) for path in visible]  # root may cover some of them
    _c("mount", b"tmpfs", root.encode(), b"tmpfs", _MS_NOSUID | _MS_NODEV, b"size=1m,mode=755")
    for path, descriptor in sources:
        target = root + path
        os.makedirs(target if os.path.isdir(path) else os.path.dirname(target), exist_ok=True)
        if not os.path.isdir(path):
            open(target, "x").close()
        _c("mount", f"/proc/self/fd/{descriptor}".encode(), target.encode(), None, _MS_BIND, None)
        if os.path.isdir(path):  # what the host's mount forbids must be forbidden again
            flags = os.statvfs(path).f_flag & (_MS_NOSUID | _MS_NODEV | _MS_NOEXEC)
            _c("mount", None, target.encode(), None,
               _MS_REMOUNT | _MS_BIND | _MS_RDONLY | _MS_NOSUID | _MS_NODEV | flags, None)
            for packages in ("site-packages", "dist-packages"):
                if os.path.isdir(f"{target}/{packages}"):
                    _c("mount", b"tmpfs", f"{target}/{packages}".encode(), b"tmpfs", _MS_RDONLY, None)
        os.close(descriptor)
    os.mkdir(root + "/tmp")
    _c("mount", None, root.encode(), None, _MS_REMOUNT | _MS_BIND | _MS_RDONLY | _MS_NOSUID, None)
    os.chdir(root)
    _c("syscall", _system_call("pivot_root"), b".", b".")
    _c("umount2", b".", _MNT_DETACH)
    os.chdir("/")


def _system_call(name):
    return _NO_ONE_ELSE[name][_ARCHITECTURES[os.uname().machine][0]]


def _landlock(readable, writable):
    """C: from here on only files beneath `readable` can be read, and `writable` written."""
    version = _c("syscall", 444, None, 0, 1)
    everything = (1 << {1: 13, 2: 14, 3: 15, 4: 15}.get(version, 16)) - 1
    read = 1 << 2 | 1 << 3  # read files, list folders
    import ctypes
    # Of no TCP port either (bind, connect), and no abstract socket or process but its own.
    ruleset = struct.pack("QQQ", everything, 3, 3)[:24 if version >= 6 else 16 if version >= 4 else 8]
    fence = _c("syscall", 444, ctypes.c_char_p(ruleset), len(ruleset), 0)
    for paths, rights in [(readable, read), (writable, everything), (["/dev/null"], 0b110)]:
        for path in paths:
            descriptor = os.open(path, os.O_PATH)
            rule = struct.pack("=Qi", rights if os.path.isdir(path) else rights & 0b110, descriptor)
            _c("syscall", 445, fence, 1, ctypes.c_char_p(rule), 0)
            os.close(descriptor)
    _c("syscall", 446, fence, 0)
    os.close(fence)


@functools.lru_cache(1)  # Z builds it once: in its namespaces every candidate has the pid 1
def _filter_code(layers, pid):
    """The seccomp filter of these layers, in BPF, for the process that will be `pid`."""
    column, architecture = _ARCHITECTURES[os.uname().machine]
    denied = dict(_NO_ONE_ELSE)
    if "namespaces" not in layers:
        denied |= _NO_MARKS if "landlock" in layers else _NO_MARKS | _NO_FILES
    load, equal, at_least, mask, give = 0x20, 0x15, 0x35, 0x54, 0x06  # BPF's operations
    allow, refuse, absent = 0x7FFF0000, 0x50000 | 1, 0x50000 | 38     # errno EPERM, ENOSYS
    program = [(load, 0, 0, 4), (equal, 1, 0, architecture), (give, 0, 0, 0x80000000),  # else: die
               (load, 0, 0, 0), (at_least, 0, 1, 0x40000000), (give, 0, 0, refuse)]  # no x32 calls
    program += [(equal, 0, 1, 435), (give, 0, 0, absent)]  # clone3: the C library falls back to clone
    for number in sorted({numbers[column] for numbers in denied.values()} - {None}):
        program += [(equal, 0, 1, number), (give, 0, 0, refuse)]
    conditions = [  # call, argument, mask, value: allowed only if argument & mask == value
        ((56, 220), 0, 0x10000, 0x10000),  # clone: threads only
        ((62, 129), 0, 0xFFFFFFFF, pid),   # kill and tgkill: only itself
        ((234, 131), 0, 0xFFFFFFFF, pid),
        ((302, 261), 0, 0xFFFFFFFF, 0),    # prlimit64: only itself
        ((53, 199), 1, 0xF, 1),            # socketpair: only connected streams (asyncio's)
    ]
    for numbers, argument, bits, value in conditions:
        program += [(equal, 0, 5, numbers[column]), (load, 0, 0, 16 + 8 * argument),
                    (mask, 0, 0, bits), (equal, 0, 1, value), (give, 0, 0, allow),
                    (give, 0, 0, refuse)]
    program += [(give, 0, 0, allow)]
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)


def _seccomp(code):
    """C: a filter in the kernel that refuses system calls, from here on."""
    import ctypes
    buffer = ctypes.create_string_buffer(code, len(code))
    header = struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(buffer))
    _c("prctl", _PR_SET_SECCOMP, 2, ctypes.c_char_p(header), 0, 0)


def _contain(sock, folder, layers, job):
    """C, just forked, before it has read the program: close every door but the socket."""
    import resource
    os.setsid()
    null = os.open("/dev/null", os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    os.closerange(3, sock.fileno())
    os.closerange(sock.fileno() + 1, 1 << 16)
    os.chdir(folder)
    cpu = math.ceil(job["timeout"]) + 1
    limits = {"AS": job["baseline"] + (job["memory_mb"] << 20), "CPU": cpu, "FSIZE": 16 << 20,
              "NOFILE": 64, "CORE": 0, "MEMLOCK": 0, "STACK": 64 << 20}
    if "seccomp" not in layers:  # no process; on Linux this counts threads, so there are none either
        limits["NPROC"] = 64 if "namespaces" in layers else 0 if sys.platform == "linux" else 1
    for name, value in limits.items():
        kind = getattr(resource, f"RLIMIT_{name}", None)
        if kind is not None and not (name == "AS" and sys.platform == "darwin"):
            hard = resource.getrlimit(kind)[1]
            value = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.setrlimit(kind, (value, value))
    linux = sys.platform == "linux"
    if linux:
        _c("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if "landlock" in layers:
        _landlock(job["visible"], [folder])
    if os.getuid() == 0 and "namespaces" not in layers and not {"landlock", "seccomp"} <= layers:
        os.setgroups([])  # root could signal every process, and limits on processes do not bind him
        os.setgid(65534)
        os.setuid(65534)
    if not linux:
        return
    _c("prctl", _PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    _c("capset", struct.pack("Ii", 0x20080522, 0), bytes(24))  # no capability is left
    if "seccomp" in layers:
        _seccomp(_filter_code(layers, os.getpid()))


# --- 3e. The zygote (Z): forks candidates and buries them ------------------------------------------

# The common modules, for speed, and those with system libraries, which a candidate does not see.
_PRELOAD = """__future__ abc array base64 bisect bz2 calendar cmath collections contextlib copy ctypes
dataclasses datetime decimal enum fractions functools hashlib heapq inspect io itertools json lzma math
numbers operator pprint queue random re resource secrets select sqlite3 statistics string struct
tempfile textwrap threading time traceback types typing unicodedata uuid warnings zlib""".split()
_PRELOAD_CLOSED = """argparse asyncio concurrent.futures.thread csv difflib glob html ipaddress logging
pickle sched shlex shutil timeit xml.etree.ElementTree""".split()  # where it can open no file


def _zygote(control, layers, base, visible):
    """Until E hangs up: fork a candidate for each order that E sends, kill it at the next."""
    folder, own_pids = f"{base}/work", None
    if "namespaces" in layers:
        own_pids = os.open("/proc/self/ns/pid", os.O_RDONLY)
        with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
            file.write("1000")  # if the machine runs out of memory, let it be the candidate that goes
        _hide_files(base, visible)
        folder = "/tmp"
    if "seccomp" in layers:
        _filter_code(layers, 1)
        for name in _PRELOAD_CLOSED if layers == {"seccomp"} else ():
            importlib.import_module(name)
    while True:
        order, descriptors, _, _ = socket.recv_fds(control, 4096, 1)
        if not order:
            return
        if "namespaces" in layers:  # an empty /tmp and a pid namespace for this candidate alone
            _c("mount", b"tmpfs", b"/tmp", b"tmpfs", _MS_NOSUID | _MS_NODEV,
               b"size=16m,nr_inodes=1000,mode=700")
            _c("setns", own_pids, _CLONE_NEWPID)
            _c("unshare", _CLONE_NEWPID)
        else:
            os.mkdir(folder)
            os.chmod(folder, 0o777)
        with socket.socket(fileno=descriptors[0]) as sock:
            pid = os.fork()
            if pid == 0:
                _candidate(sock, folder, layers, {**json.loads(order), "visible": visible})
        hung_up = not control.recv(1)
        with contextlib.suppress(ProcessLookupError):  # it has a group of its own, but for an instant
            os.killpg(pid, signal.SIGKILL)
        os.kill(pid, signal.SIGKILL)  # a pid namespace's first process: the kernel ends the others
        _, status = os.waitpid(pid, 0)
        if "namespaces" in layers:
            _c("umount2", b"/tmp", _MNT_DETACH)
        else:
            _remove_tree(folder)
        if hung_up:
            return
        control.sendall(struct.pack(">i", status))


def _remove_tree(folder):
    """shutil.rmtree for folders in folders, thousands deep: each is first moved to the top."""
    moved = 0
    os.chmod(folder, 0o700)
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
    os.rmdir(folder)


def _candidate(sock, folder, layers, job):
    """C's whole life. It never returns: Z's code is not for it."""
    try:
        _contain(sock, folder, layers, job)
    except Exception as error:  # told to E, which raises VerifierError: no program has been read
        _send(sock, ["broken", f"{type(error).__name__}: {error}"])
        os._exit(1)
    try:
        _serve_calls(sock)
    finally:
        os._exit(1)


# --- 3f. The evaluator (E): keeps the tests and judges ----------------------------------------------

_EVALUATOR_MB = 2048  # of address space for E
_GRACE = 3.0          # seconds beyond the program's own before the caller kills E
_PATIENCE = 120.0     # seconds for the sandbox's own steps, on a machine that has much else to do

_RAISED = """ArithmeticError AssertionError AttributeError IndexError KeyError LookupError MemoryError
NotImplementedError OSError OverflowError RecursionError RuntimeError TypeError ValueError
ZeroDivisionError""".split()  # what E raises again for C. Not StopIteration, which can end a
#                               loop of the test before it has seen a wrong value
_MODULES = """bisect cmath collections copy datetime decimal fractions functools heapq itertools json
math operator random re statistics string sys""".split()  # what tests may name without an import


class _ProgramError(Exception):
    """Stands for an exception of the candidate's that has no counterpart in `_RAISED`."""


class _TestError(Exception):
    """The tests cannot be run; becomes a VerifierError in the caller."""


class _Failure(BaseException):
    """The verdict is no: past any `except Exception` of the test."""


class _Overtime(BaseException):
    """E's alarm: the test itself goes on and on."""


class _Remote:
    """Something in the candidate's process, by name or number. Equal to itself alone: nothing that
    the program says counts in a comparison. Its truth was sent with it."""

    def __init__(self, child, where, truth=True):
        vars(self).update(_child=child, _where=where, _truth=truth)

    def __call__(self, *args, **kwargs):
        return self._child.ask("call", self, list(args), kwargs)

    def __bool__(self):
        return self._truth

    def __getattr__(self, name):
        self._check_open(name)
        return self._child.ask("get", self, name)

    def __setattr__(self, name, value):
        self._check_open(name)
        self._child.ask("set", self, name, value)

    def _check_open(self, name):
        """Attributes are for objects of classes that the test names (`Node(1).left = Node(2)`).

        A function's result has none: `f(x).issubset(expected)` would be for the program to answer.
        """
        if not self._child.is_open(self) or name.startswith("__"):
            raise AttributeError(f"the program's object has no attribute {name!r} for the tests")


class _RemoteIterator(_Remote):
    """An iterator of the program's: an item is fetched when the test asks for it."""

    def __iter__(self):
        return self

    def __next__(self):
        try:
            return self._child.ask("next", self)
        except _ProgramError as error:
            if error.args[0] == "StopIteration":
                raise StopIteration from None
            raise


class _Child:
    """E's view of the candidate's process: `ask` sends one call and returns a plain value."""

    def __init__(self, sock, deadline):
        self.sock, self.deadline = sock, deadline
        self.calls = 0        # how many were answered
        self.raised = None    # the exception that stands for the program's last one
        self.open = set()     # numbers of the objects that belong to classes named by the tests
        self.open_next = False

    def ask(self, operation, target, *rest):
        self.open_next = operation != "next" and self.is_open(target)
        return self.exchange([operation, *map(self.encode, [target, *rest])])

    def is_open(self, remote):
        tag, which = remote._where
        return which in self.open if tag == "object" else which[:1].isupper()

    def encode(self, value):
        def other(value):
            if isinstance(value, _Remote):
                return value._where
            name = getattr(value, "__name__", None)
            if name is not None and getattr(builtins, name, None) is value:
                return ["builtin", name]  # `remove_datatype((1, "a"), int)`
            raise _TestError(f"a test passes a {type(value).__name__}, which cannot be sent to the "
                             "program: only plain values and its own objects can")
        try:
            return _encode(value, other)
        except ValueError as error:  # too deep or too large: the program's own value, passed back to it
            kind = _Failure if self.calls else _TestError
            raise kind(f"a test passes what cannot be sent to the program: {error}") from None

    def decode(self, data):
        def other(tag, items):
            if tag not in ("object", "iterator") or [type(item) for item in items] != [int, bool]:
                raise ValueError(f"an unknown tag {tag[:20]!r}")
            if self.open_next:
                self.open.add(items[0])
            kind = _RemoteIterator if tag == "iterator" else _Remote
            return kind(self, ["object", items[0]], items[1])
        return _decode(data, other)

    def exchange(self, request):
        try:
            _send(self.sock, request)
            reply = _receive(self.sock, _MAX_MESSAGE, self.deadline)
            if type(reply) is not list or len(reply) < 2 or reply[0] not in ("value", "raise"):
                raise ValueError("not a reply")
            self.calls += request[0] != "load"
            if reply[0] == "value":
                return self.decode(reply[1])
            names, text = reply[1:]
            names, text = [str(name)[:80] for name in names], str(text)[:200]
        except TimeoutError:
            raise _Failure("timed out") from None
        except (OSError, EOFError):
            raise _Failure("ended") from None
        except (ValueError, TypeError, MemoryError) as error:
            raise _Failure(f"the program sent no plain value: {str(error)[:200]}") from None
        known = next((name for name in names if name in _RAISED), None)
        kind = getattr(builtins, known) if known else _ProgramError
        self.raised = kind(text) if known else kind(names[0] if names else "", text)
        self.raised_as = f"{names[0] if names else 'an exception'}: {text}".rstrip(": ")
        raise self.raised


def _free_names(source):
    """The names that a text uses and does not bind, in two sets: (called or passed on, others)."""
    tree = ast.parse(source)
    bound, called, used = set(), set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            (used if isinstance(node.ctx, ast.Load) else bound).add(node.id)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            bound.add(node.name)
        elif isinstance(node, ast.arg):
            bound.add(node.arg)
        elif isinstance(node, ast.alias):
            bound.add((node.asname or node.name).split(".")[0])
        elif isinstance(node, ast.ExceptHandler) and node.name:
            bound.add(node.name)
        if isinstance(node, ast.Call):
            passed = [*node.args, *(keyword.value for keyword in node.keywords)]
            called |= {part.id for part in (node.func, *passed) if isinstance(part, ast.Name)}
    return called - bound, used - called - bound


@functools.cache
def _known_names():
    """Names that belong to Python even where a test forgot the import: were `isclose` looked up in
    the program, the program would judge itself."""
    import collections
    records = {kind.__name__: kind for kind, *_ in _records().values()}
    return {**vars(collections), **vars(math), **records}


def _names_of_program(called, entry_point):
    """Which of the called names are the program's. The rest is Python's own, on the trusted side.

    A function may be called like a built-in (MBPP has a `sum` and a `gcd`): without an entry point,
    a name like that is the program's only if no other can be.
    """
    known = set(dir(builtins)) | set(_known_names())
    names = (called - known) | ({entry_point} if entry_point else set())
    if not names:
        wrappers = {"abs", "bool", "dict", "float", "int", "len", "list", "round", "set", "sorted",
                    "str", "tuple"}
        names = called - wrappers or called
        if len(names) != 1:
            raise _TestError("cannot tell which function the tests are of: pass entry_point")
    return names


@functools.lru_cache(256)  # the same problem comes back with every sample of it
def _compile_tests(setup, tests, entry_point):
    """(code of the setup, [(code, source) of each test], names of the program, Python's by name)."""
    try:
        tests = [textwrap.dedent(test).strip() for test in tests]
        called, used = _free_names("\n".join([setup, *tests]))
        codes = [(compile(test, "<test>", "exec", dont_inherit=True), test) for test in tests]
        setup_code = compile(setup, "<setup>", "exec", dont_inherit=True)
    except (SyntaxError, ValueError) as error:
        raise _TestError(f"the tests are not Python: {error}") from None
    if not any(isinstance(node, ast.Assert) for test in tests for node in ast.walk(ast.parse(test))):
        raise _TestError("the tests assert nothing")
    names = _names_of_program(called, entry_point)
    scope = {name: importlib.import_module(name) for name in _MODULES if name in used}
    scope |= {name: _known_names()[name] for name in called - names if name in _known_names()}
    return setup_code, codes, names, scope


def _judge(job, child):
    """Run the setup and the tests with stand-ins for what the program defines. -> (passed, reason)"""
    whole = isinstance(job["tests"], str)
    tests = [job["tests"]] if whole else job["tests"]
    entry_point = job["entry_point"]
    setup, codes, names, imported = _compile_tests(job["setup"], tuple(tests), entry_point)
    child.exchange(["load", job["program"]])
    stand_ins = {name: _Remote(child, ["global", name]) for name in names}
    scope = {"__name__": "tests", **imported, **stand_ins}
    import random
    random.seed(0)  # HumanEval draws some of its cases: every candidate gets the same
    exec(setup, scope)
    scope.update(stand_ins)  # HumanEval's prompt defines an empty function of the candidate's name
    for number, (code, source) in enumerate(codes, 1):
        try:
            exec(code, scope)
            if whole and "check" in scope and entry_point:
                scope["check"](stand_ins[entry_point])
        except AssertionError as error:
            if error is child.raised:
                raise
            text = "an assert of check" if whole else f"test {number} of {len(codes)}, {source[:200]}"
            return False, f"wrong: {text}, does not hold"
    if not child.calls:
        raise _TestError("the tests never call the program: does the text define check(candidate), "
                         "and is entry_point given?")
    return True, f"passed {'check' if whole else f'all {len(codes)} tests'}"


def _verdict(job, child):
    """`_judge`, with every way that it can end turned into (passed, reason) or _TestError."""
    def overtime(*_):
        raise _Overtime

    signal.signal(signal.SIGALRM, overtime)
    signal.setitimer(signal.ITIMER_REAL, child.deadline - time.monotonic() + 0.5)
    try:
        return _judge(job, child)
    except _Failure as failure:
        return False, str(failure)
    except (_TestError, NameError, ImportError, SystemExit) as error:
        if error is child.raised:
            return False, f"the program raised {child.raised_as}"
        raise _TestError(f"the tests cannot be run: {str(error) or type(error).__name__}") from error
    except (Exception, _Overtime) as error:
        if error is child.raised:
            return False, f"the program raised {child.raised_as}"
        what = "ran out of time" if isinstance(error, _Overtime) else f"{type(error).__name__}: {error}"
        if not child.calls:  # no value of the program's has come into it
            raise _TestError(f"the tests cannot be run: {what[:300]}") from error
        return False, f"a test failed on a value that the program returned: {what[:300]}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _run_job(job, control, caller, baseline):
    """E: one candidate, from its fork to its burial. -> [kind, ...] for the caller."""
    ours, theirs = socket.socketpair()
    with ours:
        order = {"timeout": job["timeout"], "memory_mb": job["memory_mb"], "baseline": baseline}
        socket.send_fds(control, [json.dumps(order).encode()], [theirs.fileno()])
        theirs.close()
        try:
            hello = _receive(ours, 4096, time.monotonic() + _PATIENCE)
            if hello != ["ready"]:
                raise _TestError(f"the sandbox could not be closed: {hello[1]}")
            if caller:
                _send(caller, ["started"])
            child = _Child(ours, time.monotonic() + job["timeout"])
            verdict = ["verdict", *_verdict(job, child)]
        except _TestError as error:
            verdict = ["error", str(error)]
    control.sendall(b"!")  # kill it
    (status,) = struct.unpack(">i", _receive_bytes(control, 4, None))
    if verdict[2:] == ["timed out"]:
        verdict[2] = f"timed out after {job['timeout']:g} s"
    elif verdict[2:] == ["ended"]:
        how = (f"by signal {os.WTERMSIG(status)} (a crash, or the limit on CPU time)"
               if os.WIFSIGNALED(status) else f"with exit status {os.WEXITSTATUS(status)}")
        verdict[2] = f"the program's process ended {how} before it had answered"
    return verdict


def _start_zygote(layers, base, flags):
    """E: fork Z, with its namespaces if they are among the layers. -> the socket to control it."""
    ours, theirs = socket.socketpair()
    paths = [*sys.path, "/usr/share/zoneinfo", "/dev/null", "/dev/urandom"]
    visible = [path for path in paths if os.path.exists(path)
               and not any(path.startswith(f"{other}/") for other in paths)]
    if os.fork() == 0:
        try:
            os.closerange(3, theirs.fileno())
            os.closerange(theirs.fileno() + 1, 1 << 16)
            if "namespaces" in layers:
                _enter_namespaces(flags)
                if os.fork():  # the namespace's first process must be a child of who made it
                    os.close(theirs.detach())
                    os.wait()
                    os._exit(0)
                _c("prctl", _PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            _zygote(theirs, layers, base, visible)
        except OSError as error:
            print(f"the sandbox is without {sorted(layers)}: {error}", file=sys.stderr)
        finally:
            os._exit(0)
    theirs.close()
    return ours


def _strongest_zygote(without, base, baseline):
    """Try the layers of containment, from all to none, with an empty program. -> (control, level)"""
    layers = [layer for layer in ("namespaces", "landlock", "seccomp") if layer not in without]
    layers = layers if sys.platform == "linux" else []
    for count in range(len(layers), -1, -1):
        for chosen in itertools.combinations(layers, count):
            for flags in (_CLONE_NEWUSER, 0)[:2 if "namespaces" in chosen else 1]:
                control = _start_zygote(frozenset(chosen), base, flags)
                probe = {"program": "def f(): return 1", "tests": ["assert f() == 1"], "setup": "",
                         "entry_point": "f", "timeout": 10, "memory_mb": 64}
                try:
                    answer = _run_job(probe, control, None, baseline)
                except (OSError, EOFError) as error:  # Z is gone
                    answer = ["error", str(error)]
                if answer[:2] == ["verdict", True]:
                    return control, " + ".join([*chosen, "limits"])
                control.close()
                for leftover in os.listdir(base):
                    _remove_tree(f"{base}/{leftover}")
    raise _TestError(f"no sandbox can be made here: {answer}")


def _evaluator(descriptor, base, without):
    """E's main: started by exec, with an empty environment. descriptor: of the caller's socket."""
    caller = socket.socket(fileno=int(descriptor))
    os.environ.clear()
    for name in _PRELOAD:
        importlib.import_module(name)
    for table in (_containers, _records, _plain_bases, _libc):
        table()  # what every candidate would build again
    gc.collect()
    gc.freeze()  # so that a candidate's collector does not copy these pages
    import resource
    baseline = 0  # bytes; read where it is needed, on Linux
    with contextlib.suppress(OSError), open("/proc/self/statm") as file:
        baseline = int(file.read().split()[0]) * resource.getpagesize()
    try:
        control, level = _strongest_zygote(set(without.split()), base, baseline)
        resource.setrlimit(resource.RLIMIT_AS, (_EVALUATOR_MB << 20,) * 2)
    except (_TestError, OSError) as error:
        _send(caller, ["error", str(error)])
        return
    if sys.platform == "linux":
        _c("prctl", _PR_SET_DUMPABLE, 0, 0, 0, 0)  # the tests are in this memory from now on
    _send(caller, ["level", level])
    try:
        while True:
            job = _receive(caller, 1 << 30)
            _send(caller, _run_job(job, control, caller, baseline))
    except (EOFError, ConnectionError):  # the caller is gone, or Z is: the caller will start another
        _remove_tree(base)


# --- 3g. The caller's side: one evaluator for each core -------------------------------------------

class _Server:
    """An evaluator process and the socket to it. One job at a time; `closed` after a failure."""

    def __init__(self, without=""):
        self.base = tempfile.mkdtemp(prefix="score-sandbox-")
        self.sock, theirs = socket.socketpair()
        here, name = os.path.split(os.path.abspath(__file__))
        start = ("import sys; sys.path[:1] = [sys.argv[1]]; import importlib; "
                 "module = importlib.import_module(sys.argv[2]); del sys.path[0]; "
                 "module._evaluator(*sys.argv[3:])")
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-S", "-s", "-B", "-X", "utf8", "-c", start, here, name[:-3],
                 str(theirs.fileno()), self.base, without],
                env={"PYTHONHASHSEED": "0"}, cwd=self.base, pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                start_new_session=True)
        try:
            kind, self.level = _receive(self.sock, 1 << 20, time.monotonic() + 2 * _PATIENCE)
        except (OSError, EOFError, ValueError) as error:
            kind, self.level = "error", f"{type(error).__name__} {error}"
        if kind != "level":
            self.close()
            raise VerifierError(f"the sandbox server did not start: {self.level}")

    def run(self, job):
        """One verdict. ConnectionError if E is gone, VerifierError if the tests cannot be run."""
        try:
            self.sock.settimeout(2 * _PATIENCE)
            _send(self.sock, job)
            answer = _receive(self.sock, 1 << 20, time.monotonic() + 2 * _PATIENCE)
            if answer == ["started"]:
                try:
                    answer = _receive(self.sock, 1 << 20, time.monotonic() + job["timeout"] + _GRACE)
                except TimeoutError:  # a value that takes forever to compare, in C, past the alarm
                    self.close()
                    return TestResult(False, "timed out in a test, on what the program returned",
                                      self.level)
        except (OSError, EOFError) as error:
            self.close()
            raise ConnectionError(str(error)) from error
        except BaseException:  # KeyboardInterrupt: an answer would be left in the socket
            self.close()
            raise
        if answer[0] == "error":
            raise VerifierError(answer[1])
        return TestResult(answer[1], answer[2], self.level)

    @property
    def closed(self):
        return self.sock.fileno() == -1

    def close(self):
        """Kill E, and with it Z and C, and take its folder away."""
        self.sock.close()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            for _ in range(200):  # Z is E's child: it is gone when its group is
                os.killpg(self.process.pid, 0)
                time.sleep(0.001)
        self.process.wait()
        with contextlib.suppress(FileNotFoundError):  # E took it away
            _remove_tree(self.base)


class _Pool:
    """As many servers as cores, each started when it is first needed and lent to one thread."""

    def __init__(self):
        self.size = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        self.idle = queue.LifoQueue()  # servers, or None where one may be started
        for _ in range(self.size):
            self.idle.put(None)

    def run(self, job):
        server = self.idle.get()
        try:
            for attempt in (1, 2):  # an evaluator that was killed from outside is replaced, once
                server = server if server and not server.closed else _Server()
                try:
                    return server.run(job)
                except ConnectionError as error:
                    failure = error
            raise VerifierError(f"the sandbox server died twice on the same program: {failure}")
        finally:
            self.idle.put(None if server is None or server.closed else server)

    def close(self):
        for server in [self.idle.get() for _ in range(self.size)]:
            if server:
                server.close()
            self.idle.put(None)


_pool = None
_pool_lock = threading.Lock()


def _the_pool():
    global _pool
    with _pool_lock:
        if _pool is None:
            _pool = _Pool()
        return _pool


def shutdown_sandbox():
    """End the sandbox servers, when the jobs under way are done. The next run starts new ones."""
    with _pool_lock:
        if _pool is not None:
            _pool.close()


def _leave_pool_to_parent():
    """In a forked child of the caller: the sockets are shared, and a lock may be held for ever."""
    global _pool, _pool_lock
    _pool, _pool_lock = None, threading.Lock()


atexit.register(shutdown_sandbox)
os.register_at_fork(after_in_child=_leave_pool_to_parent)
