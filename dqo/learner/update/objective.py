"""One step's loss, taken a micro-batch at a time, and the means to report of it. No engine in here."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dqo import distributed
from dqo.learner.parts import Loss
from dqo.learner.update.packing import MicroBatch
from dqo.records import Estimates, Experience, Targets


@dataclass(frozen=True, kw_only=True)
class Objective:
    """Everything but the policy's log-probabilities, on the CPU."""

    loss: Loss
    positions_P: tuple[int, ...]  # of the prompts, to name them in errors
    advantages_BT: Float[Tensor, "batch tokens"]
    weights_BT: Float[Tensor, "batch tokens"]  # the loss's own: they make micro-batches add up to the step
    old_logprobs_BT: Float[Tensor, "batch tokens"] | None  # None: the policy's own, so that every ratio is 1
    ref_logprobs_BT: Float[Tensor, "batch tokens"] | None
    sampler_logprobs_BT: Float[Tensor, "batch tokens"]
    stale_B: Bool[Tensor, " batch"]  # sampled by older weights: there the sampler's log-probabilities are the old ones

    def positions(self, batches: Iterable[MicroBatch]) -> list[int]:
        """Of the prompts whose completions are in these."""
        return [self.positions_P[group] for group in sorted({group for batch in batches for group in batch.groups})]

    def largest_advantage(self, batches: Iterable[MicroBatch]) -> float:
        """In absolute value; NaN if one is, 0.0 of none."""
        values = [self.advantages_BT[batch.rows_N, batch.columns_N] for batch in batches]
        return float(torch.cat(values).abs().max()) if values else 0.0

    def __call__(self, batch: MicroBatch, logprobs_N: Float[Tensor, " sampled"]) -> tuple[Float[Tensor, ""], Mapping]:
        """The loss of one micro-batch, and (sum, count) of each mean."""

        def pick(tensor_BT: Float[Tensor, "batch tokens"]) -> Float[Tensor, " sampled"]:
            return tensor_BT[batch.rows_N, batch.columns_N].to(logprobs_N.device)

        old_N = logprobs_N.detach() if self.old_logprobs_BT is None else pick(self.old_logprobs_BT)
        sampler_N = pick(self.sampler_logprobs_BT)
        stale_N = self.stale_B[batch.rows_N].to(logprobs_N.device)
        return self.loss(
            logprobs_N=logprobs_N,
            old_logprobs_N=torch.where(stale_N, sampler_N, old_N),
            sampler_logprobs_N=sampler_N,
            ref_logprobs_N=None if self.ref_logprobs_BT is None else pick(self.ref_logprobs_BT),
            advantages_N=pick(self.advantages_BT),
            weights_N=pick(self.weights_BT),
            rows_N=batch.rows_N.to(logprobs_N.device),
        )


def counts(experience: Experience) -> tuple[int, int]:
    """Valid completions and their sampled tokens, over all processes: what a loss divides by. A collective."""
    valid_B = experience.rewards.valid_PK.flatten()
    rows, tokens = distributed.all_reduce_sum([int(valid_B.sum()), int(experience.rollouts.sampled_BT[valid_B].sum())])
    return int(rows), int(tokens)


def objective(
    loss: Loss,
    experience: Experience,
    estimates: Estimates,
    targets: Targets,
    *,
    version: int,
    rows: int,
    tokens: int,
) -> Objective:
    """``version`` is the learner's own, ``rows`` and ``tokens`` are ``counts`` over all processes."""
    rollouts = experience.rollouts
    valid_B = experience.rewards.valid_PK.flatten()
    return Objective(
        loss=loss,
        positions_P=tuple(prompt.position for prompt in rollouts.prompts),
        advantages_BT=targets.advantages_BT,
        weights_BT=loss.token_weights(rollouts.sampled_BT, valid_B, rows=rows, tokens=tokens),
        old_logprobs_BT=estimates.old_logprobs_BT,
        ref_logprobs_BT=estimates.ref_logprobs_BT,
        sampler_logprobs_BT=rollouts.logprobs_BT,
        stale_B=rollouts.versions_B < version,
    )


EXTREMES = {"min": torch.minimum, "max": torch.maximum}  # by the last part of a name


class Tally:
    """Sums and counts over micro-batches, which become means; of a name in …/min or …/max the extreme."""

    def __init__(self):
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, Tensor] = {}

    def add(self, means: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        for name, (total, count) in means.items():
            extreme = EXTREMES.get(name.rpartition("/")[2])
            if extreme is not None:
                self.sums[name] = extreme(self.sums.get(name, total), total).detach()
                self.counts[name] = torch.ones(())
                continue
            self.sums[name] = self.sums.get(name, 0.0) + total.detach()
            self.counts[name] = self.counts.get(name, 0.0) + count.detach()

    def over_all(self) -> "Tally":
        """That of all processes together. A collective."""
        whole = Tally()
        for means in distributed.all_gather(
            {name: (self.sums[name].cpu(), self.counts[name].cpu()) for name in self.sums}
        ):
            whole.add(means)
        return whole

    def means(self, names: Iterable[str]) -> dict[str, float]:
        """NaN for what was never measured: the keys of a report do not depend on the data."""
        return {name: float(self.sums[name] / self.counts[name]) if name in self.sums else math.nan for name in names}
