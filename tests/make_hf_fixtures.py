"""Makes tests/fixtures/hf: tiny random models of every family, with the logits that `transformers` gives;
and tokenizers.json: texts, with the ids that `tokenizers` gives for a small tokenizer of each form, and
dialogues as `transformers` renders them.

    python tests/make_hf_fixtures.py [NAME …]   needs `transformers`; the files are committed

Every weight is drawn large enough that each of them moves the logits (norms and biases too, which
`transformers` starts at 1 and 0), so that a weight in a wrong place cannot pass.
"""

import copy
import itertools
import json
import random
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


def make(name: str, folder: Path, shard: str = "5GB", dtype=torch.float32, seed: int = 0):
    """Saves a random model of a family as `transformers` does, in files of at most `shard`, and returns it."""
    import transformers

    kind, extra = FAMILIES[name]
    config = getattr(transformers, kind + "Config")(**COMMON | extra)
    torch.manual_seed(sorted(FAMILIES).index(name) + 100 * seed)
    model = getattr(transformers, kind + "ForCausalLM")(config).to(dtype).eval()
    with torch.no_grad():
        for parameter_name, p in model.named_parameters():
            p.copy_(torch.randn(p.shape) * (0.3 if p.dim() > 1 else 0.5) + ("norm" in parameter_name))
    model.save_pretrained(folder, max_shard_size=shard)
    return model


def prompt_ids() -> torch.Tensor:
    return torch.randint(0, COMMON["vocab_size"], (2, 48), generator=torch.Generator().manual_seed(0))  # (B, T)


# ------------------------------------------------------------------ tokenizers

TOKENIZERS = FOLDER.parent / "tokenizers.json"
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
GPT2_REGEX = r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
CL100K_REGEX = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def byte_level(use_regex: bool) -> dict:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}


def split(regex: str, behavior: str = "Isolated", invert: bool = False) -> dict:
    step = {"type": "Split", "pattern": {"Regex": regex}, "behavior": behavior, "invert": invert}
    return {"type": "Sequence", "pretokenizers": [step, byte_level(False)]}


LACKED = "\u0104\u0106\u0113\u0114\u0116\u011dñòÀÁõö÷øùúûüýþÿ"  # the bytes 04, 06, 13, 14, 16, 1d, f1, f2 and those of no text

FORMS = {  # name: what its tokenizer.json has in these places
    "gpt2": dict(pre_tokenizer=byte_level(True)),
    "smollm2": dict(
        pre_tokenizer={"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, byte_level(True)]}
    ),
    "neox": dict(pre_tokenizer=byte_level(True), normalizer={"type": "NFC"}),
    "llama3": dict(pre_tokenizer=split(CL100K_REGEX)),
    "qwen2": dict(pre_tokenizer=split(CL100K_REGEX.replace("{1,3}", "")), normalizer={"type": "NFC"}),
}


def tokenizer_spec(form: str, merges: list[str]) -> dict:
    """A tokenizer.json in which all forms share their merges; these cross every place where one splits a text."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    characters = [chr(b) for b in printable] + [chr(256 + i) for i in range(256 - len(printable))]
    if form == "neox":  # has no token for bytes that UTF-8 never uses
        characters = [c for c in characters if c not in "ÀÁõö÷øùúûüýþÿ"]
    if form == "smollm2":  # nor for some that texts can have
        characters = [c for c in characters if c not in LACKED]
        merges = [merge for merge in merges if not set(merge) & set(LACKED)]
    tokens = characters + [merge.replace(" ", "") for merge in merges]
    if form in ("neox", "smollm2"):  # have it in the vocabulary, the first of all
        tokens.insert(0, SPECIALS[0])
    if form == "llama3":
        tokens.append("zqzqz")  # no merges lead here: only a whole word is this token (ignore_merges)
    added = [(t, True, False) for t in SPECIALS] + [("<think>", False, False)]
    if form == "neox":  # runs of spaces; and a token that only NFC makes of e and U+0300
        added += [(" " * n, False, True) for n in (5, 4, 3, 2)] + [("e\u0300e\u0300", False, True)]
    if form == "gpt2":
        added = [("<|endoftext|>", True, True)]
    flags = dict(single_word=False, lstrip=False, rstrip=False)
    ids = {t: i for i, t in enumerate(tokens + [t for t, *_ in added if t not in tokens])}
    added = [dict(id=ids[t], content=t, special=s, normalized=n, **flags) for t, s, n in added]
    bos = {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<|begin_of_text|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
           "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
           "special_tokens": {"<|begin_of_text|>": {"id": "<|begin_of_text|>", "ids": [ids.get("<|begin_of_text|>")], "tokens": ["<|begin_of_text|>"]}}}  # fmt: skip
    model = dict(
        type="BPE", dropout=None, unk_token=None, continuing_subword_prefix=None, end_of_word_suffix=None,
        fuse_unk=False, byte_fallback=False, ignore_merges=form == "llama3",
        vocab={t: i for i, t in enumerate(tokens)}, merges=merges,
    )  # fmt: skip
    return dict(
        version="1.0", truncation=None, padding=None, added_tokens=added, normalizer=None,
        post_processor=bos if form == "llama3" else None, decoder=byte_level(True), model=model,
    ) | copy.deepcopy(FORMS[form])  # fmt: skip


def random_text(rng: random.Random, specials: list[str] = SPECIALS, parts: int = 6) -> str:
    """A text of the kinds of things on which tokenizers differ."""
    some = lambda words, n=4: "".join(rng.choices(words, k=rng.randint(1, n)))  # noqa: E731
    case = lambda word: "".join(rng.choice([c.lower(), c.upper(), c]) for c in word)  # noqa: E731
    word = lambda: rng.choice(["the", "correct", "zqzqz", "answer", "x", "na\u00efve", "stra\u00dfe", "e\u0300e\u0300", "\u00e8\u00e8"])  # noqa: E731
    kinds = [
        lambda: case(word()) + rng.choice("'''\u2019") + case(rng.choice(["s", "t", "re", "ve", "m", "ll", "d", "\u017f", "clock", "st", "LL2"])),
        lambda: rng.choice(["", " "]) + some("0123456789", 9) + rng.choice(["", ".", ",", "%", "e-", "st"]),
        lambda: some(["\u0664", "\u00b2", "\u2167", "\u00bd", "\u4e00", "7", "\uff11", "\U0001d7d8", "\U00011de3", "\U00016ff5"], 5),
        lambda: some([" ", " ", " ", "\n", "\t", "\r\n", "\r", "\u00a0", "\u3000", "\u2028", "\x85", "\u200b", "\x0b", "\x0c", "\x1c", "\ufeff"], 7),
        lambda: " " * rng.randint(1, 12) + rng.choice(["", "a", "1", "\n", "=", "\u0300"]),
        lambda: some(["\U0001f600", "\U0001f469\u200d\U0001f4bb", "\U0001f44d\U0001f3fd", "\U0001f1e9\U0001f1ea", "1\ufe0f\u20e3", "\u2764\ufe0f", "\u2192"]),
        lambda: some(["мир", "λόγος", "שלום", "سلام", "नमस्ते", "ไทย", "한국", "\u1112\u1161\u11ab", "中文", "かな", "ǅ", "ﬁ"]),
        lambda: rng.choice("aeno А") + some([chr(c) for c in range(0x300, 0x370)] + ["\u093c", "\u0345", "\U0001e2ae", "\u0c3c", "\u0898"], 5),
        lambda: rng.choice(["def f(x):\n    return x**2\n", "a != b ==> {}", "//  #!\r\n\r\n", "for(i=0;i<n;++i)\n{\n\t", "(('''\"\"\"", "\\frac{1}{2}$", "x_{12}^3 + \\sqrt{x}"]),
        lambda: rng.choice(["", " ", "<"]) + rng.choice(specials) + rng.choice(["", " ", "\n", ">", "x"]),
        lambda: (t := rng.choice(specials))[: rng.randint(1, len(t))] + rng.choice(["<think>", "</think>", rng.choice(specials)]),
        lambda: some([chr(rng.choice([*range(0xD800), *range(0xE000, 0x11000)])) for _ in range(3)]),
        lambda: some([chr(rng.randrange(0x10000, 0x110000)) for _ in range(3)]),
        lambda: word() + rng.choice([" ", ", ", "\r\n", ". "]) + word(),
        lambda: some([chr(i) for i in range(128)], 6),
    ]  # fmt: skip
    return "".join(rng.choice(kinds)() for _ in range(rng.randint(1, parts)))


TEMPLATES = {  # in the manner of the families, shorter: a name, and (the form of its tokenizer, bos, eos, template)
    "qwen2": ("qwen2", None, "<|im_end|>", """{%- if messages[0]['role'] == 'system' %}
    {{- '<|im_start|>system\n' + messages[0]['content'] + '<|im_end|>\n' }}
{%- else %}
    {{- '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role != 'system' %}
        {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
{%- endif %}
"""),
    "qwen3": ("qwen2", None, "<|im_end|>", """{%- set ns = namespace(last=0) %}
{%- for message in messages %}
    {%- if message.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.content is string %}{% set content = message.content %}{% else %}{% set content = '' %}{% endif %}
    {%- if message.role == 'assistant' and loop.index0 > ns.last %}
        {%- set content = '<think>\n\n</think>\n\n' + content %}
    {%- elif message.role == 'assistant' and '</think>' in content %}
        {%- set content = content.split('</think>')[-1].lstrip('\n') %}
    {%- endif %}
    {{- '<|im_start|>' ~ message.role ~ '\n' ~ content ~ '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\n\n</think>\n\n' }}{% endif %}
{%- endif %}
"""),
    "llama3": ("llama3", "<|begin_of_text|>", "<|eot_id|>", """{{- bos_token }}
{%- if not date_string is defined %}{% set date_string = "26 Jul 2024" %}{% endif %}
{{- "<|start_header_id|>system<|end_header_id|>\n\nToday Date: " + date_string + "\n\n<|eot_id|>" }}
{%- if tools is not none %}{{ raise_exception("no tools") }}{% endif %}
{%- for message in messages %}
    {%- if message.role not in ['user', 'assistant'] %}{% continue %}{% endif %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %}
"""),
    "smollm2": ("smollm2", "<|im_start|>", "<|im_end|>", """{% for message in messages %}
{{'<|im_start|>' + message['role'] + '
' + message['content'] + '<|im_end|>' + '
'}}
{% endfor %}
{% if add_generation_prompt %}
{{ '<|im_start|>assistant
' }}{% endif %}
"""),
    "zephyr": ("neox", None, "<|endoftext|>", """{% for m in messages %}{% if m.role == 'user' %}
{{ '<|user|>\n' ~ m.content ~ '\n' }}{% else %}
{{ '<|assistant|>\n' ~ m.content ~ eos_token ~ '\n' }}{% endif %}
{% if loop.last and add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}{% endfor %}"""),
}  # fmt: skip
CHAT = ["  Compute $1+1$.\n\n", "1+1 = 3, so \\boxed{3}", "There might be an error in the solution above.\nCorrect it."]


def tokenizer_config(name: str) -> dict:
    _, bos, eos, template = TEMPLATES[name]
    return dict(bos_token=bos, eos_token=eos, chat_template=template, tokenizer_class="PreTrainedTokenizerFast")


def render_chats(folder: Path, name: str, merges: list[str]) -> list[list[int]]:
    """The ids of the prompt of turn 1, and of the dialogue up to turn 2, as `transformers` has them."""
    import transformers

    (folder / "tokenizer.json").write_text(json.dumps(tokenizer_spec(TEMPLATES[name][0], merges)))
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer_config(name)))
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
    chat = [{"role": role, "content": text} for role, text in zip(("user", "assistant", "user"), CHAT)]
    render = lambda n: tokenizer.apply_chat_template(chat[:n], add_generation_prompt=True, return_dict=False)  # noqa: E731
    return [list(render(n)) for n in (1, 3)]


def make_tokenizers() -> None:
    import tempfile

    import tokenizers
    from tokenizers import models, pre_tokenizers, trainers

    rng = random.Random(0)
    texts = [random_text(rng, parts=3) for _ in range(200)]
    texts += ["a\u1df6\u0301 a\u0898\u0316", "\U00011935\U00011930", "e\u0300e\u0300\u0316", "1 1's 12 S'S2", "a\n  s\r\n\n1"]
    texts += ["!\x04!", " \x06a  \x13 1\x141", "\x16", "a\x1db\x1d s", "\U00040000s\U00080000's \x04\n\x04\n", "!\U0003e302\U00040000\U0003e302\U00040000!"]
    # trained on texts that are not split at all: a token across each border shows a border that is missed
    whole = tokenizers.Tokenizer(models.BPE())
    whole.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=256 + 260, initial_alphabet=alphabet, show_progress=False)
    borders = [a + b for a, b in itertools.product("as1!' \n", "aS2!' \n")] * 300
    whole.train_from_iterator(borders + [random_text(rng, ["<|"]).replace("zqzqz", "z") for _ in range(3000)], trainer)
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in json.loads(whole.to_str())["model"]["merges"]]
    made = {"merges": merges, "texts": texts, "ordinary": {}, "special": {}, "chats": {}}
    for form in FORMS:
        reference = tokenizers.Tokenizer.from_str(json.dumps(tokenizer_spec(form, merges)))
        for key in ("ordinary", "special"):  # the spelling of a special token as text, and as the token
            reference.encode_special_tokens = key == "ordinary"
            rows = [reference.encode(text, add_special_tokens=False).ids for text in texts]
            made[key][form] = [" ".join(map(str, ids)) for ids in (rows if key == "ordinary" else rows[::4])]
    for name in TEMPLATES:
        with tempfile.TemporaryDirectory() as folder:
            made["chats"][name] = [" ".join(map(str, ids)) for ids in render_chats(Path(folder), name, merges)]
    TOKENIZERS.write_text(json.dumps(made, ensure_ascii=True, indent=0) + "\n", encoding="utf-8")


if __name__ == "__main__":
    names = sys.argv[1:] or [*FAMILIES, "tokenizers"]
    if "tokenizers" in names:
        make_tokenizers()
    for name in set(names) & set(FAMILIES):
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
