"""From a resolved configuration to the objects of a run."""

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from dqo.config.typed import arguments
from dqo.errors import ConfigError
from dqo.loop import Plan
from dqo.stages import Stages, Task


@dataclass(frozen=True, kw_only=True)
class Policy:
    """The model to train and what belongs to it."""

    name: str  # where it came from: a hub name, a folder, "tiny"
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    device: torch.device


def make(node: DictConfig, key: str, available: dict[str, Any]) -> Any:
    """The object a node describes. Positional parameters of its class are taken from ``available`` by name; nodes with
    a ``_target_`` inside it (a reward's parts) are made first, in the same way."""
    cls, settings = arguments(node, key)
    parameters = list(inspect.signature(cls.__init__).parameters.values())[1:]
    wanted = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    for name in wanted:
        if name not in available:
            raise ConfigError(f"{key}: {cls.__name__} asks for {name!r}; there are {', '.join(sorted(available))}")
    made = {name: _nested(value, f"{key}.{name}", available) for name, value in settings.items()}
    return cls(*(available[name] for name in wanted), **made)


def _nested(value: Any, key: str, available: dict[str, Any]) -> Any:
    if isinstance(value, dict):
        if "_target_" in value:
            return make(OmegaConf.create(value), key, available)
        return {name: _nested(inner, f"{key}.{name}", available) for name, inner in value.items()}
    return value


def make_task(config: DictConfig, tokenizer: PreTrainedTokenizerBase, context_length: int) -> Task:
    """The task alone: what is cheap and most often wrong is built before the weights are read."""
    return make(config.task, "task", {"tokenizer": tokenizer, "context_length": context_length})


def make_stages(config: DictConfig, policy: Policy, task: Task) -> Stages:
    """The whole pipeline around one policy."""
    available: dict[str, Any] = {
        "task": task,
        "tokenizer": policy.tokenizer,
        "policy": policy.model,
        "device": policy.device,
    }
    built = {
        group: make(config[group], group, available) for group in ("reward", "credit", "advantage", "embed", "rollout")
    }
    available |= {"loss": make(config.loss, "loss", available), "optim": make(config.optim, "optim", available)}
    # last: a LoRA learner wraps the policy in place, and the rollout's copy must be of the bare one
    return Stages(task=task, learner=make(config.learner, "learner", available), **built)


def make_plan(config: DictConfig) -> Plan:
    return Plan(
        steps=config.steps,
        prompts=config.prompts_per_step,
        k=config.k,
        alpha=config.alpha,
        seed=config.seed,
        ahead=config.ahead,
        redraws=config.redraws,
    )


def device(config: DictConfig) -> torch.device:
    """The device asked for. Raises ConfigError for a GPU that is not there."""
    if config.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device=cuda: torch sees no GPU; type device=cpu")
    cuda = config.device == "cuda" or (config.device == "auto" and torch.cuda.is_available())
    return torch.device("cuda" if cuda else "cpu")
