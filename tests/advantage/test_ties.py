"""Identical completions teach exactly nothing by the real credits, whatever the size of rewards, kernels and alpha."""

import itertools
import math

import pytest

from dqo.advantage.gdpo import Gdpo
from dqo.advantage.groups.credit_part import CreditKeys, NormalizeCredit
from dqo.advantage.groups.normalization import ScaleRewards
from dqo.advantage.groups.subsets import Subsets
from dqo.advantage.joint import Joint
from dqo.advantage.maxrl import MaxRL
from dqo.advantage.pkpo import Baseline, Pkpo
from dqo.advantage.separate import Separate
from dqo.advantage.set import Modes, ProperSubsets, SetAdvantage, SetValue
from dqo.advantage.ucpo import Ucpo
from dqo.credit.distance import Distance, Metric
from dqo.credit.dpp import Precision, Quality
from dqo.credit.dra import Dra
from dqo.credit.elliptic import Bonus, Elliptic, Features
from dqo.credit.gating.gate import Gate, Gating
from dqo.credit.mmr import Mmr
from dqo.credit.nearest import Nearest
from dqo.credit.setpo import SetPO
from dqo.credit.vendi import Vendi
from dqo.dpp import Kernel
from dqo.records import Estimates, Experience
from dqo.references import References
from tests.advantage.experiences import per_completion
from tests.credit.builders import dpp, gated
from tests.credit.groups import group, unit_vectors
from tests.helpers.toy_stages import CountingTask, EvenReward

PLAIN = CreditKeys()
ADVANTAGES = [cls(scale_rewards=scale) for cls, scale in itertools.product((Joint, Separate), ScaleRewards)]
PLAIN = CreditKeys()
OTHERS = [
    SetAdvantage(
        CountingTask(), f=SetValue.mean_distinct, modes=Modes.all, subsets=ProperSubsets(n=2, k=8), divide_by_std=True,
        credit=PLAIN,
    ),
    Pkpo(subsets=Subsets(n=2, k=8), baseline=Baseline.none, credit=PLAIN),
    MaxRL(credit=CreditKeys(normalize_credit=NormalizeCredit.spread)),
    Ucpo(tau=0.2, divide_by_std=True, credit=PLAIN),
    Gdpo(EvenReward()),
]  # fmt: skip
UNGATED = Gating(gate=Gate.none, threshold=None)
CREDITS = [
    *(dpp(kernel=kernel, sigma=0.01, dtype=dtype) for kernel, dtype in itertools.product(Kernel, Precision)),
    *(dpp(offset=30.0, degree=2, kernel=Kernel.polynomial, dtype=dtype) for dtype in Precision),
    *(Distance(References(), metric=metric, gating=UNGATED) for metric in Metric),
    *(gated(cls) for cls in (SetPO, Nearest, Dra)),
    *(gated(Elliptic, bonus=bonus, features=Features.centred, ridge=0.01) for bonus in Bonus),
    *(gated(Vendi, order=order) for order in (1.0, 2.0, math.inf)),
    gated(Mmr, relevance_weight=None),
]


def experience(credit, rewards, embeddings_PKD):
    rollouts, judged = group(rewards)
    credits_PK = credit.assign(rollouts, judged, embeddings_PKD)
    return Experience(rollouts=rollouts, rewards=judged, embeddings_PKD=embeddings_PKD, credits_PK=credits_PK)


def quality(dtype, temperature):
    return dpp(quality=Quality.reward, quality_temperature=temperature, dtype=dtype)


@pytest.mark.parametrize("alpha", [1.0, 1e4])
@pytest.mark.parametrize("reward", [0.3, 1e6])
@pytest.mark.parametrize("k", [2, 3, 8, 13])
def test_a_collapsed_group_gets_advantages_of_exactly_0(k, reward, alpha):
    same_PKD = unit_vectors(3, 1, 384).expand(3, k, 384).contiguous()
    weighted = [quality(dtype, reward / size) for dtype, size in ((Precision.float32, 8.9), (Precision.float64, 25))]
    for credit in [*CREDITS, *weighted]:
        collapsed = experience(credit, [[reward] * k] * 3, same_PKD)
        for advantage in ADVANTAGES:
            targets = advantage(collapsed, Estimates(), alpha=alpha)
            assert not per_completion(collapsed, targets.advantages_BT).any()
            assert not advantage.has_signal(collapsed, alpha=alpha)


@pytest.mark.parametrize("alpha", [1e-3, 1.0, 1e4])
@pytest.mark.parametrize("reward", [0.3, 1e6])
def test_a_group_of_different_completions_with_equal_rewards_has_a_signal(reward, alpha):
    for credit in CREDITS:
        different = experience(credit, [[reward] * 8], unit_vectors(1, 8, 384) + 0.5 * unit_vectors(1, 1, 384, seed=1))
        if not different.credits_PK.std() > 1e-5:  # rbf at this sigma: all completions are unrelated
            continue
        for advantage in ADVANTAGES:
            assert advantage.has_signal(different, alpha=alpha)


@pytest.mark.parametrize("reward", [0.3, 1e6])
def test_the_other_advantages_judge_ties_alike(reward):
    same_PKD, other_PKD = unit_vectors(3, 1, 384).expand(3, 8, 384).contiguous(), unit_vectors(3, 8, 384)
    for advantage in OTHERS:
        collapsed = experience(dpp(), [[reward] * 8] * 3, same_PKD)
        targets = advantage(collapsed, Estimates(), alpha=1e4)
        assert not per_completion(collapsed, targets.advantages_BT).any()
        assert not advantage.has_signal(collapsed, alpha=1e4)
        assert advantage.has_signal(experience(dpp(), [[reward] * 8] * 3, other_PKD), alpha=1e-3)
