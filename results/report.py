"""Statistics, tables, claims and figures of a comparison, from the data in paper.json and figures.json.

Every arm of a seed starts from the same base model and answers the same problems. Differences are therefore paired, by
seed and by problem: they have smaller intervals than the arms themselves.
"""

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
    n, mean = len(values), sum(values) / len(values)
    if n == 1:
        return mean, float("nan")
    variance = sum((v - mean) ** 2 for v in values) / (n - 1)
    return mean, T975[n - 2] * (variance / n) ** 0.5


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


# ------------------------------------------------------------------ tables


def plus_minus(mean: float, ci: float, form: str = ".1f") -> str:
    """Format a mean and the half-width of its interval, if it has one."""
    return f"{mean:{form}}" + (f" ± {ci:.1f}" if ci == ci else "")


def markdown(header: tuple, rows: list) -> str:
    """Format a table."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)


HEADER = (
    "arm", "seeds", "answers drawn, updates", "Acc@t1", "Acc@t2", "Δ(t1,t2)", "Δ i→c", "Δ c→i", "changed",
    "the paper: t1 / t2 / Δ / i→c / c→i", "SCoRe's Δ above it? (seeds; problems)", "SCoRe's Acc@t2 above it?",
)  # fmt: skip


def arm_table(found: dict, arms: tuple) -> str:
    """Format one table of the paper, ours beside its numbers."""
    return markdown(HEADER, [arm_row(found, arm) for arm in arms if arm in found])


def arm_row(found: dict, name: str) -> list[str]:
    """Return the cells of an arm: means over seeds, and the paired comparison with SCoRe."""
    arm, results = ARMS[name], list(found[name].values())
    cells = [plus_minus(*mean_ci(values_of(found, name, key))) for key in ("t1", "t2", "delta", "fixed", "spoiled")]
    changed, _ = mean_ci(values_of(found, name, "changed"))
    budgets = [x["budget"] for x in results]
    answers, updates = (sum(column) / len(column) for column in zip(*budgets))
    cost = f"{answers / 1000:.0f}k, {updates:.0f}" if answers else "none"
    paper = " / ".join(f"{x:.1f}" for x in arm.paper) or "no row"
    best = "code-score" if arm.task == "code" else "score"
    lead = ["", ""]
    if name != best and best in found:
        lead = [is_ahead(found, best, name, metric) for metric in ("delta", "t2")]
    return [arm.title, str(len(results)), cost, *cells, f"{changed:.0f} %", paper, *lead]


def is_ahead(found: dict, best: str, arm: str, metric: str) -> str:
    """Format whether `best` is ahead of an arm by more than both half-widths of the paired comparison."""
    mean, over_seeds, over_problems = paired(found, best, arm, metric)
    if over_seeds != over_seeds:
        return "undecided"
    clear = abs(mean) > max(over_seeds, over_problems)
    word = "undecided" if not clear else "found" if mean > 0 else "not found"
    return f"{word} ({mean:+.1f} ± {over_seeds:.1f}; ± {over_problems:.1f})"


def small_table(found: dict, arms: tuple) -> str:
    """Format the table of the first README: the most important numbers of a few arms."""
    rows = []
    for name in arms:
        if name in found:
            cells = [plus_minus(*mean_ci(values_of(found, name, metric))) for metric in ("t1", "t2", "delta")]
            paper = f"{ARMS[name].paper[2]:.1f}".replace("-", "−") if ARMS[name].paper else "no row"
            rows.append([ARMS[name].title, *cells, paper])
    return markdown(("system", "Acc@t1", "Acc@t2", "Δ(t1,t2)", "Δ in the paper (MATH)"), rows)


def seed_table(found: dict, arms: tuple) -> str:
    """Format every seed of these arms; ± is the interval over problems."""
    rows = []
    for arm in arms:
        for seed, x in found.get(arm, {}).items():
            m = x["metrics"]
            delta = f"{m['delta']:+.1f} ± {m['delta_ci']:.1f}"
            accuracies = [f"{m['t1']:.1f}", f"{m['t2']:.1f}", delta, f"{m['fixed']:.1f}", f"{m['spoiled']:.1f}"]
            rows.append([ARMS[arm].title, seed, *accuracies, f"{100 - m['same']:.0f} %"])
    return markdown(("arm", "seed", "Acc@t1", "Acc@t2", "Δ(t1,t2)", "Δ i→c", "Δ c→i", "changed"), rows)


def turns_table(ten: dict) -> str:
    """Format the accuracy at each attempt. ten: arm -> seed -> ten accuracies."""
    rows = []
    for arm, by_seed in ten.items():
        runs = list(by_seed.values())
        t1, t2, t3, t4, *_, t10 = (list(values) for values in zip(*runs))  # one value per seed
        gain3 = [after - before for before, after in zip(t2, t3)]
        gain4 = [after - before for before, after in zip(t3, t4)]
        cells = [plus_minus(*mean_ci(values)) for values in (t1, t2, t3, t4, gain3, gain4, t10)]
        rows.append([ARMS[arm].title, str(len(runs)), *cells])
    return markdown(("arm", "seeds", "Acc@t1", "Acc@t2", "Acc@t3", "Acc@t4", "Δ(t2,t3)", "Δ(t3,t4)", "Acc@t10"), rows)


# ------------------------------------------------------------------ the paper's claims
#
# Three tests, the first the strictest. Arms "below" and "fewer": the two intervals over seeds do not touch. The highest
# of all arms, and votes: the interval of the paired difference excludes 0. An ablation: the larger of its two losses
# exceeds one standard error (not two, since three seeds are few).


def claims_table(found: dict, votes: dict) -> str:
    """Format the paper's main claims, each with a verdict: holds, does not hold, or undecided."""
    rows = [base_claim(found)] if "base" in found else []
    if "score" in found:
        for arm in ("star-d", "star-d+", "pairs-d", "pairs-d+"):
            if arm in found:
                rows += [changes_claim(found, arm), delta_claim(found, arm)]
        if "naive" in found:
            rows.append(delta_claim(found, "naive"))
        rows += highest_claim(found)
        rows += [ablation_claim(found, arm) for arm in ("no-stage1", "no-shaping") if arm in found]
    by_seed = list(votes.get("score", {}).values())
    for k in by_seed[0] if by_seed else ():
        mean, ci = mean_ci([by_k[k][1] - by_k[k][0] for by_k in by_seed])
        rows.append([f"K + K votes beat 2K, K = {k}", verdict(mean, ci), or_one_seed(mean, ci, "+.1f")])
    return markdown(("claim", "here", "numbers"), rows)


def verdict(mean: float, ci: float) -> str:
    """Return whether a quantity that is claimed to be above 0 is so, by its interval mean ± ci."""
    return "holds" if mean - ci > 0 else "does not hold" if mean + ci < 0 else "undecided"


def or_one_seed(mean: float, ci: float, form: str = ".1f") -> str:
    """Format mean and interval, and name the reason if there is no interval."""
    return plus_minus(mean, ci, form) + ("" if ci == ci else " (one seed)")


def base_claim(found: dict) -> list[str]:
    """The base model does not correct itself."""
    mean, ci = mean_ci(values_of(found, "base", "delta"))
    word = "holds" if mean <= 0 else "does not hold" if mean - ci > 0 else "undecided"
    return ["base: Δ is not above 0", word, or_one_seed(mean, ci, "+.1f")]


def changes_claim(found: dict, arm: str) -> list[str]:
    """Fine-tuning changes fewer answers than SCoRe."""
    word, numbers = intervals_apart(found, arm, "changed")
    return [f"{ARMS[arm].title}: fewer changed answers than SCoRe", word, numbers]


def delta_claim(found: dict, arm: str) -> list[str]:
    """An arm corrects itself less than SCoRe."""
    word, numbers = intervals_apart(found, arm, "delta")
    mean, ci, _ = paired(found, "score", arm, "delta")
    return [f"{ARMS[arm].title}: Δ below SCoRe's", word, f"{numbers}; seed by seed {or_one_seed(mean, ci, '+.1f')}"]


def intervals_apart(found: dict, arm: str, metric: str) -> tuple[str, str]:
    """Return the verdict whether SCoRe's mean is above the arm's, with intervals that do not touch, and the numbers."""
    ours, theirs = (mean_ci(values_of(found, name, metric)) for name in ("score", arm))
    return verdict(ours[0] - theirs[0], ours[1] + theirs[1]), f"{or_one_seed(*ours)} against {or_one_seed(*theirs)}"


def highest_claim(found: dict) -> list[list[str]]:
    """Compare SCoRe's Accuracy@t2 with that of the arm that is nearest to it, or furthest ahead."""
    rivals = [arm for arm in found if ARMS[arm].task == "false-position" and arm != "score"]
    if not rivals:
        return []
    leads = {arm: paired(found, "score", arm, "t2") for arm in rivals}
    nearest = min(leads, key=lambda arm: leads[arm][0])
    mean, over_seeds, over_problems = leads[nearest]
    numbers = f"the nearest, {ARMS[nearest].title}: {or_one_seed(mean, over_seeds, '+.1f')}"
    return [["SCoRe: the highest Accuracy@t2 of all arms", verdict(mean, max(over_seeds, over_problems)), numbers]]


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

RATIOS = [round(0.05 * i, 2) for i in range(21)]  # lower edges of Fig. 4's bins


def plain_title(arm: str) -> str:
    """Return an arm's title without the bold of the tables."""
    return ARMS[arm].title.strip("*")


def in_common(curves_: dict, arms: tuple, key: str) -> dict:
    """Return the runs of the seeds for which every arm (of those with any) has a curve of `key`: drawn side by side."""
    seeds = {}
    for name, points in curves_.items():
        arm, seed = name.rsplit("-", 1)
        if arm in arms and any(p[key] is not None for p in points):
            seeds.setdefault(arm, set()).add(seed)
    shared = set.intersection(*seeds.values()) if seeds else set()
    names = [f"{arm}-{seed}" for arm in seeds for seed in sorted(shared)]
    return {name: curves_[name] for name in names}


def plot_mean(ax, curves_: dict, arm: str, key: str, label: str, **style) -> None:
    """Draw one number over training, the mean over seeds, as far as all of them have it."""
    runs = []
    for name, points in curves_.items():
        if name.rsplit("-", 1)[0] == arm:
            runs.append([p for p in points if p[key] is not None])
    steps, means = [], []
    for points in zip(*runs):  # the same step of all runs
        steps.append(points[0]["step"])
        means.append(sum(p[key] for p in points) / len(points))
    if steps:
        ax.plot(steps, means, label=label, **style)


def plot_accuracies(ax, curves_: dict, arms: tuple) -> None:
    """Draw both accuracies of two arms over training."""
    runs = in_common(curves_, arms, "t2")
    for arm, color in zip(arms, ("C1", "C0")):
        plot_mean(ax, runs, arm, "t1", f"{plain_title(arm)}, t1", color=color, linestyle="--")
        plot_mean(ax, runs, arm, "t2", f"{plain_title(arm)}, t2", color=color, linestyle="-")


def draw_training(axes, figures: dict) -> None:
    """Fig. 6: naive RL copies its first answers, SCoRe does not."""
    plot_accuracies(axes[0], figures["training"], ("naive", "score"))
    axes[0].set(title="Fig. 6", xlabel="updates", ylabel="accuracy, %")
    runs = in_common(figures["training"], ("naive", "score"), "t2")
    for arm, color in (("naive", "C1"), ("score", "C0")):
        plot_mean(axes[1], runs, arm, "changed", plain_title(arm), color=color)
    axes[1].set(title="second answer differs from the first", xlabel="updates", ylabel="%")


def draw_repairs(axes, figures: dict) -> None:
    """Fig. 5: correcting the base model's first answers, which stay the same, and one's own."""
    for ax, arm, title in zip(axes, ("pairs-d", "score"), ("Fig. 5: Pair-SFT", "SCoRe")):
        runs = in_common(figures["training"], (arm,), "repairs")
        plot_mean(ax, runs, arm, "repairs", "on the base's first answers")
        plot_mean(ax, runs, arm, "t2", "on its own")
        ax.set(title=title, xlabel="updates", ylabel="Accuracy@t2, %")


def draw_gamma(axes, figures: dict) -> None:
    """Fig. 9: γ above 0 also rewards the first turn for the second."""
    plot_accuracies(axes[0], figures["training"], ("gamma", "score"))
    axes[0].set(title="Fig. 9: γ above 0", xlabel="updates", ylabel="accuracy, %")


def draw_edits(axes, figures: dict) -> None:
    """Fig. 4: how much of an answer the second one changes."""
    for arm in TABLES["main"]:
        counts = figures["edit ratios"].get(arm)
        if counts:
            axes[0].plot(RATIOS, [100 * c / max(sum(counts), 1) for c in counts], label=plain_title(arm))
    axes[0].set(title="Fig. 4", xlabel="edit distance over both lengths", ylabel="% of answers", yscale="log")


def draw_attempts(axes, figures: dict) -> None:
    """Fig. 8, and Fig. 1, right: means over seeds; Fig. 8 over the seeds that all its arms have."""
    ten = figures["ten attempts"]
    shared = set.intersection(*map(set, ten.values())) if ten else set()
    for arm in ten if shared else ():
        runs = [ten[arm][seed] for seed in shared]
        axes[0].plot(range(1, 11), [sum(values) / len(values) for values in zip(*runs)], label=plain_title(arm))
    axes[0].set(title="Fig. 8", xlabel="attempt", ylabel="accuracy, %")
    for arm, by_seed in figures["votes"].items():
        runs = list(by_seed.values())
        drawn, parallel, corrected = [], [], []
        for k in runs[0]:
            drawn.append(2 * int(k))
            parallel.append(sum(run[k][0] for run in runs) / len(runs))
            corrected.append(sum(run[k][1] for run in runs) / len(runs))
        axes[1].plot(drawn, parallel, "--", label=f"{plain_title(arm)}: 2K in parallel")
        axes[1].plot(drawn, corrected, "-", label=f"{plain_title(arm)}: K, each corrected")
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


def draw(figures: dict, folder: Path) -> str:
    """Draw the figures as PNG files; return one line that says so, or that matplotlib is missing."""
    try:
        import matplotlib
    except ImportError:
        return "matplotlib is not installed, so no figure was drawn: pip install matplotlib, then give --no_runs"
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
    return "figures drawn: " + ", ".join(f"{name}.png" for name in FIGURES)
