"""Dolly on small files in upstream's format, and on faulty files."""

import json
from pathlib import Path

import pytest

from dqo.errors import ConfigError
from dqo.task.dolly import Dolly
from dqo.task.reading.documents import Cutting
from tests.factories import word_tokenizer
from tests.task.builders import with_rendering

ROWS = [
    {"instruction": "Name a fish. ", "context": "", "response": "Trout", "category": "open_qa"},
    {"instruction": "Name a fish.", "context": "", "response": "Carp", "category": "open_qa"},
    {"instruction": "Who won?", "context": "Ann ran. Bo won. ", "response": " Bo.", "category": "closed_qa"},
    {"instruction": "Ideas for tea?", "context": "", "response": "Mint\nIced", "category": "brainstorming"},
    {"instruction": "A poem.", "context": "", "response": "Roses", "category": "creative_writing"},
]


def task(folder: Path, rows=ROWS, *, limit: int | None = None, **keys) -> Dolly:
    (folder / "databricks-dolly-15k.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), "utf-8")
    keys = with_rendering({"held_out": 1, "categories": None, **keys}, max_completion_length=40)
    cutting = Cutting(max_prompt_length=limit, cut="end")
    return Dolly(word_tokenizer(["word"]), 1024, data_dir=str(folder), cutting=cutting, **keys)


def prompts(subject: Dolly):
    return {prompt.content: prompt for prompt in [*subject.draw(0, len(subject._training))[0], *subject.held_out()]}


def test_prompts_and_columns(tmp_path):
    found = prompts(task(tmp_path))
    assert set(found) == {"Name a fish.", "Who won?\n\nAnn ran. Bo won.", "Ideas for tea?", "A poem."}
    assert found["Name a fish."].columns == {"references": ["Trout", "Carp"], "category": "open_qa"}
    assert found["Who won?\n\nAnn ran. Bo won."].columns["references"] == ["Bo."]


def test_held_out_prompts_are_the_same_for_every_seed(tmp_path):
    first, second = (task(tmp_path, seed=seed).held_out() for seed in (0, 1))
    assert first == second


def test_the_text_that_an_instruction_is_about_is_cut(tmp_path):
    assert "Who won?\n\nAnn ran." in prompts(task(tmp_path, limit=4))


def test_some_categories(tmp_path):
    found = prompts(task(tmp_path, categories=["open_qa", "brainstorming"]))
    assert {prompt.columns["category"] for prompt in found.values()} == {"open_qa", "brainstorming"}
    with pytest.raises(ConfigError, match=r"no row is of the category summarization; there are brainstorming, closed"):
        task(tmp_path, categories=["open_qa", "summarization"])


def test_demonstrations_are_responses(tmp_path):
    texts = {text for _, text in task(tmp_path, categories=["open_qa", "closed_qa"]).demonstrations(20, 0)}
    assert texts < {"Trout", "Carp", "Bo."}


def test_no_response_is_right(tmp_path):
    subject = task(tmp_path)
    with pytest.raises(
        ConfigError, match=r"reward=check cannot judge it; type reward=rouge, .* reward=reward_model reward.path=MODEL"
    ):
        subject.check(subject.held_out()[0], "Trout", True)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"instruction": "A?", "category": "open_qa"}, r'line 6: "instruction" and "response" are needed as text'),
        (
            {"instruction": "A?", "response": "B", "category": "open_qa", "context": 3},
            r'line 6: "context" is needed as text',
        ),
        ({"instruction": "A?", "response": "B"}, r'line 6: "category" is needed as text'),
    ],
)
def test_malformed_rows(tmp_path, row, message):
    with pytest.raises(ConfigError, match=message):
        task(tmp_path, [*ROWS, row])
