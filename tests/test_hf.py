"""Hugging Face weights: logits as `transformers` gives them (committed fixtures), and a lossless way back.

tests/make_hf_fixtures.py made the fixtures; no download and no `transformers` is needed here.
"""

import json
import shutil
from pathlib import Path

import pytest
import torch

import model as model_module
from make_hf_fixtures import FAMILIES, FOLDER, prompt_ids
from model import GPT, KVCache, save_hf


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
    ],
)
def test_what_would_change_the_result_is_refused_by_name(tmp_path, key, value, word):
    shutil.copytree(FOLDER / "llama3", tmp_path / "m")
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    (tmp_path / "m" / "config.json").write_text(json.dumps(config | {key: value}))
    with pytest.raises(model_module.WeightsError, match=word):
        GPT.from_hf(tmp_path / "m")


def test_a_cut_file_is_named(tmp_path):
    shutil.copytree(FOLDER / "qwen2", tmp_path / "m")
    path: Path = tmp_path / "m" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(model_module.WeightsError, match="model.safetensors"):
        GPT.from_hf(tmp_path / "m")
