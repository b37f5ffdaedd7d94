from collections.abc import Mapping
from typing import Any

from dqo.task.reading.settings import MessageRendering

NOTHING = {"chat_template_kwargs": None, "date": None, "merge_messages": False}  # of the keys of MessageRendering


def with_rendering(keys: Mapping[str, Any], *, max_completion_length: int) -> dict[str, Any]:
    """A constructor's keywords from a task's keys, with a chat template and seed 0 unless the keys say otherwise."""
    ours = {name: value for name, value in keys.items() if name in MessageRendering.__dataclass_fields__}
    plain = {"seed": 0, "max_completion_length": max_completion_length, "chat_template": True, **NOTHING}
    others = {name: value for name, value in keys.items() if name not in ours}
    return {"rendering": MessageRendering(**(plain | ours)), **others}
