"""learner=torch_single: one process, plain torch."""

from collections.abc import Iterable

import torch
from peft import PeftModel
from torch import Tensor
from torch.nn import Module
from transformers import PreTrainedModel

from dqo.learner.update import saved_state
from dqo.learner.update.base import POLICY, Base, Model
from dqo.learner.update.logprobs import token_logprobs
from dqo.learner.update.lora import merged_weights
from dqo.learner.update.objective import Objective, Tally
from dqo.learner.update.packing import MicroBatch
from dqo.learner.update.reference import Reference
from dqo.learner.update.settings import LearnerSettings
from dqo.stages import Loss, Optim, Weights


class TorchSingle(Base):
    """Weights are fp32, with autocast to ``dtype``; gradients are summed over micro-batches, and each batch gets
    ``num_iterations`` optimizer steps."""

    def __init__(
        self,
        policy: PreTrainedModel,
        device: torch.device,
        loss: Loss,
        optim: Optim,
        needs_reference: bool,
        *,
        settings: LearnerSettings,
    ):
        super().__init__(policy, device, loss, optim, needs_reference, settings)
        self.reference = Reference(self.model) if needs_reference else None
        self.optimizers: dict[str, torch.optim.Optimizer] = {}
        self.add_model(POLICY, self.policy)

    def add_model(self, name: str, model: Module) -> None:
        """Train a model from now on, with an optimizer of its own."""
        self.models[name] = model
        self.optimizers[name] = self.optim.make(model.named_parameters())
        self.rounded_steps.attach(self.optimizers[name])

    def weights(self) -> Weights:
        """The policy's tensors, detached and not copied: read them before the next update."""
        whole = merged_weights(self.model) if isinstance(self.model, PeftModel) else self.policy.state_dict().items()
        return self.rounded_steps.computing(whole)

    def _parameters(self, name: str) -> Iterable[tuple[str, Tensor]]:
        return self.trained_parameters(name).items()

    def _moments(self, name: str) -> Iterable[tuple[str, Tensor]]:
        for key, parameter in self.trained_parameters(name).items():
            for moment, tensor in self.optimizers[name].state.get(parameter, {}).items():
                yield f"{moment}/{key}", tensor

    def _restore(self, name: str, saved: saved_state.Saved) -> None:
        trained, optimizer = self.trained_parameters(name), self.optimizers[name]
        with torch.no_grad():
            for key, parameter in trained.items():
                parameter.copy_(saved.parameter(key))
        self.rounded_steps.round(trained.values())
        keys = {parameter: key for key, parameter in trained.items()}
        order = [keys[p] for group in optimizer.param_groups for p in group["params"]]
        restored = optimizer.state_dict()
        restored["state"] = {i: moments for i, key in enumerate(order) if (moments := saved.moments(key))}
        optimizer.load_state_dict(restored)

    def _forward(self, model: Model, batch: MicroBatch, *, temperature: float) -> tuple[Tensor, Tensor]:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            return token_logprobs(
                model, batch, temperature=temperature, device=self.device, head=self._head_of(model),
                entropy_gradient=self.entropy_gradient,
            )  # fmt: skip

    def _backward(self, loss: Tensor, *, last: bool) -> None:
        loss.backward()

    def _optimize(self, rate: float) -> dict[str, float]:
        norms = {name: torch.nn.utils.get_total_norm(self._gradients(name)) for name in self.models}
        if all(norm.isfinite() for norm in norms.values()):
            for name, optimizer in self.optimizers.items():
                if self.optim.max_grad_norm is not None:
                    trained = self.trained_parameters(name).values()
                    torch.nn.utils.clip_grads_with_norm_(trained, self.optim.max_grad_norm, norms[name])
                for group in optimizer.param_groups:
                    group["lr"] = rate
                optimizer.step()
        self._discard_gradients()
        return {name: float(norm) for name, norm in norms.items()}

    def _faulty(self, whole: Objective, batches: list[MicroBatch]) -> list[MicroBatch]:
        """The first micro-batch whose own gradient is not finite, found by computing the gradients again one by one;
        all micro-batches if only their sum overflows."""
        try:
            for batch in batches:
                self._discard_gradients()
                self._pass(whole, batch, Tally(), last=True)
                if not all(gradient.isfinite().all() for name in self.models for gradient in self._gradients(name)):
                    return [batch]
            return batches
        finally:
            self._discard_gradients()

    def _gradients(self, name: str) -> list[Tensor]:
        return [p.grad for p in self.trained_parameters(name).values() if p.grad is not None]

    def _discard_gradients(self) -> None:
        for optimizer in self.optimizers.values():
            optimizer.zero_grad()
