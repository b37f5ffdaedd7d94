"""The page as text: what was read, compared and drawn, put into the template."""

import base64
import hashlib
from collections.abc import Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import vl_convert
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup

from dqo.observe.visible import visible_lines
from dqo.report.charts import theme
from dqo.report.comparison import Comparison, Variant, difference
from dqo.report.completions import LONGEST, packed
from dqo.report.eval_runs import UNKNOWN
from dqo.report.figures import Figure
from dqo.report.records import Source
from dqo.report.sentences import (
    allowed_loss,
    change_with_interval,
    choice,
    explain,
    headline,
    is_share,
    title_of,
    with_interval,
)
from dqo.report.settings import SEED

HERE = Path(__file__).parent
STEPS = 40  # of the slider
POINTS = 10.0  # most points of quality that the slider offers
GLYPHS = {
    "circle": "●", "square": "■", "triangle-up": "▲", "diamond": "◆", "triangle-down": "▼", "triangle-right": "▶",
    "triangle-left": "◀", "cross": "✚",
}  # fmt: skip


def page(
    source: Source, comparison: Comparison, figures: Sequence[Figure], *, title: str | None, command: str, most: int
) -> str:
    """The HTML document. ``command``: that made it; ``most``: completions of each run.

    Everything that is read is text: the template escapes it, control characters are shown by their codes, and the
    page's policy runs no script but its own two.
    """
    library = _library()
    script = (HERE / "page.js").read_text("utf-8")
    texts, count = packed(source, most)
    diversity = comparison.diversities[0] if comparison.diversities else None
    variants = _variants(comparison)
    return _environment().get_template("page.html.j2").render(
        policy=_content_policy(library, script),
        title=title or _title(comparison),
        css=Markup((HERE / "page.css").read_text("utf-8")),
        facts=_facts(comparison),
        headline=headline(comparison),
        warnings=comparison.warnings,
        choice=_choice(comparison),
        quality=comparison.quality,
        diversity=title_of(diversity) if diversity else "diversity",
        about=explain(diversity) if diversity else "",
        variants=variants,
        figures=figures,
        count=count,
        most=most,
        folders=[*source.runs, *source.evals],
        missing={name: what for each in source.evals for name, what in each.missing.items()},
        command=command,
        version=version("dqo-rl"),
        data=htmlsafe_json_dumps(_data(comparison, figures, variants)),
        packed=texts,
        library=Markup(library),
        script=Markup(script),
    )  # fmt: skip


@cache
def _library() -> str:
    """Vega, Vega-Lite and Vega-Embed in one script."""
    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")


def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        finalize=lambda value: visible_lines(value) if type(value) is str else value,
    )  # fmt: skip


def _content_policy(*scripts: str) -> str:
    """A Content-Security-Policy under which these scripts run and no other, and nothing is loaded."""
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = " ".join(f"'sha256-{each}'" for each in hashes)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )


def _title(comparison: Comparison) -> str:
    count, task = len(comparison.variants), comparison.variants[0].members[0].task
    policies = f"{count} {'policy' if count == 1 else 'policies'}"
    return f"dqo-report: {policies}" if task == UNKNOWN else f"dqo-report: {task}, {policies}"


def _facts(comparison: Comparison) -> str:
    members = [member for each in comparison.variants for member in each.members]
    first = members[0]
    runs = f"{len(members)} {'run' if len(members) == 1 else 'runs'}" if first.is_training else "dqo-eval"
    sizes = " and ".join(str(n) for n in sorted({member.n for member in members}))
    trained = [member for member in members if SEED in member.settings]
    is_single = len(comparison.variants) == len(members) > 1 and trained
    parts = [
        runs, "one training run for each policy, with one seed" if is_single else "",
        f"{first.prompts} held-out prompts × {sizes} completions",
        f"encoder {first.embedding}" if first.embedding else "no encoder",
        f"differing in {', '.join(comparison.keys)}" if comparison.keys else "",
    ]  # fmt: skip
    return " · ".join(filter(None, parts))


def _variants(comparison: Comparison) -> list[dict[str, Any]]:
    """A row of the table for each variant, with the words that the page's script puts together."""
    base, quality = comparison.baseline, comparison.quality
    marks = theme.marks(comparison.all, comparison.keys)
    picked = headline(comparison).picked
    first = comparison.diversities[0] if comparison.diversities else None
    rows = []
    for i, each in enumerate(comparison.all):
        diversities = {name: _diversity(each, base, name) for name in comparison.diversities}
        rows.append({
            "name": each.name, "color": marks.colors[i], "glyph": GLYPHS[marks.shapes[i]], "is_base": each is base,
            "is_picked": each is picked, "may_be_picked": each is not comparison.before,
            "quality": theme.known(each.mean(quality)) if quality else None,
            "quality_text": with_interval(each.interval(quality), quality) if quality else "–",
            "cost": change_with_interval(difference(each, base, quality), quality) if quality else "",
            "diversities": diversities, "diversity_text": diversities[first]["text"] if first else "–",
        })  # fmt: skip
    return rows


def _diversity(variant: Variant, base: Variant, metric: str) -> dict[str, Any]:
    return {
        "mean": theme.known(variant.mean(metric)),
        "text": with_interval(variant.interval(metric), metric),
        "gain": change_with_interval(difference(variant, base, metric), metric),
    }


def _choice(comparison: Comparison) -> dict[str, Any]:
    """What the slider offers, and the sentence where it stands at first. Empty sentence: no slider."""
    allowed, quality = allowed_loss(comparison), comparison.quality
    if quality is None or comparison.baseline is comparison.before:
        return {"sentence": ""}
    if is_share(quality):
        return {
            "sentence": choice(comparison, allowed), "quality": quality, "unit": "points", "scale": 0.01,
            "most": POINTS, "step": POINTS / STEPS, "allowed": 100 * allowed, "shown": f"{100 * allowed:g} points",
        }  # fmt: skip
    values = [each.mean(quality) for each in comparison.variants]
    scale = max(max(values) - min(values), 2 * allowed) / STEPS
    return {
        "sentence": choice(comparison, allowed), "quality": quality, "unit": "", "scale": scale, "most": STEPS,
        "step": 0.25, "allowed": allowed / scale, "shown": f"{allowed:.3g}",
    }  # fmt: skip


def _data(comparison: Comparison, figures: Sequence[Figure], variants: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "figures": [
            {"id": each.id, "panels": _panels(each), "signal": each.signal, "options": each.options} for each in figures
        ],
        "config": theme.CONFIG,
        "variants": variants,
        "choice": _choice(comparison),
        "diversity": comparison.diversities[0] if comparison.diversities else None,
        "titles": {name: title_of(name) for name in comparison.diversities},
        "about": {name: explain(name) for name in comparison.diversities},
        "longest": LONGEST,
    }


def _panels(figure: Figure) -> Sequence[dict[str, Any]]:
    """The panels as they stand in the page: the table is the legend of the first picture."""
    return theme.without_legends(figure.panels) if figure.id == "tradeoff" else figure.panels
