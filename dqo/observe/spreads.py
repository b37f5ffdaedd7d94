"""How large the credit is beside the reward, said once: alpha is chosen by it."""

import logging
import math
from collections.abc import Mapping

from dqo.records import Step

log = logging.getLogger(__name__)


class SpreadNotice:
    """A sink of a run's metrics. ``alpha`` > 0."""

    def __init__(self, *, alpha: float):
        self._alpha, self._said = alpha, False

    def __call__(self, step: Step, metrics: Mapping[str, float]) -> None:
        """Logs the spreads of the first step in which the rewards of a group differ."""
        if self._said or math.isnan(metrics["spread_ratio"]):
            return
        self._said = True
        log.info(
            "step %d: within a group alpha * credit differs by %.3g and the reward by %.3g, a ratio of %.2g "
            "(spread_ratio; docs/metrics.md); alpha=%g sets it",
            step.number, self._alpha * metrics["credit_spread"], metrics["reward_spread"], metrics["spread_ratio"],
            self._alpha,
        )  # fmt: skip
