from dataclasses import replace

import pytest

from dqo.credit.gating.gate import Gate, passing
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
def test_who_passes(gate, threshold, expected):
    _, rewards = group(REWARDS, VALID)
    assert passing(rewards, gate, threshold).tolist() == [expected]


def test_a_reward_without_a_notion_of_correct_passes_the_other_gates():
    _, rewards = group(REWARDS, VALID)
    rewards = replace(rewards, correct_PK=None)
    assert passing(rewards, Gate.none, None).tolist() == VALID
    assert passing(rewards, Gate.threshold, 1.0).tolist() == [[False, False, True, False]]
    with pytest.raises(ConfigError) as caught:
        passing(rewards, Gate.correct, None)
    assert str(caught.value) == (
        "credit.gate=correct: this reward does not say which completions are correct; "
        "type credit.gate=threshold credit.threshold=0.5, or credit.gate=none"
    )
