"""Keys whose names below are the user's own: no YAML file lists them, so Hydra wants a plus sign before them."""

import re

OPEN = re.compile(r"(task\.(columns|chat_template_kwargs|settings)|reward\.(reward_weights|labels))(\.|=\{)")


def with_plus(override: str) -> str:
    """The override as Hydra takes it: "task.chat_template_kwargs.enable_thinking=false" and "task.settings={legs: 3}"
    get "++" in front."""
    return f"++{override}" if OPEN.match(override) else override
