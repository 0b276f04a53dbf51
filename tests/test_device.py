"""A fake-device tensor subclass checks that no step mixes devices and that a decode step has no host sync.

Its tensors name the device "fake" and compute on the CPU, so `bench.py --model` still has to measure a GPU's speed and
memory. An operation between a tensor of the device and one of the CPU, which a GPU would refuse, fails here. Each value
that Python reads from the device is counted: a GPU would have to finish its work first.

The device is registered with torch for the whole process. Each test therefore runs in a fork. Activation checkpointing
is not covered: torch aborts in its backward pass on a device that is written in Python.
"""

import functools
import multiprocessing
from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

import model
import rollout
import runtime
import train
from model import GPT, GPTConfig, UserError

# operations that hand a number, or a shape that depends on numbers, to Python
READS = ("_local_scalar_dense", "nonzero", "masked_select", "equal")
syncs = []  # the operations that transferred data between the device and the CPU


class Fake(torch.Tensor):
    """A tensor of the fake device; `inner` has its numbers."""

    @staticmethod
    def __new__(cls, inner):
        layout = dict(strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype)
        return torch.Tensor._make_wrapper_subclass(cls, inner.size(), device=torch.device("fake", 0), **layout)

    def __init__(self, inner):
        self.inner = inner

    def __repr__(self):
        return f"Fake{tuple(self.shape)}"

    def tolist(self):
        syncs.append("tolist")
        return self.inner.tolist()

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return compute(function, args, kwargs or {})


class FakeDevice(TorchDispatchMode):
    """While it is entered, tensors can be made on the fake device."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return compute(function, args, kwargs or {})


def unwrap(x):
    return x.inner if isinstance(x, Fake) else x


def compute(function, args, kwargs):
    """Compute on the CPU what was asked of the device. AssertionError if a GPU would refuse it."""
    name, to = function.overloadpacket.__name__, kwargs.get("device")
    tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
    fakes = [x for x in tensors if isinstance(x, Fake)]
    if not fakes and (to is None or to.type != "fake"):
        return function(*args, **kwargs)
    others = [x for x in tensors if not isinstance(x, Fake) and x.ndim]  # a GPU accepts numbers from the CPU
    may_copy = name in ("_to_copy", "copy_") or (name == "index" and isinstance(args[0], Fake))  # also row numbers
    assert may_copy or not (fakes and others), f"{function}: a tensor {tuple(others[0].shape)} of the CPU"
    leaves = to is not None and to.type == "cpu"
    masks = [x for x in tree_leaves(args[1:]) if isinstance(x, Fake) and x.dtype == torch.bool]
    if name in READS or (name == "index" and masks) or (may_copy and (others or leaves)):
        syncs.append(name)
    if to is not None and to.type == "fake":
        kwargs = kwargs | {"device": torch.device("cpu")}
    out = function(*tree_map(unwrap, args), **tree_map(unwrap, kwargs))
    if leaves or (name == "copy_" and not isinstance(args[0], Fake)):
        return out
    known = {id(x.inner): x for x in fakes}  # an in-place operation returns its argument

    def wrap(x):
        if id(x) in known:
            return known[id(x)]
        return Fake(x) if isinstance(x, torch.Tensor) else x

    return tree_map(wrap, out)


def on_fake_device(test):
    """Run a test in a fork in which the fake device is registered; its traceback is printed there."""

    def body(*args, **kwargs):
        _setup_privateuseone_for_python_backend("fake")
        # torch.tensor and torch.Generator do not reach a TorchDispatchMode, and torch.save knows no such tensors
        tensor, generator, save = torch.tensor, torch.Generator, model.save_checkpoint
        torch.tensor = lambda x, device=None, **kw: tensor(x, **kw).to(device or "cpu")
        torch.Generator = lambda device=None: generator()
        runtime.save_checkpoint = train.save_checkpoint = lambda state, path: save(tree_map(unwrap, state), path)
        runtime.device_of = train.device_of = lambda s: torch.device("fake", 0)
        # the fake device has no thread of its own for the backward pass
        with FakeDevice(), torch.autograd.set_multithreading_enabled(False):
            test(*args, **kwargs)

    @functools.wraps(test)
    def run(*args, **kwargs):
        process = multiprocessing.get_context("fork").Process(target=body, args=args, kwargs=kwargs)
        process.start()
        process.join()
        assert process.exitcode == 0

    return run


@on_fake_device
def test_the_fake_device_sees_what_it_is_for():
    """Bug in the test itself: mixed devices or a host sync pass unseen."""
    x = torch.zeros(3, device="fake")
    with pytest.raises(AssertionError, match="a tensor .3,. of the CPU"):
        x + torch.ones(3)
    assert (x + 1)[1:].device.type == "fake"
    assert syncs == []
    for read in (lambda: x.sum().item(), x.tolist, lambda: x[x > 0], x.cpu, lambda: x.copy_(torch.ones(3))):
        syncs.clear()
        read()
        assert len(syncs) == 1


SMALL = "--stage 2 --base_steps 2 --stage1_steps 2 --stage2_steps 3 --problems 2 --attempts 2 --eval_problems 2"


@pytest.mark.parametrize(
    "flags",
    [
        "--n_layer 1 --n_embd 16 --siblings 2 --baseline siblings --eval_every 2 --average 0",
        "--n_layer 1 --n_embd 16 --kl_target 0.1 --sample_batch 4 --micro_batch 3 --offline 0.5 --single_turn",
        "--model {hf_folder} --task math --data {math_file} --max_new 4 --sample_batch 4",
    ],
)
@on_fake_device
def test_a_run_and_its_resume_stay_on_the_device(hf_folder, math_file, tmp_path, monkeypatch, flags):
    """Bugs: a tensor of the loop, of a resumed checkpoint, of the tables or of an export lies on the other device."""
    flags = flags.format(hf_folder=hf_folder, math_file=math_file)
    s = train.parse(f"{SMALL} --save_every 2 --folder {tmp_path} {flags}".split())
    sample, save, devices = rollout.sample, runtime.Recorder.save, set()

    def sample_and_finish(policy, *args, **kwargs):
        devices.add(policy.wte.weight.device.type)
        r = sample(policy, *args, **kwargs)
        r.finished.fill_(True)  # an untrained model seldom ends an answer, and would have no reward
        return r

    def save_and_stop(self, step, *args, **kwargs):
        save(self, step, *args, **kwargs)
        if self.first == 0:
            raise UserError("stopped")

    monkeypatch.setattr(rollout, "sample", sample_and_finish)
    monkeypatch.setattr(runtime.Recorder, "save", save_and_stop)
    for stage in (1, 2) if s.model else (0, 1, 2):
        with pytest.raises(UserError, match="stopped"):
            train.run(s)
        assert (tmp_path / f"stage{stage}.partial.pt").exists()
    train.run(s)
    assert devices == {"fake"}
    assert not s.model or (tmp_path / "stage2-hf" / "model.safetensors").exists()


@on_fake_device
def test_the_sampler_syncs_every_16_tokens():
    """Bugs: unfinished rows are counted at each token, and a GPU waits for Python at each of them; a decode step reads
    a number on the host, or copies from the CPU, which a CUDA graph cannot record."""
    config = GPTConfig(50, n_layer=2, n_kv_head=2, qkv_bias=True, qk_norm=True, n_tokens=40)
    policy, counts = GPT.empty(config, torch.bfloat16, "fake"), []
    for max_new in (16, 80):
        task = SimpleNamespace(instruction=[7, 8], stops=[-1], close=[], max_new=max_new)
        syncs.clear()
        rollout.sample(policy, task, [[1, 2, 3], [4, 5], [6]], K=4, generator=torch.Generator())
        counts.append(len(syncs))
    assert counts[1] - counts[0] <= 2 * 2 * 4, counts  # two turns; 64 tokens more are four counts and four lengths
