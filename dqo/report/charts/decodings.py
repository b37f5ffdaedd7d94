"""What temperature and filters do at sampling time: quality and diversity of each policy over the decodings."""

from collections.abc import Sequence

import altair as alt

from dqo.report.charts.theme import HEIGHT, WIDE, WIDTH, Layered, Marks, data, diversity_axis, known, quality_axis
from dqo.report.comparison import Comparison
from dqo.report.records import Measured
from dqo.report.sentences import number


def decodings(cells: Sequence[Measured], comparison: Comparison, marks: Marks) -> Layered | None:
    """A line for each policy through its decodings, in the order of the temperature; the signal ``diversity`` picks the
    horizontal axis. None where there is one decoding alone."""
    quality = comparison.quality
    if quality is None or not comparison.diversities or len({_text(cell) for cell in cells}) < 2:
        return None
    names = {member.name: each.name for each in comparison.variants for member in each.members}
    rows = [
        {
            "metric": metric, "variant": names.get(cell.name, cell.name), "decoding": _text(cell),
            "order": [cell.decoding.get("temperature", 1.0), cell.decoding.get("top_p", 1.0)],
            "x": known(cell.means.get(metric, float("nan"))), "y": known(cell.means.get(quality, float("nan"))),
            "quality": number(cell.means.get(quality, float("nan")), quality),
            "diversity": number(cell.means.get(metric, float("nan")), metric),
        }
        for metric in comparison.diversities for cell in cells
    ]  # fmt: skip
    rows.sort(key=lambda row: (row["variant"], *row.pop("order")))
    rows = [{**row, "order": i} for i, row in enumerate(rows)]
    chosen, x, x_title = diversity_axis(comparison)
    y, color = quality_axis(quality), marks.color()
    here = alt.Chart(data(rows)).transform_filter("datum.metric === diversity")
    tooltip = [alt.Tooltip(f"{name}:N") for name in ("variant", "decoding", "quality", "diversity")]
    point = here.mark_point(size=110, filled=True, opacity=1, stroke="white", strokeWidth=1)
    layers = [
        here.mark_line(strokeWidth=2).encode(x, y, color=color, strokeDash=marks.dash(), order="order:Q"),
        point.encode(x, y, color=color, shape=marks.shape(), tooltip=tooltip),
        here.mark_text(align="left", dx=9, dy=-8, fontSize=11).encode(x, y, text="decoding:N", opacity=WIDE),
        x_title,
    ]
    return alt.layer(*layers).add_params(*chosen).properties(width=WIDTH, height=HEIGHT)


def _text(cell: Measured) -> str:
    off = {"temperature": None, "top_p": 1.0, "top_k": 0.0, "min_p": 0.0}
    names = {"temperature": "T", "top_p": "top-p", "top_k": "top-k", "min_p": "min-p"}
    return " ".join(f"{names.get(key, key)}={value:g}" for key, value in cell.decoding.items() if off.get(key) != value)
