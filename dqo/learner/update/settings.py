"""The keys that every learner has."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from dqo.learner.update.rounding import Rounding
from dqo.models.precision import Dtype
from dqo.ranges import Count, Temperature


@dataclass(frozen=True, kw_only=True)
class LearnerSettings:
    """See conf/learner/torch_single.yaml."""

    temperature: Temperature  # of log-probabilities and entropies: the sampler's
    num_iterations: Count
    num_mini_batches: Count
    max_tokens_per_micro_batch: Annotated[Count | Literal["auto"], Field(examples=[1024])]
    shared_prompt: bool | Literal["auto"]
    gradient_checkpointing: bool
    compile: bool
    dtype: Dtype
    rounding: Rounding
    lora_r: Annotated[int | None, Field(ge=1, examples=[16])]
    lora_alpha: Annotated[int, Field(ge=1, examples=[32])]
    lora_dropout: Annotated[float, Field(ge=0, lt=1, examples=[0.05])]
    lora_target_modules: list[str] | Literal["all-linear"] | None
