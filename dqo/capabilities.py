"""What a stage may offer beside its Protocol in ``dqo.stages``; callers ask for it by ``isinstance``."""

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

from jaxtyping import Float, Shaped
from torch import Tensor

from dqo.records import Estimates, Experience, LossInputs, Rewards, Rollouts, Supervised, Targets

SUPERVISED_NLL = "supervised/nll"
DROPPED = "dropped"  # a mark: True where ``loss=clip`` leaves a token out of the policy gradient


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
