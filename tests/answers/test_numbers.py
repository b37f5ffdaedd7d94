from fractions import Fraction

import pytest

from dqo.answers.numbers import Number, read_number, same_number


@pytest.mark.parametrize(
    ("text", "value", "exact"),
    [
        ("5", Fraction(5), True),
        ("-5.50", Fraction(-11, 2), False),
        (".5", Fraction(1, 2), False),
        ("7/2", Fraction(7, 2), True),
        (r"-\frac{7}{2}", Fraction(-7, 2), True),
        (r"\frac{7}{-2}", Fraction(-7, 2), True),
        (r"1.5\times10^{3}", Fraction(1500), False),
    ],
)
def test_numbers_are_exact(text, value, exact):
    assert read_number(text) == Number(value, exact)


@pytest.mark.parametrize("text", ["", "x", "1/0", "1,2", "1 2", "9" * 5000, "--5", "1/2/3"])
def test_anything_else_is_no_number(text):
    assert read_number(text) is None


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("0.333333", "1/3", True),
        ("0.33", "1/3", False),
        ("0.0000001", "0.0000002", False),
        ("1000000", "1000001", False),
        ("2.50", "5/2", True),
        ("123456.7", "123456.8", False),
    ],
)
def test_a_decimal_may_be_rounded(one, other, same):
    left, right = read_number(one), read_number(other)
    assert left and right
    assert same_number(left, right) is same
