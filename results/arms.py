"""The systems that the paper compares, with its numbers, and the rows of its tables."""

from dataclasses import dataclass


@dataclass
class Arm:
    """One row of the paper's tables."""

    title: str
    flags: str | None = None  # of train.py, or (with --method) of baselines.py; None: the base model itself
    paper: tuple = ()  # the paper's t1, t2, Δ, i→c, c→i on MATH (code: HumanEval); its ablations have only three
    start: str = ""  # "ARM/STAGE": the checkpoint of another arm, same seed, from which this one starts
    turns: int = 2  # answers in a row when it is measured; the last one counts as the second
    task: str = "false-position"


# {one}, {two}: steps of Stage I and of Stage II; {all}: both together. Every arm draws as many dialogues, and makes as
# many updates (Pair-SFT fewer: it ends after one epoch, as in the paper).
BOTH = "--stage 2 --stage1_steps {one} --stage2_steps {two}"
FROM_BASE = "--stage 2 --stage1_steps 0 --stage2_steps {all}"
FROM_STAGE1 = "--stage 2 --stage1_steps 0 --stage2_steps {two}"
HALF = "--stage 2 --stage1_steps {half_one} --stage2_steps {half_two}"
STAR, PAIRS = "--method star --stage2_steps {all}", "--method pairs --stage2_steps {all}"
ON_D = " --stage2_lr 5e-6"  # D imitates second answers only: a higher rate loses the first ones (results/earlier.md)
CURVE = " --eval_every 50"  # steps between the points of Fig. 5, 6 and 9
ARMS = {
    "base": Arm("base, prompted twice", None, (52.6, 41.4, -11.2, 4.6, 15.8)),
    "self-refine": Arm("Self-Refine", None, (52.8, 51.8, -1.0, 3.2, 4.2), turns=3),
    "star-d": Arm("STaR, D", STAR + ON_D, (55.4, 41.2, -14.2, 5.4, 19.6)),
    "star-d+": Arm("STaR, D⁺", STAR + " --keep_right", (53.6, 54.0, 0.4, 2.6, 2.2)),
    "pairs-d": Arm("Pair-SFT, D", PAIRS + ON_D + " --eval_every 10", (52.4, 54.2, 1.8, 5.4, 3.6)),
    "pairs-d+": Arm("Pair-SFT, D⁺", PAIRS + " --keep_right", (55.0, 55.0, 0.0, 0.0, 0.0)),
    "single": Arm("single-turn RL", FROM_BASE + " --single_turn --offline 0", (61.8, 59.4, -2.4)),
    "naive": Arm("naive multi-turn RL", FROM_BASE + " --alpha 0 --offline 0" + CURVE),
    "no-stage1": Arm("SCoRe without Stage I", FROM_BASE, (59.2, 61.4, 2.2)),
    "no-shaping": Arm("SCoRe without shaping", FROM_STAGE1 + " --alpha 0", (60.0, 62.6, 2.6), "score/stage1"),
    "star-stage2": Arm(
        "STaR for REINFORCE in Stage II", "--method star --keep_right --stage2_steps {two}", (56.2, 58.4, 2.2),
        "score/stage1",
    ),
    "gamma": Arm("SCoRe with γ = 0.8", BOTH + " --gamma 0.8" + CURVE),
    # another seed: with the first round's, the second would draw the same problems again
    "rounds": Arm("SCoRe, two rounds of I and II", HALF + " --seed {other_seed}", start="round1/stage2"),
    "no-offline": Arm("SCoRe without offline first attempts", FROM_STAGE1 + " --offline 0", start="score/stage1"),
    "alpha10": Arm("SCoRe with the paper's α = 10", FROM_STAGE1 + " --alpha 10", start="score/stage1"),
    "score": Arm("**SCoRe**", BOTH + CURVE, (60.0, 64.4, 4.4, 5.8, 1.4)),
    "round1": Arm("the first of two rounds", HALF),  # without a row of its own
    "code-base": Arm("base, prompted twice", None, (53.7, 56.7, 3.0, 7.9, 4.9), task="code"),
    "code-self-refine": Arm("Self-Refine", None, (53.7, 52.5, -1.2, 9.8, 11.0), turns=3, task="code"),
    "code-pairs-d": Arm("Pair-SFT, D", PAIRS + ON_D, (56.1, 54.3, -1.8, 4.3, 6.1), task="code"),
    "code-score": Arm("**SCoRe**", BOTH, (52.4, 64.6, 12.2, 15.2, 3.0), task="code"),
}  # fmt: skip
BASES = {"false-position": "base", "code": "code-base"}  # all arms of a seed share one base model
TABLES = {
    "main": ("base", "self-refine", "star-d", "star-d+", "pairs-d", "pairs-d+", "naive", "score"),  # Tables 1 and 2
    "ablations": (  # Table 4, and ours
        "score", "single", "no-stage1", "no-shaping", "star-stage2", "gamma", "rounds", "no-offline", "alpha10",
    ),
    "code": ("code-base", "code-self-refine", "code-pairs-d", "code-score"),  # Table 3
}  # fmt: skip
MOST_SEEDS = ("base", "self-refine", "naive", "score")  # the others have fewer

# The claims: written down before any model of this corpus had seen the test split. Each says that a metric of the first
# arm exceeds that of the second, in the mean over seeds; "" stands for 0.
CLAIMS = [
    ("the base model makes its answers worse: Δ below 0", "delta", "", "base"),
    ("SCoRe's Δ is above 0", "delta", "score", ""),
    ("SCoRe's Δ is above naive RL's", "delta", "score", "naive"),
    ("SCoRe's first answers are better than the base model's", "t1", "score", "base"),
    ("SCoRe spoils less than the base model", "spoiled", "base", "score"),
    *((f"SCoRe's Accuracy@t2 is above that of: {ARMS[arm].title}", "t2", "score", arm)
      for arm in ("base", "star-d", "star-d+", "pairs-d", "pairs-d+", "naive", "single")),
    ("STaR on D spoils more than STaR on D⁺", "spoiled", "star-d", "star-d+"),
    ("naive RL changes fewer answers than the base model", "changed", "base", "naive"),
    ("without Stage I Δ is lower", "delta", "score", "no-stage1"),
    ("without Stage I Accuracy@t2 is lower", "t2", "score", "no-stage1"),
    ("without shaping Δ is lower", "delta", "score", "no-shaping"),
    ("without shaping Accuracy@t2 is lower", "t2", "score", "no-shaping"),
    ("γ = 0.8 collapses: Accuracy@t2 is lower", "t2", "score", "gamma"),
]  # fmt: skip
