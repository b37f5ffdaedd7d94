import math

import pytest

from dqo.report.comparison import compare, difference
from dqo.report.reading import read_folders
from tests.helpers.report_folders import write_eval, write_run, write_sweep


def comparison_of(*folders):
    return compare(read_folders([*map(str, folders)]))


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    jobs = [{"alpha": alpha, "seed": seed} for alpha in (0, 1, 2) for seed in (0, 1)]
    return write_sweep(tmp_path_factory.mktemp("sweep") / "s", jobs, planned="alpha=0,1,2 seed=0,1")


def test_seeds_are_pooled_prompt_by_prompt(sweep):
    comparison = comparison_of(sweep)
    assert [each.name for each in comparison.all] == ["before training", "alpha=0", "alpha=1", "alpha=2"]
    pooled = comparison.variants[1]
    first, second = (member.per_prompt["pass@1"] for member in pooled.members)
    values = [(one + other) / 2 for one, other in zip(first, second, strict=True)]
    assert pooled.values("pass@1") == pytest.approx(values)
    assert pooled.mean("pass@1") == pytest.approx(sum(values) / len(values))
    assert pooled.interval("pass@1").low < pooled.mean("pass@1") < pooled.interval("pass@1").high


def test_the_baseline_is_the_smallest_alpha_and_the_pick_depends_on_the_loss(sweep):
    comparison = comparison_of(sweep)
    assert comparison.baseline.name == "alpha=0"
    diversity = comparison.diversities[0]
    assert diversity == "cosine_distance/correct"
    assert comparison.best(1.0, diversity).name == "alpha=2"
    assert comparison.best(-1.0, diversity) is comparison.baseline  # nothing may be lost: stay
    picks = [comparison.best(loss / 100, diversity).mean(diversity) for loss in range(11)]
    assert picks == sorted(picks)


def test_the_front_has_no_policy_that_another_beats_in_both(sweep):
    comparison = comparison_of(sweep)
    diversity = comparison.diversities[0]
    front = comparison.front(diversity)
    qualities = [each.mean("pass@1") for each in front]
    assert qualities == sorted(qualities, reverse=True) and len(front) >= 1
    for each in comparison.variants:
        beaten = any(
            other.mean(diversity) >= each.mean(diversity) and other.mean("pass@1") >= each.mean("pass@1")
            and other is not each for other in comparison.variants
        )  # fmt: skip
        assert (each in front) != beaten


def test_a_difference_is_paired_by_prompt(sweep):
    comparison = comparison_of(sweep)
    one, other = comparison.variants[2], comparison.variants[0]
    gain = difference(one, other, "cosine_distance")
    assert gain.mean == pytest.approx(one.mean("cosine_distance") - other.mean("cosine_distance"))
    assert gain.low < gain.mean < gain.high and gain.prompts == 16


def test_old_runs_have_no_intervals_and_this_is_said(tmp_path):
    comparison = comparison_of(write_run(tmp_path / "a", alpha=0, old=True), write_run(tmp_path / "b", alpha=1))
    assert math.isnan(comparison.variants[0].interval("pass@1").low)
    gain = difference(comparison.variants[1], comparison.variants[0], "cosine_distance")
    assert gain.mean > 0 and math.isnan(gain.low)
    assert any("older dqo" in warning and "a" in warning for warning in comparison.warnings)


def test_a_run_that_was_killed_before_its_first_step_is_named_and_not_compared(tmp_path):
    comparison = comparison_of(
        write_run(tmp_path / "a", alpha=0),
        write_run(tmp_path / "b", alpha=1),
        write_run(tmp_path / "c", alpha=2, complete=False),
    )
    assert [each.name for each in comparison.variants] == ["alpha=0", "alpha=1"]
    assert any("Run c is not complete; not compared" in warning for warning in comparison.warnings)


def test_other_prompts_are_not_compared_and_named(tmp_path):
    comparison = comparison_of(
        write_run(tmp_path / "a", alpha=0), write_run(tmp_path / "b", alpha=1), write_run(tmp_path / "c", prompts=4)
    )
    assert [each.name for each in comparison.variants] == ["alpha=0", "alpha=1"]
    assert any("other held-out prompts" in warning and "c (4 prompts)" in warning for warning in comparison.warnings)


def test_another_n_leaves_the_metrics_that_do_not_depend_on_it(tmp_path):
    comparison = comparison_of(write_run(tmp_path / "a", alpha=0), write_run(tmp_path / "b", alpha=1, n=20))
    assert "cosine_distance" in comparison.diversities and "vendi" not in comparison.diversities
    assert any("n (10 and 20)" in warning for warning in comparison.warnings)


def test_lengths_and_seeds_that_differ_are_named(tmp_path):
    comparison = comparison_of(
        write_run(tmp_path / "a", alpha=0, seed=0),
        write_run(tmp_path / "b", alpha=1, seed=1, settings={"max_completion_length": 99}),
    )
    assert any("longest completion" in warning for warning in comparison.warnings)
    assert any("same seeds" in warning for warning in comparison.warnings)


def test_one_run_is_compared_with_itself_before_training(tmp_path):
    comparison = comparison_of(write_run(tmp_path / "a"))
    assert comparison.baseline is comparison.before and comparison.traded == comparison.all


def test_cells_of_one_decoding_are_compared(tmp_path):
    comparison = comparison_of(write_eval(tmp_path / "e", temperatures=(0.5, 1.0), controls=True))
    assert [each.name for each in comparison.variants] == ["alpha=0", "alpha=1", "alpha=2"]
    assert all(member.decoding["temperature"] == 1.0 for member in comparison.members)
    assert comparison.before is None and comparison.baseline.name == "alpha=0"
    assert any("several decodings" in warning for warning in comparison.warnings)


def test_without_correctness_and_reward_there_is_no_quality(tmp_path):
    comparison = comparison_of(write_eval(tmp_path / "e", judged=False))
    assert comparison.quality is None and comparison.diversities[0] == "cosine_distance"
    assert comparison.best(0.1, "cosine_distance") is comparison.baseline


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({}, {"layers": 0}),
        ({"normalize_text": ["case"]}, {"normalize_text": ["case", "space"]}),
        ({"prompt": "query: "}, {"prompt": None}),
        ({"model": None, "path": "a"}, {"model": None, "path": "b"}),
    ],
)
def test_encoders_that_differ_in_one_setting_are_two(one, other, tmp_path):
    encoder = {"_target_": "dqo.embed.sentence.Sentence", "model": "MiniLM", "batch_size": 64}
    runs = [
        write_run(tmp_path / f"{alpha}", alpha=alpha, settings={"embed": encoder | more})
        for alpha, more in ((0, one), (1, other))
    ]
    assert sum("two encoders differ" in warning for warning in comparison_of(*runs).warnings) == 1


def test_encoders_that_differ_in_speed_alone_are_one(tmp_path):
    encoder = {"_target_": "dqo.embed.sentence.Sentence", "model": "MiniLM"}
    older = write_run(tmp_path / "0", alpha=0, settings={"embed": encoder | {"batch_size": 8}})  # without today's keys
    newer = write_run(tmp_path / "1", alpha=1, settings={"embed": encoder | {"batch_size": 64, "layers": None}})
    assert not any("two encoders differ" in warning for warning in comparison_of(older, newer).warnings)


@pytest.mark.parametrize(("empty", "told"), [(("", " "), 1), (("Oslo", "Rome"), 0)])
def test_a_policy_that_often_answers_nothing_is_named(empty, told, tmp_path):
    runs = [
        write_run(tmp_path / "plain", alpha=0),
        write_run(tmp_path / "silent", alpha=1, texts=empty * 4),
    ]
    warnings = [warning for warning in comparison_of(*runs).warnings if "are empty" in warning]
    assert len(warnings) == told and all(warning.startswith("silent: ") for warning in warnings)


def test_a_fake_encoder_is_not_the_first_diversity(tmp_path):
    fake = {"embed": {"_target_": "dqo.embed.fake.Fake", "dim": 64}}
    comparison = comparison_of(
        *(write_run(tmp_path / f"{alpha}", alpha=alpha, settings=fake) for alpha in (0, 1))
    )  # fmt: skip
    assert comparison.diversities[0] == "pcmd/correct"
    assert any("embed=fake" in warning for warning in comparison.warnings)
