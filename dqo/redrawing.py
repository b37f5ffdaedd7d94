"""Dynamic sampling (DAPO, arXiv 2503.14476): groups that teach nothing are replaced by groups of the next prompts."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from dqo import distributed
from dqo.batching import join
from dqo.distributed import Channel
from dqo.metrics.ties import score_deviations
from dqo.records import Experience
from dqo.stages import Advantage


@dataclass(kw_only=True)
class Draws:
    """The groups of one step on this rank. Without ``redraws`` the first draw is kept as it is.

    A group has a signal if the advantage says so and its scores r + alpha * c differ by more than ``signal`` standard
    deviations of the scores of the step's first draw, all ranks; with ``signal`` = 0 by more than rounding.
    """

    advantage: Advantage
    alpha: float
    prompts: int  # groups that the rank needs
    redraws: int  # rounds of drawing anew, at most
    signal: float
    _kept: list[Experience] = field(default_factory=list)
    _dropped: list[Experience] = field(default_factory=list)
    _rounds: int = 0
    _least: float | None = None  # difference of a group's scores; None: before the first draw

    def missing(self) -> int:
        """How many groups each rank draws now: what the rank with fewest lacks; 0 at the end. A collective, on the
        sampling channel."""
        if self._rounds > self.redraws:
            return 0
        return max(0, distributed.all_reduce_max(self.prompts - len(self._kept), Channel.SAMPLING))

    def add(self, groups: Sequence[Experience]) -> None:
        """The groups of one draw. A collective, on the sampling channel."""
        self._rounds += 1
        if self._least is None:
            self._least = self.signal * _std(groups, self.alpha) if self.signal else 0.0
        for group in groups:
            (self._kept if not self.redraws or self._has_signal(group) else self._dropped).append(group)

    def experience(self) -> Experience:
        """The step's groups: those with a signal first, filled up with others."""
        return join((self._kept + self._dropped)[: self.prompts])

    def numbers(self) -> dict[str, float]:
        """Metrics of the step; none where nothing is redrawn. A collective."""
        if not self.redraws:
            return {}
        filled = max(0, self.prompts - len(self._kept))
        dropped, filled = distributed.all_reduce_sum([len(self._dropped) - filled, filled])
        return {
            "redraws/rounds": float(self._rounds - 1),
            "redraws/dropped": float(dropped),
            "redraws/filled": float(filled),
        }

    def _has_signal(self, group: Experience) -> bool:
        paid_BT = group.token_credits_BT
        is_paid = paid_BT is not None and bool((self.alpha * paid_BT).any())
        if not is_paid and not self.advantage.has_signal(group, alpha=self.alpha):
            return False
        return not self.signal or _spread(group, self.alpha) > (self._least or 0.0)


def _credits(group: Experience) -> Float[Tensor, "prompts k"]:
    """Of completions; credits of tokens by their mean."""
    paid_BT = group.token_credits_BT
    return group.credits_PK if paid_BT is None else group.credits_PK + group.rollouts.token_means(paid_BT)


def _spread(group: Experience, alpha: float) -> float:
    """Largest minus smallest valid score of one group."""
    rewards = group.rewards
    deviations_PK = score_deviations(rewards.total_PK, _credits(group), rewards.valid_PK, alpha)
    return float(deviations_PK.max() - deviations_PK.min())


def _std(groups: Sequence[Experience], alpha: float) -> float:
    """Standard deviation (n - 1) of the valid scores of all ranks; 0.0 for fewer than two. A collective."""
    here = [(group.rewards.total_PK.double() + alpha * _credits(group))[group.rewards.valid_PK] for group in groups]
    scores = torch.cat(distributed.all_gather(torch.cat(here), Channel.SAMPLING))
    return float(scores.std()) if len(scores) > 1 else 0.0
