"""JSON of groups to score and of their rewards, for ``dqo-serve`` and ``reward=remote`` (``POST /v1/score``).

A request is ``{"groups": [GROUP, …]}``, its reply ``{"groups": [GROUP_REWARDS, …]}`` in the same order. Numbers are
exact: a float32 is written with all of its digits, and NaN (a part that does not apply) as null. Log-probabilities do
not travel, since no reward reads them: the record that a server makes has NaN there.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, TypeVar

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from dqo.records import Prompt, Rewards, Rollouts

Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Truth = Annotated[bool, Field(strict=True)]
Whole = Annotated[int, Field(strict=True, ge=0, lt=2**53)]
T = TypeVar("T", bound=BaseModel)


class Message(BaseModel):
    """An object of this protocol, without unknown keys."""

    model_config = ConfigDict(extra="forbid")


class Completion(Message):
    """One completion, as a reward reads it."""

    text: Annotated[str, Field(description="without special tokens", examples=["Ghent"])]
    finished: Annotated[Truth, Field(description="false: cut at the greatest length")] = True
    tokens: Annotated[
        list[Whole] | None, Field(description="ids, the end token included; null: the server tokenizes the text")
    ] = None
    sampled: Annotated[
        list[Truth] | None, Field(description="false at tokens that the policy did not sample; null: it sampled all")
    ] = None
    version: Annotated[Whole, Field(description="updates in the weights that sampled it")] = 0


class Group(Message):
    """The completions of one prompt."""

    prompt: Annotated[str | list[dict[str, Any]], Field(description="text or chat messages")]
    columns: Annotated[dict[str, Any], Field(description="other fields of the prompt's data row")] = {}
    tokens: Annotated[list[Whole], Field(description="ids of the prompt")] = []
    position: Annotated[Whole, Field(description="index in the task's stream, for messages")] = 0
    completions: Annotated[list[Completion], Field(min_length=1)]


class ScoreRequest(Message):
    """Groups to score. Rewards may compare the completions of a group, so it is always scored whole."""

    groups: list[Group]


class GroupRewards(Message):
    """The rewards of one group, a value for each completion."""

    total: Annotated[list[Number], Field(description="the weighted sum of the parts; 0 where invalid")]
    parts: Annotated[dict[str, list[Number | None]], Field(description="null where a part does not apply")]
    correct: Annotated[list[Truth] | None, Field(description="null: correctness is not defined")]
    valid: Annotated[list[Truth], Field(description="false: it could not be judged, or was cut and is masked")]


class ScoreReply(Message):
    """The rewards of each group, in the order of the request."""

    groups: list[GroupRewards]


def encode_rollouts(rollouts: Rollouts) -> bytes:
    """The body of a request to score all groups of ``rollouts``.

    Raises ValueError, which names the column, where a prompt's columns hold what JSON has not.
    """
    groups = [_group(rollouts, p) for p in range(len(rollouts.prompts))]
    try:
        return json.dumps({"groups": groups}, allow_nan=False).encode()
    except (TypeError, ValueError):
        _refuse_columns(groups)
        raise


def decode_rollouts(group: Group, tokens: Callable[[Completion], Sequence[int]]) -> Rollouts:
    """The record of one group. ``tokens`` gives the ids of a completion that came without."""
    content = group.prompt if isinstance(group.prompt, str) else tuple(group.prompt)
    prompt = Prompt(
        position=group.position, tokens=tuple(group.tokens), content=content, columns=group.columns
    )  # fmt: skip
    start, rows = len(prompt.tokens), []
    for completion in group.completions:
        ids = list(tokens(completion)) if completion.tokens is None else completion.tokens
        sampled = [True] * len(ids) if completion.sampled is None else completion.sampled
        if len(sampled) != len(ids):
            raise ValueError(f"sampled has {len(sampled)} entries for {len(ids)} tokens")
        rows.append((ids, sampled))
    width = start + max(len(ids) for ids, _ in rows)
    tokens_BT = torch.zeros(len(rows), width, dtype=torch.long)
    sampled_BT = torch.zeros(len(rows), width, dtype=torch.bool)
    for row, (ids, sampled) in enumerate(rows):
        tokens_BT[row, : start + len(ids)] = torch.tensor([*prompt.tokens, *ids], dtype=torch.long)
        sampled_BT[row, start : start + len(ids)] = torch.tensor(sampled, dtype=torch.bool)
    return Rollouts(
        prompts=(prompt,), k=len(rows), tokens_BT=tokens_BT, sampled_BT=sampled_BT,
        logprobs_BT=torch.where(sampled_BT, math.nan, 0.0),
        lengths_B=torch.tensor([start + len(ids) for ids, _ in rows]),
        finished_B=torch.tensor([completion.finished for completion in group.completions]),
        versions_B=torch.tensor([completion.version for completion in group.completions]),
        texts=tuple(completion.text for completion in group.completions),
    )  # fmt: skip


def encode_rewards(rewards: Rewards) -> list[GroupRewards]:
    """The rewards of each group. Raises ValueError for a valid completion whose total is not finite, and for a part
    that is infinite: JSON has no such number."""
    _refuse_not_finite("total", rewards.total_PK, rewards.valid_PK)
    for name, part_PK in rewards.parts.items():
        _refuse_not_finite(f"part {name}", part_PK, ~part_PK.isnan())
    total_PK = torch.where(rewards.valid_PK, rewards.total_PK, 0.0)
    return [
        GroupRewards.model_construct(
            total=total_PK[p].tolist(),
            parts={name: _nulls(part_PK[p].tolist()) for name, part_PK in rewards.parts.items()},
            correct=None if rewards.correct_PK is None else rewards.correct_PK[p].tolist(),
            valid=rewards.valid_PK[p].tolist(),
        )
        for p in range(len(total_PK))
    ]


def decode_rewards(body: bytes, rollouts: Rollouts) -> Rewards:
    """The rewards of ``rollouts`` from the body of a reply. Raises ValueError, which says what is wrong in one line,
    for a body that is no such reply or has another number of groups, completions or parts."""
    groups = parse(ScoreReply, body).groups
    if len(groups) != len(rollouts.prompts):
        raise ValueError(f"{len(groups)} groups for {len(rollouts.prompts)}")
    names = [*groups[0].parts] if groups else []
    for number, group in enumerate(groups):
        if {*group.parts} != {*names}:
            raise ValueError(f"groups.{number}.parts are {_listed(group.parts)}, and {_listed(names)} in groups.0")
        if (group.correct is None) != (groups[0].correct is None):
            raise ValueError(f"groups.{number}.correct and groups.0.correct: one is null, the other is not")
        for name, values in {
            "total": group.total,
            "correct": group.correct,
            "valid": group.valid,
            **group.parts,
        }.items():
            if values is not None and len(values) != rollouts.k:
                raise ValueError(f"groups.{number}.{name} has {len(values)} values for {rollouts.k} completions")
    has_correct = bool(groups) and groups[0].correct is not None
    return Rewards(
        total_PK=_floats("total", [group.total for group in groups], rollouts.k),
        parts={name: _floats(name, [group.parts[name] for group in groups], rollouts.k) for name in names},
        correct_PK=_bools([group.correct for group in groups], rollouts.k) if has_correct else None,
        valid_PK=_bools([group.valid for group in groups], rollouts.k),
    )


def parse(kind: type[T], body: bytes) -> T:
    """The object of a body. Raises ValueError that says in one line what is wrong and where."""
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise ValueError(f"{where}: {first['msg']}" if where else first["msg"]) from error


def _group(rollouts: Rollouts, p: int) -> dict[str, Any]:
    prompt, rows = rollouts.prompts[p], range(p * rollouts.k, (p + 1) * rollouts.k)
    content = prompt.content if isinstance(prompt.content, str) else [dict(message) for message in prompt.content]
    return {
        "prompt": content, "columns": dict(prompt.columns), "tokens": list(prompt.tokens), "position": prompt.position,
        "completions": [_completion(rollouts, row, start=len(prompt.tokens)) for row in rows],
    }  # fmt: skip


def _completion(rollouts: Rollouts, row: int, *, start: int) -> dict[str, Any]:
    own = slice(start, int(rollouts.lengths_B[row]))
    sampled_T = rollouts.sampled_BT[row, own]
    return {
        "text": rollouts.texts[row], "finished": bool(rollouts.finished_B[row]),
        "tokens": rollouts.tokens_BT[row, own].tolist(),
        "sampled": None if bool(sampled_T.all()) else sampled_T.tolist(),
        "version": int(rollouts.versions_B[row]),
    }  # fmt: skip


def _refuse_columns(groups: Sequence[Mapping[str, Any]]) -> None:
    """Raises ValueError for the first column that JSON cannot hold."""
    for group in groups:
        for name, value in group["columns"].items():
            try:
                json.dumps(value, allow_nan=False)
            except (TypeError, ValueError) as error:
                raise ValueError(f"the column {name} of prompt {group['position']} has no JSON: {error}") from error


def _refuse_not_finite(name: str, values_PK: Tensor, where_PK: Tensor) -> None:
    if (where_PK & ~values_PK.isfinite()).any():
        raise ValueError(f"the {name} of a completion is {float(values_PK[where_PK & ~values_PK.isfinite()][0])}")


def _nulls(values: Sequence[float]) -> list[float | None]:
    return [None if math.isnan(value) else value for value in values]


def _floats(name: str, values: Sequence[Sequence[float | None]], k: int) -> Tensor:
    """(P, k) float32, NaN for null. Raises ValueError for a number beyond float32."""
    rows = [[math.nan if value is None else value for value in row] for row in values]
    values_PK = torch.tensor(rows, dtype=torch.float32).view(len(rows), k)
    if values_PK.isinf().any():
        raise ValueError(f"{name} has a number beyond float32")
    return values_PK


def _bools(values: Sequence[Any], k: int) -> Tensor:
    return torch.tensor(values, dtype=torch.bool).view(len(values), k)


def _listed(names: Any) -> str:
    return ", ".join(names) or "none"
