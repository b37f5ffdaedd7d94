"""torch.compile of the model's layers, one by one: norms, rotary embeddings and activations become a few kernels.
Attention stays outside, see ``attention``."""

import logging
from collections.abc import Callable
from typing import Any

import torch
from peft import PeftModel
from torch._dynamo.utils import counters
from torch.nn import Module
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from dqo.learner.update.dropout import checkpointing
from dqo.learner.update.forms import Form, Trial
from dqo.models.attention import allow_recompiling
from dqo.progress import elapsed

Backend = str | Callable[..., Any]  # torch.compile's

log = logging.getLogger(__name__)


def compile_layers(
    model: PreTrainedModel | PeftModel,
    form: Form,
    device: torch.device,
    *,
    bf16: bool,
    values: bool = False,
    backend: Backend = "inductor",
) -> bool:
    """Whether the model's layers are compiled now: for any shape, in place, so that parameters keep their names.

    ``values``: the model is a critic. One forward and backward pass of the compiled model is compared with the same
    pass before. If it fails, or gives other outputs or gradients, the model stays uncompiled and one line is logged.
    """
    if not (layers := decoder_layers(model)):
        log.info("learner.compile has no effect: %s has no layers of transformers' own class", type(model).__name__)
        return False
    with checkpointing(model), elapsed("learner: compiling layers"):
        expected = Trial.of(model, form, device, bf16=bf16, values=values)
        compile_all(layers, backend)
        problem = expected.problem(lambda: Trial.of(model, form, device, bf16=bf16, values=values))
    if problem is not None:
        for layer in layers:
            layer._compiled_call_impl = None  # as Module's own __getstate__ does; torch has no public way
        log.info("learner.compile has no effect: %s, compiled, %s", type(model).__name__, problem)
    return problem is None


def compile_all(layers: list[Module], backend: Backend = "inductor") -> None:
    """Compile these layers in place, once for all of them and for any shape."""
    allow_recompiling()
    for layer in layers:
        layer.compile(dynamic=True, backend=backend)


def is_compiled(model: Module) -> bool:
    """Whether the model's layers are compiled."""
    return any(layer._compiled_call_impl is not None for layer in decoder_layers(model))


def decoder_layers(model: Module) -> list[Module]:
    """The modules of transformers' layer class."""
    return [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]


def compiled_graphs() -> int:
    """How many graphs torch.compile has made in this process. A number that grows with every step means that layers
    are compiled again for each new shape."""
    return counters["stats"]["unique_graphs"]
