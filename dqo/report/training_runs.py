"""Folders of dqo-train: also of runs that were killed, and of an older dqo."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dqo.embed.naming import encoder_name
from dqo.metrics.intervals import PassCurve, pass_curve
from dqo.report.files import flat, number, read_json, read_lines, read_text, read_yaml
from dqo.report.records import Group, Measured, Run

FILTERS = ("temperature", "top_p", "top_k", "min_p")
SHOWN_PROMPTS = 4  # whose answers and similarities are drawn


def is_training_run(folder: Path) -> bool:
    """Whether a folder is one of dqo-train: config.yaml is written first, and an evaluation or a line soon after."""
    return (folder / "config.yaml").exists() and not (folder / "eval.json").exists() and not _is_eval(folder)


def read_training_run(folder: Path) -> Run:
    """A run with what it has: ``notes`` say what is missing."""
    text = read_text(folder / "config.yaml")
    config = read_yaml(folder / "config.yaml") or {}
    summary = read_json(folder / "summary.json") if (folder / "summary.json").exists() else None
    settings, lines = flat(config), tuple(read_lines(folder / "metrics.jsonl"))
    found = _evaluations(folder, settings, summary)
    before = next((each for each in found if each.step == 0), None)
    after = found[-1] if found and found[-1] is not before else None
    origin = folder / "policy" / "dqo.json"
    version = read_json(origin).get("dqo") if origin.exists() else None
    return Run(
        folder=folder,
        command=_command(folder),
        config=text,
        settings=settings,
        version=version or "unknown",
        lines=lines,
        before=before,
        after=after,
        notes=tuple(_notes(folder, settings.get("steps"), lines, after or before, summary is not None)),
    )


def _is_eval(folder: Path) -> bool:
    """Whether the folder is one of dqo-eval that has not ended."""
    return "policies" in (read_yaml(folder / "config.yaml") or {})


def _evaluations(folder: Path, settings: Mapping[str, Any], summary: Mapping[str, Any] | None) -> list[Measured]:
    """The first and the last evaluation, from evaluations/, or from summary.json if that folder is empty."""
    paths = sorted((folder / "evaluations").glob("step_*.json"))
    if paths:
        ends = [paths[0], *([paths[-1]] if len(paths) > 1 else [])]
        return [_measured(folder, settings, int(path.stem.removeprefix("step_")), read_json(path)) for path in ends]
    if summary is None:
        return []
    steps = (0, summary["steps"])
    return [
        _measured(folder, settings, step, {"n": summary["n"], "seed": None, "metrics": summary[key], "answers": []})
        for step, key in zip(steps, ("before", "after"), strict=True)
    ]


def _measured(folder: Path, settings: Mapping[str, Any], step: int, record: Mapping[str, Any]) -> Measured:
    n, answers, means = record["n"], record["answers"], record["metrics"]
    embed = {key.removeprefix("embed."): value for key, value in settings.items() if key.startswith("embed.")}
    return Measured(
        name=folder.resolve().name,
        source=str(folder),
        settings=settings,
        decoding={key: float(settings[f"rollout.{key}"]) for key in FILTERS if f"rollout.{key}" in settings},
        task=settings.get("task._target_", "").rpartition(".")[2].lower() or "unknown",
        n=n,
        prompts=len(answers) or int(means.get("prompts") or 0),
        first_prompts=tuple((each["position"], each["prompt"]) for each in answers[:SHOWN_PROMPTS]),
        seed=record["seed"],
        length=settings.get("max_completion_length"),
        embedding=encoder_name(embed) if "_target_" in embed else None,
        means={key: number(value) for key, value in means.items()},
        per_prompt={key: [*map(number, values)] for key, values in record.get("per_prompt", {}).items()},
        intervals={},
        passes=_passes(answers, n),
        groups=tuple(map(_group, answers[:SHOWN_PROMPTS])),
        is_training=True,
        step=step,
    )


def _passes(answers: Sequence[Mapping[str, Any]], n: int) -> PassCurve | None:
    if not answers or any(each["correct"] is None for each in answers):
        return None
    return pass_curve([sum(each["correct"]) for each in answers], n)


def _group(record: Mapping[str, Any]) -> Group:
    cosines, rewards = record.get("cosines"), record.get("rewards")
    return Group(
        position=record["position"],
        prompt=record["prompt"],
        texts=tuple(record["texts"]),
        keys=tuple(record["keys"]),
        correct=None if record["correct"] is None else tuple(record["correct"]),
        rewards=tuple(map(number, rewards or [])),
        cosines=tuple(tuple(map(number, row)) for row in cosines) if cosines else None,
    )


def _command(folder: Path) -> str:
    """What was typed, for a shell; without Hydra's own keys."""
    typed = [str(text) for text in read_yaml(folder / "overrides.yaml") or []]
    return shlex.join(["dqo-train", *(text for text in typed if not text.startswith("hydra."))])


def _notes(
    folder: Path, steps: object, lines: Sequence[Mapping[str, Any]], last: Measured | None, is_done: bool
) -> list[str]:
    done = max((int(line.get("step", 0)) for line in lines), default=0)
    notes = []
    if not is_done:
        go_on = f"go on with dqo-train resume={shlex.quote(str(folder))}"
        notes.append(f"not complete: {done} of {steps} steps; {go_on}")
    if last is None:
        notes.append("without an evaluation")
    return notes
