"""How many worker processes a run has, and the environment variables of each. Imports torch only to count GPUs."""

import os
import socket
from pathlib import Path

from dqo.config.gpu import has_gpu
from dqo.config.schema import Config, EvalConfig
from dqo.config.typed import arguments
from dqo.config.validate import mini_batches
from dqo.errors import ConfigError
from dqo.run.threads import environment as threads_environment


def launched() -> bool:
    """Whether a launcher (ours, torchrun, DeepSpeed's, SLURM's through torchrun) started this process as one of
    several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def log_path(folder: Path, rank: int) -> Path:
    """Where a rank other than 0 writes what it prints."""
    return folder / "logs" / f"rank_{rank}.log"


def worker_count(config: Config) -> int:
    """Processes of a run: those that a launcher has started, ``nproc``, or one per GPU as far as the work can be shared
    out."""
    if launched():
        return int(os.environ["WORLD_SIZE"])
    if config.nproc is not None:
        return config.nproc
    gpus = _gpus() if config.device != "cpu" and has_gpu() and _multi_rank(config) else 0
    return max(count for count in range(1, max(gpus, 1) + 1) if _can_share(config, count))


def check_workers(config: Config) -> None:
    """Raises ConfigError where this run has more ranks than its learner, its prompts or its GPUs allow."""
    count = worker_count(config)
    if count == 1:
        return
    one = "start it without torchrun" if launched() else "nproc=1"
    if not isinstance(config, EvalConfig) and not _multi_rank(config):
        name = config.learner["_target_"].rpartition(".")[2]
        raise ConfigError(f"nproc={count}: {name} is one process; type learner=deepspeed_zero, or {one}")
    if not isinstance(config, EvalConfig) and config.prompts_per_step % count:
        raise ConfigError(
            f"prompts_per_step={config.prompts_per_step}: {count} workers share them equally; type "
            f"prompts_per_step={-(-config.prompts_per_step // count) * count}, or another number of workers"
        )
    if not isinstance(config, EvalConfig) and config.prompts_per_step // count < mini_batches(config):
        raise ConfigError(
            f"num_mini_batches={mini_batches(config)}: each of {count} workers has "
            f"{config.prompts_per_step // count} groups of a step, and mini-batches are whole groups; type "
            f"num_mini_batches={config.prompts_per_step // count}, or "
            f"prompts_per_step={mini_batches(config) * count}"
        )
    gpus = _gpus() if config.device != "cpu" else 0
    if 0 < gpus < (config.nproc or 1):
        raise ConfigError(f"nproc={count}: there are {gpus} GPUs, one for each worker; type nproc={gpus}")


def environments(count: int) -> list[dict[str, str]]:
    """Environment variables of each worker: how its threads compute and, for several workers, what torchrun would
    set."""
    threads = threads_environment(count)
    if count == 1:
        return [threads]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = threads | {
        "WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip
    return [{**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)]


def _can_share(config: Config, count: int) -> bool:
    """Whether this many ranks can share the work: the prompts of a step, or for dqo-eval the engines."""
    if isinstance(config, EvalConfig):
        return count % int(config.rollout.get("tensor_parallel_size", 1)) == 0 or count == 1
    return config.prompts_per_step % count == 0 and config.prompts_per_step // count >= mini_batches(config)


def _multi_rank(config: Config) -> bool:
    """Whether the learner's class sets ``multi_rank = True``. dqo-eval, which has no learner, samples on all ranks and
    reads tables on one."""
    if isinstance(config, EvalConfig):
        return not config.from_
    return getattr(arguments(config.learner, "learner")[0], "multi_rank", False)


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()
