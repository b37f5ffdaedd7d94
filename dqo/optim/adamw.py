"""optim=adamw: AdamW with transformers' schedules, set up like in the Hugging Face Trainer."""

import re
from collections.abc import Iterable
from enum import StrEnum
from typing import Annotated

import torch
from pydantic import Field
from torch.nn import Parameter
from transformers import get_scheduler

from dqo.errors import ConfigError
from dqo.ranges import Count, CountOrZero, LearningRate

_WITHOUT_DECAY = re.compile(r"bias|layernorm|rmsnorm|(?:^|[._])norm(?:$|\.)", re.IGNORECASE)


class Schedule(StrEnum):
    """Learning-rate schedule after the warm-up, with transformers' names (TRL's ``lr_scheduler_type``)."""

    constant = "constant"  # without a warm-up
    constant_with_warmup = "constant_with_warmup"
    linear = "linear"
    cosine = "cosine"
    inverse_sqrt = "inverse_sqrt"


class AdamW:
    """Makes optimizers and gives the learning rate. The rate is a function of the step alone, so the schedule has no
    state: resumed runs and skipped updates need nothing else."""

    def __init__(
        self,
        *,
        learning_rate: LearningRate,
        adam_beta1: Annotated[float, Field(ge=0, lt=1, examples=[0.9])],
        adam_beta2: Annotated[float, Field(ge=0, lt=1, examples=[0.999])],
        adam_epsilon: Annotated[float, Field(ge=0, examples=["1e-8"])],
        weight_decay: Annotated[float, Field(ge=0)],
        max_grad_norm: Annotated[float | None, Field(gt=0, examples=["1.0"])],
        lr_scheduler_type: Schedule,
        warmup_steps: CountOrZero,
        steps: Count,
    ):
        if warmup_steps and lr_scheduler_type == Schedule.constant:
            raise ConfigError(
                f"optim.warmup_steps={warmup_steps}: the schedule constant has no warm-up; "
                "type optim.lr_scheduler_type=constant_with_warmup"
            )
        self.learning_rate, self.betas, self.epsilon = learning_rate, (adam_beta1, adam_beta2), adam_epsilon
        self.weight_decay, self.max_grad_norm = weight_decay, max_grad_norm
        scratch = torch.optim.SGD([torch.zeros(1)], lr=1.0)
        schedule = get_scheduler(lr_scheduler_type.value, scratch, warmup_steps, steps)
        self._factor = schedule.lr_lambdas[0]  # type: ignore[union-attr]

    def make(self, parameters: Iterable[tuple[str, Parameter]]) -> torch.optim.AdamW:
        """AdamW over the named parameters that require a gradient; norms and biases have no weight decay."""
        trained = [(name, parameter) for name, parameter in parameters if parameter.requires_grad]
        decay = [parameter for name, parameter in trained if not _WITHOUT_DECAY.search(name)]
        no_decay = [parameter for name, parameter in trained if _WITHOUT_DECAY.search(name)]
        groups = [{"params": decay, "weight_decay": self.weight_decay}, {"params": no_decay, "weight_decay": 0.0}]
        fused = all(parameter.device.type in ("cpu", "cuda") for _, parameter in trained)
        return torch.optim.AdamW(
            [group for group in groups if group["params"]],
            lr=self.rate(0), betas=self.betas, eps=self.epsilon, fused=fused,
        )  # fmt: skip

    def rate(self, step: int) -> float:
        """Learning rate of the update that follows ``step`` finished steps of the run."""
        return self.learning_rate * self._factor(step)
