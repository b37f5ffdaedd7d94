"""A warning for runs in which the diversity credit pays for wrong answers."""

import logging
import math
from collections import deque
from collections.abc import Mapping

from dqo.records import Step

log = logging.getLogger(__name__)

STEPS = 10  # steps of which the shares are averaged


class WrongCreditWarning:
    """A sink of a run's metrics that warns once when wrong answers earn most of the credit. ``alpha`` > 0."""

    def __init__(self, *, gate: str | None):
        self.gate = gate  # credit.gate; None: the credit has none
        self._shares: deque[float] = deque(maxlen=STEPS)
        self._warned = False

    def __call__(self, step: Step, metrics: Mapping[str, float]) -> None:
        """Warn after the first ``STEPS`` steps with a credit of which wrong answers got more than half on average."""
        share = metrics["credit_wrong_share"]
        if self._warned or math.isnan(share):
            return
        self._shares.append(share)
        mean = sum(self._shares) / len(self._shares)
        if len(self._shares) == STEPS and mean > 0.5:
            self._warned = True
            better = "a smaller alpha" if self.gate == "correct" else "credit.gate=correct, or a smaller alpha"
            log.warning(
                "wrong answers earned %.0f %% of the credit in the last %d steps: the policy is paid for being "
                "different and wrong; type %s (logged once)", 100 * mean, STEPS, better,
            )  # fmt: skip
