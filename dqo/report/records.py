"""What the report reads from folders. Undefined numbers are NaN."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dqo.metrics.intervals import Interval, PassCurve

UNKNOWN = Interval(mean=math.nan, low=math.nan, high=math.nan, prompts=0)


@dataclass(frozen=True, kw_only=True)
class Group:
    """Completions of one prompt. Example: 10 answers to "Recommend a city …", with their 10 × 10 cosines."""

    position: int
    prompt: str
    texts: tuple[str, ...]
    keys: tuple[str, ...]  # equal keys are the same answer
    correct: tuple[bool, ...] | None  # None: the reward does not define correctness
    rewards: tuple[float, ...]
    cosines: tuple[tuple[float, ...], ...] | None  # None: not written


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A policy, measured on held-out prompts: an evaluation of a training run, or a cell of an eval.json."""

    name: str  # of the policy: the run's folder, or the name in eval.json
    source: str  # the folder that it was read from
    settings: Mapping[str, Any]  # of the training: alpha, k, seed …; empty: unknown
    decoding: Mapping[str, float]  # temperature, top_p, top_k, min_p
    task: str
    n: int  # completions of each prompt
    prompts: int
    first_prompts: tuple[tuple[int, str], ...]  # (position, text) of at most 4, by which prompts are told apart
    seed: int | None  # of the sampling
    length: int | None  # most tokens of a completion
    embedding: str | None  # the encoder; None: none
    means: Mapping[str, float]
    per_prompt: Mapping[str, Sequence[float]]  # by prompt, in the order of the positions; empty: not written
    intervals: Mapping[str, Interval]  # as written in eval.json; of training runs they are computed where needed
    passes: PassCurve | None
    groups: tuple[Group, ...]
    is_control: bool = False  # degenerate answers that no policy gave
    is_training: bool = False  # measured by dqo-train, not by dqo-eval
    step: int | None = None  # of the training; 0: before it


@dataclass(frozen=True, kw_only=True)
class Run:
    """A folder of dqo-train."""

    folder: Path
    command: str  # what was typed, with the values that Hydra kept
    config: str  # the YAML text
    settings: Mapping[str, Any]  # the flat configuration: "credit.sigma" → 0.3
    version: str  # of dqo; "unknown" in old runs
    lines: tuple[Mapping[str, Any], ...]  # of metrics.jsonl
    before: Measured | None
    after: Measured | None  # the last evaluation, if it is not the first
    notes: tuple[str, ...]  # what is missing or unusual, a sentence each

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.resolve().name


@dataclass(frozen=True, kw_only=True)
class EvalRun:
    """A folder of dqo-eval."""

    folder: Path
    command: str
    config: str
    version: str
    cells: tuple[Measured, ...]
    missing: Mapping[str, str]  # metric → what it would need
    notes: tuple[str, ...]

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.resolve().name


@dataclass(frozen=True, kw_only=True)
class Source:
    """Everything that was read."""

    runs: tuple[Run, ...]
    evals: tuple[EvalRun, ...]
    notes: tuple[str, ...]  # jobs of a sweep that failed, folders without a result
