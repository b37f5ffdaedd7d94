"""What every learner does alike: estimates, one step's loss over micro-batches, its report. No engine in here.

Every public method is a collective: all processes call it, with different and even empty batches, and each makes as
many forward passes as the one that has most, since an engine that shards parameters has them fetched in step.
"""

import abc
import contextlib
import logging
import math
from collections.abc import Iterator, Mapping

import torch
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel

from dqo import distributed
from dqo.errors import ConfigError, StageError
from dqo.learner.parts import Loss, Optim
from dqo.learner.update.dropout import disable_dropout
from dqo.learner.update.logprobs import plain_head, probe, use_shared_prompt
from dqo.learner.update.lora import with_lora
from dqo.learner.update.objective import Objective, Tally, counts, objective
from dqo.learner.update.packing import MicroBatch, micro_batches
from dqo.models.precision import Dtype
from dqo.records import Estimates, Experience, Rollouts, Targets

log = logging.getLogger("dqo")
Model = PreTrainedModel | PeftModel


class Base(abc.ABC):
    """An engine adds ``reference``, a forward pass, a backward pass, an optimizer's step, and how its state is read.

    A step whose completions are all invalid takes no optimizer step and says so (``skipped_updates``); one whose
    advantages are all zero takes it, as in TRL: momentum moves the weights. The learning rate follows the run's steps,
    not the optimizer's. Dropout is off but for LoRA's own.
    """

    def __init__(
        self,
        policy: PreTrainedModel,
        device: torch.device,
        loss: Loss,
        optim: Optim,
        *,
        temperature: float,
        num_iterations: int,
        max_tokens_per_micro_batch: int,
        shared_prompt: bool,
        gradient_checkpointing: bool,
        dtype: Dtype,
        lora_r: int | None,
        lora_alpha: int,
        lora_dropout: float,
        lora_target_modules: list[str] | None,
    ):
        at_least_1 = {"num_iterations": num_iterations, "max_tokens_per_micro_batch": max_tokens_per_micro_batch}
        for key, value in at_least_1.items():
            if value < 1:
                raise ConfigError(f"learner.{key}={value}: 1 or more is needed; type learner.{key}=1")
        if dtype is Dtype.FLOAT16:
            raise ConfigError("learner.dtype=float16: gradients would underflow; type learner.dtype=bfloat16 or auto")
        self.policy, self.device, self.loss, self.optim = policy, device, loss, optim
        self.temperature, self.num_iterations, self.shared_prompt = temperature, num_iterations, shared_prompt
        self.budget, self.bf16 = max_tokens_per_micro_batch, dtype.on(device) == torch.bfloat16
        self.version = 0  # updates behind the weights

        disable_dropout(policy)
        if shared_prompt:
            use_shared_prompt(policy, device)
        with torch.autocast(device.type, torch.bfloat16, enabled=self.bf16):  # flash attention takes no fp32
            self.head = plain_head(policy, device)
        if gradient_checkpointing:
            policy.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        self.model: Model = policy
        if lora_r is not None:
            self.model = with_lora(
                policy, r=lora_r, alpha=lora_alpha, dropout=lora_dropout, target_modules=lora_target_modules
            )
        # checkpointing and LoRA's dropout work in training mode only
        self.training = gradient_checkpointing or (lora_r is not None and lora_dropout > 0)
        self._start()

    @abc.abstractmethod
    def _start(self) -> None:
        """Make what the engine needs of ``model``, which is not trained yet: reference, optimizer."""

    @abc.abstractmethod
    def _reference(self) -> contextlib.AbstractContextManager[Model]:
        """The policy as it was at the start."""

    @abc.abstractmethod
    def _forward(self, model: Model, batch: MicroBatch, *, temperature: float) -> tuple[Tensor, Tensor]:
        """Log-probabilities and entropies of the micro-batch's sampled tokens."""

    @abc.abstractmethod
    def _backward(self, loss: Tensor, *, last: bool) -> None:
        """Add the gradient of ``loss``, whose sum over micro-batches and processes is the step's. ``last`` of the
        step's."""

    @abc.abstractmethod
    def _optimize(self, rate: float) -> float:
        """Clip and take the step; the gradient's norm before. Takes none where that is not finite."""

    def _faulty(self, whole: Objective, batches: list[MicroBatch]) -> list[MicroBatch]:
        """Which micro-batches a gradient that is not finite may come from."""
        return batches

    def estimate(self, rollouts: Rollouts) -> Estimates:
        """Old log-probabilities where several iterations need them and the rows are this version's; the reference's
        where the loss asks for them. Otherwise nothing runs."""
        fresh = bool((rollouts.versions_B >= self.version).any())
        old = self.num_iterations > 1 and bool(distributed.all_reduce_max(fresh))
        if not old and not self.loss.needs_reference:
            return Estimates()
        batches = self._micro_batches(rollouts, list(range(len(rollouts.texts))))
        old_logprobs_BT = self._logprobs(self.model, rollouts, batches) if old else None
        if not self.loss.needs_reference:
            return Estimates(old_logprobs_BT=old_logprobs_BT)
        with self._reference() as reference:
            ref_logprobs_BT = self._logprobs(reference, rollouts, batches)
        return Estimates(old_logprobs_BT=old_logprobs_BT, ref_logprobs_BT=ref_logprobs_BT)

    def update(self, experience: Experience, estimates: Estimates, targets: Targets) -> Mapping[str, float]:
        """Raises StageError, before the optimizer's step, for a loss or gradient that is not finite."""
        rollouts, (rows, tokens) = experience.rollouts, counts(experience)
        whole = objective(self.loss, experience, estimates, targets, version=self.version, rows=rows, tokens=tokens)
        batches = self._micro_batches(rollouts, experience.rewards.valid_PK.flatten().nonzero()[:, 0].tolist())
        passes, rate, tally = distributed.all_reduce_max(len(batches)), self.optim.rate(self.version), Tally()
        if not passes:
            log.warning("step %d: no valid completion, no update", self.version + 1)
        for _ in range(self.num_iterations if passes else 0):
            self._step(whole, batches, passes, rate, tally)
        self.version += 1
        padding, size = distributed.all_reduce_sum(
            [sum(batch.padding for batch in batches), sum(batch.tokens_RL.numel() for batch in batches)]
        )
        return {
            **tally.over_all().means(("loss", "entropy", *self.loss.names, "grad_norm")),
            "learning_rate": rate,
            "trained_tokens": float(tokens),
            "micro_batches": float(passes),
            "padding_share": padding / size if size else math.nan,
            "skipped_updates": float(not passes),
        }

    def score(self, rollouts: Rollouts) -> Tensor:
        """Log-probability of each sampled token at temperature 1, 0.0 elsewhere: (B, T), in nats."""
        batches = self._micro_batches(rollouts, list(range(len(rollouts.texts))))
        return self._logprobs(self.model, rollouts, batches, temperature=1.0)

    def _head_of(self, model: Model) -> torch.nn.Module | None:
        """The policy's or the reference's, where it can be applied in parts."""
        return model.get_output_embeddings() if self.head is not None else None

    def _micro_batches(self, rollouts: Rollouts, rows: list[int]) -> list[MicroBatch]:
        return micro_batches(rollouts, rows, budget=self.budget, shared=self.shared_prompt)

    def _in_step(self, batches: list[MicroBatch], passes: int) -> Iterator[tuple[MicroBatch, bool]]:
        """The micro-batches, then as many that count nothing as other processes have more; and whether it counts."""
        yield from ((batch, True) for batch in batches)
        yield from ((probe(self.shared_prompt), False) for _ in range(passes - len(batches)))

    @torch.no_grad()
    def _logprobs(
        self, model: Model, rollouts: Rollouts, batches: list[MicroBatch], *, temperature: float | None = None
    ) -> Tensor:
        logprobs_BT = torch.zeros_like(rollouts.logprobs_BT)
        for batch, counts_here in self._in_step(batches, distributed.all_reduce_max(len(batches))):
            logprobs_N, _ = self._forward(model, batch, temperature=temperature or self.temperature)
            if counts_here:
                logprobs_BT[batch.rows_N, batch.columns_N] = logprobs_N.cpu()
        return logprobs_BT

    def _step(self, whole: Objective, batches: list[MicroBatch], passes: int, rate: float, tally: Tally) -> None:
        self.model.train(self.training)
        total = 0.0
        for number, (batch, counts_here) in enumerate(self._in_step(batches, passes), start=1):
            total += self._pass(whole, batch, tally if counts_here else None, last=number == passes)
        self.model.eval()
        norm = self._optimize(rate)
        if not math.isfinite(norm):
            raise self._not_finite("gradient", whole, self._faulty(whole, batches))
        of_the_sum = torch.tensor(
            1 / distributed.world_size()
        )  # each process has a part of the loss, and the whole norm
        tally.add({"loss": (torch.tensor(total), of_the_sum), "grad_norm": (torch.tensor(norm), torch.ones(()))})

    def _pass(self, whole: Objective, batch: MicroBatch, tally: Tally | None, *, last: bool) -> float:
        """Forward and backward; the loss. Without a tally the micro-batch counts nothing."""
        logprobs_N, entropies_N = self._forward(self.model, batch, temperature=self.temperature)
        if tally is None:
            self._backward(logprobs_N.sum() * 0.0, last=last)
            return 0.0
        loss, means = whole(batch, logprobs_N)
        if not loss.isfinite():
            raise self._not_finite("loss", whole, [batch])
        self._backward(loss, last=last)
        tally.add({"entropy": (entropies_N.sum(), torch.tensor(float(len(entropies_N)))), **means})
        return float(loss.detach())

    def _not_finite(self, what: str, whole: Objective, batches: list[MicroBatch]) -> StageError:
        self.model.eval()
        message = (
            f"the {what} is not finite; stopped before the optimizer's step (largest advantage: "
            f"{whole.largest_advantage(batches):.3g}). A lower learning_rate or optim.max_grad_norm may help"
        )
        return StageError("learner", message, positions=whole.positions(batches), step=self.version + 1)
