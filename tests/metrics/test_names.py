"""The names that ``objective`` may be, against an evaluation."""

import math

import pytest

from dqo.evaluation import evaluate
from dqo.metrics.names import evaluation_metrics, needs_correct
from tests.helpers.scripted_stages import scripted_stages


@pytest.mark.parametrize("n", [1, 2, 4, 12])
def test_every_evaluation_has_these_metrics_and_no_others(n):
    texts = [["a", "b", "a c", "d"][i % 4] for i in range(n)]
    metrics = evaluate(*scripted_stages([texts]), n=n, seed=0).metrics
    assert {*evaluation_metrics(n)} == {*metrics} - {"n", "prompts"}


def test_what_needs_correct_is_undefined_without():
    metrics = evaluate(*scripted_stages([["a b c d e", "b c d e a"]], knows_correct=False), n=2, seed=0).metrics
    assert {name for name, value in metrics.items() if math.isnan(value)} == {
        name for name in evaluation_metrics(2) if needs_correct(name)
    }
