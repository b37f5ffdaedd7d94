import logging

from dqo.observe.visible import VisibleFormatter, shorten, visible, visible_lines
from tests.helpers.steps import HOSTILE


def test_control_characters_and_direction_marks_are_escaped():
    assert visible(HOSTILE) == r"Paris\x1b[2J↵[bold red]x[/] \u202e"
    assert visible("a\tb\x9b\u2028\u200b\x00") == r"a⇥b\x9b\u2028\u200b\x00"
    assert visible_lines("a\r\nb\a") == "a\\r\nb\\x07"


def test_ordinary_text_of_any_script_is_unchanged():
    for text in ("São Paulo", "東京", "Київ", "🗼 3 × 4 = 12"):
        assert visible(text) == text


def test_shorten_marks_the_cut():
    assert shorten("Paris", 5) == "Paris"
    assert shorten("Helsinki", 5) == "Hels…"


def test_a_log_record_cannot_move_the_cursor():
    record = logging.LogRecord("dqo", logging.WARNING, "", 1, "masked: %s", (HOSTILE,), None)
    assert "\x1b" not in VisibleFormatter("%(levelname)s: %(message)s").format(record)
