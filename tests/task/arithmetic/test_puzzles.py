"""The solutions of a puzzle against all expressions with two or three of its numbers."""

import contextlib
import itertools
import operator
import random
from fractions import Fraction

import pytest

from dqo.task.arithmetic.expressions import read, written
from dqo.task.arithmetic.puzzles import COUNT, LEAST, NUMBERS, TARGETS, USED, Puzzle, Puzzles


@pytest.fixture(scope="module")
def puzzles() -> Puzzles:
    return Puzzles()


def brute_force(numbers: tuple[int, ...], target: int) -> set[str]:
    """The modes of all expressions with two or three of the numbers that have the target as their value."""
    signs = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}
    found = [f"{a}{o}{b}" for a, b in itertools.permutations(numbers, 2) for o in signs if signs[o](a, b) == target]
    for a, b, c in itertools.permutations(map(Fraction, numbers), 3):
        for o, p in itertools.product(signs, repeat=2):
            with contextlib.suppress(ZeroDivisionError):
                found += [f"({a}{o}{b}){p}{c}"] if signs[p](signs[o](a, b), c) == target else []
            with contextlib.suppress(ZeroDivisionError):
                found += [f"{a}{o}({b}{p}{c})"] if signs[o](a, signs[p](b, c)) == target else []
    return {read(text).mode() for text in found}


def test_the_modes_of_a_puzzle_are_all_there_are(puzzles):
    for puzzle in puzzles.all[:15]:
        found = [written(form, sign) for sign, form in puzzles.solutions(puzzle)]
        assert set(found) == brute_force(puzzle.numbers, puzzle.target)
        assert len(found) == len(set(found)) == puzzle.modes


def test_puzzles_have_several_solutions_and_none_is_a_given_number(puzzles):
    assert len(puzzles.all) > 2000
    assert len({(puzzle.numbers, puzzle.target) for puzzle in puzzles.all}) == len(puzzles.all)
    for puzzle in puzzles.all:
        assert puzzle.modes >= sum(LEAST.values())
        assert puzzle.target in TARGETS and puzzle.target not in puzzle.numbers
        assert len(set(puzzle.numbers)) == COUNT and set(puzzle.numbers) <= set(NUMBERS)
        assert list(puzzle.numbers) == sorted(puzzle.numbers)


def test_the_puzzles_never_change(puzzles):
    assert puzzles.all[0] == Puzzle(numbers=(2, 4, 5, 7, 9, 12), target=14, modes=14)


def test_random_solutions(puzzles):
    chooser = random.Random(0)
    for puzzle in puzzles.all[:50]:
        expression = read(written(*puzzles.random_solution(puzzle, chooser)[::-1]))
        assert expression.value == puzzle.target
        assert len(expression.numbers) in USED and set(expression.numbers) <= set(puzzle.numbers)
