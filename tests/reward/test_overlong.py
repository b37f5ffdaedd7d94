import pytest

from dqo.errors import ConfigError
from dqo.reward.overlong import Overlong
from tests.factories import make_rollouts
from tests.reward.tasks import PROMPTS

TEXTS = ["w1 " * words for words in (1, 5, 6, 7, 9, 10)]


def test_as_dapo_defines_it():
    """Equation 13 of 2503.14476 with L_max = 10 and L_cache = 4; the last completion is truncated."""
    rollouts = make_rollouts(TEXTS, 3, prompts=PROMPTS, finished=[True] * 5 + [False])
    rewards = Overlong(max_completion_length=10, cache=4, mask_truncated_completions=False).score(rollouts)
    expected = []
    for length in (2, 6, 7, 8, 10, 10):
        expected.append(0.0 if length <= 10 - 4 else ((10 - 4) - length) / 4 if length <= 10 else -1.0)
    assert rewards.total_PK.flatten().tolist() == expected == [0, 0, -0.25, -0.5, -1, -1]
    assert rewards.correct_PK is None and list(rewards.parts) == ["overlong"]


def test_a_fifth_of_the_limit_by_default():
    rollouts = make_rollouts(TEXTS, 3, prompts=PROMPTS, finished=[False] * 6)
    settings = {"cache": None, "mask_truncated_completions": False}
    assert Overlong(max_completion_length=10, **settings).score(rollouts).total_PK.flatten().tolist()[-2:] == [-0.5, -1]
    assert Overlong(max_completion_length=1, **settings).score(rollouts).total_PK.min() <= -1


def test_a_cache_above_the_limit():
    with pytest.raises(ConfigError, match=r"cache=11: is above max_completion_length=10; type reward\.cache=null"):
        Overlong(max_completion_length=10, cache=11, mask_truncated_completions=False)
