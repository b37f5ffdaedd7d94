"""All figures of a report, each with a sentence on how to read it, and their PNG and SVG files."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import altair as alt
from altair.utils.schemapi import debug_mode

from dqo.files.atomic import replacing
from dqo.observe.visible import shorten, visible
from dqo.report.charts import circles, controls, curves, decodings, heat_maps, theme
from dqo.report.charts.bars import bars
from dqo.report.charts.passes import passes
from dqo.report.charts.tradeoff import tradeoff
from dqo.report.comparison import Comparison, Variant
from dqo.report.records import Source
from dqo.report.sentences import title_of

SCALE = 2.0  # pixels of a PNG for each pixel of the picture
SIDE_BY_SIDE = 6  # most variants whose answers or similarities are drawn
VEGA = "vega.github.io/schema/vega/"


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One figure. ``panels`` are Vega-Lite or Vega specifications, side by side."""

    id: str  # of the section and of its files
    title: str
    reading: str  # how to read it, in a sentence
    panels: tuple[dict[str, Any], ...]
    signal: str | None = None  # that the reader may choose a value of: "diversity", "prompt"
    options: tuple[tuple[Any, str], ...] = ()  # its values, and what they are called

    @property
    def is_wide(self) -> bool:
        """Whether it is one picture, as wide as the page."""
        return len(self.panels) == 1 and self.id in ("tradeoff", "passes", "decodings")


def make_figures(source: Source, comparison: Comparison) -> list[Figure]:
    """The figures that there is data for, the trade-off first."""
    with debug_mode(False):  # altair's validation of each part takes seconds; a test validates the whole
        return _make_figures(source, comparison)


def _make_figures(source: Source, comparison: Comparison) -> list[Figure]:
    marks = theme.marks(comparison.all, comparison.keys)
    cells = [cell for each in source.evals for cell in each.cells if not cell.is_control]
    degenerate = [cell for each in source.evals for cell in each.cells if cell.is_control]
    shown = _most_telling(comparison)
    prompts = circles.prompts_of(shown)
    asked = tuple((i, shorten(visible(prompt), 90)) for i, prompt in enumerate(prompts))
    axes = tuple((name, title_of(name)) for name in comparison.diversities)
    members = [member for each in comparison.variants for member in each.members]
    drawn: list[tuple[str, str, str, Sequence[Any], str | None, tuple[tuple[Any, str], ...]]] = [
        ("tradeoff", "Quality against diversity",
         "Up is better, right is more diverse; the dashed line joins the policies that no other beats in both; "
         "whiskers are 95 % intervals over the held-out prompts, small points are single seeds.",
         [tradeoff(comparison, marks.of(comparison.traded))], "diversity", axes),
        ("passes", "pass@k",
         "The chance that one of k completions is correct. A policy that repeats itself starts high and stays flat; "
         "one that tries different ways rises. Bands contain the whole curve with 95 %.",
         [passes(comparison, marks)], None, ()),
        ("metrics", "Every metric",
         "A panel a metric, from 0, with 95 % intervals. A gain in one metric alone is no gain: look for the same "
         "order in several.",
         bars(comparison, marks), None, ()),
        ("circles", "Answers to one prompt",
         "A circle is one answer, its area the number of completions that gave it; blue is right, amber with a dashed "
         "edge wrong, gray not judged. A collapsed policy has one large circle.",
         circles.circles(shown, prompts), "prompt", asked),
        ("heat_maps", "Similarity of the completions to one prompt",
         "Each square is a pair of completions, equal answers side by side: the darker, the more alike. Dark blocks "
         "are answers given again and again.",
         heat_maps.heat_maps(shown, prompts), "prompt", asked),
        ("decodings", "Temperature and filters",
         "Each line is a policy, each point one decoding. Where a trained policy's line lies above another's, it gives "
         "what temperature alone cannot.",
         [decodings.decodings(cells, comparison, marks.of(comparison.variants))], "diversity", axes),
        ("controls", "How metrics are fooled",
         _told_fooled(controls.fooled(degenerate, members)),
         controls.controls(degenerate, members), None, ()),
        ("curves", "Training",
         "A line a run. Points are held-out evaluations, joined where they can be compared; lines without points are "
         "the training batch.",
         curves.curves(source.runs, comparison, marks), None, ()),
    ]  # fmt: skip
    return [
        Figure(id=id, title=title, reading=reading, panels=panels, signal=signal, options=options)
        for id, title, reading, charts, signal, options in drawn
        if (panels := tuple(_specification(chart) for chart in charts if chart is not None))
    ]


def write_files(figures: Sequence[Figure], folder: Path) -> list[Path]:
    """Write each figure as PNG and SVG; returns the files."""
    import vl_convert

    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for figure in figures:
        is_vega = VEGA in figure.panels[0]["$schema"]
        whole = circles.side_by_side(figure.panels) if is_vega else theme.concat(figure.panels)
        whole = whole if is_vega else {**whole, "config": theme.CONFIG}
        to_png, to_svg = (
            (vl_convert.vega_to_png, vl_convert.vega_to_svg) if is_vega
            else (vl_convert.vegalite_to_png, vl_convert.vegalite_to_svg)
        )  # fmt: skip
        makers: dict[str, Callable[[], bytes]] = {
            "png": lambda whole=whole, make=to_png: make(json.dumps(whole), scale=SCALE),
            "svg": lambda whole=whole, make=to_svg: make(json.dumps(whole)).encode(),
        }
        for suffix, make in makers.items():
            written.append(folder / f"{figure.id}.{suffix}")
            with replacing(written[-1]) as path:
                path.write_bytes(make())
    return written


def _specification(chart: Any) -> dict[str, Any]:
    return chart.to_dict(validate=False) if isinstance(chart, alt.TopLevelMixin) else chart


def _most_telling(comparison: Comparison) -> list[Variant]:
    """At most six variants for pictures side by side: before, baseline, the Pareto front, then the others."""
    front = comparison.front(comparison.diversities[0]) if comparison.diversities else ()
    order = [comparison.before, comparison.baseline, *reversed(front), *comparison.variants]
    found = [*{each.name: each for each in order if each is not None}.values()][:SIDE_BY_SIDE]
    return [each for each in comparison.all if each in found]


def _told_fooled(fooled: dict[str, list[str]]) -> str:
    told = [f"{name} beats every policy in {len(names)} metrics" for name, names in fooled.items() if names]
    start = (
        "Degenerate answers, measured like a policy's. The blue band is where the policies are; an orange triangle "
        "is a metric that finds degenerate answers more diverse than every policy."
    )
    return f"{start} Here: {'; '.join(told)}." if told else f"{start} Here no metric is fooled."
