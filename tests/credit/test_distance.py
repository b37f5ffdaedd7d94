import math
from dataclasses import replace

import pytest
import torch

from dqo.credit.distance import Distance, Metric
from dqo.credit.gating.gate import Gate, Gating
from dqo.dpp import Kernel, kernel_matrix, log_det
from dqo.errors import ConfigError
from dqo.references import References
from dqo.stages import Credit
from tests.credit.groups import group, unit_vectors

# Three directions of the plane: east, north, west.
COMPASS_PKD = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]])


def distance(metric=Metric.euclidean, gate=Gate.none, threshold=None):
    return Distance(References(), metric=metric, gating=Gating(gate=gate, threshold=threshold))


def test_is_a_credit_that_needs_embeddings():
    assert isinstance(distance(), Credit) and distance().uses_embeddings


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        (Metric.euclidean, [(math.sqrt(2) + 2) / 2, math.sqrt(2), (math.sqrt(2) + 2) / 2]),
        (Metric.cosine, [1.5, 1.0, 1.5]),
    ],
)
def test_credit_is_the_mean_distance_to_the_others(metric, expected):
    credits_PK = distance(metric).assign(*group([[0.0, 0.0, 0.0]]), COMPASS_PKD)
    assert credits_PK[0].tolist() == pytest.approx(expected)
    assert credits_PK.dtype == torch.float32


@pytest.mark.parametrize("metric", Metric)
def test_only_pairs_that_pass_the_gate_count(metric):
    rewards, valid = [[1.0, 0.0, 1.0, 1.0, 1.0]], [[True, True, False, True, True]]
    embeddings_PKD = unit_vectors(1, 5, 6)
    embeddings_PKD[0, 2] = math.nan  # the invalid one
    credits_PK = distance(metric, Gate.correct).assign(*group(rewards, valid), embeddings_PKD)
    alone_PK = distance(metric).assign(*group([[1.0] * 3]), embeddings_PKD[:, [0, 3, 4]])
    torch.testing.assert_close(credits_PK[:, [0, 3, 4]], alone_PK)
    assert credits_PK[0, [1, 2]].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("metric", Metric)
@pytest.mark.parametrize("rewards", [[[1.0, 0.0, 0.0]], [[0.0, 0.0, 0.0]]])
def test_a_completion_that_passes_alone_has_credit_0(metric, rewards):
    credits_PK = distance(metric, Gate.threshold, 0.5).assign(*group(rewards), COMPASS_PKD)
    assert credits_PK[0].tolist() == [0.0, 0.0, 0.0]


def test_distances_of_near_duplicates_are_exact():
    """From 26 completions on, cdist's default mode would be wrong by 1e-4 here."""
    near_PKD = unit_vectors(1, 1, 384) + 1e-4 * unit_vectors(1, 40, 384, seed=1)
    exact_PKK = (near_PKD.double()[:, :, None] - near_PKD.double()[:, None]).norm(dim=-1)
    credits_PK = distance().assign(*group([[0.0] * 40]), near_PKD)
    torch.testing.assert_close(credits_PK.double(), exact_PKK.sum(-1) / 39, rtol=1e-3, atol=0.0)


@pytest.mark.parametrize("metric", Metric)
@pytest.mark.parametrize("k", [4, 6, 8])
def test_two_far_corners_beat_an_even_spread_unlike_dpp_with_rbf(metric, k):
    """Pairwise distance prefers half the group at each end of a quarter circle."""
    angles_K = torch.linspace(0, math.pi / 2, k)
    spread_PKD = torch.stack([angles_K.cos(), angles_K.sin()], dim=-1)[None]
    corners_PKD = spread_PKD[:, [0] * (k // 2) + [-1] * (k // 2)]
    rollouts, rewards = group([[0.0] * k])
    spread, corners = (distance(metric).assign(rollouts, rewards, x).sum() for x in (spread_PKD, corners_PKD))
    assert corners > 1.1 * spread
    spread, corners = (log_det(kernel_matrix(x, kind=Kernel.rbf, sigma=0.4)) for x in (spread_PKD, corners_PKD))
    assert spread > 1.1 * corners


def test_gate_correct_needs_a_reward_that_says_what_is_correct():
    rollouts, rewards = group([[0.0, 1.0, 1.0]])
    with pytest.raises(ConfigError, match=r"credit\.gate=correct: this reward does not say"):
        distance(gate=Gate.correct).assign(rollouts, replace(rewards, correct_PK=None), COMPASS_PKD)


@pytest.mark.parametrize("metric", Metric)
def test_an_empty_completion_earns_nothing_and_is_no_neighbor(metric):
    rollouts, rewards = group([[0.0, 0.0, 0.0]])
    rollouts = replace(rollouts, texts=("w1", "", "w2"))
    credits_PK = distance(metric).assign(rollouts, rewards, COMPASS_PKD)
    assert credits_PK[0].tolist() == pytest.approx([2.0, 0.0, 2.0])  # east and west


def test_equal_completions_have_a_cosine_distance_of_exactly_0():
    same_PKD = unit_vectors(1, 1, 384).expand(1, 5, 384)
    assert distance(Metric.cosine).assign(*group([[0.0] * 5]), same_PKD).tolist() == [[0.0] * 5]


def test_the_model_card_says_what_was_paid():
    says = "the mean cosine distance of its embedding to the others of its group, among the correct completions"
    assert distance(Metric.cosine, Gate.correct).description == says
