"""Tokens that change the policy's entropy most: those with a large covariance of advantage and log-probability.

The entropy falls with the covariance of log-probability and advantage (arXiv 2505.22617): likely tokens of a high
advantage become still likelier. Means are over the step's valid completions on all ranks, and the log-probability is
that of the policy before the step's first update.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dqo import distributed
from dqo.records import Estimates, Experience, Targets


@dataclass(frozen=True, kw_only=True)
class Covariances:
    """(A - mean A) * (log policy - mean log policy) of this rank's tokens."""

    values_BT: Float[Tensor, "batch tokens"]  # float64; 0.0 where not counted
    counted_BT: Bool[Tensor, "batch tokens"]  # sampled tokens of valid completions
    tokens: int  # counted ones on all ranks

    def number(self, share: float) -> int:
        """How many tokens a share of all is: at least one, as in verl."""
        return max(1, int(share * self.tokens))


def covariances(experience: Experience, estimates: Estimates, targets: Targets) -> Covariances:
    """Covariances of this rank's tokens; the means are over the whole step. A collective."""
    assert estimates.old_logprobs_BT is not None
    counted_BT = experience.counted_BT
    factors = [each.double() for each in (targets.advantages_BT, estimates.old_logprobs_BT)]
    sums = [float(each[counted_BT].sum()) for each in factors]
    *sums, tokens = distributed.all_reduce_sum([*sums, int(counted_BT.sum())])
    advantages_BT, logprobs_BT = (each - total / max(tokens, 1) for each, total in zip(factors, sums, strict=True))
    values_BT = (advantages_BT * logprobs_BT).masked_fill(~counted_BT, 0.0)
    return Covariances(values_BT=values_BT, counted_BT=counted_BT, tokens=int(tokens))


def random_tokens(
    candidates_BT: Bool[Tensor, "batch tokens"], number: int, *, seed: int, positions: Sequence[int]
) -> Bool[Tensor, "batch tokens"]:
    """``number`` of all ranks' candidates, or all where there are fewer. The choice depends on the seed and on which
    prompts the step has (``positions``, this rank's), so that a resumed run makes the same. A collective."""
    ranks = distributed.all_gather((int(candidates_BT.sum()), tuple(positions)))
    counts = [count for count, _ in ranks]
    chooser = random.Random(f"{seed} {[drawn for _, drawn in ranks]}")
    chosen = chooser.sample(range(sum(counts)), min(number, sum(counts)))
    first = sum(counts[: distributed.rank()])
    own = [index - first for index in chosen if first <= index < first + counts[distributed.rank()]]
    return _at(candidates_BT.nonzero()[own], candidates_BT)


def largest_tokens(found: Covariances, number: int) -> Bool[Tensor, "batch tokens"]:
    """True at the ``number`` tokens of all ranks with the largest covariance; ties go to lower ranks and earlier rows.
    A collective."""
    places = found.counted_BT.nonzero()
    values, order = found.values_BT[found.counted_BT].sort(descending=True, stable=True)
    ranks = distributed.all_gather(values[:number].tolist())
    sorted_ranks = sorted((-value, rank) for rank, own in enumerate(ranks) for value in own)[:number]
    own = sum(rank == distributed.rank() for _, rank in sorted_ranks)
    return _at(places[order[:own]], found.counted_BT)


def _at(places: Tensor, like_BT: Bool[Tensor, "batch tokens"]) -> Bool[Tensor, "batch tokens"]:
    mask_BT = torch.zeros_like(like_BT)
    mask_BT[places[:, 0], places[:, 1]] = True
    return mask_BT
