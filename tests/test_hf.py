"""Hugging Face weights: logits as `transformers` gives them (committed fixtures), and a lossless way back.

tests/make_hf_fixtures.py made the fixtures; no download and no `transformers` is needed here. Where it is
installed, the last tests compare with it: fresh weights, and published ones where SCORE_DATA/models has such folders.
"""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch

import data
import model as model_module
from make_hf_fixtures import FAMILIES, FOLDER, make, prompt_ids
from model import GPT, KVCache, save_hf
from rollout import pad, sample


def expected(name):
    return torch.tensor(json.loads((FOLDER / name / "logits.json").read_text())).view(2, -1, 40)


@pytest.mark.parametrize("name", FAMILIES)
def test_logits_equal_transformers(name):
    """Every eighth position, so that position 0, where every wrong RoPE passes, is not among them."""
    with torch.no_grad():
        logits = GPT.from_hf(FOLDER / name)(prompt_ids())[:, 7::8]
    torch.testing.assert_close(logits, expected(name), rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", FAMILIES)
def test_cache_with_unequal_lengths(name):
    """Two rows that stand 8 positions apart go on in one cache: the logits of the plain pass."""
    m, ids = GPT.from_hf(FOLDER / name), prompt_ids()
    cache = KVCache.empty(m, 2, 48)
    with torch.no_grad():
        m(ids[:, :31], torch.arange(31).expand(2, -1), cache, filled=31)
        for t in range(8):  # row 0 goes through 31..38, row 1 through 23..30, written a second time
            pos = torch.tensor([[31 + t], [23 + t]])
            last = m(ids.gather(1, pos), pos, cache, filled=31 + t + 1)[:, 0]
        full = m(ids)
    torch.testing.assert_close(last, torch.stack([full[0, 38], full[1, 30]]), rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", FAMILIES)
def test_there_and_back_is_lossless(name, tmp_path):
    """save_hf(from_hf(x)) has x's names, shapes, types and bytes, and loads to the same model."""
    m = GPT.from_hf(FOLDER / name)
    save_hf(m, tmp_path / "out")
    before, after = (model_module.read_folder(folder) for folder in (FOLDER / name, tmp_path / "out"))
    assert before.keys() == after.keys()
    assert all(before[k].dtype == after[k].dtype and torch.equal(before[k], after[k]) for k in before)
    again = GPT.from_hf(tmp_path / "out")
    assert all(torch.equal(a, b) for a, b in zip(m.state_dict().values(), again.state_dict().values()))


@pytest.mark.parametrize(
    "key, value, word",
    [
        ("model_type", "gpt_neox", "gpt_neox"),
        ("hidden_act", "relu", "hidden_act"),
        ("rope_parameters", {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0}, "yarn"),
        ("rope_parameters", None, "rope_theta"),
        ("mlp_bias", True, "mlp_bias"),
        ("attention_bias", True, "attention_bias"),
        ("partial_rotary_factor", 0.5, "partial_rotary_factor"),
        ("quantization_config", {"bits": 4}, "quantization_config"),
        ("layer_types", ["linear_attention", "full_attention"], "linear_attention"),
        ("num_hidden_layers", "2", "num_hidden_layers"),
    ],
)
def test_what_would_change_the_result_is_refused_by_name(tmp_path, key, value, word):
    shutil.copytree(FOLDER / "llama3", tmp_path / "m")
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    (tmp_path / "m" / "config.json").write_text(json.dumps(config | {key: value}))
    with pytest.raises(model_module.WeightsError, match=word):
        GPT.from_hf(tmp_path / "m")


def test_keys_that_say_nothing_about_the_result(tmp_path):
    """What `transformers` writes down for itself begins with an underscore."""
    folder = copy_with(tmp_path, "llama3", _model_name_or_path="x", _name_or_path="y", unk_token_id=7, rope_interleaved=False)
    with torch.no_grad():
        torch.testing.assert_close(GPT.from_hf(folder)(prompt_ids())[:, 7::8], expected("llama3"), rtol=0, atol=1e-4)


def test_a_cut_file_is_named(tmp_path):
    shutil.copytree(FOLDER / "qwen2", tmp_path / "m")
    path: Path = tmp_path / "m" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(model_module.WeightsError, match="model.safetensors"):
        GPT.from_hf(tmp_path / "m")


def copy_with(tmp_path, name, **config):
    """A copy of a fixture whose config.json says something else."""
    shutil.copytree(FOLDER / name, tmp_path / "m", dirs_exist_ok=True)
    path = tmp_path / "m" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    return tmp_path / "m"


def test_sliding_windows_in_use(tmp_path):
    """Mistral's is in use when it is stated, Qwen's when the file says so; one that covers the context changes nothing."""
    for name, config in (("mistral", {}), ("qwen2", {"use_sliding_window": True})):
        folder = copy_with(tmp_path, name, sliding_window=32, layer_types=["sliding_attention"] * 2, **config)
        with pytest.raises(model_module.WeightsError, match="sliding_window of 32"):
            GPT.from_hf(folder)
        with torch.no_grad():
            short = GPT.from_hf(folder, n_ctx=32)(prompt_ids()[:, :32])[:, 7::8]
        torch.testing.assert_close(short, expected(name)[:, :4], rtol=0, atol=1e-4)
        shutil.rmtree(folder)
    folder = copy_with(tmp_path, "mistral", max_position_embeddings=8192)
    assert GPT.from_hf(folder, n_ctx=8192)  # its file says null
    config = json.loads((folder / "config.json").read_text())
    del config["sliding_window"]  # and silence is 4096
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(model_module.WeightsError, match="sliding_window of 4096 in a context of 8192"):
        GPT.from_hf(folder)
    del config["num_key_value_heads"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(model_module.WeightsError, match="num_key_value_heads is missing"):
        GPT.from_hf(folder, n_ctx=32)
    with pytest.raises(model_module.WeightsError, match="context of 65"):
        GPT.from_hf(FOLDER / "mistral", n_ctx=65)


def test_names_and_shapes_are_checked_both_ways(tmp_path):
    tensors = model_module.read_folder(FOLDER / "qwen2")
    path = copy_with(tmp_path, "qwen2") / "model.safetensors"
    bias = "model.layers.1.self_attn.k_proj.bias"
    head = {"lm_head.weight": tensors["model.embed_tokens.weight"]}
    for change, words in (
        ({k: v for k, v in tensors.items() if k != bias}, f"lacks 1 .*{bias}"),
        (tensors | {"model.layers.2.mlp.up_proj.weight": tensors[bias]}, "has unknown 1 .*layers.2"),
        (tensors | {bias: tensors[bias].view(1, -1)}, f"{bias} is .1, 16., and config.json makes it .16,"),
        (tensors | {bias: tensors[bias].half()}, "tensors of 2 types"),
        (tensors | {k: -v for k, v in head.items()}, "lm_head.weight is not the embedding"),
        (tensors | head, None),  # the tied head, stated all the same
        (tensors | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}, None),  # in old files
    ):
        path.unlink()
        model_module.write_safetensors(change, path)
        if words is None:
            assert torch.equal(GPT.from_hf(path.parent).lm_head.weight, tensors["model.embed_tokens.weight"])
            continue
        with pytest.raises(model_module.WeightsError, match=words):
            GPT.from_hf(path.parent)


def test_shards_and_their_index(tmp_path):
    tensors = model_module.read_folder(FOLDER / "qwen3")
    folder = copy_with(tmp_path, "qwen3")
    (folder / "model.safetensors").unlink()
    parts = {f"model-{i}.safetensors": dict(list(tensors.items())[i::3]) for i in range(3)}
    for file, part in parts.items():
        model_module.write_safetensors(part, folder / file)
    index = folder / "model.safetensors.index.json"
    where = {name: file for file, part in parts.items() for name in part}

    def same():
        again = model_module.read_folder(folder)
        return again.keys() == tensors.keys() and all(torch.equal(again[k], tensors[k]) for k in again)

    assert same()  # without an index, all files there are
    index.write_text(json.dumps({"weight_map": where}))
    model_module.write_safetensors({"stray": torch.zeros(1)}, folder / "z.safetensors")
    assert same()  # with one, only the files that it names
    for change, words in ((where | {"gone": "model-0.safetensors"}, "names gone"), (where | {"gone": "model-9.safetensors"}, "no such file"),
                          (where | {"lm_head.weight": "../x"}, "files of this folder"),
                          ({k: "model-0.safetensors" for k in where} | {"model.norm.weight": "model-1.safetensors"}, "not where the index says")):  # fmt: skip
        index.write_text(json.dumps({"weight_map": change}))
        with pytest.raises(model_module.WeightsError, match=words):
            GPT.from_hf(folder)


def test_save_keeps_the_source_and_half_writes_nothing(tmp_path, monkeypatch):
    source = copy_with(tmp_path, "llama3")
    for name in ("tokenizer.json", "chat_template.jinja"):
        (source / name).write_text(name)
    m = GPT.from_hf(source)
    save_hf(m.to(torch.bfloat16), tmp_path / "out", source=source)
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert written["torch_dtype"] == "bfloat16" and written["rope_parameters"] == json.loads((source / "config.json").read_text())["rope_parameters"]
    assert (tmp_path / "out" / "tokenizer.json").read_text() == "tokenizer.json"
    assert GPT.from_hf(tmp_path / "out").wte.weight.dtype == torch.bfloat16
    with pytest.raises(model_module.WeightsError, match="already there"):
        save_hf(m, tmp_path / "out", source=source)
    with pytest.raises(model_module.WeightsError, match="not the folder that this model came from"):
        save_hf(m, tmp_path / "other", source=FOLDER / "llama2")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(model_module, "write_safetensors", full)
    with pytest.raises(model_module.WeightsError, match="No space left"):
        save_hf(m, tmp_path / "third", source=source)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m", "out"]


# ------------------------------------------------------------------ against transformers, where it is installed


@pytest.mark.parametrize("name", FAMILIES)
def test_against_transformers(name, tmp_path):
    """Fresh weights in several files: logits; rows of unequal lengths in a cache; the saved folder has the same
    bytes (read by the `safetensors` library) and gives the same greedy answers in both."""
    transformers = pytest.importorskip("transformers", reason="`transformers` is not installed")
    import safetensors.torch

    theirs = make(name, tmp_path / "in", shard="20KB", seed=1)
    assert (tmp_path / "in" / "model.safetensors.index.json").exists()
    m = GPT.from_hf(tmp_path / "in")
    generator = torch.Generator().manual_seed(1)
    rows = [torch.randint(0, 40, (n,), generator=generator).tolist() for n in (50, 33, 7)]
    cache, last = KVCache.empty(m, 3, 64), {}
    with torch.no_grad():
        whole = [theirs(torch.tensor([row])).logits[0] for row in rows]  # a row at a time: no padding of theirs
        for row, logits in zip(rows, whole):
            torch.testing.assert_close(m(torch.tensor([row]))[0], logits, rtol=0, atol=1e-4)
        m(pad([row[:-4] for row in rows]), torch.arange(46).expand(3, -1), cache, filled=46)
        for back in (4, 3, 2, 1):  # the last four tokens of each row, one by one
            pos = torch.tensor([[len(row) - back] for row in rows])
            step = m(torch.tensor([[row[-back]] for row in rows]), pos, cache, filled=int(pos.max()) + 1)[:, 0]
            torch.testing.assert_close(step, torch.stack([w[-back] for w in whole]), rtol=0, atol=1e-4)

    save_hf(m, tmp_path / "out", source=tmp_path / "in")
    before, after = ({k: v for f in sorted(folder.glob("*.safetensors")) for k, v in safetensors.torch.load_file(f).items()}
                     for folder in (tmp_path / "in", tmp_path / "out"))  # fmt: skip
    assert before.keys() == after.keys() and all(before[k].dtype == after[k].dtype for k in before)
    assert all(torch.equal(before[k].view(torch.uint8), after[k].view(torch.uint8)) for k in before)

    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    ours = sample(m, rows, [0], 1, turns=1, max_new=12, temperature=0)
    for row, answer in zip(rows, ours.answers(1)):
        out = again.generate(torch.tensor([row]), attention_mask=torch.ones(1, len(row)), do_sample=False, max_new_tokens=12, pad_token_id=1)
        out = out[0, len(row) :].tolist()
        assert (out[:-1] if out[-1] == 1 else out) == answer


@pytest.mark.parametrize("name", FAMILIES)
def test_bf16_there_and_back(name, tmp_path):
    transformers = pytest.importorskip("transformers", reason="`transformers` is not installed")
    theirs = make(name, tmp_path / "in", dtype=torch.bfloat16, seed=2)
    save_hf(GPT.from_hf(tmp_path / "in"), tmp_path / "out", source=tmp_path / "in")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto")
    assert again.dtype == torch.bfloat16
    named = dict(theirs.named_parameters())
    assert all(torch.equal(p.view(torch.uint8), named[k].view(torch.uint8)) for k, p in again.named_parameters())


PUBLISHED = sorted(Path(os.environ["SCORE_DATA"], "models").glob("*/config.json")) if "SCORE_DATA" in os.environ else []


@pytest.mark.parametrize("config", PUBLISHED or [None], ids=lambda path: path.parent.name if path else "none")
def test_published_weights(config):
    """A checkpoint as its authors give it: logits of a text, relative to the largest, and greedy answers in its own template."""
    if config is None:
        pytest.skip("SCORE_DATA does not name a folder with models/")
    transformers = pytest.importorskip("transformers", reason="`transformers` is not installed")
    folder = config.parent
    m, tokenizer = GPT.from_hf(folder, torch.float32, n_ctx=2048), data.load_tokenizer(folder)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    text = "Natalia sold clips to 48 of her friends in April, and half as many in May. How many clips is that?\n48 + 24 = 72. " * 8
    ids = torch.tensor([tokenizer.encode_ordinary(text)])
    with torch.no_grad():
        ours, wanted = m(ids), theirs(ids).logits
    assert (ours - wanted).abs().max() < 1e-5 * wanted.abs().max()
    turns = data.wrap_turns(folder, tokenizer, "Check it.")
    prompts = [turns.encode(question) for question in ("What is 7 + 8?", "Name a colour.", "Write a haiku about rain.")]
    assert prompts[0] == transformers.AutoTokenizer.from_pretrained(folder).apply_chat_template(
        [{"role": "user", "content": "What is 7 + 8?"}], add_generation_prompt=True, return_dict=False
    )
    drawn = sample(m, prompts, [], turns.eos, turns=1, max_new=40, temperature=0, vocab=tokenizer.n_vocab)
    for prompt, answer, finished in zip(prompts, drawn.answers(1), drawn.finished[:, 0].tolist()):
        x = torch.tensor([prompt])
        out = theirs.generate(x, attention_mask=torch.ones_like(x), do_sample=False, max_new_tokens=40, eos_token_id=turns.eos, pad_token_id=turns.eos)
        assert out[0, len(prompt) :].tolist() == answer + [turns.eos] * finished
