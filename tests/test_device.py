"""A GPU of paper: tensors that say they are elsewhere and compute here. No number is a GPU's, and its memory and speed
`bench.py --model` measures; but what a GPU would refuse (a tensor of the CPU among its own), and what would make
the program wait for it (a number that Python reads), is seen by every machine.

They say "meta" and not "cuda", which a build of torch without CUDA has no name for.
"""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

import rollout
import train
from model import GPT, GPTConfig, KVCache
from test_size import base, lines_of, problems, settings  # noqa: F401: two of them are fixtures

THERE = torch.device("meta")
READS = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "tolist")  # what hands numbers, or a shape made of them, to Python


class There(torch.Tensor):
    """A tensor of the GPU; `inner` has its numbers."""

    is_cuda, is_meta = True, False

    @staticmethod
    def __new__(cls, inner):
        how = dict(strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype, device=THERE)
        return torch.Tensor._make_wrapper_subclass(cls, inner.size(), **how)

    def __init__(self, inner):
        self.inner = inner

    def __repr__(self):
        return f"There{tuple(self.shape)}"

    def tolist(self):
        Paper.crossed.append("tolist")
        return self.inner.tolist()

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return Paper.compute(function, args, kwargs or {})


class Paper(TorchDispatchMode):
    """While it is entered, what is asked for on THERE is made there."""

    crossed = []  # every time that numbers went to it or came from it

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return self.compute(function, args, kwargs or {})

    @classmethod
    def compute(cls, function, args, kwargs):
        name, to = function.overloadpacket.__name__, kwargs.get("device")
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        there = [x for x in tensors if isinstance(x, There)]
        if not there and to != THERE:
            return function(*args, **kwargs)
        here = [x for x in tensors if not isinstance(x, There) and x.ndim]  # CUDA takes numbers from the CPU, …
        copies = name in ("_to_copy", "copy_") or (name == "index" and isinstance(args[0], There))  # … and rows to be picked
        assert copies or not (there and here), f"{function}: a tensor {tuple(here[0].shape)} of the CPU among the GPU's"
        picks = [x for x in tree_leaves(args[1:]) if isinstance(x, There) and x.dtype == torch.bool]
        if name in READS or (name == "index" and picks) or (copies and (here or to == torch.device("cpu"))):
            cls.crossed.append(name)
        if to == THERE:
            kwargs = kwargs | {"device": torch.device("cpu")}
        given = {id(x.inner): x for x in there}
        out = function(*tree_map(lambda x: x.inner if isinstance(x, There) else x, args),
                       **tree_map(lambda x: x.inner if isinstance(x, There) else x, kwargs))  # fmt: skip
        if to == torch.device("cpu") or (name == "copy_" and not isinstance(args[0], There)):
            return out
        return tree_map(lambda x: given[id(x)] if id(x) in given else There(x) if isinstance(x, torch.Tensor) else x, out)


def move(model: GPT, where=THERE) -> GPT:
    """What `Module.to` does; it cannot make a parameter of another class."""
    if where != THERE:
        return torch.nn.Module.to(model, where)
    for module in model.modules():
        for kind in (module._parameters, module._buffers):
            for name, x in kind.items():
                if x is not None and not isinstance(x.data, There):
                    kind[name] = torch.nn.Parameter(There(x.data), x.requires_grad) if kind is module._parameters else There(x)
    if model.config.tied_head:
        model.lm_head.weight = model.wte.weight
    return model


@pytest.fixture
def paper(monkeypatch):
    """Entered, with everything in place that torch would ask CUDA for."""
    tensor, generator, init, save = torch.tensor, torch.Generator, rollout._Decoder.__init__, train.save
    monkeypatch.setattr(torch, "tensor", lambda x, device=None, **how: tensor(x, **how).to(device or "cpu"))
    monkeypatch.setattr(torch, "Generator", lambda device=None: generator())
    monkeypatch.setattr(GPT, "to", move)
    monkeypatch.setattr(GPT, "empty", classmethod(lambda cls, config, dtype=torch.float32, device="cpu": cls(config).to(dtype).to(device)))
    monkeypatch.setitem(rollout.COUNTED, "meta", rollout.COUNTED["cuda"])
    monkeypatch.setattr(rollout._Decoder, "__init__", lambda self, *args: init(self, *args) or setattr(self, "recording", False))
    monkeypatch.setattr(train, "device", lambda s: THERE)
    monkeypatch.setattr(train, "save", lambda state, path: save(tree_map(lambda x: x.inner if isinstance(x, There) else x, state), path))
    Paper.crossed.clear()
    with Paper():
        yield Paper.crossed


def test_the_paper_shows_what_it_is_for(paper):
    x = torch.zeros(3, device=THERE)
    with pytest.raises(AssertionError, match="a tensor .3,. of the CPU"):
        x + torch.ones(3)
    assert (x + 1)[1:].device == THERE and not paper
    for read in (lambda: x.sum().item(), lambda: x.tolist(), lambda: x[x > 0], lambda: x.cpu(), lambda: x.copy_(torch.ones(3))):
        paper.clear()
        read()
        assert len(paper) == 1


@pytest.mark.parametrize(
    "flags",
    [
        "--dtype bf16 --siblings 2 --baseline siblings --checkpointing --eval_every 2 --average 0",
        "--turns 3 --rounds 2 --kl_target 0.1 --sample_batch 8",
        "--learn star --stage2_from base --keep_right --dtype bf16",
        "--learn pairs --stage2_from base",
    ],
)
def test_a_whole_run(paper, tmp_path, monkeypatch, flags):
    """Every step of it, a kill and what comes behind it, the tables: nothing lies where it must not."""
    asked, sample = [], rollout.sample

    def short(model, *args, **how):  # an untrained model rarely ends an answer, and there must be something to imitate
        asked.append(model.wte.weight.device)
        r = sample(model, *args, **how)
        r.finished.logical_or_(torch.ones_like(r.finished))
        return r

    monkeypatch.setattr(rollout, "sample", short)
    monkeypatch.setattr(train.verify, "rewards", lambda problems, texts: [float(len(text.encode()) % 2) for text in texts])
    checkpoint = train.Partial.checkpoint

    def stop(self, step, *rest):
        checkpoint(self, step, *rest)
        if (self.name, step) == ("stage2", 2):
            raise KeyboardInterrupt

    small = "--smoke --stage 2 --base_steps 2 --stage1_steps 2 --eval_problems 4 --attempts 2 --n_layer 1"
    s = train.parse([*small.split(), "--folder", str(tmp_path), *flags.split()])
    monkeypatch.setattr(train.Partial, "checkpoint", stop)
    with pytest.raises(KeyboardInterrupt):
        train.run(s)
    monkeypatch.setattr(train.Partial, "checkpoint", checkpoint)
    train.run(s)
    assert set(asked) == {THERE} and (tmp_path / "stage2.pt").exists()


def test_a_whole_run_of_a_folder(paper, base, problems, tmp_path, monkeypatch):  # noqa: F811
    """From Hugging Face weights to the exported ones, in bf16 over float32, dialogues drawn in parts."""
    asked, sample = [], rollout.sample
    monkeypatch.setattr(rollout, "sample", lambda model, *args, **how: asked.append(model.wte.weight.device) or sample(model, *args, **how))
    train.run(settings(base, problems, tmp_path, "--dtype", "bf16", "--checkpointing", "--stage2_steps", "2"))
    assert set(asked) == {THERE} and (tmp_path / "stage2-hf" / "model.safetensors").exists()
    assert [line["step"] for line in lines_of(tmp_path / "stage2.jsonl")] == [0, 1]


def test_a_decode_step_can_be_recorded(paper):
    """Between its arguments and its logits nothing goes to the GPU or comes from it: no recording could hold that."""
    config = GPTConfig(50, n_layer=2, n_head=4, n_kv_head=2, n_embd=32, head_dim=8, n_ff=48, qkv_bias=True, qk_norm=True)
    model = GPT.empty(config, torch.bfloat16, THERE)
    decode = rollout._Decoder(model, KVCache.empty(model, 3, 64))
    token, pos = torch.zeros(3, dtype=torch.long, device=THERE), torch.full((3, 1), 20, device=THERE)
    paper.clear()
    with torch.no_grad():
        logits = decode._step(token, pos, 32)
        rollout.choose(logits, 1.0, torch.Generator())
    assert logits.device == THERE and not paper


def test_the_sampler_seldom_waits(paper):
    """64 tokens an answer: four counts of the rows that go on, and their lengths; the steps between ask for nothing."""
    model = GPT.empty(GPTConfig(50, n_layer=1), torch.float32, THERE)
    prompts = [[1, 2, 3], [4, 5], [6]]
    waits = []
    for max_new in (16, 80):
        paper.clear()
        rollout.sample(model, prompts, [7, 8], -1, K=4, max_new=max_new, generator=torch.Generator())
        waits.append(len(paper))
    assert waits[1] - waits[0] <= 2 * 2 * 4, waits
