"""Statistics, tables, claims and figures of a comparison, from the data in paper.json and figures.json.

Every arm of a seed starts from the same base model and answers the same problems. Differences are therefore paired, by
seed and by problem: they have smaller intervals than the arms themselves.
"""

import statistics
from pathlib import Path

import torch
from arms import ARMS, TABLES


# ------------------------------------------------------------------ statistics

# 97.5 % quantiles of Student's t, for 1 to 9 degrees of freedom
T975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
WORTH = {"t1": (0, 100, 0, 100), "t2": (0, 0, 100, 100), "delta": (0, -100, 100, 0)}  # of the outcomes 0, 1, 2, 3


def values_of(found: dict, arm: str, metric: str) -> list[float]:
    """Return one number per seed; `changed` is the share of second answers that differ from the first."""
    if metric == "changed":
        return [100 - x["metrics"]["same"] for x in found[arm].values()]
    return [x["metrics"][metric] for x in found[arm].values()]


def mean_ci(values: list[float]) -> tuple[float, float]:
    """Return the mean over seeds and the half-width of its 95 % interval (Student's t); nan for a single seed."""
    n, mean = len(values), statistics.fmean(values)
    if n == 1:
        return mean, float("nan")
    return mean, T975[n - 2] * statistics.stdev(values) / n**0.5


def paired(found: dict, arm: str, other: str, metric: str) -> tuple[float, float, float]:
    """Return how far `arm` is ahead of `other` in t1, t2 or delta: the mean, and two 95 % half-widths of it.

    Each seed and each problem is compared with itself. The first half-width is over seeds (Student's t on their means:
    would other seeds agree?), the second over problems (on each problem's mean over the seeds: would other problems?).
    """
    seeds = sorted(found[arm].keys() & found[other].keys())
    if not seeds:
        return float("nan"), float("nan"), float("nan")
    worth, gaps = WORTH[metric], []
    for seed in seeds:
        pairs = zip(found[arm][seed]["outcomes"], found[other][seed]["outcomes"], strict=True)
        gaps.append([worth[int(a)] - worth[int(b)] for a, b in pairs])
    gaps = torch.tensor(gaps, dtype=torch.float64)  # (seeds, n)
    mean, over_seeds = mean_ci(gaps.mean(1).tolist())
    over_problems = 1.96 * gaps.mean(0).std(correction=0).item() / gaps.shape[1] ** 0.5
    return mean, over_seeds, over_problems


def verdict(mean: float, ci: float, yes: str = "holds", no: str = "does not hold") -> str:
    """Return whether a quantity that is claimed to be above 0 is so, by its interval mean ± ci."""
    return yes if mean - ci > 0 else no if mean + ci < 0 else "undecided"


# ------------------------------------------------------------------ tables


def plus_minus(mean: float, ci: float, form: str = ".1f") -> str:
    """Format a mean and the half-width of its interval; a single seed has none."""
    return f"{mean:{form}}" + (f" ± {ci:.1f}" if ci == ci else "")


def cells(found: dict, arm: str, *metrics: str) -> list[str]:
    """Format means over seeds with their intervals."""
    return [plus_minus(*mean_ci(values_of(found, arm, metric))) for metric in metrics]


def markdown(header: str, rows: list) -> str:
    """Format a table; the columns of its header are divided by |."""
    lines = [f"| {header} |", "|" + "---|" * (header.count("|") + 1)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)


def arm_table(found: dict, arms: tuple) -> str:
    """Format one table of the paper, ours beside its numbers."""
    header = "arm | seeds | answers drawn, updates | Acc@t1 | Acc@t2 | Δ(t1,t2) | Δ i→c | Δ c→i | changed"
    header += " | the paper: t1 / t2 / Δ / i→c / c→i | SCoRe's Δ above it? (seeds; problems) | SCoRe's Acc@t2 above it?"
    return markdown(header, [arm_row(found, arm) for arm in arms if arm in found])


def arm_row(found: dict, name: str) -> list[str]:
    """Return the cells of an arm: means over seeds, and the paired comparison with SCoRe."""
    arm, results = ARMS[name], list(found[name].values())
    answers, updates = (sum(column) / len(results) for column in zip(*[x["budget"] for x in results]))
    cost = f"{answers / 1000:.0f}k, {updates:.0f}" if answers else "none"
    changed, _ = mean_ci(values_of(found, name, "changed"))
    paper = " / ".join(f"{x:.1f}" for x in arm.paper) or "no row"
    best = "code-score" if arm.task == "code" else "score"
    lead = ["", ""]
    if name != best and best in found:
        lead = [is_ahead(found, best, name, metric) for metric in ("delta", "t2")]
    numbers = cells(found, name, "t1", "t2", "delta", "fixed", "spoiled")
    return [arm.title, str(len(results)), cost, *numbers, f"{changed:.0f} %", paper, *lead]


def is_ahead(found: dict, best: str, arm: str, metric: str) -> str:
    """Format whether `best` is ahead of an arm by more than both half-widths of the paired comparison."""
    mean, over_seeds, over_problems = paired(found, best, arm, metric)
    word = verdict(mean, max(over_seeds, over_problems), "found", "not found")
    return f"{word} ({plus_minus(mean, over_seeds, '+.1f')}; ± {over_problems:.1f})"


def small_table(found: dict, arms: tuple) -> str:
    """Format the table of the first README: the most important numbers of a few arms."""
    rows = []
    for name in arms:
        if name in found:
            paper = f"{ARMS[name].paper[2]:.1f}".replace("-", "−") if ARMS[name].paper else "no row"
            rows.append([ARMS[name].title, *cells(found, name, "t1", "t2", "delta"), paper])
    return markdown("system | Acc@t1 | Acc@t2 | Δ(t1,t2) | Δ in the paper (MATH)", rows)


def seed_table(found: dict, arms: tuple) -> str:
    """Format every seed of these arms; ± is the interval over problems."""
    rows = []
    for arm in arms:
        for seed, x in found.get(arm, {}).items():
            m = x["metrics"]
            delta = plus_minus(m["delta"], m["delta_ci"], "+.1f")
            numbers = [f"{m['t1']:.1f}", f"{m['t2']:.1f}", delta, f"{m['fixed']:.1f}", f"{m['spoiled']:.1f}"]
            rows.append([ARMS[arm].title, seed, *numbers, f"{100 - m['same']:.0f} %"])
    return markdown("arm | seed | Acc@t1 | Acc@t2 | Δ(t1,t2) | Δ i→c | Δ c→i | changed", rows)


def turns_table(ten: dict) -> str:
    """Format the accuracy at each attempt. ten: arm -> seed -> ten accuracies."""
    rows = []
    for arm, by_seed in ten.items():
        t1, t2, t3, t4, *_, t10 = (list(values) for values in zip(*by_seed.values()))  # one value per seed
        gain3 = [after - before for before, after in zip(t2, t3)]
        gain4 = [after - before for before, after in zip(t3, t4)]
        columns = (t1, t2, t3, t4, gain3, gain4, t10)
        rows.append([ARMS[arm].title, str(len(by_seed)), *(plus_minus(*mean_ci(values)) for values in columns)])
    return markdown("arm | seeds | Acc@t1 | Acc@t2 | Acc@t3 | Acc@t4 | Δ(t2,t3) | Δ(t3,t4) | Acc@t10", rows)


# ------------------------------------------------------------------ the paper's claims
#
# Three tests, the first the strictest. Arms "below" and "fewer": the two intervals over seeds do not touch. The highest
# of all arms, and votes: the interval of the paired difference excludes 0. An ablation: the larger of its two losses
# exceeds one standard error (not two, since three seeds are few).


def claims_table(found: dict, votes: dict) -> str:
    """Format the paper's main claims, each with a verdict: holds, does not hold, or undecided."""
    if not found.keys() >= set(TABLES["sft"] + TABLES["ablations"]):
        return "The claims need the runs of all arms."
    mean, ci = mean_ci(values_of(found, "base", "delta"))
    rows = [["base: Δ is not above 0", "holds" if mean <= 0 else verdict(-mean, ci), plus_minus(mean, ci, "+.1f")]]
    for arm in ("star-d", "star-d+", "pairs-d", "pairs-d+"):
        rows.append(below_claim(found, arm, "changed", "fewer changed answers than SCoRe"))
        rows.append(below_claim(found, arm, "delta", "Δ below SCoRe's"))
    rows.append(below_claim(found, "naive", "delta", "Δ below SCoRe's"))
    rows.append(highest_claim(found))
    rows += [ablation_claim(found, arm) for arm in ("no-stage1", "no-shaping")]
    by_seed = votes["score"].values()
    for k in next(iter(by_seed)):
        mean, ci = mean_ci([by_k[k][1] - by_k[k][0] for by_k in by_seed])
        rows.append([f"K + K votes beat 2K, K = {k}", verdict(mean, ci), plus_minus(mean, ci, "+.1f")])
    return markdown("claim | here | numbers", rows)


def below_claim(found: dict, arm: str, metric: str, claim: str) -> list[str]:
    """An arm has less of a metric than SCoRe."""
    (ours, our_ci), (theirs, their_ci) = (mean_ci(values_of(found, name, metric)) for name in ("score", arm))
    numbers = f"{plus_minus(ours, our_ci)} against {plus_minus(theirs, their_ci)}"
    if metric == "delta":
        mean, over_seeds, _ = paired(found, "score", arm, "delta")
        numbers += f"; seed by seed {plus_minus(mean, over_seeds, '+.1f')}"
    return [f"{ARMS[arm].title}: {claim}", verdict(ours - theirs, our_ci + their_ci), numbers]


def highest_claim(found: dict) -> list[str]:
    """Compare SCoRe's Accuracy@t2 with that of the arm that is nearest to it, or furthest ahead."""
    rivals = [arm for arm in found if ARMS[arm].task == "false-position" and arm != "score"]
    leads = {arm: paired(found, "score", arm, "t2") for arm in rivals}
    nearest = min(leads, key=lambda arm: leads[arm][0])
    mean, over_seeds, over_problems = leads[nearest]
    numbers = f"the nearest, {ARMS[nearest].title}: {plus_minus(mean, over_seeds, '+.1f')}"
    return ["SCoRe: the highest Accuracy@t2 of all arms", verdict(mean, max(over_seeds, over_problems)), numbers]


def ablation_claim(found: dict, arm: str) -> list[str]:
    """SCoRe loses something without one of its parts."""
    losses = {metric: paired(found, "score", arm, metric) for metric in ("delta", "t2")}
    metric = max(losses, key=lambda name: losses[name][0])
    mean, ci, _ = losses[metric]
    n = len(found["score"].keys() & found[arm].keys())
    error = ci / T975[n - 2] if n > 1 else float("nan")
    numbers = f"{metric} by {mean:.1f}, s.e. {error:.1f}"
    return [f"{ARMS[arm].title}: lowers Δ or Accuracy@t2", verdict(mean, error), numbers]


def all_tables(found: dict, figures: dict) -> dict[str, str]:
    """Return name -> Markdown of every table, from the arms of paper.json and the data of figures.json."""
    tables = {name: arm_table(found, arms) for name, arms in TABLES.items()}
    tables["small"] = small_table(found, ("base", "star-d+", "pairs-d", "naive", "score"))
    tables["seeds"] = seed_table(found, ("naive", "score"))
    tables["turns"] = turns_table(figures["ten attempts"])
    tables["claims"] = claims_table(found, figures["votes"])
    return tables


# ------------------------------------------------------------------ figures


def plain_title(arm: str) -> str:
    """Return an arm's title without the bold of the tables."""
    return ARMS[arm].title.strip("*")


def plot_training(ax, training: dict, key: str, label: str, arms: dict, style: str = "-") -> None:
    """Draw one number over training per arm: the mean over the seeds that all arms have. arms: arm -> color."""
    seeds = [str(seed) for seed in range(10)]
    shared = [seed for seed in seeds if all(f"{arm}-{seed}" in training for arm in arms)]
    for arm, color in arms.items():
        steps, means = [], []
        for points in zip(*[training[f"{arm}-{seed}"] for seed in shared]):  # the same step of each seed
            steps.append(points[0]["step"])
            means.append(sum(p[key] for p in points) / len(points))
        ax.plot(steps, means, style, color=color, label=label.format(plain_title(arm)))


def plot_accuracies(ax, training: dict, arms: dict, title: str) -> None:
    """Draw both accuracies of some arms over training."""
    plot_training(ax, training, "t1", "{}, t1", arms, "--")
    plot_training(ax, training, "t2", "{}, t2", arms)
    ax.set(title=title, xlabel="updates", ylabel="accuracy, %")


def draw_training(axes, figures: dict) -> None:
    """Fig. 6: naive RL copies its first answers, SCoRe does not."""
    arms = {"naive": "C1", "score": "C0"}
    plot_accuracies(axes[0], figures["training"], arms, "Fig. 6")
    plot_training(axes[1], figures["training"], "changed", "{}", arms)
    axes[1].set(title="second answer differs from the first", xlabel="updates", ylabel="%")


def draw_gamma(axes, figures: dict) -> None:
    """Fig. 9: γ above 0 also rewards the first turn for the second."""
    plot_accuracies(axes[0], figures["training"], {"gamma": "C1", "score": "C0"}, "Fig. 9: γ above 0")


def draw_repairs(axes, figures: dict) -> None:
    """Fig. 5: correcting the base model's first answers, which stay the same, and one's own."""
    logged = {name: points for name, points in figures["training"].items() if points[0]["repairs"] is not None}
    for ax, arm, title in zip(axes, ("pairs-d", "score"), ("Fig. 5: Pair-SFT", "SCoRe")):
        plot_training(ax, logged, "repairs", "on the base's first answers", {arm: "C0"})
        plot_training(ax, logged, "t2", "on its own", {arm: "C1"})
        ax.set(title=title, xlabel="updates", ylabel="Accuracy@t2, %")


def draw_edits(axes, figures: dict) -> None:
    """Fig. 4: how much of an answer the second one changes. The data counts edit ratios in bins of 0.05."""
    for arm in ("base", "star-d+", "pairs-d", "naive", "score"):
        counts = figures["edit ratios"].get(arm)
        if counts:
            ratios = [0.05 * i for i in range(len(counts))]
            axes[0].plot(ratios, [100 * c / sum(counts) for c in counts], label=plain_title(arm))
    axes[0].set(title="Fig. 4", xlabel="edit distance over both lengths", ylabel="% of answers", yscale="log")


def draw_attempts(axes, figures: dict) -> None:
    """Fig. 8, and Fig. 1, right: means over seeds."""
    for arm, by_seed in figures["ten attempts"].items():
        means = torch.tensor(list(by_seed.values())).mean(0)  # (10,)
        axes[0].plot(range(1, 11), means, label=plain_title(arm))
    axes[0].set(title="Fig. 8", xlabel="attempt", ylabel="accuracy, %")
    for arm, by_seed in figures["votes"].items():
        drawn = [2 * int(k) for k in next(iter(by_seed.values()))]
        accuracies = torch.tensor([list(by_k.values()) for by_k in by_seed.values()]).mean(0)  # (K's, 2)
        axes[1].plot(drawn, accuracies[:, 0], "--", label=f"{plain_title(arm)}: 2K in parallel")
        axes[1].plot(drawn, accuracies[:, 1], "-", label=f"{plain_title(arm)}: K, each corrected")
    axes[1].set_xscale("log", base=2)
    axes[1].set(title="Fig. 1, right", xlabel="answers drawn", ylabel="vote's accuracy, %")


def draw_variance(axes, figures: dict) -> None:
    """One bar per baseline and α, on a log scale: α = 10 has some thirty times the variance of α = 1."""
    for i, (name, value) in enumerate(figures.get("gradient variance", {}).items()):
        axes[0].barh(i, value, label=name)
    axes[0].set(title="variance of the second turn's gradient", xlabel="trace of the covariance")
    axes[0].set(xscale="log", yticks=[])


FIGURES = {  # name -> drawing function, number of panels
    "training": (draw_training, 2), "repairs": (draw_repairs, 2), "gamma": (draw_gamma, 1), "edits": (draw_edits, 1),
    "attempts": (draw_attempts, 2), "variance": (draw_variance, 1),
}  # fmt: skip


def draw(figures: dict, folder: Path) -> None:
    """Draw the figures as PNG files. ImportError if matplotlib is missing."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    for name, (draw_figure, panels) in FIGURES.items():
        figure, axes = plt.subplots(1, panels, figsize=(4.5 * panels, 3.2), squeeze=False)
        draw_figure(axes[0], figures)
        for ax in axes[0]:
            if ax.get_legend_handles_labels()[0]:
                ax.legend(fontsize=7)
        figure.tight_layout()
        figure.savefig(folder / f"{name}.png", dpi=110)
        plt.close(figure)
