import itertools
import math

import pytest

from dqo.metrics.modes import cover_at, effective_modes, pcmd, rarefaction

KEYS = ["paris", "paris", "paris", "lima", "oslo"]


def test_pcmd_is_the_share_of_pairs_that_differ():
    pairs = list(itertools.combinations(KEYS, 2))
    assert pcmd(KEYS) == pytest.approx(sum(a != b for a, b in pairs) / len(pairs)) == pytest.approx(0.7)
    assert pcmd(["a", "a"]) == 0.0 and pcmd(["a", "b"]) == 1.0
    assert math.isnan(pcmd(["a"])) and math.isnan(pcmd([]))


def test_pcmd_does_not_depend_on_the_number_of_correct_answers():
    """Its mean over all subsets of a size is that of all: unbiased."""
    for size in range(2, 6):
        values = [pcmd(subset) for subset in itertools.combinations(KEYS, size)]
        assert sum(values) / len(values) == pytest.approx(pcmd(KEYS))


def test_effective_modes_of_equally_common_answers_is_their_number():
    assert effective_modes(1 - 1 / 4) == pytest.approx(4.0)
    assert effective_modes(0.0) == 1.0
    assert math.isnan(effective_modes(1.0)) and math.isnan(effective_modes(math.nan))


def test_rarefaction_equals_the_mean_over_all_subsets():
    for r in range(1, 6):
        found = [len({*subset}) for subset in itertools.combinations(KEYS, r)]
        assert rarefaction(KEYS, r) == pytest.approx(sum(found) / len(found))
    assert rarefaction(KEYS, 2) == pytest.approx(1 + pcmd(KEYS))
    assert math.isnan(rarefaction(KEYS, 6)) and math.isnan(rarefaction([], 1))


def test_cover_at_counts_prompts_with_at_least_this_share():
    correct = [0, 1, 3, 5, 10]
    shares = [sum(cover_at(tau, samples=10, correct=c) for c in correct) / 5 for tau in (0.1, 0.3, 0.31, 1.0)]
    assert shares == [0.8, 0.6, 0.4, 0.2]
    assert math.isnan(cover_at(0.5, samples=0, correct=0))
