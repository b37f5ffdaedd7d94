"""The keys that say when two completions are the same."""

from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Annotated

from pydantic import Field

from dqo.chat import Endpoint
from dqo.errors import ConfigError
from dqo.ranges import Count
from dqo.services import Calls


class Sameness(StrEnum):
    """What says that two completions are the same."""

    key = "key"  # equal ``Task.key``
    embedding = "embedding"  # a cosine of at least ``similarity``
    judge = "judge"  # a language model, asked about each pair


@dataclass(frozen=True, kw_only=True)
class Comparison(Calls):
    """What says that two completions are the same, and the judge's endpoint. Raises ConfigError for ``by=judge``
    without a judge, and for a judge without ``by=judge``."""

    by: Sameness
    similarity: Annotated[float, Field(ge=-1, le=1, examples=[0.8])]
    base_url: str | None
    model: str | None
    max_tokens: Annotated[Count, Field(examples=[64])]

    def __post_init__(self):
        given = {"base_url": self.base_url, "model": self.model}
        for key, value in given.items():
            if self.by == Sameness.judge and value is None:
                raise ConfigError(
                    f"credit.{key}=null: credit.by=judge asks a language model; type credit.base_url=URL "
                    "credit.model=NAME"
                )
            if self.by != Sameness.judge and value is not None:
                raise ConfigError(
                    f"credit.{key}={value}: credit.by={self.by} has no use for it; type credit.by=judge, or "
                    f"credit.{key}=null"
                )

    @property
    def endpoint(self) -> Endpoint:
        """The judge's, for ``by=judge``."""
        assert self.base_url is not None and self.model is not None
        return Endpoint(**{field.name: getattr(self, field.name) for field in fields(Endpoint)})
