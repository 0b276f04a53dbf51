"""The paper's tables and figures in miniature: every arm's runs, from nothing, in one command.

    python results/reproduce.py runs/paper           every arm; the same command resumes
    python results/reproduce.py runs/quick --quick   one seed, a tenth of the steps: a check of the machinery
    python results/reproduce.py runs/paper --arms main --results runs/table2       one table
    python results/reproduce.py runs/paper --no_runs tables and figures of the runs that are there

Writes paper.json and figures.json, draws the figures, and fills the tables in README.md and results/README.md.
Settings were chosen on the validation split; the tables are of the test split. (--quick leaves the test split alone.)
"""

import argparse
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "results")]

import baselines  # noqa: E402
import data  # noqa: E402
import evaluate  # noqa: E402
import report  # noqa: E402
import score  # noqa: E402
import train  # noqa: E402
from arms import ARMS, EVAL_EVERY, MAIN, PARTS, TABLES, Arm  # noqa: E402
from model import UserError, load_checkpoint, load_model, write_file  # noqa: E402
from runtime import check_settings  # noqa: E402


# ------------------------------------------------------------------ the runs


@dataclass(eq=False)
class Run:
    """One call of train.py or baselines.py. It is finished if `result` exists, and can start if `needs` does."""

    name: str
    command: list[str]
    result: Path
    needs: Path | None
    steps: int  # for the estimate of the time left


def all_runs(folder: Path, arms: list[str], args) -> list[Run]:
    """Return the runs of these arms, each after those that it starts from."""
    runs = {}
    for seed in range(args.seeds):  # a whole seed before the next: an interruption leaves a comparison
        for name in arms:
            if seed < args.other_seeds or name in MAIN:
                add_run(runs, folder, run_name(name), seed, args.quick)
    return list(runs.values())


def run_name(name: str) -> str:
    """Return the name of an arm's runs: the base model's for an arm that trains nothing."""
    return base_of(ARMS[name]) if ARMS[name].flags is None else name


def base_of(arm: Arm) -> str:
    """Return the name of the arm's base model, which all arms of a seed share."""
    return "code-base" if arm.task == "code" else "base"


def add_run(runs: dict, folder: Path, name: str, seed: int, quick: bool) -> None:
    """Add an arm's run of one seed to the dict, after the runs that it starts from."""
    arm, defaults = (ARMS | PARTS)[name], train.Settings
    one, two, base_steps = defaults.stage1_steps, defaults.stage2_steps, defaults.base_steps
    if quick:
        one, two, base_steps = 30, 40, 1000
    # One CPU thread per run, side by side: a GPU would be shared by all, and a rerun would not give the same numbers.
    words = ["--task", arm.task, "--folder", str(folder / f"{name}-{seed}"), "--device", "cpu", "--seed", str(seed)]
    words += ["--eval_problems", str(200 if quick else defaults.eval_problems)]
    if arm.flags is None:
        stage, needs, steps = "stage0", None, base_steps // 4
        words += ["--stage", "0", "--base_steps", str(base_steps)]
    else:
        stage, needs, steps = "stage2", add_start(runs, folder, f"{base_of(arm)}/stage0", seed, quick), one + two
        words += ["--base", str(needs), "--eval_every", str(EVAL_EVERY.get(name, 0))]
        if arm.start:
            needs = add_start(runs, folder, arm.start, seed, quick)
            words += ["--start", str(needs)]
        sizes = {"one": one, "two": two, "all": one + two, "half_one": one // 2, "half_two": two // 2}
        words += arm.flags.format(**sizes, other_seed=seed + 100).split()
    command, result = [sys.executable, str(ROOT / arm.program), *words], folder / f"{name}-{seed}" / f"{stage}.pt"
    runs.setdefault(f"{name}-{seed}", Run(f"{name}-{seed}", command, result, needs, steps))


def add_start(runs: dict, folder: Path, start: str, seed: int, quick: bool) -> Path:
    """Add the run that makes a checkpoint, "ARM/STAGE"; return the checkpoint's path."""
    name, stage = start.split("/")
    add_run(runs, folder, name, seed, quick)
    return folder / f"{name}-{seed}" / f"{stage}.pt"


def parse_run(run: Run) -> train.Settings:
    """Return the settings of a run's command."""
    program = baselines if run.command[1].endswith("baselines.py") else train
    return program.parse(run.command[2:])


def check_finished(run: Run) -> None:
    """Raise UserError if a finished run was made with other settings: it would enter the tables unnoticed."""
    if run.result.exists():
        state = load_checkpoint(run.result)
        check_settings(state, parse_run(run), state["stage"], run.result)


def run_all(runs: list[Run], workers: int, grace: float = 60.0) -> None:
    """Do the runs that are not finished, `workers` at a time, and print the progress. Raise UserError if one fails.

    On Ctrl-C or SIGTERM each run writes its checkpoint and ends, and the next call resumes it. A run that has not ended
    `grace` seconds later is killed: its last checkpoint is whole.
    """
    waiting = [run for run in runs if not run.result.exists()]
    running, steps_done, began = {}, 0, time.monotonic()
    print(f"{len(runs) - len(waiting)} of {len(runs)} runs are finished", flush=True)
    # SIGTERM acts like Ctrl-C. A shell may have started this program with SIGINT ignored; this undoes it.
    handlers = {number: signal.signal(number, signal.default_int_handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        while waiting or running:
            ready = [run for run in waiting if run.needs is None or run.needs.exists()]
            for run in ready[: workers - len(running)]:
                waiting.remove(run)
                running[run] = start_run(run)
                print(f"{clock(time.monotonic() - began)}  start     {run.name}", flush=True)
            time.sleep(0.2)
            for run in [run for run, process in running.items() if process.poll() is not None]:
                check_ended(run, running.pop(run).returncode)
                steps_done += run.steps
                steps_left = sum(other.steps for other in [*waiting, *running])
                elapsed = time.monotonic() - began
                left = clock(elapsed * steps_left / steps_done)
                counts = f"{len(running)} running, {len(waiting)} waiting"
                print(f"{clock(elapsed)}  finished  {run.name}; {counts}; about {left} left", flush=True)
    finally:
        stop(running, grace)
        for number, handler in handlers.items():
            signal.signal(number, handler)


def start_run(run: Run) -> subprocess.Popen:
    """Start a run in its own session, so that Ctrl-C reaches it only through `stop`. Output goes into its folder."""
    run.result.parent.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with open(run.result.parent / "output.txt", "a") as log:
        how = {"stdout": log, "stderr": subprocess.STDOUT, "start_new_session": True, "env": environment}
        return subprocess.Popen(run.command, **how)


def check_ended(run: Run, code: int) -> None:
    """Raise UserError, with the last line of its output, if a run did not leave its result."""
    if code == 0 and run.result.exists():
        return
    log = run.result.parent / "output.txt"
    lines = log.read_text(errors="replace").strip().splitlines() or ["no output"]  # \r ends a line, too
    raise UserError(f"run {run.name} ended with code {code}: {lines[-1]} (all of it: {log})")


def stop(running: dict, grace: float) -> None:
    """Send one SIGTERM to each run (a second one would end it without a checkpoint), and wait."""
    for process in running.values():
        process.terminate()
    for process in running.values():
        try:
            process.wait(grace)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def clock(seconds: float) -> str:
    """Format a duration as 0:04:06."""
    return f"{int(seconds) // 3600}:{int(seconds) // 60 % 60:02}:{int(seconds) % 60:02}"


# ------------------------------------------------------------------ measurements


def cached(checkpoint: Path, name: str, measure, *args):
    """Return measure(checkpoint, *args). The result is kept as JSON beside the checkpoint, until that is made again."""
    path = checkpoint.with_name(f"{checkpoint.stem}.{name}.measured")
    if not path.exists() or path.stat().st_mtime_ns < checkpoint.stat().st_mtime_ns:
        write_file(path, json.dumps(measure(checkpoint, *args)).encode())
    return json.loads(path.read_text())


def open_checkpoint(path: Path):
    """Return the model and its task."""
    policy, state = load_model(path)
    return policy, data.make_task(state["settings"]["task"])


def measure(path: Path, turns: int, split: str, n: int) -> dict:
    """Return metrics; outcomes, one digit r1 + 2·r2 per problem; edit ratios; budget.

    The last of `turns` answers counts as the second.
    """
    policy, task = open_checkpoint(path)
    dialogues = evaluate.evaluate(policy, task, task.problems(split, n), turns=turns)
    for d in dialogues:
        for key in ("answers", "right", "ended"):
            d[key] = [d[key][0], d[key][-1]]
    outcomes = [str(d["right"][0] + 2 * d["right"][1]) for d in dialogues]
    ratios = [round(edit_ratio(*d["answers"]), 3) for d in dialogues]
    metrics = dataclasses.asdict(evaluate.metrics(dialogues))
    return {"metrics": metrics, "outcomes": "".join(outcomes), "ratios": ratios, "budget": budget(path)}


def edit_ratio(a: str, b: str) -> float:
    """Return the edit distance over the length of both answers together (Fig. 4); 0 for equal ones."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        diagonal, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (x != y))
    return row[-1] / max(len(a) + len(b), 1)


def budget(path: Path) -> list[int]:
    """Return [answers drawn for training, updates made] of all RL or fine-tuning stages that led to this checkpoint."""
    state = load_checkpoint(path)
    s, answers, updates = state["settings"], 0, 0
    for stage in range(1, state["stage"] + 1):
        log = evaluate.read_log(path.with_name(f"stage{stage}.jsonl"))
        answers += s[f"stage{stage}_steps"] * s["problems"] * s["attempts"] * s["siblings"] * 2
        updates += len(log)
    if s.get("start"):  # a run beside this one, wherever both are now
        start = Path(s["start"])
        before = budget(path.parent.parent / start.parent.name / start.name)
        answers, updates = answers + before[0], updates + before[1]
    return [answers, updates]


def gather(runs: list[Run], arms: list[str], args) -> dict:
    """Measure the finished runs: arm -> seed -> result of `measure`."""
    results = {run.name: run.result for run in runs}
    found = {}
    for name in arms:
        arm = ARMS[name]
        for seed in range(args.seeds):
            path = results.get(f"{run_name(name)}-{seed}")
            if path is not None and path.exists() and (seed < args.other_seeds or name in MAIN):
                key = f"{args.split}{args.n}-turns{arm.turns}"
                found.setdefault(name, {})[str(seed)] = cached(path, key, measure, arm.turns, args.split, args.n)
    return found


# ------------------------------------------------------------------ data of the figures


def figure_data(folder: Path, found: dict, args) -> dict:
    """Return the data of every figure whose runs are there."""
    result = {"training": curves(folder, args.seeds), "split": args.split, "problems": args.n}
    result["edit ratios"] = {}
    for arm, by_seed in found.items():
        if ARMS[arm].task == "false-position" and ARMS[arm].turns == 2:
            result["edit ratios"][arm] = histogram(by_seed)
    result["ten attempts"], result["votes"] = {}, {}
    for arm, stage in (("base", "stage0"), ("score", "stage2")):
        for seed in found.get(arm, {}):
            path = folder / f"{arm}-{seed}" / f"{stage}.pt"
            ten = cached(path, f"{args.split}{args.n}-ten", ten_attempts, args.split, args.n)
            voted = cached(path, f"{args.split}{args.n}-votes", vote_curve, args.split, args.n // 4, int(seed))
            result["ten attempts"].setdefault(arm, {})[seed] = ten
            result["votes"].setdefault(arm, {})[seed] = voted
    stage1 = folder / "score-0" / "stage1.pt"
    if stage1.exists():
        result["gradient variance"] = cached(stage1, "variance", gradient_variance)
    return result


def curves(folder: Path, seeds: int) -> dict:
    """Fig. 5, 6, 9: return the held-out metrics over training, from the logs. arm-seed -> list of points.

    repairs is Accuracy@t2 on first answers of the base model, which stay the same over training.
    """
    found = {}
    for arm in EVAL_EVERY:
        for seed in range(seeds):
            points, steps_before = [], 0
            for stage in (1, 2):
                log = evaluate.read_log(folder / f"{arm}-{seed}" / f"stage{stage}.jsonl")
                points += [point(line, steps_before) for line in log if "held_out" in line]
                steps_before += len(log)
            if points:
                found[f"{arm}-{seed}"] = points
    return found


def point(line: dict, steps_before: int) -> dict:
    """Return one point of a curve from a line of the log."""
    m = line["held_out"]
    step = steps_before + line["step"] + 1
    return {"step": step, "t1": m["t1"], "t2": m["t2"], "changed": 100 - m["same"], "repairs": line.get("repairs_base")}


def histogram(by_seed: dict) -> list[int]:
    """Fig. 4: count the edit ratios of all seeds per bin."""
    bins = Counter()
    for result in by_seed.values():
        bins.update(min(int(r / 0.05 + 1e-9), len(report.RATIOS) - 1) for r in result["ratios"])
    return [bins[i] for i in range(len(report.RATIOS))]


def ten_attempts(path: Path, split: str, n: int) -> list[float]:
    """Fig. 8: return the accuracy at each of ten attempts."""
    policy, task = open_checkpoint(path)
    return evaluate.metrics(evaluate.evaluate(policy, task, task.problems(split, n), turns=10)).accuracy


VOTES = (1, 2, 4, 8, 16)


def vote_curve(path: Path, split: str, n: int, seed: int) -> dict:
    """Fig. 1, right: K -> [accuracy of 2K answers in parallel, of K answers corrected once each], by majority vote.

    Temperature 0.7, as in the paper. The vote is over the K corrected answers only: they replace the first ones.
    """
    policy, task = open_checkpoint(path)
    problems = task.problems(split, n)
    generator = torch.Generator(policy.wte.weight.device).manual_seed(seed)
    most = 2 * VOTES[-1]
    right = {str(k): [0.0, 0.0] for k in VOTES}
    for first in range(0, n, 16):
        some = problems[first : first + 16]
        batch = evaluate.sample_and_judge(policy, task, some, K=most, temperature=0.7, generator=generator)
        for i, problem in enumerate(some):
            answers, corrected = (turn[i * most : (i + 1) * most] for turn in batch.texts)
            for k in VOTES:
                right[str(k)][0] += 100 * vote_accuracy(task, problem, answers, 2 * k) / n
                right[str(k)][1] += 100 * vote_accuracy(task, problem, corrected, k) / n
    return {k: [round(x, 3) for x in pair] for k, pair in right.items()}


def vote_accuracy(task, problem, answers: list[str], size: int) -> float:
    """Return the accuracy of majority votes. Every disjoint group of `size` answers is one trial."""
    winners = [majority(answers[at : at + size]) for at in range(0, len(answers), size)]
    return sum(task.rewards([problem] * len(winners), winners)) / len(winners)


def majority(answers: list[str]) -> str:
    """Return the most frequent answer; of several, the one that was given first."""
    return Counter(answers).most_common(1)[0][0]


def gradient_variance(path: Path, batches: int = 32) -> dict:
    """Ours: the variance of the second turn's gradient under each baseline, at α = 1 and 10.

    It is the trace of the covariance of one batch's gradient, 64 dialogues of 8 problems, over `batches` batches.
    """
    policy, task = open_checkpoint(path)
    found = {}
    for alpha in (1.0, 10.0):
        for baseline in ("none", "problem", "siblings", "first"):
            M = 2 if baseline == "siblings" else 1
            shape = f"--problems 8 --attempts {8 // M} --siblings {M}"
            s = train.parse(f"{shape} --baseline {baseline} --alpha {alpha}".split())
            total = squares = 0.0
            for step in range(batches):
                problems, sampling = train.draw_problems(s, task, 2, step)
                batch = evaluate.sample_and_judge(policy, task, problems, K=s.attempts, M=M, **sampling)
                g = second_turn_gradient(s, policy, batch)
                total, squares = total + g, squares + g.square()
            variance = (squares / batches - (total / batches).square()).sum() * batches / (batches - 1)
            found[f"{baseline}, α = {alpha:.0f}"] = variance.item()
    return found


def second_turn_gradient(s: train.Settings, policy, batch) -> torch.Tensor:
    """Return the gradient of Stage II's loss of the second answers, without the KL, as one vector."""
    drawn, r = batch.rollouts, batch.rewards
    A = score.advantages(score.stage2_returns(r, s.alpha), r, (s.problems, s.attempts, s.siblings), s.baseline, s.alpha)
    turn = drawn.turn * (drawn.turn == 2)
    logp, kl, _ = score.answer_stats(policy, None, drawn.ids, turn)
    loss = score.stage2_loss(logp, kl, turn, A, 0.0, [1, len(A)])
    return torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, list(policy.parameters()))]).double()


# ------------------------------------------------------------------ command line


def fill(path: Path, tables: dict[str, str]) -> None:
    """Put each table between its markers in a Markdown file: <!-- table NAME --> … <!-- end -->."""
    text = path.read_text(encoding="utf-8")
    for name, rows in tables.items():
        begin, _, rest = text.partition(f"<!-- table {name} -->\n")
        if rest:
            old, end, after = rest.partition("<!-- end -->")
            text = f"{begin}<!-- table {name} -->\n{rows}\n{end}{after}"
    write_file(path, text.encode())


def reproduce(args) -> None:
    """Do the runs, measure them, and write tables and figures."""
    folder, results, arms = Path(args.folder), Path(args.results), args.arms.split(",")
    runs = all_runs(folder, arms, args)
    if not args.no_runs:
        for run in runs:
            check_finished(run)
        run_all(runs, args.workers)
    found = gather(runs, arms, args)
    if not found:
        raise UserError(f"{folder}: no run is finished; leave out --no_runs")
    results.mkdir(parents=True, exist_ok=True)
    figures = figure_data(folder, found, args)
    for by_seed in found.values():
        for result in by_seed.values():
            del result["ratios"]  # figures.json has their histogram
    paper = {"split": args.split, "problems": args.n, "arms": found}
    write_file(results / "paper.json", (json.dumps(paper) + "\n").encode())
    write_file(results / "figures.json", (json.dumps(figures) + "\n").encode())
    tables = report.all_tables(found, figures)
    for path in (results / "README.md", results.resolve().parent / "README.md"):
        if path.exists() and not args.quick:
            fill(path, tables)
    for name, table in tables.items():
        print(f"\n{name}\n{table}")
    print(f"\n{results}/paper.json and figures.json written; {report.draw(figures, results)}")


def parse(argv=None) -> argparse.Namespace:
    """Parse the command line; a wrong value ends the program with one line."""
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=layout)
    parser.add_argument("folder", help="folder of the runs")
    parser.add_argument("--arms", default=",".join(ARMS), help="which arms, or one table: " + ", ".join(TABLES))
    parser.add_argument("--seeds", type=int, default=5, help=f"seeds of {', '.join(MAIN)} (default: 5)")
    parser.add_argument("--other_seeds", type=int, default=3, help="seeds of the other arms (default: 3)")
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, help="runs side by side (default: the cores)"
    )
    parser.add_argument("--quick", action="store_true", help="one seed, a tenth of the steps, validation split")
    parser.add_argument("--no_runs", action="store_true", help="train nothing, measure the runs that are there")
    parser.add_argument(
        "--results", default="", help="folder of the output (default: results/; with --quick, the runs')"
    )
    args = parser.parse_args(argv)
    if not 1 <= args.seeds <= 10 or min(args.other_seeds, args.workers) < 1:
        parser.error("--seeds must be 1 to 10, --other_seeds and --workers 1 or more")
    args.arms = ",".join(TABLES.get(args.arms, [args.arms]))
    for arm in args.arms.split(","):
        if arm not in ARMS:
            parser.error(f"--arms: {arm!r} is none of {', '.join(ARMS)}")
    args.split, args.n = ("val", 200) if args.quick else ("test", 1000)
    args.seeds = 1 if args.quick else args.seeds
    args.results = args.results or (args.folder if args.quick else str(ROOT / "results"))
    return args


def main(argv=None) -> None:
    """Run the program; every expected failure ends it with one line."""
    evaluate.replace_unprintable()
    args = parse(argv)
    torch.set_num_threads(1)
    try:
        reproduce(args)
    except UserError as error:
        sys.exit(f"reproduce.py: {error}")
    except OSError as error:
        sys.exit(f"reproduce.py: {error.filename or 'file'}: {error.strerror}; fix that and repeat the command")
    except KeyboardInterrupt:
        sys.exit("reproduce.py: stopped; the same command resumes")


if __name__ == "__main__":
    main()
