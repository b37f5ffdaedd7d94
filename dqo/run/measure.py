"""The second phase of ``dqo-eval``: metrics of completions that are there, with intervals, as eval.json and a table."""

import importlib.util
import json
import math
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

import dqo
from dqo.config.resume import saved_overrides
from dqo.config.schema import EvalConfig
from dqo.embed.naming import encoder_name
from dqo.errors import ConfigError
from dqo.evaluation import Measured, asks_encoder
from dqo.files.atomic import replacing
from dqo.metrics.intervals import Interval, PassCurve, mean_interval, paired_interval, pass_curve, pass_difference
from dqo.metrics.modes import effective_modes
from dqo.metrics.names import describe, evaluation_metrics, metric_of
from dqo.observe.eval_table import print_evaluation
from dqo.run.build import make_device, make_encoder
from dqo.run.gather import Gathered, Instruments, gather
from dqo.run.read_completions import Source, open_sources, own_source
from dqo.run.scorers import scorers_of
from dqo.scorers.bundle import Scorers

PACKAGES = {"scipy": "scipy", "passk_inference": "passk-inference"}  # of the extra "eval"


def prepare(config: EvalConfig, folder: Path) -> Instruments:
    """The encoder and the scorers of the chosen metrics. Raises ConfigError for a package, a model or a service that is
    not there: call it before anything is sampled. Not a collective."""
    for module, package in PACKAGES.items():
        if importlib.util.find_spec(module) is None:
            raise ConfigError(f"dqo-eval needs the package {package}; type pip install 'dqo-rl[eval]'")
    device = make_device(config)
    sources = [Path(source).expanduser().absolute() for source in config.from_]
    measured_before = [run for source in sources for run in (source, *source.parents[:3])]
    scorers = scorers_of(config.eval, device, folder, others=measured_before)
    families = tuple(dict.fromkeys([*config.eval.metrics, *_families_of(scorers, config)]))
    embed = make_encoder(config, device) if asks_encoder(families, scorers) else None
    return Instruments(families=families, embed=embed, scorers=scorers)


def run(config: EvalConfig, folder: Path, instruments: Instruments | None = None) -> None:
    """Measures the completions in ``folder``, or those of ``from=``; writes eval.json and prints the table. For one
    rank; not a collective.

    Raises ConfigError for tables that cannot be measured, and StageError where encoder or scorers fail.
    """
    sources = open_sources(config.from_) if config.from_ else [own_source(folder)]
    _refuse_two_tasks(sources)
    instruments = instruments or prepare(config, folder)
    n = _completions(sources, instruments.families)
    try:
        gathered = gather(sources, n, instruments, controls=config.controls)
    finally:
        instruments.scorers.release()
    record = _finite(_record(config, folder, sources, n, instruments, gathered))
    with replacing(folder / "eval.json") as path:
        path.write_text(json.dumps(record, ensure_ascii=False, allow_nan=False, indent=1), "utf-8")
    print_evaluation(Console(), record, folder)


def _families_of(scorers: Scorers, config: EvalConfig) -> list[str]:
    """The families of the scorers that are configured: naming the model of a metric chooses the metric."""
    novelty = config.eval.novelty
    there = {
        "nli_disagreement": scorers.nli is not None,
        "judge_diversity": scorers.judge is not None,
        "noveltybench": bool(novelty.classifier or novelty.reward_model),
    }
    return [family for family, is_there in there.items() if is_there]


def _refuse_two_tasks(sources: Sequence[Source]) -> None:
    tasks = sorted({str(about["task"]) for source in sources for about in source.abouts.values()})
    if len(tasks) > 1:
        raise ConfigError(
            f"from=: completions of the tasks {' and '.join(tasks)}: numbers of different prompts are not comparable; "
            "type from= for each task apart"
        )


def _completions(sources: Sequence[Source], families: Sequence[str]) -> int:
    """The number of completions that most prompts have. Raises ConfigError for one, where diversity is asked for."""
    counts = sum((source.counts() for source in sources), Counter[int]())
    n = max(counts, key=lambda count: (counts[count], count))
    compares = [name for name in evaluation_metrics(n, families) if metric_of(name).kind == "diversity"]
    if n == 1 and compares:
        raise ConfigError(
            f"there is one completion of each prompt, and {compares[0]} compares several; type n=10 to sample more, or "
            "eval.metrics=[reward,pass,finished,mean_length]"
        )
    return n


def _record(
    config: EvalConfig, folder: Path, sources: Sequence[Source], n: int, instruments: Instruments,
    gathered: Sequence[Gathered],
) -> dict[str, Any]:  # fmt: skip
    """The content of eval.json; NaN where undefined."""
    names = evaluation_metrics(n, instruments.families)
    labels = _labels(gathered)
    cells = [_cell(each, label, names, n) for each, label in zip(gathered, labels, strict=True)]
    abouts = [about for source in sources for about in source.abouts.values()]
    return {
        "dqo": dqo.__version__,
        "command": _command(config, folder),
        "task": _common(about["task"] for about in abouts),
        "n": n,
        "prompts": max(len(each.prompts) for each in gathered),
        "seed": _common(about["seed"] for about in abouts),
        "embedding": encoder_name(config.embed) if instruments.embed else None,
        "partition": instruments.scorers.novelty.partition if "noveltybench" in instruments.families else None,
        "metrics": {
            name: {"better": metric_of(name).better, "kind": metric_of(name).kind, "text": describe(name)}
            for name in names
        },
        "cells": cells,
        "differences": _differences(gathered, labels, names, n),
        "missing": instruments.scorers.missing,
    }


def _command(config: EvalConfig, folder: Path) -> str:
    """The command line, with the policies as they are typed; a run's own overrides are among the others."""
    made = ("policies=", "model=hf", "task.date=")  # by the command itself
    others = [text for text in saved_overrides(folder) if not text.startswith(made)]
    return shlex.join(["dqo-eval", *(each.run or each.path for each in config.policies), *others])


def _labels(gathered: Sequence[Gathered]) -> list[str]:
    """The policies' names; with the source where two sources have a policy of one name and decoding."""
    counts = Counter(each.cell for each in gathered)
    return [
        each.cell.policy if counts[each.cell] == 1 else f"{each.source.name}/{each.cell.policy}" for each in gathered
    ]


def _common(values: Iterable[Any]) -> Any:
    """The value if all are equal, else None."""
    found = set(values)
    return found.pop() if len(found) == 1 else None


def _cell(gathered: Gathered, label: str, names: Sequence[str], n: int) -> dict[str, Any]:
    values, counts = gathered.values(), gathered.correct_counts()
    intervals = {name: mean_interval(values[name]) for name in names if name in values}
    about = {} if gathered.is_control else gathered.source.abouts.get(gathered.cell, {})
    return {
        "policy": label,
        "path": about.get("path"),
        "decoding": asdict(gathered.cell.decoding),
        "control": gathered.is_control,
        "settings": about.get("settings"),
        "other_rendering": about.get("other_rendering") or None,
        "metrics": {name: _interval(intervals, name) for name in names},
        "per_prompt": {name: values[name] for name in names if name in values},
        "pass_curve": asdict(pass_curve([*counts.values()], n)) if counts else None,
        "left_out": gathered.left_out.total(),
        "groups": [_group(measured) for measured in gathered.shown],
    }


def _interval(intervals: Mapping[str, Interval], name: str) -> dict[str, Any]:
    """The interval of a metric; that of the effective modes follows from that of pcmd, with which it rises."""
    if not name.startswith("effective_modes"):
        return asdict(intervals[name])
    found = asdict(intervals[name.replace("effective_modes", "pcmd")])
    return {key: value if key == "prompts" else effective_modes(value) for key, value in found.items()}


def _group(measured: Measured) -> dict[str, Any]:
    answers = measured.answers
    return {
        "position": answers.prompt.position,
        "prompt": answers.prompt.text,
        "completions": answers.texts,
        "correct": answers.correct,
        "cosines": measured.cosines,
    }


def _differences(
    gathered: Sequence[Gathered], labels: Sequence[str], names: Sequence[str], n: int
) -> list[dict[str, Any]]:
    """Each policy against the first one with the same decoding; the first one's other decodings against its first.
    Over the prompts that both answered."""
    cells = [(each, label) for each, label in zip(gathered, labels, strict=True) if not each.is_control]
    found = []
    for other, label in cells[1:]:
        same = [(each, name) for each, name in cells if each.cell.decoding == other.cell.decoding]
        first, against = same[0] if same[0][0] is not other else cells[0]
        found.append(
            {
                "policy": label,
                "decoding": asdict(other.cell.decoding),
                "against": against,
                "against_decoding": asdict(first.cell.decoding),
                **_difference(first, other, names, n),
            }
        )
    return found


def _difference(first: Gathered, other: Gathered, names: Sequence[str], n: int) -> dict[str, Any]:
    before, after = first.by_prompt(), other.by_prompt()
    shared = sorted(before.keys() & after.keys())
    metrics = {
        name: asdict(paired_interval([after[key][name] for key in shared], [before[key][name] for key in shared]))
        for name in names
        if not metric_of(name).of_means
    }
    counts, others = other.correct_counts(), first.correct_counts()
    curve: PassCurve | None = None
    if counts and others and shared:
        curve = pass_difference([counts[key] for key in shared], [others[key] for key in shared], n)
    return {"prompts": len(shared), "metrics": metrics, "pass_curve": asdict(curve) if curve else None}


def _finite(value: Any) -> Any:
    """A JSON value with null in place of NaN and infinity."""
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
