"""A group of completions for people and for programs: tables in a terminal, one JSON object."""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

from rich.console import Group as Stack
from rich.console import RenderableType
from rich.style import Style
from rich.table import Table
from rich.text import Text

from dqo.observe.visible import visible, visible_lines

NUMBERS = 12  # completions whose cosines are shown as numbers; of more, one digit a pair
MOST = 64  # completions whose cosines are shown at all
ROOM = 34  # columns of a terminal that the table's other columns take, about
LONGEST = 3  # lines of the table's last column; longer completions are shown one below the other


@dataclass(frozen=True, kw_only=True)
class Group:
    """k completions of one prompt. NaN: not defined, shown as – and as null."""

    policy: str
    prompt: str
    completions: tuple[str, ...]
    rewards: tuple[float, ...]
    correct: tuple[bool | None, ...]
    credits: tuple[float, ...] | None  # None: the run pays none
    lengths: tuple[int, ...]  # sampled tokens
    finished: tuple[bool, ...]  # False: cut by length
    cosines: tuple[tuple[float, ...], ...]  # of the embeddings
    chosen: tuple[int, ...] | None  # indices, in the order in which they were picked; None: nobody asked
    notes: tuple[str, ...]  # what the numbers mean


def as_json(group: Group) -> str:
    """One line of ASCII, without NaN: keys as in ``Group``, but completions as objects; ``chosen`` counts from 1."""
    chosen = {i: place for place, i in enumerate(group.chosen or (), 1)}
    completions = [
        {
            "text": text,
            "reward": _or_none(group.rewards[i]),
            "correct": group.correct[i],
            "credit": _or_none(group.credits[i]) if group.credits else None,
            "length": group.lengths[i],
            "finished": group.finished[i],
            **({} if group.chosen is None else {"chosen": chosen.get(i)}),
        }
        for i, text in enumerate(group.completions)
    ]
    cosines = [[_or_none(round(value, 4)) for value in row] for row in group.cosines]
    record = asdict(group) | {"completions": completions, "cosines": cosines}
    kept = ("policy", "prompt", "completions", "cosines", "notes")
    return json.dumps({key: record[key] for key in kept}, allow_nan=False)


def as_tables(group: Group, width: int) -> RenderableType:
    """The prompt, the completions, their cosines and the notes, ``width`` columns wide."""
    parts: list[RenderableType] = [Text(visible_lines(group.prompt), "bold"), Text()]
    is_long = any(_lines(text, width - ROOM) > LONGEST for text in group.completions)
    parts += _one_below_the_other(group) if is_long else [_table(group)]
    if 1 < len(group.completions) <= MOST:
        parts += [Text("\ncosines", "bold"), _cosines(group) if len(group.completions) <= NUMBERS else _digits(group)]
    return Stack(*parts, Text(), *(Text(visible(note), "dim") for note in group.notes))


def _table(group: Group) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim underline")
    columns = _columns(group)
    for name in columns:
        table.add_column(name, justify="left" if name == "end" else "right", no_wrap=True)
    table.add_column("completion", ratio=1, overflow="fold")
    for i, cells in enumerate(zip(*columns.values(), strict=True)):
        table.add_row(*cells, Text(visible_lines(group.completions[i])), style=_style(group, i))
    return table


def _one_below_the_other(group: Group) -> Iterator[RenderableType]:
    columns = _columns(group)
    for i, text in enumerate(group.completions):
        words = (f"{name} {cells[i]}" for name, cells in columns.items() if name not in ("#", "end"))
        head = "  ".join([f"── {i + 1}", *words, str(columns["end"][i])])
        yield Text(head, Style.parse("bold") + _style(group, i))
        yield Text(visible_lines(text))


def _columns(group: Group) -> dict[str, list[str]]:
    """The cells beside a completion's text, by column."""
    k = len(group.completions)
    columns = {"#": [str(i + 1) for i in range(k)]}
    if group.chosen is not None:
        place = {i: number for number, i in enumerate(group.chosen, 1)}
        columns["chosen"] = [f"★ {place[i]}" if i in place else "" for i in range(k)]
    columns["reward"] = [_number(value) for value in group.rewards]
    if any(value is not None for value in group.correct):
        columns["correct"] = [{True: "yes", False: "no", None: "–"}[value] for value in group.correct]
    if group.credits is not None:
        columns["credit"] = [_number(value) for value in group.credits]
    columns["tokens"] = [str(length) for length in group.lengths]
    columns["end"] = ["" if done else "cut" for done in group.finished]
    return columns


def _style(group: Group, i: int) -> Style:
    is_dim = group.chosen is not None and i not in group.chosen
    return Style(dim=True) if is_dim else Style()


def _cosines(group: Group) -> Table:
    """The numbers, on a background that is darker the more similar two completions are."""
    table = Table(box=None, padding=(0, 0, 0, 0), pad_edge=False, header_style="dim", show_header=True)
    for name in ("", *(str(i + 1) for i in range(len(group.cosines)))):
        table.add_column(name, justify="right", min_width=len(str(len(group.cosines))) if not name else 5)
    for i, row in enumerate(group.cosines):
        cells = [Text("·" if i == j else _short(value), _shade(value, i == j)) for j, value in enumerate(row)]
        table.add_row(Text(str(i + 1), "dim"), *cells)
    return table


def _digits(group: Group) -> RenderableType:
    """One digit a pair: its first decimal; – for a negative cosine."""
    lines = [Text("one digit a pair: 0 for a cosine below .1, 9 for .9 and more, - below 0", "dim")]
    for i, row in enumerate(group.cosines):
        line = Text(f"{i + 1:>3} ", "dim")
        for j, value in enumerate(row):
            line.append("·" if i == j else _digit(value), _shade(value, i == j))
        lines.append(line)
    return Stack(*lines)


def _digit(value: float) -> str:
    return " " if math.isnan(value) else "-" if value < 0 else str(min(9, int(10 * value)))


def _short(value: float) -> str:
    """Example: ".97", "-.12", "1.0"; – for NaN."""
    if math.isnan(value):
        return "– "
    text = f"{round(value, 2) + 0.0:.2f}"  # + 0.0: no minus in front of 0
    return "1.0 " if text == "1.00" else text.replace("0.", ".") + " "


def _shade(value: float, is_itself: bool) -> str:
    """A style: white to dark blue for 0 to 1, with a text that can be read on it."""
    if is_itself or math.isnan(value):
        return "dim"
    share = min(1.0, max(0.0, value))
    red, green, blue = (round(light + share * (dark - light)) for light, dark in ((247, 8), (251, 48), (255, 107)))
    return f"{'white' if share > 0.5 else 'black'} on rgb({red},{green},{blue})"


def _lines(text: str, width: int) -> int:
    return sum(max(1, math.ceil(len(line) / max(1, width))) for line in text.split("\n"))


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3f}"


def _or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None


def mean(values: Sequence[float]) -> float:
    """The mean of the numbers that are defined, NaN if there are none."""
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan
