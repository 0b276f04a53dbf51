"""SCoRe in equations: rewards, advantages, and the losses of Stage I and Stage II.

One dialogue: x1 is the problem, y1 ~ π(·|x1) the first answer, x2 = x1 + y1 + p1 (p1 asks for a
correction and knows nothing), y2 ~ π(·|x2) the second. r_i = r(y_i, y*) in {0, 1}.

    Stage I  (Eq. 3)   maximise  E[ r2 − β2·KL(π(·|x1) ‖ π_ref(·|x1)) − β1·KL(π(·|x2) ‖ π_ref(·|x2)) ]
    Stage II (Eq. 4)   maximise  E[ Σ_i r_i − β1·KL(π(·|x_i) ‖ π_ref(·|x_i)) ]
                       with r2 + b in place of r2 for the second answer,  b = α·(r2 − r1)

Both are REINFORCE: the gradient of E[R_i] is E[ A_i·∇ log π(y_i|x_i) ], where A_i = R_i − baseline.
Credit is instantaneous, γ = 0 (App. A.2): the tokens of y1 see r1 and never r2 or b. With γ = 1
the coefficient of r1 in their return would be 1 − α = −9, and the model would be paid to fail
first. So each turn has an objective of its own, in which the earlier turns are data.

**What −α·r1 does.** To y2 it is a constant: r1 is settled when y2 is drawn, and
E[ r1·∇ log π(y2|x2) ] = r1·∇Σπ = 0. In expectation the bonus is therefore exactly a factor 1 + α
on the second turn's gradient, against the first turn's and against the KL. What −α·r1 changes is
variance: a baseline that ignores r1 lets it in as noise, one that knows r1 takes it out. (That is one
term of the variance; results/README.md measures the whole, in which another weighs more.)
tests/test_exact_gradient.py proves both by enumerating every dialogue of a small world.

The paper is silent on the baseline, on the KL's estimator and on means over tokens or sequences.
Ours: leave-one-out baselines, the exact KL of each next-token distribution, sums over the tokens of an
answer (log π(y|x) is a sum), and means over answers. No division by a standard deviation, no
clipping: either would change the weights that α sets. Since centred advantages make the printed
loss about 0 on-policy, nobody prints it: look at rewards, Δ and KL instead.

Everything here generalises to more turns than two as written: turn i is rewarded against i − 1.
"""

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint


# ------------------------------------------------------------------ what the policy thinks of its tokens


def answer_stats(policy, reference, ids, turn, temperature=1.0, chunk=None, vocab=None):
    """log π, KL to the reference and entropy at every token of an answer.

    ids, turn (B, T): the dialogues and their mask (0 prompt, instruction, padding; i answer i).
    reference: a frozen model, or None where no KL is wanted. temperature: the sampler's own, so
    that log π is that of the distribution which was sampled. vocab: ids from here on cannot be drawn, and have no mass.
    Returns logp, kl, entropy, each (B, T-1): column t is about the token ids[:, t + 1], which
    position t predicts; 0 where turn[:, t + 1] is 0. Nats. kl is Σ_v π(v)·log(π(v)/π_ref(v)), over
    the whole vocabulary. Logits exist for `chunk` tokens at a time (default: `logit_chunk`) and are
    recomputed in the backward pass where there are more, so that no (B, T, V) tensor does.
    """
    chunk = chunk or logit_chunk(policy.config.vocab_size)
    where = turn[:, 1:] > 0  # (B, T-1): only tokens that an answer owns are worth a row of logits
    target = ids[:, 1:][where]  # (n,)
    h = policy.hidden(ids[:, :-1])[where]  # (n, C)
    with torch.no_grad():
        h_ref = h if reference is None else reference.hidden(ids[:, :-1])[where]  # (n, C)

    def stats(h, h_ref, target):
        logp = torch.log_softmax(_wide(policy.lm_head(h)[:, :vocab]) / temperature, dim=-1)  # (n, V)
        entropy = -(logp.detach().exp() * logp.detach()).sum(-1)  # (n,)
        kl = torch.zeros_like(entropy)
        if reference is not None:
            with torch.no_grad():
                ref = torch.log_softmax(_wide(reference.lm_head(h_ref)[:, :vocab]) / temperature, dim=-1)
            kl = (logp.exp() * (logp - ref)).sum(-1)  # (n,)
        return logp.gather(-1, target[:, None])[:, 0], kl, entropy

    parts = zip(h.split(chunk), h_ref.split(chunk), target.split(chunk))
    if len(h) > chunk:
        parts = [checkpoint(stats, *part, use_reentrant=False) for part in parts]
    else:
        parts = [stats(*part) for part in parts]
    flat = [torch.cat(x) for x in zip(*parts)]  # three times (n,)
    return [x.new_zeros(where.shape).masked_scatter(where, x) for x in flat]  # (B, T-1)


def logit_chunk(V: int) -> int:
    """Tokens whose logits exist at a time: half a gigabyte of float32 for each of the few (n, V) tensors of a chunk."""
    return min(8192, 2**27 // V)


def _wide(logits):
    """bf16 logits in float32: a log-sum over a vocabulary needs the digits."""
    return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits


# ------------------------------------------------------------------ returns: what each turn is paid


def stage1_returns(r, gamma=0.0):
    """Eq. 3: the first attempt is paid nothing, every later one its reward. r, result (N, turns)."""
    paid = torch.cat([torch.zeros_like(r[:, :1]), r[:, 1:]], dim=1)
    return _discount(paid, gamma)


def stage2_returns(r, alpha, gamma=0.0):
    """Eq. 4 with the bonus b = α·(r_i − r_{i−1}) on every attempt but the first. (N, turns).

    At α = 10 the second turn sees: wrong→right +11, right→right +1, wrong→wrong 0, right→wrong −10.
    """
    bonus = alpha * (r[:, 1:] - r[:, :-1])
    return _discount(torch.cat([r[:, :1], r[:, 1:] + bonus], dim=1), gamma)


def _discount(paid, gamma):
    """R_i = paid_i + γ·R_{i+1}. γ = 0 is the method; γ > 0 is there to show how it fails (Fig. 9)."""
    R = paid.clone()
    for i in reversed(range(R.shape[1] - 1)):
        R[:, i] += gamma * R[:, i + 1]
    return R


# ------------------------------------------------------------------ advantages: return minus baseline


def leave_one_out(x):
    """Mean of the *other* entries along the last axis; 0 where there is no other. (…, n) -> (…, n)"""
    n = x.shape[-1]
    return (x.sum(-1, keepdim=True) - x) / (n - 1) if n > 1 else torch.zeros_like(x)


def advantages(R, r, shape, baseline, alpha=0.0):
    """A_i = R_i − baseline, (N, turns), for N = P·K·M dialogues in the order problem, attempt, sibling.

    R, r (N, turns): returns and rewards. shape (P, K, M): K first attempts a problem, M second
    attempts that share each. alpha: that of the returns (0 in Stage I).
    Turn 1 always takes the mean of the problem's other first attempts. A later turn may use any
    function of its own prompt x_i, of which r_{i−1} is one, and of *other* dialogues:
      none       0
      problem    the mean of the problem's other dialogues: blind to r_{i−1}, so −α·r_{i−1} stays in as noise
      siblings   the mean of the other answers to the same x2 (M > 1): knows all of x2
      first      −α·r_{i−1}, which is known, plus the mean of the problem's other dialogues with the same
                 r_{i−1}; where there is none, of all its others
    Raises ValueError where the baseline does not exist or cannot be formed.
    """
    P, K, M = shape
    first = R[:, 0].view(P, K, M).mean(-1)  # (P, K): siblings share one first attempt
    A = [(first - leave_one_out(first))[:, :, None].expand(P, K, M).reshape(-1)]
    for i in range(1, R.shape[1]):
        Ri, before = R[:, i], r[:, i - 1]
        if baseline == "none":
            b = torch.zeros_like(Ri)
        elif baseline == "problem":
            b = leave_one_out(Ri.view(P, K * M)).view(-1)
        elif baseline == "siblings" and M > 1 and i == 1:
            b = leave_one_out(Ri.view(P, K, M)).view(-1)
        elif baseline == "first":
            known = -alpha * before
            rest, kind = (Ri - known).view(P, K * M), before.view(P, K * M)
            same = (kind[:, :, None] == kind[:, None, :]).to(Ri.dtype)  # (P, KM, KM)
            same = same - torch.eye(K * M, dtype=Ri.dtype, device=Ri.device)  # not oneself
            others = (same @ rest[:, :, None])[:, :, 0] / same.sum(-1).clamp(min=1)  # (P, KM)
            b = known + torch.where(same.sum(-1) > 0, others, leave_one_out(rest)).view(-1)
        else:
            raise ValueError(f"baseline {baseline!r} of turn {i + 1} cannot be formed with M = {M}")
        A.append(Ri - b)
    return torch.stack(A, dim=1)  # (N, turns)


# ------------------------------------------------------------------ losses


def turn_loss(logp, kl, mask, A, beta, count):
    """−E[ A·log π(y|x) ] + β·KL(π(·|x) ‖ π_ref(·|x)) of one turn, as a sum over the batch / count.

    logp, kl, mask (B, T-1), A (B,), count: the answers of this turn in the *whole* batch, over all
    micro-batches and ranks, so that any split of it has the same gradient.

    The KL is between distributions of whole answers. Its exact gradient has two parts: each
    token's own KL moves, and each token moves the odds of reaching the states behind it. A mean of
    per-token KLs, which is what most code uses as a loss, has the first part alone; the second is
    REINFORCE with the KL still to come as a cost.
    """
    kl = kl * mask
    to_come = (kl.sum(1, keepdim=True) - kl.cumsum(1)).detach()  # (B, T-1): Σ_{t' > t} KL_{t'}
    reinforce = -(A[:, None] - beta * to_come) * logp * mask
    return (reinforce + beta * kl).sum() / count


def stage1_loss(logp, kl, turn, A, beta1, beta2, count):
    """Eq. 3: −E[r2] + β2·KL on turn 1 + β1·KL on turn 2. γ = 0: y1 hears of r2 only if A says so.

    logp, kl (B, T-1) of `answer_stats`, turn (B, T), A (B, turns), count: answers per turn.
    """
    betas = [beta2] + [beta1] * (A.shape[1] - 1)
    return _sum_of_turns(logp, kl, turn, A, betas, count)


def stage2_loss(logp, kl, turn, A, beta1, count):
    """Eq. 4: −E[r1] − E[r2 + b] + β1·KL on each turn. Arguments as in `stage1_loss`."""
    return _sum_of_turns(logp, kl, turn, A, [beta1] * A.shape[1], count)


def _sum_of_turns(logp, kl, turn, A, betas, count):
    # A turn that was given, not drawn, has no token in the mask: it is data, and gets no gradient.
    return sum(
        turn_loss(logp, kl, (turn[:, 1:] == i + 1).to(logp.dtype), A[:, i], beta, max(count[i], 1))
        for i, beta in enumerate(betas)
    )


def supervised_loss(policy, ids, turn, count, chunk=None):
    """Stage 0: −Σ log π(answer tokens) / count, with count the answer tokens of the whole batch. chunk: as in `answer_stats`."""
    where = turn[:, 1:] > 0  # (B, T-1)
    h, target = policy.hidden(ids[:, :-1])[where], ids[:, 1:][where]  # (n, C), (n,)
    chunk = chunk or logit_chunk(policy.config.vocab_size)

    def loss(h, target):
        return F.cross_entropy(_wide(policy.lm_head(h)), target, reduction="sum")  # from (n, V)

    if len(h) <= chunk:
        return loss(h, target) / count
    return sum(checkpoint(loss, *part, use_reentrant=False) for part in zip(h.split(chunk), target.split(chunk))) / count
