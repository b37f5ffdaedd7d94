"""A sequence classifier or reward model in Hugging Face format, asked for the logits of texts or of pairs of texts."""

import inspect
import logging
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES

from dqo.errors import ConfigError, StageError
from dqo.models.folders import HUB_NAME, as_typed, first_line, folder_fault, hub_folder, no_progress_bars
from dqo.models.sizes import positions_of
from dqo.progress import LoggedBar, elapsed

log = logging.getLogger(__name__)

BATCH_TOKENS = 16_384  # of a batch, with its padding; a longer text is a batch of its own
BATCH_TEXTS = 64

Encoding = Mapping[str, list[int]]  # input_ids, and token_type_ids where the tokenizer has them


class Classifier:
    """Logits of token sequences. Config and tokenizer are read at once, the weights at the first question.

    No pickles, and no code of the model's own. Every user mistake is a ConfigError that names ``key``.
    """

    def __init__(self, path: str, *, key: str, device: torch.device, dtype: torch.dtype):
        self._name, self._key, self._device, self._dtype = as_typed(path), key, device, dtype
        self._model: PreTrainedModel | None = None
        self._cut = 0
        self._folder = self._find_folder()
        self._config = self._read_config()
        self.tokenizer = self._read_tokenizer()

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
        return self._model

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

    def count_cut(self, found: int, total: int) -> None:
        """Counts inputs of which the model does not see all; a warning says so at the first."""
        if found and not self._cut:
            log.warning(
                "%s: %d of %d inputs are longer than %d tokens and are cut", self._key, found, total, self.limit
            )
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
            for rows in _batches(by_length, [len(encoding["input_ids"]) for encoding in encodings]):
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

    def _read_config(self) -> PreTrainedConfig:
        """Raises ConfigError where the folder holds no sequence classifier."""
        try:
            config = AutoConfig.from_pretrained(self._folder, trust_remote_code=False, local_files_only=True)
        except Exception as error:  # its validators' errors, or any error on unexpected JSON
            raise self.refusal("its config.json cannot be read", error) from error
        classes = config.architectures or []
        if not {*MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES.values()}.intersection(classes):
            raise self.refusal(f"is no sequence classifier ({', '.join(classes) or config.model_type})")
        return config

    def _read_tokenizer(self) -> PreTrainedTokenizerBase:
        """With a padding token: its end token if it has none."""
        try:
            tokenizer = AutoTokenizer.from_pretrained(self._folder, trust_remote_code=False, local_files_only=True)
        except Exception as error:  # tokenizers raises bare Exceptions; transformers any error on unexpected JSON
            raise self.refusal("no tokenizer could be read", error) from error
        if not any((self._folder / name).is_file() for name in tokenizer.vocab_files_names.values()):
            # transformers makes an empty one; microsoft/deberta-v3-large's belongs to NoveltyBench's classifier
            raise self.refusal("has no tokenizer; copy the files of the one it was trained with into the folder")
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token or tokenizer.sep_token
        if tokenizer.pad_token_id is None:
            raise self.refusal("its tokenizer has no padding token; name it as pad_token in tokenizer_config.json")
        return tokenizer

    def _load(self) -> PreTrainedModel:
        try:
            with no_progress_bars(), elapsed(f"reading the weights of {self._name}"):
                model, report = AutoModelForSequenceClassification.from_pretrained(  # pyright: ignore[reportGeneralTypeIssues]
                    self._folder,
                    config=self._config,
                    dtype=self._dtype,
                    device_map={"": numbered(self._device)},
                    attn_implementation="eager",  # exact for all: SDPA ignores Gemma 2's cap, and DeBERTa has none
                    trust_remote_code=False,
                    use_safetensors=True,
                    local_files_only=True,
                    ignore_mismatched_sizes=True,  # refused below with the tensor's name
                    output_loading_info=True,
                )
        except (ImportError, OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise self.refusal("the weights could not be read", error) from error
        if mismatched := report["mismatched_keys"]:
            name, given, wanted = min(mismatched)
            raise self.refusal(f"the weights have another shape: {name} has {[*given]}, its config says {[*wanted]}")
        if missing := report["missing_keys"]:
            raise self.refusal(f"the weights lack {len(missing)} tensors, such as {min(missing)}")
        if model.config.get_text_config().pad_token_id is None:  # which decides what a decoder's last token is
            model.config.get_text_config().pad_token_id = self.tokenizer.pad_token_id
        return model.eval()

    def _find_folder(self) -> Path:
        folder = Path(self._name).expanduser()
        if not folder.is_dir():
            if folder.exists() or not HUB_NAME.fullmatch(self._name):
                raise self.refusal("is neither a folder nor a name on the hub")
            folder = hub_folder(self._name, revision=None, key=self._key)
        if fault := folder_fault(folder):
            raise self.refusal(fault)
        return folder


def numbered(device: torch.device) -> torch.device:
    """The device with the number of this thread's GPU: transformers reads weights in threads of its own, for which
    ``cuda`` is GPU 0 on every rank."""
    if device.type != "cuda" or device.index is not None:
        return device
    return torch.device("cuda", torch.cuda.current_device())


def _batches(rows: Sequence[int], lengths: Sequence[int]) -> list[list[int]]:
    """The rows, longest first, in batches of at most BATCH_TEXTS texts and BATCH_TOKENS tokens."""
    batches: list[list[int]] = []
    for row in rows:
        if not batches or len(batches[-1]) == min(BATCH_TEXTS, max(1, BATCH_TOKENS // max(1, lengths[batches[-1][0]]))):
            batches.append([])
        batches[-1].append(row)
    return batches
