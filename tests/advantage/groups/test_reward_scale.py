import torch

from dqo.advantage.gae import Gae
from dqo.advantage.groups.credit_part import NormalizeCredit
from dqo.advantage.groups.normalization import ScaleRewards
from dqo.advantage.groups.reward_scale import NormalizeReward, ScaledScores
from dqo.advantage.joint import Joint
from dqo.advantage.tokens.kl_penalty import KlEstimator, KlKeys
from dqo.advantage.tokens.penalized import ScoreKeys
from dqo.advantage.unbiased import Unbiased
from dqo.records import Estimates
from tests.advantage.experiences import experience_of
from tests.helpers.on_ranks import on_ranks

STEPS = [[[1.0, 5, 2], [3, 3, 9]], [[0.0, 4, 2], [3, 1, 2]], [[8.0, 8, 7], [6, 1, 2]]]
CREDITS = [[0.1, 0.2, 0.4], [0.3, 0.1, 0.2]]


def running() -> ScaledScores:
    return ScaledScores(NormalizeReward.running, NormalizeCredit.none)


def scaled(scores: ScaledScores, rewards, valid=None):
    return scores.scaled_rewards(experience_of(rewards, CREDITS[: len(rewards)], valid))


def test_rewards_are_measured_in_standard_deviations_from_the_mean_of_the_steps_before():
    scores = running()
    for number, rewards in enumerate(STEPS):
        before = torch.tensor(STEPS[: max(number, 1)], dtype=torch.float64)
        expected = (torch.tensor(rewards, dtype=torch.float64) - before.mean()) / before.std()
        torch.testing.assert_close(scaled(scores, rewards), expected)


def test_masked_completions_do_not_count():
    with_masked, without = running(), running()
    scaled(with_masked, [[1.0, 5, 1000], [3, 3, 9]], [[True, True, False], [True, True, True]])
    scaled(without, [[1.0, 5], [3, 3]])
    scaled(without, [[9.0]])
    torch.testing.assert_close(scaled(with_masked, STEPS[1]), scaled(without, STEPS[1]))


def test_rewards_that_do_not_differ_are_not_blown_up():
    scores = running()
    assert scaled(scores, [[0.1, 0.1, 0.1]]).abs().max() < 1e-12
    assert scaled(scores, [[0.1, 0.1, 0.1 + 1e-9]]).abs().max() < 1e-8
    assert (scaled(scores, [[0.0, 2.0, 4.0]]).std() - 1).abs() < 0.5  # of the first step that has a deviation


def test_a_resumed_run_goes_on_with_its_deviation():
    first, second = running(), running()
    scaled(first, STEPS[0])
    second.load_state_dict(first.state_dict())
    torch.testing.assert_close(scaled(second, STEPS[1]), scaled(first, STEPS[1]), atol=0, rtol=0)
    assert first.state_dict() == second.state_dict()
    assert ScaledScores(NormalizeReward.none, NormalizeCredit.none).state_dict() == {}


def test_ranks_share_one_deviation(tmp_path):
    def on_one(rank: int):
        scores = running()
        for rewards in STEPS:
            last = scaled(scores, [rewards[rank]])
        return last[0].tolist(), scores.state_dict()

    (first, state), (second, same) = on_ranks(2, tmp_path, on_one)
    together = running()
    for rewards in STEPS:
        last = scaled(together, rewards)
    torch.testing.assert_close(torch.tensor([first, second], dtype=torch.float64), last)
    assert state == same


def test_an_advantage_does_not_change_with_the_unit_or_the_zero_of_the_reward():
    """The same weight of the credit, whether rewards are shares or percent, and wherever a reward model has its 0."""
    kl = KlKeys(kl_coef=0.0, kl_estimator=KlEstimator.k1, kl_target=None, kl_horizon=1)
    keys = ScoreKeys(normalize_reward=NormalizeReward.running)
    advantages = [
        lambda: Joint(scale_rewards=ScaleRewards.none, normalize_reward=NormalizeReward.running),
        lambda: Unbiased(baseline_decay=0.9, normalize_reward=NormalizeReward.running),
        lambda: Gae(gamma=1.0, lam=1.0, kl=kl, scores=keys, whiten_rewards=False, whiten_advantages=False),
    ]
    for make in advantages:
        found = []
        for unit, zero in ((1.0, 0.0), (100.0, 0.0), (1.0, -50.0)):
            advantage = make()
            for rewards in STEPS:
                experience = experience_of([[unit * r + zero for r in row] for row in rewards], CREDITS)
                values_BT = torch.zeros(experience.rollouts.tokens_BT.shape)
                targets = advantage(experience, Estimates(values_BT=values_BT), alpha=2.0)
            found.append(targets.advantages_BT)
        for other in found[1:]:
            torch.testing.assert_close(other, found[0])
        assert found[0].abs().max() > 0.1
