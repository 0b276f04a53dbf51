"""score.py against the exact gradient, in a world small enough to enumerate.

Three tokens (0, 1 and EOS), at most two tokens per answer: 7 answers, 49 two-turn dialogues. The exact objective of
each stage is a sum over them, with probabilities from a plain forward pass and the KL between distributions over whole
answers; autograd differentiates it. It is compared with the expectation, over the same 49, of the gradient that
score.py produces from samples. For every stage, baseline, γ and temperature they agree to 1e-6.

`test_goes_red` plants nine bugs of public implementations, and the comparison must fail for each: a shifted mask, a
missing EOS, the KL on the wrong turn, γ = 1, a drifting reference, a KL that is the mean log ratio, a KL without the
states after the token, a KL of the reverse direction, and a temperature left out. The largest error is then at least 0.003.
"""

import itertools

import pytest
import torch

import score
from model import GPT, GPTConfig

EOS, X1, P1 = 2, [0, 1], [1, 0]
ANSWERS = [y for n in (1, 2) for y in itertools.product(range(3), repeat=n) if EOS not in y[:-1]]
ANSWERS = [list(y) for y in ANSWERS if len(y) == 2 or y[-1] == EOS]  # [2], [0, 2], [0, 0], …
ALPHA, BETA1, BETA2 = 10.0, 0.3, 0.7  # a KL that weighs enough to be seen
STAGES, BASELINES = [1, 2], ["none", "problem", "siblings", "first"]


def reward(i, y1, y2):
    """An arbitrary verifier; whether the second answer is right depends on the first as well."""
    return float(y1 in ([0, EOS], [1, 1])) if i == 1 else float(y2 in ([1, EOS], [0, 1]) or (y2 == y1 == [0, 0]))


def tiny(seed):
    torch.manual_seed(seed)
    c = GPTConfig(vocab_size=3, n_layer=1, n_embd=8, n_head=2, n_kv_head=1, head_dim=4, n_ff=8, n_ctx=16)
    model = GPT(c).double()
    for p in model.parameters():  # far from uniform, so that nothing cancels by accident
        torch.nn.init.normal_(p, std=0.8)
    return model


def log_prob(model, prompt, y, temperature):
    """log π(y|prompt), token by token from a plain forward pass; shares nothing with score.py."""
    total = 0.0
    for t, token in enumerate(y):
        logits = model(torch.tensor([prompt + y[:t]]))[0, -1] / temperature
        total = total + torch.log_softmax(logits, -1)[token]
    return total


def exact_gradient(policy, reference, stage, gamma, temperature):
    """∇ of the objective, a sum over all dialogues. Each turn has its own; earlier turns are data (γ = 0)."""
    objective = 0.0
    lp1 = [log_prob(policy, X1, y, temperature) for y in ANSWERS]
    with torch.no_grad():
        ref1 = [log_prob(reference, X1, y, temperature) for y in ANSWERS]
    kl1 = sum(a.exp() * (a - b) for a, b in zip(lp1, ref1))
    objective -= (BETA2 if stage == 1 else BETA1) * kl1
    for y1, a in zip(ANSWERS, lp1):
        x2 = X1 + y1 + P1
        lp2 = [log_prob(policy, x2, y, temperature) for y in ANSWERS]
        with torch.no_grad():
            ref2 = [log_prob(reference, x2, y, temperature) for y in ANSWERS]
        kl2 = sum(p.exp() * (p - q) for p, q in zip(lp2, ref2))
        r1, r2 = reward(1, y1, None), torch.tensor([reward(2, y1, y) for y in ANSWERS]).double()
        paid1 = 0.0 if stage == 1 else r1
        paid2 = r2 if stage == 1 else r2 + ALPHA * (r2 - r1)
        value2 = (torch.stack(lp2).exp() * paid2).sum()  # E[R2 | y1]
        objective += a.exp() * (paid1 + gamma * value2.detach())  # turn 1
        objective += a.exp().detach() * (value2 - BETA1 * kl2)  # turn 2
    return torch.autograd.grad(objective, list(policy.parameters()))


def conditional_advantages(prob1, prob2, stage, baseline, gamma):
    """E[A | y1, y2], (49, 2): score.advantages over every group that a dialogue can be drawn with.

    Each group is a `problem` of the batch. Losses are linear in A, so its mean is all they need.
    """
    alpha = ALPHA if stage == 2 else 0.0
    n = len(ANSWERS)
    pairs = [(i, j) for i in range(n) for j in range(n)]
    if baseline == "siblings":  # (y1, y2, y2'): one first attempt, two second ones
        K, M = 1, 2
        groups = [((i, j), (i, k)) for i, j in pairs for k in range(n)]
        weight = torch.stack([prob1[i] * prob2[i, j] * prob2[i, k] for (i, j), (_, k) in groups])
    else:  # three independent dialogues: with two, `first` would rarely find another one with the same r1
        K, M = 3, 1
        groups = list(itertools.product(pairs, repeat=3))
        joint = torch.stack([prob1[i] * prob2[i, j] for i, j in pairs])
        weight = (joint[:, None, None] * joint[None, :, None] * joint[None, None, :]).reshape(-1)
    table = torch.tensor([[reward(1, ANSWERS[i], None), reward(2, ANSWERS[i], ANSWERS[j])] for i, j in pairs]).double()
    at = torch.tensor([[i * n + j for i, j in g] for g in groups])  # (G, K·M) which dialogue
    r = table[at].view(-1, 2)
    R = score.stage1_returns(r, gamma) if stage == 1 else score.stage2_returns(r, alpha, gamma)
    A = score.advantages(R, r, (len(groups), K, M), baseline, alpha).view(len(groups), K * M, 2)
    total, mass = torch.zeros(n * n, 2).double(), torch.zeros(n * n).double()
    total.index_add_(0, at[:, 0], weight[:, None] * A[:, 0])
    mass.index_add_(0, at[:, 0], weight)
    return total / mass[:, None], mass


def expected_gradient(policy, reference, stage, baseline, gamma, temperature):
    """The mean, over all dialogues, of what score.py's loss gives for each; as a gradient *ascent*."""
    with torch.no_grad():
        prob1 = torch.stack([log_prob(policy, X1, y, temperature) for y in ANSWERS]).exp()
        prob2 = torch.stack(
            [torch.stack([log_prob(policy, X1 + y1 + P1, y, temperature) for y in ANSWERS]).exp() for y1 in ANSWERS]
        )
    A, mass = conditional_advantages(prob1, prob2, stage, baseline, gamma)
    loss = 0.0
    for d, (y1, y2) in enumerate(itertools.product(ANSWERS, ANSWERS)):
        ids = torch.tensor([X1 + y1 + P1 + y2 + [0, 1]])  # two tokens of padding, which nothing may see
        turn = torch.tensor([[0] * len(X1) + [1] * len(y1) + [0] * len(P1) + [2] * len(y2) + [0, 0]])
        logp, kl, _ = score.answer_stats(policy, reference, ids, turn, temperature, chunk=2)
        if stage == 1:
            one = score.stage1_loss(logp, kl, turn, A[d : d + 1], BETA1, BETA2, [1, 1])
        else:
            one = score.stage2_loss(logp, kl, turn, A[d : d + 1], BETA1, [1, 1])
        loss = loss - mass[d] * one
    return torch.autograd.grad(loss, list(policy.parameters()))


def largest_error(stage, baseline="first", gamma=0.0, temperature=1.0, claimed_gamma=None):
    policy, reference = tiny(1), tiny(2)
    exact = exact_gradient(policy, reference, stage, gamma, temperature)
    ours = expected_gradient(
        policy, reference, stage, baseline, gamma if claimed_gamma is None else claimed_gamma, temperature
    )
    return max((a - b).abs().max().item() for a, b in zip(exact, ours))


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("baseline", BASELINES)
def test_gradient_is_exact(stage, baseline):
    assert largest_error(stage, baseline) < 1e-6


@pytest.mark.parametrize("stage", STAGES)
def test_gradient_is_exact_with_gamma_and_temperature(stage):
    assert largest_error(stage, gamma=0.8, temperature=0.7) < 1e-6


def test_bonus_is_a_factor_on_turn_two_in_expectation():
    """−α·r1 leaves the expected gradient of turn 2 unchanged: the bonus is a factor 1 + α."""
    policy = tiny(1)

    def turn2(alpha):
        total = 0.0
        for y1, y2 in itertools.product(ANSWERS, ANSWERS):
            with torch.no_grad():
                p = (log_prob(policy, X1, y1, 1) + log_prob(policy, X1 + y1 + P1, y2, 1)).exp()
            r = torch.tensor([[reward(1, y1, None), reward(2, y1, y2)]]).double()
            total = total + p * score.stage2_returns(r, alpha)[0, 1] * log_prob(policy, X1 + y1 + P1, y2, 1)
        return torch.autograd.grad(total, list(policy.parameters()))

    for shaped, plain in zip(turn2(ALPHA), turn2(0.0)):
        torch.testing.assert_close(shaped, (1 + ALPHA) * plain, rtol=0, atol=1e-9)


def second_moments(policy, baseline):
    """E[A2²] and E[A2²·|∇ log π(y2|x2)|²] in Stage II, over all groups of three dialogues of one problem."""
    logp2 = [[log_prob(policy, X1 + y1 + P1, y2, 1.0) for y2 in ANSWERS] for y1 in ANSWERS]
    norms = []  # (49,) |∇ log π(y2|x2)|² of each dialogue
    for one in sum(logp2, []):
        gradient = torch.autograd.grad(one, list(policy.parameters()), retain_graph=True)
        norms.append(sum(g.square().sum() for g in gradient))
    with torch.no_grad():
        prob1 = torch.stack([log_prob(policy, X1, y1, 1.0) for y1 in ANSWERS]).exp()
        joint = (prob1[:, None] * torch.tensor(logp2).double().exp()).reshape(-1)  # (49,)
    pairs = list(itertools.product(ANSWERS, ANSWERS))
    r = torch.tensor([[reward(1, y1, None), reward(2, y1, y2)] for y1, y2 in pairs]).double()
    at = torch.cartesian_prod(*[torch.arange(len(pairs))] * 3)  # (49³, 3) which dialogues
    r = r[at].view(-1, 2)
    A = score.advantages(score.stage2_returns(r, ALPHA), r, (len(at), 3, 1), baseline, ALPHA)
    squared = joint[at].prod(1) * A[:, 1].view(-1, 3)[:, 0].square()  # the first dialogue of each group
    return squared.sum().item(), (squared * torch.stack(norms)[at[:, 0]]).sum().item()


def test_a_baseline_that_knows_r1_lowers_the_second_moment_of_the_advantage():
    """−α·r1 is noise to a baseline that ignores r1. Broken, this would say that knowing r1 buys nothing."""
    first, problem, none = (second_moments(tiny(1), baseline)[0] for baseline in ("first", "problem", "none"))
    assert first < 0.9 * problem and first < 0.9 * none


def test_no_baseline_can_have_the_gradient_of_least_variance():
    """What score.py's opening says of variance: once right answers are probable, failures have the large gradients.

    All baselines have the same expected gradient, so the second moments order the variances.
    """
    policy = tiny(1)
    optimizer = torch.optim.Adam(policy.parameters(), lr=0.05)
    for _ in range(60):  # the right first and second answers become probable
        loss = -log_prob(policy, X1, [0, EOS], 1.0)
        for y1 in ANSWERS:
            loss = loss - log_prob(policy, X1 + y1 + P1, [1, EOS], 1.0) / len(ANSWERS)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if loss < 0.6:
            break
    moments = {baseline: second_moments(policy, baseline) for baseline in ("first", "problem", "none")}
    assert moments["none"][1] < 0.8 * min(moments["first"][1], moments["problem"][1]), moments


def _shifted(original):
    def broken(logp, kl, turn, *rest):
        return original(logp, kl, turn.roll(1, dims=1), *rest)

    return broken


def _without_eos(original):
    def broken(policy, reference, ids, turn, *rest, **kw):
        return original(policy, reference, ids, turn * (ids != EOS), *rest, **kw)

    return broken


def _kl_of(make):
    def wrap(original):
        def broken(policy, reference, ids, turn, temperature=1.0, chunk=8192):
            logp, kl, entropy = original(policy, reference, ids, turn, temperature, chunk)
            with torch.no_grad():
                ref = original(reference, None, ids, turn, temperature, chunk)[0]
            return logp, make(logp, kl, ref), entropy

        return broken

    return wrap


def _without_future(original):
    def broken(logp, kl, mask, A, beta, count):
        return ((-A[:, None] * logp + beta * kl) * mask).sum() / count

    return broken


def _wrong_turn(original):
    def broken(logp, kl, turn, A, beta1, beta2, count):
        return original(logp, kl, turn, A, beta2, beta1, count)

    return broken


MUTATIONS = {
    "shifted mask": ("_sum_of_turns", _shifted, 1),
    "missing EOS": ("answer_stats", _without_eos, 2),
    "KL on the wrong turn": ("stage1_loss", _wrong_turn, 1),
    "KL as the mean log ratio": ("answer_stats", _kl_of(lambda logp, kl, ref: logp - ref), 1),
    "KL reversed": ("answer_stats", _kl_of(lambda logp, kl, ref: (ref - logp).exp() - 1 + logp - ref), 1),
    "KL without the states after": ("turn_loss", _without_future, 2),
    "temperature left out": ("answer_stats", lambda f: lambda p, r, i, t, temperature, chunk: f(p, r, i, t, 1.0, chunk), 2),
}


@pytest.mark.parametrize("bug", MUTATIONS)
def test_goes_red(bug, monkeypatch):
    name, wrap, stage = MUTATIONS[bug]
    monkeypatch.setattr(score, name, wrap(getattr(score, name)))
    temperature = 0.7 if "temperature" in bug else 1.0
    assert largest_error(stage, temperature=temperature) > 3e-3


def test_goes_red_for_gamma_one():
    assert largest_error(2, gamma=0.0, claimed_gamma=1.0) > 3e-3


def test_goes_red_for_a_drifting_reference():
    policy, reference, drifted = tiny(1), tiny(2), tiny(2)
    with torch.no_grad():
        for p in drifted.parameters():
            p.add_(0.05 * torch.randn_like(p))
    exact = exact_gradient(policy, reference, 2, 0.0, 1.0)
    ours = expected_gradient(policy, drifted, 2, "first", 0.0, 1.0)
    assert max((a - b).abs().max().item() for a, b in zip(exact, ours)) > 3e-3
