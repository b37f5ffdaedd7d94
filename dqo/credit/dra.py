"""credit=dra: the reward divided by how crowded a completion's place is (DRA-GRPO, arXiv 2505.09655)."""

from jaxtyping import Float
from torch import Tensor

from dqo.contracts import refuse_negative
from dqo.credit.gating.base import GatedCredit
from dqo.credit.similarity.cosines import cosines
from dqo.records import Rewards, Rollouts


class Dra(GatedCredit):
    """c_i = r_i / (1 + Σ_{j≠i} s_ij) - r_i, over the completions that pass the gate and are not empty; 0.0 for the
    others. At alpha = 1 reward + credit is the paper's adjusted reward.

    s is the cosine, and 0 where the cosine is negative (ours: otherwise the divisor can be 0 or less). The paper's code
    divides by Σ_j cos_ij + 1e-6, itself included, which is the same number but for the 1e-6. A completion unlike all
    others, or that passes alone, keeps its reward; k copies get r / k each. A reward below 0 is refused: division would
    make it better where it is redundant.
    """

    uses_embeddings = True

    @property
    def description(self) -> str:
        """For the model card."""
        return (
            f"its reward divided by its similarity to its group (DRA-GRPO), minus the reward{self.gating.description}"
        )

    @property
    def needs_rewards(self) -> bool:
        """Whether credits depend on the values of the rewards."""
        return True

    def assign(
        self, rollouts: Rollouts, rewards: Rewards, embeddings_PKD: Float[Tensor, "prompts k dim"] | None
    ) -> Float[Tensor, "prompts k"]:
        """Credits from unit-length embeddings, float32. Pure; not a collective.

        Raises StageError for a negative reward that passes the gate, ConfigError for ``gate=correct`` with a reward
        that does not say what is correct.
        """
        assert embeddings_PKD is not None
        earning_PK, total_PK = self.earning_mask(rollouts, rewards), rewards.total_PK.double()
        remedy = "credit.gate=threshold credit.threshold=0 to leave such completions out, or another credit"
        refuse_negative("credit", rollouts, rewards, earning_PK, option="credit=dra", remedy=remedy)
        crowds_PK = cosines(embeddings_PKD, earning_PK).clamp(min=0).sum(-1)  # with s_ii = 1
        return (total_PK / crowds_PK - total_PK).masked_fill(~earning_PK, 0.0).float()
