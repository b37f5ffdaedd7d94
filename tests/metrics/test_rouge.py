import itertools
import random

import pytest
from rouge_score.rouge_scorer import RougeScorer

from dqo.metrics.rouge import rouge_l, rouge_n, rouge_words


def letters(generator: random.Random, longest: int) -> list[str]:
    return generator.choices("abc", k=generator.randint(0, longest))


def test_longest_common_subsequence_equals_the_longest_of_all():
    generator = random.Random(1)
    for _ in range(200):
        one, other = letters(generator, 8), letters(generator, 8)
        kept = {kept for size in range(9) for kept in itertools.combinations(one, size)}
        both = [len(x) for size in range(9) for x in itertools.combinations(other, size) if x in kept]
        expected = 2 * max(both) / (len(one) + len(other)) if one and other else 0.0
        assert rouge_l(one, other) == pytest.approx(expected)


def test_equal_to_rouge_score():
    generator = random.Random(2)
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"])
    alphabet = ["the", "Cat", "sat.", "on", "3", "mats,", "don't", "THE"]
    for _ in range(100):
        one, other = (" ".join(generator.choices(alphabet, k=generator.randint(0, 9))) for _ in range(2))
        expected = scorer.score(one, other)
        split, others = rouge_words(one), rouge_words(other)
        assert rouge_n(split, others, 1) == pytest.approx(expected["rouge1"].fmeasure)
        assert rouge_n(split, others, 2) == pytest.approx(expected["rouge2"].fmeasure)
        assert rouge_l(split, others) == pytest.approx(expected["rougeL"].fmeasure)


def test_words_of_other_scripts_stay_whole():
    assert rouge_words("Café – ÜBER straße!") == ["café", "über", "strasse"]
