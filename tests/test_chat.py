"""chat.py: ids of a dialogue as `transformers` has them, from tokenizer and chat template alone.

Needs the `tokenizers` library. Where `transformers` is installed, the ids are compared with those of
`apply_chat_template`. SCORE_DATA names a folder with real templates/, models/ and tokenizers/, which are tried too.
"""

import datetime
import json
import os
import random
import re
import sys
from pathlib import Path

import pytest
import tokenizers

import chat
from make_hf_fixtures import TEMPLATES, write_tokenizer
from chat import DataError, load_tokenizer, wrap_turns
from model import UserError

CHAT = ["Is 1+1 = 3?", "Yes.", "There might be an error above.\nCorrect it."]
REAL = Path(os.environ.get("SCORE_DATA", "/nowhere"))
DAY = datetime.datetime(2025, 1, 1)  # the day that strftime_now gives to templates

# What each template of make_hf_fixtures.py writes: the prompt of turn 1, and what follows the first answer.
# A text of SentencePiece has a space before each piece; the library adds it.
WRITTEN = {
    "qwen2": ("<|im_start|>system\nYou are helpful.<|im_end|>\n"
              "<|im_start|>user\n{Q}<|im_end|>\n<|im_start|>assistant\n",
              "<|im_end|>\n<|im_start|>user\n{I}<|im_end|>\n<|im_start|>assistant\n"),
    "llama3": ("<|bos|><|start|>system<|sep|>\n\nToday is 01 Jan 2025<|eot_id|>"
               "<|start|>user<|sep|>\n\n{Q}<|eot_id|><|start|>assistant<|sep|>\n\n",
               "<|eot_id|><|start|>user<|sep|>\n\n{I}<|eot_id|><|start|>assistant<|sep|>\n\n"),
    "tinyllama": ("<|user|>\n{Q}</s>\n<|assistant|>\n", "</s>\n<|user|>\n{I}</s>\n<|assistant|>\n"),
    "mistral": ("<s>[INST]{Q}[/INST]", "</s>[INST]{I}[/INST]"),
    "phi3": ("<|user|>\n{Q}<|end|>\n<|assistant|>\n", "<|end|>\n<|user|>\n{I}<|end|>\n<|assistant|>\n"),
}  # fmt: skip


def ids_of(folder, text):
    """What the library alone makes of a rendered text, special tokens included."""
    return tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize("name", TEMPLATES)
def test_ids_are_those_of_the_rendered_text(name, tmp_path):
    """Bug: a newline next to the problem is encoded apart from it, or a piece gets a space that it should not have."""
    folder = write_tokenizer(tmp_path, name)
    tokenizer = load_tokenizer(folder)
    turns = wrap_turns(folder, tokenizer, CHAT[2])
    prompt, after = WRITTEN[name]
    prompt, after = prompt.replace("{Q}", CHAT[0]), after.replace("{I}", CHAT[2])
    assert turns.encode(CHAT[0]) == ids_of(folder, prompt)
    # in front, the end token: what is encoded after it is not the first piece of a text
    assert turns.stops[:1] + turns.instruction == ids_of(folder, after) and turns.close == turns.stops[:1] == [
        turns.eos
    ]
    assert turns.note == ""


# ------------------------------------------------------------------ against transformers, where it is installed


@pytest.fixture
def transformers(monkeypatch):
    library = pytest.importorskip("transformers", reason="`transformers` is not installed")
    import transformers.utils.chat_template_utils as utils

    class Fixed(datetime.datetime):
        now = classmethod(lambda cls, tz=None: DAY)

    monkeypatch.setattr(utils, "datetime", Fixed)
    return library


def check_dialogue(transformers, folder, texts, rewrites=False):
    """Compare one turn, and two turns unless the template rewrites the first."""
    tokenizer = load_tokenizer(folder)
    turns = wrap_turns(folder, tokenizer, texts[2])
    theirs = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
    messages = [{"role": role, "content": text} for role, text in zip(("user", "assistant", "user"), texts)]
    one, two = (theirs.apply_chat_template(messages[:n], add_generation_prompt=True, return_dict=False) for n in (1, 3))
    x1, rest = turns.encode(texts[0]), turns.stops[:1] + turns.instruction
    assert x1 == list(one)
    assert two[-len(rest) :] == rest or "end token" in turns.note
    if not turns.note or rewrites:
        # between the two is y1; its ids are the sampler's, so that only its text can be compared
        assert two[: len(x1)] == x1 and tokenizer.decode_answer(two[len(x1) : -len(rest)]).strip() == texts[1].strip()
    return turns


@pytest.mark.parametrize("name", TEMPLATES)
def test_ids_are_those_of_apply_chat_template(name, tmp_path, transformers):
    """Bug: ids differ for texts with spaces or newlines at their ends, other scripts or combining marks."""
    folder, rng = write_tokenizer(tmp_path, name), random.Random(name)
    pieces = [
        "the",
        " ",
        "\n",
        "  \n\n",
        "I",
        "é",
        "e\u0301",
        "×××",
        "\t",
        "中文",
        "\u2028",
        "😀",
        "12",
        "<|x|>",
        "'s",
        "<think>",
        "[INST",
    ]
    for _ in range(20):
        texts = ["x".join(rng.choices(pieces, k=rng.randint(1, 6))) for _ in range(3)]
        texts[0] = rng.choice(["", " ", "\n"]) + texts[0] + rng.choice(["", " ", "\n"])
        check_dialogue(transformers, folder, [texts[0], "Ayes.", texts[2]], rewrites=True)


@pytest.mark.parametrize("path", sorted((REAL / "templates").glob("*.jinja")), ids=lambda path: path.stem)
def test_real_templates(path, tmp_path, transformers):
    """With a byte-level tokenizer that has each special token of the template, and the template's own end token."""
    template = path.read_text()
    found = re.findall(r"<\|[^|<>\s]+\|>|<(?:start|end)_of_turn>|<｜[^｜]+｜>|\[\|[a-z]+\|\]", template)
    ends = [
        "<|im_end|>",
        "<|eot_id|>",
        "<end_of_turn>",
        "<｜end▁of▁sentence｜>",
        "<|end|>",
        "[|endofturn|]",
        "<|end_of_text|>",
    ]
    eos = next((end for end in ends if end in template), "</s>")
    write_tokenizer(tmp_path, chat_template=template, bos_token="<s>", eos_token=eos)
    spec = json.loads((tmp_path / "tokenizer.json").read_text())
    known = {token["content"] for token in spec["added_tokens"]}
    new = [text for text in dict.fromkeys(["<s>", "</s>", *found]) if text not in known]
    last = spec["added_tokens"][-1]
    spec["added_tokens"] += [
        last | dict(id=i, content=text, special=True) for i, text in enumerate(new, last["id"] + 1)
    ]
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec))
    turns = check_dialogue(transformers, tmp_path, ["  What is $1+1$?\n", "It is 3.", CHAT[2]])
    assert load_tokenizer(tmp_path).decode([turns.eos]) == eos or path.stem == "oll__granite3.3_2b"


@pytest.mark.parametrize("folder", sorted((REAL / "models").glob("*")), ids=lambda path: path.name)
def test_real_models(folder, transformers):
    turns = check_dialogue(transformers, folder, ["  What is $1+1$?\n\n", "It is 3.", CHAT[2]])
    assert not turns.note


# ------------------------------------------------------------------ tokenizers


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_problem_cannot_speak_for_the_model(name, tmp_path):
    """Bug: the spelling of a special token in a problem ends the user's turn."""
    folder = write_tokenizer(tmp_path, name)
    tokenizer = load_tokenizer(folder)
    special = {text: tokenizer.backend.token_to_id(text) for text, token in tokenizer.added.items() if token.special}
    evil = "x".join(special) + "\n".join(special)
    assert not set(tokenizer.encode_ordinary(evil)) & set(special.values())
    assert tokenizer.decode_answer(tokenizer.encode(evil, inside=True)).strip() == evil
    harmless, spoken = wrap_turns(folder, tokenizer, "x"), wrap_turns(folder, tokenizer, evil)
    for a, b in ((harmless.encode("x"), spoken.encode(evil)), (harmless.instruction, spoken.instruction)):
        assert [i for i in a if i in special.values()] == [i for i in b if i in special.values()]


def test_indentation_of_an_answer_stays(tmp_path):
    """Bug: SentencePiece's decoder drops the first space, and a program that continues a prompt does not parse."""
    for name in ("tinyllama", "qwen2"):
        tokenizer = load_tokenizer(write_tokenizer(tmp_path, name))
        ids = tokenizer.encode("x\n    return the x")
        begin = next(n for n in range(len(ids)) if tokenizer.decode(ids[:n]) == "x\n")
        assert tokenizer.decode_answer(ids[begin:]) == "    return the x"


def test_files_that_cut_or_pad_texts_do_not(tmp_path):
    """Bug: GPT-2's own tokenizer.json cuts each text at 50 tokens."""
    folder = write_tokenizer(tmp_path)
    whole = load_tokenizer(folder).encode("the x" * 99)
    spec = json.loads((folder / "tokenizer.json").read_text())
    spec["truncation"] = dict(direction="Right", max_length=9, strategy="LongestFirst", stride=0)
    spec["padding"] = dict(
        strategy={"Fixed": 20}, direction="Right", pad_to_multiple_of=None, pad_id=0, pad_type_id=0, pad_token="x"
    )
    (folder / "tokenizer.json").write_text(json.dumps(spec))
    assert load_tokenizer(folder).encode("the x" * 99) == whole and len(load_tokenizer(folder).encode("x")) == 1


@pytest.mark.parametrize("kind", ["Qwen2TokenizerFast", "GPT2Tokenizer"])
def test_vocab_and_merges_give_the_ids_of_tokenizer_json(kind, tmp_path):
    """Bug: the older pair of files is split by another pattern, or its added tokens get other ids."""
    spec = TEMPLATES["qwen2"][0]
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    spec = spec if kind.startswith("Qwen2") else spec | dict(normalizer=None, pre_tokenizer=level)
    (tmp_path / "vocab.json").write_text(json.dumps(spec["model"]["vocab"]))
    lines = ["#version: 0.2", *spec["model"]["merges"], ""]
    (tmp_path / "merges.txt").write_bytes("\r\n".join(lines).encode())  # as some copies have it
    added = {str(t["id"]): {k: v for k, v in t.items() if k != "id"} for t in spec["added_tokens"]}
    config = {"tokenizer_class": kind, "added_tokens_decoder": added}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    ours, reference = load_tokenizer(tmp_path), tokenizers.Tokenizer.from_str(json.dumps(spec))
    for text in ("I 12's \n\nI, e\u0301 ×××  the\r\n", "a<|im_end|>\n<think>x", "É中文 don't DON'T  1234"):
        assert ours.encode(text, special=True) == reference.encode(text, add_special_tokens=False).ids
    added["999"] = added.pop(max(added, key=int))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(DataError, match="vocab.json: the added token '</think>' cannot get the id 999"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "LlamaTokenizer"}))
    with pytest.raises(DataError, match="LlamaTokenizer"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("name", ["gpt2", "qwen2"])
def test_real_vocab_and_merges(name, tmp_path):
    folder = REAL / "tokenizers" / name
    if not folder.exists():
        pytest.skip("SCORE_DATA does not name a folder with tokenizers/")
    for file in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        if (folder / file).exists():
            (tmp_path / file).symlink_to(folder / file)
    ours = load_tokenizer(tmp_path)
    if name == "gpt2":
        assert ours.n_vocab == 50257 and ours.encode("Hello world 123's\n\n x") == load_tokenizer(folder).encode(
            "Hello world 123's\n\n x"
        )
    else:
        assert ours.encode("Hello world") == [9707, 1879] and ours.encode("<|im_end|>", special=True) == [151645]


def test_bad_tokenizers_are_one_line(tmp_path, monkeypatch):
    with pytest.raises(DataError, match="nowhere: has no tokenizer.json, and not both"):
        load_tokenizer(tmp_path / "nowhere")
    for content in ('{"model": ', "[]", '{"version": "1.0"}'):
        (tmp_path / "tokenizer.json").write_text(content)
        with pytest.raises(DataError, match="tokenizer.json: not a tokenizer .*copy the file again") as caught:
            load_tokenizer(tmp_path)
        assert "\n" not in str(caught.value)
    spec = json.loads((write_tokenizer(tmp_path) / "tokenizer.json").read_text())
    spec["model"]["vocab"]["zzz"] = 99999
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec))
    with pytest.raises(DataError, match="gaps"):
        load_tokenizer(tmp_path)
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(UserError, match="pip install -r requirements-hf.txt"):
        load_tokenizer(tmp_path)


# ------------------------------------------------------------------ what ends an answer


def test_every_end_token_ends_an_answer(tmp_path):
    """Bug: a base model ends with <|endoftext|>, is not stopped, and fails at the length limit."""
    folder = write_tokenizer(tmp_path)
    tokenizer = load_tokenizer(folder)
    end, text_end = (tokenizer.backend.token_to_id(text) for text in ("<|im_end|>", "<|endoftext|>"))
    for eos, stops in (
        (None, [end]),
        (text_end, [end, text_end]),
        ([end, text_end], [end, text_end]),
        ([text_end, 10**6], [end, text_end]),
    ):
        (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": eos}))
        assert wrap_turns(folder, tokenizer, "I").stops == stops
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": "<|im_end|>"}))
    with pytest.raises(DataError, match="generation_config.json: eos_token_id is"):
        wrap_turns(folder, tokenizer, "I")
    (folder / "generation_config.json").unlink()
    write_tokenizer(tmp_path, chat_template=None, eos_token=None)
    with pytest.raises(DataError, match="has no eos_token of this tokenizer"):
        wrap_turns(folder, tokenizer, "I")
    (folder / "special_tokens_map.json").write_text(json.dumps({"eos_token": {"content": "<|endoftext|>"}}))
    plain = wrap_turns(folder, tokenizer, "I")
    assert (
        plain.stops == [text_end]
        and plain.encode("the") == tokenizer.encode("the")
        and plain.instruction == tokenizer.encode("I")
    )


def test_plain_prompts_begin_with_bos(tmp_path):
    """Bug: the first word after BOS or after an answer gets the space that only the first piece of a text gets."""
    folder = write_tokenizer(tmp_path, "mistral", chat_template=None)
    spec = json.loads((folder / "tokenizer.json").read_text())
    bos = {"id": "<s>", "ids": [spec["added_tokens"][0]["id"]], "tokens": ["<s>"]}
    single = [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    spec["post_processor"] = {
        "type": "TemplateProcessing",
        "single": single,
        "pair": single,
        "special_tokens": {"<s>": bos},
    }
    (folder / "tokenizer.json").write_text(json.dumps(spec))
    turns = wrap_turns(folder, load_tokenizer(folder), "the")
    assert turns.encode("the") == ids_of(folder, "<s>the") and turns.stops + turns.instruction == ids_of(
        folder, "</s>the"
    )


ONE = "{% for m in messages %}<|im_start|>{{ m.role }} {{ m.content }}<|im_end|>{% endfor %}<|im_start|>assistant "
USER, ASSISTANT = "<|im_start|>user ", "<|im_start|>assistant "
CHATML = (USER + "{Q}<|im_end|>" + ASSISTANT, USER + "{I}<|im_end|>" + ASSISTANT)
USABLE = {  # a template: (what it writes around a problem, what after an answer), what the note says
    ONE: (CHATML, ""),
    ONE.replace("{{ m.content }}", "{% generation %}{{ m.content }}{% endgeneration %}"): (CHATML, ""),
    ONE.replace("m.content", "m.content | trim"): (CHATML, ""),
    ONE.replace("m.content", "m.content.split('</think>')[-1]"): (CHATML, "between <think> and </think>"),
    ONE.replace("<|im_end|>", " <|im_end|>"): (
        (CHATML[0].replace("<|im_end", " <|im_end"), CHATML[1].replace("<|im_end", " <|im_end")),
        "white space after an answer",
    ),
    ONE.replace("assistant ", "assistant <think>"): (
        (CHATML[0].replace("assistant ", "assistant <think>"), CHATML[1].replace("assistant ", "assistant <think>")),
        "the text before an answer differently",
    ),
    "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}assistant: ": (
        ("user: {Q}\nassistant: ", "\nuser: {I}\nassistant: "),
        "no end token",
    ),
}
REFUSED = {  # a template: what the error says
    "{{ messages[-1].content }}": "does not show the problem, the answer",
    ONE.replace("in messages", "in messages[-2:]"): "does not show the problem, the answer",
    ONE.replace("in messages", "in (messages | reverse | list)"): "does not show the problem, the answer",
    ONE + "{% if messages | length == 1 %}{{ messages[0].content }}{% endif %}": "does not show the problem",
    ONE + "{% if messages | length == 3 %}{{ messages[2].content }}{% endif %}": "does not show the problem",
    ONE.replace("m.content", "m.content | upper"): "does not show the problem, the answer",
    ONE.replace("m.content", "m.content | replace('\n', ' ')"): "changes the text of a message",
    "{{ raise_exception('no users here') }}": "no users here",
    "{% for m in %}": "fails: TemplateSyntaxError",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}": "fails: SecurityError",  # the way out of a sandbox
    "{{ 1 / 0 }}": "fails: ZeroDivisionError",
}


@pytest.mark.parametrize("template", USABLE)
def test_a_template_that_rewrites_the_past_is_used_and_named(template, tmp_path):
    """Bug: a template is refused, or y1 is changed, because a later turn would show the answer differently."""
    folder = write_tokenizer(tmp_path, chat_template=template)
    tokenizer = load_tokenizer(folder)
    turns = wrap_turns(folder, tokenizer, "I")
    (prompt, after), note = USABLE[template]
    assert note in turns.note and bool(note) == bool(turns.note) and "\n" not in turns.note
    assert tokenizer.decode([turns.eos]) == "<|im_end|>"
    assert turns.encode("the") == ids_of(folder, prompt.replace("{Q}", "the"))
    assert turns.instruction == ids_of(folder, after.replace("{I}", "I"))


@pytest.mark.parametrize("template", REFUSED)
def test_a_template_that_cannot_be_used_is_one_line(template, tmp_path):
    folder = write_tokenizer(tmp_path, chat_template=template)
    with pytest.raises(DataError, match=re.escape(REFUSED[template])) as caught:
        wrap_turns(folder, load_tokenizer(folder), "I")
    assert str(caught.value).startswith(f"{folder / 'tokenizer_config.json'}: ") and "\n" not in str(caught.value)


def test_a_template_is_found_in_each_of_its_places(tmp_path):
    folder = write_tokenizer(
        tmp_path, chat_template=[{"name": "tool_use", "template": "no"}, {"name": "default", "template": ONE}]
    )
    tokenizer = load_tokenizer(folder)
    expected = wrap_turns(folder, tokenizer, "I").instruction
    assert expected == ids_of(folder, "<|im_start|>user I<|im_end|><|im_start|>assistant ")
    write_tokenizer(tmp_path, chat_template="{{ 1 / 0 }}")
    (folder / "chat_template.jinja").write_text(ONE)
    assert wrap_turns(folder, tokenizer, "I").instruction == expected
    (folder / "chat_template.jinja").write_bytes(b"\xff" + ONE.encode())
    with pytest.raises(DataError, match="chat_template.jinja: not UTF-8"):
        wrap_turns(folder, tokenizer, "I")
    (folder / "chat_template.jinja").unlink()
    assert chat.read_template(folder)[1]["eos_token"] == "<|im_end|>"
