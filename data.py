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
import functools
import json
import random
import re
import unicodedata
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jinja2
import regex  # tiktoken brings it
import tiktoken
from jinja2.sandbox import ImmutableSandboxedEnvironment

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
    ask: Callable[[str], list[int]]  # a prompt -> x1, with the words of a chat template around it
    encode: Callable[[str], list[int]]
    decode: Callable[[list[int]], str]
    instruction: list[int]  # p1, as ids, with the template's words between two turns
    eos: int
    vocab: int  # ids from here on are padding of the embedding, and never drawn
    max_new: int  # longest answer in tokens, EOS included
    pairs: bool = False  # dialogues of two answers are all that the base model knows: rollout.sample_pairs


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

STEPS, TOP = 3, 49  # steps a problem, and the values' range 0..TOP
SMALL, LARGE, LARGE_SHARE = range(1, 10), range(10, 30), 0.1  # the size of a step, and how often it is a large one
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
    if not all(1 <= abs(x) <= LARGE[-1] for x in steps) or target > TOP or len(steps) != STEPS:
        raise DataError(f"{text!r}: the model knows {STEPS} steps of 1 to {LARGE[-1]}, and targets to {TOP}")
    return Problem(f"?{match[1]}={target}:", (steps, target))


def split_of(prompt: str) -> str:
    """train (90 %), val or test, by a hash of the problem: disjoint, and the same on every machine."""
    bucket = zlib.crc32(prompt.encode()) % 20
    return {0: "test", 1: "val"}.get(bucket, "train")


def position_problems(split: str, n: int, rng: random.Random | None = None) -> list[Problem]:
    """n problems of a split that have an answer; without rng the same ones every time.

    Large steps are rare, as large numbers are in life, and a model has hardly learned them when it is
    sure of the small ones. That matters: where all problems are equally hard, a base model that gets
    83 % of them right is unsure of every one, its best guess barely ahead of the next, and each update
    of Stage I and II throws some of them over (results/README.md).
    """
    rng, found = rng or random.Random(f"false position, {split}"), []
    while len(found) < n:
        sizes = [LARGE if rng.random() < LARGE_SHARE else SMALL for _ in range(STEPS)]
        steps = [rng.choice((1, -1)) * rng.choice(size) for size in sizes]
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
# Program sketching: a call, what it is to return, and a program with a hole. What is the program, in true
# Python, judged by verify.run_tests?
#
#     prompt        5>23,x?+7-2:              f(5) is 23; what follows `f=lambda x:`, with `+` and a number for the ?
#     answer        x+11+7-2#16,23,21;-2      a program; behind it, as a comment, its values for x=5, step by
#     correction    x+13+7-2#18,25,23;0       step, and how far the last one is off
#
# It is false position again, in a language that can be run: to find the number is a sum in the head, before the
# first word; to check it is one sum at a time, written out. The comment is the model's own working: nobody
# judges it. What is judged is the function, by the call that is shown and by others that never are: a
# program that has learnt the call by heart fails.

HOLE = range(41)  # what may stand in the hole; x and the steps are SMALL or LARGE
# The inputs of the tests beside the shown one; no problem shows them. Few, as each call is a message into the sandbox
# and back, and a training step has some 170 programs to judge.
HELD_OUT = (-2, 0, 31, 50, 997)


def code_answer(x: int, steps: list[int], hole: int, y: int) -> str | None:
    """The program with its comment; None where the number does not fit, or a value leaves 0..TOP."""
    values = position_values([hole, *steps], x)
    if hole not in HOLE or values is None:
        return None
    return f"x+{hole}" + "".join(f"{s:+d}" for s in steps) + "#" + position_answer(values[1:], y)


def code_problem(x: int, steps: list[int], hole: int) -> Problem:
    """A call, the sketch, and the tests: the call itself, at which most wrong programs end, and the held-out ones."""
    y = x + hole + sum(steps)
    sketch = "".join(f"{s:+d}" for s in steps)
    tests = [f"assert f({z}) == {z - x + y}" for z in (x, *HELD_OUT)]
    return Problem(f"{x}>{y},x?{sketch}:", {"tests": tests, "timeout": 2.0}, "lambda")


def parts_of(prompt: str) -> tuple[int, int, list[int]] | None:
    """'5>23,x?+7-2:' as (x, y, steps): (5, 23, [7, -2]); None for another text."""
    match = re.fullmatch(r"(\d{1,9})>(\d{1,9}),x\?((?:[+-]\d{1,9})+):?", prompt)
    return match and (int(match[1]), int(match[2]), [int(s) for s in re.findall(r"[+-]\d+", match[3])])


def read_code(text: str) -> Problem:
    """'5>23,x?+7-2' as a Problem; DataError where it is none of this task."""
    text = re.sub(r"\s", "", text).removesuffix(":")
    parts = parts_of(text)
    if not parts:
        raise DataError(f"{text!r} is not a problem of this task; write a call and a sketch like '5>23,x?+7-2'")
    x, y, steps = parts
    if not all(1 <= n <= LARGE[-1] for n in (x, *map(abs, steps))) or y > TOP or len(steps) != STEPS - 1:
        raise DataError(f"{text!r}: the model knows {STEPS - 1} steps and an input of 1 to {LARGE[-1]}, and outputs to {TOP}")
    hole = y - x - sum(steps)
    if code_answer(x, steps, hole, y) is None:
        raise DataError(f"{text!r}: no number from 0 to {HOLE[-1]} in the hole does that with values from 0 to {TOP}")
    return code_problem(x, steps, hole)


def code_problems(split: str, n: int, rng: random.Random | None = None) -> list[Problem]:
    """n problems of a split that have an answer; without rng the same ones every time."""
    rng, found = rng or random.Random(f"code, {split}"), []
    while len(found) < n:
        x, *steps = (rng.choice(LARGE if rng.random() < LARGE_SHARE else SMALL) for _ in range(STEPS))
        steps, hole = [rng.choice((1, -1)) * s for s in steps], rng.choice(HOLE)
        if code_answer(x, steps, hole, 0):
            problem = code_problem(x, steps, hole)
            if split_of(problem.prompt) == split:
                found.append(problem)
    return found


def code_dialogue(problem: Problem, rng: random.Random) -> tuple[str, str]:
    """Two answers for the corpus of stage 0, as in `position_dialogue`; the comment of a failed one is true."""
    x, y, steps = parts_of(problem.prompt)
    good = y - x - sum(steps)
    failed = [code_answer(x, steps, c, y) for c in range(good - SPREAD, good + SPREAD + 1) if c != good]
    failed = [answer for answer in failed if answer]

    def attempt():
        return code_answer(x, steps, good, y) if rng.random() < RIGHT or not failed else rng.choice(failed)

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
    """A Task in the embedded tokenizer's ids, asked without a chat template."""
    tokenizer = embedded_tokenizer()
    return Task(
        problems=problems,
        dialogue=dialogue,
        read=read,
        ask=tokenizer.encode_ordinary,
        encode=tokenizer.encode_ordinary,  # text that looks like a special token stays text
        decode=tokenizer.decode,
        instruction=[tokenizer.encode_single_token(INSTRUCTION)],
        eos=tokenizer.encode_single_token(EOS),
        vocab=tokenizer.n_vocab,
        max_new=max_new,
        pairs=True,
    )


TASKS = {
    # values and commas, ';', a sign, a number, EOS
    "false-position": embedded_task(position_problems, position_dialogue, read_position, 2 * STEPS + 5),
    "code": embedded_task(code_problems, code_dialogue, read_code, 4 * STEPS + 5),  # x+n, a sign and a number a step, #, then as above
}


REAL = ("math", "gsm8k", "mbpp", "humaneval")  # published problems, for a Hugging Face model


def load_problems(name: str, path, split: str = "train") -> list[Problem]:
    """The problems of a file of MATH, GSM8K, MBPP (of one split, by task_id) or HumanEval."""
    if name == "mbpp":
        return load_mbpp(path, split)
    return {"math": load_math, "gsm8k": load_gsm8k, "humaneval": load_humaneval}[name](path)


def real_task(name: str, folder, path, eval_path="", max_new: int = 512) -> Task:
    """Published problems as a Task for the model of a Hugging Face folder: its tokenizer, its chat template.

    path: what to train on. eval_path: what to evaluate on; without it the problems of `path` are split as the embedded
    ones are (`split_of`; MBPP by task_id, as published). No rng means the first n, in the file's order.
    Raises DataError for files that cannot be used, and for a split without a problem.
    """
    tokenizer = load_tokenizer(folder)
    turns = wrap_turns(folder, tokenizer, CODE_SECOND if name in ("mbpp", "humaneval") else MATH_SECOND)
    splits = ("train", "val", "test")
    if name == "mbpp":
        have = {split: load_mbpp(path, split) for split in splits}
    else:
        read = load_problems(name, path)
        have = {split: read if eval_path and split == "train" else [p for p in read if split_of(p.prompt) == split] for split in splits}
    if eval_path:
        have["val"] = have["test"] = load_problems(name, eval_path, "test")
        known = {p.prompt for p in have["val"]}
        have["train"] = [p for p in have["train"] if p.prompt not in known]
    empty = [split for split in splits if not have[split]]
    if empty:
        raise DataError(f"{path}: too few problems, none is left for {empty[0]}; give a larger file, or --eval_data")

    def problems(split, n, rng=None):
        if rng is None:
            return have[split][:n]
        return rng.sample(have[split], n) if n <= len(have[split]) else rng.choices(have[split], k=n)

    def read(text):  # nobody has said what its answer is: none is right
        return Problem(math_prompt(text) if name in ("math", "gsm8k") else text, "", "answer", "asked")

    def refuse(*_):
        raise DataError(f"{name}: only the embedded tasks have a stage 0 corpus; give --model")

    return Task(
        problems=problems,
        dialogue=refuse,
        read=read,
        ask=turns.encode,
        encode=tokenizer.encode_ordinary,
        decode=tokenizer.decode,
        instruction=turns.instruction,
        eos=turns.eos,
        vocab=tokenizer.n_vocab,
        max_new=max_new,
    )


# ------------------------------------------------------------------ tokenizers of Hugging Face folders
# Byte-level BPE is the same algorithm in `tokenizers` and in tiktoken under one condition, which `_check_merges`
# proves for each file; what tiktoken lacks (NFC, added tokens in ordinary text) is `Tokenizer`'s.

# What a file may split a text by before BPE. Only these: tiktoken drops what a pattern leaves out, and the
# two libraries' regex engines differ, so equality is tested for each (tests/test_tokenizer.py).
GPT2_SPLIT = r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
LLAMA3_SPLIT = (
    r"""(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"""
    r"""| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"""
)
QWEN2_SPLIT = LLAMA3_SPLIT.replace(r"\p{N}{1,3}", r"\p{N}")
# SmolLM2 cuts out every digit first, and splits what lies between by GPT-2's pattern: there a digit ends
# the text, so spaces before it stay together and none goes with it. The digits come out of a newer
# Unicode than either regex engine has: thirteen of them are no \p{N} yet.
DIGIT = r"\p{N}\U00011de0-\U00011de9\U00016ff4-\U00016ff6"
SMOLLM2_SPLIT = rf"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{{L}}+|[{DIGIT}]| ?[^\s\p{{L}}{DIGIT}]+|\s+(?![^\s{DIGIT}])|\s+"""

# NFC in `tokenizers` is that of Unicode 9: the combining marks and composites of later versions are to it
# characters like any other, and nothing moves or joins across them. These ranges hold them all (up to
# Unicode 18), and beside them only characters that take no part in NFC.
AFTER_UNICODE_9 = re.compile(
    "([\u05c8\u05c9\u07fd\u0897-\u08d3\u09fe\u0c3c\u0d3b\u0d3c\u0eba\u1715\u1abf-\u1af0\u1df6-\u1dfa\ua82c"
    "\U000105c9-\U000105e4\U00010d24-\U00010f85\U00011070\U0001133b\U00011382-\U000113d0\U0001145e"
    "\U00011839-\U00011a99\U00011d42-\U0001612f\U00016d63-\U00016ff1\U0001d127\U0001d128"
    "\U0001d250-\U0001d281\U0001e08f-\U0001e6f5])"
)


@dataclass
class AddedToken:
    """A token that no merge makes: its id, its spelling, and how the file says to look for it in a text."""

    id: int
    text: str
    special: bool  # a control token, which a text is not allowed to contain
    normalized: bool  # looked for after NFC


class Tokenizer(tiktoken.Encoding):
    """A tiktoken.Encoding with the three things that it cannot say.

    NFC comes before the merges where the file asks for it. Added tokens that the file does not
    call special (NeoX's runs of spaces, Qwen's <think>) are vocabulary, and are found in any text;
    special ones only by `encode(text, allowed_special="all")`. `encode_ordinary` leaves their spelling text.
    SmolLM2 has no token for six control characters and for planes of Unicode that are not in use: from a text it leaves
    their bytes out.
    bos: ids that the file puts in front of every text (Llama 3), for plain prompts.
    """

    def __init__(self, name, pattern, ranks, added: list[AddedToken], nfc: bool, bos: list[int]):
        super().__init__(name, pat_str=pattern, mergeable_ranks=ranks, special_tokens={t.text: t.id for t in added})
        self.added, self.nfc, self.bos = added, nfc, bos
        self._lacking = frozenset(b for b in range(256) if bytes([b]) not in ranks)

        def finder(normalized):
            tokens = {self._normal(t.text) if normalized else t.text: t for t in added if t.normalized == normalized}
            longest_first = sorted(tokens, key=len, reverse=True)
            return re.compile("|".join(map(re.escape, longest_first)) or "(?!)"), tokens  # (?!) is found nowhere

        self._raw, self._after_nfc = finder(False), finder(True)

    def encode_ordinary(self, text: str) -> list[int]:
        return self._ids(text, frozenset())

    def encode(self, text, *, allowed_special=(), disallowed_special=()) -> list[int]:
        """As tiktoken's, but a special that is not allowed is text by default, and no error."""
        special = {t.text for t in self.added if t.special}
        allowed = special if allowed_special == "all" else set(allowed_special)
        for word in special - allowed if disallowed_special == "all" else disallowed_special:
            if word in text:
                raise ValueError(f"the text has {word!r}, which disallowed_special forbids")
        return self._ids(text, allowed)

    def _ids(self, text: str, allowed: set[str]) -> list[int]:
        out = []
        for piece, token in self._cut(text, *self._raw, allowed):
            for part, found in self._cut(self._normal(piece), *self._after_nfc, allowed):
                out += self._merged(part) + found
            out += token
        return out

    def _merged(self, text: str) -> list[int]:
        """tiktoken's ids. Bytes that have no token go after the text has been split and before it is merged."""
        if not self._lacking or self._lacking.isdisjoint(text.encode(errors="replace")):
            return super().encode_ordinary(text)
        # tiktoken does not tell where it splits, and `regex` knows letters and digits of a newer Unicode. So it is
        # shown, for every character beyond ASCII, another one of the kind that tiktoken takes it for.
        kinds = {"é": r"\p{L}", "²": f"[{DIGIT}]" if DIGIT in self._pat_str else r"\p{N}", "\u3000": r"\s"}
        alike = {c: next((one for one, kind in kinds.items() if _matches(kind, c)), "§") for c in set(text) if not c.isascii()}
        spans = [match.span() for match in regex.finditer(self._pat_str, "".join(alike.get(c, c) for c in text))]
        pieces = (text[a:b].encode(errors="replace") for a, b in spans)
        kept = (bytes(b for b in piece if b not in self._lacking) for piece in pieces)
        return [i for piece in kept if piece for i in self._encode_single_piece(piece)]

    @staticmethod
    def _cut(text: str, pattern, tokens, allowed):
        """(text, [id of the added token behind it]), …, (the rest, []).

        A special that is not allowed is found too, and passed over: no other begins inside it.
        """
        start = 0
        for match in pattern.finditer(text):
            token = tokens[match[0]]
            if not token.special or token.text in allowed:
                yield text[start : match.start()], [token.id]
                start = match.end()
        yield text[start:], []

    def _normal(self, text: str) -> str:
        if not self.nfc or text.isascii():
            return text
        return "".join(unicodedata.normalize("NFC", part) for part in AFTER_UNICODE_9.split(text))


@functools.cache
def _matches(pattern: str, text: str) -> bool:
    """Whether tiktoken's own regex engine finds the pattern: what it does not find makes no tokens."""
    one = {bytes([b]): b for b in range(256)}
    return bool(tiktoken.Encoding(pattern, pat_str=pattern, mergeable_ranks=one, special_tokens={}).encode_ordinary(text))


def load_tokenizer(folder) -> Tokenizer:
    """The tokenizer of a Hugging Face folder, from tokenizer.json, or vocab.json and merges.txt.

    Byte-level BPE as GPT-2, SmolLM2, GPT-NeoX, Llama 3, Qwen2/2.5/3 use it. Gives the ids of the
    `tokenizers` library. n_vocab: sample no id from there on. Raises DataError, with the reason,
    for a tokenizer whose ids would differ, and for damaged files.
    """
    folder = Path(folder)
    path = folder / "tokenizer.json"
    if path.exists():
        spec = _read_json(path)
    elif (folder / "vocab.json").exists() and (folder / "merges.txt").exists():
        path, spec = folder / "vocab.json", _slow_form(folder)
    else:
        raise DataError(f"{folder}: no tokenizer.json, and not both of vocab.json and merges.txt; copy the tokenizer's files there")
    try:
        return _tokenizer(spec, folder.name)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
        raise DataError(f"{path}: not laid out as a tokenizer ({type(error).__name__}: {error}); copy the file again") from error


def _read_json(path: Path) -> dict:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise DataError(f"{path}: not JSON ({error}); copy the file again") from None
    if not isinstance(value, dict):
        raise DataError(f"{path}: JSON, but no object; copy the file again")
    return value


def _slow_form(folder: Path) -> dict:
    """vocab.json, merges.txt and tokenizer_config.json in the form of a tokenizer.json."""
    config = _read_json(folder / "tokenizer_config.json") if (folder / "tokenizer_config.json").exists() else {}
    lines = (folder / "merges.txt").read_text(encoding="utf-8").splitlines()
    merges = [line for line in lines if line and not line.startswith("#version")]
    added = [{"id": int(i), **t} for i, t in config.get("added_tokens_decoder", {}).items()]
    if (folder / "added_tokens.json").exists():
        known = {t["id"] for t in added}
        more = _read_json(folder / "added_tokens.json")
        added += [{"id": i, "content": t, "special": True} for t, i in more.items() if i not in known]
    kind = config.get("tokenizer_class", "GPT2Tokenizer").removesuffix("Fast")
    if kind not in ("GPT2Tokenizer", "Qwen2Tokenizer"):
        raise DataError(f"{folder}: vocab.json and merges.txt do not say how a {kind} splits a text; give its tokenizer.json")
    qwen = kind == "Qwen2Tokenizer"
    split = {"type": "Split", "pattern": {"Regex": QWEN2_SPLIT}, "behavior": "Isolated", "invert": False}
    level = {"type": "ByteLevel", "add_prefix_space": bool(config.get("add_prefix_space")), "use_regex": not qwen}
    bos = config.get("bos_token") if config.get("add_bos_token") else None
    vocab = _read_json(folder / "vocab.json")
    ids = vocab | {t["content"]: t["id"] for t in added}
    front = [{"SpecialToken": {"id": token_text(bos)}}] if bos else []
    return {
        "normalizer": {"type": "NFC"} if qwen else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, level]} if qwen else level,
        "model": {"type": "BPE", "vocab": vocab, "merges": merges},
        "post_processor": {"type": "TemplateProcessing", "single": front + [{"Sequence": {"id": "A"}}],
                           "special_tokens": {token_text(bos): {"ids": [ids[token_text(bos)]]}} if bos else {}},
        # GPT-2's own end of text is in vocab.json, and made by no merge
        "added_tokens": added or [{"id": i, "content": t, "special": True} for t, i in vocab.items() if t == "<|endoftext|>"],
    }  # fmt: skip


def _tokenizer(spec: dict, name: str) -> Tokenizer:
    model = spec["model"]
    if model.get("type", "BPE") != "BPE":
        raise DataError(f"a {model['type']} model; only byte-level BPE can be represented")
    for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback", "fuse_unk"):
        if model.get(key):
            raise DataError(f"BPE with {key} = {model[key]!r} is not byte-level BPE as tiktoken computes it")
    vocab = model["vocab"]
    if set(vocab.values()) != set(range(len(vocab))):  # no limit on the ids would keep those in between out
        raise DataError(f"{len(vocab)} tokens in the vocabulary, and their ids are not 0 to {len(vocab) - 1}")
    added = _added_tokens(spec.get("added_tokens") or [], vocab)
    ranks, pairs = _ranks(vocab, model["merges"], {t.text: t.id for t in added})
    pattern = _split(spec.get("pre_tokenizer"))
    _check_bytes(ranks, model, pattern)
    _check_merges(ranks, pairs, whole=bool(model.get("ignore_merges")))
    nfc = _normalizer(spec.get("normalizer"))
    return Tokenizer(name, pattern, ranks, added, nfc, _bos(spec.get("post_processor")))


def _added_tokens(rows: list[dict], vocab: dict[str, int]) -> list[AddedToken]:
    """The added tokens. `tokenizers` ignores the ids that the file states: a token has its id of the
    vocabulary, or the next one free. A file that states another is refused, whichever its weights mean."""
    added, free = {}, len(vocab)
    for t in rows:
        text, special = t["content"], t.get("special", False)
        for key in ("single_word", "lstrip", "rstrip"):
            if t.get(key):
                raise DataError(f"the added token {text!r} has {key}, which changes the text around it")
        if not text or text in added:
            raise DataError(f"the added token {text!r} is empty, or there twice")
        if t["id"] != vocab.get(text, free):
            raise DataError(f"the added token {text!r} has the id {t['id']}, and `tokenizers` would give it {vocab.get(text, free)}")
        free += text not in vocab
        added[text] = AddedToken(t["id"], text, special, t.get("normalized", not special))
    return list(added.values())


def _ranks(vocab: dict[str, int], merges: list, added: dict[str, int]):
    """bytes -> id of the mergeable tokens, and {(left, right): which merge it is} in bytes.

    The file writes bytes as printable characters: those that are printable in Latin-1 as themselves, the
    others as U+0100, U+0101, … in order.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [b for b in range(256) if b not in printable]
    byte = {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(rest)}

    def to_bytes(token):
        return bytes(byte[c] for c in token)

    ranks = {}
    for token, i in vocab.items():
        if added.get(token) == i:
            continue  # an added token in the vocabulary: it is found as a whole, never by merging
        if not all(c in byte for c in token):
            raise DataError(f"the token {token!r} (id {i}) is no string of bytes: not byte-level BPE")
        ranks[to_bytes(token)] = i
    pairs = {}
    for i, merge in enumerate(merges):
        left, right = (to_bytes(x) for x in (merge.split(" ") if isinstance(merge, str) else merge))
        pairs.setdefault((left, right), i)
    return ranks, pairs


def _check_bytes(ranks: dict[bytes, int], model: dict, pattern: str) -> None:
    """DataError where a byte has no token and `tokenizers` would not leave it out as `Tokenizer._merged` does."""
    never = {0xC0, 0xC1, *range(0xF5, 0x100)}  # in UTF-8; NeoX has no tokens for them
    lacking = next((b for b in range(256) if b not in never and bytes([b]) not in ranks), None)
    if lacking is None:
        return
    for key in ("unk_token", "ignore_merges"):
        if model.get(key):
            raise DataError(f"no token for the byte 0x{lacking:02x}, and {key} = {model[key]!r}: what stands for it is not known here")
    if pattern not in (GPT2_SPLIT, SMOLLM2_SPLIT):
        raise DataError(f"no token for the byte 0x{lacking:02x}, and a text is not split as GPT-2 or SmolLM2 do it")


def _check_merges(ranks: dict[bytes, int], pairs: dict[tuple[bytes, bytes], int], whole: bool) -> None:
    """DataError unless tiktoken's BPE by ids equals the file's by merges, on every text.

    `tokenizers` joins the neighbours whose merge comes first in the list. tiktoken knows no list: it
    joins those whose *concatenation* has the lowest id, and looks up a whole word first. They agree
    if (1) later merges make higher ids, and (2) tiktoken's BPE of each token's own bytes takes only
    merges of the list, and ends in that token. (2) suffices for all texts: as long as no merge has crossed a
    token's borders, what happens inside does not depend on what is around it. whole: the file looks
    up whole words too (`ignore_merges`), so a token need not be the end of its own merges.
    """
    last, made = -1, None
    for left, right in sorted(pairs, key=pairs.get):
        if left + right not in ranks:
            raise DataError(f"the merge {left!r} {right!r} makes a token that is not in the vocabulary")
        if ranks[left + right] < last:
            raise DataError(f"the merge {left!r} {right!r} comes after {made!r} and has a lower id: merge order is not id order")
        last, made = ranks[left + right], left + right
    for token in ranks:
        parts = [token[i : i + 1] for i in range(len(token))]
        while len(parts) > 1:
            found = [(ranks[a + b], i) for i, (a, b) in enumerate(zip(parts, parts[1:])) if a + b in ranks]
            if not found:
                break
            i = min(found)[1]
            if (parts[i], parts[i + 1]) not in pairs:
                raise DataError(f"{parts[i]!r} {parts[i + 1]!r} make the token {parts[i] + parts[i + 1]!r}, and no merge says so")
            parts[i : i + 2] = [parts[i] + parts[i + 1]]
        if len(parts) > 1 and not whole:
            raise DataError(f"no merges lead to the token {token!r}, and tiktoken would use it")


def _normalizer(spec) -> bool:
    """Whether texts are brought to NFC; any other normalizer is refused."""
    steps = [] if spec is None else spec["normalizers"] if spec["type"] == "Sequence" else [spec]
    for step in steps:
        if step["type"] != "NFC":
            raise DataError(f"a {step['type']} normalizer; only NFC is applied here")
    return bool(steps)


def _split(spec) -> str:
    """The pattern that splits a text, out of the file's pre_tokenizer."""
    steps = [] if spec is None else spec["pretokenizers"] if spec["type"] == "Sequence" else [spec]
    if not steps or steps[-1]["type"] != "ByteLevel" or steps[-1].get("add_prefix_space", True):
        raise DataError("the pre-tokenizer must end in ByteLevel without add_prefix_space")
    *before, level = steps
    use_regex = level.get("use_regex", True)
    if not before and use_regex:
        return GPT2_SPLIT
    if len(before) == 1 and before[0]["type"] == "Digits" and before[0].get("individual_digits") and use_regex:
        return SMOLLM2_SPLIT
    if len(before) == 1 and before[0]["type"] == "Split" and not use_regex:
        step = before[0]
        pattern = step["pattern"].get("Regex")
        how = (step["behavior"], step.get("invert", False))
        if how == ("Isolated", False) or how == ("Removed", True):  # the same, for a pattern that covers any text
            if pattern in (GPT2_SPLIT, LLAMA3_SPLIT, QWEN2_SPLIT):
                return pattern
            raise DataError(f"splits a text by {pattern!r}, which is not known to give tiktoken's pieces")
    raise DataError(f"splits a text by {' and '.join(s['type'] for s in steps)} in a way that is not known here")


def _bos(spec) -> list[int]:
    """ids that the post-processor puts in front of a text; one that does more is refused."""
    steps = [] if spec is None else spec["processors"] if spec["type"] == "Sequence" else [spec]
    bos = []
    for step in steps:
        if step["type"] == "ByteLevel":
            continue  # offsets only
        if step["type"] != "TemplateProcessing":
            raise DataError(f"a {step['type']} post-processor is not known here")
        *front, text = step["single"]
        if "Sequence" not in text or any("SpecialToken" not in x for x in front):
            raise DataError("its post-processor puts something behind a text, where the answer would begin")
        bos += [i for x in front for i in step["special_tokens"][x["SpecialToken"]["id"]]["ids"]]
    return bos


# ------------------------------------------------------------------ chat templates


def token_text(token) -> str | None:
    """A token in tokenizer_config.json: its text, or an object that holds it."""
    return token["content"] if isinstance(token, dict) else token


@dataclass
class Turns:
    """How a model is spoken to: the three of Task's fields that depend on the model."""

    encode: Callable[[str], list[int]]  # a problem's text -> x1, with what precedes and follows it
    instruction: list[int]  # what stands between the EOS of y1 and y2, p1 in its midst
    eos: int  # what ends an answer


def wrap_turns(folder, tokenizer: Tokenizer, instruction: str) -> Turns:
    """The two turns in the words of the model's own chat template; plain text for a model without.

    instruction: p1. The template is rendered once, around stand-ins for the problem, the answer and p1.
    What surrounds a stand-in is cut at the nearest added tokens: these are ids, and what lies between is
    tokenised together with the problem (a newline may merge with its first character), as ordinary text,
    in which the spelling of a special token stays text. The answer's sampled ids are never touched.
    Raises DataError for a template that does not write a dialogue as a continuation of its prompt.
    """
    folder = Path(folder)
    path = folder / "tokenizer_config.json"
    config = _read_json(path) if path.exists() else {}
    try:
        template = _chat_template(folder, config)
        if template is None:
            return _plain_turns(tokenizer, token_text(config.get("eos_token")) or "<|endoftext|>", instruction)
        prompt, dialogue, strip = _render(template, config)
    except (jinja2.TemplateError, TypeError, KeyError, AttributeError) as error:
        raise DataError(f"{path}: the chat template fails on two turns: {type(error).__name__}: {error}") from None
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    behind = dialogue[len(prompt) + len(STAND_IN[1]) :]
    end = next((t for t in tokenizer.added if behind.startswith(t.text)), None)
    if end is None:
        raise DataError(f"{path}: the chat template writes {behind[:20]!r} behind an answer, which is no single token")
    trim = str.strip if strip else str
    around = _pieces(tokenizer, prompt, STAND_IN[0])
    asked = _pieces(tokenizer, behind[len(end.text) :], STAND_IN[2])
    return Turns(lambda text: _fill(tokenizer, around, trim(text)), _fill(tokenizer, asked, trim(instruction)), end.id)


def _plain_turns(tokenizer: Tokenizer, eos: str, instruction: str) -> Turns:
    end = next((t for t in tokenizer.added if t.text == eos), None)
    if end is None:
        raise DataError(f"eos_token {eos!r} is no token of this tokenizer; nothing would end an answer")
    return Turns(
        lambda text: tokenizer.bos + tokenizer.encode_ordinary(text), tokenizer.encode_ordinary(instruction), end.id
    )


STAND_IN = ("Qproblem5Q", "Qanswer6Q", "Qinstruction7Q")  # one word each, in no template


def _chat_template(folder: Path, config: dict) -> str | None:
    """The template's text; newer folders have it in a file of its own."""
    if (folder / "chat_template.jinja").exists():
        return (folder / "chat_template.jinja").read_text(encoding="utf-8")
    template = config.get("chat_template")
    if isinstance(template, list):  # several, by name
        template = {t["name"]: t["template"] for t in template}.get("default")
    return template


def _render(template: str, config: dict) -> tuple[str, str, bool]:
    """The prompt of turn 1, the dialogue up to turn 2, both with stand-ins; whether messages are stripped."""

    def fail(message):
        raise jinja2.TemplateError(message)

    # A template is a program out of a downloaded folder: in the sandbox it reads its arguments and no more.
    # No clock among them (`strftime_now`): a prompt of today must be one of tomorrow.
    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
    env.globals["raise_exception"] = fail
    env.filters["tojson"] = lambda x, indent=None: json.dumps(x, ensure_ascii=False, indent=indent)
    compiled = env.from_string(template)
    specials = {k: token_text(v) for k, v in config.items() if k.endswith("_token") and v}

    def render(*texts):
        messages = [{"role": role, "content": x} for role, x in zip(("user", "assistant", "user"), texts)]
        # `tools` and `documents` as `transformers` passes them: some templates ask whether they are none
        return compiled.render(messages=messages, tools=None, documents=None, add_generation_prompt=True, **specials)

    prompt, dialogue = render(STAND_IN[0]), render(*STAND_IN)
    if prompt.count(STAND_IN[0]) != 1 or not dialogue.startswith(prompt + STAND_IN[1]) or dialogue.count(STAND_IN[2]) != 1:
        raise DataError("the chat template's second turn does not go on from its first: sampled ids could not stay as they are")
    spaced = render(f" {STAND_IN[0]}\n")
    if spaced not in (prompt, prompt.replace(STAND_IN[0], f" {STAND_IN[0]}\n")):
        raise DataError("the chat template changes the text of a message")
    return prompt, dialogue, spaced == prompt


def _pieces(tokenizer: Tokenizer, text: str, stand_in: str) -> tuple[list[int], str, str, list[int]]:
    """A rendered text as ids, ordinary text, [the stand-in], ordinary text, ids."""
    before, after = text.split(stand_in)
    words = "|".join(re.escape(t.text) for t in sorted(tokenizer.added, key=lambda t: -len(t.text)) if t.special)
    found = list(re.finditer(words, before)) if words else []
    cut = found[-1].end() if found else 0
    match = re.search(words, after) if words else None
    stop = match.start() if match else len(after)
    ids = [tokenizer.encode(x, allowed_special="all") for x in (before[:cut], after[stop:])]
    return ids[0], before[cut:], after[:stop], ids[1]


def _fill(tokenizer: Tokenizer, pieces, text: str) -> list[int]:
    head, left, right, tail = pieces
    return head + tokenizer.encode_ordinary(left + text + right) + tail
