import itertools
import json
from dataclasses import replace

import pytest
import torch

from dqo.advantage.groups.normalization import ScaleRewards
from dqo.advantage.joint import Joint
from dqo.advantage.unbiased import Unbiased
from dqo.capabilities import Stateful
from dqo.dpp import kernel_matrix, leave_one_out_credits, log_det
from dqo.records import Estimates
from tests.advantage.experiences import experience_of, per_completion


def apply(unbiased: Unbiased, experience, alpha: float = 1.0):
    return per_completion(experience, unbiased(experience, Estimates(), alpha=alpha).advantages_BT)


def test_rewards_are_compared_with_the_mean_of_the_others():
    experience = experience_of([[1, 0, 0, 3]], [[9, 9, 9, 9]])
    expected = torch.tensor([[1 - 3 / 3, 0 - 4 / 3, 0 - 4 / 3, 3 - 1 / 3]])
    torch.testing.assert_close(apply(Unbiased(baseline_decay=0.9), experience, alpha=0.0), expected)


def test_the_credits_baseline_is_read_before_it_is_updated():
    unbiased = Unbiased(baseline_decay=0.75)
    unbiased.load_state_dict({"baseline": 0.5})
    experience = experience_of([[1, 1], [1, 1]], [[0.1, 0.2], [0.3, 0.6]])
    torch.testing.assert_close(apply(unbiased, experience, alpha=2.0), 2 * torch.tensor([[-0.4, -0.3], [-0.2, 0.1]]))
    assert unbiased.state_dict()["baseline"] == pytest.approx(0.75 * 0.5 + 0.25 * 0.3)


def test_in_the_first_step_the_baseline_is_the_mean_of_the_other_groups():
    unbiased = Unbiased(baseline_decay=0.9)
    experience = experience_of([[1, 1], [1, 1], [1, 1]], [[0.1, 0.3], [0.2, 0.4], [0.5, 0.5]])
    baselines = torch.tensor([[0.4], [0.35], [0.25]])
    torch.testing.assert_close(apply(unbiased, experience), experience.credits_PK - baselines)
    assert unbiased.baseline == pytest.approx(2 / 6)
    alone = experience_of([[1, 1]], [[0.1, 0.3]])
    torch.testing.assert_close(apply(Unbiased(baseline_decay=0.9), alone), alone.credits_PK)


def test_masked_and_lone_completions_get_0_and_are_left_out():
    valid = [[True, True, False], [True, False, False]]
    experience = experience_of([[3, 1, 0], [7, 0, 0]], [[0.2, 0.4, 0], [0.7, 0, 0]], valid)
    unbiased = Unbiased(baseline_decay=0.0)
    unbiased.load_state_dict({"baseline": 0.1})
    torch.testing.assert_close(apply(unbiased, experience), torch.tensor([[2.1, -1.7, 0], [0, 0, 0]]))
    assert unbiased.baseline == pytest.approx(0.3)
    nothing = replace(experience, rewards=replace(experience.rewards, valid_PK=torch.zeros(2, 3, dtype=torch.bool)))
    assert apply(unbiased, nothing).eq(0).all()
    assert unbiased.baseline == pytest.approx(0.3)


def test_the_state_survives_json_and_has_signal_does_not_change_it():
    unbiased = Unbiased(baseline_decay=0.9)
    assert isinstance(unbiased, Stateful)
    apply(unbiased, experience_of([[1, 0]], [[0.25, 0.5]]))
    resumed = Unbiased(baseline_decay=0.9)
    resumed.load_state_dict(json.loads(json.dumps(unbiased.state_dict())))
    experience = experience_of([[1, 1]], [[0.3, 0.4]])
    assert resumed.has_signal(experience, alpha=1.0)
    assert not resumed.has_signal(experience, alpha=0.0)
    torch.testing.assert_close(apply(resumed, experience), apply(unbiased, experience), rtol=0, atol=0)
    assert resumed.state_dict() == unbiased.state_dict()


@pytest.mark.parametrize("k", [2, 3])
def test_the_expected_gradient_is_exact(k):
    """Enumerates all groups of a softmax policy over 4 items: E[sum_i grad log pi(y_i) A_i] is the gradient of
    E[sum_i r_i + alpha log det(L + I)]. With the group mean as baseline it is not."""
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.nn.functional.normalize(torch.randn(4, 3, generator=generator, dtype=torch.float64), dim=-1)
    rewards, alpha = torch.rand(4, generator=generator, dtype=torch.float64), 1.5
    logits = torch.randn(4, generator=generator, dtype=torch.float64, requires_grad=True)
    groups = torch.tensor(list(itertools.product(range(4), repeat=k)))
    kernels = kernel_matrix(embeddings[groups])
    experience = experience_of(rewards[groups].tolist(), leave_one_out_credits(kernels).tolist())

    logprobs = logits.log_softmax(-1)[groups]
    chances = logprobs.sum(1).exp()
    exact = (chances * (rewards[groups].sum(1) + alpha * log_det(kernels))).sum()
    (expected,) = torch.autograd.grad(exact, logits, retain_graph=True)

    def estimated(advantages_PK):
        return torch.autograd.grad(
            (chances.detach() * (logprobs * advantages_PK).sum(1)).sum(), logits, retain_graph=True
        )[0]

    unbiased = Unbiased(baseline_decay=0.9)
    unbiased.load_state_dict({"baseline": 0.4})
    torch.testing.assert_close(estimated(apply(unbiased, experience, alpha)), expected, atol=1e-6, rtol=0)
    joint = Joint(scale_rewards=ScaleRewards.none)(experience, Estimates(), alpha=alpha)
    assert (estimated(per_completion(experience, joint.advantages_BT)) - expected).abs().max() > 0.01
