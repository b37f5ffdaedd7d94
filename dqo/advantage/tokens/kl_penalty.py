"""The KL to the reference model as a part of each token's reward, with a fixed or an adaptive coefficient."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from dqo import distributed
from dqo.errors import ConfigError
from dqo.ranges import Count
from dqo.records import Estimates, Experience

MOST_ERROR = 0.2  # bound of the relative error by which the coefficient moves (Ziegler et al.)


class KlEstimator(StrEnum):
    """The estimate of a token's KL, d = log reference - log policy."""

    k1 = "k1"  # -d: unbiased; negative for some tokens
    k3 = "k3"  # exp(d) - 1 - d: never negative


@dataclass(frozen=True, kw_only=True)
class KlKeys:
    """The keys of advantages with a KL in the reward. Raises ConfigError for a target that the coefficient 0 cannot
    reach."""

    kl_coef: Annotated[float, Field(ge=0, examples=[0.05])]
    kl_estimator: KlEstimator
    kl_target: Annotated[float | None, Field(gt=0, examples=[6.0])]
    kl_horizon: Annotated[Count, Field(examples=[10_000])]

    def __post_init__(self):
        if self.kl_target is not None and self.kl_coef == 0:
            raise ConfigError(
                f"advantage.kl_target={self.kl_target:g}: the coefficient is adapted by a factor, and "
                "advantage.kl_coef=0 stays 0; type advantage.kl_coef=0.05, or advantage.kl_target=null"
            )


class KlPenalty:
    """Subtracts coefficient * KL from each token's reward.

    With ``kl_target`` the coefficient follows Ziegler et al. (arXiv 1909.08593, section 2.2): after each step it is
    multiplied by 1 + clip(KL / kl_target - 1, -0.2, 0.2) * completions / kl_horizon. KL is the sum over a completion's
    tokens, its mean over the step's valid completions, all ranks. Without a coefficient no reference model is needed.
    """

    def __init__(self, keys: KlKeys):
        self.keys, self.coef = keys, keys.kl_coef
        self._measured = (math.nan, math.nan)  # the last step's KL and its coefficient

    @property
    def is_on(self) -> bool:
        """Whether there is a penalty: log-probabilities of the policy and of the reference are then needed."""
        return self.keys.kl_coef > 0

    def rewards(self, experience: Experience, estimates: Estimates) -> Float[Tensor, "batch tokens"]:
        """-coefficient * KL of each token that the update learns from, float64; 0.0 elsewhere. Then adapts the
        coefficient. A collective."""
        counted_BT = experience.counted_BT
        if not self.is_on:
            return torch.zeros(counted_BT.shape, dtype=torch.float64)
        assert estimates.old_logprobs_BT is not None
        assert estimates.ref_logprobs_BT is not None
        differences_BT = estimates.ref_logprobs_BT.double() - estimates.old_logprobs_BT.double()
        kl_BT = -differences_BT
        if self.keys.kl_estimator == KlEstimator.k3:
            kl_BT = differences_BT.exp() - 1 - differences_BT
        kl_BT = kl_BT.masked_fill(~counted_BT, 0.0)
        coef = self.coef
        self._follow(*distributed.all_reduce_sum([float(kl_BT.sum()), float(experience.rewards.valid_PK.sum())]))
        return -coef * kl_BT

    def _follow(self, total: float, completions: float) -> None:
        """Reports the step's KL and adapts the coefficient. Without valid completions it stays."""
        kl = total / completions if completions else math.nan
        self._measured = (kl, self.coef)
        if self.keys.kl_target is not None and completions:
            error = min(max(kl / self.keys.kl_target - 1, -MOST_ERROR), MOST_ERROR)
            self.coef *= 1 + error * completions / self.keys.kl_horizon

    def metrics(self) -> Mapping[str, float]:
        """As ``Reporting.metrics``: of the last step; nothing without a penalty."""
        kl, coef = self._measured
        reported = {"objective/kl": kl, "objective/kl_coef": coef, "objective/non_score_reward": -coef * kl}
        return reported if self.is_on else {}

    def state_dict(self) -> dict[str, Any]:
        """The adaptive coefficient; empty where it is fixed."""
        return {} if self.keys.kl_target is None else {"kl_coef": self.coef}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what ``state_dict`` returned. A fixed coefficient stays as configured."""
        if self.keys.kl_target is not None:
            self.coef = state.get("kl_coef", self.coef)
