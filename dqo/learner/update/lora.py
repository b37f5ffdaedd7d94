"""LoRA (arXiv 2106.09685) with peft: a policy with adapters, and its weights with the adapters merged in."""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import Tensor
from transformers import PreTrainedModel

from dqo.errors import ConfigError
from dqo.stages import Weights

ADAPTER = "default"  # peft's name of a single adapter
TargetModules = list[str] | Literal["all-linear"] | None
Gather = Callable[[Sequence[Tensor]], contextlib.AbstractContextManager]


def with_lora(
    policy: PreTrainedModel, *, r: int, alpha: int, dropout: float, target_modules: TargetModules
) -> PeftModel:
    """The policy with new adapters, changed in place. The base model is frozen, the adapters are trainable; outputs are
    the same until the first update.

    ``target_modules``: module names or their last parts; "all-linear": every linear layer but the head; None: peft's
    default for the architecture. Raises ConfigError for an unknown module, and for the embedding or the head, which may
    be tied.
    """
    tied = (policy.get_input_embeddings(), policy.get_output_embeddings())
    allowed = "type learner.lora_target_modules=all-linear, or a list of its linear layers' names"
    for target in target_modules if isinstance(target_modules, list) else []:
        modules = [m for name, m in policy.named_modules() if name == target or name.endswith(f".{target}")]
        if not modules:
            raise ConfigError(
                f"learner.lora_target_modules: there is no {target!r} in {type(policy).__name__}; {allowed}"
            )
        if any(module is other for module in modules for other in tied):
            raise ConfigError(f"learner.lora_target_modules: {target!r} may be tied to another weight; {allowed}")
    config = LoraConfig(
        r=r, lora_alpha=alpha, lora_dropout=dropout, target_modules=target_modules, task_type="CAUSAL_LM"
    )
    try:
        return get_peft_model(policy, config)  # type: ignore[return-value]
    except ValueError as error:
        if target_modules is not None:
            raise
        raise ConfigError(
            f"learner.lora_target_modules=null: peft has no default for {type(policy).__name__}; {allowed}"
        ) from error


def merged_weights(model: PeftModel, gather: Gather = lambda parameters: contextlib.nullcontext()) -> Weights:
    """(Hugging Face name, tensor) of the policy's weights W + B A * scale, one at a time; a tensor is valid until the
    next one is requested.

    Sums are float32. The model itself is not merged, since unmerging would add rounding errors. ``gather(tensors)``: a
    context within which an engine that shards parameters gathers these; the call is then a collective.
    """
    policy = model.get_base_model()
    layers = [(name, layer) for name, layer in policy.named_modules() if isinstance(layer, LoraLayer)]
    adapted: dict[str, Any] = {f"{name}.base_layer.weight": layer for name, layer in layers}
    for name, tensor in policy.state_dict(keep_vars=True).items():
        if ".lora_" in name:
            continue
        adapters = (
            [p for key, p in adapted[name].named_parameters() if ".lora_" in f".{key}"] if name in adapted else []
        )
        with gather([tensor, *adapters]), torch.no_grad():
            merged = tensor.detach()
            if adapters:
                merged = merged.float() + adapted[name].get_delta_weight(ADAPTER).float()
            yield name.replace(".base_layer.", "."), merged
