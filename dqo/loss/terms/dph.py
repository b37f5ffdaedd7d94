"""Term ``dph``: the policy keeps giving the initial policy's right answers."""

from collections.abc import Mapping
from typing import Annotated

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from dqo import distributed
from dqo.loss.exemplars.batch import Exemplars, batch, correct_completions
from dqo.ranges import Count
from dqo.records import Experience, LossInputs, Prompt, Supervised
from dqo.references import References


class Dph:
    """Forward KL of DPH-RL (arXiv 2509.07430): -coefficient * mean of log policy over the tokens of the reference's
    correct completions of the step's prompts. Its gradient is that of KL(reference || policy), with the reference's
    wrong completions left out.

    The completions are sampled before the first step, so no reference model is kept. DPH-RL uses prompts that the
    reference always solves (``least_correct=1``) and gives these no other loss; here they keep the policy's.
    """

    names = ("dph/completions",)
    only_advantages = True  # adds nothing to the loss of the step's own completions
    needs_correct = True

    def __init__(
        self,
        references: References,
        *,
        coefficient: Annotated[float, Field(gt=0, examples=[0.02])],
        reference_samples: Count,
        least_correct: Annotated[float, Field(ge=0, le=1, examples=[0.0])],
    ):
        references.need(reference_samples)
        self.references, self.samples = references, reference_samples
        self.coefficient, self.least_correct = coefficient, least_correct
        self.completions = 0  # that the step learns from, on all ranks

    def supervised(self, experience: Experience) -> Supervised | None:
        """The reference's correct completions of this rank's prompts. A collective."""
        prompts = experience.rollouts.prompts
        found = [self._correct(prompt) for prompt in prompts]
        counts = [sum(map(len, found)), sum(len(tokens) for completions in found for tokens in completions)]
        completions, tokens = distributed.all_reduce_sum(counts)
        self.completions, weight = int(completions), self.coefficient / max(tokens, 1)
        pairs = zip(prompts, found, strict=True)
        return batch([Exemplars(prompt=each, completions=own, weights=[weight] * len(own)) for each, own in pairs])

    def __call__(self, inputs: LossInputs) -> tuple[Float[Tensor, ""], Mapping[str, tuple[Tensor, Tensor]]]:
        """0: the reference's completions are no part of the step's."""
        number = torch.tensor(float(self.completions)), torch.ones(())
        return inputs.logprobs_N.new_zeros(()), {"dph/completions": number}

    def _correct(self, prompt: Prompt) -> list[list[int]]:
        reference = self.references.of(prompt)
        (rows,) = correct_completions(reference.rollouts, reference.rewards, key="loss.terms.dph")
        found = [tokens for row, tokens in rows if row < self.samples]  # a credit may have asked for more
        return found if len(found) >= self.least_correct * self.samples else []
