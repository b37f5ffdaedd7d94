"""Entropies of a step's tokens, over all ranks."""

import math

import numpy
from jaxtyping import Bool
from torch import Tensor

from dqo import distributed
from dqo.records import Estimates, Experience


def top_tokens(
    experience: Experience, estimates: Estimates, share: float
) -> tuple[Bool[Tensor, "batch tokens"], float]:
    """(True at this rank's tokens in the top ``share`` of the step's entropies before the update, the entropy that
    divides them from the others in nats). Tokens of exactly that entropy are in it; NaN in a step without tokens. A
    collective."""
    assert estimates.entropies_BT is not None
    counted_BT, entropies_BT = experience.counted_BT, estimates.entropies_BT.double()
    entropies = numpy.concatenate(distributed.all_gather(entropies_BT[counted_BT].numpy()))
    threshold = float(numpy.quantile(entropies, 1 - share)) if len(entropies) else math.nan
    return counted_BT & (entropies_BT >= threshold), threshold


def sampled_entropy(experience: Experience) -> float:
    """The policy's mean token entropy in nats, without a pass: -log-probability of a sampled token, on average over the
    step, is an unbiased estimate of it. NaN in a step without tokens. A collective."""
    logprobs_N = experience.rollouts.logprobs_BT[experience.counted_BT]
    total, tokens = distributed.all_reduce_sum([-float(logprobs_N.double().sum()), len(logprobs_N)])
    return total / tokens if tokens else math.nan
