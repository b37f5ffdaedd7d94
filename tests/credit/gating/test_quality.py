import pytest

from dqo.credit.gating.quality import refuse_negative
from dqo.errors import StageError
from tests.credit.groups import group


def test_a_negative_reward_that_takes_part_is_refused_with_its_prompts():
    rollouts, rewards = group([[1.0, 0.0], [-0.5, 1.0], [1.0, -2.0]], [[True, True], [True, True], [True, True]])
    with pytest.raises(StageError) as caught:
        refuse_negative(rollouts, rewards, rewards.valid_PK, option="dra", remedy="credit=dpp")
    assert str(caught.value) == (
        "[credit, prompts 11, 12] credit=dra scales rewards, which must not be negative, and there is one of -2; "
        "type credit=dpp"
    )


def test_others_may_have_any_reward():
    rollouts, rewards = group([[1.0, -1.0]], [[True, False]])
    refuse_negative(rollouts, rewards, rewards.valid_PK, option="dra", remedy="credit=dpp")
