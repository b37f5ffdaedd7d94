"""How many completions of a group are the same as each of them."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dqo.records import Rollouts
from dqo.stages import Task


def same_key(task: Task, rollouts: Rollouts, earning_PK: Bool[Tensor, "prompts k"]) -> Bool[Tensor, "prompts k k"]:
    """True where two earning completions have the same ``Task.key``. ``Task.key`` is called for
    earning completions only."""
    ids_PK = torch.full(earning_PK.shape, -1)
    for p, prompt in enumerate(rollouts.prompts):
        found: dict[str, int] = {}
        for i in earning_PK[p].nonzero()[:, 0].tolist():
            key = task.key(prompt, rollouts.texts[p * rollouts.k + i])
            ids_PK[p, i] = found.setdefault(key, len(found))
    return (ids_PK[:, :, None] == ids_PK[:, None, :]) & earning_PK[:, :, None]


def cluster_sizes(
    same_PKK: Bool[Tensor, "prompts k k"], earning_PK: Bool[Tensor, "prompts k"]
) -> Float[Tensor, "prompts k"]:
    """Earning completions in each one's cluster, itself included, float64; 0.0 for the others. Clusters are connected
    components: a is with c if a is the same as b and b the same as c, whatever a and c are."""
    pairs_PKK = earning_PK[:, :, None] & earning_PK[:, None, :]
    reached_PKK = ((same_PKK | same_PKK.mT) & pairs_PKK).double()
    reached_PKK = reached_PKK.maximum(torch.diag_embed(earning_PK.double()))
    for _ in range(max(1, (earning_PK.shape[1] - 1).bit_length())):  # each square doubles the length of the paths
        reached_PKK = ((reached_PKK @ reached_PKK) > 0).double()
    return reached_PKK.sum(-1)
