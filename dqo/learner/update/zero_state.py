"""What DeepSpeed's ZeRO optimizers keep between two passes of a step. DeepSpeed (0.19.8) forgets it at the end of its
step alone, and after a pass that has failed halfway its counters and buckets would not fit the next one."""

from typing import Any


def discard_gradients(engine: Any) -> None:
    """Bring a DeepSpeed engine of any ZeRO stage to where it was before the step's first pass."""
    engine.zero_grad()
    if engine.zero_optimization_stage() == 0:
        return
    optimizer = engine.optimizer
    optimizer.zero_grad()
    optimizer.params_already_reduced = _falses(optimizer.params_already_reduced)
    if engine.zero_optimization_stage() == 3:
        _discard_at_stage_3(engine)
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
