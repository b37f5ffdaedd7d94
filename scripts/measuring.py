"""Helpers of the benchmarks: check that the machine is idle, let sides take turns, medians, JSON."""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import torch

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # read when transformers is imported
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("TQDM_DISABLE", "1")
warnings.filterwarnings("ignore")

BUSY = 10.0  # percent of all cores in use by other processes: above this a benchmark refuses to start


def parser(description: str | None, *, threads: int) -> argparse.ArgumentParser:
    """An argument parser with the options that all benchmarks have."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--threads", type=int, default=threads, help="torch's threads, on both sides")
    made.add_argument("--rounds", type=int, default=5, help="5 or more, after a warm-up")
    made.add_argument("--json", metavar="FILE", help="also write the numbers to this file")
    made.add_argument("--force", action="store_true", help="measure even on a busy machine")
    return made


def ready(arguments: argparse.Namespace) -> dict[str, Any]:
    """A description of the machine, which is also printed. Exits if other processes keep the machine busy."""
    if arguments.rounds < 5:
        sys.exit(f"--rounds {arguments.rounds}: 5 or more are needed for a median")
    torch.set_num_threads(arguments.threads)
    machine = {
        "busy_percent": psutil.cpu_percent(interval=2.0),  # of all cores
        "load": os.getloadavg()[0],
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "processor": torch.backends.cpu.get_cpu_capability(),  # on AVX2 bfloat16 is emulated
    }
    print("  ".join(f"{name}={value}" for name, value in machine.items()), flush=True)
    if machine["busy_percent"] > BUSY and not arguments.force:
        print(f"the machine is busy ({machine['busy_percent']:.0f} % of all cores): wait, or add --force")
        sys.exit(2)
    return machine


def in_turn(sides: Mapping[str, Callable[[], object]], *, rounds: int, warm: int = 1) -> dict[str, list[float]]:
    """Seconds of each side's calls; the sides take turns, and the first ``warm`` calls of each do not count.

    The order changes every round: the state of caches and allocator makes the first side up to 10 % slower.
    """
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(warm + rounds):
        for name, call in list(sides.items())[:: -1 if number % 2 else 1]:
            start = time.perf_counter()
            call()
            if number >= warm:
                seconds[name].append(time.perf_counter() - start)
    return seconds


class Side:
    """Work in a process of its own, turn by turn: ``command`` runs ``take_turns``. ``environment``: variables besides
    this process's own."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str] | None = None):
        self._process = subprocess.Popen(
            command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, **(environment or {})}
        )
        self._expect("ready")

    def turn(self) -> None:
        """Let the process work once, and wait for its end."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        self._expect("done")

    def close(self) -> None:
        """End the process."""
        self._process.communicate()

    def _expect(self, word: str) -> None:
        assert self._process.stdout is not None
        if not any(line.strip() == word for line in self._process.stdout):  # libraries print too
            sys.exit(f"a side's process ended with exit code {self._process.wait()}")


def take_turns(call: Callable[[], object]) -> int:
    """In the process of a ``Side``: work for each line on stdin."""
    print("ready", flush=True)
    for _ in sys.stdin:
        call()
        print("done", flush=True)
    return 0


def dtypes() -> list[str]:
    """The dtypes that this machine computes natively; a benchmark in emulated bfloat16 would take hours."""
    from dqo.models.precision import Dtype  # imports transformers, so only after the environment is set

    native = str(Dtype.AUTO.on(torch.device("cuda" if torch.cuda.is_available() else "cpu")))
    return list(dict.fromkeys(["float32", native.removeprefix("torch.")]))


def peak() -> int:
    """Peak resident memory of this process in bytes. getrusage would include the process that started this one."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def medians(seconds: Mapping[str, list[float]]) -> dict[str, float]:
    """Median seconds of each side."""
    return {name: statistics.median(taken) for name, taken in seconds.items()}


def verdict(ratio: float, target: float | None) -> str:
    """Text to print after a ratio: whether it meets its target."""
    return "" if target is None else f", target ≥ {target:g}×: {'met' if ratio >= target else 'MISSED'}"


def write(file: str | None, **result: Any) -> None:
    """Write the result as JSON, if there is a file."""
    if file:
        Path(file).write_text(json.dumps(result, indent=1, default=str))


if __name__ == "__main__":
    print(*dtypes(), sep="\n")
