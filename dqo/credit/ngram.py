"""credit=ngram: the share of a completion's n-grams that no other completion has, the ablation of DARLING
(2509.02534)."""

from typing import Annotated

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from dqo.credit.gating.base import GatedCredit
from dqo.credit.gating.gate import Gating
from dqo.credit.parts.novelty import novel_shares
from dqo.metrics.diversity import ngrams, words
from dqo.records import Rewards, Rollouts
from dqo.references import References


class Ngram(GatedCredit):
    """c_i = different n-grams of words of completion i that no other completion of its group has, over the number of
    i's n-grams, among those that pass the gate and are not empty; 0.0 for the others. 0 to 1; a lone one gets 1 unless
    it repeats itself.

    A text of fewer than ``n`` words has one n-gram, all of its words (ours; the paper's code pays it nothing). Words
    are those of the metric distinct-n: case-folded, a punctuation mark being a word. Other wording for the same meaning
    is paid, and so is garbage unless a gate stops it.
    """

    uses_embeddings = False

    def __init__(self, references: References, *, n: Annotated[int, Field(ge=1, le=64, examples=[4])], gating: Gating):
        super().__init__(references, gating=gating)
        self.n = n

    @property
    def description(self) -> str:
        """For the model card."""
        return f"the share of its {self.n}-grams of words found in no other completion{self.gating.description}"

    def assign(
        self, rollouts: Rollouts, rewards: Rewards, embeddings_PKD: Float[Tensor, "prompts k dim"] | None
    ) -> Float[Tensor, "prompts k"]:
        """Credits, float32. Pure; not a collective. Raises ConfigError for ``gate=correct`` with a reward that does not
        say what is correct."""
        return novel_shares(rollouts, self.earning_mask(rollouts, rewards), self._grams).float()

    def _grams(self, text: str) -> list[tuple[str, ...]]:
        return ngrams([text], self.n) or [tuple(words(text))]
