"""A row of a task's data, before rendering."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

REFERENCES = "references"  # the column with the texts that reward=rouge compares with

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


def joined(row: Row, other: Row) -> Row:
    """The row, with the demonstrations and references of another one with the same prompt as well."""
    columns = row.columns
    if REFERENCES in columns:
        references = dict.fromkeys([*columns[REFERENCES], *other.columns[REFERENCES]])
        columns = {**columns, REFERENCES: list(references)}
    demonstrations = tuple(dict.fromkeys([*row.demonstrations, *other.demonstrations]))
    return replace(row, columns=columns, demonstrations=demonstrations)
