"""Makes tests/fixtures/hf: tiny random models of every family, with the logits that `transformers` gives.

    python tests/make_hf_fixtures.py            needs `transformers`; the files are committed

Every weight is drawn large enough that each of them moves the logits (norms and biases too, which
`transformers` starts at 1 and 0), so that a weight in a wrong place cannot pass.
"""

import json
import sys
from pathlib import Path

import torch

FOLDER = Path(__file__).parent / "fixtures" / "hf"
COMMON = dict(
    vocab_size=40, hidden_size=32, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=64, rms_norm_eps=1e-6, bos_token_id=None, eos_token_id=1,
)  # fmt: skip
LLAMA3 = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32)
FAMILIES = {  # name: (transformers' class, what its config has that COMMON has not)
    "llama2": ("Llama", dict(num_key_value_heads=4, tie_word_embeddings=False, rope_theta=10000.0)),
    "llama3": ("Llama", dict(tie_word_embeddings=True, rope_theta=500.0, rope_scaling=LLAMA3)),
    "smollm2": ("Llama", dict(num_attention_heads=2, num_key_value_heads=1, tie_word_embeddings=True, rope_theta=100000.0)),
    "mistral": ("Mistral", dict(tie_word_embeddings=False, rope_theta=1e6, sliding_window=None, head_dim=16)),
    "qwen2": ("Qwen2", dict(tie_word_embeddings=True, rope_theta=1e6, use_sliding_window=False, sliding_window=16)),
    "qwen2-untied": ("Qwen2", dict(tie_word_embeddings=False, rope_theta=1e6, use_sliding_window=False)),
    "qwen3": ("Qwen3", dict(tie_word_embeddings=True, rope_theta=1e6, head_dim=16, use_sliding_window=False)),
    "qwen3-untied": ("Qwen3", dict(tie_word_embeddings=False, rope_theta=1e6, head_dim=16, use_sliding_window=False)),
}


def make(name: str, folder: Path, shard: str = "5GB", dtype=torch.float32):
    """Saves a random model of a family as `transformers` does, and returns it."""
    import transformers

    kind, extra = FAMILIES[name]
    config = getattr(transformers, kind + "Config")(**COMMON | extra)
    torch.manual_seed(sorted(FAMILIES).index(name))
    model = getattr(transformers, kind + "ForCausalLM")(config).to(dtype).eval()
    with torch.no_grad():
        for parameter_name, p in model.named_parameters():
            p.copy_(torch.randn(p.shape) * (0.3 if p.dim() > 1 else 0.5) + ("norm" in parameter_name))
    model.save_pretrained(folder, max_shard_size=shard)
    return model


def prompt_ids() -> torch.Tensor:
    return torch.randint(0, COMMON["vocab_size"], (2, 48), generator=torch.Generator().manual_seed(0))  # (B, T)


if __name__ == "__main__":
    for name in sys.argv[1:] or FAMILIES:
        folder = FOLDER / name
        model = make(name, folder)
        # as the files of today's hubs have it: rope_theta at the top; llama3 and qwen3 keep the new place
        config = json.loads((folder / "config.json").read_text())
        if name not in ("llama3", "qwen3"):
            config["rope_theta"] = config.pop("rope_parameters", config)["rope_theta"]
        (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
        (folder / "generation_config.json").unlink(missing_ok=True)
        with torch.no_grad():
            logits = model(prompt_ids()).logits  # (B, T, V)
        # every eighth position is enough to tell RoPE, the mask and the norms apart
        rows = [[round(x, 5) for x in row] for row in logits[:, 7::8].reshape(-1, logits.shape[-1]).tolist()]
        (folder / "logits.json").write_text("[" + ",\n".join(map(json.dumps, rows)) + "]\n")
