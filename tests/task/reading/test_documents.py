"""Prompts that are too long lose sentences of their document, at its end or start, and never of the instruction."""

import logging

import pytest

from dqo.errors import ConfigError
from dqo.stages import Verdict
from dqo.task.reading.documents import Cutter, Cutting, DocumentTask
from dqo.task.reading.row import Row
from tests.factories import word_tokenizer
from tests.task.builders import with_rendering

BEFORE, AFTER = "Say it briefly : ", " In short :"  # 4 and 3 words
ARTICLE = "One two three. Dr. Four has five! Six, said B. Seven?\nEight nine ten. Last words here"


class Summaries(DocumentTask):
    def check(self, prompt, text, finished):
        return Verdict(reward=0.0, correct=False)


def row(article: str = ARTICLE, *, before: str = BEFORE, source: str = "row") -> Row:
    content = f"{before}{article}{AFTER}"
    return Row(content=content, source=source, document=(len(before), len(before) + len(article)))


def task(*rows: Row, limit: int | None, cut: str = "end", held_out: Row | None = None) -> Summaries:
    keys = with_rendering({}, max_completion_length=8)
    cutting = Cutting(max_prompt_length=limit, cut=cut)  # type: ignore[arg-type]
    held_out = held_out or row("Never cut.")
    tokenizer, rendering = word_tokenizer(["word"]), keys["rendering"]
    cutter = Cutter(tokenizer, 40, rendering, cutting)
    return Summaries(tokenizer, 40, rendering, cutter, training=rows, held_out=[held_out])


@pytest.mark.parametrize(
    ("limit", "cut", "left"),
    [
        (None, "end", ARTICLE),
        (24, "end", ARTICLE),
        (23, "end", "One two three. Dr. Four has five! Six, said B. Seven?\nEight nine ten."),
        (18, "end", "One two three. Dr. Four has five! Six, said B. Seven?"),
        (17, "end", "One two three. Dr. Four has five!"),
        (13, "end", "One two three."),
        (9, "end", "One two"),  # not even one sentence
        (21, "start", "Dr. Four has five! Six, said B. Seven?\nEight nine ten. Last words here"),
        (12, "start", "Last words here"),
        (9, "start", "words here"),
        (7, "end", ""),
    ],
)
def test_whole_sentences_are_left_out(limit, cut, left):
    (prompt,), _ = task(row(), limit=limit, cut=cut).draw(0, 1)
    assert prompt.content == f"{BEFORE}{left}{AFTER}"
    assert len(prompt.tokens) == len(prompt.content.split())
    assert limit is None or len(prompt.tokens) <= limit


def test_the_limit_is_what_the_context_leaves_if_no_number_is_typed():
    (prompt,), _ = task(row("a. " * 100), limit=None).draw(0, 1)
    assert len(prompt.tokens) == 40 - 8


def test_cut_training_prompts_are_counted_once_and_held_out_ones_said(caplog):
    with caplog.at_level(logging.WARNING):
        subject = task(row(), row("Short."), limit=12, held_out=row("Here is one. And two. And three."))
    assert "1 of 1 held-out documents are cut at their end: the prompts have more than 12 tokens" in caplog.text
    assert subject.held_out()[0].content == f"{BEFORE}Here is one. And two.{AFTER}"
    assert subject.counters() == {"cut_prompts": 0}
    first = subject.draw(0, 4)
    assert subject.draw(0, 4) == first
    assert subject.counters() == {"cut_prompts": 2}  # in two epochs


def test_without_cutting_long_prompts_are_left_out_and_counted(caplog):
    with caplog.at_level(logging.WARNING):
        subject = task(row(), row("Short."), limit=12, cut="none")
    assert {prompt.content for prompt in subject.draw(0, 2)[0]} == {f"{BEFORE}Short.{AFTER}"}
    assert "1 of 2 prompts have more than 12 tokens and are left out" in caplog.text


def test_an_instruction_that_is_too_long_is_left_out(caplog):
    with caplog.at_level(logging.WARNING):
        subject = task(row(before="word " * 20), row(), Row(content="word " * 20, source="no document"), limit=12)
    assert len({prompt.content for prompt in subject.draw(0, 3)[0]}) == 1
    assert "2 of 3 prompts have more than 12 tokens and are left out" in caplog.text


def test_all_instructions_are_too_long():
    with pytest.raises(ConfigError, match=r"all prompts have more than 6 tokens; type task.max_prompt_length=NUMBER"):
        task(row(), limit=6)


def test_no_room_in_the_context():
    with pytest.raises(
        ConfigError, match=r"all prompts have more than 32 tokens; type model=NAME of a model with a lon"
    ):
        task(row(before="word " * 40), limit=None)


def test_a_limit_beyond_the_context():
    with pytest.raises(
        ConfigError, match=r"task.max_prompt_length=33: .*context of 40; type task.max_prompt_length=32"
    ):
        task(row(), limit=33)
