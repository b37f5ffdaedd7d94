"""``embed=tfidf``: counts of character n-grams, by scikit-learn. No model is needed."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field
from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer
from torch import Tensor
from torch.nn.functional import normalize

from dqo.embed.texts.normalization import Normalize, normalized
from dqo.errors import ConfigError
from dqo.records import Rollouts


class Tfidf:
    """Character n-grams within words, hashed to ``features`` axes with a random sign, each counted as log(1 + count)
    and weighed by its idf in ``idf_file``. Words' order does not count. Equal in every process."""

    def __init__(
        self,
        *,
        ngrams: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=2, max_length=2, examples=["[3,5]"])],
        features: Annotated[int, Field(ge=2, examples=[4096])],
        idf_file: str | None,
        normalize_text: list[Normalize],
    ):
        if ngrams[0] > ngrams[1]:
            raise ConfigError(
                f"embed.ngrams=[{ngrams[0]},{ngrams[1]}]: the shortest comes first; type "
                f"embed.ngrams=[{ngrams[1]},{ngrams[0]}]"
            )
        self._normalize, self._features = normalize_text, features
        self._counts = HashingVectorizer(
            analyzer="char_wb",
            ngram_range=(ngrams[0], ngrams[1]),
            n_features=features,
            lowercase=False,
            norm=None,  # pyright: ignore[reportArgumentType]  # as its documentation has it
            alternate_sign=True,
        )
        self._idf_D = torch.ones(features) if idf_file is None else self._idf(Path(idf_file).expanduser())

    def encode(self, rollouts: Rollouts) -> Float[Tensor, "prompts k dim"]:
        """Embeddings (P, k, features + 1) of length 1, float32, on the CPU.

        Pure: judge threads may call this concurrently. Not a collective.
        """
        return self.encode_texts(rollouts.texts).view(len(rollouts.prompts), rollouts.k, -1)

    def encode_texts(self, texts: Sequence[str]) -> Float[Tensor, "texts dim"]:
        """Embeddings of any texts, one row a text, as ``encode`` makes them. The last axis is that of texts without any
        n-gram, which are equal to one another."""
        counts_ND = torch.from_numpy(self._hashed(texts).toarray()).float()
        weights_ND = counts_ND.sign() * counts_ND.abs().log1p() * self._idf_D
        empty_N1 = (weights_ND == 0).all(dim=1, keepdim=True)
        return normalize(torch.cat((weights_ND, empty_N1.float()), dim=1), dim=1)

    def state_dict(self) -> dict[str, Any]:
        """A hash of the idf weights, so that a resumed run notices other ones."""
        return {"idf": hashlib.sha256(self._idf_D.numpy().tobytes()).hexdigest()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Raise ConfigError if the checkpoint was written with other idf weights, since its distances differ."""
        if state != self.state_dict():
            raise ConfigError(
                "resume: embed.idf_file has other n-grams than at the checkpoint; put the old file back, or start a "
                "new run with run_dir=ANOTHER_FOLDER"
            )

    def _hashed(self, texts: Sequence[str]) -> Any:
        """A sparse matrix of scipy's, a row a text."""
        return self._counts.transform([normalized(text, self._normalize) for text in texts])

    def _idf(self, file: Path) -> Float[Tensor, " dim"]:
        """log((1 + N) / (1 + df)) + 1 of each axis, of a file with one document a line (``TfidfTransformer``)."""
        try:
            lines = [line for line in file.read_text("utf-8").splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"embed.idf_file={file}: {error}; type embed.idf_file=FILE, or null") from error
        if not lines:
            raise ConfigError(f"embed.idf_file={file}: has no text; type embed.idf_file=null")
        return torch.from_numpy(TfidfTransformer().fit(self._hashed(lines)).idf_.astype(np.float32))
