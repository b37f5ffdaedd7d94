from dataclasses import replace

import pytest
import torch

from dqo.credit.gating.gate import Gate, Gating
from dqo.credit.ngram import Ngram
from dqo.references import References
from dqo.stages import Credit
from tests.credit.groups import group


def ngram(n=4, gate=Gate.none, threshold=None):
    return Ngram(References(), n=n, gating=Gating(gate=gate, threshold=threshold))


def credits_of(texts, credit, rewards=None, valid=None):
    rollouts, rewards = group([rewards or [1.0] * len(texts)], valid)
    return credit.assign(replace(rollouts, texts=tuple(texts)), rewards, None)[0].tolist()


def code_of_the_paper(texts, n):
    """The n-grams of a text that are in no other text, over the places for them."""
    split = [text.split() for text in texts]
    grams = [{tuple(words[i : i + n]) for i in range(len(words) - n + 1)} for words in split]
    others = [set().union(*grams[:i], *grams[i + 1 :]) for i in range(len(texts))]
    return [len(grams[i] - others[i]) / (len(split[i]) - n + 1) for i in range(len(texts))]


def test_is_a_credit_that_needs_no_embeddings():
    assert isinstance(ngram(), Credit) and not ngram().uses_embeddings and not ngram().needs_rewards


@pytest.mark.parametrize("n", [1, 2, 4])
def test_credits_are_those_of_the_papers_code(n):
    generator = torch.Generator().manual_seed(n)
    for _ in range(10):
        words = torch.randint(0, 4, (5, 9), generator=generator).tolist()
        texts = [" ".join("abcd"[j] for j in row[: 4 + i]) for i, row in enumerate(words)]
        assert credits_of(texts, ngram(n)) == pytest.approx(code_of_the_paper(texts, n))


def test_a_text_of_fewer_words_is_one_ngram():
    assert credits_of(["Paris", "paris", "Rome", "In the city of Rome"], ngram()) == [0.0, 0.0, 1.0, 1.0]


def test_repetition_inside_a_text_is_not_paid():
    assert credits_of(["a b a b a b", "c d"], ngram(2))[0] == pytest.approx(2 / 5)


def test_only_those_that_pass_the_gate_are_compared():
    texts = ["a b", "a b", "a b", "c d", ""]
    valid = [[True, True, False, True, True]]
    assert credits_of(texts, ngram(2, Gate.correct), [1.0, 0.0, 1.0, 1.0, 1.0], valid) == [1.0, 0.0, 0.0, 1.0, 0.0]


def test_the_model_card_says_what_was_paid():
    says = "the share of its 4-grams of words found in no other completion, among the correct completions"
    assert ngram(gate=Gate.correct).description == says
