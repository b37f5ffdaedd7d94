"""Which words a text uses, and which texts are one well-formed sentence."""

import pytest

from dqo.task.language.english import covered_concepts, fault, forms, story_fault, words_of

KNOWN = {
    "dog", "throw", "throws", "ball", "park", "run", "runs", "catches", "chicken", "cheese", "pizza", "broccoli", "man",
    "stood", "looking", "player", "field", "batter", "grilled", "quick",
}  # fmt: skip


@pytest.mark.parametrize(
    ("word", "form"),
    [
        ("dog", "dogs"), ("carry", "carries"), ("carry", "carried"), ("carry", "carrying"), ("run", "running"),
        ("run", "ran"), ("stand", "stood"), ("ride", "riding"), ("ride", "rode"), ("catch", "catches"),
        ("catch", "caught"), ("hold", "held"), ("leaf", "leaves"), ("fireman", "firemen"), ("child", "children"),
        ("know", "knew"), ("dance", "danced"),
    ],
)  # fmt: skip
def test_forms(word, form):
    assert form in forms(word)
    assert word in forms(word)


@pytest.mark.parametrize(("word", "other"), [("run", "runner"), ("car", "carry"), ("sit", "site"), ("run", "r")])
def test_other_words_are_not_forms(word, other):
    assert other not in forms(word)


def test_words():
    assert words_of("The dog's well-known café can’t OPEN, I'm told!") == [
        "the", "dog", "well", "known", "cafe", "can't", "open", "i", "told"
    ]  # fmt: skip
    assert words_of("🎈 123 漢字") == []


def test_covered_concepts():
    assert covered_concepts(["stand", "look", "field"], "I stood and looked around.") == ["stand", "look"]
    assert covered_concepts(["stand", "look", "field"], "") == []


@pytest.mark.parametrize(
    ("concepts", "text"),
    [
        (["dog", "ball", "park"], "A dog runs to the ball in the park."),
        (["dog", "ball", "park"], '"A dog runs to the ball in the park!"'),
        (["chicken", "cheese", "broccoli", "pizza"], "A grilled pizza with chicken, broccoli and cheese."),
        (["stand", "look", "field"], "The player stood in the field looking at the batter."),
        (["dog", "ball"], "Rex throws the ball to a dog."),
    ],
)
def test_no_fault(concepts, text):
    assert fault(text, concepts, KNOWN) is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not one sentence"),
        ("A dog runs to the ball in the park", "not one sentence"),
        ("a dog runs to the ball in the park.", "not one sentence"),
        ("A dog runs in the park. It has a ball.", "not one sentence"),
        ("A dog runs to the ball\nin the park.", "not one sentence"),
        ("A dog 🐕 runs to the ball in the park.", "not one sentence"),
        ("Собака and a dog with the ball in the park.", "not one sentence"),
        ("**A dog runs to the ball in the park.**", "not one sentence"),
        ("Dog ball park.", "too short"),
        ("A dog ball park.", "too short"),
        ("The dog and the ball " * 7 + "in the park.", "too long"),
        ("Dog throws ball, catches ball, runs park quick.", "too few function words"),
        ("A dog runs to the the ball in the park.", "repeated"),
        ("A dog and a dog and the dog with the ball in the park.", "repeated"),
        ("A dog, ball and park is here.", "a list"),
        ("Here is the dog ball park.", "a list"),
        ("A blorp dog flimmed to the ball in the park.", "unknown words"),
    ],
)
def test_fault(text, reason):
    assert reason in str(fault(text, ["dog", "ball", "park"], KNOWN))


def test_one_unknown_word_is_tolerated():
    assert fault("A blorp dog runs to the ball in the park.", ["dog", "ball", "park"], KNOWN) is None


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("The dog runs to the park. A man throws the ball. The dog catches it.", None),
        ('The dog runs to the park. "Throw the ball!" the man said. The dog catches it.', None),
        ('The dog runs to the park. The man throws. He said, "It catches the ball!"', None),
        ("The dog runs to the park. A man throws the ball.", "not 3 to 5 sentences"),
        ("The dog runs. The dog runs! The dog runs. The man stood.", "a sentence is repeated"),
        ("The dog runs. Dog, ball, park and run. The man stood.", "a list of the words"),
        ("The dog runs. A man throws the ball. The man stood. the dog catches it.", "not one sentence"),
        ("The dog runs. A man glorps the snark. The dog catches it.", "unknown words"),
        ("The dog runs. A man throws 🎈 to it. The dog catches it.", "not one sentence"),
        ("", "not 3 to 5 sentences"),
    ],
)
def test_faults_of_stories(text, why):
    known = KNOWN | {"said", "throw"}
    found = story_fault(text, ["dog", "ball", "park", "run"], known, least=3, most=5)
    assert found is None if why is None else found is not None and found.startswith(why), found
