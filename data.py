"""Problems, prompts and tasks: everything about a task except the model.

A `Task` says where the problems come from, how a dialogue becomes token ids, and which verifier gives the reward.
Two tasks are embedded: they need no download, and a laptop trains on them in minutes. The other tasks are published
problems (MATH, GSM8K, MBPP, HumanEval) for a Hugging Face model. The README shows how to add one of your own.

**The embedded task "false-position".** Find the start of a chain of additions from its end. The name is that of the
ancient method: guess a start, carry out the steps, see how far off the end is, and correct the guess by that.

    prompt        ?+7-2+5=16:              ? is the unknown start, 16 the target
    answer        4,11,9,14;-2             the guess, the value after each step; how far the end is from the target
    instruction   <|There might be an error in the answer above. Correct it, if any.|>
    correction    6,13,11,16;0

The task is self-correction in miniature. To find the start, the model must add up all steps before its first token.
To check an answer, it adds one step at a time, in writing; and a wrong answer contains what the right one needs.
No oracle helps at test time: `;-2` is the model's own arithmetic, and can be wrong.

A dialogue as ids, with the three-valued mask under them: 0 for prompt and instruction, 1 and 2 for the answers.
The last token of an answer is EOS. Digits and signs are bytes; 10..99 are one token each (id 256 + n); EOS is 356 and
the instruction 357:

>>> task = make_task("false-position")
>>> ids, turn = encode_dialogue(task, "?+7-2+5=16:", ["4,11,9,14;-2", "6,13,11,16;0"])
>>> ids  # doctest: +NORMALIZE_WHITESPACE
[63, 43, 55, 45, 50, 43, 53, 61, 272, 58, 52, 44, 267, 44, 57, 44, 270, 59, 45, 50, 356,
 357, 54, 44, 269, 44, 267, 44, 272, 59, 48, 356]
>>> turn
[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2]
"""

import dataclasses
import itertools
import json
import random
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import tiktoken

import verify
from chat import DataError, load_tokenizer, wrap_turns


@dataclass
class Problem:
    """One x of D, and what the task's verifier needs to judge an answer to it."""

    prompt: str
    gold: object = None  # y*: the model never sees it. None: unknown; every answer then gets reward 0
    id: str = ""  # for messages and logs: "MBPP/601"
    first: str | None = None  # a first answer from elsewhere: the policy only writes the second


@dataclass
class Task:
    """What training and evaluation need to know about a kind of problem."""

    problems: Callable[[str, int, random.Random | None], list[Problem]]  # (split, n, rng) -> n problems
    rewards: Callable[[list[Problem], list[str]], list[float]]  # the verifier: r(y, y*) in {0, 1} of each answer
    read: Callable[[str], Problem]  # a problem as a user types it; raises DataError
    ask: Callable[[str], list[int]]  # a prompt -> x1, with the tokens of the chat template around it
    encode: Callable[[str], list[int]]
    decode: Callable[[list[int]], str]
    instruction: list[int]  # p1, with the template's tokens between two turns
    stops: list[int]  # each of these ids ends an answer; stage 0 teaches the first one
    close: list[int]  # follows an answer that was cut at the length limit, as context
    n_tokens: int  # size of the tokenizer: only ids below can be drawn
    max_new: int  # longest answer in tokens, the stop included
    dialogue: Callable[[Problem, random.Random], tuple[str, str]] | None = None  # two answers for stage 0's corpus
    pairs: bool = False  # the base model was trained on two-answer dialogues: attempt i + 1 then sees only attempt i
    splits: dict[str, list[Problem]] = field(default_factory=dict)  # of published problems; embedded ones are drawn
    note: str = ""  # one line that the user should read before training


# ------------------------------------------------------------------ the embedded tokenizer

EOS, INSTRUCTION = "<|eos|>", "<|There might be an error in the answer above. Correct it, if any.|>"


def embedded_tokenizer() -> tiktoken.Encoding:
    """Build the tokenizer of the embedded tasks: bytes, one token per pair of digits, two special tokens.

    A number of one or two digits is one token; a longer one is split into pairs from the right.
    The paper's instruction p1 is one special token.
    """
    ranks = {bytes([i]): i for i in range(256)} | {b"%02d" % i: 256 + i for i in range(100)}
    return tiktoken.Encoding(
        "score-embedded",
        pat_str=r"\d\d(?=(?:\d\d)*(?!\d))|\d|\D",
        mergeable_ranks=ranks,
        special_tokens={EOS: 356, INSTRUCTION: 357},
    )


def encode_dialogue(task: Task, prompt: str, answers: list[str]) -> tuple[list[int], list[int]]:
    """Return a dialogue as ids and its mask: 0 for prompt and instructions, i for the tokens of answer i."""
    ids = task.ask(prompt)
    turn = [0] * len(ids)
    for i, answer in enumerate(answers, 1):
        if i > 1:
            ids = ids + task.instruction
            turn = turn + [0] * len(task.instruction)
        answer_ids = task.encode(answer) + task.stops[:1]
        ids = ids + answer_ids
        turn = turn + [i] * len(answer_ids)
    return ids, turn


# ------------------------------------------------------------------ the task "false-position"

STEPS, TOP = 3, 49  # steps per problem; all values are in 0..TOP
SMALL, LARGE, LARGE_SHARE = range(1, 10), range(10, 30), 0.1  # sizes of a step; how often it is a large one
RIGHT, SPREAD, DOUBT, REPEAT = 0.8, 9, 0.8, 0.8  # the corpus: see `draw_answers`
STEP = r"[+-]\d\d?"  # a step, written


def position_values(steps: list[int], start: int) -> list[int] | None:
    """Return start and the value after each step; None if a value leaves 0..TOP."""
    values = list(itertools.accumulate(steps, initial=start))
    return values if all(0 <= v <= TOP for v in values) else None


def position_answer(steps: list[int], start: int, target: int) -> str | None:
    """Write the attempt that begins with `start`: '4,11,9,14;-2'; None if a value leaves 0..TOP."""
    values = position_values(steps, start)
    return values and ",".join(map(str, values)) + f";{values[-1] - target}"


def signed(numbers: list[int]) -> str:
    """Write [7, -2] as '+7-2'."""
    return "".join(f"{n:+d}" for n in numbers)


def steps_of(text: str) -> list[int]:
    """Return the numbers with a sign in a text: [7, -2] of '5>23,x?+7-2:'."""
    return [int(number) for number in re.findall(STEP, text)]


def read_position(text: str) -> Problem:
    """Parse '?+7-2+5=16' into a Problem with gold (steps, target); raises DataError."""
    text = re.sub(r"\s", "", text).removesuffix(":")
    match = re.fullmatch(rf"\?{STEP * STEPS}=(\d\d?)", text, re.ASCII)
    steps = steps_of(text)
    if not match or not all(1 <= abs(step) <= LARGE[-1] for step in steps) or int(match[1]) > TOP:
        limits = f"{STEPS} steps of 1 to {LARGE[-1]}, and a target of 0 to {TOP}"
        raise DataError(f"{text!r} is not a problem of this task; write one like '?+7-2+5=16', with {limits}")
    return Problem(f"{text}:", (steps, int(match[1])))


def split_of(prompt: str) -> str:
    """Return train (90 %), val or test by a hash of the prompt: the same on every machine."""
    bucket = zlib.crc32(prompt.encode()) % 20
    return {0: "test", 1: "val"}.get(bucket, "train")


def draw_problems(draw: Callable, split: str, n: int, rng: random.Random) -> list[Problem]:
    """Call draw(rng) until n of the problems are of the split; a draw may return None."""
    problems = []
    while len(problems) < n:
        problem = draw(rng)
        if problem is not None and split_of(problem.prompt) == split:
            problems.append(problem)
    return problems


def draw_position(rng: random.Random) -> Problem | None:
    """Draw a problem; None if its values leave 0..TOP.

    Large steps are rare, so the model has hardly learned them when it is already sure of the small ones.
    This matters. If all problems are equally hard, a base model that solves most of them is unsure of every one, and
    each update of Stage I and II flips some of its best guesses (results/README.md).
    """
    sizes = [LARGE if rng.random() < LARGE_SHARE else SMALL for _ in range(STEPS)]
    steps = [rng.choice((1, -1)) * rng.choice(size) for size in sizes]
    values = position_values(steps, rng.randint(0, TOP))
    return values and Problem(f"?{signed(steps)}={values[-1]}:", (steps, values[-1]))


def position_dialogue(problem: Problem, rng: random.Random) -> tuple[str, str]:
    """Draw two answers for the corpus of stage 0; each starts from a number that `draw_answers` chooses."""
    steps, target = problem.gold
    return draw_answers(target - sum(steps), lambda start: position_answer(steps, start, target), rng)


def draw_answers(good: int, answer: Callable[[int], str | None], rng: random.Random) -> tuple[str, str]:
    """Draw two answers for the corpus of stage 0: the attempts answer(number), of which answer(good) is right.

    A first attempt, and a fresh one, takes the right number with probability RIGHT, else one up to SPREAD away. Its
    arithmetic is right, so the number after `;` is correct even in a wrong answer.
    A second answer does not depend on whether the first was right. People doubt round numbers, which look guessed: if the
    first number is a multiple of five, they take the next such number with probability DOUBT. Otherwise they repeat their
    answer with probability REPEAT, or make a fresh attempt. So the base model spoils right answers, as the paper's do, and
    corrects wrong ones only by luck: it does not know when it should change an answer.
    """
    wrong = [n for n in range(good - SPREAD, good + SPREAD + 1) if n != good and answer(n)]

    def attempt() -> int:
        return good if rng.random() < RIGHT or not wrong else rng.choice(wrong)

    first = attempt()
    if first % 5 == 0 and rng.random() < DOUBT and answer(first + 5):
        second = first + 5
    else:
        second = first if rng.random() < REPEAT else attempt()
    return answer(first), answer(second)


# ------------------------------------------------------------------ the task "code"
#
# Program sketching. The prompt shows a call, its result, and a program with a hole. The answer is a program in Python,
# which unit tests judge.
#
#     prompt        5>23,x?+7-2:              f(5) is 23; `f=lambda x:` comes before an answer; ? is the hole
#     answer        x+11+7-2#16,23,21;-2      a program; the comment has its values for x=5, and how far the end is off
#     correction    x+13+7-2#18,25,23;0
#
# This is false position in a language that can be run. The comment is the model's own working, and nobody judges it.
# The function is judged by the call that is shown and by held-out ones, so a program that only repeats the shown call
# fails.

HOLE = range(41)  # numbers that may fill the hole
# Inputs of the held-out tests. They are few, because each call is a round trip into the sandbox.
HELD_OUT = (-2, 0, 31, 50, 997)


def code_answer(x: int, steps: list[int], hole: int, y: int) -> str | None:
    """Write the program with its comment; None if the number does not fit the hole, or a value leaves 0..TOP."""
    working = position_answer(steps, x + hole, y)
    return f"x{signed([hole, *steps])}#{working}" if hole in HOLE and working else None


def code_problem(x: int, y: int, steps: list[int]) -> Problem:
    """Build the problem whose call f(x) gives y. The shown call is tested first: most wrong programs fail there."""
    tests = [f"assert f({z}) == {z - x + y}" for z in (x, *HELD_OUT)]
    return Problem(f"{x}>{y},x?{signed(steps)}:", {"tests": tests, "timeout": 2.0})


def parts_of(prompt: str) -> tuple[int, int, list[int]] | None:
    """Parse '5>23,x?+7-2:' into (x, y, steps) = (5, 23, [7, -2]); None for another text."""
    match = re.fullmatch(rf"(\d\d?)>(\d\d?),x\?{STEP * (STEPS - 1)}:?", prompt, re.ASCII)
    return match and (int(match[1]), int(match[2]), steps_of(prompt))


def read_code(text: str) -> Problem:
    """Parse '5>23,x?+7-2' into a Problem; raises DataError."""
    text = re.sub(r"\s", "", text)
    x, y, steps = parts_of(text) or (0, 0, [])
    known = all(1 <= n <= LARGE[-1] for n in (x, *map(abs, steps)))
    if not known or code_answer(x, steps, y - x - sum(steps), y) is None:
        limits = f"numbers of 1 to {LARGE[-1]}, at most {HOLE[-1]} in the hole, and values of 0 to {TOP}"
        raise DataError(f"{text!r} is not a problem of this task; write one like '5>23,x?+7-2', with {limits}")
    return code_problem(x, y, steps)


def draw_code(rng: random.Random) -> Problem | None:
    """Draw a problem; None if its values leave 0..TOP."""
    x, *sizes = (rng.choice(LARGE if rng.random() < LARGE_SHARE else SMALL) for _ in range(STEPS))
    steps, hole = [rng.choice((1, -1)) * size for size in sizes], rng.choice(HOLE)
    y = x + hole + sum(steps)
    return code_problem(x, y, steps) if code_answer(x, steps, hole, y) else None


def code_dialogue(problem: Problem, rng: random.Random) -> tuple[str, str]:
    """Draw two answers for the corpus of stage 0; each fills the hole with a number that `draw_answers` chooses."""
    x, y, steps = parts_of(problem.prompt)
    return draw_answers(y - x - sum(steps), lambda hole: code_answer(x, steps, hole, y), rng)


# ------------------------------------------------------------------ published problems: files
#
# JSON Lines as they are published. Nothing is downloaded, and none of it is part of this project.

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
# These four are the paper's words (App. C). It does not say how they are joined to a problem: that part is ours.

SHOTS = (2, 3, 4)  # the MBPP tasks of the 3-shot prompt
MBPP_SPLITS = {"test": range(11, 511), "val": range(511, 601), "train": range(601, 975)}  # by task_id, as published


def read_rows(path, **fields: type) -> list[dict]:
    r"""Read the objects of a JSON Lines file; line ends inside texts become \n (MBPP has \r\n).

    fields: the ones that each row must have: name=str (not blank), name=int, or name=list (of texts, not empty).
    Each row gets its line number as row["#"]. Raises DataError, one line with file, line number and field.
    """
    try:
        lines = Path(path).read_bytes().removeprefix(b"\xef\xbb\xbf").splitlines()  # of bytes: U+2028 ends no line
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; give the path of a JSON Lines file") from None
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        place = f"{path}:{number}"
        try:
            row = json.loads(line.decode())
            json.dumps(row, ensure_ascii=False).encode()  # fails for half of a surrogate pair: it is no text
        except (ValueError, RecursionError) as error:  # cut off, not UTF-8, or nested too deep
            reason = str(error).splitlines()[0][:80]
            raise DataError(f"{place}: not a whole JSON object ({reason}); copy the file again, or fix it") from None
        if not isinstance(row, dict):
            raise DataError(f"{place}: a JSON {type(row).__name__}, not an object; write one object per line")
        row = {name: _unix_newlines(value) for name, value in row.items()}
        for name, kind in fields.items():
            check_field(place, row, name, kind)
        rows.append(row | {"#": number})
    if not rows:
        raise DataError(f"{path}: has no rows; the file may not have been written yet: copy it again")
    return rows


def _unix_newlines(value):
    if isinstance(value, list):
        return [_unix_newlines(v) for v in value]
    return value.replace("\r\n", "\n") if isinstance(value, str) else value


def check_field(place: str, row: dict, name: str, kind: type) -> None:
    """Raise DataError unless row[name] is a text that is not blank, a whole number, or a list of such texts."""
    if name not in row:
        names = ", ".join(map(repr, row))[:120]
        raise DataError(f"{place}: field {name!r} is missing, the row has {names}; check that this is the right file")
    value = row[name]
    texts = {str: [value], list: value, int: ["-"]}[kind]
    if type(value) is not kind or not texts or not all(type(text) is str and text.strip() for text in texts):
        wanted = {str: "a text that is not blank", int: "a whole number", list: "a list of texts, not empty"}[kind]
        raise DataError(f"{place}: field {name!r} is {str(value)[:40]!r}, but must be {wanted}; fix or remove the line")


def read_problems(path, task: Task) -> list[Problem]:
    """Read a JSON Lines file with one {"prompt": "?+7-2+5=16"} per line; raises DataError with file and line."""
    problems = []
    for row in read_rows(path, prompt=str):
        try:
            problems.append(task.read(row["prompt"]))
        except DataError as error:
            raise DataError(f"{path}:{row['#']}: prompt: {error}") from None
    return problems


def math_prompt(problem: str) -> str:
    """Return the first turn: the paper's words end in "the final Problem", so the problem is called that."""
    return f"{MATH_FIRST}\n\nProblem:\n{problem}\n\nSolution:\n"


def load_math(path) -> list[Problem]:
    r"""Load MATH, MATH500 or a file like it: `problem`, and `answer` or a `solution` with a \boxed answer.

    Two problems of MATH's training split have an empty answer: they are kept, and no answer is right.
    """
    problems = []
    for row in read_rows(path, problem=str):
        answer = row["answer"] if "answer" in row else verify.extract_answer(str(row.get("solution")))
        if type(answer) in (int, float):  # "answer": 204
            answer = str(answer)
        if not isinstance(answer, str):
            raise DataError(f"{path}:{row['#']}: neither field 'answer' nor 'solution' has an answer; fix or remove it")
        id = str(row.get("unique_id") or f"{Path(path).stem}/{row['#']}")
        problems.append(Problem(math_prompt(row["problem"]), answer, id))
    return problems


def load_gsm8k(path) -> list[Problem]:
    """Load GSM8K: `question`, and `answer` whose last line is '#### 72'. The prompt is that of MATH (our choice)."""
    problems = []
    for row in read_rows(path, question=str, answer=str):
        _, mark, gold = row["answer"].rpartition("####")
        if not mark or not gold.strip():
            raise DataError(f"{path}:{row['#']}: field 'answer' has no line '#### number'; fix or remove the line")
        problems.append(Problem(math_prompt(row["question"]), gold.strip(), f"{Path(path).stem}/{row['#']}"))
    return problems


def load_mbpp(path) -> list[Problem]:
    """Load MBPP, full (`text`) or sanitized (`prompt`), with the paper's 3-shot prompt, which shows the tests.

    Tasks 2, 3 and 4 are the shots, and must be in the file. Tasks that belong to no split are left out.
    """
    by_id = {}
    for row in read_rows(path, task_id=int, code=str, test_list=list):
        place, name = f"{path}:{row['#']}", "prompt" if "prompt" in row else "text"
        check_field(place, row, name, str)
        setup = [row["test_setup_code"]] if row.get("test_setup_code") else row.get("test_imports", [])
        if not isinstance(setup, list) or not all(isinstance(line, str) for line in setup):
            raise DataError(f"{place}: field 'test_imports' or 'test_setup_code' is not text; fix or remove the line")
        row["setup"] = "\n".join(setup)
        row["shown"] = {"text": row[name], "tests": "\n".join(row["test_list"])}
        if by_id.setdefault(row["task_id"], row) is not row:
            raise DataError(f"{place}: field 'task_id': a second row {row['task_id']}; remove one of them")
    missing = [i for i in SHOTS if i not in by_id]
    if missing:
        raise DataError(f"{path}: field 'task_id': no row {missing[0]} for the 3-shot prompt; give the whole file")
    shots = "".join(CODE_FIRST.format(**by_id[i]["shown"], code=by_id[i]["code"]) + "\n" for i in SHOTS)
    question = CODE_FIRST.partition("{code}")[0]
    problems = []
    for i, row in sorted(by_id.items()):
        if any(i in ids for ids in MBPP_SPLITS.values()):
            gold = {"tests": row["test_list"], "setup": row["setup"]}
            problems.append(Problem(shots + question.format(**row["shown"]), gold, f"MBPP/{i}"))
    return problems


def mbpp_split(problem: Problem) -> str:
    """Return the published split of an MBPP problem."""
    number = int(problem.id.removeprefix("MBPP/"))
    return next(split for split, ids in MBPP_SPLITS.items() if number in ids)


def load_humaneval(path) -> list[Problem]:
    """Load HumanEval, zero-shot: the prompt is the head of the function; its tests are not shown.

    An answer continues the prompt, or is a whole program.
    """
    problems = []
    for row in read_rows(path, task_id=str, prompt=str, entry_point=str, test=str):
        name = row["entry_point"]
        if not re.search(rf"(?m)^def {re.escape(name)}\b", row["prompt"]):
            raise DataError(f"{path}:{row['#']}: field 'prompt' does not define the entry_point {name[:40]!r}; "
                            "fix or remove the line")  # fmt: skip
        gold = {"tests": row["test"], "setup": row["prompt"], "entry_point": name}
        problems.append(Problem(row["prompt"], gold, row["task_id"]))
    return problems


def load_first_attempts(path, problems: list[Problem]) -> list[Problem]:
    r"""Load first answers of another model to `problems`: offline repair, the form of MBPP-R.

    One answer per line: {"id": "MBPP/601", "first": "def max_chain_length(arr, n):\n ..."}, `id` as in Problem.
    A problem with several answers occurs several times in the result, one without answers does not occur.
    """
    by_id, repairs = {p.id: p for p in problems}, []
    for row in read_rows(path, id=str, first=str):
        if row["id"] not in by_id:
            raise DataError(f"{path}:{row['#']}: field 'id': no problem is called {row['id'][:40]!r}, but one is "
                            f"called {next(iter(by_id), '')!r}; give the file that the answers belong to")  # fmt: skip
        repairs.append(dataclasses.replace(by_id[row["id"]], first=row["first"]))
    return repairs


# ------------------------------------------------------------------ tasks


def embedded_task(name: str, draw, read, dialogue, rewards, max_new: int) -> Task:
    """Return a Task in the ids of the embedded tokenizer, without a chat template.

    Without rng, its problems are the same ones every time: `name` is the seed.
    """
    tokenizer = embedded_tokenizer()
    return Task(
        problems=lambda split, n, rng=None: draw_problems(draw, split, n, rng or random.Random(f"{name}, {split}")),
        rewards=rewards,
        read=read,
        ask=tokenizer.encode_ordinary,
        encode=tokenizer.encode_ordinary,  # text that looks like a special token stays text
        decode=tokenizer.decode,
        instruction=[tokenizer.encode_single_token(INSTRUCTION)],
        stops=[tokenizer.encode_single_token(EOS)],
        close=[],
        n_tokens=tokenizer.n_vocab,
        max_new=max_new,
        dialogue=dialogue,
        pairs=True,
    )


# max_new: STEPS + 1 values with commas, ';', a sign, a number, EOS; a program adds its own terms
POSITION = embedded_task(
    "false position", draw_position, read_position, position_dialogue, verify.position_rewards, 2 * STEPS + 5
)
CODE = embedded_task("code", draw_code, read_code, code_dialogue, verify.code_rewards, 4 * STEPS + 5)
TASKS = {"false-position": POSITION, "code": CODE}


@dataclass
class Published:
    """A kind of problem in files, for a Hugging Face model."""

    load: Callable[[Path], list[Problem]]
    rewards: Callable[[list[Problem], list[str]], list[float]]
    instruction: str  # p1, between the two answers
    prompt: Callable[[str], str] = str  # a typed problem -> the prompt that the model sees
    split: Callable[[Problem], str] | None = None  # the split that a problem was published in


PUBLISHED = {
    "math": Published(load_math, verify.answer_rewards, MATH_SECOND, math_prompt),
    "gsm8k": Published(load_gsm8k, verify.answer_rewards, MATH_SECOND, math_prompt),
    "mbpp": Published(load_mbpp, verify.mbpp_rewards, CODE_SECOND, split=mbpp_split),
    "humaneval": Published(load_humaneval, verify.humaneval_rewards, CODE_SECOND),
}

# "A task of your own" in README.md adds an entry here.


def make_task(name: str, model="", data="", eval_data="", max_new: int = 512) -> Task:
    """Return an embedded task, or with `model`, a Hugging Face folder, a task of published problems.

    data: the file to train on. eval_data: the file to evaluate on; its problems are removed from training. Without it,
    `data` is split into train, val and test (MBPP by task_id, as published; the others by `split_of`).
    max_new: longest answer of published problems in tokens. Raises DataError for files that cannot be used.
    """
    names = PUBLISHED if model else TASKS
    if name not in names:
        condition = "with" if model else "without"
        raise DataError(f"--task is {name!r}, but {condition} --model it must be one of {', '.join(names)}")
    if not model:
        return TASKS[name]
    kind, tokenizer = PUBLISHED[name], load_tokenizer(model)
    turns = wrap_turns(model, tokenizer, kind.instruction)
    splits = load_splits(kind, data, eval_data)

    def problems(split, n, rng=None):
        """Without rng: the first n, in the order of the file."""
        if rng is None:
            return splits[split][:n]
        return rng.sample(splits[split], n) if n <= len(splits[split]) else rng.choices(splits[split], k=n)

    def rewards(problems, answers):
        known = [i for i, problem in enumerate(problems) if problem.gold is not None]
        judged = kind.rewards([problems[i] for i in known], [answers[i] for i in known])
        by_index = dict(zip(known, judged, strict=True))
        return [by_index.get(i, 0.0) for i in range(len(answers))]

    return Task(
        problems=problems,
        rewards=rewards,
        read=lambda text: Problem(kind.prompt(checked_text(text)), id="typed"),
        ask=turns.encode,
        encode=tokenizer.encode_ordinary,
        decode=tokenizer.decode_answer,
        instruction=turns.instruction,
        stops=turns.stops,
        close=turns.close,
        n_tokens=tokenizer.n_vocab,
        max_new=max_new,
        splits=splits,
        note=turns.note,
    )


def checked_text(text: str) -> str:
    """Return the text; DataError if it is blank, or holds half of a surrogate pair, which has no UTF-8."""
    if not text.strip() or any("\ud800" <= c <= "\udfff" for c in text):
        raise DataError(f"{text[:40]!r} is not a problem; write it in words")
    return text


def load_splits(kind: Published, path, eval_path) -> dict[str, list[Problem]]:
    """Return the problems of each split; DataError if one is empty. Without `path`, there is nothing to train on."""
    splits = {"train": [], "val": [], "test": []}
    for problem in kind.load(path) if path else []:
        split = "train" if eval_path else split_of(problem.prompt)
        splits[kind.split(problem) if kind.split else split].append(problem)
    if eval_path:
        held_out = [p for p in kind.load(eval_path) if kind.split is None or kind.split(p) == "test"]
        prompts = {problem.prompt for problem in held_out}
        splits["train"] = [problem for problem in splits["train"] if problem.prompt not in prompts]
        splits["val"] = splits["test"] = held_out
    for split, problems in splits.items():
        if not problems and (path or split != "train"):
            raise DataError(f"{path or eval_path}: no problem is left for {split}; give a larger file, or --eval_data")
    return splits


def drop_long(task: Task, n_ctx: int, turns: int = 2) -> tuple[int, str]:
    """Leave out the published problems whose dialogue may outgrow n_ctx tokens.

    Returns the longest dialogue that remains, in tokens, and one line that names what was left out ("" if nothing).
    Raises DataError if a split loses all of its problems.
    """
    answers = turns * task.max_new + (turns - 1) * len(task.close + task.instruction)
    room, longest, dropped = n_ctx - answers, 0, {}  # dropped: a dict keeps the order, and no problem twice
    for split, problems in task.splits.items():
        kept = []
        for problem in problems:
            length = len(task.ask(problem.prompt))
            if length > room:
                dropped[problem.id] = length
            else:
                kept.append(problem)
                longest = max(longest, length)
        if problems and not kept:
            limits = f"--n_ctx {n_ctx} and --max_new {task.max_new}"
            raise DataError(f"{limits} leave {room} tokens for a problem, too few for all of {split}; change the two")
        task.splits[split] = kept
    if not dropped:
        return longest + answers, ""
    names = ", ".join(list(dropped)[:20]) + (", …" if len(dropped) > 20 else "")
    count = f"{len(dropped)} problem{'s are' if len(dropped) > 1 else ' is'} left out, longer than the {room} tokens"
    return longest + answers, f"{count} that --n_ctx {n_ctx} and --max_new {task.max_new} leave: {names}"
