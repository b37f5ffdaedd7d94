"""optim=adamw: AdamW with transformers' schedules, as the Hugging Face Trainer sets it up."""

import math
import re
from collections.abc import Iterable
from enum import StrEnum

import torch
from torch.nn import Parameter
from transformers import get_scheduler

from dqo.errors import ConfigError

_WITHOUT_DECAY = re.compile(r"bias|layernorm|rmsnorm|(?:^|[._])norm(?:$|\.)", re.IGNORECASE)


class Schedule(StrEnum):
    """transformers' names: how the learning rate goes after its warm-up (TRL's ``lr_scheduler_type``)."""

    constant = "constant"  # without a warm-up
    constant_with_warmup = "constant_with_warmup"
    linear = "linear"
    cosine = "cosine"
    inverse_sqrt = "inverse_sqrt"


class AdamW:
    """Makes the optimizer of a run, and says its learning rate: a function of the step alone, so that a resumed run and
    a step that had nothing to learn need no more state."""

    def __init__(
        self,
        *,
        learning_rate: float,
        adam_beta1: float,
        adam_beta2: float,
        adam_epsilon: float,
        weight_decay: float,
        max_grad_norm: float | None,
        lr_scheduler_type: Schedule,
        warmup_steps: int,
        steps: int,
    ):
        for key, beta in (("adam_beta1", adam_beta1), ("adam_beta2", adam_beta2)):
            if not 0 <= beta < 1:
                raise ConfigError(f"optim.{key}={beta}: 0 to below 1 is allowed; type optim.{key}=0.9")
        sizes = {"learning_rate": learning_rate, "adam_epsilon": adam_epsilon, "weight_decay": weight_decay}
        for key, value in sizes.items():
            if not (math.isfinite(value) and value >= 0):
                raise ConfigError(f"optim.{key}={value}: a finite number of 0 or more is needed; type optim.{key}=0")
        if max_grad_norm is not None and not max_grad_norm > 0:
            raise ConfigError(
                f"optim.max_grad_norm={max_grad_norm}: a number above 0 is needed; type optim.max_grad_norm=1.0, "
                "or null for no clipping"
            )
        if warmup_steps < 0:
            raise ConfigError(f"optim.warmup_steps={warmup_steps}: 0 or more is needed; type optim.warmup_steps=0")
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
        """The optimizer of the named parameters that require a gradient; norms and biases do not decay."""
        trained = [(name, parameter) for name, parameter in parameters if parameter.requires_grad]
        decay = [parameter for name, parameter in trained if not _WITHOUT_DECAY.search(name)]
        spared = [parameter for name, parameter in trained if _WITHOUT_DECAY.search(name)]
        groups = [{"params": decay, "weight_decay": self.weight_decay}, {"params": spared, "weight_decay": 0.0}]
        fused = all(parameter.device.type in ("cpu", "cuda") for _, parameter in trained)
        return torch.optim.AdamW(
            [group for group in groups if group["params"]],
            lr=self.rate(0), betas=self.betas, eps=self.epsilon, fused=fused,
        )  # fmt: skip

    def rate(self, step: int) -> float:
        """The learning rate of the update that follows ``step`` finished steps of the run."""
        return self.learning_rate * self._factor(step)
