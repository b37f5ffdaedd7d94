"""learner=torch_single: one process, plain torch."""

import logging
import math
from collections.abc import Mapping
from pathlib import Path

import torch
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel

from dqo.errors import ConfigError, StageError
from dqo.learner import state
from dqo.learner.dropout import disable_dropout
from dqo.learner.logprobs import check_shared_prompt, token_logprobs
from dqo.learner.lora import merged_weights, with_lora
from dqo.learner.objective import Objective, Tally, counts, objective
from dqo.learner.packing import MicroBatch, micro_batches
from dqo.learner.parts import Loss, Optim
from dqo.learner.reference import Reference
from dqo.models.precision import Dtype
from dqo.records import Estimates, Experience, Rollouts, Targets
from dqo.stages import Weights

log = logging.getLogger("dqo")


class TorchSingle:
    """Owns the policy: fp32 weights, autocast to ``dtype``, gradients summed over micro-batches, ``num_iterations``
    optimizer steps on each batch.

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
            check_shared_prompt(policy, device)
        if gradient_checkpointing:
            policy.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        self.model: PreTrainedModel | PeftModel = policy
        if lora_r is not None:
            self.model = with_lora(
                policy, r=lora_r, alpha=lora_alpha, dropout=lora_dropout, target_modules=lora_target_modules
            )
        self.reference = Reference(self.model) if loss.needs_reference else None
        # checkpointing and LoRA's dropout work in training mode only
        self.training = gradient_checkpointing or (lora_r is not None and lora_dropout > 0)
        self.optimizer = optim.make(policy.named_parameters())

    def estimate(self, rollouts: Rollouts) -> Estimates:
        """Old log-probabilities where several iterations need them and the rows are this version's; the reference's
        where the loss asks for them. Otherwise nothing runs."""
        old = self.num_iterations > 1 and bool((rollouts.versions_B >= self.version).any())
        if not old and self.reference is None:
            return Estimates()
        batches = self._micro_batches(rollouts, list(range(len(rollouts.texts))))
        old_logprobs_BT = self._logprobs(self.model, rollouts, batches) if old else None
        if self.reference is None:
            return Estimates(old_logprobs_BT=old_logprobs_BT)
        with self.reference.model() as reference:
            ref_logprobs_BT = self._logprobs(reference, rollouts, batches)
        return Estimates(old_logprobs_BT=old_logprobs_BT, ref_logprobs_BT=ref_logprobs_BT)

    def update(self, experience: Experience, estimates: Estimates, targets: Targets) -> Mapping[str, float]:
        """Raises StageError, before the optimizer's step, for a loss or gradient that is not finite."""
        rollouts, (rows, tokens) = experience.rollouts, counts(experience)
        whole = objective(self.loss, experience, estimates, targets, version=self.version, rows=rows, tokens=tokens)
        batches = self._micro_batches(rollouts, experience.rewards.valid_PK.flatten().nonzero()[:, 0].tolist())
        rate, tally = self.optim.rate(self.version), Tally()
        if not batches:
            log.warning("step %d: no valid completion, no update", self.version + 1)
        for _ in range(self.num_iterations if batches else 0):
            self._step(whole, batches, rate, tally)
        self.version += 1
        size = sum(batch.tokens_RL.numel() for batch in batches)
        return {
            **tally.means(("loss", "entropy", *self.loss.names, "grad_norm")),
            "learning_rate": rate,
            "trained_tokens": float(tokens),
            "micro_batches": float(len(batches)),
            "padding_share": sum(batch.padding for batch in batches) / size if size else math.nan,
            "skipped_updates": float(not batches),
        }

    def weights(self) -> Weights:
        """Detached, not copied: take them before the next update."""
        if isinstance(self.model, PeftModel):
            return merged_weights(self.model)
        return iter(self.policy.state_dict().items())

    def score(self, rollouts: Rollouts) -> Tensor:
        """Log-probability of each sampled token at temperature 1, 0.0 elsewhere: (B, T), in nats."""
        batches = self._micro_batches(rollouts, list(range(len(rollouts.texts))))
        return self._logprobs(self.model, rollouts, batches, temperature=1.0)

    def save(self, folder: Path) -> None:
        trained = self._trained()
        moments = {name: dict(self.optimizer.state[p]) for name, p in trained.items() if p in self.optimizer.state}
        state.save(folder, parameters=trained, moments=moments, version=self.version)

    def load(self, folder: Path) -> None:
        """Raises ConfigError for a checkpoint of another model or of other adapters."""
        trained = self._trained()
        parameters, moments, self.version = state.load(folder, trained)
        with torch.no_grad():
            for name, parameter in trained.items():
                parameter.copy_(parameters[name])
        names = {parameter: name for name, parameter in trained.items()}
        order = [names[p] for group in self.optimizer.param_groups for p in group["params"]]
        restored = self.optimizer.state_dict()
        restored["state"] = {i: moments[name] for i, name in enumerate(order) if name in moments}
        self.optimizer.load_state_dict(restored)

    def _trained(self) -> dict[str, Tensor]:
        return {name: parameter for name, parameter in self.policy.named_parameters() if parameter.requires_grad}

    def _micro_batches(self, rollouts: Rollouts, rows: list[int]) -> list[MicroBatch]:
        return micro_batches(rollouts, rows, budget=self.budget, shared=self.shared_prompt)

    def _forward(
        self, model: PreTrainedModel | PeftModel, batch: MicroBatch, *, temperature: float | None = None
    ) -> tuple[Tensor, Tensor]:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            return token_logprobs(model, batch, temperature=temperature or self.temperature, device=self.device)

    @torch.no_grad()
    def _logprobs(
        self, model: PreTrainedModel | PeftModel, rollouts: Rollouts, batches: list[MicroBatch], *,
        temperature: float | None = None,
    ) -> Tensor:  # fmt: skip
        logprobs_BT = torch.zeros_like(rollouts.logprobs_BT)
        for batch in batches:
            logprobs_BT[batch.rows_N, batch.columns_N] = self._forward(model, batch, temperature=temperature)[0].cpu()
        return logprobs_BT

    def _step(self, whole: Objective, batches: list[MicroBatch], rate: float, tally: Tally) -> None:
        self.model.train(self.training)
        total = sum(self._backward(whole, batch, tally) for batch in batches)
        self.model.eval()
        norm = torch.nn.utils.get_total_norm([p.grad for p in self._trained().values() if p.grad is not None])
        if not norm.isfinite():
            raise self._not_finite("gradient", whole, self._faulty(whole, batches))
        if self.optim.max_grad_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(self._trained().values(), self.optim.max_grad_norm, norm)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad()
        one = torch.ones(())
        tally.add({"loss": (torch.tensor(total), one), "grad_norm": (norm, one)})

    def _backward(self, whole: Objective, batch: MicroBatch, tally: Tally) -> float:
        logprobs_N, entropies_N = self._forward(self.model, batch)
        loss, means = whole(batch, logprobs_N)
        if not loss.isfinite():
            raise self._not_finite("loss", whole, [batch])
        loss.backward()
        tally.add({"entropy": (entropies_N.sum(), torch.tensor(float(len(entropies_N)))), **means})
        return float(loss.detach())

    def _faulty(self, whole: Objective, batches: list[MicroBatch]) -> list[MicroBatch]:
        """The first micro-batch whose own gradient is not finite, found by computing them again; all, if only their
        sum overflows."""
        for batch in batches:
            self.optimizer.zero_grad()
            self._backward(whole, batch, Tally())
            if any(p.grad is not None and not p.grad.isfinite().all() for p in self._trained().values()):
                return [batch]
        return batches

    def _not_finite(self, what: str, whole: Objective, batches: list[MicroBatch]) -> StageError:
        self.optimizer.zero_grad()
        self.model.eval()
        message = (
            f"the {what} is not finite; stopped before the optimizer's step (largest advantage: "
            f"{whole.largest_advantage(batches):.3g}). A lower learning_rate or optim.max_grad_norm may help"
        )
        return StageError("learner", message, positions=whole.positions(batches), step=self.version + 1)
