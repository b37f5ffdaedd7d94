"""How many threads a worker computes with, and how they wait."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from dqo.run.threads import BY_SIZE, SMALL, cores, environment, use_threads

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch):
    """The user has set nothing; torch computes with three threads, and with as many as before after the test."""
    for name in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", BY_SIZE):
        monkeypatch.delenv(name, raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def test_threads_sleep_while_they_wait_and_workers_share_the_cores():
    assert environment(1) == {"OMP_WAIT_POLICY": "passive", BY_SIZE: "1"}
    assert environment(2) == environment(1) | {"OMP_NUM_THREADS": str(max(1, cores() // 2))}
    assert environment(10_000)["OMP_NUM_THREADS"] == "1"


def test_what_the_user_has_set_is_left_alone(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert environment(1) == environment(2) == {"OMP_WAIT_POLICY": "passive"}
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    assert environment(2) == {}


def test_cores_are_counted_where_affinity_is_unknown(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)  # macOS
    assert cores() == os.cpu_count()


@pytest.mark.parametrize(
    ("parameters", "device", "threads"), [(SMALL - 1, CPU, 1), (SMALL, CPU, 3), (SMALL - 1, GPU, 3)]
)
def test_a_small_policy_on_a_cpu_computes_with_one_thread(monkeypatch, parameters, device, threads):
    monkeypatch.setenv(BY_SIZE, "1")
    use_threads(parameters, device)
    with ThreadPoolExecutor(1) as judge:  # threads that start later
        assert torch.get_num_threads() == judge.submit(torch.get_num_threads).result() == threads


def test_a_process_without_launcher_keeps_its_threads():
    use_threads(1, CPU)
    assert torch.get_num_threads() == 3


def test_the_launchers_part_imports_no_torch():
    code = "import sys, dqo.run.threads as t; t.environment(2); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
