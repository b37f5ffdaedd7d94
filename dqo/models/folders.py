"""Model folders: read from the hub, a package or the cache; written completely or not at all."""

import copy
import importlib.util
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from filelock import FileLock
from huggingface_hub import constants, hf_hub_download, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from huggingface_hub.utils import httpx
from transformers import GenerationConfig, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from dqo import distributed
from dqo.errors import ConfigError
from dqo.files.atomic import replacing_folder
from dqo.models.rounding import rounded
from dqo.progress import LoggedBar, elapsed
from dqo.stages import Weights

HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w.-]+)?")
PICKLES = ("*.bin", "*.pt", "*.pth")
HUB_TIMEOUT = 5.0  # seconds; the hub's own client retries for half a minute, or waits for ever
# pickles are not fetched: loading one runs code
FETCHED = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model", "*.py"]
GENERATING = "text-generation"  # transformers' name of the task
NOT_FETCHED = ["original/*", "consolidated*"]  # copies of the weights in another format


class HubUnreachable(ConfigError):
    """The hub does not answer, and its local cache has no repository of this name."""


def hub_folder(name: str, *, revision: str | None, key: str) -> Path:
    """The local folder of a hub repository, fetched or from the hub's cache. ``key``: the config key of ``name``.

    Raises HubUnreachable within seconds where there is no network, ConfigError where the hub refuses.
    """
    try:
        folder = snapshot_download(
            name, revision=revision, local_files_only=not hub_answers(), allow_patterns=FETCHED,
            ignore_patterns=NOT_FETCHED, tqdm_class=LoggedBar,
        )  # fmt: skip
    except LocalEntryNotFoundError as error:
        raise HubUnreachable(f"{key}={name}: no such folder, and the hub is out of reach; type {key}=FOLDER") from error
    except (HfHubHTTPError, HFValidationError) as error:
        raise ConfigError(f"{key}={name}: the hub says: {first_line(error)}; type {key}=FOLDER") from error
    except httpx.TransportError as error:
        raise ConfigError(f"{key}={name}: the download broke off ({first_line(error)}); try again") from error
    return Path(folder)


def folder_fault(folder: Path) -> str | None:
    """Why a folder cannot be read as a model in Hugging Face format, None where it can: no config.json, no safetensors
    (pickles are not read, since they can run code), or an adapter, for which transformers would fetch its base model
    and read pickles."""
    if (folder / "adapter_config.json").is_file():
        return "is an adapter (adapter_config.json); merge it into its model first"
    if not (folder / "config.json").is_file():
        inside = [name for name in ("model", "policy") if (folder / name / "config.json").is_file()]  # of dqo's runs
        return f"has no config.json, but its folder {inside[0]} has one" if inside else "has no config.json"
    if any(folder.glob("*.safetensors")):
        return None
    pickles = [file.name for pattern in PICKLES for file in folder.glob(pattern)]
    refused = f" ({pickles[0]} is a pickle, which can run code: save it as safetensors)" if pickles else ""
    return f"has no *.safetensors weights{refused}"


def hub_readme(name: str, *, revision: str | None) -> Path | None:
    """The model card of a hub repository, fetched or from the hub's cache; None if there is none."""
    try:
        return Path(hf_hub_download(name, "README.md", revision=revision, local_files_only=not hub_answers()))
    except (LocalEntryNotFoundError, HfHubHTTPError, HFValidationError, httpx.TransportError):
        return None


def as_typed(path: str) -> str:
    """A path under the working folder as a relative one, which is how a user types and reads it: a configuration holds
    absolute paths. Any other text is returned unchanged."""
    here = f"{Path.cwd()}/"
    return path.removeprefix(here) or path


def hub_answers() -> bool:
    """Whether the hub, or the mirror that HF_ENDPOINT names, answers within seconds, be it with an error; False in
    offline mode."""
    if constants.HF_HUB_OFFLINE:
        return False
    try:
        httpx.head(constants.ENDPOINT, timeout=HUB_TIMEOUT)
    except httpx.TransportError:
        return False
    return True


def packaged_files(package: str, pattern: str) -> list[Path]:
    """Files of an installed package that match ``pattern``; empty if it is not installed. The package is not imported:
    its own dependencies may be missing."""
    spec = importlib.util.find_spec(package)
    return [path for root in (spec and spec.submodule_search_locations) or [] for path in Path(root).glob(pattern)]


def cached_folder(key: str, build: Callable[[Path], None]) -> Path:
    """The folder of this name in dqo's cache ($DQO_CACHE, else dqo in $XDG_CACHE_HOME or ~/.cache).

    If it is missing, ``build`` fills an empty folder, which is then renamed; a second process waits for the first.
    Raises ConfigError where the cache cannot be written. A collective.
    """
    if not distributed.is_rank_0():  # transformers writes weights on rank 0 only, so the other ranks wait for it
        distributed.barrier()
        return locked_folder(key, build)
    folder = locked_folder(key, build)
    distributed.barrier()
    return folder


def locked_folder(key: str, build: Callable[[Path], None]) -> Path:
    """As ``cached_folder``, but not a collective: whichever process comes first builds, and the others wait."""
    home = os.environ.get("DQO_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "dqo"
    folder = Path(home).expanduser() / key
    if folder.is_dir():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"the cache cannot be written ({error}); set DQO_CACHE=FOLDER in the environment") from error
    lock = FileLock(f"{folder}.lock")
    with elapsed(f"waiting for another process that writes {folder}"):
        lock.acquire()
    try:
        if not folder.is_dir():
            with replacing_folder(folder) as new:
                build(new)
    finally:
        lock.release()
    return folder


def save_policy(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    *,
    weights: Weights | None = None,
    dtype: torch.dtype | None = None,
    generation: GenerationConfig | None = None,
    files: Mapping[str, str] | None = None,
) -> None:
    """Writes a Hugging Face folder (safetensors, tokenizer, generation config) under a temporary name, then renames it;
    an existing folder is replaced.

    ``weights``: saved instead of the model's own, for a learner that holds others. ``dtype``: of the saved weights;
    None: their own. ``generation``: in place of the model's own generation config; the parameters of text generation
    that config.json may have (GPT-2's has) are then left out. ``files``: texts of further files by name.
    """
    _make_savable(model)
    state = None
    if weights is not None or dtype is not None:
        state = _state(model, model.state_dict().items() if weights is None else weights, dtype)
    with replacing_folder(folder) as new, no_progress_bars(), elapsed(f"writing {folder}"):
        model.save_pretrained(new, state_dict=state)
        _config(model, dtype, keep_task_parameters=generation is None).save_pretrained(new)
        if generation is not None:
            generation.save_pretrained(new)
        tokenizer.save_pretrained(new)
        for name, text in (files or {}).items():
            (new / name).write_text(text, "utf-8")


def _state(
    model: PreTrainedModel, weights: Iterable[tuple[str, torch.Tensor]], dtype: torch.dtype | None
) -> dict[str, torch.Tensor]:
    """Copies on the CPU, rounded to ``dtype``, tied ones under one name; modules that transformers always computes in
    float32 stay as they are. A learner with sharded weights gathers one tensor at a time."""
    tied = model.all_tied_weights_keys
    kept = {*(model._keep_in_fp32_modules or ()), *(model._keep_in_fp32_modules_strict or ())}

    def saved_dtype(name: str, tensor: torch.Tensor) -> torch.dtype:
        stays = not tensor.is_floating_point() or any(part in name for part in kept)
        return tensor.dtype if dtype is None or stays else dtype

    return {
        name: rounded(tensor, saved_dtype(name, tensor)).to("cpu", copy=True)
        for name, tensor in weights
        if name not in tied
    }


def _config(model: PreTrainedModel, dtype: torch.dtype | None, *, keep_task_parameters: bool) -> PreTrainedConfig:
    """The config of the saved weights: transformers reads them in the dtype that it names."""
    config = copy.deepcopy(model.config)
    for part in (config, config.get_text_config()):
        part.dtype = dtype or model.dtype
    if not keep_task_parameters and (parameters := getattr(config, "task_specific_params", None)):
        config.task_specific_params = {task: value for task, value in parameters.items() if task != GENERATING}
    return config


@contextmanager
def no_progress_bars() -> Iterator[None]:
    """Switches off transformers' progress bars for reading and writing weights within the block."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


def first_line(error: Exception) -> str:
    """The message's first line, and the second if the first ends with a colon: Hugging Face's messages have many lines,
    ours have one."""
    first, *rest = str(error).strip().splitlines() or [type(error).__name__]
    return f"{first} {rest[0].strip()}" if first.endswith(":") and rest else first


def _make_savable(model: PreTrainedModel) -> None:
    """Sets do_sample where transformers would refuse to save: it reads a generation config that has a temperature but
    no do_sample, and does not write one."""
    try:
        model.generation_config.validate(strict=True)
    except ValueError:
        model.generation_config.do_sample = True
