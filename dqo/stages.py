"""The stages in pipeline order, as Protocols. State lives where Stateful says and nowhere else, so that evaluating
cannot disturb training.

Constructors follow one convention, for a user's own class too: positional parameters are what the program hands over
(``task``, ``tokenizer``, ``policy``, ``device`` …, by name, see ``config.build``), keyword-only parameters are the
YAML's keys, typed by their annotations.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from dqo.records import Estimates, Experience, Prompt, Rewards, Rollouts, Targets

Weights = Iterator[tuple[str, Tensor]]  # Hugging Face names, tied heads spelled out, LoRA merged


@runtime_checkable
class Stateful(Protocol):
    """A stage with state: ``checkpoint`` saves it under the stage's name."""

    def state_dict(self) -> dict[str, Any]: ...  # JSON-serialisable
    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


@runtime_checkable
class Counting(Protocol):
    """A stage that tolerates failures, and counts them: what it tolerated since the start, by name, is logged."""

    def counters(self) -> Mapping[str, int]: ...


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A task's own judgement of one completion."""

    reward: float
    correct: bool


@runtime_checkable
class Task(Protocol):
    """Where prompts come from, and what their answers are worth."""

    def draw(self, cursor: int, count: int) -> tuple[Sequence[Prompt], int]:
        """``count`` prompts of the endless training stream and the cursor behind them; pure in (seed, cursor)."""
        ...

    def held_out(self) -> Sequence[Prompt]:
        """The evaluation prompts, never drawn for training; positions count from 0 within them."""
        ...

    def check(self, prompt: Prompt, text: str, finished: bool) -> Verdict:
        """The task's own reward. Raises ConfigError where the task has none (``reward=check`` is then refused)."""
        ...

    def key(self, prompt: Prompt, text: str) -> str:
        """Two completions with the same key are the same answer (``distinct_correct``)."""
        ...


@runtime_checkable
class Demonstrating(Protocol):
    """A task that can show answers, for supervised fine-tuning."""

    def demonstrations(self, count: int, seed: int) -> Sequence[tuple[Prompt, str]]: ...


@runtime_checkable
class Rollout(Protocol):
    """Samples completions. Row seeds come from (seed, prompt position, i), so results do not depend on batching."""

    def generate(self, prompts: Sequence[Prompt], *, k: int, seed: int) -> Iterator[Rollouts]:
        """Whole groups, as they finish, several in one record if they finish together; no prompts: nothing."""
        ...

    def load_weights(self, weights: Weights, *, version: int) -> None:
        """Take the learner's weights. Raises StageError if a tensor is missing or of another shape."""
        ...

    def pause(self) -> None:
        """Give the device away until the next call (vLLM: sleep)."""
        ...


@runtime_checkable
class Scoring(Protocol):
    """Who can say what it thinks of given tokens, and has weights."""

    def score(self, rollouts: Rollouts) -> Float[Tensor, "batch tokens"]:
        """Log-probability of each sampled token at temperature 1, in nats; 0.0 elsewhere."""
        ...

    def weights(self) -> Weights: ...


@runtime_checkable
class Checkable(Rollout, Protocol):
    """An engine of others' making, which ``sync`` compares with the learner."""

    check_every: int  # syncs; 0: the first one only
    tolerance: float  # nats a token that its arithmetic explains

    def score(self, rollouts: Rollouts) -> Float[Tensor, "batch tokens"]:
        """As ``Scoring.score``."""
        ...

    def stale(self, weights: Weights) -> Sequence[str]:
        """The engine's tensors that are not those of ``weights``."""
        ...


@runtime_checkable
class Reward(Protocol):
    """Scores completions; sees whole groups. Thread-safe."""

    def score(self, rollouts: Rollouts) -> Rewards: ...


@runtime_checkable
class Embed(Protocol):
    """Embeds each completion alone, unit length. Thread-safe."""

    def encode(self, rollouts: Rollouts) -> Float[Tensor, "prompts k dim"]: ...


@runtime_checkable
class Credit(Protocol):
    """Gives each completion of a group what it adds to the others."""

    uses_embeddings: bool  # False: the loop does not encode

    def assign(
        self, rollouts: Rollouts, rewards: Rewards, embeddings_PKD: Float[Tensor, "prompts k dim"] | None
    ) -> Float[Tensor, "prompts k"]: ...


@runtime_checkable
class Advantage(Protocol):
    """Turns rewards and credits into what the loss weighs tokens by."""

    def __call__(self, experience: Experience, estimates: Estimates, *, alpha: float) -> Targets: ...

    def has_signal(self, experience: Experience, *, alpha: float) -> bool:
        """Whether one group teaches anything: of r + alpha*c, not of r alone (DAPO's filter would drop the credit)."""
        ...


@runtime_checkable
class Learner(Protocol):
    """Owns the policy. Every method is a collective: all ranks call it, with different and even empty batches."""

    def estimate(self, rollouts: Rollouts) -> Estimates: ...

    def update(self, experience: Experience, estimates: Estimates, targets: Targets) -> Mapping[str, float]: ...

    def weights(self) -> Weights: ...

    def save(self, folder: Path) -> None:
        """Named fp32 parameters, moments and schedule as safetensors and JSON: any learner, any number of ranks."""
        ...

    def load(self, folder: Path) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Stages:
    """The pipeline of one run."""

    task: Task
    rollout: Rollout
    reward: Reward
    embed: Embed
    credit: Credit
    advantage: Advantage
    learner: Learner
