"""Tokenizers, prompts and problems.

**The embedded task: false position.** Think of a number, go through the steps, end at the target:
which number was it? Scribes of four thousand years ago solved such problems by *false position*:
guess a start, carry the steps out, see how far off the end is, and mend the guess by that.

    prompt        ?+7-2+5=16:              ? is the unknown start, 16 the target
    answer        4,11,9,14;-2             the guess, the value after each step; how far off the end is
    instruction   <|There might be an error in the answer above. Correct it, if any.|>
    correction    6,13,11,16;0

Why this task: it is what self-correction is about, in small. Finding the start means to sum all
steps in the head, before the first word; checking it is one sum at a time, written out; and a wrong
answer holds what the right one needs. No oracle is asked at test time: `;-2` is the model's own
arithmetic, and can be wrong. Countdown (a failed search says little more than "not this one") and long
division (three-digit products take a small model too long to learn) were tried first: results/README.md.

As ids, with the three-valued mask under them (0 prompt, instruction; 1, 2 the answers; the last token of
an answer is EOS). Digits and signs are bytes, 10..99 one token each (id 256 + n), EOS 356, p1 357:

>>> task = TASKS["false-position"]
>>> ids, turn = encode_dialogue(task, "?+7-2+5=16:", ["4,11,9,14;-2", "6,13,11,16;0"])
>>> ids
[63, 43, 55, 45, 50, 43, 53, 61, 272, 58, 52, 44, 267, 44, 57, 44, 270, 59, 45, 50, 356, 357, 54, 44, 269, 44, 267, 44, 272, 59, 48, 356]
>>> turn
[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2]
"""

import random
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import tiktoken


class DataError(Exception):
    """A problem or a file that cannot be used; the text names the place and the mend."""


@dataclass
class Problem:
    """One x of D. The answer y* that verify.py needs is in `gold`; no model ever sees it."""

    prompt: str
    gold: object = None
    check: str = "false-position"  # which verifier judges an answer: verify.reward


@dataclass
class Task:
    """What training and evaluation need to know about a kind of problem."""

    problems: Callable[[str, int, random.Random | None], list[Problem]]  # (split, n, rng) -> n problems
    dialogue: Callable[[Problem, random.Random], tuple[str, str]]  # two answers of the stage 0 corpus
    read: Callable[[str], Problem]  # a problem as a person types it; raises DataError
    encode: Callable[[str], list[int]]
    decode: Callable[[list[int]], str]
    instruction: list[int]  # p1, as ids
    eos: int
    vocab: int
    max_new: int  # longest answer in tokens, EOS included


# ------------------------------------------------------------------ the embedded tokenizer

EOS, INSTRUCTION = "<|eos|>", "<|There might be an error in the answer above. Correct it, if any.|>"


def embedded_tokenizer() -> tiktoken.Encoding:
    """Bytes, one token for every pair of digits, two specials; built here, nothing is downloaded.

    A number of one or two digits is one token; a longer one splits into pairs from the right.
    The name of the special that asks for a correction is what it stands for: the paper's p1.
    """
    ranks = {bytes([i]): i for i in range(256)} | {b"%02d" % i: 256 + i for i in range(100)}
    return tiktoken.Encoding(
        "score-embedded",
        pat_str=r"\d\d(?=(?:\d\d)*(?!\d))|\d|\D",
        mergeable_ranks=ranks,
        special_tokens={EOS: 356, INSTRUCTION: 357},
    )


def encode_dialogue(task: Task, prompt: str, answers: list[str]) -> tuple[list[int], list[int]]:
    """A whole dialogue as ids, and its mask: 0 prompt and instruction, i the tokens of answer i."""
    ids = task.encode(prompt)
    turn = [0] * len(ids)
    for i, answer in enumerate(answers, 1):
        said = task.encode(answer) + [task.eos]
        asked = task.instruction if i > 1 else []
        ids, turn = ids + asked + said, turn + [0] * len(asked) + [i] * len(said)
    return ids, turn


# ------------------------------------------------------------------ false position

STEPS, LARGEST_STEP, TOP = 3, 9, 49  # steps a problem, their size, and the values' range 0..TOP
RIGHT, REPEAT, SPREAD = 0.7, 0.7, 9  # the corpus: see `position_dialogue`


def position_values(steps: list[int], start: int) -> list[int] | None:
    """start and the value after each step; None where one leaves 0..TOP."""
    values = [start]
    for step in steps:
        values.append(values[-1] + step)
    return values if all(0 <= v <= TOP for v in values) else None


def position_answer(values: list[int], target: int) -> str:
    """The working as it is written: '4,11,9,14;-2'."""
    return ",".join(map(str, values)) + f";{values[-1] - target}"


def read_position(text: str) -> Problem:
    """'?+7-2+5=16' as a Problem with gold (steps, target); DataError where it is none."""
    text = re.sub(r"\s", "", text).removesuffix(":")
    match = re.fullmatch(r"\?((?:[+-]\d+)+)=(\d+)", text)
    if not match:
        raise DataError(f"{text!r} is not a problem of this task; write one like '?+7-2+5=16'")
    steps, target = [int(x) for x in re.findall(r"[+-]\d+", match[1])], int(match[2])
    if not all(1 <= abs(x) <= LARGEST_STEP for x in steps) or target > TOP or len(steps) != STEPS:
        raise DataError(f"{text!r}: the model knows {STEPS} steps of 1 to {LARGEST_STEP}, and targets to {TOP}")
    return Problem(f"?{match[1]}={target}:", (steps, target))


def split_of(prompt: str) -> str:
    """train (90 %), val or test, by a hash of the problem: disjoint, and the same on every machine."""
    bucket = zlib.crc32(prompt.encode()) % 20
    return {0: "test", 1: "val"}.get(bucket, "train")


def position_problems(split: str, n: int, rng: random.Random | None = None) -> list[Problem]:
    """n problems of a split that have an answer; without rng the same ones every time."""
    rng, found = rng or random.Random(f"false position, {split}"), []
    while len(found) < n:
        steps = [rng.choice((1, -1)) * rng.randint(1, LARGEST_STEP) for _ in range(STEPS)]
        values = position_values(steps, rng.randint(0, TOP))
        if values is not None:
            prompt = "?" + "".join(f"{x:+d}" for x in steps) + f"={values[-1]}:"
            if split_of(prompt) == split:
                found.append(Problem(prompt, (steps, values[-1])))
    return found


def position_dialogue(problem: Problem, rng: random.Random) -> tuple[str, str]:
    """Two answers as people leave them behind, for the corpus of stage 0.

    An attempt starts from the right number (RIGHT) or from one up to SPREAD away, an honest failure:
    its arithmetic is right, and its end is off. The second answer repeats the first (REPEAT) or is
    an attempt of its own, *whether or not the first was right*. So the base model can answer again,
    and has no idea when it should.
    """
    steps, target = problem.gold
    good = target - sum(steps)
    starts = [x for x in range(good - SPREAD, good + SPREAD + 1) if x != good and x >= 0 and position_values(steps, x)]

    def attempt():
        start = good if rng.random() < RIGHT or not starts else rng.choice(starts)
        return position_answer(position_values(steps, start), target)

    first = attempt()
    return first, first if rng.random() < REPEAT else attempt()


def false_position_task() -> Task:
    tokenizer = embedded_tokenizer()
    return Task(
        problems=position_problems,
        dialogue=position_dialogue,
        read=read_position,
        encode=tokenizer.encode_ordinary,  # text that looks like a special token stays text
        decode=tokenizer.decode,
        instruction=[tokenizer.encode_single_token(INSTRUCTION)],
        eos=tokenizer.encode_single_token(EOS),
        vocab=tokenizer.n_vocab,
        max_new=2 * STEPS + 5,  # values and commas, ';', a sign, a number, EOS
    )


TASKS = {"false-position": false_position_task()}
