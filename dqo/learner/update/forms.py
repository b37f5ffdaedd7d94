"""The form in which a model takes micro-batches (see ``packing``): found by trying it before anything is trained."""

import contextlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from subprocess import SubprocessError
from typing import Literal

import torch
from jaxtyping import Float
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel

from dqo.errors import ConfigError
from dqo.learner.update.logprobs import token_logprobs
from dqo.learner.update.packing import Form, MicroBatch, micro_batches
from dqo.learner.update.values import token_values
from dqo.models.attention import FLEX_BLOCK, layer_kinds, use_dqo_attention
from dqo.models.probing import (
    BFLOAT16_TOLERANCE,
    MODEL_ERRORS,
    finite_range,
    largest_difference,
    model_fault,
    probe_precision,
)
from dqo.progress import elapsed
from dqo.records import Prompt, Rollouts

OTHER_MODEL = "type model.path=FOLDER of another model"

log = logging.getLogger(__name__)


# What a compiler of kernels may raise besides: it starts programs and writes files.
KERNEL_ERRORS = (*MODEL_ERRORS, OSError, SubprocessError)
ROUNDING = 1e-5  # the least tolerance, as a share of the size: outputs that are all alike differ by float32's rounding
GRADIENT_FACTOR = 10  # the tolerance of gradients over that of log-probabilities: rounding adds up in the backward pass


# Two prompts of 3 and 5 tokens, each with completions of 4 and 2: every form but ``SINGLE`` has padding.
PROBE = Rollouts(
    prompts=tuple(Prompt(position=0, tokens=tokens, content="", columns={}) for tokens in ((3, 4, 5), (9, 8, 7, 6, 5))),
    k=2,
    tokens_BT=torch.tensor([[3, 4, 5, 6, 7, 8, 9, 0, 0], [3, 4, 5, 8, 9, 0, 0, 0, 0],
                            [9, 8, 7, 6, 5, 4, 4, 3, 6], [9, 8, 7, 6, 5, 3, 8, 0, 0]]),
    sampled_BT=torch.tensor([[False] * start + [True] * count + [False] * (9 - start - count)
                             for start, count in ((3, 4), (3, 2), (5, 4), (5, 2))]),
    logprobs_BT=torch.zeros(4, 9),
    lengths_B=torch.tensor([7, 5, 9, 7]),
    finished_B=torch.tensor([True] * 4),
    versions_B=torch.tensor([0] * 4),
    texts=("",) * 4,
)  # fmt: skip
# What is logged where a model takes no faster form.
CONSEQUENCES = {
    Form.PLAIN: "a group's prompt is computed once per completion",
    Form.MASKED: "attention gets a mask over padding, which rules out the fastest kernels",
    Form.SINGLE: "completions are computed one by one, without padding",
}


@torch.no_grad()
def fastest_form(
    model: PreTrainedModel,
    device: torch.device,
    *,
    shared_prompt: bool | Literal["auto"],
    bf16: bool,
    values: bool = False,
) -> Form:
    """The fastest form that gives the same log-probabilities as one forward pass per sequence. If that shares prompts,
    the model uses dqo's attention afterwards. Logs one line if it is not the form that was asked for.

    ``bf16``: the model will be trained in bfloat16. ``values``: it is a critic, whose values are compared. Raises
    ConfigError where ``shared_prompt`` is True and the model cannot take it, and where no form is right.
    """
    name, reason = type(model).__name__, None
    with probe_precision(model) as share:
        expected_BT, tolerance = _expected(model, device, share, values=values)
        for form in (*([Form.SHARED] if shared_prompt else []), Form.PLAIN, Form.MASKED, Form.SINGLE):
            problem = _problem(model, device, form, expected_BT, tolerance, values=values)
            if problem is None:
                break
            if form is Form.SHARED and shared_prompt is True:
                raise ConfigError(f"learner.shared_prompt=true: {name} {problem}; type learner.shared_prompt=auto")
            reason = problem
        else:
            raise ConfigError(f"learner: {name} {reason}; {OTHER_MODEL}")
    if reason is not None:
        log.info("learner: %s %s; %s", name, reason, CONSEQUENCES[form])
    if form is Form.SHARED and device.type == "cuda":
        return _flex_if_right(model, device, bf16=bf16, values=values)
    return form


def weaker(one: Form, other: Form) -> Form:
    """Of two forms the one that needs less of a model."""
    return max(one, other, key=list(Form).index)


def _flex_if_right(model: PreTrainedModel, device: torch.device, *, bf16: bool, values: bool = False) -> Form:
    """``FLEX`` if its kernel can be compiled here and gives what ``SHARED`` gives, else ``SHARED`` and a log line."""
    name = type(model).__name__
    with elapsed("learner: compiling the attention of shared prompts"):
        expected = Trial.of(model, Form.SHARED, device, bf16=bf16, values=values)
        problem = expected.problem(lambda: Trial.of(model, Form.FLEX, device, bf16=bf16, values=values))
    if problem is None:
        return Form.FLEX
    log.info("learner: flex attention of %s %s; shared prompts take a slower kernel", name, problem)
    return Form.SHARED


@dataclass(frozen=True)
class Trial:
    """One forward and backward pass of a small micro-batch in the precision of training."""

    outputs_N: Float[Tensor, " sampled"]  # log-probabilities, or a critic's values
    # of a sum of the outputs with different weights, by the embeddings of the tokens at which they are computed
    gradients_ND: Float[Tensor, "sampled width"]
    tolerance: float  # see ``probe_precision``
    values: bool = False  # of a critic

    @classmethod
    def of(
        cls,
        model: PreTrainedModel | PeftModel,
        form: Form,
        device: torch.device,
        *,
        bf16: bool,
        values: bool = False,
    ) -> "Trial":
        """Parameters get no gradients: only that of the embeddings is computed."""
        batch = probe(form)
        with torch.enable_grad(), probe_precision(model) as share, _embeddings(model) as embeddings:
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16 or torch.is_autocast_enabled(device.type)):
                outputs_N = _outputs(model, batch, device, values=values)
            weights_N = torch.linspace(-1, 1, len(outputs_N), device=device)
            (gradients_RLD,) = torch.autograd.grad(outputs_N @ weights_N, embeddings)
        gradients_ND = gradients_RLD.float().cpu()[batch.sequences_N, batch.sources_N]
        tolerance = max(share, BFLOAT16_TOLERANCE if bf16 else 0.0)
        return cls(outputs_N.detach().cpu(), gradients_ND, tolerance, values)

    def problem(self, other: Callable[[], "Trial"]) -> str | None:
        """What is wrong with ``other``, which should give the same; None: nothing."""
        try:
            given = other()
        except KERNEL_ERRORS as error:
            return f"cannot be computed ({model_fault(error)})"
        difference = largest_difference(given.outputs_N, self.outputs_N)
        if not difference <= self.tolerance * max(finite_range(self.outputs_N), 1.0):
            return _off(difference, values=self.values)
        difference = float((given.gradients_ND - self.gradients_ND).norm() / self.gradients_ND.norm())
        if not difference <= self.tolerance * GRADIENT_FACTOR:
            return f"gives gradients that are {difference:.2g} of their length off"
        return None


@contextlib.contextmanager
def _embeddings(model: PreTrainedModel | PeftModel) -> Iterator[list[Tensor]]:
    """The embeddings of the model's tokens in passes within the block, as leaves to compute gradients of."""
    leaves: list[Tensor] = []

    def replace_output(module: torch.nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        leaves.append(output.detach().requires_grad_())
        return leaves[-1]

    handle = model.get_input_embeddings().register_forward_hook(replace_output)
    try:
        yield leaves
    finally:
        handle.remove()


def probe(form: Form) -> MicroBatch:
    """A small micro-batch to try a model with, or for a forward pass that only keeps other ranks company."""
    return _probes(form)[0]


def _outputs(
    model: PreTrainedModel | PeftModel, batch: MicroBatch, device: torch.device, *, values: bool
) -> Float[Tensor, " sampled"]:
    if values:
        return token_values(model, batch, device=device)
    return token_logprobs(model, batch, temperature=1.0, device=device)[0]


def _problem(
    model: PreTrainedModel,
    device: torch.device,
    form: Form,
    expected_BT: Tensor,
    tolerance: float,
    *,
    values: bool,
) -> str | None:
    """Why a model does not take a form; None: it does."""
    if form is Form.SHARED:
        if kinds := layer_kinds(model) - {"full_attention"}:
            return f"has {', '.join(sorted(kinds))}, which shared prompts would switch off"
        if not use_dqo_attention(model):
            attention = model.config._attn_implementation
            own = " in a way of its own" if attention == "sdpa" else ""
            return f"uses {attention} attention{own}, which cannot share prompts"
    given_BT = torch.zeros_like(expected_BT)
    try:
        for batch in _probes(form):
            given_BT[batch.rows_N, batch.columns_N] = _outputs(model, batch, device, values=values).cpu()
    except MODEL_ERRORS as error:
        return f"cannot take the {form} form of micro-batches ({model_fault(error)})"
    difference = largest_difference(given_BT, expected_BT)
    if difference <= tolerance:
        return None
    return f"{_off(difference, values=values)} in the {form} form of micro-batches"


def _off(difference: float, *, values: bool) -> str:
    return (
        f"gives {'values' if values else 'log-probabilities'} that are {difference:.2g} {'' if values else 'nats '}off"
    )


def _expected(
    model: PreTrainedModel, device: torch.device, share: float, *, values: bool
) -> tuple[Float[Tensor, "batch tokens"], float]:
    """Log-probabilities or values of the sampled tokens of ``PROBE`` from one forward pass per row, on the CPU, and how
    far off they may be: ``share`` of the range of all tokens' log-probabilities, or of all values, at least their
    rounding. Raises ConfigError for a model that cannot be called."""
    expected_BT, tolerance = torch.zeros_like(PROBE.logprobs_BT), 0.0
    for b, length in enumerate(PROBE.lengths_B.tolist()):
        tokens_1T = PROBE.tokens_BT[b : b + 1, :length].to(device)
        try:
            logits_TV = model(input_ids=tokens_1T, use_cache=False).logits[0].float()
        except MODEL_ERRORS as error:
            name = type(model).__name__
            raise ConfigError(f"learner: {name} cannot be computed ({model_fault(error)}); {OTHER_MODEL}") from error
        outputs_TV = logits_TV if values else logits_TV.log_softmax(-1)
        picked_T1 = outputs_TV[:-1, :1] if values else outputs_TV[:-1].gather(1, tokens_1T[0, 1:, None])
        expected_BT[b, 1:length] = picked_T1[:, 0].cpu()
        size = float(picked_T1.nan_to_num(0.0, 0.0, 0.0).abs().max())
        tolerance = max(tolerance, share * finite_range(outputs_TV), ROUNDING * size)
    return expected_BT.where(PROBE.sampled_BT, 0.0), tolerance


def _probes(form: Form) -> list[MicroBatch]:
    """``PROBE`` in this form."""
    return micro_batches(PROBE, range(len(PROBE.texts)), budget=2 * FLEX_BLOCK, form=form)
