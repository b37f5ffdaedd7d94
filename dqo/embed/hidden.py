"""``embed=hidden``: the mean of a causal language model's hidden states."""

from collections.abc import Sequence
from typing import Annotated, cast

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor
from transformers import BatchEncoding, PreTrainedModel, PreTrainedTokenizerBase

from dqo.embed.texts.encoder import TextEncoder
from dqo.embed.texts.layers import keep_layers
from dqo.embed.texts.normalization import Normalize
from dqo.embed.texts.windows import LongTexts
from dqo.errors import ConfigError
from dqo.models.hf import Attention, Hf
from dqo.models.precision import Dtype
from dqo.models.sizes import parameter_bytes, positions_of


class Hidden(TextEncoder):
    """Hidden states behind the model's last norm, averaged over a text's tokens, of length 1. The text stands alone,
    without the prompt or a chat template. Such states have a large part in common: ``credit.embedding=prompt_centred``
    takes it out.

    Representation-Based Exploration (2510.11686) uses hidden states of the policy; those of a fixed model are ours.
    """

    key = "path"

    def __init__(
        self,
        device: torch.device,
        *,
        path: str | None,
        packaged: str | None,
        layers: Annotated[int | None, Field(ge=0, examples=["null"])],
        batch_size: Annotated[int, Field(ge=1, examples=[16])],
        max_seq_length: Annotated[int | None, Field(ge=1, examples=["null"])],
        long_texts: LongTexts,
        normalize_text: list[Normalize],
        dtype: Dtype,
    ):
        super().__init__(long_texts=long_texts, normalize_text=normalize_text)
        self._batch_size, self._device = batch_size, device
        self._tokenizer, model = _load(path, packaged)
        self._end, self._unk = cast(int, self._tokenizer.eos_token_id), cast(int | None, self._tokenizer.unk_token_id)
        self._max_seq_length = _length(model, max_seq_length)
        keep_layers(model, layers)
        self._model = model.base_model.to(device, dtype.on(device)).requires_grad_(False)

    def memory(self) -> dict[str, int]:
        """Bytes of the encoder, by what they are for."""
        return {"weights": parameter_bytes(self._model)}

    @torch.no_grad()
    def _embed(self, texts: Sequence[str]) -> Float[Tensor, "texts dim"]:
        return torch.cat([self._means(texts[n : n + self._batch_size]) for n in range(0, len(texts), self._batch_size)])

    def _means(self, texts: Sequence[str]) -> Float[Tensor, "texts dim"]:
        batch = self._padded(texts)
        states_NTD = self._model(**batch, use_cache=False).last_hidden_state.float()
        mask_NT1 = batch["attention_mask"][..., None]
        return ((states_NTD * mask_NT1).sum(1) / mask_NT1.sum(1)).cpu()

    def _padded(self, texts: Sequence[str]) -> BatchEncoding:
        """Token ids padded on the right. A text without tokens is read as the end token."""
        rows = [{"input_ids": ids[: self._max_seq_length] or [self._end]} for ids in self._tokens(texts)]
        return self._tokenizer.pad(rows, padding_side="right", return_tensors="pt").to(self._device)

    def _tokens(self, texts: Sequence[str]) -> list[list[int]]:
        return self._tokenizer(list(texts), verbose=False)["input_ids"]

    def _limit(self) -> int | None:
        return self._max_seq_length

    def _unknown(self) -> int | None:
        return self._unk


def _load(path: str | None, packaged: str | None) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
    """Raises ConfigError that names ``embed.path``."""
    if not path:
        raise ConfigError(
            "embed.path has no value: whose hidden states? type embed.path=MODEL, for example this model.path"
        )
    source = Hf(
        path=path, revision=None, packaged=packaged, trust_remote_code=False, attn_implementation=Attention.AUTO,
        chat_template=None,
    )  # fmt: skip
    try:
        return source.load_tokenizer(), source.load()
    except ConfigError as error:
        raise type(error)(str(error).replace("model.path", "embed.path")) from error


def _length(model: PreTrainedModel, wanted: int | None) -> int | None:
    positions = positions_of(model)
    if wanted is not None and positions is not None and wanted > positions:
        raise ConfigError(
            f"embed.max_seq_length={wanted}: the model was made for {positions} tokens at most; type "
            f"embed.max_seq_length={positions}, or null"
        )
    return positions if wanted is None else wanted
