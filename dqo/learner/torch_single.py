"""learner=torch_single: one process, plain torch."""

from collections.abc import Iterable, Mapping

import torch
from peft import PeftModel
from torch import Tensor
from torch.nn import Module
from transformers import PreTrainedModel

from dqo.learner.update import saved_state
from dqo.learner.update.base import Base
from dqo.learner.update.logprobs import token_logprobs
from dqo.learner.update.lora import merged_weights
from dqo.learner.update.objective import Objective, Tally
from dqo.learner.update.packing import CRITIC, MicroBatch
from dqo.learner.update.plain import PlainModel
from dqo.learner.update.preparing import Model, base_model
from dqo.learner.update.reference import Reference
from dqo.learner.update.settings import LearnerSettings
from dqo.learner.update.values import token_values
from dqo.stages import Critic, Loss, Optim, Weights


class TorchSingle(Base):
    """Weights are fp32, with autocast to ``dtype``; gradients are summed over micro-batches, and each batch gets
    ``num_iterations`` times ``num_mini_batches`` optimizer steps."""

    def __init__(
        self,
        policy: PreTrainedModel,
        device: torch.device,
        loss: Loss,
        optim: Optim,
        needs_reference: bool,
        critic: Critic | None = None,
        needs_old_logprobs: bool = False,
        *,
        settings: LearnerSettings,
    ):
        super().__init__(policy, device, loss, optim, needs_reference, critic, needs_old_logprobs, settings)
        self.reference = Reference(self.model) if needs_reference else None
        self.plain: dict[str, PlainModel] = {}
        for name, called in self.called.items():
            self.add_model(name, base_model(called))
        if self.value_head is not None:
            self.add_model(CRITIC, self.value_head, rounded=False)

    def add_model(self, name: str, model: Module, *, rounded: bool = True) -> None:
        """Train a model from now on, with an optimizer of its own. ``rounded``: to what passes compute with, as
        ``learner.rounding`` says."""
        self.models[name] = model
        self.plain[name] = PlainModel(model, self.optim)
        if rounded:
            self.rounded_steps.attach(self.plain[name].optimizer)

    @property
    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """Each trained model's."""
        return {name: plain.optimizer for name, plain in self.plain.items()}

    def weights(self) -> Weights:
        """The policy's tensors, detached and not copied: read them before the next update."""
        whole = merged_weights(self.model) if isinstance(self.model, PeftModel) else self.policy.state_dict().items()
        return self.rounded_steps.computing(whole)

    def _parameters(self, name: str) -> Iterable[tuple[str, Tensor]]:
        return self.trained_parameters(name).items()

    def _moments(self, name: str) -> Iterable[tuple[str, Tensor]]:
        return self.plain[name].moments()

    def _restore(self, name: str, saved: saved_state.Saved) -> None:
        plain = self.plain[name]
        plain.restore_parameters(saved)
        if not (name == CRITIC and self.value_head is not None):
            self.rounded_steps.round(plain.trained.values())
        plain.restore_moments(saved)

    def _forward(self, model: Model, batch: MicroBatch, *, temperature: float) -> tuple[Tensor, Tensor]:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            return token_logprobs(
                model, batch, temperature=temperature, device=self.device, head=self._head_of(model),
                entropy_gradient=self.entropy_gradient,
            )  # fmt: skip

    def _values(self, batch: MicroBatch) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            return token_values(self.called[CRITIC], batch, device=self.device)

    def _backward(self, name: str, loss: Tensor, *, last: bool) -> None:
        loss.backward()

    def _optimize(self, rates: Mapping[str, float]) -> dict[str, float]:
        norms = {name: self.plain[name].norm() for name in rates}
        if all(norm.isfinite() for norm in norms.values()):
            for name, rate in rates.items():
                self.plain[name].step(rate, norms[name])
        self._discard_gradients()
        return {name: float(norm) for name, norm in norms.items()}

    def _faulty(self, whole: Objective, batches: list[MicroBatch]) -> list[MicroBatch]:
        """The first micro-batch whose own gradient is not finite, found by computing the gradients again one by one;
        all micro-batches if only their sum overflows."""
        try:
            for batch in batches:
                self._discard_gradients()
                self._pass(whole, batch, Tally(), last=True)
                if not all(gradient.isfinite().all() for plain in self.plain.values() for gradient in plain.gradients):
                    return [batch]
            return batches
        finally:
            self._discard_gradients()

    def _discard_gradients(self) -> None:
        for plain in self.plain.values():
            plain.optimizer.zero_grad()
