"""model.py: the KV cache, checkpoints, and Hugging Face folders.

tests/make_hf_fixtures.py made the fixtures, so that no download and no `transformers` is needed here. Where it is
installed, fresh weights of every family are compared with it.
"""

import errno
import json
import os
import shutil
import zipfile

import pytest
import safetensors.torch
import torch

import model as model_module
from make_hf_fixtures import FAMILIES, FOLDER, make, prompt_ids
from model import GPT, GPTConfig, KVCache, UserError, WeightsError, load_model, save_checkpoint, save_hf


def expected(name):
    return torch.tensor(json.loads((FOLDER / name / "logits.json").read_text())).view(2, -1, 40)


def copy_of(tmp_path, name, **changes):
    """A copy of a fixture with another config.json; a change of ... removes a key."""
    shutil.copytree(FOLDER / name, tmp_path / "m", dirs_exist_ok=True)
    path = tmp_path / "m" / "config.json"
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not ...}))
    return tmp_path / "m"


def equal_weights(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


# ------------------------------------------------------------------ the model


@pytest.mark.parametrize("name", FAMILIES)
def test_rows_of_unequal_length_share_a_cache(name):
    """Bug: a decode step at the position of another row, or attention to the slots of other tokens."""
    m, ids = GPT.from_hf(FOLDER / name), prompt_ids()
    cache = KVCache.empty(m, 2, 48)
    with torch.no_grad():
        m(ids[:, :31], torch.arange(31).expand(2, -1), cache, filled=31)
        for t in range(8):  # row 0 continues at 31..38, row 1 at 23..30, which it writes a second time
            pos = torch.tensor([[31 + t], [23 + t]])
            last = m(ids.gather(1, pos), pos, cache, filled=31 + t + 1)[:, 0]
        full = m(ids)
    torch.testing.assert_close(last, torch.stack([full[0, 38], full[1, 30]]), rtol=0, atol=1e-4)


def test_ids_that_only_pad_the_embedding_have_no_logits():
    """Bug: an id that the tokenizer does not know is drawn."""
    torch.manual_seed(0)
    m = GPT(GPTConfig(64, n_layer=1))
    ids = torch.randint(0, 50, (2, 7))
    whole = m(ids)
    m.config.n_tokens = 50
    assert torch.equal(m(ids), whole[..., :50]) and torch.equal(m.logits(m.hidden(ids)), whole[..., :50])
    assert GPT.from_hf(FOLDER / "qwen2", n_tokens=39)(prompt_ids()).shape[-1] == 39
    assert GPT.from_hf(FOLDER / "qwen2", n_tokens=40).config.n_tokens is None
    with pytest.raises(WeightsError, match="41 tokens, but the model 40"):
        GPT.from_hf(FOLDER / "qwen2", n_tokens=41)


# ------------------------------------------------------------------ checkpoints


def small_state():
    torch.manual_seed(0)
    m = GPT(GPTConfig(64, n_layer=2))
    return m, {"config": dict(vars(m.config)), "model": m.state_dict(), "step": 7}


def test_a_checkpoint_comes_back_and_an_old_one_too(tmp_path):
    """Bug: a checkpoint from before the field n_tokens cannot be loaded."""
    m, state = small_state()
    del state["config"]["n_tokens"]
    save_checkpoint(state, tmp_path / "x.pt")
    again, state = load_model(tmp_path / "x.pt")
    assert equal_weights(m, again) and again.config == m.config and state["step"] == 7


def test_damaged_and_foreign_checkpoints_are_one_line_with_the_path(tmp_path):
    """Bug: a block of zeros, which a crash leaves in a file, is read as weights; torch.load does so silently."""
    path = tmp_path / "x.pt"
    _, state = small_state()
    save_checkpoint(state, path)
    good = path.read_bytes()
    largest = max(zipfile.ZipFile(path).infolist(), key=lambda entry: entry.file_size)
    middle = largest.header_offset + largest.file_size // 2
    torch.save({"hello": 1}, tmp_path / "foreign.pt")
    cases = {
        "damaged": [
            b"",
            b"PK\x03\x04 torn",
            good[: len(good) // 2],
            good[:middle] + bytes(4096) + good[middle + 4096 :],
        ],
        "not a checkpoint of this program": [(tmp_path / "foreign.pt").read_bytes()],
    }
    for word, contents in cases.items():
        for content in contents:
            path.write_bytes(content)
            with pytest.raises(UserError, match=f"x.pt: {word}") as caught:
                load_model(path)
            assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="gone.pt: no such checkpoint"):
        load_model(tmp_path / "gone.pt")


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    """Bug: the old checkpoint is gone before the new one is on the disk."""

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    for write, one, other in (
        (save_checkpoint, {"a": 1}, {"a": 2}),
        (lambda x, p: model_module.write_file(p, x), b"1", b"2"),
    ):
        path = tmp_path / "x"
        write(one, path)
        before = path.read_bytes()
        with monkeypatch.context() as patch, pytest.raises(UserError, match="x: cannot be written.*No space left"):
            patch.setattr(os, "fsync", full)
            write(other, path)
        assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["x"]


# ------------------------------------------------------------------ Hugging Face folders: weights


@pytest.mark.parametrize("name", FAMILIES)
def test_logits_are_those_of_transformers(name):
    """Bug: q, k, v or gate and up exchanged, RoPE interleaved or unscaled, a bias or a norm left out."""
    with torch.no_grad():
        logits = GPT.from_hf(FOLDER / name)(prompt_ids())[:, 7::8]  # position 0 would not show a wrong RoPE
    torch.testing.assert_close(logits, expected(name), rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", FAMILIES)
def test_an_export_has_the_same_bytes(name, tmp_path, monkeypatch):
    """Bug: a tensor that is lost, renamed, transposed or rounded on the way out; shards without their index."""
    m = GPT.from_hf(FOLDER / name)
    save_hf(m, tmp_path / "one", FOLDER / name)
    monkeypatch.setattr(model_module, "SHARD_BYTES", 20_000)
    save_hf(m, tmp_path / "many")
    assert all(equal_weights(m, GPT.from_hf(tmp_path / folder)) for folder in ("one", "many"))
    before = safetensors.torch.load_file(FOLDER / name / "model.safetensors")
    after = safetensors.torch.load_file(tmp_path / "one" / "model.safetensors")
    if name != "granite":  # its export is a Llama, with Granite's factors folded into the weights
        assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)
    files = sorted((tmp_path / "many").glob("*.safetensors"))
    assert len(files) > 1 and files[0].name == f"model-00001-of-{len(files):05}.safetensors"
    assert all(file.stat().st_size < 25_000 for file in files)


def test_names_shapes_types_and_values_are_checked(tmp_path):
    """Bug: a tensor that is missing, unknown, misshapen, quantised or not a number gives a model that runs."""
    tensors = safetensors.torch.load_file(FOLDER / "qwen2" / "model.safetensors")
    path = copy_of(tmp_path, "qwen2") / "model.safetensors"
    bias, embedding = "model.layers.1.self_attn.k_proj.bias", tensors["model.embed_tokens.weight"]
    refused = {
        f"{bias} is missing": {k: v for k, v in tensors.items() if k != bias},
        "layers.2.mlp.up_proj.weight is .40, 32., .* no such tensor": tensors
        | {"model.layers.2.mlp.up_proj.weight": embedding.clone()},
        f"{bias} is .1, 16., but config.json makes it .16,": tensors | {bias: tensors[bias].view(1, -1)},
        f"{bias} is torch.int8": tensors | {bias: tensors[bias].to(torch.int8)},
        f"{bias} holds a value that is not finite": tensors | {bias: tensors[bias] * float("nan")},
        "lm_head.weight is not the embedding": tensors | {"lm_head.weight": -embedding},
    }
    for words, change in refused.items():
        safetensors.torch.save_file(change, path)
        with pytest.raises(WeightsError, match=words):
            GPT.from_hf(path.parent, torch.float32)
    safetensors.torch.save_file(tensors | {bias: tensors[bias].half()}, path)
    with pytest.raises(WeightsError, match="tensors of 2 types"):
        GPT.from_hf(path.parent)
    old = {"lm_head.weight": embedding.clone(), "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}
    safetensors.torch.save_file(tensors | old, path)  # what old files store besides the weights
    assert equal_weights(GPT.from_hf(path.parent), GPT.from_hf(FOLDER / "qwen2"))


def test_damaged_files_are_named(tmp_path):
    folder = copy_of(tmp_path, "qwen2")
    path, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    whole = path.read_bytes()
    for content in (whole[:-100], whole[:100], b"", b"version https://git-lfs.github.com/spec/v1\n" * 9):
        path.write_bytes(content)
        with pytest.raises(WeightsError, match="model.safetensors: damaged"):
            GPT.from_hf(folder)
    path.rename(folder / "part.safetensors")
    (folder / "part.safetensors").write_bytes(whole)
    for files, words in (
        ({"gone": "part.safetensors"}, "no file has gone"),
        ({"x": "none.safetensors"}, "none.safetensors: cannot be read"),
    ):
        index.write_text(json.dumps({"weight_map": files}))
        with pytest.raises(WeightsError, match=words):
            GPT.from_hf(folder)
    index.unlink()
    with pytest.raises(WeightsError, match="model.safetensors: cannot be read"):
        GPT.from_hf(folder)
    for content in ("{", "[]", "[" * 100_000):
        (folder / "config.json").write_text(content)
        with pytest.raises(WeightsError, match="config.json: .*copy the file again"):
            GPT.from_hf(folder)


def test_an_export_keeps_the_tokenizer_and_is_whole_or_absent(tmp_path, monkeypatch):
    """Bug: a full disk leaves half a folder under the final name, which vLLM would load."""
    source = copy_of(tmp_path, "llama3")
    for name in ("tokenizer.json", "chat_template.jinja"):
        (source / name).write_text(name)
    m = GPT.from_hf(source, n_tokens=39)
    save_hf(m.copy(torch.bfloat16), tmp_path / "out", source)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    before = json.loads((source / "config.json").read_text())
    assert config["torch_dtype"] == "bfloat16" and config["rope_parameters"] == before["rope_parameters"]
    assert (tmp_path / "out" / "tokenizer.json").read_text() == "tokenizer.json"
    assert GPT.from_hf(tmp_path / "out").wte.weight.dtype == torch.bfloat16
    with pytest.raises(WeightsError, match="exists already"):
        save_hf(m, tmp_path / "out", source)
    with pytest.raises(WeightsError, match="has another shape than the model"):
        save_hf(m, tmp_path / "other", FOLDER / "llama2")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(model_module, "write_weights", full)
    with pytest.raises(WeightsError, match="No space left"):
        save_hf(m, tmp_path / "third", source)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m", "out"]


# ------------------------------------------------------------------ Hugging Face folders: config.json

REFUSED = [
    ("llama3", dict(model_type="gpt_neox"), "gpt_neox"),
    ("llama3", dict(hidden_act="relu"), "hidden_act"),
    ("llama3", dict(rope_parameters={"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0}), "yarn"),
    ("qwen2", dict(rope_theta=...), "rope_theta is missing"),
    ("llama2", dict(rope_parameters={"rope_theta": 5.0}), "stated twice"),
    ("llama3", dict(mlp_bias=True), "mlp_bias"),
    ("llama3", dict(attention_bias=True), "attention_bias"),
    ("llama3", dict(partial_rotary_factor=0.5), "partial_rotary_factor"),
    ("llama3", dict(quantization_config={"bits": 4}), "quantization_config"),
    ("llama3", dict(embedding_multiplier=3.0), "embedding_multiplier"),
    ("llama3", dict(layer_types=["linear_attention", "full_attention"]), "linear_attention"),
    ("llama3", dict(num_hidden_layers="2"), "num_hidden_layers is '2', but must be int"),
    ("llama3", dict(hidden_size=None), "hidden_size"),
    ("qwen3", dict(head_dim=...), "head_dim is 'missing'"),
    ("mistral", dict(num_key_value_heads=...), "num_key_value_heads is 'missing'"),
    ("mistral", dict(sliding_window=32), "sliding_window of 32 in a context of 64"),
    ("qwen2", dict(use_sliding_window=True, sliding_window=32), "sliding_window of 32"),
    ("mistral", dict(sliding_window=..., max_position_embeddings=8192), "sliding_window of 4096 in a context of 8192"),
]


@pytest.mark.parametrize("name, changes, words", REFUSED)
def test_what_would_change_the_logits_is_refused_by_name(tmp_path, name, changes, words):
    with pytest.raises(WeightsError, match=f"config.json: .*{words}"):
        GPT.from_hf(copy_of(tmp_path, name, **changes))


HARMLESS = [
    ("llama3", dict(_name_or_path="y", unk_token_id=7, rope_interleaved=False, mlp_bias=False, attention_bias=None)),
    (
        "llama3",
        dict(tokenizer_class="X", auto_map={"a": "b"}, loss_type="ForCausalLM", model_max_length=9, temperature=0.7),
    ),
    ("llama2", dict(rope_theta=..., head_dim=...)),  # as Llama 2's own files: theta is 10000
    ("mistral", dict(sliding_window=64)),  # as long as the context
]


@pytest.mark.parametrize("name, changes", HARMLESS)
def test_what_cannot_change_the_logits_is_ignored(tmp_path, name, changes):
    with torch.no_grad():
        logits = GPT.from_hf(copy_of(tmp_path, name, **changes))(prompt_ids())[:, 7::8]
    torch.testing.assert_close(logits, expected(name), rtol=0, atol=1e-4)


def test_a_shorter_context_fits_a_sliding_window(tmp_path):
    folder = copy_of(tmp_path, "mistral", sliding_window=32, layer_types=["sliding_attention"] * 2)
    with torch.no_grad():
        logits = GPT.from_hf(folder, n_ctx=32)(prompt_ids()[:, :32])[:, 7::8]
    torch.testing.assert_close(logits, expected("mistral")[:, :4], rtol=0, atol=1e-4)
    with pytest.raises(WeightsError, match="context of 65"):
        GPT.from_hf(FOLDER / "mistral", n_ctx=65)


# ------------------------------------------------------------------ against transformers, where it is installed


def greedy(logits_of, ids, n=12):
    for _ in range(n):
        ids = torch.cat([ids, logits_of(ids)[:, -1:].argmax(-1)], dim=1)
    return ids


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fresh_weights_answer_as_in_transformers(name, dtype, tmp_path):
    """Two greedy turns of fresh weights in several files, and of their export."""
    transformers = pytest.importorskip("transformers", reason="`transformers` is not installed")
    make(name, tmp_path / "in", shard="20KB", seed=1)
    assert (tmp_path / "in" / "model.safetensors.index.json").exists()
    m = GPT.from_hf(tmp_path / "in", dtype)
    save_hf(m, tmp_path / "out", tmp_path / "in")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "in", dtype=torch.float32).eval()
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto").eval()
    assert again.dtype == dtype
    if dtype == torch.bfloat16:  # nothing but the rounding of the weights: the bytes of the export are ours
        assert (
            all(torch.equal(p.bfloat16(), q) for p, q in zip(theirs.parameters(), again.parameters()))
            or name == "granite"
        )
        return
    instruction = torch.tensor([[3, 1, 4, 1, 5]])
    for row in prompt_ids()[:, :20].split(1):
        dialogues = []
        for logits_of in (m, lambda ids: theirs(ids).logits, lambda ids: again(ids).logits):
            with torch.no_grad():
                dialogues.append(greedy(logits_of, torch.cat([greedy(logits_of, row), instruction], dim=1)))
        assert torch.equal(dialogues[0], dialogues[1]) and torch.equal(dialogues[0], dialogues[2])
