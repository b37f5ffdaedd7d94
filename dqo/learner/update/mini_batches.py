"""A step's groups in parts, an optimizer step each (``num_mini_batches``)."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy
import torch
from torch import Tensor

from dqo.learner.update.objective import Objective, counts, rows_to_train
from dqo.records import Experience, Targets
from dqo.stages import Loss


@dataclass(frozen=True, kw_only=True)
class MiniBatch:
    """What one optimizer step learns from on this rank. Example: 4 groups of 8, 2 mini-batches: 2 groups, 16 rows."""

    objective: Objective  # its token weights and counts are over this mini-batch on all ranks
    rows: list[int]  # that the policy's gradient depends on
    skipped: int  # number of valid rows that it does not depend on
    valid: list[int]  # all valid rows with a sampled token, of which a critic learns


def mini_batches(
    whole: Objective,
    experience: Experience,
    targets: Targets,
    loss: Loss | None,
    *,
    number: int,
    seed: tuple[int, ...],
) -> Iterator[MiniBatch]:
    """The mini-batches of one pass over a step: ``number`` parts of whole groups on every rank, drawn from ``seed``;
    one is the step itself. A mini-batch's loss is that of a step with these groups alone. ``loss``: as
    ``rows_to_train`` takes it. A collective."""
    valid_PK = experience.rewards.valid_PK
    for groups in _parts(len(valid_PK), number, seed):
        part, objective = experience, whole
        if number > 1:
            in_part_P = torch.zeros(len(valid_PK), dtype=torch.bool)
            in_part_P[groups] = True
            part = replace(experience, rewards=replace(experience.rewards, valid_PK=valid_PK & in_part_P[:, None]))
            rows, tokens = counts(part)
            objective = whole.of_part(part, rows=rows, tokens=tokens)
        trained, skipped = rows_to_train(loss, part, targets)
        valid, _ = rows_to_train(None, part, targets)
        yield MiniBatch(objective=objective, rows=trained, skipped=skipped, valid=valid)


def _parts(groups: int, number: int, seed: tuple[int, ...]) -> list[Tensor]:
    """Indices of groups, in ``number`` parts whose sizes differ by one at most."""
    if number == 1:
        return [torch.arange(groups)]
    order = numpy.random.default_rng(numpy.random.SeedSequence(seed)).permutation(groups)
    return list(torch.from_numpy(order).tensor_split(number))
