"""Rewards with one part, which is a number of each completion by itself."""

from collections.abc import Callable

import torch

from dqo.records import Rewards, Rollouts
from dqo.reward.scoring.totals import judged_mask, total


def one_part(
    rollouts: Rollouts,
    name: str,
    score: Callable[[int], float],
    *,
    correct_above: float | None,
    mask_truncated_completions: bool,
) -> Rewards:
    """Rewards whose part ``name`` is ``score(row)``, (P, k); NaN makes a completion invalid. With
    ``mask_truncated_completions`` truncated ones are not scored and invalid."""
    valid_PK = judged_mask(rollouts, mask_truncated_completions=mask_truncated_completions)
    values = [score(row) if counts else torch.nan for row, counts in enumerate(valid_PK.flatten().tolist())]
    parts = {name: torch.tensor(values, dtype=torch.float32).view_as(valid_PK)}
    total_PK, valid_PK = total(rollouts, parts, {name: 1.0}, valid_PK)
    correct_PK = None if correct_above is None else (total_PK > correct_above) & valid_PK
    return Rewards(total_PK=total_PK, parts=parts, correct_PK=correct_PK, valid_PK=valid_PK)
