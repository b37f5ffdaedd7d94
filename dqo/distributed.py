"""Who am I among the workers, and what they say to one another. One process is a world of one, and then nothing here
touches torch.distributed.

Workers talk over gloo groups of their own, on the CPU: an engine's collectives never wait for these. ``Channel`` says
which: sampling may run beside the learner (``ahead=1``), and two threads that shared a group would mix up their order.
"""

import datetime
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore

Value = TypeVar("Value")
Number = TypeVar("Number", int, float)
LOST_PEER = 75  # exit code of a worker that ends because another has


class Channel(Enum):
    MAIN = "main"
    SAMPLING = "sampling"


_groups: dict[Channel, Any] = {}


def launched() -> bool:
    """Whether a launcher (ours, torchrun, DeepSpeed's, SLURM's through torchrun) started this process as one of
    several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def log_path(folder: Path, rank: int) -> Path:
    """Where a worker of a run writes what it has to say."""
    return folder / "logs" / f"rank_{rank}.log"


def init(patience: datetime.timedelta = datetime.timedelta(minutes=30)) -> None:
    """Join the other workers, as the launcher's environment says. ``patience``: how long one waits for another."""
    _use_device()
    if torch.cuda.is_available():
        dist.init_process_group("cpu:gloo,cuda:nccl", timeout=patience)
    else:
        dist.init_process_group("gloo", timeout=patience)
    for channel in Channel:
        _groups[channel] = dist.new_group(backend="gloo", timeout=patience)


def thread_pool(count: int) -> ThreadPoolExecutor:
    """For work beside the main thread, on this worker's GPU: which one is current is each thread's own affair."""
    return ThreadPoolExecutor(count, initializer=_use_device)


def _use_device() -> None:
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if local < torch.cuda.device_count():  # with device=cpu there may be more workers than GPUs
        torch.cuda.set_device(local)


def init_single_process() -> None:
    """A process group of one, for an engine that does not go without."""
    os.environ.setdefault("LOCAL_RANK", "0")  # DeepSpeed asks for it, whoever made the group: vLLM may have
    if not dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, store=HashStore(), rank=0, world_size=1)


def world_size() -> int:
    """Number of workers."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This worker's number, 0 to world_size() - 1."""
    return dist.get_rank() if world_size() > 1 else 0


def is_rank_0() -> bool:
    """Whether this is the worker that writes."""
    return rank() == 0


def all_reduce_max(value: Number, channel: Channel = Channel.MAIN) -> Number:
    """The largest number over all workers: how often each must take part in a collective."""
    return max(all_gather(value, channel))


def all_reduce_sum(values: Sequence[int | float]) -> list[int | float]:
    """Each number's sum over all workers."""
    return [sum(column) for column in zip(*all_gather(list(values)), strict=True)]


def all_gather(value: Value, channel: Channel = Channel.MAIN) -> list[Value]:
    """Every worker's, by rank, for all of them: small things."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value, group=_group(channel))
    return values


def gather_on_rank_0(value: Value) -> list[Value]:
    """Every worker's, by rank, for the first; the others keep their own."""
    if world_size() == 1:
        return [value]
    values: list[Any] | None = [None] * world_size() if is_rank_0() else None
    dist.gather_object(value, values, dst=0, group=_group(Channel.MAIN))
    return values or [value]


def broadcast(value: Value) -> Value:
    """The first worker's, for all."""
    if world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0, group=_group(Channel.MAIN))
    return box[0]


def barrier() -> None:
    """Go on when all are here."""
    if world_size() > 1:
        dist.barrier(group=_group(Channel.MAIN))


def _group(channel: Channel) -> Any:
    """None, the group of all, where somebody else started it: a test, an engine."""
    return _groups.get(channel)


def is_lost_peer(error: BaseException) -> bool:
    """Whether an exception says that another worker is gone: gloo's is a RuntimeError like any other."""
    return world_size() > 1 and (isinstance(error, dist.DistError) or "gloo" in str(error))
