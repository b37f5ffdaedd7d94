"""The names that ``objective`` may be, against an evaluation."""

import math

import pytest

from dqo.evaluation import evaluate
from dqo.metrics.names import (
    FAMILIES,
    USUAL,
    comparable,
    describe,
    evaluation_metrics,
    find_family,
    metric_of,
    needs_correct,
    needs_of,
    shown_of,
)
from tests.helpers.families import OF_EVALUATION, OF_TRAINING
from tests.helpers.scripted_stages import scripted_stages


@pytest.mark.parametrize("n", [1, 2, 4, 12])
def test_every_evaluation_has_these_metrics_and_no_others(n):
    texts = [["a", "b", "a c", "d"][i % 4] for i in range(n)]
    metrics = evaluate(*scripted_stages([texts]), n=n, seed=0, families=OF_TRAINING).metrics
    assert {*evaluation_metrics(n, OF_TRAINING)} == {*metrics} - {"n", "prompts"}


def test_what_needs_correct_is_undefined_without():
    stages, prompts = scripted_stages([["a b c d e", "b c d e a"]], knows_correct=False)
    metrics = evaluate(stages, prompts, n=2, seed=0, families=OF_TRAINING).metrics
    assert {name for name, value in metrics.items() if math.isnan(value)} == {
        name for name in evaluation_metrics(2, OF_TRAINING) if needs_correct(name)
    }


def test_families_are_found_by_name():
    assert all(find_family(family) == family for family in FAMILIES if family != "vendi@")
    assert [find_family(name) for name in ("vendi@2", "vendi@0.5", "vendi@inf")] == ["vendi@"] * 3
    assert [find_family(name) for name in ("vendi@", "vendi@0", "vendi@nan", "vendi@x", "pass@1", "n")] == [None] * 6


def test_the_names_do_not_depend_on_the_order_of_the_families():
    names = evaluation_metrics(10, OF_EVALUATION)
    assert len(names) == len({*names})
    others = [family for family in OF_EVALUATION if not family.startswith("vendi@")]  # orders come as they are typed
    assert evaluation_metrics(10, others) == evaluation_metrics(10, others[::-1])
    assert all(describe(name) and metric_of(name) for name in names)


def test_what_families_need():
    assert needs_of(["distinct_1", "finished"]) == set()
    assert needs_of(["vendi@2", "pass"]) == {"encoder", "correct"}
    assert needs_of(["noveltybench", "nli_disagreement"]) == {"novelty", "nli"}


def test_metrics_that_depend_on_n_are_not_compared_over_n():
    same = [name for name in evaluation_metrics(10, OF_EVALUATION) if comparable(name, 10, 40)]
    assert {"pass@10", "pcmd", "rarefaction@5", "reward", "distinct_correct", "cosine_distance"} <= {*same}
    assert {"vendi", "vendi@2", "self_bleu_diversity", "compression_ratio", "pcmd/correct"}.isdisjoint(same)
    assert all(comparable(name, 10, 10) for name in evaluation_metrics(10, OF_EVALUATION))
    assert comparable("distinct_correct", 4, 4) and not comparable("distinct_correct", 4, 40)


def test_chosen_metrics_are_shown_after_the_usual_ones():
    assert USUAL == OF_TRAINING
    headline = ("reward", "pass@1", "vendi")
    usual = evaluation_metrics(10, OF_TRAINING)
    assert shown_of(["n", "prompts", *usual], headline) == [*headline]
    assert shown_of(["n", *evaluation_metrics(10, ["pcmd", "reward"])], headline) == [
        "reward",
        "pcmd",
        "effective_modes",
    ]
