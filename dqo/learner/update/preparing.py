"""From a model to what is trained: with adapters, compiled layers and recomputed activations, as the keys say."""

from typing import cast

import torch
from peft import PeftModel
from torch.nn import Module
from transformers import PreTrainedModel

from dqo.learner.update.compiling import compile_layers
from dqo.learner.update.dropout import enable_checkpointing
from dqo.learner.update.lora import with_lora
from dqo.learner.update.packing import Form
from dqo.learner.update.settings import LearnerSettings

Model = PreTrainedModel | PeftModel


def prepared(
    model: PreTrainedModel, form: Form, device: torch.device, settings: LearnerSettings, *, bf16: bool, critic: bool
) -> Model:
    """What passes call: the model, changed in place, or peft's wrapper of it. A critic's adapters have no dropout, and
    its head is trained whole."""
    if settings.gradient_checkpointing:
        enable_checkpointing(model)
    trained: Model = model
    if settings.lora_r is not None:
        trained = with_lora(
            model, r=settings.lora_r, alpha=settings.lora_alpha, dropout=0.0 if critic else settings.lora_dropout,
            target_modules=settings.lora_target_modules,
        )  # fmt: skip
        if critic:
            cast(Module, model.get_output_embeddings()).requires_grad_(True)
    trained.eval()  # peft's new modules are in training mode
    if settings.compile:
        compile_layers(trained, form, device, bf16=bf16, values=critic)
    return trained


def base_model(model: Model) -> PreTrainedModel:
    """The model within peft's wrapper, whose parameter names a checkpoint has; a model without adapters itself."""
    return model.get_base_model() if isinstance(model, PeftModel) else model  # type: ignore[return-value]
