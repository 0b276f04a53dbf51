"""The policy: one GPT, the same code at 350 thousand parameters and at 7 billion.

Pre-norm blocks with RMSNorm, rotary positions (RoPE), grouped-query attention and SwiGLU: the
architecture that Llama, Mistral, SmolLM2, Qwen2 and Qwen3 share, with the three switches in which
they differ (q/k/v bias, q/k norm, tied head). Names follow GPT-2 (`wte`, `c_proj`).

Every batch in this project is padded on the *right*, and a token's cache slot is its position.
So a row's padding stands behind all its tokens, causal attention never looks at it, and what
padding writes into the cache is overwritten by the real token of that position before anything
reads it. There is no left padding, no padding mask, and no position bookkeeping anywhere else.

What is not here: dropout (SCoRe uses none, and with it the sampler and the loss would disagree
about the policy), learned positions, mixture of experts, sliding windows.
"""

from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F


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
    """
    half = torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim
    angles = torch.outer(torch.arange(config.n_ctx).float(), config.rope_theta**-half)
    cos, sin = angles.cos(), angles.sin()  # (n_ctx, head_dim/2)
    return torch.cat([cos, cos], dim=-1), torch.cat([-sin, sin], dim=-1)


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """RoPE: turns each pair (x[i], x[i + head_dim/2]) by its angle. x: (B, n, T, head_dim)."""
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, dims=-1), sin).to(x.dtype)


class Attention(nn.Module):
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
    def __init__(self, c: GPTConfig):
        super().__init__()
        self.ln_1, self.attn = nn.RMSNorm(c.n_embd, c.norm_eps), Attention(c)
        self.ln_2, self.mlp = nn.RMSNorm(c.n_embd, c.norm_eps), MLP(c)

    def forward(self, x, cos, sin, write=None, mask=None):
        x = x + self.attn(self.ln_1(x), cos, sin, write, mask)
        return x + self.mlp(self.ln_2(x))


class GPT(nn.Module):
    def __init__(self, config: GPTConfig):
        super().__init__()
        self.config = config
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.h = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.ln_f = nn.RMSNorm(config.n_embd, config.norm_eps)
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        if config.tied_head:
            self.lm_head.weight = self.wte.weight
        cos, sin = rope_angles(config)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        self.apply(self._init)
        for name, p in self.named_parameters():  # GPT-2: the residual stream's variance stays 1
            if name.endswith("c_proj.weight"):
                p.data.mul_((2 * config.n_layer) ** -0.5)

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
            mask = (slots <= pos[:, :, None])[:, None]  # (B, 1, T, S): not is_causal, see forward
            rows = torch.arange(B, device=ids.device)[:, None]  # (B, 1)
        x = self.wte(ids)  # (B, T, C)
        for i, block in enumerate(self.h):
            if cache is not None:

                def write(k, v, ck=cache.k[i], cv=cache.v[i]):
                    ck[rows, :, pos] = k.transpose(1, 2)  # indexed rows come first: (B, T, nkv, hd)
                    cv[rows, :, pos] = v.transpose(1, 2)
                    return ck[:, :, :filled], cv[:, :, :filled]

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
