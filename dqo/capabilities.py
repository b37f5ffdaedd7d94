"""What a stage may offer beside its Protocol in ``dqo.stages``; callers ask for it by ``isinstance``."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float, Shaped
from torch import Tensor

from dqo.records import Estimates, Experience, LossInputs, Prompt, Rewards, Rollouts, Supervised, Targets

SUPERVISED_NLL = "supervised/nll"
DROPPED = "dropped"  # a mark: True where ``loss=clip`` leaves a token out of the policy gradient


@runtime_checkable
class Stateful(Protocol):
    """A stage with state. A checkpoint stores it under the stage's name and hands it back on resume."""

    def state_dict(self) -> dict[str, Any]:
        """The state as JSON values; empty: the stage has none with these settings. Called on rank 0 while no other
        stage runs, and on every rank when a run is resumed."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what ``state_dict`` returned. Called on every rank, before the first step."""
        ...


@runtime_checkable
class Counting(Protocol):
    """A stage that tolerates failures and counts them, or counts what it uses up; the totals are logged with every
    step."""

    def counters(self) -> Mapping[str, int | float]:
        """Failures tolerated since this process started, tokens paid for …, by name. The names never change. Sums over
        ranks and processes. Thread-safe."""
        ...


@runtime_checkable
class Reporting(Protocol):
    """A stage with numbers of its own to log with every step, such as the coefficient of an adaptive KL."""

    def metrics(self) -> Mapping[str, float]:
        """The numbers, by the metric's whole name; NaN where undefined. The names never change. Called in the main
        thread on every rank after the update; rank 0's are logged, so numbers of a step are reduced before. Not a
        collective."""
        ...


@runtime_checkable
class Concurrent(Protocol):
    """A reward or an encoder that mostly waits for a service, so that its calls run side by side in training and in an
    evaluation. All others share two threads."""

    @property
    def calls_at_a_time(self) -> int:
        """How many threads may be in ``score`` or ``encode``, 1 or more."""
        ...


@runtime_checkable
class Pausing(Protocol):
    """A reward or an encoder that holds device memory while it is not used."""

    def pause(self) -> None:
        """Free device memory until the next call. Called after a step's last group is judged; never with ``ahead=1``,
        where sampling overlaps the update."""
        ...


@runtime_checkable
class Closing(Protocol):
    """A stage that holds processes, connections or files."""

    def close(self) -> None:
        """Release them. Called once, at the end of the run, also after an error."""
        ...


@runtime_checkable
class HasMemory(Protocol):
    """A stage that can say how much memory it takes: a run and a dry run print it."""

    def memory(self) -> Mapping[str, int]:
        """Bytes on one rank's device, by purpose. Example: ``{"weights": 538_000_000}``. Not a collective."""
        ...


@runtime_checkable
class Demonstrating(Protocol):
    """A task with example answers, for supervised fine-tuning."""

    def demonstrations(self, count: int, seed: int) -> Sequence[tuple[Prompt, str]]:
        """``count`` training prompts, each with an answer; pure in (count, seed)."""
        ...


@runtime_checkable
class Drawing(Protocol):
    """A task that can draw its answers, such as places on a map."""

    def draw_answers(self, path: Path, panels: Sequence[tuple[str, Sequence[str]]]) -> None:
        """Write a PNG with one panel per (title, answers). Example: ``[("before", [...]), ("after", [...])]``."""
        ...


@runtime_checkable
class Weighing(Protocol):
    """A reward whose total is a weighted sum of some of its parts."""

    part_weights: Mapping[str, float]  # by the part's name in ``Rewards.parts``


@runtime_checkable
class EncodesTexts(Protocol):
    """An encoder of any texts, for credits that compare parts of completions."""

    def encode_texts(self, texts: Sequence[str]) -> Float[Tensor, "texts dim"]:
        """As ``Embed.encode``, a row a text. Not a collective."""
        ...


@runtime_checkable
class PaysTokens(Protocol):
    """A credit that pays parts of a completion, at their tokens. ``pays_tokens_alone = True`` (optional): ``assign``
    returns zeros, so an advantage's keys for credits do nothing and are refused."""

    def assign_tokens(self, rollouts: Rollouts, rewards: Rewards) -> Float[Tensor, "batch tokens"]:
        """Credits of single tokens, 0.0 where nothing was sampled or paid. The loop adds ``alpha`` times them to the
        advantages, as they are: a credit that wants a baseline subtracts it itself. Pure; not a collective."""
        ...


@runtime_checkable
class Marking(Protocol):
    """A loss or a term of one that looks at the whole step before its first pass."""

    def marks(
        self, experience: Experience, estimates: Estimates, targets: Targets
    ) -> Mapping[str, Shaped[Tensor, "batch tokens"]]:
        """One tensor for each mark, with a value for each token of this rank. ``LossInputs.marks`` holds the same marks
        of the tokens of one micro-batch. Their names do not depend on the data. Called once a step, on every rank: a
        collective."""
        ...


@runtime_checkable
class Supervising(Protocol):
    """A loss or a term of one that also learns from completions that were not sampled in this step. The learner
    computes ``SUPERVISED_NLL``, the mean of -log-probability over their tokens; it is reported where ``Loss.names`` has
    it."""

    def supervised(self, experience: Experience) -> Supervised | None:
        """This rank's completions to learn from; None: none in this step. Called once a step, on every rank: a
        collective."""
        ...


@runtime_checkable
class LossTerm(Protocol):
    """One more term of ``loss=clip`` (``loss.terms``). It may say ``needs_reference``, ``needs_old_logprobs``,
    ``needs_entropy_gradient``, ``only_advantages`` and be ``Marking``, ``Supervising`` or ``Stateful``, as a loss may.
    In ``LossInputs.marks`` it finds its own marks alone."""

    @property
    def names(self) -> tuple[str, ...]:
        """As ``Loss.names``; no other term may have them."""
        ...

    def __call__(self, inputs: LossInputs) -> tuple[Float[Tensor, ""], Mapping[str, tuple[Tensor, Tensor]]]:
        """What is added to the loss of one micro-batch, and metrics. ``inputs.weights_N`` has the weights of the
        policy's loss. Not a collective."""
        ...


@runtime_checkable
class HasCheckpointSize(Protocol):
    """A learner that can say how much ``save`` writes: a run announces its disk space before the first step."""

    def checkpoint_bytes(self) -> int:
        """Bytes of one saved state. Called on rank 0 alone, so it must not be a collective."""
        ...
