"""Figure 3 of the paper: the answers to a prompt as circles, with Vega's pack layout."""

import math
from collections import Counter
from collections.abc import Sequence
from textwrap import wrap
from typing import Any

from dqo.observe.visible import shorten, visible
from dqo.report.charts.theme import FONT
from dqo.report.comparison import BEFORE, Variant
from dqo.report.records import Group

RIGHT, WRONG, UNKNOWN = "#0072b2", "#e69f00", "#9aa5ac"  # blue and amber differ in lightness, too
SIZE, HEAD = 300, 30  # pixels of a panel, and of its title
LONGEST = 60  # characters of a label
WIDE_AS_HIGH = 3.2  # height of a line over the width of a character
SHOWN = 60  # most different answers of a panel; the rest is one circle


def circles(variants: Sequence[Variant], prompts: Sequence[str]) -> list[dict[str, Any]]:
    """A Vega specification for each variant that has answered one of the prompts; the signal ``prompt`` is the index of
    the prompt. The area of a circle is the number of completions with that answer."""
    panels = []
    for each in variants:
        rows = [row for i, text in enumerate(prompts) for row in _answers(each, text, i)]
        if rows:
            panels.append(_specification([(each.name, rows)]))
    return panels


def side_by_side(panels: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The panels in one picture, for a file."""
    return _specification([panel["usermeta"]["panel"] for panel in panels])


def prompts_of(variants: Sequence[Variant]) -> list[str]:
    """The prompts whose answers are known, in the order of their positions."""
    found = {group.position: group.prompt for each in variants for group in each.members[0].groups}
    return [found[position] for position in sorted(found)]


def _answers(variant: Variant, prompt: str, index: int) -> list[dict[str, Any]]:
    members = variant.members[:1] if variant.name == BEFORE else variant.members  # a sweep's runs begin alike
    groups = [group for member in members for group in member.groups if group.prompt == prompt]
    counts = Counter(answer for group in groups for answer in _judged(group))
    texts = {key: text for group in groups for key, text in zip(group.keys, group.texts, strict=True)}
    rows = [
        {"prompt": index, "count": count, "state": state, **_label(texts[key])}
        for (key, state), count in counts.most_common(SHOWN)
    ]
    if rest := sum(count for _, count in counts.most_common()[SHOWN:]):
        rows.append({"prompt": index, "count": rest, "state": "unknown", **_label(f"{len(counts) - SHOWN} others")})
    return rows


def _label(text: str) -> dict[str, Any]:
    """The text of an answer, escaped and shortened, and broken into lines that are together about as high as wide."""
    shown = shorten(visible(text.strip()), LONGEST) or "(empty)"
    lines = wrap(shown, max(10, round(math.sqrt(WIDE_AS_HIGH * len(shown))))) or [shown]
    return {"text": shown, "label": lines, "lines": len(lines), "widest": max(map(len, lines))}


def _judged(group: Group) -> list[tuple[str, str]]:
    """Key and judgement of each completion."""
    if group.correct is None:
        return [(key, "unknown") for key in group.keys]
    return [(key, "right" if ok else "wrong") for key, ok in zip(group.keys, group.correct, strict=True)]


def _specification(named: Sequence[tuple[str, list[dict[str, Any]]]]) -> dict[str, Any]:
    return {
        "$schema": "https://vega.github.io/schema/vega/v6.json",
        "width": SIZE * len(named) + 20 * (len(named) - 1),
        "height": SIZE + HEAD,
        "padding": 4,
        "background": "white",
        "usermeta": {"panel": named[0]},
        "signals": [{"name": "prompt", "value": 0}],
        "data": [table for i, (_, rows) in enumerate(named) for table in _tables(i, rows)],
        "scales": [{
            "name": "color", "type": "ordinal", "domain": ["right", "wrong", "unknown"],
            "range": [RIGHT, WRONG, UNKNOWN],
        }],
        "marks": [_marks(i, name) for i, (name, _) in enumerate(named)],
    }  # fmt: skip


def _tables(index: int, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            "name": f"answers{index}",
            "values": rows,
            "transform": [
                {"type": "filter", "expr": "datum.prompt === prompt"},
                {"type": "nest", "keys": ["prompt"], "generate": True},
                {"type": "pack", "field": "count", "size": [SIZE, SIZE], "padding": 3,
                 "sort": {"field": "count", "order": "descending"}},
            ],
        },
        {"name": f"leaves{index}", "source": f"answers{index}",
         "transform": [{"type": "filter", "expr": "!datum.children && isValid(datum.text)"}]},
    ]  # fmt: skip


def _marks(index: int, name: str) -> dict[str, Any]:
    """Circles with their labels: as large as the circle holds, and none where 7 pixels are too many. Half the width and
    half the height of a label are the sides of a triangle whose third side lies within the radius."""
    fits = "1.9 * datum.r / sqrt(pow(0.58 * max(3, datum.widest), 2) + pow(1.2 * datum.lines, 2))"
    size = f"min(15, {fits})"
    sides = {"x": index * (SIZE + 20), "width": SIZE, "height": SIZE + HEAD}
    return {
        "type": "group",
        "encode": {"enter": {key: {"value": value} for key, value in sides.items()}},
        "title": {"text": name, "anchor": "start", "fontSize": 13, "font": FONT, "limit": SIZE, "offset": 4},
        "marks": [
            {
                "type": "symbol", "from": {"data": f"leaves{index}"},
                "encode": {
                    "enter": {"shape": {"value": "circle"}, "stroke": {"value": "#222222"}},
                    "update": {
                        "x": {"field": "x"}, "y": {"signal": f"datum.y + {HEAD - 10}"},
                        "size": {"signal": "4 * datum.r * datum.r"}, "fill": {"scale": "color", "field": "state"},
                        "fillOpacity": {"value": 0.88},
                        "strokeDash": {"signal": "datum.state === 'wrong' ? [3, 3] : [1, 0]"},
                        "strokeWidth": {"signal": "datum.state === 'wrong' ? 1.5 : 0.5"},
                        "tooltip": {"signal": "{answer: datum.text, completions: datum.count, judged: datum.state}"},
                    },
                },
            },
            {
                "type": "text", "from": {"data": f"leaves{index}"}, "interactive": False,
                "encode": {
                    "enter": {"align": {"value": "center"}, "baseline": {"value": "middle"}, "font": {"value": FONT}},
                    "update": {
                        "x": {"field": "x"}, "y": {"signal": f"datum.y + {HEAD - 10}"}, "text": {"field": "label"},
                        "lineHeight": {"signal": f"1.2 * {size}"},
                        "dy": {"signal": f"-0.6 * (datum.lines - 1) * {size}"},
                        "fontSize": {"signal": size}, "opacity": {"signal": f"{fits} < 7 ? 0 : 1"},
                        "fill": {"signal": "datum.state === 'right' ? 'white' : '#222222'"},
                    },
                },
            },
        ],
    }  # fmt: skip
