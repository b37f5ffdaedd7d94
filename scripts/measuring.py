"""What the benchmarks share: an idle machine, sides that take turns, medians, JSON."""

import argparse
import json
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil
import torch

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # read when transformers is imported
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("TQDM_DISABLE", "1")
warnings.filterwarnings("ignore")

BUSY = 10.0  # per cent of all cores, of others


def parser(description: str | None, *, threads: int) -> argparse.ArgumentParser:
    """With what every benchmark takes."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--threads", type=int, default=threads, help="of torch, on both sides")
    made.add_argument("--rounds", type=int, default=5, help="5 or more, after a warm-up")
    made.add_argument("--json", metavar="FILE", help="write the numbers there too")
    made.add_argument("--force", action="store_true", help="measure on a busy machine all the same")
    return made


def ready(arguments: argparse.Namespace) -> dict[str, Any]:
    """The machine, printed. Ends the program where others keep it busy."""
    if arguments.rounds < 5:
        sys.exit(f"--rounds {arguments.rounds}: 5 or more are needed for a median")
    torch.set_num_threads(arguments.threads)
    machine = {
        "busy_percent": psutil.cpu_percent(interval=2.0),  # of all cores
        "load": os.getloadavg()[0],
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "processor": torch.backends.cpu.get_cpu_capability(),  # AVX2: bfloat16 is emulated
    }
    print("  ".join(f"{name}={value}" for name, value in machine.items()), flush=True)
    if machine["busy_percent"] > BUSY and not arguments.force:
        print(f"the machine is busy ({machine['busy_percent']:.0f} % of all cores): wait, or add --force")
        sys.exit(2)
    return machine


def in_turn(sides: Mapping[str, Callable[[], object]], *, rounds: int, warm: int = 1) -> dict[str, list[float]]:
    """Seconds of each side's calls, which alternate; the first ``warm`` of each are not counted. Who is first changes
    each round: what it finds in the caches and the allocator costs it a tenth."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(warm + rounds):
        for name, call in list(sides.items())[:: -1 if number % 2 else 1]:
            start = time.perf_counter()
            call()
            if number >= warm:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def dtypes() -> list[str]:
    """What this machine computes natively: emulated, a benchmark in bfloat16 takes hours and says nothing."""
    from dqo.models.precision import Dtype  # transformers: after the environment is set

    native = str(Dtype.AUTO.on(torch.device("cuda" if torch.cuda.is_available() else "cpu")))
    return list(dict.fromkeys(["float32", native.removeprefix("torch.")]))


def peak() -> int:
    """Most bytes that this process has held. Not getrusage's, which knows those of the process that started it."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def medians(seconds: Mapping[str, list[float]]) -> dict[str, float]:
    return {name: statistics.median(taken) for name, taken in seconds.items()}


def verdict(ratio: float, target: float | None) -> str:
    """To stand behind a ratio."""
    return "" if target is None else f", target ≥ {target:g}×: {'met' if ratio >= target else 'MISSED'}"


def write(file: str | None, **result: Any) -> None:
    if file:
        Path(file).write_text(json.dumps(result, indent=1, default=str))


if __name__ == "__main__":
    print(*dtypes(), sep="\n")
