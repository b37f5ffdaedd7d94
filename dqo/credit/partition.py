"""credit=partition: a completion's reward counts for less the more of its group say the same (DARLING, 2509.02534)."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated

from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from dqo.contracts import refuse_negative
from dqo.credit.clusters.comparison import Comparison, Sameness
from dqo.credit.clusters.judge import SameByJudge
from dqo.credit.clusters.sizes import cluster_sizes, same_key
from dqo.credit.gating.base import GatedCredit
from dqo.credit.gating.gate import Gating
from dqo.credit.similarity.cosines import cosines
from dqo.errors import ConfigError
from dqo.records import Rewards, Rollouts
from dqo.references import References
from dqo.stages import Task

ROUNDING = 1e-9  # of a cosine: copies have 1 but for the last place


class Form(StrEnum):
    """How distinctness d_i enters."""

    multiply = "multiply"  # r'_i = r_i d_i
    add = "add"  # r'_i = r_i + d_i


class Partition(GatedCredit):
    """c_i = r_i (d_i - 1) (``form=multiply``) or d_i (``form=add``) for the m completions that pass the gate and are
    not empty, 0.0 for the others. d_i = max((m - |cluster of i|) / (m - 1), ``floor``), and ``floor`` for a lone one.

    At alpha = 1 reward + credit is DARLING's score. Clusters are connected components of "the same", as in its code,
    whatever says it. ``subtract_min`` measures rewards from the lowest of the group that takes part, as its option
    add_bias: c_i = (r_i - r_min)(d_i - 1), for rewards that may be negative. Raises ConfigError for it with ``add``.
    """

    def __init__(
        self,
        references: References,
        task: Task,
        *,
        comparison: Comparison,
        form: Form,
        floor: Annotated[float, Field(ge=0, lt=1, examples=[0.1])],
        subtract_min: bool,
        gating: Gating,
    ):
        super().__init__(references, gating=gating)
        self.task, self.by, self.similarity = task, comparison.by, comparison.similarity
        self.form, self.floor, self.subtract_min = form, floor, subtract_min
        if form == Form.add and subtract_min:
            raise ConfigError(
                "credit.subtract_min=true: credit.form=add has no use for it; type credit.subtract_min=false, or "
                "credit.form=multiply"
            )
        self.uses_embeddings = self.by == Sameness.embedding
        self.judge = SameByJudge(comparison.endpoint) if self.by == Sameness.judge else None

    @property
    def needs_rewards(self) -> bool:
        """Whether credits depend on the values of the rewards."""
        return self.form == Form.multiply or self.gating.needs_rewards

    @property
    def description(self) -> str:
        """For the model card."""
        how = {"key": "the same answer", "embedding": "a similar embedding", "judge": "the same meaning to a judge"}
        return f"the share of its group without {how[self.by]} (form {self.form}){self.gating.description}"

    def counters(self) -> Mapping[str, int]:
        """Questions to which the judge gave no readable answer."""
        return {"judge_unread": self.judge.unread} if self.judge else {}

    def assign(
        self, rollouts: Rollouts, rewards: Rewards, embeddings_PKD: Float[Tensor, "prompts k dim"] | None
    ) -> Float[Tensor, "prompts k"]:
        """Credits, float32. Pure but for a judge's answers; not a collective.

        Raises StageError for a negative reward that is multiplied and for a judge that fails, ConfigError for
        ``gate=correct`` with a reward that does not say what is correct.
        """
        earning_PK = self.earning_mask(rollouts, rewards)
        if self.form == Form.multiply and not self.subtract_min:
            remedy = "credit.subtract_min=true, or credit.form=add"
            refuse_negative("credit", rollouts, rewards, earning_PK, option="credit=partition", remedy=remedy)
        sizes_PK = cluster_sizes(self._same(rollouts, earning_PK, embeddings_PKD), earning_PK)
        credits_PK = self._distinctness(sizes_PK, earning_PK)
        if self.form == Form.multiply:
            credits_PK = self._quality(rewards, earning_PK) * (credits_PK - 1)
        return credits_PK.masked_fill(~earning_PK, 0.0).float()

    def _same(
        self, rollouts: Rollouts, earning_PK: Bool[Tensor, "prompts k"], embeddings_PKD: Tensor | None
    ) -> Bool[Tensor, "prompts k k"]:
        if self.judge:
            return self.judge(rollouts, earning_PK)
        if self.by == Sameness.key:
            return same_key(self.task, rollouts, earning_PK)
        assert embeddings_PKD is not None
        return cosines(embeddings_PKD, earning_PK) >= self.similarity - ROUNDING

    def _distinctness(self, sizes_PK: Tensor, earning_PK: Tensor) -> Float[Tensor, "prompts k"]:
        count_P1 = earning_PK.sum(1, keepdim=True)
        return ((count_P1 - sizes_PK) / (count_P1 - 1).clamp(min=1)).clamp(min=self.floor)

    def _quality(self, rewards: Rewards, earning_PK: Tensor) -> Float[Tensor, "prompts k"]:
        total_PK = rewards.total_PK.double()
        if not self.subtract_min:
            return total_PK
        return total_PK - total_PK.masked_fill(~earning_PK, float("inf")).amin(1, keepdim=True)
