"""Model folders: from the hub, from a package, from the cache, and written as a whole or not at all."""

import importlib.util
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock
from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
)
from huggingface_hub.utils import httpx
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from dqo import distributed
from dqo.errors import ConfigError
from dqo.files.atomic import replacing_folder
from dqo.stages import Weights

PATIENCE = 5.0  # seconds until an answer of the hub; its own client retries for half a minute, or waits for ever
FILES = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model", "*.py"]  # pickles run code when read: not fetched
COPIES = ["original/*", "consolidated*"]  # the same weights once more, in another format


class HubUnreachable(ConfigError):
    """No answer from the hub, and nothing of this name in its local cache."""


def hub_folder(name: str, *, revision: str | None, key: str) -> Path:
    """The files of a hub repository, fetched or cached. ``key`` is what the user typed the name under.

    Raises HubUnreachable in seconds where there is no network, ConfigError where the hub says no.
    """
    cached_only = False
    try:
        HfApi().model_info(name, revision=revision, timeout=PATIENCE)
    except (httpx.TransportError, OfflineModeIsEnabled):
        cached_only = True
    except (HfHubHTTPError, HFValidationError):
        pass  # snapshot_download meets it again, and takes the cached copy where there is one
    try:
        folder = snapshot_download(
            name, revision=revision, local_files_only=cached_only, allow_patterns=FILES, ignore_patterns=COPIES
        )
    except LocalEntryNotFoundError as error:
        raise HubUnreachable(f"{key}={name}: no such folder, and the hub is out of reach; type {key}=FOLDER") from error
    except (HfHubHTTPError, HFValidationError) as error:
        raise ConfigError(f"{key}={name}: the hub says: {first_line(error)}; type {key}=FOLDER") from error
    except httpx.TransportError as error:
        raise ConfigError(f"{key}={name}: the download broke off ({first_line(error)}); try again") from error
    return Path(folder)


def packaged_files(package: str, pattern: str) -> list[Path]:
    """Files inside an installed package. It is not imported: what it imports itself may be missing."""
    spec = importlib.util.find_spec(package)
    return [path for root in (spec and spec.submodule_search_locations) or [] for path in Path(root).glob(pattern)]


def cached_folder(key: str, build: Callable[[Path], None]) -> Path:
    """The folder of this name in dqo's cache ($DQO_CACHE, else dqo in $XDG_CACHE_HOME or ~/.cache).

    Where it is missing, ``build`` fills an empty folder that then gets the name; a second process waits for the first.
    Raises ConfigError where the cache cannot be written. A collective.
    """
    if not distributed.is_rank_0():  # transformers writes weights on the first worker only: the others wait for it
        distributed.barrier()
        return _cached(key, build)
    folder = _cached(key, build)
    distributed.barrier()
    return folder


def _cached(key: str, build: Callable[[Path], None]) -> Path:
    home = os.environ.get("DQO_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "dqo"
    folder = Path(home).expanduser() / key
    if folder.is_dir():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"the cache cannot be written ({error}); set DQO_CACHE=FOLDER in the environment") from error
    with FileLock(f"{folder}.lock"):
        if not folder.is_dir():
            with replacing_folder(folder) as new:
                build(new)
    return folder


def save_policy(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path, *, weights: Weights | None = None
) -> None:
    """Write a Hugging Face folder (safetensors, tokenizer, generation config) and only then give it its name; one that
    is there already is replaced. ``weights``: a learner's, in place of the model's own."""
    _make_savable(model)
    tied = model.all_tied_weights_keys
    # copied: a learner whose weights are spread over processes has each whole for a moment only
    state = (
        None if weights is None else {name: tensor.to("cpu", copy=True) for name, tensor in weights if name not in tied}
    )
    with replacing_folder(folder) as new, no_progress_bars():
        model.save_pretrained(new, state_dict=state)
        tokenizer.save_pretrained(new)


@contextmanager
def no_progress_bars() -> Iterator[None]:
    """Without transformers' bars for reading and writing weights."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


def first_line(error: Exception) -> str:
    """Hugging Face's messages run over many lines; an error of ours has one. A line that announces the next takes it
    along."""
    first, *rest = str(error).strip().splitlines() or [type(error).__name__]
    return f"{first} {rest[0].strip()}" if first.endswith(":") and rest else first


def _make_savable(model: PreTrainedModel) -> None:
    """transformers reads, but does not write, generation configs that set a temperature without do_sample."""
    try:
        model.generation_config.validate(strict=True)
    except ValueError:
        model.generation_config.do_sample = True
