"""SCoRe in equations: returns, advantages, and the losses of Stage I and Stage II.

One dialogue: x1 is the problem, y1 ~ π(·|x1) the first answer, x2 = x1 + y1 + p1 the prompt of the second (the instruction
p1 asks for a correction and does not tell whether y1 was right), y2 ~ π(·|x2) the second answer. r_i = r(y_i, y*) in {0, 1}.

    Stage I  (Eq. 3)   maximise  E[ r2 − β2·KL(π(·|x1) ‖ π_ref(·|x1)) − β1·KL(π(·|x2) ‖ π_ref(·|x2)) ]
    Stage II (Eq. 4)   maximise  E[ Σ_i r_i − β1·KL(π(·|x_i) ‖ π_ref(·|x_i)) ]
                       with r2 + b in place of r2 for the second answer,  b = α·(r2 − r1)

Both are REINFORCE: the gradient of E[R_i] is E[ A_i·∇ log π(y_i|x_i) ], where A_i = R_i − baseline.
Credit is instantaneous, γ = 0 (App. A.2): the tokens of y1 see r1, and never r2 or b. With γ = 1, r1 would enter their
return with the factor 1 − α (−9 at the paper's α = 10), which rewards a wrong first answer. So each turn has its own
objective, and the earlier turn is fixed in it.

**What −α·r1 does.** r1 is fixed when y2 is sampled, and E[ r1·∇ log π(y2|x2) ] = r1·∇Σπ = 0. So:
  1. In expectation the bonus only multiplies the second turn's gradient by 1 + α, relative to the first turn's and the KL.
  2. −α·r1 changes the variance of that gradient, and nothing else.
  3. The baselines `first` and `siblings` remove −α·r1 from A2, and lower E[A2²].
  4. The gradient's variance can rise all the same: it weighs A2² by |∇ log π(y2|x2)|². A baseline gives wrong second
     answers a negative advantage, and once most answers are right, wrong ones are improbable and have large gradients.
tests/test_exact_gradient.py proves 1 to 3 by enumeration and shows a policy for 4. On the laptop `none` is the default:
on an earlier corpus both Δ and Accuracy@t2 ended higher with each of three seeds (results/earlier.md). Turn 1 keeps its leave-one-out baseline.

The paper is silent on the baseline, on the estimator of the KL, and on means over tokens or sequences. Ours: leave-one-out
baselines, the exact KL of each next-token distribution, sums over the tokens of an answer (log π(y|x) is a sum), means over
answers. No division by a standard deviation and no clipping: either would change the weights that α sets.
Centred advantages make the printed loss about 0 on-policy, so it is not logged: watch rewards, Δ and KL.
"""

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

# ------------------------------------------------------------------ log-probabilities, KL, entropy


def answer_stats(policy, reference, ids, turn, temperature=1.0, chunk=None):
    """Compute log π, the KL to the reference and the entropy at every answer token.

    ids, turn (B, T): the dialogues and their mask (0: prompt, instruction, padding; i: answer i).
    reference: a frozen model, or None if no KL is wanted.
    temperature: the sampler's, so that log π is that of the distribution that was sampled.
    Returns logp, kl, entropy in nats, each (B, T-1). Column t is about token ids[:, t + 1], which position t predicts;
    it is 0 where turn[:, t + 1] is 0. kl is Σ_v π(v)·log(π(v)/π_ref(v)), over the whole vocabulary.
    Logits exist for `chunk` tokens at a time (default: `logit_chunk`) and are recomputed in the backward pass, so that no
    (B, T, V) tensor exists.
    """
    chunk = chunk or logit_chunk(policy.config.vocab_size)
    is_answer = turn[:, 1:] > 0  # (B, T-1): only answer tokens need logits
    target = ids[:, 1:][is_answer]  # (n,)
    h = policy.hidden(ids[:, :-1])[is_answer]  # (n, C)
    with torch.no_grad():
        h_ref = h if reference is None else reference.hidden(ids[:, :-1])[is_answer]  # (n, C)

    def stats(h, h_ref, target):
        logp = torch.log_softmax(_float(policy.logits(h)) / temperature, dim=-1)  # (n, V)
        entropy = -(logp.detach().exp() * logp.detach()).sum(-1)  # (n,)
        kl = torch.zeros_like(entropy)
        if reference is not None:
            with torch.no_grad():
                ref = torch.log_softmax(_float(reference.logits(h_ref)) / temperature, dim=-1)  # (n, V)
            kl = (logp.exp() * (logp - ref)).sum(-1)  # (n,)
        return logp.gather(-1, target[:, None])[:, 0], kl, entropy

    chunks = zip(h.split(chunk), h_ref.split(chunk), target.split(chunk))
    if len(h) > chunk:
        parts = [checkpoint(stats, *one, use_reentrant=False) for one in chunks]
    else:
        parts = [stats(*one) for one in chunks]
    flat = [torch.cat(column) for column in zip(*parts)]  # three times (n,)
    return [x.new_zeros(is_answer.shape).masked_scatter(is_answer, x) for x in flat]  # (B, T-1)


def logit_chunk(V: int) -> int:
    """Return how many tokens have logits at a time: half a gigabyte of float32 per (n, V) tensor."""
    return min(8192, 2**27 // V)


def _float(logits):
    """Return bf16 logits as float32: a log-sum-exp over a vocabulary needs the precision."""
    return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits


# ------------------------------------------------------------------ returns


def stage1_returns(r, gamma=0.0):
    """Eq. 3: only the second attempt is rewarded. r (N, 2) -> R (N, 2)."""
    r1, r2 = r.unbind(1)
    return _returns(torch.zeros_like(r1), r2, gamma)


def stage2_returns(r, alpha, gamma=0.0):
    """Eq. 4: both attempts are rewarded, and the second gets the bonus b = α·(r2 − r1). r (N, 2) -> R (N, 2).

    At α = 10 the second turn sees: wrong→right +11, right→right +1, wrong→wrong 0, right→wrong −10.
    """
    r1, r2 = r.unbind(1)
    b = alpha * (r2 - r1)
    return _returns(r1, r2 + b, gamma)


def _returns(reward1, reward2, gamma):
    """R1 = reward1 + γ·R2, R2 = reward2. γ = 0 is the method; γ > 0 shows how it fails (Fig. 9)."""
    return torch.stack([reward1 + gamma * reward2, reward2], dim=1)  # (N, 2)


# ------------------------------------------------------------------ advantages


def leave_one_out(x):
    """Return the mean of the *other* entries along the last axis; 0 if x has one entry. (…, n) -> (…, n)"""
    n = x.shape[-1]
    return (x.sum(-1, keepdim=True) - x) / (n - 1) if n > 1 else torch.zeros_like(x)


def advantages(R, r, shape, baseline, alpha=0.0):
    """Return A_i = R_i − baseline, (N, 2), for N = P·K·M dialogues in the order problem, attempt, sibling.

    R, r (N, 2): returns and rewards. shape (P, K, M): K first attempts per problem, M second attempts per first.
    alpha: that of the returns (0 in Stage I). Turn 1 takes the mean of the problem's other first attempts.
    Turn 2 may use any function of its own prompt x2, of which r1 is one, and of *other* dialogues:
      none       0
      problem    the mean of the problem's other dialogues; it ignores r1, so −α·r1 stays in A2
      siblings   the mean of the other answers to the same x2 (M > 1)
      first      −α·r1, plus the mean of the rest over the problem's other dialogues with the same r1; over all others
                 if none has the same r1
    Raises ValueError for an unknown baseline, and for `siblings` with M = 1.
    """
    P, K, M = shape
    R1 = R[:, 0].view(P, K, M).mean(-1)  # (P, K): siblings share one first attempt
    A1 = R1 - leave_one_out(R1)  # (P, K)
    A1 = A1[:, :, None].expand(P, K, M).reshape(-1)  # (N,)
    r1, R2 = r[:, 0], R[:, 1]
    if baseline == "none":
        b2 = torch.zeros_like(R2)
    elif baseline == "problem":
        b2 = leave_one_out(R2.view(P, K * M)).view(-1)
    elif baseline == "siblings" and M > 1:
        b2 = leave_one_out(R2.view(P, K, M)).view(-1)
    elif baseline == "first":
        known = -alpha * r1
        b2 = known + _mean_of_same_first((R2 - known).view(P, K * M), r1.view(P, K * M)).view(-1)
    else:
        raise ValueError(f"baseline {baseline!r} cannot be formed with M = {M}")
    return torch.stack([A1, R2 - b2], dim=1)  # (N, 2)


def _mean_of_same_first(x, r1):
    """Return the mean of x over the problem's other dialogues with the same r1; over all others if there are none. (P, n)"""
    same = (r1[:, :, None] == r1[:, None, :]).to(x.dtype)  # (P, n, n)
    same = same - torch.eye(x.shape[1], dtype=x.dtype, device=x.device)  # a dialogue is not its own baseline
    mean = (same @ x[:, :, None])[:, :, 0] / same.sum(-1).clamp(min=1)  # (P, n)
    return torch.where(same.sum(-1) > 0, mean, leave_one_out(x))


# ------------------------------------------------------------------ losses


def turn_loss(logp, kl, mask, A, beta, count):
    """−E[ A·log π(y|x) ] + β·KL(π(·|x) ‖ π_ref(·|x)) of one turn, as a sum over the batch / count.

    logp, kl, mask (B, T-1), A (B,). count: the answers of this turn in the *whole* batch, over all micro-batches and
    ranks, so that any split of the batch has the same gradient.

    The KL is between distributions over whole answers. Its exact gradient has two parts: each token's own KL changes, and
    each token changes the probability of reaching later states. A mean of per-token KLs, the usual loss, has only the
    first part. The second is REINFORCE with the KL of the later tokens as a cost.
    """
    kl = kl * mask
    kl_to_go = (kl.sum(1, keepdim=True) - kl.cumsum(1)).detach()  # (B, T-1): Σ_{t' > t} KL_{t'}
    reinforce = -(A[:, None] - beta * kl_to_go) * logp * mask
    return (reinforce + beta * kl).sum() / count


def stage1_loss(logp, kl, turn, A, beta1, beta2, count):
    """Eq. 3: −E[r2] + β2·KL on turn 1 + β1·KL on turn 2.

    logp, kl (B, T-1) of `answer_stats`, turn (B, T), A (B, 2), count: answers of turn 1 and of turn 2.
    """
    return _sum_of_turns(logp, kl, turn, A, (beta2, beta1), count)


def stage2_loss(logp, kl, turn, A, beta1, count):
    """Eq. 4: −E[r1] − E[r2 + b] + β1·KL on each turn. Arguments as in `stage1_loss`."""
    return _sum_of_turns(logp, kl, turn, A, (beta1, beta1), count)


def _sum_of_turns(logp, kl, turn, A, betas, count):
    loss = 0
    for i, beta in enumerate(betas):
        mask = (turn[:, 1:] == i + 1).to(logp.dtype)  # (B, T-1); a given answer has no token here: it gets no gradient
        loss = loss + turn_loss(logp, kl, mask, A[:, i], beta, max(count[i], 1))
    return loss


def supervised_loss(policy, ids, turn, count, chunk=None):
    """Stage 0: −Σ log π(answer tokens) / count. count: answer tokens of the whole batch. chunk: see `answer_stats`."""
    is_answer = turn[:, 1:] > 0  # (B, T-1)
    h, target = policy.hidden(ids[:, :-1])[is_answer], ids[:, 1:][is_answer]  # (n, C), (n,)
    chunk = chunk or logit_chunk(policy.config.vocab_size)

    def loss(h, target):
        return F.cross_entropy(_float(policy.logits(h)), target, reduction="sum")  # logits (n, V)

    if len(h) <= chunk:
        return loss(h, target) / count
    return sum(checkpoint(loss, *one, use_reentrant=False) for one in zip(h.split(chunk), target.split(chunk))) / count
