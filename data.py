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

import dataclasses
import json
import random
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import tiktoken

import verify


class DataError(Exception):
    """A problem or a file that cannot be used; the text names the place and the mend."""


@dataclass
class Problem:
    """One x of D. The answer y* that verify.py needs is in `gold`; no model ever sees it.

    `check` names the verifier (verify.rewards), and with it what `gold` is:

        false-position   (steps, target)
        answer           the final answer as text                        MATH, GSM8K
        tests            keyword arguments of verify.run_tests           MBPP
        lambda           the same; an answer is what follows `f=lambda x:`   the code task
        completion       the same; an answer may go on behind the prompt   HumanEval
    """

    prompt: str
    gold: object = None
    check: str = "false-position"
    id: str = ""  # what its file calls it: "MBPP/601"
    first: str | None = None  # a given first answer, somebody else's: only the second is the policy's


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


# ------------------------------------------------------------------ the embedded code task
#
# From two calls of a function to the function, in true Python, judged by verify.run_tests:
#
#     prompt        3>16,9>34:            f(3) is 16 and f(9) is 34; what follows `f=lambda x:`?
#     answer        x*3+9#18-2,36-2       a program; behind it, as a comment, what it gives for 3 and 9,
#     correction    x*3+7#16+0,34+0       and what is to be added to that to make it 16 and 34
#
# It is false position again, with two unknowns: to find both numbers takes a division, a product and
# a difference in the head, before the first word; to check them, one line of arithmetic each, written
# out. The tests hold more than is shown: the function is called at numbers that are not in the prompt.

FACTORS, ADDENDS, SHOWN = range(2, 8), range(41), range(1, 13)  # of x*a+b, and the inputs that may be shown
CALLS = (*range(-2, 16), 50, 997)  # the inputs of the tests: what may be shown, and what never is


def code_answer(pairs, a: int, b: int) -> str | None:
    """x*a+b with its comment; None where a value or what it is off by does not fit into two digits."""
    values = [x * a + b for x, _ in pairs]
    if not (a in FACTORS and b in ADDENDS and max(values) <= 99):
        return None
    return f"x*{a}+{b}#" + ",".join(f"{v}{y - v:+d}" for v, (_, y) in zip(values, pairs))


def code_problem(pairs, a: int, b: int) -> Problem:
    """Two calls of f and the tests, which depend on f alone, not on what is shown of it."""
    tests = [f"assert f({x}) == {x * a + b}" for x in CALLS]
    return Problem(",".join(f"{x}>{y}" for x, y in pairs) + ":", {"tests": tests, "timeout": 2.0}, "lambda")


def read_code(text: str) -> Problem:
    """'3>16,9>34' as a Problem; DataError where no x*a+b of this task does that."""
    text = re.sub(r"\s", "", text).removesuffix(":")
    match = re.fullmatch(r"(\d{1,9})>(\d{1,9}),(\d{1,9})>(\d{1,9})", text)
    if not match:
        raise DataError(f"{text!r} is not a problem of this task; write two calls like '3>16,9>34'")
    x, y, u, v = map(int, match.groups())
    if not (x != u and x in SHOWN and u in SHOWN and max(y, v) <= 99):
        raise DataError(f"{text!r}: the model knows two different inputs of {SHOWN[0]} to {SHOWN[-1]}, and outputs to 99")
    found = [(a, b) for a in FACTORS for b in ADDENDS if (x * a + b, u * a + b) == (y, v)]
    if not found:
        raise DataError(f"{text!r}: no x*a+b does that with a from {FACTORS[0]} to {FACTORS[-1]} and b from 0 to {ADDENDS[-1]}")
    return code_problem([(x, y), (u, v)], *found[0])


def pairs_of(problem: Problem) -> list[tuple[int, int]]:
    """The calls that a prompt shows: [(3, 16), (9, 34)]."""
    return [tuple(map(int, pair.split(">"))) for pair in problem.prompt.removesuffix(":").split(",")]


def code_problems(split: str, n: int, rng: random.Random | None = None) -> list[Problem]:
    """n problems of a split; without rng the same ones every time."""
    rng, found = rng or random.Random(f"code, {split}"), []
    while len(found) < n:
        a, b, inputs = rng.choice(FACTORS), rng.choice(ADDENDS), rng.sample(SHOWN, 2)
        pairs = [(x, x * a + b) for x in inputs]
        if max(y for _, y in pairs) <= 99:
            problem = code_problem(pairs, a, b)
            if split_of(problem.prompt) == split:
                found.append(problem)
    return found


def code_dialogue(problem: Problem, rng: random.Random) -> tuple[str, str]:
    """Two answers for the corpus of stage 0, as in `position_dialogue`.

    A failed attempt misses b by up to SPREAD, or takes a wrong factor and the b that makes the first
    call right; its comment says so truly. The second answer repeats the first or is an attempt of its
    own, whether or not the first was right.
    """
    pairs = pairs_of(problem)
    (x, y), (u, v) = pairs
    a = (y - v) // (x - u)
    b = y - a * x
    near = [code_answer(pairs, a, c) for c in range(b - SPREAD, b + SPREAD + 1) if c != b]
    near += [code_answer(pairs, c, y - c * x) for c in (a - 1, a + 1)]
    failed = [answer for answer in near if answer]

    def attempt():
        return code_answer(pairs, a, b) if rng.random() < RIGHT or not failed else rng.choice(failed)

    first = attempt()
    return first, first if rng.random() < REPEAT else attempt()


# ------------------------------------------------------------------ real data
#
# JSON Lines as they are published; nothing is downloaded, and none of it is part of this project.

MATH_FIRST = (
    "You are a math expert. When you respond, respond only with the Solution of the final Problem, thinking step by "
    "step. At the end of the Solution, when you give your final answer, write it in the form "
    '"Final Answer: The final answer is $answer$. I hope it is correct."'
)
MATH_SECOND = (
    "There might be an error in the solution above because of lack of understanding of the question. Please correct "
    "the error, if any, and rewrite the solution. Only output the final solution! At the end of the Solution, when you "
    'give your final answer, write it in the form "Final Answer: The final answer is $answer$. I hope it is correct."'
)
CODE_FIRST = (
    "You are an expert Python programmer, and here is your task: {text} Your code should pass these tests:\n\n"
    "{tests}\n[BEGIN]\n{code}\n[DONE]"
)
CODE_SECOND = (
    "There might be an error in the code above because of lack of understanding of the question. Please correct the "
    "error, if any, and rewrite the solution. Only output the final correct Python program!"
)
# The four are the paper's words (App. C). It does not say how they are joined to a problem: that is ours.

SHOTS = (2, 3, 4)  # the MBPP tasks of the 3-shot prompt
MBPP_SPLITS = {"test": range(11, 511), "val": range(511, 601), "train": range(601, 975)}  # by task_id, as published


def read_rows(path, **fields: type) -> list[dict]:
    r"""The rows of a JSON Lines file that must have `fields`; line ends become \n (MBPP has \r\n).

    fields: name=str (not blank), name=int, or name=list (of strings, not empty); others may stand
    beside them. Raises DataError, one line with file, line number and field, for a file that is
    missing, half-written, or another one than was meant. Each row gets its line number as row["#"].
    """
    try:
        lines = Path(path).read_bytes().removeprefix(b"\xef\xbb\xbf").splitlines()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; give the path of a JSON Lines file") from None
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line.decode())
        except (ValueError, RecursionError) as error:  # half a line, bytes that are no UTF-8, brackets without end
            why = str(error).splitlines()[0][:80]
            raise DataError(
                f"{path}:{number}: not a whole JSON object ({why}); the file may be cut off: fetch it again, one object a line"
            ) from None
        if not isinstance(row, dict):
            raise DataError(f"{path}:{number}: a JSON {type(row).__name__} and not an object; write one object a line")
        row = {name: _newlines(value) for name, value in row.items()}
        for name, kind in fields.items():
            _check_field(f"{path}:{number}", row, name, kind)
        rows.append(row | {"#": number})
    if not rows:
        raise DataError(f"{path}: no rows in it; the file may not have been written yet: fetch it again")
    return rows


def _newlines(value):
    if isinstance(value, list):
        return [_newlines(v) for v in value]
    return value.replace("\r\n", "\n") if isinstance(value, str) else value


def _check_field(place: str, row: dict, name: str, kind: type) -> None:
    if name not in row:
        names = ", ".join(map(repr, row))[:120]
        raise DataError(f"{place}: field {name!r} is missing, the row has {names}; is this the file that was meant?")
    value = row[name]
    texts = {str: [value], list: value, int: ["-"]}[kind]
    if type(value) is not kind or not texts or not all(type(text) is str and text.strip() for text in texts):
        wanted = {str: "a text that is not blank", int: "a whole number", list: "a list of texts, not empty"}[kind]
        raise DataError(f"{place}: field {name!r} is {str(value)[:40]!r}, and must be {wanted}; mend or remove the line")


def math_prompt(problem: str) -> str:
    """First turn for a base model; the paper's words end in "the final Problem", so it is called that."""
    return f"{MATH_FIRST}\n\nProblem:\n{problem}\n\nSolution:\n"


def load_math(path) -> list[Problem]:
    r"""A file of MATH, MATH500 or alike: `problem`, and `answer` or a `solution` with a \boxed answer.

    Two problems of MATH's training split have an empty answer: they are kept, and no answer is right.
    """
    problems = []
    for row in read_rows(path, problem=str):
        answer = row.get("answer")
        if "answer" not in row:
            _check_field(f"{path}:{row['#']}", row, "solution", str)
            answer = verify.extract_answer(row["solution"])
        if not isinstance(answer, str):
            name = "answer" if "answer" in row else "solution"
            raise DataError(f"{path}:{row['#']}: field {name!r} gives no answer as text; mend or remove the line")
        name = row.get("unique_id") or f"{Path(path).stem}/{row['#']}"
        problems.append(Problem(math_prompt(row["problem"]), answer, "answer", id=str(name)))
    return problems


def load_math_split(train_path, test_path, math500_path) -> tuple[list[Problem], list[Problem]]:
    """The Lightman split that SCoRe uses: (7,500 + 4,500 problems to train on, MATH500 to evaluate).

    No problem of the second is in the first, whatever the files hold: they are told apart by their text.
    """
    held_out = load_math(math500_path)
    prompts = {p.prompt for p in held_out}
    test = load_math(test_path)
    missing = prompts - {p.prompt for p in test}
    if missing:
        raise DataError(
            f"{math500_path}: field 'problem' of {len(missing)} rows is not in {test_path}; give MATH's whole test file"
        )
    return [p for p in load_math(train_path) + test if p.prompt not in prompts], held_out


def load_gsm8k(path) -> list[Problem]:
    """GSM8K: `question`, and `answer` whose last line is '#### 72'. Prompted as MATH is (our choice)."""
    problems = []
    for row in read_rows(path, question=str, answer=str):
        _, mark, gold = row["answer"].rpartition("####")
        if not mark or not gold.strip():
            raise DataError(f"{path}:{row['#']}: field 'answer' has no line '#### number'; mend or remove the line")
        problems.append(Problem(math_prompt(row["question"]), gold.strip(), "answer", id=f"{Path(path).stem}/{row['#']}"))
    return problems


def load_mbpp(path, split: str) -> list[Problem]:
    """MBPP's "train", "val" or "test", full (`text`) or sanitized (`prompt`), with the 3-shot prompt.

    The prompt shows the tests, as the paper's does, and they judge. Tasks 2, 3, 4 must be in the file.
    """
    by_id = {}
    for row in read_rows(path, task_id=int, code=str, test_list=list):
        name = "prompt" if "prompt" in row else "text"
        _check_field(f"{path}:{row['#']}", row, name, str)
        setup = [row["test_setup_code"]] if row.get("test_setup_code") else row.get("test_imports", [])
        if not isinstance(setup, list) or not all(isinstance(line, str) for line in setup):
            raise DataError(f"{path}:{row['#']}: field 'test_imports' or 'test_setup_code' is not text; mend the line")
        row["setup"], row["shown"] = "\n".join(setup), {"text": row[name], "tests": "\n".join(row["test_list"])}
        if by_id.setdefault(row["task_id"], row) is not row:
            raise DataError(f"{path}:{row['#']}: field 'task_id': a second row {row['task_id']}; remove one of them")
    absent = [i for i in SHOTS if i not in by_id]
    if absent:
        raise DataError(f"{path}: field 'task_id': no row {absent[0]}, which the 3-shot prompt needs; give the whole file")
    shots = "".join(CODE_FIRST.format(**by_id[i]["shown"], code=by_id[i]["code"]) + "\n" for i in SHOTS)
    asked, problems = CODE_FIRST.partition("{code}")[0], []
    for i, row in sorted(by_id.items()):
        if i in MBPP_SPLITS[split]:
            gold = {"tests": row["test_list"], "setup": row["setup"]}
            problems.append(Problem(shots + asked.format(**row["shown"]), gold, "tests", f"MBPP/{i}"))
    return problems


def load_humaneval(path) -> list[Problem]:
    """HumanEval, zero-shot: the prompt is the function's head, as published; its tests are not shown.

    An answer goes on behind the prompt, or is a whole program.
    """
    problems = []
    for row in read_rows(path, task_id=str, prompt=str, entry_point=str, test=str):
        name = row["entry_point"]
        if not re.search(rf"(?m)^def {re.escape(name)}\b", row["prompt"]):
            raise DataError(f"{path}:{row['#']}: field 'prompt' does not define the entry_point {name[:40]!r}; mend or remove the line")
        gold = {"tests": row["test"], "setup": row["prompt"], "entry_point": name}
        problems.append(Problem(row["prompt"], gold, "completion", row["task_id"]))
    return problems


def load_first_attempts(path, problems: list[Problem]) -> list[Problem]:
    """Offline repair, the form of MBPP-R: given first answers, of another model, to `problems`.

    A line each: {"id": "MBPP/601", "first": "def max_chain_length(arr, n):\\n    ..."}, with `id` as in
    Problem. A problem may have several, which makes as many problems of it, or none, and is left out.
    """
    by_id, repairs = {p.id: p for p in problems}, []
    for row in read_rows(path, id=str, first=str):
        if row["id"] not in by_id:
            raise DataError(
                f"{path}:{row['#']}: field 'id': no problem is called {row['id'][:40]!r}; "
                f"load the file that it is of first (there, one is {next(iter(by_id), 'none')!r})"
            )
        repairs.append(dataclasses.replace(by_id[row["id"]], first=row["first"]))
    return repairs


# ------------------------------------------------------------------ the tasks


def embedded_task(problems, dialogue, read, max_new: int) -> Task:
    tokenizer = embedded_tokenizer()
    return Task(
        problems=problems,
        dialogue=dialogue,
        read=read,
        encode=tokenizer.encode_ordinary,  # text that looks like a special token stays text
        decode=tokenizer.decode,
        instruction=[tokenizer.encode_single_token(INSTRUCTION)],
        eos=tokenizer.encode_single_token(EOS),
        vocab=tokenizer.n_vocab,
        max_new=max_new,
    )


TASKS = {
    # values and commas, ';', a sign, a number, EOS
    "false-position": embedded_task(position_problems, position_dialogue, read_position, 2 * STEPS + 5),
    "code": embedded_task(code_problems, code_dialogue, read_code, 14),  # x*a+b#v+d,v+d and EOS
}
