"""score.py piece by piece; what only the whole can show is in test_exact_gradient.py."""

import pytest
import torch

import score
from model import GPT, GPTConfig


def tiny(seed=0, **kw):
    torch.manual_seed(seed)
    return GPT(GPTConfig(vocab_size=9, n_layer=1, n_embd=8, n_head=2, n_kv_head=2, head_dim=4, n_ff=8, n_ctx=32, **kw)).double()


def test_bonus_table():
    """What turn-2 tokens see at α = 10: +11, +1, 0, −10. A clip or a standard deviation would show here."""
    r = torch.tensor([[0, 1], [1, 1], [0, 0], [1, 0]]).float()  # wrong→right, right→right, …
    R = score.stage2_returns(r, alpha=10)
    assert R[:, 1].tolist() == [11, 1, 0, -10]
    assert R[:, 0].tolist() == [0, 1, 0, 1]  # γ = 0: turn 1 sees r1 alone


def test_stage1_pays_the_second_attempt_only():
    r = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert score.stage1_returns(r).tolist() == [[0, 0], [0, 1]]


def test_gamma_one_pays_the_model_to_fail_first():
    """With γ = 1 the coefficient on r1 is 1 − α."""
    R = score.stage2_returns(torch.tensor([[1.0, 0.0], [0.0, 0.0]]), alpha=10, gamma=1.0)
    assert (R[0, 0] - R[1, 0]).item() == 1 - 10


def test_returns_leave_their_input_unchanged():
    r = torch.tensor([[1.0, 0.0]])
    score.stage1_returns(r, 0.5), score.stage2_returns(r, 10.0, 0.5)
    assert r.tolist() == [[1, 0]]


def test_leave_one_out_by_hand_and_without_others():
    assert score.leave_one_out(torch.tensor([[0.0, 3.0, 6.0]])).tolist() == [[4.5, 3.0, 1.5]]
    assert score.leave_one_out(torch.tensor([[5.0]])).tolist() == [[0.0]]  # not NaN


@pytest.mark.parametrize("baseline", ["problem", "first", "siblings"])
def test_equal_rewards_give_zero_advantage(baseline):
    """A group with nothing to tell apart has no gradient; in particular no NaN."""
    r = torch.tensor([[1.0, 0.0]]).expand(8, 2)
    A = score.advantages(score.stage2_returns(r, 10.0), r, (2, 2, 2), baseline, alpha=10.0)
    assert A.abs().max() == 0


def test_first_baseline_by_hand():
    """One problem, four dialogues: rewards (0,0) (0,1) (1,1) (1,1), α = 2.
    R2 = 0, 3, 1, 1. Known part −α·r1 = 0, 0, −2, −2; the rest (1 + α)·r2 = 0, 3, 3, 3.
    Baselines: others with the same r1: 0 + 3, 0 + 0, −2 + 3, −2 + 3."""
    r = torch.tensor([[0.0, 0], [0, 1], [1, 1], [1, 1]])
    A = score.advantages(score.stage2_returns(r, 2.0), r, (1, 4, 1), "first", alpha=2.0)
    assert A[:, 1].tolist() == [-3, 3, 0, 0]


def test_first_baseline_without_a_peer_takes_all_others():
    r = torch.tensor([[1.0, 0], [0, 1], [0, 1]])  # nobody shares r1 = 1
    A = score.advantages(score.stage2_returns(r, 2.0), r, (1, 3, 1), "first", alpha=2.0)
    assert A[0, 1].item() == -3  # R2 = −2, baseline −2 + mean(3, 3)


def test_unknown_baseline_is_refused():
    r = torch.zeros(4, 2)
    with pytest.raises(ValueError, match="median"):
        score.advantages(r, r, (1, 4, 1), "median")
    with pytest.raises(ValueError, match="M = 1"):
        score.advantages(r, r, (1, 4, 1), "siblings")


@pytest.mark.parametrize("T", [4, 5, 6])
def test_no_silent_broadcast(T):
    """(B,) times (B, T) broadcasts along the wrong axis when B == T: here B = 4, T − 1 = 3, 4, 5."""
    B = 4
    logp, A = torch.randn(B, T - 1).double(), torch.randn(B, 2).double()
    turn = torch.ones(B, T, dtype=torch.long)
    loss = score.stage2_loss(logp, torch.zeros(B, T - 1).double(), turn, A, 0.0, [B, B])
    by_hand = -sum(A[b, 0] * logp[b].sum() for b in range(B)) / B
    torch.testing.assert_close(loss, by_hand)


def test_stats_come_from_lengths_not_from_values():
    """Padding that equals EOS, and words that equal padding, change nothing: the mask says what counts."""
    policy, reference = tiny(0), tiny(1)
    ids, turn = torch.tensor([[1, 2, 0, 0, 3, 0]]), torch.tensor([[0, 0, 1, 1, 0, 2]])
    logp, kl, entropy = score.answer_stats(policy, reference, ids, turn)
    full, ref = (torch.log_softmax(m(ids), -1)[0, :-1] for m in (policy, reference))
    want = full.gather(-1, ids[0, 1:, None])[:, 0]
    mask = turn[0, 1:] > 0
    torch.testing.assert_close(logp[0][mask], want[mask])
    torch.testing.assert_close(kl[0][mask], (full.exp() * (full - ref)).sum(-1)[mask])
    torch.testing.assert_close(entropy[0][mask], -(full.exp() * full).sum(-1)[mask])
    assert (logp[0][~mask] == 0).all() and (kl[0][~mask] == 0).all()


def test_chunks_change_nothing_but_the_memory():
    policy, reference = tiny(0), tiny(1)
    ids, turn = torch.randint(0, 9, (3, 8)), torch.randint(0, 3, (3, 8))
    grads = []
    for chunk in (1, 3, 1000):
        policy.zero_grad()
        logp, kl, _ = score.answer_stats(policy, reference, ids, turn, chunk=chunk)
        (logp.sum() + 2 * kl.sum()).backward()
        grads.append([p.grad.clone() for p in policy.parameters()])
    for g in grads[1:]:
        for a, b in zip(grads[0], g):
            torch.testing.assert_close(a, b)


def test_kl_alone():
    """policy = reference: KL 0 and gradient 0. Elsewhere one step on the KL alone lowers it."""
    policy, reference = tiny(0), tiny(1)
    ids, turn = torch.randint(0, 9, (4, 8)), torch.full((4, 8), 1)
    zeros = torch.zeros(4, 2).double()

    def loss(reference):
        logp, kl, _ = score.answer_stats(policy, reference, ids, turn)
        return score.stage1_loss(logp, kl, turn, zeros, 0.0, 1.0, [4, 4]), kl.sum()

    same, value = loss(policy)
    same.backward()
    assert value.abs() < 1e-12 and max(p.grad.abs().max() for p in policy.parameters()) < 1e-12
    policy.zero_grad()
    other, before = loss(reference)
    other.backward()
    with torch.no_grad():
        for p in policy.parameters():
            p -= 1e-3 * p.grad
    assert loss(reference)[1] < before


@pytest.mark.parametrize("split", [(1, 8), (2, 4), (4, 2), (3, 5)])
def test_any_split_of_the_batch_has_the_same_gradient(split):
    """Micro-batches with unequal token counts: the denominators are those of the whole batch."""
    policy, reference = tiny(0), tiny(1)
    torch.manual_seed(2)
    ids, turn, A = torch.randint(0, 9, (8, 10)), torch.randint(0, 3, (8, 10)), torch.randn(8, 2).double()
    count = [int((turn[:, 1:] == i).any(1).sum()) for i in (1, 2)]

    def gradient(parts):
        policy.zero_grad()
        for rows in parts:
            logp, kl, _ = score.answer_stats(policy, reference, ids[rows], turn[rows])
            score.stage2_loss(logp, kl, turn[rows], A[rows], 0.1, count).backward()
        return [p.grad.clone() for p in policy.parameters()]

    for a, b in zip(gradient([torch.arange(8)]), gradient(torch.arange(8).split(split[1]))):
        torch.testing.assert_close(a, b)


def test_supervised_loss_is_the_mean_surprise_of_answer_tokens():
    policy = tiny(0)
    ids, turn = torch.tensor([[1, 2, 3, 4, 5]]), torch.tensor([[0, 0, 1, 0, 2]])
    logp = torch.log_softmax(policy(ids), -1)[0]
    torch.testing.assert_close(score.supervised_loss(policy, ids, turn, 2), -(logp[1, 3] + logp[3, 5]) / 2)
