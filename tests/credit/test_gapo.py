from collections import Counter
from dataclasses import replace

import pytest
import torch

from dqo.advantage.groups.normalization import ScaleRewards
from dqo.advantage.joint import Joint
from dqo.credit.gapo import Gapo
from dqo.credit.gating.gate import Gate, Gating
from dqo.records import Estimates, Experience
from dqo.references import References
from dqo.stages import Credit
from tests.credit.groups import group
from tests.helpers.toy_stages import CountingTask


def gapo(answers=None, gate=Gate.correct, threshold=None):
    return Gapo(References(), CountingTask(), answers=answers, gating=Gating(gate=gate, threshold=threshold))


def score(texts, valid, answers):
    """The paper's score of each completion: 1 - (f - 1/L) for valid ones, else -1."""
    counts = Counter(text for text, right in zip(texts, valid, strict=True) if right)
    level = 0 if answers is None else 1 / answers
    return [
        1 - (counts[text] / sum(valid) - level) if right else -1.0 for text, right in zip(texts, valid, strict=True)
    ]


def test_is_a_credit_that_needs_no_embeddings():
    assert isinstance(gapo(), Credit) and not gapo().uses_embeddings and gapo().needs_rewards


@pytest.mark.parametrize("answers", [None, 4, 164])
@pytest.mark.parametrize("texts", ["aabcd", "aaaaa", "abcde", "aabbc"])
@pytest.mark.parametrize("correct", [[1, 1, 1, 1, 1], [1, 0, 1, 1, 0], [0, 0, 1, 0, 0], [0] * 5])
def test_reward_and_credit_are_the_papers_score_plus_one(texts, correct, answers):
    rollouts, rewards = group([[float(right) for right in correct]])
    rollouts = replace(rollouts, texts=tuple(texts))
    credits_PK = gapo(answers).assign(rollouts, rewards, None)
    assert credits_PK.dtype == torch.float32
    expected = [each + 1 for each in score(texts, correct, answers)]
    assert (rewards.total_PK + credits_PK)[0].tolist() == pytest.approx(expected, abs=1e-6)


def test_advantages_are_those_of_the_papers_score():
    rollouts, rewards = group([[1.0, 1.0, 1.0, 0.0]])
    rollouts = replace(rollouts, texts=("a", "a", "b", "a"))
    credits_PK = gapo().assign(rollouts, rewards, None)
    experience = Experience(rollouts=rollouts, rewards=rewards, embeddings_PKD=None, credits_PK=credits_PK)
    found = Joint(scale_rewards=ScaleRewards.none)(experience, Estimates(), alpha=1.0)
    scores = score("aaba", [1, 1, 1, 0], None)
    expected = [each - sum(scores) / 4 for each in scores]
    assert found.advantages_BT.amax(1).where(torch.tensor(expected) > 0, found.advantages_BT.amin(1)).tolist() == (
        pytest.approx(expected, abs=1e-6)
    )


def test_any_reward_is_replaced_and_who_does_not_pass_keeps_theirs():
    rollouts, rewards = group([[-0.5, 3.0, 0.75, 0.25]])
    rollouts = replace(rollouts, texts=("a", "b", "b", "c"))
    credits_PK = gapo(gate=Gate.threshold, threshold=0.5).assign(rollouts, rewards, None)
    assert (rewards.total_PK + credits_PK)[0].tolist() == pytest.approx([-0.5, 1.0, 1.0, 0.25])


def test_an_empty_completion_is_invalid():
    rollouts, rewards = group([[1.0, 0.0, 1.0]])
    rollouts = replace(rollouts, texts=("a", "", "a"))
    assert gapo(gate=Gate.none).assign(rollouts, rewards, None).tolist() == [[0.0, 0.0, 0.0]]


def test_two_completions_tie_whatever_they_say():
    rollouts, rewards = group([[1.0, 1.0], [0.0, 1.0]])
    for texts in (("a", "a", "a", "a"), ("a", "b", "a", "b")):
        credits_PK = gapo(gate=Gate.none).assign(replace(rollouts, texts=texts), rewards, None)
        assert (credits_PK[:, 0] - credits_PK[:, 1]).tolist() == [0.0, 1.0]  # of the rewards alone
    assert Gapo.pairs_tie


@pytest.mark.parametrize("k", [4, 8])
def test_an_outlier_beside_copies(k):
    rollouts, rewards = group([[1.0] * k])
    rollouts = replace(rollouts, texts=("a",) * (k - 1) + ("b",))
    credits_K = gapo().assign(rollouts, rewards, None)[0]
    assert credits_K[-1] - credits_K[0] == pytest.approx((k - 2) / k)


def test_the_model_card_says_what_was_paid():
    says = "an answer that few others of its group share, in place of its reward, among the correct completions"
    assert gapo().description == says
