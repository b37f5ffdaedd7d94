"""The credit's part of an advantage: what credits are divided by, and what is subtracted from them."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from jaxtyping import Float
from torch import Tensor

from dqo import distributed
from dqo.metrics.ties import credit_deviations
from dqo.records import Experience


class NormalizeCredit(StrEnum):
    """What credits are divided by."""

    none = "none"
    spread = "spread"  # the mean, over the run so far, of the groups' largest minus smallest credit


class CreditBaseline(StrEnum):
    """What is subtracted from a credit."""

    group = "group"  # the mean of the group's valid credits
    none = "none"  # nothing (SetPO, arXiv 2602.01062)


@dataclass(frozen=True, kw_only=True)
class CreditKeys:
    """The keys of advantages that add ``alpha`` times the credit to a part that is made of rewards."""

    credit_baseline: CreditBaseline = CreditBaseline.group
    normalize_credit: NormalizeCredit = NormalizeCredit.none


class ScaledCredit:
    """Base class of advantages with the key ``normalize_credit``. It has a state only with
    ``normalize_credit=spread``."""

    def __init__(self, normalize_credit: NormalizeCredit):
        self.normalize_credit = normalize_credit
        self._sum, self._groups = 0.0, 0  # of the spreads of all groups so far whose credits differ

    def state_dict(self) -> dict[str, Any]:
        """Sum and number of the spreads so far, JSON-serializable; empty if no spread is asked for."""
        is_kept = self.normalize_credit == NormalizeCredit.spread
        return {"spread_sum": self._sum, "spread_groups": self._groups} if is_kept else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what ``state_dict`` returned."""
        self._sum, self._groups = state.get("spread_sum", 0.0), state.get("spread_groups", 0)

    def credit_weight(self, experience: Experience, alpha: float) -> float:
        """``alpha``, with ``normalize_credit=spread`` over the mean spread of earlier steps; then counts this step's
        spreads. The first step that has a spread takes its own mean. A collective for ``spread``."""
        if self.normalize_credit == NormalizeCredit.none:
            return alpha
        deviations_PK = credit_deviations(experience.credits_PK, experience.rewards.valid_PK)
        spreads_P = deviations_PK.amax(1) - deviations_PK.amin(1)  # float64; 0.0 for a tie
        here = [float(spreads_P.sum()), int((spreads_P > 0).sum())]
        total, groups = distributed.all_reduce_sum(here)
        earlier_sum, earlier_groups = (self._sum, self._groups) if self._groups else (total, groups)
        self._sum, self._groups = self._sum + total, self._groups + int(groups)
        return alpha * earlier_groups / earlier_sum if earlier_groups else alpha


def credit_part(experience: Experience, baseline: CreditBaseline) -> Float[Tensor, "prompts k"]:
    """The credits minus their baseline, float64; 0.0 where invalid and for a group's only valid completion."""
    valid_PK = experience.rewards.valid_PK
    if baseline == CreditBaseline.group:
        return credit_deviations(experience.credits_PK, valid_PK)
    compared_PK = valid_PK & (valid_PK.sum(1, keepdim=True) > 1)
    return experience.credits_PK.double().masked_fill(~compared_PK, 0.0)
