"""Cutting records into groups and joining them again, as their fields' metadata says (``records.Along``)."""

from collections.abc import Mapping, Sequence
from dataclasses import Field, fields, replace
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from dqo import distributed
from dqo.records import Along, Experience, Rollouts, Step

Record = TypeVar("Record")


def split(experience: Experience) -> list[Experience]:
    """One record per group, ordered by prompt position. Padding is cut: each group is as wide as its longest row.

    Raises TypeError for a field without metadata, ValueError for one whose length is not that of its axis.
    """
    prompts = experience.rollouts.prompts
    groups = [group_of(experience, experience.rollouts, p) for p in range(len(prompts))]
    return sorted(groups, key=lambda group: group.rollouts.prompts[0].position)


def first_group(rollouts: Rollouts) -> Rollouts:
    """The completions of the first prompt alone."""
    return group_of(rollouts, rollouts, 0)


def join(parts: Sequence[Record]) -> Record:
    """One record of all parts, in their order; rows are padded to the longest. The opposite of ``split``.

    Raises ValueError for no parts or parts of different k: groups of different sizes have no common record. Raises
    TypeError for a field without metadata.
    """
    if not parts:
        raise ValueError("nothing to join")
    first: Any = parts[0]
    return replace(first, **{f.name: _joined(f, [getattr(part, f.name) for part in parts]) for f in fields(first)})


def gather_step(step: Step) -> Step:
    """On rank 0 the groups of all ranks, and each stage's time on the slowest rank; other ranks keep their own. A
    collective."""
    steps = distributed.gather_on_rank_0(step)
    if len(steps) == 1:
        return step
    return replace(
        step,
        experience=join([each.experience for each in steps]),
        targets=join([each.targets for each in steps]),
        seconds={stage: max(each.seconds.get(stage, 0.0) for each in steps) for stage in step.seconds},
        elapsed=max(each.elapsed for each in steps),
    )


def _axis(f: Field) -> Along:
    if "along" not in f.metadata:
        raise TypeError(
            f"field {f.name} does not say how it is cut and joined; declare it with "
            "field(metadata=records.PER_ROW), or another axis of records.Along"
        )
    return f.metadata["along"]


def group_of(record: Any, rollouts: Rollouts, p: int) -> Any:
    """Group p of a record that belongs to ``rollouts``, as wide as its longest row."""
    rows = slice(p * rollouts.k, (p + 1) * rollouts.k)
    width = int(rollouts.lengths_B[rows].max())
    lengths = {Along.PROMPTS: len(rollouts.prompts), Along.ROWS: len(rollouts.texts), Along.TOKENS: len(rollouts.texts)}

    def cut(f: Field, value: Any) -> Any:
        axis = _axis(f)
        if value is None or axis is Along.SHARED:
            return value
        if axis is Along.RECORD:
            return group_of(value, rollouts, p)
        if isinstance(value, Mapping):
            return {key: cut(f, part) for key, part in value.items()}
        if len(value) != lengths[axis]:
            raise ValueError(f"field {f.name} has {len(value)} entries for {lengths[axis]} {axis.value}")
        if axis is Along.PROMPTS:
            return value[p : p + 1]
        return value[rows, :width] if axis is Along.TOKENS else value[rows]

    return replace(record, **{f.name: cut(f, getattr(record, f.name)) for f in fields(record)})


def _joined(f: Field, values: list[Any]) -> Any:
    """One field of several records."""
    axis, first = _axis(f), values[0]
    if any((value is None) != (first is None) for value in values):
        raise ValueError(f"cannot join parts with and without {f.name}")
    if first is None:
        return None
    if axis is Along.SHARED:
        if any(value != first for value in values):
            raise ValueError(f"cannot join parts of different {f.name}: {sorted(set(map(str, values)))}")
        return first
    if axis is Along.RECORD:
        return join(values)
    if isinstance(first, Mapping):
        return {key: _joined(f, [value[key] for value in values]) for key in first}
    if isinstance(first, Tensor):
        return torch.cat(_padded(values) if axis is Along.TOKENS else values)
    return type(first)(item for value in values for item in value)


def _padded(tensors_BT: Sequence[Tensor]) -> list[Tensor]:
    width = max(tensor.shape[1] for tensor in tensors_BT)
    return [pad(tensor, (0, width - tensor.shape[1])) for tensor in tensors_BT]
