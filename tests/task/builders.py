from collections.abc import Mapping
from typing import Any

from dqo.task.reading.settings import Rendering


def with_rendering(keys: Mapping[str, Any], *, max_completion_length: int) -> dict[str, Any]:
    """A constructor's keywords from a task's keys, with a chat template and seed 0 unless the keys say otherwise."""
    ours = {name: value for name, value in keys.items() if name in Rendering.__dataclass_fields__}
    plain = {"seed": 0, "max_completion_length": max_completion_length, "chat_template": True}
    others = {name: value for name, value in keys.items() if name not in ours}
    return {"rendering": Rendering(**(plain | ours)), **others}
