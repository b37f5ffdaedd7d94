import pytest

from dqo.embed.texts.normalization import Normalize, normalized, without_markup


@pytest.mark.parametrize(
    ("text", "steps", "expected"),
    [
        ("  Straße\n\n in   PARIS ", [], "  Straße\n\n in   PARIS "),
        ("  Straße\n\n in   PARIS ", ["case"], "  strasse\n\n in   paris "),
        ("  Straße\n\n in   PARIS ", ["space"], "Straße in PARIS"),
        ("# **Paris**\n\n- in `France`", ["space", "markup"], "Paris in France"),
        ("**PARIS**", ["case", "markup"], "paris"),
        ("", ["case", "markup", "space"], ""),
    ],
)
def test_steps_alone_and_together(text, steps, expected):
    assert normalized(text, [Normalize(step) for step in steps]) == expected


@pytest.mark.parametrize(
    ("marked", "plain"),
    [
        ("# Title\n\nA *b* __c__ ~d~", "Title\nA b c ~d~"),
        ("1. one\n2. two", "one\ntwo"),
        ("> said\n\n---\n\nend", "said\nend"),
        ("[Paris](https://a.b) ![a tower](c.png)", "Paris a tower"),
        ("```python\nx = 1\ny\n```", "x = 1\ny"),
        ("a <b>bold</b> word<br>", "a bold word"),
        ("<div>\n<p>five &lt; six</p>\n</div>", "five < six"),
        ("| a | b |\n|---|---|\n| 1 | 2 |", "a\nb\n1\n2"),
        ("2 * 3 = 6 and 4 < 5", "2 * 3 = 6 and 4 < 5"),
        ("fish &amp; chips", "fish & chips"),
        ("one\ntwo", "one\ntwo"),
        ("---", ""),
    ],
)
def test_what_is_marked_is_kept(marked, plain):
    assert without_markup(marked) == plain
