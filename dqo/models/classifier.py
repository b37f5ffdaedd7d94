"""A sequence classifier or reward model in Hugging Face format, or a LoRA of one, asked for the logits of texts or of
pairs of texts."""

import inspect
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from torch import Tensor
from torch.nn import Linear
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES
from transformers.utils import logging as transformers_logging

from dqo.errors import ConfigError, StageError
from dqo.models.adapters import ClassifierAdapter, is_adapter, read_adapter
from dqo.models.attention import sdpa_is_exact
from dqo.models.conversation import Encoding
from dqo.models.folders import HUB_NAME, as_typed, first_line, folder_fault, hub_folder, no_progress_bars
from dqo.models.sizes import parameter_bytes, positions_of
from dqo.progress import LoggedBar, elapsed

log = logging.getLogger(__name__)

BATCH_TOKENS = 16_384  # of a batch, with its padding; a longer text is a batch of its own
BATCH_TEXTS = 64


class Classifier:
    """Logits of token sequences. Config and tokenizer are read at once, the weights at the first question.

    No pickles, and no code of the model's own. Every user mistake is a ConfigError that names ``key``.
    """

    def __init__(
        self,
        path: str,
        *,
        key: str,
        device: torch.device,
        dtype: torch.dtype,
        revision: str | None = None,
        batch_tokens: int = BATCH_TOKENS,
    ):
        self._name, self._key, self._device, self._dtype = as_typed(path), key, device, dtype
        self._batch_tokens = batch_tokens
        self._model: PreTrainedModel | None = None
        self._cut = 0
        folder = self._find_folder(self._name, revision)
        self._adapter = self._read_adapter(folder)
        self._folder = self._find_folder(self._adapter.base, None) if self._adapter else folder
        if fault := folder_fault(self._folder):
            raise self.refusal(f"its base model {self._folder} {fault}" if self._adapter else fault)
        self._config = self._read_config()
        own_tokenizer = self._adapter is None or (folder / "tokenizer_config.json").is_file()
        self.tokenizer = self._read_tokenizer(folder if own_tokenizer else self._folder)
        self._agree_on_padding(trust_tokenizer=self._adapter is not None and own_tokenizer)

    def refusal(self, what: str, cause: Exception | None = None) -> ConfigError:
        """The error for a folder that cannot be used, in one line."""
        because = f" ({first_line(cause)})" if cause else ""
        return ConfigError(f"{self._key}={self._name}: {what}{because}; type {self._key}=FOLDER or ORG/NAME of the hub")

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the logits, from ``id2label``."""
        return tuple(name for _, name in sorted((self._config.id2label or {}).items()))

    @property
    def limit(self) -> int:
        """The longest input in tokens. Reads the weights."""
        return min(self.tokenizer.model_max_length, positions_of(self.model) or self.tokenizer.model_max_length)

    @property
    def model(self) -> PreTrainedModel:
        """In eval mode on the device; read from disk after ``release``."""
        if self._model is None:
            self._model = self._load()
        return self._model.to(numbered(self._device))  # pyright: ignore[reportArgumentType]

    def weight_bytes(self) -> int:
        """Memory of the weights. Reads them."""
        return parameter_bytes(self.model)

    def pause(self) -> None:
        """Moves the weights to CPU memory until the next question."""
        if self._model is not None and self._device.type == "cuda":
            self._model.to("cpu")  # pyright: ignore[reportArgumentType]
            torch.cuda.empty_cache()

    def release(self) -> None:
        """Frees the model's memory."""
        if self._model is not None:
            self._model = None
            if self._device.type == "cuda":
                torch.cuda.empty_cache()

    def pair_logits(self, pairs: Sequence[tuple[str, str]]) -> Float[Tensor, "pairs labels"]:
        """Logits of pairs of texts, joined as the tokenizer joins them. Of a pair that is too long the longer text is
        cut; such pairs are counted, and a warning says so at the first."""
        limit = self.limit
        first, second = ([pair[i] for pair in pairs] for i in (0, 1))
        whole = self.tokenizer(first, second, verbose=False)
        long = sum(len(ids) > limit for ids in whole["input_ids"])
        self.count_cut(long, len(pairs))
        tokens = self.tokenizer(first, second, truncation="longest_first", max_length=limit) if long else whole
        return self.logits([{name: tokens[name][i] for name in tokens} for i in range(len(pairs))])

    def count_cut(self, found: int, total: int, *, limit: int | None = None) -> None:
        """Counts inputs of which the model does not see all; a warning says so at the first. ``limit``: in tokens,
        None: the model's."""
        if found and not self._cut:
            limit = limit or self.limit
            log.warning("%s: %d of %d inputs are longer than %d tokens and are cut", self._key, found, total, limit)
        self._cut += found

    @torch.inference_mode()
    def logits(self, encodings: Sequence[Encoding]) -> Float[Tensor, "texts labels"]:
        """In the order of the encodings, float32, on the CPU. Raises StageError where they are not finite.

        Batches hold inputs of like length, so that little is padded.
        """
        model, names = self.model, self._input_names
        by_length = sorted(range(len(encodings)), key=lambda i: -len(encodings[i]["input_ids"]))
        logits_NL = torch.empty(len(encodings), len(self.labels))
        with LoggedBar(total=len(encodings), desc=self._key, unit="inputs") as bar:
            lengths = [len(encoding["input_ids"]) for encoding in encodings]
            for rows in _batches(by_length, lengths, self._batch_tokens):
                kept = [{name: encodings[i][name] for name in names if name in encodings[i]} for i in rows]
                batch = self.tokenizer.pad(kept, padding_side="right", return_tensors="pt").to(self._device)
                logits_NL[rows] = model(**batch).logits.float().cpu()
                bar.update(len(rows))
        if not logits_NL.isfinite().all():
            raise StageError(self._key, f"{self._name} returned logits that are not finite")
        return logits_NL

    @cached_property
    def _input_names(self) -> list[str]:
        """RoBERTa's kind has one token type, whatever a tokenizer says; some models take none."""
        types = getattr(self._config, "type_vocab_size", 2) > 1
        takes = "token_type_ids" in inspect.signature(self.model.forward).parameters
        return ["input_ids", "token_type_ids"] if types and takes else ["input_ids"]

    def _read_adapter(self, folder: Path) -> ClassifierAdapter | None:
        try:
            return read_adapter(folder) if is_adapter(folder) else None
        except ValueError as error:
            raise self.refusal(str(error)) from error

    def _read_config(self) -> PreTrainedConfig:
        """Raises ConfigError where the folder holds no sequence classifier. The base of an adapter may be any model of
        which there is a classifier: the adapter brings the head."""
        labels = self._adapter.labels if self._adapter else None
        settings = {} if labels is None else {"num_labels": labels}
        try:
            config = AutoConfig.from_pretrained(
                self._folder, trust_remote_code=False, local_files_only=True, **settings
            )
        except Exception as error:  # its validators' errors, or any error on unexpected JSON
            raise self.refusal("its config.json cannot be read", error) from error
        names, classes = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES, config.architectures or []
        known = config.model_type in names if labels is not None else {*names.values()}.intersection(classes)
        if not known:
            raise self.refusal(f"is no sequence classifier ({', '.join(classes) or config.model_type})")
        return config

    def _read_tokenizer(self, folder: Path) -> PreTrainedTokenizerBase:
        """With a padding token: its end token if it has none."""
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        except Exception as error:  # tokenizers raises bare Exceptions; transformers any error on unexpected JSON
            raise self.refusal("no tokenizer could be read", error) from error
        if not any((folder / name).is_file() for name in tokenizer.vocab_files_names.values()):
            # transformers makes an empty one; microsoft/deberta-v3-large's belongs to NoveltyBench's classifier
            raise self.refusal("has no tokenizer; copy the files of the one it was trained with into the folder")
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token or tokenizer.sep_token
        if tokenizer.pad_token_id is None:
            raise self.refusal("its tokenizer has no padding token; name it as pad_token in tokenizer_config.json")
        return tokenizer

    def _agree_on_padding(self, *, trust_tokenizer: bool) -> None:
        """Gives config and tokenizer one padding token: a decoder's logits are those of the last token that is not the
        config's, and batches are padded with the tokenizer's. ``trust_tokenizer``: the tokenizer's counts, since an
        adapter is trained with it; else the config's, if it has one."""
        config = self._config.get_text_config()
        named = config.pad_token_id
        if trust_tokenizer or named is None or named < 0:
            config.pad_token_id = self.tokenizer.pad_token_id
        elif named != self.tokenizer.pad_token_id:
            self.tokenizer.pad_token_id = named
        if config.pad_token_id >= config.vocab_size:
            raise self.refusal(f"has no row for its padding token, {config.pad_token_id} of {config.vocab_size}")

    def _load(self) -> PreTrainedModel:
        try:
            with _no_load_report(), elapsed(f"reading the weights of {self._name}"), self._same_random_numbers():
                model, report = AutoModelForSequenceClassification.from_pretrained(  # pyright: ignore[reportGeneralTypeIssues]
                    self._folder,
                    config=self._config,
                    dtype=self._dtype,
                    device_map={"": numbered(self._device)},
                    trust_remote_code=False,
                    use_safetensors=True,
                    local_files_only=True,
                    ignore_mismatched_sizes=True,  # refused below with the tensor's name
                    output_loading_info=True,
                )
                self._check_loaded(report)
                if self._adapter:
                    model = self._adapter.merged(model)
        except (ImportError, OSError, ValueError, RuntimeError, UserWarning, SafetensorError) as error:
            if isinstance(error, ConfigError):
                raise
            raise self.refusal("the weights could not be read", error) from error
        if not sdpa_is_exact(model.eval()):  # it ignores Gemma 2's cap
            model.set_attn_implementation("eager")
        _compute_head_in_float32(model)
        return model

    def _same_random_numbers(self) -> AbstractContextManager[None]:
        """The head that an adapter brings and its matrices are first made anew, from random numbers."""
        devices = [numbered(self._device)] if self._device.type == "cuda" else []
        return torch.random.fork_rng(devices, enabled=self._adapter is not None)

    def _check_loaded(self, report: Mapping[str, Any]) -> None:
        if mismatched := report["mismatched_keys"]:
            name, given, wanted = min(mismatched)
            raise self.refusal(f"the weights have another shape: {name} has {[*given]}, its config says {[*wanted]}")
        brought = self._adapter.tensors if self._adapter else frozenset()
        if missing := {*report["missing_keys"]} - brought:
            raise self.refusal(f"the weights lack {len(missing)} tensors, such as {min(missing)}")

    def _find_folder(self, name: str, revision: str | None) -> Path:
        folder = Path(name).expanduser()
        if folder.is_dir():
            return folder
        if folder.exists() or not HUB_NAME.fullmatch(name):
            what = "is" if name == self._name else f"its base model {name} is"
            raise self.refusal(f"{what} neither a folder nor a name on the hub")
        return hub_folder(name, revision=revision, key=self._key)


@contextmanager
def _no_load_report() -> Iterator[None]:
    """Keeps transformers from printing a progress bar and a table of missing tensors, which are refused with a message
    of ours, or are the head that an adapter brings."""
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        with no_progress_bars():
            yield
    finally:
        transformers_logging.set_verbosity(before)


def numbered(device: torch.device) -> torch.device:
    """The device with the number of this thread's GPU: transformers reads weights in threads of its own, for which
    ``cuda`` is GPU 0 on every rank."""
    if device.type != "cuda" or device.index is not None:
        return device
    return torch.device("cuda", torch.cuda.current_device())


def _compute_head_in_float32(model: PreTrainedModel) -> None:
    """In bfloat16 rewards near 10 are multiples of 1/16, and a group's good answers tie."""
    head = getattr(model, "score", getattr(model, "classifier", None))
    if isinstance(head, Linear) and head.weight.dtype != torch.float32:
        head.float().register_forward_pre_hook(lambda _, inputs: (inputs[0].float(),))


def _batches(rows: Sequence[int], lengths: Sequence[int], tokens: int) -> list[list[int]]:
    """The rows, longest first, in batches of at most BATCH_TEXTS texts and this many tokens."""
    batches: list[list[int]] = []
    for row in rows:
        if not batches or len(batches[-1]) == min(BATCH_TEXTS, max(1, tokens // max(1, lengths[batches[-1][0]]))):
            batches.append([])
        batches[-1].append(row)
    return batches
