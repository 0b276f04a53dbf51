"""runtime.py: a run that is killed, stopped or split over processes ends with the same weights; an error is one line."""

import dataclasses
import errno
import fcntl
import os
import pty
import select
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time

import pytest
import torch

import evaluate
import rollout
import runtime
import train
from model import GPT, GPTConfig, UserError, load_checkpoint, save_checkpoint
from runtime import Recorder
from test_train import ROOT, TASK, TINY, command, dialogues, gradient, log_of, one_line, processes, same, settings, tiny
from test_train import vary_rewards, weights


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of all stages that nothing interrupts."""
    run = tmp_path_factory.mktemp("whole") / "run"
    done = command(run, "--stage", "2")
    assert done.codes == [0], done.text
    return run


def is_equal(run, whole) -> bool:
    """Whether two runs left the same weights and the same log, to the bit."""
    for name in ("stage0", "stage1", "stage2"):
        if not same(weights(run / f"{name}.pt"), weights(whole / f"{name}.pt")):
            return False
        if log_of(run / f"{name}.jsonl") != log_of(whole / f"{name}.jsonl"):
            return False
    return not list(run.glob("*.partial*")) and not list(run.glob("*.tmp"))


def after_step(name: str, step: int, action):
    """Return a function that lets `action` happen after one step of a stage has been logged, before its checkpoint."""

    def plant(rank):
        log = Recorder.log

        def logged(self, at, line):
            log(self, at, line)
            if (self.name, at) == (name, step):
                action()

        Recorder.log = logged

    return plant


def send(*numbers):
    """Return an action that sends signals to this process."""

    def action():
        for number in numbers:
            os.kill(os.getpid(), number)

    return action


# ------------------------------------------------------------------ kills and signals


@pytest.mark.parametrize("stage", ["stage0", "stage1", "stage2"])
def test_killed_and_resumed_equals_never_interrupted(whole, tmp_path, stage):
    """kill -9 after the last checkpoint, twice; then the same command to the end: weights and logs, to the bit."""
    run = tmp_path / "run"
    for step in (2, 5):
        done = command(run, "--stage", "2", before=after_step(stage, step, send(signal.SIGKILL)))
        assert done.codes == [-signal.SIGKILL] and len(log_of(run / f"{stage}.jsonl")) == step + 1
    done = command(run, "--stage", "2")
    assert done.codes == [0] and f"{stage}: resumes from step 4 of 6" in done.text
    assert is_equal(run, whole)


@pytest.mark.parametrize("stage, number", [("stage0", signal.SIGTERM), ("stage1", signal.SIGINT), ("stage2", signal.SIGHUP)])
def test_a_signal_stops_the_run_after_its_step_and_loses_nothing(whole, tmp_path, stage, number):
    """Ctrl-C, Slurm's and Kubernetes' SIGTERM, a closed terminal: a checkpoint of the very step, and one line."""
    run = tmp_path / "run"
    done = command(run, "--stage", "2", before=after_step(stage, 2, send(number)))
    assert done.codes == [1]
    one_line(done.text, f"{stage}: stopped after step 3 of 6; the same command resumes from there")
    done = command(run, "--stage", "2")
    assert f"{stage}: resumes from step 3 of 6" in done.text and is_equal(run, whole)


def test_sigterm_that_comes_twice_still_writes_the_checkpoint(tmp_path):
    """Slurm signals torchrun and its workers, and torchrun signals its workers again: each gets SIGTERM twice."""
    done = command(tmp_path / "run", before=after_step("stage0", 2, send(signal.SIGTERM, signal.SIGTERM)))
    one_line(done.text, "stage0: stopped after step 3 of 6")


def test_a_second_ctrl_c_stops_at_once_and_the_first_says_so(whole, tmp_path):
    run = tmp_path / "run"
    done = command(run, "--stage", "2", before=after_step("stage1", 2, send(signal.SIGINT, signal.SIGINT)))
    assert done.codes == [1] and "press Ctrl-C again to stop at once" in done.text
    one_line(done.text, "stopped at once")
    done = command(run, "--stage", "2")
    assert "stage1: resumes from step 2 of 6" in done.text and is_equal(run, whole)


def test_ctrl_c_during_an_evaluation_stops_at_once(whole, tmp_path):
    """There is nothing to save, and an evaluation may take an hour."""

    def plant(rank):
        together = train.evaluate_together
        train.evaluate_together = lambda *args: send(signal.SIGINT)() or together(*args)

    done = command(tmp_path / "run", "--stage", "2", before=plant)
    assert done.codes == [1] and not (tmp_path / "run" / "stage1.jsonl").exists()
    assert command(tmp_path / "run", "--stage", "2").codes == [0] and is_equal(tmp_path / "run", whole)


def test_a_run_under_nohup_outlives_its_terminal(tmp_path):
    """nohup ignores SIGHUP for its command; a handler of our own would undo that."""

    def plant(rank):
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        after_step("stage0", 2, send(signal.SIGHUP))(rank)

    assert command(tmp_path / "run", "--stage", "0", before=plant).codes == [0]


def in_terminal(columns: int, flags, before=lambda rank: None):
    """Fork a run in a terminal of so many columns. Returns the process id and the terminal's other end."""
    pid, terminal = pty.fork()
    if pid == 0:
        try:
            sys.__stdout__ = sys.stdout = sys.stderr = open(1, "w", buffering=1, encoding="utf-8")
            fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
            train.draw = lambda folder: None
            vary_rewards()
            before(0)
            train.main([*TINY, *flags])
        finally:
            os._exit(1)
    return pid, terminal


def read_some(terminal) -> bytes:
    """What the terminal shows since the last call; nothing once the process has ended."""
    try:
        return os.read(terminal, 65536) if select.select([terminal], [], [], 0.01)[0] else b""
    except OSError:
        return b""


def test_a_closed_terminal_loses_nothing(whole, tmp_path):
    """SIGHUP arrives, and every write to the terminal fails from then on: the checkpoint is written nevertheless."""
    reached, go_on = os.pipe(), os.pipe()

    def wait():
        os.write(reached[1], b".")
        os.read(go_on[0], 1)

    flags = ["--folder", str(tmp_path / "run"), "--stage", "2"]
    pid, terminal = in_terminal(80, flags, before=after_step("stage1", 2, wait))
    while not select.select([reached[0]], [], [], 0)[0]:
        read_some(terminal)
    os.close(terminal)
    os.write(go_on[1], b".")
    os.waitpid(pid, 0)
    done = command(tmp_path / "run", "--stage", "2")
    assert "stage1: resumes from step 3 of 6" in done.text and is_equal(tmp_path / "run", whole)


# ------------------------------------------------------------------ checkpoints


def test_finished_stages_are_not_made_again(whole):
    before = {path.name: path.stat().st_mtime_ns for path in whole.glob("*.pt")}
    again = command(whole, "--stage", "2")
    assert again.codes == [0] and again.text.count("already there") == 3 and len(before) == 3
    assert before == {path.name: path.stat().st_mtime_ns for path in whole.glob("*.pt")}


def test_a_stage_that_is_made_anew_is_measured_anew(whole, tmp_path):
    """Its checkpoint was removed: the table of the old weights must go too; those of other stages stay."""
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    (run / "stage2.pt").unlink()
    for path in run.glob("*.val5.json"):
        path.write_text(path.read_text(encoding="utf-8").replace('"n": 5', '"n": 77'), encoding="utf-8")
    assert command(run, "--stage", "2").codes == [0]
    old = [path.name for path in sorted(run.glob("*.val5.json")) if '"n": 77' in path.read_text(encoding="utf-8")]
    assert old == ["stage0.val5.json", "stage1.val5.json"]


def test_a_checkpoint_is_also_written_after_ten_minutes(whole, tmp_path):
    """With steps of a minute, `--save_every 50` alone would lose most of an hour. Its time changes no weight."""
    run = tmp_path / "run"

    def plant(rank):
        Recorder.MINUTES = 0
        after_step("stage1", 4, send(signal.SIGKILL))(rank)

    command(run, "--stage", "2", "--save_every", "6", before=plant)
    state = load_checkpoint(run / "stage1.partial.pt")
    assert state["step"] == len(state["window"]) == 4 and Recorder.MINUTES == 10
    assert command(run, "--stage", "2", "--save_every", "6").codes == [0]
    never = tmp_path / "never"
    assert command(never, "--stage", "2", "--save_every", "6").codes == [0] and is_equal(run, never)


def damage(path) -> None:
    """A block of zeros, which a crash of the machine leaves."""
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 4096] = bytes(4096)
    path.write_bytes(content)


@pytest.mark.parametrize("harm", [damage, os.unlink])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(whole, tmp_path, harm):
    """torch.load reads a block of zeros as weights, in silence; a kill between two renames leaves no last checkpoint."""
    run = tmp_path / "run"
    command(run, "--stage", "2", before=after_step("stage1", 5, send(signal.SIGKILL)))
    last, previous = run / "stage1.partial.pt", run / "stage1.partial.previous.pt"
    assert [load_checkpoint(path)["step"] for path in (last, previous)] == [4, 2]
    harm(last)
    done = command(run, "--stage", "2")
    assert ("stage1.partial.pt: damaged" in done.text) == (harm is damage) and "stage1: resumes from step 2 of 6" in done.text
    assert is_equal(run, whole)


@pytest.mark.parametrize(
    "content, word", [(b"", "damaged"), (b"PK\x03\x04 torn", "damaged"), ("half", "damaged"), ("foreign", "not a checkpoint")]
)
def test_a_damaged_or_foreign_stage_is_one_line_and_stays(whole, tmp_path, content, word):
    """It is neither loaded in half nor overwritten."""
    path = tmp_path / "run" / "stage0.pt"
    path.parent.mkdir()
    if content == "foreign":
        torch.save({"hello": 1}, path)
    else:
        raw = (whole / "stage0.pt").read_bytes()
        path.write_bytes(raw[: len(raw) // 2] if content == "half" else content)
    before = path.read_bytes()
    done = command(path.parent)
    assert done.codes == [1] and path.read_bytes() == before
    one_line(done.text, "stage0.pt", word)


def test_an_error_of_rank_0_is_one_line_of_each_process(tmp_path):
    """The others wait for rank 0 in a collective operation that fails: each wrote a traceback under the line that matters."""
    done = command(tmp_path / "run", "--base", "nowhere.pt", ranks=2)
    assert done.codes == [1, 1] and "nowhere.pt: no such checkpoint" in done.text
    assert "Traceback" not in done.text and "process 1: another process has ended" in done.text


def test_a_full_disk_is_one_line_and_overwrites_nothing(tmp_path, monkeypatch):
    path = tmp_path / "x.pt"
    save_checkpoint({"a": 1}, path)
    before = path.read_bytes()

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="x.pt.*No space left"):
        save_checkpoint({"a": 2}, path)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["x.pt"]


def test_a_run_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "run").write_text("a file")
    done = command(tmp_path / "run")
    assert done.codes == [1]
    one_line(done.text, "run")


# ------------------------------------------------------------------ steps that are not finite


@pytest.mark.parametrize("stage", ["stage0", "stage1"])
def test_one_gradient_that_is_not_finite_changes_nothing(tmp_path, stage):
    """One inf once made all later weights NaN, in silence, and the log no JSON."""

    def plant(rank):
        clip, steps = train.clip_gradient, []

        def clipped(model):
            steps.append(1)
            if len(steps) == {"stage0": 3, "stage1": 9}[stage]:
                next(model.parameters()).grad[0, 0] = float("inf")
            return clip(model)

        train.clip_gradient = clipped

    done = command(tmp_path / "run", before=plant)
    assert done.codes == [0] and f"{stage}: step 2 is skipped, its gradient is not finite" in done.text
    assert all(x.isfinite().all() for x in weights(tmp_path / "run" / f"{stage}.pt").values())
    assert [line["grad_norm"] is None for line in log_of(tmp_path / "run" / f"{stage}.jsonl")] == [i == 2 for i in range(6)]


@pytest.mark.parametrize("stage", ["stage0", "stage1"])
def test_ten_gradients_in_a_row_that_are_not_finite_stop_the_run(tmp_path, stage):
    """The last good checkpoint stays, and the line names the step."""

    def plant(rank):
        is_finite = Recorder.is_finite

        def after_step_2(self, step, norm):
            return is_finite(self, step, float("nan") if self.name == stage and step > 2 else norm)

        Recorder.is_finite = after_step_2

    done = command(tmp_path / "run", "--base_steps", "20", "--stage1_steps", "20", before=plant)
    assert done.codes == [1]
    one_line(done.text, f"{stage}: the gradients of ten steps, to step 12, were not finite")
    state = load_checkpoint(tmp_path / "run" / f"{stage}.partial.pt")
    assert all(x.isfinite().all() for x in state["model"].values()) and state["step"] == 12
    log_of(tmp_path / "run" / f"{stage}.jsonl")


# ------------------------------------------------------------------ the run folder


def test_a_folder_of_other_settings_is_refused_and_stays(whole):
    before = {path.name: path.read_bytes() for path in whole.glob("*.pt")}
    one_line(command(whole, "--stage", "2", "--seed", "5").text, "stage0.pt", "--seed 0", "5", "another --folder")
    one_line(command(whole, "--stage", "2", "--alpha", "5").text, "stage2.pt", "--alpha 1.0", "another --folder")
    assert command(whole, "--stage", "2", "--micro_batch", "3", "--eval_every", "4").codes == [0], "these change no weights"
    assert before == {path.name: path.read_bytes() for path in whole.glob("*.pt")}


def test_a_second_run_in_a_folder_is_refused(tmp_path, monkeypatch):
    """Two runs overwrite each other's checkpoints. The lock dies with its process; Windows, without fcntl, has none."""
    with runtime.lock(tmp_path):
        one_line(command(tmp_path).text, "another run writes here")
        monkeypatch.setattr(runtime, "fcntl", None)
        assert command(tmp_path, "--stage", "0").codes == [0]
    monkeypatch.undo()

    def killed(rank):
        with runtime.lock(tmp_path):
            send(signal.SIGKILL)()

    assert processes(killed, tmp_path / "out").codes == [-signal.SIGKILL]
    assert command(tmp_path, "--stage", "0").codes == [0]


# ------------------------------------------------------------------ the screen


@pytest.mark.parametrize("columns", [80, 40])
def test_the_progress_bar_fits_the_terminal(tmp_path, columns):
    """A bar that is one column too wide fills the screen with a line per step."""
    pid, terminal = in_terminal(columns, ["--folder", str(tmp_path / "run"), "--eval_problems", "1"])
    shown = b""
    while os.waitpid(pid, os.WNOHANG)[0] == 0:
        shown += read_some(terminal)
    shown += read_some(terminal)
    bars = [part for part in shown.decode().replace("\n", "\r").split("\r") if part.startswith("stage1 ") and " left" in part]
    assert len(bars) > 2 and any("r1 0." in part for part in bars)
    assert all(len(part.rstrip()) < columns for part in bars), bars
    assert any("chg" in part for part in bars) == (columns == 80), "less where it is narrow"


def test_without_a_terminal_there_is_a_line_now_and_then(tmp_path):
    """A pipe once got one line of 21,803 characters."""
    done = command(tmp_path / "run", "--stage", "0", "--base_steps", "60")
    lines = [line for line in done.text.splitlines() if line.startswith("stage0 ") and "loss" in line]
    assert len(lines) == 20 and "\r" not in done.text and max(map(len, done.text.splitlines())) < 160


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_a_terminal_without_greek_gets_ascii(tmp_path, encoding):
    """A run once died after stage 0, at the Δ of its first table."""
    done = command(tmp_path / "run", "--stage", "0", "--base_steps", "1", encoding=encoding)
    assert done.codes == [0] and "D(t1,t2)" in done.text


def test_files_are_read_in_the_encoding_in_which_they_were_written(tmp_path):
    """The command as a user gives it; Python warns of each file that is opened in the locale's encoding."""
    run = tmp_path / "run"
    command(run, "--stage", "0")
    program = [sys.executable, "-X", "warn_default_encoding", str(ROOT / "train.py"), "--folder", str(run), *TINY]
    done = subprocess.run(program, capture_output=True, text=True, timeout=120)
    warnings = [line for line in done.stderr.splitlines() if "EncodingWarning" in line and str(ROOT) in line]
    assert done.returncode == 0 and not warnings, done.stderr
    assert "already there" in done.stdout and "stage1 6/6" in done.stdout and "picture" in done.stdout


# ------------------------------------------------------------------ the machine


def test_cores_that_the_process_may_use_are_counted(monkeypatch):
    """64 threads on one core were six times slower than one."""
    found = []
    monkeypatch.setattr(torch, "set_num_threads", found.append)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    for ranks in ("1", "2", "16"):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", ranks)
        runtime.use_cores()
    monkeypatch.setenv("OMP_NUM_THREADS", "3")  # torch itself reads it
    runtime.use_cores()
    assert found == [8, 4, 1]


def test_out_of_memory_is_one_line_that_says_what_to_change(tmp_path):
    def plant(rank):
        def out_of_memory(*args, **kw):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB.\nmore")

        evaluate.sample_and_judge = out_of_memory

    done = command(tmp_path / "run", "--base_steps", "2", "--eval_problems", "1", before=plant)
    assert done.codes == [1]
    one_line(done.text, "out of memory", "--micro_batch", "--sample_batch", "--checkpointing", "resumes")


@pytest.mark.parametrize("shape", [dict(qkv_bias=True), dict(qk_norm=True, tied_head=False), dict(n_kv_head=4)])
def test_memory_counts_the_activations_and_the_cache_of_a_model(shape):
    """The estimate against what autograd keeps for the backward pass, and against the sampler's cache."""
    c = GPTConfig(100, **{**dict(n_layer=4, n_head=4, n_kv_head=2, n_embd=96, head_dim=24, n_ff=256), **shape})
    model, ids, alive = GPT(c), torch.zeros(2, 128, dtype=torch.long), []
    own = {p.untyped_storage().data_ptr() for p in [*model.parameters(), model.cos, model.sin]}
    kept = {}

    def keep(x):
        if x.untyped_storage().data_ptr() not in own:
            kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        alive.append(x)
        return x

    for checkpointing in (False, True):
        s = train.Settings(micro_batch=2, problems=1, attempts=2, max_new=8, checkpointing=checkpointing)
        estimate = runtime.memory(c, s, 120)
        model.checkpointing = checkpointing
        kept.clear()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            model.hidden(ids)
        final_norm = 4 * 2 * 128 * 2 * c.n_embd  # its input and its quotient
        one_block = runtime.memory(dataclasses.replace(c, n_layer=1), dataclasses.replace(s, checkpointing=False), 120)
        expected = estimate["activations"] - one_block["activations"] * checkpointing  # recomputed later
        assert 0.95 < (sum(kept.values()) - final_norm) / expected < 1.05
        cache = rollout.KVCache.empty(model, 2, 120)
        assert estimate["cache"] == (cache.k.nbytes + cache.v.nbytes) * 7 / 4


# ------------------------------------------------------------------ many processes


def local(x):
    return x.to_local() if hasattr(x, "to_local") else x


def bytes_of(tensors) -> int:
    return sum(local(x).nbytes for x in tensors)


def bytes_held(s, base, folder) -> dict:
    """What a process holds during a step, by the categories of `memory`."""
    held, models, distribute, clip, whole_optimizer = ({}, [], train.distribute, train.clip_gradient, train.whole_optimizer)

    def record_gradients(policy):
        held["gradients"] = bytes_of(p.grad for p in policy.parameters())
        return clip(policy)

    def record_optimizer(policy, optimizer):
        states = [x for state in optimizer.state.values() for x in state.values() if x.ndim]
        held["adam"] = bytes_of(states)
        return whole_optimizer(policy, optimizer)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "distribute", lambda *args: models.append(distribute(*args)) or models[-1])
        patch.setattr(train, "clip_gradient", record_gradients)
        patch.setattr(train, "whole_optimizer", record_optimizer)
        train.train_score(s, TASK, 1, base, base, folder)
    for name, model in zip(("weights", "reference", "average"), models):
        if hasattr(model, "reshard"):
            model.reshard()  # FSDP2 leaves the embedding and the head of a model without gradients gathered
        held[name] = bytes_of(model.parameters())
    return held


SPLIT = ["--offline", "0", "--siblings", "2"]
VARIANTS = [  # what must not change the gradient
    ("float32", "8"), ("float32", "1"), ("float32", "3 --checkpointing"), ("bf16", "8"), ("bf16", "3 --checkpointing"),
]  # fmt: skip
RANKS = (1, 2, 4)


def share_of(batch, rank: int, world: int):
    """The dialogues of every n-th problem, four each."""
    rows = [n for n in range(16) if n // 4 % world == rank]
    parts = {f.name: getattr(batch.rollouts, f.name)[rows] for f in dataclasses.fields(batch.rollouts)}
    texts = [[turn[n] for n in rows] for turn in batch.texts]
    return evaluate.Batch(rollout.Rollouts(**parts), texts, batch.finished[rows], batch.rewards[rows])


def complaint(s) -> str:
    """What check_ranks_agree says."""
    try:
        train.check_ranks_agree(s)
    except UserError as error:
        return str(error)
    return ""


def measure(rank: int, world: int, folder, batch, policy, base) -> dict:
    """What one process of a group finds: its gradients, bytes, problems, evaluation."""
    found, s = {"gradients": {}, "bytes": {}}, settings(folder, "--dtype", "bf16")
    start, reference = (policy, base) if rank == 0 else (None, None)
    with train.processes(s):
        for dtype, micro in VARIANTS:
            v = settings(folder, "--dtype", dtype, *SPLIT, "--micro_batch", *micro.split())
            found["gradients"][dtype, micro] = gradient(v, 2, share_of(batch, rank, world), start, reference, folder)
        for dtype in ("float32", "bf16"):
            found["bytes"][dtype] = bytes_held(settings(folder, "--dtype", dtype, "--stage1_steps", 1), reference, folder)
            (folder / "stage1.partial.pt").unlink(missing_ok=True)
        problems, sampling = train.draw_problems(s, TASK, 1, 7)
        found["problems"], found["seed"] = [p.prompt for p in problems], sampling["generator"].initial_seed()
        found["dialogues"] = train.evaluate_together(s, TASK, policy)
        for name, content in (("copy", "the same"), ("other", folder.name)):
            (folder / name).write_text(content)
        found["agree"] = complaint(dataclasses.replace(s, data=str(folder / "copy")))
        found["disagree"] = complaint(dataclasses.replace(s, alpha=float(rank)))
        found["other data"] = complaint(dataclasses.replace(s, data=str(folder / "other")))
    return found


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """What each process of a group of 1, 2 and 4 finds, for the same 16 dialogues."""
    out, policy, base = tmp_path_factory.mktemp("split"), tiny(1), tiny(0)
    policy.wte.weight.data[TASK.stops[0]] *= 5  # so that answers end at different places
    batch = dialogues(settings(out, *SPLIT), policy, TASK.problems("train", 4))
    assert batch.rollouts.length.unique().numel() > 2
    given = batch.rollouts.turn[:4] == 1  # first answers of the first problem: processes differ in their counts
    batch.rollouts.turn[:4][given] = 0

    def save(rank, world):
        folder = out / f"{world}-{rank}"
        folder.mkdir()
        torch.save(measure(rank, world, folder, batch, policy, base), folder / "found.pt")

    found = {}
    for world in RANKS:
        done = processes(lambda rank: save(rank, world), out / f"{world}.out", world)
        assert done.codes == [0] * world, done.text
        found[world] = [torch.load(out / f"{world}-{rank}" / "found.pt") for rank in range(world)]
    return found


def distance(a: dict, b: dict) -> float:
    """The norm of the difference of two gradients, as a share of the second one's norm."""
    a, b = (torch.cat([x[name].flatten() for name in sorted(b)]) for x in (a, b))
    return ((a - b).norm() / b.norm()).item()


def test_the_gradient_does_not_depend_on_how_the_work_is_split(measured):
    """1, 2, 4 processes, 1 to 8 dialogues per pass, activations kept or recomputed. Per-rank denominators, a mean over ranks
    instead of a sum, or FSDP2's own divide factor would each show."""
    whole = measured[1][0]["gradients"]["float32", "8"]
    assert all(g.abs().max() > 0 for g in whole.values())
    for world in RANKS:
        for rank in measured[world]:
            for (dtype, micro), found in rank["gradients"].items():
                assert distance(found, whole) < (1e-5 if dtype == "float32" else 0.03), (world, dtype, micro)
    one = measured[1][0]["gradients"]["bf16", "8"]
    assert distance(one, whole) > 1e-4, "bf16 computes in bf16"


def test_bytes_per_process_are_those_of_the_formula(measured):
    """Parameters, gradients, Adam, reference and average on 1, 2 and 4 processes; with bf16, each is sharded."""
    for world in RANKS:
        for dtype in ("float32", "bf16"):
            estimate = runtime.memory(tiny().config, settings("", "--dtype", dtype), 40, world)
            for rank in measured[world]:
                for name, held in rank["bytes"][dtype].items():
                    assert held == pytest.approx(estimate[name], rel=0.1), (world, dtype, name)
    assert set(measured[1][0]["bytes"]["bf16"]) == {"weights", "gradients", "adam", "reference", "average"}


def test_problems_of_a_step_do_not_depend_on_the_number_of_processes(measured):
    """But each process has random numbers of its own; with the same ones, problems would be sampled alike."""
    drawn = [sorted(p for rank in measured[world] for p in rank["problems"]) for world in RANKS]
    assert drawn[0] == drawn[1] == drawn[2] and len(set(drawn[0])) == 4
    assert len({rank["seed"] for rank in measured[4]}) == 4


def test_processes_share_the_evaluation_and_all_have_its_result(measured):
    """An odd number of problems: the same dialogues in the same order as of one process."""
    problems = [p.prompt for p in TASK.problems("val", 5)]
    for world in RANKS:
        for rank in measured[world]:
            assert rank["dialogues"] == measured[1][0]["dialogues"] and [d["prompt"] for d in rank["dialogues"]] == problems


def test_processes_that_disagree_about_a_setting_stop_with_one_line(measured):
    """They would sum gradients of different objectives. Each may have a run folder and copies of the files of its own."""
    for world in RANKS:
        for rank in measured[world]:
            assert rank["agree"] == "" and ("--data: content" in rank["other data"]) == (world > 1)
    line = "the processes were started with different --alpha: 0.0, 1.0; give all the same"
    assert [rank["disagree"] for rank in measured[2]] == [line, line] and measured[1][0]["disagree"] == ""


@pytest.mark.parametrize("dtype", ["float32", "bf16"])
def test_a_run_resumes_on_another_number_of_processes(tmp_path, dtype):
    """Killed on two, in Stage I; resumed on one, killed, and ended by four: each step once, Adam's state goes along."""
    run, flags = tmp_path / "run", ["--stage", "2", "--dtype", dtype, "--base_steps", "1"]
    done = command(run, *flags, ranks=2, before=after_step("stage1", 2, send(signal.SIGKILL)))
    assert -signal.SIGKILL in done.codes
    begun = load_checkpoint(run / "stage1.partial.pt")
    done = command(run, *flags, before=after_step("stage1", 5, send(signal.SIGKILL)))
    assert "stage1: resumes from step 2 of 6" in done.text
    after = load_checkpoint(run / "stage1.partial.pt")
    assert {name: x.shape for name, x in begun["policy"].items()} == {name: x.shape for name, x in after["policy"].items()}
    assert all(state["step"] == 4 for state in after["adam"]["state"].values()), "Adam's state went on"
    done = command(run, *flags, ranks=4)
    assert done.codes == [0] * 4 and "stage1: resumes from step 4 of 6" in done.text, done.text
    assert [line["step"] for line in log_of(run / "stage1.jsonl")] == list(range(6))


def test_two_machines_need_no_shared_folder(whole, tmp_path):
    """Rank 0 decides where the run stands; rank 1 must neither read nor write a run folder, even one of another run."""
    one, two = tmp_path / "one", tmp_path / "two"
    shutil.copytree(whole, two)
    (two / "stage1.partial.pt").write_bytes(b"of another run, and torn")
    before = {path.name: path.read_bytes() for path in two.iterdir()}

    def node(rank):
        if rank == 0:
            after_step("stage1", 2, send(signal.SIGTERM))(rank)
        train.main(["--folder", str((one, two)[rank]), *TINY, "--stage", "2", "--problems", "2"])

    done = processes(node, tmp_path / "out", 2)
    assert done.codes == [1, 1] and done.text.count("stopped after step 3 of 6") == 1, "all processes stop after the same step"
    done = command(one, "--stage", "2", "--problems", "2", ranks=2)
    assert done.codes == [0, 0] and "stage1: resumes from step 3 of 6" in done.text
    assert before == {path.name: path.read_bytes() for path in two.iterdir()}


def test_ctrl_c_to_torchrun_writes_a_checkpoint(tmp_path):
    """The program under its launcher: torchrun hands the signal on, and ends all processes as soon as one has ended."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(ROOT / "train.py")]
    flags = ["--folder", str(tmp_path / "run"), *TINY, "--stage1_steps", "100000", "--save_every", "100000"]
    with open(tmp_path / "out", "w") as out:
        process = subprocess.Popen([*launcher, *flags], stdout=out, stderr=out, env=os.environ | {"OMP_NUM_THREADS": "1"})
        log = tmp_path / "run" / "stage1.jsonl"
        while process.poll() is None and not (log.exists() and log.read_text().count("\n") > 2):
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        process.wait(60)
    text = (tmp_path / "out").read_text()
    assert text.count("stage1: stopped after step") == 1, text
    state = load_checkpoint(tmp_path / "run" / "stage1.partial.pt")
    assert state["step"] == len(log_of(log)) > 2
