"""``curves.png``: quality and diversity over the steps of a run, from its metrics.jsonl."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from dqo.metrics.names import comparable

INK, GRID = "#222222", "#e3e6e8"
BLUE, ORANGE, GREEN, PINK = "#0072b2", "#d55e00", "#009e73", "#cc79a7"  # Okabe and Ito's colors for color-blind readers

Lines = Sequence[Mapping[str, Any]]  # the lines of a metrics.jsonl


def draw_curves(path: Path, *, lines: Lines, title: str) -> None:
    """Write a PNG of 1600 × 1000 pixels with four panels: quality, different answers, distance of meaning, credit.

    Evaluations on held-out prompts are marked points; the training batch is a line, smoothed over a tenth of the run,
    with its raw values behind it in a pale color. Points that cannot be compared, since a resumed run has another
    eval.n or eval.prompts, are not joined.
    """
    figure = Figure(figsize=(16, 10), dpi=100, layout=ConstrainedLayoutEngine(w_pad=0.2, h_pad=0.2))
    figure.suptitle(title, fontsize=20, color=INK, fontweight="bold", x=0.01, ha="left", parse_math=False)
    quality, distinct, meaning, credit = figure.subplots(2, 2, sharex=True).flat
    _panel(quality, "Quality", "reward · share of correct answers")
    _plot_training(quality, lines, "reward", "reward", BLUE)
    if any(line.get("correct") != line.get("reward") for line in lines):  # with 0/1 rewards both are the same curve
        _plot_training(quality, lines, "correct", "correct", GREEN)
    _plot_held_out(quality, lines, "pass@1", "pass@1", ORANGE, "o")
    _plot_held_out(quality, lines, "pass@10", "pass@10", PINK, "s")
    _panel(distinct, "Different answers", "answers")
    _plot_held_out(distinct, lines, "distinct_correct", "distinct correct of 10", ORANGE, "o")
    _plot_training(distinct, lines, "completions/distinct", "different texts in a group", BLUE)
    _panel(meaning, "Distance of meaning", "mean 1 − cos of two answers")
    _plot_held_out(meaning, lines, "cosine_distance", "all answers", BLUE, "s")
    _plot_held_out(meaning, lines, "cosine_distance/correct", "correct answers", ORANGE, "o")
    _panel(credit, "Credit", "nats")
    _plot_training(credit, lines, "credit", "mean", BLUE)
    _plot_training(credit, lines, "credit_spread", "spread in a group", ORANGE)
    for axes in (meaning, credit):
        axes.set_xlabel("step", fontsize=14, color=INK)
    for axes in (quality, distinct, meaning, credit):
        axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
        if axes.get_lines():
            axes.legend(frameon=False, fontsize=13, labelcolor=INK)
    if (held_out := _held_out_sizes(lines)).count("×") > 1:
        figure.supxlabel(f"held out: {held_out}; not joined where they cannot be compared", fontsize=13, color=INK)
    figure.savefig(path)


def _panel(axes: Axes, title: str, unit: str) -> None:
    axes.set_title(title, loc="left", fontsize=16, color=INK, fontweight="bold")
    axes.set_ylabel(unit, fontsize=13, color=INK)
    axes.tick_params(labelsize=12, colors=INK, length=0)
    axes.grid(color=GRID, linewidth=1)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)


def _plot_training(axes: Axes, lines: Lines, key: str, label: str, color: str) -> None:
    steps, values = _points(lines, key)
    if values:
        smooth = _smooth(values, max(1, len(values) // 10))
        axes.plot(steps, values, color=color, linewidth=1, alpha=0.25)
        axes.plot(steps, smooth, color=color, linewidth=2.5, label=f"{label} (training)")


def _plot_held_out(axes: Axes, lines: Lines, key: str, label: str, color: str, marker: str) -> None:
    for i, joined in enumerate(comparable_lines(lines, key)):
        steps, values = _points(joined, f"eval/{key}")
        axes.plot(
            steps, values, color=color, linewidth=2.5, label=f"{label} (held out)" if i == 0 else None,
            marker=marker, markersize=9, markeredgecolor="white",
        )  # fmt: skip


def comparable_lines(lines: Lines, key: str) -> list[list[Mapping[str, Any]]]:
    """The evaluations in which a metric is known, cut where its value cannot be compared with the one before."""
    parts: list[list[Mapping[str, Any]]] = []
    for line in lines:
        if line.get(f"eval/{key}") is None:
            continue
        if parts and _joined(parts[-1][-1], line, key):
            parts[-1].append(line)
        else:
            parts.append([line])
    return parts


def _joined(line: Mapping[str, Any], after: Mapping[str, Any], key: str) -> bool:
    """Older versions of dqo did not write n and prompts: what is unknown is compared with the unknown alone."""
    n, other = line.get("eval/n"), after.get("eval/n")
    same_n = n == other if n is None or other is None else comparable(key, int(n), int(other))
    return same_n and line.get("eval/prompts") == after.get("eval/prompts")


def _held_out_sizes(lines: Lines) -> str:
    """How many prompts and completions the evaluations have: "16 prompts × 4, from step 20 on 16 prompts × 32"."""
    sizes: list[tuple[int, str]] = []
    for line in lines:
        if "eval/n" in line:
            size = f"{line['eval/prompts']:g} prompts × {line['eval/n']:g}"
            if not sizes or sizes[-1][1] != size:
                sizes.append((line["step"], size))
    return ", ".join(size if i == 0 else f"from step {step} on {size}" for i, (step, size) in enumerate(sizes))


def _points(lines: Lines, key: str) -> tuple[list[int], list[float]]:
    known = [(line["step"], line[key]) for line in lines if line.get(key) is not None]
    return [step for step, _ in known], [value for _, value in known]


def _smooth(values: Sequence[float], window: int) -> list[float]:
    """Running mean of the last ``window`` values, at the start of fewer."""
    recent = [values[max(0, i + 1 - window) : i + 1] for i in range(len(values))]
    return [sum(few) / len(few) for few in recent]
