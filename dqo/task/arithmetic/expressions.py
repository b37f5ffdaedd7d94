"""Arithmetic expressions: their exact value, and the mode that they have in common with others.

A form is what is left of an expression without the order of terms and factors, and without brackets that change
nothing. It is a nested tuple, which compares and sorts:

    (NUMBER, 3)    (SUM, added, subtracted)    (PRODUCT, multiplied, divided)

where the last two have sorted tuples of forms; no sum is a member of a sum and no product of a product. Two expressions
in which each number occurs once have equal forms exactly where they are equal for all values of their numbers, but for
the sign: that of a difference is chosen (a - b and b - a have one form) and kept beside the form.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

NUMBER, SUM, PRODUCT = 0, 1, 2
LONGEST = 200  # characters of an expression
DEEPEST = 20  # brackets and signs around a number
TOKEN = re.compile(r"\s*([0-9]{1,9}(?![\d.])|[-+*/()])")
SIGNS = {"×": "*", "·": "*", "⋅": "*", "÷": "/", "−": "-", "–": "-", r"\times": "*", r"\cdot": "*", r"\div": "/"}

Form = tuple[Any, ...]
Order = Callable[[list[tuple[bool, Form]]], list[tuple[bool, Form]]]  # of the members: (is added or multiplied, form)


class NoExpression(ValueError):
    """The text is no arithmetic expression, or divides by zero."""


@dataclass(frozen=True, kw_only=True)
class Expression:
    """Example: "8 / (3 - 1)" has the value 4, the numbers 8, 3, 1, and the form of "8 / (1 - 3)" with sign -1."""

    value: Fraction
    numbers: tuple[int, ...]  # as they stand in the text
    sign: int  # 1 or -1, of the form
    form: Form

    def mode(self) -> str:
        """A text that all expressions with this form and sign have in common, an expression itself."""
        return written(self.form, self.sign)


def read(text: str) -> Expression:
    """The expression that the whole text is: whole numbers, + - * / and round brackets. Raises NoExpression for any
    other text, and for one that is longer than ``LONGEST`` or nested deeper than ``DEEPEST``."""
    if len(text) > LONGEST:
        raise NoExpression("too long")
    for sign, plain in SIGNS.items():
        text = text.replace(sign, plain)
    tokens, end = [], 0
    while match := TOKEN.match(text, end):
        tokens.append(match[1])
        end = match.end()
    if text[end:].strip():
        raise NoExpression(f"not arithmetic: {text[end:].strip()[:10]}")
    reader = _Reader(tokens)
    expression = reader.sum(DEEPEST)
    if reader.next():
        raise NoExpression("more follows")
    return expression


class _Reader:
    """Recursive descent over tokens."""

    def __init__(self, tokens: list[str]):
        self._tokens, self._place = tokens, 0

    def next(self) -> str:
        """The next token; empty at the end."""
        return self._tokens[self._place] if self._place < len(self._tokens) else ""

    def take(self) -> str:
        token = self.next()
        self._place += 1
        return token

    def sum(self, depth: int) -> Expression:
        left = self.product(depth)
        while self.next() in ("+", "-"):
            left = _added(left, _signed(self.take(), self.product(depth)))
        return left

    def product(self, depth: int) -> Expression:
        left = self.factor(depth)
        while self.next() in ("*", "/"):
            left = _multiplied(left, self.factor(depth)) if self.take() == "*" else _divided(left, self.factor(depth))
        return left

    def factor(self, depth: int) -> Expression:
        if not depth:
            raise NoExpression("too deep")
        token = self.take()
        if token in ("+", "-"):
            return _signed(token, self.factor(depth - 1))
        if token == "(":
            inner = self.sum(depth - 1)
            if self.take() != ")":
                raise NoExpression("a bracket is not closed")
            return inner
        if not token.isdigit():
            raise NoExpression("a number is missing")
        number = int(token)
        return Expression(value=Fraction(number), numbers=(number,), sign=1, form=(NUMBER, number))


def _signed(sign: str, x: Expression) -> Expression:
    if sign == "+":
        return x
    return Expression(value=-x.value, numbers=x.numbers, sign=-x.sign, form=x.form)


def _added(x: Expression, y: Expression) -> Expression:
    sign, form = sum_of((x.sign, x.form), (y.sign, y.form))
    return Expression(value=x.value + y.value, numbers=x.numbers + y.numbers, sign=sign, form=form)


def _multiplied(x: Expression, y: Expression) -> Expression:
    form = product_of(x.form, y.form, divide=False)
    return Expression(value=x.value * y.value, numbers=x.numbers + y.numbers, sign=x.sign * y.sign, form=form)


def _divided(x: Expression, y: Expression) -> Expression:
    if not y.value:
        raise NoExpression("division by zero")
    form = product_of(x.form, y.form, divide=True)
    return Expression(value=x.value / y.value, numbers=x.numbers + y.numbers, sign=x.sign * y.sign, form=form)


def sum_of(x: tuple[int, Form], y: tuple[int, Form]) -> tuple[int, Form]:
    """Sign and form of the sum of two signed forms."""
    sides: dict[int, list[Form]] = {1: [], -1: []}
    for sign, form in (x, y):
        added, subtracted = form[1:] if form[0] == SUM else ((form,), ())
        sides[sign].extend(added)
        sides[-sign].extend(subtracted)
    added, subtracted = (tuple(sorted(sides[sign])) for sign in (1, -1))
    if (not added, added, subtracted) <= (not subtracted, subtracted, added):
        return 1, (SUM, added, subtracted)
    return -1, (SUM, subtracted, added)


def product_of(x: Form, y: Form, *, divide: bool) -> Form:
    """The form of the product, or of the quotient, of two forms."""
    multiplied, divided = _factors(x)
    others = _factors(y)
    over, under = others[::-1] if divide else others
    return (PRODUCT, tuple(sorted(multiplied + over)), tuple(sorted(divided + under)))


def _factors(form: Form) -> tuple[tuple[Form, ...], tuple[Form, ...]]:
    return (form[1], form[2]) if form[0] == PRODUCT else ((form,), ())


def written(form: Form, sign: int = 1, order: Order = list) -> str:
    """An expression with this form and sign, tokens separated by spaces: "2 * ( 7 - 1 )". ``order`` arranges the
    members of each sum and product; one that is added or multiplied is then put first."""
    if form[0] == NUMBER:
        return str(form[1]) if sign > 0 else f"- {form[1]}"
    members = [(True, member) for member in form[1]] + [(False, member) for member in form[2]]
    if form[0] == SUM:
        return _joined(order([(adds is (sign > 0), member) for adds, member in members]), "+-", order)
    members = order(members)
    turned = next((place for place, (_, member) in enumerate(members) if sign < 0 and member[0] == SUM), None)
    if turned is not None:  # a * (b - c) in place of -a * (c - b)
        adds, (kind, added, subtracted) = members[turned]
        members[turned] = (adds, (kind, subtracted, added))
    return ("- " if sign < 0 and turned is None else "") + _joined(members, "*/", order)


def _joined(members: list[tuple[bool, Form]], operators: str, order: Order) -> str:
    """The members with the operator before each; the first has none, or a minus where all are subtracted."""
    place = next((place for place, (adds, _) in enumerate(members) if adds), None)
    text = "" if place is not None else "- "
    arranged = [members[place or 0], *members[: place or 0], *members[(place or 0) + 1 :]]
    for number, (adds, member) in enumerate(arranged):
        inner = written(member, 1, order)
        inner = f"( {inner} )" if operators == "*/" and member[0] == SUM else inner
        text += inner if not number else f" {operators[0 if adds else 1]} {inner}"
    return text
