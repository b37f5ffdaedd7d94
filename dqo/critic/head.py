"""critic=head: values from a linear layer on the policy's own hidden states."""

from collections.abc import Mapping
from typing import Annotated

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor
from torch.nn import Module
from transformers import PreTrainedModel

from dqo.critic.models.value_loss import NAMES, Clip, Rate, ValueLoss
from dqo.models.heads import ValueHead, head_width
from dqo.ranges import LearningRate, Seed


class HeadCritic:
    """A linear layer on the policy's last hidden states. It takes the memory of one row of the LM head and no pass of
    its own. The loss of its values, times ``vf_coef``, also moves the policy's weights."""

    on_policy = True
    warmup = 0
    names: tuple[str, ...] = NAMES

    def __init__(
        self,
        policy: PreTrainedModel,
        device: torch.device,
        *,
        vf_coef: Annotated[float, Field(gt=0, examples=[0.1])],
        learning_rate: LearningRate | None,
        policy_learning_rate: LearningRate,
        cliprange_value: Clip,
        seed: Seed,
    ):
        self._head = ValueHead(head_width(policy), seed=seed).to(device)
        self.rate = Rate(learning_rate, policy_learning_rate)
        self._coefficient, self._loss = vf_coef, ValueLoss(cliprange_value)

    def module(self) -> Module:
        """The layer."""
        return self._head

    def loss(
        self, values_N: Float[Tensor, " sampled"], **others: Float[Tensor, " sampled"]
    ) -> tuple[Float[Tensor, ""], Mapping[str, tuple[Tensor, Tensor]]]:
        """What is added to the policy's loss, and the metrics of the values' own loss."""
        loss, means = self._loss(values_N, **others)
        return self._coefficient * loss, means
