"""score.py piece by piece; test_exact_gradient.py shows what only the whole can show."""

import pytest
import torch

import score
from model import GPT, GPTConfig


def tiny(seed=0):
    """A model whose embedding has three ids that cannot be drawn."""
    torch.manual_seed(seed)
    config = GPTConfig(vocab_size=12, n_layer=1, n_embd=8, n_head=2, n_kv_head=2, head_dim=4, n_ff=8, n_tokens=9)
    return GPT(config).double()


def test_bonus_table():
    """Bugs: a clip or a standard deviation changes the +11, +1, 0, −10 of α = 10; the bonus is added in place."""
    r = torch.tensor([[0, 1], [1, 1], [0, 0], [1, 0]]).float()  # wrong→right, right→right, …
    before = r.clone()
    R = score.stage2_returns(r, alpha=10)
    assert R[:, 1].tolist() == [11, 1, 0, -10]
    assert R[:, 0].tolist() == [0, 1, 0, 1]  # γ = 0: turn 1 sees r1 alone
    assert torch.equal(r, before)  # the log shows rewards, not returns


def test_first_baseline_by_hand():
    """Bugs: the baseline mixes right and wrong first attempts; a dialogue that is alone with its r1 has NaN."""
    # α = 2. R2 = 0, 3, 1, 1. The known part −α·r1 is 0, 0, −2, −2, and the rest (1 + α)·r2 is 0, 3, 3, 3.
    # Baselines from others with the same r1: 0 + 3, 0 + 0, −2 + 3, −2 + 3.
    r = torch.tensor([[0.0, 0], [0, 1], [1, 1], [1, 1]])
    A = score.advantages(score.stage2_returns(r, 2.0), r, (1, 4, 1), "first", alpha=2.0)
    assert A[:, 1].tolist() == [-3, 3, 0, 0]
    alone = torch.tensor([[1.0, 0], [0, 1], [0, 1]])
    A = score.advantages(score.stage2_returns(alone, 2.0), alone, (1, 3, 1), "first", alpha=2.0)
    assert A[0, 1].item() == -3  # R2 = −2; baseline −2 + mean(3, 3), over all others


def test_unknown_baseline_is_refused():
    """Bug: a misspelled baseline, or siblings without a sibling, trains without a baseline in silence."""
    r = torch.zeros(4, 2)
    with pytest.raises(ValueError, match="median"):
        score.advantages(r, r, (1, 4, 1), "median")
    with pytest.raises(ValueError, match="M = 1"):
        score.advantages(r, r, (1, 4, 1), "siblings")


def test_stats_by_hand_at_answer_tokens_and_zero_elsewhere():
    """Bugs: a mask made from the padding's or the stop's value; columns shifted by one; a KL over ids that cannot be
    drawn, or of the wrong direction."""
    policy, reference = tiny(0), tiny(1)
    ids = torch.tensor([[1, 2, 0, 0, 3, 0]])  # 0 is a word, a stop and padding
    turn = torch.tensor([[0, 0, 1, 1, 0, 2]])
    full, ref = (torch.log_softmax(m(ids), -1)[0, :-1] for m in (policy, reference))
    logp = full.gather(-1, ids[0, 1:, None])[:, 0]
    kl = (full.exp() * (full - ref)).sum(-1)
    entropy = -(full.exp() * full).sum(-1)
    mask = turn[0, 1:] > 0
    for ours, by_hand in zip(score.answer_stats(policy, reference, ids, turn), (logp, kl, entropy)):
        torch.testing.assert_close(ours[0], by_hand * mask)


@pytest.mark.parametrize("size", [1, 3])
def test_any_split_of_the_batch_has_the_same_gradient(size):
    """Bugs: a micro-batch is divided by its own number of answers; advantages multiply columns, which only a square
    batch allows: 8 rows of 8 predicted tokens."""
    policy, reference = tiny(0), tiny(1)
    ids, turn, A = torch.randint(0, 9, (8, 9)), torch.randint(0, 3, (8, 9)), torch.randn(8, 2).double()
    count = [int((turn[:, 1:] == i).any(1).sum()) for i in (1, 2)]

    def gradient(parts):
        policy.zero_grad()
        for rows in parts:
            logp, kl, _ = score.answer_stats(policy, reference, ids[rows], turn[rows])
            score.stage2_loss(logp, kl, turn[rows], A[rows], 0.1, count).backward()
        return [p.grad.clone() for p in policy.parameters()]

    rows = torch.arange(8)
    torch.testing.assert_close(gradient(rows.split(size)), gradient([rows]))


@pytest.mark.parametrize("chunk", [None, 1])
def test_supervised_loss_by_hand(chunk):
    """Bugs: stage 0 also learns prompts and instructions, or shifts the targets; a chunk of logits is lost."""
    policy = tiny(0)
    ids, turn = torch.tensor([[1, 2, 3, 4, 5]]), torch.tensor([[0, 0, 1, 0, 2]])
    logp = torch.log_softmax(policy(ids), -1)[0]
    loss = score.supervised_loss(policy, ids, turn, 2, chunk)
    torch.testing.assert_close(loss, -(logp[1, 3] + logp[3, 5]) / 2)
