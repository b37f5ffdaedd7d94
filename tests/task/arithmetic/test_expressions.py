"""Values against Python's own arithmetic, and modes against equality as functions of the numbers."""

import ast
import itertools
import random
import time
from collections import defaultdict
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dqo.task.arithmetic.expressions import DEEPEST, LONGEST, NoExpression, read, written

PRIMES = [1_000_003, 998_244_353, 754_974_721, 167_772_161]  # no two different expressions of these are equal by chance


def bracketings(numbers: list[str]):
    """Every expression over the numbers in this order, with brackets around each operation."""
    if len(numbers) == 1:
        yield numbers[0]
    for cut in range(1, len(numbers)):
        for left, right in itertools.product(bracketings(numbers[:cut]), bracketings(numbers[cut:])):
            yield from (f"({left}{operator}{right})" for operator in "+-*/")


def value(text: str, numbers: dict[int, int]) -> Fraction | None:
    """The value by Python's parser, with other numbers in place of those of the text."""

    def of(node: ast.AST) -> Fraction:
        if isinstance(node, ast.Constant):
            return Fraction(numbers[node.value])
        if isinstance(node, ast.UnaryOp):
            return -of(node.operand) if isinstance(node.op, ast.USub) else of(node.operand)
        assert isinstance(node, ast.BinOp)
        left, right = of(node.left), of(node.right)
        match node.op:
            case ast.Add():
                return left + right
            case ast.Sub():
                return left - right
            case ast.Mult():
                return left * right
        return left / right

    try:
        return of(ast.parse(text.strip(), mode="eval").body)
    except ZeroDivisionError:
        return None


@pytest.mark.parametrize("count", [2, 3, 4])
def test_modes_are_the_different_functions_of_the_numbers(count):
    """All expressions over 1 to ``count`` in every order and bracketing: two have one mode exactly if they are equal
    for other numbers, too."""
    other = dict(zip(range(1, count + 1), PRIMES, strict=False))
    modes, functions = defaultdict(set), defaultdict(set)
    orders = list(itertools.permutations(map(str, range(1, count + 1))))
    for order in orders if count < 4 else random.Random(0).sample(orders, 2):
        for text in bracketings(list(order)):
            function = value(text, other)
            try:
                expression = read(text)
            except NoExpression:  # 1 / (2 - (3 - 1)) for these numbers, not for others
                continue
            modes[expression.mode()].add(function)
            functions[function].add(expression.mode())
    assert all(len(found) == 1 for found in modes.values())
    assert all(len(found) == 1 for found in functions.values())
    assert len(modes) > {2: 5, 3: 60, 4: 150}[count]  # a - b and b - a are two


@pytest.mark.parametrize(
    ("text", "others"),
    [
        ("2+3", ["3+2", "(3 + 2)", "((2))+3", "+2+3", "2--3", "3-(-2)"]),
        ("7-2+3", ["3+7-2", "7-(2-3)", "3-(2-7)", "-2+(7+3)", "(7-2)+3"]),
        ("8/2*3", ["3*8/2", "8/(2/3)", "3/(2/8)", "8*(3/2)", "8 × 3 ÷ 2", r"8 \times 3 \div 2"]),
        ("(7-2)*(9-4)", ["(2-7)*(4-9)", "(4-9)*(2-7)", "(9-4)*(7-2)", "-(2-7)*(9-4)", "-((7-2)*(4-9))"]),
        ("3*(9-4)", ["(9-4)*3", "-3*(4-9)", "-(4-9)*3", "3*(-4+9)", "3*(9−4)"]),
        ("6/(5-2)", ["-6/(2-5)", "6/(-2+5)", "-(6/(2-5))"]),
        ("1-(2-3)*4", ["1+(3-2)*4", "4*(3-2)+1"]),
    ],
)
def test_one_solution_in_other_words(text, others):
    assert {read(other).mode() for other in others} == {read(text).mode()}
    assert {read(other).value for other in others} == {read(text).value}


@pytest.mark.parametrize(
    ("one", "other"),
    [("2*6", "2+10"), ("2*3+4", "2*(3+4)"), ("7-2", "2-7"), ("8/2", "2/8"), ("2*6", "2*6*(3-2)"), ("3*4", "4+4+4"),
     ("8/(2*3)", "8/2*3"), ("9-(4+2)", "9-4+2")],
)  # fmt: skip
def test_different_solutions(one, other):
    assert read(one).mode() != read(other).mode()


@given(st.recursive(st.integers(0, 99).map(str), lambda inner: st.tuples(inner, st.sampled_from("+-*/"), inner).map(
    lambda parts: f"({parts[0]}{parts[1]}{parts[2]})"), max_leaves=8))  # fmt: skip
def test_value_and_numbers_of_any_expression(text):
    same = {number: number for number in range(100)}
    try:
        expression = read(text)
    except NoExpression:
        assert value(text, same) is None or len(text) > LONGEST or text.count("(") >= DEEPEST
        return
    assert expression.value == value(text, same)
    assert sorted(expression.numbers) == sorted(
        node.value for node in ast.walk(ast.parse(text, mode="eval")) if isinstance(node, ast.Constant)
    )


@given(st.permutations([3, 5, 7, 11]), st.integers(0, 63), st.randoms())
def test_the_written_mode_has_the_mode_that_it_names_in_any_order(numbers, operators, chooser):
    text = f"({numbers[0]}{'+-*/'[operators % 4]}{numbers[1]}){'+-*/'[operators // 4 % 4]}"
    text += f"({numbers[2]}{'+-*/'[operators // 16]}{numbers[3]})"
    expression = read(text)
    shuffled = written(expression.form, expression.sign, lambda members: chooser.sample(members, len(members)))
    for again in (read(expression.mode()), read(shuffled)):
        assert (again.sign, again.form, again.value) == (expression.sign, expression.form, expression.value)


@pytest.mark.parametrize(
    "text",
    ["", " ", "x", "2 3", "2+", "*2", "(2", "2)", "()", "2**3", "9**9**9", "2//3", "2^3", "1.5", "1,000", "2(3)", "1e9",
     "1_000", "__import__('os')", "2 = 2", "٣+٤", "2/0", "2/(3-3)", "2/(4-2*2)", "2;3", "2+\x003", "0x10", "½", "²",
     "9" * 10, "+".join(["1"] * 150)],
)  # fmt: skip
def test_no_expressions(text):
    with pytest.raises(NoExpression):
        read(text)


@pytest.mark.parametrize("text", ["(" * 10**6, "-" * 10**6, "(1+" * 300_000, "1+" * 500_000, "9" * 10**6, " " * 10**6,
                                  "(" * 99 + "1" + ")" * 99, "-" * 199 + "1", "1" + "+(-1" * 40])  # fmt: skip
def test_endless_and_deep_texts_are_refused_at_once(text):
    start = time.perf_counter()
    with pytest.raises(NoExpression):
        read(text)
    assert time.perf_counter() - start < 1.0
