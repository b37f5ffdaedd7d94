"""The documents' Python runs, their data and YAML are what they say they are."""

import json
import runpy
from dataclasses import fields
from typing import Any

import pytest
import torch
import yaml

from dqo.task.jsonl import Jsonl
from dqo.task.reading.fields import Fields
from dqo.task.reading.own import Choice
from tests.docs.markdown import DOCUMENTS, Block, blocks
from tests.task.builders import with_rendering
from tests.task.reading import chat_templates

BLOCKS = [block for document in DOCUMENTS for block in blocks(document)]


def of(language: str) -> list[Block]:
    return [block for block in BLOCKS if block.language == language]


def run(block: Block, folder) -> dict:
    """The names that the block's code leaves."""
    file = folder / "block.py"
    file.write_text(block.text, "utf-8")
    return runpy.run_path(str(file))


def readme(language: str, *, holds: str) -> Block:
    (found,) = [b for b in of(language) if b.name.startswith("README.md") and holds in b.text]
    return found


@pytest.mark.parametrize("block", of("python"), ids=lambda block: block.name)
def test_python_runs(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(block, tmp_path)


@pytest.mark.parametrize("block", of("yaml"), ids=lambda block: block.name)
def test_yaml_is_read(block):
    assert isinstance(yaml.safe_load(block.text), dict)


def test_the_reward_function_of_the_readme(tmp_path):
    rows = [json.loads(line) for line in readme("json", holds="must").text.splitlines()]
    score = run(readme("python", holds="def score"), tmp_path)["score"]
    columns = {name: [row[name] for row in rows for _ in range(2)] for name in rows[0]}
    texts = ["whale", "I say: a whale", "bat", ""]
    chat = [[{"role": "assistant", "content": text}] for text in texts]
    for completions in (texts, chat):
        values = score(columns["prompt"], completions, [[0]] * 4, must=columns["must"])
        assert values == [1.0, 0.0, 1.0, 0.0]


def test_the_conversations_of_the_configuration_are_understood(tmp_path):
    (block,) = [b for b in of("json") if b.name.startswith("docs/configuration.md") and "tool_calls" in b.text]
    (tmp_path / "my.jsonl").write_text(block.text, "utf-8")
    keys: dict[str, Any] = {field.name: None for field in fields(Fields)}
    keys |= {"prompt_column": "prompt", "tools_column": "tools"}
    tokenizer = chat_templates.tokenizer(chat_templates.TOOLS)
    keywords = with_rendering({}, max_completion_length=8)
    task = Jsonl(
        tokenizer, 1000, **keywords, fields=Fields(**keys), path=str(tmp_path / "my.jsonl"), eval_path=None,
        format=None, choice=Choice(held_out=1, skip_long=False, streaming=False),
    )  # fmt: skip
    texts = [str(tokenizer.decode(list(p.tokens))) for p in [*task.draw(0, 2)[0], *task.held_out()]]
    for part in ("<system>Be brief.", '[weather {"city": "Oslo"}]', "<assistant>It is sunny in"):
        assert sum(part in text for text in texts) == 1
    assert sum("<tools>" in text for text in texts) == 1
    assert sum(text.endswith("It is sunny in") for text in texts) == 1


def test_the_credit_of_the_readme(tmp_path):
    credits_PK = run(readme("python", holds="dqo.dpp"), tmp_path)["credits_PK"]
    assert credits_PK.shape == (2, 4)
    assert torch.equal(credits_PK[0].argsort()[:2].sort().values, torch.tensor([0, 1])), (
        "the two that are alike earn less"
    )
