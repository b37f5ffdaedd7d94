"""Folders of dqo-train and dqo-eval as they are on disk, made up: answers are drawn from a list of cities, the more
different the larger alpha is."""

import json
import math
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from dqo.metrics.intervals import Interval, mean_interval, pass_curve
from dqo.metrics.modes import pcmd
from dqo.metrics.names import describe, metric_of, pass_sizes
from dqo.metrics.quality import distinct_correct_of, pass_at
from dqo.report.comparison import compare
from dqo.report.figures import make_figures
from dqo.report.page.document import page
from dqo.report.reading import read_folders

CITIES = (
    "Paris", "London", "Tokyo", "New York", "Lisbon", "Kyoto", "Rome", "Barcelona", "Cape Town", "Sydney", "Reykjavík",
    "Buenos Aires", "Istanbul", "Prague", "Marrakesh", "Montréal", "Seoul", "Hanoi", "Oslo", "Zagreb", "São Paulo",
    "Copenhagen", "San Francisco", "Mexico City", "Edinburgh",
)  # fmt: skip
DIVERSITY = ("cosine_distance", "vendi", "distinct_4", "self_bleu_diversity", "pcmd", "compression_ratio")


def write_run(
    folder: Path, *, alpha: float = 1.0, k: int = 8, seed: int = 0, steps: int = 20, prompts: int = 16, n: int = 10,
    task: str = "cities.Cities", complete: bool = True, old: bool = False, judged: bool = True, training: int = 8,
    texts: Sequence[str] = (), settings: Mapping[str, Any] = {},
) -> Path:  # fmt: skip
    """A run of dqo-train. ``complete=False``: killed after its first evaluation; ``old``: by a dqo that wrote no values
    by prompt; ``texts``: completions that are put in front; ``training``: steps whose completions are kept."""
    folder.mkdir(parents=True)
    config = {
        "alpha": alpha, "beta": 0.0, "k": k, "steps": steps, "seed": seed, "max_completion_length": 16,
        "run_dir": str(folder), "eval": {"n": n, "prompts": prompts}, "task": {"_target_": f"dqo.task.{task}"},
        "rollout": {"_target_": "dqo.rollout.hf.Hf", "temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0},
        "embed": {"_target_": "dqo.embed.sentence.Sentence", "model": "all-MiniLM-L6-v2"},
        "credit": {"_target_": "dqo.credit.dpp.Dpp", "kernel": "cosine"}, **settings,
    }  # fmt: skip
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    (folder / "overrides.yaml").write_text(
        yaml.safe_dump([f"alpha={alpha:g}", f"k={k}", f"seed={seed}", "hydra.runtime.cwd=/x"])
    )
    (folder / "policy").mkdir()
    (folder / "policy" / "dqo.json").write_text(json.dumps({"dqo": "0.1.0"}))
    (folder / "evaluations").mkdir()
    ends = [(0, 0.3, 6.0), (steps, 0.95 - 0.02 * alpha, 0.6 + 1.5 * alpha)]
    lines: list[dict[str, Any]] = []
    for step, quality, spread in ends if complete else ends[:1]:
        groups = _groups(quality, spread, prompts, n, random.Random(f"{step} {seed} {alpha} {k}"), texts)
        record = _evaluation(groups, n, judged=judged, old=old)
        (folder / "evaluations" / f"step_{step:05d}.json").write_text(json.dumps(record))
        lines.append({"step": step, **{f"eval/{key}": value for key, value in record["metrics"].items()}})
    done = steps if complete else steps // 2
    lines[1:1] = [_line(step, alpha, seed) for step in range(1, done + 1)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "completions").mkdir()
    for step in range(max(1, done - training + 1), done + 1):
        _write_training(folder / "completions" / f"step_{step:05d}.parquet", step, k, random.Random(step), texts)
    if complete:
        first, last = (
            json.loads(path.read_text())["metrics"] for path in sorted((folder / "evaluations").glob("*.json"))
        )
        summary = {"task": "cities", "alpha": alpha, "k": k, "steps": steps, "seed": seed, "n": n}
        (folder / "summary.json").write_text(json.dumps({**summary, "before": first, "after": last}))
    return folder


def write_sweep(folder: Path, jobs: Sequence[Mapping[str, Any]], *, planned: str, **options: Any) -> Path:
    """A sweep's folder; ``planned``: the override that is swept, "alpha=0,1,2"."""
    for i, job in enumerate(jobs):
        name = ",".join(f"{key}={value}" for key, value in job.items() if key != "complete")
        write_run(folder / f"{i}_{name}", **{**options, **job})
    sweeper = {"_target_": "hydra._internal.core_plugins.basic_sweeper.BasicSweeper", "params": None}
    record = {"hydra": {"sweeper": sweeper, "overrides": {"task": planned.split()}}}
    (folder / "multirun.yaml").write_text(yaml.safe_dump(record))
    return folder


def write_eval(
    folder: Path, *, alphas: Sequence[float] = (0, 1, 2), temperatures: Sequence[float] = (1.0,), prompts: int = 16,
    n: int = 10, controls: bool = False, judged: bool = True, task: str = "cities",
) -> Path:  # fmt: skip
    """A folder of dqo-eval."""
    folder.mkdir(parents=True)
    cells = []
    for alpha in alphas:
        for i, temperature in enumerate(temperatures):
            name = f"{len(cells)}_alpha={alpha:g}_t{temperature:g}"
            groups = _groups(
                0.97 - 0.02 * alpha - 0.1 * (temperature - 0.5), (0.6 + 1.5 * alpha) * temperature, prompts, n,
                random.Random(f"{alpha} {i}"), (),
            )  # fmt: skip
            settings = {"alpha": float(alpha), "k": 8, "seed": 0}
            cells.append(_cell(f"alpha={alpha:g}", temperature, groups, n, settings, judged=judged))
            _write_completions(folder / "completions" / name, f"alpha={alpha:g}", temperature, groups)
    if controls:
        generator = random.Random(0)
        makers: dict[str, Callable[[], str]] = {
            "copies": lambda: "Paris", "repeated text": lambda: "Paris " * 8,
            "random text": lambda: " ".join("".join(generator.sample("abcdefghij", 5)) for _ in range(4)),
            "other languages": lambda: generator.choice(["巴黎", "Париж", "باريس", "Παρίσι"]),
        }  # fmt: skip
        for name, make in makers.items():
            groups = [[(make(), name in ("copies", "other languages")) for _ in range(n)] for _ in range(prompts)]
            cells.append({**_cell(name, 1.0, groups, n, None, judged=judged), "control": True})
    names = {name for cell in cells for name in cell["metrics"]}
    record = {
        "dqo": "0.2.0", "command": "dqo-eval runs/sweep/*", "task": task, "n": n, "prompts": prompts, "seed": 1000003,
        "embedding": "all-MiniLM-L6-v2", "cells": cells, "differences": [],
        "metrics": {name: {"better": metric_of(name).better, "kind": metric_of(name).kind, "text": describe(name)}
                    for name in sorted(names)},
        "missing": {"nli_disagreement": "eval.nli=FOLDER of a transformers classifier"},
    }  # fmt: skip
    (folder / "config.yaml").write_text(yaml.safe_dump({"n": n, "max_completion_length": 16, "policies": []}))
    (folder / "eval.json").write_text(json.dumps(record))
    return folder


Groups = list[list[tuple[str, bool]]]  # by prompt: completions, and whether they are correct


def _groups(
    quality: float, spread: float, prompts: int, n: int, generator: random.Random, texts: Sequence[str]
) -> Groups:
    """``spread``: how far down the list of cities the answers reach."""
    groups = []
    for p in range(prompts):
        weights = [math.exp(-((i + p) % len(CITIES)) / spread) for i in range(len(CITIES))]
        answers = generator.choices(CITIES, weights, k=n)
        good = round(n * min(1.0, max(0.0, quality + 0.15 * math.sin(3 * p))))  # easy and hard prompts
        wrong = {*generator.sample(range(n), n - good)}
        groups.append([(f"{text} or so", False) if i in wrong else (text, True) for i, text in enumerate(answers)])
    groups[0][: len(texts)] = [(text, False) for text in texts[:n]]
    return groups


def _by_prompt(groups: Groups, n: int, *, judged: bool) -> dict[str, list[float]]:
    rows = [_metrics(group, n, judged=judged) for group in groups]
    return {key: [row[key] for row in rows] for key in rows[0]}


def _metrics(group: list[tuple[str, bool]], n: int, *, judged: bool) -> dict[str, float]:
    keys = [text for text, _ in group]
    right = [text for text, good in group if good]
    known = {
        "reward": len(right) / n, "reward_best": float(bool(right)),
        **{f"pass@{m}": pass_at(m, samples=n, correct=len(right)) for m in pass_sizes(n)},
        "distinct_correct": distinct_correct_of(min(10, n), samples=n, keys=right),
        "compared/correct": float(len(right) > 1), **{f"{name}/correct": _spread(right, name) for name in DIVERSITY},
    }  # fmt: skip
    known = known if judged else dict.fromkeys(known, math.nan)
    form = {"valid": 1.0, "finished": 0.98, "mean_length": sum(map(len, keys)) / n}
    return {**known, **{name: _spread(keys, name) for name in DIVERSITY}, **form}


def _spread(keys: Sequence[str], name: str) -> float:
    """A number that grows with the number of different keys, of the size that the metric has."""
    if len(keys) < 2:
        return math.nan
    share, counts = pcmd(keys), Counter(keys)
    vendi = math.exp(-sum(c / len(keys) * math.log(c / len(keys)) for c in counts.values()))
    sizes = {"cosine_distance": 0.6, "distinct_4": 0.9, "self_bleu_diversity": 0.8, "pcmd": 1.0}
    return vendi if name == "vendi" else 1 + 4 * (1 - share) if name == "compression_ratio" else sizes[name] * share


def _evaluation(groups: Groups, n: int, *, judged: bool, old: bool) -> dict[str, Any]:
    by_prompt = _by_prompt(groups, n, judged=judged)
    means = {key: _or_null(mean_interval(values).mean) for key, values in by_prompt.items()}
    answers = [
        {
            "position": p, "prompt": f"Recommend city number {p} to visit.", "texts": [text for text, _ in group],
            "keys": [text.strip().lower() for text, _ in group],
            "correct": [good for _, good in group] if judged else None,
            "rewards": [float(good) if judged else None for _, good in group],
            **({"cosines": _cosines(group)} if p < 4 and not old else {}),
        }
        for p, group in enumerate(groups)
    ]  # fmt: skip
    record = {"n": n, "seed": 1000003, "metrics": {"n": n, "prompts": len(groups), **means}, "answers": answers}
    per_prompt = {key: [*map(_or_null, values)] for key, values in by_prompt.items()}
    return record if old else {**record, "per_prompt": per_prompt}


def _cell(
    policy: str, temperature: float, groups: Groups, n: int, settings: Mapping[str, Any] | None, *, judged: bool
) -> dict[str, Any]:
    by_prompt = _by_prompt(groups, n, judged=judged)
    curve = pass_curve([sum(good for _, good in group) for group in groups], n)
    return {
        "policy": policy, "path": f"runs/{policy}/policy", "control": False, "settings": settings,
        "decoding": {"temperature": temperature, "top_p": 1.0, "top_k": 0, "min_p": 0.0},
        "metrics": {name: _interval(mean_interval(values)) for name, values in by_prompt.items()},
        "per_prompt": {name: [*map(_or_null, values)] for name, values in by_prompt.items()},
        "pass_curve": {"k": curve.k, **{key: [*map(_or_null, getattr(curve, key))] for key in ("mean", "low", "high")},
                       "area": curve.area} if judged else None,
        "groups": [
            {"position": p, "prompt": f"Recommend city number {p} to visit.",
             "completions": [text for text, _ in group], "correct": [good for _, good in group] if judged else None,
             "cosines": _cosines(group)}
            for p, group in enumerate(groups[:4])
        ],
    }  # fmt: skip


def _interval(interval: Interval) -> dict[str, Any]:
    numbers = {key: _or_null(getattr(interval, key)) for key in ("mean", "low", "high")}
    return {**numbers, "prompts": interval.prompts}


def _cosines(group: list[tuple[str, bool]]) -> list[list[float]]:
    def cosine(one: str, other: str) -> float:
        return 1.0 if one == other else round(random.Random("|".join(sorted((one, other)))).uniform(0.1, 0.7), 3)

    return [[cosine(one, other) for other, _ in group] for one, _ in group]


def _line(step: int, alpha: float, seed: int) -> dict[str, Any]:
    noise = random.Random(f"{step} {alpha} {seed}").uniform(-0.05, 0.05)
    reward = min(1.0, 0.3 + 0.6 * (1 - math.exp(-step / 6)) + noise)
    return {
        "step": step, "reward": reward, "correct": reward, "completions/distinct": 3 + alpha - step / 20 + noise,
        "credit": 0.3 * alpha + noise, "credit_spread": 0.2 + noise, "entropy": 1.5 - step / 40 + noise, "kl": None,
    }  # fmt: skip


def _write_training(path: Path, step: int, k: int, generator: random.Random, texts: Sequence[str]) -> None:
    answers = [*texts, *generator.choices(CITIES, k=max(0, 4 * k - len(texts)))]
    rows = len(answers)
    pq.write_table(
        pa.table({
            "step": [step] * rows, "position": [i // k for i in range(rows)], "i": [i % k for i in range(rows)],
            "prompt": [f"Suggest city {i // k}." for i in range(rows)], "completion": answers,
            "reward": [generator.random() for _ in range(rows)],
            "correct": [generator.random() < 0.7 for _ in range(rows)],
            "valid": [True] * rows, "credit": [generator.random() for _ in range(rows)], "finished": [True] * rows,
            "length": [5] * rows,
        }),
        path,
    )  # fmt: skip


def _write_completions(folder: Path, policy: str, temperature: float, groups: Groups) -> None:
    folder.mkdir(parents=True)
    rows = [(p, i, text, good) for p, group in enumerate(groups) for i, (text, good) in enumerate(group)]
    pq.write_table(
        pa.table({
            "policy": [policy] * len(rows), "temperature": [temperature] * len(rows),
            "position": [row[0] for row in rows], "i": [row[1] for row in rows],
            "prompt": [f"Recommend city number {row[0]} to visit." for row in rows],
            "completion": [row[2] for row in rows], "reward": [float(row[3]) for row in rows],
            "correct": [row[3] for row in rows], "key": [row[2].lower() for row in rows],
            "finished": [True] * len(rows), "length": [5] * len(rows),
        }),
        folder / "part_0_0.parquet",
    )  # fmt: skip


def _or_null(value: float) -> float | None:
    return value if math.isfinite(value) else None


def page_of(*folders: Path, most: int = 100, title: str | None = None) -> str:
    """The page of these folders."""
    source = read_folders([*map(str, folders)])
    comparison = compare(source)
    return page(source, comparison, make_figures(source, comparison), title=title, command="dqo-report x", most=most)
