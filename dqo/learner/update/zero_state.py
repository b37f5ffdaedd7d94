"""One trained model under DeepSpeed's ZeRO, of any stage: gradient, step, and the state to save. What is asked of
DeepSpeed here beyond its documented functions was read in its version 0.19.8."""

import contextlib
import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from dqo.learner.update.rounding import RoundedSteps
from dqo.learner.update.saved_state import Saved


class ZeroModel:
    """As ``PlainModel``, with an engine. Every method is a collective."""

    def __init__(self, deepspeed: Any, engine: Any, trained: Mapping[str, Parameter], device: torch.device):
        self.engine, self.trained, self._deepspeed, self._device = engine, trained, deepspeed, device
        self.stage: int = engine.zero_optimization_stage()

    def norm(self) -> Tensor:
        """Of the step's gradient; not finite where the gradient is not."""
        optimizer = self.engine.optimizer
        if self.stage == 0:
            return torch.nn.utils.get_total_norm([p.grad for p in self.trained.values() if p.grad is not None])
        if self.stage == 3:
            norms = torch.stack(optimizer._get_norm_groups())  # of groups of parameters; -1 where one is not finite
            return torch.linalg.vector_norm(norms) if (norms >= 0).all() else torch.tensor(math.inf)
        optimizer._wait_for_offload_copies()
        return optimizer.scaled_global_norm()

    def step(self, rate: float, norm: Tensor) -> None:
        """The optimizer's step. The engine clips the gradient, by a norm that it computes again."""
        for group in self.engine.optimizer.param_groups:
            group["lr"] = rate
        self.engine.step()

    def parameters(self) -> Iterator[tuple[str, Tensor]]:
        """fp32, whole, one at a time."""
        for key, parameter in self.trained.items():
            yield key, parameter if self.stage == 0 else self._deepspeed.utils.safe_get_full_fp32_param(parameter)

    def moments(self) -> Iterator[tuple[str, Tensor]]:
        """The optimizer's state as (<key>/<parameter>, tensor). Moments that are spread over ranks are gathered; the
        count of steps is the same for all parameters."""
        self._link()
        for key, parameter in self.trained.items():
            part = self.parts[0] if self.stage else parameter
            for moment, value in self._states.get(part, {}).items():
                if self.stage > 0 and value.shape == part.shape:
                    value = self._deepspeed.utils.safe_get_full_optimizer_state(parameter, moment)
                yield f"{moment}/{key}", value.clone()  # safetensors refuses one tensor under several names

    def restore(self, saved: Saved, rounded_steps: RoundedSteps) -> None:
        """Take back parameters and the optimizer's state."""
        if moments := saved.moments(next(iter(self.trained))):
            self._create_moments(moments)
        for key, parameter in self.trained.items():
            value, moments = saved.parameter(key).to(self._device), saved.moments(key).items()
            if self.stage == 0:
                parameter.data.copy_(value)
                self._states[parameter] = {moment: tensor.to(self._device, copy=True) for moment, tensor in moments}
                continue
            self._deepspeed.utils.safe_set_full_fp32_param(parameter, value)
            for moment, tensor in moments:
                if tensor.ndim:
                    self._deepspeed.utils.safe_set_full_optimizer_state(parameter, tensor.to(self._device), moment)
        rounded_steps.round(self.parts)
        for key, value in self.parameters():
            with self._gathered_for_writing(self.trained[key]), torch.no_grad():
                self.trained[key].copy_(value)

    @property
    def parts(self) -> list[Tensor]:
        """What the base optimizer updates: parameters at stage 0, else this rank's flat fp32 parts of them."""
        if self.stage == 0:
            return list(self.trained.values())
        optimizer = self.engine.optimizer
        return optimizer.fp32_partitioned_groups_flat if self.stage == 3 else optimizer.single_partition_of_fp32_groups

    @property
    def _states(self) -> dict[Tensor, dict[str, Tensor]]:
        """State of the base optimizer, keyed by ``parts``."""
        return self.engine.optimizer.state if self.stage == 0 else self.engine.optimizer.optimizer.state

    def _create_moments(self, moments: dict[str, Tensor]) -> None:
        """Zero moments to write into: an optimizer that has not stepped yet has none. ``moments``: one parameter's."""
        if self.stage == 0:
            return
        for part in self.parts:
            self._states[part] = {
                key: torch.zeros_like(part) if moment.ndim else moment.to(part.device, copy=True)
                for key, moment in moments.items()
            }
        self._link()

    def _link(self) -> None:
        """Tell parameters of stages 1 and 2 where their moments are. DeepSpeed does it when the first group of
        parameters has stepped, and then the other groups have none yet."""
        if self.stage in (1, 2) and self._states:
            self.engine.optimizer._hp_optimizer_states_linked = False
            self.engine.optimizer._lazy_init_hp_params_optimizer_state()

    def _gathered_for_writing(self, parameter: Parameter) -> contextlib.AbstractContextManager:
        if hasattr(parameter, "ds_id"):
            return self._deepspeed.zero.GatheredParameters([parameter], modifier_rank=0)
        return contextlib.nullcontext()

    def discard_gradients(self) -> None:
        """Bring the engine to where it was before the step's first pass. DeepSpeed forgets what it keeps between two
        passes of a step at the end of its step alone, and after a pass that has failed halfway its counters and buckets
        would not fit the next one."""
        self.engine.zero_grad()
        if self.stage == 0:
            return
        optimizer = self.engine.optimizer
        optimizer.zero_grad()
        optimizer.params_already_reduced = _falses(optimizer.params_already_reduced)
        if self.stage == 3:
            _discard_at_stage_3(self.engine)
        else:
            _discard_at_stages_1_and_2(optimizer)
        state = optimizer._backward_hook_state
        state.backward_active_depth = state.remaining_grad_acc_hooks = 0
        state.reset_for_new_step()


def _discard_at_stages_1_and_2(optimizer: Any) -> None:
    for bucket in optimizer.ipg_buckets.values():  # gradients on their way into the flat ones
        bucket.clear()
    optimizer.extra_large_param_to_reduce.clear()
    optimizer.previous_reduced_grads.clear()
    optimizer._release_ipg_buffers()
    optimizer.micro_step_id = -1  # the next pass is the first: offloaded gradients are written and not added
    if optimizer.cpu_offload:
        optimizer._offload_accumulated_param_ids = set()
        optimizer.reset_cpu_buffers()
    for sums in (optimizer.averaged_gradients, optimizer.all_grad_tensors):
        sums.update(dict.fromkeys(sums))


def _discard_at_stage_3(engine: Any) -> None:
    optimizer = engine.optimizer
    for bucket in optimizer.ipg_buckets.values():
        bucket.clear_params()
    optimizer.micro_step_id = 0  # the next pass writes the sums and does not add to them
    optimizer.averaged_gradients = {}
    if optimizer.offload_optimizer:
        optimizer._offload_boundary_param_ids = set()
        optimizer.reset_cpu_buffers()
    engine._forward_epilogue()  # the model is no longer in a forward pass
    coordinator = optimizer.parameter_offload.get_param_coordinator()
    coordinator.release_backward_leftovers()
    if not coordinator.is_invalid_trace():
        coordinator._invalidate_trace()
    optimizer.empty_partition_cache()  # weights that were gathered for the pass


def _falses(flags: Any) -> Any:
    return dict.fromkeys(flags, False) if isinstance(flags, dict) else [False] * len(flags)
