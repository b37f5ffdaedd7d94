"""Figure 1 of the paper: quality against diversity, with the Pareto front."""

import math
from typing import Any

import altair as alt

from dqo.report.charts.theme import (
    GRAY,
    HEIGHT,
    INK,
    MUTED,
    WIDE,
    WIDTH,
    Layered,
    Marks,
    data,
    diversity_axis,
    known,
    quality_axis,
)
from dqo.report.comparison import Comparison, Variant
from dqo.report.sentences import number, title_of, with_interval

LABELS = 14  # most variants that have their names beside their points
NEAR = (150, 16)  # pixels in which a second label would be written over a first


def tradeoff(comparison: Comparison, marks: Marks) -> Layered | None:
    """A point for each variant with 95 % intervals, small points for its seeds, a line through the Pareto front.

    The signal ``diversity`` picks the metric of the horizontal axis. None without a metric of both kinds.
    """
    quality = comparison.quality
    if quality is None or not comparison.diversities:
        return None
    rows = [row for metric in comparison.diversities for row in _points(comparison, quality, metric)]
    runs = [row for metric in comparison.diversities for row in _runs(comparison, quality, metric)]
    chosen, x, x_title = diversity_axis(comparison)
    y, color, shape = quality_axis(quality), marks.color(), marks.shape()
    here = alt.Chart(data(rows)).transform_filter("datum.metric === diversity")
    front = here.transform_filter("datum.front").mark_line(color=GRAY, strokeDash=[4, 4], strokeWidth=1.5)
    whisker = here.mark_rule(strokeWidth=1.5, opacity=0.55)
    seed = alt.Chart(data(runs)).transform_filter("datum.metric === diversity").mark_point(size=28, filled=True)
    point = here.mark_point(size=150, filled=True, opacity=1, stroke="white", strokeWidth=1)
    label = here.transform_filter("datum.label").mark_text(align="left", dx=10, dy=-10, fontSize=12, color=INK)
    corner = alt.Chart(data([{}])).mark_text(
        text="up and right is better",
        align="right",
        baseline="top",
        x=alt.ExprRef("width - 4"),
        y=4,
        fontSize=12,
        color=MUTED,
    )
    tooltip = [alt.Tooltip(f"{name}:N") for name in ("variant", "quality", "diversity", "runs")]
    layers = [
        front.encode(x, y, order="x:Q"),
        whisker.encode(x=alt.X("x_low:Q"), x2="x_high:Q", y=y, color=color),
        whisker.encode(x=x, y=alt.Y("y_low:Q"), y2="y_high:Q", color=color),
        *([seed.encode(x, y, color=color, tooltip=tooltip[:3], opacity=alt.value(0.5))] if runs else []),
        point.encode(x, y, color=color, shape=shape, tooltip=tooltip),
        label.encode(x, y, text="variant:N", opacity=WIDE),
        x_title,
        corner,
    ]  # fmt: skip
    return alt.layer(*layers).add_params(*chosen).properties(width=WIDTH, height=HEIGHT)


def _points(comparison: Comparison, quality: str, metric: str) -> list[dict[str, Any]]:
    front = {each.name for each in comparison.front(metric)}
    rows = []
    for each in comparison.traded:
        x, y = each.interval(metric), each.interval(quality)
        rows.append({
            "metric": metric, "variant": each.name, "x": known(x.mean), "x_low": known(x.low), "x_high": known(x.high),
            "y": known(y.mean), "y_low": known(y.low), "y_high": known(y.high), "front": each.name in front,
            "quality": f"{quality} {with_interval(y, quality)}",
            "diversity": f"{title_of(metric)} {with_interval(x, metric)}", "runs": _runs_text(each),
        })  # fmt: skip
    labelled = _labelled(rows) if len(rows) <= LABELS else set()
    return [{**row, "label": row["variant"] in labelled} for row in rows]


def _runs(comparison: Comparison, quality: str, metric: str) -> list[dict[str, Any]]:
    """The single runs of variants that have several."""
    pools = [each for each in comparison.traded if len(each.members) > 1]
    return [
        {
            "metric": metric, "variant": each.name, "x": known(member.means[metric]), "y": known(member.means[quality]),
            "quality": f"{quality} {number(member.means[quality], quality)}",
            "diversity": f"{title_of(metric)} {number(member.means[metric], metric)}",
        }
        for each in pools for member in each.members if metric in member.means and quality in member.means
    ]  # fmt: skip


def _runs_text(variant: Variant) -> str:
    count = len(variant.members)
    return variant.members[0].source if count == 1 else f"{count} runs"


def _labelled(rows: list[dict[str, Any]]) -> set[str]:
    """The names of the points that get a label. A label that would overlap another is left out; points of the Pareto
    front are labelled first."""
    sizes = {}
    for axis, pixels in (("x", WIDTH), ("y", HEIGHT)):
        values = [row[key] for row in rows for key in (axis, f"{axis}_low", f"{axis}_high") if row[key] is not None]
        sizes[axis] = pixels / max(max(values, default=1) - min(values, default=0), 1e-9)
    placed: list[tuple[float, float]] = []
    found = set()
    for row in sorted(rows, key=lambda row: not row["front"]):
        if row["x"] is None or row["y"] is None:
            continue
        x, y = row["x"] * sizes["x"], row["y"] * sizes["y"]
        others = [(other["x"] * sizes["x"], other["y"] * sizes["y"]) for other in rows if other is not row
                  and other["x"] is not None and other["y"] is not None]  # fmt: skip
        over_label = any(abs(x - u) < NEAR[0] and abs(y - v) < NEAR[1] for u, v in placed)
        over_point = any(0 < u - x < 8 * len(row["variant"]) and abs(v - y - 10) < 12 for u, v in others)
        if not over_label and not over_point and not math.isnan(x + y):
            placed.append((x, y))
            found.add(row["variant"])
    return found
