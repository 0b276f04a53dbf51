r"""Read the formula of a final answer: text -> `normalise` -> `tokenise` -> `Parser` -> tree of `Node`.

The parser is a recursive-descent parser of our own; no text meets eval, sympy or attribute access. answers.py
evaluates and compares the trees.
"""

import re
import unicodedata
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import NamedTuple

MAX_CHARS = 1000       # longest answer that is read; the longest gold of MATH has about 160 characters
MAX_DEPTH = 20         # brackets within brackets
MAX_HEIGHT = 60        # of a tree
MAX_BITS = 40_000      # of a fraction: 2^4950 and 1/2004! are golds
MAX_BUDGET = 20_000    # operations of about a microsecond or two


class Unreadable(ValueError):
    """A text has no value, or its value costs too much."""


class Budget:
    """Bound the operations of one comparison, without clocks or signals."""

    def __init__(self):
        self.left = MAX_BUDGET

    def spend(self, operations: int) -> None:
        self.left -= operations
        if self.left < 0:
            raise Unreadable("operation budget exceeded")


# ------------------------------------------------------------------ normalise: one spelling per thing

_CHARACTERS = {  # Unicode characters with an ASCII or LaTeX spelling
    **dict.fromkeys("−–—‐‑", "-"), **dict.fromkeys("×·⋅∙∗", "*"), **dict.fromkeys("÷∕⁄", "/"),
    "⩽": "≤", "⩾": "≥", "∣": "|", "〈": "⟨", "〉": "⟩", "º": "°", "˚": "°", "∶": ":", "≅": "≈", "≡": "=",
    "ℝ": r"\mathbb{R}", "∛": r"\sqrt[3]", "\u200b": "",
    **{c: r"\frac{%s}{%s}" % tuple(unicodedata.normalize("NFKC", c).split("⁄")) for c in "½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞"},
    **{c: rf"\{unicodedata.name(c).split()[-1].lower()} " for c in "αβγδεζηθικλμνξπρστφχψω"}}
_SMALL_DIGITS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻₀₁₂₃₄₅₆₇₈₉", "0123456789-0123456789")
_BASES = dict(two=2, three=3, four=4, five=5, six=6, seven=7, eight=8, nine=9, ten=10, twelve=12, sixteen=16)
_REWRITES = [(re.compile(pattern), replacement) for pattern, replacement in (
    (r"US(?=\\\$)|(?<=\\left)\.|(?<=\\right)\.", ""),
    (r"(?<!\\)\$", " "),                                                         # formula delimiters
    (r"(?<=[0-9])(?:\{,\}|,\s{0,3}\\!\s{0,3}|\\,|~)(?=[0-9]{3}(?![0-9]))", ""),  # thousands: {,} ,\! \, ~
    (r"\\bar(?![a-z])", r"\\overline"), (r"\\Bbb(?![a-z])", r"\\mathbb"), (r"\*\*", "^"), (r"\{:\}", ":"),
    (r"\^\s?(?:\\circ(?![a-z])|\{\s?\\circ\s?\})", "°"), (r"°\s?([CF])(?![A-Za-z])", r"°\\text{\1}"),
    (r"\\[lcd]?dots(?:[bcm](?![a-z]))?(?![a-z])|\.{3,}", "…"),
    (r"(?<![0-9./^_])([0-9]+) +([0-9]+)/([0-9]+)(?![0-9.])", r"\1\\frac{\2}{\3}"),  # 1 3/4
    # Repeating decimals: 0.666…, 0.\dot6, 0.(6)
    (r"(\.[0-9]{0,30}?)(?:([0-9])\2{2,30}|([0-9]{2,12}?)\3{1,9})…", r"\1\\overline{\2\3}"),
    (r"(\.[0-9]{0,30})\\dot\s?\{?([0-9])\}?(?:([0-9]{0,30})\\dot\s?\{?([0-9])\}?)?", r"\1\\overline{\2\3\4}"),
    (r"(?<=[0-9])(\.[0-9]{0,30})\(([0-9]{1,30})\)", r"\1\\overline{\2}"),
    (r"\(?\s?\\p?mod(?![a-z])\s?\{?([0-9]{1,20})\}?\)?|\((?:\\text\{)?mod ([0-9]{1,20})\}?\)", r"\\pmod{\1\2}"),
    (r"_\{(?:\((?=[0-9]+\)\})|\\text\{base \}?)([0-9]{1,2})[)}]{1,2}", r"_{\1}"),
    (r"\\text\s?\{([0-9A-F]{1,20})\}(?=_)|\(([0-9A-F]{1,40})\)(?=_)", r"\1\2"),  # \text{A5}_{11}, (2041)_5
    (r"(?<=[0-9A-F])\s?(?:\\text\s?\{)?\s?\(?base\s?\}?\s?([0-9]{1,2})\)?\}?", r"_{\1}"),
    (r"\^\s?\{?\s?\\prime\s?\}?", "'"), (r"(?i)\bper cent\b", "percent"), (r"(?i)\b([ap])\.\s?m\b\.?", r"\1m"),
    (r"(^|\{)\s?(?:[Tt]he|[Aa]n?)\s(?=[A-Za-z]{3})", r"\1"),                     # an ellipse
    # Set builders: {x : x > 2}, {x in R | x > 2}
    (r"\\\{\s?[A-Za-z]\s?(?:\\in\s?\\mathbb\s?\{?R\}?\s?)?(?::|\||\\mid(?![a-z])|\\colon)", r"\\{⁝"),
    (r"\\not\s?=|!=", "≠"), (r"<=", "≤"), (r">=", "≥"), (r"==", "="))]


def normalise(text: str) -> str:
    r"""Return the text with Unicode, TeX layout and thousands marks rewritten.

    >>> normalise("½·x² ≤ 12{,}000"), normalise(r"1,\!000"), normalise("$5"), normalise("0.1666...")
    ('\\frac{1}{2}*x^{2} ≤ 12000', '1000', '\\$5', '0.1\\overline{6}')
    """
    if len(text) > MAX_CHARS:
        raise Unreadable("too long")
    text = re.sub("[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+", lambda m: "^{%s}" % m[0].translate(_SMALL_DIGITS), text)
    text = re.sub("[₀₁₂₃₄₅₆₇₈₉]+", lambda m: "_{%s}" % m[0].translate(_SMALL_DIGITS), text)
    text = unicodedata.normalize("NFKC", "".join(_CHARACTERS.get(c, c) for c in text)).strip(" \n\t*`\"“”")
    if re.fullmatch(r"-?(?:US)?\$ ?[0-9.][^$]*", text):  # one dollar sign is money, a pair is a formula
        text = text.replace("$", r"\$")
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    base = r"(?<=[0-9A-F])_\{?\s?\\?(?:text)?\s?\{?(%s)\}{0,2}" % "|".join(_BASES)
    text = re.sub(base, lambda m: "_{%d}" % _BASES[m[1]], text)
    text = text.strip().rstrip("\\ ")
    return text[:-1].rstrip("\\ ") if text.endswith(".") else text


def braced(text: str, pos: int) -> tuple[str, int]:
    """Return the argument at `pos` ({...} with matched braces, or one character) and its end."""
    while text[pos:pos + 1].isspace():
        pos += 1
    if text[pos:pos + 1] != "{":
        return text[pos:pos + 1], pos + 1
    depth = 0
    for piece in re.compile(r"\\.|[{}]", re.DOTALL).finditer(text, pos):
        depth += {"{": 1, "}": -1}.get(piece[0], 0)  # \{ is a brace of the answer, not of TeX
        if depth == 0:
            return text[pos + 1:piece.start()], piece.end()
    raise Unreadable("a brace that never closes")


# ------------------------------------------------------------------ units
# Only listed words: a policy would exploit "5 million" for 5.

_UNITS = {  # spelling -> unit, with / for per
    **{unit: unit for unit in "mm cm km kg mg ml minute second hour day week month year inch foot yard mile meter gram "
       "liter pound ounce acre gallon ton dollar cent euro degree radian percent am pm C F K N J W V Hz".split()},
    "centimeter": "cm", "centimetre": "cm", "kilometer": "km", "kilometre": "km", "millimeter": "mm", "metre": "meter",
    "m": "meter", "ft": "foot", "feet": "foot", "in": "inch", "inches": "inch", "yd": "yard", "mi": "mile",
    "g": "gram", "gm": "gram", "kilogram": "kg", "kilo": "kg", "l": "liter", "L": "liter", "litre": "liter",
    "lb": "pound", "oz": "ounce", "s": "second", "sec": "second", "min": "minute", "h": "hour", "hr": "hour",
    "usd": "dollar", "buck": "dollar", "eur": "euro", "deg": "degree", "rad": "radian", "mph": "mile/hour",
    "kmh": "km/hour", "kph": "km/hour", "kmph": "km/hour", "milliliter": "ml"}
_NOUNS = set("""
    unit point way student people child children man men woman women person digit number integer value solution edge
    vertex vertices side face triangle piece box ticket meal dog cat teacher book page apple egg pencil pen cookie card
    bottle bag slice cup orange marble block cube car bus truck train banana candy flower leg seat shirt chair table
    question sandwich boy girl kid toy cupcake wheel bird rose animal cow chicken cake ball employee plant stamp floor
    pizza song goal photo picture item set episode crayon glass bead pill letter case room notebook player coin dime
    nickel penny fruit class vote leaf leaves duck loaf loaves sheep fish stick tomato strawberry sheet lollipop
    brownie shell crate passenger candle pie batch puppy potato tablespoon teaspoon carton tile mark member seashell lap
    painting group trip movie goat donut jellybean chocolate muffin jar roll pet hat rock star tree family house game
    team friend guest customer word row sticker balloon bean step calorie serving message plate brick horse frog tire
    ice water lemon worker bracelet necklace dress sock shoe brush bike bicycle rabbit chip widget container window door
    lesson problem story token bee turtle tie sweater bone grape mango peach insect burger button path line circle term
    factor root zero divisor prime outcome arrangement permutation combination subset handshake crab lion bear nut onion
    carrot cherry plum pear worm pupil grandchild multiple""".split())
_ADJECTIVES = set("total different distinct possible whole full unique right real positive red blue green white black "
                  "yellow pink purple brown new old more extra left large small big square sq cubic cu".split())
_NOT_UNITS = set("plus minus times is this does has was thus yes less unless always perhaps versus ones tens million "
                 "billion thousand hundred trillion dozen pair half halve halves third quarter lakh crore score gross "
                 "myriad couple decade no not than nor but except if to about approximately".split())
_WORDS = {word for word in {*_UNITS, *_NOUNS, *_ADJECTIVES} if len(word) > 1} | {"yes", "no", "per"}


def _singular(word: str) -> str:
    """Return the canonical unit or the singular noun of a word."""
    stems = [word]
    if word.endswith("s"):
        stems += [word[:-1], word[:-2] if word.endswith("es") else "", word[:-3] + "y" if word.endswith("ies") else ""]
    for stem in stems:
        if stem in _UNITS | dict.fromkeys(_NOUNS | _NOT_UNITS) and (stem == word or len(stem) > 1):
            return _UNITS.get(stem, stem)
    return word


def _is_unit(words: list[str], gold_words: set | None) -> bool:
    """Return whether words after a number only name what is counted; `gold_words` is None for the gold itself.

    The gold may name its units by any words that are no number words, a candidate by listed words or the gold's.
    """
    singular = [_singular(word) for word in words]
    if gold_words is None or set(words) <= gold_words:
        ordinals = [word for word in words if word.endswith("ths") and word not in ("months", "lengths", "paths")]
        return not ordinals and not _NOT_UNITS & {*words, *singular}
    known = {*_UNITS.values(), *_NOUNS, *gold_words, *map(_singular, gold_words)}
    return singular[-1] in known and known | _ADJECTIVES >= set(singular)


# ------------------------------------------------------------------ tokens


class Token(NamedTuple):
    """A piece of a normalised answer."""

    kind: str       # number, numeral (with a base), name, word, command, symbol, begin, end, stop
    text: str
    spaced: bool    # follows a space: "1 3/4" is a mixed number, "13/4" is not


_SYMBOLS = {  # LaTeX commands -> characters
    "cdot": "*", "times": "*", "ast": "*", "div": "/", "pm": "±", "mp": "∓", "infty": "∞", "le": "≤", "leq": "≤",
    "leqslant": "≤", "ge": "≥", "geq": "≥", "geqslant": "≥", "lt": "<", "gt": ">", "ne": "≠", "neq": "≠",
    "approx": "≈", "in": "∈", "cup": "∪", "cap": "∩", "mid": "|", "vert": "|", "lvert": "|", "rvert": "|",
    "langle": "⟨", "rangle": "⟩", "lbrace": r"\{", "rbrace": r"\}", "lbrack": "[", "rbrack": "]", "circ": "°",
    "degree": "°", "emptyset": "∅", "varnothing": "∅", "colon": ":", "setminus": "∖", "backslash": "∖", "equiv": "=",
    "lfloor": "⌊", "rfloor": "⌋", "lceil": "⌈", "rceil": "⌉", "or": ",", "lor": ",", "land": "∧",
    "%": "%", "$": "$", "{": r"\{", "}": r"\}", "\\": r"\\"}
_SILENT = set("left right big Big bigg Bigg bigl bigr Bigl Bigr displaystyle textstyle limits mathbf boldsymbol bf bm "
              "mathit mathsf mathtt mathcal mathop underline ensuremath boxed fbox large rm ! ( ) [ ]".split())
_SPACES = set("quad qquad thinspace , ; : >".split()) | {" ", "\n", "\t", ""}
_DROPPED = set("phantom hphantom vphantom hspace vspace color textcolor".split())  # with their argument
_PROSE = set("text mbox textbf textit textrm textsf texttt textnormal emph mathrm operatorname hbox".split())
TRIG = set("sin cos tan cot sec csc arcsin arccos arctan".split())
_LOGS = {"ln", "log", "exp"}
_GREEK = set("alpha beta gamma delta epsilon zeta eta theta iota kappa lambda lamda mu nu xi pi rho sigma tau phi chi "
             "psi omega Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega".split())
_ALIASES = {**dict.fromkeys("dfrac tfrac cfrac nicefrac sfrac".split(), "frac"), "dbinom": "binom", "tbinom": "binom",
            "varphi": "phi", "varepsilon": "epsilon"}
_THOUSANDS = re.compile(r"[1-9][0-9]{0,2}(?:(?:,[0-9]{3})+|(?: [0-9]{3})+(?!/))(?!,?[0-9])(?:\.[0-9]+)?")
_TOKEN = re.compile(r"""
    (?P<space> [\s~]+ | (?<=[A-Za-z])\.(?![0-9]) )
  | (?P<numeral> ([0-9A-F.]{2,40} | [0-9]) _ (?: ([0-9]{1,2}) | \{\s?([0-9]{1,2})\s?\} ) )
  | (?P<number> (?: [0-9]*\.[0-9]*\\overline\s?\{[0-9]{1,40}\}
                  | (?: [0-9]*\.[0-9]+ | [0-9]+ ) (?: [eE][+-]?[0-9]{1,4}(?![0-9A-Za-z.]) )? ) )
  | (?P<letters> [A-Za-z]+ )
  | (?P<environment> \\(begin|end)\s?\{([A-Za-z]+)\} )
  | (?P<command> \\(?: ([A-Za-z]+) | (.|$) ) )
  | (?P<symbol> . )""", re.VERBOSE | re.DOTALL)


def tokenise(text: str, marks: bool = True, prose: bool = False) -> list[Token]:
    r"""Split normalised text; `marks`: read 70,110 as one number; `prose`: within \text{...}.

    >>> [token.text for token in tokenise(r"\dfrac12 \text{ sq. cm}")]
    ['frac', '12', 'sq', 'cm']
    """
    tokens, pos, brackets, spaced = [], 0, 0, False
    while pos < len(text):
        # Outside brackets a comma before three digits marks thousands; inside, (4,112) is a point.
        mark = marks and brackets == 0 and _THOUSANDS.match(text, pos)
        match = mark or _TOKEN.match(text, pos)
        pieces, pos = [("number", re.sub("[, ]", "", match[0]))], match.end()
        if not mark:
            pieces, pos = _pieces(match, marks, prose)
        for kind, value in pieces:
            if kind == "space":
                spaced = True
                continue
            tokens.append(Token(kind, value, spaced))
            spaced = False
            brackets += (value in ("(", "[", r"\{")) - (value in (")", "]", r"\}"))
    return tokens


def _pieces(match: re.Match, marks: bool, prose: bool) -> tuple[list, int]:
    """Return the (kind, text) pairs of one match, mostly one, and where they end."""
    kind, text, end = match.lastgroup, match[0], match.end()
    if kind == "letters":
        return _letters(text, prose), end
    if kind == "numeral":
        return [(kind, f"{match[3]}_{match[4] or match[5]}")], end
    if kind == "environment":
        return [(match[9], match[10])], end  # begin or end, and its name
    if kind != "command":
        return [(kind, text)], end
    name = _ALIASES.get(text[1:], text[1:])
    if name in _DROPPED:
        return [("space", "")], braced(match.string, end)[1]
    if name in _PROSE:
        inside, end = braced(match.string, end)
        pieces = [("space", "")]
        for token in tokenise(inside, marks, prose=True):
            pieces += [("space", "")] * token.spaced + [(token.kind, token.text)]
        return pieces, end
    if name in _SILENT:
        return [], end
    if name in _SPACES:
        return [("space", "")], end
    if name in _SYMBOLS:
        return [("symbol", _SYMBOLS[name])], end
    return [("name" if name in _GREEK else "command", name)], end


def _letters(run: str, prose: bool) -> list[tuple[str, str]]:
    """Split a run of letters: separator, function, constant, word, or variables side by side."""
    lower = run.lower()
    if lower in ("or", "and"):
        return [("symbol", "," if lower == "or" else "∧")]
    if not prose:
        if run in TRIG or run in _LOGS or run == "sqrt":
            return [("command", run)]
        if run in _GREEK:
            return [("name", run)]
        if lower in ("infinity", "inf", "oo"):
            return [("symbol", "∞")]
    listed = lower in _WORDS or _singular(lower) in _WORDS
    capitals = run.isupper() and len(run) < 4 and not listed  # names of points: AC, BCD
    long = len(run) > 3 or listed or capitals or run.istitle() and len(run) == 3
    if prose and run not in ("i", "e") or len(run) > 1 and long:
        return [("word", run if len(run) == 1 or capitals else lower)]
    return [("name", letter) for letter in run]


# ------------------------------------------------------------------ parse: tokens into a tree


class Node(NamedTuple):
    """One node of the tree.

    Scalars: number (tag: Fraction), name, constant (pi, e, i), unit, sum, product, power, root (tag: degree),
    call (tag: function). Others: infinity (tag: sign), list (bare, any order), set, tuple (tag: its brackets, so
    intervals too), union, intersection, difference, ratio (tag: looks like a time), relation (tag: its signs),
    matrix (its items are rows).
    """
    kind: str
    items: tuple = ()
    tag: object = None
    free: bool = False      # depends on a variable
    height: int = 1


def node(kind: str, *items: Node, tag=None) -> Node:
    """Return a node with its height and `free` filled in. Raises Unreadable if the tree becomes too high."""
    height = 1 + max([item.height for item in items], default=0)
    if height > MAX_HEIGHT:  # Python's stack is as high
        raise Unreadable("too deep")
    return Node(kind, items, tag, kind == "name" or any(item.free for item in items), height)


def number(value) -> Node:
    """Return a rational number as a node."""
    return Node("number", (), Fraction(value))


def quotient(a: Node, b: Node) -> Node:
    """Return a / b."""
    return product(a, node("power", scalar(b), number(-1)))


def product(a: Node, b: Node) -> Node:
    """Return a · b; a matrix is multiplied cell by cell. Raises Unreadable for what is not a number."""
    if a.kind in ("matrix", "row") or b.kind in ("matrix", "row"):  # a number times each cell
        matrix, factor = (a, scalar(b)) if a.kind in ("matrix", "row") else (b, scalar(a))
        return matrix._replace(items=tuple(product(factor, cell) for cell in matrix.items))
    a, b = (side.items if side.kind == "product" else (scalar(side),) for side in (a, b))
    return node("product", *a, *b)


def negative(a: Node) -> Node:
    """Return −a."""
    if a.kind == "infinity":
        return Node("infinity", (), -a.tag)
    return number(-a.tag) if a.kind == "number" else product(number(-1), a)


def scalar(a: Node) -> Node:
    """Return the node. Raises Unreadable if it is not a number or an expression."""
    if a.kind not in SCALARS:
        raise Unreadable("arithmetic with what is not a number")
    return a


def walk(tree: Node) -> Iterator[Node]:
    """Yield all nodes of a tree."""
    yield tree
    for item in tree.items:
        yield from walk(item)


def has_units(tree: Node) -> bool:
    """Return whether a unit occurs in the tree."""
    return any(part.kind == "unit" for part in walk(tree))


SCALARS = set("number name constant unit sum product power root call".split())
REAL_LINE = node("tuple", Node("infinity", (), -1), Node("infinity", (), 1), tag="()")
_CLOSERS = {"(": ")][", "[": "])[", "]": "])[", "⟨": "⟩", r"\{": [r"\}"], "⌊": "⌋", "⌈": "⌉"}
_UNIT_SIGNS = {"%": "percent", "°": "degree", "$": "dollar", "€": "euro", "£": "£", "¥": "¥"}


class Parser:
    """Recursive descent, one method per level: items, item (relations), side (sets), ratio, sum, term, power, atom.

    `gold_words` holds the unit words of the gold; for the gold itself it is None and they are collected in `words`.
    `letters` says that the gold has letters: then "5 m" is a product.
    """

    def __init__(self, tokens: list[Token], budget: Budget, gold_words: set | None = None, letters: bool = True):
        self.tokens, self.pos, self.budget = tokens, 0, budget
        self.gold_words, self.words, self.letters = gold_words, set(), letters
        self.depth = self.bars = 0     # bars: open |, the next one closes
        self.way = self.signs = 0      # the sign of each ± of this item as bits, and how many were read
        self.linked = any(token.text == "∓" for token in tokens)

    def peek(self, ahead: int = 0) -> Token:
        place = self.pos + ahead
        return self.tokens[place] if place < len(self.tokens) else Token("stop", "", True)

    def next(self) -> Token:
        self.budget.spend(6)
        token = self.peek()
        self.pos += 1
        return token

    def at(self, symbols) -> bool:
        """Return whether the next token is one of these symbols (a string of them, or a collection)."""
        return self.peek().kind == "symbol" and self.peek().text in symbols

    def take(self, text: str) -> bool:
        found = self.peek().kind in ("symbol", "command") and self.peek().text == text
        if found:
            self.next()
        return found

    def expect(self, text: str) -> None:
        if not self.take(text):
            raise Unreadable(f"{text} is missing")

    # -- collections

    def answer(self) -> Node:
        """Parse the whole answer: one value, or a bare list of several."""
        items = self.items(lambda token: token.kind == "stop")
        if not items:
            raise Unreadable("no value")
        commas = any(token.text in (",", ";") for token in self.tokens)
        return items[0] if len(items) == 1 else node("list", *items, tag=None if commas else "and")

    def items(self, closes: Callable[[Token], bool], alternatives: bool = True) -> list[Node]:
        """Parse items between commas (or "and", "or", ";") up to a token that `closes`."""
        items, comma = [], True
        while True:
            while self.at(",;∧"):
                self.next()
                comma = True
            # After a comma "[" opens the next row; else it may close the French interval [3,7[.
            if closes(self.peek()) and not (comma and self.peek().text == "["):
                return items
            if not comma:
                raise Unreadable(f"unexpected {self.peek().text}")
            items += self.alternatives() if alternatives else [self.item()]
            comma = False

    def alternatives(self) -> list[Node]:
        """Parse one item once per choice of its ±: 1 ± 2i is two values."""
        outer, start = (self.way, self.signs), self.pos
        self.way = self.signs = 0
        items = [self.item()]
        ways = self.signs and (2 if self.linked else 2 ** self.signs)
        if ways > 8:
            raise Unreadable("too many ±")
        for self.way in range(1, ways):
            self.pos, self.signs = start, 0
            items.append(self.item())
        self.way, self.signs = outer
        return items

    def item(self) -> Node:
        self.take("≈")
        sides, signs = [self.side()], ""
        while self.at("=<>≤≥≠≈∈"):
            signs += self.next().text
            sides.append(self.side())
        return node("relation", *sides, tag=signs) if signs else sides[0]

    def side(self) -> Node:
        value = self.ratio()
        while self.at("∪∩∖"):
            kind = {"∪": "union", "∩": "intersection", "∖": "difference"}[self.next().text]
            value = node(kind, value, self.ratio())
        return value

    def ratio(self) -> Node:
        start, parts = self.pos, [self.sum()]
        while self.take(":"):
            parts.append(scalar(self.sum()))
        if len(parts) == 1:
            return parts[0]
        written = [token.text for token in self.tokens[start:self.pos] if token.text != ":"]
        clock = re.fullmatch("[01]?[0-9]|2[0-4]", written[0]) and re.fullmatch("[0-5][0-9]", written[1])
        return node("ratio", scalar(parts[0]), *parts[1:], tag=bool(clock))

    # -- arithmetic

    def sign(self) -> int:
        """Consume +, -, ± or ∓ and return +1 or -1; return 0 if none stands here."""
        if not self.at("+-±∓"):
            return 0
        text = self.next().text
        if text in "+-":
            return 1 if text == "+" else -1
        minus = self.way & 1 if self.linked else self.way >> self.signs & 1
        self.signs += 1
        return (-1 if minus else 1) * (1 if text == "±" else -1)

    def sum(self) -> Node:
        sign = self.sign()
        first = self.term()
        terms = [negative(first) if sign < 0 else first]
        while sign := self.sign():
            term = scalar(self.term())
            terms.append(negative(term) if sign < 0 else term)
        if len(terms) == 1:
            return terms[0]
        terms, last = list(map(scalar, terms)), terms[-1]
        # 480 + 480\sqrt{3}\text{ feet}: a unit after the last term belongs to the whole sum.
        if last.kind == "product" and last.items[-1].kind == "unit" and not any(map(has_units, terms[:-1])):
            return node("product", node("sum", *terms[:-1], node("product", *last.items[:-1])), last.items[-1])
        return node("sum", *terms)

    def term(self) -> Node:
        value = self.factor()
        while True:
            if self.take("*"):
                value = product(value, self.factor(value))
            elif self.take("/"):
                value = quotient(value, self.factor(value))
            elif self.starts_factor():
                value = product(value, self.power(value))
            else:
                return value

    def starts_factor(self) -> bool:
        """Return whether the next token is multiplied without a sign; a number after a space is not: 5 6."""
        kind, text, spaced = self.peek()
        if kind == "number":
            return not spaced and self.tokens[self.pos - 1].text in (")", "!")  # (k+1)2^k, 3!7!
        if kind == "command":
            return text not in ("over", "choose")
        return kind in ("name", "word", "begin") or self.at("({√$⌊⌈") or text == "|" and not self.bars

    def factor(self, before: Node | None = None) -> Node:
        sign = self.sign()
        value = self.power(before)
        return negative(value) if sign < 0 else value

    def power(self, before: Node | None = None) -> Node:
        """Parse an atom and its postfixes ^ ! % °; `before` is the factor to the left, if any."""
        value = self.atom(before)
        while self.at("^!%°"):
            text = self.next().text
            if text == "^":
                sign = self.sign()
                exponent = scalar(self.argument())
                value = node("power", scalar(value), negative(exponent) if sign < 0 else exponent)
            elif text == "!":
                value = node("call", scalar(value), tag="!!" if self.take("!") else "!")
            else:
                value = product(value, Node("unit", (), _UNIT_SIGNS[text]))
        return value

    # -- atoms

    def atom(self, before: Node | None = None) -> Node:
        kind, text, _ = token = self.next()
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise Unreadable("too deep")
        if kind == "number":
            value = self.number(text)
        elif kind == "numeral":
            digits, base = text.split("_")
            decimal = re.fullmatch(r"[0-9]+\.?[0-9]*", digits)
            value = number(_decimal(digits)) if decimal else node("name", tag="numeral " + digits)
            value = product(value, Node("unit", (), "base " + base))
        elif kind == "name":
            value = self.name(token, before)
        elif kind == "word":
            value = self.unit(text) if before else self.label(text)
        elif kind == "command":
            value = self.command(text)
        elif kind == "begin":
            value = self.matrix(text)
        else:
            value = self.symbol(text, before)
        self.depth -= 1
        return value

    def symbol(self, text: str, before: Node | None) -> Node:
        if text == "{":
            return self.braces()
        if text in _CLOSERS:
            noun = self.noun_in_brackets() if text == "(" and before else None
            return noun or self.group(text)
        if text == "|":
            self.bars += 1
            inside = scalar(self.sum())
            self.expect("|")
            self.bars -= 1
            return node("call", inside, tag="abs")
        if text == "√":
            return node("root", scalar(self.argument()), tag=2)
        if text in tuple("$€£¥"):
            unit = Node("unit", (), _UNIT_SIGNS[text])
            return unit if before else product(self.factor(), unit)
        if text in ("∞", "∅"):
            return Node("infinity", (), 1) if text == "∞" else Node("set")
        raise Unreadable(f"unexpected {text or 'end'}")

    def number(self, text: str) -> Node:
        value = _decimal(text)
        if not text.isdigit() or not self.take("frac"):
            return number(value)
        top, bottom = self.argument(True), self.argument(True)
        if top.kind != "number" or bottom.kind != "number":
            return product(number(value), quotient(top, bottom))
        # 1\frac{3}{4} is 7/4, not 3/4; and 2\frac{5}{3} is neither a mixed number nor a product that one writes.
        if not 0 < top.tag < bottom.tag or not top.tag.denominator == bottom.tag.denominator == 1:
            raise Unreadable("no mixed number")
        return number(value + top.tag / bottom.tag)

    def name(self, token: Token, before: Node | None) -> Node:
        text = token.text
        if text in ("i", "e", "pi") and self.peek().text != "_":
            return Node("constant", (), text)
        if before and number(0) in (before, *before.items):
            raise Unreadable("zero times letters would hide any word, as in 0 is it")
        if before and text in _UNITS:
            per = self.tokens[self.pos - 2].text == "/" and before.items and before.items[-1].kind == "unit"
            if per or token.spaced and not self.letters and not before.free and not has_units(before):
                return self.unit(text)  # the h of km/h; "5 m", if the gold has no letters
        while self.take("'"):
            text += "'"
        if self.take("_"):
            text += "_" + self.subscript()
        after, start = self.peek(), self.pos
        if after.text == "(" and not after.spaced and (text[0] in "fgh" or text[0].isupper()):
            self.next()
            inside = self.items(lambda token: token.text == ")", alternatives=False)
            self.expect(")")
            if text[0] in "fghP" or len(inside) > 1:  # f(4 - x) and P(2,3) are not products
                return node("call", *inside, tag=text)._replace(free=True)
            self.pos = start
        return node("name", tag=text)

    def subscript(self) -> str:
        """Read {...} or one token as text."""
        if not self.take("{"):
            return self.next().text
        text = []
        while not self.take("}"):
            if self.peek().kind == "stop":
                raise Unreadable("a brace that never closes")
            text.append(self.next().text)
        return " ".join(text)

    def label(self, first: str) -> Node:
        """Parse words that stand alone: a name such as "Friday" or "June 20", or the currency of "USD 30"."""
        if _UNITS.get(first) in ("dollar", "euro") and self.peek().kind == "number":
            return product(self.factor(), self.unit(first))
        words = [first]
        while self.peek().kind == "word":
            words.append(self.next().text)
        if len(words[-1]) > 2 and self.peek().kind == "number":
            words.append(self.next().text)
        return node("name", tag=" ".join(words))

    def unit(self, first: str) -> Node:
        """Parse the words after a number: "sq. cm", "apples", "miles per hour"."""
        words = [first]
        while self.peek().kind == "word" and self.peek().text != "per":
            words.append(self.next().text)
        if not _is_unit(words, self.gold_words):
            raise Unreadable("words that name no unit")
        self.words.update(words)
        top, _, bottom = _singular(words[-1]).partition("/")
        value = Node("unit", (), top)
        if bottom:
            value = quotient(value, Node("unit", (), bottom))
        for dimension, adjectives in ((2, {"square", "sq"}), (3, {"cubic", "cu"})):
            if adjectives & set(words):
                value = node("power", value, number(dimension))
        if self.peek().text == "per" and self.peek(1).kind == "word":
            self.next()
            return quotient(value, self.unit(self.next().text))
        return value

    def noun_in_brackets(self) -> Node | None:
        """Parse the "pencils)" of "9 (pencils)"; None if something else is in the brackets."""
        end = 0
        while self.peek(end).kind == "word":
            end += 1
        if not end or self.peek(end).text != ")":
            return None
        unit = self.unit(self.next().text)
        self.expect(")")
        return unit

    def argument(self, digit: bool = False) -> Node:
        r"""Parse what \frac, \sqrt, ^ apply to; of a bare number only the first `digit`, as in \frac12."""
        if self.take("{"):
            return self.braces()
        token = self.peek()
        if token.kind != "number":
            return self.atom()
        self.next()
        if digit and len(token.text) > 1:
            self.pos -= 1
            self.tokens = self.tokens[:]
            self.tokens[self.pos] = Token("number", token.text[1:], False)
            return number(_decimal(token.text[0]))
        return number(_decimal(token.text))

    def braces(self) -> Node:
        r"""Parse {...} after its brace: one value, {5 \over 8} or {8 \choose 3}."""
        bars, self.bars = self.bars, 0
        value = self.item()
        if self.take("over"):
            value = quotient(value, self.item())
        elif self.take("choose"):
            value = node("call", scalar(value), scalar(self.item()), tag="binom")
        self.expect("}")
        self.bars = bars
        return value

    def command(self, text: str) -> Node:
        if text == "frac":
            return quotient(self.argument(True), self.argument(True))
        if text == "binom":
            return node("call", scalar(self.argument(True)), scalar(self.argument(True)), tag="binom")
        if text == "sqrt":
            degree = 2
            if self.take("["):
                degree = small(self.item().tag, 100)
                self.expect("]")
            elif self.peek().kind == "number" and len(self.peek().text) > 1:
                raise Unreadable(r"\sqrt12: which digits are under the root?")
            return node("root", scalar(self.argument()), tag=degree)
        if text in TRIG or text in _LOGS:
            return self.function(text)
        if text == "pmod":
            return Node("unit", (), "mod " + self.subscript())
        if text == "mathbb":
            letter = self.subscript()
            return REAL_LINE if letter == "R" else node("name", tag="mathbb " + letter)
        if text in ("sum", "prod", "int", "lim"):
            return self.operator(text)
        if text not in ("overline", "hat", "vec", "widehat", "tilde", "overrightarrow", "angle", "triangle"):
            raise Unreadable(f"unknown command {text}")
        inside = scalar(self.argument())
        # The conjugate of z is not z; but the segments AB and BA are one, and may be written without the bar.
        if text == "overline" and inside.kind == "name" and re.fullmatch("[A-Z]{2}", inside.tag):
            return node("name", tag="".join(sorted(inside.tag)))
        return node("call", inside, tag=text)._replace(free=True)

    def operator(self, text: str) -> Node:
        r"""Skip \sum, \int, \lim up to the sign of a relation: they only name the value that follows."""
        skipped, depth = [text], 0
        while self.peek().kind != "stop" and not (depth == 0 and self.at("=≈")):
            skipped.append(self.next().text)
            depth += (skipped[-1] == "{") - (skipped[-1] == "}")
        return node("name", tag=" ".join(skipped))

    def function(self, text: str) -> Node:
        r"""Parse sin x, \sin^2 x, \log_2 8, \ln(a/b)."""
        base, exponent = number(10), None
        if text == "log" and self.take("_"):
            base = scalar(self.argument())
        if self.take("^"):
            exponent = scalar(self.argument())
            if exponent == number(-1):
                text, exponent = "arc" + text, None
        bracket = self.peek().text == "("
        inside = scalar(self.power())
        while not bracket and self.starts_factor() and self.peek().text not in TRIG | _LOGS | {"("}:
            inside = product(inside, self.power(inside))
        value = node("call", inside, tag="ln" if text == "log" else text)
        if text == "exp":
            value = node("power", Node("constant", (), "e"), inside)
        if text == "log":
            value = quotient(value, node("call", base, tag="ln"))
        return node("power", value, exponent) if exponent else value

    def group(self, opened: str) -> Node:
        """Parse (...), [...], {...}: brackets around one value group it, around several are a tuple or a set."""
        bars, self.bars, builder = self.bars, 0, self.take("⁝")
        closers = _CLOSERS[opened]
        items = self.items(lambda token: token.kind == "symbol" and token.text in closers, opened == r"\{")
        closed = self.next().text
        self.bars = bars
        if opened == r"\{":
            return items[0] if len(items) == 1 and builder else node("set", *items)
        if opened in "⌊⌈" and len(items) == 1:
            return node("call", scalar(items[0]), tag="floor" if opened == "⌊" else "ceil")
        if len(items) == 1 and opened + closed in ("()", "[]"):
            return items[0]
        if len(items) < 2 or opened in "⌊⌈":
            raise Unreadable("empty or unmatched brackets")
        tag = {"⟨": "(", "]": "("}.get(opened, opened) + {"⟩": ")", "[": ")"}.get(closed, closed)
        return node("tuple", *items, tag=tag)

    def matrix(self, kind: str) -> Node:
        if kind == "array":
            self.subscript()  # {cc}
        elif kind not in ("pmatrix", "bmatrix", "matrix", "smallmatrix"):
            raise Unreadable(f"{kind} is not a matrix")
        rows = [[self.item()]]
        while (token := self.next()).kind != "end":
            if token.text == "&":
                rows[-1].append(self.item())
            elif token.text != r"\\":
                raise Unreadable("a matrix that does not close")
            elif self.peek().kind != "end":
                rows.append([self.item()])
        if len({len(row) for row in rows}) > 1 or token.text != kind:
            raise Unreadable("rows of different length")
        return node("matrix", *[node("row", *row) for row in rows])


def _decimal(text: str) -> Fraction:
    r"""Return 12, .5, 1.5e3 or 0.1\overline{6} as an exact Fraction."""
    text, _, repeated = text.replace(" ", "").rstrip("}").partition(r"\overline{")
    digits, _, exponent = text.lower().partition("e")
    if len(digits) > 500 or abs(int(exponent or 0)) > 3000:
        raise Unreadable("too many digits")
    whole, _, places = digits.partition(".")
    value = Fraction(int(whole + places or 0), 10 ** len(places)) * Fraction(10) ** int(exponent or 0)
    if repeated:
        value += Fraction(int(repeated), (10 ** len(repeated) - 1) * 10 ** len(places))
    return value


def small(value, limit: int) -> int:
    """Return a whole number from 0 to `limit`, for factorials and degrees of roots."""
    if not isinstance(value, Fraction) or value.denominator != 1 or not 0 <= value <= limit:
        raise Unreadable("not a small whole number")
    return int(value)
