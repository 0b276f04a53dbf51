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
import re
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

import data  # noqa: E402
import evaluate  # noqa: E402
import report  # noqa: E402
import train  # noqa: E402
from arms import ARMS, BASES, MOST_SEEDS, TABLES  # noqa: E402
from model import UserError, load_model, write_file  # noqa: E402


# ------------------------------------------------------------------ the runs


@dataclass(eq=False)
class Run:
    """One call of train.py or baselines.py, which leaves `result`. It can start when `needs` exists."""

    command: list[str]
    result: Path
    needs: Path | None


def all_runs(folder: Path, args) -> list[Run]:
    """Return the runs of all arms, each after those that it starts from."""
    runs = {}
    for name, seed in arms_and_seeds(args):
        add_run(runs, folder, name, seed, args.quick)
    return list(runs.values())


def arms_and_seeds(args) -> list[tuple[str, int]]:
    """Return the rows of the tables, a whole seed before the next: an interruption leaves a comparison."""
    rows = []
    for seed in range(args.seeds):
        rows += [(name, seed) for name in args.arms if seed < args.other_seeds or name in MOST_SEEDS]
    return rows


def result_of(folder: Path, name: str, seed: int) -> Path:
    """Return the checkpoint that an arm is measured by: Stage II, or the base model if nothing is trained."""
    if ARMS[name].flags is None:
        return folder / f"{BASES[ARMS[name].task]}-{seed}" / "stage0.pt"
    return folder / f"{name}-{seed}" / "stage2.pt"


def add_run(runs: dict, folder: Path, name: str, seed: int, quick: bool) -> Path:
    """Add an arm's run of one seed, after the runs that it starts from. Returns its result."""
    arm, defaults, result = ARMS[name], train.Settings, result_of(folder, name, seed)
    one, two, base_steps = defaults.stage1_steps, defaults.stage2_steps, defaults.base_steps
    if quick:
        one, two, base_steps = 30, 40, 1000
    # One CPU thread per run, side by side: a GPU would be shared by all, and a rerun would not give the same numbers.
    words = ["--task", arm.task, "--folder", str(result.parent), "--device", "cpu", "--seed", str(seed)]
    words += ["--eval_problems", str(200 if quick else defaults.eval_problems)]
    needs = None
    if arm.flags is None:
        words += ["--stage", "0", "--base_steps", str(base_steps)]
    else:
        needs = add_run(runs, folder, BASES[arm.task], seed, quick)
        words += ["--base", str(needs)]
        if arm.start:
            other, stage = arm.start.split("/")
            needs = add_run(runs, folder, other, seed, quick).with_name(f"{stage}.pt")
            words += ["--start", str(needs)]
        sizes = {"one": one, "two": two, "all": one + two, "half_one": one // 2, "half_two": two // 2}
        words += arm.flags.format(**sizes, other_seed=seed + 100).split()
    program = "results/baselines.py" if "--method" in words else "train.py"
    runs.setdefault(result, Run([sys.executable, str(ROOT / program), *words], result, needs))
    return result


def run_all(runs: list[Run], workers: int) -> None:
    """Do the runs, `workers` at a time. A finished run ends at once, or fails if it was made with other settings.

    UserError if one fails. Then, and on Ctrl-C or SIGTERM, each run writes its checkpoint and ends; the next call
    resumes it.
    """
    waiting, running = list(runs), {}
    try:
        while waiting or running:
            ready = [run for run in waiting if run.needs is None or run.needs.exists()]
            for run in ready[: workers - len(running)]:
                waiting.remove(run)
                running[run] = start_run(run)
            time.sleep(0.2)
            for run in [run for run, process in running.items() if process.poll() is not None]:
                check_ended(run, running.pop(run).returncode)
                print(f"finished {run.result.parent}; {len(running)} running, {len(waiting)} waiting", flush=True)
    finally:
        for process in running.values():
            process.terminate()  # once: a second signal would end it without a checkpoint
        for process in running.values():
            process.wait()


def start_run(run: Run) -> subprocess.Popen:
    """Start a run in its own session, so that Ctrl-C does not reach it directly. Output goes into its folder."""
    run.result.parent.mkdir(parents=True, exist_ok=True)
    how = {"stderr": subprocess.STDOUT, "start_new_session": True, "env": os.environ | {"OMP_NUM_THREADS": "1"}}
    with open(run.result.with_name("output.txt"), "a") as log:
        return subprocess.Popen(run.command, stdout=log, **how)


def check_ended(run: Run, code: int) -> None:
    """Raise UserError, with the last line of its output, if a run did not leave its result."""
    if code == 0 and run.result.exists():
        return
    log = run.result.with_name("output.txt")
    lines = log.read_text(errors="replace").strip().splitlines() or ["no output"]  # \r ends a line, too
    raise UserError(f"run {run.result.parent.name} ended with code {code}: {lines[-1]} (all of it: {log})")


# ------------------------------------------------------------------ measurements


def gather(folder: Path, args) -> dict:
    """Measure the finished runs: arm -> seed -> result of `measure`."""
    found = {}
    for name, seed in arms_and_seeds(args):
        path = result_of(folder, name, seed)
        if path.exists():
            print(f"measuring {name}, seed {seed}", flush=True)
            found.setdefault(name, {})[str(seed)] = measure(path, ARMS[name].turns, args.split, args.n)
    return found


def open_checkpoint(path: Path):
    """Return the model and its task."""
    policy, state = load_model(path)
    return policy, data.make_task(state["settings"]["task"])


def measure(path: Path, turns: int, split: str, n: int) -> dict:
    """Return metrics and edit ratios. The last of `turns` answers counts as the second."""
    policy, task = open_checkpoint(path)
    dialogues = evaluate.evaluate(policy, task, task.problems(split, n), turns=turns)
    for d in dialogues:
        for key in ("answers", "right", "ended"):
            d[key] = [d[key][0], d[key][-1]]
    metrics = dataclasses.asdict(evaluate.metrics(dialogues))
    return {"metrics": metrics, "ratios": [edit_ratio(*d["answers"]) for d in dialogues]}


def edit_ratio(a: str, b: str) -> float:
    """Return the edit distance over the length of both answers together (Fig. 4); 0 for equal ones."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        diagonal, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (x != y))
    return row[-1] / max(len(a) + len(b), 1)


# ------------------------------------------------------------------ data of the figures


def figure_data(folder: Path, found: dict, args) -> dict:
    """Return the data of every figure whose runs are there."""
    figures = {"training": curves(folder), "edit ratios": {}, "ten attempts": {}, "votes": {}}
    for arm, by_seed in found.items():
        bins = Counter()  # Fig. 4: edit ratios, in bins of 0.05
        for result in by_seed.values():
            bins.update(int(ratio / 0.05 + 1e-9) for ratio in result.pop("ratios"))
        figures["edit ratios"][arm] = [bins[i] for i in range(21)]
    for arm in ("base", "score"):
        for seed in found.get(arm, {}):
            policy, task = open_checkpoint(result_of(folder, arm, seed))
            ten = evaluate.evaluate(policy, task, task.problems(args.split, args.n), turns=10)
            figures["ten attempts"].setdefault(arm, {})[seed] = evaluate.metrics(ten).accuracy
            votes = vote_curve(policy, task, task.problems(args.split, args.n // 4), int(seed))
            figures["votes"].setdefault(arm, {})[seed] = votes
    return figures


def curves(folder: Path) -> dict:
    """Fig. 5, 6: return the held-out metrics over training, from the logs. Run -> list of points; the first is the base's.

    repairs is Accuracy@t2 on first answers of the base model, which stay the same over training.
    """
    found = {}
    for run in sorted(folder.iterdir()):
        points, steps_before = [], 0
        for stage in (1, 2):
            log = evaluate.read_log(run / f"stage{stage}.jsonl")
            for line in log:
                if "held_out" in line:
                    points.append(curve_point(steps_before + line["step"] + 1, line["held_out"], line["repairs_base"]))
            steps_before += len(log)
        if points:
            arm, _, seed = run.name.rpartition("-")
            base = next(iter((folder / f"{BASES[ARMS[arm].task]}-{seed}").glob("stage0.val*.json")))
            metrics = json.loads(base.read_text(encoding="utf-8"))["metrics"]
            found[run.name] = [curve_point(0, metrics, metrics["t2"]), *points]
    return found


def curve_point(step: int, m: dict, repairs: float) -> dict:
    """Return one point of a curve, from the metrics of `train.held_out`."""
    return {"step": step, "t1": m["t1"], "t2": m["t2"], "changed": 100 - m["same"], "repairs": repairs}


VOTES = (1, 2, 4, 8, 16)


def vote_curve(policy, task, problems, seed: int) -> dict:
    """Fig. 1, right: K -> [accuracy of 2K answers in parallel, of K answers corrected once each], by majority vote.

    Temperature 0.7, as in the paper. The vote is over the K corrected answers only: they replace the first ones.
    """
    most = 2 * VOTES[-1]
    sampling = {"temperature": 0.7, "generator": torch.Generator().manual_seed(seed), "batch": 512}
    batch = evaluate.sample_and_judge(policy, task, problems, K=most, **sampling)
    right = {str(k): [0.0, 0.0] for k in VOTES}
    for i, problem in enumerate(problems):
        answers, corrected = (turn[i * most : (i + 1) * most] for turn in batch.texts)
        for k in VOTES:
            right[str(k)][0] += 100 * vote_accuracy(task, problem, answers, 2 * k) / len(problems)
            right[str(k)][1] += 100 * vote_accuracy(task, problem, corrected, k) / len(problems)
    return right


def vote_accuracy(task, problem, answers: list[str], size: int) -> float:
    """Return the accuracy of majority votes. Every disjoint group of `size` answers is one trial.

    Of equally frequent answers the one that was given first wins.
    """
    groups = [answers[at : at + size] for at in range(0, len(answers), size)]
    winners = [Counter(group).most_common(1)[0][0] for group in groups]
    return sum(task.rewards([problem] * len(winners), winners)) / len(winners)


# ------------------------------------------------------------------ command line


def fill(path: Path, tables: dict[str, str]) -> None:
    """Put each table between its markers in a Markdown file: <!-- table NAME --> … <!-- end -->."""
    text = path.read_text(encoding="utf-8")
    for name, rows in tables.items():
        marked = f"(<!-- table {name} -->\n).*?(<!-- end -->)"
        text = re.sub(marked, lambda match: f"{match[1]}{rows}\n{match[2]}", text, flags=re.DOTALL)
    write_file(path, text.encode())


def reproduce(args) -> None:
    """Do the runs, measure them, and write tables and figures."""
    folder, results = Path(args.folder), Path(args.results)
    if not args.no_runs:
        run_all(all_runs(folder, args), args.workers)
    found = gather(folder, args)
    if not found:
        raise UserError(f"{folder}: no run is finished; leave out --no_runs")
    results.mkdir(parents=True, exist_ok=True)
    figures = figure_data(folder, found, args)
    paper = {"split": args.split, "problems": args.n, "arms": found}
    write_file(results / "paper.json", (json.dumps(paper) + "\n").encode())
    write_file(results / "figures.json", (json.dumps(figures) + "\n").encode())
    tables = report.all_tables(found, figures)
    for path in (results / "README.md", results.resolve().parent / "README.md"):
        if path.exists():
            fill(path, tables)
    for name, table in tables.items():
        print(f"\n{name}\n{table}")
    print(f"\nThe data is in {results}/paper.json and figures.json.", flush=True)
    report.draw(figures, results)


def parse(argv=None) -> argparse.Namespace:
    """Parse the command line; a wrong value ends the program with one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    count = {"type": int, "choices": range(1, 1000), "metavar": "N"}
    parser.add_argument("folder", help="folder of the runs")
    parser.add_argument("--arms", help="which arms, or one table: " + ", ".join(TABLES))
    parser.add_argument("--seeds", type=int, default=5, choices=range(1, 11), help="of base, naive RL and SCoRe (default: 5)")
    parser.add_argument("--other_seeds", default=3, help="seeds of the other arms (default: 3)", **count)
    parser.add_argument("--workers", default=os.cpu_count() or 1, help="runs at a time (default: the cores)", **count)
    parser.add_argument("--quick", action="store_true", help="one seed, a tenth of the steps, validation split")
    parser.add_argument("--no_runs", action="store_true", help="train nothing, measure the runs that are there")
    parser.add_argument("--results", help="folder of the output (default: results/; with --quick, the runs')")
    args = parser.parse_args(argv)
    every = [name for name in ARMS if name != "round1"]
    args.arms = TABLES.get(args.arms, args.arms.split(",") if args.arms else every)
    if not set(args.arms) <= set(every):
        parser.error(f"--arms must be a list of {', '.join(every)}, or one of {', '.join(TABLES)}")
    args.split, args.n = ("val", 200) if args.quick else ("test", 1000)
    args.seeds = 1 if args.quick else args.seeds
    args.results = args.results or (args.folder if args.quick else ROOT / "results")
    return args


def main(argv=None) -> None:
    """Run the program; every expected failure ends it with one line."""
    evaluate.replace_unprintable()
    args = parse(argv)
    torch.set_num_threads(1)
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell may have started this program with SIGINT ignored
        signal.signal(number, signal.default_int_handler)
    try:
        reproduce(args)
    except (UserError, OSError) as error:
        sys.exit(f"reproduce.py: {error}")
    except ImportError as error:
        sys.exit(f"reproduce.py: no figures: pip install {error.name}, then give --no_runs")
    except KeyboardInterrupt:
        sys.exit("reproduce.py: stopped; the same command resumes")


if __name__ == "__main__":
    main()
