"""The models that a learner trains, and its forward and backward passes over micro-batches. What an engine adds is
abstract here."""

import abc
import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor
from torch.nn import Module
from transformers import PreTrainedModel

from dqo import distributed
from dqo.contracts import says
from dqo.errors import ConfigError
from dqo.learner.update import saved_state
from dqo.learner.update.budget import Budget
from dqo.learner.update.dropout import checkpointing, eval_mode, lora_dropout
from dqo.learner.update.forms import OTHER_MODEL, fastest_form, probe, weaker
from dqo.learner.update.objective import Objective, Tally
from dqo.learner.update.packing import CRITIC, POLICY, Form, MicroBatch, micro_batches
from dqo.learner.update.preparing import Model, prepared
from dqo.learner.update.rounding import RoundedSteps
from dqo.learner.update.settings import LearnerSettings
from dqo.learner.update.values import captured_hidden, head_values
from dqo.models.heads import plain_head
from dqo.records import Rollouts
from dqo.stages import Critic, Loss, Optim

log = logging.getLogger("dqo")


class Passes(abc.ABC):
    """Models of a learner, ready to be trained, and passes over them.

    ``called`` holds what passes call, by name: the policy, and a critic that is a model of its own. ``value_head``: a
    critic that is a linear layer on the policy's last hidden states, trained in the policy's passes. ``models`` holds
    each trained model under its name, with the parameter names that are saved; an engine fills it.

    Log-probabilities are taken without dropout wherever they are compared: with those of the sampler, the reference or
    the policy before its last steps. LoRA's dropout acts on the policy's gradient alone.
    """

    def __init__(
        self,
        policy: PreTrainedModel,
        device: torch.device,
        loss: Loss,
        optim: Optim,
        critic: Critic | None,
        settings: LearnerSettings,
    ):
        self.policy, self.device, self.loss, self.optim, self.settings = policy, device, loss, optim, settings
        self.critic = None if critic is None or says(type(critic), "estimates_nothing", of="loss") else critic
        self.bf16 = settings.dtype.on(device) == torch.bfloat16
        self.version = 0  # updates so far
        self.budget = Budget(settings.max_tokens_per_micro_batch, device)
        self.form = fastest_form(policy.eval(), device, shared_prompt=settings.shared_prompt, bf16=self.bf16)
        with torch.autocast(device.type, torch.bfloat16, enabled=self.bf16):  # flash attention takes no fp32
            self.head = plain_head(policy, device)
        if self.head is None:
            log.info(
                "%s: logits are not exactly head(last hidden state); all logits of a micro-batch are kept in memory at "
                "once", type(policy).__name__,
            )  # fmt: skip
        own, self.value_head = self._critic_modules()  # before the policy gets adapters
        self.budget.is_measured |= self.form is Form.SINGLE  # one completion a pass, whatever the memory
        self.model = prepared(policy, self.form, device, settings, bf16=self.bf16, critic=False)
        self.called: dict[str, Model] = {POLICY: self.model}
        if own is not None:
            self.called[CRITIC] = prepared(own, self.form, device, settings, bf16=self.bf16, critic=True)
        self.rounded_steps = RoundedSteps(settings.rounding if self.bf16 else None)
        for called in self.called.values():
            self.rounded_steps.start(called)
        self.models: dict[str, Module] = {}
        self.dropout = settings.lora_r is not None and settings.lora_dropout > 0
        self.seed = torch.initial_seed()  # of the dropout's masks and of the mini-batches

    def _critic_modules(self) -> tuple[PreTrainedModel | None, Module | None]:
        """(critic that is a model of its own, linear layer on the policy's hidden states), one of them at most. Raises
        ConfigError for models that cannot be critics."""
        if self.critic is None:
            return None, None
        if self.critic.on_policy:
            if self.head is None:
                raise ConfigError(
                    f"critic: the logits of {type(self.policy).__name__} are not exactly its head of the last hidden "
                    f"states, which values are computed from; {OTHER_MODEL}"
                )
            return None, self.critic.module()
        own = cast(PreTrainedModel, self.critic.module()).eval()
        shared_prompt = self.settings.shared_prompt
        form = fastest_form(own, self.device, shared_prompt=shared_prompt, bf16=self.bf16, values=True)
        self.form = weaker(self.form, form)
        return own, None

    @abc.abstractmethod
    def _forward(self, model: Model, batch: MicroBatch, *, temperature: float) -> tuple[Tensor, Tensor]:
        """Log-probabilities and entropies of the micro-batch's sampled tokens."""

    @abc.abstractmethod
    def _values(self, batch: MicroBatch) -> Tensor:
        """Values of the micro-batch's sampled tokens, of a critic that is a model of its own."""

    @abc.abstractmethod
    def _backward(self, name: str, loss: Tensor, *, last: bool) -> None:
        """Add the gradient of ``loss`` of the model of this name. Losses add up over micro-batches and ranks. ``last``:
        this was the model's last micro-batch before its optimizer step. The policy's passes come before a critic's."""

    @abc.abstractmethod
    def _optimize(self, rates: Mapping[str, float]) -> dict[str, float]:
        """Clip gradients and take the optimizers' steps of the models in ``rates``, learning rates by name; returns
        their gradient norms before clipping. Takes no step at all where a norm is not finite."""

    @abc.abstractmethod
    def _discard_gradients(self) -> None:
        """Forget the gradients of this step's passes so far, also after a pass that has failed halfway."""

    @abc.abstractmethod
    def _parameters(self, name: str) -> Iterable[tuple[str, Tensor]]:
        """Trained fp32 parameters of a model, whole, one at a time."""

    @abc.abstractmethod
    def _moments(self, name: str) -> Iterable[tuple[str, Tensor]]:
        """Optimizer state of a model as (<key>/<parameter>, tensor), one at a time."""

    @abc.abstractmethod
    def _restore(self, name: str, saved: saved_state.Saved) -> None:
        """Put saved parameters and optimizer state back into a model."""

    @property
    def entropy_gradient(self) -> bool:
        """Whether the entropies of a forward pass carry a gradient."""
        return getattr(self.loss, "needs_entropy_gradient", False) and torch.is_grad_enabled()

    def _head_of(self, model: Model) -> Module | None:
        """The LM head of the policy or the reference, if it can run in chunks."""
        return model.get_output_embeddings() if self.head is not None else None

    def _micro_batches(self, rollouts: Rollouts, rows: list[int], tokens: int) -> list[MicroBatch]:
        return micro_batches(rollouts, rows, budget=tokens, form=self.form)

    def _passes(self, name: str, batches: list[MicroBatch], passes: int) -> Iterator[tuple[MicroBatch, bool]]:
        """This rank's micro-batches of a model with True, then dummy ones with False until there are ``passes``: every
        rank makes the same number of forward passes."""
        yield from ((batch, True) for batch in batches)
        yield from ((replace(probe(self.form), model=name), False) for _ in range(passes - len(batches)))

    @torch.no_grad()
    def _numbers(
        self, rollouts: Rollouts, forward: Callable[[MicroBatch], Sequence[Tensor | None]], count: int
    ) -> list[Tensor]:
        """The first ``count`` numbers that ``forward`` gives each sampled token of a micro-batch, each (B, T). A
        collective."""
        found = [torch.zeros_like(rollouts.logprobs_BT) for _ in range(count)]
        rows = list(range(len(rollouts.texts)))

        def passes(batches: list[MicroBatch]) -> None:
            for batch, real in self._passes(POLICY, batches, distributed.all_reduce_max(len(batches))):
                for value_BT, value_N in zip(found, forward(batch), strict=False):
                    if real and value_N is not None:
                        value_BT[batch.rows_N, batch.columns_N] = value_N.cpu()

        self.budget.take(lambda tokens: self._micro_batches(rollouts, rows, tokens), passes, self._discard_gradients)
        return found

    @contextlib.contextmanager
    def _updating(self, number: int) -> Iterator[None]:
        """Around the forward and backward passes of the batch's optimizer step of this number: checkpointing and LoRA's
        dropout are on."""
        seed = (self.seed, self.version, number, distributed.rank())
        dropout = lora_dropout(self.model, seed, self.device) if self.dropout else contextlib.nullcontext()
        with contextlib.ExitStack() as stack:
            for called in self.called.values():
                stack.enter_context(checkpointing(called))
            stack.enter_context(dropout)
            yield

    def _outputs(self, batch: MicroBatch) -> tuple[Tensor, Tensor, Tensor | None]:
        """Log-probabilities, entropies and, with a value head, values of the policy's pass."""
        temperature = self.settings.temperature
        if self.value_head is None:
            return *self._forward(self.model, batch, temperature=temperature), None
        assert self.head is not None  # or the critic was refused
        with captured_hidden(self.head) as hidden:
            logprobs_N, entropies_N = self._forward(self.model, batch, temperature=temperature)
        return logprobs_N, entropies_N, head_values(self.value_head, hidden[0], batch)

    def _trained_outputs(self, batch: MicroBatch) -> tuple[Tensor, Tensor, Tensor | None]:
        """The same without dropout; their gradient is that with LoRA's dropout. So no ratio contains its noise: with an
        exact sampler the first iteration's are 1."""
        if not self.dropout:
            return self._outputs(batch)
        with torch.no_grad(), eval_mode(self.model):
            logprobs_N, entropies_N, values_N = self._outputs(batch)
        noisy_N, noisy_entropies_N, noisy_values_N = self._outputs(batch)
        if self.entropy_gradient:
            entropies_N = entropies_N + (noisy_entropies_N - noisy_entropies_N.detach())
        if values_N is not None and noisy_values_N is not None:
            values_N = values_N + (noisy_values_N - noisy_values_N.detach())
        return logprobs_N + (noisy_N - noisy_N.detach()), entropies_N, values_N

    def _pass(self, whole: Objective | None, batch: MicroBatch, tally: Tally | None, *, last: bool) -> float:
        """Forward and backward pass of the micro-batch's model; the policy's loss. Without a tally it is a dummy pass,
        whose loss is 0."""
        if batch.model == CRITIC:
            self._critic_pass(whole, batch, tally, last=last)
            return 0.0
        logprobs_N, entropies_N, values_N = self._trained_outputs(batch)
        if whole is None or tally is None:
            total = logprobs_N.sum() + entropies_N.sum() if self.entropy_gradient else logprobs_N.sum()
            total = total if values_N is None else total + values_N.sum()
            self._backward(POLICY, total * 0.0, last=last)
            return 0.0
        loss, means = whole(batch, logprobs_N, entropies_N)
        self._check(whole, batch, loss, "loss")
        trained = loss
        if values_N is not None and not batch.supervised:
            trained = loss + self._value_loss(whole, batch, values_N, tally)
        self._backward(POLICY, trained, last=last)
        tally.add(means)
        return float(loss.detach())

    def _critic_pass(self, whole: Objective | None, batch: MicroBatch, tally: Tally | None, *, last: bool) -> None:
        values_N = self._values(batch)
        if whole is None or tally is None:
            self._backward(CRITIC, values_N.sum() * 0.0, last=last)
        else:
            self._backward(CRITIC, self._value_loss(whole, batch, values_N, tally), last=last)

    def _value_loss(self, whole: Objective, batch: MicroBatch, values_N: Tensor, tally: Tally) -> Tensor:
        assert self.critic is not None
        loss, means = whole.value_loss(self.critic, batch, values_N)
        self._check(whole, batch, loss, "critic's loss")
        tally.add(means)
        return loss

    def _check(self, whole: Objective, batch: MicroBatch, loss: Tensor, what: str) -> None:
        """Raises StageError for a loss that is not finite."""
        if not loss.isfinite():
            raise whole.not_finite(what, [batch], step=self.version + 1)
