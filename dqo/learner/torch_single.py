"""learner=torch_single: one process, plain torch."""

import contextlib
from pathlib import Path

import torch
from peft import PeftModel
from torch import Tensor

from dqo.learner.update import state
from dqo.learner.update.base import Base, Model
from dqo.learner.update.logprobs import token_logprobs
from dqo.learner.update.lora import merged_weights
from dqo.learner.update.objective import Objective, Tally
from dqo.learner.update.packing import MicroBatch
from dqo.learner.update.reference import Reference
from dqo.stages import Weights


class TorchSingle(Base):
    """Owns the policy: fp32 weights, autocast to ``dtype``, gradients summed over micro-batches, ``num_iterations``
    optimizer steps on each batch."""

    def _start(self) -> None:
        self.reference = Reference(self.model) if self.loss.needs_reference else None
        self.optimizer = self.optim.make(self.policy.named_parameters())

    def weights(self) -> Weights:
        """Detached, not copied: take them before the next update."""
        if isinstance(self.model, PeftModel):
            return merged_weights(self.model)
        return iter(self.policy.state_dict().items())

    def save(self, folder: Path) -> None:
        moments = (
            (f"{key}/{name}", tensor)
            for name, parameter in self._trained().items()
            for key, tensor in self.optimizer.state.get(parameter, {}).items()
        )
        state.save(folder, parameters=self._trained().items(), moments=moments, version=self.version)

    def load(self, folder: Path) -> None:
        """Raises ConfigError for a checkpoint of another model or of other adapters."""
        trained = self._trained()
        saved = state.Saved(folder, {name: tuple(parameter.shape) for name, parameter in trained.items()})
        with torch.no_grad():
            for name, parameter in trained.items():
                parameter.copy_(saved.parameter(name))
        names = {parameter: name for name, parameter in trained.items()}
        order = [names[p] for group in self.optimizer.param_groups for p in group["params"]]
        restored = self.optimizer.state_dict()
        restored["state"] = {i: moments for i, name in enumerate(order) if (moments := saved.moments(name))}
        self.optimizer.load_state_dict(restored)
        self.version = saved.version

    def _reference(self) -> contextlib.AbstractContextManager[Model]:
        assert self.reference, "the loss needs one"
        return self.reference.model()

    def _forward(self, model: Model, batch: MicroBatch, *, temperature: float) -> tuple[Tensor, Tensor]:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            return token_logprobs(model, batch, temperature=temperature, device=self.device, head=self._head_of(model))

    def _backward(self, loss: Tensor, *, last: bool) -> None:
        loss.backward()

    def _optimize(self, rate: float) -> float:
        trained = self._trained().values()
        norm = torch.nn.utils.get_total_norm([p.grad for p in trained if p.grad is not None])
        if norm.isfinite():
            if self.optim.max_grad_norm is not None:
                torch.nn.utils.clip_grads_with_norm_(trained, self.optim.max_grad_norm, norm)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            self.optimizer.step()
        self.optimizer.zero_grad()
        return float(norm)

    def _faulty(self, whole: Objective, batches: list[MicroBatch]) -> list[MicroBatch]:
        """The first micro-batch whose own gradient is not finite, found by computing them again; all, if only their
        sum overflows."""
        try:
            for batch in batches:
                self.optimizer.zero_grad()
                self._pass(whole, batch, Tally(), last=True)
                if any(p.grad is not None and not p.grad.isfinite().all() for p in self._trained().values()):
                    return [batch]
            return batches
        finally:
            self.optimizer.zero_grad()

    def _trained(self) -> dict[str, Tensor]:
        return {name: parameter for name, parameter in self.policy.named_parameters() if parameter.requires_grad}
