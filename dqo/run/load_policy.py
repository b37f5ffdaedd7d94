"""From a configuration to a loaded policy and its task."""

import sys
from collections.abc import Mapping
from dataclasses import replace

import torch
from transformers import PreTrainedConfig

from dqo.config.schema import Config
from dqo.models import parameter_counts
from dqo.models.origin import Origin
from dqo.models.vocabulary import tokens_without_row
from dqo.row_checks import RefusingTokens
from dqo.run.build import Policy, make, make_device, make_task
from dqo.run.inputs import Inputs, model_inputs, refuse_other_inputs, task_inputs
from dqo.run.rows import check_rows
from dqo.run.threads import use_threads
from dqo.run.warm_start import fingerprint, is_wanted, warm_started
from dqo.stages import Task


def load_policy(config: Config, saved: Inputs | None = None, *, judged: bool = True) -> tuple[Policy, Task]:
    """The policy on its device, warm-started if the configuration says so, and the task. ``saved``: what the run that
    is resumed has read. ``judged``: whether the reward will judge completions; it is then asked about every row.

    Tokenizer and task are built before the weights are read: they are quick, and most often what is wrong. Raises
    ConfigError where files, rows or weights are not those of ``saved``.
    """
    source = make(config.model, "model", {})
    device, tokenizer = make_device(config), source.load_tokenizer()
    model = None if hasattr(source, "load_config") else source.load()  # a user's class may lack that method
    model_config = source.load_config() if model is None else model.config
    task = make_task(config, tokenizer, context_length(model_config))
    _refuse_tokens(task, tokens_without_row(tokenizer, model_config.get_text_config().vocab_size))
    if judged:
        check_rows(config, task)
    read = task_inputs(config, task)
    refuse_other_inputs(config, read, saved)
    model = source.load() if model is None else model
    use_threads(parameter_counts(model)[0], device)
    weights = model_inputs(model)
    refuse_other_inputs(config, weights, saved)
    origin = source.load_origin() if hasattr(source, "load_origin") else Origin()
    if is_wanted(config, origin, task, source.name):
        model = warm_started(config, model, tokenizer, task)
        origin = replace(origin, warm_starts=(*origin.warm_starts, fingerprint(task)))
    torch.nn.Module.to(model, device)  # in place; transformers' own ``to`` hides its types
    return Policy(
        name=source.name, model=model, tokenizer=tokenizer, device=device, inputs=read | weights, origin=origin
    ), task


def _refuse_tokens(task: Task, tokens: Mapping[str, int]) -> None:
    """Raises ConfigError for a prompt with one of ``tokens``, for which the model has no row."""
    if tokens and isinstance(task, RefusingTokens):
        task.refuse_tokens(tokens)


def context_length(model: PreTrainedConfig) -> int:
    """Tokens of prompt and completion together that a model was made for; endless where positions are not numbered
    (Bloom, Mamba)."""
    text = model.get_text_config()
    return int(getattr(text, "max_position_embeddings", None) or getattr(text, "max_seq_len", None) or sys.maxsize)
