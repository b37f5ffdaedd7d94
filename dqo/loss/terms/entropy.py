"""Term ``entropy``: a bonus for the entropy of the policy's next-token distributions."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from dqo.errors import ConfigError
from dqo.loss.entropies.step import top_tokens
from dqo.ranges import Share
from dqo.records import Estimates, Experience, LossInputs, Targets

CHOSEN = "chosen"  # mark: True at the tokens with the bonus


class Tokens(StrEnum):
    """Which tokens get the bonus."""

    all = "all"
    correct = "correct"  # tokens of correct completions, as in arXiv 2505.23433
    top = "top"  # the share of the step's tokens with most entropy before the update


class Entropy:
    """- coefficient * sum over the chosen tokens of weight * entropy, with the weights of the policy's loss: with
    ``loss_type=dapo`` the mean entropy over all tokens of the step, where tokens that were not chosen count as 0.

    The gradient is that of each distribution at the prefix that was sampled; how often a prefix is reached is not
    followed.
    """

    needs_entropy_gradient = True

    def __init__(
        self,
        *,
        coefficient: Annotated[float, Field(ge=0, examples=[0.01])],
        tokens: Tokens,
        top_entropy_quantile: Share | None,
    ):
        if tokens == Tokens.top and top_entropy_quantile is None:
            raise ConfigError(
                "loss.terms.entropy.top_entropy_quantile=null: tokens=top needs a share; type "
                "loss.terms.entropy.top_entropy_quantile=0.2"
            )
        if tokens != Tokens.top and top_entropy_quantile is not None:
            raise ConfigError(
                f"loss.terms.entropy.top_entropy_quantile={top_entropy_quantile}: tokens={tokens} has no use for it; "
                "type loss.terms.entropy.tokens=top, or loss.terms.entropy.top_entropy_quantile=null"
            )
        self.coefficient, self.tokens, self.share = coefficient, tokens, top_entropy_quantile

    @property
    def applied(self) -> float:
        """The weight of this step's bonus."""
        return self.coefficient

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the metrics that a call returns."""
        return ("entropy_bonus/coefficient", "entropy_bonus/tokens")

    @property
    def needs_old_logprobs(self) -> bool:
        """Whether entropies are needed before the update."""
        return self.tokens == Tokens.top

    def marks(
        self, experience: Experience, estimates: Estimates, targets: Targets
    ) -> Mapping[str, Bool[Tensor, "batch tokens"]]:
        """``chosen``: True at the tokens with the bonus. Raises ConfigError for a reward that does not say what is
        correct. A collective."""
        if self.share is not None:
            return {CHOSEN: top_tokens(experience, estimates, self.share)[0]}
        counted_BT, correct_PK = experience.counted_BT, experience.rewards.correct_PK
        if self.tokens == Tokens.all:
            return {CHOSEN: counted_BT}
        if correct_PK is None:
            raise ConfigError(
                "loss.terms.entropy.tokens=correct: this reward does not say which completions are correct; type "
                "loss.terms.entropy.tokens=all"
            )
        return {CHOSEN: counted_BT & correct_PK.flatten()[:, None]}

    def __call__(self, inputs: LossInputs) -> tuple[Float[Tensor, ""], Mapping[str, tuple[Tensor, Tensor]]]:
        """The bonus as a loss, its coefficient, and the share of tokens that have it."""
        chosen_N = inputs.marks[CHOSEN]
        bonus = (inputs.weights_N * inputs.entropies_N).masked_fill(~chosen_N, 0.0).sum()
        one = torch.ones(())
        return -self.applied * bonus, {
            "entropy_bonus/coefficient": (self.applied * one, one),
            "entropy_bonus/tokens": (chosen_N.float().sum(), torch.tensor(float(len(chosen_N)))),
        }
