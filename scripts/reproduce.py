"""The tables of docs/results.md: cities on SmolLM2-135M, concepts on the tiny model, both engines on cities, and
ahead=1 on concepts; seeds 0-2.

    python scripts/reproduce.py [cities] [concepts] [engines] [ahead] [--seeds 0,1,2] [--runs runs/reproduce]

Each row and seed is a run of `dqo-train`; a run that has a summary.json is not repeated.
"""

import argparse
import json
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from dqo.observe.metrics_file import read_metrics
from dqo.task import cities
from dqo.task.maps.world_map import draw_answers


@dataclass(frozen=True)
class Setting:
    """One row of a table."""

    name: str
    overrides: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """One table: its runs and its columns."""

    common: tuple[str, ...]
    settings: tuple[Setting, ...]  # the first is the baseline of the ratios
    columns: dict[str, str]  # heading: key of summary.json's "after"
    runs: str = ""  # name of the table whose folder of runs is used; empty: its own
    curves: tuple[str, ...] = ()  # keys of metrics.jsonl that are also printed over the steps


MEASURED = ("eval.every=0", "checkpoint.every=0", "checkpoint.final=false")
CITIES = ("task=cities", "eval.n=40", "eval.prompts=12", *MEASURED)
CONCEPTS = ("task=concepts", "eval.n=10", "eval.prompts=200", *MEASURED)
TABLES = {
    "cities": Table(
        common=CITIES,
        settings=(
            Setting("alpha = 0 (GRPO)", ("alpha=0",)),
            Setting("alpha = 1", ("alpha=1",)),
            Setting("alpha = 2", ("alpha=2",)),
        ),
        columns={
            "valid": "pass@1",
            "distinct valid of 40": "distinct_correct@40",
            "cosine distance": "cosine_distance",
            "log det": "logdet",
        },
    ),
    "concepts": Table(
        common=CONCEPTS,
        settings=(
            Setting("alpha = 0 (GRPO)", ("alpha=0",)),
            Setting("alpha = 1", ("alpha=1",)),
            Setting("alpha = 1, cosine kernel", ("alpha=1", "credit=dpp_correct")),
        ),
        columns={
            "pass@1": "pass@1",
            "pass@10": "pass@10",
            "distinct correct of 10": "distinct_correct",
            "cosine distance": "cosine_distance",
        },
    ),
    "engines": Table(
        common=CITIES,
        settings=(
            Setting("rollout=hf", ("alpha=2",)),
            Setting("rollout=vllm", ("alpha=2", "rollout=vllm")),
        ),
        columns={
            "valid": "pass@1",
            "distinct valid of 40": "distinct_correct@40",
            "cosine distance": "cosine_distance",
        },
        runs="cities",
        curves=("correct", "completions/distinct"),
    ),
    "ahead": Table(
        common=CONCEPTS,
        settings=(
            Setting("ahead=0", ("alpha=1",)),
            Setting("ahead=1", ("alpha=1", "ahead=1")),
        ),
        columns={
            "pass@1": "pass@1",
            "distinct correct of 10": "distinct_correct",
            "cosine distance": "cosine_distance",
        },
        runs="concepts",
        curves=("correct", "clip_ratio/region_mean"),
    ),
}


def main() -> None:
    """Train what is missing and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="*", choices=[*TABLES, []], default=list(TABLES))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--runs", type=Path, default=Path("runs/reproduce"))
    options = parser.parse_args()
    for name in options.tables or TABLES:
        table, seeds = TABLES[name], [int(seed) for seed in options.seeds.split(",")]
        print(f"\n{name}: dqo-train {' '.join(table.common)}, seeds {options.seeds}\n")
        rows = {
            setting.name: [after(table, setting, seed, options.runs / (table.runs or name)) for seed in seeds]
            for setting in table.settings
        }
        print(markdown(table, rows), flush=True)
        for key in table.curves:
            print(f"\n{key}: mean over the seeds and over the fifth of the run that ends at this step\n")
            print(curve(table, key, seeds, options.runs / (table.runs or name)), flush=True)
        if name == "cities":
            picture(table, seeds, options.runs)


def after(table: Table, setting: Setting, seed: int, folder: Path) -> dict[str, float]:
    """The metrics after training; trains if there is no summary.json yet."""
    run = run_folder(setting, seed, folder)
    if not (run / "summary.json").exists():
        arguments = [
            *table.common,
            *setting.overrides,
            f"seed={seed}",
            f"run_dir={run}",
            "resume=auto",  # continue an interrupted run
            "log.every=20",
            "log.live=false",
        ]
        subprocess.run([sys.executable, "-m", "dqo.cli", "train", *arguments], check=True, stdout=sys.stderr)
    return json.loads((run / "summary.json").read_text())["after"]


def curve(table: Table, key: str, seeds: list[int], folder: Path) -> str:
    """A markdown table of one metric: a row a setting, a column for each fifth of the run."""
    lines = []
    for setting in table.settings:
        runs = [read_metrics(run_folder(setting, seed, folder) / "metrics.jsonl") for seed in seeds]
        values = [[line[key] for line in run if line.get(key) is not None] for run in runs]
        if not all(values):  # runs of an older version, which did not log this key
            continue
        fifth = len(values[0]) // 5
        if not lines:
            steps = " | ".join(str(fifth * (i + 1)) for i in range(5))
            lines = [f"| steps | {steps} |", f"|{'---|' * 6}"]
        means = [mean(mean(run[i * fifth : (i + 1) * fifth]) for run in values) for i in range(5)]
        lines.append(f"| {setting.name} | {' | '.join(f'{value:.3g}' for value in means)} |")
    return "\n".join(lines)


def run_folder(setting: Setting, seed: int, folder: Path) -> Path:
    """The folder of one run."""
    return folder / f"{'_'.join(setting.overrides)}_seed={seed}"


def picture(table: Table, seeds: list[int], runs: Path) -> None:
    """Draw the answers of all seeds on a map, one map a setting."""
    panels = []
    for setting in table.settings:
        files = [
            file for seed in seeds for file in run_folder(setting, seed, runs / "cities").glob("evaluations/*.json")
        ]
        last = [file for file in files if file.name != "step_00000.json"]
        answers = [each for file in last for each in json.loads(file.read_text())["answers"]]
        panels.append((setting.name, [text for each in answers for text in each["texts"]]))
    draw_answers(runs / "cities.png", atlas=cities, panels=panels)
    print(f"\nthe answers on a map: {runs / 'cities.png'}")


def markdown(table: Table, rows: dict[str, list[dict[str, float]]]) -> str:
    """A markdown table: the mean over the seeds, in brackets each seed's value, and the ratio to the first row."""
    lines = [f"| | {' | '.join(table.columns)} |", "|---" * (len(table.columns) + 1) + "|"]
    baseline = next(iter(rows.values()))
    for name, runs in rows.items():
        cells = []
        for key in table.columns.values():
            values = [run[key] for run in runs]
            mean, base = statistics.mean(values), statistics.mean(run[key] for run in baseline)
            seeds = " ".join(f"{value:.3g}" for value in values)
            cells.append(f"{mean:.3g} ({seeds})" + (f", {mean / base:.2f}×" if runs is not baseline and base else ""))
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
