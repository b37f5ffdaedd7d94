"""Figure 2 of the paper: what each metric gives to degenerate answers."""

import math
from collections.abc import Sequence
from typing import Any

import altair as alt

from dqo.metrics.names import metric_of
from dqo.report.charts.theme import PANEL, Layered, axis_format, data, known, title
from dqo.report.comparison import COMPARED, metrics_of
from dqo.report.records import Measured
from dqo.report.sentences import number, title_of

POLICY, CONTROL, FOOLED = "#0072b2", "#7a7a7a", "#d55e00"
ROW = 22  # pixels


def controls(cells: Sequence[Measured], policies: Sequence[Measured]) -> list[Layered]:
    """A panel for each metric of diversity: the policies' range as a band, the degenerate answers as points, orange
    where the metric gives them more than any policy."""
    if not cells or not policies:
        return []
    return [_panel(name, cells, policies) for name in _names(cells, policies)]


def fooled(cells: Sequence[Measured], policies: Sequence[Measured]) -> dict[str, list[str]]:
    """By control the metrics of diversity that find it more diverse than every policy."""
    return {cell.name: [name for name in _names(cells, policies) if _is_above(name, cell, policies)] for cell in cells}


def _names(cells: Sequence[Measured], policies: Sequence[Measured]) -> list[str]:
    """The metrics of diversity that the degenerate answers have."""
    found = metrics_of([*cells, *policies])
    return [
        name for name in found
        if metric_of(name).kind == "diversity" and metric_of(name).better and name != COMPARED
        and any(name in cell.means for cell in cells)
    ]  # fmt: skip


def _is_above(name: str, cell: Measured, policies: Sequence[Measured]) -> bool:
    sign = 1 if metric_of(name).better == "higher" else -1
    values = [sign * policy.means[name] for policy in policies if not math.isnan(policy.means.get(name, math.nan))]
    return bool(values) and sign * cell.means.get(name, math.nan) > max(values)


def _panel(name: str, cells: Sequence[Measured], policies: Sequence[Measured]) -> Layered:
    values = [policy.means[name] for policy in policies if not math.isnan(policy.means.get(name, math.nan))]
    rows: list[dict[str, Any]] = [
        {
            "control": cell.name, "value": known(cell.means.get(name, math.nan)),
            "text": number(cell.means.get(name, math.nan), name), "fooled": _is_above(name, cell, policies),
        }
        for cell in cells
    ]  # fmt: skip
    band = [{"low": known(min(values, default=math.nan)), "high": known(max(values, default=math.nan))}]
    axis = alt.Axis(title=None, tickCount=4, format=axis_format(name))
    y = alt.Y(
        "control:N",
        title=None,
        sort=[cell.name for cell in cells],
        axis=alt.Axis(grid=True, ticks=False, labelPadding=10),
    )
    color = alt.Color("fooled:N", legend=None, scale=alt.Scale(domain=[False, True], range=[CONTROL, FOOLED]))
    shape = alt.Shape("fooled:N", legend=None, scale=alt.Scale(domain=[False, True], range=["circle", "triangle-up"]))
    policies_band = alt.Chart(data(band)).mark_rect(color=POLICY, opacity=0.18)
    lower = "lower is more diverse" if metric_of(name).better == "lower" else ""
    return alt.layer(
        policies_band.encode(alt.X("low:Q", axis=axis, scale=alt.Scale(zero=True)), alt.X2("high:Q")),
        alt.Chart(data(band)).mark_rule(color=POLICY, strokeWidth=1.5).encode(alt.X("low:Q")),
        alt.Chart(data(band)).mark_rule(color=POLICY, strokeWidth=1.5).encode(alt.X("high:Q")),
        alt.Chart(data(rows)).mark_point(filled=True, size=110, opacity=1).encode(
            alt.X("value:Q"), y, color=color, shape=shape, tooltip=["control:N", alt.Tooltip("text:N", title=name)]
        ),
    ).properties(width=PANEL, height=ROW * len(cells), title=title(title_of(name), lower))  # fmt: skip
