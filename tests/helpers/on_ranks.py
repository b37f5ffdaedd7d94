"""A function on several ranks: processes forked from the test's, so that nothing is imported anew."""

import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist


def on_ranks(count: int, folder: Path, function: Callable[[int], Any]) -> list[Any]:
    """What ``function(rank)`` returns on each rank, in order; it may call collectives of ``dqo.distributed``."""
    context = multiprocessing.get_context("fork")
    pipes = [context.Pipe(duplex=False) for _ in range(count)]
    processes = [
        context.Process(target=_run, args=(function, rank, count, folder / "store", pipes[rank][1]))
        for rank in range(count)
    ]
    for process, (_, sender) in zip(processes, pipes, strict=True):
        process.start()
        sender.close()
    try:
        return [receiver.recv() for receiver, _ in pipes]  # EOFError: the function raised, see its traceback
    finally:
        for process in processes:
            process.join(timeout=20)
            process.kill()


def _run(function: Callable[[int], Any], rank: int, count: int, store: Path, sender: Any) -> None:
    torch.set_num_threads(1)  # a forked process has none of its parent's threads
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=count)
    sender.send(function(rank))
    dist.destroy_process_group()
