"""Folders of dqo-eval."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dqo.metrics.intervals import Interval, PassCurve
from dqo.report.files import flat, number, read_json, read_text, read_yaml
from dqo.report.records import EvalRun, Group, Measured

RESULT, UNKNOWN = "eval.json", "unknown"


def read_eval_run(folder: Path) -> EvalRun:
    """What dqo-eval has measured. Raises ConfigError where eval.json cannot be read."""
    record = read_json(folder / RESULT)
    config = flat(read_yaml(folder / "config.yaml") or {})
    return EvalRun(
        folder=folder,
        command=record["command"],
        config=read_text(folder / "config.yaml"),
        version=record["dqo"],
        cells=tuple(_cell(folder, record, config, cell) for cell in record["cells"]),
        missing=record["missing"],
        notes=tuple(_notes(record)),
    )


def _notes(record: Mapping[str, Any]) -> list[str]:
    return [
        f"{cell['policy']}: {cell['left_out']} prompts without {record['n']} completions are left out"
        for cell in record["cells"]
        if cell.get("left_out")
    ]


def _cell(folder: Path, record: Mapping[str, Any], config: Mapping[str, Any], cell: Mapping[str, Any]) -> Measured:
    groups = tuple(_group(group) for group in cell["groups"])
    return Measured(
        name=cell["policy"],
        source=str(folder),
        settings=cell["settings"] or {},
        decoding={key: number(value) for key, value in cell["decoding"].items()},
        task=record["task"] or UNKNOWN,
        n=record["n"],
        prompts=record["prompts"],
        first_prompts=tuple((group.position, group.prompt) for group in groups),
        seed=record["seed"],
        length=config.get("max_completion_length"),
        embedding=record["embedding"],
        means={name: number(value["mean"]) for name, value in cell["metrics"].items()},
        per_prompt={name: [*map(number, values)] for name, values in cell["per_prompt"].items()},
        intervals={name: _interval(value) for name, value in cell["metrics"].items()},
        passes=_passes(cell["pass_curve"]),
        groups=groups,
        is_control=cell["control"],
    )


def _interval(value: Mapping[str, Any]) -> Interval:
    return Interval(
        mean=number(value["mean"]), low=number(value["low"]), high=number(value["high"]), prompts=value["prompts"]
    )


def _passes(curve: Mapping[str, Any] | None) -> PassCurve | None:
    if curve is None:
        return None
    mean, low, high = (tuple(map(number, curve[key])) for key in ("mean", "low", "high"))
    return PassCurve(k=tuple(curve["k"]), mean=mean, low=low, high=high, area=number(curve["area"]))


def _group(record: Mapping[str, Any]) -> Group:
    texts, correct, cosines = record["completions"], record["correct"], record.get("cosines")
    return Group(
        position=record["position"],
        prompt=record["prompt"],
        texts=tuple(texts),
        keys=tuple(record.get("keys") or [text.strip() for text in texts]),
        correct=None if correct is None else tuple(correct),
        rewards=(),
        cosines=tuple(tuple(map(number, row)) for row in cosines) if cosines else None,
    )
