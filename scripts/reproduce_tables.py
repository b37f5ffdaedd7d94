"""The tables of ``scripts/reproduce.py`` in markdown."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean

from reproduce_jobs import DECODED, decoding_folder, factor_of, main_folder, preparations
from reproduce_matrix import SAME_RATE, Arm, Table
from reproduce_results import Difference, Runs, difference, gain, mean_of, paired, paired_in_time, read_runs

UNKNOWN = "–"
MEASURED = "rm.json"  # of dqo-rm
DECODING = ("temperature", "top_p", "min_p")


def print_table(
    table: Table, arms: Sequence[Arm], seeds: Sequence[int], runs: Path, chosen: Mapping[str, float]
) -> None:
    """Everything about one table that its finished runs can say."""
    found = {arm.name: read_runs(table, arm, seeds, runs, chosen) for arm in arms}
    print(
        f"\n## {table.name}: dqo-train task={table.task}, {table.prompts} held-out prompts × {table.n}, seeds {seeds}\n"
    )
    if not any(found.values()):
        print(f"no finished run of this table in {runs}")
        return
    if table.style == "grid":
        print("\n\n".join(grid(arms, found, heading, key) for heading, key in table.columns.items()))
        return
    if table.style == "gains":
        print(gains(table, arms, found))
        for job in preparations(table, seeds, runs):
            if job.done == MEASURED and job.is_done:
                print(f"\nThe reward model on held-out pairs:\n\n{measures(job.folder / MEASURED)}")
    elif table.style == "ratios":
        print(ratios(table, found))
    else:
        print(differences(table, arms, found, chosen, arms[0].name))
        if found.get(SAME_RATE.name):
            print(f"\nThe arms that train at the same rate, against `{SAME_RATE.name}`:\n")
            same = [arm for arm in arms if factor_of(arm, chosen) == SAME_RATE.factor]
            print(differences(table, same, found, chosen, SAME_RATE.name))
        if found.get("constant"):
            print("\nThe gated credits against `constant`, which pays rare success without similarity:\n")
            print(differences(table, [arm for arm in arms if arm.is_gated], found, chosen, "constant"))
    for key in table.curves:
        print(f"\n{key}: mean over the seeds and over the fifth of the run that ends at this step\n")
        print(curve(found, key))
    if table.picture:
        picture(table, arms, seeds, runs)


def differences(
    table: Table, arms: Sequence[Arm], found: Mapping[str, Runs], chosen: Mapping[str, float], baseline: str
) -> str:
    """A row an arm: means over the seeds, and the paired differences to ``baseline`` with intervals that hold for all
    arms of a column together. Bold: the interval leaves out 0."""
    comparisons = len(arms) - 1
    distinct = next(key for key in table.columns.values() if key.startswith("distinct"))
    in_time = {"pass@1, equal time": "pass@1", "distinct, equal time": distinct}
    headings = [*table.columns, *in_time, "seconds a step", "credit's spread", "rate", "seeds"]
    lines = [row(["", *headings]), "|---" * (len(headings) + 1) + "|"]
    for arm in arms:
        own = found[arm.name]
        if not own:
            continue
        base = found.get(arm.against or baseline, {}) if arm.name != baseline else {}
        cells = [
            with_difference(mean_of(own, key), paired(own, base, key, comparisons)) for key in table.columns.values()
        ]
        cells += [written(paired_in_time(own, base, key, comparisons)) for key in in_time.values()]
        cells += [speed(own), number(spread(own))]
        factor = factor_of(arm, chosen)
        rate = f"×{factor:g}" if arm.name in chosen or arm.factor else f"×{factor:g}, not chosen"
        lines.append(row([arm.name, *cells, rate, str(len(own))]))
    if missing := [arm.name for arm in arms if not found[arm.name]]:
        lines.append(f"\nWithout a finished run: {'; '.join(missing)}.")
    against = ", ".join(f"`{arm.name}` with `{arm.against}`" for arm in arms if arm.against)
    return "\n".join(lines) + (f"\n\nCompared with `{baseline}`; {against}." if against else "")


def grid(arms: Sequence[Arm], found: Mapping[str, Runs], heading: str, key: str) -> str:
    """One metric over alpha (rows) and k (columns), mean over the seeds."""
    names = [dict(part.split("=") for part in arm.name.split()) for arm in arms]
    alphas, sizes = (list(dict.fromkeys(each[part] for each in names)) for part in ("alpha", "k"))
    lines = [row([heading, *(f"k = {k}" for k in sizes)]), "|---" * (len(sizes) + 1) + "|"]
    for alpha in alphas:
        cells = [mean_of(found.get(f"alpha={alpha} k={k}", {}), key) for k in sizes]
        lines.append(row([f"alpha = {alpha}", *map(number, cells)]))
    return "\n".join(lines)


def gains(table: Table, arms: Sequence[Arm], found: Mapping[str, Runs]) -> str:
    """A row an arm: each metric before and after, the gain of the first one, CPU time; then the paired differences of
    the arms that are compared with another one. Each interval is that of its own cell."""
    first, *others = table.columns.items()
    headings = [first[0], "gain", *(heading for heading, _ in others), "CPU seconds of a run", "seeds"]
    lines = [row(["", *headings]), "|---" * (len(headings) + 1) + "|"]
    for arm in arms:
        if own := found[arm.name]:
            seconds = number(mean(run.cpu for run in own.values()))
            cells = [change(own, first[1]), written(gain(own, first[1])), *(change(own, key) for _, key in others)]
            lines.append(row([arm.name, *cells, seconds, str(len(own))]))
    if missing := [arm.name for arm in arms if not found[arm.name]]:
        lines.append(f"\nWithout a finished run: {'; '.join(missing)}.")
    if compared := [arm for arm in arms if found[arm.name] and found.get(arm.against)]:
        lines += ["", row(["", *table.columns]), "|---" * (len(table.columns) + 1) + "|"]
    for arm in compared:
        own, base = found[arm.name], found[arm.against]
        cells = [written(paired(own, base, key)) for key in table.columns.values()]
        lines.append(row([f"{arm.name} − {arm.against}", *cells]))
    return "\n".join(lines)


def measures(file: Path) -> str:
    """What dqo-rm measured: its numbers, then its confidence against the share of pairs that it orders as asked."""
    found = json.loads(file.read_text())
    bins, names = found.pop("bins"), [name for name, value in found.items() if isinstance(value, int | float)]
    lines = [row(names), "|---" * len(names) + "|", row([number(found[name]) for name in names]), ""]
    lines += [row(["confidence", *(number(each["confidence"]) for each in bins)]), "|---" * (len(bins) + 1) + "|"]
    lines += [row([name, *(number(each[name]) for each in bins)]) for name in ("right", "pairs")]
    return "\n".join(lines)


def change(runs: Runs, key: str) -> str:
    """``0.33 → 0.57``: means over the seeds before and after the runs."""
    return f"{number(mean_of({seed: run.start for seed, run in runs.items()}, key))} → {number(mean_of(runs, key))}"


def ratios(table: Table, found: Mapping[str, Runs]) -> str:
    """The mean over the seeds, in brackets each seed's value, and the ratio to the first row."""
    lines = [row(["", *table.columns]), "|---" * (len(table.columns) + 1) + "|"]
    baseline = next(iter(found.values()))
    for name, runs in found.items():
        cells = []
        for key in table.columns.values():
            own, base = mean_of(runs, key), mean_of(baseline, key)
            each = " ".join(number(run.value(key)) for run in runs.values())
            cells.append(f"{number(own)} ({each})" + (f", {own / base:.2f}×" if runs is not baseline and base else ""))
        lines.append(row([name, *cells]))
    return "\n".join(lines)


def curve(found: Mapping[str, Runs], key: str) -> str:
    """One metric of training: a row an arm, a column for each fifth of the run."""
    lines = []
    for name, runs in found.items():
        values = [run.training(key) for run in runs.values()]
        if not values or not all(values):  # runs of an older version, which did not log this key
            continue
        fifth = len(values[0]) // 5
        if not lines:
            lines = [row(["steps", *(str(fifth * (i + 1)) for i in range(5))]), "|---" * 6 + "|"]
        means = [mean(mean(run[i * fifth : (i + 1) * fifth]) for run in values) for i in range(5)]
        lines.append(row([name, *map(number, means)]))
    return "\n".join(lines)


def decodings(table: Table, arms: Sequence[Arm], seeds: Sequence[int], runs: Path, chosen: Mapping[str, float]) -> str:
    """pass@1 and distinct correct answers of kept policies, a row a decoding; the last columns are differences to the
    first arm. Empty where nothing was evaluated."""
    kept = [arm for arm in arms if arm.keeps_policy]
    cells: dict[tuple[float, ...], dict[str, dict[int, tuple[float, float]]]] = {}  # decoding: arm: seed: metrics
    for arm in kept:
        for seed in seeds:
            file = decoding_folder(table, arm, seed, runs, factor_of(arm, chosen)) / DECODED
            for cell in json.loads(file.read_text())["cells"] if file.exists() else ():
                used = tuple(cell["decoding"][key] for key in DECODING)
                metrics = cell["metrics"]
                pair = (metrics["pass@1"]["mean"], metrics["distinct_correct"]["mean"])
                cells.setdefault(used, {}).setdefault(arm.name, {})[seed] = pair
    if not cells:
        return ""
    others = [arm.name for arm in kept[1:]]
    heading = ["pass@1 / distinct correct", *(arm.name for arm in kept), *(f"{name}: more distinct" for name in others)]
    lines = [row(heading), "|---" * len(heading) + "|"]
    for used, by_arm in sorted(cells.items()):
        base = by_arm.get(kept[0].name, {})
        means = [_two_means(by_arm.get(arm.name, {})) for arm in kept]
        more = [_more_distinct(by_arm.get(name, {}), base, len(cells) * len(others)) for name in others]
        name = ", ".join(f"{key} {value:g}" for key, value in zip(DECODING, used, strict=True))
        lines.append(row([name, *means, *map(written, more)]))
    return "\n".join(lines)


def _two_means(pairs: Mapping[int, tuple[float, float]]) -> str:
    return " / ".join(number(mean(each)) for each in zip(*pairs.values(), strict=True)) if pairs else UNKNOWN


def _more_distinct(
    own: Mapping[int, tuple[float, float]], base: Mapping[int, tuple[float, float]], comparisons: int
) -> Difference:
    seeds = sorted(own.keys() & base.keys())
    return difference([own[seed][1] for seed in seeds], [base[seed][1] for seed in seeds], comparisons)


def picture(table: Table, arms: Sequence[Arm], seeds: Sequence[int], runs: Path) -> None:
    """Draw the answers of all seeds on a map, one map an arm."""
    from dqo.task import cities  # imports transformers, which takes seconds
    from dqo.task.maps.world_map import draw_answers

    panels = []
    for arm in arms:
        folders = [main_folder(table, arm, seed, runs, 1.0) for seed in seeds]
        last = [files[-1] for folder in folders if (files := sorted(folder.glob("evaluations/*.json")))]
        answers = [each for file in last for each in json.loads(file.read_text())["answers"]]
        panels.append((arm.name, [text for each in answers for text in each["texts"]]))
    draw_answers(runs / f"{table.name}.png", atlas=cities, panels=panels)
    print(f"\nthe answers on a map: {runs / f'{table.name}.png'}")


def speed(runs: Runs) -> str:
    """Mean seconds of a step, without evaluations."""
    times = [run.seconds / run.steps for run in runs.values() if run.steps]
    return f"{mean(times):.2f}" if times else UNKNOWN


def spread(runs: Runs) -> float:
    """Mean over steps and seeds of a group's largest credit minus its smallest: what alpha is multiplied by."""
    values = [value for run in runs.values() for value in run.training("credit_spread")]
    return mean(values) if values else math.nan


def with_difference(value: float, against: Difference) -> str:
    """``.62, -.05 [-.10 +.01]``."""
    return number(value) + (f", {written(against)}" if against.seeds else "")


def written(found: Difference) -> str:
    """``-.05 [-.10 +.01]``, bold where the interval leaves out 0; a dash without seeds."""
    if not found.seeds:
        return UNKNOWN
    interval = "" if math.isnan(found.low) else f" [{found.low:+.3f} {found.high:+.3f}]"
    text = f"{found.mean:+.3f}{interval}"
    return f"**{text}**" if found.is_clear else text


def number(value: float) -> str:
    """Three digits; a dash where undefined."""
    return UNKNOWN if math.isnan(value) else f"{value:.3g}"


def row(cells: Sequence[str]) -> str:
    """A line of a markdown table."""
    return f"| {' | '.join(cells)} |"
