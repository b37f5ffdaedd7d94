import pytest

from dqo.answers.notation import Unreadable, mixed_numbers_as_fractions, one_notation


@pytest.mark.parametrize(
    ("text", "plain", "percent"),
    [
        (r"\$1{,}234.50", "1234.50", False),
        ("1,234,567", "1234567", False),
        ("1,234, 5,678", "1234, 5678", False),
        ("(1,234)", "(1, 234)", False),
        ("1,2", "1,2", False),
        (r"3 1/2 \%", r"\frac{7}{2}", True),
        ("-3 1/2", r"-\frac{7}{2}", False),
        (r"x^2\frac{1}{2}", r"x^2\frac{1}{2}", False),
        ("1.5e-3", r"1.5\times10^{-3}", False),
        (r"1.5 \cdot 10^{3}", r"1.5\times10^{3}", False),
        ("2 million dollars", r"2\times10^{6}", False),
        (r"0.1\overline{6}", r"\frac{15}{90}", False),
        ("5 and 6", "5, 6", False),
        ("x = 5 cm", "x = 5", False),
    ],
)
def test_one_notation(text, plain, percent):
    assert one_notation(text) == (plain, percent)


@pytest.mark.parametrize(
    "text", ["1.234,5", "1.234.567", "12 345,67", "3 5/2", "3 1/0", "1 2", "2024-01-05", "5/6/2024", "6'2\"", "7 R 2"]
)
def test_what_can_be_read_in_two_ways_is_refused(text):
    with pytest.raises(Unreadable):
        one_notation(text)


def test_mixed_numbers_within_a_text():
    assert mixed_numbers_as_fractions("He has 3 1/2 cups, not 3 5/2.") == "He has 7/2 cups, not 3 5/2."
