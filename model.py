"""The policy: one GPT, the same code at 367 thousand parameters and at 7 billion.

Pre-norm blocks with RMSNorm, rotary positions (RoPE), grouped-query attention (GQA) and SwiGLU. Llama, Mistral,
SmolLM2, Qwen2, Qwen3 and dense Granite 3 share this architecture. They differ in three switches: a bias on q, k and v,
a norm on q and k, and a head that is tied to the embedding. Names follow GPT-2 (`wte`, `c_proj`).

Every batch in this project is padded on the *right*, and a token's cache slot is its position. Padding therefore comes
after all tokens of its row, and causal attention never reads it. The cache entry of a padding token is overwritten by
the real token of that position before it is read. So there is no left padding and no padding mask.

Not covered: dropout (with it, sampler and loss would disagree about the policy), learned positions, mixture of experts
and sliding windows. `GPT.from_hf` refuses every file that asks for something that this GPT does not compute.
"""

import dataclasses
import importlib
import json
import math
import os
import shutil
import zipfile
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint


class UserError(Exception):
    """Something that the user can fix; its text is one line that says what and how."""


class WeightsError(UserError):
    """A folder that cannot be loaded as a model, or cannot be written."""


@dataclass
class GPTConfig:
    """The shape of a GPT; the defaults are the laptop model's, except `qk_norm`."""

    vocab_size: int
    n_layer: int = 3
    n_head: int = 4
    n_kv_head: int = 4  # fewer than n_head: grouped-query attention
    n_embd: int = 96
    head_dim: int = 24
    n_ff: int = 256  # inner width of the SwiGLU
    n_ctx: int = 256  # longest sequence, in tokens
    rope_theta: float = 10000.0
    norm_eps: float = 1e-6
    qkv_bias: bool = False  # Qwen2
    qk_norm: bool = False  # Qwen3
    tied_head: bool = True  # the head is the embedding, transposed
    # Llama 3's: (factor, low_freq_factor, high_freq_factor, original context); see `rope_angles`
    rope_scaling: tuple[float, float, float, float] | None = None
    n_tokens: int | None = None  # ids from here on only pad the embedding: no logits for them


class KVCache:
    """Keys and values of every layer; slot j of a row holds the token at position j.

    k, v: (n_layer, B, n_kv_head, S, head_dim). The sampler only needs to copy and to drop rows: it copies one
    problem's cache for K rollouts, and it drops finished rows.
    """

    def __init__(self, k: torch.Tensor, v: torch.Tensor):
        self.k, self.v = k, v

    @classmethod
    def empty(cls, model: "GPT", rows: int, slots: int) -> "KVCache":
        """Allocate a cache of zeros in the dtype and on the device of the model."""
        c, w = model.config, model.wte.weight
        shape = (c.n_layer, rows, c.n_kv_head, slots, c.head_dim)
        return cls(w.new_zeros(shape), w.new_zeros(shape))

    def rows(self, index: torch.Tensor) -> "KVCache":
        """Return a copy whose row i is row index[i]; an index may occur more than once."""
        return KVCache(self.k[:, index], self.v[:, index])

    def put_rows(self, index: torch.Tensor, other: "KVCache") -> None:
        """Overwrite row index[i] with row i of `other`."""
        self.k[:, index], self.v[:, index] = other.k, other.v


def rope_angles(config: GPTConfig) -> tuple[torch.Tensor, torch.Tensor]:
    """Return cos and ∓sin of position times frequency, each (n_ctx, head_dim), always in float32.

    The layout is half-split, as in Hugging Face's files: dimension i is paired with i + head_dim/2.
    The rotation is x[i]·cos − x[i + half]·sin and x[i + half]·cos + x[i]·sin. The first half of sin is negated.

    Llama 3 was first trained on short contexts. Its scaling divides the frequency of a pair by `factor` if the pair
    turns less than `low` times in that context. Pairs that turn more than `high` times stay as they are.
    In between, the frequency is interpolated linearly in the number of turns.
    """
    half = torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim
    frequency = config.rope_theta**-half  # (head_dim/2,), radians per token
    if config.rope_scaling is not None:
        factor, low, high, context = config.rope_scaling
        turns = context * frequency / (2 * math.pi)
        keep = ((turns - low) / (high - low)).clamp(0, 1)
        frequency = frequency * (keep + (1 - keep) / factor)
    angles = torch.outer(torch.arange(config.n_ctx).float(), frequency)
    cos, sin = angles.cos(), angles.sin()  # (n_ctx, head_dim/2)
    return torch.cat([cos, cos], dim=-1), torch.cat([-sin, sin], dim=-1)


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Apply RoPE: rotate each pair (x[i], x[i + head_dim/2]) by its angle. x: (B, n, T, head_dim)."""
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, dims=-1), sin).to(x.dtype)


class Attention(nn.Module):
    """Causal GQA with rotary positions, over the cache if there is one. (B, T, C) -> (B, T, C)"""

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
            k, v = write(k, v)  # (B, nkv, S, hd): all tokens of the row so far
        gqa = self.n_head != self.n_kv_head
        if gqa and mask is not None:
            # Masked SDPA kernels lack GQA. So the query heads of each KV head are folded into the query length:
            # nothing is repeated, and a fused kernel can still be used.
            group = mask if T == 1 else mask.repeat(1, 1, self.n_head // self.n_kv_head, 1)  # (B, 1, group·T, S)
            q = q.reshape(B, self.n_kv_head, -1, self.head_dim)  # (B, nkv, group·T, hd)
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=group)
            y = y.reshape(B, self.n_head, T, self.head_dim)
        else:
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=gqa)
        return self.c_proj(y.transpose(1, 2).reshape(B, T, -1))  # (B, nh, T, hd) -> (B, T, C)


class MLP(nn.Module):
    """SwiGLU: down(silu(gate(x)) * up(x)), gate and up in one matrix. (B, T, C) -> (B, T, C)"""

    def __init__(self, c: GPTConfig):
        super().__init__()
        self.c_fc = nn.Linear(c.n_embd, 2 * c.n_ff, bias=False)
        self.c_proj = nn.Linear(c.n_ff, c.n_embd, bias=False)

    def forward(self, x):
        gate, up = self.c_fc(x).chunk(2, dim=-1)
        return self.c_proj(F.silu(gate) * up)


class Block(nn.Module):
    """Attention and MLP, each with a norm before it and a residual connection around it. (B, T, C) -> (B, T, C)"""

    def __init__(self, c: GPTConfig):
        super().__init__()
        self.ln_1, self.attn = nn.RMSNorm(c.n_embd, c.norm_eps), Attention(c)
        self.ln_2, self.mlp = nn.RMSNorm(c.n_embd, c.norm_eps), MLP(c)

    def forward(self, x, cos, sin, write=None, mask=None):
        x = x + self.attn(self.ln_1(x), cos, sin, write, mask)
        return x + self.mlp(self.ln_2(x))


class GPT(nn.Module):
    """The model: `model(ids)` returns logits; `hidden` stops before the head, and `logits` is the head."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.config = config
        self.compiled = False  # see compile_blocks
        self.checkpointing = False  # activation checkpointing: blocks recompute their activations in backward
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.h = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.ln_f = nn.RMSNorm(config.n_embd, config.norm_eps)
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.tie_head_and_build_rope()
        self.apply(self._init)
        for name, p in self.named_parameters():  # GPT-2: the residual stream's variance stays 1
            if name.endswith("c_proj.weight"):
                p.data.mul_((2 * config.n_layer) ** -0.5)

    @staticmethod
    def _init(m):
        if isinstance(m, (nn.Linear, nn.Embedding)):
            # GPT-2's 0.02 is about width**-0.5 at its width of 768 and more; at width 96 it is five times too small
            nn.init.normal_(m.weight, std=m.weight.shape[1] ** -0.5)
        if isinstance(m, nn.Linear) and m.bias is not None:
            nn.init.zeros_(m.bias)

    def tie_head_and_build_rope(self):
        if self.config.tied_head:
            self.lm_head.weight = self.wte.weight
        for name, table in zip(("cos", "sin"), rope_angles(self.config)):
            self.register_buffer(name, table.to(self.wte.weight.device), persistent=False)

    @classmethod
    def empty(cls, config: GPTConfig, dtype: torch.dtype = torch.float32, device="cpu") -> "GPT":
        """Return a model with uninitialised weights, for weights that are about to be loaded."""
        with torch.device("meta"):  # shapes only
            model = cls(config).to(dtype)
        model.to_empty(device=device)
        model.tie_head_and_build_rope()  # to_empty breaks the tie; the RoPE tables must stay float32
        return model

    @classmethod
    def with_weights(cls, config: GPTConfig, weights: dict) -> "GPT":
        """Return a model that computes with these tensors, which are not copied."""
        with torch.device("meta"):
            model = cls(config)
        model.load_state_dict(weights, assign=True)
        model.tie_head_and_build_rope()
        return model

    @torch.no_grad()
    def copy(self, dtype: torch.dtype | None = None) -> "GPT":
        """Return an independent copy in `dtype`; the RoPE tables stay float32."""
        twin = GPT.empty(self.config, dtype or self.wte.weight.dtype, self.wte.weight.device)
        twin.load_state_dict(self.state_dict())
        return twin

    def compile_blocks(self) -> "GPT":
        """Compile the blocks with torch.compile (needs a C++ compiler, or Triton on a GPU). Returns self.

        `dynamic=True` avoids a recompile per shape. All blocks share the compiled code. Training, prefill and decoding,
        with and without gradients, compile once each; together they exceed the default limit of 8.
        """
        torch._dynamo.config.recompile_limit = 64
        for block in self.h:
            block.compile(dynamic=True)
        self.compiled = True
        return self

    def hidden(self, ids, pos=None, cache=None, filled=None):
        """Return the final hidden states, (B, T, C).

        ids: (B, T). Without a cache, the T tokens start at position 0. With a cache, pos (B, T) holds the position of
        each token: rows may have different lengths. T is 1 in decoding, and more for a prompt or an instruction.
        An instruction continues a filled cache: there each query sees all slots up to its own position. That is why the
        mask is built from `pos` and `is_causal` would be wrong. filled: read only the first `filled` slots of the
        cache; at least max(pos) + 1.
        """
        B, T = ids.shape
        write, mask = None, None
        if cache is None:  # training: positions are 0..T-1, attention is causal
            assert T <= self.config.n_ctx, f"{T} tokens do not fit n_ctx = {self.config.n_ctx}"
            cos, sin = self.cos[:T], self.sin[:T]  # (T, hd)
        else:
            filled = cache.k.shape[3] if filled is None else filled
            cos, sin = self.cos[pos][:, None], self.sin[pos][:, None]  # (B, 1, T, hd)
            slots = torch.arange(filled, device=ids.device)
            if filled > T:  # otherwise each row stands at 0..T-1, and plain causal attention is right
                mask = (slots <= pos[:, :, None])[:, None]  # (B, 1, T, S)
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

    def logits(self, h):
        """Return the logits of hidden states h: (..., C) -> (..., n_tokens).

        This is the only place that crops ids that cannot be drawn: an embedding is often padded to a multiple of 64.
        """
        logits = self.lm_head(h)
        return logits if self.config.n_tokens is None else logits[..., : self.config.n_tokens]

    def forward(self, ids, pos=None, cache=None, filled=None):
        """Return the logits of the next token, (B, T, n_tokens); the arguments are those of `hidden`."""
        return self.logits(self.hidden(ids, pos, cache, filled))

    @classmethod
    @torch.no_grad()
    def from_hf(cls, folder, dtype=None, n_ctx=None, device="cpu", n_tokens=None) -> "GPT":
        """Load the model of a Hugging Face folder: Llama 2/3, Mistral, SmolLM2, Qwen2/2.5, Qwen3 or dense Granite 3.

        dtype: of the weights; None keeps the file's own. Train in torch.float32: a step of 1e-5 rounds away in bf16.
        n_ctx: a shorter context than the file's. n_tokens: the tokenizer's size; padding ids after it get no logits.
        Raises WeightsError for a damaged file, and for a config that this GPT would compute differently.
        """
        config = config_from_hf(folder, n_ctx)
        if n_tokens is not None and n_tokens > config.vocab_size:
            sizes = f"{n_tokens} tokens, but the model {config.vocab_size}"
            raise WeightsError(f"{folder}: the tokenizer has {sizes}; copy both from the same model")
        config.n_tokens = None if n_tokens == config.vocab_size else n_tokens
        tensors = read_weights(folder)
        dtypes = {tensor.dtype for tensor in tensors.values()}
        if dtype is None and len(dtypes) != 1:
            raise WeightsError(f"{folder}: has tensors of {len(dtypes)} types; choose one with dtype=")
        model = cls.empty(config, dtype or dtypes.pop(), device)
        parameters = hf_tensors(model)
        try:
            check_tensors(parameters, tensors)
            for name, parameter in parameters.items():
                parameter.copy_(tensors[name])  # from the memory map straight into place
                if not parameter.isfinite().all():
                    raise WeightsError(f"{name} holds a value that is not finite; copy the file again")
        except WeightsError as error:
            raise WeightsError(f"{folder}: {error}") from None
        hf = read_json(Path(folder) / "config.json")
        if hf["model_type"] == "granite":
            fold_granite(model, hf)
        return model


# ------------------------------------------------------------------ checkpoints


def write_file(path, content: bytes) -> None:
    """Write a file atomically; UserError if it cannot be written."""
    _replace(Path(path), lambda f: f.write(content))


def save_checkpoint(state: dict, path) -> None:
    """Write a checkpoint atomically. `load_model` needs state["config"], a dict of GPTConfig, and state["model"]."""
    _replace(Path(path), lambda f: torch.save({**state, "format": "score-1"}, f))


def _replace(path: Path, write_to) -> None:
    """Write to a temporary name, flush to the disk, rename: a file under its final name is always complete."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "wb") as f:
            write_to(f)
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:  # torch.save raises RuntimeError if the disk is full
        temporary.unlink(missing_ok=True)
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise UserError(f"{path}: cannot be written ({reason}); nothing was overwritten") from error


def load_checkpoint(path) -> dict:
    """Load what `save_checkpoint` wrote; UserError for a missing, damaged or foreign file."""
    try:
        # torch.load checks no checksum: it would read a block of zeros, left by a crash, as weights
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise ValueError(f"checksum of {damaged}")
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except FileNotFoundError:
        raise UserError(f"{path}: no such checkpoint; check the path, or train it first") from None
    except Exception as error:  # a dozen types of exception, and each means that the bytes are no checkpoint
        reason = (str(error) or type(error).__name__).splitlines()[0][:80]
        raise UserError(f"{path}: damaged, or not a checkpoint ({reason}); remove it to train it again") from error
    if not isinstance(state, dict) or state.get("format") != "score-1":
        raise UserError(f"{path}: not a checkpoint of this program; give another file, or remove it")
    return state


def load_model(path) -> tuple[GPT, dict]:
    """Load the model of a checkpoint; returns it with the whole state."""
    state = load_checkpoint(path)
    model = GPT.empty(GPTConfig(**state["config"]))
    model.load_state_dict(state["model"])
    return model, state


# ------------------------------------------------------------------ Hugging Face folders: weights

SHARD_BYTES = 5_000_000_000  # larger models are split into several files, as `transformers` does
COPIED = (  # what `transformers` and vLLM need to serve the weights; training does not change these files
    "tokenizer.json", "vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "chat_template.jinja", "generation_config.json", "tokenizer.model",
)  # fmt: skip


def import_optional(name: str):
    """Import a library that only Hugging Face folders need; UserError with the fix if it is missing."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise UserError(f"--model needs the package {name}: pip install -r requirements-hf.txt") from None


def read_json(path, error=WeightsError) -> dict:
    """Read the object in a JSON file; raises `error` for a missing or damaged file."""
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except OSError as reason:
        raise error(f"{path}: {reason.strerror}; give a folder in the form of the Hugging Face hub") from None
    except (ValueError, RecursionError) as reason:  # not JSON, not UTF-8, or nested too deep
        raise error(f"{path}: not JSON ({str(reason)[:80]}); copy the file again") from None
    if not isinstance(value, dict):
        raise error(f"{path}: JSON, but not an object; copy the file again")
    return value


def read_weights(folder) -> dict[str, torch.Tensor]:
    """Read model.safetensors, or all files of its index; each tensor is a view of the memory map."""
    folder, safetensors = Path(folder), import_optional("safetensors")
    index, files = folder / "model.safetensors.index.json", {}
    paths = [folder / "model.safetensors"]
    if not paths[0].exists() and index.exists():
        files = read_json(index).get("weight_map")
        if not isinstance(files, dict):
            raise WeightsError(f"{index}: has no weight_map; copy the file again")
        paths = [folder / str(file) for file in sorted(set(files.values()))]
    tensors = {}
    for path in paths:
        try:
            with safetensors.safe_open(path, framework="pt") as file:
                tensors |= {name: file.get_tensor(name) for name in file.keys()}
        except OSError:
            raise WeightsError(f"{path}: cannot be read; copy it too, or convert the model to safetensors") from None
        except safetensors.SafetensorError as error:
            raise WeightsError(f"{path}: damaged, or not safetensors ({error}); copy the file again") from None
    missing = files.keys() - tensors.keys()
    if missing:
        raise WeightsError(f"{index}: no file has {min(missing)}; copy the files again")
    # old files store the RoPE frequencies, which config.json defines already
    return {name: tensor for name, tensor in tensors.items() if not name.endswith("rotary_emb.inv_freq")}


def check_tensors(parameters: dict, tensors: dict) -> None:
    """Raise WeightsError unless the tensors have the names and shapes of the parameters, and float types."""
    if "lm_head.weight" not in parameters and "lm_head.weight" in tensors:  # some files store a tied head nevertheless
        if not torch.equal(tensors.pop("lm_head.weight"), tensors["model.embed_tokens.weight"]):
            raise WeightsError("lm_head.weight is not the embedding; set tie_word_embeddings to false in config.json")
    for name in sorted(parameters.keys() | tensors.keys()):
        stored = tuple(tensors[name].shape) if name in tensors else "missing"
        wanted = tuple(parameters[name].shape) if name in parameters else "no such tensor"
        if stored != wanted:
            raise WeightsError(f"{name} is {stored}, but config.json makes it {wanted}; copy both from one model")
        if tensors[name].dtype not in (torch.float32, torch.float16, torch.bfloat16):
            raise WeightsError(f"{name} is {tensors[name].dtype}; convert it to float32, float16 or bfloat16")


def hf_tensors(model: GPT) -> dict[str, torch.Tensor]:
    """Return every weight under its Hugging Face name, as a view that can be read and written.

    This GPT merges matrices that multiply the same input (q, k, v; gate and up). A slice of rows is contiguous.
    """
    c = model.config
    named = {"model.embed_tokens.weight": model.wte.weight, "model.norm.weight": model.ln_f.weight}
    if not c.tied_head:
        named["lm_head.weight"] = model.lm_head.weight
    heads = [n * c.head_dim for n in (c.n_head, c.n_kv_head, c.n_kv_head)]  # rows of q, k, v
    for i, block in enumerate(model.h):
        layer, attn, mlp = f"model.layers.{i}.", block.attn, block.mlp
        for kind, merged in (("weight", attn.c_attn.weight), ("bias", attn.c_attn.bias)):
            if merged is not None:
                for x, part in zip("qkv", merged.split(heads)):
                    named[f"{layer}self_attn.{x}_proj.{kind}"] = part
        named[layer + "mlp.gate_proj.weight"], named[layer + "mlp.up_proj.weight"] = mlp.c_fc.weight.chunk(2)
        named[layer + "mlp.down_proj.weight"] = mlp.c_proj.weight
        named[layer + "self_attn.o_proj.weight"] = attn.c_proj.weight
        named[layer + "input_layernorm.weight"] = block.ln_1.weight
        named[layer + "post_attention_layernorm.weight"] = block.ln_2.weight
        if c.qk_norm:
            named[layer + "self_attn.q_norm.weight"] = attn.q_norm.weight
            named[layer + "self_attn.k_norm.weight"] = attn.k_norm.weight
    return {name: tensor.detach() for name, tensor in named.items()}


def fold_granite(model: GPT, hf: dict) -> None:
    """Multiply Granite's four factors into the weights: then this GPT computes Granite's logits.

    Load in float32 for that: a factor such as 0.22 rounds differently in each weight of bf16.
    """
    embedding, residual = hf.get("embedding_multiplier", 1), hf.get("residual_multiplier", 1)
    model.wte.weight.mul_(embedding)
    # a tied head is scaled with the embedding; the final norm undoes it
    model.ln_f.weight.div_(hf.get("logits_scaling", 1) * (embedding if model.config.tied_head else 1))
    for block in model.h:
        query = block.attn.c_attn.weight[: model.config.n_head * model.config.head_dim]
        # scaled_dot_product_attention multiplies the scores by head_dim**-0.5
        query.mul_(hf.get("attention_multiplier", 1) * model.config.head_dim**0.5)
        block.attn.c_proj.weight.mul_(residual)
        block.mlp.c_proj.weight.mul_(residual)


def save_hf(model: GPT, folder, source=None) -> None:
    """Write a folder that `transformers` and vLLM load: config.json, weights, and the tokenizer's files of `source`.

    folder: new or empty; it gets its name only when it is complete. source: the folder that the model was loaded from.
    The weights are saved in their own dtype: `model.copy(torch.bfloat16)` halves the size. Raises WeightsError.
    """
    folder, safetensors = Path(folder), import_optional("safetensors")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise WeightsError(f"{folder}: exists already; remove it, or give another folder")
    config = export_config(model, source)
    temporary = folder.with_name(folder.name + ".tmp")
    try:
        temporary.mkdir(parents=True)
        write_weights(model, temporary)
        (temporary / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        for name in COPIED if source is not None else ():
            if (Path(source) / name).exists():
                shutil.copyfile(Path(source) / name, temporary / name)
        for path in temporary.iterdir():
            with open(path, "rb+") as f:
                os.fsync(f.fileno())
        os.replace(temporary, folder)  # this replaces an empty folder of the same name
    except FileExistsError:
        raise WeightsError(f"{temporary}: left over from a run that was killed; remove it") from None
    except (OSError, safetensors.SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        reason = getattr(error, "strerror", None) or error
        raise WeightsError(f"{folder}: cannot be written ({reason}); nothing was written") from error


def write_weights(model: GPT, folder: Path) -> None:
    """Write model.safetensors, or shards of at most SHARD_BYTES and their index."""
    save_file = import_optional("safetensors.torch").save_file
    shards, size = [{}], 0
    for name, tensor in hf_tensors(model).items():
        if size and size + tensor.nbytes > SHARD_BYTES:
            shards.append({})
            size = 0
        shards[-1][name] = tensor
        size += tensor.nbytes
    if len(shards) == 1:
        save_file(shards[0], folder / "model.safetensors", {"format": "pt"})
        return
    files = {}
    for i, shard in enumerate(shards, 1):
        file = f"model-{i:05}-of-{len(shards):05}.safetensors"
        save_file(shard, folder / file, {"format": "pt"})
        files |= dict.fromkeys(shard, file)
    total = sum(tensor.nbytes for tensor in hf_tensors(model).values())
    index = {"metadata": {"total_size": total}, "weight_map": files}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


# ------------------------------------------------------------------ Hugging Face folders: config.json

HF_CLASSES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "granite": "GraniteForCausalLM",
}
HF_NAMES = {  # a field of GPTConfig: its key in config.json
    "vocab_size": "vocab_size",
    "n_layer": "num_hidden_layers",
    "n_head": "num_attention_heads",
    "n_kv_head": "num_key_value_heads",
    "n_embd": "hidden_size",
    "head_dim": "head_dim",
    "n_ff": "intermediate_size",
    "n_ctx": "max_position_embeddings",
    "rope_theta": "rope_theta",
    "norm_eps": "rms_norm_eps",
    "tied_head": "tie_word_embeddings",
}
LLAMA3_ROPE = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
GRANITE_FACTORS = ("embedding_multiplier", "attention_multiplier", "residual_multiplier", "logits_scaling")
# Keys that cannot change the logits: who made the file, how to train, how to sample, where to stop. A key that begins
# with an underscore is internal to `transformers`.
HARMLESS = set(
    """architectures torch_dtype dtype transformers_version use_cache bos_token_id eos_token_id pad_token_id
    unk_token_id sep_token_id decoder_start_token_id initializer_range attention_dropout pretraining_tp
    max_window_layers transformers.js_config is_llama_config keys_to_ignore_at_inference return_dict
    output_hidden_states output_attentions chunk_size_feed_forward problem_type id2label label2id unsloth_version
    unsloth_fixed tokenizer_class auto_map loss_type model_max_length max_sequence_length name_or_path max_length
    min_length temperature top_k top_p typical_p do_sample num_beams num_beam_groups num_return_sequences
    repetition_penalty length_penalty diversity_penalty use_flash_attn attn_implementation
    task_specific_params""".split()
)


def config_from_hf(folder, n_ctx: int | None = None) -> GPTConfig:
    """Translate a folder's config.json; n_ctx: a shorter context. Raises WeightsError with the file and the reason."""
    path = Path(folder) / "config.json"
    hf = read_json(path)
    try:
        return translate_config(hf, n_ctx)
    except (WeightsError, TypeError, ValueError) as error:  # the last two: a value of another type, such as "32" for 32
        raise WeightsError(f"{path}: {error}") from None


def translate_config(hf: dict, n_ctx: int | None) -> GPTConfig:
    """Translate the keys of a config.json. A key that is neither used nor harmless is refused by name:
    a key that is silently ignored gives a model that runs and is wrong."""
    kind = hf.get("model_type")
    if kind not in HF_CLASSES:
        raise WeightsError(f"model_type {kind!r} is not supported; these are: {', '.join(HF_CLASSES)}")
    ignored = HARMLESS | set(GRANITE_FACTORS if kind == "granite" else ())  # `fold_granite` reads these
    hf = {key: value for key, value in hf.items() if key not in ignored and not key.startswith(("_", "model_type"))}
    window = hf.pop("sliding_window", 4096)  # the default of `transformers`; null is no window
    hf = {key: value for key, value in hf.items() if value is not None}
    if hf.pop("hidden_act", "silu") != "silu":
        raise WeightsError("hidden_act is not silu, the activation of SwiGLU")
    # what `transformers` assumes for keys that a file leaves out
    hf.setdefault("tie_word_embeddings", False)
    if kind != "qwen3":  # its default of 128 is not width / heads: the file must say it
        hf.setdefault("head_dim", hf.get("hidden_size", 0) // max(1, hf.get("num_attention_heads", 1)))
    if kind == "llama":  # for the others, the default is 8 or 32
        hf.setdefault("num_key_value_heads", hf.get("num_attention_heads"))
    hf["rope_theta"], scaling = _rope(hf, kind)
    shape = {}
    for ours, theirs in HF_NAMES.items():
        value, wanted = hf.pop(theirs, "missing"), GPTConfig.__annotations__[ours]  # int, float or bool
        if type(value) is not wanted or (wanted is int and value < 1):
            raise WeightsError(f"{theirs} is {value!r}, but must be {wanted.__name__}; state it as the authors do")
        shape[ours] = value
    if n_ctx is not None and n_ctx > shape["n_ctx"]:
        raise WeightsError(f"max_position_embeddings is {shape['n_ctx']}, but you ask for a context of {n_ctx}")
    shape["n_ctx"] = n_ctx or shape["n_ctx"]
    _refuse_window(hf, kind, window, shape["n_ctx"])
    for key, value in hf.items():
        # false, empty and 1.0 mean that a feature is not used (bias of o_proj, partial RoPE)
        if value not in (False, [], {}) and not (key == "partial_rotary_factor" and value == 1):
            raise WeightsError(f"{key} = {str(value)[:60]} is not supported by this model")
    return GPTConfig(**shape, qkv_bias=kind == "qwen2", qk_norm=kind == "qwen3", rope_scaling=scaling)


def _rope(hf: dict, kind: str) -> tuple[float, tuple | None]:
    """Take (theta, scaling) out of hf; theta may stand at the top level or in the RoPE parameters."""
    given = [hf.pop("rope_scaling", {}), hf.pop("rope_parameters", {})]
    if not all(isinstance(x, dict) for x in given):
        raise WeightsError("rope_scaling or rope_parameters is not a JSON object; copy the file again")
    rope = given[0] | given[1]
    thetas = {float(x) for x in (hf.pop("rope_theta", None), rope.pop("rope_theta", None)) if x is not None}
    if not thetas and not rope and kind == "llama":  # Llama 2's own files leave it out
        thetas = {10000.0}
    if len(thetas) != 1:
        raise WeightsError("rope_theta is missing, or stated twice and different; state it once, as the authors do")
    kinds = {rope.pop(key, "default") for key in ("rope_type", "type")} - {"default"}
    if rope.pop("partial_rotary_factor", 1) != 1:
        raise WeightsError("partial_rotary_factor is not 1: part of each head would not be rotated")
    if not kinds and not rope:
        return thetas.pop(), None
    if kinds != {"llama3"} or set(rope) != set(LLAMA3_ROPE):
        name = ", ".join(map(str, kinds)) or "default"
        raise WeightsError(f"RoPE of type {name} with {sorted(rope)} is not supported; only default and llama3 are")
    return thetas.pop(), tuple(float(rope[key]) for key in LLAMA3_ROPE)


def _refuse_window(hf: dict, kind: str, window: int | None, n_ctx: int) -> None:
    """Refuse a sliding window that is shorter than the context; a longer one changes nothing."""
    used = hf.pop("use_sliding_window", kind == "mistral")
    layers = set(hf.pop("layer_types", []))
    if layers - {"full_attention", "sliding_attention"}:
        raise WeightsError(f"layer_types has {min(layers - {'full_attention'})}; only full attention is supported")
    if (used or "sliding_attention" in layers) and window is not None and window < n_ctx:
        raise WeightsError(f"sliding_window of {window} in a context of {n_ctx}; give --n_ctx {window}")


def export_config(model: GPT, source=None) -> dict:
    """Return the config.json of an exported model: that of `source`, or else Llama's, Qwen2's or Qwen3's."""
    c = model.config
    config = None if source is None else read_json(Path(source) / "config.json")
    if source is not None and config_from_hf(source, c.n_ctx) != dataclasses.replace(c, n_tokens=None):
        raise WeightsError(f"{source}: has another shape than the model; give the folder that it was loaded from")
    if config is None or config["model_type"] == "granite":  # with its factors folded in, Granite is a Llama
        if c.qkv_bias and c.qk_norm:
            raise WeightsError("no Hugging Face architecture has both a bias and a norm on q and k; train one without")
        kind = "qwen2" if c.qkv_bias else "qwen3" if c.qk_norm else "llama"
        config = {"architectures": [HF_CLASSES[kind]], "model_type": kind, "hidden_act": "silu"}
        config |= {theirs: getattr(c, ours) for ours, theirs in HF_NAMES.items()}
        if c.rope_scaling is not None:
            config["rope_scaling"] = {"rope_type": "llama3", **dict(zip(LLAMA3_ROPE, c.rope_scaling))}
    config.pop("dtype", None)  # the new name of torch_dtype; `transformers` reads either
    config["torch_dtype"] = str(model.wte.weight.dtype).removeprefix("torch.")
    return config
