"""The keys of every task that has rows."""

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from dqo.ranges import CompletionLength, Seed


@dataclass(frozen=True, kw_only=True)
class Rendering:
    """See conf/task/jsonl.yaml."""

    seed: Seed  # of the order of the training prompts
    max_completion_length: CompletionLength  # tokens
    chat_template: bool  # False: a text is tokenised as it is
    chat_template_kwargs: Annotated[dict[str, Any] | None, Field(examples=["{enable_thinking: false}"])]
    date: str | None  # that a template prints, ISO 8601; None: today


@dataclass(frozen=True, kw_only=True)
class MessageRendering(Rendering):
    """Of a task whose rows can be conversations."""

    merge_messages: bool
