"""What a rollout may offer so that one start of an engine serves several decodings and policies; optional, as
Protocols."""

from typing import Protocol, runtime_checkable

from transformers import PreTrainedModel, PreTrainedTokenizerBase


@runtime_checkable
class Redecoding(Protocol):
    """A rollout that can sample with other settings without being built anew."""

    def set_decoding(self, **settings: int | float) -> None:
        """Sample with these from now on: temperature (0: greedy), top_p, top_k, min_p; what is not named stays. Not a
        collective."""
        ...


@runtime_checkable
class Adopting(Protocol):
    """A rollout whose engine can take another policy, and of which a process can hold one alone."""

    def adopt(self, policy: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> bool:
        """Sample from another policy from now on. False, and nothing has changed, where this engine cannot hold it. A
        collective."""
        ...
