"""Numbers as text, and the sentences of the first screen."""

import math
from dataclasses import dataclass

from dqo.metrics.intervals import Interval
from dqo.metrics.names import DISTINCT_OF, describe
from dqo.report.comparison import Comparison, Variant, difference

SHARES = ("pass@", "compared", "valid", "finished")  # metrics that are shown in per cent
ALLOWED = 0.02  # loss of quality of the sentence that stands in the page: 2 points, or 2 % of the baseline's reward
NONE = "–"
TITLES = {
    "distinct_correct": f"distinct correct answers of {DISTINCT_OF}", "logdet": "log det", "vendi": "Vendi score",
    "pcmd": "PCMD", "ead": "EAD", "self_bleu_diversity": "1 − self-BLEU", "self_rouge_diversity": "1 − self-ROUGE",
    "nli_disagreement": "NLI disagreement",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Headline:
    """The first screen's words."""

    gained: str
    paid: str
    note: str  # what to know beside, maybe empty
    picked: Variant


def is_share(metric: str) -> bool:
    """Whether a metric is shown in per cent, and its differences in points."""
    return metric.startswith(SHARES)


def title_of(metric: str) -> str:
    """A metric's name in words: "cosine distance, correct answers"."""
    base, _, correct = metric.partition("/")
    return f"{TITLES.get(base) or base.replace('_', ' ')}{', correct answers' if correct else ''}"


def explain(metric: str) -> str:
    """One line about a metric."""
    return describe(metric)


def number(value: float, metric: str) -> str:
    """A value of a metric: "92.5 %", "0.412", "–" where undefined."""
    if math.isnan(value):
        return NONE
    return f"{100 * value:.1f}\u00a0%" if is_share(metric) else _three_digits(value)


def change(value: float, metric: str) -> str:
    """A difference: "−1.5 points", "+0.29"."""
    if math.isnan(value):
        return NONE
    text = f"{100 * value:+.1f} points" if is_share(metric) else _three_digits(value, "+")
    return text.replace("-", "−")


def with_interval(interval: Interval, metric: str) -> str:
    """A mean with its interval: "0.41 [0.35, 0.47]"."""
    if math.isnan(interval.low):
        return number(interval.mean, metric)
    bounds = [number(bound, metric).removesuffix("\u00a0%") for bound in (interval.low, interval.high)]
    return f"{number(interval.mean, metric)} [{', '.join(bounds)}]"


def change_with_interval(interval: Interval, metric: str) -> str:
    """A difference with its interval: "+0.29 (95\u00a0% interval +0.22 to +0.36)"."""
    if math.isnan(interval.low):
        return f"{change(interval.mean, metric)} (without an interval)"
    low, high = (change(bound, metric).removesuffix(" points") for bound in (interval.low, interval.high))
    return f"{change(interval.mean, metric)} (95\u00a0% interval {low} to {high})"


def allowed_loss(comparison: Comparison) -> float:
    """The loss of quality of the sentence that stands in the page, in the metric's unit."""
    if comparison.quality is None or is_share(comparison.quality):
        return ALLOWED
    return ALLOWED * abs(comparison.baseline.mean(comparison.quality)) or ALLOWED


def headline(comparison: Comparison) -> Headline:
    """What the best policy for the standard loss has gained and paid against the baseline."""
    base, quality = comparison.baseline, comparison.quality
    if not comparison.diversities:
        return Headline(gained=f"{base.name}: no metric of diversity is defined.", paid="", note="", picked=base)
    diversity = comparison.diversities[0]
    if len(comparison.all) == 1:
        known = f"; {quality} {with_interval(base.interval(quality), quality)}" if quality else ""
        measured = f"{title_of(diversity)} {with_interval(base.interval(diversity), diversity)}"
        return Headline(gained=f"{base.name}: {measured}{known}.", paid="", note="One policy alone: nothing to compare "
                        "it with; type a second run or folder beside it.", picked=base)  # fmt: skip
    if quality is None:
        return _without_quality(comparison, diversity)
    if base is comparison.before:
        return _against_before(comparison, quality, diversity)
    picked = comparison.best(allowed_loss(comparison), diversity)
    if picked is base:
        return _nothing_gained(comparison, quality, diversity)
    gain, cost = (difference(picked, base, metric) for metric in (diversity, quality))
    return Headline(
        gained=f"{_more_diverse(picked, base, gain)}: {title_of(diversity)} "
        f"from {number(base.mean(diversity), diversity)} to {number(picked.mean(diversity), diversity)}, "
        f"{change_with_interval(gain, diversity)}.",
        paid=_paid(picked, base, quality, cost),
        note=_all_wrong(comparison, quality),
        picked=picked,
    )


def choice(comparison: Comparison, allowed: float) -> str:
    """Which policy to take where at most this much quality may be lost, in one sentence."""
    quality = comparison.quality
    if quality is None or not comparison.diversities or len(comparison.all) < 2:
        return ""
    diversity, base = comparison.diversities[0], comparison.baseline
    picked = comparison.best(allowed, diversity)
    loss = f"{100 * allowed:g} points" if is_share(quality) else f"{allowed:.3g}"
    start = f"For a loss of at most {loss} of {quality} against {base.name}"
    if picked is base:
        return f"{start}, take {base.name}: no other is more diverse within that loss."
    gain, cost = (difference(picked, base, metric) for metric in (diversity, quality))
    return (
        f"{start}, take {picked.name}: {title_of(diversity)} {change_with_interval(gain, diversity)}, "
        f"{quality} {change_with_interval(cost, quality)}."
    )


def _against_before(comparison: Comparison, quality: str, diversity: str) -> Headline:
    """No run without the credit: what training has changed. The best in quality stands for the runs."""
    base = comparison.baseline
    picked = max(comparison.variants, key=lambda each: each.mean(quality))
    told = []
    for metric in (quality, diversity):
        moved = difference(picked, base, metric)
        verb = "rises" if moved.mean > 0 else "falls" if moved.mean < 0 else "stays"
        doubt = "" if math.isnan(moved.low) or moved.low > 0 or moved.high < 0 else " (the interval includes 0)"
        told.append(
            f"{title_of(metric)} {verb} from {number(base.mean(metric), metric)} to "
            f"{number(picked.mean(metric), metric)}, {change_with_interval(moved, metric)}{doubt}."
        )
    note = _all_wrong(comparison, quality) or (
        "No run with alpha = 0 is here, so this is the effect of training, not of the diversity credit."
    )
    return Headline(
        gained=f"By training ({picked.name}), {told[0]}", paid=f"Meanwhile {told[1]}", note=note, picked=picked
    )


def _paid(picked: Variant, base: Variant, quality: str, cost: Interval) -> str:
    values = f"{quality} from {number(base.mean(quality), quality)} to {number(picked.mean(quality), quality)}"
    if cost.mean == 0 and math.isnan(cost.low):
        return f"It pays nothing: {values}."
    if cost.low > 0:
        verb = "It gains quality, too"
    elif cost.high < 0:
        verb = "It pays"
    elif math.isnan(cost.low):
        verb = "It pays" if cost.mean < 0 else "It pays nothing"
    else:
        verb = "It pays nothing that these prompts can show" if cost.mean < 0 else "It pays nothing"
    return f"{verb}: {values}, {change_with_interval(cost, quality)}."


def _more_diverse(variant: Variant, other: Variant, gain: Interval) -> str:
    """Who is more diverse than whom, with a doubt where the interval includes 0."""
    if gain.mean <= 0:
        return f"{variant.name} is not more diverse than {other.name}"
    if gain.low > 0 or math.isnan(gain.low):
        return f"{variant.name} is more diverse than {other.name}"
    return f"{variant.name} is perhaps more diverse than {other.name} (the interval includes 0)"


def _nothing_gained(comparison: Comparison, quality: str, diversity: str) -> Headline:
    base = comparison.baseline
    others = [each for each in comparison.variants if each is not base]
    top = max(others, key=lambda each: each.mean(diversity)) if others else base
    gain, cost = (difference(top, base, metric) for metric in (diversity, quality))
    loss = f"{100 * ALLOWED:g} points of {quality}" if is_share(quality) else f"2 % of the {quality}"
    if gain.mean > 0:
        paid = (
            f"The most diverse one, {top.name}, has {title_of(diversity)} {change_with_interval(gain, diversity)} and "
            f"{quality} {change_with_interval(cost, quality)}."
        )
        gained = f"Within a loss of {loss}, nothing is more diverse than {base.name}."
    else:
        measured = with_interval(base.interval(diversity), diversity)
        gained = f"Nothing is more diverse than {base.name} ({title_of(diversity)}: {measured})."
        differs = gain.mean != 0 or cost.mean != 0
        paid = f"{top.name}: {title_of(diversity)} {change_with_interval(gain, diversity)}, " if differs else ""
        paid += f"{quality} {change_with_interval(cost, quality)}." if differs else f"{top.name} is equal in both."
    return Headline(gained=gained, paid=paid, note=_all_wrong(comparison, quality), picked=base)


def _without_quality(comparison: Comparison, diversity: str) -> Headline:
    base = comparison.baseline
    top = max(comparison.all, key=lambda each: each.mean(diversity))
    others = [each for each in comparison.all if each is not top]
    other = base if top is not base else max(others, key=lambda each: each.mean(diversity))
    gain = difference(top, other, diversity)
    return Headline(
        gained=f"{_more_diverse(top, other, gain)}: {title_of(diversity)} {change_with_interval(gain, diversity)}.",
        paid="What it pays is unknown: neither pass@1 nor a reward was measured.",
        note="",
        picked=top,
    )


def _all_wrong(comparison: Comparison, quality: str) -> str:
    if all(each.mean(quality) == 0 for each in comparison.all):
        return f"No policy has answered anything correctly ({quality} is 0): diversity of wrong answers is no gain."
    return ""


def _three_digits(value: float, sign: str = "") -> str:
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3
    return f"{value:{sign}.{digits}f}"
