"""Completions of the initial policy, by prompt: what a gate, a centre or a loss compares training's completions with.

A stage whose constructor has the parameter ``references`` gets the run's one ``References`` and says by ``need`` what
it wants. The run samples them before its first step, from the weights it starts with (``dqo.run.references``).
"""

from collections.abc import Mapping
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from dqo.errors import StageError
from dqo.records import Prompt, Rewards, Rollouts


@dataclass(frozen=True, kw_only=True)
class Reference:
    """The initial policy's completions of one prompt: records of one group."""

    rollouts: Rollouts
    rewards: Rewards
    embeddings_KD: Float[Tensor, "k dim"] | None  # length 1; None: no stage asked for them


class References:
    """Reference completions by the prompt's tokens. Filled before the first step, then only read."""

    def __init__(self):
        self.count = 0  # completions of each prompt that stages need; 0: none, and nothing is sampled
        self.embedded = False  # whether a stage needs their embeddings
        self._groups: dict[tuple[int, ...], Reference] = {}

    def need(self, count: int, *, embedded: bool = False) -> None:
        """Called by a stage's constructor: at least ``count`` completions of each prompt."""
        self.count, self.embedded = max(self.count, count), self.embedded or embedded

    @property
    def is_empty(self) -> bool:
        """Whether there are no completions yet."""
        return not self._groups

    def add(self, groups: Mapping[tuple[int, ...], Reference]) -> None:
        """Add groups by the tokens of their prompts."""
        self._groups |= groups

    def of(self, prompt: Prompt) -> Reference:
        """The reference completions of a prompt. Raises StageError where there are none."""
        if prompt.tokens not in self._groups:
            raise StageError("references", "there are no reference samples of this prompt", positions=[prompt.position])
        return self._groups[prompt.tokens]
