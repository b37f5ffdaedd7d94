"""What types cannot say: ranges, and keys that contradict each other. Every message ends in what to type."""

import os
from pathlib import Path

import torch
from omegaconf import DictConfig

from dqo import distributed
from dqo.errors import ConfigError

# key: lowest, highest, what to type instead. The highest are far beyond use, and within float32's reach
NUMBERS = {
    "alpha": (0.0, 1e6, "1.0"),
    "beta": (0.0, 1e6, "0.02"),
    "learning_rate": (1e-12, 10.0, "1e-5"),
    "temperature": (1e-3, 1e3, "1.0"),
    "sft.learning_rate": (1e-12, 10.0, "1e-4"),
}
COUNTS = {  # key: lowest, what to type instead
    "k": (1, 8), "steps": (1, 100), "seed": (0, 0), "prompts_per_step": (1, 4), "max_completion_length": (1, 64),
    "redraws": (0, 0), "nproc": (1, 1), "eval.every": (0, 20), "eval.n": (1, 10), "eval.prompts": (1, 16),
    "log.every": (1, 1), "checkpoint.every": (0, 20), "checkpoint.keep_last": (1, 1), "checkpoint.keep_every": (0, 0),
    "sft.steps": (1, 200), "sft.batch_size": (1, 32), "sft.seed": (0, 0),
}  # fmt: skip
LARGEST = 2**63 - 1  # what a seed of torch's holds; no count comes near it
COMPLETIONS = 1_000_000  # at a time: what no machine holds is a slip, and would be met by the kernel's killer instead
TOKENS = 1_000_000  # of a completion
REDRAWS = 100  # rounds a step


def validate(config: DictConfig) -> None:
    """Raises ConfigError for the first contradiction found. Takes the output of ``typed.check``."""
    _ranges(config)
    _batches(config)
    _diversity(config)
    _gate(config)
    _engines(config)
    _folder(config)


def _ranges(config: DictConfig) -> None:
    for key, (low, high, example) in NUMBERS.items():
        if not low <= _get(config, key) <= high:
            raise ConfigError(
                f"{key}={_get(config, key)}: a number from {low:g} to {high:g} is needed; type {key}={example}"
            )
    for key, (low, example) in COUNTS.items():
        if _get(config, key) is None:  # allowed by its type
            continue
        if not low <= _get(config, key) <= LARGEST:
            least_or_most = f"{low} or more is needed" if _get(config, key) < low else f"at most {LARGEST} is allowed"
            raise ConfigError(f"{key}={_get(config, key)}: {least_or_most}; type {key}={example}")
    every, keep_every = config.checkpoint.every, config.checkpoint.keep_every
    if keep_every and (not every or keep_every % every):
        raise ConfigError(
            f"checkpoint.keep_every={keep_every}: must be a multiple of checkpoint.every={every}; type "
            f"checkpoint.keep_every={max(1, keep_every // every) * every if every else 0}"
        )
    if config.ahead not in (0, 1):
        raise ConfigError(f"ahead={config.ahead}: 0 (in turn) or 1 (one step ahead) is allowed; type ahead=0")


def _batches(config: DictConfig) -> None:
    largest = max("k", "prompts_per_step", key=lambda key: config[key])
    completions = config.prompts_per_step * config.k
    if completions > COMPLETIONS:
        raise ConfigError(
            f"{largest}={config[largest]}: prompts_per_step * k is {completions} completions a step; at most "
            f"{COMPLETIONS} are allowed; type {largest}=8"
        )
    for key, most in {"eval.n": COMPLETIONS, "max_completion_length": TOKENS, "redraws": REDRAWS}.items():
        if _get(config, key) > most:
            raise ConfigError(f"{key}={_get(config, key)}: at most {most} is allowed; type {key}={COUNTS[key][1]}")


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


def _gate(config: DictConfig) -> None:
    if config.credit.get("gate") == "correct" and (key := _silent_about_correct(config.reward, "reward")):
        value = "0.5" if key.endswith("correct_above") else "PART"
        raise ConfigError(
            f"{key}=null: credit.gate=correct asks which completions are correct, and this reward does not say; type "
            f"{key}={value}, or credit.gate=none"
        )


def _silent_about_correct(reward: DictConfig, node: str) -> str | None:
    """The key that would make a reward say what is correct, where it is null."""
    for name in ("correct_above", "correct_from"):
        if name in reward and reward[name] is None:
            return f"{node}.{name}"
    part = reward.get("correct_from")
    inner = reward.get("parts", {}).get(part) if part else None
    return _silent_about_correct(inner, f"{node}.parts.{part}") if isinstance(inner, DictConfig) else None


def workers(config: DictConfig) -> int:
    """Processes of the run: those that a launcher has started, ``nproc``, or one a GPU where the learner can use
    them."""
    if distributed.launched():
        return int(os.environ["WORLD_SIZE"])
    if config.nproc is not None:
        return config.nproc
    gpus = torch.cuda.device_count() if config.device != "cpu" and not _alone(config) else 0
    return max(count for count in range(1, max(gpus, 1) + 1) if config.prompts_per_step % count == 0)


def _alone(config: DictConfig) -> bool:
    """Whether the learner is one process; of a user's own we do not know that it is more."""
    return not config.learner["_target_"].startswith("dqo.learner.deepspeed_zero.")


def _engines(config: DictConfig) -> None:
    if (count := workers(config)) > 1:
        if _alone(config):
            name = config.learner["_target_"].rpartition(".")[2]
            raise ConfigError(f"nproc={count}: {name} is one process; type learner=deepspeed_zero, or nproc=1")
        if config.prompts_per_step % count:
            raise ConfigError(
                f"prompts_per_step={config.prompts_per_step}: {count} workers share them equally; type "
                f"prompts_per_step={-(-config.prompts_per_step // count) * count}, or another nproc="
            )
        if config.device != "cpu" and 0 < torch.cuda.device_count() < (config.nproc or 1):
            gpus = torch.cuda.device_count()
            raise ConfigError(f"nproc={count}: there are {gpus} GPUs, one for each worker; type nproc={gpus}")
    if config.ahead and config.rollout.get("tensor_parallel_size", 1) > 1:
        raise ConfigError(
            f"ahead={config.ahead}: workers that share an engine would wait in it for one another's learners; type "
            "ahead=0, or rollout.tensor_parallel_size=1"
        )
    if config.device not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"device={config.device}: allowed are auto | cpu | cuda")


def _folder(config: DictConfig) -> None:
    if not config.run_dir.strip():
        raise ConfigError("run_dir= names no folder; type run_dir=FOLDER")
    folder = Path(config.run_dir)
    try:
        is_file = folder.exists() and not folder.is_dir()
    except OSError as error:  # the name is too long
        raise ConfigError(
            f"run_dir={folder}: cannot be written ({error.strerror}); type run_dir=ANOTHER_FOLDER"
        ) from error
    if is_file:
        raise ConfigError(f"run_dir={folder} is a file; type run_dir=ANOTHER_FOLDER")


def _get(config: DictConfig, key: str):
    group, _, name = key.rpartition(".")
    return config[group][name] if group else config[key]
