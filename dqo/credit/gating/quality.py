"""Rewards as factors: credits that scale a completion's reward."""

from jaxtyping import Bool
from torch import Tensor

from dqo.errors import StageError
from dqo.records import Rewards, Rollouts


def refuse_negative(
    rollouts: Rollouts, rewards: Rewards, earning_PK: Bool[Tensor, "prompts k"], *, option: str, remedy: str
) -> None:
    """Raises StageError where a completion that takes part has a negative reward: a factor below 1 would raise it.
    ``remedy``: what to type."""
    negative_PK = earning_PK & (rewards.total_PK < 0)
    if negative_PK.any():
        positions = [rollouts.prompts[p].position for p in negative_PK.any(1).nonzero()[:, 0].tolist()]
        lowest = float(rewards.total_PK[negative_PK].min())
        problem = f"credit={option} scales rewards, which must not be negative, and there is one of {lowest:g}"
        raise StageError("credit", f"{problem}; type {remedy}", positions=positions)
