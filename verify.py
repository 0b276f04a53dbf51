"""The verifiers: what r(y, y*) in {0, 1} is, for each kind of problem.

1. The embedded task: every step of a written-out answer is checked.
2. Answers: MATH and GSM8K final answers, compared as exact values.
3. Programs: unit tests on programs that no one trusts.
"""

# ============================================================================
# 1. The reward, and the embedded task
# ============================================================================

import functools
import re
import textwrap


def reward(problem, answer: str) -> float:
    """r(y, y*) of one answer, 1.0 or 0.0: the verifier that the problem names judges its text."""
    return rewards([problem], [answer])[0]


def rewards(problems: list, answers: list[str]) -> list[float]:
    """`reward` of many answers, in order. Programs are run on all cores, each distinct one once.

    A verdict is a fact about program and tests, so it is kept for the next call too: a policy writes
    the same small programs again and again. Only a time-out is not, which may be the machine's.
    VerifierError where the tests themselves are broken: that is not the answer's fault, and no reward.
    """
    found, places = [0.0] * len(answers), {}  # places: where each distinct program stands
    for i, (problem, answer) in enumerate(zip(problems, answers, strict=True)):
        if problem.check == "false-position":
            found[i] = float(check_position(*problem.gold, answer))
        elif problem.check == "answer":
            found[i] = float(grade_answer(answer, problem.gold))
        elif problem.check in ("tests", "completion", "lambda"):
            program = program_of(problem, answer)
            places.setdefault((program, repr(problem.gold)), []).append(i)
        else:
            raise ValueError(f"no verifier is called {problem.check!r}")
    new = [key for key in places if key not in _verdicts]
    results = run_tests_batch([{"program": key[0], **problems[places[key][0]].gold} for key in new]) if new else []
    verdicts = {key: _verdicts[key] for key in places if key in _verdicts}
    for key, result in zip(new, results):
        verdicts[key] = float(result.passed)
        if "timed out" not in result.reason:
            _verdicts[key] = verdicts[key]
    for key, at in places.items():
        for i in at:
            found[i] = verdicts[key]
    if len(_verdicts) > 100_000:  # some 30 MB
        _verdicts.clear()
    return found


_verdicts: dict[tuple[str, str], float] = {}  # (program, tests) -> reward


def program_of(problem, answer: str) -> str:
    """What is run: the program in an answer, whole, or as the rest of HumanEval's prompt."""
    if problem.check == "lambda":  # without its comment, which is the model's business
        return "f=lambda x:" + answer.split("#")[0]
    program = extract_program(answer)
    if problem.check == "tests":
        return program
    prompt, name = problem.gold["setup"], re.escape(problem.gold["entry_point"])
    head = re.compile(rf"(?m)^(async +)?def +{name}\b")
    if head.search(program):  # a whole program, which may use what the prompt imports and defines
        return prompt[: head.search(prompt).start()] + program
    if re.match(r"(\s*\n)?[ \t]+\S", answer):  # indented: it ends where the function does
        return prompt + re.split(r"\n(?=[^\s#)\]}])", answer, maxsplit=1)[0] + "\n"
    return prompt + textwrap.indent(program, "    ")  # out of a fence: extract_program took the margin off


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
# normalise -> tokens -> parse -> exact values -> compare.
#
# No text of a candidate ever meets eval, sympify or attribute access: a small recursive-descent
# parser reads it straight into exact values. Nothing is rounded, so 1/3**80 is not 1/3**81 and a
# rounded decimal is not the fraction it came from. Every step is paid for from one purse of work
# (`_Work`) and every size is checked before it is computed, so there is no time-out to set and
# nothing that a thread, a signal or a tower of exponents could get wrong.
#
# Where reasonable graders differ. Equal: unreduced fractions, factored and expanded forms, x >= 2
# and [2, oo), bare lists in another order, a unit, percent sign or base given on one side only,
# 0250. Not equal: a rounded decimal for an exact gold, 10 % and 0.1, a tuple without brackets,
# another variable's name, a sum that was not carried out (2 + 3 for 5), number words, an unclosed
# box. Trigonometric values are not evaluated either: "compute sin 30" is not answered by "sin 30".

import math
import re
import unicodedata
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

# ---- extract: where in a response the answer stands -------------------------------------------

_END_OF_TURN = re.compile(r"<\|(?:im_end|endoftext|end_of_text|eot_id|end)\|>|<end_of_turn>|</s>")
_FINAL_ANSWER = re.compile(
    r"(?P<mark>final answer[*_ ]{0,4}:[*_\s]{0,8}(?:the final answer is\b:?)?)"
    r"|the final answer is\b:?", re.IGNORECASE)
_HOPE = re.compile(r"I hope it is correct", re.IGNORECASE)


def extract_answer(response: str) -> str | None:
    r"""The final answer of a response, or None where there is none (or one that is cut off).

    The last sentence "Final Answer: The final answer is $...$. I hope it is correct." counts; else
    the last \boxed{...} (braces matched) or \fbox{...}; else the last GSM8K line "#### ..."; else a
    bare "the final answer is ...". Text after an end-of-turn marker is not part of the response.

    >>> extract_answer("so $x = \\boxed{3}$. Final Answer: The final answer is $4$. I hope it is correct.")
    '4'
    >>> extract_answer(r"first \boxed{1}, no: \boxed{\frac{1}{2}}")
    '\\frac{1}{2}'
    >>> extract_answer("3 * 4 = 12\n#### 12")
    '12'
    >>> extract_answer(r"\boxed{1}, no: \boxed{\frac{1}{2}") is None
    True
    """
    if not isinstance(response, str):
        return None
    response = _END_OF_TURN.split(response, maxsplit=1)[0]
    sentences = list(_FINAL_ANSWER.finditer(response))
    ends = [s.start() for s in sentences[1:]] + [len(response)]
    strict = loose = None
    for sentence, end in zip(sentences, ends):
        loose = sentence.end(), end
        # Prose says "the final answer is ..." too; the mark or the closing formula tell the sentence.
        if sentence["mark"] or _HOPE.search(response, *loose):
            strict = loose
    if strict:
        return _sentence_answer(response[slice(*strict)])
    if _last_box(response) >= 0:
        return _box_answer(response)
    hashes = response.rfind("####")
    if hashes >= 0:
        return response[hashes + 4:].lstrip(" #").split("\n", 1)[0].strip() or None
    return _sentence_answer(response[slice(*loose)]) if loose else None


def _sentence_answer(text: str) -> str | None:
    """What follows "the final answer is": all of it, so that "$5$ or $6$" stays a hedge."""
    text = text.lstrip("*: \t\n")
    hope = _HOPE.search(text)
    if hope:
        text = text[:hope.start()]
    else:
        # No closing formula: up to the end of the line on which the formula closes. A formula that
        # never closes was cut off by the length limit: $1 may be the head of $12$.
        opened = re.match(r"\$\$?|\\\(|\\\[", text)
        close = 0
        if opened:
            closer = {r"\(": r"\)", r"\[": r"\]"}.get(opened[0], opened[0])
            found = re.compile(r"(?<!\\)" + re.escape(closer)).search(text, opened.end())
            if not found:
                return None
            close = found.end()
        newline = text.find("\n", close)
        text = text[:newline] if newline >= 0 else text
    text = text.strip().rstrip(".*").strip()
    if _last_box(text) >= 0:
        return _box_answer(text)
    whole = re.fullmatch(r"\$\$?((?:[^$\\]|\\.)*)\$\$?", text, re.DOTALL)
    return (whole[1].strip() if whole else text) or None


def _last_box(text: str) -> int:
    return max(text.rfind("\\boxed"), text.rfind("\\fbox"))


def _box_answer(text: str) -> str | None:
    r"""The contents of the last box; `\boxed 5` has one without braces. Unclosed: None."""
    rest = text[_last_box(text):]
    rest = rest[re.match(r"\\[a-z]+", rest).end():].lstrip()
    if not rest.startswith("{"):
        bare = re.match(r"[^\s$]*", rest)[0].rstrip(".,")
        return bare or None
    depth = 0
    for piece in re.finditer(r"\\.|[{}]", rest, re.DOTALL):  # \{ is a brace of the answer, not of TeX
        depth += {"{": 1, "}": -1}.get(piece[0], 0)
        if depth == 0:
            return rest[1:piece.start()].strip() or None
    return None


# ---- limits ------------------------------------------------------------------------------------

_MAX_CHARS = 1000       # longest answer that is read; the longest gold of MATH has about 160
_MAX_DEPTH = 20         # brackets within brackets
_MAX_BITS = 20_000      # of one integer: 2^4950 and 1/2004! are golds
_MAX_EXPONENT = 10_000
_MAX_WORK = 15_000      # steps of about a microsecond or two


class _Unreadable(ValueError):
    """This text has no value: it is not an answer we know how to read, or it costs too much."""


class _Work:
    """The purse from which one comparison pays; it bounds time without clocks or signals."""

    def __init__(self, steps: int = _MAX_WORK):
        self.left = steps

    def spend(self, steps: int) -> None:
        self.left -= steps
        if self.left < 0:
            raise _Unreadable("too much work")


# ---- normalise: one spelling for one thing -----------------------------------------------------

_SYMBOLS = {  # LaTeX commands spelt out as the character they stand for
    "cdot": "*", "times": "*", "ast": "*", "div": "/", "pm": "±", "mp": "∓", "infty": "∞",
    "le": "≤", "leq": "≤", "leqslant": "≤", "ge": "≥", "geq": "≥", "geqslant": "≥", "lt": "<",
    "gt": ">", "ne": "≠", "neq": "≠", "approx": "≈", "in": "∈", "cup": "∪", "mid": "|",
    "vert": "|", "lvert": "|", "rvert": "|", "langle": "⟨", "rangle": "⟩", "lbrace": r"\{",
    "rbrace": r"\}", "lbrack": "[", "rbrack": "]", "circ": "°", "degree": "°", "emptyset": "∅",
    "varnothing": "∅", "colon": ":", "setminus": "∖", "backslash": "∖",
    "%": "%", "$": "$", "{": r"\{", "}": r"\}", "\\": r"\\"}
_CHARACTERS = {  # Unicode characters with an ASCII or LaTeX spelling
    **dict.fromkeys("−–—‐‑", "-"), **dict.fromkeys("×·⋅∙∗", "*"), **dict.fromkeys("÷∕⁄", "/"),
    "⩽": "≤", "⩾": "≥", "∣": "|", "〈": "⟨", "〉": "⟩", "º": "°", "˚": "°", "∶": ":", "≅": "≈",
    "ℝ": r"\mathbb{R}", "∛": r"\sqrt[3]", "\u200b": "",
    **{c: r"\frac{%s}{%s}" % tuple(unicodedata.normalize("NFKC", c).split("⁄"))
       for c in "½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞"}}
_BASES = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9,
          "ten": 10, "twelve": 12, "sixteen": 16}
_SMALL_DIGITS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻₀₁₂₃₄₅₆₇₈₉", "0123456789-0123456789")


def _normalise(text: str) -> str:
    r"""Unicode into ASCII and LaTeX; thousands marks that cannot be anything else go.

    >>> _normalise("½·x² ≤ 12{,}000"), _normalise(r"1,\!000"), _normalise("$5"), _normalise("$5$.")
    ('\\frac{1}{2}*x^{2} ≤ 12000', '1000', '\\$5', '5')
    """
    if len(text) > _MAX_CHARS:
        raise _Unreadable("too long")
    text = re.sub("[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+", lambda m: "^{%s}" % m[0].translate(_SMALL_DIGITS), text)
    text = re.sub("[₀₁₂₃₄₅₆₇₈₉]+", lambda m: "_{%s}" % m[0].translate(_SMALL_DIGITS), text)
    text = unicodedata.normalize("NFKC", "".join(_CHARACTERS.get(c, c) for c in text)).strip()
    if re.fullmatch(r"-?\$ ?[0-9.][^$]*", text):  # one dollar sign is money, a pair is a formula
        text = text.replace("$", r"\$")
    text = re.sub(r"(?<!\\)\$", " ", text)
    mark = r"(?<=[0-9])(?:\{,\}|,\s{0,3}\\!\s{0,3}|\\,)(?=[0-9]{3}(?![0-9]))"  # {,}  ,\!  \,
    text = re.sub(mark, "", text)
    text = re.sub(r"\\text\s?\{([0-9A-F]{1,20})\}(?=_)", r"\1", text)  # \text{A5}_{11}
    text = re.sub(r"(?<=[0-9A-F])\s?(?:\\text\s?\{)?\s?\(?base ([0-9]{1,2})\)?\}?", r"_{\1}", text)
    text = re.sub(r"(?<=[0-9A-F])_\{?\\text\s?\{(%s)\}\}?" % "|".join(_BASES),
                  lambda m: "_{%d}" % _BASES[m[1]], text)
    return text.strip(" \n\t*`").rstrip(" .\\")


# ---- tokens ------------------------------------------------------------------------------------

class _Token(NamedTuple):
    kind: str       # number, numeral (with a base), name, word, command, symbol, begin, end
    text: str
    spaced: bool    # stands after a space: "1 3/4" is a mixed number, "13/4" is not


_SILENT = set("left right big Big bigg Bigg bigl bigr Bigl Bigr displaystyle textstyle limits "
              "mathbf boldsymbol bf mathit boxed fbox ! ( ) [ ]".split())
_SPACES = set("quad qquad thinspace , ; : >".split()) | {" ", "\n", "\t", ""}
_PROSE = set("text mbox textbf textit textrm textnormal mathrm operatorname hbox".split())
_TRIG = set("sin cos tan cot sec csc arcsin arccos arctan".split())
_LOGS = {"ln", "log"}
_GREEK = set("alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi pi rho "
             "sigma tau phi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega".split())
_NUMBER = re.compile(r"(?:[0-9]*\.[0-9]+|[0-9]+\.?)(?:[eE][+-]?[0-9]{1,4}(?![0-9A-Za-z.]))?")
_THOUSANDS = re.compile(r"[1-9][0-9]{0,2}(?:(?:,[0-9]{3})+|(?: [0-9]{3})+(?!/))(?!,?[0-9])(?:\.[0-9]+)?")
_NUMERAL = re.compile(r"([0-9A-F.]{2,40}|[0-9])_(?:([0-9]{1,2})|\{\s?([0-9]{1,2})\s?\})")
_COMMAND = re.compile(r"\\([A-Za-z]+|.|$)", re.DOTALL)
_ENVIRONMENT = re.compile(r"\\(begin|end)\s?\{([A-Za-z]+)\}")
_DEGREE = re.compile(r"\^\s?(?:\\circ(?![a-z])|\{\s?\\circ\s?\})")
_MERIDIEM = re.compile(r"\s?([aApP])\.?\s?[mM](?![A-Za-z])\.?")


def _tokens(text: str, prose: bool = False, depth: int = 0) -> list[_Token]:
    r"""Tokens of normalised text; `prose` inside \text{...}, where runs of letters are words.

    >>> [t.text for t in _tokens(r"\dfrac12 \text{ sq. cm}")]
    ['frac', '12', 'sq', 'cm']
    """
    if depth > 3:
        raise _Unreadable("text within text within text")
    found, pos, brackets, spaced = [], 0, 0, False
    while pos < len(text):
        pieces, pos = _pieces(text, pos, prose, brackets == 0, depth)
        for kind, value in pieces:
            if kind == "space":
                spaced = True
                continue
            found.append(_Token(kind, value, spaced))
            spaced = False
            brackets += (value in ("(", "[", r"\{")) - (value in (")", "]", r"\}"))
    return found


def _pieces(text: str, pos: int, prose: bool, bare: bool, depth: int):
    """The (kind, text) pairs that start at `pos`, mostly one, and where they end."""
    char = text[pos]
    stop = prose and char == "." and not text[pos + 1:pos + 2].isdigit()
    if char.isspace() or char == "~" or stop:
        return [("space", "")], pos + 1
    if (m := _NUMERAL.match(text, pos)) and _is_numeral(m[1], int(m[2] or m[3])):
        return [("numeral", f"{m[1]}_{m[2] or m[3]}")], m.end()
    # Outside brackets a comma before three digits marks thousands; inside, (4,112) is a point.
    if m := bare and _THOUSANDS.match(text, pos) or _NUMBER.match(text, pos):
        number = ("number", m[0].replace(",", "").replace(" ", ""))
        if after := _MERIDIEM.match(text, m.end()):
            return [number, ("word", after[1].lower() + "m")], after.end()
        return [number], m.end()
    if m := re.compile("[A-Za-z]+").match(text, pos):
        return _letters(m[0], prose), m.end()
    if m := _DEGREE.match(text, pos):
        return [("symbol", "°")], m.end()
    if m := _ENVIRONMENT.match(text, pos):
        return [(m[1], m[2])], m.end()
    if m := _COMMAND.match(text, pos):
        return _command(text, m[1], m.end(), depth)
    if "α" <= char.lower() <= "ω":
        return _command(text, unicodedata.name(char).split()[-1].lower(), pos + 1, depth)
    if text.startswith("**", pos):
        return [("symbol", "^")], pos + 2
    return [("symbol", char)], pos + 1


def _is_numeral(digits: str, base: int) -> bool:
    return 2 <= base <= 36 and all(d == "." or int(d, 36) < base for d in digits)


def _letters(run: str, prose: bool) -> list[tuple[str, str]]:
    """A run of letters: separator, function, constant, word, or variables side by side."""
    if run.lower() in ("or", "and"):
        return [("symbol", ",")]
    if not prose:
        if run in _TRIG or run in _LOGS or run == "sqrt":
            return [("command", run)]
        if run in _GREEK:
            return [("name", run)]
        if run.lower() in ("infinity", "inf", "oo"):
            return [("symbol", "∞")]
    capitals = run.isupper() and len(run) < 4 and run.lower() not in _WORDS  # names of points: AC, BCD
    word = run if len(run) == 1 or capitals else run.lower()
    if prose or len(run) > 1 and (run.lower() in _WORDS or len(run) > 3 or capitals or run.istitle()
                                  and len(run) == 3):
        return [("word", word)]
    return [("name", letter) for letter in run]


def _command(text: str, name: str, pos: int, depth: int):
    if name in _SILENT:
        return [], pos
    if name in _SPACES:
        return [("space", "")], pos
    if name in _SYMBOLS:
        return [("symbol", _SYMBOLS[name])], pos
    if name in _GREEK:
        return [("name", name)], pos
    if name in ("or", "and", "lor"):
        return [("symbol", ",")], pos
    if name in _PROSE:
        inside, pos = _braced(text, pos)
        pieces = [("space", "")]
        for token in _tokens(inside, True, depth + 1):
            pieces += [("space", "")] * token.spaced + [(token.kind, token.text)]
        return pieces, pos
    if name == "phantom":
        return [], _braced(text, pos)[1]
    return [("command", {"dfrac": "frac", "tfrac": "frac", "cfrac": "frac", "dbinom": "binom",
                         "tbinom": "binom"}.get(name, name))], pos


def _braced(text: str, pos: int) -> tuple[str, int]:
    """The argument that starts at `pos`: {...} with its braces matched, or one character."""
    while text[pos:pos + 1].isspace():
        pos += 1
    if text[pos:pos + 1] != "{":
        return text[pos:pos + 1], pos + 1
    depth = 0
    for piece in re.compile(r"\\.|[{}]", re.DOTALL).finditer(text, pos):
        depth += {"{": 1, "}": -1}.get(piece[0], 0)  # \{ is a brace of the answer, not of TeX
        if depth == 0:
            return text[pos + 1:piece.start()], piece.end()
    raise _Unreadable("a brace that never closes")


# ---- units -------------------------------------------------------------------------------------

_UNITS = {  # spelling -> unit; plurals in -s are found by themselves
    **{w: w for w in "mm cm km kg mg ml unit minute second hour day week month year inch foot "
       "yard mile meter gram liter pound ounce acre gallon ton dollar cent euro degree radian "
       "percent point way student people children men women person am pm".split()},
    "centimeter": "cm", "centimetre": "cm", "kilometer": "km", "kilometre": "km", "millimeter": "mm",
    "mph": "mile per hour",
    "metre": "meter", "m": "meter", "ft": "foot", "feet": "foot", "in": "inch", "inches": "inch", "yd": "yard",
    "yds": "yard", "mi": "mile", "g": "gram", "gm": "gram", "kilogram": "kg", "l": "liter",
    "L": "liter", "litre": "liter", "lb": "pound", "lbs": "pound", "oz": "ounce", "s": "second",
    "sec": "second", "min": "minute", "h": "hour", "hr": "hour", "hrs": "hour", "usd": "dollar",
    "buck": "dollar", "deg": "degree", "rad": "radian", "C": "C", "F": "F", "K": "K", "N": "N",
    "J": "J", "W": "W", "V": "V"}
_ADJECTIVES = set("square sq cubic cu total different distinct possible whole full unique".split())
_NO_UNITS = set("plus minus times is this does has was thus yes less unless always perhaps versus "
                "ones tens hundreds thousands millions billions trillions dozens pairs halves thirds "
                "quarters squares cubes not no more than nor but except million billion thousand "
                "hundred trillion dozen half if to about".split())
_WORDS = {w for w in _UNITS if len(w) > 1} | {"yes", "no", "sq", "per"}


def _singular(word: str) -> str:
    return _UNITS.get(word) or _UNITS.get(word[:-1] if word.endswith("s") else "") or (
        word[:-1] if len(word) > 3 and word.endswith("s") else word)


def _is_unit(words: list[str], of_gold: set, trusted: bool) -> bool:
    """Whether words after a number only name what is counted: "5 apples", but not "5 million".

    Units that we know, those that the gold uses, and plural nouns that are no number words.
    """
    if any(w in _NO_UNITS or w.endswith("ths") and w not in ("months", "lengths", "paths")
           for w in words):
        return False
    if trusted or all(w in of_gold for w in words):
        return True
    *before, head = words
    if "per" in words:  # miles per hour
        return all(w == "per" or _singular(w) in _UNITS.values() for w in words)
    known = _singular(head) in _UNITS.values() or head in of_gold
    plural = len(head) > 3 and head.endswith("s") and not head.endswith("ss")
    return (known or plural) and all(w in _ADJECTIVES or w in of_gold for w in before)


# ---- exact values: polynomials over the rationals in generators --------------------------------
#
# A value is a quotient of two polynomials with Fraction coefficients. What is not rational is a
# generator: i, a variable, pi, a unit, 2^x, sin x, and the primes, which may have exponents
# between 0 and 1: sqrt(12) is 2 * 3^(1/2), the cube root of 2 is 2^(1/3). Real powers of distinct
# primes are linearly independent over the rationals, so two numbers built from roots of integers
# are equal exactly when their polynomials are, and a/b = c/d exactly when ad - bc is the zero
# polynomial. Reduction rules (`_reduce`): p^1 is a number, i^2 = -1, (sqrt f)^2 = f.
#
# polynomial = {monomial: coefficient}, monomial = sorted ((generator, exponent), ...),
# generator = (class, payload); e.g. 3x^2 sqrt(5) is {((PRIME, 5), 1/2), ((NAME, "x"), 2)): 3}.

_PRIME, _IMAGINARY, _NAME, _UNIT, _POWER, _FUNCTION, _ROOT = range(7)
_SIEVE = bytearray([0, 0]) + bytearray([1]) * 9998
for _n in range(2, 100):
    if _SIEVE[_n]:
        _SIEVE[_n * _n::_n] = bytes(len(range(_n * _n, 10_000, _n)))
_PRIMES = [_n for _n in range(10_000) if _SIEVE[_n]]


class _Scalar(NamedTuple):
    num: dict
    den: dict


_ONE = {(): Fraction(1)}


def _number(value) -> _Scalar:
    value = Fraction(value)
    return _Scalar({(): value} if value else {}, _ONE)


def _generator(kind: int, payload) -> _Scalar:
    return _Scalar({(((kind, payload), Fraction(1)),): Fraction(1)}, _ONE)


def _bits(q: Fraction) -> int:
    return q.numerator.bit_length() + q.denominator.bit_length()


def _rational(a: _Scalar) -> Fraction | None:
    """The value as a Fraction, None where it is not rational."""
    if a.den == _ONE and a.num.keys() <= {()}:
        return a.num.get((), Fraction(0))
    return None


def _whole_power(q: Fraction, n: int, work: _Work) -> Fraction:
    if _bits(q) * abs(n) > 2 * _MAX_BITS and abs(q) != 1:
        raise _Unreadable("too many digits")  # before the power is computed, not after
    work.spend(1 + _bits(q) * abs(n) // 200)
    return q ** n


def _reduce(exponents: dict, coefficient: Fraction, work: _Work) -> dict:
    """coefficient * product of generator^exponent as a polynomial in normal form."""
    kept, roots = [], []
    for generator, exponent in exponents.items():
        kind, payload = generator
        whole = math.floor(exponent)
        if abs(whole) > _MAX_EXPONENT or exponent.denominator > _MAX_EXPONENT:
            raise _Unreadable("exponent too large")
        if kind == _PRIME:
            coefficient *= _whole_power(Fraction(payload), whole, work)
            exponent -= whole
        elif kind == _IMAGINARY:
            if exponent.denominator != 1:
                raise _Unreadable("a root of i has several values")
            coefficient *= -1 if whole % 4 > 1 else 1
            exponent = Fraction(whole % 2)
        elif kind == _ROOT and whole > 0:
            roots.append((payload, whole))
            exponent -= whole
        if exponent:
            kept.append((generator, exponent))
    if _bits(coefficient) > 2 * _MAX_BITS:
        raise _Unreadable("too many digits")
    poly = {tuple(sorted(kept)): coefficient} if coefficient else {}
    for radicand, times in roots:
        for _ in range(times):
            poly = _poly_mul(poly, dict(radicand), work)
    return poly


def _poly_add(a: dict, b: dict, work: _Work, sign: int = 1) -> dict:
    work.spend(1 + len(a) + len(b))
    total = dict(a)
    for monomial, coefficient in b.items():
        value = total.get(monomial, 0) + sign * coefficient
        work.spend(_bits(value) // 100)
        if value:
            total[monomial] = value
        else:
            del total[monomial]
    return total


def _poly_mul(a: dict, b: dict, work: _Work) -> dict:
    total = {}
    for monomial_a, coefficient_a in a.items():
        for monomial_b, coefficient_b in b.items():
            size = (_bits(coefficient_a) + _bits(coefficient_b)) // 100
            work.spend(4 + len(monomial_a) + len(monomial_b) + size * size // 20)
            exponents = dict(monomial_a)
            for generator, exponent in monomial_b:
                exponents[generator] = exponents.get(generator, 0) + exponent
            for monomial, value in _reduce(exponents, coefficient_a * coefficient_b, work).items():
                value += total.pop(monomial, 0)
                if value:
                    total[monomial] = value
    return total


def _poly_power(a: dict, n: int, work: _Work) -> dict:
    if len(a) == 1:
        (monomial, coefficient), = a.items()
        work.spend(5)
        return _reduce({g: e * n for g, e in monomial}, _whole_power(coefficient, n, work), work)
    if n > 200:
        raise _Unreadable("too large a power of a sum")
    result = _ONE
    for bit in bin(n)[2:]:
        result = _poly_mul(result, result, work)
        if bit == "1":
            result = _poly_mul(result, a, work)
    return result


# ---- exact values: arithmetic ------------------------------------------------------------------

def _quotient(num: dict, den: dict, work: _Work) -> _Scalar:
    """num / den; a denominator of one term moves into the numerator, the others get a leading 1."""
    if not den:
        raise _Unreadable("division by zero")
    if not num:
        return _number(0)
    lead = max(den)
    if len(den) == 1 and not any(g[0] == _ROOT for g, _ in lead):
        inverse = _reduce({g: -e for g, e in lead}, 1 / den[lead], work)
        return _Scalar(_poly_mul(num, inverse, work), _ONE)
    scale = {(): 1 / den[lead]}
    return _Scalar(_poly_mul(num, scale, work), _poly_mul(den, scale, work))


def _add(a: _Scalar, b: _Scalar, work: _Work, sign: int = 1) -> _Scalar:
    if a.den == b.den:
        return _quotient(_poly_add(a.num, b.num, work, sign), a.den, work)
    num = _poly_add(_poly_mul(a.num, b.den, work), _poly_mul(b.num, a.den, work), work, sign)
    return _quotient(num, _poly_mul(a.den, b.den, work), work)


def _multiply(a: _Scalar, b: _Scalar, work: _Work) -> _Scalar:
    return _quotient(_poly_mul(a.num, b.num, work), _poly_mul(a.den, b.den, work), work)


def _divide(a: _Scalar, b: _Scalar, work: _Work) -> _Scalar:
    return _quotient(_poly_mul(a.num, b.den, work), _poly_mul(a.den, b.num, work), work)


def _equal(a: _Scalar, b: _Scalar, work: _Work) -> bool:
    """
    >>> root = lambda n: _root(_number(n), 2, _Work())
    >>> one_over = _divide(_number(1), _add(root(2), root(3), _Work()), _Work())
    >>> _equal(one_over, _add(root(3), root(2), _Work(), -1), _Work())
    True
    """
    if a.den == b.den:
        work.spend(1 + len(a.num))
        return a.num == b.num
    return _poly_mul(a.num, b.den, work) == _poly_mul(b.num, a.den, work)


def _key(a: _Scalar) -> tuple:
    """A scalar as a value that can be compared and stand within a generator."""
    return tuple(sorted(a.num.items())), tuple(sorted(a.den.items()))


def _approximate(poly: dict) -> float | None:
    """About the value of a real constant, None for anything else; only ever used for its sign."""
    total = size = 0.0
    for monomial, coefficient in poly.items():
        if _bits(coefficient) > 900:
            return None
        value = float(coefficient)
        for (kind, payload), exponent in monomial:
            if kind == _PRIME:
                base = float(payload)
            elif kind == _NAME and payload in _CONSTANTS:
                base = _CONSTANTS[payload]
            elif kind == _ROOT:
                base = _approximate(dict(payload))
            else:
                return None
            if base is None or base <= 0 or abs(exponent) > 50:
                return None
            value *= base ** float(exponent)
        total, size = total + value, size + abs(value)
    return total if abs(total) > 1e-9 * size and math.isfinite(total) else None


_CONSTANTS = {"pi": math.pi, "e": math.e}


# ---- exact values: roots, powers, logarithms ---------------------------------------------------

def _prime_exponents(q: Fraction, work: _Work) -> dict:
    """{prime generator: exponent} of a positive rational. A cofactor without a prime factor below
    10,000 stands as it is: two spellings of such a root may be refused, none is wrongly accepted."""
    exponents = {}
    for n, sign in ((q.numerator, 1), (q.denominator, -1)):
        if n.bit_length() > 200:
            raise _Unreadable("too large to factor")
        work.spend(10 if n < 10_000 else 150)
        for p in _PRIMES:
            if p * p > n:
                break
            while n % p == 0:
                n //= p
                exponents[_PRIME, p] = exponents.get((_PRIME, p), Fraction(0)) + sign
        times = 1
        if math.isqrt(n) ** 2 == n:
            n, times = math.isqrt(n), 2
        if n > 1:
            exponents[_PRIME, n] = exponents.get((_PRIME, n), Fraction(0)) + times * sign
    return exponents


def _denest(poly: dict, work: _Work) -> dict | None:
    """sqrt(a + b sqrt c) as sqrt x + sqrt y where that is possible: sqrt(3 + 2 sqrt 2) = 1 + sqrt 2."""
    if len(poly) != 2 or () not in poly:
        return None
    a, surd = poly[()], max(poly)  # the empty monomial sorts first
    if any(g[0] != _PRIME or e != Fraction(1, 2) for g, e in surd) or a < 0 or _bits(a) > 400:
        return None
    square = poly[surd] ** 2 * math.prod(g[1] for g, _ in surd)  # (b sqrt c)^2
    norm = a * a - square
    if norm < 0 or math.isqrt(norm.numerator) ** 2 != norm.numerator or \
            math.isqrt(norm.denominator) ** 2 != norm.denominator:
        return None
    d = Fraction(math.isqrt(norm.numerator), math.isqrt(norm.denominator))
    x, y = (_poly_root({(): half}, 2, work) if half else {} for half in ((a + d) / 2, (a - d) / 2))
    return _poly_add(x, y, work, 1 if poly[surd] > 0 else -1)


def _poly_root(poly: dict, k: int, work: _Work) -> dict:
    """The k-th root of a polynomial; variables under a root count as positive, as in algebra class,
    except that sqrt(x^2) is not taken to be x."""
    sign = {(): Fraction(1)}
    value = _approximate(poly)
    if value is not None and value < 0:  # sqrt(-4) = 2i; an odd root of -8 is the real one, -2
        if k % 2 == 0 and k != 2:
            raise _Unreadable("an even root of a negative number")
        sign = {(): Fraction(-1)} if k % 2 else {(((_IMAGINARY, 0), Fraction(1)),): Fraction(1)}
        poly = {m: -c for m, c in poly.items()}
    content = Fraction(math.gcd(*(c.numerator for c in poly.values())),
                       math.lcm(*(c.denominator for c in poly.values())))
    exponents = {g: e / k for g, e in _prime_exponents(content, work).items()}
    rest = {m: c / content for m, c in poly.items()}
    if list(rest.values()) == [1] and all(
            k % 2 or e.numerator % 2 or g[0] in (_PRIME, _UNIT, _POWER) or g[1] in _CONSTANTS
            for g, e in next(iter(rest))):
        for generator, exponent in next(iter(rest)):
            exponents[generator] = exponents.get(generator, 0) + exponent / k
    elif k == 2 and (nested := _denest(poly, work)):
        return _poly_mul(sign, nested, work)
    else:
        exponents[_ROOT, tuple(sorted(rest.items()))] = Fraction(1, k)
    return _poly_mul(sign, _reduce(exponents, Fraction(1), work), work)


def _root(a: _Scalar, k: int, work: _Work) -> _Scalar:
    if k > 60 or k < 1:
        raise _Unreadable("no such root")
    if not a.num:
        return a
    flip = (_approximate(a.den) or 1) < 0
    num, den = ({m: -c for m, c in p.items()} if flip else p for p in a)
    return _quotient(_poly_root(num, k, work), _poly_root(den, k, work), work)


def _power(base: _Scalar, exponent: _Scalar, work: _Work) -> _Scalar:
    """base^exponent; 2^(n-1) becomes 1/2 * (2^n), with 2^n a generator."""
    q = _rational(exponent)
    if q is not None:
        if abs(q.numerator) > _MAX_EXPONENT or q <= 0 and not base.num:
            raise _Unreadable("exponent too large, or 0^0")
        if q.denominator != 1:
            base = _root(base, q.denominator, work)
        num, den = base if q > 0 else reversed(base)
        n = abs(q.numerator)
        return _quotient(_poly_power(num, n, work), _poly_power(den, n, work), work)
    value = _rational(base)
    if exponent.den != _ONE or base.den != _ONE or len(base.num) != 1:
        return _generator(_FUNCTION, ("power", _key(base), _key(exponent)))
    (monomial, coefficient), = base.num.items()
    if value is not None and value > 0:
        monomial = tuple(_prime_exponents(value, work).items())
    elif coefficient != 1:
        return _generator(_FUNCTION, ("power", _key(base), _key(exponent)))
    result = _number(1)
    for term, factor in exponent.num.items():
        if not term:
            part = _power(base, _number(factor), work)
        else:
            part = _Scalar(_reduce({(_POWER, (g, term)): e * factor for g, e in monomial},
                                   Fraction(1), work), _ONE)
        result = _multiply(result, part, work)
    return result


def _logarithm(a: _Scalar, work: _Work) -> _Scalar:
    """ln a, over primes where a is rational: ln 8 = 3 ln 2, so log_2 8 = 3."""
    q = _rational(a)
    if q is not None and q > 0:
        total = _number(0)
        for (_, p), times in _prime_exponents(q, work).items():
            part = _multiply(_number(times), _generator(_FUNCTION, ("ln", p)), work)
            total = _add(total, part, work)
        return total
    if a.den == _ONE and len(a.num) == 1:
        (monomial, coefficient), = a.num.items()
        if coefficient == 1 and len(monomial) == 1 and monomial[0][0] == (_NAME, "e"):
            return _number(monomial[0][1])
    return _generator(_FUNCTION, ("ln of", _key(a)))


# ---- parse: tokens into exact values -----------------------------------------------------------

@dataclass(frozen=True)
class _Node:
    """What is not one number: a `kind` of collection, its items, and a tag.

    list (bare, any order), set, tuple (tag: its brackets, so intervals too), union, ratio (tag:
    looks like a time), relation (items: the sides, tag: the signs), matrix (items: its rows, each a
    tuple), infinity (tag: sign).
    """
    kind: str
    items: tuple
    tag: object = None


_REAL_LINE = _Node("tuple", (_Node("infinity", (), -1), _Node("infinity", (), 1)), "()")
_RELATIONS = set("=<>≤≥≠≈∈")
_CLOSERS = {"(": ")]", "[": "])", "⟨": "⟩", "{": "}", r"\{": [r"\}"]}
_ACCENTS = set("overline bar hat vec widehat underline tilde overrightarrow".split())
_MATRICES = set("pmatrix bmatrix matrix smallmatrix array".split())


class _Parser:
    """Recursive descent, one method a level: items, item (relations), side (unions), ratio, sum,
    term, power, atom. `gold_words` holds the units that the gold uses; the parser that reads the
    gold itself is `trusted`: whatever words follow a number there are units, and are collected."""

    def __init__(self, tokens: list[_Token], work: _Work, gold_words: set | None = None,
                 variables: bool = True):
        self.tokens, self.pos, self.work = tokens, 0, work
        self.trusted = gold_words is None
        self.gold_words = set() if self.trusted else gold_words
        self.variables = variables     # whether the gold has letters: then "5 m" is a product
        self.depth = 0
        self.bits = self.signs = 0     # which way each ± of this item goes, and how many were met
        self.linked = any(t.text == "∓" for t in tokens)
        self.sum_left = False          # a sum of plain numbers was written, not carried out
        self.absolute = 0              # open |: the next one closes

    # -- tokens

    def peek(self, ahead: int = 0) -> _Token:
        place = self.pos + ahead
        return self.tokens[place] if place < len(self.tokens) else _Token("stop", "", True)

    def next(self) -> _Token:
        self.work.spend(6)
        token = self.peek()
        self.pos += 1
        return token

    def take(self, symbol: str) -> bool:
        token = self.peek()
        if token.kind == "symbol" and token.text == symbol:
            self.next()
            return True
        return False

    def expect(self, symbol: str) -> None:
        if not self.take(symbol):
            raise _Unreadable(f"{symbol} is missing")

    # -- collections

    def answer(self):
        """The whole answer: one value, or a bare list of several."""
        found = self.items(lambda t: t.kind == "stop")
        if not found:
            raise _Unreadable("nothing there")
        return found[0] if len(found) == 1 else _Node("list", tuple(found))

    def items(self, closes, alternatives: bool = True) -> list:
        """Items between commas (or "and", "or", ";") up to a token that `closes`."""
        found, comma = [], True
        while True:
            while self.peek().kind == "symbol" and self.peek().text in (",", ";"):
                self.next()
                comma = True
            if closes(self.peek()):
                return found
            if not comma:
                raise _Unreadable(f"unexpected {self.peek().text}")
            found += self.alternatives() if alternatives else [self.item()]
            comma = False

    def alternatives(self) -> list:
        """One item, read once for every way its ± can go: 1 ± 2i is two values."""
        outer, start = (self.bits, self.signs), self.pos
        self.bits = self.signs = 0
        found = [self.item()]
        ways = self.signs and (2 if self.linked else 2 ** self.signs)
        if ways > 8:
            raise _Unreadable("too many ±")
        for self.bits in range(1, ways):
            self.pos, self.signs = start, 0
            found.append(self.item())
        self.bits, self.signs = outer
        return found

    def item(self):
        self.take("≈")
        before, sides, signs = self.sum_left, [self.side()], []
        while self.peek().kind == "symbol" and self.peek().text in _RELATIONS:
            signs.append(self.next().text)
            self.sum_left = before  # 2 + 3 = 5 was carried out: the last side is the answer
            sides.append(self.side())
        return _Node("relation", tuple(sides), "".join(signs)) if signs else sides[0]

    def side(self):
        parts = [self.ratio()]
        while self.take("∪"):
            parts.append(self.ratio())
        value = _Node("union", tuple(parts)) if len(parts) > 1 else parts[0]
        return self.without(value, self.ratio()) if self.take("∖") else value

    def without(self, line, points) -> _Node:
        r"""\mathbb{R} \setminus \{2, 3\} as a union of open intervals."""
        if line != _REAL_LINE or not isinstance(points, _Node) or points.kind != "set":
            raise _Unreadable("a difference of sets")
        places = [(_approximate(p.num) if p.num else 0.0, p) for p in map(self.scalar, points.items)
                  if p.den == _ONE]
        if len(places) < len(points.items) or None in [x for x, _ in places] or not places:
            raise _Unreadable("points that cannot be ordered")
        ends = [line.items[0], *(p for _, p in sorted(places, key=lambda place: place[0])), line.items[1]]
        return _Node("union", tuple(_Node("tuple", pair, "()") for pair in zip(ends, ends[1:])))

    def ratio(self):
        start = self.pos
        parts = [self.sum()]
        while self.take(":"):
            parts.append(self.sum())
        if len(parts) == 1:
            return parts[0]
        written = [t.text for t in self.tokens[start:self.pos] if t.text != ":"]
        clock = len(written) > 1 and re.fullmatch("[01]?[0-9]|2[0-4]", written[0]) and \
            re.fullmatch("[0-5][0-9]", written[1])
        return _Node("ratio", tuple(self.scalar(p) for p in parts), bool(clock))

    # -- arithmetic

    def scalar(self, value) -> _Scalar:
        if not isinstance(value, _Scalar):
            raise _Unreadable("arithmetic with what is not a number")
        return value

    def sign(self) -> int:
        """+1 or -1 after +, -, ± or ∓ (read and consumed), 0 where none stands."""
        token = self.peek()
        if token.kind != "symbol" or token.text not in "+-±∓":
            return 0
        self.next()
        if token.text in "+-":
            return 1 if token.text == "+" else -1
        way = self.bits & 1 if self.linked else self.bits >> self.signs & 1
        self.signs += 1
        return (-1 if way else 1) * (1 if token.text == "±" else -1)

    def sum(self):
        sign = self.sign()
        total = self.term()
        total = self.negative(total) if sign < 0 else total
        plain, terms = [_plain_number(total)], 1
        while sign := self.sign():
            term = self.scalar(self.term())
            plain.append(_plain_number(term))
            total = _add(self.scalar(total), term, self.work, sign)
        self.sum_left |= len(plain) > 1 and all(plain)
        return total

    def negative(self, value):
        if isinstance(value, _Scalar):
            return _Scalar({m: -c for m, c in value.num.items()}, value.den)
        if value.kind == "infinity":
            return _Node("infinity", (), -value.tag)
        return self.product(_number(-1), value)

    def product(self, a, b):
        for matrix, factor in ((a, b), (b, a)):
            if isinstance(matrix, _Node) and matrix.kind == "matrix":
                factor = self.scalar(factor)
                return _Node("matrix", tuple(tuple(_multiply(factor, self.scalar(cell), self.work)
                                                   for cell in row) for row in matrix.items))
        return _multiply(self.scalar(a), self.scalar(b), self.work)

    def term(self):
        value = self.factor()
        while True:
            if self.take("*"):
                value = self.product(value, self.factor(value))
            elif self.take("/"):
                value = _divide(self.scalar(value), self.scalar(self.factor(value)), self.work)
            elif self.starts_factor():
                value = self.product(value, self.power(value))
            else:
                return value

    def starts_factor(self) -> bool:
        """Whether the next token is multiplied without a sign; a number never is: 5 6 is no 30."""
        kind, text, _ = self.peek()
        return kind in ("name", "word", "begin") or kind == "command" and text != "in" or \
            kind == "symbol" and (text in ("(", "{", "√", "$") or text == "|" and not self.absolute)

    def factor(self, before=None):
        sign = self.sign()
        value = self.power(before)
        return self.negative(value) if sign < 0 else value

    def power(self, before=None):
        """An atom with what follows it: ^, !, %, °. `before` is the factor on its left, if any."""
        value = self.atom(before)
        while self.peek().kind == "symbol" and self.peek().text in ("^", "!", "%", "°"):
            text = self.next().text
            if text == "^":
                sign = self.sign()
                exponent = self.scalar(self.argument())
                value = _power(self.scalar(value), self.negative(exponent) if sign < 0 else exponent,
                               self.work)
            elif text == "!":
                value = _number(math.factorial(_small(value, 2500, self.work)))
            else:
                unit = {"%": "percent", "°": "degree"}[text]
                value = _multiply(self.scalar(value), _generator(_UNIT, unit), self.work)
                if text == "°" and self.peek().text in ("C", "F"):
                    value = _multiply(value, _generator(_UNIT, self.next().text), self.work)
        return value

    # -- atoms

    def atom(self, before=None):
        kind, text, _ = token = self.next()
        self.depth += 1
        if self.depth > _MAX_DEPTH:
            raise _Unreadable("too deep")
        if kind == "number":
            value = self.number(text)
        elif kind == "numeral":
            digits, base = text.split("_")
            value = _number(_decimal(digits)) if re.fullmatch(r"[0-9]+\.?[0-9]*", digits) else \
                _generator(_NAME, "numeral " + digits)
            value = _multiply(value, _generator(_UNIT, "base " + base), self.work)
        elif kind == "name":
            value = self.name(token, before)
        elif kind == "word":
            value = self.words(text, before)
        elif kind == "command":
            value = self.command(text)
        elif kind == "begin":
            value = self.matrix(text)
        elif text in _CLOSERS:
            value = self.group(text)
        elif text == "|":
            value = self.absolute_value()
        elif text == "√":
            value = _root(self.scalar(self.argument()), 2, self.work)
        elif text == "$":
            value = _generator(_UNIT, "dollar")
            value = value if before else _multiply(value, self.scalar(self.factor()), self.work)
        elif text in "€£¥" and text:
            value = _multiply(_generator(_UNIT, text), self.scalar(self.factor()), self.work)
        elif text == "∞":
            value = _Node("infinity", (), 1)
        elif text == "∅":
            value = _Node("set", ())
        else:
            raise _Unreadable(f"unexpected {token.text or 'end'}")
        self.depth -= 1
        return value

    def number(self, text: str) -> _Scalar:
        value = _decimal(text)
        after = self.peek()
        if "." in text and after.text in ("overline", "bar") and not after.spaced:
            self.next()  # 0.1\overline{6}
            self.expect("{")
            digits = self.next().text
            self.expect("}")
            if not re.fullmatch("[0-9]{1,40}", digits):
                raise _Unreadable("no repeating digits")
            places = len(text.split(".")[1])
            return _number(value + Fraction(int(digits), (10 ** len(digits) - 1) * 10 ** places))
        if not text.isdigit():
            return _number(value)
        if after == ("command", "frac", after.spaced):  # 1\frac{3}{4} is 7/4, not 3/4
            self.next()
            num, den = (self.scalar(self.argument(digit=True)) for _ in range(2))
            n, d = _rational(num), _rational(den)
            part = _divide(num, den, self.work)
            mixed = n is not None and d is not None and n.denominator == d.denominator == 1 and 0 < n < d
            return (_add if mixed else _multiply)(_number(value), part, self.work)
        if after.kind == "number" and after.spaced and self.peek(1).text == "/" and \
                self.peek(2).kind == "number":  # 1 3/4
            n, _, d = (self.next().text for _ in range(3))
            if n.isdigit() and d.isdigit() and 0 < int(n[:300]) < int(d[:300]):
                return _number(value + Fraction(_decimal(n), _decimal(d)))
            raise _Unreadable("two numbers side by side")
        return _number(value)

    def name(self, token: _Token, before) -> _Scalar:
        text = token.text
        if text == "i":
            return _generator(_IMAGINARY, 0)
        if isinstance(before, _Scalar) and not before.num:
            raise _Unreadable("zero times letters: it would hide any word, as in 0 is it")
        if token.spaced and text in ("m", "s", "g", "h", "L") and not self.variables and \
                isinstance(before, _Scalar) and _plain_number(_without_units(before, self.work)):
            return _generator(_UNIT, _singular(text))  # "5 m" where the gold has no letters
        if self.take("_"):
            text += "_" + self.subscript()
        after = self.peek()
        if text[0] in "fgP" and after.text == "(" and not after.spaced:  # f(4 - x) is no product
            self.next()
            inside = self.items(lambda t: t.text == ")", alternatives=False)
            self.expect(")")
            keys = tuple(_key(self.scalar(value)) for value in inside)
            return _generator(_FUNCTION, ("call " + text,) + keys)
        return _generator(_NAME, text)

    def subscript(self) -> str:
        if not self.take("{"):
            return self.next().text
        text = []
        while not self.take("}"):
            if self.peek().kind == "stop":
                raise _Unreadable("a brace that never closes")
            text.append(self.next().text)
        return " ".join(text)

    def words(self, first: str, before) -> _Scalar:
        """Words are a unit after a number ("5 sq. cm", "4 apples"), else a name ("Friday")."""
        words = [first]
        while self.peek().kind == "word":
            words.append(self.next().text)
        if before is None:
            name = _generator(_NAME, " ".join(words)) if words != ["i"] else _generator(_IMAGINARY, 0)
            if len(words[-1]) > 2 and self.peek().kind == "number":  # June 20
                name = _multiply(name, self.number(self.next().text), self.work)
            return name
        if not _is_unit(words, self.gold_words, self.trusted):
            raise _Unreadable("words that name no unit")
        if self.trusted:
            self.gold_words.update(words)
        if "per" in words:
            return _generator(_UNIT, " ".join(map(_singular, words)))
        exponent = 2 if {"square", "sq"} & set(words) else 3 if {"cubic", "cu"} & set(words) else 1
        unit = _generator(_UNIT, _singular(words[-1]))
        return _power(unit, _number(exponent), self.work)

    def argument(self, digit: bool = False):
        r"""What \frac, \sqrt, ^ apply to: {...}, a group, a number (its first digit where TeX says so:
        \frac12), or another atom."""
        if self.take("{"):
            value = self.item()
            self.expect("}")
            return value
        token = self.peek()
        if token.kind == "number":
            self.next()
            if digit and len(token.text) > 1:
                self.pos -= 1
                self.tokens = self.tokens[:]
                self.tokens[self.pos] = _Token("number", token.text[1:], False)
                return _number(_decimal(token.text[0]))
            return _number(_decimal(token.text))
        return self.atom()

    def command(self, text: str):
        if text == "frac":
            num = self.scalar(self.argument(digit=True))
            return _divide(num, self.scalar(self.argument(digit=True)), self.work)
        if text == "binom":
            n, k = (_small(self.argument(digit=True), 1000, self.work) for _ in range(2))
            return _number(math.comb(n, k))
        if text == "sqrt":
            degree = 2
            if self.take("["):
                degree = _small(self.item(), 60, self.work)
                self.expect("]")
            elif self.peek().kind == "number" and len(self.peek().text) > 1:
                raise _Unreadable(r"\sqrt12: which digits are under the root?")
            return _root(self.scalar(self.argument()), degree, self.work)
        if text in _TRIG or text in _LOGS:
            return self.function(text)
        if text in _ACCENTS:  # the conjugate of z is not z; the segment AB may do without its bar
            inside = self.scalar(self.argument())
            (monomial, _), = list(inside.num.items())[:1] or [((), 0)]
            segment = len(monomial) == 1 and monomial[0][0][0] == _NAME and len(monomial[0][0][1]) > 1
            return inside if segment else _generator(_FUNCTION, (text, _key(inside)))
        if text == "mathbb":
            letter = self.subscript()
            if letter == "R":
                return _REAL_LINE
            return _generator(_NAME, "mathbb " + letter)
        if text in ("angle", "triangle"):
            return _generator(_FUNCTION, (text, _key(self.scalar(self.atom()))))
        raise _Unreadable(f"unknown command {text}")

    def function(self, text: str) -> _Scalar:
        """sin x, \\sin^2 x, \\log_2 8, \\ln(a/b): kept as generators, tan as sin/cos and so on."""
        base, exponent = None, _number(1)
        if text == "log":
            base = self.scalar(self.argument()) if self.take("_") else _number(10)
        if self.take("^"):
            exponent = self.scalar(self.argument())
            if _rational(exponent) == -1:
                text, exponent = "arc" + text, _number(1)
        if self.peek().text == "(":
            inside = self.scalar(self.atom())
        else:
            inside = self.scalar(self.power())
            while self.starts_factor() and self.peek().text not in _TRIG | _LOGS | {"("}:
                inside = _multiply(inside, self.scalar(self.power(inside)), self.work)
        if text in _LOGS:
            value = _logarithm(inside, self.work)
            value = _divide(value, _logarithm(base, self.work), self.work) if base else value
        else:
            top, bottom = {"tan": ("sin", "cos"), "cot": ("cos", "sin"), "sec": ("", "cos"),
                           "csc": ("", "sin")}.get(text, (text, ""))
            one = _number(1)
            top, bottom = (_generator(_FUNCTION, (f, _key(inside))) if f else one for f in (top, bottom))
            value = _divide(top, bottom, self.work)
        return _power(value, exponent, self.work)

    def group(self, opened: str):
        """(...), [...], {...}: brackets around one value only group it; around several they mean a
        point, an interval or a set."""
        outer, self.absolute = self.absolute, 0
        if opened == r"\{" and self.peek().kind == "name" and self.peek(1).text in (":", "|"):
            self.pos += 2  # {x : x > 2}
        closers = _CLOSERS[opened]
        braces = "{" in opened
        found = self.items(lambda t: t.kind == "symbol" and t.text in closers, alternatives=braces)
        closed = self.next().text
        self.absolute = outer
        if opened == r"\{":
            return found[0] if len(found) == 1 and _is_relation(found[0]) else _Node("set", tuple(found))
        if len(found) == 1 and closed == closers[0]:
            return found[0]
        if len(found) < 2:
            raise _Unreadable("empty or unmatched brackets")
        if opened == "{":
            return _Node("set", tuple(found))
        return _Node("tuple", tuple(found), "()" if opened == "⟨" else opened + closed)

    def absolute_value(self):
        self.absolute += 1
        inside = self.scalar(self.sum())
        self.expect("|")
        self.absolute -= 1
        top, bottom = _approximate(inside.num), _approximate(inside.den)
        if not inside.num or top and bottom and top * bottom > 0:
            return inside
        return self.negative(inside) if top and bottom else _generator(_FUNCTION, ("abs", _key(inside)))

    def matrix(self, kind: str) -> _Node:
        if kind not in _MATRICES:
            raise _Unreadable(f"{kind} is not a matrix")
        if kind == "array":
            self.subscript()  # {cc}
        rows = [[self.item()]]
        while True:
            token = self.next()
            if token.text == "&":
                rows[-1].append(self.item())
            elif token.text == r"\\" and self.peek().kind != "end":
                rows.append([self.item()])
            elif token.text == r"\\":
                continue
            elif token.kind == "end" and token.text == kind:
                break
            else:
                raise _Unreadable("a matrix that does not close")
        if len({len(row) for row in rows}) > 1:
            raise _Unreadable("rows of different length")
        return _Node("matrix", tuple(map(tuple, rows)))


def _decimal(text: str) -> Fraction:
    """12, .5, 5., 1.5e3 as an exact Fraction."""
    digits, _, exponent = text.lower().partition("e")
    if len(digits) > 500 or abs(int(exponent or 0)) > 3000:
        raise _Unreadable("too many digits")
    whole, _, places = digits.partition(".")
    return Fraction(int(whole + places or 0), 10 ** len(places)) * Fraction(10) ** int(exponent or 0)


def _small(value, limit: int, work: _Work) -> int:
    """A whole number from 0 to `limit`, for factorials and degrees of roots."""
    q = _rational(value) if isinstance(value, _Scalar) else None
    if q is None or q.denominator != 1 or not 0 <= q <= limit:
        raise _Unreadable("not a small whole number")
    work.spend(50 + int(q))
    return int(q)


def _plain_number(value) -> bool:
    return isinstance(value, _Scalar) and bool(_rational(value))


def _is_relation(value) -> bool:
    return isinstance(value, _Node) and value.kind == "relation"


# ---- compare -----------------------------------------------------------------------------------

def is_equivalent(candidate: str, gold: str) -> bool:
    r"""Whether a candidate answer says the same as the gold answer.

    Bounded and deterministic for any text; False for what cannot be read.

    >>> [is_equivalent(c, r"\frac{7}{4}") for c in ("1.75", r"1\frac{3}{4}", "14/8", "1.7500001")]
    [True, True, True, False]
    >>> is_equivalent("x > 2", r"(2, \infty)"), is_equivalent("[2,5)", "(2,5)")
    (True, False)
    >>> is_equivalent(r"\frac{1}{\sqrt2 + 1}", r"\sqrt{2} - 1"), is_equivalent("5 or 6", "5")
    (True, False)
    """
    if not isinstance(candidate, str) or not isinstance(gold, str):
        return False
    try:
        found, expected = _tokens(_normalise(candidate)), _tokens(_normalise(gold))
    except _Unreadable:
        return False
    if _spelling(found) == _spelling(expected):
        return bool(expected)
    work = _Work()
    try:
        gold_parser = _Parser(expected, work)
        letters = any(t.kind == "name" for t in expected)
        expected = gold_parser.answer()
        parser = _Parser(found, work, gold_parser.gold_words, letters)
        found = parser.answer()
        if parser.sum_left and not gold_parser.sum_left:
            return False
        return _same(found, expected, work)
    except _Unreadable:
        return False


def grade_answer(response: str, gold: str) -> bool:
    """The reward r(y, y*): is the final answer of this response right? No answer is never right.

    >>> grade_answer("Final Answer: The final answer is $0.5$. I hope it is correct.", "1/2")
    True
    """
    answer = extract_answer(response)
    return answer is not None and is_equivalent(answer, gold)


def _spelling(tokens: list[_Token]) -> str:
    r"""The tokens in one string: \text{odd} and odd, \dfrac and \frac, (A) and A are spelt alike."""
    while len(tokens) > 2 and tokens[0].text == "(" and tokens[-1].text == ")" and \
            all(t.kind in ("name", "word") for t in tokens[1:-1]):
        tokens = tokens[1:-1]
    if len(tokens) == 1 and tokens[0].kind == "numeral" and not tokens[0].text[0].isdigit():
        tokens = [tokens[0]._replace(text=tokens[0].text.split("_")[0])]
    letters = ("name", "word")
    pieces, last = [], None
    for token in tokens:
        # Letters may touch, as in o-d-d; two numbers side by side must not become one.
        pieces.append("" if last in letters and token.kind in letters else " ")
        pieces.append(token.text)
        last = token.kind
    return "".join(pieces)


def _same(a, b, work: _Work) -> bool:
    """Whether two values are equal; `b` is the gold."""
    if _is_relation(a) and _is_relation(b) and _same_relation(a, b, work):
        return True
    (name_a, a), (name_b, b) = _assigned(a, work), _assigned(b, work)
    if name_a is not None and name_b is not None and name_a != name_b:
        return False  # x = 5 is 5, but not y = 5
    if _is_relation(b) and set(b.tag) <= {"=", "≈"} and all(map(_is_constant, b.items)):
        # 0.56 = 56\%: the gold itself gives both
        return not _is_relation(a) and any(_same(a, side, work) for side in b.items)
    if _is_relation(a) and set(a.tag) <= {"="}:       # 10/2 = 5: every side has to be right
        return all(_same(side, b, work) for side in a.items)
    if _is_relation(a) and a.tag == "≈" and _near(*a.items):  # 2/3 ≈ 0.67: the exact side counts
        return _same(a.items[0], b, work)
    a, b = _only_item(a), _only_item(b)
    if isinstance(a, _Scalar) and isinstance(b, _Scalar):
        return _same_number(a, b, work)
    if isinstance(a, _Scalar) or isinstance(b, _Scalar):
        ratio, number = (b, a) if isinstance(a, _Scalar) else (a, b)
        return ratio.kind == "ratio" and len(ratio.items) == 2 and \
            _equal(ratio.items[0], _multiply(number, ratio.items[1], work), work)
    return _same_node(a, b, work)


def _same_node(a: _Node, b: _Node, work: _Work) -> bool:
    work.spend(5)
    kinds = {a.kind, b.kind}
    if kinds == {"list", "set"} or kinds == {"list"}:
        return _same_items(a.items, b.items, work)
    if len(kinds) > 1:
        return False
    if a.kind == "set":
        return _same_items(_distinct(a.items, work), _distinct(b.items, work), work)
    if a.kind == "union":
        return _same_items(a.items, b.items, work)
    if a.kind == "matrix":
        return [len(row) for row in a.items] == [len(row) for row in b.items] and all(
            _same(x, y, work) for s, t in zip(a.items, b.items) for x, y in zip(s, t))
    if len(a.items) != len(b.items) or a.kind != "ratio" and a.tag != b.tag:
        return False
    if a.kind == "ratio" and not (a.tag and b.tag):  # 2:4 is 1:2, but half past four is no 2:15
        return all(_equal(_multiply(x, b.items[0], work), _multiply(y, a.items[0], work), work)
                   for x, y in zip(a.items, b.items))
    return all(_same(x, y, work) for x, y in zip(a.items, b.items))


def _same_items(a: tuple, b: tuple, work: _Work) -> bool:
    """Equal as multisets: any order, but the same number of times."""
    left = list(b)
    for x in a:
        match = next((i for i, y in enumerate(left) if _same(x, y, work)), None)
        if match is None:
            return False
        del left[match]
    return not left


def _distinct(items: tuple, work: _Work) -> tuple:
    kept = []
    for x in items:
        if not any(_same(x, y, work) for y in kept):
            kept.append(x)
    return tuple(kept)


def _only_item(value):
    """The value itself for a list or set of one."""
    while isinstance(value, _Node) and value.kind in ("list", "set") and len(value.items) == 1:
        value = value.items[0]
    return value


def _same_number(a: _Scalar, b: _Scalar, work: _Work) -> bool:
    """Equal, or equal once a unit is forgotten that only one of the two has."""
    if _equal(a, b, work):
        return True
    bare_a, bare_b = _without_units(a, work), _without_units(b, work)
    if (bare_a is a) == (bare_b is b):  # both have units, and they differ; or none has
        return False
    return _equal(bare_a, bare_b, work)


def _without_units(a: _Scalar, work: _Work) -> _Scalar:
    if not any(g[0] == _UNIT for poly in a for monomial in poly for g, _ in monomial):
        return a
    bare = []
    for poly in a:
        total = {}
        for monomial, coefficient in poly.items():
            kept = tuple((g, e) for g, e in monomial if g[0] != _UNIT)
            total = _poly_add(total, {kept: coefficient}, work)
        bare.append(total)
    return _quotient(*bare, work)


def _is_constant(value) -> bool:
    """A number without variables."""
    return isinstance(value, _Scalar) and not any(
        g[0] in (_NAME, _FUNCTION) and g[1] not in _CONSTANTS for poly in value for m in poly for g, _ in m)


def _near(a, b) -> bool:
    """Whether b can pass for a rounded a."""
    if not isinstance(a, _Scalar) or not isinstance(b, _Scalar):
        return False
    work = _Work()
    values = [_approximate(p) for s in (a, b) for p in _without_units(s, work)]
    if None in values:
        return False
    x, y = values[0] / values[1], values[2] / values[3]
    return abs(x - y) <= 0.01 * abs(x)


# -- relations: assignments, equations, inequalities

def _name_of(value):
    """What an assignment assigns to: a variable, a word, f(x), or a tuple of those; else None."""
    if isinstance(value, _Node):
        names = [_name_of(v) for v in value.items] if value.kind == "tuple" else [None]
        return None if None in names else tuple(names)
    if value.den != _ONE or len(value.num) != 1:
        return None
    (monomial, coefficient), = value.num.items()
    if coefficient != 1 or len(monomial) != 1 or monomial[0][1] != 1:
        return None
    kind, payload = monomial[0][0]
    named = kind == _NAME and payload not in _CONSTANTS or \
        kind == _FUNCTION and payload[0][:4] in ("call", "angl")
    return monomial[0][0] if named else None


def _assigned(value, work: _Work) -> tuple:
    """(name, value) with the name split off: x = 5, x in [0,1], x > 3 (an interval), x = 1 or x = 2.

    The name is None where the value has none.
    """
    if isinstance(value, _Node) and value.kind == "list":
        pairs = [_assigned(item, work) for item in value.items]
        name = pairs[0][0]
        if name is None or any(other not in (None, name) for other, _ in pairs):
            return None, value
        values = tuple(v for _, v in pairs)
        ranges = all(_is_relation(v) and set(v.tag) <= set("<>≤≥≠") for v in value.items)
        return name, _Node("union", values) if ranges else _Node("list", values)
    if not _is_relation(value):
        return None, value
    sides, signs = value.items, value.tag
    if set(signs) <= set("<>≤≥≠"):
        return _interval(sides, signs) or (None, value)
    name = _name_of(sides[0])
    if name is not None and signs[0] in "=∈≈":
        if len(sides) == 2:
            return name, sides[1]
        return name, _Node("relation", sides[1:], signs[1:])
    if signs == "=" and (name := _name_of(sides[1])) is not None:
        return name, sides[0]
    return None, value


def _interval(sides: tuple, signs: str) -> tuple | None:
    """2 <= x < 5 as (x, [2,5)); x != 3 as (x, (-oo,3) u (3,oo)); None for any other inequality."""
    if set(signs) <= set(">≥") and len(sides) == 3 or signs in (">", "≥") and _name_of(sides[0]) is None:
        sides, signs = sides[::-1], signs[::-1].translate(str.maketrans(">≥", "<≤"))
    low, high = (_Node("infinity", (), sign) for sign in (-1, 1))
    if len(sides) == 3 and set(signs) <= set("<≤"):
        low, name, high = sides[0], _name_of(sides[1]), sides[2]
        tag = "([" [signs[0] == "≤"] + ")]"[signs[1] == "≤"]
    elif len(sides) == 2 and signs in "≠<≤>≥":
        name, other = _name_of(sides[0]), sides[1]
        if name is None:
            name, other = _name_of(sides[1]), sides[0]
            signs = signs.translate(str.maketrans("<≤", ">≥"))
        if signs == "≠":
            parts = _Node("tuple", (low, other), "()"), _Node("tuple", (other, high), "()")
            return None if name is None else (name, _Node("union", parts))
        if signs in "<≤":
            high, tag = other, "()" if signs == "<" else "(]"
        else:
            low, tag = other, "()" if signs == ">" else "[)"
    else:
        return None
    return None if name is None else (name, _Node("tuple", (low, high), tag))


def _same_relation(a: _Node, b: _Node, work: _Work) -> bool:
    """The same equation or inequality up to a constant factor; y = 2x and 2y - 4x = 0.

    A gold that assigns a constant is not met by an equation yet to be solved: 2x = 10 is not x = 5.
    """
    turn = str.maketrans("<≤>≥", ">≥<≤")
    if len(a.items) != 2 or len(b.items) != 2:
        sides = [(a.items, a.tag), (a.items[::-1], a.tag[::-1].translate(turn))]
        return any(signs == b.tag and len(items) == len(b.items) and
                   all(_same(x, y, work) for x, y in zip(items, b.items)) for items, signs in sides)
    if not all(isinstance(side, _Scalar) for side in a.items + b.items) or a.tag == "∈":
        return False
    for name, value in ((_name_of(b.items[0]), b.items[1]), (_name_of(b.items[1]), b.items[0])):
        if name is not None and _is_constant(value):
            return False
    difference_a, difference_b = (_add(*side, work, -1) for side in (a.items, b.items))
    p = _poly_mul(difference_a.num, difference_b.den, work)
    q = _poly_mul(difference_b.num, difference_a.den, work)
    if not p or p.keys() != q.keys():
        return False
    ratio = p[max(p)] / q[max(p)]
    work.spend(len(p))
    signs = a.tag if ratio > 0 else a.tag.translate(turn)
    return signs == b.tag and all(p[m] == ratio * q[m] for m in p)


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
_MAX_NESTING = 200       # lists within lists
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
    if depth > _MAX_NESTING:
        raise ValueError(f"the value is nested more than {_MAX_NESTING} deep")
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
    if type(data) is not list or not data or type(data[0]) is not str or depth > _MAX_NESTING:
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


# ---- temporary adapter of the branch hub: the interface that data.py expects of the new verify.py


def position_rewards(problems, answers):
    return [float(check_position(*p.gold, a)) for p, a in zip(problems, answers, strict=True)]


def answer_rewards(problems, answers):
    return [float(grade_answer(a, p.gold)) for p, a in zip(problems, answers, strict=True)]


def _run(kind, problems, answers):
    from types import SimpleNamespace

    programs = [program_of(SimpleNamespace(gold=p.gold, check=kind), a) for p, a in zip(problems, answers, strict=True)]
    results = run_tests_batch([{"program": x, **p.gold} for x, p in zip(programs, problems)]) if programs else []
    return [float(r.passed) for r in results]


def code_rewards(problems, answers):
    return _run("lambda", problems, answers)


def mbpp_rewards(problems, answers):
    return _run("tests", problems, answers)


def humaneval_rewards(problems, answers):
    return _run("completion", problems, answers)
