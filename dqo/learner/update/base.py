"""What all learners share: estimates, the loss of a step over its micro-batches, the report. No engine in here.

Every public method is a collective: all ranks call it, with different and even empty batches, and each makes the same
number of forward passes, since an engine that shards parameters fetches them with collectives.
"""

import json
import logging
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import Parameter
from transformers import PreTrainedModel

from dqo import distributed
from dqo.errors import ConfigError, StageError
from dqo.learner.update import saved_state
from dqo.learner.update.compiling import compiled_graphs
from dqo.learner.update.forms import probe
from dqo.learner.update.logprobs import logit_rows
from dqo.learner.update.mini_batches import MiniBatch, mini_batches
from dqo.learner.update.objective import Objective, Tally, counts, objective, rows_to_train
from dqo.learner.update.packing import CRITIC, POLICY, MicroBatch
from dqo.learner.update.passes import Passes
from dqo.learner.update.peak import Peak
from dqo.learner.update.preparing import Model
from dqo.learner.update.reference import Reference
from dqo.learner.update.rounding import Rounding
from dqo.learner.update.settings import LearnerSettings
from dqo.learner.update.values import value_metrics
from dqo.models.precision import Dtype
from dqo.models.sizes import parameter_counts
from dqo.records import Estimates, Experience, Rollouts, Targets
from dqo.stages import Critic, Loss, Optim

log = logging.getLogger("dqo")


class Base(Passes):
    """The part of a learner that does not depend on its engine. An engine adds the forward and backward pass, the
    optimizer's step, and reading and writing its state.

    ``models`` holds each trained model under its name: "policy", "critic" where there is one, and what an engine's
    subclass adds. Gradient norms and saved states carry these names.

    A step without any valid completion takes no optimizer step and reports ``skipped_updates``; a step whose advantages
    are all zero takes it, as in TRL: momentum moves the weights. The learning rate follows the steps of the run, not
    those of the optimizer. Rows that the policy's gradient does not depend on get no pass where the loss allows it
    (``Loss.only_advantages``) and no other model learns in the policy's passes.
    """

    def __init__(
        self,
        policy: PreTrainedModel,
        device: torch.device,
        loss: Loss,
        optim: Optim,
        needs_reference: bool,
        critic: Critic | None,
        needs_old_logprobs: bool,
        settings: LearnerSettings,
    ):
        """``needs_reference``: loss or advantage ask for the reference's log-probabilities. An engine then sets
        ``reference`` before anything is trained. ``needs_old_logprobs``: the advantage asks for the policy's."""
        if settings.dtype is Dtype.FLOAT16:
            raise ConfigError("learner.dtype=float16: gradients would underflow; type learner.dtype=bfloat16 or auto")
        self.graphs_before = compiled_graphs()  # graphs of others in this process
        self.needs_reference, self.reference, self.needs_old_logprobs = needs_reference, None, needs_old_logprobs
        super().__init__(policy, device, loss, optim, critic, settings)

    reference: Reference | None  # the policy before its first update

    def _faulty(self, whole: Objective, batches: list[MicroBatch]) -> list[MicroBatch]:
        """The micro-batches that a non-finite gradient may come from."""
        return batches

    def estimate(self, rollouts: Rollouts) -> Estimates:
        """Old log-probabilities where several optimizer steps need them and this version sampled the rows, or loss or
        advantage ask for them; with entropies where the loss does; the reference's where it is kept; values where there
        is a critic. Otherwise nothing runs. A collective."""
        fresh = bool((rollouts.versions_B >= self.version).any())
        entropies = getattr(self.loss, "needs_old_logprobs", False)
        steps = self.settings.num_iterations * self.settings.num_mini_batches
        needed = entropies or self.needs_old_logprobs or (steps > 1 and distributed.all_reduce_max(fresh))
        old_BT = ref_BT = entropies_BT = values_BT = None
        if self.value_head is not None:
            old_BT, entropies_BT, values_BT = self._numbers(rollouts, self._outputs, 3)
        elif needed:
            old_BT, entropies_BT = self._logprobs(self.model, rollouts)
        if CRITIC in self.called:
            (values_BT,) = self._numbers(rollouts, lambda batch: (self._values(batch),), 1)
        if self.reference is not None:
            with self.reference.model() as reference:
                ref_BT, _ = self._logprobs(reference, rollouts)
        return Estimates(
            old_logprobs_BT=old_BT if needed else None, ref_logprobs_BT=ref_BT,
            entropies_BT=entropies_BT if entropies else None, values_BT=values_BT,
        )  # fmt: skip

    def update(self, experience: Experience, estimates: Estimates, targets: Targets) -> Mapping[str, float]:
        """The step's optimizer steps; returns its metrics. Raises StageError, before the optimizer's step, for a loss
        or a gradient that is not finite. A collective."""
        if self.critic is not None and targets.returns_BT is None:
            raise StageError("advantage", "it gives no returns_BT, which the critic is trained on (stages.Advantage)")
        rollouts, (rows, tokens), peak = experience.rollouts, counts(experience), Peak(self.device)
        whole = objective(self.loss, experience, estimates, targets, version=self.version, rows=rows, tokens=tokens)
        says = self.loss if len(self.models) == len(self.called) else None  # None: a model learns in policy's passes
        rates, tally, batches, skipped, taken = self._rates(), Tally(), list[MicroBatch](), 0, 0
        if not tokens:
            log.warning("step %d: no valid completion, no update", self.version + 1)
        else:
            measured = says if self.critic is None else None  # a critic learns from all valid rows
            self._measure_budget(rollouts, rows_to_train(measured, experience, targets)[0])
        iterations, parts = self.settings.num_iterations, self.settings.num_mini_batches
        for iteration in range(iterations if tokens else 0):
            batches, skipped, seed = [], 0, (self.seed, self.version, iteration)
            for part in mini_batches(whole, experience, targets, says, number=parts, seed=seed):
                skipped += part.skipped
                if part.objective.tokens:
                    batches += self._step(part, rollouts, rates, tally, number=taken)
                    taken += 1
        metrics = {
            **self._means(tally),
            "learning_rate": rates.get(POLICY, 0.0),
            "trained_tokens": float(tokens),
            "skipped_updates": 1 - taken / (iterations * parts),
            **self._pass_metrics(batches, skipped),
            **peak.metric(),
        }
        self.version += 1
        if self.critic is None:
            return metrics
        assert estimates.values_BT is not None and whole.returns_BT is not None
        values = value_metrics(estimates.values_BT, whole.returns_BT, experience.counted_BT)
        return {**metrics, "learning_rate/critic": rates[CRITIC], **values}

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
        found = sorted(path.name for path in folder.iterdir() if path.is_dir())
        if found != sorted(self.models):
            raise ConfigError(
                f"resume: {folder} has the models {', '.join(found) or '(none)'}, and this run trains "
                f"{', '.join(self.models)}: it was written with another critic=, or by another version of dqo; resume "
                "with the same critic=, or start a new run with run_dir=ANOTHER_FOLDER"
            )
        for name in self.models:
            shapes = {key: full_shape(parameter) for key, parameter in self.trained_parameters(name).items()}
            self._restore(name, saved_state.Saved(folder / name, shapes))
        state = json.loads((folder / "learner.json").read_text())
        self.version = state["version"]
        self.budget.load(state.get("micro_batches", {}))  # an older dqo did not save them

    def memory(self) -> dict[str, int]:
        """Bytes on one rank's device without activations, by what they are for, a critic's included."""
        modules = [*self.called.values(), *([] if self.value_head is None else [self.value_head])]
        total, trained = (sum(numbers) for numbers in zip(*map(parameter_counts, modules), strict=True))
        rows, head = self.budget.tokens, self._head_of(self.model)
        rows = rows if head is None else min(rows, logit_rows(head))
        logits = rows * self.policy.config.get_text_config().vocab_size
        lost_bits = 2 * trained * (self.rounded_steps.rounding is Rounding.DITHERED)
        held = {"weights": 4 * total, "gradients": 4 * trained, "optimizer": 8 * trained + lost_bits}
        copied = self.reference is not None and self.reference.copy is not None
        reference = {"reference": 4 * parameter_counts(self.model)[0]} if copied else {}
        return held | reference | {"logits of a micro-batch": 4 * logits}

    def checkpoint_bytes(self) -> int:
        """Bytes that ``save`` writes: fp32 weights and AdamW's two moments."""
        return sum(12 * parameter_counts(model)[1] for model in self.models.values())

    def trained_parameters(self, name: str) -> dict[str, Parameter]:
        """The parameters of a model that require a gradient, by name."""
        return {key: parameter for key, parameter in self.models[name].named_parameters() if parameter.requires_grad}

    def _rates(self) -> dict[str, float]:
        """The learning rate of each model that this step trains."""
        rate = self.optim.rate(self.version)
        rates = dict.fromkeys(self.models, rate)
        if self.critic is not None:
            rates[CRITIC] = self.critic.rate(rate)
            if self.version < self.critic.warmup:
                del rates[POLICY]
        return rates

    def _means(self, tally: Tally) -> dict[str, float]:
        """The step's tallied metrics over all ranks. A collective."""
        norms, critics = map(_norm_metric, self.models), self.critic.names if self.critic else ()
        means = tally.over_all_ranks().means(("loss", "entropy", "update/seen", *self.loss.names, *norms, *critics))
        self.rounded_steps.warn(means["update/seen"])
        return means

    def _pass_metrics(self, batches: list[MicroBatch], skipped: int) -> dict[str, float]:
        """What the passes of the step's last iteration took, over all ranks. A collective."""
        computed = [sum(batch.padding for batch in batches), sum(batch.tokens_RL.numel() for batch in batches)]
        mine = [*computed, skipped, self.budget.new_failures()]
        padding, size, skips, failures = distributed.all_reduce_sum(mine)
        return {
            "micro_batches": float(distributed.all_reduce_max(len(batches))),
            "padding_share": padding / size if size else math.nan,
            "update/skipped_rows": float(skips),
            "update/out_of_memory": float(failures),
            "update/compiled_graphs": float(distributed.all_reduce_max(compiled_graphs() - self.graphs_before)),
        }

    def _measure_budget(self, rollouts: Rollouts, rows: list[int]) -> None:
        """Trial passes of the longest sequences, where the memory was not measured yet and any rank has rows; their
        loss is 0, and so is what they add to the gradients. A collective."""
        if self.budget.is_measured or not distributed.all_reduce_max(len(rows)):
            return
        tiny = probe(self.form)

        def run(batch: MicroBatch) -> None:
            for name in self.called:
                self._pass(None, replace(batch, model=name), None, last=False)

        with self._updating(0):
            self.budget.measure(
                lambda tokens: self._micro_batches(rollouts, rows, tokens) or [tiny],
                run,
                self._discard_gradients,
                first=tiny,
                to_come=0 if self.version else self.memory().get("optimizer", 0),
            )

    def _logprobs(self, model: Model, rollouts: Rollouts, *, temperature: float | None = None) -> list[Tensor]:
        """Log-probabilities of the sampled tokens and entropies of their distributions, (B, T), without dropout."""
        temperature = temperature or self.settings.temperature
        return self._numbers(rollouts, lambda batch: self._forward(model, batch, temperature=temperature), 2)

    def _step(
        self, part: MiniBatch, rollouts: Rollouts, rates: Mapping[str, float], tally: Tally, *, number: int
    ) -> list[MicroBatch]:
        """The optimizer step of this number of the batch; returns this rank's micro-batches."""
        whole, names = part.objective, [name for name in self.called if name in rates]

        def pack(tokens: int) -> list[MicroBatch]:
            batches = whole.micro_batches(rollouts, part.rows, budget=tokens, form=self.form)
            others = self._micro_batches(rollouts, part.valid, tokens) if CRITIC in names else []
            return [*(batches if POLICY in names else []), *(replace(batch, model=CRITIC) for batch in others)]

        def passes(batches: list[MicroBatch]) -> tuple[float, Tally]:
            total, means = 0.0, Tally()
            with self._updating(number):
                for name in names:
                    mine = [batch for batch in batches if batch.model == name]
                    count = max(1, distributed.all_reduce_max(len(mine)))  # momentum moves weights without a gradient
                    for index, (batch, real) in enumerate(self._passes(name, mine, count), start=1):
                        total += self._pass(whole, batch, means if real else None, last=index == count)
            return total, means

        batches, (total, means) = self.budget.take(pack, passes, self._discard_gradients)
        self._take_step(whole, batches, rates, tally, number=number)
        share = torch.tensor(1 / distributed.world_size())  # a rank has a part of the loss, and the norm of the whole
        tally.merge(means)
        if POLICY in names:
            tally.add({"loss": (torch.tensor(total), share)})
        tally.add({"update/seen": self.rounded_steps.seen()})
        return batches

    def _take_step(
        self, whole: Objective, batches: list[MicroBatch], rates: Mapping[str, float], tally: Tally, *, number: int
    ) -> None:
        """The optimizers' steps. Raises StageError, before any, for a gradient that is not finite."""
        norms = self._optimize(rates)
        broken = [name for name, norm in norms.items() if not math.isfinite(norm)]
        if broken:
            own = [batch for batch in batches if batch.model in broken] or batches
            with self._updating(number):  # with the same dropout
                faulty = self._faulty(whole, own)
            what = "gradient" if POLICY in broken else f"{broken[0]}'s gradient"
            raise whole.not_finite(what, faulty, step=self.version + 1)
        tally.add({_norm_metric(name): (torch.tensor(norm), torch.ones(())) for name, norm in norms.items()})


def full_shape(parameter: Tensor) -> tuple[int, ...]:
    """The shape of a parameter, also where ZeRO keeps a part of it on each rank."""
    return tuple(getattr(parameter, "ds_shape", parameter.shape))


def _norm_metric(model: str) -> str:
    """The policy's is TRL's name."""
    return "grad_norm" if model == POLICY else f"grad_norm/{model}"
