"""Which completions scorers are asked about."""

import math

import torch

from dqo.metrics.names import evaluation_metrics, metric_of
from dqo.scorers.asking import ask
from dqo.scorers.bundle import Scorers
from dqo.scorers.novelty import NoveltyBench
from tests.helpers.judged import make_answers

FAMILIES = ["nli_disagreement", "judge_diversity", "noveltybench"]


def test_without_scorers_their_metrics_are_undefined():
    answers = make_answers(["Paris", "Lima", "paris"], correct=[True, True, False])
    scorers = Scorers(novelty=NoveltyBench(), missing={})
    embeddings_PKD = torch.nn.functional.one_hot(torch.tensor([[0, 1, 0]]), 3).float()
    (metrics,) = ask(scorers, [answers], embeddings_PKD, FAMILIES)
    asked = [name for name in evaluation_metrics(3, FAMILIES) if metric_of(name).family in FAMILIES]
    assert {*metrics} == {*asked}
    assert metrics["distinct_k"] == 2.0  # short answers are compared by their words
    assert {name for name, value in metrics.items() if not math.isnan(value)} == {"distinct_k"}


def test_families_that_are_not_chosen_are_not_asked():
    scorers = Scorers(novelty=NoveltyBench(), missing={})
    assert ask(scorers, [make_answers(["Paris", "Lima"])], None, ["reward"]) == [{}]
