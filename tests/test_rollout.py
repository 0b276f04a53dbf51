"""The sampler against the plain forward pass, and the promises of its docstring."""

import pytest
import torch

import rollout
from model import GPT, GPTConfig, KVCache

EOS, INSTRUCTION = 3, [7, 8]
PROMPTS = [[1, 2, 4, 5, 6], [9, 1], [2, 2, 2, 9, 1, 4, 5], [6]]  # unequal lengths


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = GPTConfig(vocab_size=11, n_layer=2, n_embd=16, n_head=4, n_kv_head=2, head_dim=8, n_ff=24, n_ctx=128)
    model = GPT(config).double()
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return model


def draw(model, **kw):
    settings = dict(K=3, M=1, turns=2, max_new=6, generator=torch.Generator().manual_seed(kw.pop("seed", 0)))
    return rollout.sample(model, PROMPTS, INSTRUCTION, EOS, **{**settings, **kw})


def check_against_full_pass(model, r, temperature=1.0):
    """Every row alone, from scratch, without a cache: the same log-probabilities at every drawn token."""
    for n in range(len(r.ids)):
        ids = r.ids[n, : r.length[n]]
        logits = model(ids[None])[0] / temperature  # (T, V)
        logp = torch.log_softmax(logits, -1)[:-1].gather(-1, ids[1:, None])[:, 0]
        drawn = r.turn[n, 1 : r.length[n]] > 0
        torch.testing.assert_close(r.logp[n, 1 : r.length[n]][drawn], logp[drawn].float(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("K, M, turns", [(1, 1, 1), (3, 1, 2), (2, 3, 2), (1, 1, 10), (2, 2, 3)])
def test_cache_equals_full_pass(model, K, M, turns):
    """Guards: is_causal on a filled cache, positions of unequal rows, the turn boundary, siblings, ten turns."""
    with torch.no_grad():
        check_against_full_pass(model, draw(model, K=K, M=M, turns=turns))
        check_against_full_pass(model, draw(model, K=K, M=M, turns=turns, temperature=0.5), temperature=0.5)


@pytest.mark.parametrize("turns", [2, 10])
def test_greedy_equals_full_pass(model, turns):
    """Greedy ids by argmax over uncached passes, one token at a time."""
    r = draw(model, K=1, turns=turns, temperature=0.0, max_new=4)
    for n, prompt in enumerate(PROMPTS):
        ids = list(prompt)
        for i in range(turns):
            ids += INSTRUCTION if i else []
            for _ in range(4):
                with torch.no_grad():
                    ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
                if ids[-1] == EOS:
                    break
        assert r.ids[n, : r.length[n]].tolist() == ids


def test_mask_has_three_values_and_owns_eos(model):
    """turn is 0 on prompt, instruction and padding, i from an answer's first token to its EOS, which is in."""
    r = draw(model, K=8)
    assert r.finished.any() and not r.finished.all(), "the fixture should have both ended and cut answers"
    for n, row in enumerate(r.ids.tolist()):
        prompt = PROMPTS[n // 8]
        expected, at = [0] * len(prompt), len(prompt)
        for i in (1, 2):
            answer = row[r.start[n, i - 1] : r.stop[n, i - 1]]
            assert r.start[n, i - 1] == at + (len(INSTRUCTION) if i == 2 else 0)
            assert (EOS in answer) == bool(r.finished[n, i - 1]) and EOS not in answer[:-1]
            assert len(answer) == 6 or r.finished[n, i - 1]
            expected += [0] * (len(INSTRUCTION) if i == 2 else 0) + [i] * len(answer)
            at = r.stop[n, i - 1]
        expected += [0] * (r.ids.shape[1] - len(expected))
        assert r.turn[n].tolist() == expected
        assert row[: len(prompt)] == prompt and row[r.stop[n, 0] : r.start[n, 1]] == INSTRUCTION
        assert r.answers(1)[n] == [t for t in row[r.start[n, 0] : r.stop[n, 0]] if t != EOS]


def test_siblings_share_the_first_answer_only(model):
    """M second attempts follow one first attempt, and do not share their own first token by construction."""
    r = draw(model, K=2, M=16)
    first = r.answers(1)
    groups = [range(g, g + 16) for g in range(0, len(first), 16)]
    assert all(len({tuple(first[n]) for n in g}) == 1 for g in groups)
    assert any(len({int(r.ids[n, r.start[n, 1]]) for n in g}) > 1 for g in groups)


def test_sampling_follows_the_distribution(model):
    """The inverse-CDF draw against the exact probabilities, at two temperatures; 20,000 draws, 5 sigma."""
    with torch.no_grad():
        logits = model(torch.tensor([PROMPTS[0]]))[:, -1]  # (1, V)
    for temperature in (1.0, 0.6):
        generator = torch.Generator().manual_seed(1)
        token, logp = rollout.choose(logits.expand(20000, -1), temperature, generator)
        exact = torch.softmax(logits[0] / temperature, -1)
        seen = torch.bincount(token, minlength=11) / 20000
        sigma = (exact * (1 - exact) / 20000).sqrt()
        assert ((seen - exact).abs() < 5 * sigma + 1e-9).all()
        torch.testing.assert_close(logp, exact.log()[token].float())


def test_race_follows_the_distribution():
    """The draw of the GPU, on the CPU: 50,000 of them, 5 sigma."""
    exact = torch.tensor([0.5, 0.3, 0.15, 0.05, 0.0])
    token = rollout.race(exact.log().expand(50000, -1), torch.Generator().manual_seed(0))
    seen = torch.bincount(token, minlength=5) / 50000
    assert ((seen - exact).abs() < 5 * (exact * (1 - exact) / 50000).sqrt() + 1e-9).all()


def test_words_beyond_the_vocabulary_are_never_drawn(model):
    """Padded embeddings: ids from `vocab` on exist in the matrix and in no tokenizer."""
    assert draw(model, K=8, vocab=11).ids.max() > 6
    r = draw(model, K=8, vocab=6)
    assert r.ids[r.turn > 0].max() < 6


def test_given_answers_are_prompt_and_get_no_gradient(model):
    given = [[4, 5, EOS], None, [5] * 6, None]
    r = draw(model, K=1, given=given)
    answers = r.answers(1)
    assert answers[0] == [4, 5] and answers[2] == [5] * 6
    assert r.finished[0, 0] and not r.finished[2, 0]
    for n in (0, 2):
        assert not (r.turn[n] == 1).any() and (r.turn[n] == 2).any()
        assert (r.logp[n][r.turn[n] == 0] == 0).all()
    for n in (1, 3):
        assert (r.turn[n] == 1).any()
    with torch.no_grad():
        check_against_full_pass(model, r)


def test_dropping_finished_rows_changes_nothing(model, monkeypatch):
    """Greedy answers of a row in a batch of many, whose rows end at different times, and of the row alone."""
    many = rollout.sample(model, PROMPTS * 4, INSTRUCTION, EOS, max_new=12, temperature=0.0)
    for n, prompt in enumerate(PROMPTS):
        alone = rollout.sample(model, [prompt], INSTRUCTION, EOS, max_new=12, temperature=0.0)
        assert many.ids[n, : many.length[n]].tolist() == alone.ids[0, : alone.length[0]].tolist()


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_rows_counted_seldom(model, monkeypatch, temperature):
    """As on a GPU: rows that ended some steps ago stay in the batch, and attention reads more than is filled."""
    monkeypatch.setitem(rollout.COUNTED, "cpu", (5, 0.5))
    r = rollout.sample(model, PROMPTS * 4, INSTRUCTION, EOS, K=2, max_new=12, temperature=temperature)
    assert 0 < r.finished.sum() < r.finished.numel()
    with torch.no_grad():
        check_against_full_pass(model, r)
    for n, prompt in enumerate(PROMPTS * 4 if temperature == 0 else []):
        alone = rollout.sample(model, [prompt], INSTRUCTION, EOS, max_new=12, temperature=0.0)
        assert r.ids[2 * n, : r.length[2 * n]].tolist() == alone.ids[0, : alone.length[0]].tolist()
        assert torch.equal(r.turn[2 * n, : r.length[2 * n]], alone.turn[0, : alone.length[0]])


class FakeCuda:
    """torch.cuda for a machine without: a graph that is replayed does again what was recorded, where it was recorded."""

    recorded = []

    def __init__(self, *_, **__):
        FakeCuda.recorded.append(self)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def replay(self):
        d = self.decoder
        d.logits.copy_(d._step(d.token, d.pos, d.reads))


def test_recorded_steps(model, monkeypatch):
    """The bookkeeping of recorded steps, without a GPU: new tokens and positions reach the recording, attention reads
    enough, and another cache has another recording."""
    for name in ("CUDAGraph", "graph"):
        monkeypatch.setattr(torch.cuda, name, FakeCuda)
    monkeypatch.setitem(rollout.COUNTED, "cpu", (4, 0.5))
    init, record, reads = rollout._Decoder.__init__, rollout._Decoder._record, []

    def recorded(self, *args):
        record(self, *args)
        self.graph.decoder = self
        reads.append((self.reads, args[2]))

    monkeypatch.setattr(rollout._Decoder, "_record", recorded)
    monkeypatch.setattr(rollout._Decoder, "__init__", lambda self, *args: init(self, *args) or setattr(self, "recording", True))
    monkeypatch.setattr(rollout, "READ", 16)
    r = rollout.sample(model, PROMPTS * 4, INSTRUCTION, EOS, K=2, max_new=24, temperature=1.0)
    with torch.no_grad():
        check_against_full_pass(model, r)
    assert len(reads) > 4 and all(n >= filled for n, filled in reads)


def test_finished_rows_leave_the_batch(model, monkeypatch):
    """Work, counted: the token-steps that reach the model stay below rows x steps once rows have ended."""
    fed, hidden = [], GPT.hidden
    monkeypatch.setattr(GPT, "hidden", lambda self, ids, *a, **k: fed.append(ids.shape) or hidden(self, ids, *a, **k))
    r = draw(model, K=64, max_new=20)
    decoded = sum(b for b, t in fed if t == 1)
    used = int((r.turn > 0).sum())
    assert decoded < 1.35 * used, (decoded, used)


def test_bad_input_is_named(model):
    with pytest.raises(ValueError, match="prompt 1 is empty"):
        rollout.sample(model, [[1], []], INSTRUCTION, EOS)
    with pytest.raises(ValueError, match="context is 128"):
        rollout.sample(model, [[1]], INSTRUCTION, EOS, max_new=100)


def test_padding_is_invisible(model):
    """model.py's promise: what stands right of a row's end changes nothing in it."""
    ids = torch.tensor([[1, 2, 3, 4, 0, 0], [5, 6, 7, 8, 9, 10]])
    other = ids.clone()
    other[0, 4:] = 9
    torch.testing.assert_close(model(ids)[0, :4], model(other)[0, :4])
    cache = KVCache.empty(model, 2, 10)
    with torch.no_grad():
        model(ids, torch.arange(6).expand(2, -1), cache, filled=6)  # row 0 writes padding into slots 4, 5
        step = model(torch.tensor([[2], [2]]), torch.tensor([[4], [6]]), cache, filled=7)
        want = model(torch.tensor([[1, 2, 3, 4, 2]]))[:, -1]
    torch.testing.assert_close(step[:1, 0], want)
