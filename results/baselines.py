"""STaR and Pair-SFT: the supervised baselines of the paper's Table 1, on the same rollouts and updates as RL.

    python results/baselines.py --method star --keep_right --base runs/default/stage0.pt --folder runs/star
    python results/baselines.py --method pairs --stage2_lr 5e-6 --base runs/default/stage0.pt --folder runs/pairs
    python results/baselines.py --method star --keep_right --stage2_steps 500 --base runs/default/stage0.pt \\
        --start runs/default/stage1.pt --folder runs/star-after-stage1          STaR instead of REINFORCE in Stage II

Both sample two answers to each problem, keep some of the dialogues, and imitate the right answers in them:

    STaR, D        dialogues (wrong, right) that the model sampled
    Pair-SFT, D    a sampled wrong first answer, and any right answer to the same problem as the second, drawn at random
    D⁺             D, and also (right, right): --keep_right

STaR has three rounds. Each round collects with the model of the round before, and starts again from the first weights:
otherwise errors would accumulate. Pair-SFT has one round, and ends after one epoch, as in the paper. The paper does not
say which answers of a dialogue are imitated. Ours: the right ones. In D it is the second, in (right, right) both.

The run folder is that of train.py: the same command resumes, and stage2.pt is read by evaluate.py and train.py.
Laptop models in float32 only, on one process or several (torchrun).
"""

import argparse
import contextlib
import dataclasses
import json
import random
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import data  # noqa: E402
import evaluate  # noqa: E402
import rollout  # noqa: E402
import score  # noqa: E402
import train  # noqa: E402
from model import GPT, UserError, load_model, save_checkpoint, write_file  # noqa: E402
from runtime import (  # noqa: E402
    Recorder, Stopped, all_sum, check_ranks_agree, check_settings, clip_gradient, device_of, distribute, from_rank0,
    listen_for_signals, lock, processes, rank, remembered, say, sum_gradients, update_average, use_cores,
    whole_optimizer, whole_weights, world_size,
)  # fmt: skip
from train import setting  # noqa: E402


# ------------------------------------------------------------------ settings


@dataclass
class Settings(train.Settings):
    """Those of train.py. The first two are new, the next ones have another default."""

    method: str = setting("star", "star or pairs (Pair-SFT)", "2")
    keep_right: bool = setting(False, "D⁺: also keep dialogues whose first answer is right", "2")
    stage: int = setting(2, "")
    stage1_steps: int = setting(0, "", "2")
    stage2_steps: int = setting(800, "steps of rollouts, and updates: as many as Stage I and II have together", "2")
    stage2_lr: float = setting(2e-4, "learning rate of Adam; D needs a lower one (5e-6)", "2")


# The settings that this program reads. A flag of RL, such as --alpha, is refused.
FLAGS = (
    "method keep_right folder base start task seed stage2_steps stage2_lr warmup problems attempts siblings "
    "temperature average device micro_batch sample_batch save_every eval_problems eval_every"
).split()
ROUNDS = {"star": 3, "pairs": 1}


def parse(argv=None) -> Settings:
    """Parse the command line; a wrong value ends the program with one line."""
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=layout, allow_abbrev=False)
    fields = {f.name: f for f in dataclasses.fields(Settings)}
    for name in FLAGS:
        f = fields[name]
        kind = dict(action="store_true") if f.type is bool else dict(type=f.type, metavar=f.type.__name__)
        text = f.metadata["help"] + (f" (default: {f.default})" if kind.get("type") and f.default != "" else "")
        parser.add_argument(f"--{name}", default=f.default, help=text, **kind)
    s = Settings(**vars(parser.parse_args(argv)))
    try:
        train.check(s)
    except UserError as error:
        parser.error(str(error))
    if s.method not in ROUNDS:
        parser.error(f"--method is {s.method!r}, and must be one of {', '.join(ROUNDS)}")
    if not s.base:
        parser.error("--base FILE is missing: the base model, for example runs/default/stage0.pt of train.py")
    return s


# ------------------------------------------------------------------ what is imitated


def select(s: Settings, batch: evaluate.Batch, rng: random.Random) -> list[tuple[list[int], list[int]]]:
    """Return the dialogues of a batch that are imitated: ids, and turn (0 for every token that is not imitated)."""
    drawn, r = batch.rollouts, batch.rewards.bool().tolist()
    rows, start, stop = drawn.ids.tolist(), drawn.start.tolist(), drawn.stop.tolist()
    answers = [drawn.answers(1, with_stop=True), drawn.answers(2, with_stop=True)]
    selected = []
    for n, (right1, right2) in enumerate(r):
        if right1 and not s.keep_right:
            continue
        if s.method == "star":
            seconds = [answers[1][n]] if right2 else []
        else:
            seconds = right_answers(answers, r, n, s.attempts * s.siblings)
        if not seconds:
            continue
        second = seconds[0] if s.method == "star" else rng.choice(seconds)
        context = rows[n][: start[n][1]]  # problem, first answer, instruction
        turn = [0] * len(context) + [2] * len(second)
        if right1:
            turn[start[n][0] : stop[n][0]] = [1] * (stop[n][0] - start[n][0])
        selected.append((context + second, turn))
    return selected


def right_answers(answers, r, n: int, per_problem: int) -> list[list[int]]:
    """Return all right answers to the problem of dialogue n, first and second ones, except n's own first answer."""
    first = n - n % per_problem
    found = []
    for m in range(first, first + per_problem):
        for i in (0, 1):
            if r[m][i] and (m, i) != (n, 0):
                found.append(answers[i][m])
    return found


def collect(s: Settings, task, collector: GPT, steps: range) -> tuple[list, int]:
    """Sample as many dialogues as RL does in these steps, and select.

    Returns what this process imitates, and how many dialogues all processes imitate. UserError if one has none.
    """
    say(f"collecting dialogues: {len(steps)} steps of {s.problems * s.attempts * s.siblings}")
    selected = []
    for step in steps:
        problems, sampling = train.draw_problems(s, task, 2, step)  # those of Stage II
        batch = evaluate.sample_and_judge(collector, task, problems, K=s.attempts, M=s.siblings, **sampling)
        selected += select(s, batch, random.Random(f"pairs, {s.seed}, {step}, {rank()}"))
    sizes = {i: len(selected) if i == rank() else 0 for i in range(world_size())}
    sizes = all_sum(sizes)
    if not all(sizes.values()):
        raise UserError(f"--method {s.method}: {len(steps)} steps hold no dialogue to imitate; raise --stage2_steps")
    random.Random(f"order, {s.seed}, {steps.start}, {rank()}").shuffle(selected)
    return selected, int(sum(sizes.values()))


# ------------------------------------------------------------------ the loop


def steps_per_round(s: Settings) -> int:
    """Return the number of steps per round, rounded up: the last round may be shorter."""
    return -(-s.stage2_steps // ROUNDS[s.method])


def updates_of_round(s: Settings, dialogues: int) -> int:
    """Return the number of updates per round: those of RL, or for Pair-SFT one epoch of the dialogues."""
    if s.method == "star":
        return steps_per_round(s)
    epoch = -(-dialogues // (s.problems * s.attempts * s.siblings))
    return min(steps_per_round(s), epoch)


def fine_tune(s: Settings, task, start: GPT | None, base: GPT | None, folder: Path) -> dict:
    """Collect and imitate, for one round or three. Returns the weights (EMA) of the last round.

    start, base: whole models on the CPU of rank 0, None on the other ranks.
    """
    per_round = steps_per_round(s)
    batch_size = s.problems * s.attempts * s.siblings // world_size()
    first, reference = distribute(s, start), distribute(s, base)
    policy, collector = first.copy(), first.copy()
    average = first.copy() if s.average else policy
    optimizer = torch.optim.Adam(policy.parameters(), lr=s.stage2_lr, betas=(0.9, 0.99))
    record = Recorder(s, 2, folder, s.stage2_steps)
    record.resume_model("policy", policy, optimizer)
    record.resume_model("model", average)
    record.resume_model("collector", collector)
    done, dialogues = record.resume("done", False), []
    for step in record.range() if not done else ():
        # 1. A new round starts from the first weights; its data comes from the last round's model.
        at = step % per_round
        if at == 0 and step > 0:
            collector.load_state_dict(average.state_dict())
            policy.load_state_dict(first.state_dict())
            average.load_state_dict(first.state_dict())
            optimizer = torch.optim.Adam(policy.parameters(), lr=s.stage2_lr, betas=(0.9, 0.99))
        if at == 0 or not dialogues:  # resumed inside a round: the same dialogues are sampled again
            begin = step - at
            dialogues, size = collect(s, task, collector, range(begin, min(begin + per_round, s.stage2_steps)))
            updates = updates_of_round(s, size)
        # 2. The supervised loss of this update's dialogues, divided by the answer tokens of all processes.
        chosen = [dialogues[(at * batch_size + i) % len(dialogues)] for i in range(batch_size)]
        ids, turn = (rollout.pad(rows, device=device_of(s)) for rows in zip(*chosen))  # (B, T)
        count = int(all_sum({"tokens": (turn > 0).sum()})["tokens"])
        loss = 0.0
        for i, t in zip(ids.split(s.micro_batch), turn.split(s.micro_batch)):
            part = score.supervised_loss(policy, i, t, count)
            part.backward()
            loss += part.item()
        sum_gradients(policy)
        # 3. Clip, update, average. The learning rate decays to 0 at the end of each round.
        norm = clip_gradient(policy)
        if record.is_finite(step, norm):
            optimizer.param_groups[0]["lr"] = s.stage2_lr * train.learning_rate(s, at, updates)
            optimizer.step()
            update_average(average, policy, at, s.average)
        optimizer.zero_grad()
        # 4. Log and save. Pair-SFT ends after one epoch.
        line = all_sum({"loss": loss}) | {"tokens": count, "grad_norm": norm}
        line |= {"examples": size, "round": step // per_round + 1}
        if s.eval_every and (step + 1) % s.eval_every == 0:
            line |= train.held_out(s, task, average, reference)
        record.log(step, line)
        done = s.method == "pairs" and at + 1 == updates
        if record.due(step, done):
            state = {"policy": whole_weights(policy), "model": whole_weights(average), "collector": whole_weights(collector)}
            state |= {"adam": whole_optimizer(policy, optimizer), "config": dataclasses.asdict(policy.config)}
            record.save(step, state, done)
        if done:
            break
    record.close()
    return whole_weights(average)


# ------------------------------------------------------------------ the run


def run(s: Settings) -> None:
    """Leave stage2.pt in the run folder, and print its held-out metrics."""
    check_ranks_agree(s)
    folder, task = Path(s.folder), data.make_task(s.task)
    with contextlib.ExitStack() as stack:
        if rank() == 0:
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(lock(folder))
            write_file(folder / "settings.json", json.dumps(dataclasses.asdict(s), indent=1).encode())
        if from_rank0((folder / "stage2.pt").exists()):
            whole = finished_model(s, folder) if rank() == 0 else None
        else:
            whole = make_model(s, task, folder)
        train.report(s, task, folder, "stage2", whole)


def finished_model(s: Settings, folder: Path) -> GPT:
    """Load stage2.pt; UserError if it was made with other settings."""
    whole, state = load_model(folder / "stage2.pt")
    check_settings(state, s, 2, folder / "stage2.pt")
    say("stage2: already there")
    return whole


def make_model(s: Settings, task, folder: Path) -> GPT | None:
    """Fine-tune, and write stage2.pt. Returns the model on rank 0, None on the others."""
    base = start = None
    if rank() == 0:
        base = train.given(s.base, s)
        start = train.given(s.start, s) if s.start else base
    weights = fine_tune(s, task, start, base, folder)
    if rank() != 0:
        return None
    head = {"stage": 2, "settings": remembered(s, 2)}
    save_checkpoint(head | {"config": dataclasses.asdict(base.config), "model": weights}, folder / "stage2.pt")
    for leftover in [*folder.glob("stage2.partial*.pt"), *folder.glob("stage2.val*.json")]:
        leftover.unlink()
    return GPT.with_weights(base.config, weights)


def main(argv=None) -> None:
    """Run the program; every expected failure ends it with one line."""
    evaluate.replace_unprintable()
    s = parse(argv)
    use_cores()
    listen_for_signals()
    try:
        with processes(s):
            run(s)
    except Stopped as error:
        train.fail(error if rank() == 0 else "")
    except UserError as error:
        train.fail(error)
    except OSError as error:
        train.fail(f"{error.filename or 'file'}: {error.strerror}; fix that and give the same command again")
    except KeyboardInterrupt:
        train.fail("stopped at once; the same command resumes from the last checkpoint")


if __name__ == "__main__":
    main()
