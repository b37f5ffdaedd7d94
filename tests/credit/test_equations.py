from dataclasses import replace

import pytest

from dqo.credit.equations import Equations
from dqo.credit.gating.gate import Gate, Gating
from dqo.references import References
from dqo.stages import Credit
from tests.credit.groups import group


def of_equations(cap=1.0, gate=Gate.correct, threshold=None):
    return Equations(References(), cap=cap, gating=Gating(gate=gate, threshold=threshold))


def credits_of(texts, credit, rewards=None):
    rollouts, rewards = group([rewards or [1.0] * len(texts)])
    return credit.assign(replace(rollouts, texts=tuple(texts)), rewards, None)[0].tolist()


def test_is_a_credit_that_needs_no_embeddings():
    assert isinstance(of_equations(), Credit) and not of_equations().uses_embeddings


def test_credit_is_the_share_of_equations_that_no_other_has():
    texts = ["$a=1$, $b=2$ and $a = 1$ again", "$b=2$, $c=3$, $d=4$", "2 + 2 = 4", "no equation"]
    assert credits_of(texts, of_equations()) == pytest.approx([1 / 2, 2 / 3, 1.0, 0.0])
    assert credits_of(texts, of_equations(0.6)) == pytest.approx([1 / 2, 0.6, 0.6, 0.0])


def test_wrong_completions_earn_nothing_and_are_not_compared():
    texts = ["$a=1$", "$a=1$", "$a=1$, $b=2$"]
    assert credits_of(texts, of_equations(), [1.0, 0.0, 1.0]) == pytest.approx([0.0, 0.0, 0.5])
    assert credits_of(texts, of_equations(), [1.0, 0.0, 0.0]) == [1.0, 0.0, 0.0]


def test_copies_earn_nothing():
    assert credits_of(["$a=1$"] * 4, of_equations()) == [0.0] * 4


def test_the_model_card_says_what_was_paid():
    says = "the share of its equations found in no other completion, among the correct completions"
    assert of_equations().description == says
