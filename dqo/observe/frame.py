"""The live view and its plain-text counterpart, drawn from a ``Scene``: pure functions."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from dqo.metrics.names import shown_of
from dqo.observe.visible import shorten, visible

# (label, key of a step's metrics, format)
TRAINING = (
    ("reward", "reward", "{:.3f}"),
    ("correct", "correct", "{:.1%}"),
    ("distinct", "completions/distinct", "{:.1f}"),
    ("credit", "credit", "{:.3f}"),
    ("credit spread", "credit_spread", "{:.3f}"),
    ("spread ratio", "spread_ratio", "{:.2f}"),
    ("credit to wrong", "credit_wrong_share", "{:.1%}"),
    ("entropy", "entropy", "{:.2f}"),
    ("kl", "kl", "{:.4f}"),
    ("kl of answers", "objective/kl", "{:.3f}"),
    ("critic explains", "critic/vf_explained_var", "{:.2f}"),
)
HELD_OUT = ("reward", "pass@1", "pass@10", "distinct_correct", "cosine_distance", "logdet", "distinct_4", "finished")
BARS = "▁▂▃▄▅▆▇█"
MAX_WIDTH = 120  # columns


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One completion of the last step."""

    text: str
    reward: float
    credit: float
    correct: bool | None


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Everything that is shown. Never changed, only replaced: another thread draws the frames."""

    title: str
    place: str  # the run's folder
    steps: int
    step: int = 0
    doing: str = "starting"
    began: float  # seconds, time.monotonic() at the start
    pace: float = math.nan  # seconds a step
    metrics: Mapping[str, float]  # of the last step
    history: tuple[Mapping[str, float], ...] = ()
    before: Mapping[str, float]  # metrics of the first evaluation
    latest: Mapping[str, float]  # metrics of the latest evaluation
    latest_at: int = 0  # the step after which it was made
    prompt: str = ""
    samples: tuple[Sample, ...] = ()


def frame(scene: Scene, *, width: int, now: float, ascii_only: bool = False) -> RenderableType:
    """The live view, at most 22 lines: title, progress, metrics of training and of held-out prompts, two samples.
    ``now``: time.monotonic()."""
    width = min(width, MAX_WIDTH)
    parts = [_head(scene, width), _progress(scene, width, now)]
    if scene.metrics or scene.latest:
        parts += [Text(""), _numbers(scene, width, ascii_only)]
    if scene.metrics:
        parts.append(_speed(scene, width))
    if scene.samples:
        parts += [Text(""), _samples(scene, width)]
    return Group(*parts)


def plain_step(scene: Scene) -> str:
    """A step as one line: ``step 12/60 reward 0.840 correct 91.0% … 4.3 s/step 3:26 left``."""
    words = [f"step {scene.step}/{scene.steps}"]
    words += [f"{label.replace(' ', '_')} {_format(spec, scene.metrics[key])}" for label, key, spec in _rows(scene)]
    return " ".join([*words, *_rates(scene), f"{scene.pace:.1f} s/step {_clock(_seconds_left(scene))} left"])


def plain_evaluation(number: int, n: int, metrics: Mapping[str, float]) -> str:
    """An evaluation as one line: ``eval step 20 n 10 reward 0.810 pass@1 0.810 …``."""
    words = [f"{key} {_format('{:.3f}', metrics[key])}" for key in shown_of(metrics, HELD_OUT)]
    return " ".join([f"eval step {number} n {n}", *words])


def sparkline(values: Sequence[float], width: int) -> str:
    """A row of at most ``width`` bars, from the minimum of the values (▁) to their maximum (█); NaN is a gap. If there
    are more values, each bar is the mean of several."""
    size = max(1, math.ceil(len(values) / width))
    ends = range(len(values), 0, -size)  # counted from the newest value
    means = [_nanmean(values[max(end - size, 0) : end]) for end in ends][::-1]
    known = [mean for mean in means if not math.isnan(mean)]
    if not known:
        return ""
    low, span = min(known), max(known) - min(known)
    return "".join(" " if math.isnan(mean) else BARS[round((mean - low) / span * 7) if span else 3] for mean in means)


def _head(scene: Scene, width: int) -> RenderableType:
    line = _grid(width)
    line.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
    line.add_column(justify="right", no_wrap=True, overflow="ellipsis", max_width=width // 2)
    line.add_row(Text.assemble(("dqo  ", "bold magenta"), (visible(scene.title), "bold")), Text(scene.place, "dim"))
    return line


def _progress(scene: Scene, width: int, now: float) -> RenderableType:
    line = _grid(width)
    line.add_column(no_wrap=True)
    line.add_column(ratio=1)
    line.add_column(no_wrap=True, justify="right")
    line.add_column(no_wrap=True, justify="right")
    bar = ProgressBar(total=scene.steps, completed=scene.step, complete_style="magenta", finished_style="green")
    left = f"{_clock(_seconds_left(scene))} left" if 0 < scene.step < scene.steps else ""
    times = Text("  ".join(filter(None, [_clock(now - scene.began), left])), "dim")
    line.add_row(Text(f"step {scene.step}/{scene.steps}", "bold"), bar, Text(scene.doing, "cyan"), times)
    return line


def _numbers(scene: Scene, width: int, ascii_only: bool) -> RenderableType:
    both = _grid(width)
    half = (width - 3) // 2
    both.add_column(width=half)
    both.add_column(width=width - 3 - half)
    both.add_row(_training(scene, half, ascii_only), _held_out(scene))
    return both


def _training(scene: Scene, width: int, ascii_only: bool) -> Table:
    table = _table()
    table.add_column("training", no_wrap=True)
    table.add_column("now", justify="right", no_wrap=True, min_width=6)
    table.add_column("" if ascii_only else "so far", no_wrap=True, style="magenta")
    room = width - 15 - 2 - 6 - 2
    for label, key, spec in _rows(scene):
        history = [metrics.get(key, math.nan) for metrics in scene.history]
        bars = "" if ascii_only else sparkline(history, room)
        table.add_row(Text(label), Text(_format(spec, scene.metrics.get(key)), "bold"), Text(bars))
    return table


def _rows(scene: Scene) -> list[tuple[str, str, str]]:
    """The rows of TRAINING whose metric the run logs (no ``kl`` without a KL term); before the first step all rows."""
    return [row for row in TRAINING if row[1] in scene.metrics or not scene.metrics]


def _held_out(scene: Scene) -> Table:
    table = _table()
    table.add_column("held out", no_wrap=True)
    table.add_column("before", justify="right", no_wrap=True, style="dim", min_width=6)
    latest = f"step {scene.latest_at}" if scene.latest_at else "now"
    table.add_column(latest, justify="right", no_wrap=True, min_width=7)
    rows = shown_of(scene.before, HELD_OUT)[: len(HELD_OUT)] if scene.before else HELD_OUT
    for key in rows:
        now = _format("{:.3f}", scene.latest.get(key)) if scene.latest_at else "·"
        table.add_row(Text(key), Text(_format("{:.3f}", scene.before.get(key))), Text(now, "bold"))
    return table


def _speed(scene: Scene, width: int) -> Text:
    line = Text("  ·  ".join([*_rates(scene), f"{scene.pace:.1f} s/step"]), "dim")
    line.truncate(width, overflow="ellipsis")
    return line


def _rates(scene: Scene) -> list[str]:
    rates = {stage: scene.metrics.get(f"tokens_per_second/{stage}") for stage in ("rollout", "learner")}
    return [f"{stage} {_format('{:.0f}', rate)} tokens/s" for stage, rate in rates.items()]


def _samples(scene: Scene, width: int) -> RenderableType:
    table = Table(box=None, padding=(0, 2, 0, 0), width=width, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
    table.add_row(Text("prompt", "dim"), Text(""), _untrusted(scene.prompt, width, "dim"))
    for sample in scene.samples:
        style = {True: "green", False: "red", None: ""}[sample.correct]
        reward, credit = Text(f"reward {sample.reward:.2f}", style), Text(f"credit {sample.credit:.3f}", "magenta")
        table.add_row(reward, credit, _untrusted(sample.text, width, ""))
    return table


def _untrusted(text: str, width: int, style: str) -> Text:
    """Untrusted text, escaped: rich reads no markup in it, and nothing moves the cursor."""
    return Text(shorten(visible(text), width), style)


def _grid(width: int) -> Table:
    grid = Table.grid(padding=(0, 3, 0, 0))
    grid.width = width
    return grid


def _table() -> Table:
    return Table(box=None, padding=(0, 2, 0, 0), header_style="dim underline", pad_edge=False)


def _seconds_left(scene: Scene) -> float:
    return (scene.steps - scene.step) * scene.pace


def _format(spec: str, value: float | None) -> str:
    return "–" if value is None or math.isnan(value) else spec.format(value)


def _nanmean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


def _clock(seconds: float) -> str:
    if math.isnan(seconds):
        return "?"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
