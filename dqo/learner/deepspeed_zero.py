"""learner=deepspeed_zero: DeepSpeed's ZeRO (arXiv 1910.02054), on one process or many."""

import contextlib
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Any

import torch
from peft import PeftModel
from pydantic import Field
from torch import Tensor
from torch.nn import Parameter
from transformers import PreTrainedModel

from dqo import distributed
from dqo.errors import ConfigError
from dqo.learner.update import saved_state
from dqo.learner.update.base import POLICY, Base, Model
from dqo.learner.update.logprobs import token_logprobs
from dqo.learner.update.lora import merged_weights
from dqo.learner.update.packing import MicroBatch
from dqo.learner.update.reference import Reference
from dqo.learner.update.settings import LearnerSettings
from dqo.learner.update.zero_state import discard_gradients
from dqo.stages import Loss, Optim, Weights


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
        *,
        stage: Annotated[int, Field(ge=0, le=3, examples=[2])],
        offload_optimizer: bool,
        offload_param: bool,
        settings: LearnerSettings,
    ):
        _check(stage, offload_optimizer=offload_optimizer, offload_param=offload_param, compiles=settings.compile)
        self._deepspeed = _imported(device)
        super().__init__(policy, device, loss, optim, needs_reference, settings)
        self.models[POLICY] = policy
        distributed.init_single_process()
        self.stage = stage
        self._offloaded = {"offload_optimizer": offload_optimizer, "offload_param": offload_param}
        self._config = self._engine_config()
        self.reference = self._make_reference() if needs_reference else None
        optimizer = self.optim.make(self.policy.named_parameters())
        self.rounded_steps.attach(optimizer)
        self.engine, self.optimizer, *_ = self._deepspeed.initialize(
            model=self.model, optimizer=optimizer, config=self._config
        )

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

    def _head_of(self, model: Model) -> torch.nn.Module | None:
        """At stage 3 each call of the head is a collective, and processes would differ in their number."""
        return None if self.stage == 3 else super()._head_of(model)

    def _forward(self, model: Model, batch: MicroBatch, *, temperature: float) -> tuple[Tensor, Tensor]:
        called = self.engine if model is self.model and torch.is_grad_enabled() else model
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._autocast):
            return token_logprobs(
                called, batch, temperature=temperature, device=self.device, head=self._head_of(model),
                entropy_gradient=self.entropy_gradient,
            )  # fmt: skip

    def _backward(self, loss: Tensor, *, last: bool) -> None:
        self.engine.set_gradient_accumulation_boundary(last)
        # DeepSpeed takes the mean over processes, a step's loss is the sum
        self.engine.backward(loss * distributed.world_size(), scale_wrt_gas=False)

    def _discard_gradients(self) -> None:
        discard_gradients(self.engine)

    def _optimize(self, rate: float) -> dict[str, float]:
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        return {POLICY: self._norm_at_stage_0() if self.stage == 0 else self._norm_of_step()}

    def _norm_at_stage_0(self) -> float:
        gradients = [p.grad for p in self.trained_parameters(POLICY).values() if p.grad is not None]
        norm = float(torch.nn.utils.get_total_norm(gradients))
        if math.isfinite(norm):
            self.engine.step()  # clips, too
        self.engine.zero_grad()
        return norm

    def _norm_of_step(self) -> float:
        self.engine.step()
        if self.optimizer.overflow:  # it has taken no step
            return float("inf")
        return float(self.optimizer._global_grad_norm)

    def _gathered(self, tensors: Sequence[Tensor]) -> contextlib.AbstractContextManager:
        """A context within which parameters that are spread over the ranks are whole on each."""
        spread = [tensor for tensor in tensors if hasattr(tensor, "ds_id")]
        return self._deepspeed.zero.GatheredParameters(spread) if spread else contextlib.nullcontext()

    def _whole(self, named: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        for name, tensor in named:
            with self._gathered([tensor]):
                yield name, tensor.detach()

    def _parameters(self, name: str) -> Iterator[tuple[str, Tensor]]:
        for key, parameter in self.trained_parameters(name).items():
            yield key, parameter if self.stage == 0 else self._deepspeed.utils.safe_get_full_fp32_param(parameter)

    def _moments(self, name: str) -> Iterator[tuple[str, Tensor]]:
        """Moments that are spread over ranks are gathered; the count of steps is the same for all parameters."""
        self._link()
        for key, parameter in self.trained_parameters(name).items():
            part = parameter if self.stage == 0 else self._parts()[0]
            for moment, value in self._states().get(part, {}).items():
                if self.stage > 0 and value.shape == part.shape:
                    value = self._deepspeed.utils.safe_get_full_optimizer_state(parameter, moment)
                yield f"{moment}/{key}", value.clone()  # safetensors refuses one tensor under several names

    def _restore(self, name: str, saved: saved_state.Saved) -> None:
        trained = self.trained_parameters(name)
        if moments := saved.moments(next(iter(trained))):
            self._create_moments(moments)
        for key, parameter in trained.items():
            value, moments = saved.parameter(key).to(self.device), saved.moments(key).items()
            if self.stage == 0:
                parameter.data.copy_(value)
                self._states()[parameter] = {name: tensor.to(self.device, copy=True) for name, tensor in moments}
                continue
            self._deepspeed.utils.safe_set_full_fp32_param(parameter, value)
            for moment, tensor in moments:
                if tensor.ndim:
                    self._deepspeed.utils.safe_set_full_optimizer_state(parameter, tensor.to(self.device), moment)
        self.rounded_steps.round(trained.values() if self.stage == 0 else self._parts())
        for key, value in self._parameters(name):
            with self._gathered_for_writing(trained[key]), torch.no_grad():
                trained[key].copy_(value)

    def _create_moments(self, moments: dict[str, Tensor]) -> None:
        """Zero moments to write into: an optimizer that has not stepped yet has none. ``moments``: one parameter's."""
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

    def _gathered_for_writing(self, parameter: Parameter) -> contextlib.AbstractContextManager:
        if hasattr(parameter, "ds_id"):
            return self._deepspeed.zero.GatheredParameters([parameter], modifier_rank=0)
        return contextlib.nullcontext()

    def _states(self) -> dict[Tensor, dict[str, Tensor]]:
        """State of the base optimizer, keyed by the tensors that it updates: parameters at stage 0, else this rank's
        flat fp32 parts."""
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
