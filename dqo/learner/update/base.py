"""What all learners share: estimates, the loss of a step over its micro-batches, the report. No engine in here.

Every public method is a collective: all ranks call it, with different and even empty batches, and each makes the same
number of forward passes, since an engine that shards parameters fetches them with collectives.
"""

import abc
import contextlib
import json
import logging
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch
from peft import PeftModel
from torch import Tensor
from torch.nn import Module, Parameter
from transformers import PreTrainedModel

from dqo import distributed
from dqo.errors import ConfigError
from dqo.learner.update import saved_state
from dqo.learner.update.budget import Budget
from dqo.learner.update.compiling import compile_layers, compiled_graphs
from dqo.learner.update.dropout import checkpointing, enable_checkpointing, eval_mode, lora_dropout
from dqo.learner.update.forms import fastest_form, probe
from dqo.learner.update.logprobs import logit_rows, plain_head
from dqo.learner.update.lora import with_lora
from dqo.learner.update.objective import Objective, Tally, counts, objective, rows_to_train
from dqo.learner.update.packing import Form, MicroBatch, micro_batches
from dqo.learner.update.peak import Peak
from dqo.learner.update.reference import Reference
from dqo.learner.update.rounding import RoundedSteps, Rounding
from dqo.learner.update.settings import LearnerSettings
from dqo.models.precision import Dtype
from dqo.models.sizes import parameter_counts
from dqo.records import Estimates, Experience, Rollouts, Targets
from dqo.stages import Loss, Optim

log = logging.getLogger("dqo")
POLICY = "policy"
Model = PreTrainedModel | PeftModel


class Base(abc.ABC):
    """The part of a learner that does not depend on its engine. An engine adds the forward and backward pass, the
    optimizer's step, and reading and writing its state.

    ``models`` holds each trained model under its name: "policy", and what an engine's subclass adds, such as
    "critic". Gradient norms and saved states carry these names.

    A step without any valid completion takes no optimizer step and reports ``skipped_updates``; a step whose advantages
    are all zero takes it, as in TRL: momentum moves the weights. The learning rate follows the steps of the run, not
    those of the optimizer. Rows that the gradient does not depend on get no pass where the loss allows it
    (``Loss.only_advantages``) and no second model is trained.

    Log-probabilities are taken without dropout wherever they are compared: with those of the sampler, the reference or
    the policy before its last steps. LoRA's dropout acts on the gradient alone.
    """

    def __init__(
        self,
        policy: PreTrainedModel,
        device: torch.device,
        loss: Loss,
        optim: Optim,
        needs_reference: bool,
        settings: LearnerSettings,
    ):
        """``needs_reference``: loss or advantage ask for the reference's log-probabilities. An engine then sets
        ``reference`` before anything is trained."""
        if settings.dtype is Dtype.FLOAT16:
            raise ConfigError("learner.dtype=float16: gradients would underflow; type learner.dtype=bfloat16 or auto")
        self.policy, self.device, self.loss, self.optim, self.settings = policy, device, loss, optim, settings
        self.needs_reference, self.reference = needs_reference, None
        self.bf16 = settings.dtype.on(device) == torch.bfloat16
        self.version, self.graphs_before = 0, compiled_graphs()  # updates so far; graphs of others in this process
        self.budget = Budget(settings.max_tokens_per_micro_batch, device)

        self.form = fastest_form(policy.eval(), device, shared_prompt=settings.shared_prompt, bf16=self.bf16)
        self.budget.is_measured |= self.form is Form.SINGLE  # one completion a pass, whatever the memory
        with torch.autocast(device.type, torch.bfloat16, enabled=self.bf16):  # flash attention takes no fp32
            self.head = plain_head(policy, device)
        if settings.gradient_checkpointing:
            enable_checkpointing(policy)
        self.model: Model = policy
        if settings.lora_r is not None:
            self.model = with_lora(
                policy, r=settings.lora_r, alpha=settings.lora_alpha, dropout=settings.lora_dropout,
                target_modules=settings.lora_target_modules,
            )  # fmt: skip
        self.model.eval()  # peft's new modules are in training mode
        if settings.compile:
            compile_layers(self.model, self.form, device, bf16=self.bf16)
        self.rounded_steps = RoundedSteps(settings.rounding if self.bf16 else None)
        self.rounded_steps.start(self.model)
        self.models: dict[str, Module] = {}  # filled by the engine
        self.dropout = settings.lora_r is not None and settings.lora_dropout > 0
        self.seed = torch.initial_seed()  # of the dropout's masks

    reference: Reference | None  # the policy before its first update

    @abc.abstractmethod
    def _forward(self, model: Model, batch: MicroBatch, *, temperature: float) -> tuple[Tensor, Tensor]:
        """Log-probabilities and entropies of the micro-batch's sampled tokens."""

    @abc.abstractmethod
    def _backward(self, loss: Tensor, *, last: bool) -> None:
        """Add the gradient of ``loss``. Losses add up over micro-batches and ranks. ``last``: no micro-batch of this
        step follows."""

    @abc.abstractmethod
    def _optimize(self, rate: float) -> dict[str, float]:
        """Clip gradients and take the optimizer's step; returns each model's gradient norm before clipping. Takes no
        step where a norm is not finite."""

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

    def _faulty(self, whole: Objective, batches: list[MicroBatch]) -> list[MicroBatch]:
        """The micro-batches that a non-finite gradient may come from."""
        return batches

    @property
    def entropy_gradient(self) -> bool:
        """Whether the entropies of a forward pass carry a gradient."""
        return getattr(self.loss, "needs_entropy_gradient", False) and torch.is_grad_enabled()

    def estimate(self, rollouts: Rollouts) -> Estimates:
        """Old log-probabilities where several iterations need them and this version sampled the rows; with entropies
        where the loss asks for them; the reference's where it is kept. Otherwise nothing runs. A collective."""
        fresh = bool((rollouts.versions_B >= self.version).any())
        needed, old_BT, ref_BT, entropies_BT = getattr(self.loss, "needs_old_logprobs", False), None, None, None
        if needed or (self.settings.num_iterations > 1 and distributed.all_reduce_max(fresh)):
            old_BT, entropies_BT = self._logprobs(self.model, rollouts)
        if self.reference is not None:
            with self.reference.model() as reference:
                ref_BT, _ = self._logprobs(reference, rollouts)
        return Estimates(old_logprobs_BT=old_BT, ref_logprobs_BT=ref_BT, entropies_BT=entropies_BT if needed else None)

    def update(self, experience: Experience, estimates: Estimates, targets: Targets) -> Mapping[str, float]:
        """The step's optimizer steps; returns its metrics. Raises StageError, before the optimizer's step, for a loss
        or a gradient that is not finite. A collective."""
        rollouts, (rows, tokens), peak = experience.rollouts, counts(experience), Peak(self.device)
        whole = objective(self.loss, experience, estimates, targets, version=self.version, rows=rows, tokens=tokens)
        trained, skipped = rows_to_train(self.loss if len(self.models) == 1 else None, experience, targets)
        rate, tally, batches = self.optim.rate(self.version), Tally(), list[MicroBatch]()
        if not tokens:
            log.warning("step %d: no valid completion, no update", self.version + 1)
        elif not self.budget.is_measured and distributed.all_reduce_max(len(trained)):
            self._measure_budget(rollouts, trained)
        for iteration in range(self.settings.num_iterations if tokens else 0):
            batches = self._step(whole, rollouts, trained, rate, tally, iteration)
        self.version += 1
        padding, size = sum(batch.padding for batch in batches), sum(batch.tokens_RL.numel() for batch in batches)
        numbers = [padding, size, skipped, self.budget.new_failures()]
        padding, size, skipped, failures = distributed.all_reduce_sum(numbers)
        norms = (_norm_metric(name) for name in self.models)
        means = tally.over_all_ranks().means(("loss", "entropy", "update/seen", *self.loss.names, *norms))
        self.rounded_steps.warn(means["update/seen"])
        return {
            **means,
            "learning_rate": rate,
            "trained_tokens": float(tokens),
            "micro_batches": float(distributed.all_reduce_max(len(batches))),
            "padding_share": padding / size if size else math.nan,
            "skipped_updates": float(not tokens),
            "update/skipped_rows": float(skipped),
            "update/out_of_memory": float(failures),
            "update/compiled_graphs": float(distributed.all_reduce_max(compiled_graphs() - self.graphs_before)),
            **peak.metric(),
        }

    def score(self, rollouts: Rollouts) -> Tensor:
        """Log-probability of each sampled token at temperature 1, 0.0 elsewhere: (B, T), in nats. A collective."""
        return self._logprobs(self.model, rollouts, temperature=1.0)[0]

    def save(self, folder: Path) -> None:
        """Write one folder per trained model, and ``learner.json``. A collective; rank 0 writes."""
        assert self.models, "an engine names the models that it trains"
        with self.rounded_steps.exact():
            for name in self.models:
                saved_state.save(folder / name, parameters=self._parameters(name), moments=self._moments(name))
        if distributed.is_rank_0():
            state = {"version": self.version, "micro_batches": self.budget.state()}
            (folder / "learner.json").write_text(json.dumps(state))

    def load(self, folder: Path) -> None:
        """Read what ``save`` wrote. Raises ConfigError for the state of another model or of other adapters. A
        collective."""
        assert self.models, "an engine names the models that it trains"
        for name in self.models:
            if not (folder / name).is_dir():
                raise ConfigError(
                    f"resume: {folder} has no {name}/: another version of dqo, or a learner with other models, wrote "
                    "this checkpoint; start a new run with run_dir=ANOTHER_FOLDER"
                )
            shapes = {key: full_shape(parameter) for key, parameter in self.trained_parameters(name).items()}
            self._restore(name, saved_state.Saved(folder / name, shapes))
        state = json.loads((folder / "learner.json").read_text())
        self.version = state["version"]
        self.budget.load(state.get("micro_batches", {}))  # an older dqo did not save them

    def memory(self) -> dict[str, int]:
        """Bytes on one rank's device without activations, by what they are for."""
        total, trained = parameter_counts(self.model)
        rows, head = self.budget.tokens, self._head_of(self.model)
        rows = rows if head is None else min(rows, logit_rows(head))
        logits = rows * self.policy.config.get_text_config().vocab_size
        lost_bits = 2 * trained * (self.rounded_steps.rounding is Rounding.DITHERED)
        held = {"weights": 4 * total, "gradients": 4 * trained, "optimizer": 8 * trained + lost_bits}
        copied = self.reference is not None and self.reference.copy is not None
        return held | ({"reference": 4 * total} if copied else {}) | {"logits of a micro-batch": 4 * logits}

    def checkpoint_bytes(self) -> int:
        """Bytes that ``save`` writes: fp32 weights and AdamW's two moments."""
        return sum(12 * parameter_counts(model)[1] for model in self.models.values())

    def trained_parameters(self, name: str) -> dict[str, Parameter]:
        """The parameters of a model that require a gradient, by name."""
        return {key: parameter for key, parameter in self.models[name].named_parameters() if parameter.requires_grad}

    def _head_of(self, model: Model) -> Module | None:
        """The LM head of the policy or the reference, if it can run in chunks."""
        return model.get_output_embeddings() if self.head is not None else None

    def _micro_batches(self, rollouts: Rollouts, rows: list[int], tokens: int) -> list[MicroBatch]:
        return micro_batches(rollouts, rows, budget=tokens, form=self.form)

    def _measure_budget(self, rollouts: Rollouts, rows: list[int]) -> None:
        """Trial passes of the longest sequences; their loss is 0, and so is what they add to the gradients."""
        tiny = probe(self.form)
        with self._updating(0):
            self.budget.measure(
                lambda tokens: self._micro_batches(rollouts, rows, tokens) or [tiny],
                lambda batch: self._pass(None, batch, None, last=False),
                self._discard_gradients,
                first=tiny,
                to_come=0 if self.version else self.memory().get("optimizer", 0),
            )

    def _passes(self, batches: list[MicroBatch], passes: int) -> Iterator[tuple[MicroBatch, bool]]:
        """This rank's micro-batches with True, then dummy ones with False until there are ``passes``: every rank makes
        the same number of forward passes."""
        yield from ((batch, True) for batch in batches)
        yield from ((probe(self.form), False) for _ in range(passes - len(batches)))

    @torch.no_grad()
    def _logprobs(self, model: Model, rollouts: Rollouts, *, temperature: float | None = None) -> tuple[Tensor, Tensor]:
        """Log-probabilities of the sampled tokens and entropies of their distributions, (B, T), without dropout."""
        found = torch.zeros_like(rollouts.logprobs_BT), torch.zeros_like(rollouts.logprobs_BT)
        rows = list(range(len(rollouts.texts)))

        def passes(batches: list[MicroBatch]) -> None:
            for batch, real in self._passes(batches, distributed.all_reduce_max(len(batches))):
                values = self._forward(model, batch, temperature=temperature or self.settings.temperature)
                for value_BT, value_N in zip(found, values, strict=True):
                    if real:
                        value_BT[batch.rows_N, batch.columns_N] = value_N.cpu()

        self.budget.take(lambda tokens: self._micro_batches(rollouts, rows, tokens), passes, self._discard_gradients)
        return found

    def _step(
        self, whole: Objective, rollouts: Rollouts, rows: list[int], rate: float, tally: Tally, iteration: int
    ) -> list[MicroBatch]:
        """One optimizer step on the given rows; returns this rank's micro-batches."""

        def passes(batches: list[MicroBatch]) -> tuple[float, Tally]:
            total, means = 0.0, Tally()
            count = max(1, distributed.all_reduce_max(len(batches)))  # momentum moves the weights without a gradient
            with self._updating(iteration):
                for number, (batch, real) in enumerate(self._passes(batches, count), start=1):
                    total += self._pass(whole, batch, means if real else None, last=number == count)
            return total, means

        batches, (total, means) = self.budget.take(
            lambda tokens: whole.micro_batches(rollouts, rows, budget=tokens, form=self.form),
            passes,
            self._discard_gradients,
        )
        norms = self._optimize(rate)
        if not all(map(math.isfinite, norms.values())):
            with self._updating(iteration):  # with the same dropout
                faulty = self._faulty(whole, batches)
            raise whole.not_finite("gradient", faulty, step=self.version + 1)
        share = torch.tensor(1 / distributed.world_size())  # a rank has a part of the loss, and the norm of the whole
        tally.merge(means)
        tally.add({_norm_metric(name): (torch.tensor(norm), torch.ones(())) for name, norm in norms.items()})
        tally.add({"loss": (torch.tensor(total), share), "update/seen": self.rounded_steps.seen()})
        return batches

    @contextlib.contextmanager
    def _updating(self, iteration: int) -> Iterator[None]:
        """Around the forward and backward passes of one optimizer step: checkpointing and LoRA's dropout are on."""
        seed = (self.seed, self.version, iteration, distributed.rank())
        dropout = lora_dropout(self.model, seed, self.device) if self.dropout else contextlib.nullcontext()
        with checkpointing(self.model), dropout:
            yield

    def _trained_logprobs(self, batch: MicroBatch) -> tuple[Tensor, Tensor]:
        """Log-probabilities and entropies without dropout; their gradient is that with LoRA's dropout. So no ratio
        contains its noise: with an exact sampler the first iteration's are 1."""
        temperature = self.settings.temperature
        if not self.dropout:
            return self._forward(self.model, batch, temperature=temperature)
        with torch.no_grad(), eval_mode(self.model):
            logprobs_N, entropies_N = self._forward(self.model, batch, temperature=temperature)
        noisy_N, noisy_entropies_N = self._forward(self.model, batch, temperature=temperature)
        if self.entropy_gradient:
            entropies_N = entropies_N + (noisy_entropies_N - noisy_entropies_N.detach())
        return logprobs_N + (noisy_N - noisy_N.detach()), entropies_N

    def _pass(self, whole: Objective | None, batch: MicroBatch, tally: Tally | None, *, last: bool) -> float:
        """Forward and backward pass; the loss. Without a tally it is a dummy pass, whose loss is 0."""
        logprobs_N, entropies_N = self._trained_logprobs(batch)
        if whole is None or tally is None:
            total = logprobs_N.sum() + entropies_N.sum() if self.entropy_gradient else logprobs_N.sum()
            self._backward(total * 0.0, last=last)
            return 0.0
        loss, means = whole(batch, logprobs_N, entropies_N)
        if not loss.isfinite():
            raise whole.not_finite("loss", [batch], step=self.version + 1)
        self._backward(loss, last=last)
        tally.add(means)
        return float(loss.detach())


def full_shape(parameter: Tensor) -> tuple[int, ...]:
    """The shape of a parameter, also where ZeRO keeps a part of it on each rank."""
    return tuple(getattr(parameter, "ds_shape", parameter.shape))


def _norm_metric(model: str) -> str:
    """The policy's is TRL's name."""
    return "grad_norm" if model == POLICY else f"grad_norm/{model}"
