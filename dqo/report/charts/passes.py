"""Figure 4 of the paper: pass@k over k."""

import altair as alt

from dqo.report.charts.theme import HEIGHT, WIDTH, Layered, Marks, data, known
from dqo.report.comparison import Comparison

LOG_FROM = 20  # completions from which k is on a logarithmic axis


def passes(comparison: Comparison, marks: Marks) -> Layered | None:
    """A line with its 95 % band for each variant; of several seeds the mean of the curves, without a band. None where
    the reward does not say what is correct."""
    rows = []
    for each in comparison.all:
        curves = [member.passes for member in each.members if member.passes]
        if not curves:
            continue
        size = min(len(curve.k) for curve in curves)
        for i in range(size):
            single = len(curves) == 1
            rows.append({
                "variant": each.name, "k": curves[0].k[i],
                "mean": known(sum(curve.mean[i] for curve in curves) / len(curves)),
                "low": known(curves[0].low[i]) if single else None,
                "high": known(curves[0].high[i]) if single else None,
            })  # fmt: skip
    if not rows or max(row["k"] for row in rows) < 2:
        return None
    log = max(row["k"] for row in rows) > LOG_FROM
    chart = alt.Chart(data(rows))
    x = alt.X("k:Q", title="k, completions of a prompt", axis=alt.Axis(tickMinStep=1, grid=False),
              scale=alt.Scale(type="log" if log else "linear", nice=False))  # fmt: skip
    y = alt.Y("mean:Q", title="pass@k", axis=alt.Axis(format="%"), scale=alt.Scale(zero=False))
    tooltip = ["variant:N", "k:Q", *(alt.Tooltip(f"{key}:Q", format=".1%") for key in ("mean", "low", "high"))]
    band, line = chart.mark_area(opacity=0.4 / max(3, len(comparison.all))), chart.mark_line(strokeWidth=2)
    point = chart.mark_point(filled=True, size=45, opacity=1)
    return alt.layer(
        band.encode(x, alt.Y("low:Q"), alt.Y2("high:Q"), color=marks.color(), detail="variant:N"),
        line.encode(x, y, color=marks.color(), strokeDash=marks.dash()),
        point.encode(x, y, color=marks.color(), shape=marks.shape(), tooltip=tooltip),
    ).properties(width=WIDTH, height=HEIGHT - 60)
