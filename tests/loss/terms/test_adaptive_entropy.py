import json
import math
from dataclasses import replace

import pytest
import torch

from dqo.capabilities import LossTerm, Stateful
from dqo.errors import ConfigError
from dqo.loss.terms.adaptive_entropy import AdaptiveEntropy
from dqo.loss.terms.entropy import Tokens
from dqo.records import Estimates, Targets
from tests.factories import make_experience, make_loss_inputs
from tests.learner.builders import adaptive_entropy  # target 1, step .02, coefficient from 0 to .05


def sampled_at(logprob, experience=None):
    """Every token was sampled with this log-probability."""
    experience = make_experience() if experience is None else experience
    rollouts = experience.rollouts
    return replace(experience, rollouts=replace(rollouts, logprobs_BT=rollouts.sampled_BT * logprob))


def coefficients(term, entropies):
    """The coefficient of each step, for policies of these entropies."""
    found = []
    for entropy in entropies:
        experience = sampled_at(-entropy)
        zeros_BT = torch.zeros(experience.rollouts.sampled_BT.shape)
        term.marks(experience, Estimates(), Targets(advantages_BT=zeros_BT))
        found.append(term.coefficient)
    return found


def test_the_coefficient_rises_below_the_target_falls_above_and_keeps_its_bounds():
    expected = [0.03, 0.05, 0.05, 0.05, 0.03, 0.01, 0.0, 0.0, 0.02]
    got = coefficients(adaptive_entropy(), [0.5, 0.9, 0.2, 1.0, 1.1, 3.0, 1.2, 1.1, 0.99])
    assert got == pytest.approx(expected)


def test_the_loss_has_the_coefficient_of_its_step():
    term = adaptive_entropy()
    assert isinstance(term, LossTerm) and isinstance(term, Stateful)
    coefficients(term, [0.5])
    inputs = make_loss_inputs(
        torch.zeros(2), entropies_N=torch.ones(2), marks={"chosen": torch.ones(2, dtype=torch.bool)}
    )
    value, means = term(inputs)
    assert value.item() == pytest.approx(-0.03 * 2)
    assert set(means) == set(term.names)
    assert (means["entropy_bonus/coefficient"][0], means["entropy_bonus/measured"][0]) == pytest.approx((0.03, 0.5))


def test_above_the_target_there_is_no_bonus_and_the_coefficient_is_kept():
    term = adaptive_entropy(coefficient=0.05)
    inputs = make_loss_inputs(
        torch.zeros(2), entropies_N=torch.ones(2), marks={"chosen": torch.ones(2, dtype=torch.bool)}
    )
    coefficients(term, [1.5])
    value, means = term(inputs)
    assert (value.item(), means["entropy_bonus/coefficient"][0].item()) == (0.0, 0.0)
    assert term.state_dict() == {"coefficient": pytest.approx(0.03)}
    coefficients(term, [0.9])
    assert term(inputs)[0].item() == pytest.approx(-0.05 * 2)


def test_a_step_without_valid_completions_leaves_the_coefficient():
    term, experience = adaptive_entropy(), make_experience()
    nothing = replace(
        experience, rewards=replace(experience.rewards, valid_PK=torch.zeros_like(experience.rewards.valid_PK))
    )
    zeros_BT = torch.zeros(experience.rollouts.sampled_BT.shape)
    term.marks(nothing, Estimates(), Targets(advantages_BT=zeros_BT))
    assert term.coefficient == 0.01
    assert math.isnan(term.measured)


def test_a_resumed_run_adapts_on():
    whole, first, second = adaptive_entropy(), adaptive_entropy(), adaptive_entropy(coefficient=0.0)
    entropies = [0.5, 1.5, 0.5, 0.5]
    expected = coefficients(whole, entropies)
    coefficients(first, entropies[:2])
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert coefficients(second, entropies[2:]) == expected[2:]


@pytest.mark.parametrize("bounds", [(0.02, 0.05), (0.0, 0.005), (0.05, 0.01)])
def test_a_coefficient_outside_its_bounds_is_refused(bounds):
    with pytest.raises(ConfigError, match=r"^loss\.terms\.entropy\.coefficient=0\.01: .*type loss\.terms\.entropy\."):
        AdaptiveEntropy(
            coefficient=0.01, target=1.0, step=0.01, min_coefficient=bounds[0], max_coefficient=bounds[1],
            tokens=Tokens.all, top_entropy_quantile=None,
        )  # fmt: skip
