"""Statistics, tables, claims and figures of a comparison, from the data in paper.json and figures.json.

Every arm of a seed starts from the same base model and answers the same problems. Differences are therefore paired by
seed: they have smaller intervals than the arms themselves.
"""

import statistics
from pathlib import Path

from arms import ARMS, CLAIMS, TABLES

# ------------------------------------------------------------------ statistics

# 97.5 % quantiles of Student's t, for 1 to 9 degrees of freedom
T975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


def mean_ci(values: list[float]) -> tuple[float, float]:
    """Return the mean over seeds and the half-width of its 95 % interval (Student's t); nan for a single seed."""
    n, mean = len(values), statistics.fmean(values)
    if n == 1:
        return mean, float("nan")
    return mean, T975[n - 2] * statistics.stdev(values) / n**0.5


def seeds_needed(values: list[float]) -> str:
    """Return how many seeds of this mean and spread would have an interval that excludes 0."""
    mean, spread = abs(statistics.fmean(values)), statistics.stdev(values) if len(values) > 1 else float("nan")
    for n, t in enumerate((*T975, *[2.23] * 90), 2):  # 2.23: the quantile for 10 degrees; those for more are smaller
        if t * spread / n**0.5 < mean:
            return f"{n} seeds"
    return "more than 100 seeds" if len(values) > 1 else "more than one seed"


def values_of(found: dict, arm: str, metric: str) -> dict[str, float]:
    """Return seed -> a metric of an arm, in percent; `changed` is the share of second answers that differ from the first."""
    if metric == "changed":
        return {seed: 100 - x["metrics"]["same"] for seed, x in found[arm].items()}
    return {seed: x["metrics"][metric] for seed, x in found[arm].items()}


def differences(found: dict, more: str, less: str, metric: str) -> list[float]:
    """Return by how much arm `more` exceeds arm `less`, for each seed that both have; the name "" stands for 0."""
    a, b = (values_of(found, arm, metric) if arm else None for arm in (more, less))
    seeds = (a or b).keys() & (b or a).keys()
    return [(a[seed] if a else 0.0) - (b[seed] if b else 0.0) for seed in sorted(seeds)]


# ------------------------------------------------------------------ tables


def plus_minus(mean: float, ci: float, form: str = ".1f") -> str:
    """Format a mean and the half-width of its interval; a single seed has none."""
    return f"{mean:{form}}" + (f" ± {ci:.1f}" if ci == ci else "")


def cells(found: dict, arm: str, *metrics: str) -> list[str]:
    """Format means over seeds with their intervals."""
    return [plus_minus(*mean_ci([*values_of(found, arm, metric).values()])) for metric in metrics]


def markdown(header: str, rows: list) -> str:
    """Format a table; the columns of its header are divided by |."""
    lines = [f"| {header} |", "|" + "---|" * (header.count("|") + 1)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)


def arm_table(found: dict, arms: tuple) -> str:
    """Format the metrics of some arms, ours beside the paper's."""
    rows = []
    for name in arms:
        if name in found:
            paper = " / ".join(f"{x:.1f}" for x in ARMS[name].paper) or "no row"
            numbers = cells(found, name, "t1", "t2", "delta", "fixed", "spoiled", "changed")
            rows.append([ARMS[name].title, str(len(found[name])), *numbers, paper])
    header = "system | seeds | Acc@t1 | Acc@t2 | Δ(t1,t2) | Δ i→c | Δ c→i | changed"
    return markdown(header + " | the paper: t1 / t2 / Δ / i→c / c→i", rows)


def small_table(found: dict, arms: tuple) -> str:
    """Format the table of the first README: the most important numbers of a few arms."""
    rows = []
    for name in arms:
        if name in found:
            paper = f"{ARMS[name].paper[2]:.1f}".replace("-", "−") if ARMS[name].paper else "no row"
            rows.append([ARMS[name].title, *cells(found, name, "t1", "t2", "delta", "spoiled"), paper])
    return markdown("system | Acc@t1 | Acc@t2 | Δ(t1,t2) | Δ c→i | Δ in the paper (MATH)", rows)


def turns_table(ten: dict) -> str:
    """Format the accuracy at each attempt. ten: arm -> seed -> ten accuracies."""
    rows = []
    for arm, by_seed in ten.items():
        t1, t2, t3, t4, *_, t10 = (list(values) for values in zip(*by_seed.values()))  # one value per seed
        gain3 = [after - before for before, after in zip(t2, t3)]
        gain4 = [after - before for before, after in zip(t3, t4)]
        columns = (t1, t2, t3, t4, gain3, gain4, t10)
        rows.append([ARMS[arm].title, str(len(by_seed)), *(plus_minus(*mean_ci(values)) for values in columns)])
    return markdown("system | seeds | Acc@t1 | Acc@t2 | Acc@t3 | Acc@t4 | Δ(t2,t3) | Δ(t3,t4) | Acc@t10", rows)


def claims_table(found: dict, votes: dict) -> str:
    """Format each claim with its verdict: it holds, or does not, if the interval of its difference excludes 0."""
    rows = []
    for claim, metric, more, less in CLAIMS:
        known = all(arm in found for arm in (more, less) if arm)
        rows.append(claim_row(claim, differences(found, more, less, metric) if known else []))
    by_seed = votes.get("score", {}).values()
    for k in next(iter(by_seed), {}):
        rows.append(claim_row(f"K + K votes beat 2K, K = {k}", [by_k[k][1] - by_k[k][0] for by_k in by_seed]))
    return markdown("claim | here | difference", rows)


def claim_row(claim: str, values: list[float]) -> list[str]:
    """Return the cells of a claim that says: these differences, one per seed, are above 0."""
    if not values:
        return [claim, "not run", ""]
    mean, ci = mean_ci(values)
    if not any(values):
        return [claim, "no difference", ""]
    word = "holds" if mean - ci > 0 else "does not hold" if mean + ci < 0 else f"undecided: {seeds_needed(values)}"
    return [claim, word, f"{plus_minus(mean, ci, '+.1f')} ({', '.join(f'{x:.1f}' for x in values)})"]


def all_tables(found: dict, figures: dict) -> dict[str, str]:
    """Return name -> Markdown of every table, from the arms of paper.json and the data of figures.json."""
    tables = {name: arm_table(found, arms) for name, arms in TABLES.items()}
    tables["small"] = small_table(found, ("base", "star-d", "star-d+", "naive", "score"))
    tables["turns"] = turns_table(figures["ten attempts"])
    tables["claims"] = claims_table(found, figures["votes"])
    return tables


# ------------------------------------------------------------------ figures


def plain_title(arm: str) -> str:
    """Return an arm's title without the bold of the tables."""
    return ARMS[arm].title.strip("*")


def plot_training(ax, training: dict, key: str, label: str, arms: dict) -> None:
    """Draw one number over training: the mean over an arm's seeds, and a band from lowest to highest. arms: arm -> color."""
    for arm, color in arms.items():
        runs = [points for name, points in training.items() if name.rsplit("-", 1)[0] == arm]
        points = list(zip(*runs))  # those of the same step of each seed
        steps = [same[0]["step"] for same in points]
        values = [[p[key] for p in same] for same in points]
        ax.plot(steps, [statistics.fmean(v) for v in values], color=color, label=label.format(plain_title(arm)))
        ax.fill_between(steps, [min(v) for v in values], [max(v) for v in values], color=color, alpha=0.15, linewidth=0)


def draw_training(axes, figures: dict) -> None:
    """Fig. 6: how far the second answer rises above the first, and how many answers it changes."""
    colors = {"naive": "C1", "score": "C0"}
    for ax, arm in zip(axes, colors):
        plot_training(ax, figures["training"], "t1", "first answer", {arm: "C7"})
        plot_training(ax, figures["training"], "t2", "second answer", {arm: colors[arm]})
        ax.set(title=plain_title(arm), xlabel="updates", ylabel="accuracy, %", ylim=(60, 100))
    plot_training(axes[2], figures["training"], "changed", "{}", colors)
    axes[2].set(title="second answer differs from the first", xlabel="updates", ylabel="%")


def draw_repairs(axes, figures: dict) -> None:
    """Fig. 5: correcting the base model's first answers, which stay the same, and one's own."""
    logged = {name: points for name, points in figures["training"].items() if points[0]["repairs"] is not None}
    for ax, arm, title in zip(axes, ("score", "pairs-d"), ("Fig. 5: SCoRe", "Fig. 5: Pair-SFT")):
        if not any(name.startswith(f"{arm}-") for name in logged):
            ax.set_axis_off()
            continue
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
        means = [statistics.fmean(accuracies) for accuracies in zip(*by_seed.values())]
        axes[0].plot(range(1, 11), means, label=plain_title(arm))
    axes[0].set(title="Fig. 8", xlabel="attempt", ylabel="accuracy, %")
    for arm, by_seed in figures["votes"].items():
        for i, label, style in ((0, "2K in parallel", "--"), (1, "K, each corrected", "-")):
            drawn = [2 * int(k) for k in next(iter(by_seed.values()))]
            curves = [[both[i] for both in by_k.values()] for by_k in by_seed.values()]
            means = [statistics.fmean(accuracies) for accuracies in zip(*curves)]
            axes[1].plot(drawn, means, style, label=f"{plain_title(arm)}: {label}")
    axes[1].set_xscale("log", base=2)
    axes[1].set(title="Fig. 1, right", xlabel="answers drawn", ylabel="vote's accuracy, %")


# name -> drawing function, number of panels
FIGURES = {"training": (draw_training, 3), "repairs": (draw_repairs, 2), "edits": (draw_edits, 1), "attempts": (draw_attempts, 2)}


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
