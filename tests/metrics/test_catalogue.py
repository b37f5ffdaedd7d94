"""Every family that ``eval.metrics`` can choose is computed, over the completions that count."""

import math

import pytest
import torch

from dqo.metrics.catalogue import compute, with_derived
from dqo.metrics.names import FAMILIES, METRICS, SCORERS, evaluation_metrics, metric_of, needs_of
from tests.helpers.judged import make_answers

CHOSEN = [family.replace("vendi@", "vendi@2") for family in FAMILIES]
TEXTS = [
    "Paris is nice to see",
    "Paris is nice to see",
    "Lima is a fine place too",
    "",
    "go to Oslo now my friend",
    "x",
]
CORRECT = [True, True, True, False, True, False]


def embeddings(count: int) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(count, 8, generator=torch.Generator().manual_seed(0)), dim=1)


def test_every_family_is_computed():
    metrics = with_derived(compute(make_answers(TEXTS, correct=CORRECT), embeddings(6), CHOSEN))
    asked = {name for name in evaluation_metrics(6, CHOSEN) if not {*metric_of(name).needs} & SCORERS.keys()}
    assert metrics.keys() == asked
    undefined = {name for name, value in metrics.items() if math.isnan(value)}
    assert undefined == {"rarefaction@5/correct"}  # only four are correct


@pytest.mark.parametrize("family", CHOSEN)
def test_a_family_alone_gives_the_same_numbers_and_no_others(family):
    answers = make_answers(TEXTS, correct=CORRECT)
    everything = compute(answers, embeddings(6), CHOSEN)
    alone = compute(answers, embeddings(6) if "encoder" in needs_of([family]) else None, [family])
    assert {*alone} <= {*evaluation_metrics(6, [family])}
    for name, value in alone.items():
        assert value == everything[name] or math.isnan(value)


def test_modes_against_numbers_by_hand():
    """Four correct answers, three different; of the five that count (one is empty) four are different."""
    metrics = with_derived(compute(make_answers(TEXTS, correct=CORRECT), None, ["pcmd", "rarefaction", "cover"]))
    assert metrics["pcmd/correct"] == pytest.approx(1 - 2 / 12)
    assert metrics["effective_modes/correct"] == pytest.approx(6)
    assert metrics["pcmd"] == pytest.approx(1 - 2 / 20)
    assert metrics["rarefaction@5"] == 4
    assert metrics["cover@0.5"] == 1.0


def test_invalid_completions_do_not_count():
    families = ["distinct_1", "pcmd"]
    few = compute(make_answers(["a b", "c d"], correct=[True, False]), None, families)
    invalid = make_answers(["a b", "c d", "e f"], correct=[True, False, False], invalid=[2])
    assert compute(invalid, None, families) == pytest.approx(few, nan_ok=True)


def test_without_correctness_what_needs_it_is_undefined():
    metrics = compute(make_answers(TEXTS), embeddings(6), CHOSEN)
    for name, value in metrics.items():
        needs = METRICS[name].needs if name in METRICS else metric_of(name).needs
        assert math.isnan(value) == ("correct" in needs or name.endswith("/correct")), name
