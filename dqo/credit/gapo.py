"""credit=gapo: a correct answer is worth less the more correct answers of its group are the same (2511.12596)."""

from typing import Annotated

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from dqo.credit.clusters.sizes import cluster_sizes, same_key
from dqo.credit.gating.base import GatedCredit
from dqo.credit.gating.gate import Gating
from dqo.records import Rewards, Rollouts
from dqo.references import References
from dqo.stages import Task


class Gapo(GatedCredit):
    """c_i = (2 - (f_i - 1/L)) - r_i for a completion that passes the gate and is not empty, 0.0 for the others. f_i:
    share of i's mode (``Task.key``) among the group's completions that pass; L: ``answers``, 1/L = 0 if None.

    At alpha = 1 reward + credit is GAPO's score plus 1: 1 - (f_i - 1/L) for valid answers (the signed form; one port
    takes the absolute value) and -1 for the others, if those have the reward 0. The 1 is there so that masked and empty
    completions, whose credit is always 0, score as other invalid ones do; no baseline sees it. Completions that do not
    pass keep their reward.
    """

    uses_embeddings = False
    pairs_tie = True  # two modes have equal shares

    def __init__(
        self,
        references: References,
        task: Task,
        *,
        answers: Annotated[int | None, Field(ge=1, examples=[164])],
        gating: Gating,
    ):
        super().__init__(references, gating=gating)
        self.task, self.level = task, 0.0 if answers is None else 1 / answers

    @property
    def needs_rewards(self) -> bool:
        """Whether credits depend on the values of the rewards."""
        return True

    @property
    def description(self) -> str:
        """For the model card."""
        return f"an answer that few others of its group share, in place of its reward{self.gating.description}"

    def assign(
        self, rollouts: Rollouts, rewards: Rewards, embeddings_PKD: Float[Tensor, "prompts k dim"] | None
    ) -> Float[Tensor, "prompts k"]:
        """Credits, float32. Pure; not a collective. Raises ConfigError for ``gate=correct`` with a reward that does not
        say what is correct."""
        earning_PK = self.earning_mask(rollouts, rewards)
        sizes_PK = cluster_sizes(same_key(self.task, rollouts, earning_PK), earning_PK)
        shares_PK = sizes_PK / earning_PK.sum(1, keepdim=True).clamp(min=1)
        scores_PK = 2 - (shares_PK - self.level)
        return (scores_PK - rewards.total_PK.double()).masked_fill(~earning_PK, 0.0).float()
