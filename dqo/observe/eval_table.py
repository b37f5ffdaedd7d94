"""What ``dqo-eval`` prints at its end: the table of metrics, one sentence a policy, notes and commands to type next."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from dqo.observe.visible import visible

ARROWS = {"higher": "↑", "lower": "↓", None: " "}
TITLES = {
    "quality": "quality", "diversity": "diversity of all completions", "correct": "diversity of the correct ones",
    "form": "form",
}  # fmt: skip
HEADLINE = (
    "reward", "pass@1", "pass@{n}", "distinct_correct", "cosine_distance", "vendi", "self_bleu_diversity", "distinct_4",
    "pcmd/correct",
)  # fmt: skip
NAME_WIDTH, CELL_WIDTH = 29, 25  # columns of the terminal

Record = Mapping[str, Any]  # eval.json, or a part of it


def print_evaluation(console: Console, record: Record, folder: Path) -> None:
    """Print an eval.json. ``folder``: where it lies."""
    console.print()
    for table in _tables(record, max(1, (console.width - NAME_WIDTH) // CELL_WIDTH)):
        console.print(table)
        console.print()
    for line in _sentences(record):
        console.print(Text(line), soft_wrap=True)
    console.print()
    for line in _notes(record):
        console.print(Text(line, "dim"), soft_wrap=True)
    for name, typed in record["missing"].items():
        console.print(Text(f"not measured: {name}; type {typed}", "dim"), soft_wrap=True)
    console.print(Text("\nnext", "bold"))
    for what, command in _next_commands(record, folder):
        console.print(Text.assemble((f"  # {what}\n", "dim"), f"  {visible(command)}"), soft_wrap=True)


def _tables(record: Record, columns: int) -> Iterator[Table]:
    """Tables of at most ``columns`` columns: the policies, then the degenerate answers. The first policy is the first
    column of each table, to compare with."""
    first, *others = [cell for cell in record["cells"] if not cell["control"]]
    controls = [cell for cell in record["cells"] if cell["control"]]
    step = max(1, columns - 1)
    yield _table(record, [first, *others[:step]], tuple(TITLES))
    for start in range(step, len(others), step):
        yield _table(record, [first, *others[start : start + step]], tuple(TITLES))
    for start in range(0, len(controls), step):
        yield _table(record, [first, *controls[start : start + step]], ("diversity",))


def _table(record: Record, cells: Sequence[Record], sections: Sequence[str]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", pad_edge=False)
    task = f"{record['task']}, " if record.get("task") else ""
    table.add_column(Text(f"{task}n = {record['n']}, {record['prompts']} prompts", "dim"), no_wrap=True)
    for cell in cells:
        table.add_column(Text(_title(cell, record)), justify="left", max_width=CELL_WIDTH, overflow="fold")
    for section in sections:
        names = [name for name in record["metrics"] if _section(record, name) == section and _known(name, cells)]
        if names:
            table.add_row(Text(TITLES[section], "dim underline"))
        for name in names:
            arrow = ARROWS[record["metrics"][name]["better"]]
            shown = name.removesuffix("/correct") if section == "correct" else name
            table.add_row(Text(f"  {arrow} {shown}"), *(_value(cell["metrics"][name], record) for cell in cells))
    return table


def _section(record: Record, name: str) -> str:
    return "correct" if name.endswith("/correct") else record["metrics"][name]["kind"]


def _known(name: str, cells: Sequence[Record]) -> bool:
    """Whether the metric is defined for some of the policies."""
    return any(cell["metrics"][name]["mean"] is not None for cell in cells)


def _title(cell: Record, record: Record) -> str:
    name = visible(cell["policy"])
    if cell["control"]:
        return f"[{name}]"
    return " ".join([name, *_told_apart(cell, record)])


def _told_apart(cell: Record, record: Record) -> list[str]:
    """The sampling settings in which the columns differ: "temperature=0.7"."""
    used = [each["decoding"] for each in record["cells"]]
    return [
        f"{key}={value:g}"
        for key, value in cell["decoding"].items()
        if value is not None and len({decoding[key] for decoding in used}) > 1
    ]


def _value(interval: Record, record: Record) -> Text:
    """Mean, interval, and the number of prompts where it is not all: ``0.62 [0.51 0.72] (12)``."""
    if interval["mean"] is None:
        return Text("–", "dim")
    mean, *bounds = ("–" if interval[key] is None else _number(interval[key]) for key in ("mean", "low", "high"))
    text = Text(mean, "bold")
    if {*bounds} - {mean, "–"}:
        text.append(f" [{' '.join(bounds)}]", "not bold dim")
    if interval["prompts"] < record["prompts"]:
        text.append(f" ({interval['prompts']})", "not bold dim")
    return text


def _number(value: float, sign: str = "") -> str:
    digits = 3 if abs(value) < 10 else 1
    return f"{round(value, digits) + 0.0:{sign}.{digits}f}"  # + 0.0: zero has no sign


def _notes(record: Record) -> Iterator[str]:
    """How to read the table."""
    total, n = record["prompts"], record["n"]
    yield (
        f"means over {total} prompts × {n} completions, with 95 % intervals (bootstrap over prompts); ↑ higher is "
        "better, ↓ lower; docs/evaluation.md defines each metric"
    )
    if record["embedding"]:
        yield f"embeddings by {visible(record['embedding'])}"
    values = [value for cell in record["cells"] for value in cell["metrics"].values() if value["mean"] is not None]
    if any(value["prompts"] < total for value in values):
        yield f"(number): prompts for which the metric is defined, where they are not all {total}; the mean is theirs"
    if any(value["low"] is None for value in values):
        yield "without an interval: one prompt, or all prompts have this value"
    for cell in record["cells"]:
        if cell["other_rendering"]:
            yield f"{visible(cell['policy'])} was not asked as it was trained: {visible(cell['other_rendering'])}"
        if cell["left_out"]:
            yield f"{visible(cell['policy'])}: {cell['left_out']} prompts have not {n} completions and are left out"
    if record.get("partition") == "words and embeddings":
        yield (
            "distinct_k: which completions say the same is decided by words and embeddings; NoveltyBench decides it "
            "by its classifier: type eval.novelty.classifier=FOLDER"
        )
    undefined = [name for name in record["metrics"] if not _known(name, record["cells"])]
    if undefined:
        yield f"–: undefined for every policy: {', '.join(undefined)}"
    if any(cell["control"] for cell in record["cells"]):
        yield "[…]: degenerate answers; what they are given is what the metric can be fooled by"
    if any(name.startswith("distinct_correct") for name in record["metrics"]):
        yield (
            "distinct_correct follows pass@n (r = .97 in ModeBench's data): who solves more finds more answers; the "
            "diversity of the correct ones does not"
        )


def _sentences(record: Record) -> Iterator[str]:
    """What each policy gained and paid against the first one, by paired intervals."""
    for each in record["differences"]:
        verdicts: dict[str, list[str]] = {"gained": [], "paid": [], "no clear difference:": []}
        for metric in _headline(record):
            interval = each["metrics"].get(metric)  # there is none for what follows from a mean
            if interval and interval["mean"] is not None:
                verdicts[_verdict(interval, record["metrics"][metric]["better"])].append(_change(metric, interval))
        parts = [f"{verdict} {', '.join(changes)}" for verdict, changes in verdicts.items() if changes]
        name = " ".join([visible(each["policy"]), *_told_apart(each, record)])
        first = {"decoding": each["against_decoding"]}
        other = _told_apart(first, record) if each["decoding"] != each["against_decoding"] else []
        against = " ".join([visible(each["against"]), *other])
        nothing = "nothing that both have can be compared" if each["prompts"] else "no prompt in common"
        yield f"{name} against {against}: {'; '.join(parts) or nothing}"


def _headline(record: Record) -> list[str]:
    """The metrics of the sentences; of other chosen ones the first."""
    names = dict.fromkeys(name.format(n=record["n"]) for name in HEADLINE)
    found = [name for name in names if name in record["metrics"]]
    others = [name for name, about in record["metrics"].items() if about["better"] and not name.endswith("/correct")]
    return found or others[: len(HEADLINE)]


def _verdict(interval: Record, better: str) -> str:
    low, high = interval["low"], interval["high"]
    if low is None or low <= 0 <= high:
        return "no clear difference:"
    return "gained" if (low > 0) == (better == "higher") else "paid"


def _change(metric: str, interval: Record) -> str:
    text = f"{metric} {_number(interval['mean'], '+')}"
    if interval["low"] is None:
        return text
    return f"{text} [{_number(interval['low'], '+')} {_number(interval['high'], '+')}]"


def _next_commands(record: Record, folder: Path) -> Iterator[tuple[str, str]]:
    yield "figures and completions to look at", shlex.join(["dqo-report", str(folder)])
    if path := record["cells"][0]["path"]:
        run = Path(path).parent
        policy = str(run) if (run / "config.yaml").exists() else path
        yield f"what {visible(record['cells'][0]['policy'])} answers", shlex.join(["dqo-sample", policy])
    if not any(cell["control"] for cell in record["cells"]):
        stored = folder / "completions"
        again = shlex.join(["dqo-eval", f"from={stored}"]) if stored.exists() else record["command"]
        yield "how each metric is fooled (nothing is sampled again)", f"{again} controls=true"
