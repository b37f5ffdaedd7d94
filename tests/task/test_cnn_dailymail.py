"""CNN/DailyMail on small files, and on faulty ones."""

import json
from pathlib import Path

import pytest

from dqo.errors import ConfigError
from dqo.task.cnn_dailymail import CnnDailyMail
from dqo.task.reading.documents import Cutting
from tests.factories import word_tokenizer
from tests.task.builders import with_rendering

TRAIN = [
    {"article": "Rain fell. Ann ran.\nBo won. ", "highlights": "Bo won .\nAnn ran , too .", "id": "a"},
    {"article": "Snow fell.", "highlights": "Snow .", "id": "b"},
    {"article": "Sun.", "highlights": "Sun .", "id": "c"},
]
EVAL = [{"article": "Snow fell.", "highlights": "Snow .", "id": "d"}, {"article": "Fog.", "highlights": "F", "id": "e"}]


def task(folder: Path, train=TRAIN, *, limit: int | None = None, **keys) -> CnnDailyMail:
    for split, rows in (("train", train), ("validation", EVAL), ("test", EVAL[1:])):
        (folder / f"{split}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), "utf-8")
    keys = {"held_out": 1, "train_rows": None, "eval_split": "validation", **keys}
    rendering = with_rendering(keys, max_completion_length=40)
    cutting = Cutting(max_prompt_length=limit, cut="end")
    return CnnDailyMail(word_tokenizer(["word"]), 1024, data_dir=str(folder), cutting=cutting, **rendering)


def test_prompts_and_references(tmp_path, caplog):
    subject = task(tmp_path)
    prompt = next(prompt for prompt in subject.draw(0, 3)[0] if prompt.columns["id"] == "a")
    assert prompt.content == (
        "Summarize the news article below in three sentences.\n\nRain fell. Ann ran.\nBo won.\n\n"
        "Summary in three sentences:"
    )
    assert prompt.columns["references"] == ["Bo won. Ann ran, too."]
    assert [prompt.columns["id"] for prompt in subject.held_out()] == ["e"]
    assert "1 of 2 held-out prompts are training prompts too" in caplog.text


def test_long_articles_lose_their_last_sentences(tmp_path):
    subject = task(tmp_path, limit=16)
    contents = {str(prompt.content) for prompt in subject.draw(0, 3)[0]}
    assert any("\n\nRain fell. Ann ran.\n\n" in content for content in contents)
    assert subject.counters() == {"cut_prompts": 1}


def test_fewer_training_rows(tmp_path):
    subject = task(tmp_path, train_rows=2, eval_split="test")
    assert {prompt.columns["id"] for prompt in subject.draw(0, 4)[0]} == {"a", "b"}


def test_demonstrations_are_the_highlights(tmp_path):
    assert {text for _, text in task(tmp_path).demonstrations(12, 0)} == {"Bo won. Ann ran, too.", "Snow.", "Sun."}


def test_no_summary_is_right(tmp_path):
    subject = task(tmp_path)
    with pytest.raises(ConfigError, match=r"task=cnn_dailymail has no right answers.*; type reward=rouge"):
        subject.check(subject.held_out()[0], "Fog.", True)


def test_malformed_row(tmp_path):
    with pytest.raises(ConfigError, match=r'train.jsonl, line 4: "article" and "highlights" are needed as text'):
        task(tmp_path, [*TRAIN, {"article": "Fog."}])
