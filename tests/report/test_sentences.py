import math

import pytest

from dqo.metrics.intervals import Interval
from dqo.report.comparison import compare
from dqo.report.reading import read_folders
from dqo.report.sentences import allowed_loss, change, change_with_interval, choice, headline, number, with_interval
from tests.helpers.report_folders import write_eval, write_run

SPACE = "\u00a0"


def comparison_of(*folders):
    return compare(read_folders([*map(str, folders)]))


@pytest.mark.parametrize(
    ("value", "metric", "text"),
    [
        (0.925, "pass@1", f"92.5{SPACE}%"),
        (0.4123, "cosine_distance", "0.412"),
        (5.678, "vendi", "5.68"),
        (123.4, "mean_length", "123"),
        (math.nan, "pass@1", "–"),
    ],
)
def test_numbers_have_their_unit_and_undefined_is_a_dash(value, metric, text):
    assert number(value, metric) == text


def test_changes_have_a_sign_and_points():
    assert change(-0.015, "pass@1") == "−1.5 points" and change(0.29, "cosine_distance") == "+0.290"
    interval = Interval(mean=-0.015, low=-0.04, high=0.01, prompts=16)
    assert change_with_interval(interval, "pass@1") == f"−1.5 points (95{SPACE}% interval −4.0 to +1.0)"
    assert with_interval(interval, "cosine_distance") == "-0.015 [-0.040, 0.010]"
    unknown = Interval(mean=0.5, low=math.nan, high=math.nan, prompts=16)
    assert with_interval(unknown, "pass@1") == f"50.0{SPACE}%"
    assert change_with_interval(unknown, "vendi") == "+0.500 (without an interval)"


def test_the_headline_says_what_was_gained_and_paid(tmp_path):
    comparison = comparison_of(*(write_run(tmp_path / f"{a}", alpha=a) for a in (0, 1)))
    said = headline(comparison)
    assert said.gained.startswith("alpha=1 is more diverse than alpha=0: cosine distance, correct answers ")
    assert "interval" in said.gained and "pass@1" in said.paid and "points" in said.paid
    assert said.picked.name == "alpha=1"
    told = choice(comparison, 0.02)
    assert told.startswith("For a loss of at most 2 points of pass@1 against alpha=0, take alpha=1: ")
    assert "no other is more diverse" in choice(comparison, -1.0)


def test_a_loss_that_is_too_large_is_not_recommended(tmp_path):
    folder = write_eval(tmp_path / "e", alphas=(0, 12))
    comparison = comparison_of(folder)
    said = headline(comparison)
    assert said.picked is comparison.baseline
    assert said.gained == "Within a loss of 2 points of pass@1, nothing is more diverse than alpha=0."
    assert "alpha=12" in said.paid and "points" in said.paid


def test_one_run_is_told_as_the_effect_of_training(tmp_path):
    said = headline(comparison_of(write_run(tmp_path / "mine")))
    assert said.gained.startswith("By training (mine), pass@1 rises from ")
    assert said.paid.startswith("Meanwhile cosine distance, correct answers ")
    assert "No run with alpha = 0" in said.note


def test_a_run_before_its_first_step_is_told_alone(tmp_path):
    said = headline(comparison_of(write_run(tmp_path / "a", complete=False)))
    assert "nothing to compare" in said.note and "pass@1" in said.gained


def test_without_judgement_the_price_is_unknown(tmp_path):
    said = headline(comparison_of(write_eval(tmp_path / "e", judged=False)))
    assert said.gained.startswith("alpha=2 is more diverse than alpha=0") and "unknown" in said.paid


def test_equal_policies_are_not_called_more_diverse(tmp_path):
    folder = write_eval(tmp_path / "e", judged=False)
    comparison = comparison_of(folder, folder)
    for each in comparison.members:
        each.per_prompt["cosine_distance"][:] = [0.5] * 16  # type: ignore[index]
    said = headline(comparison)
    assert "is not more diverse than" in said.gained and "+0.000 (without an interval)" in said.gained


def test_diversity_of_wrong_answers_is_called_no_gain(tmp_path):
    folders = [write_run(tmp_path / f"{a}", alpha=a, old=True) for a in (0, 1)]
    comparison = comparison_of(*folders)
    for each in comparison.members:
        each.means["pass@1"] = 0.0  # type: ignore[index]
    assert "No policy has answered anything correctly" in headline(comparison).note


def test_the_allowed_loss_of_a_reward_is_a_share_of_it(tmp_path):
    comparison = comparison_of(*(write_run(tmp_path / f"{a}", alpha=a, old=True) for a in (0, 1)))
    rewards = type(comparison)(**{**vars(comparison), "quality": "reward"})
    assert allowed_loss(rewards) == pytest.approx(0.02 * rewards.baseline.mean("reward"))


def test_of_equal_policies_no_change_is_reported(tmp_path):
    comparison = comparison_of(*(write_run(tmp_path / f"{a}", alpha=a, old=True) for a in (0, 1)))
    for each in comparison.members:
        each.means.update(comparison.members[0].means)  # type: ignore[attr-defined]
    said = headline(comparison)
    assert "Nothing is more diverse than alpha=0" in said.gained and said.paid == "alpha=1 is equal in both."
