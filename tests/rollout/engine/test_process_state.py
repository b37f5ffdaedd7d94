import os
import random

import numpy
import torch

from dqo.rollout.engine.process_state import ENVIRONMENT, preserved_generators, preserved_settings, set_environment


def settings():
    return (
        torch.get_num_threads(), torch.set_num_threads, torch.get_default_dtype(), torch.is_grad_enabled(),
        os.sched_getaffinity(0),
    )  # fmt: skip


def test_settings_are_restored():
    before = settings()
    with preserved_settings():
        torch.set_num_threads(before[0] + 1)
        torch.set_num_threads = lambda threads: None
        torch.set_default_dtype(torch.float64)
        torch.set_grad_enabled(False)
        os.sched_setaffinity(0, {min(before[-1])})
    assert settings() == before


def test_generators_are_restored():
    states = random.getstate(), numpy.random.get_state()[1].tolist(), torch.get_rng_state()
    with preserved_generators():
        random.seed(0)
        numpy.random.seed(0)
        torch.manual_seed(0)
    assert random.getstate() == states[0]
    assert numpy.random.get_state()[1].tolist() == states[1]
    assert torch.equal(torch.get_rng_state(), states[2])


def test_environment_variables_of_the_user_are_kept(monkeypatch):
    for name in (*ENVIRONMENT, "VLLM_CPU_KVCACHE_SPACE"):
        monkeypatch.setenv(name, "")  # so that it is restored after the test, also if it was not set
        monkeypatch.delenv(name)
    monkeypatch.setenv("VLLM_LOGGING_LEVEL", "DEBUG")
    set_environment(kv_cache_gb=3)
    assert os.environ["VLLM_LOGGING_LEVEL"] == "DEBUG"
    assert os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"
    assert os.environ["VLLM_CPU_KVCACHE_SPACE"] == "3"
