"""Types and ranges of the top-level keys; the values are in conf/train.yaml. The constructor of a
group's class holds the types and ranges of the group's keys (``dqo.config.typed``). Imports no stage, so no torch."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from dqo.ranges import Beta, CompletionLength, Count, CountOrZero, LearningRate, Seed, Temperature

COMPLETIONS = 1_000_000  # per step or evaluation: a larger number is a typo, and would end in a kill for lack of memory
RULES = ConfigDict(coerce_numbers_to_str=True, allow_inf_nan=False)  # of every key, the groups' too


class Section(BaseModel):
    """A part of the configuration: frozen, and without unknown keys."""

    model_config = RULES | ConfigDict(frozen=True, extra="forbid")


class Eval(Section):
    """``eval.*``: held-out evaluation."""

    every: Annotated[CountOrZero, Field(examples=[20])]
    n: Annotated[Count, Field(le=COMPLETIONS, examples=[10])]
    prompts: Annotated[Count, Field(examples=[16])]


class Log(Section):
    """``log.*``: what is printed and written of each step."""

    every: Count
    live: bool
    completions: bool
    tensorboard: bool
    wandb: bool
    project: str


class Checkpoint(Section):
    """``checkpoint.*``: when to save and what to keep."""

    every: Annotated[CountOrZero, Field(examples=[20])]
    keep_last: Count
    keep_every: CountOrZero
    final: bool
    export_dtype: Literal["auto", "float32", "bfloat16", "float16"]


class Sft(Section):
    """``sft.*``: the numbers of supervised fine-tuning."""

    steps: Annotated[Count, Field(examples=[200])]
    batch_size: Annotated[Count, Field(examples=[32])]
    learning_rate: Annotated[LearningRate, Field(examples=["1e-4"])]
    seed: Seed


class Config(Section):
    """A whole run, resolved and checked: what ``typed.check`` gives. Never changed; ``model_copy`` makes another."""

    alpha: Annotated[float, Field(ge=0, le=1e6, examples=["1.0"])]
    beta: Beta
    k: Annotated[Count, Field(examples=[8])]
    steps: Annotated[Count, Field(examples=[100])]
    seed: Seed
    learning_rate: LearningRate
    temperature: Temperature
    prompts_per_step: Annotated[Count, Field(examples=[4])]
    max_completion_length: CompletionLength
    importance_sampling_mode: str
    ahead: Annotated[int, Field(ge=0, le=1, examples=[0])]
    redraws: Annotated[CountOrZero, Field(le=100, examples=[0])]
    eval: Eval
    log: Log
    checkpoint: Checkpoint
    warm_start: bool | Literal["always"]
    sft: Sft
    run_dir: str
    resume: str | None
    nproc: Annotated[int | None, Field(ge=1)]
    device: Literal["auto", "cpu", "cuda"]
    objective: Annotated[str | list[str] | None, Field(examples=["pass@1"])]
    dry_run: bool
    model: dict[str, Any]
    task: dict[str, Any]
    rollout: dict[str, Any]
    reward: dict[str, Any]
    embed: dict[str, Any]
    credit: dict[str, Any]
    advantage: dict[str, Any]
    loss: dict[str, Any]
    optim: dict[str, Any]
    learner: dict[str, Any]
