"""The end of a run: summary.json, and on the console the results, the run's files and commands to type next."""

import json
import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from dqo.evaluation import Evaluation
from dqo.metrics.names import shown_of
from dqo.observe.comparison import compared, difference

CONTENTS = {
    "policy": "the trained model, Hugging Face format",
    "summary.json": "before and after, all numbers",
    "curves.png": "quality and diversity over the steps",
    "answers.png": "the answers on a map, before and after",
    "completions": "every completion with reward and credit (parquet)",
    "evaluations": "every held-out answer (JSON)",
    "metrics.jsonl": "all metrics, one line for each step and evaluation",
    "tensorboard": "tensorboard --logdir",
    "checkpoints": "where resume= continues",
    "references.parquet": "the initial policy's completions that training compared with",
    "config.yaml": "the resolved configuration",
}
SWEEP = "alpha=0,0.5,1,2"
WITHOUT_ALPHA = "credit=none"  # alpha weighs nothing then
OWN_KEYS = ("alpha", "run_dir", "resume", "dry_run")  # of this run alone, or swept
HEADLINE = (
    "reward", "pass@1", "pass@10", "distinct_correct", "cosine_distance", "cosine_distance/correct", "logdet", "vendi",
    "distinct_4", "finished", "mean_length",
)  # fmt: skip


def write_summary(path: Path, *, settings: Mapping[str, Any], before: Evaluation, after: Evaluation) -> None:
    """Write ``summary.json``: the settings (JSON values: task, alpha, k, steps …), ``n``, and under ``before`` and
    ``after`` all metrics of the two evaluations; null where undefined, and before where it cannot be compared with
    after: ``not_compared`` says why."""
    record = {
        **settings,
        "n": after.n,
        "before": _finite({**compared(before, after), **_sizes(before)}),
        "after": _finite({**after.metrics, **_sizes(after)}),
        "not_compared": difference(before, n=after.n, prompts=after.prompts),
    }
    path.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n")


def print_end(
    console: Console, *, run_dir: Path, steps: int, before: Evaluation, after: Evaluation,
    typed: Sequence[str] | None = (),
) -> None:  # fmt: skip
    """Print the two evaluations side by side, the run's files, and commands to type next (``next_commands``)."""
    console.print()
    console.print(_comparison(before, after))
    console.print(Text(f"\nmeans over {len(after.answers)} held-out prompts × {after.n} completions", "dim"))
    if reason := difference(before, n=after.n, prompts=after.prompts):
        console.print(Text(f"–: {reason}", "dim"), soft_wrap=True)
    console.print()
    places = Table.grid(padding=(0, 3, 0, 0))
    for name, meaning in CONTENTS.items():
        if (run_dir / name).exists():
            places.add_row(Text(str(run_dir / name), "bold"), Text(meaning, "dim"))
    console.print(places)
    console.print(Text("\nnext", "bold"))
    for what, command in next_commands(run_dir, steps, after.n, typed):
        console.print(Text.assemble((f"  # {what}\n", "dim"), f"  {command}"), soft_wrap=True)


def next_commands(run_dir: Path, steps: int, n: int, typed: Sequence[str] | None = ()) -> list[tuple[str, str]]:
    """(purpose, shell command) of what a user may want to type next. ``n``: completions of a held-out prompt;
    ``typed``: the overrides of the run's command line; None: the run is a job of a sweep, which says itself how its
    jobs are compared."""
    run, commands = shlex.quote(str(run_dir)), []
    if (run_dir / "policy").exists():
        commands.append(("what does it say? asks for prompts", f"dqo-sample {run}"))
        commands.append(("all metrics of the held-out prompts, with intervals", f"dqo-eval {run} n={n}"))
    covered = (run_dir / "references.parquet").exists()  # the prompts of these steps, and perhaps no others
    if (run_dir / "checkpoints").exists() and not covered:
        commands.append(("go on training", f"dqo-train resume={run} steps={2 * steps}"))
    if typed is None:
        return commands
    kept = [text for text in typed if text.lstrip("+").partition("=")[0] not in OWN_KEYS and text != WITHOUT_ALPHA]
    if "k=1" not in kept:  # alpha compares completions of one group
        commands.append(("quality against diversity", shlex.join(["dqo-train", "-m", SWEEP, *kept])))
    commands.append(("a page with figures and completions", f"dqo-report {run}"))
    return commands


def _comparison(before: Evaluation, after: Evaluation) -> Table:
    table = Table(box=None, padding=(0, 3, 0, 0), header_style="dim underline", pad_edge=False)
    table.add_column("held out")
    for name in ("before", "after", "change"):
        table.add_column(name, justify="right")
    keys = [*HEADLINE, f"distinct_correct@{after.n}"]
    first = compared(before, after)
    for key in (key for key in shown_of(after.metrics, keys) if key in first):
        old, new = first[key], after.metrics[key]
        table.add_row(Text(key), Text(_format(old), "dim"), Text(_format(new), "bold"), Text(_format(new - old, "+")))
    return table


def _sizes(evaluation: Evaluation) -> dict[str, float]:
    return {"n": float(evaluation.n), "prompts": float(len(evaluation.answers))}


def _finite(metrics: Mapping[str, float]) -> dict[str, float | None]:
    return {key: value if math.isfinite(value) else None for key, value in metrics.items()}


def _format(value: float, sign: str = "") -> str:
    return "–" if math.isnan(value) else f"{value:{sign}.3f}"
