"""Colors, shapes and dashes that people with any color vision tell apart, on screen and on paper."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from textwrap import wrap
from typing import Any

import altair as alt

from dqo.metrics.intervals import Interval
from dqo.report.comparison import BEFORE, Comparison, Variant
from dqo.report.sentences import is_share, title_of
from dqo.report.settings import shown

INK, MUTED, GRID, GRAY = "#222222", "#5f6b73", "#e3e6e8", "#7a7a7a"
# Okabe and Ito's colors
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
SHAPES = ("circle", "square", "triangle-up", "diamond", "triangle-down", "triangle-right", "triangle-left")
DASHES = ([1, 0], [6, 3], [2, 2], [8, 3, 2, 3], [12, 4], [4, 6], [1, 4])
LEGEND = 24  # most entries of a legend; more variants are told apart by the tooltip
WIDTH, HEIGHT, PANEL, PANEL_HEIGHT = 720, 370, 300, 190  # pixels of a picture, and of a panel of several
ABOUT = 58  # characters of a line under a panel's title
FONT = "system-ui, -apple-system, 'Segoe UI', 'Liberation Sans', Arial, sans-serif"
CLOSE = alt.Scale(zero=False, nice=False, padding=24)  # from the smallest value to the largest
WIDE = alt.value(alt.ExprRef("width > 480 ? 1 : 0"))  # opacity of labels that have no room on a phone
Layered = alt.LayerChart | alt.FacetChart  # what alt.layer returns
CONFIG: dict[str, Any] = {
    "font": FONT,
    "background": "white",
    "view": {"stroke": None},
    "axis": {
        "gridColor": GRID, "domain": False, "tickColor": GRID, "labelColor": INK, "titleColor": INK,
        "labelFontSize": 12, "titleFontSize": 13, "titleFontWeight": "normal", "titlePadding": 8, "labelOverlap": True,
    },
    "legend": {
        "orient": "bottom", "columns": 4, "labelFontSize": 12, "labelColor": INK, "title": None, "symbolStrokeWidth": 2,
        "labelLimit": 320, "symbolLimit": LEGEND, "symbolSize": 110, "symbolOpacity": 1,
    },
    "title": {
        "anchor": "start", "fontSize": 13, "fontWeight": 600, "color": INK, "offset": 8, "subtitleColor": MUTED,
        "subtitleFontSize": 11, "frame": "bounds",
    },
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Marks:
    """Color, shape and dashes of each variant, by name."""

    names: tuple[str, ...]
    colors: tuple[str, ...]
    shapes: tuple[str, ...]
    dashes: tuple[list[int], ...]

    def color(self, *, legend: bool = True) -> alt.Color:
        """Colors by variant. In layers, all or none have a legend."""
        scale = alt.Scale(domain=self.names, range=self.colors)
        return alt.Color("variant:N", scale=scale, legend=self._legend(legend))

    def shape(self, *, legend: bool = True) -> alt.Shape:
        """Shapes by variant."""
        scale = alt.Scale(domain=self.names, range=self.shapes)
        return alt.Shape("variant:N", scale=scale, legend=self._legend(legend))

    def dash(self) -> alt.StrokeDash:
        """Dashes by variant. The legend shows the shapes alone: Vega-Lite joins the legends of equal domains, so the
        domain has another order here."""
        scale = alt.Scale(domain=self.names[::-1], range=self.dashes[::-1])
        return alt.StrokeDash("variant:N", scale=scale, legend=None)

    def of(self, variants: Sequence[Variant]) -> "Marks":
        """The same marks, for some of the variants."""
        rows = [self.names.index(each.name) for each in variants]
        return Marks(**{
            field.name: tuple(getattr(self, field.name)[i] for i in rows) for field in fields(self)
        })  # fmt: skip

    def _legend(self, wanted: bool) -> alt.Legend | None:
        return alt.Legend() if wanted and 1 < len(self.names) <= LEGEND else None


def marks(variants: Sequence[Variant], keys: Sequence[str]) -> Marks:
    """The color says the first setting that differs and the shape the second; with one setting both say it."""
    first = _ranks(variants, keys[0]) if keys else [*range(len(variants))]
    second = _ranks(variants, keys[1]) if len(keys) > 1 else first
    if not keys or len({*zip(first, second, strict=True)}) == 1:
        first = second = [*range(len(variants))]
    before = [each.name == BEFORE for each in variants]
    return Marks(
        names=tuple(each.name for each in variants),
        colors=tuple(GRAY if b else COLORS[i % len(COLORS)] for b, i in zip(before, first, strict=True)),
        shapes=tuple("cross" if b else SHAPES[i % len(SHAPES)] for b, i in zip(before, second, strict=True)),
        dashes=tuple([1, 3] if b else DASHES[i % len(DASHES)] for b, i in zip(before, second, strict=True)),
    )


def known(value: float) -> float | None:
    """A number for JSON; None where undefined."""
    return value if math.isfinite(value) else None


def bounds(interval: Interval) -> dict[str, float | None]:
    """mean, low and high for JSON."""
    return {"mean": known(interval.mean), "low": known(interval.low), "high": known(interval.high)}


def axis_format(metric: str) -> Any:
    """The format of an axis: per cent for shares, with the digits that its ticks need."""
    return "%" if is_share(metric) else alt.Undefined


def data(rows: Sequence[dict[str, Any]]) -> alt.InlineData:
    """Rows that stand in the specification."""
    return alt.InlineData(values=list(rows))


def title(text: str, about: str = "") -> alt.TitleParams:
    """A panel's title, with an explanation under it."""
    return alt.TitleParams(text=text, subtitle=wrap(about, ABOUT)) if about else alt.TitleParams(text=text)


def diversity_axis(comparison: Comparison) -> tuple[list[alt.Parameter], alt.X, alt.Chart]:
    """The signal ``diversity``, the horizontal axis that shows the metric it names, and the axis's title, which must
    follow the signal: it is a text below the axis."""
    titles = {name: title_of(name) for name in comparison.diversities}
    chosen = [alt.param(name="diversity", value=comparison.diversities[0]), alt.param(name="titles", value=titles)]
    x = alt.X("x:Q", scale=CLOSE, axis=alt.Axis(title=" ", tickCount=6))
    text = alt.Chart(data([{}])).mark_text(
        text=alt.ExprRef("'diversity: ' + titles[diversity] + ' →'"), fontSize=13, color=INK, baseline="top",
        x=alt.ExprRef("width / 2"), y=alt.ExprRef("height + 26"),
    )  # fmt: skip
    return chosen, x, text


def quality_axis(quality: str) -> alt.Y:
    """The vertical axis of a metric of quality."""
    axis = alt.Axis(title=f"quality: {title_of(quality)} →", tickCount=6, format=axis_format(quality))
    return alt.Y("y:Q", scale=CLOSE, axis=axis)


def concat(panels: Sequence[dict[str, Any]], columns: int = 3) -> dict[str, Any]:
    """Several panels as one picture, for a file."""
    if len(panels) == 1:
        return dict(panels[0])
    shared = ("$schema", "params", "datasets")
    inner = [{key: value for key, value in panel.items() if key not in shared} for panel in panels]
    params = {param["name"]: param for panel in panels for param in panel.get("params", [])}
    datasets = {name: rows for panel in panels for name, rows in panel.get("datasets", {}).items()}
    return {
        "$schema": panels[0]["$schema"], "params": [*params.values()], "datasets": datasets, "concat": inner,
        "columns": columns,
    }  # fmt: skip


def without_legends(node: Any) -> Any:
    """A specification, or a part of it, without its legends: where a table beside it tells what is what."""
    if isinstance(node, Mapping):
        return {key: None if key == "legend" else without_legends(value) for key, value in node.items()}
    return [*map(without_legends, node)] if isinstance(node, list | tuple) else node


def _ranks(variants: Sequence[Variant], key: str) -> list[int]:
    values = [*dict.fromkeys(shown(each.settings[key]) for each in variants if key in each.settings)]
    return [values.index(shown(each.settings[key])) if key in each.settings else 0 for each in variants]
