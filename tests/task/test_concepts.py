"""The grammar, the number of right answers of a prompt, and the check of an answer."""

import itertools
import random

import pytest

from dqo.task.concepts import RESERVED, Concepts
from dqo.task.language.grammar import DETERMINER, Grammar
from tests.factories import word_tokenizer


@pytest.fixture(scope="module")
def grammar() -> Grammar:
    return Grammar()


def concepts(grammar, **keys) -> Concepts:
    keys = {"seed": 0, "max_completion_length": 24, "held_out": 200, **keys}
    return Concepts(word_tokenizer(grammar.words), 64, **keys)


@pytest.fixture(scope="module")
def task(grammar) -> Concepts:
    return concepts(grammar)


def test_vocabulary_is_complete_and_words_have_one_class(grammar):
    classed = list(itertools.chain(*grammar.classes.values()))
    assert len(set(classed)) == len(classed)
    literals = set(itertools.chain(*grammar.templates)) - set(grammar.classes)
    assert sorted({*classed, *literals, ":"}) == grammar.words
    assert not set(grammar.classes) & set(grammar.words)  # else the text "food" would match the class food
    assert 120 <= len(grammar.words) <= 160


def test_no_word_after_a_starts_with_a_vowel(grammar):
    pairs = {pair for template in grammar.templates for pair in itertools.pairwise(template)}
    after_a = [name for determiner, name in pairs if determiner == DETERMINER]
    assert len(after_a) > 5
    assert not [word for name in after_a for word in grammar.classes[name] if word[0] in "aeiou"]


def test_longest_sentence_fits_the_preset(grammar):
    assert max(map(len, grammar.templates)) + 1 <= 24


@pytest.mark.parametrize(
    "text",
    [
        "the dog slept .",
        "a shy dog found a red ball .",
        "in the dark park , the dog found a ball quickly .",
        "yesterday , a cat ate the sweet cake on a hill .",
        "the king danced with a robot .",
    ],
)
def test_sentences(grammar, text):
    assert grammar.is_sentence(text)


@pytest.mark.parametrize(
    "text",
    [
        "", ".", "the dog slept", "dog slept .", "the dog slept . .", "the dog the ball .", "the dog found .",
        "the dog ate a ball .", "the dog found a cake .", "the red dog slept .", "the dog found a shy ball .",
        "the dog slept at a park .", "the dog slept with the dog .", "the dog and the cat slept .",
        "the dog slept quickly quickly .", "the actor act .", "the dog sleeps .", "The dog slept .",
        "park the in slept dog the .", "the dog found a food .",
    ],
)  # fmt: skip
def test_no_sentences(grammar, text):
    assert not grammar.is_sentence(text)


def test_every_kind_of_prompt_has_dozens_of_short_answers(grammar, task):
    """Brute force: the templates by length, filled with the concepts and two more words of each class."""
    prompts = {tuple(sorted(grammar.class_of(w) for w in p.columns["concepts"])): p for p in task.held_out()}
    assert len(prompts) == len({tuple(sorted(kind)) for kind in grammar._kinds})
    for kind, prompt in prompts.items():
        concepts = prompt.columns["concepts"]
        words = {
            name: [w for w in of_class if w in concepts] + [w for w in of_class if w not in concepts][:2]
            for name, of_class in grammar.classes.items()
        }
        right, template = set(), ()
        for template in itertools.chain(*grammar._templates_by_length(kind)):
            texts = map(" ".join, itertools.product(*(words.get(slot, [slot]) for slot in template)))
            right |= {task.key(prompt, text) for text in texts if task.check(prompt, text, True).correct}
            if len(right) >= 24:
                break
        assert len(right) >= 24, (concepts, sorted(right))
        assert len(template) <= 11, "the answers are not short"


def test_prompts_have_hundreds_of_right_answers(grammar, task):
    chooser = random.Random(0)
    for prompt in task.held_out()[:20]:
        drawn = [" ".join(grammar.sentence(prompt.columns["concepts"], chooser)) for _ in range(600)]
        assert all(task.check(prompt, text, True).correct for text in drawn)
        assert len({task.key(prompt, text) for text in drawn}) > 200


def test_check(task):
    prompt = next(p for p in task.held_out() if len(set(p.columns["concepts"])) == 3)
    text = " ".join(Grammar().sentence(prompt.columns["concepts"], random.Random(1)))
    assert task.check(prompt, text, True).reward == 1.0
    assert task.check(prompt, text, False).reward == 0.0
    for concept in prompt.columns["concepts"]:
        assert task.check(prompt, " ".join(w for w in text.split() if w != concept), True).reward == 0.0
    other = next(p for p in task.held_out() if not set(p.columns["concepts"]) <= set(text.split()))
    assert task.check(other, text, True).reward == 0.0


def test_key_ignores_determiners_only(task):
    prompt = task.held_out()[0]
    assert task.key(prompt, "the dog found a ball .") == task.key(prompt, "a dog found the ball .")
    assert task.key(prompt, "the dog found a ball .") != task.key(prompt, "the dog lost a ball .")


def test_held_out_prompts_are_the_same_for_every_seed_and_never_trained_on(grammar, task):
    other = concepts(grammar, seed=5, held_out=RESERVED)
    assert [p.content for p in other.held_out()[:200]] == [p.content for p in task.held_out()]
    trained = {frozenset(row.columns["concepts"]) for row in task._training}
    assert not trained & {frozenset(p.columns["concepts"]) for p in other.held_out()}
    assert len(trained) > 10_000
    assert all(str(p.content).split() == [*p.columns["concepts"], ":"] for p in task.held_out())


def test_vocabulary_covers_prompts_and_answers(grammar, task):
    tokenizer = word_tokenizer(grammar.words)
    for prompt, text in task.demonstrations(50, 0):
        assert tokenizer.unk_token_id not in [*prompt.tokens, *tokenizer(text)["input_ids"]]


def test_demonstrations_are_noisy_as_documented(task):
    pairs = task.demonstrations(3000, 0)
    assert pairs[:50] == task.demonstrations(50, 0)
    missing = [not set(p.columns["concepts"]) <= set(text.split()) for p, text in pairs]
    # A concept is replaced: 1/3. A word is dropped: 1/6, and about 3 in 13 words are concepts.
    assert sum(missing) / 3000 == pytest.approx(1 / 3 + 2 / 3 * 1 / 6 * 3 / 13, abs=0.03)
    right = sum(task.check(p, text, True).correct for p, text in pairs) / 3000
    assert right == pytest.approx(2 / 3 * 5 / 6, abs=0.04)
