import pytest

from dqo.reward.python import Python
from tests.helpers.user_module import folder
from tests.reward.tasks import PROMPTS, FixedPrompts

__all__ = ["build", "folder"]


@pytest.fixture
def build(folder):
    """Builds Python rewards and closes them after the test."""
    built = []

    def build(function, prompts=PROMPTS, **changes) -> Python:
        settings = {
            "reward_weights": None, "correct_above": None, "timeout": 5.0, "start_timeout": 5.0, "on_error": "raise",
            "mask_truncated_completions": False, "memory_gb": 16.0,
        } | changes  # fmt: skip
        if isinstance(function, str) and not set(".:[") & set(function):
            function = f"my_module.{function}"
        built.append(Python(FixedPrompts(prompts=tuple(prompts)), function=function, **settings))
        return built[-1]

    yield build
    for reward in built:
        reward.close()
