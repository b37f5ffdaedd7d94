from dataclasses import replace

import pytest

from dqo.credit.gating.gate import Gate, Gating
from dqo.errors import ConfigError
from tests.credit.groups import group

REWARDS = [[0.0, 0.5, 1.0, 1.0]]
VALID = [[True, True, True, False]]


@pytest.mark.parametrize(
    ("gate", "threshold", "expected"),
    [
        (Gate.none, None, [True, True, True, False]),
        (Gate.correct, None, [False, True, True, False]),
        (Gate.threshold, 0.5, [False, True, True, False]),
        (Gate.threshold, 0.51, [False, False, True, False]),
        (Gate.threshold, -1.0, [True, True, True, False]),
    ],
)
def test_each_gate_passes_its_completions(gate, threshold, expected):
    _, rewards = group(REWARDS, VALID)
    assert Gating(gate=gate, threshold=threshold).mask(rewards).tolist() == [expected]


def test_only_gate_correct_needs_a_reward_that_says_what_is_correct():
    _, rewards = group(REWARDS, VALID)
    rewards = replace(rewards, correct_PK=None)
    assert Gating(gate=Gate.none, threshold=None).mask(rewards).tolist() == VALID
    assert Gating(gate=Gate.threshold, threshold=1.0).mask(rewards).tolist() == [[False, False, True, False]]
    with pytest.raises(ConfigError) as caught:
        Gating(gate=Gate.correct, threshold=None).mask(rewards)
    assert str(caught.value) == (
        "credit.gate=correct: this reward does not say which completions are correct; "
        "type credit.gate=threshold credit.threshold=0.5, or credit.gate=none"
    )


@pytest.mark.parametrize(
    ("gate", "threshold", "message"),
    [
        (Gate.threshold, None, r"credit\.threshold=null: .* type credit\.threshold=0\.5"),
        (Gate.none, 0.5, r"credit\.threshold=0\.5: .* type credit\.gate=threshold, or credit\.threshold=null"),
    ],
)
def test_a_threshold_and_its_gate_come_together(gate, threshold, message):
    with pytest.raises(ConfigError, match=message):
        Gating(gate=gate, threshold=threshold)
