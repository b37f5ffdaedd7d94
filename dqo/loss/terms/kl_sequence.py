"""Term ``kl_sequence``: the part of the completions' KL that no KL of single tokens contains."""

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dqo.errors import ConfigError
from dqo.ranges import Beta
from dqo.records import Estimates, Experience, LossInputs, Targets


class KlSequence:
    """+ coefficient * sum over tokens of weight * ratio * (KL of the completion's later tokens - baseline).

    The KL of whole completions is the expected sum of the next-token KLs along a completion. A token changes it in two
    ways: by its own distribution's KL, whose gradient ``loss=clip`` has with ``use_bias_correction_kl``, and by which
    later tokens are reached. The second part is log-probability's gradient times the KL of the later tokens (k3, by the
    policy before the step's first update). With ``coefficient`` = beta, ratios at token level and tokens of constant
    weight (``dr_grpo``) both together have exactly the gradient of beta * KL(policy || reference), but for a constant
    factor, in a first iteration on fresh samples.

    The baseline is the same number of the group's other valid completions, at the same position, on average: it does
    not change the expectation, since the others are sampled independently.
    """

    names = ("kl/sequence",)
    needs_reference = True
    needs_old_logprobs = True
    completes_kl = True  # of loss=clip: config.validate says where its other part is another one

    def __init__(self, *, coefficient: Beta):
        if coefficient == 0:
            raise ConfigError("beta=0: the term kl_sequence completes the KL, which has no weight; type beta=0.02")
        self.coefficient = coefficient

    def marks(
        self, experience: Experience, estimates: Estimates, targets: Targets
    ) -> Mapping[str, Float[Tensor, "batch tokens"]]:
        """``later_kl``: nats of KL of the tokens after each one, minus the baseline; 0.0 where not sampled. Not a
        collective."""
        assert estimates.old_logprobs_BT is not None
        assert estimates.ref_logprobs_BT is not None
        valid_B = experience.rewards.valid_PK.flatten()
        counted_BT = experience.rollouts.sampled_BT & valid_B[:, None]
        kl_BT = _k3(estimates.ref_logprobs_BT.double() - estimates.old_logprobs_BT.double()).masked_fill(~counted_BT, 0)
        later_BT = kl_BT.flip(1).cumsum(1).flip(1) - kl_BT
        return {"later_kl": (later_BT - _baseline(later_BT, valid_B, experience.rollouts.k)).mul(counted_BT).float()}

    def __call__(self, inputs: LossInputs) -> tuple[Float[Tensor, ""], Mapping[str, tuple[Tensor, Tensor]]]:
        """The term, and the KL of a completion: the sum over its tokens."""
        assert inputs.ref_logprobs_N is not None
        ratios_N = (inputs.logprobs_N - inputs.old_logprobs_N).exp()
        loss = self.coefficient * (inputs.weights_N * ratios_N * inputs.marks["later_kl"]).sum()
        kl = _k3(inputs.ref_logprobs_N - inputs.logprobs_N.detach()).sum()
        return loss, {"kl/sequence": (kl, torch.tensor(float(len(inputs.rows_N.unique()))))}


def _k3(differences: Tensor) -> Tensor:
    """k3 estimate of each token's KL, from log reference - log policy."""
    return differences.exp() - differences - 1


def _baseline(
    later_BT: Float[Tensor, "batch tokens"], valid_B: Bool[Tensor, " batch"], k: int
) -> Float[Tensor, "batch tokens"]:
    """The mean over the group's other valid completions; all of a group have the prompt's length in common, and a
    completion that has ended has no later tokens."""
    later_PKT, others_PK1 = later_BT.view(-1, k, later_BT.shape[1]), valid_B.view(-1, k, 1).sum(1, keepdim=True) - 1
    return ((later_PKT.sum(1, keepdim=True) - later_PKT) / others_PK1.clamp(min=1)).view_as(later_BT)
