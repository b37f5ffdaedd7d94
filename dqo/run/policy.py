"""From a configuration to a loaded policy and its task, warmed up where the configuration says so."""

import hashlib
import json
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from dqo import __version__
from dqo.config.typed import plain
from dqo.errors import ConfigError
from dqo.models import cached_folder, save_policy
from dqo.models.folders import no_progress_bars
from dqo.records import Prompt
from dqo.run.build import Policy, device, make, make_task
from dqo.run.warm_start import finetune
from dqo.stages import Demonstrating, Task

Demonstrations = Sequence[tuple[Prompt, str]]

log = logging.getLogger(__name__)
DEMONSTRATIONS = 20_000  # at most, drawn from the task


def load(config: DictConfig) -> tuple[Policy, Task]:
    """The policy on its device and the task. The tokenizer and the task come first: they are quick, and most often
    what is wrong."""
    source = make(config.model, "model", {})
    tokenizer = source.load_tokenizer()
    place = device(config)
    model = source.load()
    task = make_task(config, tokenizer, context_length(model))
    if config.warm_start:
        model = _warmed(config, model, tokenizer, task)
    return Policy(name=source.name, model=_moved(model, place), tokenizer=tokenizer, device=place), task


def _moved(model: PreTrainedModel, place: torch.device) -> PreTrainedModel:
    torch.nn.Module.to(model, place)  # in place; transformers' own ``to`` hides its types
    return model


def context_length(model: PreTrainedModel) -> int:
    """Tokens of prompt and completion together that the model was made for; endless where positions are not numbered
    (Bloom, Mamba)."""
    config = model.config.get_text_config()
    return int(getattr(config, "max_position_embeddings", None) or getattr(config, "max_seq_len", None) or sys.maxsize)


def warm_up(
    config: DictConfig, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, shown: Demonstrations,
    observe: Callable[[int, float], None],
) -> float:  # fmt: skip
    """Fine-tune in place by the numbers of ``sft``; the final loss in nats a token."""
    return finetune(
        _moved(model, device(config)),
        tokenizer,
        shown,
        steps=config.sft.steps,
        batch_size=config.sft.batch_size,
        learning_rate=config.sft.learning_rate,
        seed=config.sft.seed,
        observe=observe,
    )


def demonstrations(config: DictConfig, task: Task) -> Demonstrations:
    """The task's example answers. Raises ConfigError for a task that has none."""
    if not isinstance(task, Demonstrating):
        raise ConfigError(f"{type(task).__name__} shows no answers to fine-tune on; type warm_start=false")
    return task.demonstrations(DEMONSTRATIONS, seed=config.sft.seed)


def _warmed(
    config: DictConfig, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, task: Task
) -> PreTrainedModel:
    """The warm-started model, from the cache or into it. The key is all that the result depends on."""
    shown = demonstrations(config, task)

    def build(folder: Path) -> None:
        log.info("warm start: %d steps on the demonstrations of the task (once; cached)", config.sft.steps)
        loss = warm_up(config, model, tokenizer, shown, lambda step, loss: None)
        log.info("warm start: loss %.3f nats a token", loss)
        save_policy(model, tokenizer, folder)

    numbers = plain(OmegaConf.masked_copy(config, ["model", "sft"]))
    pairs = [(prompt.tokens, text) for prompt, text in shown]
    key = hashlib.sha256(json.dumps([__version__, numbers, pairs], sort_keys=True).encode()).hexdigest()
    folder = cached_folder(f"warm-{key[:16]}", build)
    with no_progress_bars():
        return type(model).from_pretrained(folder, dtype=model.dtype, use_safetensors=True).eval()
