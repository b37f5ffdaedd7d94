"""From a resolved configuration to the objects of a run."""

import inspect
import os
import re
import traceback
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from dqo import distributed
from dqo.config.schema import Config
from dqo.config.typed import arguments
from dqo.errors import ConfigError
from dqo.loop import Plan, pause
from dqo.models.origin import Origin
from dqo.references import References
from dqo.rollout.engine.sync_check import SyncCheck
from dqo.stages import (
    Advantage,
    Checkable,
    Collectors,
    Credit,
    Critic,
    Embed,
    Learner,
    Loss,
    Optim,
    Reward,
    Rollout,
    Scoring,
    Stages,
    Task,
)

COLLECTORS = {"reward": Reward, "embed": Embed, "credit": Credit, "rollout": Rollout}  # in the order they are built
LEARNING = {"advantage": Advantage, "loss": Loss, "critic": Critic, "optim": Optim}


@dataclass(frozen=True, kw_only=True)
class Answering:
    """The stages that sample completions and judge them one by one, without an encoder (``evaluation.Judges``)."""

    task: Task
    rollout: Rollout
    reward: Reward


@dataclass(frozen=True, kw_only=True)
class Policy:
    """The model to train and what belongs to it."""

    name: str  # where it came from: a hub name, a folder, "tiny"
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    device: torch.device
    inputs: Mapping[str, Any]  # what was read for it and its task, by content (run.inputs)
    origin: Origin
    rendering: Mapping[str, Any] | None = None  # ``row_checks.Rendered`` of the task; None: the task does not say


def make(node: Mapping[str, Any], key: str, available: Mapping[str, Any]) -> Any:
    """The object that a node describes. Positional parameters of its class are taken from ``available`` by name; nodes
    with a ``_target_`` inside it (the parts of a reward) are made first, in the same way.

    Raises ConfigError where a user's class cannot be made.
    """
    cls, settings = arguments(node, key)
    parameters = list(inspect.signature(cls.__init__).parameters.values())[1:]
    wanted = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    for name in wanted:
        if name not in available:
            raise ConfigError(f"{key}: {cls.__name__} asks for {name!r}; there are {', '.join(sorted(available))}")
    made = {name: _with_parts(value, f"{key}.{name}", available) for name, value in settings.items()}
    try:
        return cls(*(available[name] for name in wanted), **made)
    except ConfigError as error:
        if "." not in key:
            raise
        raise of_the_part(error, key, node) from error
    except Exception as error:
        if cls.__module__.partition(".")[0] == "dqo":
            raise
        last = traceback.extract_tb(error.__traceback__)[-1]
        raise ConfigError(
            f"{key}: {cls.__name__}(…) raised {type(error).__name__}: {error} ({last.filename}, line {last.lineno})"
        ) from error


def make_task(config: Config, tokenizer: PreTrainedTokenizerBase, context_length: int) -> Task:
    """The task alone: it is quick to build and most often what is wrong, so it comes before the model's weights."""
    task = _made(config, "task", Task, {"tokenizer": tokenizer, "context_length": context_length})
    if not task.held_out():
        raise ConfigError(
            f"task: {type(task).__name__} holds no prompts out, and a run is measured on some; hold one out"
        )
    return task


def make_answering(config: Config, policy: Policy, task: Task, *, rollout: Rollout | None = None) -> Answering:
    """The stages that answer prompts where nothing is learned from the answers: log-probabilities need not be exact.
    ``rollout``: one that holds the policy already."""
    available = _available(policy, task, exact_logprobs=False)
    return Answering(
        task=task,
        reward=_made(config, "reward", Reward, available),
        rollout=rollout or _made(config, "rollout", Rollout, available),
    )


def make_reward(config: Config, task: Task, tokenizer: PreTrainedTokenizerBase, device: torch.device) -> Reward:
    """The reward alone, for completions of policies that are elsewhere."""
    return _made(config, "reward", Reward, {"task": task, "tokenizer": tokenizer, "device": device})


def make_encoder(config: Config, device: torch.device) -> Embed:
    """The encoder alone, for completions that were sampled before."""
    return _made(config, "embed", Embed, {"device": device})


def make_collectors(config: Config, policy: Policy, task: Task, *, exact_logprobs: bool = True) -> Collectors:
    """The stages that sample and judge: enough to evaluate a policy. ``exact_logprobs``: whether a learner compares its
    log-probabilities with the sampler's."""
    return _collectors(config, _available(policy, task, exact_logprobs=exact_logprobs))


def make_stages(config: Config, policy: Policy, task: Task, references: References | None = None) -> Stages:
    """The whole pipeline around one policy. ``references``: where stages say which completions of the initial policy
    they need, and find them.

    The collectors are built before the learner: LoRA changes the policy in place, and the rollout copies it unchanged.
    They give their device memory back before the learner's first pass.
    """
    available = _available(policy, task, references=references)
    collectors = _collectors(config, available)
    pause(collectors)
    available["reward"] = collectors.reward  # an advantage may ask for its weights
    learning = {group: _made(config, group, protocol, available) for group, protocol in LEARNING.items()}
    advantage = learning["advantage"]
    needs = {what: getattr(advantage, what, False) for what in ("needs_reference", "needs_old_logprobs")}
    needs["needs_reference"] |= learning["loss"].needs_reference
    torch.manual_seed(config.seed)  # LoRA draws adapters and dropout whatever engine or warm start have drawn before
    learner = _made(config, "learner", Learner, {**available, **learning, **needs})
    check = _sync_check(config, collectors.rollout, learner) if isinstance(collectors.rollout, Checkable) else None
    parts = {group: learning[group] for group in ("advantage", "loss")}
    return Stages(**vars(collectors), **parts, learner=learner, check_engine=check)


def make_plan(config: Config) -> Plan:
    """The numbers of the loop: steps, prompts on this rank, k, alpha …"""
    return Plan(
        steps=config.steps,
        prompts=config.prompts_per_step // distributed.world_size(),
        k=config.k,
        alpha=config.alpha,
        seed=config.seed,
        ahead=config.ahead,
        redraws=config.redraws,
        redraw_signal=config.redraw_signal,
    )


def make_device(config: Config) -> torch.device:
    """The device of this rank. Raises ConfigError for a GPU that is not there."""
    if config.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device=cuda: torch sees no GPU; type device=cpu")
    cuda = config.device == "cuda" or (config.device == "auto" and torch.cuda.is_available())
    worker, gpus = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if cuda and worker >= gpus:
        raise ConfigError(
            f"device={config.device}: worker {worker} of this machine is one too many for {gpus} GPUs; start {gpus}"
        )
    return torch.device("cuda" if cuda else "cpu")


def _collectors(config: Config, available: Mapping[str, Any]) -> Collectors:
    stages: dict[str, Any] = {}
    for group, protocol in COLLECTORS.items():  # a credit may ask for the encoder
        stages[group] = _made(config, group, protocol, {**available, **stages})
    return Collectors(task=available["task"], **stages)


def _available(
    policy: Policy, task: Task, *, references: References | None = None, exact_logprobs: bool = True
) -> dict[str, Any]:
    return {
        "task": task, "tokenizer": policy.tokenizer, "policy": policy.model, "device": policy.device,
        "exact_logprobs": exact_logprobs, "references": references or References(),
    }  # fmt: skip


def _made(config: Config, group: str, protocol: type, available: Mapping[str, Any]) -> Any:
    """The stage of a group. A user's class that lacks a method is refused before the method is called."""
    made = make(getattr(config, group), group, available)
    wanted = [*vars(protocol), *protocol.__annotations__]
    missing = [name for name in wanted if (name == "__call__" or not name.startswith("_")) and not hasattr(made, name)]
    if missing:
        raise ConfigError(
            f"{group}: {type(made).__name__} lacks {', '.join(missing)}; a class for {group} is a "
            f"{protocol.__name__} of dqo.stages"
        )
    return made


def _sync_check(config: Config, rollout: Checkable, learner: Learner) -> SyncCheck:
    if not isinstance(learner, Scoring):
        raise ConfigError(
            f"learner: {type(learner).__name__} lacks score, by which {type(rollout).__name__} is compared with it "
            "after weights were sent; add score (dqo.stages.Scoring), or type rollout=hf"
        )
    return SyncCheck(rollout, learner)


def of_the_part(error: ConfigError, key: str, names: Iterable[str]) -> ConfigError:
    """A stage names its keys ``reward.min``; its error where it is a part, whose keys are ``reward.parts.NAME.min``."""
    group = key.partition(".")[0]
    return type(error)(re.sub(rf"\b{group}\.(?=({'|'.join(names)})\b)", f"{key}.", str(error)))


def _with_parts(value: Any, key: str, available: Mapping[str, Any]) -> Any:
    if isinstance(value, dict):
        if "_target_" in value:
            return make(value, key, available)
        return {name: _with_parts(inner, f"{key}.{name}", available) for name, inner in value.items()}
    return value
