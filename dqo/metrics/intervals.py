"""95 % intervals of means over prompts. Imports no torch. The prompts are the sample: intervals say what other prompts
of the same kind would give, not what another training run would.

An interval is NaN where the sample cannot tell: for fewer than two prompts, and for prompts that all have one value (a
bootstrap of equal values has no width, which does not make the mean certain).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, stdtrit

LEVEL = 0.95
RESAMPLES = 2000  # bootstrap samples
SEED = 0
AT_ONCE = 1_000_000  # values that are resampled at a time: 16 MB


@dataclass(frozen=True, kw_only=True)
class Interval:
    """Mean over prompts. Example: mean .62, low .51, high .72, prompts 40."""

    mean: float  # NaN without prompts
    low: float
    high: float
    prompts: int  # where the value is defined


@dataclass(frozen=True, kw_only=True)
class PassCurve:
    """pass@k over k, or the difference of two; the band contains the whole curve with 95 %, so it is wider than the
    interval of a single k."""

    k: tuple[int, ...]  # 1 to n
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    area: float  # mean of the curve: 0 to 1, of a difference -1 to 1


def mean_interval(values: Sequence[float]) -> Interval:
    """Mean and interval of one value a prompt. Undefined values (NaN) are left out and not counted.

    Percentile bootstrap over prompts, seeded: equal values give equal bounds. The percentiles are Hesterberg's (2015,
    1411.5279), wider for few prompts. The interval covers the truth 93 to 96 % of the time from 8 prompts on (88 %
    without the widening), of very skewed values 91 %; for 4 prompts 82 to 88 %.
    """
    given = np.asarray(values, dtype=np.float64)
    known = given[~np.isnan(given)]
    if not len(known):
        return Interval(mean=math.nan, low=math.nan, high=math.nan, prompts=0)
    low, high = _percentiles(known) if np.ptp(known) > 0 else (math.nan, math.nan)
    return Interval(mean=float(known.mean()), low=low, high=high, prompts=len(known))


def paired_interval(values: Sequence[float], others: Sequence[float]) -> Interval:
    """``mean_interval`` of values - others, over the prompts where both are defined.

    Both are of the same prompts in the same order. Narrower than the two intervals suggest: what makes a prompt easy
    for both cancels. Raises ValueError if the lengths differ.
    """
    _check_paired(values, others)
    return mean_interval(np.subtract(values, others).tolist())


def pass_curve(correct: Sequence[int], n: int) -> PassCurve:
    """Mean pass@1 … pass@n with its band; ``correct`` has the number of correct ones of each prompt's n completions.

    The band is for many prompts (sup-t of Gaussian multipliers, by the package ``passk_inference``): it covers the
    whole curve 94 to 95 % of the time from 100 prompts on, 93 % for 40, 89 % for 16.
    """
    return _curve(_pass_rows(correct, n), support=(0.0, 1.0))


def pass_difference(correct: Sequence[int], others: Sequence[int], n: int) -> PassCurve:
    """Mean difference ``correct`` - ``others`` of pass@1 … pass@n with its band, as ``passk_inference.compare`` has it.

    Both are of the same prompts in the same order; raises ValueError if the lengths differ.
    """
    _check_paired(correct, others)
    return _curve(_pass_rows(correct, n) - _pass_rows(others, n), support=(-1.0, 1.0))


def _check_paired(values: Sequence[Any], others: Sequence[Any]) -> None:
    if len(values) != len(others):
        raise ValueError(f"values of {len(values)} and of {len(others)} prompts cannot be paired")


def _percentiles(values: NDArray[np.float64]) -> tuple[float, float]:
    """Bounds of the mean: percentiles of the means of bootstrap samples."""
    prompts = len(values)
    tail = ndtr(math.sqrt(prompts / (prompts - 1)) * stdtrit(prompts - 1, (1 - LEVEL) / 2))
    generator = np.random.default_rng(SEED)
    rows = max(1, AT_ONCE // prompts)
    means = [
        values[generator.integers(prompts, size=(min(rows, RESAMPLES - done), prompts))].mean(1)
        for done in range(0, RESAMPLES, rows)
    ]
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail])
    return float(low), float(high)


def _pass_rows(correct: Sequence[int], n: int) -> NDArray[np.float64]:
    """(prompts, n): each prompt's pass@1 … pass@n."""
    from passk_inference import pass_at_k  # of the extra "eval"

    if not len(correct):
        return np.empty((0, n))
    return np.column_stack([pass_at_k(correct, n, k) for k in range(1, n + 1)])


def _curve(rows: NDArray[np.float64], support: tuple[float, float]) -> PassCurve:
    """Mean of the rows, and its band, cut to the range that such a mean can have."""
    from passk_inference import simultaneous_band

    prompts, n = rows.shape
    mean = rows.mean(0) if prompts else np.full(n, math.nan)
    low, high = np.full((2, n), math.nan)
    if prompts > 1:
        band = simultaneous_band(rows, alpha=1 - LEVEL, seed=SEED)
        low, high = np.clip([band["lower"], band["upper"]], *support)
        low[band["degenerate_columns"]] = high[band["degenerate_columns"]] = math.nan
    return PassCurve(
        k=tuple(range(1, n + 1)),
        mean=tuple(mean.tolist()),
        low=tuple(low.tolist()),
        high=tuple(high.tolist()),
        area=float(mean.mean()),
    )
