"""credit=dpp_steps: how new each step of a solution is among the steps of all solutions (STRIDE, second-hand)."""

from collections.abc import Sequence
from typing import Annotated

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from dqo.capabilities import EncodesTexts
from dqo.contracts import UNIT_TOLERANCE
from dqo.credit.gating.base import GatedCredit
from dqo.credit.gating.gate import Gating
from dqo.credit.steps.finding import Splitting, Step, steps_of
from dqo.errors import ConfigError, StageError
from dqo.metrics.ties import TIE_TOLERANCE
from dqo.records import Rewards, Rollouts
from dqo.references import References
from dqo.stages import Embed


class DppSteps(GatedCredit):
    """Of the completions that pass the gate, each token of step p earns u_p minus the mean of u over the tokens of all
    steps of the group: with G the Gram matrix of the steps' embeddings and L = chol(G + epsilon I),
    u_p = clip(L_pp² - epsilon, 0, 1) is the squared distance of step p to the span of the steps before it, and
    Σ log L_pp² = log det(G + epsilon I).

    Steps come in the order of the completions, then of the text: of two equal steps the first is new, the second has
    u = 0. Credits of a group sum to 0 over the tokens of its steps. All credits are 0.0 with fewer than two completions
    that pass; so is a credit where nothing was sampled, at the end token, and of completions as a whole (``assign``).
    """

    uses_embeddings = False  # of whole completions
    pays_tokens_alone = True

    def __init__(
        self,
        references: References,
        embed: Embed,
        tokenizer: PreTrainedTokenizerBase,
        *,
        steps: Splitting,
        epsilon: Annotated[float, Field(gt=0, le=1, examples=[0.001])],
        gating: Gating,
    ):
        super().__init__(references, gating=gating)
        if not isinstance(embed, EncodesTexts):
            raise ConfigError(
                f"credit=dpp_steps: {type(embed).__name__} has no encode_texts, by which steps are embedded; type "
                "embed=sentence, or credit=dpp"
            )
        self.embed: EncodesTexts = embed
        self.tokenizer, self.steps, self.epsilon = tokenizer, steps, epsilon

    @property
    def description(self) -> str:
        """For the model card."""
        return (
            f"how new each of its steps ({self.steps}) is among the steps of its group, at the tokens of the step"
            f"{self.gating.description}"
        )

    def assign(
        self, rollouts: Rollouts, rewards: Rewards, embeddings_PKD: Float[Tensor, "prompts k dim"] | None
    ) -> Float[Tensor, "prompts k"]:
        """Zeros (prompts, k): what is paid is paid by ``assign_tokens``."""
        return torch.zeros_like(rewards.total_PK)

    def assign_tokens(self, rollouts: Rollouts, rewards: Rewards) -> Float[Tensor, "batch tokens"]:
        """Credits of tokens, float32. Pure; not a collective. Raises StageError for a step without an embedding of
        length 1, ConfigError for ``gate=correct`` with a reward that does not say what is correct."""
        earning_PK = self.earning_mask(rollouts, rewards)
        credits_BT = torch.zeros(rollouts.tokens_BT.shape)
        groups = [self._steps(rollouts, p, earning_PK[p]) for p in (earning_PK.sum(1) > 1).nonzero()[:, 0].tolist()]
        groups = [steps for steps in groups if steps]
        if not groups:
            return credits_BT
        embeddings_SD = self._embeddings(rollouts, [step for steps in groups for step in steps])  # in one call
        for steps, own_SD in zip(groups, embeddings_SD.split([len(steps) for steps in groups]), strict=True):
            for step, credit in zip(steps, _deviations(step_novelties(own_SD, self.epsilon), steps), strict=True):
                credits_BT[step.row, step.start : step.end] = credit
        return credits_BT.masked_fill(~rollouts.sampled_BT, 0.0)

    def _steps(self, rollouts: Rollouts, p: int, earning_K: Bool[Tensor, " k"]) -> list[Step]:
        """The steps of a group's completions that pass, in order."""
        rows = [p * rollouts.k + i for i in earning_K.nonzero()[:, 0].tolist()]
        return [step for row in rows for step in steps_of(rollouts, row, self.tokenizer, self.steps)]

    def _embeddings(self, rollouts: Rollouts, steps: Sequence[Step]) -> Float[Tensor, "steps dim"]:
        embeddings_SD = self.embed.encode_texts([step.text for step in steps]).double()
        good_S = (embeddings_SD.norm(dim=-1) - 1).abs() < UNIT_TOLERANCE
        if not good_S.all():
            step = steps[int((~good_S).nonzero()[0])]
            raise StageError(
                "embed",
                f"no finite embedding of length 1 for the step {step.text!r:.80}",
                positions=[rollouts.prompts[step.row // rollouts.k].position],
            )
        return embeddings_SD


def step_novelties(embeddings_SD: Float[Tensor, "steps dim"], epsilon: float) -> Float[Tensor, " steps"]:
    """u_p of each step, 0 to 1, float64."""
    gram_SS = embeddings_SD.double() @ embeddings_SD.double().mT
    factor_SS = torch.linalg.cholesky(gram_SS + epsilon * torch.eye(len(gram_SS), dtype=torch.float64))
    return (factor_SS.diagonal().square() - epsilon).clamp(0, 1)


def _deviations(novelties_S: Float[Tensor, " steps"], steps: Sequence[Step]) -> list[float]:
    """Deviations from the mean over tokens; exactly 0 where all are equal but for rounding."""
    lengths_S = torch.tensor([step.end - step.start for step in steps])
    deviations_S = novelties_S - (novelties_S * lengths_S).sum() / lengths_S.sum()
    return deviations_S.masked_fill(deviations_S.abs() <= TIE_TOLERANCE, 0.0).tolist()
