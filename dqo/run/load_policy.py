"""From a configuration to a loaded policy and its task."""

import logging
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from dqo import distributed
from dqo.config.schema import Config
from dqo.models import parameter_counts
from dqo.models.origin import Origin, rendering_difference
from dqo.models.vocabulary import tokens_without_row
from dqo.row_checks import RefusingTokens, Rendered
from dqo.run.build import Policy, make, make_device, make_task
from dqo.run.inputs import Inputs, model_inputs, refuse_other_inputs, task_inputs
from dqo.run.rows import check_rows
from dqo.run.threads import use_threads
from dqo.run.warm_start import fingerprint, is_wanted, warm_started
from dqo.stages import Task

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A policy whose weights are not read yet, and its task: what is quick to build and most often wrong."""

    config: Config
    source: Any  # of the group ``model``
    tokenizer: PreTrainedTokenizerBase
    device: torch.device
    task: Task
    origin: Origin
    inputs: Inputs  # rows and files
    model: PreTrainedModel | None  # of a user's class that has no ``load_config``
    other_rendering: str  # ``rendering_difference``; empty: prompts are rendered as in training, or it is not known

    def load(self, saved: Inputs | None = None) -> Policy:
        """The policy on its device, warm-started if the configuration says so. Raises ConfigError for weights that
        cannot be read or differ from ``saved``."""
        config, origin = self.config, self.origin
        model = self.source.load() if self.model is None else self.model
        use_threads(parameter_counts(model)[0], self.device)
        weights = model_inputs(model)
        refuse_other_inputs(config, weights, saved)
        if is_wanted(config, origin, self.task, self.source.name):
            model = warm_started(config, model, self.tokenizer, self.task)
            origin = replace(origin, warm_starts=(*origin.warm_starts, fingerprint(self.task)))
        torch.nn.Module.to(model, self.device)  # in place; transformers' own ``to`` hides its types
        return Policy(
            name=self.source.name, model=model, tokenizer=self.tokenizer, device=self.device,
            inputs={**self.inputs, **weights}, origin=origin, rendering=_rendering(self.task),
        )  # fmt: skip


def load_policy(config: Config, saved: Inputs | None = None, *, judged: bool = True) -> tuple[Policy, Task]:
    """The policy on its device, warm-started if the configuration says so, and the task. ``saved``: what the run that
    is resumed has read. ``judged``: whether the reward will judge completions; it is then asked about every row.

    Raises ConfigError where files, rows or weights differ from ``saved``.
    """
    prepared = prepare_policy(config, saved, judged=judged)
    return prepared.load(saved), prepared.task


def prepare_policy(config: Config, saved: Inputs | None = None, *, judged: bool = True) -> Prepared:
    """Tokenizer and task of a policy, whose weights can then be read; the parameters are those of ``load_policy``."""
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
    origin = source.load_origin() if hasattr(source, "load_origin") else Origin()
    other = rendering_difference(origin.rendering, _rendering(task))
    if other and distributed.is_rank_0():
        log.warning("model.path=%s: prompts are rendered otherwise than in its training: %s", source.name, other)
    return Prepared(
        config=config, source=source, tokenizer=tokenizer, device=device, task=task, origin=origin, inputs=read,
        model=model, other_rendering=other,
    )  # fmt: skip


def _rendering(task: Task) -> Mapping[str, Any] | None:
    return task.rendering() if isinstance(task, Rendered) else None


def _refuse_tokens(task: Task, tokens: Mapping[str, int]) -> None:
    """Raises ConfigError for a prompt with one of ``tokens``, for which the model has no row."""
    if tokens and isinstance(task, RefusingTokens):
        task.refuse_tokens(tokens)


def context_length(model: PreTrainedConfig) -> int:
    """Tokens of prompt and completion together that a model was made for; endless where positions are not numbered
    (Bloom, Mamba)."""
    text = model.get_text_config()
    return int(getattr(text, "max_position_embeddings", None) or getattr(text, "max_seq_len", None) or sys.maxsize)
