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
from dqo.models.folders import first_line
from dqo.progress import elapsed
from dqo.task.reading.files import hub_is_offline, repeated

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
    return data, place


def saved_rows(path: Path, key: str, splits: Sequence[str]) -> Numbered:
    """The rows of ``saved_table``."""
    data, place = saved_table(path, key, splits)
    try:
        yield from table_rows(data, place)
    except _errors() as error:
        raise _unreadable(path, error, key) from error


def hub_table(name: str, config: str | None, revision: str | None, split: str) -> tuple["datasets.Dataset", str]:
    """A split of a data set of the hub, or of its copy in the cache of ``datasets``, and its place for messages. Raises
    ConfigError within seconds where it is in neither."""
    offline = hub_is_offline()
    import datasets
    from datasets.exceptions import DatasetsError

    try:
        with elapsed(f"reading the data set {name}"):
            data = datasets.load_dataset(name, config, revision=revision, split=split)
    except (*_errors(), DatasetsError, RuntimeError) as error:
        reason = "the hub is out of reach" if offline else "the hub does not give it"
        scripted = "scripts are no longer supported" in str(error)
        advice = "task.revision=refs/convert/parquet task.config=NAME" if scripted else _typed(config, split)
        raise ConfigError(
            f"task.name={name}: {reason} ({first_line(error)}); type {advice}, or task=jsonl task.path=FILE of the "
            "same rows"
        ) from error
    assert isinstance(data, datasets.Dataset)
    refuse_repeated(data.column_names, name)
    return data, f"{name} {split}"


def _typed(config: str | None, split: str) -> str:
    """The keys to look at where the hub does not give a data set."""
    return f"task.name=ORG/NAME, task.config={config or 'NAME'} and task.split={split} of a data set that is there"


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
