import itertools
import math

import pytest

from dqo.metrics.quality import distinct_correct_of, pass_at


@pytest.mark.parametrize(("samples", "correct"), [(6, 0), (6, 1), (6, 4), (6, 6)])
def test_pass_at_equals_the_binomials(samples, correct):
    for n in range(1, samples + 1):
        expected = 1 - math.comb(samples - correct, n) / math.comb(samples, n)
        assert pass_at(n, samples=samples, correct=correct) == pytest.approx(expected, abs=1e-12)


def test_pass_at_is_stable_where_binomials_overflow_floats():
    assert pass_at(1000, samples=100_000, correct=100) == pytest.approx(1 - (1 - 0.01) ** 100, abs=1e-3)


@pytest.mark.parametrize(("n", "samples", "correct"), [(0, 4, 1), (5, 4, 1), (1, 4, 5)])
def test_pass_at_refuses_impossible_counts(n, samples, correct):
    with pytest.raises(ValueError, match="1 <= n <= samples"):
        pass_at(n, samples=samples, correct=correct)


def test_distinct_correct_of_equals_the_mean_over_all_subsets():
    answers = ["Paris", "Paris", "Paris", "Lima", "Oslo", None, None]  # None: wrong
    keys = [key for key in answers if key]
    for n in range(1, 8):
        subsets = list(itertools.combinations(answers, n))
        expected = sum(len(set(subset) - {None}) for subset in subsets) / len(subsets)
        assert distinct_correct_of(n, samples=7, keys=keys) == pytest.approx(expected, abs=1e-12)
    assert distinct_correct_of(3, samples=7, keys=[]) == 0.0
