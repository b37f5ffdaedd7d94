"""Types of the top-level keys. Values live in conf/train.yaml, the groups' types in their constructors' signatures."""

from dataclasses import dataclass
from typing import Any

from omegaconf import MISSING

GROUPS = ("model", "task", "rollout", "reward", "embed", "credit", "advantage", "loss", "optim", "learner")


@dataclass
class Eval:
    every: int = MISSING
    n: int = MISSING
    prompts: int = MISSING


@dataclass
class Log:
    every: int = MISSING
    live: bool = MISSING
    completions: bool = MISSING
    tensorboard: bool = MISSING
    wandb: bool = MISSING
    project: str = MISSING


@dataclass
class Checkpoint:
    every: int = MISSING
    keep_last: int = MISSING
    keep_every: int = MISSING
    final: bool = MISSING


@dataclass
class Sft:
    steps: int = MISSING
    batch_size: int = MISSING
    learning_rate: float = MISSING
    seed: int = MISSING


@dataclass
class Config:
    alpha: float = MISSING
    beta: float = MISSING
    k: int = MISSING
    steps: int = MISSING
    seed: int = MISSING
    learning_rate: float = MISSING
    temperature: float = MISSING
    prompts_per_step: int = MISSING
    max_completion_length: int = MISSING
    importance_sampling_mode: str = MISSING
    ahead: int = MISSING
    redraws: int = MISSING
    eval: Eval = MISSING
    log: Log = MISSING
    checkpoint: Checkpoint = MISSING
    warm_start: bool = MISSING
    sft: Sft = MISSING
    run_dir: str = MISSING
    resume: str | None = MISSING
    nproc: int | None = MISSING
    device: str = MISSING
    dry_run: bool = MISSING
    model: Any = MISSING
    task: Any = MISSING
    rollout: Any = MISSING
    reward: Any = MISSING
    embed: Any = MISSING
    credit: Any = MISSING
    advantage: Any = MISSING
    loss: Any = MISSING
    optim: Any = MISSING
    learner: Any = MISSING
