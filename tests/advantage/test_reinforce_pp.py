from dataclasses import replace

import pytest
import torch

from dqo.advantage.reinforce_pp import ReinforcePp, ScoreBaseline
from dqo.advantage.tokens.kl_penalty import KlEstimator, KlKeys
from dqo.advantage.tokens.penalized import ScoreKeys
from dqo.records import Estimates
from tests.advantage.experiences import experience_of
from tests.factories import make_experience


def reinforce_pp(baseline=ScoreBaseline.none, *, kl_coef=0.0, gamma=1.0) -> ReinforcePp:
    kl = KlKeys(kl_coef=kl_coef, kl_estimator=KlEstimator.k1, kl_target=None, kl_horizon=10_000)
    return ReinforcePp(baseline=baseline, gamma=gamma, kl=kl, scores=ScoreKeys())


def estimates(experience, seed: int = 0) -> Estimates:
    generator = torch.Generator().manual_seed(seed)
    shape = experience.rollouts.tokens_BT.shape
    return Estimates(
        old_logprobs_BT=-torch.rand(shape, generator=generator), ref_logprobs_BT=-torch.rand(shape, generator=generator)
    )


@pytest.mark.parametrize("baseline", ScoreBaseline)
@pytest.mark.parametrize("gamma", [1.0, 0.9])
def test_advantages_are_the_normalized_returns_of_the_papers(baseline, gamma):
    """A double loop over tokens: r(x, y) - beta * the KL of the tokens from here on (arXiv 2501.03262, equations 5 and
    6), then over the standard deviation of all tokens of the step."""
    experience = make_experience(prompts=3, k=4)
    given = estimates(experience)
    scores_PK = experience.rewards.total_PK + 0.5 * experience.credits_PK
    if baseline == ScoreBaseline.group:
        scores_PK = scores_PK - scores_PK.mean(1, keepdim=True)
    returns_BT = torch.zeros(experience.rollouts.tokens_BT.shape)
    for b, score in enumerate(scores_PK.flatten().tolist()):
        places = experience.rollouts.sampled_BT[b].nonzero()[:, 0].tolist()
        kl = (given.old_logprobs_BT - given.ref_logprobs_BT)[b, places].tolist()
        for t in range(len(places)):
            to_come = sum(gamma ** (s - t) * -0.1 * kl[s] for s in range(t, len(places)))
            returns_BT[b, places[t]] = to_come + gamma ** (len(places) - 1 - t) * score
    sampled = returns_BT[experience.rollouts.sampled_BT]
    targets = reinforce_pp(baseline, kl_coef=0.1, gamma=gamma)(experience, given, alpha=0.5)
    found = targets.advantages_BT[experience.rollouts.sampled_BT]
    torch.testing.assert_close(found, (sampled - sampled.mean()) / sampled.std(), atol=1e-5, rtol=1e-4)
    assert targets.advantages_BT[~experience.rollouts.sampled_BT].eq(0).all()
    assert targets.returns_BT is None


def test_a_masked_completion_is_left_out():
    valid = [[True, True, False], [True, True, True]]
    experience = experience_of([[1, 0, 7], [0, 2, 1]], [[0.1, 0.2, 0], [0.1, 0.4, 0.1]], valid)
    found = reinforce_pp(ScoreBaseline.group)(experience, Estimates(), alpha=1.0).advantages_BT
    assert found[2].eq(0).all()
    assert float(found[experience.counted_BT].std()) == pytest.approx(1.0, abs=1e-5)


def test_equal_scores_leave_no_noise_to_be_blown_up():
    experience = experience_of([[0.1] * 4, [0.7] * 4], [[0.3, 0.3, 0.3 + 1e-7, 0.3]] * 2)
    grouped = reinforce_pp(ScoreBaseline.group)
    assert grouped(experience, Estimates(), alpha=1.0).advantages_BT.eq(0).all()
    assert not grouped.has_signal(experience, alpha=1.0)
    assert grouped.has_signal(replace(experience, credits_PK=torch.rand(2, 4)), alpha=1.0)
    everywhere = experience_of([[0.1] * 4] * 2, [[0.3, 0.3, 0.3 + 1e-7, 0.3]] * 2)
    assert reinforce_pp()(everywhere, Estimates(), alpha=1.0).advantages_BT.eq(0).all()


def test_without_a_group_baseline_groups_are_compared_with_one_another():
    experience = experience_of([[1, 1], [0, 0]], [[0.0, 0.0]] * 2)
    found = reinforce_pp()(experience, Estimates(), alpha=1.0).advantages_BT
    assert (found[:2][experience.rollouts.sampled_BT[:2]] > 0.5).all()
    assert (found[2:][experience.rollouts.sampled_BT[2:]] < -0.5).all()
    assert reinforce_pp().has_signal(experience, alpha=1.0)


def test_no_critic_is_asked_for_and_a_reference_for_the_kl_alone():
    assert not getattr(reinforce_pp(), "needs_values", False)
    assert not reinforce_pp().needs_reference
    assert reinforce_pp(kl_coef=0.1).needs_reference
    assert reinforce_pp(kl_coef=0.1).needs_old_logprobs
