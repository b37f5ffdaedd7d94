import math

import pytest
import torch

from dqo.credit.gating.gate import Gate
from dqo.credit.mmr import Mmr
from tests.credit.builders import gated
from tests.credit.groups import unit_vectors
from tests.credit.properties import assert_only_those_that_pass_take_part, assigned, lone, outlier_and_copies

REWARDS = [0.5, 0.0, 1.0, -2.0, 1.0, 1.5, 0.25, 1.0]


def mmr(gate=Gate.none, relevance_weight=None):
    return gated(Mmr, gate, relevance_weight=relevance_weight)


def scores(rows, rewards, weight):
    """The greedy choice, one completion after the other."""
    if weight is None:
        mean = sum(rewards) / len(rewards)
        weight = 1 / (1 + math.exp(-math.sqrt(sum((each - mean) ** 2 for each in rewards) / len(rewards))))
    first = max(range(len(rows)), key=lambda i: rewards[i])
    found, picked = {first: rewards[first]}, [first]
    while len(picked) < len(rows):
        left = {}
        for i in set(range(len(rows))) - set(picked):
            closest = max(sum(x * y for x, y in zip(rows[i], rows[j], strict=True)) for j in picked)
            left[i] = weight * rewards[i] - (1 - weight) * max(0.0, closest)
        best = max(sorted(left), key=lambda i: left[i])
        found[best] = left[best]
        picked.append(best)
    return [found[i] for i in range(len(rows))]


@pytest.mark.parametrize("weight", [None, 0.7, 0.0, 1.0])
@pytest.mark.parametrize("k", [2, 3, 8])
def test_reward_and_credit_are_the_score_at_which_a_completion_is_picked(k, weight):
    embeddings_PKD = unit_vectors(3, k, 3)
    credits_PK = assigned(mmr(relevance_weight=weight), [REWARDS[:k]] * 3, embeddings_PKD)
    for rows, credits_K in zip(embeddings_PKD.double().tolist(), credits_PK, strict=True):
        totals = (credits_K + torch.tensor(REWARDS[:k])).tolist()
        assert totals == pytest.approx(scores(rows, REWARDS[:k], weight), abs=1e-6)


def test_only_completions_that_pass_the_gate_take_part():
    assert_only_those_that_pass_take_part(mmr)
    assert lone(mmr) == 0.0


@pytest.mark.parametrize("k", [2, 5])
def test_copies_with_equal_rewards_have_equal_credits(k):
    """One of them keeps its reward, the others get 0.5 r - 0.5: the mean for all."""
    copies_PKD = unit_vectors(1, 1, 384).expand(1, k, 384)
    credits_K = assigned(mmr(), [[1.0] * k], copies_PKD)[0]
    assert len(set(credits_K.tolist())) == 1
    assert float(credits_K[0]) == pytest.approx(-(k - 1) / k)


def test_copies_with_other_rewards_do_not_share():
    credits_K = assigned(mmr(relevance_weight=0.5), [[1.0, 0.0, 1.0]], unit_vectors(1, 1, 8).expand(1, 3, 8))[0]
    assert credits_K.tolist() == pytest.approx([-0.5, -0.5, -0.5])  # 0 and -1 shared; 0 - 0.5
    credits_K = assigned(mmr(relevance_weight=0.5), [[3.0, 1.0, 1.0]], unit_vectors(1, 1, 8).expand(1, 3, 8))[0]
    assert credits_K.tolist() == pytest.approx([0.0, -1.0, -1.0])


@pytest.mark.parametrize(("k", "outlier_first", "copy_first"), [(4, 0.833, 0.167), (8, 0.929, 0.357)])
def test_with_equal_rewards_the_first_of_the_group_wins(k, outlier_first, copy_first):
    embeddings_PKD = outlier_and_copies(k)
    credits_K = assigned(mmr(), [[1.0] * k], embeddings_PKD)[0]
    assert float(credits_K[0]) == 0.0
    assert float(credits_K[0] - credits_K[1]) == pytest.approx(outlier_first, abs=5e-4)
    credits_K = assigned(mmr(), [[1.0] * k], embeddings_PKD.flip(1))[0]
    assert float(credits_K[-1]) == pytest.approx(-0.5)
    assert float(credits_K[-1] - credits_K[0]) == pytest.approx(copy_first, abs=5e-4)


def test_says_what_was_paid_and_that_it_needs_rewards():
    assert mmr().description == "its score by maximal marginal relevance (MMR-GRPO), minus its reward"
    assert mmr().needs_rewards
