from collections.abc import Mapping
from typing import Any

from dqo.rollout.sampling.settings import Sampling


def sampling(**changes: Any) -> Sampling:
    """From the model's own distribution, up to 12 tokens."""
    plain = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0, "stop_tokens": []}
    return Sampling(**(plain | {"max_completion_length": 12} | changes))


def with_sampling(keys: Mapping[str, Any]) -> dict[str, Any]:
    """A constructor's keywords from an engine's keys."""
    ours = {name: value for name, value in keys.items() if name in Sampling.__dataclass_fields__}
    return {"sampling": sampling(**ours), **{name: value for name, value in keys.items() if name not in ours}}
