"""The sampler against the plain forward pass, which knows no cache, and the promises of rollout.py's docstrings."""

import contextlib
from types import SimpleNamespace

import pytest
import torch

import rollout
from model import GPT, GPTConfig

STOP, INSTRUCTION = 3, [7, 8]
PROMPTS = [[1, 2, 4, 5, 6], [9, 1], [2, 2, 2, 9, 1, 4, 5], [6]]  # unequal lengths


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    shape = dict(n_layer=2, n_embd=16, n_head=4, n_kv_head=2, head_dim=8, n_ff=24, n_ctx=128)
    model = GPT(GPTConfig(vocab_size=14, n_tokens=11, **shape)).double()  # the last three ids cannot be drawn
    for p in model.parameters():  # far from uniform, so that an error shows
        torch.nn.init.normal_(p, std=0.3)
    return model


def task_of(**changes):
    """What `sample` needs to know of a data.Task."""
    return SimpleNamespace(**{"instruction": INSTRUCTION, "stops": [STOP], "close": [], "max_new": 6, **changes})


def draw(model, task=None, prompts=PROMPTS, **settings):
    generator = torch.Generator().manual_seed(0)
    return rollout.sample(model, task or task_of(), prompts, **{"K": 3, "generator": generator, **settings})


@torch.no_grad()
def check_against_full_pass(model, r, temperature=1.0):
    """Compare the log-probability of every sampled token with that of its row alone, from scratch, without a cache."""
    for n in range(len(r.ids)):
        ids = r.ids[n, : r.length[n]]
        logits = model(ids[None])[0] / temperature  # (T, V)
        logp = torch.log_softmax(logits, -1)[:-1].gather(-1, ids[1:, None])[:, 0]
        sampled = r.turn[n, 1 : r.length[n]] > 0
        torch.testing.assert_close(r.logp[n, 1 : r.length[n]][sampled], logp[sampled].float(), rtol=0, atol=1e-6)


@torch.no_grad()
def greedy_row(model, task, prompt, turns):
    """Return a greedy dialogue by argmax over uncached passes, one token at a time."""
    ids, finished = list(prompt), True
    for i in range(turns):
        if i > 0:
            ids += ([] if finished else task.close) + task.instruction
        for _ in range(task.max_new):
            ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
            finished = ids[-1] in task.stops
            if finished:
                break
    return ids


def row(r, n):
    return r.ids[n, : r.length[n]].tolist()


# ------------------------------------------------------------------ the cache


@pytest.mark.parametrize("K, M, turns", [(1, 1, 1), (3, 1, 2), (2, 3, 2), (1, 1, 10), (2, 2, 3)])
def test_cached_log_probabilities_equal_a_full_pass(model, K, M, turns):
    """Bugs: is_causal on a filled cache, positions of unequal rows, a token lost between turns, mixed siblings, ids
    that only pad the embedding."""
    check_against_full_pass(model, draw(model, K=K, M=M, turns=turns))
    check_against_full_pass(model, draw(model, K=K, M=M, turns=turns, temperature=0.5), temperature=0.5)


def test_greedy_answers_equal_those_of_uncached_passes(model):
    """Bug: log-probabilities that agree with a wrong context, for example without the instruction or `close`."""
    task = task_of(stops=[STOP, 4], close=[10, 9, 10], max_new=3)
    r = draw(model, task, K=1, turns=10, temperature=0.0)
    assert r.finished.any() and not r.finished.all()
    for n, prompt in enumerate(PROMPTS):
        assert row(r, n) == greedy_row(model, task, prompt, 10)


def test_sampling_in_parts_changes_nothing_but_the_cache(model, monkeypatch):
    """Bugs: parts joined in another order or cut at another width; `batch` that counts problems, not dialogues."""
    rows, hidden = [], GPT.hidden
    whole = draw(model, K=2, M=2, temperature=0.0)
    monkeypatch.setattr(GPT, "hidden", lambda self, ids, *a, **k: rows.append(len(ids)) or hidden(self, ids, *a, **k))
    parts = draw(model, K=2, M=2, temperature=0.0, batch=8)
    assert max(rows) == 8  # two problems at a time
    assert [row(parts, n) for n in range(16)] == [row(whole, n) for n in range(16)]
    assert parts.answers(2) == whole.answers(2)


# ------------------------------------------------------------------ the dialogue


def test_mask_marks_answers_with_their_stop_id_and_nothing_else(model):
    """Bugs: a mask that is shifted by one, that leaves the stop id out, or that contains the instruction; only the
    first of several stop ids ends an answer, or replaces the sampled one; `close` after a finished answer."""
    stops, lasts = [STOP, 5], set()
    r = draw(model, task_of(stops=stops, close=[10, 4, 10]), K=4, M=2)
    assert not r.finished[:, 0].all(), "there should be truncated answers"
    check_against_full_pass(model, r)
    for n, ids in enumerate(r.ids.tolist()):
        prompt, between = PROMPTS[n // 8], INSTRUCTION if r.finished[n, 0] else [10, 4, 10] + INSTRUCTION
        first, second = (ids[r.start[n, i] : r.stop[n, i]] for i in (0, 1))
        for answer, finished in zip((first, second), r.finished[n]):
            assert not set(stops) & set(answer[:-1])
            assert answer[-1] in stops if finished else len(answer) == 6
            lasts.add(answer[-1])
        assert row(r, n) == prompt + first + between + second
        turn = [0] * len(prompt) + [1] * len(first) + [0] * len(between) + [2] * len(second)
        assert r.turn[n].tolist() == turn + [0] * (r.ids.shape[1] - len(turn))
        assert r.answers(1)[n] == [t for t in first if t not in stops] and r.answers(1, with_stop=True)[n] == first
    assert lasts > set(stops)


def test_siblings_share_the_first_answer_only(model):
    """Bugs: second answers that continue another sibling's first; siblings that are copies of each other."""
    r = draw(model, K=2, M=16)
    first = r.answers(1)
    groups = [range(g, g + 16) for g in range(0, len(first), 16)]
    assert all(len({tuple(first[n]) for n in group}) == 1 for group in groups)
    assert any(len({int(r.ids[n, r.start[n, 1]]) for n in group}) > 1 for group in groups)


def test_given_answers_are_part_of_the_prompt_and_get_no_gradient(model):
    """Bugs: a given answer is trained on; its neighbour, which is sampled, is not."""
    given = [[4, 5, STOP], None, [5] * 6, None]
    r = draw(model, K=1, given=given)
    assert r.answers(1)[0] == [4, 5] and r.answers(1)[2] == [5] * 6
    assert r.finished[0, 0] and not r.finished[2, 0]
    assert [bool((turn == 1).any()) for turn in r.turn] == [False, True, False, True]
    assert (r.turn == 2).any(1).all() and (r.logp[r.turn == 0] == 0).all()
    check_against_full_pass(model, r)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_sampled_tokens_follow_the_distribution(temperature):
    """Bugs: the temperature applied twice or not at all; another token's log-probability; the GPU's exponential race,
    which runs on a CPU here, prefers some token."""
    logits, n = torch.tensor([1.0, -1.0, 0.5, -torch.inf, 2.0]), 50_000
    exact, generator = torch.softmax(logits / temperature, -1), torch.Generator().manual_seed(1)
    token, logp = rollout.choose(logits.expand(n, -1), temperature, generator)
    torch.testing.assert_close(logp, exact.log()[token])
    for sampled in (token, rollout.exponential_race(exact.log().expand(n, -1), generator)):
        share = torch.bincount(sampled, minlength=5) / n
        assert ((share - exact).abs() < 5 * (exact * (1 - exact) / n).sqrt() + 1e-9).all()  # 5 sigma


# ------------------------------------------------------------------ fewer rows, fewer host syncs


@pytest.mark.parametrize("every, share", [(1, 0.75), (5, 0.5)])
def test_compaction_changes_nothing(model, monkeypatch, every, share):
    """Bugs: rows that leave the batch take another row's cache or logits along; finished rows that are counted late
    write on. The second pair of settings counts as seldom as a GPU does."""
    monkeypatch.setattr(rollout, "ON_CPU", (every, share))
    task = task_of(max_new=12)
    r = draw(model, task, PROMPTS * 4, K=2)
    assert 0 < r.finished.sum() < r.finished.numel()
    check_against_full_pass(model, r)
    many = draw(model, task, PROMPTS * 4, K=1, temperature=0.0)
    assert len(set(many.length.tolist())) > 2
    alone = [greedy_row(model, task, prompt, 2) for prompt in PROMPTS]
    assert [row(many, n) for n in range(16)] == alone * 4


def test_finished_rows_leave_the_batch(model, monkeypatch):
    """Bug: the model computes finished rows until the last row ends. Token-steps are counted, not seconds."""
    fed, hidden = [], GPT.hidden
    monkeypatch.setattr(GPT, "hidden", lambda self, ids, *a, **k: fed.append(ids.shape) or hidden(self, ids, *a, **k))
    r = draw(model, task_of(max_new=20), K=32)
    decoded, used = sum(b for b, t in fed if t == 1), int((r.turn > 0).sum())
    assert decoded < 1.35 * used, (decoded, used)


class FakeGraph:
    """torch.cuda.CUDAGraph without a GPU: a replay repeats the step, at the same addresses."""

    def replay(self):
        d = self.decoder
        d.logits.copy_(d._step(d.token, d.pos, d.reads))


def test_recorded_steps_equal_a_full_pass(model, monkeypatch):
    """Bugs: a CUDA graph that replays old tokens or positions, reads too few slots, or belongs to another cache."""
    record, reads = rollout._Decoder._record, []

    def record_and_note(self, token, pos, filled):
        record(self, token, pos, filled)
        self.graph.decoder = self
        reads.append((self.reads, filled))

    always = property(lambda self: True, lambda self, value: None)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", FakeGraph)
    monkeypatch.setattr(torch.cuda, "graph", lambda *_, **__: contextlib.nullcontext())
    monkeypatch.setattr(rollout, "ON_CPU", (4, 0.5))
    monkeypatch.setattr(rollout, "READ", 16)
    monkeypatch.setattr(rollout._Decoder, "recording", always, raising=False)
    monkeypatch.setattr(rollout._Decoder, "_record", record_and_note)
    check_against_full_pass(model, draw(model, task_of(max_new=24), PROMPTS * 4, K=2))
    assert len(reads) > 4 and all(n >= filled for n, filled in reads)


def test_bad_input_is_named(model):
    """Bug: an empty prompt, a dialogue or a given answer that is too long fails inside a tensor operation."""
    with pytest.raises(ValueError, match="prompt 1 is empty"):
        draw(model, prompts=[[1], []])
    with pytest.raises(ValueError, match="could take 205 tokens .* context is 128"):
        draw(model, task_of(max_new=100, close=[9, 9]), prompts=[[1]])
    with pytest.raises(ValueError, match="a given first answer has 7 tokens, and max_new is 6: raise max_new"):
        draw(model, K=1, prompts=[[1], [2]], given=[None, [5] * 6 + [STOP]])
