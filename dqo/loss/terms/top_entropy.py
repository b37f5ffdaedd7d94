"""Term ``top_entropy``: the policy gradient of the tokens alone at which the policy has a choice."""

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dqo.capabilities import DROPPED
from dqo.loss.entropies.step import top_tokens
from dqo.ranges import Share
from dqo.records import Estimates, Experience, LossInputs, Targets


class TopEntropy:
    """Leaves all but the ``top_entropy_quantile`` of the step's tokens with most entropy out of the policy gradient
    (arXiv 2506.01939); a KL and other terms keep all tokens, and the loss's denominators count all. As TRL's key of
    that name, but the quantile is that of the whole step on all ranks, before the update, and not of a micro-batch.
    """

    names = ("top_entropy/threshold",)
    needs_old_logprobs = True
    only_advantages = True  # adds nothing to a completion without an advantage

    def __init__(self, *, top_entropy_quantile: Share):
        self.share = top_entropy_quantile
        self.threshold = float("nan")  # nats, of the last step

    def marks(
        self, experience: Experience, estimates: Estimates, targets: Targets
    ) -> Mapping[str, Bool[Tensor, "batch tokens"]]:
        """``dropped``: True at the tokens that are left out. A collective."""
        top_BT, self.threshold = top_tokens(experience, estimates, self.share)
        return {DROPPED: experience.counted_BT & ~top_BT}

    def __call__(self, inputs: LossInputs) -> tuple[Float[Tensor, ""], Mapping[str, tuple[Tensor, Tensor]]]:
        """0: nothing is added; and the least entropy of a token that is kept."""
        threshold = torch.tensor(self.threshold), torch.ones(())
        return inputs.logprobs_N.new_zeros(()), {"top_entropy/threshold": threshold}
