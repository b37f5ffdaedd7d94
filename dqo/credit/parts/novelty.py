"""Which parts of a completion no other completion of its group has."""

from collections import Counter
from collections.abc import Callable, Hashable, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dqo.records import Rollouts


def novel_shares(
    rollouts: Rollouts, earning_PK: Bool[Tensor, "prompts k"], parts_of: Callable[[str], Sequence[Hashable]]
) -> Float[Tensor, "prompts k"]:
    """Different parts of an earning completion that no other earning one of its group has, over the number of its
    parts, repeated ones included: 0 to 1, float64. 0.0 without any part, and for those that do not earn."""
    shares_PK = torch.zeros(earning_PK.shape, dtype=torch.float64)
    for p, earning_K in enumerate(earning_PK):
        rows = earning_K.nonzero()[:, 0].tolist()
        parts = [parts_of(rollouts.texts[p * rollouts.k + i]) for i in rows]
        holders = Counter(part for each in parts for part in set(each))
        for i, each in zip(rows, parts, strict=True):
            shares_PK[p, i] = sum(holders[part] == 1 for part in set(each)) / max(1, len(each))
    return shares_PK
