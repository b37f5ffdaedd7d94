"""LoRA (arXiv 2106.09685) through peft: adapters in a policy, and the policy's weights with them merged in."""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import Tensor
from transformers import PreTrainedModel

from dqo.errors import ConfigError
from dqo.stages import Weights

ADAPTER = "default"  # peft's name for the only one
Gathered = Callable[[Sequence[Tensor]], contextlib.AbstractContextManager]


def with_lora(
    policy: PreTrainedModel, *, r: int, alpha: int, dropout: float, target_modules: list[str] | None
) -> PeftModel:
    """The policy with fresh adapters, changed in place: base frozen, adapters trained, nothing changed yet in what it
    computes. ``target_modules``: ends of module names; None: peft's choice for the architecture. Raises ConfigError."""
    for key, value in (("lora_r", r), ("lora_alpha", alpha)):
        if value < 1:
            raise ConfigError(f"learner.{key}={value}: 1 or more is needed; type learner.{key}=16")
    if not 0 <= dropout < 1:
        raise ConfigError(f"learner.lora_dropout={dropout}: 0 to below 1 is allowed; type learner.lora_dropout=0.05")
    ends = (policy.get_input_embeddings(), policy.get_output_embeddings())
    allowed = f"type learner.lora_target_modules=[{','.join(_linear_names(policy))}], or some of these"
    for target in target_modules or []:
        chosen = [m for name, m in policy.named_modules() if name == target or name.endswith(f".{target}")]
        if not chosen:
            raise ConfigError(
                f"learner.lora_target_modules: there is no {target!r} in {type(policy).__name__}; {allowed}"
            )
        if any(module is end for module in chosen for end in ends):
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
            f"learner.lora_target_modules=null: peft has no choice for {type(policy).__name__}; {allowed}"
        ) from error


def merged_weights(model: PeftModel, gathered: Gathered = lambda parameters: contextlib.nullcontext()) -> Weights:
    """(Hugging Face name, tensor) of the policy as it computes: each W plus its B A * scale, one tensor at a time. The
    model is not touched, so that nothing is lost in merging back. ``gathered``: in which the given parameters are
    whole, where an engine keeps them in parts; a tensor is valid until the next one is asked for."""
    policy = model.get_base_model()
    layers = [(name, layer) for name, layer in policy.named_modules() if isinstance(layer, LoraLayer)]
    adapted: dict[str, Any] = {f"{name}.base_layer.weight": layer for name, layer in layers}
    for name, tensor in policy.state_dict(keep_vars=True).items():
        if ".lora_" in name:
            continue
        adapters = (
            [p for key, p in adapted[name].named_parameters() if ".lora_" in f".{key}"] if name in adapted else []
        )
        with gathered([tensor, *adapters]), torch.no_grad():
            whole = tensor.detach()
            if adapters:
                whole = whole + adapted[name].get_delta_weight(ADAPTER)
            yield name.replace(".base_layer.", "."), whole


def _linear_names(policy: PreTrainedModel) -> list[str]:
    """The last parts of the linear layers' names, the head's aside."""
    head = policy.get_output_embeddings()
    linear = [
        name.rpartition(".")[2]
        for name, module in policy.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not head
    ]
    return list(dict.fromkeys(linear))
