"""A sampling run that is killed at any moment loses no finished prompt, and keeps none twice."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from dqo.files import answers_store
from dqo.files.answers_store import AnswersStore, parts, recover
from dqo.files.answers_table import Cell, Decoding, read, read_about, write
from dqo.records import Answers, Prompt

CELL = Cell(policy="alpha=1", decoding=Decoding(temperature=1.0, top_p=1.0, top_k=0, min_p=0.0))
ABOUT = {"n": 2}


def group(position: int) -> Answers:
    return Answers(
        prompt=Prompt(position=position, tokens=(), content=f"prompt {position}: é\u2028\U0001f600", columns={}),
        texts=(f"a {position}\n\r\x00\u202e", ""), keys=("a", ""), correct=(True, False), rewards=(0.1 + position, 0.5),
        finished=(True, False), lengths=(3, 12),
    )  # fmt: skip


def opened(folder: Path, rank: int = 0) -> AnswersStore:
    return AnswersStore(folder, rank=rank, cell=CELL, about=ABOUT)


def kept(folder: Path) -> dict[int, Answers]:
    """The groups of a folder by position. No position is there twice, and nothing but parquet is left."""
    assert {path.suffix for path in folder.iterdir()} <= {".parquet"}
    found = [(answers.prompt.position, answers) for _, answers in read(parts(folder))]
    assert len(dict(found)) == len(found)
    return dict(found)


def killed(folder: Path, groups: list[Answers], rank: int = 0) -> Path:
    """The journal of a process that was killed after it had kept these groups."""
    recover(folder, cell=CELL, about=ABOUT)
    store = opened(folder, rank)
    for each in groups:
        store.add(each)
    store._journal.close()  # what the end of a process does
    return folder / f"journal_{rank:03d}.jsonl"


def in_float32(groups: list[Answers]) -> dict[int, Answers]:
    """Groups as a table has them: rewards are 32-bit."""
    import torch

    return {each.prompt.position: replace(each, rewards=tuple(torch.tensor(each.rewards).tolist())) for each in groups}


def test_a_run_that_ends_leaves_parquet_alone(tmp_path):
    assert recover(tmp_path / "cell", cell=CELL, about=ABOUT) == set()
    with opened(tmp_path / "cell") as store:
        store.add(group(1))
        store.add(group(0))
    assert kept(tmp_path / "cell") == in_float32([group(1), group(0)])
    assert read_about(parts(tmp_path / "cell")[0]) == ABOUT
    assert recover(tmp_path / "cell", cell=CELL, about=ABOUT) == {0, 1}


def test_each_group_is_on_the_disk_at_once(tmp_path):
    journal = killed(tmp_path, [group(0), group(1)])
    assert len(journal.read_bytes().splitlines()) == 2
    assert recover(tmp_path, cell=CELL, about=ABOUT) == {0, 1}
    assert kept(tmp_path) == in_float32([group(0), group(1)])


def test_a_journal_cut_at_every_byte_of_its_last_line_loses_that_prompt_alone(tmp_path):
    whole = killed(tmp_path / "whole", [group(0), group(1)]).read_bytes()
    first = whole.index(b"\n") + 1
    for length in range(first, len(whole)):
        folder = tmp_path / str(length)
        folder.mkdir()
        (folder / "journal_000.jsonl").write_bytes(whole[:length])
        assert recover(folder, cell=CELL, about=ABOUT) == {0}
        assert kept(folder) == in_float32([group(0)])


@pytest.mark.parametrize("torn", [b"\x00" * 20 + b"\n", b"\xff\n", b"[1]\n", b'{"position": 1\n'])
def test_a_line_that_a_power_cut_has_torn_ends_the_journal(tmp_path, torn):
    journal = killed(tmp_path, [group(0)])
    journal.write_bytes(journal.read_bytes() + torn + journal.read_bytes())
    assert recover(tmp_path, cell=CELL, about=ABOUT) == {0}


def test_a_kill_between_the_part_and_the_emptied_journal_keeps_nothing_twice(tmp_path):
    journal = killed(tmp_path, [group(0), group(1)])
    write(tmp_path / "part_000_00000.parquet", CELL, [group(0), group(1)], ABOUT)
    assert journal.exists()
    assert recover(tmp_path, cell=CELL, about=ABOUT) == {0, 1}
    assert kept(tmp_path) == in_float32([group(0), group(1)])


def test_a_kill_while_a_part_is_written_leaves_the_journal(tmp_path):
    killed(tmp_path, [group(0)])
    (tmp_path / ".new-part_000_00000.parquet").write_bytes(b"half of it")
    assert recover(tmp_path, cell=CELL, about=ABOUT) == {0}
    assert kept(tmp_path) == in_float32([group(0)])


def test_a_run_killed_twice_goes_on_after_its_parts(tmp_path):
    killed(tmp_path, [group(0)])
    killed(tmp_path, [group(1)])
    assert recover(tmp_path, cell=CELL, about=ABOUT) == {0, 1}
    assert [part.name for part in parts(tmp_path)] == ["part_000_00000.parquet", "part_000_00001.parquet"]
    assert kept(tmp_path) == in_float32([group(0), group(1)])


def test_ranks_write_files_of_their_own_and_one_rank_goes_on_for_all(tmp_path):
    journals = [killed(tmp_path / str(rank), [group(rank)], rank) for rank in range(3)]
    (tmp_path / "cell").mkdir()
    for journal in journals:
        journal.rename(tmp_path / "cell" / journal.name)
    assert recover(tmp_path / "cell", cell=CELL, about=ABOUT) == {0, 1, 2}
    with opened(tmp_path / "cell") as store:
        store.add(group(3))
    names = [part.stem for part in parts(tmp_path / "cell")]
    assert names == ["part_000_00000", "part_000_00001", "part_001_00000", "part_002_00000"]
    assert kept(tmp_path / "cell") == in_float32([group(n) for n in range(4)])


def test_a_journal_becomes_a_part_once_it_is_long(tmp_path, monkeypatch):
    monkeypatch.setattr(answers_store, "COMPLETIONS", 4)
    with opened(tmp_path) as store:
        for n in range(5):
            store.add(group(n))
        assert len(parts(tmp_path)) == 2
        assert len((tmp_path / "journal_000.jsonl").read_bytes().splitlines()) == 1
    assert len(kept(tmp_path)) == 5


def test_a_journal_of_long_texts_becomes_a_part_earlier(tmp_path, monkeypatch):
    monkeypatch.setattr(answers_store, "CHARACTERS", 100)
    with opened(tmp_path) as store:
        for n in range(2):
            store.add(group(n))
        assert len(parts(tmp_path)) == 2
    assert len(kept(tmp_path)) == 2


def test_an_error_leaves_the_journal(tmp_path):
    with pytest.raises(RuntimeError), opened(tmp_path) as store:
        store.add(group(0))
        raise RuntimeError
    assert (tmp_path / "journal_000.jsonl").exists()
    assert recover(tmp_path, cell=CELL, about=ABOUT) == {0}


def test_invalid_rewards_are_null_in_the_journal(tmp_path):
    journal = killed(tmp_path, [replace(group(0), rewards=(math.nan, 0.5))])
    assert json.loads(journal.read_text())["rewards"] == [None, 0.5]
    recover(tmp_path, cell=CELL, about=ABOUT)
    assert kept(tmp_path)[0].valid == (False, True)


def test_groups_without_rewards_are_kept(tmp_path):
    unjudged = replace(group(0), rewards=None, correct=None)
    killed(tmp_path, [unjudged])
    recover(tmp_path, cell=CELL, about=ABOUT)
    assert kept(tmp_path)[0].rewards is None
