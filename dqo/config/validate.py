"""What types cannot say: ranges, and keys that contradict each other. Every message ends in what to type."""

import math
from pathlib import Path

from omegaconf import DictConfig

from dqo.errors import ConfigError


def validate(config: DictConfig) -> None:
    """Raises ConfigError for the first contradiction found. Takes the output of ``typed.check``."""
    _ranges(config)
    _diversity(config)
    _engines(config)
    _folder(config)


def _ranges(config: DictConfig) -> None:
    for key in ("alpha", "beta"):
        if not (math.isfinite(config[key]) and config[key] >= 0):
            raise ConfigError(f"{key}={config[key]}: a finite number of 0 or more is needed; type {key}=1.0")
    for key in ("learning_rate", "temperature", "sft.learning_rate"):
        value = _get(config, key)
        if not (math.isfinite(value) and value > 0):
            raise ConfigError(f"{key}={value}: a finite number above 0 is needed; type {key}=1e-5 or {key}=1.0")
    least = {"k": 1, "steps": 1, "seed": 0, "prompts_per_step": 1, "max_completion_length": 1, "redraws": 0, "nproc": 1}
    least |= {"eval.every": 0, "eval.n": 1, "eval.prompts": 1, "log.every": 1, "checkpoint.every": 0}
    least |= {"checkpoint.keep_last": 1, "sft.steps": 1, "sft.batch_size": 1, "sft.seed": 0}
    for key, lowest in least.items():
        if _get(config, key) < lowest:
            raise ConfigError(f"{key}={_get(config, key)}: {lowest} or more is needed; type {key}={max(lowest, 1)}")
    if config.ahead not in (0, 1):
        raise ConfigError(f"ahead={config.ahead}: 0 (in turn) or 1 (one step ahead) is allowed; type ahead=0")


def _diversity(config: DictConfig) -> None:
    if config.alpha == 0:
        return
    alone = f"alpha={config.alpha:g} pays completions for differing from the others of their group"
    if config.k == 1:
        raise ConfigError(f"k=1: {alone}, and a group of one has no others; type k=8, or alpha=0")
    if config.credit["_target_"].startswith("dqo.credit.none."):
        raise ConfigError(f"credit=none: {alone}, and this credit pays nothing; type credit=dpp, or alpha=0")
    tied = config.credit.get("gate", "none") == "none" and config.credit.get("quality", "none") == "none"
    if config.k == 2 and tied and not config.advantage["_target_"].startswith("dqo.advantage.unbiased."):
        raise ConfigError(
            f"k=2: {alone}, but in a group of two both credits are equal, and the group's mean as the baseline removes "
            "them entirely; type k=3 or more, or advantage=unbiased, or alpha=0"
        )


def _engines(config: DictConfig) -> None:
    if config.nproc > 1:
        raise ConfigError(f"nproc={config.nproc}: this version's learners are one process each; type nproc=1")
    if config.device not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"device={config.device}: allowed are auto | cpu | cuda")


def _folder(config: DictConfig) -> None:
    folder = Path(config.run_dir)
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"run_dir={folder} is a file; type run_dir=ANOTHER_FOLDER")
    if config.resume is None and not config.dry_run and (folder / "config.yaml").exists():
        raise ConfigError(f"run_dir={folder} holds a run already; type resume={folder} to go on, or another run_dir=")


def _get(config: DictConfig, key: str):
    group, _, name = key.rpartition(".")
    return config[group][name] if group else config[key]
