"""NoveltyBench's files and small ones like them."""

import json
from pathlib import Path

import datasets
import pytest

from dqo.errors import ConfigError
from dqo.reward.check import Check
from dqo.task.noveltybench import NoveltyBench
from tests.factories import word_tokenizer
from tests.task.builders import with_rendering

REAL = Path(__file__).parents[2] / "../shared/data/noveltybench"
CURATED = [
    {"id": "curated-0", "category": "Creativity", "prompt": "Tell me a story.", "prompt_paraphrases": ["A story?"]},
    {"id": "curated-1", "category": "Randomness", "prompt": "Roll a die.", "prompt_paraphrases": []},
]
WILDCHAT = [{"id": "WildChat-c5", "prompt": "Say something.", "chosen": True, "meta": {"response": {}}}]


def write(folder: Path, curated=CURATED, wildchat=WILDCHAT) -> Path:
    for name, rows in (("curated", curated), ("wildchat-1k", wildchat)):
        (folder / f"{name}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), "utf-8")
    return folder


def task(folder: Path | None, **keys) -> NoveltyBench:
    keys = with_rendering({"split": "curated", "skip_long": False, **keys}, max_completion_length=40)
    return NoveltyBench(word_tokenizer(["word"]), 1024, data_dir=None if folder is None else str(folder), **keys)


def test_prompts_and_columns(tmp_path):
    prompts = task(write(tmp_path)).held_out()
    assert [p.content for p in prompts] == ["Tell me a story.", "Roll a die."]
    assert prompts[1].columns == {"id": "curated-1", "category": "Randomness"}
    (wildchat,) = task(tmp_path, split="wildchat").held_out()
    assert (wildchat.content, wildchat.columns) == ("Say something.", {"id": "WildChat-c5"})


def test_keys_ignore_markdown(tmp_path):
    subject = task(write(tmp_path))
    prompt = subject.held_out()[0]
    same = ["Paris", "**Paris**", "*paris.*", "`Paris`", "__Paris__", " Paris!\n"]
    assert len({subject.key(prompt, text) for text in same}) == 1
    assert subject.key(prompt, "2*3*4") != subject.key(prompt, "234")  # no emphasis


def test_nothing_is_trained_and_nothing_is_right(tmp_path):
    subject = task(write(tmp_path))
    with pytest.raises(
        ConfigError, match="NoveltyBench is for measuring and has no prompts to train on; type dqo-eval"
    ):
        subject.draw(0, 1)
    with pytest.raises(ConfigError, match="no answers to learn from"):
        subject.demonstrations(1, 0)
    with pytest.raises(ConfigError, match=r"no right answers.*type reward=none"):
        Check(subject, mask_truncated_completions=False)


@pytest.mark.parametrize("row", [{"id": "1"}, {"prompt": ""}, {"prompt": ["a"]}])
def test_rows_without_a_prompt(tmp_path, row):
    with pytest.raises(ConfigError, match=r'curated.jsonl, line 3: "prompt" is needed as text; the row has '):
        task(write(tmp_path, curated=[*CURATED, row]))


def test_missing_files(tmp_path):
    with pytest.raises(ConfigError, match=r"curated.jsonl: No such file.*type task.data_dir=FOLDER with curated.jsonl"):
        task(tmp_path)


def test_a_folder_saved_by_datasets(tmp_path):
    datasets.disable_progress_bars()
    splits = {"curated": datasets.Dataset.from_list(CURATED), "wildchat": datasets.Dataset.from_list(WILDCHAT)}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "saved")
    (tmp_path / "lines").mkdir()
    assert task(tmp_path / "saved").fingerprints() == task(write(tmp_path / "lines")).fingerprints()


@pytest.mark.skipif(not REAL.exists(), reason="needs the shared data folder")
@pytest.mark.parametrize(("split", "count"), [("curated", 100), ("wildchat", 1000)])
def test_real_files(split, count):
    assert len(task(REAL, split=split).held_out()) == count
