"""Plain numbers, exact."""

import re
from dataclasses import dataclass
from fractions import Fraction

DIGITS = 400  # longer numbers are no answers, and Python refuses to convert thousands of digits
DECIMAL = r"(?:\d+(?:\.\d*)?|\.\d+)"
NUMBER = re.compile(rf"([-+]?)\s*({DECIMAL})(?:\s*/\s*({DECIMAL}))?(?:\\times10\^\{{([-+]?\d{{1,3}})\}})?")
FRACTION = re.compile(rf"([-+]?)\s*\\frac\s*\{{\s*(-?{DECIMAL})\s*\}}\s*\{{\s*(-?{DECIMAL})\s*\}}")
ROUNDING, RELATIVE = Fraction(1, 2_000_000), Fraction(1, 100_000)  # see same_number


@dataclass(frozen=True)
class Number:
    """Example: "0.25": value 1/4, not exact: it may be rounded."""

    value: Fraction
    exact: bool  # written as an integer or a fraction of integers


def read_number(text: str) -> Number | None:
    r"""The number that the text is: an integer, a decimal, a fraction, ``1.5\times10^{3}``; None for anything else."""
    match = NUMBER.fullmatch(text)
    fraction = None if match else FRACTION.fullmatch(text)
    if len(text) > DIGITS or not (match or fraction):
        return None
    sign, top, bottom, exponent = match.groups() if match else (*fraction.groups(), None)  # type: ignore[union-attr]
    divisor = Fraction(bottom or 1)
    if not divisor:
        return None
    value = Fraction(top) / divisor * Fraction(10) ** int(exponent or 0)
    return Number(-value if sign == "-" else value, exact="." not in text)


def same_number(one: Number, other: Number) -> bool:
    """Whether two numbers are equal. A decimal may be rounded: it equals a number that agrees with it to 6 decimals and
    5 digits (0.333333 is 1/3, 0.33 is not, and 1e-7 is not 2e-7)."""
    if one.value == other.value:
        return True
    difference = abs(one.value - other.value)
    largest = max(abs(one.value), abs(other.value))
    return not (one.exact and other.exact) and difference <= ROUNDING and difference <= RELATIVE * largest
