"""The sampler: two answers (or more) to each problem, with a KV cache.

    prefill x1 once per problem ─┬─ y1 ── p1 ─┬─ y2        K first attempts per problem,
                                 ├─ y1 ── p1  ├─ y2        M second attempts per first attempt (siblings),
                                 └─ …         └─ …         which share that attempt's cache

Turn 2 continues in turn 1's cache: the problem and the first answer are neither computed nor tokenized again.
A dialogue is a concatenation of ids: prompt, *sampled* ids, instruction, sampled ids.

Rows have different lengths. A token's cache slot is its position (see model.py), so no padding mask is needed.
An answer ends with a stop id, which belongs to the answer. An answer that reaches `max_new` tokens without one is
truncated: `finished` is False, the verifier's caller counts it as wrong, and the dialogue continues after it.
Rows that have ended leave the batch (compaction) when a quarter of the rows has ended; on a GPU, half of them.
"""

from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F

from model import KVCache


@dataclass
class Rollouts:
    """N = P·K·M dialogues, in the order problem, first attempt, sibling; padded on the right."""

    ids: torch.Tensor  # (N, T) prompt, answer 1, instruction, answer 2, …
    turn: torch.Tensor  # (N, T) i for a token that the policy sampled for answer i; else 0
    logp: torch.Tensor  # (N, T) log π of that token when it was sampled; else 0
    length: torch.Tensor  # (N,) tokens in the row
    start: torch.Tensor  # (N, turns) index of the first token of answer i
    stop: torch.Tensor  # (N, turns) index after its last token
    finished: torch.Tensor  # (N, turns) whether answer i ended with a stop id

    def answers(self, i: int, with_stop: bool = False) -> list[list[int]]:
        """Return the ids of every row's answer i = 1, 2, …, with or without the stop id."""
        ends = self.stop[:, i - 1]
        if not with_stop:
            ends = ends - self.finished[:, i - 1].long()
        rows = zip(self.ids.tolist(), self.start[:, i - 1].tolist(), ends.tolist())
        return [row[start:end] for row, start, end in rows]


def pad(rows: list[list[int]], fill: int = 0, device=None) -> torch.Tensor:
    """Return the rows as one (N, longest) tensor, padded on the right. Masks come from lengths, never from `fill`."""
    width = max(map(len, rows))
    return torch.tensor([list(row) + [fill] * (width - len(row)) for row in rows], device=device)


# ------------------------------------------------------------------ one token


def choose(logits, temperature, generator):
    """Sample the next token of each row: logits (N, V) -> token (N,), its log-probability (N,).

    Temperature 0 is greedy; the log-probability is then that of temperature 1.
    """
    logp = torch.log_softmax(logits.float() / (temperature or 1.0), dim=-1)  # (N, V)
    if temperature == 0:
        token = logp.argmax(-1)
    elif logp.device.type != "cpu":
        token = exponential_race(logp, generator)
    else:
        # Inverse transform sampling: one random number per row; torch.multinomial draws one per vocabulary entry.
        # Scaling by the last sum corrects its rounding error.
        cdf = logp.double().exp().cumsum(-1)  # (N, V)
        u = torch.rand(len(cdf), 1, dtype=torch.double, device=cdf.device, generator=generator)
        token = torch.searchsorted(cdf, u * cdf[:, -1:], right=True)[:, 0].clamp(max=cdf.shape[1] - 1)
    return token, logp.gather(-1, token[:, None])[:, 0]


def exponential_race(logp, generator):
    """Sample by an exponential race (equivalent to Gumbel-max): argmax p_i / E_i with E_i ~ Exp(1). (N, V) -> (N,)

    A GPU draws V random numbers in parallel faster than it computes a cumulative sum.
    """
    E = torch.empty_like(logp).exponential_(generator=generator)  # (N, V)
    return (logp - E.log()).argmax(-1)  # (N,)


# ------------------------------------------------------------------ whole dialogues


@torch.no_grad()  # not inference_mode: autograd could not use its tensors later
def sample(model, task, prompts, *, K=1, M=1, turns=2, temperature=1.0, given=None, generator=None, batch=0) -> Rollouts:
    """Sample K first attempts per problem, M second attempts per first attempt, then one per further turn.

    task: has `instruction` (p1), `stops` (ids that end an answer), `close` (ids put after a truncated answer) and
    `max_new` (longest answer in tokens), as data.Task does.
    prompts: P lists of ids.
    given: P·K first attempts to use instead of sampling them (stop id included); None for one to be sampled.
    A given answer is part of the prompt: its `turn` is 0, and it gets no gradient.
    batch: dialogues sampled at a time, which bounds the cache; 0: all.
    Raises ValueError for an empty prompt, and if a dialogue could exceed the model's context.
    """
    check_lengths(model, task, prompts, turns)
    at_once = max(1, batch // (K * M)) if batch else len(prompts)  # problems
    parts = []
    for first in range(0, len(prompts), at_once):
        some = prompts[first : first + at_once]
        firsts = given[first * K : (first + at_once) * K] if given else None
        parts.append(_sample(model, task, some, (K, M, turns), temperature, firsts, generator))
    return join(parts)


def check_lengths(model, task, prompts, turns) -> None:
    """Raise ValueError for an empty prompt, and for a dialogue that might not fit the model's context."""
    if not all(prompts):
        raise ValueError(f"prompt {[bool(p) for p in prompts].index(False)} is empty")
    longest, slots = max(map(len, prompts)), dialogue_slots(task, prompts, turns)
    if slots > model.config.n_ctx:
        raise ValueError(
            f"a dialogue could take {slots} tokens (prompt {longest}, {turns} answers of {task.max_new}), "
            f"and the model's context is {model.config.n_ctx}: lower max_new or drop long problems"
        )


def dialogue_slots(task, prompts, turns) -> int:
    """Return the tokens of the longest dialogue that the longest of these prompts can lead to."""
    between = len(task.close) + len(task.instruction)
    return max(map(len, prompts)) + turns * task.max_new + (turns - 1) * between


def join(parts: list[Rollouts]) -> Rollouts:
    """Concatenate the dialogues of several calls, in order, padded to one width."""
    if len(parts) == 1:
        return parts[0]
    T = max(part.ids.shape[1] for part in parts)
    joined = {}
    for f in fields(Rollouts):
        columns = [getattr(part, f.name) for part in parts]
        if f.name in ("ids", "turn", "logp"):
            columns = [F.pad(x, (0, T - x.shape[1])) for x in columns]  # (n, T)
        joined[f.name] = torch.cat(columns)
    return Rollouts(**joined)


def _sample(model, task, prompts, shape, temperature, given, generator) -> Rollouts:
    K, M, turns = shape
    training = model.training
    model.eval()
    d = _prefill(model, prompts, slots=dialogue_slots(task, prompts, turns))
    d = _repeat(d, K)
    for i in range(1, turns + 1):
        if i == 2:
            d = _repeat(d, M)
        if i > 1:
            _append_instruction(model, task, d)
        forced = None
        if i == 1 and given is not None:
            forced = _forced(given, len(d.ids), task.max_new, d.ids.device)  # (N, max_new)
        _answer(model, task, d, i, temperature, forced, generator)
    model.train(training)
    T = int(d.length.max())
    ids, turn, logp = (x[:, :T].contiguous() for x in (d.ids, d.turn, d.logp))
    return Rollouts(ids, turn, logp, d.length, *(torch.stack(x, 1) for x in (d.start, d.stop, d.finished)))


@dataclass
class _Dialogues:
    """Dialogues under construction: the fields of Rollouts, the cache, and the logits of the next token."""

    cache: KVCache
    logits: torch.Tensor  # (N, V)
    ids: torch.Tensor  # (N, S), as are turn and logp
    turn: torch.Tensor
    logp: torch.Tensor
    length: torch.Tensor  # (N,)
    start: list[torch.Tensor]  # one (N,) per turn, as are stop and finished
    stop: list[torch.Tensor]
    finished: list[torch.Tensor]


def _prefill(model, prompts, slots) -> _Dialogues:
    """Run each problem through the model once and fill the cache."""
    device, P = model.wte.weight.device, len(prompts)
    length = torch.tensor([len(p) for p in prompts], device=device)
    x = pad(prompts, device=device)  # (P, T)
    cache = KVCache.empty(model, P, slots)
    pos = torch.arange(x.shape[1], device=device).expand(P, -1)
    h = model.hidden(x, pos, cache, filled=x.shape[1])  # (P, T, C)
    logits = model.logits(h[torch.arange(P, device=device), length - 1])  # (P, V)
    ids = torch.zeros(P, slots, dtype=torch.long, device=device)
    ids[:, : x.shape[1]] = x
    turn, logp = torch.zeros_like(ids), torch.zeros_like(ids, dtype=torch.float)
    return _Dialogues(cache, logits, ids, turn, logp, length, [], [], [])


def _repeat(d: _Dialogues, n: int) -> _Dialogues:
    """Copy every row n times, next to each other. The copies diverge from here on."""
    if n == 1:
        return d
    at = torch.arange(len(d.ids), device=d.ids.device).repeat_interleave(n)
    tensors = [x[at] for x in (d.logits, d.ids, d.turn, d.logp, d.length)]
    spans = [[x[at] for x in turns] for turns in (d.start, d.stop, d.finished)]
    return _Dialogues(d.cache.rows(at), *tensors, *spans)


def _forced(given, N, max_new, device) -> torch.Tensor:
    """Return the given first answers as (N, max_new) ids; −1 where the policy samples."""
    assert len(given) == N, "one entry of `given` per first attempt"
    longest = max(len(answer or []) for answer in given)
    if longest > max_new:
        raise ValueError(f"a given first answer has {longest} tokens, and max_new is {max_new}: raise max_new")
    return pad([(answer or []) + [-1] * (max_new - len(answer or [])) for answer in given], device=device)


def _append_instruction(model, task, d) -> None:
    """Append the instruction to every row; after a truncated answer, `task.close` first.

    The answer's last token goes through the model as well: it was sampled and never fed.
    """
    device = d.ids.device
    # The cache holds x1 and y1 up to its last token: only that token and the instruction are computed here.
    last = d.ids.gather(1, d.length[:, None] - 1)  # (N, 1)
    plain, closed = (torch.tensor(x, device=device) for x in (task.instruction, task.close + task.instruction))
    W = len(closed)  # rows that ended by themselves have len(plain) ids; right padding fills the rest
    words = torch.where(d.finished[-1][:, None], F.pad(plain, (0, W - len(plain))), closed)  # (N, W)
    count = torch.where(d.finished[-1], len(plain), W)  # (N,)
    x = torch.cat([last, words], dim=1)  # (N, 1 + W)
    pos = d.length[:, None] - 1 + torch.arange(1 + W, device=device)  # (N, 1 + W)
    d.ids.scatter_(1, pos, x)
    h = model.hidden(x, pos, d.cache, filled=int(d.length.max()) + W)  # (N, 1 + W, C)
    d.logits = model.logits(h[torch.arange(len(x), device=device), count])  # (N, V)
    d.length = d.length + count


# Decode steps between two counts of unfinished rows, and the share of unfinished rows at which the batch is compacted.
# CUDA is asynchronous: reading a value on the host forces a sync. On a CPU a count is free and compaction saves more.
ON_CPU, ON_GPU = (1, 0.75), (16, 0.5)


def _answer(model, task, d, i, temperature, forced, generator) -> None:
    """Sample answer i of every row, token by token, until a stop id or `max_new` tokens."""
    N, device = len(d.ids), d.ids.device
    every, share = ON_CPU if device.type == "cpu" else ON_GPU
    stops = torch.tensor(task.stops, device=device)
    d.start.append(d.length.clone())
    d.length, finished = d.length.clone(), torch.zeros(N, dtype=torch.bool, device=device)
    # `rows`: the dialogues still in the batch. `cache` and `logits` hold only these rows; `d.cache` holds all rows.
    rows, cache, logits = torch.arange(N, device=device), d.cache, d.logits
    decode, filled = _Decoder(model, cache), int(d.length.max())
    label = torch.full((N,), i, device=device)
    if forced is not None:
        label[forced[:, 0] >= 0] = 0  # given, not sampled: no gradient
    for t in range(task.max_new):
        token, logp = choose(logits, temperature, generator)  # (n,), (n,)
        if forced is not None:
            token = torch.where(forced[rows, t] >= 0, forced[rows, t], token)
        _write_token(d, rows, finished, token, logp, label)
        finished[rows] |= (token[:, None] == stops).any(1)
        filled += 1
        if t == task.max_new - 1:
            break
        if (t + 1) % every == 0:
            unfinished = int((~finished).sum())
            if unfinished == 0:
                break
            if unfinished <= share * len(rows):
                if cache is not d.cache:
                    d.cache.put_rows(rows, cache)  # the next turn continues in the full cache
                token, rows = token[~finished[rows]], (~finished).nonzero()[:, 0]
                cache = d.cache.rows(rows)
                decode = _Decoder(model, cache)
            filled = int(d.length[rows].max())
        logits = decode(token, d.length[rows, None] - 1, filled)  # (n, V)
    if cache is not d.cache:
        d.cache.put_rows(rows, cache)
    d.stop.append(d.length.clone())
    d.finished.append(finished)


def _write_token(d, rows, finished, token, logp, label) -> None:
    """Write the sampled token (n,) to the end of each unfinished row; finished rows stay as they are."""
    active, at, turn = ~finished[rows], d.length[rows], label[rows]  # (n,) each
    logp = torch.where(turn > 0, logp, 0.0)
    for column, new in ((d.ids, token), (d.turn, turn), (d.logp, logp)):
        column[rows, at] = torch.where(active, new, column[rows, at])
    d.length[rows] += active


# ------------------------------------------------------------------ one decode step

READ = 256  # the slots that a recorded step reads are rounded up to a multiple of this


class _Decoder:
    """One decode step over one cache: token (n,), its position (n, 1), slots to read -> logits (n, V).

    On a CPU this is a call of the model. On a GPU, launching about twenty small kernels per layer from Python takes longer
    than running them, so the step is recorded as a CUDA graph and replayed. A graph reads and writes fixed
    addresses: arguments are copied to the recorded ones, and the step is recorded again if the cache changes, or if
    attention must read more slots than it recorded.
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
        return self.logits  # valid until the next step

    def _step(self, token, pos, filled):
        h = self.model.hidden(token[:, None], pos, self.cache, filled)  # (n, 1, C)
        return self.model.logits(h[:, 0])

    def _record(self, token, pos, filled):
        self.reads = min(-(-filled // READ) * READ, self.cache.k.shape[3])
        self.token, self.pos, self.graph, self.logits = token.clone(), pos.clone(), None, None
        self._step(self.token, self.pos, self.reads)  # warm-up: libraries initialize here, which a graph cannot record
        self.graph = torch.cuda.CUDAGraph()
        # thread_local: other threads, such as NCCL's watchdog, may use the GPU during capture
        with torch.cuda.graph(self.graph, capture_error_mode="thread_local"):
            self.logits = self._step(self.token, self.pos, self.reads)
