"""What an encoder is called where measurements are shown and compared."""

from collections.abc import Mapping
from typing import Any

# How fast and where it computes, which changes no embedding beyond rounding.
ASIDE = (
    "_target_", "model", "path", "packaged", "batch_size", "batch", "concurrency", "timeout", "retries", "patience",
    "base_url", "token_variable", "dtype",
)  # fmt: skip
PLAIN = (None, [], "", "windows")  # values that say nothing: nothing is done to the text or the vectors


def encoder_name(settings: Mapping[str, Any]) -> str:
    """The encoder of a configuration's group ``embed``: its model, or its option's name, and every setting that changes
    an embedding, so that two encoders have one name only if their numbers can be compared. Example:
    ``all-MiniLM-L6-v2, layers=0, normalize_text=[case,space]``."""
    option = str(settings["_target_"]).rpartition(".")[2].lower()
    model = settings.get("model") or (f"{option} of {path}" if (path := settings.get("path")) else option)
    values = {key: value for key, value in settings.items() if key not in ASIDE and value not in PLAIN}
    return ", ".join([str(model), *(f"{key}={_typed(value)}" for key, value in sorted(values.items()))])


def is_fake(name: str | None) -> bool:
    """Whether an encoder of this name is that of embed=fake, which knows no meaning."""
    return name is not None and name.partition(",")[0] == "fake"


def _typed(value: object) -> str:
    return f"[{','.join(map(str, value))}]" if isinstance(value, list | tuple) else str(value)
