import math
from dataclasses import replace

import pytest
import torch

from dqo.advantage.tokens.kl_penalty import KlEstimator, KlKeys, KlPenalty
from dqo.batching import split
from dqo.errors import ConfigError
from dqo.records import Estimates
from tests.factories import make_experience, make_rewards
from tests.helpers.on_ranks import on_ranks


def penalty(coef=0.1, estimator=KlEstimator.k1, target=None, horizon=100) -> KlPenalty:
    return KlPenalty(KlKeys(kl_coef=coef, kl_estimator=estimator, kl_target=target, kl_horizon=horizon))


def estimates(experience, kl: float = 0.0, seed: int = 0) -> Estimates:
    """Random log-probabilities, the policy's ``kl`` nats a token above the reference's."""
    generator = torch.Generator().manual_seed(seed)
    logprobs_BT = -torch.rand(experience.rollouts.tokens_BT.shape, generator=generator)
    noise_BT = torch.zeros_like(logprobs_BT) if kl else torch.rand(logprobs_BT.shape, generator=generator) - 0.5
    return Estimates(old_logprobs_BT=logprobs_BT, ref_logprobs_BT=logprobs_BT - kl + noise_BT)


@pytest.mark.parametrize("estimator", KlEstimator)
def test_a_tokens_reward_is_minus_the_coefficient_times_its_kl(estimator):
    experience = make_experience()
    given = estimates(experience)
    d_BT = (given.ref_logprobs_BT - given.old_logprobs_BT).double()
    kl_BT = -d_BT if estimator == KlEstimator.k1 else d_BT.exp() - 1 - d_BT
    kl_BT = kl_BT * experience.rollouts.sampled_BT
    kl = penalty(0.3, estimator)
    torch.testing.assert_close(kl.rewards(experience, given), -0.3 * kl_BT)
    assert kl.metrics()["objective/kl"] == pytest.approx(float(kl_BT.sum(1).mean()))
    assert kl.metrics()["objective/non_score_reward"] == pytest.approx(-0.3 * float(kl_BT.sum(1).mean()))
    assert kl.metrics()["objective/kl_coef"] == 0.3


def test_a_masked_completion_has_no_kl():
    experience = make_experience(prompts=1)
    valid_PK = torch.tensor([[True, False, True, True]])
    masked = replace(experience, rewards=make_rewards(experience.rewards.total_PK, valid=valid_PK))
    kl, given = penalty(), estimates(experience)
    rewards_BT = kl.rewards(masked, given)
    assert rewards_BT[1].eq(0).all()
    assert kl.metrics()["objective/kl"] == pytest.approx(float(-rewards_BT.sum() / 0.1 / 3))


@pytest.mark.parametrize(("kl", "error"), [(0.001, -0.2), (10.0, 0.2), (0.3, None), (-1.0, -0.2)])
def test_the_coefficient_follows_zieglers_rule(kl, error):
    experience = make_experience(prompts=2, k=4)
    adaptive = penalty(0.1, target=1.3, horizon=40)
    adaptive.rewards(experience, estimates(experience, kl))
    measured = kl * float(experience.rollouts.sampled_BT.sum()) / 8
    error = measured / 1.3 - 1 if error is None else error
    assert abs(error) <= 0.2
    assert adaptive.metrics()["objective/kl_coef"] == 0.1  # what the step was computed with
    assert adaptive.coef == pytest.approx(0.1 * (1 + error * 8 / 40), rel=1e-5)


def test_the_coefficient_goes_to_where_the_kl_is_the_target():
    """A policy whose KL is 1 / coefficient: the target 5 is reached at the coefficient 0.2."""
    experience = make_experience(prompts=2, k=4)
    tokens = float(experience.rollouts.sampled_BT.sum()) / 8
    adaptive = penalty(1.0, target=5.0, horizon=20)
    for _ in range(60):
        adaptive.rewards(experience, estimates(experience, 1 / adaptive.coef / tokens))
    assert adaptive.coef == pytest.approx(0.2, rel=0.02)


def test_a_resumed_run_goes_on_with_its_coefficient():
    experience = make_experience()
    first, second, fixed = penalty(0.1, target=1.0), penalty(0.1, target=1.0), penalty(0.7)
    first.rewards(experience, estimates(experience, 3.0))
    second.load_state_dict(first.state_dict())
    assert second.coef == first.coef != 0.1
    assert fixed.state_dict() == {}
    fixed.load_state_dict(first.state_dict())  # resumed with kl_target=null
    assert fixed.coef == 0.7


def test_a_step_without_valid_completions_changes_nothing():
    experience = make_experience()
    nobody = replace(experience, rewards=make_rewards(torch.zeros(2, 4), valid=torch.zeros(2, 4, dtype=torch.bool)))
    adaptive = penalty(0.1, target=1.0)
    assert adaptive.rewards(nobody, estimates(experience)).eq(0).all()
    assert adaptive.coef == 0.1
    assert math.isnan(adaptive.metrics()["objective/kl"])


def test_without_a_coefficient_nothing_is_needed_or_reported():
    experience = make_experience()
    off = penalty(0.0)
    assert off.rewards(experience, Estimates()).eq(0).all()
    assert not off.is_on
    assert off.metrics() == {}


def test_a_target_needs_a_coefficient_to_adapt():
    with pytest.raises(ConfigError, match=r"kl_target=6: .*kl_coef=0 stays 0; type advantage\.kl_coef=0\.05, or"):
        penalty(0.0, target=6.0)


def test_ranks_have_one_coefficient(tmp_path):
    experience = make_experience(prompts=2, k=4)
    together = penalty(0.1, target=5.0)
    together.rewards(experience, estimates(experience))

    def on_one(rank: int):
        mine, rows, given = penalty(0.1, target=5.0), slice(4 * rank, 4 * rank + 4), estimates(experience)
        old_BT, ref_BT = given.old_logprobs_BT[rows], given.ref_logprobs_BT[rows]
        part = split(experience)[rank]
        width = part.rollouts.tokens_BT.shape[1]
        mine.rewards(part, Estimates(old_logprobs_BT=old_BT[:, :width], ref_logprobs_BT=ref_BT[:, :width]))
        return mine.coef, mine.metrics()["objective/kl"]

    for coef, kl in on_ranks(2, tmp_path, on_one):
        assert coef == pytest.approx(together.coef, rel=1e-12)
        assert kl == pytest.approx(together.metrics()["objective/kl"])
