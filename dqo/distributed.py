"""Ranks and small collectives on the CPU. Without several processes nothing here uses torch.distributed.

The collectives have gloo groups of their own, one per ``Channel``, so that they cannot mix with the collectives of a
learner or an engine. Sampling may run in a thread beside the learner (``ahead=1``): two threads on one group would mix
up the order of their collectives, hence two channels.
"""

import datetime
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from enum import Enum
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore

Value = TypeVar("Value")
Number = TypeVar("Number", int, float)


class Channel(Enum):
    """A gloo group for one thread's collectives. On a channel all ranks call the same collectives in the same order."""

    MAIN = "main"  # the main thread: learner, evaluation, checkpoints
    SAMPLING = "sampling"  # collecting a step's groups, perhaps beside the learner


_groups: dict[Channel, Any] = {}


def init(patience: datetime.timedelta = datetime.timedelta(minutes=30)) -> None:
    """Create the process group described by the launcher's environment variables, and the channels. Collective over all
    ranks. ``patience``: timeout of every later collective."""
    _use_device()
    if torch.cuda.is_available():
        dist.init_process_group("cpu:gloo,cuda:nccl", timeout=patience)
    else:
        dist.init_process_group("gloo", timeout=patience)
    for channel in Channel:
        _groups[channel] = dist.new_group(backend="gloo", timeout=patience)


@contextmanager
def thread_pool(count: int, *, finishes: bool = True) -> Iterator[ThreadPoolExecutor]:
    """A pool of ``count`` threads that use this rank's GPU (torch keeps the current device per thread). ``finishes``:
    whether what was submitted is done at the end of the block, also after an error; False: what has not begun is
    dropped. No collective."""
    pool = ThreadPoolExecutor(count, initializer=_use_device)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=not finishes)


def _use_device() -> None:
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if local < torch.cuda.device_count():  # with device=cpu there may be more workers than GPUs
        torch.cuda.set_device(local)


def init_single_process() -> None:
    """Create a process group of one rank, for an engine that requires a group. No collective."""
    os.environ.setdefault("LOCAL_RANK", "0")  # DeepSpeed reads it, even if vLLM has created the group
    if not dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, store=HashStore(), rank=0, world_size=1)


def world_size() -> int:
    """Number of ranks, 1 without a process group. No collective."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process's rank, 0 to world_size() - 1. No collective."""
    return dist.get_rank() if world_size() > 1 else 0


def is_rank_0() -> bool:
    """Whether this is rank 0, which writes the run's files. No collective."""
    return rank() == 0


def all_reduce_max(value: Number, channel: Channel = Channel.MAIN) -> Number:
    """Maximum of a number over all ranks. Collective on ``channel``."""
    return max(all_gather(value, channel))


def all_reduce_sum(values: Sequence[int | float]) -> list[int | float]:
    """Elementwise sum of the values over all ranks. Collective on the main channel."""
    return [sum(column) for column in zip(*all_gather(list(values)), strict=True)]


def all_gather(value: Value, channel: Channel = Channel.MAIN) -> list[Value]:
    """The values of all ranks, ordered by rank: all_gather of a picklable object (small: it goes through the CPU).
    Collective on ``channel``."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value, group=_group(channel))
    return values


def gather_on_rank_0(value: Value) -> list[Value]:
    """On rank 0 the values of all ranks, ordered by rank; on the others a list of their own value. Collective on the
    main channel."""
    if world_size() == 1:
        return [value]
    values: list[Any] | None = [None] * world_size() if is_rank_0() else None
    dist.gather_object(value, values, dst=0, group=_group(Channel.MAIN))
    return values or [value]


def broadcast(value: Value) -> Value:
    """Rank 0's value, a picklable object, on every rank. Collective on the main channel."""
    if world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0, group=_group(Channel.MAIN))
    return box[0]


def barrier() -> None:
    """Return once all ranks have called it. Collective on the main channel."""
    if world_size() > 1:
        dist.barrier(group=_group(Channel.MAIN))


def _group(channel: Channel) -> Any:
    """The channel's gloo group; None, torch's default group, if a test or an engine created the process group."""
    return _groups.get(channel)


def is_lost_peer(error: BaseException) -> bool:
    """Whether an exception says that another rank has ended; gloo's is recognised by its text, since its type is plain
    RuntimeError. No collective."""
    return world_size() > 1 and (isinstance(error, dist.DistError) or "gloo" in str(error))
