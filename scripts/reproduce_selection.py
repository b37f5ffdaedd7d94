"""Each arm's learning rate: the one with the highest held-out pass@1 over the selection seeds, none of them a seed of
the table. Equal means: the smaller rate."""

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

from reproduce_jobs import selection_jobs
from reproduce_matrix import FACTORS, Arm, Table

FILE = "chosen.json"
CRITERION = "pass@1"


def choose(runs: Path, table: Table, arms: Sequence[Arm], seeds: Sequence[int], *, write: bool) -> dict[str, float]:
    """Factor of the table's learning rate, by name of the arm; of the arms whose selection runs have all ended, and of
    those that ``chosen.json`` in ``runs`` has already. ``write``: update that file."""
    path = runs / FILE
    kept = json.loads(path.read_text()) if path.exists() else {}
    found = kept.get(table.name, {})
    for arm in arms:
        if measured := _measured(table, arm, seeds, runs):
            best = max(FACTORS, key=lambda factor: (round(mean(measured[factor]), 9), -factor))
            found[arm.name] = {"factor": best, CRITERION: {f"{key:g}": values for key, values in measured.items()}}
    if write and found:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(kept | {table.name: found}, indent=1))
    return {name: each["factor"] for name, each in found.items()}


def _measured(table: Table, arm: Arm, seeds: Sequence[int], runs: Path) -> dict[float, list[float]]:
    """Each seed's pass@1 after training, by factor; empty where a run is missing."""
    jobs = selection_jobs(table, [arm], seeds, runs)
    if not jobs or not all(job.is_done for job in jobs):
        return {}
    found: dict[float, list[float]] = {factor: [] for factor in FACTORS}
    for job in jobs:
        found[job.factor].append(json.loads((job.folder / job.done).read_text())["after"][CRITERION])
    return found
