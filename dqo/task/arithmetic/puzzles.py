"""All puzzles of ``task=countdown``, each with all of its solutions."""

import random
from dataclasses import dataclass
from functools import cache
from itertools import combinations, product

import numpy as np

from dqo.task.arithmetic.expressions import NUMBER, SUM, Form, product_of, sum_of

COUNT = 6  # numbers of a puzzle
USED = (2, 3)  # numbers of a solution
NUMBERS = range(2, 13)  # no 1: multiplying by it would turn every solution into another one
TARGETS = range(6, 21)
LEAST = {2: 2, 3: 2}  # modes that a puzzle has at least, with two numbers, which are easy to find, and with three
ROUNDING = 1e-9

Signed = tuple[int, Form]  # the sign that makes the value positive


@dataclass(frozen=True, kw_only=True)
class Puzzle:
    """Example: the numbers 2, 3, 4, 6, 9, 11 and the target 12, which 2 * 6, 3 * 4, 3 + 9 and 2 + 4 + 6 reach."""

    numbers: tuple[int, ...]  # ascending and different
    target: int
    modes: int  # of its solutions


class Puzzles:
    """Every puzzle with ``LEAST`` modes or more, in a shuffled order that never changes."""

    def __init__(self):
        sets = list(combinations(NUMBERS, COUNT))
        slots = [chosen for size in USED for chosen in combinations(range(COUNT), size)]
        self._forms = [form for chosen in slots for form in _forms(chosen)]
        self._sizes_F = np.array([len(chosen) for chosen in slots for _ in _forms(chosen)])
        numbers_CS = np.array(sets, dtype=float).T
        self._values_SF = np.stack([_values(form, numbers_CS) for form in self._forms], axis=1)
        self._rows = {numbers: row for row, numbers in enumerate(sets)}
        found = []
        for target in TARGETS:
            reached_SF = np.abs(self._values_SF) == target
            enough_S = np.all([reached_SF[:, self._sizes_F == size].sum(1) >= LEAST[size] for size in USED], axis=0)
            found += [
                Puzzle(numbers=numbers, target=target, modes=int(reached_SF[s].sum()))
                for s, numbers in enumerate(sets)
                if enough_S[s] and target not in numbers
            ]
        random.Random("countdown").shuffle(found)
        self.all = found

    def solutions(self, puzzle: Puzzle) -> list[Signed]:
        """One for each mode, those with fewer numbers first."""
        return [self._form(puzzle, f) for f in np.flatnonzero(self._reached(puzzle) == puzzle.target).tolist()]

    def random_solution(self, puzzle: Puzzle, chooser: random.Random) -> Signed:
        """One with as many numbers as the smaller of two random choices."""
        found = np.flatnonzero(self._reached(puzzle) == puzzle.target)
        sizes = np.unique(self._sizes_F[found]).tolist()
        size = min(chooser.choice(sizes), chooser.choice(sizes))
        return self._form(puzzle, chooser.choice(found[self._sizes_F[found] == size].tolist()))

    def _reached(self, puzzle: Puzzle) -> np.ndarray:
        """What each form reaches, with the sign that makes it positive."""
        return np.abs(self._values_SF[self._rows[puzzle.numbers]])

    def _form(self, puzzle: Puzzle, f: int) -> Signed:
        sign = 1 if self._values_SF[self._rows[puzzle.numbers], f] > 0 else -1
        return sign, _with_numbers(self._forms[f], puzzle.numbers)


@cache
def _forms(slots: tuple[int, ...]) -> tuple[Form, ...]:
    """Every form that has each of the slots once, in place of numbers, sorted."""
    if len(slots) == 1:
        return ((NUMBER, slots[0]),)
    found: set[Form] = set()
    for size in range(1, len(slots)):
        for left in combinations(slots, size):
            right = tuple(slot for slot in slots if slot not in left)
            for x, y in product(_forms(left), _forms(right)):
                found |= {product_of(x, y, divide=True)}
                if left < right:  # the others are the same the other way round
                    found |= {sum_of((1, x), (1, y))[1], sum_of((1, x), (-1, y))[1], product_of(x, y, divide=False)}
    return tuple(sorted(found))


def _values(form: Form, numbers_CS: np.ndarray) -> np.ndarray:
    """The form's value for each set of numbers; NaN where it divides by zero. Whole numbers are exact: of these small
    numbers, a fraction lies further from a whole number than rounding reaches."""
    with np.errstate(divide="ignore", invalid="ignore"):
        values_S = _unrounded(form, numbers_CS)
    whole_S = np.round(values_S)
    return np.where(np.abs(values_S - whole_S) < ROUNDING, whole_S, values_S)


def _unrounded(form: Form, numbers_CS: np.ndarray) -> np.ndarray:
    if form[0] == NUMBER:
        return numbers_CS[form[1]]
    plain, inverse = ([_unrounded(member, numbers_CS) for member in side] for side in form[1:])
    if form[0] == SUM:
        return np.sum(plain, axis=0) - np.sum(inverse, axis=0)
    divisor = np.prod(inverse, axis=0)
    return np.prod(plain, axis=0) / np.where(np.abs(divisor) < ROUNDING, np.nan, divisor)


def _with_numbers(form: Form, numbers: tuple[int, ...]) -> Form:
    """The form with numbers in place of slots. Both ascend, so that its members stay sorted."""
    if form[0] == NUMBER:
        return (NUMBER, numbers[form[1]])
    return (form[0], *(tuple(_with_numbers(member, numbers) for member in side) for side in form[1:]))
