"""Which measurements can be compared, what differs between them, and which policy is the best for a given loss."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from dqo.answers.emptiness import is_empty
from dqo.embed.naming import is_fake
from dqo.metrics.intervals import Interval, mean_interval, paired_interval
from dqo.metrics.names import comparable, metric_of
from dqo.report.records import Measured, Source
from dqo.report.settings import SEED, label, shown, value_of, varied_keys

BEFORE = "before training"
COMPARED = "compared/correct"  # how many prompts the metrics of correct answers rest on
QUALITY = ("pass@1", "reward")
# the first that is defined everywhere is the diversity of the first picture
DIVERSITY = (
    "cosine_distance/correct", "pcmd/correct", "self_bleu_diversity/correct", "distinct_correct", "cosine_distance",
    "self_bleu_diversity", "distinct_4",
)  # fmt: skip
ENOUGH = 0.5  # of the prompts must have two correct answers before these are compared with one another
MANY_EMPTY = 0.1  # share of empty completions that is told
LONGEST = 48  # characters of a variant's name made of its settings
PLAIN = {"temperature": 1.0, "top_p": 1.0, "top_k": 0.0, "min_p": 0.0}


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A policy, or the runs that differ in nothing but the seed, taken together: the mean over the seeds of each
    prompt's value."""

    name: str
    settings: Mapping[str, Any]  # the values in which variants differ
    members: tuple[Measured, ...]
    _known: dict[str, Interval] = field(default_factory=dict, compare=False)

    def interval(self, metric: str) -> Interval:
        """The mean with its 95 % interval over prompts; the bounds are NaN where they are not known."""
        if metric not in self._known:
            self._known[metric] = self._interval(metric)
        return self._known[metric]

    def mean(self, metric: str) -> float:
        """The mean; NaN where undefined."""
        if len(self.members) == 1 or (values := self.values(metric)) is None:
            known = [each.means.get(metric, math.nan) for each in self.members]
            return sum(known) / len(known)
        return _mean(values)

    def values(self, metric: str) -> Sequence[float] | None:
        """By prompt; None if some run has not written them."""
        all_values = [each.per_prompt.get(metric) for each in self.members]
        kept = [values for values in all_values if values]
        if len(kept) < len(all_values) or len({len(values) for values in kept}) > 1:
            return None
        return kept[0] if len(kept) == 1 else [_mean(values) for values in zip(*kept, strict=True)]

    def _interval(self, metric: str) -> Interval:
        if len(self.members) == 1 and metric in self.members[0].intervals:
            return self.members[0].intervals[metric]
        values = self.values(metric)
        if values is None:
            return Interval(mean=self.mean(metric), low=math.nan, high=math.nan, prompts=self.members[0].prompts)
        return mean_interval(values)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The variants that have answered the same prompts."""

    variants: tuple[Variant, ...]  # without ``before``
    before: Variant | None
    keys: tuple[str, ...]  # of the settings in which the variants differ, without the seed
    quality: str | None  # the metric of quality; None: no completion was judged
    diversities: tuple[str, ...]  # metrics of diversity, the one of the first picture in front
    warnings: tuple[str, ...]  # what to know before comparing, a sentence each

    @property
    def all(self) -> tuple[Variant, ...]:
        """Every variant, with the policy before training as the first."""
        return (*([self.before] if self.before else []), *self.variants)

    @property
    def members(self) -> list[Measured]:
        """All that was measured and is compared, before training too."""
        return _members(self.all)

    @property
    def traded(self) -> tuple[Variant, ...]:
        """The variants of the first picture. The policy before training is far from all others, and is left out unless
        it is what the others are compared with."""
        return self.all if self.baseline is self.before else self.variants

    @cached_property
    def baseline(self) -> Variant:
        """What the others are compared with: of several policies that with the smallest alpha (if more have it, the
        best of them in quality), of one the policy before training."""
        if len(self.variants) == 1:
            return self.before or self.variants[0]
        alphas = {each.name: value_of(each.members[0].settings, "alpha") for each in self.variants}
        known = [alpha for alpha in alphas.values() if alpha is not None]
        least = [each for each in self.variants if known and alphas[each.name] == min(known)] or [*self.variants]
        quality = self.quality
        return max(least, key=lambda each: _or_least(each.mean(quality))) if quality else least[0]

    def best(self, allowed: float, diversity: str) -> Variant:
        """The most diverse variant that loses at most ``allowed`` of the baseline's quality: the baseline itself where
        no other is more diverse."""
        if self.quality is None:
            return self.baseline
        least = self.baseline.mean(self.quality) - allowed
        kept = [each for each in self.variants if each.mean(self.quality) >= least - 1e-12]
        return max([self.baseline, *kept], key=lambda each: _or_least(each.mean(diversity)))

    def front(self, diversity: str) -> tuple[Variant, ...]:
        """The Pareto front: no other variant is as good in both and better in one. Ordered by diversity."""
        quality = self.quality
        if quality is None:
            return ()
        points = [(each, each.mean(diversity), each.mean(quality)) for each in self.traded]
        points = [point for point in points if not math.isnan(point[1] + point[2])]
        kept = [
            (each, x, y) for each, x, y in points
            if not any(u >= x and v >= y and (u > x or v > y) for _, u, v in points)
        ]  # fmt: skip
        return tuple(each for each, _, _ in sorted(kept, key=lambda point: point[1]))


def difference(variant: Variant, other: Variant, metric: str) -> Interval:
    """``variant`` less ``other`` with its 95 % interval, paired by prompt; bounds are NaN where prompts' values are not
    known."""
    values, others = variant.values(metric), other.values(metric)
    if values is None or others is None:
        return Interval(mean=variant.mean(metric) - other.mean(metric), low=math.nan, high=math.nan, prompts=0)
    return paired_interval(values, others)


def compare(source: Source) -> Comparison:
    """The comparison that the first screen shows: of dqo-eval's measurements if there are some, else of the last
    evaluations of the training runs."""
    cells = [cell for each in source.evals for cell in each.cells if not cell.is_control]
    ends = [run.after for run in source.runs if run.after] or [run.before for run in source.runs if run.before]
    points = _same_decoding(cells) if cells else ends
    kept, others = _largest_group(points)
    keys = tuple(key for key in varied_keys([each.settings for each in kept]) if key != SEED)
    variants = _variants(kept, keys)
    first = [run.before for run in source.runs if run.before and run.after and run.after in kept]
    comparable_first = first and not cells and _prompts_of(first[0]) == _prompts_of(kept[0]) and "model" not in keys
    before = Variant(name=BEFORE, settings={}, members=tuple(first)) if comparable_first else None
    every = [*([before] if before else []), *variants]
    quality = next((name for name in QUALITY if all(not math.isnan(each.mean(name)) for each in every)), None)
    return Comparison(
        variants=tuple(variants),
        before=before,
        keys=keys,
        quality=quality,
        diversities=tuple(_diversities(every)),
        warnings=(*source.notes, *_unmeasured(source), *_left_out(others), *_differences(kept, cells), *_empty(kept)),
    )


def metrics_of(members: Sequence[Measured]) -> list[str]:
    """The metrics that are defined for some measurement, and comparable between all of them."""
    sizes = {member.n for member in members}
    names = [name for name in dict.fromkeys(name for member in members for name in member.means) if _is_known(name)]
    return [
        name for name in names
        if all(comparable(name, n, m) for n in sizes for m in sizes)
        and any(not math.isnan(member.means.get(name, math.nan)) for member in members)
    ]  # fmt: skip


def _members(variants: Sequence[Variant]) -> list[Measured]:
    return [member for each in variants for member in each.members]


def _is_known(name: str) -> bool:
    try:
        metric_of(name)
    except KeyError:
        return False
    return True


def _variants(points: Sequence[Measured], keys: Sequence[str]) -> list[Variant]:
    """Pooled over seeds. A policy whose settings are unknown stands for itself."""
    pools: dict[str, list[Measured]] = {}
    for each in points:
        pools.setdefault(label(each.settings, keys) if each.settings else each.name, []).append(each)
    pooled = any(len(pool) > 1 for pool in pools.values())
    return [
        Variant(
            name=_name(text, pool, named=pooled or pool[0].is_training),
            settings={name: value_of(pool[0].settings, name) for name in keys},
            members=tuple(pool),
        )
        for text, pool in pools.items()
    ]


def _name(text: str, pool: Sequence[Measured], *, named: bool) -> str:
    """The label of a variant, or the name of its policy where the label says nothing, or too much."""
    if named and 0 < len(text) <= LONGEST:
        return text
    return pool[0].name if len(pool) == 1 else f"{pool[0].name} and {len(pool) - 1} more"


def _same_decoding(cells: Sequence[Measured]) -> list[Measured]:
    """The cells of one decoding: the plain one if it was measured, else the first."""
    plain = [cell for cell in cells if {**PLAIN, **cell.decoding} == PLAIN]
    return plain or [cell for cell in cells if cell.decoding == cells[0].decoding]


def _prompts_of(each: Measured) -> tuple[Any, ...]:
    return (each.prompts, each.first_prompts)


def _largest_group(points: Sequence[Measured]) -> tuple[list[Measured], list[Measured]]:
    """The measurements of the prompts that most were made on, and the others."""
    groups: dict[Any, list[Measured]] = {}
    for each in points:
        groups.setdefault(_prompts_of(each), []).append(each)
    kept = max(groups.values(), key=len)
    return kept, [each for each in points if each not in kept]


def _diversities(variants: Sequence[Variant]) -> list[str]:
    """Metrics of diversity that are defined for every variant and grow with it, the preferred one in front."""
    names = [
        name for name in metrics_of(_members(variants))
        if (metric_of(name).kind == "diversity" or name.startswith("distinct_correct"))
        and metric_of(name).better == "higher" and name != COMPARED
        and all(not math.isnan(each.mean(name)) for each in variants)
    ]  # fmt: skip
    fake = any(is_fake(member.embedding) for member in _members(variants))
    few = any(each.mean(COMPARED) < ENOUGH for each in variants)
    for name in DIVERSITY:
        blind = fake and "encoder" in metric_of(name).needs
        if name in names and not blind and not (few and name.endswith("/correct")):
            return [name, *(each for each in names if each != name)]
    return names


def _unmeasured(source: Source) -> list[str]:
    """Runs that were stopped: what of them is compared."""
    cut = [run for run in source.runs if any("not complete" in note for note in run.notes)]
    told = []
    for run in cut:
        what = f"measured after step {run.after.step}" if run.after else "not compared: measured before training alone"
        told.append(f"Run {run.name} is not complete; {what}.")
    if source.evals and source.runs:
        told.append("Compared are the measurements of dqo-eval; training runs are in the curves and completions.")
    return told


def _left_out(others: Sequence[Measured]) -> list[str]:
    if not others:
        return []
    named = ", ".join(dict.fromkeys(f"{each.name} ({each.prompts} prompts)" for each in others))
    return [f"Not compared, since they have answered other held-out prompts: {named}."]


def _empty(points: Sequence[Measured]) -> list[str]:
    """Policies that often answer nothing: what is measured of the other answers alone does not show it."""
    told = []
    for each in points:
        texts = [text for group in each.groups for text in group.texts]
        empty = sum(map(is_empty, texts))
        if not each.is_control and empty > MANY_EMPTY * len(texts):
            told.append(
                f"{each.name}: {empty} of {len(texts)} completions of the first prompts are empty. Diversity is of "
                "the others alone, so a policy that answers nothing can look diverse; compare log det and Vendi score, "
                "which fall with the number of answers, and look at the completions."
            )
    return told


def _differences(points: Sequence[Measured], cells: Sequence[Measured]) -> list[str]:
    """What differs in how the measurements were made."""
    asked: dict[str, tuple[Callable[[Measured], Any], str]] = {
        "n": (lambda each: each.n, "metrics that depend on the number of completions of a prompt are left out"),
        "seed of the sampling": (lambda each: each.seed, "chance is not the same for all"),
        "longest completion in tokens": (lambda each: each.length, "a longer one may say more"),
        "encoder": (lambda each: each.embedding, "cosine distance, log det and Vendi scores of two encoders differ"),
    }
    told = []
    for what, (get, meaning) in asked.items():
        values = sorted({shown(get(each)) for each in points})
        if len(values) > 1:
            told.append(f"Not the same for all: {what} ({' and '.join(values)}); {meaning}.")
    decodings = {tuple(sorted(each.decoding.items())) for each in points}
    if len(decodings) > 1:
        told.append("Not the same for all: temperature or filters of the sampling.")
    if len({tuple(sorted(cell.decoding.items())) for cell in cells}) > 1:
        text = ", ".join(f"{key}={value:g}" for key, value in points[0].decoding.items() if PLAIN.get(key) != value)
        told.append(f"Measured with several decodings; compared with {text or 'temperature 1 and no filter'}.")
    if len({str(seeds) for seeds in _seeds_by_variant(points)}) > 1:
        told.append("Not all policies were trained with the same seeds; differences may be those of the seeds.")
    if old := [each.name for each in points if not each.per_prompt]:
        told.append(f"Without intervals, since an older dqo kept no values by prompt: {', '.join(old)}.")
    if any(is_fake(each.embedding) for each in points):
        told.append("embed=fake: cosine distance, log det and Vendi score say nothing about meaning.")
    return told


def _seeds_by_variant(points: Sequence[Measured]) -> list[list[str]]:
    keys = [key for key in varied_keys([each.settings for each in points]) if key != SEED]
    seeds: dict[str, list[str]] = {}
    for each in points:
        if SEED in each.settings:
            seeds.setdefault(label(each.settings, keys), []).append(shown(each.settings[SEED]))
    return [sorted(each) for each in seeds.values()]


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return float(np.mean(known)) if known else math.nan


def _or_least(value: float) -> float:
    return -math.inf if math.isnan(value) else value
