"""What the runs of a table have left on the disk, and the statistics over their seeds. It imports no torch."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import mean, stdev

from reproduce_jobs import CPU, factor_of, main_folder
from reproduce_matrix import Arm, Table
from scipy.special import stdtrit

from dqo.observe.metrics_file import read_metrics

LEVEL = 0.95
EVALUATED = "eval/"


@dataclass(frozen=True)
class Run:
    """One finished run."""

    after: Mapping[str, float | None]  # metrics of the last evaluation; None: undefined
    lines: Sequence[Mapping[str, float | None]]  # of metrics.jsonl
    before: Mapping[str, float | None] = field(default_factory=dict)  # metrics of the first evaluation
    cpu: float = math.nan  # CPU seconds of the process, with start and evaluations; NaN: not known

    @property
    def start(self) -> "Run":
        """The policy before the run, as one without steps."""
        return Run(self.before, ())

    @property
    def seconds(self) -> float:
        """Wall time of its steps, without start and evaluations."""
        return sum(_number(line.get("step_time"), 0.0) for line in self.lines)

    @property
    def steps(self) -> int:
        """Number of its steps."""
        return sum("step_time" in line for line in self.lines)

    def value(self, key: str) -> float:
        """A metric of the last evaluation; NaN where undefined."""
        return _number(self.after.get(key), math.nan)

    def training(self, key: str) -> list[float]:
        """A metric of its steps, where it is defined."""
        return [value for line in self.lines if (value := line.get(key)) is not None]

    def value_at(self, key: str, seconds: float) -> float:
        """The metric when the steps had taken this long: the line between the evaluations before and after."""
        points, elapsed = [], 0.0
        for line in self.lines:
            elapsed += _number(line.get("step_time"), 0.0)
            if EVALUATED + key in line:
                points.append((elapsed, _number(line[EVALUATED + key], math.nan)))
        for (start, before), (end, after) in pairwise(points):
            if start <= seconds <= end and end > start:
                return before + (after - before) * (seconds - start) / (end - start)
        return points[-1][1] if points else math.nan


@dataclass(frozen=True)
class Difference:
    """Mean of paired differences over seeds, with its interval. Example: +.02 [-.01 +.05], 5 seeds."""

    mean: float
    low: float  # NaN for fewer than two seeds
    high: float
    seeds: int

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low > 0 or self.high < 0


Runs = Mapping[int, Run]  # by seed


def read_runs(table: Table, arm: Arm, seeds: Sequence[int], runs: Path, factors: Mapping[str, float]) -> Runs:
    """The finished runs of an arm, by seed."""
    found = {}
    for seed in seeds:
        folder = main_folder(table, arm, seed, runs, factor_of(arm, factors))
        if (folder / "summary.json").exists():
            summary = json.loads((folder / "summary.json").read_text())
            used = folder.with_name(f"{folder.name}{CPU}")
            cpu = sum(map(float, used.read_text().split())) if used.exists() else math.nan
            lines = read_metrics(folder / "metrics.jsonl")
            found[seed] = Run(summary["after"], lines, summary.get("before", {}), cpu)
    return found


def difference(values: Sequence[float], others: Sequence[float], comparisons: int = 1) -> Difference:
    """Of paired values: Student's t over the pairs where both are defined, at 95 % for all ``comparisons`` together
    (Bonferroni)."""
    pairs = [a - b for a, b in zip(values, others, strict=True) if not math.isnan(a - b)]
    if len(pairs) < 2:
        return Difference(mean(pairs) if pairs else math.nan, math.nan, math.nan, len(pairs))
    quantile = float(stdtrit(len(pairs) - 1, 1 - (1 - LEVEL) / 2 / comparisons))
    middle, half = mean(pairs), quantile * stdev(pairs) / math.sqrt(len(pairs))
    return Difference(middle, middle - half, middle + half, len(pairs))


def paired(arm: Runs, base: Runs, key: str, comparisons: int = 1) -> Difference:
    """At the end of the runs, that is after equal steps; over the seeds that both have."""
    seeds = sorted(arm.keys() & base.keys())
    return difference([arm[s].value(key) for s in seeds], [base[s].value(key) for s in seeds], comparisons)


def paired_in_time(arm: Runs, base: Runs, key: str, comparisons: int = 1) -> Difference:
    """After equal wall time: of each pair of runs the time that the faster one took in all."""
    values, others = [], []
    for seed in sorted(arm.keys() & base.keys()):
        seconds = min(arm[seed].seconds, base[seed].seconds)
        values.append(arm[seed].value_at(key, seconds))
        others.append(base[seed].value_at(key, seconds))
    return difference(values, others, comparisons)


def gain(runs: Runs, key: str) -> Difference:
    """After the runs minus before them, over the seeds."""
    return difference([run.value(key) for run in runs.values()], [run.start.value(key) for run in runs.values()])


def mean_of(runs: Runs, key: str) -> float:
    """Mean over the seeds where the metric is defined; NaN where it is nowhere."""
    values = [run.value(key) for run in runs.values()]
    known = [value for value in values if not math.isnan(value)]
    return mean(known) if known else math.nan


def _number(value: float | None, undefined: float) -> float:
    return undefined if value is None else value
