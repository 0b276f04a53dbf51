"""score.py piece by piece; test_exact_gradient.py shows what only the whole can show."""

from types import SimpleNamespace

import pytest
import torch

import rollout
import score
from model import GPT, GPTConfig


def tiny(seed=0, **changes):
    torch.manual_seed(seed)
    config = GPTConfig(vocab_size=9, n_layer=1, n_embd=8, n_head=2, n_kv_head=2, head_dim=4, n_ff=8, **changes)
    return GPT(config).double()


def gradients(policy, *losses):
    """Return the gradient of a sum of losses, one tensor per parameter."""
    policy.zero_grad()
    for loss in losses:
        loss.backward()
    return [p.grad.clone() for p in policy.parameters()]


# ------------------------------------------------------------------ returns and advantages


def test_bonus_table():
    """Bug: a clip or a standard deviation changes the +11, +1, 0, −10 that α = 10 gives to turn 2."""
    r = torch.tensor([[0, 1], [1, 1], [0, 0], [1, 0]]).float()  # wrong→right, right→right, …
    R = score.stage2_returns(r, alpha=10)
    assert R[:, 1].tolist() == [11, 1, 0, -10]
    assert R[:, 0].tolist() == [0, 1, 0, 1]  # γ = 0: turn 1 sees r1 alone


def test_stage1_rewards_the_second_attempt_only():
    """Bug: Stage I also rewards the first attempt, which makes it single-turn RL."""
    assert score.stage1_returns(torch.tensor([[1.0, 0.0], [0.0, 1.0]])).tolist() == [[0, 0], [0, 1]]


def test_gamma_one_rewards_a_failed_first_attempt():
    """Bug: γ that does not reach turn 1. With γ = 1 the coefficient of r1 there is 1 − α."""
    R = score.stage2_returns(torch.tensor([[1.0, 0.0], [0.0, 0.0]]), alpha=10, gamma=1.0)
    assert (R[0, 0] - R[1, 0]).item() == 1 - 10


def test_returns_leave_the_rewards_unchanged():
    """Bug: an in-place addition of the bonus, after which the log shows returns for rewards."""
    r = torch.tensor([[1.0, 0.0]])
    score.stage1_returns(r, 0.5)
    score.stage2_returns(r, 10.0, 0.5)
    assert r.tolist() == [[1, 0]]


def test_leave_one_out_by_hand():
    """Bugs: a baseline that contains its own dialogue; NaN for a single one."""
    assert score.leave_one_out(torch.tensor([[0.0, 3.0, 6.0]])).tolist() == [[4.5, 3.0, 1.5]]
    assert score.leave_one_out(torch.tensor([[5.0]])).tolist() == [[0.0]]


@pytest.mark.parametrize("baseline", ["problem", "first", "siblings"])
def test_equal_rewards_give_zero_advantage(baseline):
    """Bug: NaN, or a gradient, from a group in which all dialogues have the same rewards."""
    r = torch.tensor([[1.0, 0.0]]).expand(8, 2)
    A = score.advantages(score.stage2_returns(r, 10.0), r, (2, 2, 2), baseline, alpha=10.0)
    assert A.abs().max() == 0


def test_first_baseline_by_hand():
    """Bug: the baseline mixes dialogues with right and with wrong first attempts.

    One problem, rewards (0,0) (0,1) (1,1) (1,1), α = 2. R2 = 0, 3, 1, 1. The known part −α·r1 is 0, 0, −2, −2, and the
    rest (1 + α)·r2 is 0, 3, 3, 3. Baselines from others with the same r1: 0 + 3, 0 + 0, −2 + 3, −2 + 3.
    """
    r = torch.tensor([[0.0, 0], [0, 1], [1, 1], [1, 1]])
    A = score.advantages(score.stage2_returns(r, 2.0), r, (1, 4, 1), "first", alpha=2.0)
    assert A[:, 1].tolist() == [-3, 3, 0, 0]


def test_first_baseline_takes_all_others_if_none_has_the_same_first_reward():
    """Bug: a dialogue that is alone with its r1 has no baseline, or NaN."""
    r = torch.tensor([[1.0, 0], [0, 1], [0, 1]])
    A = score.advantages(score.stage2_returns(r, 2.0), r, (1, 3, 1), "first", alpha=2.0)
    assert A[0, 1].item() == -3  # R2 = −2, baseline −2 + mean(3, 3)


def test_unknown_baseline_is_refused():
    """Bug: a misspelled baseline, or siblings without a sibling, trains without a baseline in silence."""
    r = torch.zeros(4, 2)
    with pytest.raises(ValueError, match="median"):
        score.advantages(r, r, (1, 4, 1), "median")
    with pytest.raises(ValueError, match="M = 1"):
        score.advantages(r, r, (1, 4, 1), "siblings")


# ------------------------------------------------------------------ log-probabilities, KL, losses


def test_stats_by_hand_at_answer_tokens_and_zero_elsewhere():
    """Bugs: a mask made from the padding's or the stop's value; a KL of the wrong direction; columns shifted by one."""
    policy, reference = tiny(0), tiny(1)
    ids = torch.tensor([[1, 2, 0, 0, 3, 0]])  # 0 is a word, a stop and padding
    turn = torch.tensor([[0, 0, 1, 1, 0, 2]])
    logp, kl, entropy = score.answer_stats(policy, reference, ids, turn)
    full, ref = (torch.log_softmax(m(ids), -1)[0, :-1] for m in (policy, reference))
    mask = turn[0, 1:] > 0
    torch.testing.assert_close(logp[0][mask], full.gather(-1, ids[0, 1:, None])[:, 0][mask])
    torch.testing.assert_close(kl[0][mask], (full.exp() * (full - ref)).sum(-1)[mask])
    torch.testing.assert_close(entropy[0][mask], -(full.exp() * full).sum(-1)[mask])
    assert (logp[0][~mask] == 0).all() and (kl[0][~mask] == 0).all() and (entropy[0][~mask] == 0).all()


def test_loss_and_sampler_agree_about_the_policy():
    """Bug: the loss forgets the temperature, or counts padding ids of the embedding that the sampler cannot draw."""
    policy = tiny(0, n_tokens=6)
    task = SimpleNamespace(instruction=[1], stops=[2], close=[3], max_new=5)
    r = rollout.sample(policy, task, [[1, 4], [5]], K=4, temperature=0.7, generator=torch.Generator().manual_seed(0))
    logp, _, _ = score.answer_stats(policy, None, r.ids, r.turn, temperature=0.7)
    torch.testing.assert_close(logp.float(), r.logp[:, 1:], rtol=0, atol=1e-6)


def test_chunks_of_logits_change_no_gradient():
    """Bug: answer tokens are lost or counted twice at the border of two chunks."""
    policy, reference = tiny(0), tiny(1)
    ids, turn = torch.randint(0, 9, (3, 8)), torch.randint(0, 3, (3, 8))

    def gradient(chunk):
        logp, kl, _ = score.answer_stats(policy, reference, ids, turn, chunk=chunk)
        return gradients(policy, logp.sum() + 2 * kl.sum(), score.supervised_loss(policy, ids, turn, 7, chunk=chunk))

    for chunk in (1, 3):
        torch.testing.assert_close(gradient(chunk), gradient(1000))


@pytest.mark.parametrize("T", [4, 5, 6])
def test_advantages_multiply_rows_not_columns(T):
    """Bug: (B,) times (B, T − 1) broadcasts along the wrong axis if B = T − 1. Here B = 4, T − 1 = 3, 4, 5."""
    logp, A = torch.randn(4, T - 1).double(), torch.randn(4, 2).double()
    turn = torch.ones(4, T, dtype=torch.long)
    loss = score.stage2_loss(logp, torch.zeros_like(logp), turn, A, 0.0, [4, 4])
    torch.testing.assert_close(loss, -sum(A[b, 0] * logp[b].sum() for b in range(4)) / 4)


def test_each_stage_puts_each_beta_on_its_turn():
    """Bug: β1 and β2 are swapped in Stage I, whose strict KL is that of the first attempt."""
    kl, turn = torch.tensor([[1.0, 10.0]]), torch.tensor([[0, 1, 2]])
    zeros = torch.zeros(1, 2)
    assert score.stage1_loss(zeros, kl, turn, zeros, beta1=2.0, beta2=3.0, count=[1, 1]).item() == 3 * 1 + 2 * 10
    assert score.stage2_loss(zeros, kl, turn, zeros, beta1=2.0, count=[1, 1]).item() == 2 * 1 + 2 * 10


def test_kl_alone_is_zero_at_the_reference_and_falls_in_one_step():
    """Bug: a KL estimator whose gradient is not zero at the reference, or points away from it."""
    policy, reference = tiny(0), tiny(1)
    ids, turn = torch.randint(0, 9, (4, 8)), torch.full((4, 8), 1)
    zeros = torch.zeros(4, 2).double()

    def loss(reference):
        logp, kl, _ = score.answer_stats(policy, reference, ids, turn)
        return score.stage1_loss(logp, kl, turn, zeros, 0.0, 1.0, [4, 4]), kl.sum()

    same, value = loss(policy)
    assert value.abs() < 1e-12 and max(g.abs().max() for g in gradients(policy, same)) < 1e-12
    other, before = loss(reference)
    with torch.no_grad():
        for p, g in zip(policy.parameters(), gradients(policy, other)):
            p -= 1e-3 * g
    assert loss(reference)[1] < before


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_any_split_of_the_batch_has_the_same_gradient(size):
    """Bug: each micro-batch is divided by its own number of answers, so that the split weighs the dialogues."""
    policy, reference = tiny(0), tiny(1)
    torch.manual_seed(2)
    ids, turn, A = torch.randint(0, 9, (8, 10)), torch.randint(0, 3, (8, 10)), torch.randn(8, 2).double()
    count = [int((turn[:, 1:] == i).any(1).sum()) for i in (1, 2)]

    def loss(rows):
        logp, kl, _ = score.answer_stats(policy, reference, ids[rows], turn[rows])
        return score.stage2_loss(logp, kl, turn[rows], A[rows], 0.1, count)

    whole = gradients(policy, loss(torch.arange(8)))
    torch.testing.assert_close(gradients(policy, *map(loss, torch.arange(8).split(size))), whole)


def test_supervised_loss_by_hand():
    """Bug: stage 0 also learns prompts and instructions, or shifts the targets."""
    policy = tiny(0)
    ids, turn = torch.tensor([[1, 2, 3, 4, 5]]), torch.tensor([[0, 0, 1, 0, 2]])
    logp = torch.log_softmax(policy(ids), -1)[0]
    torch.testing.assert_close(score.supervised_loss(policy, ids, turn, 2), -(logp[1, 3] + logp[3, 5]) / 2)
