"""Compressed files, known by their first bytes."""

import bz2
import gzip
import lzma

import pyarrow
import pytest

from dqo.errors import ConfigError
from dqo.task.reading.files import read_json
from dqo.task.reading.packed import without_ending

PACKERS = {
    "gz": gzip.compress,
    "zst": lambda data: pyarrow.compress(data, codec="zstd", asbytes=True),
    "bz2": bz2.compress,
    "xz": lzma.compress,
}
ROWS = b'{"a": 1}\n\n{"a": 2}\n'


@pytest.mark.parametrize("ending", PACKERS)
def test_a_compressed_file_is_read_whatever_its_name(tmp_path, ending):
    path = tmp_path / "my.jsonl"
    path.write_bytes(PACKERS[ending](ROWS))
    assert [*read_json(path, key="x")] == [(f"{path}, line 1", {"a": 1}), (f"{path}, line 3", {"a": 2})]


@pytest.mark.parametrize("ending", PACKERS)
def test_two_compressed_files_joined_are_one(tmp_path, ending):
    path = tmp_path / f"my.jsonl.{ending}"
    path.write_bytes(PACKERS[ending](ROWS) + PACKERS[ending](b'{"a": 3}'))
    assert [row["a"] for _, row in read_json(path, key="x")] == [1, 2, 3]


@pytest.mark.parametrize("ending", PACKERS)
def test_a_cut_file_is_refused(tmp_path, ending):
    path = tmp_path / "my.jsonl"
    path.write_bytes(PACKERS[ending](ROWS)[:-6])
    with pytest.raises(ConfigError, match=r"^\S+my.jsonl, line \d: cannot be unpacked \(.*\); type task.path=FILE$"):
        [*read_json(path, key="task.path=FILE")]


def test_names_without_the_ending():
    assert [without_ending(f"my.csv{ending}") for ending in ("", ".gz", ".zst", ".bz2", ".xz")] == ["my.csv"] * 5
