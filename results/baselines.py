"""STaR and Pair-SFT: the supervised baselines of the paper's Table 1, on the same rollouts and updates as RL.

    python results/baselines.py --method star --keep_right --base runs/default/stage0.pt --folder runs/star
    python results/baselines.py --method pairs --stage2_lr 5e-6 --base runs/default/stage0.pt --folder runs/pairs

Both sample two answers to each problem, keep some of the dialogues, and imitate the right answers in them:

    STaR, D        dialogues (wrong, right) that the model sampled
    Pair-SFT, D    a sampled wrong first answer, and any right answer to the same problem as the second, drawn at random
    D⁺             D, and also (right, right): --keep_right

STaR has three rounds. Each round collects with the model of the round before, and starts again from the first weights:
otherwise errors would accumulate. Pair-SFT has one round, and ends after one epoch, as in the paper. The paper does not
say which answers of a dialogue are imitated. Ours: the right ones. In D it is the second, in (right, right) both.

The run folder is that of train.py: the same command resumes, and stage2.pt is read by evaluate.py and train.py.
Laptop models in float32 only, on one process.
"""

import argparse
import dataclasses
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
from model import GPT, UserError, load_model, save_checkpoint  # noqa: E402
from runtime import (  # noqa: E402
    Recorder, check_settings, clip_gradient, device_of, distribute, lock, remembered, say, update_average,
    whole_optimizer, whole_weights, world_size,
)  # fmt: skip


# ------------------------------------------------------------------ settings


@dataclass
class Settings(train.Settings):
    """Those of train.py, and two more, which `parse` explains."""

    method: str = train.setting("star", "", "2")
    keep_right: bool = train.setting(False, "", "2")


# The flags of train.py that this program reads, with the same defaults but for the steps.
READ = (
    "folder base start task seed stage2_steps stage2_lr warmup problems attempts siblings temperature average device "
    "micro_batch sample_batch save_every eval_problems eval_every"
).split()
STEPS = 800  # of rollouts, and updates: as many as Stage I and Stage II have together
ROUNDS = {"star": 3, "pairs": 1}


def parse(argv=None) -> Settings:
    """Parse the command line; a wrong value, or a flag of RL such as --alpha, ends the program with one line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
        epilog=f"Also these flags of train.py (--stage2_steps: {STEPS}): {' '.join(READ)}",
    )  # fmt: skip
    parser.add_argument("--method", default="star", choices=ROUNDS, help="STaR or Pair-SFT")
    parser.add_argument("--keep_right", action="store_true", help="D⁺: also keep dialogues whose first answer is right")
    own, others = parser.parse_known_args(argv)
    for word in others:
        name = word.split("=")[0]
        if name.startswith("--") and name[2:] not in READ:
            parser.error(f"{name}: STaR and Pair-SFT do not read it")
    s = train.parse(["--stage", "2", "--stage1_steps", "0", "--stage2_steps", str(STEPS), *others])
    if not s.base:
        parser.error("--base FILE is missing: the base model, for example runs/default/stage0.pt of train.py")
    if world_size() > 1:
        parser.error("one process trains these small models; start it without torchrun")
    return Settings(**vars(s), **vars(own))


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
        second = rng.choice(seconds)
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


def collect(s: Settings, task, collector: GPT, steps: range) -> list:
    """Sample as many dialogues as RL does in these steps, and select. UserError if no dialogue is selected."""
    say(f"collecting dialogues: {len(steps)} steps of {s.problems * s.attempts * s.siblings}")
    selected = []
    for step in steps:
        if Recorder.signals:
            raise KeyboardInterrupt  # at once: on resume, the whole round is collected again
        problems, sampling = train.draw_problems(s, task, 2, step)  # those of Stage II
        batch = evaluate.sample_and_judge(collector, task, problems, K=s.attempts, M=s.siblings, **sampling)
        selected += select(s, batch, random.Random(f"pairs, {s.seed}, {step}, 0"))
    if not selected:
        raise UserError(f"--method {s.method}: {len(steps)} steps hold no dialogue to imitate; raise --stage2_steps")
    random.Random(f"order, {s.seed}, {steps.start}, 0").shuffle(selected)
    return selected


# ------------------------------------------------------------------ the loop


def fine_tune(s: Settings, task, start: GPT, base: GPT, folder: Path) -> dict:
    """Collect and imitate, for one round or three. Returns the weights (EMA) of the last round."""
    per_round = -(-s.stage2_steps // ROUNDS[s.method])  # rounded up: the last round may be shorter
    batch_size = s.problems * s.attempts * s.siblings
    first, reference, policy = distribute(s, start), distribute(s, base), distribute(s, start)
    average = first.copy() if s.average else policy
    optimizer = torch.optim.Adam(policy.parameters(), lr=s.stage2_lr, betas=(0.9, 0.99))
    record = Recorder(s, 2, folder, s.stage2_steps)
    record.resume_model("policy", policy, optimizer)
    record.resume_model("model", average)
    done, dialogues = record.resume("done", False), record.resume("dialogues", [])
    for step in record.range() if not done else ():
        # 1. A new round collects with the model of the round before, and trains the first weights.
        at = step % per_round
        if at == 0:
            dialogues = collect(s, task, average, range(step, min(step + per_round, s.stage2_steps)))
            policy.load_state_dict(first.state_dict())
            average.load_state_dict(first.state_dict())
            optimizer = torch.optim.Adam(policy.parameters(), lr=s.stage2_lr, betas=(0.9, 0.99))
        epoch = -(-len(dialogues) // batch_size)
        updates = per_round if s.method == "star" else min(per_round, epoch)
        # 2. The supervised loss of this update's dialogues, divided by their answer tokens.
        chosen = [dialogues[(at * batch_size + i) % len(dialogues)] for i in range(batch_size)]
        ids, turn = (rollout.pad(rows, device=device_of(s)) for rows in zip(*chosen))  # (B, T)
        count = int((turn > 0).sum())
        loss = 0.0
        for i, t in zip(ids.split(s.micro_batch), turn.split(s.micro_batch)):
            part = score.supervised_loss(policy, i, t, count)
            part.backward()
            loss += part.item()
        # 3. Clip, update, average. The learning rate decays to 0 at the end of each round.
        norm = clip_gradient(policy)
        if record.is_finite(step, norm):
            optimizer.param_groups[0]["lr"] = s.stage2_lr * train.learning_rate(s, at, updates)
            optimizer.step()
            update_average(average, policy, at, s.average)
        optimizer.zero_grad()
        # 4. Log and save. Pair-SFT ends after one epoch.
        line = {"loss": loss, "tokens": count, "grad_norm": norm}
        line |= {"examples": len(dialogues), "round": step // per_round + 1}
        if s.eval_every and (step + 1) % s.eval_every == 0:
            line |= train.held_out(s, task, average, reference)
        record.log(step, line)
        done = s.method == "pairs" and at + 1 == updates
        if record.due(step, done):
            state = {"policy": whole_weights(policy), "model": whole_weights(average), "dialogues": dialogues}
            state |= {"adam": whole_optimizer(policy, optimizer), "config": dataclasses.asdict(policy.config)}
            record.save(step, state, done)
        if done:
            break
    record.close()
    return whole_weights(average)


# ------------------------------------------------------------------ the run


def run(s: Settings) -> None:
    """Leave stage2.pt in the run folder, and print its metrics. UserError if it was made with other settings."""
    folder, task = Path(s.folder), data.make_task(s.task)
    path = folder / "stage2.pt"
    folder.mkdir(parents=True, exist_ok=True)
    with lock(folder):
        if path.exists():
            model, state = load_model(path)
            check_settings(state, s, 2, path)
            say("stage2: already there")
        else:
            base = train.load_start(s.base, s)
            start = train.load_start(s.start, s) if s.start else base
            weights = fine_tune(s, task, start, base, folder)
            model = GPT.with_weights(start.config, weights)
            head = {"stage": 2, "settings": remembered(s, 2), "config": dataclasses.asdict(start.config)}
            save_checkpoint(head | {"model": weights}, path)
            for leftover in [*folder.glob("stage2.partial*.pt"), *folder.glob("stage2.val*.json")]:
                leftover.unlink()
        train.report(s, task, folder, 2, model)


def main(argv=None) -> None:
    """Run the program."""
    evaluate.replace_unprintable()
    train.guarded(run, parse(argv))


if __name__ == "__main__":
    main()
