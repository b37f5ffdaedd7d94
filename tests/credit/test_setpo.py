import math

import pytest
import torch

from dqo.credit.setpo import SetPO
from tests.credit.builders import gated
from tests.credit.groups import unit_vectors
from tests.credit.properties import assert_only_those_that_pass_take_part, assigned, lone, outlier_and_copies, spread


def setpo(*gate):
    return gated(SetPO, *gate)


def diversity(rows):
    """D of some unit vectors, by its definition."""
    terms = []
    for a in rows:
        similar = [min(1.0, max(0.0, sum(x * y for x, y in zip(a, b, strict=True)))) for b in rows]
        terms.append(-math.log(1 + sum(similar) / len(rows)))
    return sum(terms) / len(rows)


@pytest.mark.parametrize("k", [2, 3, 5, 8])
def test_credits_are_what_the_diversity_loses_without_a_completion(k):
    embeddings_PKD = unit_vectors(2, k, 3)  # narrow, so that cosines of all sizes and below 0 occur
    credits_PK = assigned(setpo(), [[1.0] * k] * 2, embeddings_PKD)
    for rows, credits_K in zip(embeddings_PKD.double().tolist(), credits_PK.tolist(), strict=True):
        whole = diversity(rows)
        without = [whole - diversity(rows[:i] + rows[i + 1 :]) for i in range(k)]
        assert credits_K == pytest.approx(without, abs=1e-6)


def test_only_completions_that_pass_the_gate_take_part():
    assert_only_those_that_pass_take_part(setpo)
    assert lone(setpo) == 0.0


@pytest.mark.parametrize(("k", "size"), [(3, 0.288), (4, 0.257), (8, 0.143)])
def test_spread_of_an_outlier_beside_copies(k, size):
    assert spread(setpo(), k) == pytest.approx(size, abs=5e-4)


@pytest.mark.parametrize(("k", "highest", "lowest"), [(4, 0.218, -0.092), (8, 0.128, -0.052)])
def test_an_outlier_beside_copies_earns_most_and_one_in_the_middle_of_unrelated_ones_least(k, highest, lowest):
    unrelated_KD = torch.eye(8)[: k - 1]
    middle_PKD = torch.nn.functional.normalize(torch.cat([unrelated_KD.mean(0, keepdim=True), unrelated_KD]), dim=-1)
    most = float(assigned(setpo(), [[1.0] * k], outlier_and_copies(k))[0, 0])
    least = float(assigned(setpo(), [[1.0] * k], middle_PKD[None])[0, 0])
    assert (most, least) == (pytest.approx(highest, abs=5e-4), pytest.approx(lowest, abs=5e-4))
    for seed in range(20):
        credits_PK = assigned(setpo(), [[1.0] * k] * 7, unit_vectors(7, k, 1 + seed % 5, seed=seed))
        assert least - 1e-6 <= credits_PK.min() and credits_PK.max() <= most + 1e-6


@pytest.mark.parametrize("k", [2, 3, 8])
def test_copies_earn_nothing_and_unrelated_completions_little(k):
    copies_PKD = unit_vectors(1, 1, 8).expand(1, k, 8)
    assert assigned(setpo(), [[1.0] * k], copies_PKD)[0].tolist() == pytest.approx([0.0] * k, abs=1e-6)
    unrelated = assigned(setpo(), [[1.0] * k], torch.eye(8)[None, :k])[0].tolist()
    assert unrelated == pytest.approx([math.log(k * k / (k * k - 1))] * k, abs=1e-6)


def test_the_model_card_says_what_was_paid():
    assert setpo().description == "what it adds to the SetPO diversity of its group's embeddings"
