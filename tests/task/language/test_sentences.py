"""Sentences of English text."""

import pytest

from dqo.task.language.sentences import sentences, words_with_space


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("One. Two!  Three?", ["One. ", "Two!  ", "Three?"]),
        ("One\nTwo\n\nThree\n", ["One\n", "Two\n\n", "Three\n"]),
        ("Dr. Ames met Mrs. Bo. They ran.", ["Dr. Ames met Mrs. Bo. ", "They ran."]),
        ("J. R. Bo ran. He won.", ["J. R. Bo ran. ", "He won."]),
        ('"Run!" she said. "Now."', ['"Run!" she said. ', '"Now."']),
        ("It is 3.5 m, e.g. here. 12 ran.", ["It is 3.5 m, e.g. here. ", "12 ran."]),
        ("", []),
        ("   ", ["   "]),
    ],
)
def test_sentences(text, parts):
    assert sentences(text) == parts
    assert "".join(sentences(text)) == "".join(words_with_space(text)) == text
