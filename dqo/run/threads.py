"""How many threads torch computes with on a CPU, and how they wait for one another. The launcher imports no torch."""

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

SMALL = 5_000_000  # parameters: an operation of a smaller policy ends before a second thread has begun
BY_SIZE = "DQO_THREADS_BY_SIZE"  # set for a worker if the user has not set OMP_NUM_THREADS


def environment(workers: int) -> dict[str, str]:
    """Environment variables of a worker, to be set before torch is imported: its share of the cores, and threads that
    sleep while they wait for one another. What the user has set is left alone.

    OpenMP's default is to spin for milliseconds. If another process uses one of the cores, most of the time is lost:
    a step of the tiny model's warm start took 3.7 s instead of 0.16 s (docs/performance.md).
    """
    ours = {} if "OMP_WAIT_POLICY" in os.environ else {"OMP_WAIT_POLICY": "passive"}
    if "OMP_NUM_THREADS" in os.environ:
        return ours
    share = {"OMP_NUM_THREADS": str(max(1, cores() // workers))} if workers > 1 else {}  # alone: torch's own choice
    return ours | share | {BY_SIZE: "1"}


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def use_threads(parameters: int, device: "torch.device") -> None:
    """Compute with one thread if the policy is small and on a CPU. In a process that no launcher has started, and where
    the user has set OMP_NUM_THREADS, nothing changes."""
    import torch

    if BY_SIZE in os.environ and device.type == "cpu" and parameters < SMALL:
        torch.set_num_threads(1)
