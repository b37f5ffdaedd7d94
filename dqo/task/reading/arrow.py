"""Rows of Arrow tables: Parquet files, folders that ``datasets.save_to_disk`` has written, data sets of the hub.

A table stays on the disk; rows become Python's values one batch at a time.
"""

import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from dqo.errors import ConfigError
from dqo.models.folders import first_line, hub_answers
from dqo.progress import elapsed
from dqo.task.reading.files import repeated

if TYPE_CHECKING:
    import datasets
    import pyarrow

log = logging.getLogger(__name__)

BATCH = 1000  # rows that are converted at a time

Numbered = Iterator[tuple[str, dict[str, Any]]]


def parquet_rows(path: Path, key: str) -> Numbered:
    """The rows of a Parquet file. Raises ConfigError."""
    import pyarrow  # imported here, as below: few runs read such files
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            refuse_repeated(file.schema_arrow.names, path)
            batches = (batch.to_pylist(maps_as_pydicts="strict") for batch in file.iter_batches(BATCH))
            yield from _numbered(chain.from_iterable(batches), str(path))
    except (pyarrow.ArrowException, OSError, KeyError) as error:
        raise ConfigError(f"{path}: cannot be read as Parquet ({first_line(error)}); type {key}") from error


def saved_table(path: Path, key: str, splits: Sequence[str]) -> tuple["datasets.Dataset", str]:
    """The data set in a folder that ``datasets.save_to_disk`` has written, and its place for messages; of several
    splits the first of ``splits`` that is there. Raises ConfigError."""
    import datasets

    if not is_saved(path):
        raise ConfigError(f"{path} is a folder that datasets.save_to_disk has not written; type {key}")
    place = str(path)
    try:
        data = datasets.load_from_disk(place)
    except _errors() as error:
        raise _unreadable(path, error, key) from error
    if isinstance(data, datasets.DatasetDict):
        split = _split([str(name) for name in data], splits, path, key)
        data, place = data[split], f"{place}/{split}"
    refuse_repeated(data.column_names, path)
    if not len(data):
        raise ConfigError(f"{place} has no rows; type {key}")
    return data, place


def saved_rows(path: Path, key: str, splits: Sequence[str]) -> Numbered:
    """The rows of ``saved_table``."""
    data, place = saved_table(path, key, splits)
    try:
        yield from table_rows(data, place)
    except _errors() as error:
        raise _unreadable(path, error, key) from error


def hub_tables(
    name: str,
    config: str | None,
    splits: Sequence[str],
    *,
    revision: str | None = None,
    folder: str | None = None,
    files: str | None = None,
) -> list[tuple["datasets.Dataset", str]]:
    """Splits of a data set of the hub, or of its copy in the cache of ``datasets``, each with its place for messages.

    ``folder``: the part of the repository that is read; None: all. ``files``: what ``task.data_dir`` needs instead;
    None: the user has named the data set. Raises ConfigError within seconds where it is in neither.
    """
    offline = hub_is_offline()
    import datasets
    from datasets.exceptions import DatasetsError

    try:
        with elapsed(f"reading the data set {name}"):
            loaded = datasets.load_dataset(name, config, revision=revision, data_dir=folder, split=list(splits))
    except (*_errors(), DatasetsError, RuntimeError) as error:
        key, reason = "" if files else "task.name=", "is out of reach" if offline else "does not give it"
        typed = f"task.data_dir=FOLDER with {files}" if files else _typed(config, splits, str(error))
        raise ConfigError(f"{key}{name}: the hub {reason} ({first_line(error)}); type {typed}") from error
    tables = cast("list[datasets.Dataset]", loaded)  # one a split, since these are a list
    for table in tables:
        refuse_repeated(table.column_names, name)
    return [(table, f"{name} {split}") for table, split in zip(tables, splits, strict=True)]


def hub_is_offline() -> bool:
    """Whether ``datasets`` will read its cache alone: in offline mode, and where the hub does not answer. Without this
    check, it would retry six times: 23 seconds before it opens the cache."""
    import datasets.config  # imported here: it takes a second, and few runs read from the hub

    datasets.config.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE or not hub_answers()
    return datasets.config.HF_HUB_OFFLINE


def _typed(config: str | None, splits: Sequence[str], said: str) -> str:
    """The keys to look at where the hub does not give the user's data set."""
    split = f"task.split={splits[0]}" + (f" and task.eval_split={splits[1]}" if len(splits) > 1 else "")
    keys = f"task.name=ORG/NAME, task.config={config or 'NAME'} and {split} of a data set that is there"
    if "scripts are no longer supported" in said:
        keys = "task.revision=refs/convert/parquet task.config=NAME"
    return f"{keys}, or task=jsonl task.path=FILE of the same rows"


def table_rows(data: "datasets.Dataset", place: str) -> Numbered:
    """All rows, each with where it stands: "PLACE, row 1"."""
    # as Arrow tables, not in the format that was saved with the data: tensors, data frames
    tables = cast("Iterator[pyarrow.Table]", data.with_format("arrow").iter(BATCH))
    rows = chain.from_iterable(table.to_pylist(maps_as_pydicts="strict") for table in tables)
    yield from _numbered(rows, place)


def table_row(data: "datasets.Dataset", index: int) -> dict[str, Any]:
    """One row, from 0. Thread-safe."""
    table = cast("pyarrow.Table", data.with_format("arrow")[index : index + 1])
    return {name: _json(value) for name, value in table.to_pylist(maps_as_pydicts="strict")[0].items()}


def is_saved(folder: Path) -> bool:
    """Whether ``datasets.save_to_disk`` has written the folder."""
    return is_saved_dict(folder) or (folder / "state.json").is_file()


def is_saved_dict(folder: Path) -> bool:
    """Whether ``datasets.save_to_disk`` has written the folder for a data set with splits; each is a folder in it."""
    return (folder / "dataset_dict.json").is_file()


def _split(there: Sequence[str], wanted: Sequence[str], path: Path, key: str) -> str:
    """The split of a saved DatasetDict that is read."""
    if len(there) == 1:
        return there[0]
    split = next((split for split in wanted if split in there), None)
    if split is None:
        name = key.partition("=")[0]
        raise ConfigError(f"{path} has the splits {', '.join(there)}; type {name}={path}/{there[0]} for one of them")
    log.info("%s has the splits %s: %s is read", path, ", ".join(there), split)
    return split


def refuse_repeated(names: Sequence[str], path: Path | str) -> None:
    """Raises ConfigError for a name that occurs twice."""
    if name := repeated(names):
        raise ConfigError(f'{path}: two columns are called "{name}"; rename one of them')


def _unreadable(path: Path, error: Exception, key: str) -> ConfigError:
    return ConfigError(f"{path}: datasets cannot read the folder ({first_line(error)}); type {key}")


def _numbered(rows: Iterable[Mapping[str, Any]], place: str) -> Numbered:
    for number, row in enumerate(rows, 1):
        yield f"{place}, row {number}", {name: _json(value) for name, value in row.items()}


def _json(value: Any) -> Any:
    """A value of an Arrow table as JSON has it. NaN, pandas' missing value, becomes None; dates, times and decimals
    become text. Objects lose the fields that are null: all objects of an Arrow column have the same fields, so there
    null means that the field is absent (but for a message's content, which is null beside tool calls)."""
    if isinstance(value, Mapping):
        return {name: _json(inner) for name, inner in value.items() if inner is not None or name == "content"}
    if isinstance(value, list | tuple):
        return [_json(inner) for inner in value]
    if isinstance(value, float):
        return None if math.isnan(value) else value
    return value if value is None or isinstance(value, str | int | bytes) else str(value)


def _errors() -> tuple[type[Exception], ...]:
    """What reading raises where files are missing or damaged."""
    import pyarrow

    return (pyarrow.ArrowException, OSError, ValueError, LookupError, TypeError)
