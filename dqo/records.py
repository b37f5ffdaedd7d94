"""The records that stages pass to one another: frozen dataclasses of CPU tensors.

Axes: P prompts; K completions of each prompt; B = P * K rows, where row p * K + i is completion i of prompt p; T
tokens; D embedding size; N sampled tokens. A field's suffix names its axes (``total_PK``), its metadata says how
``batching`` cuts and joins it (``Along``). A field keeps one meaning through the whole loop. Never write into a
record's tensors: copy them.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from dqo.answers.emptiness import is_empty


class Along(Enum):
    """The axis along which ``batching`` cuts a field into groups and joins it again."""

    PROMPTS = "prompts"  # one entry per prompt
    ROWS = "rows"  # one entry per completion
    TOKENS = "rows, then tokens"  # one row per completion, padded to the longest; the padding is 0
    RECORD = "record"  # another record, cut by its own fields
    SHARED = "shared"  # one value for all; only records with equal values can be joined


# Metadata of a record's fields. A subclass of a record must mark its own fields too:
# messages: tuple[list, ...] = field(metadata=PER_ROW)
PER_PROMPT, PER_ROW, PER_TOKEN = {"along": Along.PROMPTS}, {"along": Along.ROWS}, {"along": Along.TOKENS}
RECORD, SHARED = {"along": Along.RECORD}, {"along": Along.SHARED}


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """One prompt, rendered by its task. Example: position 17 of the seeded stream, "Recommend a city …"."""

    position: int  # index in the task's stream; results are ordered by it and sampling is seeded with it
    tokens: tuple[int, ...]  # input of the model: chat template applied, length checked
    content: str | tuple[Mapping[str, Any], ...]  # text or chat messages, as a reward function gets them
    columns: Mapping[str, Any]  # other fields of the data row (answer …): keyword arguments of a reward function

    @property
    def text(self) -> str:
        """The prompt for display and for files; of a conversation a line ``role: content`` for each message, with its
        tool calls as JSON."""
        if isinstance(self.content, str):
            return self.content
        return "\n".join(f"{message['role']}: {_said(message)}" for message in self.content)

    @property
    def prefill(self) -> str:
        """The assistant's words at the end of the prompt, with which every completion begins; mostly empty."""
        last = {} if isinstance(self.content, str) else self.content[-1]
        return (last.get("content") or "") if last.get("role") == "assistant" else ""


def _said(message: Mapping[str, Any]) -> str:
    content, calls = message.get("content"), message.get("tool_calls")
    said = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False) if content else ""
    return " ".join(filter(None, [said, json.dumps(calls, ensure_ascii=False) if calls else ""]))


@dataclass(frozen=True, kw_only=True)
class Rollouts:
    """k completions of each of some prompts. Example: 2 prompts, k = 3: ``tokens_BT`` is (6, T), rows 0-2 belong to
    prompt 0.

    A row holds the prompt, then the completion, then padding (token 0) from index ``lengths_B`` on.
    """

    prompts: tuple[Prompt, ...] = field(metadata=PER_PROMPT)
    k: int = field(metadata=SHARED)
    tokens_BT: Int[Tensor, "batch tokens"] = field(metadata=PER_TOKEN)
    sampled_BT: Bool[Tensor, "batch tokens"] = field(metadata=PER_TOKEN)  # False: prompt, padding, tool output
    logprobs_BT: Float[Tensor, "batch tokens"] = field(metadata=PER_TOKEN)  # nats, sampler's; 0.0 where not sampled
    lengths_B: Int[Tensor, " batch"] = field(metadata=PER_ROW)  # tokens of prompt and completion, end token included
    finished_B: Bool[Tensor, " batch"] = field(metadata=PER_ROW)  # False: truncated at max_completion_length
    versions_B: Int[Tensor, " batch"] = field(metadata=PER_ROW)  # number of updates in the weights that sampled it
    texts: tuple[str, ...] = field(metadata=PER_ROW)  # for reward and encoder: no special tokens, nothing after the end

    @property
    def empty_PK(self) -> Bool[Tensor, "prompts k"]:
        """True where there is nothing to read in a text: such a completion differs from all others, and earns nothing
        for that."""
        rows = [is_empty(text) for text in self.texts]
        return torch.tensor(rows, dtype=torch.bool).view(len(self.prompts), self.k)

    def token_means(self, values_BT: Float[Tensor, "batch tokens"]) -> Float[Tensor, "prompts k"]:
        """The mean of each completion's values over its sampled tokens; 0.0 for a completion without any."""
        sums_B = torch.where(self.sampled_BT, values_BT, 0.0).sum(1)
        return (sums_B / self.sampled_BT.sum(1).clamp(min=1)).view(len(self.prompts), self.k)


@dataclass(frozen=True, kw_only=True)
class Rewards:
    """The raw rewards of every completion, neither clipped nor normalized. Example: 1 prompt, k = 3: ``total_PK``
    [[1.0, 0.5, 0.0]], ``valid_PK`` [[True, True, False]]."""

    total_PK: Float[Tensor, "prompts k"] = field(metadata=PER_PROMPT)  # weighted sum of the parts; 0.0 where invalid
    # by name; NaN where a part does not apply (TRL's None)
    parts: Mapping[str, Float[Tensor, "prompts k"]] = field(metadata=PER_PROMPT)
    correct_PK: Bool[Tensor, "prompts k"] | None = field(metadata=PER_PROMPT)  # None: correctness is not defined
    valid_PK: Bool[Tensor, "prompts k"] = field(metadata=PER_PROMPT)  # False: failed or truncated, and masked


@dataclass(frozen=True, kw_only=True)
class Answers:
    """The judged completions of one prompt: all that a metric needs, so that metrics can be computed without sampling
    again. Example: 40 answers to "Recommend a city …", 31 of them correct. Fields that may be None are so for every
    completion: a table of another tool has no such column."""

    prompt: Prompt
    texts: tuple[str, ...]
    keys: tuple[str, ...]  # ``Task.key`` of each text: equal keys are the same answer
    correct: tuple[bool, ...] | None  # False where invalid; None: correctness is not defined
    rewards: tuple[float, ...] | None  # NaN where invalid; None: no reward is known, and all completions are valid
    finished: tuple[bool, ...] | None  # False: truncated; None: not known
    lengths: tuple[int, ...] | None  # sampled tokens, end token included; None: not known

    @property
    def valid(self) -> tuple[bool, ...]:
        """False where the reward failed, or the completion was truncated and masked."""
        if self.rewards is None:
            return (True,) * len(self.texts)
        return tuple(not math.isnan(reward) for reward in self.rewards)


@dataclass(frozen=True, kw_only=True)
class Experience:
    """Groups with rewards, embeddings and credits. Example: 4 prompts, k = 8: ``credits_PK`` is (4, 8)."""

    rollouts: Rollouts = field(metadata=RECORD)
    rewards: Rewards = field(metadata=RECORD)
    embeddings_PKD: Float[Tensor, "prompts k dim"] | None = field(metadata=PER_PROMPT)  # length 1; None: not used
    credits_PK: Float[Tensor, "prompts k"] = field(metadata=PER_PROMPT)  # nats for credit=dpp; 0.0 where invalid
    # credits of parts of a completion, at their tokens (credit=dpp_steps); 0.0 elsewhere; None: the credit has none
    token_credits_BT: Float[Tensor, "batch tokens"] | None = field(metadata=PER_TOKEN, default=None)

    @property
    def counted_BT(self) -> Bool[Tensor, "batch tokens"]:
        """True at the sampled tokens of valid completions: those that the update learns from."""
        return self.rollouts.sampled_BT & self.rewards.valid_PK.flatten()[:, None]


@dataclass(frozen=True, kw_only=True)
class Supervised:
    """Completions to imitate: the loss raises their log-probability, whether the policy sampled them or not.
    Example: 2 prompts with one exemplar each, k = 1: the loss is ``-(weights_BT * logprobs_BT).sum()``, over all
    ranks."""

    rollouts: Rollouts = field(metadata=RECORD)  # rows to fill up a group have no sampled token
    weights_BT: Float[Tensor, "batch tokens"] = field(metadata=PER_TOKEN)  # 0.0 where nothing is learned


@dataclass(frozen=True, kw_only=True)
class Estimates:
    """Log-probabilities and values computed by the learner's models. None: the algorithm does not need them, and they
    were not computed."""

    old_logprobs_BT: Float[Tensor, "batch tokens"] | None = None  # nats, the policy before this step's update
    ref_logprobs_BT: Float[Tensor, "batch tokens"] | None = None  # nats, the reference model's
    entropies_BT: Float[Tensor, "batch tokens"] | None = None  # nats, of the policy before this step's update
    values_BT: Float[Tensor, "batch tokens"] | None = None  # a critic's value estimates, in units of reward


@dataclass(frozen=True, kw_only=True)
class Targets:
    """Advantages and returns, the targets of the update."""

    # 0.0 where not sampled; group methods repeat one number over a row
    advantages_BT: Float[Tensor, "batch tokens"] = field(metadata=PER_TOKEN)
    # training targets of a critic, in units of reward; None: no critic
    returns_BT: Float[Tensor, "batch tokens"] | None = field(metadata=PER_TOKEN, default=None)


@dataclass(frozen=True, kw_only=True)
class LossInputs:
    """Inputs of a loss: the N sampled tokens of a micro-batch's valid completions, in the order of their rows. A
    completion is never split over micro-batches. Log-probabilities are in nats at the sampling temperature.
    """

    logprobs_N: Float[Tensor, " sampled"]  # of the policy; with a gradient
    old_logprobs_N: Float[Tensor, " sampled"]  # of the policy before the step's first update
    sampler_logprobs_N: Float[Tensor, " sampled"]  # as the inference engine reported them
    ref_logprobs_N: Float[Tensor, " sampled"] | None  # of the reference model; None: no part of the loss needs them
    # nats, of the policy's distribution at each token; with a gradient if the loss says ``needs_entropy_gradient``
    entropies_N: Float[Tensor, " sampled"]
    advantages_N: Float[Tensor, " sampled"]
    values_N: Float[Tensor, " sampled"] | None  # a critic's estimates before the update; None: no critic
    returns_N: Float[Tensor, " sampled"] | None  # training targets of a critic; None: no critic
    weights_N: Float[Tensor, " sampled"]  # ``Loss.token_weights`` of these tokens
    stale_N: Bool[Tensor, " sampled"]  # True: sampled by older weights, and old_logprobs_N are the sampler's
    rows_N: Int[Tensor, " sampled"]  # index of the completion that a token belongs to
    marks: Mapping[str, Shaped[Tensor, " sampled"]] = field(
        default_factory=dict
    )  # what ``Marking.marks`` found, by name


@dataclass(frozen=True, kw_only=True)
class Step:
    """One finished step of the loop, as its observers get it: with the groups of all ranks on rank 0, with the rank's
    own groups on the others."""

    number: int  # counts from 1
    cursor: int  # position in the task's stream after the last prompt drawn for this step
    experience: Experience
    targets: Targets
    report: Mapping[str, float]  # the learner's own metrics (loss, entropy, kl, grad_norm …), and failure counts
    seconds: Mapping[str, float]  # wall time by stage; rollout, reward and embed overlap
    elapsed: float  # seconds during which at least one stage of this step was running
