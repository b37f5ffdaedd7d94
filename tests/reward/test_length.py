import pytest

from dqo.errors import ConfigError
from dqo.reward.length import Length, Unit
from dqo.stages import Reward
from tests.factories import make_rollouts
from tests.reward.tasks import PROMPTS

ROLLOUTS = make_rollouts(["", "w1", "w1 w2 w3", "w1 w2 w3 w4 w5"], 2, prompts=PROMPTS, finished=[False] + [True] * 3)


def length(**changes) -> Length:
    settings = {
        "unit": Unit.WORDS, "min": None, "max": None, "correct_above": None, "mask_truncated_completions": False
    } | changes  # fmt: skip
    return Length(**settings)


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"min": 2, "max": 4}, [0, 1 / 2, 1, 4 / 5]),
        ({"min": 3, "max": 3}, [0, 1 / 3, 1, 3 / 5]),
        ({"max": 2}, [1, 1, 2 / 3, 2 / 5]),
        ({"min": 2}, [0, 1 / 2, 1, 1]),
        ({"max": 2, "unit": Unit.TOKENS}, [1, 1, 2 / 4, 2 / 6]),  # with the end token
        ({"max": 4, "unit": Unit.CHARACTERS}, [1, 1, 4 / 8, 4 / 14]),
    ],
)
def test_rewards(keys, expected):
    reward = length(**keys, correct_above=0.99)
    assert isinstance(reward, Reward)
    rewards = reward.score(ROLLOUTS)
    assert rewards.parts["length"].flatten().tolist() == pytest.approx(expected)
    assert rewards.correct_PK is not None
    assert rewards.correct_PK.flatten().tolist() == [value == 1 for value in expected]


def test_truncated_completions_can_be_masked():
    assert length(max=2, mask_truncated_completions=True).score(ROLLOUTS).valid_PK.tolist()[0] == [False, True]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({}, "reward.min=null and reward.max=null: any length is right; type reward.max=100"),
        ({"min": 5, "max": 4}, "reward.min=5: is above reward.max=4; type reward.min=4"),
    ],
)
def test_bounds_that_are_none(keys, message):
    with pytest.raises(ConfigError, match=message):
        length(**keys)
