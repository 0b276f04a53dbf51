"""The tokenizer and the chat template of a Hugging Face folder.

A dialogue is the concatenation of ids: x1, the *sampled* ids of y1, the instruction, the sampled ids of y2. So the chat
template never sees an answer. It is rendered once with stand-ins, which shows what it writes around a problem and
between two turns. Sampled text that looks like a special token, or that another tokenizer would split differently,
stays as it was sampled.

`transformers.AutoTokenizer` is not used: the tokenizer class that a folder names overrides its tokenizer.json.
"""

import datetime
import itertools
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment

from model import UserError, import_optional, read_json


class DataError(UserError):
    """A problem or a file that cannot be used; the text names the place and the fix."""


# ------------------------------------------------------------------ tokenizers

QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SEPARATOR = "\ue000separator\ue000"  # private-use characters, which no text has


class Tokenizer:
    """The tokenizer of a folder, by the `tokenizers` library.

    n_vocab: all ids are below. added: the tokens that are looked up as a whole, by their spelling.
    bos: the ids that the file puts before every text (Llama).
    """

    def __init__(self, backend):
        backend.no_truncation()  # GPT-2's own file cuts texts at 50 tokens
        backend.no_padding()
        self.backend = backend
        self.n_vocab = max(backend.get_vocab().values()) + 1
        self.added = {token.content: token for token in backend.get_added_tokens_decoder().values() if token.content}
        sample = backend.encode("a")
        front = list(itertools.takewhile(bool, sample.special_tokens_mask))
        self.bos = sample.ids[: len(front)]
        backend.add_tokens([import_optional("tokenizers").AddedToken(SEPARATOR, normalized=False)])
        self.separator = backend.token_to_id(SEPARATOR)
        if self.separator < self.n_vocab:
            raise DataError("the ids of its vocabulary have gaps; copy the file again")

    def encode(self, text: str, special: bool = False, inside: bool = False) -> list[int]:
        """Return the ids of a text, without BOS.

        special: whether the spelling of a special token is that token. Otherwise it stays text, so that a problem
        cannot end its own turn. inside: whether the text follows other tokens. SentencePiece treats the first piece of
        a text differently; a separator in front, which is removed again, makes the text the second piece.
        """
        self.backend.encode_special_tokens = not special
        ids = self.backend.encode(SEPARATOR * inside + text, add_special_tokens=False).ids
        return [i for i in ids if i != self.separator]

    def encode_ordinary(self, text: str) -> list[int]:
        """Return the ids of a text in which special tokens stay text (the name that tiktoken gives it)."""
        return self.encode(text)

    def decode(self, ids: list[int]) -> str:
        """Return the text of ids, with special tokens by their spelling."""
        return self.backend.decode(ids, skip_special_tokens=False)

    def decode_answer(self, ids: list[int]) -> str:
        """Return the text of ids that continue a prompt. `decode` would drop the first space of SentencePiece's text:
        in a program, that is indentation."""
        before = self.encode("a")
        return self.decode(before + ids)[len(self.decode(before)) :]


def load_tokenizer(folder) -> Tokenizer:
    """Load tokenizer.json, or else vocab.json and merges.txt (GPT-2 and Qwen2). Raises DataError."""
    folder, tokenizers = Path(folder), import_optional("tokenizers")
    path = folder / "tokenizer.json"
    try:
        if path.exists():
            return Tokenizer(tokenizers.Tokenizer.from_file(str(path)))
        path = folder / "vocab.json"
        if path.exists() and (folder / "merges.txt").exists():
            return Tokenizer(byte_level_bpe(folder, tokenizers))
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    except Exception as error:  # the library raises plain Exception
        raise DataError(f"{path}: not a tokenizer ({str(error)[:80]}); copy the file again") from None
    raise DataError(f"{folder}: has no tokenizer.json, and not both of vocab.json and merges.txt; copy the tokenizer")


def byte_level_bpe(folder: Path, tokenizers):
    """Build the tokenizer of vocab.json, merges.txt, and the added tokens of tokenizer_config.json."""
    config = read_if_there(folder / "tokenizer_config.json")
    kind = config.get("tokenizer_class", "GPT2Tokenizer").removesuffix("Fast")
    if kind not in ("GPT2Tokenizer", "Qwen2Tokenizer"):
        raise DataError(f"does not say how a {kind} splits a text; copy its tokenizer.json too")
    bpe = tokenizers.models.BPE.from_file(str(folder / "vocab.json"), str(folder / "merges.txt"))
    backend = tokenizers.Tokenizer(bpe)
    backend.decoder = tokenizers.decoders.ByteLevel()
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    if kind == "Qwen2Tokenizer":
        split = tokenizers.pre_tokenizers.Split(tokenizers.Regex(QWEN2_SPLIT), "isolated")
        byte_level = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        backend.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([split, byte_level])
        backend.normalizer = tokenizers.normalizers.NFC()
    added = config.get("added_tokens_decoder", {})
    for i in sorted(map(int, added)):
        token = tokenizers.AddedToken(**added[str(i)])
        backend.add_tokens([token])
        if backend.token_to_id(token.content) != i:
            raise DataError(f"the added token {token.content!r} cannot get the id {i}; copy the tokenizer.json too")
    if not added:  # GPT-2's own folder
        backend.add_special_tokens(["<|endoftext|>"])
    return backend


def read_if_there(path: Path) -> dict:
    """Read a JSON file that a folder may lack."""
    return read_json(path, DataError) if path.exists() else {}


# ------------------------------------------------------------------ chat templates

STAND_IN = ("Qproblem5Q", "Qanswer6Q", "Qinstruction7Q")  # one word each, in no template


@dataclass
class Turns:
    """Token ids that the chat template puts around the problem and the instruction."""

    encode: Callable[[str], list[int]]  # a problem -> x1
    instruction: list[int]  # what stands between y1 with its stop and y2, p1 in the middle
    stops: list[int]  # each of these ids ends an answer; the first is the template's
    close: list[int]  # ends an answer that was cut at the length limit
    note: str = ""  # how the template would write a dialogue differently

    @property
    def eos(self) -> int:
        return self.stops[0]


def wrap_turns(folder, tokenizer: Tokenizer, instruction: str) -> Turns:
    """Return the token ids around two turns, by the model's chat template; plain text for a model without one.

    Only what the template writes *after* an answer is used for turn 2. If the template would write the answer, or the
    text before it, differently in a later turn, `note` says so in one line.
    Raises DataError for a template that does not show both turns.
    """
    path, problem, after, trim, note = Path(folder) / "tokenizer_config.json", STAND_IN[0], STAND_IN[2], str, ""
    template, special = read_template(folder)
    if template is not None:
        try:
            problem, after, trim, note = render_turns(template, special)
        except Exception as error:  # a template is a program, and may raise anything
            reason = str(error) if isinstance(error, DataError) else f"fails: {type(error).__name__}: {error}"
            raise DataError(f"{path}: the chat template {reason[:200]}; fix it, or use another model") from None
    stops = end_tokens(folder, tokenizer, special)
    end = first_token(tokenizer, after.lstrip())
    if end is not None:
        stops.insert(0, tokenizer.backend.token_to_id(end.content))
        after = after.lstrip().removeprefix(end.content)
        after = after.lstrip() if end.rstrip else after
    elif not stops:
        raise DataError(f"{path}: has no eos_token of this tokenizer, so nothing would end an answer; add it")
    elif template is not None:
        note = "no end token after an answer"
    bos = tokenizer.bos if template is None else []  # a template writes it itself
    ask = around(tokenizer, *problem.split(STAND_IN[0]), inside=bool(bos))
    correct = around(tokenizer, *after.split(STAND_IN[2]), inside=True)
    if note:
        note = f"{path}: in an earlier turn the chat template writes {note}; sampled answers stay as they are"
    stops = list(dict.fromkeys(stops))  # without duplicates
    return Turns(lambda text: bos + ask(trim(text)), correct(trim(instruction)), stops, stops[:1], note)


def first_token(tokenizer: Tokenizer, text: str):
    """Return the longest added token that a text begins with, or None."""
    matches = [token for spelling, token in tokenizer.added.items() if text.startswith(spelling)]
    return max(matches, key=lambda token: len(token.content), default=None)


def around(tokenizer: Tokenizer, before: str, after: str, inside: bool) -> Callable[[str], list[int]]:
    """Return a function: text -> ids of before + text + after, in which the special tokens of a text stay text.

    The template is cut at its special tokens next to the text. What lies between is encoded together with the text,
    because a newline may merge with the first character. inside: whether tokens come before.
    """
    special = sorted((t.content for t in tokenizer.added.values() if t.special), key=len, reverse=True)
    pattern = re.compile("|".join(map(re.escape, special)) or "(?!)")  # (?!) never matches
    left, right = list(pattern.finditer(before))[-1:], pattern.search(after)
    cut = left[0].end() if left else 0
    stop = right.start() if right else len(after)
    strip_left = bool(left) and tokenizer.added[left[0][0]].rstrip  # such a token takes the spaces next to it
    strip_right = bool(right) and tokenizer.added[right[0]].lstrip
    head = tokenizer.encode(before[:cut], special=True, inside=inside)
    tail = tokenizer.encode(after[stop:], special=True, inside=True)

    def encode(text: str) -> list[int]:
        middle = before[cut:] + text + after[:stop]
        middle = middle.lstrip() if strip_left else middle
        middle = middle.rstrip() if strip_right else middle
        return head + tokenizer.encode(middle, inside=inside or cut > 0) + tail

    return encode


def read_template(folder) -> tuple[str | None, dict[str, str]]:
    """Return the chat template, if there is one, and the special tokens: eos_token, bos_token, …"""
    template, special, folder = None, {}, Path(folder)
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        config = read_if_there(folder / name)
        template = config.get("chat_template", template)
        for key, token in config.items():
            text = token.get("content") if isinstance(token, dict) else token
            if key.endswith("_token") and isinstance(text, str):
                special[key] = text
    if isinstance(template, list):  # several, by name
        named = {entry["name"]: entry["template"] for entry in template if {"name", "template"} <= set(entry)}
        template = named.get("default")
    path = folder / "chat_template.jinja"  # newer folders have it in a file of its own
    if path.exists():
        try:
            template = path.read_text(encoding="utf-8-sig")
        except ValueError:
            raise DataError(f"{path}: not UTF-8; copy the file again") from None
    return template, special


def end_tokens(folder, tokenizer: Tokenizer, special: dict[str, str]) -> list[int]:
    """Return the ids that end an answer: eos_token, and eos_token_id (a number or a list) of generation_config.json."""
    path = Path(folder) / "generation_config.json"
    ids = read_if_there(path).get("eos_token_id")
    ids = ids if isinstance(ids, list) else [ids]
    if not all(i is None or type(i) is int for i in ids):
        raise DataError(f"{path}: eos_token_id is {ids}, but must be a number or a list of numbers; fix it")
    ids = [tokenizer.backend.token_to_id(special.get("eos_token", "")), *ids]
    return [i for i in ids if i is not None and i < tokenizer.n_vocab]


class GenerationTag(jinja2.ext.Extension):
    """{% generation %} … {% endgeneration %} marks the tokens of an answer for training; it writes nothing."""

    tags = {"generation"}

    def parse(self, parser):
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def render_turns(template: str, special: dict[str, str]) -> tuple[str, str, Callable[[str], str], str]:
    """Render two turns with stand-ins.

    Returns the prompt of turn 1; what follows the first answer, up to the second; what the template does to a message
    (str.strip in Llama 3); how it rewrites an earlier turn ("" if it does not). Raises DataError, and what it raises.
    """

    def fail(message):
        raise jinja2.TemplateError(message)

    # A template is a program from a downloaded folder: the sandbox lets it read its arguments and no more.
    extensions = [GenerationTag, "jinja2.ext.loopcontrols"]
    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=extensions)
    env.globals["raise_exception"] = fail
    env.globals["strftime_now"] = datetime.date(2025, 1, 1).strftime  # a constant: a prompt must not depend on the date
    env.filters["tojson"] = lambda x, ensure_ascii=False, **options: json.dumps(x, ensure_ascii=ensure_ascii, **options)
    compiled = env.from_string(template)

    def render(*texts):
        messages = [{"role": role, "content": text} for role, text in zip(("user", "assistant", "user"), texts)]
        # tools and documents as `transformers` passes them: some templates ask whether they are none
        return compiled.render(messages=messages, tools=None, documents=None, add_generation_prompt=True, **special)

    problem, answer, instruction = STAND_IN
    prompt = render(problem)
    past, _, after = render(problem, answer, instruction).partition(answer)
    if prompt.count(problem) != 1 or past.count(problem) != 1 or after.count(instruction) != 1:
        raise DataError("does not show the problem, the answer and the instruction in this order")
    spaced = f" {problem}\n"
    rendered = render(spaced)
    trims = [f for f in (str, str.strip, str.lstrip, str.rstrip) if rendered == prompt.replace(problem, f(spaced))]
    if not trims:
        raise DataError("changes the text of a message")
    note = "" if past == prompt else "the text before an answer differently"
    thought = f"<think>\nyes\n</think>\n\n{answer}"
    if thought not in render(problem, thought, instruction):
        note = "an answer without the text between <think> and </think>"
    elif after != after.lstrip() and not note:
        note = "white space after an answer"
    return prompt, after, trims[0], note
