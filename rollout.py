"""How the data is made: the KV-cached sampler of two answers (or ten) to each problem.

    prefill x1 once a problem ─┬─ y1 ── p1 ─┬─ y2        K first attempts a problem,
                               ├─ y1 ── p1  ├─ y2        M second attempts that share one y1 and its cache
                               └─ …         └─ …         (siblings)

Turn 2 goes on in turn 1's cache: the problem and the first answer are neither computed nor
tokenised a second time. The dialogue is the concatenation of ids: prompt, *sampled* ids, instruction.

Rows have their own lengths (model.py: a token's slot is its position). A row whose answer has
ended is dropped from the batch, by compaction whenever a quarter of the rows has ended (on a GPU half of
them). EOS is the last token of an answer and belongs to it. An answer that reaches `max_new` without EOS is truncated:
`finished` is False for it, it is a failed answer, and the dialogue goes on behind it all the same.
"""

from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F

from model import KVCache


@dataclass
class Rollouts:
    """N = P·K·M dialogues, in the order problem, first attempt, sibling; padded on the right."""

    ids: torch.Tensor  # (N, T) prompt, answer 1, instruction, answer 2, …
    turn: torch.Tensor  # (N, T) i where the policy drew the token for answer i; 0 elsewhere
    logp: torch.Tensor  # (N, T) log π of that token as it was drawn; 0 elsewhere
    length: torch.Tensor  # (N,) tokens in the row
    start: torch.Tensor  # (N, turns) where answer i begins …
    stop: torch.Tensor  # (N, turns) … and the index behind its last token, EOS included
    finished: torch.Tensor  # (N, turns) whether answer i ended by EOS

    def answers(self, i: int) -> list[list[int]]:
        """The ids of every row's answer i = 1, 2, …, without EOS; cut answers as far as they got."""
        ends = (self.stop - self.finished.long())[:, i - 1].tolist()
        rows = zip(self.ids.tolist(), self.start[:, i - 1].tolist(), ends)
        return [row[a:b] for row, a, b in rows]


def pad(rows: list[list[int]], fill: int = 0, device=None) -> torch.Tensor:
    """Right-padded (N, longest) tensor of ids. What `fill` is does not matter: masks are lengths."""
    width = max(map(len, rows))
    return torch.tensor([list(row) + [fill] * (width - len(row)) for row in rows], device=device)


def choose(logits, temperature, generator):
    """The next token of each row and its log-probability; logits (N, V) -> (N,), (N,).

    Temperature 0 is greedy, and its log-probability that of temperature 1.
    """
    logp = torch.log_softmax(logits.float() / (temperature or 1.0), dim=-1)  # (N, V)
    if temperature == 0:
        token = logp.argmax(-1)
    elif logp.is_cuda:
        token = race(logp, generator)
    else:
        # By the inverse of the distribution function: one random number a row, where multinomial
        # draws one for each word of the vocabulary. Scaled to the last sum, which rounding may leave off 1.
        cdf = logp.double().exp().cumsum(-1)  # (N, V)
        u = torch.rand(len(cdf), 1, dtype=torch.double, device=cdf.device, generator=generator)
        token = torch.searchsorted(cdf, u * cdf[:, -1:], right=True)[:, 0].clamp(max=cdf.shape[1] - 1)
    return token, logp.gather(-1, token[:, None])[:, 0]


def race(logp, generator):
    """Words drawn by exponential clocks: each word's runs at the speed of its probability, and the first to ring is
    drawn. A random number a word, which a GPU has in no time, and no sum over the vocabulary, one word after the other."""
    clocks = torch.empty_like(logp).exponential_(generator=generator)  # (N, V)
    return (logp - clocks.log()).argmax(-1)  # (N,)


@torch.no_grad()  # not inference_mode: its tensors could not be used by autograd afterwards
def sample(
    model,
    prompts: list[list[int]],
    instruction: list[int],
    eos: int,
    *,
    K: int = 1,
    M: int = 1,
    turns: int = 2,
    max_new: int = 32,
    temperature: float = 1.0,
    vocab: int | None = None,
    given: list[list[int] | None] | None = None,
    generator: torch.Generator | None = None,
    batch: int = 0,
) -> Rollouts:
    """Draws K first attempts a problem, M second attempts for each, and one more a turn after that.

    prompts: P token lists. instruction: p1, put behind every answer but the last. max_new: the
    longest answer, EOS included. vocab: ids from here on are never drawn (padded embeddings).
    given: P·K first attempts to use instead of drawing them (EOS included), None where one is to
    be drawn. A given answer is part of the prompt: its `turn` is 0, and it gets no gradient.
    batch: dialogues at a time, which bounds the cache (all of a problem's are drawn together); 0: all.
    Raises ValueError for an empty prompt, and where a dialogue could outgrow the model's context.
    """
    P = max(1, batch // (K * M)) if batch else len(prompts)  # problems at a time
    if P < len(prompts):
        how = dict(K=K, M=M, turns=turns, max_new=max_new, temperature=temperature, vocab=vocab, generator=generator)
        parts = range(0, len(prompts), P)
        firsts = [given[i * K : (i + P) * K] if given else None for i in parts]
        return join([sample(model, prompts[i : i + P], instruction, eos, given=first, **how) for i, first in zip(parts, firsts)])
    device = model.wte.weight.device
    training = model.training
    model.eval()
    d = _prefill(model, prompts, slots=_slots(model, prompts, instruction, turns, max_new))
    d = _fan_out(d, K)
    for i in range(1, turns + 1):
        forced = None
        if i == 1 and given is not None:
            assert len(given) == len(prompts) * K, "one entry of `given` for each first attempt"
            assert max(len(g or []) for g in given) <= max_new, "a given answer outgrows max_new"
            forced = pad([(g or []) + [-1] * (max_new - len(g or [])) for g in given], device=device)
        if i == 2:
            d = _fan_out(d, M)
        if i > 1:
            _say(model, d, torch.tensor(instruction, device=device))
        _answer(model, d, i, max_new, eos, temperature, vocab, forced, generator)
    model.train(training)
    T = int(d.length.max())
    ids, turn, logp = (x[:, :T].contiguous() for x in (d.ids, d.turn, d.logp))
    return Rollouts(ids, turn, logp, d.length, *(torch.stack(x, 1) for x in (d.start, d.stop, d.finished)))


def join(parts: list[Rollouts]) -> Rollouts:
    """The dialogues of several calls of `sample` as one, in order."""
    T = max(part.ids.shape[1] for part in parts)

    def stack(name):  # (N, T), or (N, …) of what is no text
        columns = [getattr(part, name) for part in parts]
        wide = name in ("ids", "turn", "logp")
        return torch.cat([F.pad(x, (0, T - x.shape[1])) for x in columns] if wide else columns)

    return Rollouts(*(stack(f.name) for f in fields(Rollouts)))


def sample_pairs(model, prompts, instruction, eos, *, turns, K=1, given=None, **sampling) -> list[Rollouts]:
    """More than two turns of a model that knows dialogues of two: from the third on, an attempt is asked for
    in a dialogue that begins with the one before it, as if that were the first.

    Arguments as in `sample` (M = 1). Returns turns − 1 Rollouts of the same N dialogues, two turns each: answer 2
    of part j = 0, 1, … is attempt j + 2 (also in `turn`), and answer 1 is given from part 1 on.
    """
    parts = [sample(model, prompts, instruction, eos, K=K, given=given, **sampling)]
    each = [prompt for prompt in prompts for _ in range(K)]
    for i in range(3, turns + 1):
        before = [a + [eos] * done for a, done in zip(parts[-1].answers(2), parts[-1].finished[:, 1].tolist())]
        parts.append(sample(model, each, instruction, eos, given=before, **sampling))
        parts[-1].turn[parts[-1].turn == 2] = i
    return parts


def attempts(parts: list[Rollouts]) -> tuple[list[list[list[int]]], torch.Tensor]:
    """The answers of every turn, and whether they ended: (turns) lists of N, and (N, turns)."""
    first, *more = parts
    answers = [first.answers(i + 1) for i in range(first.start.shape[1])] + [part.answers(2) for part in more]
    return answers, torch.cat([first.finished] + [part.finished[:, 1:] for part in more], dim=1)


@dataclass
class _Dialogues:
    """Dialogues in the making: what Rollouts holds, the cache, and the logits of the next token."""

    cache: KVCache
    logits: torch.Tensor  # (N, V)
    ids: torch.Tensor  # (N, S), as are turn and logp
    turn: torch.Tensor
    logp: torch.Tensor
    length: torch.Tensor  # (N,)
    start: list[torch.Tensor]  # one (N,) a turn, as in stop and finished
    stop: list[torch.Tensor]
    finished: list[torch.Tensor]


def _slots(model, prompts, instruction, turns, max_new):
    if not all(prompts):
        raise ValueError(f"prompt {[bool(p) for p in prompts].index(False)} is empty")
    slots = max(map(len, prompts)) + turns * max_new + (turns - 1) * len(instruction)
    if slots > model.config.n_ctx:
        raise ValueError(
            f"a dialogue could take {slots} tokens (prompt {max(map(len, prompts))}, {turns} answers of "
            f"{max_new}), and the model's context is {model.config.n_ctx}: lower max_new or drop long problems"
        )
    return slots


def _prefill(model, prompts, slots):
    """Each problem once through the model."""
    device, P = model.wte.weight.device, len(prompts)
    length = torch.tensor([len(p) for p in prompts], device=device)
    x = pad(prompts, device=device)  # (P, T)
    cache = KVCache.empty(model, P, slots)
    pos = torch.arange(x.shape[1], device=device).expand(P, -1)
    h = model.hidden(x, pos, cache, filled=x.shape[1])  # (P, T, C)
    logits = model.lm_head(h[torch.arange(P, device=device), length - 1])  # (P, V)
    ids = torch.zeros(P, slots, dtype=torch.long, device=device)
    ids[:, : x.shape[1]] = x
    return _Dialogues(
        cache, logits, ids, torch.zeros_like(ids), torch.zeros_like(ids, dtype=torch.float), length, [], [], []
    )


def _fan_out(d, n):
    """Every row n times, next to each other; from here on each copy goes its own way."""
    if n == 1:
        return d
    at = torch.arange(len(d.ids), device=d.ids.device).repeat_interleave(n)
    tensors = (x[at] for x in (d.logits, d.ids, d.turn, d.logp, d.length))
    spans = ([x[at] for x in xs] for xs in (d.start, d.stop, d.finished))
    return _Dialogues(d.cache.rows(at), *tensors, *spans)


def _say(model, d, words):
    """Puts the instruction behind every row. The answer's last token goes in with it: it was drawn,
    and never fed. words (W,)"""
    last = d.ids.gather(1, d.length[:, None] - 1)  # (N, 1)
    x = torch.cat([last, words.expand(len(last), -1)], dim=1)  # (N, 1 + W)
    pos = d.length[:, None] - 1 + torch.arange(x.shape[1], device=x.device)  # (N, 1 + W)
    d.ids.scatter_(1, pos, x)
    d.length = d.length + len(words)
    d.logits = model.lm_head(model.hidden(x, pos, d.cache, filled=int(d.length.max()))[:, -1])  # (N, V)


# How many steps go by between two counts of the rows that go on, and the share of them at which the batch is made
# smaller: on a CPU that is worth more, and a count costs nothing.
COUNTED = {"cpu": (1, 0.75), "cuda": (16, 0.5)}
READ = 256  # slots by which a recorded step reads more of the cache


def _answer(model, d, i, max_new, eos, temperature, vocab, forced, generator):
    """Draws answer i of every row, token by token, until EOS or `max_new` tokens.

    A GPU works behind the program's back, and every number that the program wants to see makes it wait until all is
    done. So a step asks for none; every 16th (on a CPU each) asks how many rows still go on.
    """
    N, device = len(d.ids), d.ids.device
    every, few = COUNTED[device.type]
    d.start.append(d.length.clone())
    d.length, finished = d.length.clone(), torch.zeros(N, dtype=torch.bool, device=device)
    # `rows`: the dialogues still in the batch; `cache`, `logits` are theirs, d's are everybody's.
    rows, cache, logits = torch.arange(N, device=device), d.cache, d.logits
    decode, filled = _Decoder(model, cache), int(d.length.max())
    label = torch.full((N,), i, device=device)
    if forced is not None:
        label[forced[:, 0] >= 0] = 0  # given, not drawn: no gradient
    for t in range(max_new):
        token, logp = choose(logits[:, :vocab], temperature, generator)  # (n,), (n,)
        if forced is not None:
            token = torch.where(forced[rows, t] >= 0, forced[rows, t], token)
        going, at, own = ~finished[rows], d.length[rows], label[rows]  # (n,) each
        for kept, new in ((d.ids, token), (d.turn, own), (d.logp, torch.where(own > 0, logp, 0.0))):
            kept[rows, at] = torch.where(going, new, kept[rows, at])  # a row that has ended stays as it is
        d.length[rows] += going
        finished[rows] |= going & (token == eos)
        filled += 1
        if t == max_new - 1:
            break
        if (t + 1) % every == 0:
            left = int((~finished).sum())
            if left == 0:
                break
            if left <= few * len(rows):
                if cache is not d.cache:
                    d.cache.put_rows(rows, cache)  # the next turn goes on in everybody's cache
                token, rows = token[~finished[rows]], (~finished).nonzero()[:, 0]
                cache = d.cache.rows(rows)
                decode = _Decoder(model, cache)
            filled = int(d.length[rows].max())
        logits = decode(token, d.length[rows, None] - 1, filled)  # (n, V)
    if cache is not d.cache:
        d.cache.put_rows(rows, cache)
    d.stop.append(d.length.clone())
    d.finished.append(finished)


class _Decoder:
    """One step of decoding over one cache: token (n,), its position (n, 1), slots to read -> logits (n, V).

    On a CPU that is a call of the model. On a GPU the call takes longer than its work: Python starts some twenty small
    kernels a layer, one by one. A CUDA graph is a recording of what was started, which is started again as
    a whole. It always reads and writes the same places, so the arguments are copied to where they were
    when it was recorded, and it is recorded anew for another cache, and when the part of the cache
    that attention reads, in steps of READ slots, has been filled.
    """

    def __init__(self, model, cache):
        self.model, self.cache, self.reads, self.recording = model, cache, 0, cache.k.is_cuda

    def __call__(self, token, pos, filled):
        if not self.recording:
            return self._step(token, pos, filled)
        if filled > self.reads:
            self._record(token, pos, filled)
        self.token.copy_(token)
        self.pos.copy_(pos)
        self.graph.replay()
        return self.logits  # until the next step

    def _step(self, token, pos, filled):
        return self.model.lm_head(self.model.hidden(token[:, None], pos, self.cache, filled)[:, 0])

    def _record(self, token, pos, filled):
        self.reads = min(-(-filled // READ) * READ, self.cache.k.shape[3])
        self.token, self.pos, self.graph, self.logits = token.clone(), pos.clone(), None, None
        self._step(self.token, self.pos, self.reads)  # once for nothing: libraries set themselves up, which no recording can hold
        self.graph = torch.cuda.CUDAGraph()
        # other threads (NCCL's watchdog) may use the GPU meanwhile
        with torch.cuda.graph(self.graph, capture_error_mode="thread_local"):
            self.logits = self._step(self.token, self.pos, self.reads)
