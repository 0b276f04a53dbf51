"""Small Hugging Face folders for the tests: random models of every family, and a tokenizer of each kind.

    python tests/make_hf_fixtures.py [NAME …]   writes tests/fixtures/hf; needs `transformers`; the files are committed

The fixtures hold the logits that `transformers` computes. Every weight is drawn large enough that it moves the logits,
norms and biases too, which `transformers` starts at 1 and 0. So a weight in a wrong place cannot pass.
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
LLAMA3 = dict(
    rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32
)
GRANITE = dict(embedding_multiplier=3.0, attention_multiplier=0.2, residual_multiplier=0.4, logits_scaling=1.5)
FAMILIES = {  # name: (the class of `transformers`, what its config adds to COMMON)
    "llama2": ("Llama", dict(num_key_value_heads=4, tie_word_embeddings=False, rope_theta=10000.0)),
    "llama3": ("Llama", dict(tie_word_embeddings=True, rope_theta=500.0, rope_scaling=LLAMA3)),
    "smollm2": (
        "Llama",
        dict(num_attention_heads=2, num_key_value_heads=1, tie_word_embeddings=True, rope_theta=100000.0),
    ),
    "mistral": ("Mistral", dict(tie_word_embeddings=False, rope_theta=1e6, sliding_window=None, head_dim=16)),
    "qwen2": ("Qwen2", dict(tie_word_embeddings=True, rope_theta=1e6, use_sliding_window=False, sliding_window=16)),
    "qwen3": ("Qwen3", dict(tie_word_embeddings=True, rope_theta=1e6, head_dim=16, use_sliding_window=False)),
    "granite": ("Granite", dict(tie_word_embeddings=True, rope_theta=10000.0, **GRANITE)),
}


def make(name: str, folder: Path, shard: str = "5GB", seed: int = 0):
    """Save a random model of a family as `transformers` does, in files of at most `shard`; return it."""
    import transformers

    kind, extra = FAMILIES[name]
    config = getattr(transformers, kind + "Config")(**COMMON | extra)
    torch.manual_seed(list(FAMILIES).index(name) + 100 * seed)
    model = getattr(transformers, kind + "ForCausalLM")(config).eval()
    with torch.no_grad():
        for parameter_name, p in model.named_parameters():
            p.copy_(torch.randn(p.shape) * (0.3 if p.dim() > 1 else 0.5) + ("norm" in parameter_name))
    model.save_pretrained(folder, max_shard_size=shard)
    return model


def prompt_ids() -> torch.Tensor:
    return torch.randint(0, COMMON["vocab_size"], (2, 48), generator=torch.Generator().manual_seed(0))  # (B, T)


# ------------------------------------------------------------------ tokenizers

# \n\n and "\nI" are tokens: a newline of the template may merge with the first character of a problem
MERGES = ["Ċ Ċ", "Ċ I", "Ġ t", "h e", "Ġt he", "i n", "e r", "Ġ Ġ", "Ã Ĺ", "ÃĹ ÃĹ", "1 2"]
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def byte_level(specials: dict[str, dict]) -> dict:
    """Return a tokenizer.json in the manner of Qwen2."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    tokens = [chr(b) for b in printable] + [chr(256 + i) for i in range(256 - len(printable))]
    tokens += [merge.replace(" ", "") for merge in MERGES]
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    split = {"type": "Split", "pattern": {"Regex": SPLIT}, "behavior": "Isolated", "invert": False}
    pre_tokenizer = {"type": "Sequence", "pretokenizers": [split, level]}
    model = {"type": "BPE", "vocab": {t: i for i, t in enumerate(tokens)}, "merges": MERGES}
    parts = dict(normalizer={"type": "NFC"}, pre_tokenizer=pre_tokenizer, decoder=level)
    return dict(version="1.0", model=model, added_tokens=added_tokens(specials, len(tokens)), **parts)


def sentence_piece(specials: dict[str, dict], legacy: bool = True) -> dict:
    """Return a tokenizer.json in the manner of Llama 2: spaces are ▁, and each piece of a text begins with one.

    legacy: as files of before 2024 write it; in newer ones, only the first piece of a text begins with a ▁.
    """
    tokens = [f"<0x{b:02X}>" for b in range(256)] + ["▁"] + [chr(b) for b in range(0x21, 0x7F)]
    merges = ["▁ ▁", "▁ t", "h e", "▁t he"]
    tokens += [merge.replace(" ", "") for merge in merges]
    vocab = {t: i for i, t in enumerate(tokens)}
    model = {"type": "BPE", "vocab": vocab, "merges": merges, "byte_fallback": True, "fuse_unk": True}
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    back = [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}]
    strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
    parts = {"decoder": {"type": "Sequence", "decoders": [*back, strip]}}
    if legacy:
        parts["normalizer"] = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, replace]}
    else:
        parts["pre_tokenizer"] = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}
    return dict(version="1.0", model=model, added_tokens=added_tokens(specials, len(tokens)), **parts)


def added_tokens(specials: dict[str, dict], first: int) -> list[dict]:
    flags = dict(single_word=False, lstrip=False, rstrip=False, normalized=False, special=True)
    return [dict(id=i, content=text, **flags | more) for i, (text, more) in enumerate(specials.items(), first)]


CHATML = {
    "<|endoftext|>": {},
    "<|im_start|>": {},
    "<|im_end|>": {},
    "<think>": {"special": False},
    "</think>": {"special": False},
}
PHI3 = {
    "<s>": {},
    "</s>": {},
    "<|user|>": {"rstrip": True},
    "<|end|>": {"rstrip": True},
    "<|assistant|>": {"rstrip": True},
}
LLAMA2 = {"<s>": {}, "</s>": {}}
LLAMA3_TOKENS = {"<|bos|>": {}, "<|start|>": {}, "<|sep|>": {}, "<|eot_id|>": {}}
# In the manner of the families, but shorter. name: (tokenizer.json, bos_token, eos_token, template)
TEMPLATES = {
    "qwen2": (byte_level(CHATML), None, "<|im_end|>", """{%- if messages[0]['role'] != 'system' %}
    {{- '<|im_start|>system\nYou are helpful.<|im_end|>\n' }}
{%- endif %}
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
{%- endif %}
"""),
    "llama3": (byte_level(LLAMA3_TOKENS), "<|bos|>", "<|eot_id|>", """{{- bos_token }}
{%- if tools is not none %}{{ raise_exception("no tools") }}{% endif %}
{{- '<|start|>system<|sep|>\n\nToday is ' + strftime_now('%d %b %Y') + '<|eot_id|>' }}
{%- for message in messages %}
    {%- if message.role not in ['user', 'assistant'] %}{% continue %}{% endif %}
    {{- '<|start|>' + message['role'] + '<|sep|>\n\n' + message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start|>assistant<|sep|>\n\n' }}
{%- endif %}
"""),
    "tinyllama": (sentence_piece(LLAMA2), "<s>", "</s>", """{% for m in messages %}
{{ '<|' + m.role + '|>\n' + m.content + eos_token }}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}"""),
    "mistral": (sentence_piece(LLAMA2 | {"[INST]": {}, "[/INST]": {}}, legacy=False), "<s>", "</s>", """{{ bos_token }}
{%- for m in messages %}
{% if m.role == 'user' %}{{ '[INST]' + m.content + '[/INST]' }}
{%- else %}{{ m.content + eos_token }}{% endif %}{% endfor %}"""),
    "phi3": (sentence_piece(PHI3), "<s>", "</s>", """{% for m in messages %}
{{ '<|' + m.role + '|>\n' + m.content + '<|end|>\n' }}
{%- endfor %}
{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"""),
}  # fmt: skip


def write_tokenizer(folder: Path, name: str = "qwen2", **changes) -> Path:
    """Write tokenizer.json and tokenizer_config.json of TEMPLATES[name]; a change of None removes a key."""
    spec, bos, eos, template = TEMPLATES[name]
    config = dict(bos_token=bos, eos_token=eos, chat_template=template, tokenizer_class="PreTrainedTokenizerFast")
    config = {key: value for key, value in (config | changes).items() if value is not None}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(spec), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


if __name__ == "__main__":
    for name in sys.argv[1:] or FAMILIES:
        folder = FOLDER / name
        model = make(name, folder)
        # as today's files have it: rope_theta at the top level; llama3 and qwen3 keep the new place
        config = json.loads((folder / "config.json").read_text())
        if name not in ("llama3", "qwen3"):
            config["rope_theta"] = config.pop("rope_parameters", config)["rope_theta"]
        (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
        (folder / "generation_config.json").unlink(missing_ok=True)
        with torch.no_grad():
            logits = model(prompt_ids()).logits  # (B, T, V)
        # every eighth position tells RoPE, the mask and the norms apart
        rows = [[round(x, 5) for x in row] for row in logits[:, 7::8].reshape(-1, logits.shape[-1]).tolist()]
        (folder / "logits.json").write_text("[" + ",\n".join(map(json.dumps, rows)) + "]\n")
