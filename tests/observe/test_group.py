import io
import json
import math
from dataclasses import replace

import pytest
from rich.console import Console

from dqo.observe.group import Group, as_json, as_tables
from tests.helpers.steps import HOSTILE

NAN = math.nan


def make_group(*texts: str, **fields) -> Group:
    """Completions with known numbers: the first is good, the last is cut, invalid, and without an embedding."""
    k = len(texts)
    cosines = [[1.0 if i == j else NAN if k - 1 in (i, j) else 0.123 * (i - j) for j in range(k)] for i in range(k)]
    known = {
        "policy": "mine", "prompt": "Which city?", "completions": texts, "rewards": (1.0, *[0.0] * (k - 2), NAN),
        "correct": (True, *[False] * (k - 2), None), "credits": (0.5, *[0.25] * (k - 2), NAN),
        "lengths": tuple(range(1, k + 1)), "finished": (*[True] * (k - 1), False),
        "cosines": tuple(map(tuple, cosines)), "chosen": None, "notes": ("a note",),
    }  # fmt: skip
    return Group(**{**known, **fields})


def printed(group: Group, width: int = 80, *, colored: bool = False) -> str:
    color = "truecolor" if colored else None
    console = Console(file=(file := io.StringIO()), width=width, color_system=color, force_terminal=colored)
    console.print(as_tables(group, width))
    return file.getvalue()


GROUP = make_group("Paris", "Lima", "Oslo")


@pytest.mark.parametrize("width", [80, 160])
def test_one_row_a_completion_with_dashes_where_nothing_is_defined(width):
    lines = printed(GROUP, width).splitlines()
    assert lines[0].strip() == "Which city?"
    rows = [line.split() for line in lines]
    assert ["#", "reward", "correct", "credit", "tokens", "end", "completion"] in rows
    assert ["1", "1.000", "yes", "0.500", "1", "Paris"] in rows
    assert ["3", "–", "–", "–", "3", "cut", "Oslo"] in rows
    assert ["1", "·", "-.12", "–"] in rows and ["2", ".12", "·", "–"] in rows
    assert lines[-1].strip() == "a note" and all(len(line) <= width for line in lines)


def test_a_small_negative_cosine_is_0_and_one_of_almost_1_is_1():
    text = printed(make_group("a", "b", cosines=((1.0, -0.001), (0.999, 1.0))))
    assert [line.split() for line in text.splitlines()][-4:-2] == [["1", "·", ".00"], ["2", "1.0", "·"]]


def test_columns_that_say_nothing_are_left_out():
    text = printed(replace(GROUP, correct=(None,) * 3, credits=None))
    assert "correct" not in text and "credit" not in text and "chosen" not in text


def test_the_chosen_ones_carry_their_place():
    rows = [line.split() for line in printed(replace(GROUP, chosen=(1, 0))).splitlines()]
    assert ["1", "★", "2", "1.000", "yes", "0.500", "1", "Paris"] in rows
    assert ["2", "★", "1", "0.000", "no", "0.250", "2", "Lima"] in rows


def test_long_completions_are_printed_one_below_the_other_with_their_line_breaks():
    text = printed(make_group("Step 1.\nStep 2.\nStep 3.\nSo 4.", "4"), 80)
    assert "── 1  reward 1.000  correct yes  credit 0.500  tokens 1" in text
    lines = [line.strip() for line in text.splitlines()]
    assert lines[lines.index("Step 1.") :][:5] == ["Step 1.", "Step 2.", "Step 3.", "So 4.", lines[7]]
    assert lines[7].startswith("── 2  reward –")


def test_many_completions_get_one_digit_a_pair_and_very_many_none():
    cosines = tuple(tuple(1.0 if i == j else -0.4 if i == 0 else j / 20 for j in range(20)) for i in range(20))
    text = printed(make_group(*map(str, range(20)), cosines=cosines))
    assert "  1 ·-------------------" in text and "  3 00·12233445566778899" in text
    assert "cosines" not in printed(make_group(*map(str, range(65)), cosines=((NAN,) * 65,) * 65))


def test_hostile_completions_and_prompts_cannot_reach_the_terminal():
    text = printed(make_group(HOSTILE, "x", prompt=HOSTILE, policy=HOSTILE))
    assert "\x1b" not in text and "\u202e" not in text
    assert "[bold red]x[/]" in text, "no markup is read"


def test_similarities_have_a_background_that_darkens():
    group = make_group("a", "b", "c", cosines=((1.0, 0.1, 0.9), (0.1, 1.0, 0.1), (0.9, 0.1, 1.0)))
    text = printed(group, colored=True)
    assert "black on" not in text and "\x1b[30;48;2;" in text and "\x1b[37;48;2;32;68;122m" in text


def test_json_has_null_for_what_is_not_defined_and_is_one_line_of_ascii():
    line = as_json(make_group("Zürich\u202e\n", "b", "c", chosen=(1,)))
    assert line.isascii() and "\n" not in line
    record = json.loads(line)
    first, second, last = record["completions"]
    assert first["text"] == "Zürich\u202e\n" and (first["reward"], first["correct"], first["chosen"]) == (
        1.0,
        True,
        None,
    )
    assert second["chosen"] == 1
    assert (last["reward"], last["correct"], last["credit"], last["finished"]) == (None, None, None, False)
    assert record["cosines"][0] == [1.0, -0.123, None] and record["prompt"] == "Which city?"
    assert "chosen" not in json.loads(as_json(GROUP))["completions"][0]
