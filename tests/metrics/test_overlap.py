import math
import random

import pytest

from dqo.metrics.overlap import self_bleu_diversity, self_rouge_diversity

BOTH = pytest.mark.parametrize("measure", [self_bleu_diversity, self_rouge_diversity])


def letters(generator: random.Random, longest: int, alphabet: str = "abcd") -> str:
    return " ".join(generator.choices(alphabet, k=generator.randint(1, longest)))


@BOTH
def test_copies_have_none_and_texts_without_a_common_word_have_all(measure):
    assert measure(["Recommend Paris, please."] * 3) == pytest.approx(0.0)
    assert measure(["paris"] * 2) == pytest.approx(0.0)  # shorter than four words
    assert measure(["a b c d e", "f g h i", "j"]) == 1.0


@BOTH
def test_undefined_for_fewer_than_two_texts_with_words(measure):
    for texts in ([], ["a b c"], ["a b c", ""], ["a b c", " \n"]):
        assert math.isnan(measure(texts))
    assert measure(["a b c", "", "a b d"]) == measure(["a b c", "a b d"])


@BOTH
def test_the_order_of_the_texts_does_not_matter(measure):
    generator = random.Random(0)
    texts = [letters(generator, 12) for _ in range(6)]
    assert measure(texts[::-1]) == pytest.approx(measure(texts))
    assert 0 < measure(texts) < 1


def test_self_bleu_by_hand():
    """ "a b c d" has 4/4, 2/3, 1/2 and no match of one 4-gram, which counts half: BLEU (1 · 2/3 · 1/2 · 1/2)^(1/4)."""
    one = (1 * 2 / 3 * 1 / 2 * 1 / 2) ** 0.25
    assert self_bleu_diversity(["a b c d", "a b c x d"]) == pytest.approx(
        1 - (one * math.exp(1 - 5 / 4) + (4 / 5 * 2 / 4 * 1 / 3 * 1 / 2 / 2) ** 0.25) / 2
    )


def test_self_bleu_clips_repetitions_at_the_reference_with_most_of_them():
    """Of three "a" the references explain two, those of the second one: they do not add up."""
    assert self_bleu_diversity(["a a a", "a x y", "a a z"], max_n=1) == pytest.approx(1 - (2 + 1 + 2) / 9)


def test_self_rouge_by_hand():
    pairs = [2 * 3 / (4 + 3), 2 * 1 / (4 + 2), 2 * 1 / (3 + 2)]  # a b d, b or d, b or d
    assert self_rouge_diversity(["a b c d", "a b d", "d b"]) == pytest.approx(1 - sum(pairs) / 3)
