"""The policy: one GPT, the same code at 350 thousand parameters and at 7 billion.

Pre-norm blocks with RMSNorm, rotary positions (RoPE), grouped-query attention and SwiGLU: the
architecture that Llama, Mistral, SmolLM2, Qwen2 and Qwen3 share, with the three switches in which
they differ (q/k/v bias, q/k norm, tied head). Names follow GPT-2 (`wte`, `c_proj`).

Every batch in this project is padded on the *right*, and a token's cache slot is its position.
So a row's padding stands behind all its tokens, causal attention never looks at it, and what
padding writes into the cache is overwritten by the real token of that position before anything
reads it. There is no left padding, no padding mask, and no position bookkeeping anywhere else.

What is not here: dropout (SCoRe uses none, and with it the sampler and the loss would disagree
about the policy), learned positions, mixture of experts, sliding windows. `GPT.from_hf` refuses
files that ask for them, or for anything else that this architecture does not compute.
"""

import json
import math
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint


@dataclass
class GPTConfig:
    """The shape of a GPT; the defaults are the laptop model."""

    vocab_size: int
    n_layer: int = 3
    n_head: int = 4
    n_kv_head: int = 4  # fewer than n_head: grouped-query attention
    n_embd: int = 96
    head_dim: int = 24
    n_ff: int = 256  # width of the SwiGLU's inner layer
    n_ctx: int = 256  # longest sequence, in tokens
    rope_theta: float = 10000.0
    norm_eps: float = 1e-6
    qkv_bias: bool = False  # Qwen2
    qk_norm: bool = False  # Qwen3
    tied_head: bool = True  # the head is the embedding, transposed
    # Llama 3's: (factor, low_freq_factor, high_freq_factor, original context); see `rope_angles`
    rope_scaling: tuple[float, float, float, float] | None = None


class KVCache:
    """Keys and values of every layer; slot j of a row holds the token at position j.

    k, v: (n_layer, B, n_kv_head, S, head_dim). Rows can be copied and dropped, which is all that
    the sampler needs: one problem's cache becomes K rollouts', finished rows go.
    """

    def __init__(self, k: torch.Tensor, v: torch.Tensor):
        self.k, self.v = k, v

    @classmethod
    def empty(cls, model: "GPT", rows: int, slots: int) -> "KVCache":
        c, w = model.config, model.wte.weight
        shape = (c.n_layer, rows, c.n_kv_head, slots, c.head_dim)
        return cls(w.new_zeros(shape), w.new_zeros(shape))

    def rows(self, index: torch.Tensor) -> "KVCache":
        """A copy that holds row index[i] as its row i; an index may occur more than once."""
        return KVCache(self.k[:, index], self.v[:, index])

    def put_rows(self, index: torch.Tensor, other: "KVCache") -> None:
        """Writes row i of `other` over row index[i]."""
        self.k[:, index], self.v[:, index] = other.k, other.v


def rope_angles(config: GPTConfig) -> tuple[torch.Tensor, torch.Tensor]:
    """cos and ∓sin of position x frequency, each (n_ctx, head_dim), float32 whatever the weights.

    Half-split, as in Hugging Face's files: dimension i turns with i + head_dim/2,
    x[i]·cos − x[i + half]·sin and x[i + half]·cos + x[i]·sin; the minus is in the first half of sin.

    Llama 3 was first trained on short contexts. Its scaling slows down, `factor` times, the pairs that
    turn less than `low` times in that context, leaves those that turn more than `high` times, which
    tell near tokens apart, and goes from one to the other linearly in the number of turns.
    """
    half = torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim
    frequency = config.rope_theta**-half  # (head_dim/2,), radians a token
    if config.rope_scaling is not None:
        factor, low, high, context = config.rope_scaling
        turns = context * frequency / (2 * math.pi)
        keep = ((turns - low) / (high - low)).clamp(0, 1)
        frequency = frequency * (keep + (1 - keep) / factor)
    angles = torch.outer(torch.arange(config.n_ctx).float(), frequency)
    cos, sin = angles.cos(), angles.sin()  # (n_ctx, head_dim/2)
    return torch.cat([cos, cos], dim=-1), torch.cat([-sin, sin], dim=-1)


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """RoPE: turns each pair (x[i], x[i + head_dim/2]) by its angle. x: (B, n, T, head_dim)."""
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, dims=-1), sin).to(x.dtype)


class Attention(nn.Module):
    """Grouped-query causal attention with rotary positions, over the cache if there is one. (B, T, C) -> (B, T, C)"""

    def __init__(self, c: GPTConfig):
        super().__init__()
        self.n_head, self.n_kv_head, self.head_dim = c.n_head, c.n_kv_head, c.head_dim
        self.c_attn = nn.Linear(c.n_embd, (c.n_head + 2 * c.n_kv_head) * c.head_dim, bias=c.qkv_bias)
        self.c_proj = nn.Linear(c.n_head * c.head_dim, c.n_embd, bias=False)
        self.q_norm = nn.RMSNorm(c.head_dim, c.norm_eps) if c.qk_norm else None
        self.k_norm = nn.RMSNorm(c.head_dim, c.norm_eps) if c.qk_norm else None

    def forward(self, x, cos, sin, write=None, mask=None):
        B, T, _ = x.shape
        qkv = self.c_attn(x).view(B, T, -1, self.head_dim).transpose(1, 2)  # (B, nh+2*nkv, T, hd)
        qk, v = qkv.split([self.n_head + self.n_kv_head, self.n_kv_head], dim=1)
        if self.q_norm is not None:
            q, k = qk.split([self.n_head, self.n_kv_head], dim=1)
            qk = torch.cat([self.q_norm(q), self.k_norm(k)], dim=1)
        q, k = rotate(qk, cos, sin).split([self.n_head, self.n_kv_head], dim=1)
        if write is not None:
            k, v = write(k, v)  # (B, nkv, S, hd): everything this row has said so far
        gqa = self.n_head != self.n_kv_head
        if gqa and mask is not None:
            # Over the cache, the heads that share a key are as many queries to it: nothing is repeated to read it, and
            # the kernels for a mask, which know no groups, can do it.
            group = mask if T == 1 else mask.repeat(1, 1, self.n_head // self.n_kv_head, 1)  # (B, 1, group·T, S)
            y = F.scaled_dot_product_attention(q.reshape(B, self.n_kv_head, -1, self.head_dim), k, v, attn_mask=group)
            y = y.reshape(B, self.n_head, T, self.head_dim)
        else:
            y = F.scaled_dot_product_attention(
                q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=gqa
            )  # (B, nh, T, hd)
        return self.c_proj(y.transpose(1, 2).reshape(B, T, -1))  # (B, T, C)


class MLP(nn.Module):
    """SwiGLU: down(silu(gate(x)) * up(x)), gate and up in one matrix."""

    def __init__(self, c: GPTConfig):
        super().__init__()
        self.c_fc = nn.Linear(c.n_embd, 2 * c.n_ff, bias=False)
        self.c_proj = nn.Linear(c.n_ff, c.n_embd, bias=False)

    def forward(self, x):
        gate, up = self.c_fc(x).chunk(2, dim=-1)
        return self.c_proj(F.silu(gate) * up)


class Block(nn.Module):
    """Attention and MLP, each behind its norm and added to what came in. (B, T, C) -> (B, T, C)"""

    def __init__(self, c: GPTConfig):
        super().__init__()
        self.ln_1, self.attn = nn.RMSNorm(c.n_embd, c.norm_eps), Attention(c)
        self.ln_2, self.mlp = nn.RMSNorm(c.n_embd, c.norm_eps), MLP(c)

    def forward(self, x, cos, sin, write=None, mask=None):
        x = x + self.attn(self.ln_1(x), cos, sin, write, mask)
        return x + self.mlp(self.ln_2(x))


class GPT(nn.Module):
    """The model: `model(ids)` are logits (B, T, V); `hidden` stops before the head, and takes positions and a cache."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.config = config
        self.checkpointing = False  # in training, blocks keep their input only, and compute the rest again
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.h = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.ln_f = nn.RMSNorm(config.n_embd, config.norm_eps)
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self._tie_and_turn()
        self.apply(self._init)
        for name, p in self.named_parameters():  # GPT-2: the residual stream's variance stays 1
            if name.endswith("c_proj.weight"):
                p.data.mul_((2 * config.n_layer) ** -0.5)

    def _tie_and_turn(self):
        """What is no weight of its own: the tied head, and the tables of RoPE."""
        if self.config.tied_head:
            self.lm_head.weight = self.wte.weight
        for name, table in zip(("cos", "sin"), rope_angles(self.config)):
            self.register_buffer(name, table.to(self.wte.weight.device), persistent=False)

    @classmethod
    def empty(cls, config: GPTConfig, dtype: torch.dtype = torch.float32, device="cpu") -> "GPT":
        """A model whose weights are still to be written: nothing is initialised in vain."""
        with torch.device("meta"):  # shapes only
            model = cls(config).to(dtype)
        model.to_empty(device=device)
        model._tie_and_turn()  # to_empty made two parameters of one, and the angles stay float32
        return model

    @classmethod
    def from_hf(cls, folder, dtype: torch.dtype | None = None, n_ctx: int | None = None, device="cpu") -> "GPT":
        """The model of a Hugging Face folder: Llama 2/3, Mistral, SmolLM2, Qwen2/2.5 or Qwen3.

        Reads config.json and *.safetensors. dtype: of the weights, None for the file's own; for training,
        torch.float32 (a step of 1e-5 rounds away in bf16). n_ctx: a shorter context than the file's, for
        which the tables of RoPE are made. The embedding may have more rows than the tokenizer has ids
        (it is padded to a multiple of 64 or 128). They stay, so that the model can be saved
        unchanged; `rollout.sample(vocab=tokenizer.n_vocab)` never draws them.
        Raises WeightsError for a damaged file, and for anything that this GPT would compute otherwise.
        """
        config = config_from_hf(folder, n_ctx)
        tensors = read_folder(folder)
        if dtype is None:
            kinds = {t.dtype for t in tensors.values()}
            if len(kinds) != 1:
                raise WeightsError(f"{folder}: tensors of {len(kinds)} types ({sorted(map(str, kinds))}); say which with dtype=")
            dtype = kinds.pop()
        model = cls.empty(config, dtype, device)
        ours = hf_tensors(model)
        if config.tied_head and "lm_head.weight" in tensors:  # some files hold it all the same
            if not torch.equal(tensors.pop("lm_head.weight"), tensors.get("model.embed_tokens.weight")):
                raise WeightsError(f"{folder}: tie_word_embeddings is true, and lm_head.weight is not the embedding")
        for problem, names in (("lacks", ours.keys() - tensors.keys()), ("has unknown", tensors.keys() - ours.keys())):
            if names:
                raise WeightsError(f"{folder}: {problem} {len(names)} tensor(s), {sorted(names)[0]} among them; not the weights of its config.json")
        for name, parameter in ours.items():
            if tensors[name].shape != parameter.shape:
                raise WeightsError(f"{folder}: {name} is {tuple(tensors[name].shape)}, and config.json makes it {tuple(parameter.shape)}")
            parameter.copy_(tensors[name])  # from the memory map straight to its place
        return model

    @torch.no_grad()
    def copy(self, dtype: torch.dtype | None = None) -> "GPT":
        """A model of its own with these weights, in `dtype`; RoPE's tables stay float32."""
        twin = GPT.empty(self.config, dtype or self.wte.weight.dtype, self.wte.weight.device)
        twin.load_state_dict(self.state_dict())
        return twin

    def compile_blocks(self) -> "GPT":
        """From here on the blocks run as torch.compile makes them; needs a C++ compiler, or Triton on a GPU. Returns self.

        What stands between two matrix products (norms, RoPE, writing to the cache, SwiGLU) becomes a kernel or two, which
        read and write their numbers once. All blocks, of all models, share the code, which is made where a kind of
        call comes for the first time: training, a prompt, one token, one row, with or without gradients. `dynamic`: not
        for each length and number of rows. Left to itself torch gives up behind the eighth kind.
        """
        for block in self.h:
            block.compile(dynamic=True, recompile_limit=64)
        return self

    @staticmethod
    def _init(m):
        if isinstance(m, (nn.Linear, nn.Embedding)):
            # GPT-2's 0.02 is this at its width, 768 or more; at width 96 it is five times too small
            nn.init.normal_(m.weight, std=m.weight.shape[1] ** -0.5)
        if isinstance(m, nn.Linear) and m.bias is not None:
            nn.init.zeros_(m.bias)

    def hidden(self, ids, pos=None, cache=None, filled=None):
        """The final hidden states, (B, T, C); `forward` says what the arguments are."""
        B, T = ids.shape
        write, mask = None, None
        if cache is None:  # training: row positions are 0..T-1, attention is causal
            assert T <= self.config.n_ctx, f"{T} tokens do not fit n_ctx = {self.config.n_ctx}"
            cos, sin = self.cos[:T], self.sin[:T]  # (T, hd)
        else:
            filled = cache.k.shape[3] if filled is None else filled
            cos, sin = self.cos[pos][:, None], self.sin[pos][:, None]  # (B, 1, T, hd)
            slots = torch.arange(filled, device=ids.device)
            if filled > T:  # else each row stands at 0..T-1, and attention is causal as without a cache
                mask = (slots <= pos[:, :, None])[:, None]  # (B, 1, T, S): not is_causal, see forward
            rows = torch.arange(B, device=ids.device)[:, None]  # (B, 1)
        x = self.wte(ids)  # (B, T, C)
        for i, block in enumerate(self.h):
            if cache is not None:

                def write(k, v, ck=cache.k[i], cv=cache.v[i]):
                    ck[rows, :, pos] = k.transpose(1, 2)  # indexed rows come first: (B, T, nkv, hd)
                    cv[rows, :, pos] = v.transpose(1, 2)
                    return ck[:, :, :filled], cv[:, :, :filled]

            if self.checkpointing and cache is None and torch.is_grad_enabled():
                x = checkpoint(block, x, cos, sin, use_reentrant=False)
            else:
                x = block(x, cos, sin, write, mask)
        return self.ln_f(x)

    def forward(self, ids, pos=None, cache=None, filled=None):
        """Logits of the next token.

        ids (B, T); without a cache, T tokens from position 0 on. With a cache, pos (B, T) holds
        each token's own position: rows may stand at different lengths, and T may be 1 (decoding)
        or more (a prompt, or an instruction behind an answer: there a query may see every filled
        slot up to its own position, which is why the mask comes from `pos` and not from
        `is_causal`). `filled`: attention reads that many slots only; at least max(pos) + 1.
        Returns (B, T, vocab_size).
        """
        return self.lm_head(self.hidden(ids, pos, cache, filled))


# ------------------------------------------------------------------ Hugging Face folders: the files


class WeightsError(Exception):
    """A folder that cannot be used as a model, or not written; the text is one line with the reason."""


SAFETENSORS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
COPIED = (  # beside the weights: what `transformers` and vLLM need to serve them, unchanged by training
    "tokenizer.json", "vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "chat_template.jinja", "generation_config.json", "tokenizer.model",
)  # fmt: skip


def read_json(path: Path) -> dict:
    """The object in a JSON file; WeightsError where there is none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise WeightsError(f"{path}: no such file; give a folder with config.json and *.safetensors") from None
    except ValueError as error:  # not JSON, or not UTF-8
        raise WeightsError(f"{path}: not JSON ({error}); copy the file again") from None
    if not isinstance(value, dict):
        raise WeightsError(f"{path}: JSON, but no object; copy the file again")
    return value


def read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of one file, each a view of the memory map: bytes are read when they are used.

    The format: a u64 (little endian) N; N bytes of JSON, name -> {dtype, shape, data_offsets}; the
    tensors' bytes, without gaps. Raises WeightsError where the file is anything else, half a download above all.
    """
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        raise WeightsError(f"{path}: no such file, and the index names it; copy it too") from None
    try:
        with open(path, "rb") as f:
            n = int.from_bytes(f.read(8), "little")
            if size < 8 or n > size - 8:
                raise ValueError(f"the header would be {n} bytes, and the file has {size}")
            header = json.loads(f.read(n))
        if not isinstance(header, dict):
            raise ValueError("the header is no JSON object")
        header.pop("__metadata__", None)  # free text
        # a private map: pages come from the file as they are touched, and go again without being written
        data = torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8)[8 + n :] if header else None
        tensors, end = {}, 0
        for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
            dtype, shape, (begin, stop) = SAFETENSORS.get(entry["dtype"]), entry["shape"], entry["data_offsets"]
            if dtype is None:
                raise ValueError(f"{name} is {entry['dtype']}; only {', '.join(SAFETENSORS)} can be read, no quantised weights")
            if not all(isinstance(d, int) and d >= 0 for d in shape) or begin != end or stop - begin != math.prod(shape) * dtype.itemsize:
                raise ValueError(f"{name}: bytes {begin} to {stop} do not fit shape {shape} behind byte {end}")
            end = stop
            if end > len(data):
                raise ValueError(f"it ends {end - len(data)} bytes before {name} does")
            raw = data[begin:stop]
            if raw.storage_offset() % dtype.itemsize:  # the header's length decides; new files are aligned
                raw = raw.clone()
            tensors[name] = raw.view(dtype).view(shape)
        if header and end != len(data):
            raise ValueError(f"{len(data) - end} bytes too many")
    except (ValueError, KeyError, TypeError, AttributeError) as error:  # a wrong shape of JSON is one of the last three
        raise WeightsError(f"{path}: damaged, or not safetensors ({error}); copy the file again") from None
    return tensors


def read_folder(folder) -> dict[str, torch.Tensor]:
    """All tensors of a folder: model.safetensors, else the files of its index, else every *.safetensors.
    Buffers that old files carry (the frequencies of RoPE) are left out: config.json says the same."""
    folder = Path(folder)
    index = folder / "model.safetensors.index.json"
    where = None
    if (folder / "model.safetensors").exists():
        paths = [folder / "model.safetensors"]
    elif index.exists():
        where = read_json(index).get("weight_map")
        if not isinstance(where, dict) or not all(isinstance(f, str) and Path(f).name == f for f in where.values()):
            raise WeightsError(f"{index}: no weight_map from tensors to files of this folder; copy the file again")
        paths = [folder / name for name in sorted(set(where.values()))]
    else:
        paths = sorted(folder.glob("*.safetensors"))
    if not paths:
        raise WeightsError(f"{folder}: no *.safetensors here; convert other formats with `transformers` first")
    tensors = {}
    for path in paths:
        for name, tensor in read_safetensors(path).items():
            if name in tensors or where is not None and where.get(name) != path.name:
                raise WeightsError(f"{path}: {name} is in another file too, or not where the index says; copy the files again")
            tensors[name] = tensor
    missing = set(where or ()) - tensors.keys()
    if missing:
        raise WeightsError(f"{index}: names {sorted(missing)[0]}, and no file has it; copy the files again")
    return {name: t for name, t in tensors.items() if not name.endswith("rotary_emb.inv_freq")}


def hf_tensors(model: GPT) -> dict[str, torch.Tensor]:
    """Every weight under its Hugging Face name, as a view: where to read it to, and to write it from.

    Ours merge what is multiplied by the same input; a slice of rows of the merged matrix is contiguous.
    """
    c, named = model.config, {"model.embed_tokens.weight": model.wte.weight, "model.norm.weight": model.ln_f.weight}
    if not c.tied_head:
        named["lm_head.weight"] = model.lm_head.weight
    for i, block in enumerate(model.h):
        at, mlp, layer = block.attn, block.mlp, f"model.layers.{i}."
        heads = [n * c.head_dim for n in (c.n_head, c.n_kv_head, c.n_kv_head)]
        for kind, merged in (("weight", at.c_attn.weight), ("bias", at.c_attn.bias)):
            if merged is not None:
                for x, part in zip("qkv", merged.detach().split(heads)):
                    named[f"{layer}self_attn.{x}_proj.{kind}"] = part
        gate, up = mlp.c_fc.weight.detach().chunk(2)
        named |= {
            layer + "self_attn.o_proj.weight": at.c_proj.weight,
            layer + "mlp.gate_proj.weight": gate,
            layer + "mlp.up_proj.weight": up,
            layer + "mlp.down_proj.weight": mlp.c_proj.weight,
            layer + "input_layernorm.weight": block.ln_1.weight,
            layer + "post_attention_layernorm.weight": block.ln_2.weight,
        }
        if c.qk_norm:
            named |= {layer + "self_attn.q_norm.weight": at.q_norm.weight, layer + "self_attn.k_norm.weight": at.k_norm.weight}
    return {name: tensor.detach() for name, tensor in named.items()}


def write_safetensors(tensors: dict[str, torch.Tensor], path: Path) -> None:
    """One file, written tensor by tensor; on the disk before it returns."""
    names = {dtype: name for name, dtype in SAFETENSORS.items()}
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, t in tensors.items():
        begin, end = end, end + t.numel() * t.element_size()
        header[name] = {"dtype": names[t.dtype], "shape": list(t.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that the tensors are aligned
    with open(path, "wb") as f:
        f.write(len(text).to_bytes(8, "little") + text)
        for t in tensors.values():
            f.write(t.cpu().contiguous().view(-1).view(torch.uint8).numpy())
        f.flush()
        os.fsync(f.fileno())


def save_hf(model: GPT, folder, source=None) -> None:
    """Writes `folder` so that `transformers` and vLLM load the model: config.json, model.safetensors,
    and, from `source`, the folder that the model came from, the tokenizer's files.

    folder: new or empty; it appears under its name only when all of it is written. Weights are saved in
    their own dtype: `model.to(torch.bfloat16)` first for a file of half the size. Raises WeightsError.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise WeightsError(f"{folder}: already there; remove it, or give another folder")
    config = hf_config(model.config) if source is None else read_json(Path(source) / "config.json")
    if source is not None and config_from_hf(source, model.config.n_ctx) != model.config:
        raise WeightsError(f"{source}: not the folder that this model came from: its config.json says another shape")
    config.pop("dtype", None)  # two names for the same: the newer `transformers` reads either
    config["torch_dtype"] = str(model.wte.weight.dtype).removeprefix("torch.")
    temporary = folder.with_name(folder.name + ".tmp")
    try:
        temporary.mkdir(parents=True)
        write_safetensors(hf_tensors(model), temporary / "model.safetensors")
        (temporary / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        for name in COPIED if source is not None else ():
            if (Path(source) / name).exists():
                shutil.copyfile(Path(source) / name, temporary / name)
        os.replace(temporary, folder)  # an empty folder under this name is replaced too
    except FileExistsError:
        raise WeightsError(f"{temporary}: left behind by a run that was killed; remove it") from None
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise WeightsError(f"{folder}: cannot be written ({error.strerror}); nothing was") from error


# ------------------------------------------------------------------ Hugging Face folders: config.json

HF_MODELS = {"llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}
# Keys that leave the logits alone: who made the file, how to train or to sample, where to cut; and any that begins
# with an underscore, which is how `transformers` writes down what is its own business.
HARMLESS = set(
    """architectures torch_dtype dtype transformers_version use_cache bos_token_id eos_token_id
    pad_token_id unk_token_id initializer_range attention_dropout pretraining_tp max_window_layers transformers.js_config
    is_llama_config keys_to_ignore_at_inference return_dict output_hidden_states output_attentions
    chunk_size_feed_forward problem_type id2label label2id unsloth_version
    unsloth_fixed""".split()
)


def config_from_hf(folder, n_ctx: int | None = None) -> GPTConfig:
    """GPTConfig of a folder's config.json. A key that is neither used here nor known to be harmless, and set to
    something, is refused: silently ignoring one would leave a model that runs and is wrong."""
    path = Path(folder) / "config.json"
    hf = {k: v for k, v in read_json(path).items() if k not in HARMLESS and not k.startswith("_") and (v is not None or k == "sliding_window")}

    def refuse(what):
        raise WeightsError(f"{path}: {what}")

    def take(key, *default):
        if key not in hf and not default:
            refuse(f"{key} is missing; add it, as the model's authors state it")
        return hf.pop(key, *default)

    kind = take("model_type")
    if kind not in HF_MODELS:
        refuse(f"model_type {kind!r} is not one of {', '.join(HF_MODELS)}")
    if take("hidden_act", "silu") != "silu":
        refuse("hidden_act is not silu, the activation of SwiGLU")

    def count(key, *default):
        value = take(key, *default)
        if type(value) is not int or value < 1:
            refuse(f"{key} is {value!r}, and must be a whole number above 0")
        return value

    heads, width = count("num_attention_heads"), count("hidden_size")
    # Qwen3's heads are not width / heads, and a file without head_dim means 128 there
    head_dim = count("head_dim") if kind == "qwen3" else count("head_dim", width // heads)
    context = count("max_position_embeddings")
    if n_ctx is not None and n_ctx > context:
        refuse(f"max_position_embeddings is {context}, and you ask for a context of {n_ctx}")
    n_ctx = n_ctx or context
    theta, scaling = _rope(hf, refuse)
    _window(hf, kind, n_ctx, refuse)
    config = GPTConfig(
        vocab_size=count("vocab_size"),
        n_layer=count("num_hidden_layers"),
        n_head=heads,
        n_kv_head=count("num_key_value_heads", *[heads] * (kind == "llama")),  # silence is 8 or 32 for the others
        n_embd=width,
        head_dim=head_dim,
        n_ff=count("intermediate_size"),
        n_ctx=n_ctx,
        rope_theta=theta,
        norm_eps=take("rms_norm_eps"),
        qkv_bias=kind == "qwen2",
        qk_norm=kind == "qwen3",
        tied_head=take("tie_word_embeddings", False),  # what all four mean by leaving it out
        rope_scaling=scaling,
    )
    for key, value in hf.items():
        # false, nothing and 1.0 are how files say that they do not use a thing (o_proj's bias, partial RoPE)
        if value not in (False, [], {}) and not (key == "partial_rotary_factor" and value == 1):
            refuse(f"{key} = {str(value)[:60]} is not something that this model computes")
    return config


def _rope(hf: dict, refuse):
    """(theta, scaling) out of the config; theta may stand at the top or among the parameters."""
    given = [hf.pop(key, {}) for key in ("rope_scaling", "rope_parameters")]
    if not all(isinstance(x, dict) for x in given):
        refuse("rope_scaling or rope_parameters is no JSON object")
    rope = given[0] | given[1]
    thetas = {float(x) for x in (hf.pop("rope_theta", None), rope.pop("rope_theta", None)) if x is not None}
    if len(thetas) != 1:
        refuse(f"rope_theta is {'missing; add it, as the authors state it (Llama 2: 10000.0)' if not thetas else 'given twice, and differs'}")
    kinds = {rope.pop(key, "default") for key in ("rope_type", "type")} - {"default"}
    if rope.pop("partial_rotary_factor", 1) != 1:
        refuse("partial_rotary_factor is not 1: a part of each head would not turn")
    if not kinds and not rope:
        return thetas.pop(), None
    keys = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    if kinds != {"llama3"} or set(rope) != set(keys):
        refuse(f"RoPE of type {', '.join(map(str, kinds)) or 'default'} with {sorted(rope)} is not known here; default and llama3 are")
    return thetas.pop(), tuple(float(rope[k]) for k in keys)


def _window(hf: dict, kind: str, n_ctx: int, refuse) -> None:
    """Refuses a sliding window that some query would notice; one as long as the context changes nothing."""
    window = hf.pop("sliding_window", 4096)  # which is what `transformers` takes silence for; null is none
    used = hf.pop("use_sliding_window", kind == "mistral")
    layers = set(hf.pop("layer_types", []))
    if layers - {"full_attention", "sliding_attention"}:
        refuse(f"layer_types has {sorted(layers - {'full_attention', 'sliding_attention'})}; full attention is what there is")
    used = used or "sliding_attention" in layers
    if used and window is not None and window < n_ctx:
        refuse(f"sliding_window of {window} in a context of {n_ctx}; ask for a context that it covers: n_ctx={window}")


def hf_config(c: GPTConfig) -> dict:
    """config.json for a model that came from no folder: Llama's form, Qwen2's or Qwen3's."""
    if c.qkv_bias and c.qk_norm:
        raise WeightsError("no Hugging Face architecture has both q/k/v bias and q/k norm as this model does")
    kind = "qwen2" if c.qkv_bias else "qwen3" if c.qk_norm else "llama"
    config = dict(
        architectures=[HF_MODELS[kind]], model_type=kind, vocab_size=c.vocab_size, num_hidden_layers=c.n_layer,
        num_attention_heads=c.n_head, num_key_value_heads=c.n_kv_head, hidden_size=c.n_embd, head_dim=c.head_dim,
        intermediate_size=c.n_ff, max_position_embeddings=c.n_ctx, rope_theta=c.rope_theta, rms_norm_eps=c.norm_eps,
        tie_word_embeddings=c.tied_head, hidden_act="silu",
    )  # fmt: skip
    if c.rope_scaling is not None:
        keys = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
        config["rope_scaling"] = {"rope_type": "llama3", **dict(zip(keys, c.rope_scaling))}
    return config
