r"""Final answers of MATH and GSM8K: extract one from a response, and compare it with the gold answer.

    extract_answer   response -> text of the final answer, or None
    is_equivalent    (candidate, gold) -> bool
    grade_answer     (response, gold) -> bool: the reward r(y, y*)

formulas.py reads both sides into trees. Rational values are compared as exact Fractions, all others with mpmath to
40 of 60 digits; variables get fixed random values. Each size is checked before it is computed and an operation
budget bounds each comparison, so no time-out is needed.

Policy, if reasonable graders differ (the left text is the candidate):

    equal                                            not equal
    4/8, 0.5, 50/100 for \frac12                     0.33 for 1/3, 3.14 for \pi (rounded)
    0.\overline{3}, 0.333... for 1/3                 5... for 5, 1,4,9,... for 1,4,9
    x^2-1 for (x-1)(x+1)                             2+3 for 5, 5+0 for 5 (a sum left to do)
    3\cdot4, 5!, \binom42, \sin 30^\circ, e^{\ln 7}  \int, \sum, \lim
    x=5, m+n=5, x=2+3=5 for 5                        2x=10 for x=5, x=5=6 for 5, y=5 for x=5
    \sqrt{50}\approx 7.07 for 5\sqrt2 or 7.07        5\approx6 for 5 (not a rounding)
    x>=2 for [2,\infty)                              [2,5) for (2,5)
    2,1 for 1,2; \{5\} for 5; x=4,y=-1 for (4,-1)    1,2 for (1,2); 5 or 6 for 5; \{\emptyset\} for \emptyset
    5 cm or 10% for 5 or 10 (unit on one side)       5 m for 5 cm; 10% for 0.1; 90^\circ for \pi/2
    5 apples, 5 (ice cubes): nouns in `_NOUNS`       5 million, 3 lakhs, 3 scores: all other words
    1101 for 1101_2; 42 \pmod{100} for 42            13 for 1101_2
    1,000 and 1 000 for 1000; 70, 110 for 70,110     70110 for 70,110; 1,00 for 100
    6:10 and 3/5 for 3:5                             2:15 or 1/5 for the times 4:30 and 6:30
    D, (D), D. 48 for \text{(D)}                     C or D for C; number words: four for 4
    \sqrt{x}\sqrt{y} for \sqrt{xy} (if both exist)   \sqrt{x^2} for x
"""

import functools
import math
import random
import re
from collections.abc import Iterator
from fractions import Fraction

import mpmath

from formulas import (MAX_BITS, REAL_LINE, SCALARS, TRIG, Budget, Node, Parser, Token, Unreadable, braced, has_units,
                      node, normalise, number, product, quotient, small, tokenise, walk)

# ------------------------------------------------------------------ extract: find the final answer in a response

_END_OF_TURN = re.compile(r"<\|(?:im_end|endoftext|end_of_text|eot_id|end)\|>|<end_of_turn>|</s>")
_SENTENCE = re.compile(
    r"(?P<mark>final answer[*_ ]{0,4}:[*_\s]{0,8}(?:the final answer is\b:?)?|^[#*_ ]*final answer[*_ ]*$)"
    r"|the final answer is\b:?", re.IGNORECASE | re.MULTILINE)
_STOP = re.compile(r"[.!](?=\*{0,2}\s+[A-Z])|\n|$|\s(?=I hope\b|(?:Please )?[Ll]et me know\b)")
_HOPE = re.compile(r"I hope it is correct", re.IGNORECASE)
_BOX = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])\s*")


def extract_answer(response: str) -> str | None:
    r"""Return the text of the final answer, or None if there is none or it is cut off.

    The last sentence "Final Answer: The final answer is $...$. I hope it is correct." counts, else the last
    \boxed{...}, else the last GSM8K line "#### ...", else a plain "the final answer is ...". Text after an
    end-of-turn token and text within <think> is ignored.

    >>> extract_answer("so $x = \\boxed{3}$. Final Answer: The final answer is $4$. I hope it is correct.")
    '4'
    >>> extract_answer(r"first \boxed{1}, no: \boxed{\frac{1}{2}}")
    '\\frac{1}{2}'
    """
    if not isinstance(response, str):
        return None
    response = _END_OF_TURN.split(response, maxsplit=1)[0]
    # Chat templates may put <think> into the prompt, so a lone </think> also ends the reasoning.
    response = re.split(r"</think(?:ing)?>", response)[-1]
    response = re.split(r"<think(?:ing)?>", response)[0]
    strict = loose = None
    sentences = list(_SENTENCE.finditer(response))
    ends = [sentence.start() for sentence in sentences[1:]] + [len(response)]
    for sentence, end in zip(sentences, ends):
        loose = response[sentence.end():end]
        # Prose says "the final answer is" too; the mark or the closing formula makes it the final sentence.
        if sentence["mark"] or _HOPE.search(loose) or strict is not None and not strict.strip("#*: \n"):
            strict = loose
    if strict is not None:
        return _sentence_answer(strict)
    if _BOX.search(response):
        return _box_answer(response)
    lines = re.findall(r"####[ #]*(.*)", response)
    lines = [line.strip() for line in lines if not re.match(r"[*_]*[A-Z][a-z]{2}", line)]  # no Markdown headings
    if lines:
        return lines[-1] or None
    return None if loose is None else _sentence_answer(loose)


def _sentence_answer(text: str) -> str | None:
    """Return what follows "the final answer is": all of it, so that "$5$ or $6$" stays a hedge."""
    text = text.lstrip("*: \t\n")
    if hope := _HOPE.search(text):
        text = text[:hope.start()]
    else:
        lead_in = re.match(r".*:\s*\n|[A-Za-z ,]{12,}[.]?\s*\n", text)
        if lead_in and _BOX.search(text, lead_in.end()):
            return _box_answer(text[lead_in.end():])
        end = _end_of_sentence(text)
        if end is None:
            return None
        text = text[:end]
    text = re.sub(r"(?<!\.)\.?\**$", "", text.strip().rstrip("*")).strip()
    if _BOX.search(text):
        return _box_answer(text)
    whole = re.fullmatch(r"\$\$?((?:[^$\\]|\\.)*)\$\$?", text, re.DOTALL)
    return (whole[1].strip() if whole else text) or None


def _end_of_sentence(text: str) -> int | None:
    """Return where the first sentence ends; None if a formula is not closed, as $1 may be the head of $12$."""
    close = 0
    opened = re.match(r"\$\$?|\\\(|\\\[", text)
    if opened:
        closer = {r"\(": r"\)", r"\[": r"\]"}.get(opened[0], opened[0])
        if closing := re.compile(r"(?<!\\)" + re.escape(closer)).search(text, opened.end()):
            close = closing.end()
        elif not re.match(r"\$[0-9][0-9,]*(\.[0-9]+)?(\.|[ \n])", text):  # money: one dollar sign
            return None
    return _STOP.search(text, close).start()


def _box_answer(text: str) -> str | None:
    r"""Return the contents of the last box that is not empty; None if the last box is not closed.

    "\boxed{5} or \boxed{6}" is a hedge and is returned as "5 or 6".
    """
    answer, answer_start = None, 0
    for box in reversed(list(_BOX.finditer(text))):
        if text[box.end():box.end() + 1] == "{":
            try:
                inside, end = braced(text, box.end())
            except Unreadable:
                return None
        else:
            inside = re.match(r"[^\s$]*", text[box.end():])[0].rstrip(".,")
            end = box.end() + len(inside)
        inside = inside.strip()
        if answer is None and inside:
            answer, answer_start = inside, box.start()
        elif answer is not None:
            hedge = re.fullmatch(r"[^\n.]{0,30}\bor\b[^\n.]{0,30}", text[end:answer_start])
            return f"{inside} or {answer}" if hedge and not is_equivalent(inside, answer) else answer
    return answer


# ------------------------------------------------------------------ values
# Fractions if rational, else numbers of mpmath with 60 digits.

_MP = mpmath.MPContext()                # a context of our own: no other code changes its precision
_MP.dps = 60
_EQUAL = _MP.mpf(10) ** -40             # relative difference up to which two irrational values are equal
_ZERO = _MP.mpf(10) ** -45              # a sum that cancels to this share of its terms is zero
_CANCELLED = _MP.mpf(10) ** -19         # a sum that cancels to less has lost too many digits
_NEGLIGIBLE = _MP.mpf(10) ** -25        # a term of less than this share of another could hide in it
_POINTS = 12                            # random points at which expressions with variables are compared


def _mp(value):
    """Convert to mpmath."""
    return _MP.mpf(value.numerator) / value.denominator if isinstance(value, Fraction) else _MP.mpmathify(value)


def _real(value):
    """Return a real value without its imaginary rounding error; None for a complex one."""
    if isinstance(value, Fraction):
        return value
    return value.real if abs(value.imag) <= _ZERO * abs(value.real) else None


def _close(a, b) -> bool:
    """Compare two values: rational ones exactly, others to 40 digits."""
    if isinstance(a, Fraction) and isinstance(b, Fraction):
        return a == b
    a, b = _mp(a), _mp(b)
    return abs(a - b) <= _EQUAL * max(abs(a), abs(b))


def _whole_root(n: int, k: int) -> int:
    """Return the floor of the k-th root of n, by Newton's method on integers."""
    if n < 2:
        return n
    x = 1 << -(-n.bit_length() // k)
    while (y := ((k - 1) * x + n // x ** (k - 1)) // k) < x:
        x = y
    return x


class _Evaluator:
    """Values of scalars at one point: each variable, and each unit if `units`, has a fixed random value there.

    Real functions of variables outside their domain are Unreadable, so sqrt(x) exists only at points x >= 0.
    `free`: something has variables. `whole`: k, l, m, n are integers, as floors expect by convention.
    """

    def __init__(self, budget: Budget, point: int = 0, units: bool = False, free: bool = False, whole: bool = False):
        self.budget, self.point, self.units, self.free, self.whole = budget, point, units, free, whole
        self.degree = False     # within sin, cos, ...: a degree is pi/180

    def value(self, tree: Node):
        """Return a Fraction, or a number of mpmath."""
        self.budget.spend(5)
        kind, tag = tree.kind, tree.tag
        if kind == "number":
            return tag
        if kind == "name":
            return self.random_value(tag)
        if kind == "constant":
            return {"pi": +_MP.pi, "e": +_MP.e, "i": _MP.mpc(0, 1)}[tag]
        if kind == "unit":
            unit = abs(self.random_value("unit " + tag)) if self.units else Fraction(1)
            return _MP.pi / 180 if self.degree and tag == "degree" else unit
        if kind == "call":
            return self.call(tree)
        values = [self.value(item) for item in tree.items]
        if kind == "sum":
            return self.total(values)
        if kind == "product":
            return functools.reduce(self.product, values)
        return self.root(values[0], tag, tree.free) if kind == "root" else self.power(*values, *tree.items)

    def random_value(self, name: str) -> Fraction:
        """Return the value of a variable: large at even points, small at odd ones, of either sign from the fifth."""
        rng = random.Random(f"{self.point} {name}")
        if self.whole and name in ("k", "l", "m", "n"):
            return Fraction(rng.randrange(4) * 60 + self.point + 2)  # every residue
        value = Fraction(rng.randrange(150, 990) if self.point % 2 else rng.randrange(2000, 9000), 997)
        return -value if self.point in (4, 5) or self.point > 5 and rng.random() < 0.5 else value

    def mp(self, value):
        """Convert to mpmath; two long constants could differ by less than 40 digits show."""
        if isinstance(value, Fraction) and not self.free and max(abs(value.numerator), value.denominator) > 10 ** 36:
            raise Unreadable("too long to be compared with 40 digits")
        return _mp(value)

    def charge(self, *factors: Fraction, times: int = 1) -> None:
        """Pay for a product of rationals before it is computed; `times` is the exponent of a power."""
        bits = times * sum(q.numerator.bit_length() + q.denominator.bit_length() for q in factors)
        if bits > MAX_BITS:
            raise Unreadable("too many digits")
        self.budget.spend(bits * bits // 2_000_000)

    def total(self, values: list):
        exact, terms = Fraction(0), []
        for value in values:
            if isinstance(value, Fraction):
                self.charge(exact, value)
                exact += value
            else:
                terms.append(value)
        if not terms:
            return exact
        if exact:
            terms.append(self.mp(exact))
        self.budget.spend(4 * len(terms))
        total, largest = sum(terms, _MP.mpf(0)), max(map(abs, terms))
        if abs(total) < largest * _ZERO:
            return Fraction(0)
        if abs(total) < largest * _CANCELLED or min(map(abs, terms)) < largest * _NEGLIGIBLE:
            raise Unreadable("a sum that 60 digits do not tell")
        return total

    def product(self, a, b):
        if a == 0 or b == 0:
            return Fraction(0)
        if isinstance(a, Fraction) and isinstance(b, Fraction):
            self.charge(a, b)
            return a * b
        self.budget.spend(4)
        return self.mp(a) * self.mp(b)

    def root(self, value, degree: int, free: bool):
        if degree < 1:
            raise Unreadable("no such root")
        real = _real(value)
        if real is not None and real < 0 and degree % 2:  # an odd root of -8 is the real one, -2
            return -self.root(-real, degree, free)
        if real is None or real < 0:
            if free or degree != 2:
                raise Unreadable("a root of several values, or outside its domain")
            return _MP.sqrt(self.mp(value))
        self.budget.spend(30)
        if isinstance(real, Fraction):
            self.charge(real, times=2)
            exact = Fraction(_whole_root(real.numerator, degree), _whole_root(real.denominator, degree))
            if exact ** degree == real:
                return exact
        root = self.mp(real) ** (_MP.mpf(1) / degree)
        if abs(root - 1) < _NEGLIGIBLE:
            raise Unreadable("a root that 40 digits do not tell from 1")
        return root

    def power(self, base, exponent, base_tree: Node, exponent_tree: Node):
        self.budget.spend(25)
        if not isinstance(exponent, Fraction) or exponent_tree.free:
            return _MP.exp(self.moderate(self.product(exponent, self.log(base, not base_tree.free))))
        n = exponent.numerator
        if exponent.denominator > 1:
            base = self.root(base, small(Fraction(exponent.denominator), 100), base_tree.free)
        if base == 0 and n <= 0:
            raise Unreadable("division by zero, or 0^0")
        if isinstance(base, Fraction):
            self.charge(base, times=abs(n) if abs(base) != 1 else 1)
        elif abs(n) > 10_000 or abs(_MP.mag(base) * n) > 100_000:
            raise Unreadable("exponent too large")
        return base ** n

    def log(self, value, negative: bool = False):
        self.budget.spend(30)
        real = _real(value)
        if real is None or real == 0 or real < 0 and not negative:
            raise Unreadable("outside the domain")
        return Fraction(0) if real == 1 else _MP.log(self.mp(real))

    def moderate(self, value):
        """Return the argument of a function if 60 digits tell its value from that of 0 and of its neighbours."""
        self.budget.spend(60)
        value = self.mp(value)
        if value and not 10 ** -12 < abs(value) < 10 ** 4:
            raise Unreadable("an argument too small or too large")
        return value

    def call(self, tree: Node):
        """Evaluate |x|, floors, factorials, binomials, functions; the value of f(2) is a variable."""
        tag, outer = tree.tag, self.degree
        self.degree = self.degree or tag in TRIG
        values = [self.value(item) if item.kind in SCALARS else str(item) for item in tree.items]
        self.degree = outer
        x = values[0] if values else None
        if tag == "abs":
            return abs(x)
        if tag in ("floor", "ceil"):
            return self.floor(x) if tag == "floor" else -self.floor(-x)
        if tag in ("!", "!!"):
            return self.factorial(x, len(tag))
        if tag == "binom":
            return self.binomial(*values)
        if tag == "ln":
            return self.log(x)
        if tag in TRIG:
            return self.trigonometric(tag, self.moderate(x))
        keys = [str(v) if isinstance(v, (Fraction, str)) else _MP.nstr(v, 40) for v in values]
        return self.random_value(f"{tag}({keys})")

    def floor(self, value) -> Fraction:
        real = _real(value)
        if real is None or abs(real) > 10 ** 15:
            raise Unreadable("no floor")
        nearest = _MP.nint(_mp(real))
        exact = isinstance(real, Fraction) or abs(real - nearest) >= _EQUAL  # floor(sqrt(2) sqrt(2)) is 2
        return Fraction(math.floor(real) if exact else int(nearest))

    def factorial(self, value, step: int = 1):
        if isinstance(value, Fraction) and value.denominator == 1 and value >= 0:
            n = small(value, 2500)
            self.budget.spend(50 + n)
            return Fraction(math.prod(range(n, 0, -step)))
        if not self.free or step > 1 or not isinstance(value, Fraction) or abs(value) > 500:
            raise Unreadable("no factorial")
        self.budget.spend(200)
        return _MP.gamma(_mp(value + 1))

    def binomial(self, n, k):
        if not isinstance(n, Fraction) or not isinstance(k, Fraction):
            raise Unreadable("no binomial")
        if k.denominator == 1 and 0 <= k <= 50:  # n(n-1)/2
            self.charge(n, times=int(k))
            return math.prod(((n - j) / (j + 1) for j in range(int(k))), start=Fraction(1))
        top, bottom = self.factorial(n), self.product(self.factorial(k), self.factorial(n - k))
        return top / bottom if isinstance(top, Fraction) and isinstance(bottom, Fraction) else _mp(top) / _mp(bottom)

    def trigonometric(self, name: str, x):
        if name.startswith("arc"):
            real = _real(x)
            if real is None or name != "arctan" and abs(real) > 1:
                raise Unreadable("outside the domain")
            return {"arcsin": _MP.asin, "arccos": _MP.acos, "arctan": _MP.atan}[name](real)
        sine, cosine = (v if abs(v) > _ZERO else _MP.mpf(0) for v in (_MP.sin(x), _MP.cos(x)))
        top = {"sin": sine, "tan": sine, "cos": cosine, "cot": cosine}.get(name, _MP.mpf(1))
        bottom = {"tan": cosine, "sec": cosine, "cot": sine, "csc": sine}.get(name, _MP.mpf(1))
        if not bottom:
            raise Unreadable("division by zero")
        return top / bottom if top else Fraction(0)


# ------------------------------------------------------------------ compare: trees, the gold on the right


def is_equivalent(candidate: str, gold: str) -> bool:
    r"""Return whether a candidate answer equals the gold answer, by the policy of the module docstring.

    Deterministic and bounded for any text; False for a text that cannot be read.

    >>> [is_equivalent(c, r"\frac{7}{4}") for c in ("1.75", r"1\frac{3}{4}", "14/8", "1.7500001")]
    [True, True, True, False]
    >>> is_equivalent("x > 2", r"(2, \infty)"), is_equivalent("[2,5)", "(2,5)"), is_equivalent("5 or 6", "5")
    (True, False, False)
    """
    if not isinstance(candidate, str) or not isinstance(gold, str):
        return False
    try:
        candidate, gold = normalise(candidate), normalise(gold)
        expected = tokenise(gold, not _two_angles(gold))
        readings = [tokenise(candidate), tokenise(candidate, marks=False)]
    except Unreadable:
        return False
    if _spelling(expected) in map(_spelling, readings):
        return bool(expected)
    if (verdict := _same_choice(candidate, gold)) is not None:
        return verdict
    return _same_tokens(readings[0], expected) or readings[0] != readings[1] and _same_tokens(readings[1], expected)


def grade_answer(response: str, gold: str) -> bool:
    """Return the reward r(y, y*): is the final answer of this response right? No answer is never right.

    >>> grade_answer("Final Answer: The final answer is $0.5$. I hope it is correct.", "1/2")
    True
    """
    answer = extract_answer(response)
    return answer is not None and is_equivalent(answer, gold)


def _same_tokens(candidate: list[Token], gold: list[Token]) -> bool:
    """Parse and compare both sides on one budget."""
    budget, letters = Budget(), any(token.kind == "name" for token in gold)
    try:
        parser = Parser(gold, budget)
        b = parser.answer()
        a = Parser(candidate, budget, parser.words, letters).answer()
        return _Comparison(budget, _has_sum(b)).same(a, b)
    except Unreadable:
        return False


def _two_angles(gold: str) -> bool:
    """Return whether 70,110 is a list and no number: two angles of one sine or cosine add up to 180 or 360."""
    pair = re.fullmatch(r"([0-9]{1,3}),([0-9]{3})", gold)
    return bool(pair) and int(pair[1]) + int(pair[2]) in (180, 360)


def _spelling(tokens: list[Token]) -> str:
    r"""Return the tokens as one string: \text{odd} and odd, \dfrac and \frac, (A) and A are spelt alike."""
    while len(tokens) > 2 and tokens[0].text == "(" and tokens[-1].text == ")" and \
            all(token.kind in ("name", "word") for token in tokens[1:-1]):
        tokens = tokens[1:-1]
    if len(tokens) == 1 and tokens[0].kind == "numeral" and not tokens[0].text[0].isdigit():
        tokens = [tokens[0]._replace(text=tokens[0].text.split("_")[0])]
    text, last = "", None
    for token in tokens:
        # Letters may touch, as in o-d-d; two numbers side by side must not become one.
        text += token.text if last in ("name", "word") and token.kind in ("name", "word") else " " + token.text
        last = token.kind
    return text


_CHOICE = re.compile(r"(?i:(?:option|choice):?|answer:) ?\(?(?P<named>[A-J])\)?\.?"
                     r"|\(?(?P<letter>[A-J])(?:\)\.? ?|[.:] )(?P<value>.*)|\(?(?P<bare>[A-J])\)?,?")


def _same_choice(candidate: str, gold: str) -> bool | None:
    """Compare choices such as "(D)", "D. 48" and "Option D"; None if they are no choices."""
    letters, values = [], []
    for text in (candidate, gold):
        text = re.sub(r"\\(?:text\w*|math\w+|mbox)\s?\{([^{}]*)\}", r"\1 ", text)
        text = re.sub(r"(?:\\[ ,;:!]|\\q?quad(?![a-z])|~|\s)+", " ", text).strip()
        match = _CHOICE.fullmatch(text)
        letters.append(match and (match["named"] or match["letter"] or match["bare"]))
        values.append(match["value"] or "" if match else text)
        if match and match["value"] and not _is_constant(match["value"]):
            return None
    if all(letters):
        return letters[0] == letters[1] and (not all(values) or is_equivalent(*values))
    if letters[0] and values[0] or letters[1] and values[1]:
        return is_equivalent(*values)
    return None


def _is_constant(text: str) -> bool:
    """Return whether a text is one number, possibly with a unit."""
    try:
        tree = Parser(tokenise(normalise(text)), Budget()).answer()
    except Unreadable:
        return False
    return tree.kind in SCALARS and not tree.free


def _is_plain(tree: Node) -> bool:
    """Return whether a scalar is made of numbers and units alone."""
    return tree.kind in ("number", "unit", "product", "power", "sum") and all(map(_is_plain, tree.items))


def _has_sum(tree: Node) -> bool:
    """Return whether a sum of plain numbers was not carried out, as 2 + 3 for 5."""
    return any(part.kind == "sum" and _is_plain(part) for part in walk(tree))


def _only_item(tree: Node) -> Node:
    """Return the number x for {x} or a list of one."""
    is_one = tree.kind in ("list", "set") and len(tree.items) == 1 and tree.items[0].kind in SCALARS
    return tree.items[0] if is_one else tree


class _Comparison:
    """Compare trees; every method takes the candidate as `a` and the gold as `b`.

    `sums`: the gold has a sum left to do, so the candidate may have one.
    """

    def __init__(self, budget: Budget, sums: bool):
        self.budget, self.sums = budget, sums

    def same(self, a: Node, b: Node, element: bool = False) -> bool:
        """Compare two answers, or two elements of collections: the answer {5} is 5, but the element is not."""
        self.budget.spend(5)
        if a.kind == b.kind == "relation" and self.same_relation(a, b):
            return True
        a, b = _as_kind_of(a, b), _as_kind_of(b, a)
        (name_a, a), (name_b, b) = _assigned(a), _assigned(b)
        if None not in (name_a, name_b) and name_a != name_b:
            return False  # x = 5 is 5, but not y = 5
        if b.kind == "relation":
            # 0.56 = 56\% and 2/3 ≈ 0.67: the gold gives its value twice, and either is right as written.
            constant = set(b.tag) <= {"=", "≈"} and not b.free
            return constant and a.kind != "relation" and any(self.same(a, side) for side in b.items)
        if a.kind == "relation":
            return self.same_chain(a, b, name_a, name_b is not None)
        if not element:
            a, b = _only_item(a), _only_item(b)
        if not self.sums and _has_sum(a):
            return False
        if a.kind in SCALARS and b.kind in SCALARS:
            return self.same_number(a, b)
        if {a.kind, b.kind} in ({"list", "set"}, {"list"}):
            return self.same_items(a.items, b.items)
        if {a.kind, b.kind} & {"union", "intersection", "difference"}:
            return self.same_region(a, b)
        if a.kind == b.kind == "set":
            places = [self.find(x, b.items) for x in a.items] + [self.find(y, a.items) for y in b.items]
            return None not in places
        if a.kind != b.kind or len(a.items) != len(b.items):
            return False
        if a.kind == "ratio" and not b.tag:  # 2:4 is 1:2, but half past four is not 2:15
            return all(self.same_number(product(x, b.items[0]), product(y, a.items[0]))
                       for x, y in zip(a.items, b.items))
        return a.tag == b.tag and all(map(self.same, a.items, b.items))

    # -- numbers

    def same_number(self, a: Node, b: Node) -> bool:
        """Return whether two scalars are equal, if need be without a unit that only one of them has."""
        return self.equal(a, b, True) or has_units(a) != has_units(b) and self.equal(a, b, False)

    def equal(self, a: Node, b: Node, units: bool) -> bool:
        points = 0
        for x, y in self.samples(a, b, units):
            if not _close(x, y):
                return False
            points += 1
        return points >= (3 if a.free or b.free else 1)

    def samples(self, a: Node, b: Node, units: bool = False) -> Iterator[tuple]:
        """Yield pairs of values: one for constants, else at the random points at which both are defined."""
        free = a.free or b.free
        whole = any(part.tag in ("floor", "ceil") for part in (*walk(a), *walk(b)))
        for point in range(_POINTS if free else 1):
            evaluator = _Evaluator(self.budget, point, units, free, whole)
            try:
                x, y = evaluator.value(a), evaluator.value(b)
                if isinstance(x, Fraction) != isinstance(y, Fraction):
                    x, y = evaluator.mp(x), evaluator.mp(y)
            except Unreadable:
                continue
            yield x, y

    def constant(self, tree: Node):
        """Return the value of a scalar without variables, ±inf for an infinity."""
        if tree.kind == "infinity":
            return tree.tag * math.inf
        if tree.kind not in SCALARS or tree.free:
            raise Unreadable("not a number")
        return _Evaluator(self.budget).value(tree)

    # -- collections

    def find(self, x: Node, items) -> int | None:
        """Return the place of x among the elements of a collection."""
        return next((place for place, y in enumerate(items) if self.same(x, y, True)), None)

    def same_items(self, a: tuple, b: tuple) -> bool:
        """Return whether two multisets are equal: any order, but the same number of times."""
        left = list(b)
        for x in a:
            place = self.find(x, left)
            if place is None:
                return False
            del left[place]
        return not left

    def same_region(self, a: Node, b: Node) -> bool:
        """Compare sets of real numbers at all their ends, and between each two of them."""
        ends = []
        for end in self.ends(a) + self.ends(b):
            if not any(_close(end, other) for other in ends):
                ends.append(end)
        line = sorted(map(_mp, ends))
        probes = ends + [(x + y) / 2 for x, y in zip(line, line[1:])]
        probes += [line[0] - 1, line[-1] + 1] if line else [Fraction(0)]
        return all(self.contains(a, x) == self.contains(b, x) for x in probes)

    def ends(self, tree: Node) -> list:
        """Return the finite ends of intervals and the elements of sets within a region."""
        if tree.kind in ("union", "intersection", "difference"):
            return [end for part in tree.items for end in self.ends(part)]
        values = [_real(self.constant(item)) for item in tree.items]
        interval = tree.kind == "tuple" and len(values) == 2 and None not in values and _mp(values[0]) < _mp(values[1])
        if None in values or tree.kind != "set" and not interval:
            raise Unreadable("not a set of real numbers")
        return [value for value in values if abs(value) != math.inf]

    def contains(self, tree: Node, x) -> bool:
        self.budget.spend(10)
        if tree.kind in ("union", "intersection", "difference"):
            one, other = (self.contains(part, x) for part in tree.items)
            return {"union": one or other, "intersection": one and other, "difference": one and not other}[tree.kind]
        values = [self.constant(item) for item in tree.items]
        touches = [abs(value) != math.inf and _close(value, x) for value in values]
        if tree.kind == "set" or any(touches):
            return any(touches) and (tree.kind == "set" or tree.tag[0 if touches[0] else 1] in "[]")
        return _mp(_real(values[0])) < _mp(x) < _mp(_real(values[1]))

    # -- relations

    def same_chain(self, a: Node, b: Node, name, gold_named: bool) -> bool:
        r"""Return whether a chain such as A = \pi r^2 = 49\pi or m + n = 5 ends in the value b.

        The `name` of the candidate, if any, was split off. Constants on the way must equal the value: x = 5 = 6 is a
        hedge. Formulas need not, if a value is asked.
        """
        if set(a.tag) - {"=", "≈"} or "≈" in a.tag[:-1]:
            return False
        *before, last = a.items
        if a.tag[-1] == "≈":
            exact = before.pop()
            if not self.rounds(exact, last):
                return False
            last = last if self.same(last, b) else exact
        elif len(before) == 1 and last.free and not before[0].free:
            before, last = [last], before[0]  # 5 = m + n
        for place, side in enumerate(before):
            if name is None and place == 0:
                passes = side.free and not gold_named and _is_asked(side, last)
            else:
                passes = side.free and not b.free and name not in _names(side) and (name is not None or not gold_named)
            # A sum on the way was carried out: 2 + 3 = 5.
            if not passes and not _Comparison(self.budget, True).same(side, b):
                return False
        return self.same(last, b)

    def rounds(self, a: Node, b: Node) -> bool:
        """Return whether the decimal b is a rounded a."""
        x, y = self.constant(a), self.constant(b)
        places = next((n for n in range(30) if isinstance(y, Fraction) and (y * 10 ** n).denominator == 1), None)
        return places is not None and abs(_mp(x) - _mp(y)) * 2 * 10 ** places <= 1

    def same_relation(self, a: Node, b: Node) -> bool:
        """Return whether two relations are the same up to a constant factor, as y = 2x and 2y - 4x = 0.

        A gold that assigns a constant is not met by an equation yet to be solved: 2x = 10 is not x = 5.
        """
        turn = str.maketrans("<≤>≥", ">≥<≤")
        if len(a.items) != 2 or len(b.items) != 2 or not a.free or not b.free or a.tag in "∈≈":
            sides = [(a.items, a.tag), (a.items[::-1], a.tag[::-1].translate(turn))]
            return any(tag == b.tag and len(items) == len(b.items) and all(map(self.same, items, b.items))
                       for items, tag in sides)
        if any(side.kind not in SCALARS for side in a.items + b.items) or not self.sums and _has_sum(a):
            return False
        if any(_name_of(name) and not value.free for name, value in (b.items, b.items[::-1])):
            return False
        samples = list(self.samples(_difference(a), _difference(b)))
        if len(samples) < 3 or any(x == 0 or y == 0 for x, y in samples):
            return False
        first, *others = [_real(x / y) for x, y in samples]
        if first is None or not all(ratio is not None and _close(ratio, first) for ratio in others):
            return False
        return b.tag == (a.tag if first > 0 else a.tag.translate(turn))


def _difference(relation: Node) -> Node:
    """Return left - right as one scalar, for an equation times the denominators of its terms: xy - 6 for y = 6/x."""
    left, right = relation.items
    difference = node("sum", left, product(number(-1), right))
    if relation.tag != "=":
        return difference
    denominators = set()
    for side in (left, right):
        for term in side.items if side.kind == "sum" else (side,):
            factors = term.items if term.kind == "product" else (term,)
            denominators |= {f.items[0] for f in factors if f.kind == "power" and f.free and f.items[1].tag == -1}
    return node("product", difference, *sorted(denominators, key=str))


def _as_kind_of(a: Node, b: Node) -> Node:
    """Return one side in the form of the other: x=4, y=-1 and P(4,-1) as a point, [[2,0],[1,5]] as a matrix.

    The ratio 3:5 becomes a fraction if the other side is a number, unless it looks like a time.
    """
    if b.kind in SCALARS and a.kind == "ratio" and len(a.items) == 2 and not a.tag:
        return quotient(*a.items)
    if b.kind == "tuple" and a.kind == "list" and all(item.tag == "=" for item in a.items):
        values = {str(_name_of(item.items[0])): item.items[1] for item in a.items if len(item.items) == 2}
        if len(values) == len(a.items) and "None" not in values:
            return node("tuple", *[values[name] for name in sorted(values)], tag=b.tag)
    if b.kind == "tuple" and a.kind == "call" and a.tag.isupper() and len(a.items) > 1:
        return node("tuple", *a.items, tag="()")
    if b.kind == "matrix" and a.kind == "tuple" and all(row.kind == "tuple" for row in a.items):
        return node("matrix", *[node("row", *row.items) for row in a.items])
    return a


def _names(tree: Node) -> set[str]:
    """Return the variables of a tree."""
    return {part.tag for part in walk(tree) if part.kind == "name"}


def _is_asked(tree: Node, value: Node) -> bool:
    r"""Return whether the left side of an equation is the name of what is asked, as m + n, \cos\theta, |AB|, dy/dx.

    An equation in x, y, z yet to be solved, as 2x = 10 or x^2 = 4, is none.
    """
    if tree.kind == "power" and tree.items[0].kind == "call":
        return _is_asked(tree.items[0], value)
    unknown = _names(tree) & {"x", "y", "z"}
    if tree.kind in ("name", "ratio") or tree.kind == "call" and not (unknown and tree.tag in ("abs", "ln")):
        return True
    if tree.kind not in ("sum", "product") or len(_names(tree)) < 2:
        return False
    # m + n and dy/dx, but not x^2 + y^2 = 13 or 2x - 3y = 0
    simple = all(part.tag == -1 for part in walk(tree) if part.kind == "number")
    return simple and not unknown or (simple or not unknown) and value.tag != 0


def _name_of(tree: Node):
    """Return what an assignment assigns to: a variable, a word, f(x), or a tuple of those; else None."""
    if tree.kind == "tuple":
        names = tuple(map(_name_of, tree.items))
        return None if None in names else names
    if tree.kind == "call" and tree.tag not in {*TRIG, "abs", "ln", "!", "!!", "binom", "floor", "ceil"}:
        return str(tree)
    return tree.tag if tree.kind == "name" else None


def _assigned(tree: Node) -> tuple:
    """Return (name, value): x = 5, x in [0,1], x > 3 (an interval), x = 1 or x = 2; the name may be None."""
    if tree.kind == "list":
        names, values = zip(*map(_assigned, tree.items))
        if names[0] is None or set(names) - {None, names[0]}:
            return None, tree
        ranges = all(item.kind == "relation" and set(item.tag) <= set("<>≤≥≠") for item in tree.items)
        if ranges:
            kind = "intersection" if tree.tag == "and" else "union"
            return names[0], functools.reduce(lambda a, b: node(kind, a, b), values)
        return names[0], node("list", *values)
    if tree.kind != "relation":
        return None, tree
    sides, signs = tree.items, tree.tag
    if set(signs) <= set("<>≤≥≠"):
        return _interval(sides, signs) or (None, tree)
    name = _name_of(sides[0])
    if name is not None and signs[0] in "=∈≈":
        return name, sides[1] if len(sides) == 2 else node("relation", *sides[1:], tag=signs[1:])
    if signs == "=" and _name_of(sides[1]) is not None:
        return _name_of(sides[1]), sides[0]
    return None, tree


def _interval(sides: tuple, signs: str) -> tuple | None:
    """Return 2 <= x < 5 as (x, [2,5)), x != 3 as (x, R without 3); None for any other inequality."""
    if set(signs) <= set(">≥") and len(sides) == 3 or len(sides) == 2 and _name_of(sides[0]) is None:
        sides, signs = sides[::-1], signs[::-1].translate(str.maketrans("<≤>≥", ">≥<≤"))
    name = _name_of(sides[len(sides) - 2])
    if name is None or len(sides) > 3 or len(sides) == 3 and not set(signs) <= set("<≤"):
        return None
    if signs == "≠":
        return name, node("difference", REAL_LINE, node("set", sides[1]))
    low, high = REAL_LINE.items
    if len(sides) == 3:
        low, high = sides[0], sides[2]
    elif signs in "<≤":
        high, signs = sides[1], "<" + signs
    else:
        low, signs = sides[1], signs.translate(str.maketrans(">≥", "<≤")) + "<"
    return name, node("tuple", low, high, tag="([" [signs[0] == "≤"] + ")]" [signs[1] == "≤"])
