"""From a resolved configuration to the objects of a run."""

import inspect
import os
import traceback
from dataclasses import dataclass
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from dqo import distributed
from dqo.config.typed import arguments
from dqo.errors import ConfigError
from dqo.learner.parts import Loss, Optim
from dqo.loop import Plan
from dqo.rollout.synced import Synced
from dqo.stages import Advantage, Checkable, Credit, Embed, Learner, Reward, Rollout, Stages, Task

PROTOCOLS = {"reward": Reward, "credit": Credit, "advantage": Advantage, "embed": Embed, "rollout": Rollout}  # in order


@dataclass(frozen=True, kw_only=True)
class Policy:
    """The model to train and what belongs to it."""

    name: str  # where it came from: a hub name, a folder, "tiny"
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    device: torch.device


def make(node: DictConfig, key: str, available: dict[str, Any]) -> Any:
    """The object a node describes. Positional parameters of its class are taken from ``available`` by name; nodes with
    a ``_target_`` inside it (a reward's parts) are made first, in the same way. Raises ConfigError where a class of the
    user's cannot be made."""
    cls, settings = arguments(node, key)
    parameters = list(inspect.signature(cls.__init__).parameters.values())[1:]
    wanted = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    for name in wanted:
        if name not in available:
            raise ConfigError(f"{key}: {cls.__name__} asks for {name!r}; there are {', '.join(sorted(available))}")
    made = {name: _nested(value, f"{key}.{name}", available) for name, value in settings.items()}
    try:
        return cls(*(available[name] for name in wanted), **made)
    except Exception as error:
        if cls.__module__.partition(".")[0] == "dqo" or isinstance(error, ConfigError):
            raise
        last = traceback.extract_tb(error.__traceback__)[-1]
        raise ConfigError(
            f"{key}: {cls.__name__}(…) raised {type(error).__name__}: {error} ({last.filename}, line {last.lineno})"
        ) from error


def _fitting(made: Any, protocol: type, key: str) -> Any:
    """``made``, if it has what the stage's Protocol asks for: a user's class that lacks a method is told before it is
    called."""
    wanted = [*vars(protocol), *protocol.__annotations__]
    missing = [name for name in wanted if (name == "__call__" or not name.startswith("_")) and not hasattr(made, name)]
    if missing:
        raise ConfigError(
            f"{key}: {type(made).__name__} lacks {', '.join(missing)}; a class for {key} is a {protocol.__name__} of "
            "dqo.stages"
        )
    return made


def _nested(value: Any, key: str, available: dict[str, Any]) -> Any:
    if isinstance(value, dict):
        if "_target_" in value:
            return make(OmegaConf.create(value), key, available)
        return {name: _nested(inner, f"{key}.{name}", available) for name, inner in value.items()}
    return value


def make_task(config: DictConfig, tokenizer: PreTrainedTokenizerBase, context_length: int) -> Task:
    """The task alone: what is cheap and most often wrong is built before the weights are read."""
    made = make(config.task, "task", {"tokenizer": tokenizer, "context_length": context_length})
    task: Task = _fitting(made, Task, "task")
    if not task.held_out():
        raise ConfigError(
            f"task: {type(task).__name__} holds no prompts out, and a run is measured on some; hold one out"
        )
    return task


def make_stages(config: DictConfig, policy: Policy, task: Task) -> Stages:
    """The whole pipeline around one policy."""
    available: dict[str, Any] = {
        "task": task,
        "tokenizer": policy.tokenizer,
        "policy": policy.model,
        "device": policy.device,
    }
    built = {
        group: _fitting(make(config[group], group, available), protocol, group) for group, protocol in PROTOCOLS.items()
    }
    available |= {
        group: _fitting(make(config[group], group, available), protocol, group)
        for group, protocol in {"loss": Loss, "optim": Optim}.items()
    }
    # last: a LoRA learner wraps the policy in place, and the rollout's copy must be of the bare one
    learner = _fitting(make(config.learner, "learner", available), Learner, "learner")
    if isinstance(built["rollout"], Checkable):
        built["rollout"] = Synced(built["rollout"], learner)
    return Stages(task=task, learner=learner, **built)


def make_plan(config: DictConfig) -> Plan:
    return Plan(
        steps=config.steps,
        prompts=config.prompts_per_step // distributed.world_size(),
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
    worker, gpus = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if cuda and worker >= gpus:
        raise ConfigError(
            f"device={config.device}: worker {worker} of this machine is one too many for {gpus} GPUs; start {gpus}"
        )
    return torch.device("cuda" if cuda else "cpu")
