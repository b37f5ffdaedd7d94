"""Identical completions teach exactly nothing by the real credits, whatever the size of rewards, kernels and alpha."""

import itertools

import pytest

from dqo.advantage.groups.normalization import ScaleRewards
from dqo.advantage.joint import Joint
from dqo.advantage.separate import Separate
from dqo.credit.distance import Distance, Metric
from dqo.credit.dpp import Precision, Quality
from dqo.credit.gating.gate import Gate, Gating
from dqo.dpp import Kernel
from dqo.records import Estimates, Experience
from tests.advantage.experiences import per_completion
from tests.credit.builders import dpp
from tests.credit.groups import group, unit_vectors

ADVANTAGES = [cls(scale_rewards=scale) for cls, scale in itertools.product((Joint, Separate), ScaleRewards)]
UNGATED = Gating(gate=Gate.none, threshold=None)
CREDITS = [
    *(dpp(kernel=kernel, sigma=0.01, dtype=dtype) for kernel, dtype in itertools.product(Kernel, Precision)),
    *(dpp(offset=30.0, degree=2, kernel=Kernel.polynomial, dtype=dtype) for dtype in Precision),
    *(Distance(metric=metric, gating=UNGATED) for metric in Metric),
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
