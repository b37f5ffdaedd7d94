"""learner=deepspeed_zero: DeepSpeed's ZeRO (arXiv 1910.02054), on one process or many."""

import contextlib
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from torch.nn import Parameter
from transformers import PreTrainedModel

from dqo import distributed
from dqo.errors import ConfigError
from dqo.learner.parts import Loss, Optim
from dqo.learner.update import state
from dqo.learner.update.base import Base, Model
from dqo.learner.update.logprobs import token_logprobs
from dqo.learner.update.lora import merged_weights
from dqo.learner.update.packing import MicroBatch
from dqo.learner.update.reference import Reference
from dqo.models.precision import Dtype
from dqo.stages import Weights

STAGES = (0, 1, 2, 3)


class DeepSpeedZero(Base):
    """Each process learns from its own groups, and the step is that of all.

    ``stage`` 0: every process holds everything; 1: the optimizer's state is spread over the processes; 2: gradients
    too; 3: weights too. With ``dtype=bfloat16`` stages 0 and 1 have fp32 weights and autocast, as ``torch_single``;
    stages 2 and 3 have weights of that type beside spread fp32 ones. Gradients are summed in fp32.
    """

    def __init__(
        self,
        policy: PreTrainedModel,
        device: torch.device,
        loss: Loss,
        optim: Optim,
        *,
        stage: int,
        offload_optimizer: bool,
        offload_param: bool,
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
        _check(stage, offload_optimizer=offload_optimizer, offload_param=offload_param)
        self.stage, self._deepspeed = stage, _imported(device)
        self._offloaded = {"offload_optimizer": offload_optimizer, "offload_param": offload_param}
        super().__init__(
            policy, device, loss, optim,
            temperature=temperature, num_iterations=num_iterations, shared_prompt=shared_prompt, dtype=dtype,
            max_tokens_per_micro_batch=max_tokens_per_micro_batch, gradient_checkpointing=gradient_checkpointing,
            lora_r=lora_r, lora_alpha=lora_alpha, lora_dropout=lora_dropout, lora_target_modules=lora_target_modules,
        )  # fmt: skip

    def _start(self) -> None:
        distributed.init_single_process()
        offload = {"device": "cpu", "pin_memory": self.device.type == "cuda"}
        self._config = {
            "train_micro_batch_size_per_gpu": 1,  # DeepSpeed asks; ours are packed by tokens
            "gradient_accumulation_steps": 1,
            "gradient_clipping": self.optim.max_grad_norm or 0.0,
            "zero_optimization": {
                "stage": self.stage,
                **{key: offload for key, wanted in self._offloaded.items() if wanted},
            },
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,  # it is compiled at its first use
            "bf16": {"enabled": self._half, "check_grad_overflow": True},
            "data_types": {"grad_accum_dtype": "fp32"},
            "communication_data_type": "fp32",  # of gradients: bfloat16 sums would lose what small ones add
            # DeepSpeed switches an autocast that it is not told of off
            "torch_autocast": {"enabled": self._autocast, "dtype": "bfloat16", "lower_precision_safe_modules": []},
        }
        self.reference = self._make_reference() if self.loss.needs_reference else None
        self.engine, self.optimizer, *_ = self._deepspeed.initialize(
            model=self.model, optimizer=self.optim.make(self.policy.named_parameters()), config=self._config
        )

    def weights(self) -> Weights:
        """What the policy computes with, tensor by tensor; each is whole until the next is asked for."""
        if isinstance(self.model, PeftModel):
            return merged_weights(self.model, self._gathered)
        return self._whole(self.policy.state_dict(keep_vars=True).items())

    def save(self, folder: Path) -> None:
        state.save(folder, parameters=self._fp32(), moments=self._moments(), version=self.version)

    def load(self, folder: Path) -> None:
        """Raises ConfigError for a checkpoint of another model or of other adapters."""
        trained = self._trained()
        saved = state.Saved(folder, {name: _shape(parameter) for name, parameter in trained.items()})
        self._restore(trained, saved)
        self.version = saved.version

    def _reference(self) -> contextlib.AbstractContextManager[Model]:
        assert self.reference, "the loss needs one"
        return self.reference.model()

    @property
    def _half(self) -> bool:
        """Whether weights are bfloat16. Not at stage 1, where DeepSpeed 0.19.8 would take another optimizer, whose
        gradient norm is 3.6 times that of all others in our comparison."""
        return self.bf16 and self.stage >= 2

    @property
    def _autocast(self) -> bool:
        return self.bf16 and not self._half

    def _head_of(self, model: Model) -> torch.nn.Module | None:
        """At stage 3 each call of the head is a collective, and processes would differ in their number."""
        return None if self.stage == 3 else super()._head_of(model)

    def _forward(self, model: Model, batch: MicroBatch, *, temperature: float) -> tuple[Tensor, Tensor]:
        called = self.engine if model is self.model and torch.is_grad_enabled() else model
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._autocast):
            return token_logprobs(called, batch, temperature=temperature, device=self.device, head=self._head_of(model))

    def _backward(self, loss: Tensor, *, last: bool) -> None:
        self.engine.set_gradient_accumulation_boundary(last)
        # DeepSpeed takes the mean over processes, a step's loss is the sum
        self.engine.backward(loss * distributed.world_size(), scale_wrt_gas=False)

    def _optimize(self, rate: float) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        if self.stage == 0:
            gradients = [p.grad for p in self._trained().values() if p.grad is not None]
            norm = float(torch.nn.utils.get_total_norm(gradients))
            if math.isfinite(norm):
                self.engine.step()  # clips, too
            self.engine.zero_grad()
            return norm
        self.engine.step()
        if self.optimizer.overflow:  # it has taken no step
            return float("inf")
        return float(self.optimizer._global_grad_norm)

    def _trained(self) -> dict[str, Parameter]:
        return {name: parameter for name, parameter in self.policy.named_parameters() if parameter.requires_grad}

    def _gathered(self, tensors: Sequence[Tensor]) -> contextlib.AbstractContextManager:
        """Within it, parameters that are spread over the processes are whole on each."""
        spread = [tensor for tensor in tensors if hasattr(tensor, "ds_id")]
        return self._deepspeed.zero.GatheredParameters(spread) if spread else contextlib.nullcontext()

    def _whole(self, named: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        for name, tensor in named:
            with self._gathered([tensor]):
                yield name, tensor.detach()

    def _fp32(self) -> Iterator[tuple[str, Tensor]]:
        for name, parameter in self._trained().items():
            yield name, parameter if self.stage == 0 else self._deepspeed.utils.safe_get_full_fp32_param(parameter)

    def _moments(self) -> Iterator[tuple[str, Tensor]]:
        """By <key>/<parameter>. Spread ones are put together; a count of steps is the same for all parameters."""
        self._link()
        for name, parameter in self._trained().items():
            part = parameter if self.stage == 0 else self._parts()[0]
            for key, value in self._states().get(part, {}).items():
                if self.stage > 0 and value.shape == part.shape:
                    value = self._deepspeed.utils.safe_get_full_optimizer_state(parameter, key)
                yield f"{key}/{name}", value.clone()  # one count for many would be stored as shared memory

    def _restore(self, trained: dict[str, Parameter], saved: state.Saved) -> None:
        if moments := saved.moments(next(iter(trained))):
            self._make_room(moments)
        for name, parameter in trained.items():
            value = saved.parameter(name).to(self.device)
            with self._written(parameter), torch.no_grad():
                parameter.copy_(value)
            if self.stage == 0:
                self._states()[parameter] = {
                    key: tensor.to(self.device, copy=True) for key, tensor in saved.moments(name).items()
                }
                continue
            self._deepspeed.utils.safe_set_full_fp32_param(parameter, value)
            for key, moment in saved.moments(name).items():
                if moment.ndim:
                    self._deepspeed.utils.safe_set_full_optimizer_state(parameter, moment.to(self.device), key)

    def _make_room(self, moments: dict[str, Tensor]) -> None:
        """An optimizer that has not stepped yet has no moments to write into. ``moments``: those of one parameter."""
        if self.stage == 0:
            return
        for part in self._parts():
            self._states()[part] = {
                key: torch.zeros_like(part) if moment.ndim else moment.to(part.device, copy=True)
                for key, moment in moments.items()
            }
        self._link()

    def _link(self) -> None:
        """Tell parameters of stages 1 and 2 where their moments are. DeepSpeed does it when the first group of
        parameters has stepped, and then the other groups have none yet (0.19.8)."""
        if self.stage in (1, 2) and self._states():
            self.optimizer._hp_optimizer_states_linked = False
            self.optimizer._lazy_init_hp_params_optimizer_state()

    def _written(self, parameter: Parameter) -> contextlib.AbstractContextManager:
        if hasattr(parameter, "ds_id"):
            return self._deepspeed.zero.GatheredParameters([parameter], modifier_rank=0)
        return contextlib.nullcontext()

    def _states(self) -> dict[Tensor, dict[str, Tensor]]:
        """The base optimizer's, by what it steps: parameters at stage 0, else this process's flat fp32 parts."""
        return self.optimizer.state if self.stage == 0 else self.optimizer.optimizer.state

    def _parts(self) -> list[Tensor]:
        names = ("fp32_partitioned_groups_flat", "single_partition_of_fp32_groups")  # stage 3 | 1 and 2
        return next(getattr(self.optimizer, name) for name in names if hasattr(self.optimizer, name))

    def _make_reference(self) -> Reference:
        reference = Reference(self.model)
        if reference.copy is not None:
            if self._half:  # parameters alone, as DeepSpeed does: rotary frequencies must stay fp32
                for parameter in reference.copy.parameters():
                    parameter.data = parameter.data.to(torch.bfloat16)
            if self.stage == 3:  # its parameters are spread, too
                self._deepspeed.initialize(model=reference.copy, config=self._config)
        return reference


def _check(stage: int, *, offload_optimizer: bool, offload_param: bool) -> None:
    if stage not in STAGES:
        raise ConfigError(f"learner.stage={stage}: 0, 1, 2 or 3 is allowed; type learner.stage=2")
    for key, value, least in (("offload_optimizer", offload_optimizer, 1), ("offload_param", offload_param, 3)):
        if value and stage < least:
            raise ConfigError(
                f"learner.{key}=true: stage {stage} keeps it on the device; type learner.stage={least}, or "
                f"learner.{key}=false"
            )


def _imported(device: torch.device) -> Any:
    """DeepSpeed, with nothing that it would compile: a process killed while it does leaves a lock for which every later
    one waits."""
    if device.type == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    try:
        import deepspeed
    except ImportError as error:
        raise ConfigError(
            f"learner=deepspeed_zero: DeepSpeed cannot be imported ({error}); type pip install 'dqo-rl[deepspeed]', or "
            "learner=torch_single"
        ) from error
    if device.type == "cpu":  # it is an operation of CPUs; to ask for it compiles others
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.utils.logger.setLevel("ERROR")
    return deepspeed


def _shape(parameter: Parameter) -> tuple[int, ...]:
    return tuple(getattr(parameter, "ds_shape", parameter.shape))
