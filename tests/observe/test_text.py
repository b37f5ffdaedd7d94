from dqo.observe.text import prompt_text, shorten, visible
from dqo.records import Prompt
from tests.observe.records import HOSTILE


def test_control_and_direction_signs_are_spelled_out():
    assert visible(HOSTILE) == r"Paris\x1b[2J↵[bold red]x[/] \u202e"
    assert visible("a\tb\x9b\u2028\u200b\x00") == r"a⇥b\x9b\u2028\u200b\x00"


def test_ordinary_text_of_any_script_stays():
    for text in ("São Paulo", "東京", "Київ", "🗼 3 × 4 = 12"):
        assert visible(text) == text


def test_shorten_marks_the_cut():
    assert shorten("Paris", 5) == "Paris"
    assert shorten("Helsinki", 5) == "Hels…"


def test_prompt_text_of_a_conversation():
    messages = ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "A city?"})
    assert (
        prompt_text(Prompt(position=0, tokens=(3,), content=messages, columns={})) == "system: Be brief.\nuser: A city?"
    )
