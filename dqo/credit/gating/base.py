"""What every credit with a gate shares."""

from jaxtyping import Bool
from torch import Tensor

from dqo.credit.gating.gate import Gate, Gating
from dqo.records import Rewards, Rollouts
from dqo.references import References


class GatedCredit:
    """A credit that pays only completions that pass ``credit.gate``. A subclass calls ``earning_mask`` first: what it
    masks earns 0.0 and takes no part in what the others earn."""

    def __init__(self, references: References, *, gating: Gating):
        self.gating, self.references = gating, references
        if gating.gate == Gate.reference:
            references.need(gating.reference_samples)

    @property
    def needs_rewards(self) -> bool:
        """Whether credits depend on the values of the rewards."""
        return self.gating.needs_rewards

    def earning_mask(self, rollouts: Rollouts, rewards: Rewards) -> Bool[Tensor, "prompts k"]:
        """True where a completion is valid, not empty and passes the gate. Raises ConfigError for ``gate=correct`` with
        a reward that does not say what is correct."""
        return self.gating.mask(rollouts, rewards, self.references) & ~rollouts.empty_PK
