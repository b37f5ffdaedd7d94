"""CNN/DailyMail on small files, and on faulty ones."""

import json
from pathlib import Path

import pytest

from dqo.errors import ConfigError
from dqo.task import cnn_dailymail
from dqo.task.cnn_dailymail import CnnDailyMail
from dqo.task.reading import sources
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
    """``train``: none where the files are there already."""
    for split, rows in (("train", train), ("validation", EVAL), ("test", EVAL[1:])) if train else ():
        (folder / f"{split}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), "utf-8")
    keys = {"held_out": 1, "eval_split": "validation", **keys}
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


def test_demonstrations_are_the_highlights(tmp_path):
    assert {text for _, text in task(tmp_path).demonstrations(12, 0)} == {"Bo won. Ann ran, too.", "Snow.", "Sun."}


def test_no_summary_is_right(tmp_path):
    subject = task(tmp_path)
    with pytest.raises(ConfigError, match=r"task=cnn_dailymail has no right answers.*; type reward=rouge"):
        subject.check(subject.held_out()[0], "Fog.", True)


def test_malformed_row(tmp_path):
    with pytest.raises(ConfigError, match=r'train.jsonl, line 4: "article" and "highlights" are needed as text'):
        task(tmp_path, [*TRAIN, {"article": "Fog."}])


@pytest.fixture
def on_disk(tmp_path, monkeypatch):
    """Every split counts as large."""
    monkeypatch.setenv("DQO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sources, "LARGE", 0)


AGAIN = [*TRAIN, {"article": "Snow fell. ", "highlights": "It snowed .", "id": "f"}, TRAIN[2]]


def drawn(subject: CnnDailyMail, cursor: int = 0, count: int = 3) -> list:
    prompts = subject.draw(cursor, count)[0]
    return [(prompt.content, prompt.columns["references"], prompt.columns["id"], prompt.tokens) for prompt in prompts]


def test_the_same_rows_on_the_disk_as_in_memory(tmp_path, monkeypatch, caplog):
    in_memory = task(tmp_path, AGAIN, limit=16)
    monkeypatch.setenv("DQO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sources, "LARGE", 0)
    caplog.clear()
    streamed = task(tmp_path, AGAIN, limit=16)
    assert sorted(drawn(streamed)) == sorted(drawn(in_memory))
    assert [references for _, references, name, _ in drawn(streamed) if name == "b"] == [["Snow.", "It snowed."]]
    assert [prompt.columns["id"] for prompt in streamed.held_out()] == ["e"]
    assert "1 of 2 held-out prompts are training prompts too" in caplog.text
    assert streamed.counters() == {"cut_prompts": 1}
    assert {text for _, text in streamed.demonstrations(40, 0)} == {text for _, text in in_memory.demonstrations(40, 0)}
    content = next(content for content, _, name, _ in drawn(streamed) if name == "b")
    assert streamed.prompt_of(content, position=0, source="typed").columns["references"] == ["Snow.", "It snowed."]


def test_prompts_on_the_disk_are_pure_in_seed_and_cursor(tmp_path, on_disk):
    first = task(tmp_path, AGAIN)
    orders = [drawn(task(tmp_path, train=(), seed=seed), 0, 30) for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]
    assert drawn(first, 17, 13) == orders[0][17:]
    assert all(len({name for _, _, name, _ in orders[0][start : start + 3]}) == 3 for start in range(0, 30, 3))


def test_other_prompts_of_the_same_file_get_another_index(tmp_path, on_disk, monkeypatch):
    def indexes() -> int:
        subject = task(tmp_path, train=())
        assert all(str(prompt.content).startswith(cnn_dailymail.BEFORE) for prompt in subject.draw(0, 3)[0])
        return len([path for path in (tmp_path / "cache" / "rows").iterdir() if path.is_dir()])

    task(tmp_path)
    assert indexes() == 1
    monkeypatch.setattr(cnn_dailymail, "BEFORE", "Shorten this.\n\n")
    assert indexes() == 2


def test_a_malformed_row_on_the_disk_is_found_before_any_work(tmp_path, on_disk):
    with pytest.raises(ConfigError, match=r'train.jsonl, line 4: "article" and "highlights" are needed as text'):
        task(tmp_path, [*TRAIN, {"article": "Fog."}])


def test_no_instruction_fits_on_the_disk(tmp_path, on_disk):
    with pytest.raises(ConfigError, match=r"all prompts are too long; type task.max_prompt_length=NUMBER"):
        task(tmp_path, limit=3)
