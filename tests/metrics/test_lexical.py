import math
import random

import pytest

from dqo.metrics.diversity import distinct_n
from dqo.metrics.lexical import compression_ratio, ead


def test_ead_by_hand():
    texts = ["a b", "a c"]  # 3 of 4 words; of 2 in the vocabulary 4 draws find 2 · (1 - 1/16)
    assert ead(texts, vocabulary=2) == pytest.approx(3 / (2 * 15 / 16))
    assert ead(texts, n=2, vocabulary=4) == pytest.approx(2 / (4 * (1 - 9 / 16)))
    assert ead(texts) == pytest.approx(distinct_n(texts, 1), rel=1e-4)  # a large vocabulary has no repetitions


def test_ead_is_about_1_for_uniform_draws_of_any_number_where_distinct_falls():
    generator = random.Random(0)
    scores, plain = [], []
    for size in (50, 500, 5000):
        texts = [" ".join(f"w{generator.randrange(300)}" for _ in range(size // 2)) for _ in range(2)]
        scores.append(ead(texts, vocabulary=300))
        plain.append(distinct_n(texts, 1))
    assert scores == pytest.approx([1.0, 1.0, 1.0], abs=0.05)
    assert plain[0] > 0.85 and plain[2] < 0.1


def test_ead_is_undefined_without_two_texts_or_without_grams():
    assert math.isnan(ead(["a b c"])) and math.isnan(ead([])) and math.isnan(ead(["a", "b"], n=2))


def test_copies_compress_better():
    generator = random.Random(0)
    texts = [" ".join(generator.choices(["red", "green", "blue", "fast", "slow", "old"], k=40)) for _ in range(10)]
    assert compression_ratio([texts[0]] * 10) > 2 * compression_ratio(texts) > 2


def test_compression_ratio_is_undefined_without_two_texts_or_without_characters():
    assert math.isnan(compression_ratio(["a"])) and math.isnan(compression_ratio([])) and math.isnan(
        compression_ratio(["", ""])
    )  # fmt: skip


def test_half_a_surrogate_pair_compresses():
    assert compression_ratio(["\ud83d", "a"]) > 0
