import pytest
import torch

from dqo.credit.dra import Dra
from dqo.credit.gating.gate import Gate
from dqo.errors import StageError
from tests.credit.builders import gated
from tests.credit.groups import group, unit_vectors
from tests.credit.properties import assert_only_those_that_pass_take_part, assigned, lone, spread

REWARDS = [1.0, 0.0, 0.5, 2.0, 1.0, 1.0, 0.25, 3.0]


def dra(*gate):
    return gated(Dra, *gate)


@pytest.mark.parametrize("k", [2, 3, 8])
def test_reward_and_credit_are_the_adjusted_reward(k):
    embeddings_PKD = unit_vectors(2, k, 3)
    credits_PK = assigned(dra(), [REWARDS[:k]] * 2, embeddings_PKD)
    for rows, credits_K in zip(embeddings_PKD.double().tolist(), credits_PK.tolist(), strict=True):
        for i, credit in enumerate(credits_K):
            cosines = [sum(x * y for x, y in zip(rows[i], rows[j], strict=True)) for j in range(k) if j != i]
            adjusted = REWARDS[i] / (1 + sum(max(0.0, cosine) for cosine in cosines))
            assert REWARDS[i] + credit == pytest.approx(adjusted, abs=1e-6)


def test_where_no_cosine_is_negative_it_is_the_formula_of_the_papers_code():
    embeddings_PKD = torch.nn.functional.normalize(unit_vectors(1, 8, 6).abs(), dim=-1)
    rewards_PK = torch.tensor([REWARDS])
    adjusted_PK = rewards_PK * (1.0 / ((embeddings_PKD @ embeddings_PKD.mT).sum(-1) + 1e-6))
    torch.testing.assert_close(rewards_PK + assigned(dra(), [REWARDS], embeddings_PKD), adjusted_PK)


def test_only_completions_that_pass_the_gate_take_part():
    assert_only_those_that_pass_take_part(dra)
    assert lone(dra) == 0.0


@pytest.mark.parametrize("k", [3, 4, 8])
def test_an_outlier_keeps_its_reward_and_copies_share_one(k):
    assert spread(dra(), k) == pytest.approx(1 - 1 / (k - 1))
    copies_PKD = unit_vectors(1, 1, 8).expand(1, k, 8)
    assert assigned(dra(), [[1.0] * k], copies_PKD)[0].tolist() == pytest.approx([1 / k - 1] * k)


def test_opposite_completions_keep_their_rewards():
    """The plain cosine would divide by 0."""
    assert assigned(dra(), [[1.0, 2.0]], torch.tensor([[[1.0, 0.0], [-1.0, 0.0]]])).tolist() == [[0.0, 0.0]]


def test_a_negative_reward_is_refused_with_the_gate_to_type():
    rollouts, rewards = group([[0.0, 1.0], [1.0, -0.5]])
    with pytest.raises(StageError) as caught:
        dra().assign(rollouts, rewards, unit_vectors(2, 2, 6))
    assert str(caught.value) == (
        "[credit, prompts 11] credit=dra needs rewards of at least 0, and one is -0.5; type "
        "credit.gate=threshold credit.threshold=0 to leave such completions out, or another credit"
    )
    credits_PK = gated(Dra, Gate.threshold, 0.0).assign(rollouts, rewards, unit_vectors(2, 2, 6))
    assert credits_PK[1].tolist() == [0.0, 0.0]


def test_says_what_was_paid_and_that_it_needs_rewards():
    assert dra().description == "its reward divided by its similarity to its group (DRA-GRPO), minus the reward"
    assert dra().needs_rewards
