"""Training curves, from metrics.jsonl: held-out metrics cut where they cannot be compared, and the training batch."""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import altair as alt

from dqo.metrics.names import comparable
from dqo.report.charts.theme import PANEL, PANEL_HEIGHT, Layered, Marks, axis_format, data, known
from dqo.report.comparison import Comparison
from dqo.report.records import Run
from dqo.report.sentences import title_of

HELD_OUT = ("pass@1", "reward", "cosine_distance", "cosine_distance/correct", "distinct_correct", "distinct_4")
TRAINING = {
    "reward": "reward, training batch", "completions/distinct": "different texts in a group", "credit": "credit",
    "credit_spread": "spread of the credit in a group", "entropy": "entropy, nats a token", "kl": "KL to the reference",
}  # fmt: skip
POINTS = 2000  # rows of a panel: long or many runs are averaged over steps

Line = Mapping[str, Any]


def curves(runs: Sequence[Run], comparison: Comparison, marks: Marks) -> list[Layered]:
    """A panel for each metric that a run has logged; a line for each run, in the color of its variant."""
    if not any(run.lines for run in runs):
        return []
    named = [(run, _variant(run, comparison), run.name) for run in runs]
    panels = []
    for metric in HELD_OUT:
        rows = [
            {"run": name, "variant": variant, "part": part, "step": line["step"], "value": line[f"eval/{metric}"]}
            for run, variant, name in named
            for part, lines in enumerate(comparable_parts(run.lines, metric))
            for line in lines
        ]
        panels.append(_panel(rows, marks, f"{title_of(metric)}, held out", points=True, form=axis_format(metric)))
    for key, title in TRAINING.items():
        room = max(20, POINTS // len(runs))
        rows = [
            {"run": name, "variant": variant, "part": 0, "step": step, "value": value}
            for run, variant, name in named
            for step, value in smoothed(run.lines, key, room)
        ]
        panels.append(_panel(rows, marks, title, points=False, form=alt.Undefined))
    return [panel for panel in panels if panel is not None]


def comparable_parts(lines: Sequence[Line], metric: str) -> list[list[Line]]:
    """The evaluations in which a metric is known, cut where its value cannot be compared with the one before."""
    parts: list[list[Line]] = []
    for line in lines:
        if line.get(f"eval/{metric}") is None:
            continue
        if parts and _joined(parts[-1][-1], line, metric):
            parts[-1].append(line)
        else:
            parts.append([line])
    return parts


def smoothed(lines: Sequence[Line], key: str, room: int) -> list[tuple[float, float]]:
    """(step, value) of the training steps; at most ``room`` points, each the mean of several steps."""
    found = [(float(line["step"]), float(line[key])) for line in lines if isinstance(line.get(key), int | float)]
    size = max(1, math.ceil(len(found) / room))
    parts = [found[start : start + size] for start in range(0, len(found), size)]
    return [(fmean(step for step, _ in part), fmean(value for _, value in part)) for part in parts]


def _joined(line: Line, after: Line, metric: str) -> bool:
    """What an older dqo did not write (n, prompts) is compared with the unknown alone."""
    n, other = line.get("eval/n"), after.get("eval/n")
    same_n = n == other if n is None or other is None else comparable(metric, int(n), int(other))
    return same_n and line.get("eval/prompts") == after.get("eval/prompts")


def _variant(run: Run, comparison: Comparison) -> str:
    """The name of the variant that the run belongs to; its own where it is not compared."""
    for each in comparison.variants:
        if any(member is run.after or member is run.before for member in each.members):
            return each.name
    return run.name


def _panel(rows: list[dict[str, Any]], marks: Marks, title: str, *, points: bool, form: Any) -> Layered | None:
    rows = [{**row, "value": known(float(row["value"]))} for row in rows]
    if not any(row["value"] for row in rows):
        return None
    chart = alt.Chart(data(rows))
    x = alt.X("step:Q", title="step", axis=alt.Axis(tickMinStep=1, grid=False))
    y = alt.Y("value:Q", title=None, axis=alt.Axis(format=form, tickCount=5))
    color = marks.color(legend=False)
    dash = marks.dash()
    shape = marks.shape(legend=False)
    tooltip = ["run:N", "variant:N", "step:Q", alt.Tooltip("value:Q", format=".3f")]
    detail = alt.Detail(["run:N", "part:N"])
    layers: list[Any] = [
        chart.mark_line(strokeWidth=1.8).encode(x, y, color=color, strokeDash=dash, detail=detail, tooltip=tooltip)
    ]
    if points:
        layers.append(
            chart.mark_point(filled=True, size=45, opacity=1).encode(x, y, color=color, shape=shape, tooltip=tooltip)
        )
    return alt.layer(*layers).properties(width=PANEL, height=PANEL_HEIGHT, title=title)
