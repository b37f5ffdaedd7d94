"""SciTLDR on small files in upstream's format, on faulty files, and on the real files if they are present."""

import json
from pathlib import Path

import pytest

from dqo.errors import ConfigError
from dqo.task.reading.documents import Cutting
from dqo.task.scitldr import SciTldr
from tests.factories import word_tokenizer
from tests.task.builders import with_rendering

REAL = Path(__file__).parents[2] / "../shared/data/scitldr"
TRAIN = [
    {"source": ["We learn.\n", "It  works. "], "target": ["Learning works ."], "paper_id": "x1"},
    {"source": ["We sort."], "target": ["Sorting."], "paper_id": "x2"},
    {"source": ["We learn. It works."], "target": ["It works"], "paper_id": "x3"},  # the first paper again
]
DEV = [
    {"source": ["We measure."], "target": ["Measured.", "Numbers, "], "paper_id": "x4"},
    {"source": ["We sort."], "target": ["Sorted."], "paper_id": "x5"},  # trained on
]


def write(folder: Path, train=TRAIN, dev=DEV) -> Path:
    for name, rows in (("train.jsonl", train), ("dev.jsonl", dev), ("test.jsonl", dev)):
        (folder / name).write_text("\n".join(map(json.dumps, rows)), "utf-8")
    return folder


def task(folder: Path, **keys) -> SciTldr:
    keys = {"held_out": 1, "subset": "Abstract", "eval_split": "validation", **keys}
    cutting = Cutting(max_prompt_length=None, cut="end")
    rendering = with_rendering(keys, max_completion_length=40)
    return SciTldr(word_tokenizer(["word"]), 1024, data_dir=str(folder), cutting=cutting, **rendering)


def test_prompts_and_references(tmp_path, caplog):
    subject = task(write(tmp_path))
    prompts = {p.columns["paper_id"]: p for p in subject.draw(0, 2)[0]}
    assert prompts["x1"].content == (
        "Summarize the scientific paper below in one sentence.\n\nWe learn. It works.\n\nSummary in one sentence:"
    )
    assert prompts["x1"].columns["references"] == ["Learning works .", "It works"]
    (held_out,) = subject.held_out()
    assert held_out.columns == {"references": ["Measured.", "Numbers,"], "paper_id": "x4"}
    assert "1 of 2 held-out prompts are training prompts too and are left out" in caplog.text


def test_demonstrations_are_references(tmp_path):
    pairs = task(write(tmp_path)).demonstrations(20, 0)
    assert {text for _, text in pairs} == {"Learning works .", "It works", "Sorting."}


def test_no_summary_is_right(tmp_path):
    subject = task(write(tmp_path))
    with pytest.raises(ConfigError, match=r"task=scitldr has no right answers.*; type reward=rouge"):
        subject.check(subject.held_out()[0], "Measured.", True)


@pytest.mark.parametrize(
    "row",
    [
        {"source": ["a"]},
        {"source": "a", "target": ["b"]},
        {"source": [" "], "target": ["b"]},
        {"source": ["a"], "target": [3]},
        {"source": [], "target": ["b"]},
    ],
)
def test_malformed_rows(tmp_path, row):
    with pytest.raises(ConfigError, match=r'dev.jsonl, line 3: "source" and "target" are needed as lists of sentences'):
        task(write(tmp_path, dev=[*DEV, row]))


@pytest.mark.skipif(not REAL.exists(), reason="needs the shared data folder")
def test_real_files():
    subject = task(REAL, eval_split="test", held_out=616)
    assert len(subject._training) == 1991  # one abstract is there twice
    assert {len(prompt.columns["references"]) for prompt in subject.held_out()} == {2, 3, 4}
    with pytest.raises(ConfigError, match=r"1 to 617 can be"):
        task(REAL, held_out=618)
