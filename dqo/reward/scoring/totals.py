"""What every reward shares: which completions are judged, and the weighted sum of the parts."""

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dqo.errors import StageError
from dqo.records import Rollouts


def judged_mask(rollouts: Rollouts, *, mask_truncated_completions: bool) -> Bool[Tensor, "prompts k"]:
    """True for each completion that is judged: all, or with ``mask_truncated_completions`` only the finished ones."""
    finished_PK = rollouts.finished_B.view(len(rollouts.prompts), rollouts.k)
    return finished_PK if mask_truncated_completions else torch.ones_like(finished_PK)


def total(
    rollouts: Rollouts,
    parts: Mapping[str, Float[Tensor, "prompts k"]],
    weights: Mapping[str, float],
    valid_PK: Bool[Tensor, "prompts k"],
) -> tuple[Float[Tensor, "prompts k"], Bool[Tensor, "prompts k"]]:
    """The weighted sum of the parts (0.0 where invalid), and the mask of valid completions.

    As in TRL, a NaN part (TRL's None) is left out of the sum. A completion is invalid if all its parts are NaN, or if
    ``valid_PK`` says so. Raises StageError if a sum is not a finite float32.
    """
    stacked_SPK = torch.stack(list(parts.values()))  # S parts
    weights_S = torch.tensor([weights[name] for name in parts])
    valid_PK = valid_PK & ~stacked_SPK.isnan().all(0)
    total_PK = torch.where(valid_PK, (stacked_SPK * weights_S[:, None, None]).nansum(0), 0.0)
    if not total_PK.isfinite().all():
        rows = (~total_PK.isfinite()).any(1).nonzero()[:, 0].tolist()
        message = f"the weighted sum of {', '.join(parts)} is beyond float32; use smaller reward_weights"
        raise StageError("reward", message, positions=[rollouts.prompts[p].position for p in rows])
    return total_PK, valid_PK
