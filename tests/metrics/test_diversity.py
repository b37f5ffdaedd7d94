import itertools
import math

import pytest
import torch

from dqo.metrics.diversity import cosine_distance, distinct_n, logdet, vendi, words

ORTHOGONAL, SAME = torch.eye(4), torch.tensor([[1.0, 0.0]]).repeat(4, 1)


def test_words_are_case_folded_and_punctuation_is_split():
    assert words("It's PARIS!\n 3+4") == ["it", "'", "s", "paris", "!", "3", "+", "4"]
    assert words("Straße") == words("STRASSE")


def test_distinct_n_by_hand():
    texts = ["a b a b", "a b c"]  # 1-grams abababc: 3 of 7; 2-grams ab ba ab, ab bc: 3 of 5
    assert distinct_n(texts, 1) == pytest.approx(3 / 7)
    assert distinct_n(texts, 2) == pytest.approx(3 / 5)
    assert distinct_n(texts, 4) == 1.0  # only the first has one


def test_distinct_n_is_undefined_without_two_texts_or_without_grams():
    assert math.isnan(distinct_n([], 1))
    assert math.isnan(distinct_n(["a b c"], 1))
    assert math.isnan(distinct_n(["a b", "c d"], 4))


def test_cosine_distance_equals_the_mean_over_pairs():
    generator = torch.Generator().manual_seed(0)
    embeddings_KD = torch.nn.functional.normalize(torch.randn(5, 3, generator=generator), dim=-1)
    pairs = [1 - float(a @ b) for a, b in itertools.combinations(embeddings_KD, 2)]
    assert cosine_distance(embeddings_KD) == pytest.approx(sum(pairs) / len(pairs), abs=1e-6)
    assert cosine_distance(ORTHOGONAL) == pytest.approx(1.0)
    assert cosine_distance(SAME) == pytest.approx(0.0)
    assert math.isnan(cosine_distance(SAME[:1]))


def test_logdet_at_its_extremes():
    assert logdet(ORTHOGONAL) == pytest.approx(4 * math.log(2))
    assert logdet(SAME) == pytest.approx(math.log(5))
    assert logdet(SAME[:1]) == pytest.approx(math.log(2))
    assert logdet(SAME[:0]) == 0.0


def test_vendi_counts_effective_completions():
    assert vendi(ORTHOGONAL) == pytest.approx(4.0)
    assert vendi(SAME) == pytest.approx(1.0)
    assert vendi(torch.cat([torch.eye(2), torch.eye(2)])) == pytest.approx(2.0)  # 2 answers, 2 copies of each
    assert vendi(SAME[:0]) == 0.0


@pytest.mark.parametrize("order", [0.0, 0.5, 1.0, 2.0, 7.0, math.inf])
def test_vendi_of_any_order_counts_equally_common_answers(order):
    assert vendi(ORTHOGONAL, order) == pytest.approx(4.0)
    assert vendi(SAME, order) == pytest.approx(1.0)
    assert vendi(torch.eye(3).repeat(5, 1), order) == pytest.approx(3.0)
    assert vendi(SAME[:0], order) == 0.0


def test_vendi_of_unequal_answers_by_hand():
    """Three answers "a", one "b": the eigenvalues are 3/4 and 1/4."""
    embeddings_KD = torch.eye(2)[[0, 0, 0, 1]]
    assert vendi(embeddings_KD, 0.0) == pytest.approx(2.0)
    assert vendi(embeddings_KD, 0.5) == pytest.approx((math.sqrt(3) / 2 + 1 / 2) ** 2)
    assert vendi(embeddings_KD, 1.0) == pytest.approx(4 / 3**0.75)
    assert vendi(embeddings_KD, 2.0) == pytest.approx(1 / (9 / 16 + 1 / 16))
    assert vendi(embeddings_KD, math.inf) == pytest.approx(4 / 3)


def test_vendi_falls_with_the_order_and_is_continuous_at_its_limits():
    generator = torch.Generator().manual_seed(0)
    embeddings_KD = torch.nn.functional.normalize(torch.randn(9, 5, generator=generator), dim=-1)
    orders = [0.0, 1e-4, 0.3, 1 - 1e-4, 1.0, 1 + 1e-4, 3.0, 1e4, math.inf]
    scores = [vendi(embeddings_KD, order) for order in orders]
    assert scores == sorted(scores, reverse=True)
    for near, limit in ((1, 0), (3, 4), (5, 4), (7, 8)):
        assert scores[near] == pytest.approx(scores[limit], rel=1e-2)


def test_rounding_of_embeddings_is_no_answer():
    noise = 1e-7 * torch.randn(4, 384, generator=torch.Generator().manual_seed(0))
    copies = torch.nn.functional.normalize(torch.eye(384)[:1] + noise, dim=-1)
    assert vendi(copies, 0.0) == 1.0
    assert vendi(copies.double(), 0.5) == pytest.approx(1.0, abs=1e-5)
