"""What flows between the stages: frozen records of CPU tensors.

Axes: P prompts · K completions of each · B = P*K rows, completion i of prompt p being row p*K + i · T tokens · D
embedding width. A field's suffix names its axes (``rewards_PK``), and ``batching`` cuts and joins records by that
suffix alone. A field has one meaning for life, and nothing is written into a record's tensors.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """One prompt, rendered once by its task. Example: position 17 of the seeded stream, "Recommend a city …"."""

    position: int  # in the task's stream: orders results, seeds sampling, is what a resumed run counts
    tokens: tuple[int, ...]  # what the model is given: chat template applied, length checked
    content: str | tuple[Mapping[str, Any], ...]  # text or chat messages, as a reward function sees it
    columns: Mapping[str, Any]  # the row's other fields (answer, concepts …): **columns of TRL's reward signature


@dataclass(frozen=True, kw_only=True)
class Rollouts:
    """The completions of some prompts. Example: 2 prompts, k = 3: ``tokens_BT`` is (6, T), rows 0-2 are prompt 0's.

    A row is the prompt, then the completion, then padding (token 0) behind ``lengths_B``.
    """

    prompts: tuple[Prompt, ...]
    k: int
    tokens_BT: Int[Tensor, "batch tokens"]
    sampled_BT: Bool[Tensor, "batch tokens"]  # False: prompt, padding, tool output of a multi-turn rollout
    logprobs_BT: Float[Tensor, "batch tokens"]  # nats, sampling policy at its temperature; 0.0 where not sampled
    lengths_B: Int[Tensor, " batch"]  # tokens of prompt and completion, end token included, padding not
    finished_B: Bool[Tensor, " batch"]  # False: cut by length
    versions_B: Int[Tensor, " batch"]  # learner updates behind the weights that sampled the row
    texts: tuple[str, ...]  # per row, for reward and embedder: no special tokens, nothing after the end


@dataclass(frozen=True, kw_only=True)
class Rewards:
    """What a reward stage says of every completion. Raw: no clipping, no normalisation."""

    total_PK: Float[Tensor, "prompts k"]  # weighted sum of the parts; 0.0 where invalid
    parts: Mapping[str, Float[Tensor, "prompts k"]]  # by name; NaN where a part does not apply (TRL's None)
    correct_PK: Bool[Tensor, "prompts k"] | None  # for gates and pass@n; None: this reward has no such notion
    valid_PK: Bool[Tensor, "prompts k"]  # False: failed under on_error=mask, or truncated and masked


@dataclass(frozen=True, kw_only=True)
class Experience:
    """A batch of groups, sampled, judged and credited: all that an advantage or a log needs."""

    rollouts: Rollouts
    rewards: Rewards
    embeddings_PKD: Float[Tensor, "prompts k dim"] | None  # unit length; None: the credit uses no meaning
    credits_PK: Float[Tensor, "prompts k"]  # nats for credit=dpp; 0.0 where invalid


@dataclass(frozen=True, kw_only=True)
class Estimates:
    """What only the learner's models know; None: the algorithm does not need it and nothing was computed."""

    old_logprobs_BT: Float[Tensor, "batch tokens"] | None = None  # nats, the policy before this step's update
    ref_logprobs_BT: Float[Tensor, "batch tokens"] | None = None  # nats, the reference of the KL term
    values_BT: Float[Tensor, "batch tokens"] | None = None  # a critic's, in units of reward


@dataclass(frozen=True, kw_only=True)
class Targets:
    """What the loss is built from."""

    advantages_BT: Float[Tensor, "batch tokens"]  # group methods repeat one number over a row; 0.0 where not sampled
    returns_BT: Float[Tensor, "batch tokens"] | None = None  # what a critic is trained on


@dataclass(frozen=True, kw_only=True)
class Step:
    """One finished step of the loop, as its observers see it."""

    number: int  # counts from 1
    cursor: int  # of the task's stream, behind the last prompt drawn for this step
    experience: Experience
    targets: Targets
    report: Mapping[str, float]  # the learner's own metrics: loss, entropy, kl, grad_norm …
    seconds: Mapping[str, float]  # wall time by stage; reward and embed overlap with rollout
