"""From a configuration to a loaded policy and its task."""

import sys

import torch
from transformers import PreTrainedModel

from dqo.config.schema import Config
from dqo.run.build import Policy, make, make_device, make_task
from dqo.run.warm_start import warm_started
from dqo.stages import Task


def load_policy(config: Config) -> tuple[Policy, Task]:
    """The policy on its device, warm-started if the configuration says so, and the task.

    Tokenizer and task are built before the weights are read: they are quick, and most often what is wrong.
    """
    source = make(config.model, "model", {})
    tokenizer = source.load_tokenizer()
    device = make_device(config)
    model = source.load()
    task = make_task(config, tokenizer, context_length(model))
    if config.warm_start:
        model = warm_started(config, model, tokenizer, task)
    torch.nn.Module.to(model, device)  # in place; transformers' own ``to`` hides its types
    return Policy(name=source.name, model=model, tokenizer=tokenizer, device=device), task


def context_length(model: PreTrainedModel) -> int:
    """Tokens of prompt and completion together that the model was made for; endless where positions are not numbered
    (Bloom, Mamba)."""
    config = model.config.get_text_config()
    return int(getattr(config, "max_position_embeddings", None) or getattr(config, "max_seq_len", None) or sys.maxsize)
