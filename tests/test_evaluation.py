import math
from dataclasses import replace

import pytest

from dqo.evaluation import evaluate, measure
from dqo.reward.none import NoReward
from tests.helpers.families import OF_TRAINING
from tests.helpers.judged import make_answers
from tests.helpers.scripted_stages import OneHotEmbed, scripted_stages


def test_all_metrics_against_numbers_by_hand():
    stages, prompts = scripted_stages({0: ["Paris", "paris", "Lima", "cut"], 1: ["Oslo", "broken", "so so", "so so"]})
    metrics = evaluate(stages, prompts, n=4, seed=0, families=OF_TRAINING).metrics
    expected = {
        "reward": (3 / 4 + 1 / 3) / 2,
        "reward_best": 1.0,
        "pass@1": (3 / 4 + 1 / 4) / 2,
        "pass@2": (1.0 + 1 / 2) / 2,  # pairs with a correct one: all 6 of 6; 3 of 6 with Oslo
        "pass@4": 1.0,
        "distinct_correct": (2 + 1) / 2,
        "distinct_correct@4": (2 + 1) / 2,
        "cosine_distance": (5 / 6 + 2 / 3) / 2,  # pairs of different axes: 5 of 6, and 2 of 3 without the invalid one
        "cosine_distance/correct": 2 / 3,  # the first prompt alone: the second has only one correct answer
        "compared/correct": 0.5,
        "logdet": (math.log(3 * 2 * 2) + math.log(2 * 3)) / 2,
        "logdet/correct": (math.log(3 * 2) + math.log(2)) / 2,
        "vendi/correct": (math.exp(-2 / 3 * math.log(2 / 3) - 1 / 3 * math.log(1 / 3)) + 1) / 2,
        "distinct_1": (3 / 4 + 2 / 5) / 2,  # {paris lima cut} of 4, {oslo so} of 5; the invalid one does not count
        "distinct_1/correct": 2 / 3,
        "distinct_2": 1 / 2,  # "so so" twice; the first prompt's answers have one word
        "valid": (1 + 3 / 4) / 2,
        "finished": (3 / 4 + 1) / 2,
        "mean_length": (7 / 4 + 10 / 4) / 2,  # words and end tokens
    }
    assert {key: metrics[key] for key in expected} == pytest.approx(expected)
    assert math.isnan(metrics["distinct_4"])


def test_distinct_correct_is_an_expectation_over_tens_of_the_samples():
    stages, prompts = scripted_stages({0: ["Paris"] * 19 + ["Lima"]})
    metrics = evaluate(stages, prompts, n=20, seed=0, families=OF_TRAINING).metrics
    assert metrics["pass@10"] == 1.0
    assert metrics["distinct_correct"] == pytest.approx(1.5)  # half of the tens contain the one Lima
    assert metrics["distinct_correct@20"] == 2.0
    assert {key for key in metrics if key.startswith("pass@")} == {"pass@1", "pass@2", "pass@5", "pass@10", "pass@20"}


def test_answers_are_ordered_by_position():
    stages, prompts = scripted_stages({0: ["Paris", "broken"], 1: ["paris", "Oslo"]})
    first, second = evaluate(stages, prompts, n=2, seed=0, families=OF_TRAINING).answers
    assert (first.prompt, first.texts, first.keys, first.correct) == (
        prompts[0], ("Paris", "broken"), ("paris", "broken"), (True, False),
    )  # fmt: skip
    assert first.rewards is not None and first.rewards[0] == 1.0
    assert math.isnan(first.rewards[1])
    assert (first.finished, first.lengths) == ((True, True), (2, 2))
    assert second.texts == ("paris", "Oslo")


def test_a_reward_without_correctness_gives_the_same_keys():
    texts = {0: ["Paris", "Lima"]}
    known = evaluate(*scripted_stages(texts), n=2, seed=0, families=OF_TRAINING).metrics
    unknown = evaluate(*scripted_stages(texts, knows_correct=False), n=2, seed=0, families=OF_TRAINING)
    assert unknown.metrics.keys() == known.keys()
    assert unknown.answers[0].correct is None
    undefined = {key for key, value in unknown.metrics.items() if math.isnan(value)}
    assert {"pass@1", "distinct_correct", "logdet/correct", "compared/correct"} <= undefined
    assert unknown.metrics["cosine_distance"] == 1.0


def test_without_a_reward_quality_is_undefined_and_diversity_is_measured():
    stages, prompts = scripted_stages({0: ["Paris", "Lima"]})
    unjudged = evaluate(replace(stages, reward=NoReward()), prompts, n=2, seed=0, families=OF_TRAINING)
    assert unjudged.answers[0].rewards is None
    undefined = {key for key, value in unjudged.metrics.items() if math.isnan(value)}
    assert {"reward", "reward_best", "pass@1", "logdet/correct"} <= undefined
    assert (unjudged.metrics["cosine_distance"], unjudged.metrics["valid"]) == (1.0, 1.0)


def test_no_prompts_are_refused():
    stages, _ = scripted_stages({0: ["Paris"]})
    with pytest.raises(ValueError, match="no prompts"):
        evaluate(stages, [], n=2, seed=0, families=OF_TRAINING)


def test_empty_completions_are_no_diversity():
    """An embedding of no text is unlike any other: two cities and two empty answers would be three answers."""
    stages, prompts = scripted_stages({0: ["Rome", "Rome", "", " \n"]})
    metrics = evaluate(stages, prompts, n=4, seed=0, families=OF_TRAINING).metrics
    assert metrics["vendi"] == pytest.approx(1)
    assert metrics["logdet"] == pytest.approx(math.log(3), abs=1e-5)
    assert metrics["cosine_distance"] == pytest.approx(0, abs=1e-6)


def test_the_numbers_of_each_prompt_and_the_first_matrices_are_kept():
    stages, prompts = scripted_stages({p: ["Paris", "Lima"] if p % 2 else ["Oslo", "Oslo"] for p in range(6)})
    evaluation = evaluate(stages, prompts, n=2, seed=0, families=["cosine_distance", "pcmd"])
    assert evaluation.per_prompt["cosine_distance"] == (0.0, 1.0) * 3
    assert evaluation.metrics["cosine_distance"] == 0.5
    assert evaluation.metrics["effective_modes"] == 2.0  # of the mean of pcmd: no prompt has it
    assert "effective_modes" not in evaluation.per_prompt
    assert evaluation.cosines == ([[1.0, 1.0], [1.0, 1.0]], [[1.0, 0.0], [0.0, 1.0]]) * 2


class NoEmbed:
    def encode(self, rollouts):
        raise AssertionError("no chosen metric needs the encoder")


def test_the_encoder_is_asked_only_where_a_chosen_metric_needs_it():
    stages, prompts = scripted_stages({0: ["Paris", "Lima"]})
    evaluation = evaluate(replace(stages, embed=NoEmbed()), prompts, n=2, seed=0, families=["reward", "pass", "pcmd"])
    assert [*evaluation.metrics] == [
        "n", "prompts", "reward", "reward_best", "pass@1", "pass@2", "pcmd", "effective_modes", "pcmd/correct",
        "effective_modes/correct", "compared/correct",
    ]  # fmt: skip
    assert evaluation.cosines == ()


def test_answers_of_another_tool_are_measured_without_rewards():
    """What rests on a column that is not there is undefined, and all completions count."""
    answers = replace(make_answers(["Paris", "Lima"]), rewards=None, finished=None, lengths=None)
    (measured,) = measure([answers], families=OF_TRAINING, embed=OneHotEmbed())
    undefined = {name for name, value in measured.metrics.items() if math.isnan(value)}
    assert {"reward", "reward_best", "pass@1", "finished", "mean_length", "logdet/correct"} <= undefined
    assert (measured.metrics["cosine_distance"], measured.metrics["valid"]) == (1.0, 1.0)
