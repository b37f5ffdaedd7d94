"""A run folder holds its whole configuration and is shared: tokens and passwords must not get into one."""

import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

from dqo.errors import ConfigError

NAMES = re.compile(r"(TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIALS?|KEY)$", re.IGNORECASE)
SHORTEST = 8  # characters of a value that counts as a secret; TOKEN=1 is none
SHAPES = {  # what is a secret wherever it stands
    "a Hugging Face token": re.compile(r"\bhf_[A-Za-z0-9]{30,}"),
    "an API key": re.compile(r"\bsk-[A-Za-z0-9-]*[A-Za-z0-9]{20,}"),
    "a GitHub token": re.compile(r"\b(gh[pousr]_[A-Za-z0-9]{30,}|github_pat_\w{30,})"),
    "an AWS key": re.compile(r"\bAKIA[0-9A-Z]{16}\b"),
    "a password": re.compile(r"://[^/\s:@]+:[^/\s:@]+@"),
}


def refuse_secrets(values: Iterable[tuple[str, Any]]) -> None:
    """Raises ConfigError for a value that contains a secret: the value of an environment variable with a telling name,
    or text in the shape of a token. The message does not print the secret. ``values``: (key, value)."""
    ours = {value: name for name, value in os.environ.items() if NAMES.search(name) and len(value) >= SHORTEST}

    def secret(text: str) -> str | None:
        known = next((f"the value of ${name}" for value, name in ours.items() if value in text), None)
        return known or next((name for name, shape in SHAPES.items() if shape.search(text)), None)

    for key, value in values:
        if found := next(filter(None, map(secret, (key, *_texts(value)))), None):
            place = "the command line" if secret(key) else key
            raise ConfigError(
                f"{place} holds {found}, and config.yaml would keep it; take it out: the hub and wandb read theirs "
                "from the environment, and a class or function of yours can, too: os.environ['NAME']"
            )


def _texts(value: Any) -> Iterable[str]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from (str(name), *_texts(inner))
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)
    else:
        yield str(value)
