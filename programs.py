r"""Does a program that nobody trusts pass its tests?

The tests never enter the program's process. A process of its own, the judge, keeps them, sends each call into the
sandbox (sandbox.py), gets back a plain value and evaluates the assert itself. So the only way to pass is to return
the right values.

>>> extract_program("Sure:\n```python\ndef f(x):\n    return x + 1\n```")
'def f(x):\n    return x + 1\n'
"""

import ast
import builtins
import collections
import concurrent.futures
import functools
import html
import importlib
import io
import itertools
import marshal
import math
import operator
import os
import random
import re
import sys
import textwrap
import threading
import types

import sandbox
from sandbox import TestResult, VerifierError, shutdown_sandbox  # noqa: F401 (public here too)


def run_tests(program, tests, *, setup="", entry_point=None, timeout=5.0, memory_mb=1024):
    """Judge `program` by `tests`, which it never sees. Callable from any thread. -> TestResult

    program: Python source (see `extract_program`). It must stand alone: `setup` is not sent to it.
    tests: a list of assert statements (MBPP), or one text that defines `check(candidate)` (HumanEval).
    setup: source that the judge runs before the tests: MBPP's `test_setup_code`, HumanEval's prompt.
    entry_point: name of the function that `check` receives.
    timeout: seconds of wall time for the program and all its tests together.
    memory_mb: MiB of address space for the program, beyond what an empty interpreter takes.

    A name that the tests use and that neither they nor `setup` define is the program's, so helpers that must be
    trusted belong in `setup`. Instances of subclasses count as their base (a namedtuple as a tuple).
    An object of the program's own class equals no plain value, unless the tests use its class as a class.
    Raise VerifierError if the tests cannot be run. Nothing that a program does raises.
    """
    if not isinstance(program, str):
        raise VerifierError(f"the program must be a str, not {type(program).__name__}")
    is_list = isinstance(tests, (list, tuple)) and all(isinstance(test, str) for test in tests)
    if not tests or not (is_list or isinstance(tests, str)):
        raise VerifierError("tests must be a list of assert statements or a text that defines check(candidate), "
                            "and not empty")
    if not (0 < timeout < 1e6 and 0 < memory_mb < 1e6):
        raise VerifierError(f"timeout and memory_mb must be positive and below 10^6, not {timeout}, {memory_mb}")
    setup = setup or ""
    tests = [textwrap.dedent(test).strip() for test in ([tests] if isinstance(tests, str) else tests)]
    job = {"program": program, "tests": tests if is_list else tests[0], "setup": setup, "entry_point": entry_point,
           "outline": _outline(setup, tuple(tests), entry_point)}
    return sandbox.run(os.path.abspath(__file__), job, float(timeout), float(memory_mb))


def run_tests_batch(jobs, *, timeout=5.0, memory_mb=1024):
    """Judge many programs, one at a time per core. -> list of TestResult, in order

    jobs: dicts of run_tests' arguments, and the problem's `name` for errors. A job's own timeout or memory_mb takes
    precedence over the ones given here. Raise VerifierError as `run_tests` does.
    """
    def run_one(job):
        arguments = {"timeout": timeout, "memory_mb": memory_mb, **job}
        name = arguments.pop("name", "a problem")
        try:
            return run_tests(**arguments)
        except VerifierError as error:
            raise VerifierError(f"{name}: {error}") from error

    with concurrent.futures.ThreadPoolExecutor(max_workers=sandbox.CORES) as executor:
        return list(executor.map(run_one, jobs))


# --- 1. The program in a model's answer --------------------------------------------------------------------------
# The text is read line by line, in linear time. A Python parser in the training process would be a target: deep
# nesting has crashed CPython's.

_END_OF_TURN = re.compile(r"<\|(?:im_end|endoftext|end_of_text|eot_id|eom_id|end|EOT)\|>|<｜end▁of▁sentence｜>"
                          r"|<end_of_turn>|</s>\s*\Z")
_HTML_TAG = re.compile(r"(?:<pre\b[^<>]{0,200}>\s{0,9})?<(?:pre|code)\b"
                       r"(?:[^<>]{0,200}?lang(?:uage)?[-=\"]+(\w+))?[^<>]{0,200}>")
_PREFIX = re.compile(r"[ \t]*(?:(?:>|[-*+]|\d{1,3}[.)])[ \t]+|>)*[ \t]*")  # of a quote or a list
_FENCE = re.compile(r"(`{3,}|~{3,})[ \t]*(.*)")
_PYTHON_TAG = re.compile(r"[\s{.]*(?:(?:i?python|pycon|py)[\d.]*(?:-repl)?|[\w/.-]+\.py)(?![\w#+])", re.IGNORECASE)
_PROMPT = re.compile(r"(?:>>>|\.\.\.)(?: (.*)|$)")
_STRINGS = re.compile(r"\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*'|#.*")  # on one line, and comments
_DEFINITION = re.compile(  # Ruby's `def f(x)` has no colon; a signature may go on in the next line
    r"(?m)^(?:(?:async[ \t]+)?def[ \t]+(\w+)[ \t]*\((?:[^)\n]*$|[^\n]{0,500}\)[ \t]*(?:->[^\n:]{0,300})?:)"
    r"|class[ \t]+(\w+)[ \t]*(?:\([^\n]*)?:|(\w+)[ \t]*(?::[^=\n]*)?=[ \t]*(?:lambda|(?:functools\.)?partial)\b)")
_OPENING_LINE = re.compile(r"(?:async\s+)?def\s+\w+\s*\(|class\s+\w+\s*[(:]|import\s+\w|@\w"
                           r"|from\s+[\w.]+\s+import\b|[A-Z_]+\s*=|#!|\w+\s*=\s*lambda\b")
_CODE_LINE = re.compile(  # an unindented line that reads as Python rather than as English
    r"(?:(?:async\s+)?def\s+\w+\s*\(|class\s+\w+\s*[(:]|import\s+[\w.]+|from\s+[\w.]+\s+import\b|@\w"
    r"|(?:if|elif|while|for|with|try|else|except|finally|match|async)\b.*:\s*(?:#.*)?$"
    r"|(?:assert|raise|del|global|pass)\b|#|\"\"\"|\'\'\'|[)\]}]"
    r"|[A-Za-z_][\w.]*(?:\[[^\]]*\])*(?:\s*,\s*[A-Za-z_]\w*)*\s*(?::[^=]*)?(?:[-+*/%&|^@]|//|\*\*)?=(?!=)"
    r"|[A-Za-z_][\w.]*\()")


def extract_program(response, entry_point=None):
    """Return the program in a model's answer: str -> str, in linear time, without running anything.

    Of the fenced blocks (or HTML's <pre> and <code>) only those tagged Python or not tagged count. Among these the
    last that defines `entry_point` is the program, else the last that defines anything but tests and `main`:
    SCoRe's second turn may quote the first attempt before it corrects it. Without a fence, the program reaches
    from the first line of code to the last, or it is the last definition in inline code. MBPP's [BEGIN] and [DONE],
    a closed <think> section and what follows an end-of-turn token are left out. Text without code is returned as is.
    """
    text = _END_OF_TURN.split(response, maxsplit=1)[0].rpartition("</think>")[2]
    if "```" not in text and _HTML_TAG.search(text):
        text = _HTML_TAG.sub(lambda tag: f"\n```{tag[1] or ''}\n", re.sub(r"</?span[^<>]{0,200}>", "", text))
        text = re.sub(r"</code>\s{0,9}</pre>|</code>|</pre>", "\n```\n", re.sub(r"<br\s{0,9}/?>", "\n", text))
        text = html.unescape(text)
    text = re.sub(r"\r\n?", "\n", text).lstrip("\ufeff")
    text = re.sub("[\u00a0\u2007\u202f]", " ", text)  # Python refuses non-breaking spaces
    text = re.split(r"(?m)^[ \t]*\[DONE\]", text, maxsplit=1)[0]
    text = re.split(r"(?m)^[ \t]*\[BEGIN\]", text)[-1]
    blocks = _fenced_blocks(text.split("\n"))
    program = _choose(blocks, entry_point) if blocks else _without_fences(text)
    return program.strip("\n") + "\n"


def _choose(blocks, entry_point):
    """Return the block that is the program, of pairs (tag, text)."""
    diff = re.compile(r"(?ms)^\+.*^-|^-.*^\+")
    python = [text for tag, text in blocks if (not tag or _PYTHON_TAG.match(tag)) and not diff.search(text)]
    chosen, best = "", 0
    for text in python or [text for _, text in blocks]:
        text = _without_prompts(text.split("\n"))
        names = {match[match.lastindex] for match in _DEFINITION.finditer(text)}
        rank = 1 if any(not re.match(r"(?i)test|main$", name) for name in names) else 0
        if entry_point and (entry_point in names or re.search(rf"(?m)^{re.escape(entry_point)}[ \t]*=[^=]", text)):
            rank = 2
        if rank >= best:
            chosen, best = text, rank
    return chosen


def _without_prompts(lines):
    """Return an interactive session's input without its prompts and output; other text as it is."""
    first = next((line for line in lines if line.strip()), "")
    if not first.startswith(">>>"):
        return "\n".join(lines)
    return "\n".join(match[1] or "" for match in map(_PROMPT.match, lines) if match)


def _fenced_blocks(lines):
    """Return (tag, text) of each block between Markdown fences. A fence within a docstring does not end its block."""
    blocks, quote = [], None
    mark, tag, quoted, body = None, "", False, []  # of the block that is open; mark: its fence
    for line in lines:
        if mark is None:
            opening = _opening_fence(line) if quote is None else None
            if opening is None:
                quote = _open_quote(line, quote)
                continue
            mark, tag, code = opening
            quoted, line = line.lstrip().startswith(">"), code
        elif quoted:
            line = re.sub(r"^[ \t]*(?:>[ \t]?)+", "", line)
        before, closes = _closing_fence(line, mark)
        quote = _open_quote(before, quote)
        if quote is None and closes:
            blocks.append((tag, "\n".join(_dedent([*body, before]))))
            opening = _opening_fence(line) if not before else None  # of the next block: the fence was forgotten
            mark, tag, before = opening if opening and opening[1] else (None, "", "")
            body = []
        if mark is not None and (before or body):
            body.append(before if closes and quote is None else line)
    if mark is not None:  # never closed: cut off at the length limit, or by a stray quote
        ends = [i for i, line in enumerate(body) if line.strip() == mark] if quote else []
        blocks.append((tag, "\n".join(_dedent(body[:ends[0]] if ends else body))))
    return blocks


def _opening_fence(line):
    """Return (fence, tag, code on the same line) if `line` opens a block, else None."""
    match = _FENCE.match(line, _PREFIX.match(line).end())
    if not match:  # after words: "Solution: ```python"
        words, fence, tag = (part.strip() for part in line.partition("```"))
        opens = _PYTHON_TAG.fullmatch(tag) or not tag and words.endswith(":")
        return (fence, tag, "") if fence and opens and "`" not in words else None
    mark, info = match[1], match[2].strip()
    python = _PYTHON_TAG.match(info)
    code = info[python.end():].lstrip(" \t}:") if python else info
    if not _OPENING_LINE.match(code):
        return None if "`" in info else (mark, info, "")  # ```word``` within a line
    return mark, python[0] if python else "", code


def _closing_fence(line, mark):
    """Return (what stands before the fence `mark` in a line of its block, whether the fence closes the block)."""
    text = line.rstrip()
    if text.lstrip().startswith(mark):
        return "", True
    before = text[:-len(mark)]
    closes = text.endswith(mark) and mark[0] not in before and not text.lstrip().startswith("#")
    return before if closes else line, closes


def _open_quote(line, quote):
    """Return the triple quote that is open after `line`, if `quote` was open before it, else None."""
    if quote is None and line.lstrip().startswith("#"):
        return None
    for mark in re.findall(r"\"\"\"|\'\'\'", line):
        quote = mark if quote is None else None if mark == quote else quote
    return quote


def _dedent(lines):
    """Take off the indentation of the first line that is not blank from the lines that share it."""
    first = next((line for line in lines if line.strip()), "")
    margin = first[:len(first) - len(first.lstrip())]
    return [line.removeprefix(margin) for line in lines]


def _without_fences(text):
    """Return the code in a text without fences, by how its lines read; the text itself if no line opens a program."""
    lines = _dedent(text.split("\n"))
    prompts = [i for i, line in enumerate(lines) if line.startswith(">>>")]
    if prompts and not any(_OPENING_LINE.match(line) for line in lines[:prompts[0]]):
        return _without_prompts(lines[prompts[0]:])
    if any(_OPENING_LINE.match(line) for line in lines):
        return _strip_prose(lines)
    indented = re.search(r"(?m)^[ \t]+(?:def|class|from|import|@)\b", text)  # Markdown's other code block
    if indented and lines[0][:1].isalpha() and not any(map(_CODE_LINE.match, text[:indented.start()].split("\n"))):
        return _strip_prose(_dedent(text[indented.start():].split("\n")))
    inline = [code.strip() for _, code in re.findall(r"(`{1,3})([^`\n]+)\1", text)]
    return next((code for code in reversed(inline) if _DEFINITION.match(code)), "\n".join(lines))


def _strip_prose(lines):
    """Return the lines from the first line of code to the last, by how unindented lines read."""
    first = next((i for i, line in enumerate(lines) if _OPENING_LINE.match(line)), 0)
    if all(not line.strip() or line[0] in " \t" or _CODE_LINE.match(line) for line in lines[:first]):
        first = 0  # all code so far: constants, a docstring, comments
    quote, depth, end = None, 0, first
    for number, line in enumerate(lines[first:], first):
        inside = quote is not None or depth > 0
        if not inside and line.strip() and line[0] not in " \t" and not _CODE_LINE.match(line):
            break
        quote = _open_quote(line, quote)
        if quote is None:
            bare = _STRINGS.sub("", line[:1000])  # a longer line would take quadratic time
            depth = max(0, depth + sum(map(bare.count, "([{")) - sum(map(bare.count, ")]}")))
        end = number + 1
    return "\n".join(lines[first:end])


# --- 2. What the tests are about: their syntax tree tells which names are the program's --------------------------

_MODULES = """bisect cmath collections copy datetime decimal fractions functools heapq itertools json
math operator random re statistics string sys""".split()  # what tests may name without an import
_KNOWN = {**vars(collections), **vars(math), **{kind.__name__: kind for kind, *_ in sandbox.RECORDS.values()}}
_JUDGING = set("""abs all any bool callable dict float frozenset getattr hasattr int isinstance len list next repr
round set sorted str tuple type ceil fabs floor inf isclose isfinite isinf isnan nan pi sqrt trunc ChainMap Counter
OrderedDict defaultdict deque namedtuple Fraction Decimal date time datetime timedelta""".split())
# _JUDGING: names of Python's that tests use to judge. They are never the program's, or it would judge itself.
_OPERANDS = (ast.Compare, ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Assert, ast.IfExp, ast.Subscript, ast.FormattedValue)
_HEADS = {ast.Call: ["func"], ast.Attribute: ["value"], ast.Subscript: ["value"], ast.BinOp: ["left", "right"],
          ast.Tuple: ["elts"], ast.List: ["elts"], ast.ListComp: ["elt"]}
_PLAIN_ATTRIBUTES = {name for kind in [*sandbox.PLAIN_TYPES, float, str] for name in dir(kind)}


_PARSING = threading.Lock()  # before 3.11.8, CPython may raise SystemError if two threads build a tree at once


@functools.lru_cache(256)  # the same problem comes back with every sample of it
def _outline(setup, tests, entry_point):
    """Return what the tests say of the program, by kind of name. Raise VerifierError if they cannot be run.

    "bound": what they bind. "program": what the program must define; of these "objects": those whose results the
    tests use as objects of a class, and "exceptions": those that they catch. "python": what Python provides.
    """
    try:
        with _PARSING:
            tree, setup_tree = ast.parse("\n".join(tests)), ast.parse(setup)
    except (SyntaxError, ValueError) as error:
        raise VerifierError(f"the tests are not Python: {error}") from None
    if not _asserts(tree) and not any(isinstance(node, ast.Raise) for node in ast.walk(tree)):
        raise VerifierError("the tests assert nothing")
    tree.body = setup_tree.body + tree.body
    bound, called, mentioned, exceptions = set(), set(), set(), set()
    for node in ast.walk(tree):
        bound |= _bound(node)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            called.add(node.func.id)
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "").startswith("assertRaises"):
            exceptions |= _names(node.args[0])
        if isinstance(node, ast.ExceptHandler) and node.type:
            exceptions |= _names(node.type)
        if not isinstance(node, _OPERANDS):  # the program must not say what `answer` is in `assert f(1) == answer`
            mentioned |= {part.id for part in ast.iter_child_nodes(node) if isinstance(part, ast.Name)}
    known = set(dir(builtins)) | set(_KNOWN) | set(_MODULES) - called
    program = (called | mentioned) - bound - known | ({entry_point} if entry_point else set())
    program |= called & set(_KNOWN) - set(dir(builtins)) - bound - _JUDGING
    for node in _asserts(tree):  # `assert sum(1, 2) == 12`: if its only name is Python's, that is what it tests
        names = _names(node) & called - bound - _JUDGING
        program |= names if len(_names(node)) == 1 else set()
    program = program or called - bound
    if not program or program <= _JUDGING and len(program) > 1:
        raise VerifierError("cannot tell which function the tests are of: pass entry_point")
    python = (_names(tree) - bound - program) & (set(_KNOWN) | set(_MODULES))
    objects = _used_as_objects(tree, program, entry_point)
    kinds = {"bound": bound, "program": program, "objects": objects, "exceptions": exceptions & program,
             "python": python}
    return {kind: sorted(names) for kind, names in kinds.items()}


def _names(node):
    return {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}


def _bound(node):
    """Return the names that a node of a syntax tree binds."""
    if isinstance(node, ast.Name):
        return set() if isinstance(node.ctx, ast.Load) else {node.id}
    name = getattr(node, "asname", None) or getattr(node, "name", None) or (isinstance(node, ast.arg) and node.arg)
    return {name.split(".")[0]} if isinstance(name, str) else set()


def _asserts(tree):
    """Return the assert statements and the calls of unittest's assert methods."""
    return [node for node in ast.walk(tree) if isinstance(node, ast.Assert) or isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute) and node.func.attr.startswith(("assert", "fail"))]


def _heads(node):
    """Return the names that an expression's value comes from: {"Stack"} for `Stack(x).push(y)`."""
    heads = {node.id} if isinstance(node, ast.Name) else set()
    for field in _HEADS.get(type(node), []):
        value = getattr(node, field)
        heads = heads.union(*map(_heads, value if isinstance(value, list) else [value]))
    return heads


def _makers(tree):
    """Map each variable of the tests to the names that its values come from: s = Stack() -> {"s": {"Stack"}}."""
    makers = {}
    for node in ast.walk(tree):  # assignments of all kinds have a value, loops and comprehensions an iter
        value = getattr(node, "value", None) or getattr(node, "iter", None)
        for target in getattr(node, "targets", [getattr(node, "target", None)]) if value else []:
            for name in _heads(target) if isinstance(target, (ast.Name, ast.Tuple)) else ():
                makers.setdefault(name, set()).update(_heads(value))
    return makers


def _used_as_objects(tree, program, entry_point):
    """Return the program's names whose results the tests use as objects.

    They do if they use an attribute that no plain value has, or one of the name itself, or if a statement is just a
    method's call, such as `queue.append(1)`: tests seldom change what a function returned, except by sorting it.
    """
    used = set()
    for node in ast.walk(tree):
        method = getattr(getattr(node, "value", None), "func", None)
        if isinstance(node, ast.Expr) and isinstance(method, ast.Attribute) and method.attr not in ("sort", "reverse"):
            used |= _heads(method.value)
        if isinstance(node, ast.Attribute):
            is_of_name = isinstance(node.value, ast.Name) and node.value.id in program
            used |= _heads(node.value) if is_of_name or node.attr not in _PLAIN_ATTRIBUTES else set()
    makers = {**_makers(tree), "candidate": {entry_point}}
    for _ in range(3):  # a = Stack(); b = a; c = b
        used = used.union(*(makers.get(name, set()) for name in used))
    return used & program


# --- 3. The judge's process: keeps the tests, evaluates the asserts ----------------------------------------------

_RAISED = """ArithmeticError AssertionError AttributeError IndexError KeyError LookupError MemoryError
NotImplementedError OSError OverflowError RecursionError RuntimeError TypeError ValueError
ZeroDivisionError""".split()  # what the judge raises again for the candidate. Not StopIteration, which can end a
#                               loop of the test before it has seen a wrong value


class _ProgramError(Exception):
    """Stand for an exception of the candidate's that has no counterpart in `_RAISED`."""


class _TestError(Exception):
    """The tests cannot be run; becomes a VerifierError in the caller."""


class _Failure(BaseException):
    """The verdict is no: past any `except Exception` of the test."""


class _Remote:
    """Stand for a function, class or object in the candidate's process, by name or number.

    What a test does to it is done there, and what comes back is a plain value or another _Remote. One thing is
    refused: an operation that shows the program a value of the test and takes a plain value for an answer. In
    `3 in f(1)`, `f(1) < 1.5` or `f(1).issubset({3})` the program would judge itself. For the same reason it equals
    no plain value. Only objects of classes that the tests use as classes (`is_object`) may do all that.
    """

    def __init__(self, candidate, where, is_object, is_method=False):
        vars(self).update(_candidate=candidate, _where=where, _is_object=is_object, _is_method=is_method)

    def _apply(self, function, *args, guarded=False, **kwargs):
        result = self._candidate.ask(function, args, kwargs, self._is_object)
        shown = any(not isinstance(value, _Remote) for value in [*args, *kwargs.values()])
        is_plain = result is not None and not isinstance(result, _Remote)
        if guarded and shown and is_plain and not self._is_object:
            raise _Failure("the test shows a value to an object of the program's and asks it for a verdict")
        return result

    def __call__(self, *args, **kwargs):
        return self._apply(self, *args, guarded=self._is_method, **kwargs)

    def __getattr__(self, name):
        result = self._apply(getattr, self, name)
        if isinstance(result, _Remote):
            return _Remote(self._candidate, result._where, self._is_object, is_method=True)
        return result

    def __setattr__(self, name, value):
        self._apply(setattr, self, name, value)

    def __eq__(self, other):
        comparable = self._is_object or isinstance(other, _Remote)
        return comparable and self._apply(operator.eq, self, other)

    def __ne__(self, other):
        return not self == other

    def __next__(self):
        try:
            return self._apply(next, self)
        except _ProgramError:
            if self._candidate.raised_as == "StopIteration":
                raise StopIteration from None
            raise

    def __enter__(self):
        return self._apply(getattr, self, "__enter__")()

    def __exit__(self, *error):  # which cannot be sent
        self._apply(getattr, self, "__exit__")(None, None, None)

    def __instancecheck__(self, value):
        return isinstance(value, _Remote) and self._apply(isinstance, value, self)


def _add_operators():
    """Give _Remote the methods behind Python's operators and built-in functions."""
    def method(function, guarded):
        return lambda self, *args: self._apply(function, self, *args, guarded=guarded)

    def reflected(function):
        return lambda self, other: self._apply(function, other, self, guarded=True)

    for function in [len, str, repr, iter, bool, hash, abs, int, float, complex, round, reversed, operator.index,
                     operator.neg, operator.pos, operator.invert, operator.getitem]:
        setattr(_Remote, f"__{function.__name__}__", method(function, guarded=False))  # shows no expected value
    for name in "lt le gt ge contains setitem delitem".split():
        setattr(_Remote, f"__{name}__", method(getattr(operator, name), guarded=True))
    for name in "add sub mul truediv floordiv mod pow matmul and or xor lshift rshift".split():
        setattr(_Remote, f"__{name}__", method(getattr(operator, f"__{name}__"), guarded=True))
        setattr(_Remote, f"__i{name}__", method(getattr(operator, f"__i{name}__"), guarded=True))
        setattr(_Remote, f"__r{name}__", reflected(getattr(operator, f"__{name}__")))


_add_operators()


class _Candidate:
    """The judge's view of the candidate's process: `ask` sends one request and returns what comes back."""

    def __init__(self, sock, exceptions):
        self.sock = sock
        self.calls = 0       # how many requests were answered by a value or an exception
        self.raised = None   # the exception that stands for the program's last one
        self.raised_as = ""  # its description
        self.exceptions = {name: type(name, (_ProgramError,), {}) for name in exceptions}  # the program's own

    def ask(self, function, args, kwargs, exact):
        """Return the value of function(*args, **kwargs) in the candidate's process, or raise its exception.

        exact: whether an instance of a subclass of a plain type stays an object, instead of counting as its base.
        """
        try:
            request = [sandbox.encode(part, self.encode_other) for part in (function, list(args), kwargs)]
            sandbox.send(self.sock, [*request, exact])
        except ValueError as error:  # too deep or too large: the program's own value, passed back to it
            failure = _Failure if self.calls else _TestError
            raise failure(f"a test passes what cannot be sent to the program: {error}") from None
        except OSError:
            raise _Failure("ended") from None
        try:
            reply = sandbox.receive(self.sock, sandbox.MAX_REPLY)
            if type(reply) is not list or reply[:1] not in (["value"], ["raise"]):
                raise ValueError("not a reply")
            self.calls += request[0] != ["load"]
            if reply[0] == "value":
                return sandbox.decode(*reply[1:], lambda tag, items: self.decode_other(tag, items, exact))
            _, names, text = reply
            names, text = [str(name)[:80] for name in names], text if type(text) is int else str(text)[:2000]
        except (OSError, EOFError):
            raise _Failure("ended") from None
        except (ValueError, TypeError, MemoryError) as error:
            raise _Failure(f"the program sent no plain value: {str(error)[:200]}") from None
        self.raise_again(names, text)

    def encode_other(self, value):
        if isinstance(value, _Remote):
            return value._where
        module, name = getattr(value, "__module__", None), getattr(value, "__name__", None)
        if self.exceptions.get(name) is value:
            return ["global", name]
        if isinstance(value, types.FunctionType) and not (value.__closure__ or value.__defaults__):
            return ["code", sandbox.encode(marshal.dumps(value.__code__), None)]
        if name and getattr(sys.modules.get(module), name, None) is value:
            return ["python", module, name]  # `remove_datatype((1, "a"), int)`
        if hasattr(type(value), "__next__") and not isinstance(value, io.IOBase):
            return ["iterator", *[sandbox.encode(item, self.encode_other) for item in itertools.islice(value, 100_000)]]
        raise _TestError(f"a test passes a {type(value).__name__}, which cannot be sent to the program: only plain "
                         "values, functions, iterators and its own objects can")

    def decode_other(self, tag, items, exact):
        if tag != "object" or [type(item) for item in items] != [int]:
            raise ValueError(f"an unknown tag {tag[:20]!r}")
        return _Remote(self, ["object", *items], exact)

    def raise_again(self, names, text):
        """Raise what stands for the program's exception; names: of its class and the bases of that."""
        known = next((name for name in names if name in _RAISED), None)
        bases = [self.exceptions[name] for name in dict.fromkeys(names) if name in self.exceptions]
        bases += [getattr(builtins, known)] if known else [] if bases else [_ProgramError]
        kind = bases[0] if len(bases) == 1 else type("_Raised", tuple(bases), {})
        self.raised = kind(text)
        self.raised_as = f"{names[0] if names else 'an exception'}: {str(text)[:200]}".rstrip(": ")
        raise self.raised


def _judge(job, candidate):
    """Run the setup and the tests with stand-ins for what the program defines. -> (passed, reason)"""
    is_check = isinstance(job["tests"], str)
    tests = [job["tests"]] if is_check else job["tests"]
    entry_point, outline = job["entry_point"], job["outline"]
    candidate.ask(_Remote(candidate, ["load"], False), [job["program"].removeprefix("\ufeff")], {}, False)
    stand_ins = {name: _Remote(candidate, ["global", name], name in outline["objects"]) for name in outline["program"]}
    stand_ins |= candidate.exceptions
    scope = {"__name__": "tests", **stand_ins}
    for name in outline["python"]:
        scope[name] = _KNOWN[name] if name in _KNOWN else importlib.import_module(name)
    random.seed(0)  # HumanEval draws some of its cases: every candidate gets the same
    exec(compile(job["setup"], "<setup>", "exec", dont_inherit=True), scope)
    scope.update(stand_ins)  # HumanEval's prompt defines an empty function of the candidate's name
    for number, test in enumerate(tests, 1):
        try:
            exec(compile(test, "<test>", "exec", dont_inherit=True), scope)
            if is_check and "check" in scope and entry_point:
                scope["check"](stand_ins[entry_point])
        except AssertionError as error:
            if error is candidate.raised:
                raise
            text = "an assert of check" if is_check else f"test {number} of {len(tests)}, {test[:200]}"
            return False, f"wrong: {text}, does not hold"
    if not candidate.calls:
        raise _TestError("the tests never call the program: does the text define check(candidate), "
                         "and is entry_point given?")
    return True, f"passed {'check' if is_check else f'all {len(tests)} tests'}"


def _verdict(job, sock):
    """Be the judge of one job, with the candidate at `sock`. -> ["verdict", passed, reason] or ["error", reason]"""
    candidate = _Candidate(sock, job["outline"]["exceptions"])
    try:
        return ["verdict", *_judge(job, candidate)]
    except _Failure as failure:
        return ["verdict", False, str(failure)]
    except (Exception, SystemExit) as error:
        if error is candidate.raised:
            return ["verdict", False, f"the program raised {candidate.raised_as}"]
        what = f"{type(error).__name__}: {error}"[:300]
        undefined = isinstance(error, NameError) and error.name not in job["outline"]["bound"]
        if isinstance(error, (_TestError, ImportError)) or undefined or not candidate.calls:
            return ["error", f"the tests cannot be run: {what}"]
        return ["verdict", False, f"a test failed on a value that the program returned: {what}"]


if __name__ == "__main__":  # the fork server: no candidate shall import from this folder
    sys.path.pop(0)
    sandbox.serve(_verdict)
