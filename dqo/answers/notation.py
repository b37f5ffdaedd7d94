"""One notation for the ways in which people and models write the same answer."""

import re
from collections.abc import Callable

from dqo.answers.finding import unwrapped
from dqo.answers.symbols import in_latex
from dqo.answers.units import without_currency, without_units

AND = re.compile(r",?\s*\\text\{[\s,]*(?:and|or)\s*\}\s*|,?\s*(?<![A-Za-z])(?:and|or)(?![A-Za-z])\s*")
# digits in groups
TWO_WAYS = re.compile(  # 1.234,5 and 1 234,5; 4.5.6; 2024-01-05 and 5/6/2024; 6'2"; 7 R 2
    r"\d\.\d{3},\d|\d[ ]\d{3},\d{1,2}(?!\d)|\d\.\d+\.\d|(?<!\d)\d{4}-\d\d?-\d\d?(?!\d)|\d/\d+/\d|"
    r"\d\s*['\"]|\d\s*[Rr]\s*\d"
)
TIMES = re.compile(r"(?<=\d) +[xX] +(?=\d)")
MARKED_GROUP = re.compile(r"(?<=\d)(?:\{,(?:\\!)?\}|,\s*\\!\s*|\\!\s*,\s*)(?=\d{3}(?!\d))")
DECIMAL_COMMA = re.compile(r"(?<=\d)\{,\}(?=\d)")
SPACED_GROUPS = re.compile(r"(?<![\d.,/^_{])([1-9]\d{0,2}(?: \d{3})+)(?![\d/])")
COMMA_GROUPS = re.compile(r"(?<![\d.,])([1-9]\d{0,2}(?:,\d{3})+)(?!\d|,\d)")
INDIAN_GROUPS = re.compile(r"(?=\d+(?:,\d+)*,0)([1-9]\d?(?:,\d{2})+,\d{3})(?!\d)")
# powers of ten, mixed numbers, repeating decimals
MULTIPLES = {"thousand": 3, "million": 6, "billion": 9, "trillion": 12}
MULTIPLE = re.compile(
    r"(?<=\d)\s*(?:\\text\{\s*(NAME)\s*\}|(\\text\{)\s*(NAME)(?=\s[^{}]*\})|(NAME)(?![A-Za-z]))".replace(
        "NAME", "|".join(MULTIPLES)
    )
)
TIMES_TEN = re.compile(
    r"(?<=[\d.])\s*(?:\\times|\\cdot|\*|[xX])\s*10\s*(?:\^|\*\*)\s*(?:\{\s*([-+]?\d+)\s*\}|\(([-+]?\d+)\)|([-+]?\d+))"
)
EXPONENT = re.compile(r"(?<=[\d.])[eE]([-+]?\d{1,4})(?![\d.A-Za-z])")
MIXED = re.compile(
    r"(?<![\w.^_}/)\\])(?:(\d+)\s*\\frac\{\s*(\d+)\s*\}\{\s*(\d+)\s*\}|(\d+) +(\d+)\s*/\s*(\d+)(?![\d/.]))"
)
PLAIN_MIXED = re.compile(r"(?<![\w.^/)])(\d{1,18}) +(\d{1,18})/(\d{1,18})(?![\d/.]\d)")
AMBIGUOUS = re.compile(r"(?<![\^_{\d.])\d+\s*\\frac\{\s*\d+\s*\}\{\s*\d+\s*\}|(?<![_^\d])\d+ +(?=[\d.])")
REPEATING = re.compile(r"(\d*)\.(\d*)\\(?:overline|bar)\s*(?:\{(\d+)\}|(\d))")


class Unreadable(ValueError):
    """The text can be read in two ways, or in none."""


def one_notation(text: str) -> tuple[str, bool]:
    r"""The answer in plain LaTeX without amounts' and units' names, and whether a per cent sign stood behind it.

    Example: ``\$1{,}234.50`` gives ("1234.50", False), ``3 1/2 \%`` gives (r"\frac{7}{2}", True). Raises Unreadable.
    """
    text = _joined_groups(unwrapped(in_latex(text)))
    text = without_currency(text)
    text = REPEATING.sub(_fraction_of_repeating, MIXED.sub(_improper_fraction, text))
    text = EXPONENT.sub(
        r"\\times10^{\1}", TIMES_TEN.sub(_power_of_ten, MULTIPLE.sub(_multiple, TIMES.sub(r"\\times ", text)))
    )
    text, percent = without_units(text)
    text = unwrapped(AND.sub(", ", text).replace("**", "^").replace("*", r"\cdot "))
    if AMBIGUOUS.search(text):
        raise Unreadable
    return text, percent


def _joined_groups(text: str) -> str:
    """1,234,567, 1{,}234 and 1 234 without separators; in brackets a comma separates. Raises Unreadable for 1.234,5."""
    if TWO_WAYS.search(text):
        raise Unreadable
    text = DECIMAL_COMMA.sub(".", MARKED_GROUP.sub("", text).replace(r"\!", ""))
    return _outside_brackets(SPACED_GROUPS.sub(_digits, text), _without_commas)


def _without_commas(text: str) -> str:
    return COMMA_GROUPS.sub(_digits, INDIAN_GROUPS.sub(_digits, text))


def _digits(match: re.Match) -> str:
    return re.sub(r"\D", "", match[0])


def _outside_brackets(text: str, change: Callable[[str], str]) -> str:
    """``change`` applied to the parts that no bracket encloses; in the others a space follows each comma."""
    parts, depth, start = [], 0, 0
    for i, char in enumerate(text):
        if char in "([{":
            if depth == 0:
                parts.append(change(text[start:i]))
                start = i
            depth += 1
        elif char in ")]}" and depth:
            depth -= 1
            if depth == 0:
                parts.append(re.sub(r",(?=\S)", ", ", text[start : i + 1]))
                start = i + 1
    return "".join([*parts, change(text[start:])])


def mixed_numbers_as_fractions(text: str) -> str:
    """The text with 3 1/2 as 7/2; what is no mixed number, as 3 5/2, stays."""
    return PLAIN_MIXED.sub(
        lambda m: f"{int(m[1]) * int(m[3]) + int(m[2])}/{m[3]}" if int(m[2]) < int(m[3]) else m[0], text
    )


def _improper_fraction(match: re.Match) -> str:
    """3 1/2 as 7/2. Raises Unreadable for 3 5/2 and 3 1/0."""
    whole, top, bottom = (int(number) for number in match.groups() if number is not None)
    if top >= bottom:
        raise Unreadable
    return rf"\frac{{{whole * bottom + top}}}{{{bottom}}}"


def _multiple(match: re.Match) -> str:
    """2 million as 2 times a power of ten."""
    return rf"\times10^{{{MULTIPLES[match[1] or match[3] or match[4]]}}}{match[2] or ''}"


def _power_of_ten(match: re.Match) -> str:
    return rf"\times10^{{{match[1] or match[2] or match[3]}}}"


def _fraction_of_repeating(match: re.Match) -> str:
    r"""0.1\overline{6} as 15/90."""
    whole, fixed, repeated = match[1] or "0", match[2], match[3] or match[4]
    top = int(whole + fixed + repeated) - int(whole + fixed)
    return rf"\frac{{{top}}}{{{int('9' * len(repeated) + '0' * len(fixed))}}}"
