"""What is asked of a whole step; single formulas are tested in ``tokens/``."""

from dataclasses import replace

import pytest
import torch

from dqo.advantage.gae import Gae
from dqo.advantage.groups.credit_part import NormalizeCredit
from dqo.advantage.groups.reward_scale import NormalizeReward
from dqo.advantage.tokens.kl_penalty import KlEstimator, KlKeys
from dqo.advantage.tokens.penalized import ScoreKeys
from dqo.records import Estimates, Experience
from tests.advantage.experiences import experience_of
from tests.factories import make_experience, make_rewards, make_rollouts

SAME = ["w1 w2 w3", "w4 w5 w6", "w7 w8 w9", "w1 w5 w9", "w2 w6 w7", "w3 w4 w8"]  # four tokens each, end token included
LENGTHS = ["w1", "w4 w5 w6", "w7 w8", "w1 w5 w9 w3", "w2", "w3 w4 w8"]


def gae(*, kl_coef=0.05, whiten_rewards=False, whiten_advantages=True, gamma=1.0, lam=0.95, **keys) -> Gae:
    kl = KlKeys(kl_coef=kl_coef, kl_estimator=KlEstimator.k1, kl_target=None, kl_horizon=10_000)
    return Gae(
        gamma=gamma, lam=lam, kl=kl, scores=ScoreKeys(**keys), whiten_rewards=whiten_rewards,
        whiten_advantages=whiten_advantages,
    )  # fmt: skip


def given(texts=SAME, *, seed: int = 0, prompt_length: int = 4) -> tuple[Experience, Estimates]:
    generator = torch.Generator().manual_seed(seed)
    rollouts = make_rollouts(texts, 3)
    shape = rollouts.tokens_BT.shape
    logprobs_BT, noise_BT, values_BT = (torch.rand(shape, generator=generator) - 0.5 for _ in range(3))
    experience = Experience(
        rollouts=rollouts, rewards=make_rewards(torch.rand(2, 3, generator=generator)), embeddings_PKD=None,
        credits_PK=torch.rand(2, 3, generator=generator),
    )  # fmt: skip
    estimates = Estimates(
        old_logprobs_BT=logprobs_BT, ref_logprobs_BT=logprobs_BT + noise_BT, values_BT=values_BT,
    )  # fmt: skip
    return experience, estimates


def dense(experience: Experience, values_BT):
    """(batch, most tokens of a completion), and True at padding."""
    rows = [values_BT[b, sampled_T] for b, sampled_T in enumerate(experience.rollouts.sampled_BT)]
    lengths = torch.tensor([len(row) for row in rows])
    padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    return padded, torch.arange(padded.shape[1])[None] >= lengths[:, None]


def masked_whiten(values, mask, shift_mean=True):
    """TRL 1.12's, trl/experimental/ppo/ppo_trainer.py:262."""
    mean = (values * mask).sum() / mask.sum()
    var = ((values - mean) ** 2 * mask).sum() / mask.sum() * mask.sum() / (mask.sum() - 1)
    whitened = (values - mean) * torch.rsqrt(var + 1e-8)
    return whitened if shift_mean else whitened + mean


def trls(experience, estimates, *, alpha, whiten_rewards):
    """Advantages and returns of TRL 1.12 (ppo_trainer.py:769-798), but for two things: the score is paid at the last
    token where TRL pays a completion that ends by itself at the padding after it, and the masks of rewards and values
    end there, too. Where every completion fills the response length the two are the same."""
    kl_coef, gamma, lam = 0.05, 1.0, 0.95
    logprobs, padding_mask = dense(experience, estimates.old_logprobs_BT.double())
    ref_logprobs, _ = dense(experience, estimates.ref_logprobs_BT.double())
    values, _ = dense(experience, estimates.values_BT.double())
    scores = (experience.rewards.total_PK + alpha * experience.credits_PK).flatten().double()
    ends = (~padding_mask).sum(1) - 1
    kl = -(ref_logprobs - logprobs)
    rewards = -kl_coef * kl
    rewards[torch.arange(len(rewards)), ends] += scores
    if whiten_rewards:
        rewards = masked_whiten(rewards, ~padding_mask, shift_mean=False)
        rewards = torch.masked_fill(rewards, padding_mask, 0)
    lastgaelam, advantages_reversed, gen_length = 0, [], rewards.shape[1]
    for t in reversed(range(gen_length)):
        nextvalues = values[:, t + 1] if t < gen_length - 1 else 0.0
        delta = rewards[:, t] + gamma * nextvalues - values[:, t]
        lastgaelam = delta + gamma * lam * lastgaelam
        advantages_reversed.append(lastgaelam)
    advantages = torch.stack(advantages_reversed[::-1], dim=1)
    returns = advantages + values
    advantages = torch.masked_fill(masked_whiten(advantages, ~padding_mask), padding_mask, 0)
    return advantages, returns.masked_fill(padding_mask, 0)


@pytest.mark.parametrize("texts", [SAME, LENGTHS])
@pytest.mark.parametrize("whiten_rewards", [False, True])
def test_a_step_is_that_of_trl(texts, whiten_rewards):
    experience, estimates = given(texts)
    advantages, returns = trls(experience, estimates, alpha=0.7, whiten_rewards=whiten_rewards)
    targets = gae(whiten_rewards=whiten_rewards)(experience, estimates, alpha=0.7)
    torch.testing.assert_close(dense(experience, targets.advantages_BT)[0].double(), advantages, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(dense(experience, targets.returns_BT)[0].double(), returns, atol=1e-6, rtol=1e-6)
    assert targets.advantages_BT[~experience.rollouts.sampled_BT].eq(0).all()


def test_reward_and_credit_are_paid_once_a_completion():
    """With lambda = 1, no KL and values of 0 each token's return is what its completion scored."""
    experience, estimates = given(LENGTHS)
    estimates = Estimates(values_BT=torch.zeros_like(estimates.values_BT))
    targets = gae(kl_coef=0.0, lam=1.0, whiten_advantages=False)(experience, estimates, alpha=2.0)
    scores_B1 = (experience.rewards.total_PK + 2 * experience.credits_PK).view(-1, 1)
    torch.testing.assert_close(targets.advantages_BT, scores_B1 * experience.rollouts.sampled_BT)
    torch.testing.assert_close(targets.returns_BT, targets.advantages_BT)


def test_a_masked_completion_takes_no_part():
    experience, estimates = given(LENGTHS)
    valid_PK = torch.tensor([[True, True, False], [True, True, True]])
    masked = replace(experience, rewards=make_rewards(experience.rewards.total_PK, valid=valid_PK))
    targets = gae()(masked, estimates, alpha=1.0)
    assert targets.advantages_BT[2].eq(0).all()
    assert targets.returns_BT[2].eq(0).all()
    others = targets.advantages_BT[masked.counted_BT]
    assert float(others.mean()) == pytest.approx(0.0, abs=1e-6)
    assert float(others.std()) == pytest.approx(1.0, abs=1e-5)


def test_the_advantage_says_what_the_learner_has_to_compute():
    assert gae().needs_values
    assert gae().needs_reference
    assert gae().needs_old_logprobs
    assert not gae(kl_coef=0.0).needs_reference
    assert not gae(kl_coef=0.0).needs_old_logprobs


def test_groups_whose_scores_tie_teach_unless_nothing_is_valid():
    tied = experience_of([[1, 1]], [[0.5, 0.5]])
    assert gae().has_signal(tied, alpha=1.0)
    nobody = experience_of([[1, 1]], [[0.5, 0.5]], valid=[[False, False]])
    assert not gae().has_signal(nobody, alpha=1.0)


def test_state_and_metrics_are_those_of_the_kl_and_the_credits():
    kl = KlKeys(kl_coef=0.05, kl_estimator=KlEstimator.k3, kl_target=0.01, kl_horizon=100)
    settings = {
        "gamma": 1.0, "lam": 0.9, "whiten_rewards": False, "whiten_advantages": True,
        "scores": ScoreKeys(normalize_credit=NormalizeCredit.spread, normalize_reward=NormalizeReward.running),
    }  # fmt: skip
    first, second = (Gae(kl=kl, **settings) for _ in range(2))
    experience, estimates = given()
    first(experience, estimates, alpha=1.0)
    assert first.metrics()["objective/kl"] > 0.01
    second.load_state_dict(first.state_dict())
    one, other = (each(experience, estimates, alpha=1.0) for each in (first, second))
    assert torch.equal(one.advantages_BT, other.advantages_BT)
    assert first.state_dict() == second.state_dict()
    assert gae().state_dict() == {}


def test_credits_of_one_kind_weigh_by_their_spread():
    experience = make_experience()
    estimates = Estimates(values_BT=torch.zeros(experience.rollouts.tokens_BT.shape))
    by_spread = gae(kl_coef=0.0, normalize_credit=NormalizeCredit.spread)
    plain = by_spread(experience, estimates, alpha=1.0)
    larger = replace(experience, credits_PK=10 * experience.credits_PK)
    scaled = gae(kl_coef=0.0, normalize_credit=NormalizeCredit.spread)(larger, estimates, alpha=1.0)
    torch.testing.assert_close(plain.advantages_BT, scaled.advantages_BT, atol=1e-5, rtol=1e-5)
