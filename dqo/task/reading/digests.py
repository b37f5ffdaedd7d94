"""Hashes of rows: what they contain, not where they come from nor how a file was formatted."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from dqo.task.reading.row import Row

SIZE = 16  # bytes


def fingerprint(row: Row) -> bytes:
    """The hash of a prompt. Comparing 100,000 prompts by their hashes needs no second copy of their text."""
    return digest([row.content, row.tools])


def rows_fingerprint(rows: Sequence[Row]) -> str:
    """Their number and a hash of all. Example: "35 rows, 4f0c…"."""
    whole = hashlib.blake2b(digest_size=SIZE)
    for row in rows:
        whole.update(digest([row.content, row.columns, row.demonstrations, row.tools]))
    return f"{len(rows)} rows, {whole.hexdigest()}"


def digest(value: Any) -> bytes:
    """The hash of a value by its JSON."""
    text = json.dumps(value, sort_keys=True, skipkeys=True, default=_as_json)
    return hashlib.blake2b(text.encode(), digest_size=SIZE).digest()


def _as_json(value: Any) -> Any:
    """A value that JSON has not: bytes as text, a mapping as an object; of others their class alone."""
    if isinstance(value, bytes):
        return value.hex()
    return dict(value) if isinstance(value, Mapping) else type(value).__qualname__
