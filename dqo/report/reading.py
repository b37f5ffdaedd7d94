"""From the folders that were typed to what they hold: runs of dqo-train, sweeps, and folders of dqo-eval."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from dqo.config.planned_jobs import planned_jobs
from dqo.errors import ConfigError
from dqo.report.eval_runs import RESULT, UNKNOWN, read_eval_run
from dqo.report.files import read_yaml
from dqo.report.records import EvalRun, Run, Source
from dqo.report.training_runs import is_training_run, read_training_run

SWEEP = "multirun.yaml"

Found = TypeVar("Found", Run, EvalRun)


def read_folders(folders: Sequence[str]) -> Source:
    """Everything in the folders; a folder without a run of its own is searched one level down, as a sweep's is.

    Raises ConfigError where a folder holds nothing to show, or the runs have different tasks.
    """
    if not folders:
        raise ConfigError("no run given; type dqo-report RUN_FOLDER, or the folder of a sweep or of dqo-eval")
    runs, evals, notes = [], [], []
    for folder in dict.fromkeys(Path(text) for text in folders):
        found_runs, found_evals, found_notes = _read_folder(folder)
        runs, evals, notes = [*runs, *found_runs], [*evals, *found_evals], [*notes, *found_notes]
    source = Source(runs=tuple(_unique(runs)), evals=tuple(_unique(evals)), notes=tuple(notes))
    _require_one_task(source)
    return source


def _read_folder(folder: Path) -> tuple[list[Run], list[EvalRun], list[str]]:
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "there is no such folder"
        raise ConfigError(f"{folder}: {what}; type the folder of a run, of a sweep or of dqo-eval")
    if (folder / RESULT).exists():
        return [], [read_eval_run(folder)], []
    if is_training_run(folder):
        run = read_training_run(folder)
        if run.after is None and run.before is None:
            measure = f"measure its policy: dqo-eval {folder}, and report that folder"
            advice = measure if (folder / "policy").exists() else run.notes[0]
            raise ConfigError(f"{folder}: the run has no evaluation; {advice}")
        return [run], [], []
    if (folder / "config.yaml").exists():
        raise ConfigError(f"{folder}: dqo-eval has not ended there; go on with dqo-eval resume={folder}")
    return _read_sweep(folder)


def _read_sweep(folder: Path) -> tuple[list[Run], list[EvalRun], list[str]]:
    """The runs one level down, in the order of their numbers, and which jobs of the sweep have none to show."""
    inside = sorted((path for path in folder.iterdir() if path.is_dir()), key=_job_order)
    found_runs = [read_training_run(path) for path in inside if is_training_run(path)]
    runs = [run for run in found_runs if run.after or run.before]
    evals = [read_eval_run(path) for path in inside if (path / RESULT).exists()]
    is_sweep = (folder / SWEEP).exists()
    if not runs and not evals:
        holds = "no job of the sweep has an evaluation" if is_sweep or found_runs else "holds no run"
        raise ConfigError(f"{folder}: {holds}; type the folder of a run, of a sweep or of dqo-eval")
    done = [run for run in runs if (run.folder / "summary.json").exists()]
    if is_sweep and not done and not evals:
        raise ConfigError(
            f"{folder}: no job of the sweep has finished; finish one, or type a job's own folder: {runs[0].folder}"
        )
    planned = max(planned_jobs(read_yaml(folder / SWEEP) or {}), len(found_runs)) if is_sweep else len(found_runs)
    notes = []
    if is_sweep and len(done) < planned:
        named = [run.name for run in found_runs if run not in done]
        absent = planned - len(found_runs)
        parts = [f"not complete: {', '.join(named)}"] if named else []
        parts += [f"{absent} left no folder (refused, or not started)"] if absent else []
        notes.append(f"Sweep {folder}: {len(done)} of {planned} jobs are complete; {'; '.join(parts)}.")
    return runs, evals, notes


def _job_order(path: Path) -> tuple[int, str]:
    number = re.match(r"\d+", path.name)
    return (int(number[0]) if number else 10**9, path.name)


def _unique(found: Sequence[Found]) -> list[Found]:
    return [*{each.folder.resolve(): each for each in found}.values()]


def _require_one_task(source: Source) -> None:
    tasks: dict[str, Path] = {}
    for run in source.runs:
        for measured in filter(None, (run.before, run.after)):
            tasks.setdefault(measured.task, run.folder)
    for each in source.evals:
        for cell in each.cells:
            tasks.setdefault(cell.task, each.folder)
    tasks.pop(UNKNOWN, None)  # completions of other origin
    if len(tasks) > 1:
        named = ", ".join(f"{task} ({folder})" for task, folder in tasks.items())
        raise ConfigError(f"runs of {len(tasks)} tasks cannot be compared: {named}; type one dqo-report for each task")
