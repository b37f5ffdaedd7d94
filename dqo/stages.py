"""The stages of the pipeline, in order, as Protocols: a class of your own that has these methods plugs in.

Constructors follow one convention: positional parameters are what the program hands over by name (``task``,
``tokenizer``, ``policy``, ``device`` …, see ``run.build``), keyword-only parameters are the YAML's keys, typed by their
annotations. A stage keeps state only if it is ``Stateful``: evaluating must not change what training does next. What
else a reward, an encoder, a credit, a loss or a learner may offer is in ``dqo.capabilities``.

Threads: ``Reward.score`` and ``Embed.encode`` run in two judge threads (in more, if they are
``capabilities.Concurrent``), at the same time as each other and as ``Rollout.generate``; with ``ahead=1`` a whole step
is sampled, judged and credited in a background thread while the main thread updates the learner. Everything else runs
in the main thread. With several ranks, a method that is called a collective below must be called by all ranks, in the
same order.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import Module, Parameter

from dqo.records import Estimates, Experience, LossInputs, Prompt, Rewards, Rollouts, Targets

Weights = Iterator[tuple[str, Tensor]]  # (Hugging Face name, tensor); tied heads are listed too, LoRA is merged


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A task's own judgement of one completion."""

    reward: float
    correct: bool


@runtime_checkable
class Task(Protocol):
    """Where prompts come from, and what answers are worth. Its methods are pure and may be called from any thread."""

    def draw(self, cursor: int, count: int) -> tuple[Sequence[Prompt], int]:
        """``count`` prompts of the endless training stream, and the cursor after them; pure in (seed, cursor). Raises
        ConfigError where the task is for evaluation alone."""
        ...

    def held_out(self) -> Sequence[Prompt]:
        """The evaluation prompts. They are never drawn for training; positions count from 0 among them."""
        ...

    def check(self, prompt: Prompt, text: str, finished: bool) -> Verdict:
        """The task's own reward for a completion; ``finished`` is False where it was cut by length.

        Raises ConfigError where the task has no reward (``reward=check`` is then refused).
        """
        ...

    def key(self, prompt: Prompt, text: str) -> str:
        """Two completions with the same key count as the same answer (metric ``distinct_correct``)."""
        ...


@runtime_checkable
class Rollout(Protocol):
    """Samples completions. Random numbers come from (seed, prompt position, i), so results do not depend on batching.

    With several ranks each rank samples its own prompts. The methods are collectives only where ranks share one engine
    (``rollout.tensor_parallel_size``).
    """

    def generate(self, prompts: Sequence[Prompt], *, k: int, seed: int) -> Iterator[Rollouts]:
        """Complete groups of k completions, as they finish; one record may hold several groups. No prompts, no records.

        Raises StageError, with the prompts' positions, for a prompt that cannot be completed.
        """
        ...

    def load_weights(self, weights: Weights, *, version: int) -> None:
        """Copy the learner's weights; completions sampled from now on carry ``version``. Must read ``weights`` to the
        end: with several ranks, producing them is a collective. Raises StageError for a missing tensor or a wrong
        shape."""
        ...

    def pause(self) -> None:
        """Free device memory until the next call (vLLM: sleep)."""
        ...


@runtime_checkable
class Scoring(Protocol):
    """Returns log-probabilities of given tokens and exposes its weights."""

    def score(self, rollouts: Rollouts) -> Float[Tensor, "batch tokens"]:
        """Nats of each sampled token at temperature 1; 0.0 where nothing was sampled. A collective."""
        ...

    def weights(self) -> Weights:
        """As ``Learner.weights``."""
        ...


@runtime_checkable
class Checkable(Rollout, Protocol):
    """A third-party inference engine. Its log-probabilities are compared with the learner's after weights were sent
    (``rollout.engine.sync_check``); the learner must then be ``Scoring``."""

    check_every: int  # compare after the first transfer of weights and each ``check_every``-th; 0: after the first only
    tolerance: float  # nats a token that rounding explains

    def score(self, rollouts: Rollouts) -> Float[Tensor, "batch tokens"]:
        """As ``Scoring.score``."""
        ...

    def stale(self, weights: Weights) -> Sequence[str]:
        """Names of engine tensors that differ from ``weights``. Reads ``weights`` to the end."""
        ...


@runtime_checkable
class Reward(Protocol):
    """Judges completions. It sees whole groups. Thread-safe. ``judges_nothing = True`` (optional) says that the totals
    are no rewards: metrics of quality are then undefined, and training is refused."""

    def score(self, rollouts: Rollouts) -> Rewards:
        """Rewards of P prompts with k completions each: tensors are (P, k), on the CPU.

        Raises StageError where a completion cannot be judged and ``on_error`` does not tolerate it. Not a collective.
        """
        ...


@runtime_checkable
class Embed(Protocol):
    """Turns each completion into a vector. Thread-safe."""

    def encode(self, rollouts: Rollouts) -> Float[Tensor, "prompts k dim"]:
        """Embeddings of length 1, float32, on the CPU; each depends on its own text alone. Not a collective."""
        ...


@runtime_checkable
class Credit(Protocol):
    """Says how much each completion adds to the others of its group.

    Three optional attributes let a configuration that teaches no diversity be refused. ``pays_nothing = True``: all
    credits are 0. ``pays_for_passing = True``: all that pass the gate get the same, so there must be a gate.
    ``pairs_tie = True``: in a group of two, similarity does not change the credits' difference. They hold for the class
    that has ``assign``; a subclass with an ``assign`` of its own says them anew.
    Another, ``description``, goes on after "each completion is paid for" in the model card. ``needs_rewards = False``:
    credits do not depend on rewards, and ``dqo-sample`` shows them for a prompt that the reward cannot judge.
    """

    uses_embeddings: bool  # False: training does not call the encoder, and ``assign`` gets None

    def assign(
        self, rollouts: Rollouts, rewards: Rewards, embeddings_PKD: Float[Tensor, "prompts k dim"] | None
    ) -> Float[Tensor, "prompts k"]:
        """One number per completion: what its group would lose without it (``credit=dpp``: nats of log-determinant,
        arXiv 2509.04784). Groups are independent of one another. Invalid completions (``rewards.valid_PK`` False) and
        empty ones (``rollouts.empty_PK``) are left out: their own value is ignored, they earn 0.0.

        Pure, float32, on the CPU; not a collective. Raises StageError for a group without a finite credit.
        """
        ...


@runtime_checkable
class Advantage(Protocol):
    """Turns rewards and credits into the numbers that the loss weighs tokens by.

    An optional attribute ``compares_within_group = True`` says that only differences within a group matter (but for a
    scale that is common to the step): with a credit whose ``pairs_tie``, k=2 is refused. It holds for the class that
    has ``__call__``. Others say what ``Learner.estimate`` has to compute: ``needs_reference = True``
    (``ref_logprobs_BT``), ``needs_old_logprobs = True`` (``old_logprobs_BT``), ``needs_values = True`` (``values_BT``,
    which takes a critic).
    """

    def __call__(self, experience: Experience, estimates: Estimates, *, alpha: float) -> Targets:
        """Advantages (batch, tokens) for one step, 0.0 where nothing was sampled. A collective: it may keep means over
        all ranks."""
        ...

    def has_signal(self, experience: Experience, *, alpha: float) -> bool:
        """Whether this one group teaches anything. Judge r + alpha * c, not r alone: dropping groups with equal
        rewards, as DAPO does, would drop exactly what the credit teaches. Pure, not a collective."""
        ...


@runtime_checkable
class Loss(Protocol):
    """A sum over sampled tokens, so that the losses of micro-batches add up to the loss of the step.

    Three optional attributes. ``only_advantages = True``, of the class that has ``__call__``: a row whose advantages
    are all 0 adds nothing to the loss and its gradient, and the learner leaves it out. ``needs_old_logprobs = True``:
    ``estimate`` computes log-probabilities and entropies before the update even where one update a step does not need
    them. ``needs_entropy_gradient = True``: ``LossInputs.entropies_N`` carries a gradient.
    """

    @property
    def needs_reference(self) -> bool:
        """Whether ``LossInputs.ref_logprobs_N`` must be there; the learner then keeps a reference model."""
        ...

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the metrics that a call returns; they do not depend on the data."""
        ...

    def token_weights(
        self, sampled_BT: Bool[Tensor, "batch tokens"], valid_B: Bool[Tensor, " batch"], *, rows: int, tokens: int
    ) -> Float[Tensor, "batch tokens"]:
        """Weight of each token, 0.0 where nothing was sampled or the row is invalid. ``rows`` and ``tokens`` count the
        valid rows and their sampled tokens over the whole step and all ranks."""
        ...

    def __call__(self, inputs: LossInputs) -> tuple[Float[Tensor, ""], Mapping[str, tuple[Tensor, Tensor]]]:
        """The loss of one micro-batch, and its metrics as (sum, count); for a name that ends in ``/min`` or ``/max`` as
        (extreme, anything). Must not write into ``inputs``. Not a collective."""
        ...


@runtime_checkable
class Critic(Protocol):
    """Estimates values: the reward that is still to come, before each token of a completion (``algorithm=ppo``). The
    learner trains it beside the policy. A class without one says ``estimates_nothing = True`` (``critic=none``).

    ``on_policy``: True, the values are a linear function of the policy's last hidden states, and the loss of the values
    also moves the policy's weights; False, the critic is a model of its own.
    """

    on_policy: bool
    warmup: int  # first steps of a run, in which the critic alone is trained; 0 where ``on_policy``
    names: tuple[str, ...]  # of the metrics that ``loss`` returns

    def module(self) -> Module:
        """What is trained, float32, on the policy's device: a model that is called like a causal language model and
        whose ``logits`` have one column, or a linear layer. Called once, before the policy gets adapters. Raises
        ConfigError for a model that cannot be one."""
        ...

    def rate(self, rate: float) -> float:
        """The critic's learning rate where the policy's is ``rate``."""
        ...

    def loss(
        self,
        values_N: Float[Tensor, " sampled"],
        *,
        old_values_N: Float[Tensor, " sampled"],
        returns_N: Float[Tensor, " sampled"],
        weights_N: Float[Tensor, " sampled"],
    ) -> tuple[Float[Tensor, ""], Mapping[str, tuple[Tensor, Tensor]]]:
        """The loss of one micro-batch's values, which carry a gradient, and its metrics as ``Loss.__call__`` returns
        them. ``old_values_N``: the values before the step's first update; ``returns_N``: the targets. A sum over tokens
        with ``weights_N``, so that the losses of micro-batches add up."""
        ...


@runtime_checkable
class Optim(Protocol):
    """Makes optimizers. The learning rate depends on the step alone, so it needs no state."""

    max_grad_norm: float | None  # gradients are scaled down to this norm; None: never

    def make(self, parameters: Iterable[tuple[str, Parameter]]) -> torch.optim.Optimizer:
        """An optimizer for one model's named parameters; called once per trained model."""
        ...

    def rate(self, step: int) -> float:
        """Learning rate of the update that follows ``step`` finished steps."""
        ...


@runtime_checkable
class Learner(Protocol):
    """Owns the policy and trains it. Every method is a collective, called with different and even empty batches. A
    class that can run on several ranks says so by ``multi_rank = True``; without it, ``nproc=2`` is refused."""

    def estimate(self, rollouts: Rollouts) -> Estimates:
        """What the update needs of the models as they are before it: old and reference log-probabilities, values."""
        ...

    def update(self, experience: Experience, estimates: Estimates, targets: Targets) -> Mapping[str, float]:
        """Take the step's optimizer steps; returns metrics, equal on all ranks. Raises StageError, before the
        optimizer's step, for a loss or a gradient that is not finite."""
        ...

    def weights(self) -> Weights:
        """The policy's tensors, one at a time; a tensor is valid until the next one is asked for."""
        ...

    def save(self, folder: Path) -> None:
        """Write trained parameters and optimizer state, one folder per trained model (``policy``, later ``critic``):
        named fp32 tensors as safetensors, the rest as JSON. Any learner reads them, on any number of ranks."""
        ...

    def load(self, folder: Path) -> None:
        """Read what ``save`` wrote. Raises ConfigError for the state of another model."""
        ...


@dataclass(frozen=True, kw_only=True)
class Collectors:
    """The stages that sample and judge: all that an evaluation needs, without a learner or an optimizer."""

    task: Task
    rollout: Rollout
    reward: Reward
    embed: Embed
    credit: Credit


@dataclass(frozen=True, kw_only=True)
class Stages(Collectors):
    """The whole pipeline of a training run."""

    advantage: Advantage
    loss: Loss  # the learner has it, too; here so that a checkpoint stores its state
    learner: Learner
    check_engine: Callable[[Rollouts, int], None] | None = None  # after each transfer of weights; see sync_check
