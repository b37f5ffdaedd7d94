"""Figure 5 of the paper: every metric, a panel each."""

from collections.abc import Sequence

import altair as alt

from dqo.metrics.names import metric_of
from dqo.report.charts.theme import PANEL, Layered, Marks, axis_format, bounds, data, title
from dqo.report.comparison import COMPARED, Comparison, metrics_of
from dqo.report.sentences import explain, title_of, with_interval

ROW, THIN, MANY = 17, 5, 24  # pixels of a bar, of one of many, and how many are many


def bars(comparison: Comparison, marks: Marks) -> list[Layered]:
    """A panel for each metric of diversity, then of quality; each starts at 0 and has 95 % intervals."""
    names = metrics_of(comparison.members)
    kinds = ("diversity", "quality", "form")
    names.sort(key=lambda name: kinds.index("form" if name == COMPARED else metric_of(name).kind))
    return [_panel(comparison, marks, name) for name in names]


def _panel(comparison: Comparison, marks: Marks, metric: str) -> Layered:
    order = [each.name for each in comparison.all]
    rows = []
    for each in comparison.all:
        interval = each.interval(metric)
        rows.append({
            "variant": each.name, **bounds(interval), "prompts": interval.prompts,
            "value": with_interval(interval, metric),
        })  # fmt: skip
    chart = alt.Chart(data(rows))
    axis = alt.Axis(title=None, format=axis_format(metric), tickCount=4)
    x, y = alt.X("mean:Q", axis=axis), _names(order)
    color = marks.color(legend=False)
    row = ROW if len(order) <= MANY else THIN
    lower = "; lower is more diverse" if metric_of(metric).better == "lower" else ""
    tooltip = [alt.Tooltip("variant:N"), alt.Tooltip("value:N", title=metric), alt.Tooltip("prompts:Q")]
    heading = title(title_of(metric), f"{explain(metric)}{lower}")
    return alt.layer(
        chart.mark_bar(opacity=0.85, height=max(2, row - 6)).encode(x, y, color=color, tooltip=tooltip),
        chart.mark_rule(strokeWidth=1.5, color="#222222").encode(alt.X("low:Q"), y, alt.X2("high:Q")),
    ).properties(width=PANEL, height=row * len(order), title=heading)  # fmt: skip


def _names(order: Sequence[str]) -> alt.Y:
    return alt.Y("variant:N", sort=list(order), title=None, axis=alt.Axis(labelLimit=130, grid=False, ticks=False))
