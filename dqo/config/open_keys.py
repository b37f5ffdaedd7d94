"""Keys whose names below are the user's own: no YAML file lists them, so Hydra wants a plus sign before them."""

OPEN = ("task.columns.", "task.chat_template_kwargs.", "task.settings.", "reward.reward_weights.", "reward.labels.")


def with_plus(override: str) -> str:
    """The override as Hydra takes it: "task.chat_template_kwargs.enable_thinking=false" gets "++" in front."""
    return f"++{override}" if override.startswith(OPEN) else override
