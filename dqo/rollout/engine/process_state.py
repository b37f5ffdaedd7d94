"""Process-wide state around an in-process vLLM: environment variables that it reads, and torch settings and random
generators that it changes."""

import contextlib
import os
import random
from collections.abc import Iterator

import numpy
import torch

ENVIRONMENT = {  # vLLM reads these when it is imported; a value set by the user is kept
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # run in this process, so that the engine's weights can be reached
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # otherwise the learner would be bound to the engine's cores
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    # flashinfer's sampler takes no seeds, so it would never run here, but where it is missing vLLM 0.32 does not start
    "VLLM_USE_FLASHINFER_SAMPLER": "0",
}


def set_environment(*, kv_cache_gb: int) -> None:
    """Sets vLLM's environment variables. Call it before vLLM is imported. ``kv_cache_gb``: KV cache size on a CPU."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    os.environ["VLLM_CPU_KVCACHE_SPACE"] = str(kv_cache_gb)


@contextlib.contextmanager
def preserved_settings() -> Iterator[None]:
    """Restores process-wide settings after the block: torch's number of threads and ``torch.set_num_threads`` (vLLM
    replaces it), default dtype, grad mode and CPU affinity."""
    set_num_threads, threads = torch.set_num_threads, torch.get_num_threads()
    dtype, grad_enabled = torch.get_default_dtype(), torch.is_grad_enabled()
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    try:
        yield
    finally:
        torch.set_num_threads = set_num_threads
        torch.set_num_threads(threads)
        torch.set_default_dtype(dtype)
        torch.set_grad_enabled(grad_enabled)
        if cores is not None:
            os.sched_setaffinity(0, cores)


@contextlib.contextmanager
def preserved_generators() -> Iterator[None]:
    """Restores the random generators of Python, numpy and torch after the block, since vLLM's start seeds them all.

    Not for use during a step: with ahead=1 the learner draws random numbers in another thread at that time.
    """
    python_state, numpy_state = random.getstate(), numpy.random.get_state()
    with torch.random.fork_rng():
        yield
    random.setstate(python_state)
    numpy.random.set_state(numpy_state)
