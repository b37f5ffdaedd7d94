import math
from dataclasses import replace

import pytest
import torch

from dqo.credit.gating.gate import Gate, Gating
from dqo.credit.unlikeliness import Likelihood, Unlikeliness
from dqo.errors import StageError
from dqo.references import References
from dqo.stages import Credit
from tests.credit.groups import group


def unlikeliness(penalty=0.25, likelihood=Likelihood.sequence, gate=Gate.none, threshold=None):
    return Unlikeliness(
        References(), penalty=penalty, likelihood=likelihood, gating=Gating(gate=gate, threshold=threshold)
    )


def sampled(rewards, logprobs, valid=None):
    """Groups whose completions have these log-probabilities, spread over their tokens."""
    rollouts, rewards = group(rewards, valid)
    share_B1 = (torch.tensor(logprobs).view(-1) / rollouts.sampled_BT.sum(1)).unsqueeze(1)
    return replace(rollouts, logprobs_BT=torch.where(rollouts.sampled_BT, share_B1, 0.0)), rewards


def papers_score(rewards, logprobs, penalty=0.25):
    """r (1 - penalty (k - rank) / k), rank 0 for the likeliest; no ties."""
    order = sorted(range(len(rewards)), key=lambda i: -logprobs[i])
    k = len(rewards)
    return [rewards[i] * (1 - penalty * (k - order.index(i)) / k) for i in range(k)]


def test_is_a_credit_that_needs_no_embeddings():
    assert isinstance(unlikeliness(), Credit) and not unlikeliness().uses_embeddings and unlikeliness().needs_rewards


@pytest.mark.parametrize("penalty", [0.25, 1.0])
def test_reward_and_credit_are_the_papers_score(penalty):
    logprobs = torch.rand(6, 5, generator=torch.Generator().manual_seed(0)).sub(1).mul(20).tolist()
    totals = [[1.0, 0.0, 1.0, 0.5, 2.0]] * 6
    rollouts, rewards = sampled(totals, logprobs)
    scores_PK = rewards.total_PK + unlikeliness(penalty).assign(rollouts, rewards, None)
    assert scores_PK.dtype == torch.float32
    for scores, total, logprob in zip(scores_PK.tolist(), totals, logprobs, strict=True):
        assert scores == pytest.approx(papers_score(total, logprob, penalty), abs=1e-6)


def test_ranks_are_among_those_that_pass_and_others_get_0():
    rollouts, rewards = sampled(
        [[1.0, 0.0, 1.0, 1.0, 1.0]], [[-4.0, -1.0, math.nan, -2.0, -3.0]], [[True, True, False, True, True]]
    )
    credits_PK = unlikeliness(gate=Gate.correct).assign(rollouts, rewards, None)
    expected = [score - 1 for score in papers_score([1.0, 1.0, 1.0], [-4.0, -2.0, -3.0])]
    assert credits_PK[0].tolist() == pytest.approx([expected[0], 0.0, 0.0, *expected[1:]], abs=1e-6)


def test_equal_completions_share_their_ranks_in_spite_of_an_engines_noise():
    rollouts, rewards = sampled([[1.0, 1.0, 1.0, 1.0]], [[-2.0, -1.0, -2.00001, -9.0]])
    tokens_BT = rollouts.tokens_BT.clone()
    tokens_BT[2] = tokens_BT[0]
    credits_PK = unlikeliness().assign(replace(rollouts, tokens_BT=tokens_BT), rewards, None)
    expected = [-0.25 * (4 - rank) / 4 for rank in (1.5, 0.0, 1.5, 3.0)]
    assert credits_PK[0].tolist() == pytest.approx(expected)
    assert credits_PK[0, 0] == credits_PK[0, 2]


def test_a_group_of_copies_loses_alike_and_a_lone_one_the_whole_penalty():
    rollouts, rewards = sampled([[1.0, 1.0], [1.0, 0.0]], [[-3.0, -3.0], [-3.0, -3.0]])
    credits_PK = unlikeliness(gate=Gate.correct).assign(rollouts, rewards, None)
    assert credits_PK.tolist() == [[-0.1875, -0.1875], [-0.25, 0.0]]


def test_the_mean_of_tokens_does_not_take_a_long_completion_for_an_unlikely_one():
    rollouts, rewards = group([[1.0, 1.0]])
    width = rollouts.tokens_BT.shape[1]
    sampled_BT = torch.zeros(2, width, dtype=torch.bool)
    sampled_BT[0, -1], sampled_BT[1, -2:] = True, True
    logprobs_BT = torch.zeros(2, width)
    logprobs_BT[0, -1], logprobs_BT[1, -2:] = -1.5, -1.0
    rollouts = replace(rollouts, sampled_BT=sampled_BT, logprobs_BT=logprobs_BT)
    assert unlikeliness().assign(rollouts, rewards, None).tolist() == [[-0.25, -0.125]]
    by_token = unlikeliness(likelihood=Likelihood.token_mean)
    assert by_token.assign(rollouts, rewards, None).tolist() == [[-0.125, -0.25]]


def test_a_negative_reward_is_refused_and_a_threshold_leaves_it_out():
    rollouts, rewards = sampled([[1.0, 1.0], [-0.5, 1.0]], [[-1.0, -2.0]] * 2)
    with pytest.raises(StageError) as caught:
        unlikeliness().assign(rollouts, rewards, None)
    assert str(caught.value) == (
        "[credit, prompts 11] credit=unlikeliness needs rewards of at least 0, and one is "
        "-0.5; type credit.gate=threshold credit.threshold=0, or weights of the reward that keep it above 0"
    )
    credits_PK = unlikeliness(gate=Gate.threshold, threshold=0.0).assign(rollouts, rewards, None)
    assert credits_PK[1].tolist() == [0.0, -0.25]


@pytest.mark.parametrize("k", [4, 8])
def test_an_unlikely_outlier_beside_copies(k):
    rollouts, rewards = sampled([[1.0] * k], [[-1.0] * (k - 1) + [-9.0]])
    credits_K = unlikeliness().assign(rollouts, rewards, None)[0]
    assert credits_K[-1] - credits_K[0] == pytest.approx(0.125)


def test_the_model_card_says_what_was_paid():
    says = "being unlikely for the policy: the likeliest loses 25% of its reward, among the correct completions"
    assert unlikeliness(gate=Gate.correct).description == says
