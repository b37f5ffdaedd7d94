"""Runs the parts of scripts/gpu_check.py: one after another until the time is over, each in processes of its own."""

import argparse
import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import measuring

from dqo.observe.metrics_file import read_metrics

ROOT = Path(__file__).parents[1]
ENVIRONMENT = {  # of every process
    "HF_HUB_OFFLINE": "1", "WANDB_MODE": "disabled", "PYTHONUNBUFFERED": "1",
    "VLLM_USE_FLASHINFER_SAMPLER": "0",  # dqo sets it, TRL does not: vLLM's sampler would import flashinfer
}  # fmt: skip
QUIET = (
    "eval.prompts=1", "eval.n=1", "eval.every=0", "checkpoint.every=0", "checkpoint.final=false", "log.live=false",
    "log.tensorboard=false", "log.completions=false", "nproc=1",
)  # fmt: skip
OVER = "the time is over (--minutes N for more, --parts to choose some)"
SLOWER = 4  # a CPU has this many times as long for a part
LAST = 25  # lines of a failed process's output that are kept in the JSON


class NotRun(Exception):
    """A part cannot run here; the message says what is missing."""


class Wrong(Exception):
    """A part failed; the message says what that means. ``output``: the end of what its process printed."""

    def __init__(self, message: str, output: Sequence[str] = ()):
        super().__init__(message)
        self.output = list(output)


@dataclass(kw_only=True)
class Report:
    """What came of a part."""

    part: str
    verdict: str  # ok | WRONG | not run
    text: str
    seconds: float = 0.0
    numbers: dict[str, Any] = field(default_factory=dict)
    output: list[str] = field(default_factory=list)


Part = Callable[["Check"], tuple[str, dict[str, Any]]]  # a line for people, and numbers; raises NotRun or Wrong


class Check:
    """Runs parts until the deadline, each in processes of its own that end with it."""

    def __init__(self, options: argparse.Namespace, folder: Path):
        self.options, self.folder = options, folder
        self.on_gpu = options.device == "cuda"
        self.deadline = time.monotonic() + 60 * options.minutes
        self.limit = math.inf  # of the part that runs
        self.reports: list[Report] = []

    def run(self, name: str, seconds: float, part: Part) -> None:
        """Run a part for at most ``seconds`` and print what came of it."""
        start = time.monotonic()
        if start >= self.deadline:
            report = Report(part=name, verdict="not run", text=OVER)
        else:
            self.limit = min(start + seconds * (1 if self.on_gpu else SLOWER), self.deadline)
            report = self._report(name, part)
        report.seconds = time.monotonic() - start
        self.reports.append(report)
        print(f"{report.verdict:>8}  {report.seconds:5.0f} s  {name}: {report.text}", flush=True)

    def _report(self, name: str, part: Part) -> Report:
        try:
            text, numbers = part(self)
            return Report(part=name, verdict="ok", text=text, numbers=numbers)
        except NotRun as missing:
            return Report(part=name, verdict="not run", text=str(missing))
        except Wrong as wrong:
            return Report(part=name, verdict="WRONG", text=str(wrong), output=wrong.output)
        except (LookupError, TypeError, ValueError, StopIteration) as error:
            text = f"its output is not what this script expects ({type(error).__name__}: {error})"
            return Report(part=name, verdict="WRONG", text=text)

    def process(self, command: Sequence[str], *, cwd: Path | None = None) -> list[str]:
        """The lines that a command prints. Raises Wrong where it fails or the part's time is over; the command and all
        that it has started are then killed."""
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", cwd=cwd,
            env={**os.environ, **ENVIRONMENT}, start_new_session=True,
        ) as started:  # fmt: skip
            try:
                output, _ = started.communicate(timeout=max(1.0, self.limit - time.monotonic()))
            except subprocess.TimeoutExpired:
                _kill(started)
                lines = started.communicate()[0].splitlines()
                if time.monotonic() >= self.deadline:
                    raise NotRun(OVER) from None
                raise Wrong(f"not done when its time was over; last: {last(lines)}", lines[-LAST:]) from None
            except BaseException:
                _kill(started)
                raise
        lines = output.splitlines()
        if started.returncode:
            raise Wrong(f"exit code {started.returncode}: {last(lines)}", lines[-LAST:])
        return lines

    def part(self, name: str, **arguments: Any) -> dict[str, Any]:
        """What a function of gpu_check_parts.py returns."""
        script = Path(__file__).with_name("gpu_check_parts.py")
        lines = self.process([sys.executable, str(script), name, json.dumps(arguments)])
        return json.loads(next(line for line in reversed(lines) if line.startswith("{")))  # vLLM may print at its end

    def steps(self, name: str, *overrides: str) -> list[dict[str, Any]]:
        """The metrics of each step of ``dqo-train OVERRIDES``."""
        run = self.folder / name.replace(" ", "_")
        device = f"device={self.options.device}"
        self.process([sys.executable, "-m", "dqo.cli", "train", device, *QUIET, *overrides, f"run_dir={run}"], cwd=ROOT)
        lines = [line for line in read_metrics(run / "metrics.jsonl") if "step_time" in line]
        if any(line["loss"] is None for line in lines):
            raise Wrong("the loss is not finite: the learner computes wrongly on this device")
        return lines


def summary(check: Check) -> int:
    """Print the table and write the JSON; the exit code."""
    width = max(len(report.part) for report in check.reports)
    print()
    for report in check.reports:
        print(f"{report.part:<{width}}  {report.verdict:>7}  {report.text}")
    wrong = [report.part for report in check.reports if report.verdict == "WRONG"]
    missing = sum(report.verdict == "not run" for report in check.reports)
    print(f"\n{'WRONG: ' + ', '.join(wrong) if wrong else 'nothing is wrong'}; {missing} parts were not run")
    measuring.write(check.options.json, arguments=vars(check.options), parts=[vars(report) for report in check.reports])
    return 1 if wrong else 0


def last(lines: Sequence[str]) -> str:
    """The last line that is not empty: the message of a command that has failed."""
    return next((line.strip() for line in reversed(lines) if line.strip()), "it printed nothing")[:300]


def _kill(started: subprocess.Popen) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(started.pid, signal.SIGKILL)
