import math

import torch

from dqo.reward.scoring.totals import total
from tests.factories import make_rollouts


def test_the_sum_equals_trls():
    """The reference is copied from trl 1.16 (GRPOTrainer, sum_then_normalize)."""
    generator = torch.Generator().manual_seed(0)
    parts = {name: torch.randn(2, 3, generator=generator) for name in "abc"}
    for i, part in enumerate(parts.values()):
        part.view(-1)[i : i + 4] = math.nan
    weights = {"a": 1.0, "b": -0.5, "c": 2.0}
    per_func = torch.stack([part.view(-1) for part in parts.values()], dim=1)
    expected = (per_func * torch.tensor(list(weights.values())).unsqueeze(0)).nansum(dim=1)
    total_PK, valid_PK = total(make_rollouts(["w1"] * 6, 3), parts, weights, torch.ones(2, 3, dtype=torch.bool))
    assert torch.equal(valid_PK.view(-1), ~per_func.isnan().all(dim=1)) and not valid_PK.all()
    torch.testing.assert_close(total_PK.view(-1), expected, rtol=0, atol=0)
