"""runtime.py: a run that is killed, stopped or split over processes ends with the same weights."""

import dataclasses
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
from model import GPT, GPTConfig, UserError, load_checkpoint
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


def after_step(name: str, step: int, *signals):
    """Return a function for `before`: the process gets signals after a step's log line, before its checkpoint."""

    def plant(rank):
        log = Recorder.log

        def logged(self, at, line):
            log(self, at, line)
            if (self.name, at) == (name, step):
                for number in signals:
                    os.kill(os.getpid(), number)

        Recorder.log = logged

    return plant


# ------------------------------------------------------------------ kills and signals

STOPPED = "stopped after step {} of 6; the same command resumes from there"


@pytest.mark.parametrize(
    "stage, signals, words, lost",
    [
        ("stage0", [signal.SIGKILL], "", 1),
        ("stage1", [signal.SIGKILL], "", 1),
        ("stage2", [signal.SIGKILL], "", 1),
        ("stage0", [signal.SIGTERM, signal.SIGTERM], STOPPED, 0),  # Slurm's, and torchrun's own after it
        ("stage1", [signal.SIGINT], STOPPED, 0),
        ("stage2", [signal.SIGHUP], STOPPED, 0),
        ("stage1", [signal.SIGINT, signal.SIGINT], "stopped at once", 1),
    ],
)
def test_a_run_that_is_stopped_twice_and_resumed_equals_one_that_is_not(whole, tmp_path, stage, signals, words, lost):
    """Optimizer, average, window, log or random numbers began anew, or a signal lost the steps since a checkpoint."""
    run, resumes = tmp_path / "run", ""
    for step in (2, 4):
        done = command(run, "--stage", "2", before=after_step(stage, step, *signals))
        assert done.codes == [1 if words else -signal.SIGKILL] and resumes in done.text
        assert ("press Ctrl-C again to stop at once" in done.text) == bool(words)
        one_line(done.text, words.format(step + 1))
        resumes = f"{stage}: resumes from step {step + 1 - lost} of 6"
    done = command(run, "--stage", "2")
    assert done.codes == [0] and resumes in done.text and is_equal(run, whole)


def test_ctrl_c_during_an_evaluation_stops_at_once(tmp_path):
    """The run went on to the next training step, an hour later, though there is nothing to save."""

    def plant(rank):
        together = train.evaluate_together
        train.evaluate_together = lambda *args: os.kill(os.getpid(), signal.SIGINT) or together(*args)

    done = command(tmp_path / "run", before=plant)
    assert done.codes == [1] and not (tmp_path / "run" / "stage1.jsonl").exists()


def test_a_run_under_nohup_outlives_its_terminal(tmp_path):
    """nohup ignores SIGHUP for its command; a handler of our own undid that."""

    def plant(rank):
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        after_step("stage0", 2, signal.SIGHUP)(rank)

    assert command(tmp_path / "run", "--stage", "0", before=plant).codes == [0]


def in_terminal(columns: int, run, before=lambda rank: None):
    """Fork a run in a terminal of so many columns. Returns the process id and the terminal's other end."""
    pid, terminal = pty.fork()
    if pid == 0:
        try:
            sys.__stdout__ = sys.stdout = sys.stderr = open(1, "w", buffering=1, encoding="utf-8")
            fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
            train.draw = lambda folder: None
            vary_rewards()
            before(0)
            train.main(["--folder", str(run), *TINY, "--stage", "2"])
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
    """SIGHUP arrives and every write to the terminal fails, which ended the run before its checkpoint."""
    run = tmp_path / "run"
    pid, terminal = in_terminal(80, run, before=after_step("stage1", 2, signal.SIGSTOP))
    while not os.WIFSTOPPED(os.waitpid(pid, os.WNOHANG | os.WUNTRACED)[1]):
        read_some(terminal)
    os.close(terminal)
    os.kill(pid, signal.SIGCONT)
    os.waitpid(pid, 0)
    done = command(run, "--stage", "2")
    assert "stage1: resumes from step 3 of 6" in done.text and is_equal(run, whole)


# ------------------------------------------------------------------ checkpoints and the run folder


def test_finished_stages_are_neither_made_again_nor_mixed_with_other_settings(whole):
    """Stage II of one setting was trained from a Stage I of another, and its table had one name for both."""
    before = {path.name: path.stat().st_mtime_ns for path in whole.glob("*.pt")}
    again = command(whole, "--stage", "2", "--micro_batch", "3", "--eval_every", "4")  # these change no weights
    assert again.codes == [0] and again.text.count("already there") == len(before) == 3
    one_line(command(whole, "--stage", "2", "--seed", "5").text, "stage0.pt", "--seed 0", "5", "another --folder")
    one_line(command(whole, "--stage", "2", "--alpha", "5").text, "stage2.pt", "--alpha 1.0", "another --folder")
    assert before == {path.name: path.stat().st_mtime_ns for path in whole.glob("*.pt")}


def test_files_are_known_by_their_content_not_by_their_path(tmp_path):
    """A moved file was refused, or one that lost its last rows, or has another weight after its first MB, was not."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    content = bytearray(os.urandom(1 << 21))
    prints = []
    for name in ("a/x.json", "b/x.json"):
        (tmp_path / name).write_bytes(content)
        prints.append(runtime.fingerprint(str(tmp_path / name)))
    assert prints[0] == prints[1] and runtime.fingerprint(f"{tmp_path}/a/") == runtime.fingerprint(f"{tmp_path}/b")
    s = settings(tmp_path, "--start", tmp_path / "a" / "x.json")
    state, moved = {"settings": runtime.remembered(s, 1)}, dataclasses.replace(s, start=str(tmp_path / "b" / "x.json"))
    runtime.check_settings(state, moved, 1, "stage1.pt")
    content[15 << 17] ^= 1  # in the last of 16 samples
    for changed in (content, content[:-20]):
        (tmp_path / "b" / "x.json").write_bytes(changed)
        assert runtime.fingerprint(f"{tmp_path}/b") != runtime.fingerprint(f"{tmp_path}/a")
        with pytest.raises(UserError, match="stage1.pt: made with --start .* content"):
            runtime.check_settings(state, moved, 1, "stage1.pt")


def test_a_stage_that_is_made_anew_is_measured_anew(whole, tmp_path):
    """Its checkpoint was removed, and the table still showed the old weights; those of other stages stay."""
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    (run / "stage2.pt").unlink()
    tables = sorted(run.glob("*.val5.json"))
    for path in tables:
        path.write_text(path.read_text(encoding="utf-8").replace('"n": 5', '"n": 77'), encoding="utf-8")
    assert command(run, "--stage", "2").codes == [0]
    assert ['"n": 77' in path.read_text(encoding="utf-8") for path in tables] == [True, True, False]


def test_a_checkpoint_is_also_written_after_ten_minutes(whole, tmp_path):
    """With steps of a minute, `--save_every 50` alone loses most of an hour; the time must change no weight."""
    run = tmp_path / "run"

    def plant(rank):
        Recorder.MINUTES = 0
        after_step("stage1", 3, signal.SIGKILL)(rank)

    command(run, "--stage", "2", before=plant)
    state = load_checkpoint(run / "stage1.partial.pt")
    assert (state["step"], len(state["window"]), Recorder.MINUTES) == (3, 1, 10)
    assert command(run, "--stage", "2").codes == [0] and is_equal(run, whole)


def damage(path) -> None:
    """Write a block of zeros, which a crash of the machine leaves."""
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 4096] = bytes(4096)
    path.write_bytes(content)


@pytest.mark.parametrize("harm", [damage, os.unlink])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(whole, tmp_path, harm):
    """torch.load reads a block of zeros as weights; a kill between two renames leaves no last checkpoint."""
    run = tmp_path / "run"
    command(run, "--stage", "2", before=after_step("stage1", 5, signal.SIGKILL))
    last, previous = run / "stage1.partial.pt", run / "stage1.partial.previous.pt"
    assert [load_checkpoint(path)["step"] for path in (last, previous)] == [4, 2]
    harm(last)
    done = command(run, "--stage", "2")
    assert ("stage1.partial.pt: damaged" in done.text) == (harm is damage)
    assert "stage1: resumes from step 2 of 6" in done.text and is_equal(run, whole)


def test_a_damaged_stage_is_one_line_and_stays(whole, tmp_path):
    """It was overwritten, with hours of training in it."""
    path = tmp_path / "run" / "stage0.pt"
    path.parent.mkdir()
    shutil.copy(whole / "stage0.pt", path)
    damage(path)
    before = path.read_bytes()
    done = command(path.parent)
    assert done.codes == [1] and path.read_bytes() == before
    one_line(done.text, "stage0.pt", "damaged")


def test_an_error_of_rank_0_is_one_line_of_each_process(tmp_path):
    """The others, in a collective operation that fails, wrote tracebacks below the line that matters."""
    done = command(tmp_path / "run", "--base", "nowhere.pt", ranks=2)
    assert done.codes == [1, 1] and "nowhere.pt: no such checkpoint" in done.text
    assert "Traceback" not in done.text and "process 1: another process has ended" in done.text


def test_errors_of_the_machine_are_one_line(tmp_path):
    """A file in the folder's place was a traceback; out of memory did not say what to change."""

    def plant(rank):
        def out_of_memory(*args, **kw):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB.\nmore")

        evaluate.sample_and_judge = out_of_memory

    done = command(tmp_path / "run", "--base_steps", "2", before=plant)
    assert done.codes == [1]
    one_line(done.text, "out of memory", "--micro_batch", "--sample_batch", "--checkpointing", "resumes")
    (tmp_path / "file").write_text("")
    done = command(tmp_path / "file")
    assert done.codes == [1]
    one_line(done.text, "file")


def test_a_second_run_in_a_folder_is_refused(tmp_path, monkeypatch):
    """Two runs overwrite each other's checkpoints; but a lock must die with its process, and Windows has none."""
    with runtime.lock(tmp_path):
        one_line(command(tmp_path).text, "another run writes here")
        monkeypatch.setattr(runtime, "fcntl", None)
        assert command(tmp_path, "--stage", "0").codes == [0]
    monkeypatch.undo()

    def killed(rank):
        with runtime.lock(tmp_path):
            os.kill(os.getpid(), signal.SIGKILL)

    assert processes(killed, tmp_path / "out").codes == [-signal.SIGKILL]
    assert command(tmp_path, "--stage", "0").codes == [0]


@pytest.mark.parametrize("stage", ["stage0", "stage1"])
def test_gradients_that_are_not_finite_are_skipped_and_ten_in_a_row_stop_the_run(tmp_path, stage):
    """One inf made all later weights NaN and the log no JSON; ten of a long run, far apart, are no reason to stop."""
    bad = [*range(2, 11), *range(12, 22)]

    def plant(rank):
        clip = train.clip_gradient
        steps = iter(range(-6 if stage == "stage1" else 0, 99))

        def clipped(model):
            if next(steps) in bad:
                next(model.parameters()).grad[0, 0] = float("inf")
            return clip(model)

        train.clip_gradient = clipped

    flags = ["--stage1_steps", "30"] if stage == "stage1" else ["--base_steps", "30"]
    done = command(tmp_path / "run", *flags, before=plant)
    assert done.codes == [1] and f"{stage}: step 2 is skipped, its gradient is not finite" in done.text
    one_line(done.text, f"{stage}: the gradients of ten steps, to step 21, were not finite")
    log = log_of(tmp_path / "run" / f"{stage}.jsonl")
    assert [line["step"] for line in log if line["grad_norm"] is None] == bad[:-1]
    state = load_checkpoint(tmp_path / "run" / f"{stage}.partial.pt")
    assert all(x.isfinite().all() for x in state["policy"].values()) and state["step"] == 20


# ------------------------------------------------------------------ the screen


@pytest.mark.parametrize("columns", [80, 40])
def test_the_progress_bar_fits_the_terminal(tmp_path, columns):
    """A bar that is one column too wide fills the screen with a line per step."""
    pid, terminal = in_terminal(columns, tmp_path / "run")
    shown = b""
    while os.waitpid(pid, os.WNOHANG)[0] == 0:
        shown += read_some(terminal)
    shown += read_some(terminal)
    parts = shown.decode().replace("\n", "\r").split("\r")
    bars = [part for part in parts if part.startswith("stage1 ") and " left" in part]
    assert len(bars) > 2 and any("r1 0." in part for part in bars)
    assert all(len(part) < columns for part in bars), "tqdm cuts what is longer"
    assert any("chg" in part for part in bars) == (columns == 80), "less where it is narrow"


def test_a_file_gets_a_short_line_now_and_then_in_its_own_encoding(tmp_path):
    """A pipe got one line of 21,803 characters, and a run died after stage 0, at the Δ of its first table."""
    done = command(tmp_path / "run", "--stage", "0", "--base_steps", "60", encoding="ascii")
    lines = [line for line in done.text.splitlines() if line.startswith("stage0 ") and "loss" in line]
    assert len(lines) == 20 and "\r" not in done.text and max(map(len, done.text.splitlines())) < 160
    assert done.codes == [0] and "D(t1,t2)" in done.text


def test_files_are_read_in_the_encoding_in_which_they_were_written(tmp_path):
    """Python warns of each file that is opened in the locale's encoding, which is not UTF-8 everywhere."""
    run = tmp_path / "run"
    command(run, "--stage", "0")
    program = [sys.executable, "-X", "warn_default_encoding", str(ROOT / "train.py"), "--folder", str(run), *TINY]
    done = subprocess.run(program, capture_output=True, text=True, timeout=120)
    warnings = [line for line in done.stderr.splitlines() if "EncodingWarning" in line and str(ROOT) in line]
    assert done.returncode == 0 and not warnings, done.stderr
    assert "already there" in done.stdout and "stage1 6/6" in done.stdout and "plot" in done.stdout


# ------------------------------------------------------------------ the machine


def test_cores_that_the_process_may_use_are_counted(monkeypatch):
    """64 threads on one core were six times slower than one."""
    found = []
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(torch, "set_num_threads", found.append)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    for name, value in (("LOCAL_WORLD_SIZE", "2"), ("LOCAL_WORLD_SIZE", "16"), ("OMP_NUM_THREADS", "3")):
        runtime.use_cores()
        monkeypatch.setenv(name, value)
    runtime.use_cores()
    assert found == [8, 4, 1], "torch itself reads OMP_NUM_THREADS"


@pytest.mark.parametrize("shape", [dict(qkv_bias=True), dict(qk_norm=True, tied_head=False), dict(n_kv_head=4)])
def test_memory_counts_the_activations_and_the_cache_of_a_model(shape):
    """The estimate was not that of what autograd keeps for the backward pass, or of the sampler's cache."""
    c = GPTConfig(100, **dict(n_layer=4, n_head=4, n_kv_head=2, n_embd=96, head_dim=24, n_ff=256) | shape)
    model, alive, kept = GPT(c), [], {}
    own = {p.untyped_storage().data_ptr() for p in [*model.parameters(), model.cos, model.sin]}

    def keep(x):
        alive.append(x)  # or another tensor could get its address
        if x.untyped_storage().data_ptr() not in own:
            kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    final_norm = 4 * 2 * 128 * 2 * c.n_embd  # its input and its quotient
    for checkpointing in (False, True):
        s = train.Settings(micro_batch=2, problems=1, attempts=2, max_new=8, checkpointing=checkpointing)
        estimate = runtime.memory(c, s, 120)
        model.checkpointing = checkpointing
        kept.clear()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            model.hidden(torch.zeros(2, 128, dtype=torch.long))
        one_block = runtime.memory(dataclasses.replace(c, n_layer=1), train.Settings(micro_batch=2), 120)
        expected = estimate["activations"] - one_block["activations"] * checkpointing  # recomputed later
        assert sum(kept.values()) - final_norm == pytest.approx(expected, rel=0.05)
        cache = rollout.KVCache.empty(model, 2, 120)
        assert estimate["cache"] == (cache.k.nbytes + cache.v.nbytes) * 7 / 4


# ------------------------------------------------------------------ many processes


def bytes_of(tensors) -> int:
    """The bytes of this process's shards."""
    return sum((x.to_local() if hasattr(x, "to_local") else x).nbytes for x in tensors)


def bytes_held(s, base, folder) -> dict:
    """What a process holds during a step, by the categories of `memory`."""
    held, models, distribute, step = {}, [], train.distribute, torch.optim.Adam.step

    def record_model(*args):
        models.append(distribute(*args))
        return models[-1]

    def record_step(optimizer):
        step(optimizer)
        held["gradients"] = bytes_of(p.grad for p in optimizer.param_groups[0]["params"])
        held["adam"] = bytes_of(x for state in optimizer.state.values() for x in state.values() if x.ndim)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "distribute", record_model)
        patch.setattr(torch.optim.Adam, "step", record_step)
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


def complaint(s, **changes) -> str:
    """What check_ranks_agree says."""
    try:
        train.check_ranks_agree(dataclasses.replace(s, **changes))
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
            one_step = settings(folder, "--dtype", dtype, "--stage1_steps", 1)
            found["bytes"][dtype] = bytes_held(one_step, reference, folder)
            (folder / "stage1.partial.pt").unlink(missing_ok=True)
        problems, sampling = train.draw_problems(s, TASK, 1, 7)
        found["problems"], found["seed"] = [p.prompt for p in problems], sampling["generator"].initial_seed()
        found["dialogues"] = train.evaluate_together(s, TASK, policy)
        for name, content in (("copy", "the same"), ("other", folder.name)):
            (folder / name).write_text(content)
        found["agree"] = complaint(s, data=str(folder / "copy"))
        found["other alpha"] = complaint(s, alpha=float(rank))
        found["other data"] = complaint(s, data=str(folder / "other"))
    return found


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """What each process of a group of 1, 2 and 4 finds, for the same 16 dialogues."""
    out, policy, base = tmp_path_factory.mktemp("split"), tiny(1), tiny(0)
    policy.wte.weight.data[TASK.stops[0]] *= 5  # so that answers end at different places
    batch = dialogues(settings(out, *SPLIT), policy)
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
    """Denominators per process or micro-batch, a mean over processes, or FSDP2's divide factor changed it."""
    whole = measured[1][0]["gradients"]["float32", "8"]
    assert all(g.abs().max() > 0 for g in whole.values())
    for world in RANKS:
        for rank in measured[world]:
            for (dtype, micro), found in rank["gradients"].items():
                assert distance(found, whole) < (1e-5 if dtype == "float32" else 0.03), (world, dtype, micro)
    one = measured[1][0]["gradients"]["bf16", "8"]
    assert distance(one, whole) > 1e-4, "bf16 computes in bf16"


def test_bytes_per_process_are_those_of_the_formula(measured):
    """With bf16, weights, gradients, Adam's state, reference or average were not sharded, or not counted."""
    for world in RANKS:
        for dtype in ("float32", "bf16"):
            estimate = runtime.memory(tiny().config, settings("", "--dtype", dtype), 40, world)
            for rank in measured[world]:
                assert set(rank["bytes"][dtype]) == {"weights", "gradients", "adam", "reference", "average"}
                for name, held in rank["bytes"][dtype].items():
                    assert held == pytest.approx(estimate[name], rel=0.1), (world, dtype, name)


def test_processes_share_problems_and_have_random_numbers_of_their_own(measured):
    """A step's problems depended on their number, all sampled alike, or the evaluation lost or exchanged dialogues."""
    drawn = [sorted(p for rank in measured[world] for p in rank["problems"]) for world in RANKS]
    assert drawn[0] == drawn[1] == drawn[2] and len(set(drawn[0])) == 4
    assert len({rank["seed"] for rank in measured[4]}) == 4
    dialogues = measured[1][0]["dialogues"]
    assert [d["prompt"] for d in dialogues] == [p.prompt for p in TASK.problems("val", 5)]
    assert all(rank["dialogues"] == dialogues for world in RANKS for rank in measured[world])


def test_processes_that_disagree_about_a_setting_stop_with_one_line(measured):
    """They summed gradients of different objectives; but each may have a run folder and copies of files of its own."""
    for world in RANKS:
        for rank in measured[world]:
            assert rank["agree"] == "" and ("--data: content" in rank["other data"]) == (world > 1)
    line = "the processes were started with different --alpha: 0.0, 1.0; give all the same"
    assert [rank["other alpha"] for rank in measured[2]] == [line, line] and measured[1][0]["other alpha"] == ""


@pytest.mark.parametrize("dtype", ["float32", "bf16"])
def test_a_run_resumes_on_another_number_of_processes(tmp_path, dtype):
    """A shard was saved for the whole, Adam's state stayed on rank 0 or began anew, or a step was done twice."""
    run, flags = tmp_path / "run", ["--stage", "2", "--dtype", dtype, "--base_steps", "1"]
    done = command(run, *flags, ranks=2, before=after_step("stage1", 2, signal.SIGKILL))
    assert -signal.SIGKILL in done.codes
    begun = load_checkpoint(run / "stage1.partial.pt")
    done = command(run, *flags, before=after_step("stage1", 5, signal.SIGKILL))
    assert "stage1: resumes from step 2 of 6" in done.text
    after = load_checkpoint(run / "stage1.partial.pt")
    assert all(x.shape == after["policy"][name].shape for name, x in begun["policy"].items())
    assert all(state["step"] == 4 for state in after["adam"]["state"].values()), "Adam's state went on"
    done = command(run, *flags, ranks=4)
    assert done.codes == [0] * 4 and "stage1: resumes from step 4 of 6" in done.text, done.text
    assert [line["step"] for line in log_of(run / "stage1.jsonl")] == list(range(6))


def test_two_machines_need_no_shared_folder_and_stop_together(whole, tmp_path):
    """Rank 1 read or wrote a run folder of its own, even one of another run; or a signal to rank 0 stopped only it."""
    one, two = tmp_path / "one", tmp_path / "two"
    shutil.copytree(whole, two)
    (two / "stage1.partial.pt").write_bytes(b"of another run, and torn")
    before = {path.name: path.read_bytes() for path in two.iterdir()}

    def node(rank):
        if rank == 0:
            after_step("stage1", 2, signal.SIGTERM)(rank)
        train.main(["--folder", str((one, two)[rank]), *TINY, "--stage", "2", "--problems", "2"])

    done = processes(node, tmp_path / "out", 2)
    assert done.codes == [1, 1] and done.text.count("stopped after step 3 of 6") == 1
    done = command(one, "--stage", "2", "--problems", "2", ranks=2)
    assert done.codes == [0, 0] and "stage1: resumes from step 3 of 6" in done.text
    assert before == {path.name: path.read_bytes() for path in two.iterdir()}


def test_ctrl_c_to_torchrun_writes_a_checkpoint(tmp_path):
    """torchrun hands the signal on and kills all processes soon after one has ended: before rank 0 had written."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    flags = ["--folder", str(tmp_path / "run"), *TINY, "--stage1_steps", "100000", "--save_every", "100000"]
    log = tmp_path / "run" / "stage1.jsonl"
    with open(tmp_path / "out", "w") as out:
        process = subprocess.Popen([*launcher, str(ROOT / "train.py"), *flags], stdout=out, stderr=out)
        while process.poll() is None and not (log.exists() and log.read_text().count("\n") > 2):
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        process.wait(60)
    text = (tmp_path / "out").read_text()
    assert text.count("stage1: stopped after step") == 1, text
    state = load_checkpoint(tmp_path / "run" / "stage1.partial.pt")
    assert state["step"] == len(log_of(log)) > 2
