import pytest
import torch

from dqo.credit.nearest import Nearest
from tests.credit.builders import gated
from tests.credit.groups import unit_vectors
from tests.credit.properties import assert_only_those_that_pass_take_part, assigned, lone, spread


def nearest(*gate):
    return gated(Nearest, *gate)


@pytest.mark.parametrize("k", [2, 3, 5, 8])
def test_credits_are_half_the_cosine_distance_to_the_nearest_other(k):
    embeddings_PKD = unit_vectors(2, k, 3)
    credits_PK = assigned(nearest(), [[1.0] * k] * 2, embeddings_PKD)
    for rows, credits_K in zip(embeddings_PKD.double().tolist(), credits_PK.tolist(), strict=True):
        for i, credit in enumerate(credits_K):
            cosines = [sum(x * y for x, y in zip(rows[i], rows[j], strict=True)) for j in range(k) if j != i]
            assert credit == pytest.approx(min((1 - cosine) / 2 for cosine in cosines), abs=1e-6)


def test_only_completions_that_pass_the_gate_take_part():
    assert_only_those_that_pass_take_part(nearest)
    assert lone(nearest) == 0.0


@pytest.mark.parametrize("k", [3, 4, 8])
def test_spread_of_an_outlier_beside_copies(k):
    assert spread(nearest(), k) == pytest.approx(0.5)


def test_opposite_completions_earn_1():
    assert assigned(nearest(), [[1.0] * 2], torch.tensor([[[1.0, 0.0], [-1.0, 0.0]]])).tolist() == [[1.0, 1.0]]


def test_a_group_in_which_every_answer_comes_twice_earns_exactly_nothing():
    pairs_PKD = unit_vectors(1, 3, 384).repeat(1, 2, 1)
    assert assigned(nearest(), [[1.0] * 6], pairs_PKD).tolist() == [[0.0] * 6]


def test_the_model_card_says_what_was_paid():
    assert nearest().description == "half the cosine distance of its embedding to the nearest other of its group"
