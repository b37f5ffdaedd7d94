import math
import subprocess
import sys

import numpy as np
import pytest

from dqo.metrics import intervals
from dqo.metrics.intervals import mean_interval, paired_interval, pass_curve, pass_difference

NAN = math.nan


def undefined(*values: float) -> bool:
    return all(math.isnan(value) for value in values)


def test_undefined_values_are_left_out_and_not_counted():
    values = [0.2, 0.4, 0.9, 0.1]
    assert mean_interval([NAN, *values, NAN]) == mean_interval(values)
    assert mean_interval(values).prompts == 4
    assert mean_interval(values).mean == pytest.approx(0.4)


def test_few_prompts_have_no_interval():
    one, none = mean_interval([0.5, NAN]), mean_interval([NAN])
    assert (one.mean, one.prompts) == (0.5, 1) and undefined(one.low, one.high)
    assert none.prompts == 0 and undefined(none.mean, none.low, none.high)
    assert mean_interval([]).prompts == 0


def test_prompts_that_all_have_one_value_have_no_interval():
    equal = mean_interval([1.0] * 16)
    assert equal.mean == 1.0 and undefined(equal.low, equal.high)


def test_an_interval_is_the_same_every_time_and_does_not_depend_on_scale():
    values = np.random.default_rng(0).normal(size=40).tolist()
    one = mean_interval(values)
    assert one == mean_interval(values) and one.low < one.mean < one.high
    tiny = mean_interval([value * 1e-9 for value in values])
    assert (tiny.low, tiny.high) == pytest.approx((one.low * 1e-9, one.high * 1e-9))


def test_resampling_in_parts_changes_nothing_but_chance(monkeypatch):
    values = np.random.default_rng(0).normal(size=40).tolist()
    whole = mean_interval(values)
    monkeypatch.setattr(intervals, "AT_ONCE", 999)  # 24 bootstrap samples at a time
    parts = mean_interval(values)
    assert (parts.low, parts.high) == pytest.approx((whole.low, whole.high), abs=0.02 * (whole.high - whole.low))


def test_a_paired_interval_is_that_of_the_differences_where_both_are_defined():
    values, others = [0.5, NAN, 0.7, 0.9, 0.1], [0.4, 0.1, NAN, 0.5, 0.0]
    interval = paired_interval(values, others)
    assert interval == mean_interval([0.5 - 0.4, 0.9 - 0.5, 0.1])
    assert interval.prompts == 3 and interval.mean == pytest.approx(0.2)


def test_a_paired_interval_is_narrow_where_prompts_differ_more_than_policies():
    generator = np.random.default_rng(0)
    easy = generator.normal(size=50)
    better = (easy + 0.1 + 0.01 * generator.normal(size=50)).tolist()
    interval = paired_interval(better, easy.tolist())
    assert 0.09 < interval.low < 0.1 < interval.high < 0.11
    assert mean_interval(better).high - mean_interval(better).low > 0.4


@pytest.mark.parametrize("difference", [paired_interval, lambda a, b: pass_difference([1, 2], [1], 4)])
def test_other_prompts_cannot_be_paired(difference):
    with pytest.raises(ValueError, match=r"2 and of 1 prompts cannot be paired"):
        difference([0.1, 0.2], [0.1])


SAMPLES = {
    "normal": (lambda generator, size: generator.normal(size=size), 0.0),
    "exponential": (lambda generator, size: generator.exponential(size=size), 1.0),
    "share of 10": (lambda generator, size: generator.binomial(10, generator.beta(0.5, 1, size=size)) / 10, 1 / 3),
}


@pytest.mark.parametrize(
    ("sample", "prompts", "coverage"),
    [
        ("normal", 8, 0.94), ("normal", 16, 0.95), ("normal", 100, 0.95), ("share of 10", 16, 0.935),
        ("exponential", 16, 0.92),  # a mean of skewed values needs more prompts
    ],
)  # fmt: skip
def test_intervals_cover_the_truth_95_percent_of_the_time(sample, prompts, coverage):
    draw, truth = SAMPLES[sample]
    runs = 400
    intervals = [mean_interval(row) for row in draw(np.random.default_rng(prompts), (runs, prompts)).tolist()]
    covered = sum(interval.low <= truth <= interval.high for interval in intervals) / runs
    assert covered == pytest.approx(coverage, abs=3 * math.sqrt(coverage * (1 - coverage) / runs))


def test_bands_cover_the_whole_curve_95_percent_of_the_time():
    """p of a prompt is uniform, so the true pass@k is 1 - 1 / (k + 1); the other policy's p is 1 - p."""
    runs, prompts, n = 100, 60, 4
    generator = np.random.default_rng(0)
    truth = np.array([1 - 1 / (k + 1) for k in range(1, n + 1)])
    covered = np.zeros(2)
    for _ in range(runs):
        p = generator.random(prompts)
        mine, theirs = generator.binomial(n, p).tolist(), generator.binomial(n, 1 - p).tolist()
        for i, (curve, expected) in enumerate(((pass_curve(mine, n), truth), (pass_difference(mine, theirs, n), 0.0))):
            covered[i] += np.all((np.array(curve.low) <= expected) & (expected <= np.array(curve.high)))
    assert covered / runs == pytest.approx([0.95, 0.95], abs=3 * math.sqrt(0.95 * 0.05 / runs))


def test_a_curve_rises_within_its_band_and_its_area_is_its_mean():
    curve = pass_curve([0, 1, 3, 4, 2, 0, 4, 4], 4)
    assert curve.k == (1, 2, 3, 4) and list(curve.mean) == sorted(curve.mean)
    assert all(0 <= low <= mean <= high <= 1 for low, mean, high in zip(curve.low, curve.mean, curve.high, strict=True))
    assert curve.mean[0] == pytest.approx(18 / 32) and curve.mean[3] == pytest.approx(6 / 8)
    assert curve.area == pytest.approx(sum(curve.mean) / 4)


def test_a_curve_has_no_band_where_all_prompts_agree_or_there_are_fewer_than_two():
    saturated = pass_curve([2, 1, 2], 2)  # one of two solves each prompt
    assert not undefined(saturated.low[0]) and undefined(saturated.low[1], saturated.high[1])
    one, none = pass_curve([1], 2), pass_curve([], 2)
    assert one.mean == (0.5, 1.0) and undefined(*one.low, *one.high)
    assert undefined(*none.mean, *none.low, none.area) and none.k == (1, 2)
    assert undefined(*pass_difference([], [], 2).mean)
    assert pass_difference([1], [2], 2).mean == pytest.approx((-0.5, 0.0))


def test_intervals_need_no_torch():
    code = """
import sys
import dqo.metrics.intervals as intervals
intervals.pass_curve([1, 2], 2)
intervals.mean_interval([1.0, 2.0])
sys.exit(any(name.split(".")[0] in ("torch", "jaxtyping", "transformers") for name in sys.modules))
"""
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
