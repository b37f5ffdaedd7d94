"""credit=equations: the share of a completion's equations that no other completion has (DIVER, 2509.26209)."""

from typing import Annotated

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from dqo.credit.gating.base import GatedCredit
from dqo.credit.gating.gate import Gating
from dqo.credit.parts.equations import equations
from dqo.credit.parts.novelty import novel_shares
from dqo.records import Rewards, Rollouts
from dqo.references import References


class Equations(GatedCredit):
    r"""c_i = min(|F_i \ ∪_{j≠i} F_j| / |F_i|, ``cap``) for the completions that pass the gate and are not empty, 0.0
    for the others. F_i: the different equations of completion i, compared as text without white space.

    A completion without an equation earns 0.0, and so do copies; a lone one with equations earns ``cap``. Renamed
    variables and superfluous steps are paid: DIVER's code therefore caps at .42 or .68. It reads formulas between
    dollars and LaTeX's brackets alone, in the first 1,000 characters; here plain calculations, too, in the first 10,000
    (ours).
    """

    uses_embeddings = False

    def __init__(
        self, references: References, *, cap: Annotated[float, Field(gt=0, le=1, examples=[0.68])], gating: Gating
    ):
        super().__init__(references, gating=gating)
        self.cap = cap

    @property
    def description(self) -> str:
        """For the model card."""
        return f"the share of its equations found in no other completion{self.gating.description}"

    def assign(
        self, rollouts: Rollouts, rewards: Rewards, embeddings_PKD: Float[Tensor, "prompts k dim"] | None
    ) -> Float[Tensor, "prompts k"]:
        """Credits, float32. Pure; not a collective. Raises ConfigError for ``gate=correct`` with a reward that does not
        say what is correct."""
        earning_PK = self.earning_mask(rollouts, rewards)
        return novel_shares(rollouts, earning_PK, equations).clamp(max=self.cap).float()
