"""The loss of a step, one micro-batch at a time, and the metrics to report. Independent of the engine."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from dqo import distributed
from dqo.capabilities import SUPERVISED_NLL, Marking, Supervising
from dqo.contracts import says
from dqo.errors import StageError
from dqo.learner.update.packing import Form, MicroBatch, micro_batches
from dqo.records import Estimates, Experience, LossInputs, Rollouts, Supervised, Targets
from dqo.stages import Critic, Loss


@dataclass(frozen=True, kw_only=True)
class Objective:
    """All inputs of the loss of a step except the policy's log-probabilities, on the CPU."""

    loss: Loss
    positions_P: tuple[int, ...]  # positions of the prompts, for error messages
    advantages_BT: Float[Tensor, "batch tokens"]
    weights_BT: Float[Tensor, "batch tokens"]  # from Loss.token_weights, over the whole step or mini-batch
    tokens: int  # sampled tokens of valid rows in the step or mini-batch, over all ranks
    old_logprobs_BT: Float[Tensor, "batch tokens"] | None  # None: equal to the policy's, all ratios are 1
    ref_logprobs_BT: Float[Tensor, "batch tokens"] | None
    sampler_logprobs_BT: Float[Tensor, "batch tokens"]
    values_BT: Float[Tensor, "batch tokens"] | None  # a critic's
    returns_BT: Float[Tensor, "batch tokens"] | None  # what a critic is trained on
    stale_B: Bool[Tensor, " batch"]  # sampled by older weights: the sampler's logprobs are the old ones
    marks: Mapping[str, Shaped[Tensor, "batch tokens"]]  # from Marking.marks
    supervised: Supervised | None  # completions from elsewhere, in micro-batches of their own

    def not_finite(self, what: str, batches: Sequence[MicroBatch], *, step: int) -> StageError:
        """The error for these micro-batches, with the stream positions of their prompts."""
        positions = {position for batch in batches for position in self._positions(batch)}
        values = [self.advantages_BT[batch.rows_N, batch.columns_N] for batch in batches if not batch.supervised]
        largest = float(torch.cat(values).abs().max()) if values else 0.0
        return StageError(
            "learner",
            f"the {what} is not finite; stopped before the optimizer's step (largest advantage: {largest:.3g}). A "
            "lower learning_rate or optim.max_grad_norm may help",
            positions=sorted(positions),
            step=step,
        )

    def of_part(self, part: Experience, *, rows: int, tokens: int) -> "Objective":
        """The objective of a mini-batch. ``part``: the step's experience, in which all other rows are invalid; ``rows``
        and ``tokens``: its ``counts``. What a loss has marked in the whole step
        (``capabilities.Marking``) stays marked."""
        valid_B = part.rewards.valid_PK.flatten()
        weights_BT = self.loss.token_weights(part.rollouts.sampled_BT, valid_B, rows=rows, tokens=tokens)
        return replace(self, weights_BT=weights_BT, tokens=tokens)

    def value_loss(
        self, critic: Critic, batch: MicroBatch, values_N: Float[Tensor, " sampled"]
    ) -> tuple[Float[Tensor, ""], Mapping]:
        """The loss of a micro-batch's values, and its metrics as ``Critic.loss`` returns them. Each token weighs the
        same, whatever the policy's loss gives it."""
        assert self.values_BT is not None and self.returns_BT is not None, "an advantage for a critic gives returns"
        old_N, returns_N = (part_BT[batch.rows_N, batch.columns_N] for part_BT in (self.values_BT, self.returns_BT))
        return critic.loss(
            values_N,
            old_values_N=old_N.to(values_N.device),
            returns_N=returns_N.to(values_N.device),
            weights_N=torch.full_like(values_N, 1 / max(self.tokens, 1)).detach(),
        )

    def micro_batches(self, rollouts: Rollouts, rows: list[int], *, budget: int, form: Form) -> list[MicroBatch]:
        """Micro-batches of the step's own completions, followed by those of ``supervised``."""
        batches = micro_batches(rollouts, rows, budget=budget, form=form)
        if self.supervised is None:
            return batches
        learned = (self.supervised.weights_BT != 0).any(1).nonzero()[:, 0].tolist()
        others = micro_batches(self.supervised.rollouts, learned, budget=budget, form=form)
        return [*batches, *(replace(batch, supervised=True) for batch in others)]

    def _positions(self, batch: MicroBatch) -> list[int]:
        """Stream positions of a micro-batch's prompts."""
        if batch.supervised and self.supervised is not None:
            return [self.supervised.rollouts.prompts[group].position for group in batch.groups]
        return [self.positions_P[group] for group in batch.groups]

    def __call__(
        self, batch: MicroBatch, logprobs_N: Float[Tensor, " sampled"], entropies_N: Float[Tensor, " sampled"]
    ) -> tuple[Float[Tensor, ""], Mapping]:
        """The loss of one micro-batch, and its metrics as ``Loss.__call__`` returns them."""

        def pick(tensor_BT: Tensor) -> Tensor:
            return tensor_BT[batch.rows_N, batch.columns_N].to(logprobs_N.device)

        def pick_if(tensor_BT: Tensor | None) -> Tensor | None:
            return None if tensor_BT is None else pick(tensor_BT)

        if batch.supervised and self.supervised is not None:
            return _supervised_loss(logprobs_N, pick(self.supervised.weights_BT))

        old_N = logprobs_N.detach() if self.old_logprobs_BT is None else pick(self.old_logprobs_BT)
        sampler_N = pick(self.sampler_logprobs_BT)
        stale_N = self.stale_B[batch.rows_N].to(logprobs_N.device)
        inputs = LossInputs(
            logprobs_N=logprobs_N,
            old_logprobs_N=torch.where(stale_N, sampler_N, old_N),
            sampler_logprobs_N=sampler_N,
            ref_logprobs_N=pick_if(self.ref_logprobs_BT),
            entropies_N=entropies_N,
            advantages_N=pick(self.advantages_BT),
            values_N=pick_if(self.values_BT),
            returns_N=pick_if(self.returns_BT),
            weights_N=pick(self.weights_BT),
            stale_N=stale_N,
            rows_N=batch.rows_N.to(logprobs_N.device),
            marks={name: pick(mark_BT) for name, mark_BT in self.marks.items()},
        )
        loss, means = self.loss(inputs)
        return loss, {"entropy": (entropies_N.sum(), torch.tensor(float(len(entropies_N)))), **means}


def _supervised_loss(logprobs_N: Tensor, weights_N: Tensor) -> tuple[Tensor, Mapping]:
    """Loss and metric of a micro-batch of supervised completions."""
    learned_N = weights_N != 0
    nll_N = -logprobs_N.detach()
    return -(weights_N * logprobs_N).sum(), {SUPERVISED_NLL: (nll_N[learned_N].sum(), learned_N.float().sum())}


def counts(experience: Experience) -> tuple[int, int]:
    """(valid completions, their sampled tokens) over all ranks; losses divide by them. A collective."""
    valid_B = experience.rewards.valid_PK.flatten()
    rows, tokens = distributed.all_reduce_sum([int(valid_B.sum()), int(experience.rollouts.sampled_BT[valid_B].sum())])
    return int(rows), int(tokens)


def rows_to_train(loss: Loss | None, experience: Experience, targets: Targets) -> tuple[list[int], int]:
    """(valid rows with sampled tokens that the gradient depends on, number of the others): those without an advantage
    add nothing to a loss of advantages alone. None: a loss that says nothing."""
    sampled_BT = experience.rollouts.sampled_BT
    valid_B = trained_B = experience.rewards.valid_PK.flatten() & sampled_BT.any(1)
    if says(type(loss), "only_advantages", of="__call__") and getattr(loss, "only_advantages", False):
        trained_B = valid_B & (sampled_BT & (targets.advantages_BT != 0)).any(1)
    return trained_B.nonzero()[:, 0].tolist(), int((valid_B & ~trained_B).sum())


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
    """The objective of a step. ``version``: the learner's; ``rows`` and ``tokens``: from ``counts``. A collective: the
    loss looks at the whole step."""
    rollouts = experience.rollouts
    valid_B = experience.rewards.valid_PK.flatten()
    return Objective(
        loss=loss,
        positions_P=tuple(prompt.position for prompt in rollouts.prompts),
        advantages_BT=targets.advantages_BT,
        weights_BT=loss.token_weights(rollouts.sampled_BT, valid_B, rows=rows, tokens=tokens),
        tokens=tokens,
        old_logprobs_BT=estimates.old_logprobs_BT,
        ref_logprobs_BT=estimates.ref_logprobs_BT,
        sampler_logprobs_BT=rollouts.logprobs_BT,
        values_BT=estimates.values_BT,
        returns_BT=targets.returns_BT,
        stale_B=rollouts.versions_B < version,
        marks=loss.marks(experience, estimates, targets) if isinstance(loss, Marking) else {},
        supervised=loss.supervised(experience) if isinstance(loss, Supervising) else None,
    )


EXTREMES = {"min": torch.minimum, "max": torch.maximum}  # by the last part of a metric's name


class Tally:
    """Accumulates metrics over micro-batches: means, or the extreme for names that end in /min or /max."""

    def __init__(self):
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, Tensor] = {}

    def add(self, means: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        """Adds metrics of one micro-batch, {name: (sum, count)}."""
        for name, (total, count) in means.items():
            extreme = EXTREMES.get(name.rpartition("/")[2])
            if extreme is not None:
                self.sums[name] = extreme(self.sums.get(name, total), total).detach()
                self.counts[name] = torch.ones(())
                continue
            self.sums[name] = self.sums.get(name, 0.0) + total.detach()
            self.counts[name] = self.counts.get(name, 0.0) + count.detach()

    def merge(self, other: "Tally") -> None:
        """Adds what another tally holds."""
        self.add({name: (other.sums[name], other.counts[name]) for name in other.sums})

    def over_all_ranks(self) -> "Tally":
        """One tally of all ranks' metrics. A collective."""
        total = Tally()
        for means in distributed.all_gather(
            {name: (self.sums[name].cpu(), self.counts[name].cpu()) for name in self.sums}
        ):
            total.add(means)
        return total

    def means(self, names: Iterable[str]) -> dict[str, float]:
        """{name: value} of the given metrics; NaN for a metric that was never added, so that keys do not depend on the
        data."""
        return {name: float(self.sums[name] / self.counts[name]) if name in self.sums else math.nan for name in names}
