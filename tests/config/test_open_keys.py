import pytest

from dqo.config.open_keys import with_plus
from dqo.config.typed import check
from tests.config.builders import composed


@pytest.mark.parametrize(
    "typed",
    [
        "task.chat_template_kwargs.enable_thinking=false", "task.columns.gold=answer", "task.settings.min_animals=2",
        "task.settings={min_animals: 2}", "reward.reward_weights={check: 1, style: 0.5}",
    ],
)  # fmt: skip
def test_a_name_below_a_key_of_the_users_own_names_needs_no_plus(typed):
    assert with_plus(typed) == f"++{typed}"
    assert with_plus(f"+{typed}") == f"+{typed}"


def test_other_overrides_are_left_as_they_are():
    for typed in ("task.columns=null", "task.path=my.jsonl", "task=jsonl", "~task.columns"):
        assert with_plus(typed) == typed


def test_variables_of_the_template_are_read():
    config = check(composed("task=jsonl", "model=tiny", with_plus("task.chat_template_kwargs.enable_thinking=false")))
    assert config.task["chat_template_kwargs"] == {"enable_thinking": False}


def test_a_mapping_of_names_is_read():
    mapping = with_plus("task.settings={min_animals: 2, max_animals: 4}")
    config = check(composed("task=reasoning_gym", "model=tiny", mapping))
    assert config.task["settings"] == {"min_animals": 2, "max_animals": 4}
