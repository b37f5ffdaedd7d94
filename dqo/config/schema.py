"""Types and ranges of the top-level keys; the values are in conf/train.yaml. The constructor of a
group's class holds the types and ranges of the group's keys (``dqo.config.typed``). Imports no stage, so no torch."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from dqo.ranges import Beta, CompletionLength, Count, CountOrZero, LearningRate, Seconds, Seed, Temperature

COMPLETIONS = 1_000_000  # per step or evaluation: a larger number is a typo, and would end in a kill for lack of memory
RULES = ConfigDict(coerce_numbers_to_str=True, allow_inf_nan=False)  # of every key, the groups' too


class Section(BaseModel):
    """A part of the configuration: frozen, and without unknown keys."""

    model_config = RULES | ConfigDict(frozen=True, extra="forbid", serialize_by_alias=True)


class Judge(Section):
    """``eval.judge.*``: a language model behind an OpenAI-compatible endpoint, asked how diverse completions are."""

    base_url: str | None
    model: str | None
    wordings: Annotated[Count, Field(le=3, examples=[3])]
    concurrency: Annotated[Count, Field(examples=[8])]
    retries: CountOrZero
    timeout: Seconds
    patience: Annotated[float, Field(ge=0, examples=["300.0"])]
    max_tokens: Annotated[Count, Field(examples=[64])]


class Novelty(Section):
    """``eval.novelty.*``: the models of NoveltyBench."""

    classifier: str | None
    reward_model: str | None


class Eval(Section):
    """``eval.*``: held-out evaluation."""

    every: Annotated[CountOrZero, Field(examples=[20])]
    n: Annotated[Count, Field(le=COMPLETIONS, examples=[10])]
    prompts: Annotated[Count, Field(examples=[16])]
    seed: Seed
    metrics: Annotated[list[str], Field(min_length=1, examples=["[reward,pass,distinct_correct]"])]
    nli: str | None
    judge: Judge
    novelty: Novelty


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
    num_iterations: Count
    num_mini_batches: Annotated[Count, Field(examples=[1])]
    redraws: Annotated[CountOrZero, Field(le=100, examples=[0])]
    redraw_signal: Annotated[float, Field(ge=0, le=10, examples=[0.5])]
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
    critic: dict[str, Any]
    optim: dict[str, Any]
    learner: dict[str, Any]


class PolicySource(Section):
    """A policy that dqo-eval and dqo-sample load."""

    name: str  # shown; no two are equal
    path: str  # a folder, a name on the hub, or an option of conf/model
    run: str | None = None  # the run folder that it comes from
    settings: dict[str, Any] | None = None  # of that run: alpha, k, seed …
    model: dict[str, Any] = {}  # the node of the group model that loads it; empty until the configuration is complete


class EvalConfig(Config):
    """What dqo-eval does."""

    n: Annotated[Count, Field(le=COMPLETIONS, examples=[10])]
    prompts: Annotated[int | None, Field(ge=1, examples=["null"])]
    policies: list[PolicySource]
    decodings: list[dict[str, float]]
    from_: Annotated[list[str], BeforeValidator(lambda value: [value] if isinstance(value, str) else value)] = Field(
        alias="from"
    )
    controls: bool


class SampleConfig(Config):
    """What dqo-sample does."""

    policies: list[PolicySource]
    prompt: str | None
    index: Annotated[int | None, Field(ge=0, examples=[0])]
    choose: Annotated[int | None, Field(ge=1, examples=[3])]
    pick: Literal["map", "sample"]
    json_: Annotated[bool, Field(alias="json")]


class ServeConfig(Config):
    """What dqo-serve does."""

    serve: Annotated[list[Literal["reward", "embed"]], Field(min_length=1, examples=["[reward,embed]"])]
    host: str
    port: Annotated[int, Field(ge=0, le=65535, examples=[8100])]
    model_name: str | None
    label_column: str
    batch_texts: Annotated[Count, Field(le=COMPLETIONS, examples=[256])]
    waiting_texts: Annotated[Count, Field(le=COMPLETIONS, examples=[8192])]
    max_texts: Annotated[Count, Field(le=COMPLETIONS, examples=[2048])]
    max_characters: Annotated[Count, Field(examples=[100000])]
    max_body_mb: Annotated[float, Field(gt=0, le=1024, examples=["16.0"])]
    grace: Seconds


class RewardModelling(Section):
    """``rm.*``: the numbers of training a reward model."""

    path: str | None
    eval_path: str | None
    held_out: Annotated[float, Field(gt=0, lt=1, examples=["0.1"])]
    prompt_column: str
    chosen_column: str
    rejected_column: str
    completion_column: str
    score_column: str
    max_length: Annotated[int | None, Field(ge=1, examples=["null"])]
    epochs: Annotated[float, Field(gt=0, le=1000, examples=["1.0"])]
    batch_size: Annotated[Count, Field(examples=[16])]
    learning_rate: Annotated[LearningRate, Field(examples=["1e-5"])]
    center_rewards_coefficient: Annotated[float, Field(ge=0, examples=["0.01"])]
    lora_r: Annotated[CountOrZero, Field(examples=[16])]
    lora_alpha: Annotated[Count, Field(examples=[32])]
    gradient_checkpointing: bool
    dtype: Literal["auto", "float32", "bfloat16"]


class RmConfig(Config):
    """What dqo-rm does."""

    rm: RewardModelling


class ReportConfig(Section):
    """What dqo-report does."""

    runs: list[str]
    out: str
    figures: str | None
    title: str | None
    completions: Annotated[CountOrZero, Field(examples=[1000])]
