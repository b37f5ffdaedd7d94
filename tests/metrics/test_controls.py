"""Degenerate answers, and which metrics they fool."""

from dqo.metrics.catalogue import compute
from dqo.metrics.controls import degenerate
from tests.helpers.judged import make_answers

ANSWERS = make_answers(
    ["", "Paris is a good place to see", "Lima is a good place to see", "Oslo is a good place to see"],
    correct=[False, False, True, True],
)


def test_the_same_for_the_same_answers():
    assert degenerate(ANSWERS) == degenerate(ANSWERS)
    assert list(degenerate(ANSWERS)) == ["copies", "random text", "repeated text", "other languages"]


def test_copies_are_of_the_first_correct_answer():
    copies = degenerate(ANSWERS)["copies"]
    assert copies.texts == ("Lima is a good place to see",) * 4
    assert (copies.keys, copies.correct) == (("lima is a good place to see",) * 4, (True,) * 4)
    assert degenerate(make_answers(["", ""]))["copies"].texts == ("", "")


def test_only_copies_can_be_correct_and_nothing_is_known_of_rewards():
    for name, control in degenerate(ANSWERS).items():
        assert control.correct == (name == "copies",) * 4
        assert (control.rewards, control.finished, control.lengths) == (None, None, None)
        assert control.valid == (True,) * 4


def test_they_fool_metrics_of_wording():
    """Random words look most diverse; copies are least diverse in every metric."""
    families = ["distinct_1", "self_bleu_diversity", "self_rouge_diversity", "pcmd"]
    plain, controls = compute(ANSWERS, None, families), degenerate(ANSWERS)
    random, copies = (compute(controls[name], None, families) for name in ("random text", "copies"))
    assert all(copies[name] < plain[name] <= random[name] for name in families)
