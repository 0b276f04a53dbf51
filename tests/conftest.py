"""Let tests import the modules of the repository's root, on the CPU, and give them a small Hugging Face folder.

Tests compare numbers to the last bit, so they never use a GPU; `bench.py --model` checks one.
"""

import json
import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ.setdefault("OMP_NUM_THREADS", "1")  # for models this small, more threads only wait for each other
sys.path.insert(0, str(ROOT))

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
)


@pytest.fixture(scope="session")
def hf_folder(tmp_path_factory):
    """A random Llama-shaped model and a byte-level tokenizer, which has fewer ids than the embedding has rows."""
    tokenizers = pytest.importorskip("tokenizers")
    pytest.importorskip("safetensors")
    import torch

    from model import GPT, GPTConfig, save_hf

    folder = tmp_path_factory.mktemp("hf") / "base"
    vocab = {c: i for i, c in enumerate(sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocab, []))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    torch.manual_seed(0)
    save_hf(GPT(GPTConfig(320, n_layer=1, n_head=2, n_kv_head=1, n_embd=16, head_dim=8, n_ff=24, n_ctx=2048)), folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|im_end|>", "chat_template": TEMPLATE}))
    return folder


@pytest.fixture(scope="session")
def math_file(tmp_path_factory):
    """Forty problems in the form of MATH."""
    path = tmp_path_factory.mktemp("data") / "math.jsonl"
    rows = [{"problem": f"What is ${i} + {i % 7}$?", "solution": f"It is $\\boxed{{{i + i % 7}}}$."} for i in range(40)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
