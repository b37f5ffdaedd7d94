"""The keys of sampling, which every engine has."""

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from dqo.ranges import CompletionLength, Temperature


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """See conf/rollout/hf.yaml."""

    temperature: Temperature
    top_p: Annotated[float, Field(gt=0, le=1, examples=["1.0"])]
    top_k: Annotated[int, Field(ge=0)]  # 0: all tokens
    min_p: Annotated[float, Field(ge=0, lt=1, examples=["0.0"])]  # 0: all tokens
    repetition_penalty: Annotated[float, Field(gt=0, examples=["1.0"])]
    max_completion_length: CompletionLength  # tokens
    stop_tokens: list[str]

    @property
    def filters(self) -> bool:
        """Whether tokens are not drawn from the model's own distribution at the temperature."""
        return self.top_p < 1 or self.top_k > 0 or self.min_p > 0 or self.repetition_penalty != 1
