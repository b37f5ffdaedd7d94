"""CommonGen's concept sets, each with human sentences that use all of its concepts."""

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dqo.errors import ConfigError
from dqo.task.language.english import forms, words_of
from dqo.task.reading.arrow import hub_tables, is_saved_dict, table_rows
from dqo.task.reading.data_set import aligned_lines
from dqo.task.reading.tables import read_rows

HUB = "allenai/common_gen"
FILES = "commongen.{train,dev}.{src_alpha,tgt}.txt of CommonGen v1.0"
KEY = f"task.data_dir=FOLDER with {FILES}"
SPLITS = ("train", "validation")  # on the hub
Pair = tuple[tuple[str, ...], str]  # concepts, a human reference sentence


@dataclass(frozen=True, kw_only=True)
class ConceptSets:
    """The sets of the two splits, as the pairs of each set."""

    training: list[list[Pair]]
    held_out: list[list[Pair]]  # the first ones that are asked for, in an order that is the same for every seed
    known: frozenset[str]  # the words of the training sentences and their inflections


def read_concept_sets(data_dir: str | None, held_out: int) -> ConceptSets:
    """All training sets and ``held_out`` sets of the dev split that are no training sets; from a folder, or the hub.
    Raises ConfigError."""
    training, evaluation = _read_files(Path(data_dir).expanduser()) if data_dir is not None else _read_hub()
    sets = _pairs_by_concepts(training)
    fresh = [pairs for key, pairs in _pairs_by_concepts(evaluation).items() if key not in sets]
    random.Random("commongen").shuffle(fresh)  # upstream's files are sorted by size
    if held_out > len(fresh):
        raise ConfigError(f"task.held_out={held_out}: 1 to {len(fresh)} can be; type task.held_out={len(fresh)}")
    known = frozenset().union(*map(forms, {word for _, text in training for word in words_of(text)}))
    return ConceptSets(training=list(sets.values()), held_out=fresh[:held_out], known=known)


def _pairs_by_concepts(pairs: Iterable[Pair]) -> dict[frozenset[str], list[Pair]]:
    sets: dict[frozenset[str], list[Pair]] = {}
    for concepts, text in pairs:
        sets.setdefault(frozenset(concepts), []).append((concepts, text))
    return sets


def _read_files(folder: Path) -> tuple[list[Pair], list[Pair]]:
    if is_saved_dict(folder):
        train, dev = (read_rows(folder / name, key=KEY) for name in SPLITS)
        return _pairs(row for _, row in train), _pairs(row for _, row in dev)
    return _read_split(folder, "train"), _read_split(folder, "dev")


def _read_split(folder: Path, split: str) -> list[Pair]:
    """The pairs of one split. In upstream's v1.0 files, line n of ``src_alpha`` has the concepts and line n of ``tgt``
    the sentence."""
    files = (folder / f"commongen.{split}.{part}.txt" for part in ("src_alpha", "tgt"))
    return [(tuple(words.split()), text) for _, words, text in aligned_lines(*files, key=KEY)]


def _read_hub() -> tuple[list[Pair], list[Pair]]:
    train, dev = (table_rows(*table) for table in hub_tables(HUB, None, SPLITS, files=FILES))
    return _pairs(row for _, row in train), _pairs(row for _, row in dev)


def _pairs(rows: Iterable[Mapping[str, Any]]) -> list[Pair]:
    return [(tuple(row["concepts"]), row["target"]) for row in rows]
