"""A row of a task's data, before rendering."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Content = str | tuple[Mapping[str, Any], ...]  # text or chat messages


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of a task's data, before rendering. Example: content "Recommend a city …", source "phrasing 1"."""

    content: Content
    source: str  # where the row comes from, for error messages: "my.jsonl, line 3"
    columns: Mapping[str, Any] = field(default_factory=dict)  # become Prompt.columns, which rewards read
    demonstrations: tuple[str, ...] = ()  # example answers, for supervised fine-tuning
    tools: tuple[Mapping[str, Any], ...] = ()  # schemas of the tools that the prompt offers
    document: tuple[int, int] | None = None  # start and end of the part of a text that may be cut (``documents``)
