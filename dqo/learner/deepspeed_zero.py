"""learner=deepspeed_zero: DeepSpeed's ZeRO (arXiv 1910.02054), on one process or many."""

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any

import torch
from peft import PeftModel
from pydantic import Field
from torch import Tensor
from torch.nn import Module
from transformers import PreTrainedModel

from dqo import distributed
from dqo.errors import ConfigError
from dqo.learner.update import saved_state
from dqo.learner.update.base import Base
from dqo.learner.update.logprobs import token_logprobs
from dqo.learner.update.lora import merged_weights
from dqo.learner.update.packing import CRITIC, POLICY, MicroBatch
from dqo.learner.update.plain import PlainModel
from dqo.learner.update.preparing import Model, base_model
from dqo.learner.update.reference import Reference
from dqo.learner.update.settings import LearnerSettings
from dqo.learner.update.values import token_values
from dqo.learner.update.zero_state import ZeroModel
from dqo.stages import Critic, Loss, Optim, Weights


class DeepSpeedZero(Base):
    """Each process learns from its own groups, and the step is that of all.

    ``stage`` 0: every process holds everything; 1: the optimizer's state is spread over the processes; 2: gradients
    too; 3: weights too. With ``dtype=bfloat16`` stages 0 and 1 have fp32 weights and autocast, as ``torch_single``;
    stages 2 and 3 have weights of that type beside spread fp32 ones. Gradients are summed in fp32.
    """

    multi_rank = True

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
        stage: Annotated[int, Field(ge=0, le=3, examples=[2])],
        offload_optimizer: bool,
        offload_param: bool,
        settings: LearnerSettings,
    ):
        _check(stage, offload_optimizer=offload_optimizer, offload_param=offload_param, compiles=settings.compile)
        self._deepspeed = _imported(device)
        super().__init__(policy, device, loss, optim, needs_reference, critic, needs_old_logprobs, settings)
        distributed.init_single_process()
        self.stage = stage
        self._offloaded = {"offload_optimizer": offload_optimizer, "offload_param": offload_param}
        self._config = self._engine_config()
        self.reference = self._make_reference() if needs_reference else None
        self.zero = {name: self._trained(name, called) for name, called in self.called.items()}
        if self.value_head is not None:
            self.models[CRITIC] = self.value_head
        self.plain = None if self.value_head is None else PlainModel(self.value_head, self.optim)

    def _trained(self, name: str, called: Model) -> ZeroModel:
        """A model with an engine and an optimizer of its own. ``called``: what a pass calls."""
        self.models[name] = model = base_model(called)
        optimizer = self.optim.make(model.named_parameters())
        self.rounded_steps.attach(optimizer)
        engine, *_ = self._deepspeed.initialize(model=called, optimizer=optimizer, config=self._config)
        zero = ZeroModel(self._deepspeed, engine, self.trained_parameters(name), self.device)
        self.rounded_steps.number(zero.parts)
        return zero

    def _engine_config(self) -> dict[str, Any]:
        device = {"device": "cpu", "pin_memory": self.device.type == "cuda"}
        return {
            "train_micro_batch_size_per_gpu": 1,  # DeepSpeed asks for it; our micro-batches are packed by tokens
            "gradient_accumulation_steps": 1,
            "gradient_clipping": self.optim.max_grad_norm or 0.0,
            "zero_optimization": {
                "stage": self.stage,
                **{key: device for key, wanted in self._offloaded.items() if wanted},
            },
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,  # it is compiled at its first use
            "bf16": {"enabled": self._half, "check_grad_overflow": True},
            "data_types": {"grad_accum_dtype": "fp32"},
            "communication_data_type": "fp32",  # of gradients: bfloat16 sums would lose what small ones add
            # DeepSpeed switches off an autocast that its configuration does not name
            "torch_autocast": {"enabled": self._autocast, "dtype": "bfloat16", "lower_precision_safe_modules": []},
        }

    def weights(self) -> Weights:
        """What the policy computes with, tensor by tensor; each is whole until the next is asked for."""
        if isinstance(self.model, PeftModel):
            whole = merged_weights(self.model, self._gathered)
        else:
            whole = self._whole(self.policy.state_dict(keep_vars=True).items())
        return self.rounded_steps.computing(whole)

    def memory(self) -> dict[str, int]:
        """As ``Base.memory``; what ZeRO spreads over the ranks counts by this rank's part, offloaded state not at
        all."""
        held, ranks = super().memory(), distributed.world_size()
        if self._half:
            held |= {"weights": held["weights"] // 2, "fp32 weights": held["gradients"]}
        spread_from = {"optimizer": 1, "fp32 weights": 1, "gradients": 2, "weights": 3, "reference": 3}
        held = {what: size // (ranks if self.stage >= spread_from.get(what, 4) else 1) for what, size in held.items()}
        offloaded = {
            "optimizer": self._offloaded["offload_optimizer"], "fp32 weights": self._offloaded["offload_optimizer"],
            "weights": self._offloaded["offload_param"],
        }  # fmt: skip
        return {what: size for what, size in held.items() if not offloaded.get(what)}

    @property
    def _half(self) -> bool:
        """Whether weights are bfloat16. Not at stage 1, where DeepSpeed 0.19.8 would take another optimizer, whose
        gradient norm is 3.6 times that of all others in our comparison."""
        return self.bf16 and self.stage >= 2

    @property
    def _autocast(self) -> bool:
        return self.bf16 and not self._half

    def _head_of(self, model: Model) -> Module | None:
        """At stage 3 each call of the head is a collective, and processes would differ in their number."""
        return None if self.stage == 3 else super()._head_of(model)

    def _forward(self, model: Model, batch: MicroBatch, *, temperature: float) -> tuple[Tensor, Tensor]:
        called = self.zero[POLICY].engine if model is self.model and torch.is_grad_enabled() else model
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._autocast):
            return token_logprobs(
                called, batch, temperature=temperature, device=self.device, head=self._head_of(model),
                entropy_gradient=self.entropy_gradient,
            )  # fmt: skip

    def _values(self, batch: MicroBatch) -> Tensor:
        called = self.zero[CRITIC].engine if torch.is_grad_enabled() else self.called[CRITIC]
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._autocast):
            return token_values(called, batch, device=self.device)

    def _backward(self, name: str, loss: Tensor, *, last: bool) -> None:
        engine = self.zero[name].engine
        engine.set_gradient_accumulation_boundary(last)
        # DeepSpeed takes the mean over processes, a step's loss is the sum
        engine.backward(loss * distributed.world_size(), scale_wrt_gas=False)

    def _discard_gradients(self) -> None:
        for zero in self.zero.values():
            zero.discard_gradients()
        if self.plain is not None:
            self.plain.optimizer.zero_grad()

    def _optimize(self, rates: Mapping[str, float]) -> dict[str, float]:
        """All norms come before any step, which would be too late to stop."""
        if self.plain is not None:
            self.plain.average_gradients()
        norms = {name: self._state_of(name).norm() for name in rates}
        finite = all(norm.isfinite() for norm in norms.values())
        for name, rate in rates.items() if finite else ():
            self._state_of(name).step(rate, norms[name])
        if not finite:
            self._discard_gradients()
        elif self.plain is not None:
            self.plain.optimizer.zero_grad()
        return {name: float(norm) for name, norm in norms.items()}

    def _gathered(self, tensors: Sequence[Tensor]) -> contextlib.AbstractContextManager:
        """A context within which parameters that are spread over the ranks are whole on each."""
        spread = [tensor for tensor in tensors if hasattr(tensor, "ds_id")]
        return self._deepspeed.zero.GatheredParameters(spread) if spread else contextlib.nullcontext()

    def _whole(self, named: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        for name, tensor in named:
            with self._gathered([tensor]):
                yield name, tensor.detach()

    def _state_of(self, name: str) -> ZeroModel | PlainModel:
        return self.zero[name] if name in self.zero or self.plain is None else self.plain

    def _parameters(self, name: str) -> Iterable[tuple[str, Tensor]]:
        return self._state_of(name).parameters()

    def _moments(self, name: str) -> Iterable[tuple[str, Tensor]]:
        return self._state_of(name).moments()

    def _restore(self, name: str, saved: saved_state.Saved) -> None:
        state = self._state_of(name)
        if isinstance(state, ZeroModel):
            state.restore(saved, self.rounded_steps)
        else:
            state.restore_parameters(saved)
            state.restore_moments(saved)

    def _make_reference(self) -> Reference:
        reference = Reference(self.model)
        if reference.copy is not None:
            if self._half:  # parameters alone, as DeepSpeed does: rotary frequencies must stay fp32
                for parameter in reference.copy.parameters():
                    parameter.data = parameter.data.to(torch.bfloat16)
            if self.stage == 3:  # its parameters are spread, too
                self._deepspeed.initialize(model=reference.copy, config=self._config)
        return reference


def _check(stage: int, *, offload_optimizer: bool, offload_param: bool, compiles: bool) -> None:
    if compiles and stage == 3:
        raise ConfigError(
            "learner.compile=true: stage 3 gathers weights inside the layers; type learner.compile=false, or "
            "learner.stage=2"
        )
    for key, value, least in (("offload_optimizer", offload_optimizer, 1), ("offload_param", offload_param, 3)):
        if value and stage < least:
            raise ConfigError(
                f"learner.{key}=true: stage {stage} keeps it on the device; type learner.stage={least}, or "
                f"learner.{key}=false"
            )


def _imported(device: torch.device) -> Any:
    """The DeepSpeed module, set up to compile nothing: a process that is killed while compiling leaves a lock file, for
    which every later process waits."""
    if device.type == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    try:
        import deepspeed
    except ImportError as error:
        raise ConfigError(
            f"learner=deepspeed_zero: DeepSpeed cannot be imported ({error}); type pip install 'dqo-rl[deepspeed]', or "
            "learner=torch_single"
        ) from error
    if device.type == "cpu":  # DeepSpeed looks this CPU operation up, and would compile others for it
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.utils.logger.setLevel("ERROR")
    return deepspeed
