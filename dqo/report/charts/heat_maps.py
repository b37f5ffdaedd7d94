"""How similar the completions of a prompt are to one another: their cosines."""

from collections.abc import Sequence
from typing import Any

import altair as alt

from dqo.observe.visible import shorten, visible
from dqo.report.charts.theme import data, known
from dqo.report.comparison import Variant

SIZE = 250  # pixels
LONGEST = 80  # characters of a completion in the tooltip
MOST = 24  # completions


def heat_maps(variants: Sequence[Variant], prompts: Sequence[str]) -> list[alt.Chart]:
    """A panel for each variant whose cosines are known (of several seeds the first): completion i against completion j,
    in an order that puts equal answers side by side. The signal ``prompt`` is the index of the prompt."""
    found = [(each.name, _rows(each, prompts)) for each in variants]
    return [_panel(name, rows) for name, rows in found if rows]


def _rows(variant: Variant, prompts: Sequence[str]) -> list[dict[str, Any]]:
    rows = []
    for group in variant.members[0].groups:
        if group.cosines is None or group.prompt not in prompts:
            continue
        order = sorted(range(min(len(group.texts), MOST, len(group.cosines))), key=lambda i: (group.keys[i], i))
        texts = [shorten(visible(group.texts[i].strip()), LONGEST) for i in order]
        index = prompts.index(group.prompt)
        rows += [
            {
                "prompt": index, "row": i, "column": j, "cosine": known(group.cosines[a][b]), "one": texts[i],
                "other": texts[j],
            }
            for i, a in enumerate(order) for j, b in enumerate(order)
        ]  # fmt: skip
    return rows


def _panel(name: str, rows: list[dict[str, Any]]) -> alt.Chart:
    chosen = alt.param(name="prompt", value=0)
    scale = alt.Scale(domain=[0, 1], scheme="cividis", clamp=True, reverse=True)
    legend = alt.Legend(title="cosine", orient="bottom", gradientLength=160)
    return (
        alt.Chart(data(rows))
        .transform_filter("datum.prompt === prompt")
        .mark_rect()
        .encode(
            alt.X("column:O", axis=None), alt.Y("row:O", axis=None), alt.Color("cosine:Q", scale=scale, legend=legend),
            tooltip=["one:N", "other:N", alt.Tooltip("cosine:Q", format=".2f")],
        )
        .add_params(chosen)
        .properties(width=SIZE, height=SIZE, title=name)
    )  # fmt: skip
