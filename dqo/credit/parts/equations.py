"""The formulas and equations of a text."""

import re

from dqo.answers.finding import formulas

READ = 10_000  # characters of a text that are read: looking for where formulas end is quadratic
_NUMBER = r"[(\s]{0,4}\$?\d[\d,]{0,20}(?:\.\d{1,20})?%?[)\s]{0,4}"
CALCULATION = re.compile(rf"(?<![\w.]){_NUMBER}(?:[-+*/×÷·^]{_NUMBER}){{1,20}}={_NUMBER}")
SPACES = re.compile(r"\s+")


def equations(text: str) -> list[str]:
    r"""Each formula between dollars, ``\(`` and ``\)`` or ``\[`` and ``\]``, and each calculation in plain text, once,
    without white space. What stands inside a formula is no calculation of its own.

    Example: ``"So $x=3$, and 2 * 3 = 6."`` gives ``["x=3", "2*3=6"]``.
    """
    inside, outside = formulas(text[:READ])
    found = [*inside, *CALCULATION.findall(outside)]
    return list(dict.fromkeys(formula for each in found if (formula := SPACES.sub("", each))))
