import math

import pytest
import torch

from dqo.credit.vendi import Vendi
from tests.credit.builders import gated
from tests.credit.groups import unit_vectors
from tests.credit.properties import assert_only_those_that_pass_take_part, assigned, lone, outlier_and_copies

ORDERS = [1.0, 1.5, 2.0, math.inf]


def vendi(*gate, order=1.0):
    return gated(Vendi, *gate, order=order)


def score(rows_KD, order):
    """The Vendi score by its definition, from the singular values of the embeddings."""
    shares = [float(value) ** 2 / len(rows_KD) for value in torch.linalg.svdvals(rows_KD)]
    if order == 1:
        return math.exp(-sum(share * math.log(share) for share in shares if share > 1e-12))
    return 1 / max(shares) if order == math.inf else sum(share**order for share in shares) ** (1 / (1 - order))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("k", [2, 3, 8])
def test_credits_are_what_the_score_loses_without_a_completion(k, order):
    embeddings_PKD = unit_vectors(2, k, 5)
    credits_PK = assigned(vendi(order=order), [[1.0] * k] * 2, embeddings_PKD)
    for rows_KD, credits_K in zip(embeddings_PKD.double(), credits_PK.tolist(), strict=True):
        others = [torch.cat([rows_KD[:i], rows_KD[i + 1 :]]) for i in range(k)]
        lost = [score(rows_KD, order) - score(each, order) for each in others]
        assert credits_K == pytest.approx(lost, abs=1e-5)


@pytest.mark.parametrize("order", ORDERS)
def test_only_completions_that_pass_the_gate_take_part(order):
    assert_only_those_that_pass_take_part(lambda gate: vendi(gate, order=order))
    assert lone(lambda gate: vendi(gate, order=order)) == 1.0


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("k", [2, 3, 8])
def test_copies_earn_nothing_and_unrelated_completions_1(k, order):
    copies_PKD = unit_vectors(1, 1, 8).expand(1, k, 8)
    assert assigned(vendi(order=order), [[1.0] * k], copies_PKD)[0].tolist() == pytest.approx([0.0] * k, abs=1e-6)
    unrelated_PK = assigned(vendi(order=order), [[1.0] * k], torch.eye(8)[None, :k])
    assert unrelated_PK[0].tolist() == pytest.approx([1.0] * k, abs=1e-6)


@pytest.mark.parametrize("order", ORDERS)
def test_no_credit_is_above_1(order):
    for seed in range(5):
        assert assigned(vendi(order=order), [[1.0] * 5] * 4, unit_vectors(4, 5, 4, seed=seed)).max() <= 1 + 1e-6


@pytest.mark.parametrize(
    ("order", "k", "outlier", "copy"),
    [
        (1.0, 4, 0.755, -0.135),
        (1.0, 8, 0.458, -0.049),
        (2.0, 4, 0.600, -0.200),
        (2.0, 8, 0.280, -0.044),
        (math.inf, 4, 0.333, -0.167),
        (math.inf, 8, 0.143, -0.024),
    ],
)
def test_an_outlier_beside_copies(order, k, outlier, copy):
    credits_K = assigned(vendi(order=order), [[1.0] * k], outlier_and_copies(k))[0]
    assert credits_K.tolist() == pytest.approx([outlier] + [copy] * (k - 1), abs=5e-4)


def test_the_model_card_says_what_was_paid():
    assert vendi(order=math.inf).description == "what it adds to the Vendi score (order inf) of its group"
