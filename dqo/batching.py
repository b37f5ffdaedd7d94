"""Cutting and joining records along their prompts, and packing rows into micro-batches.

Records are cut by the axes in their fields' names (see ``records``): ``_PK``… by prompt, ``_B``… by row.
"""

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from dqo import distributed
from dqo.records import Experience, Rewards, Rollouts, Step, Targets

Record = TypeVar("Record", Rollouts, Rewards, Experience, Targets)


def split(experience: Experience) -> list[Experience]:
    """One record a group, in order of position. Padding goes: each group is as wide as its longest row."""
    prompts, k = experience.rollouts.prompts, experience.rollouts.k
    groups = [_cut(experience, p, k) for p in range(len(prompts))]
    return sorted(groups, key=lambda group: group.rollouts.prompts[0].position)


def join(parts: Sequence[Record]) -> Record:
    """The opposite of ``split``, for rollouts, rewards and targets too; rows are padded to the longest.

    Raises ValueError for no parts or parts of different k: groups of different sizes have no common record.
    """
    if not parts:
        raise ValueError("nothing to join")
    return replace(
        parts[0], **{f.name: _joined(f.name, [getattr(part, f.name) for part in parts]) for f in fields(parts[0])}
    )


def of_all_ranks(step: Step) -> Step:
    """What the first rank's observers see: the groups of all, and each stage's time on the slowest. Others keep their
    own."""
    steps = distributed.gather_on_rank_0(step)
    if len(steps) == 1:
        return step
    return replace(
        step,
        experience=join([each.experience for each in steps]),
        targets=join([each.targets for each in steps]),
        seconds={stage: max(each.seconds.get(stage, 0.0) for each in steps) for stage in step.seconds},
    )


def micro_batches(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Indices of the items, longest first, in batches of at most ``budget`` tokens; an item over the budget is alone.

    Example: ``micro_batches([5, 3, 4], budget=8)`` gives ``[[0, 1], [2]]``. First fit on descending lengths: never more
    than 11/9 of the fewest batches possible, plus one.
    """
    batches: list[tuple[int, list[int]]] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        for b, (used, batch) in enumerate(batches):
            if used + lengths[index] <= budget:
                batches[b] = (used + lengths[index], [*batch, index])
                break
        else:
            batches.append((lengths[index], [index]))
    return [batch for _, batch in batches]


def _cut(record: Any, p: int, k: int) -> Any:
    """Group p of a record, and of the records in its fields."""
    rows = slice(p * k, (p + 1) * k)
    width = int(record.lengths_B[rows].max()) if isinstance(record, Rollouts) else None

    def cut(name: str, value: Any) -> Any:
        axes = name.rpartition("_")[2]
        if isinstance(value, Rollouts | Rewards):
            return _cut(value, p, k)
        if isinstance(value, Mapping):
            return {key: part[p : p + 1] for key, part in value.items()}
        if name == "prompts":
            return value[p : p + 1]
        if name == "texts":
            return value[rows]
        if isinstance(value, Tensor):
            return value[p : p + 1] if axes.startswith("P") else value[rows, :width] if axes == "BT" else value[rows]
        return value

    return replace(record, **{f.name: cut(f.name, getattr(record, f.name)) for f in fields(record)})


def _joined(name: str, values: list[Any]) -> Any:
    """One field of several records, joined by its type and its name's axes."""
    first = values[0]
    if isinstance(first, Rollouts | Rewards):
        return join(values)
    if isinstance(first, Mapping):
        return {key: torch.cat([value[key] for value in values]) for key in first}
    if isinstance(first, tuple):
        return tuple(item for value in values for item in value)
    if isinstance(first, Tensor):
        return torch.cat(_padded(values) if name.endswith("_BT") else values)
    if any(value != first for value in values):
        raise ValueError(f"cannot join parts of different {name}: {sorted(set(map(str, values)))}")
    return first


def _padded(tensors_BT: Sequence[Tensor]) -> list[Tensor]:
    width = max(tensor.shape[1] for tensor in tensors_BT)
    return [pad(tensor, (0, width - tensor.shape[1])) for tensor in tensors_BT]
