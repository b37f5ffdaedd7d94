"""What is random in a forward pass. A model in eval mode has no dropout, no layer drop and no router noise, in whatever
way its architecture writes them. So the policy always computes in eval mode; only LoRA's dropout can be switched on."""

import contextlib
from collections.abc import Iterator

import numpy
import torch
from peft.tuners.lora import LoraLayer
from torch.nn import Module
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from dqo.errors import ConfigError


def enable_checkpointing(policy: PreTrainedModel) -> None:
    """Prepare the policy's layers for ``checkpointing``. Within a layer everything is in eval mode: transformers ties
    checkpointing to training mode, which would switch dropout on. Raises ConfigError for a model that cannot do it."""
    if not policy.supports_gradient_checkpointing:
        raise ConfigError(
            f"learner.gradient_checkpointing=true: {type(policy).__name__} cannot recompute its activations; type "
            "learner.gradient_checkpointing=false"
        )

    def contexts() -> tuple[contextlib.AbstractContextManager, contextlib.AbstractContextManager]:
        return _training(layers, False), _training(layers, False)

    policy.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False, "context_fn": contexts})
    layers = _checkpointed(policy)  # once: a search for each layer of each pass would take longer than a small pass


def checkpointing(model: Module) -> contextlib.AbstractContextManager:
    """Within the block layers recompute their activations in the backward pass, after ``enable_checkpointing``."""
    return _training(_checkpointed(model), True)


def eval_mode(model: Module) -> contextlib.AbstractContextManager:
    """Within the block all modules are in eval mode."""
    return _training(list(model.modules()), False)


@contextlib.contextmanager
def lora_dropout(model: Module, seed: tuple[int, ...], device: torch.device) -> Iterator[None]:
    """Within the block LoRA's dropout is on. Its masks depend on ``seed`` and the order of calls alone: a resumed run
    draws the same. After the block the global generators are as they were."""
    dropouts = [m for layer in model.modules() if isinstance(layer, LoraLayer) for m in layer.lora_dropout.values()]
    devices, kind = ([], "cuda") if device.type == "cpu" else ([device], device.type)
    with torch.random.fork_rng(devices, device_type=kind), _training(dropouts, True):
        torch.manual_seed(int(numpy.random.SeedSequence(seed).generate_state(1)[0]))
        yield


def _checkpointed(model: Module) -> list[Module]:
    """The modules whose training mode switches checkpointing on: the layers, or what calls them in a model's own code
    that does not use transformers' layer class."""
    enabled = [module for module in model.modules() if getattr(module, "gradient_checkpointing", False)]
    return [module for module in enabled if isinstance(module, GradientCheckpointingLayer)] or enabled


@contextlib.contextmanager
def _training(modules: list[Module], on: bool) -> Iterator[None]:
    """Within the block the flags of these modules are ``on``. ``Module.train`` would change their children's too."""
    before = [module.training for module in modules]
    for module in modules:
        module.training = on
    try:
        yield
    finally:
        for module, was in zip(modules, before, strict=True):
            module.training = was
