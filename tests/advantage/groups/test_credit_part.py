import json

import pytest
import torch

from dqo.advantage.gdpo import Gdpo
from dqo.advantage.groups.credit_part import CreditBaseline, CreditKeys, NormalizeCredit
from dqo.advantage.groups.normalization import ScaleRewards
from dqo.advantage.joint import Joint
from dqo.advantage.maxrl import MaxRL
from dqo.advantage.separate import Separate
from dqo.advantage.unbiased import Unbiased
from dqo.dpp import kernel_matrix, log_det
from dqo.errors import ConfigError
from dqo.files.checkpoint import Checkpoints, restore
from dqo.records import Estimates
from tests.advantage.enumeration import Items
from tests.advantage.experiences import experience_of, per_completion
from tests.helpers.on_ranks import on_ranks
from tests.helpers.scripted_stages import NoAdvantage
from tests.helpers.stateful_stages import make_stages
from tests.helpers.toy_stages import EvenReward

SPREAD = NormalizeCredit.spread
TIED = [[1.0, 1, 1], [1, 1, 1]]  # rewards: advantages are the credit's part
EXPERIENCE = experience_of(TIED, [[0.1, 0.2, 0.5], [0.3, 0.3, 0.3]])  # spreads .4 and 0, which does not count


def joint(normalize=SPREAD):
    return Joint(scale_rewards=ScaleRewards.none, normalize_credit=normalize)


def apply(advantage, experience=EXPERIENCE, alpha=1.0):
    return per_completion(experience, advantage(experience, Estimates(), alpha=alpha).advantages_BT)


@pytest.mark.parametrize(
    "make",
    [
        joint,
        lambda by=SPREAD: MaxRL(credit=CreditKeys(normalize_credit=by)),
        lambda by=SPREAD: Separate(scale_rewards=ScaleRewards.none, credit=CreditKeys(normalize_credit=by)),
        lambda by=SPREAD: Unbiased(baseline_decay=0.9, normalize_credit=by),
    ],
)
def test_credits_are_divided_by_the_mean_spread_of_earlier_steps(make):
    advantage, plain = make(), make(NormalizeCredit.none)
    first = apply(plain)
    torch.testing.assert_close(apply(advantage), first / 0.4)  # the first step's own
    other = experience_of(TIED, [[0.1, 0.2, 0.3], [0.3, 0.9, 0.3]])  # spreads .2 and .6
    torch.testing.assert_close(apply(advantage, other), apply(plain, other) / 0.4)
    torch.testing.assert_close(apply(advantage, other), apply(plain, other) / 0.4)  # (.4 + .2 + .6) / 3


def test_masked_credits_and_steps_without_a_spread_do_not_count():
    advantage = joint()
    masked = experience_of(TIED, [[0.1, 0.3, 0.9], [0.5, 0.9, 0.9]], [[True, True, False], [True, False, False]])
    torch.testing.assert_close(apply(advantage, masked)[0, :2], torch.tensor([-0.5, 0.5]))
    assert advantage.state_dict() == {"spread_sum": pytest.approx(0.2), "spread_groups": 1}
    without = experience_of(TIED, [[0.3] * 3] * 2)
    assert apply(joint(), without).eq(0).all()
    apply(advantage, without)
    assert advantage.state_dict()["spread_groups"] == 1


def test_k_and_the_encoder_no_longer_change_what_alpha_means():
    small = experience_of(TIED, [[0.01, 0.02, 0.05], [0.03, 0.03, 0.03]])
    torch.testing.assert_close(apply(joint(), small), apply(joint()))
    assert joint().has_signal(small, alpha=1.0)


def test_the_state_is_kept_in_json_and_has_signal_does_not_change_it():
    advantage, resumed = joint(), joint()
    apply(advantage)
    advantage.has_signal(experience_of(TIED, [[0.1, 0.2, 0.9]] * 2), alpha=1.0)
    resumed.load_state_dict(json.loads(json.dumps(advantage.state_dict())))
    other = experience_of(TIED, [[0.1, 0.2, 0.9]] * 2)
    torch.testing.assert_close(apply(resumed, other), apply(advantage, other), atol=0, rtol=0)
    assert resumed.state_dict() == advantage.state_dict()


def test_a_checkpoint_holds_the_spread_and_nothing_where_there_is_none(tmp_path):
    """An older dqo's checkpoint of ``advantage=joint`` has no state, and is resumed."""
    plain = make_stages(advantage=joint(NormalizeCredit.none))
    older = make_stages(advantage=NoAdvantage())
    for number, saved in enumerate((plain, older), start=1):
        restore(Checkpoints(tmp_path / "a", keep_last=1).save(number, 4, saved, {}), plain)
    with pytest.raises(ConfigError, match="this run's advantage has a state and the checkpoint's has none"):
        restore(Checkpoints(tmp_path / "a", keep_last=1).save(3, 4, older, {}), make_stages(advantage=joint()))
    spread = make_stages(advantage=joint())
    apply(spread.advantage)
    path = Checkpoints(tmp_path / "b", keep_last=1).save(1, 4, spread, {})
    fresh = make_stages(advantage=joint())
    restore(path, fresh)
    assert fresh.advantage.state_dict() == spread.advantage.state_dict()


def test_without_a_baseline_the_credit_is_added_as_it_is():
    keys = CreditKeys(credit_baseline=CreditBaseline.none)
    experience = experience_of(
        [[1, 0, 0], [1, 0, 0]], [[0.1, 0.2, 0.6], [0.7, 0, 0]], [[True] * 3, [True, False, False]]
    )
    quality = apply(MaxRL(credit=keys), experience, alpha=0.0)
    added = apply(MaxRL(credit=keys), experience, alpha=2.0) - quality
    torch.testing.assert_close(added, torch.tensor([[0.2, 0.4, 1.2], [0, 0, 0]]))  # a lone completion gets 0
    for scale in ScaleRewards:
        separate = Separate(scale_rewards=scale, credit=keys)
        added = apply(separate, experience, alpha=2.0) - apply(separate, experience, alpha=0.0)
        torch.testing.assert_close(added, torch.tensor([[0.2, 0.4, 1.2], [0, 0, 0]]))
    equal = experience_of([[1, 1, 1]], [[0.2, 0.2, 0.2]])
    assert separate.has_signal(equal, alpha=1.0)
    assert not separate.has_signal(equal, alpha=0.0)
    assert not separate.has_signal(experience_of([[1, 1, 1]], [[0.0] * 3]), alpha=1.0)


def expected_log_det(policy, k, baseline):
    """(the credit's part of the expected gradient at alpha = 1, the gradient of E[log det(L + I)])."""
    advantage = MaxRL(credit=CreditKeys(credit_baseline=baseline))
    found = policy.estimated(advantage, k, alpha=1.0) - policy.estimated(advantage, k)
    log_dets = policy.expected(k, lambda items: float(log_det(kernel_matrix(policy.embeddings[items][None]))))
    return found, policy.gradient(log_dets)


@pytest.mark.parametrize("k", [2, 3])
def test_without_a_baseline_the_credits_gradient_is_exact(k):
    policy = Items()
    found, exact = expected_log_det(policy, k, CreditBaseline.none)
    torch.testing.assert_close(found, exact, atol=1e-6, rtol=0)
    centred, _ = expected_log_det(policy, k, CreditBaseline.group)
    assert (centred - exact).abs().max() > 0.01


def test_all_ranks_divide_by_the_same_numbers(tmp_path):
    """Two ranks with a group each have the advantages and the state of one rank with both."""
    rewards, credits = [[1.0, 0, 0], [0.5, 2, 1]], [[0.1, 0.2, 0.5], [0.3, 0.9, 0.3]]

    def steps(rows):
        own = experience_of(rewards[rows], credits[rows])
        advantage, gdpo = joint(), Gdpo(EvenReward())
        found = [apply(advantage, own), apply(advantage, own), apply(gdpo, own)]
        return [each.tolist() for each in found], advantage.state_dict()

    parts, state = steps(slice(0, 2))
    (first, here), (second, there) = on_ranks(2, tmp_path, lambda rank: steps(slice(rank, rank + 1)))
    for whole, one, other in zip(parts, first, second, strict=True):
        torch.testing.assert_close(torch.tensor(one + other), torch.tensor(whole))
    assert here == there == state
