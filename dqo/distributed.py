"""Who am I among the workers. One process is a world of one, and then nothing here touches torch.distributed."""

import torch
import torch.distributed as dist


def world() -> int:
    """Number of workers."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This worker's number, 0 to world() - 1."""
    return dist.get_rank() if world() > 1 else 0


def largest(value: int) -> int:
    """The largest value over all workers: how often each must take part in a collective."""
    if world() == 1:
        return value
    tensor = torch.tensor(value)
    dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
    return int(tensor)
