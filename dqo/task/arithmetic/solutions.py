"""Worked solutions in plain text: how they are asked for, the numbers in them, and the formulas."""

import re
from contextlib import suppress
from fractions import Fraction

from dqo.answers.finding import formulas
from dqo.answers.notation import Unreadable, mixed_numbers_as_fractions, one_notation
from dqo.answers.numbers import read_number
from dqo.answers.symbols import in_latex

PROMPT = "{}\n\nReason step by step, and put the final answer in \\boxed{{}}."
LONGEST = 100  # characters; longer numbers are not converted
NUMBER = re.compile(r"(?:(?<![\w)])-)?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:/\d+)?")  # in 12-5 the minus is no sign


def value(text: str) -> Fraction | None:
    """The number that the text is, in any notation, or the last one in it."""
    with suppress(Unreadable):
        if len(text) <= LONGEST and (number := read_number(one_notation(text)[0])):
            return number.value
    numbers = NUMBER.findall(mixed_numbers_as_fractions(text.replace("−", "-")))
    return _fraction(numbers[-1]) if numbers else None


def numbers_in_order(text: str) -> str:
    """The numbers of the text in order, each once; empty if there are none. They stand for the way of calculating."""
    return " ".join(dict.fromkeys(str(_fraction(number)) for number in NUMBER.findall(text)))


def formulas_in_order(text: str) -> str:
    """The formulas of the text between dollars or brackets, in order, each once, in one notation without spaces; empty
    if there are none. Those of one letter or number alone are left out."""
    found = ("".join(in_latex(formula).split()).rstrip(".,;:") for formula in formulas(text)[0])
    return " ; ".join(dict.fromkeys(formula for formula in found if not re.fullmatch(r"\w*|-\d+", formula)))


def _fraction(number: str) -> Fraction | None:
    """The number's value; None for 1/0, and for more than ``LONGEST`` characters: Python refuses to convert thousands
    of digits."""
    whole, _, parts = number.replace(",", "").partition("/")
    if len(number) > LONGEST or (parts and not int(parts)):
        return None
    return Fraction(whole) / int(parts or 1)
