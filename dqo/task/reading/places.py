"""From what was typed to the files that are read: a file, a folder, a pattern like ``data/*.jsonl``, or a list."""

import logging
import re
from collections.abc import Sequence
from glob import glob, has_magic
from pathlib import Path

from dqo.errors import ConfigError
from dqo.models.folders import as_typed
from dqo.task.reading.arrow import is_saved
from dqo.task.reading.packed import without_ending
from dqo.task.reading.tables import is_folder

log = logging.getLogger(__name__)

ENDINGS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")  # of the files in a folder that are read
NO_DATA = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json"}  # that datasets writes beside the data
SPLIT_NAMES = {"training": "train", "testing": "test", "valid": "validation", "val": "validation", "dev": "validation"}
SPLITS = ("train", "test", "validation")


def files_of(typed: str | Sequence[str], *, key: str, splits: Sequence[str]) -> list[Path]:
    """The files, in the order in which they were typed, those of a folder or pattern by name; each once. A folder that
    ``datasets.save_to_disk`` has written stands for itself.

    Where the names of a folder's or a pattern's files tell several splits (train-00000-of-00002.parquet, test.jsonl),
    those of the first of ``splits`` that is there are read. Raises ConfigError, which says to type ``key``.
    """
    texts = [typed] if isinstance(typed, str) else typed
    return list(dict.fromkeys(path for text in texts for path in _files(text, key, splits)))


def _files(text: str, key: str, splits: Sequence[str]) -> list[Path]:
    path = Path(as_typed(str(Path(text).expanduser())))
    if is_folder(path, key=key):
        if is_saved(path):
            return [path]
        found = sorted(file for file in path.rglob("*") if file.is_file() and _is_data(file.relative_to(path)))
        if not found:
            raise ConfigError(
                f"{path} is a folder that datasets.save_to_disk has not written, and no file in it ends in "
                f"{', '.join(ENDINGS)}; type {key}"
            )
        return _of_one_split(found, path, splits, key)
    if has_magic(str(path)) and not path.exists():
        found = sorted(file for each in glob(str(path), recursive=True) if (file := Path(each)).is_file())  # noqa: PTH207  Path.glob has no absolute patterns
        if not found:
            raise ConfigError(f"{path}: no file has such a name; type {key}")
        return _of_one_split(found, path, splits, key)
    return [path]


def _is_data(path: Path) -> bool:
    hidden = any(part.startswith((".", "_")) for part in path.parts)
    return not hidden and path.name not in NO_DATA and without_ending(path.name.lower()).endswith(ENDINGS)


def _of_one_split(files: list[Path], place: Path, splits: Sequence[str], key: str) -> list[Path]:
    by_split: dict[str | None, list[Path]] = {}
    for file in files:
        by_split.setdefault(_split_of(file, place), []).append(file)
    if len(by_split) == 1:
        return files
    if split := next((split for split in splits if split in by_split), None):
        log.info("%s: %d of %d files are read, those of %s", place, len(by_split[split]), len(files), split)
        return by_split[split]
    there = ", ".join(split or "no split" for split in by_split)
    raise ConfigError(
        f"{place} has files of {there}, and none of {' or '.join(splits)}; type {key} with the names of the files"
    )


def _split_of(file: Path, place: Path) -> str | None:
    """The split that a file's name or its folder's tells."""
    inside = file.relative_to(place) if file.is_relative_to(place) else Path(file.name)
    for part in reversed(inside.parts):
        for word in re.split(r"[^a-z]+", part.lower()):
            if (split := SPLIT_NAMES.get(word, word)) in SPLITS:
                return split
    return None
