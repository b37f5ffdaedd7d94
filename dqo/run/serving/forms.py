"""The requests and replies of other toolkits: OpenRLHF's reward model, OpenAI's embeddings."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, Field
from transformers import PreTrainedTokenizerBase

from dqo.errors import StageError
from dqo.wire import Completion, Group, GroupRewards


class RewardRequest(BaseModel):
    """OpenRLHF's request: prompt and response as one text with special tokens, in several rows."""

    query: list[str]
    prompts: list[str] | None = Field(default=None, description="the beginning of each query; null: none is known")
    labels: list[Any] | None = Field(default=None, description="become the column label_column of the prompts")


class RewardReply(BaseModel):
    """OpenRLHF's reply: a reward for each query; ``extra_logs`` has those parts that apply to all queries."""

    rewards: list[float]
    scores: list[float]
    extra_logs: dict[str, list[float]]


class EmbeddingRequest(BaseModel):
    """OpenAI's request."""

    input: str | list[str]
    model: str | None = None
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None


class EmbeddingItem(BaseModel):
    """One embedding, of length 1."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str = Field(description="numbers, or float32 in base64")


class EmbeddingReply(BaseModel):
    """OpenAI's reply, without ``usage``: tokens are not counted."""

    object: Literal["list"] = "list"
    model: str
    data: list[EmbeddingItem]


def groups_of(request: RewardRequest, tokenizer: PreTrainedTokenizerBase, label_column: str) -> list[Group]:
    """A group of one for each query. Raises ValueError for lists of different lengths, and for a query that does not
    begin with its prompt."""
    count = len(request.query)
    for name, values in {"prompts": request.prompts, "labels": request.labels}.items():
        if values is not None and len(values) != count:
            raise ValueError(f"{name} has {len(values)} entries for {count} queries")
    groups = []
    for row, query in enumerate(request.query):
        prompt = request.prompts[row] if request.prompts is not None else ""
        if not query.startswith(prompt):
            raise ValueError(f"query {row} does not begin with its prompt")
        columns = {label_column: request.labels[row]} if request.labels is not None else {}
        completion = completion_of(query[len(prompt) :], tokenizer)
        groups.append(Group(prompt=prompt, columns=columns, position=row, completions=[completion]))
    return groups


def completion_of(text: str, tokenizer: PreTrainedTokenizerBase) -> Completion:
    """The completion of a text with special tokens: it is finished if it has the end token, what follows is padding,
    and other special tokens are left out."""
    said, end, _ = text.partition(str(tokenizer.eos_token)) if tokenizer.eos_token else (text, "", "")
    special = "|".join(map(re.escape, sorted(tokenizer.all_special_tokens, key=len, reverse=True)))
    return Completion(text=re.sub(special, "", said) if special else said, finished=bool(end))


def reward_reply(groups: Sequence[GroupRewards]) -> RewardReply:
    """Raises StageError for a completion without a reward, which this form cannot say."""
    rewards = [group.total[0] for group in groups]
    if missing := [row for row, group in enumerate(groups) if not group.valid[0]]:
        raise StageError("reward", f"query {missing[0]} cannot be judged; use the form dqo, which can say so")
    names = [*groups[0].parts] if groups else []
    logs = {name: [group.parts[name][0] for group in groups] for name in names}
    return RewardReply(rewards=rewards, scores=rewards, extra_logs=_without_gaps(logs))


def _without_gaps(logs: Mapping[str, Sequence[float | None]]) -> dict[str, list[float]]:
    complete = {name: [value for value in values if value is not None] for name, values in logs.items()}
    return {name: values for name, values in complete.items() if len(values) == len(logs[name])}
