"""The completions that the page lets the reader search: those of evaluations, then those of the last training steps."""

import base64
import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from dqo.observe.visible import visible_lines
from dqo.report.files import number, read_json
from dqo.report.records import EvalRun, Run, Source

LONGEST = 4000  # characters of a completion or prompt that are kept
DIGITS = 4  # of a reward
COLUMNS = ("policy", "position", "prompt", "completion", "reward", "correct")


@dataclass(frozen=True, kw_only=True)
class Completion:
    """One completion."""

    origin: str  # the run or policy, and where in it: "alpha=1, held out"
    prompt: str
    text: str
    reward: float | None
    correct: bool | None


def packed(source: Source, most: int) -> tuple[str, int]:
    """At most ``most`` completions of each run or policy as base64 of gzipped JSON, and how many there are.

    The JSON has a column a key: ``origins`` and ``prompts`` are lists of texts, ``origin`` and ``prompt`` indices into
    them; ``text``, ``reward`` and ``correct`` (1, 0, null) are by completion, ``cut`` the whole length of shortened
    texts by index. Control characters, direction marks and lone surrogates are escaped.
    """
    origins: dict[str, int] = {}
    prompts: dict[str, int] = {}
    columns: dict[str, list[Any]] = {key: [] for key in ("origin", "prompt", "text", "reward", "correct")}
    cut: dict[int, int] = {}
    for each in _completions(source, most):
        if len(each.text) > LONGEST:
            cut[len(columns["text"])] = len(each.text)
        columns["origin"].append(origins.setdefault(visible_lines(each.origin), len(origins)))
        columns["prompt"].append(prompts.setdefault(_shown(each.prompt), len(prompts)))
        columns["text"].append(_shown(each.text))
        columns["reward"].append(each.reward if each.reward is None else round(each.reward, DIGITS))
        columns["correct"].append(each.correct if each.correct is None else int(each.correct))
    record = {"origins": [*origins], "prompts": [*prompts], "cut": cut, **columns}
    text = json.dumps(record, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return base64.b64encode(gzip.compress(text.encode(), compresslevel=6)).decode(), len(columns["text"])


def _shown(text: str) -> str:
    return visible_lines(text if len(text) <= LONGEST else text[:LONGEST])


def _completions(source: Source, most: int) -> Iterator[Completion]:
    for run in source.runs:
        yield from _first(_of_run(run), most)
    for each in source.evals:
        for folder in sorted(path for path in (each.folder / "completions").glob("*") if path.is_dir()):
            yield from _first(_of_cell(each, folder), most)


def _first(completions: Iterator[Completion], most: int) -> Iterator[Completion]:
    for _, each in zip(range(most), completions, strict=False):
        yield each


def _of_run(run: Run) -> Iterator[Completion]:
    """The last evaluation, the steps from the last one on, then the first evaluation."""
    evaluations = sorted((run.folder / "evaluations").glob("step_*.json"), reverse=True)
    if evaluations:
        yield from _held_out(run, evaluations[0])
    for path in sorted((run.folder / "completions").glob("step_*.parquet"), reverse=True):
        yield from _rows(f"{run.name}, training step {_step(path)}", path)
    if len(evaluations) > 1:
        yield from _held_out(run, evaluations[-1])


def _held_out(run: Run, path: Path) -> Iterator[Completion]:
    step = _step(path)
    origin = f"{run.name}, held out {f'after step {step}' if step else 'before training'}"
    for group in read_json(path)["answers"]:
        for i, text in enumerate(group["texts"]):
            reward = number(group["rewards"][i]) if group["rewards"] else None
            known = reward is not None and reward == reward
            correct = None if group["correct"] is None else group["correct"][i]
            yield Completion(
                origin=origin, prompt=group["prompt"], text=text, reward=reward if known else None, correct=correct
            )


def _of_cell(each: EvalRun, folder: Path) -> Iterator[Completion]:
    """The completions of one policy with one decoding."""
    for path in sorted(folder.glob("*.parquet")):
        yield from _rows(f"{each.name}, {folder.name}", path)


def _rows(origin: str, path: Path) -> Iterator[Completion]:
    file = pq.ParquetFile(path)
    names = [name for name in COLUMNS if name in file.schema_arrow.names]
    for batch in file.iter_batches(batch_size=1000, columns=names):
        for row in batch.to_pylist():
            reward = row.get("reward")
            yield Completion(
                origin=origin,
                prompt=row["prompt"],
                text=row["completion"],
                reward=None if reward is None or reward != reward else reward,
                correct=row.get("correct"),
            )


def _step(path: Path) -> int:
    return int(path.stem.removeprefix("step_"))
