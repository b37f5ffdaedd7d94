"""Answers to maths as values that can be compared: numbers by ``dqo.answers``, formulas by math-verify.

Runs in the sandbox: no torch. What cannot be read with certainty is Unreadable rather than read wrongly.
"""

import functools
import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import sympy
from latex2sympy2_extended.latex2sympy2 import ConversionConfig, NormalizationConfig, latex2sympy
from math_verify import verify
from math_verify.grader import should_treat_as_complex

from dqo.answers.finding import unwrapped
from dqo.answers.notation import Unreadable, one_notation
from dqo.answers.numbers import Number, read_number, same_number
from dqo.answers.symbols import in_latex
from dqo.answers.units import TRIGONOMETRY

# math-verify's own rules for units would read 2t as 2, and for mixed numbers 1 234 as 235: dqo.answers has done both
NORMALIZATION = NormalizationConfig(
    basic_latex=True, units=False, malformed_operators=True, nits=False, boxed="none", equations=False
)
CONVERSION = ConversionConfig(interpret_as_mixed_fractions=False, lowercase_symbols=False)
NO_LIMIT = 0  # seconds: the sandbox has its own
LONGEST = 2000  # characters of an answer
CLOSE = 1e-5  # relative difference; math-verify rounds to 6 decimals, and 1/2004! equals 1/2006! there

LETTER = re.compile(r"(?:\\text\{)?[\s(]*(?:\\text\{)?[\s(]*([A-Z])[\s)}.:]*")
CHOICE = re.compile(  # "Option B", "B) twelve"
    r"(?:\\text\{\s*)?(?:[Oo]ption|[Cc]hoice)?\s*\(?([A-Z])(?:\s*\}?\s*[).:]+(?:\s|\\|\}|$).*|\s*\}?$)", re.DOTALL
)
WORDS = re.compile(r"\\text\{([^{}]*[A-Za-z][^{}]*)\}")
BARE_WORDS = re.compile(r"[A-Za-z][A-Za-z' -]*")
RATIO = re.compile(r"\d+(?:\.\d+)?(?:\s*:\s*\d+(?:\.\d+)?)+")
TIME = re.compile(r"\d{1,2}:\d\d(?::\d\d)?")
NOON = re.compile(r"\s*(?:\\text\{)?\s*([ap])\.?\s*m\.?\s*\}?$", re.IGNORECASE)
BASED = re.compile(r"([\dA-F]+)_(?:\{\s*\(?(\d+)\)?\s*\}|(\d+))")
NO_VALUE = re.compile(r"%|\.\.\.|\\[lcd]?dots|\?|\\text|\\circ.*\\circ|[^\x00-\x7f]")
COMMANDS = re.compile(r"\\(?:begin|end)\{[a-z]+\*?\}|\\(?:mathbb|mathcal|mathbf|operatorname)\{[A-Za-z]+\}|\\[A-Za-z]+")
WORD = re.compile(  # letters that are no product of variables
    r"[a-z]{4,}|(?<![a-z])(?:yes|no|not|nan|n/a|one|two|six|ten|the|of|to|in|is|are|all|any|odd|so|we|it|he|she|get|has|"
    r"at|on|thus)(?![a-z])",
    re.IGNORECASE,
)


class Kind(StrEnum):
    """What an answer is."""

    NUMBER = "number"
    FORMULA = "formula"
    LETTER = "letter"  # of a multiple choice, or a variable
    WORDS = "words"
    RATIO = "ratio"  # 3:2
    TIME = "time"  # 3:00
    BASED = "number of another base"


@dataclass(frozen=True)
class Answer:
    """Example: ``50\\%`` is a number of value 50, with ``percent``."""

    kind: Kind
    value: Any  # Number; sympy object; text of a letter, words, a time; Fractions of a ratio; (digits, base)
    percent: bool = False

    def __str__(self) -> str:
        if self.kind is Kind.NUMBER:
            text = str(self.value.value)
        elif self.kind is Kind.RATIO:
            text = ":".join(map(str, self.value))
        elif self.kind is Kind.BASED:
            text = f"{self.value[0]} of base {self.value[1]}"
        else:
            text = str(self.value)
        return f"{text} %" if self.percent else text

    @property
    def is_list(self) -> bool:
        """Whether it has several elements, in a set or a tuple."""
        return self.kind is Kind.FORMULA and isinstance(self.value, sympy.Set | sympy.Tuple)


def read_answer(text: str) -> Answer:
    """The value of a text that is an answer and nothing else. Raises Unreadable."""
    if len(text) > LONGEST or not text.strip():
        raise Unreadable
    bare = unwrapped(in_latex(text))
    for read in (_letter, _time, _based, _ratio, _words):
        if answer := read(bare):
            return answer
    plain, percent = one_notation(text)
    if number := read_number(plain.replace(" ", "")):
        return Answer(Kind.NUMBER, number, percent)
    for read in (_letter, _ratio, _based):
        if not percent and (answer := read(plain)):
            return answer
    return Answer(Kind.FORMULA, _formula(plain), percent)


def read_like(gold: Answer, text: str) -> Answer:
    """The value of a completion's answer, where the right answer's kind decides how to read it: ``B) 12`` is the choice
    B, a bare word is a word. Raises Unreadable."""
    bare = unwrapped(in_latex(text))
    if gold.kind is Kind.LETTER and (match := CHOICE.fullmatch(bare)):
        return Answer(Kind.LETTER, match[1])
    if gold.kind is Kind.WORDS and BARE_WORDS.fullmatch(bare):
        return Answer(Kind.WORDS, _folded(bare))
    if gold.is_list:  # 1,234 may be two numbers
        text = re.sub(r"(?<=\d),(?=\d)", ", ", text)
    return read_answer(text)


def same_answer(gold: Answer, found: Answer) -> bool:
    """Whether a completion's answer is right. 50% equals 50% and 0.5, and 50 as well: the sign counts as a unit, which
    may be left out. 50 does not equal 0.5."""
    if gold.percent == found.percent:
        return _same(gold, found)
    hundredth = Answer(Kind.FORMULA, _sympy(gold if gold.percent else found) / 100)
    return _same(gold, found) or (_same(hundredth, found) if gold.percent else _same(gold, hundredth))


def _same(gold: Answer, found: Answer) -> bool:
    kinds = {gold.kind, found.kind}
    if kinds == {Kind.NUMBER}:
        return same_number(gold.value, found.value)
    if kinds == {Kind.RATIO}:
        return _proportional(gold.value, found.value)
    if kinds == {Kind.BASED, Kind.NUMBER}:  # the base may be left out, as a unit may
        based, number = (gold, found) if gold.kind is Kind.BASED else (found, gold)
        return based.value[0] == str(number.value.value)
    if kinds <= {Kind.NUMBER, Kind.FORMULA, Kind.LETTER} and kinds != {Kind.LETTER}:
        return _same_formula(_sympy(gold), _sympy(found))
    return len(kinds) == 1 and gold.value == found.value


def _same_formula(gold: Any, found: Any) -> bool:
    if isinstance(found, sympy.Eq) and not isinstance(gold, sympy.logic.boolalg.Boolean) and not _assigns(found):
        return False  # math-verify would take 2x = 10 for 10
    return verify([gold], [found], timeout_seconds=NO_LIMIT) and _close(gold, found)


def _assigns(equation: sympy.Eq) -> bool:
    left = equation.lhs
    if isinstance(left, sympy.Symbol) or not left.free_symbols or isinstance(left, sympy.core.function.AppliedUndef):
        return True
    return isinstance(left, sympy.Mul) and all(isinstance(factor, sympy.Symbol) for factor in left.args)  # AB = 5


def _close(gold: Any, found: Any) -> bool:
    """False for two numbers that are equal only because both are small."""
    scalars = [value for value in (gold, found) if isinstance(value, sympy.Expr) and value.is_number]
    if len(scalars) < 2 or gold == found:
        return True
    one, other = (sympy.N(value, 15) for value in scalars)
    return bool(abs(one - other) <= CLOSE * max(abs(one), abs(other)))


def _sympy(answer: Answer) -> Any:
    if answer.kind is Kind.LETTER:
        return sympy.Symbol(answer.value, real=True)
    if answer.kind is not Kind.NUMBER:
        return answer.value
    number: Number = answer.value
    exact = sympy.Rational(number.value.numerator, number.value.denominator)
    return exact if number.exact else sympy.Float(exact, 15)


@functools.lru_cache(maxsize=1024)
def _formula(text: str) -> Any:
    """The sympy object of plain LaTeX. Raises Unreadable."""
    if not text or NO_VALUE.search(text) or WORD.search(COMMANDS.sub(" ", text)):
        raise Unreadable
    try:
        value = latex2sympy(
            text,
            is_real=not should_treat_as_complex(text),
            convert_degrees=bool(TRIGONOMETRY.search(text)),
            normalization_config=NORMALIZATION,
            conversion_config=CONVERSION,
        )
    except RecursionError:
        raise
    except Exception as error:
        raise Unreadable from error
    if value is None or (isinstance(value, sympy.Basic) and value.has(sympy.zoo, sympy.nan)):
        raise Unreadable
    return value


def _letter(text: str) -> Answer | None:
    match = LETTER.fullmatch(text)
    return Answer(Kind.LETTER, match[1]) if match else None


def _words(text: str) -> Answer | None:
    match = WORDS.fullmatch(text)
    return Answer(Kind.WORDS, _folded(match[1])) if match else None


def _folded(words: str) -> str:
    return " ".join(words.casefold().split()).rstrip(".")


def _time(text: str) -> Answer | None:
    noon = NOON.search(text)
    time = NOON.sub("", text).strip() if noon else text
    if not TIME.fullmatch(time):
        return None
    return Answer(Kind.TIME, time.lstrip("0") + (f" {noon[1].lower()}m" if noon else ""))


def _ratio(text: str) -> Answer | None:
    if not RATIO.fullmatch(text):
        return None
    numbers = [read_number(part.strip()) for part in text.split(":")]
    return Answer(Kind.RATIO, tuple(number.value for number in numbers if number))


def _proportional(one: tuple, other: tuple) -> bool:
    return len(one) == len(other) and all(a * other[0] == b * one[0] for a, b in zip(one, other, strict=True))


def _based(text: str) -> Answer | None:
    match = BASED.fullmatch(text)
    return Answer(Kind.BASED, (match[1], int(match[2] or match[3]))) if match else None
