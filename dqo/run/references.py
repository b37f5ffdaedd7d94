"""The initial policy's completions that stages compare with: sampled before the first step, read back on resume."""

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

from torch import Tensor

from dqo import distributed
from dqo.batching import group_of
from dqo.config.schema import Config
from dqo.contracts import check_embeddings, check_rewards
from dqo.errors import ConfigError, StageError
from dqo.judging import side_by_side
from dqo.progress import LoggedBar, duration, elapsed
from dqo.records import Prompt, Rewards, Rollouts
from dqo.references import Reference, References
from dqo.run.reference_table import read, write
from dqo.stages import Collectors, Task

log = logging.getLogger(__name__)

Judged = tuple[Rollouts, Rewards, Tensor | None]  # embeddings last
FILE = "references.parquet"  # of a run's folder
NOISE = 2_000_003  # added to ``seed``: noise that neither training nor an evaluation draws


def announcement(config: Config, prompts: int, count: int) -> str:
    """What the run will sample before its first step, and what that costs: ``count`` completions of each prompt."""
    all_steps = config.steps * config.prompts_per_step * config.k
    return (
        f"reference samples: {prompts:,} prompts × {count} = {prompts * count:,} completions of the initial policy "
        f"before the first step; the run's {config.steps:,} steps sample {all_steps:,}"
    )


def read_references(config: Config, folder: Path, task: Task, references: References, *, step: int) -> None:
    """Fill ``references`` from the folder of a run that is resumed; a run that starts anew keeps them empty where the
    file does not have all of them, since it can sample them again. Not a collective.

    Raises ConfigError where a run goes on after ``step`` without the samples it needs.
    """
    if not references.count:
        return
    stream, file = drawn(config, task), folder / FILE
    found = read(file, stream) if file.exists() else {}
    fits = {tokens: group for tokens, group in found.items() if _fits(group, references)}
    if missing := _missing(stream, fits):
        if step:
            raise ConfigError(_refusal(config, file, stream, missing, known=bool(fits)))
        return
    references.add(fits)


def sample_references(
    config: Config, folder: Path, stages: Collectors, references: References, *, say: Callable[[str], None]
) -> None:
    """Sample what stages need and ``read_references`` did not find, and keep it in the run's folder. ``say`` is told
    what begins. A collective.

    Raises StageError if a stage fails.
    """
    if not references.count or not references.is_empty:
        return
    prompts, began = distinct(drawn(config, stages.task)), time.monotonic()
    if distributed.is_rank_0():
        say("sampling reference completions")
        log.info(announcement(config, len(prompts), references.count))
    try:
        groups = _sampled(stages, prompts, references, seed=config.seed + NOISE)
    except StageError as error:
        problem = f"sampling reference completions: {error.message}"
        raise type(error)(error.stage, problem, positions=error.positions) from error
    references.add({group.rollouts.prompts[0].tokens: group for group in groups})
    if distributed.is_rank_0():
        write(folder / FILE, groups)
        _log_result(groups, time.monotonic() - began)


def drawn(config: Config, task: Task) -> Sequence[Prompt]:
    """All prompts that a run may draw, in order: with ``redraws`` it may draw fewer."""
    with elapsed("finding the prompts that the run will draw"):
        return task.draw(0, config.steps * _prompts_per_step(config))[0]


def distinct(prompts: Iterable[Prompt]) -> list[Prompt]:
    """The prompts with different tokens; of equal ones the first."""
    first: dict[tuple[int, ...], Prompt] = {}
    for prompt in prompts:
        first.setdefault(prompt.tokens, prompt)
    return list(first.values())


def _prompts_per_step(config: Config) -> int:
    return config.prompts_per_step * (1 + config.redraws)


def _sampled(stages: Collectors, prompts: Sequence[Prompt], references: References, *, seed: int) -> list[Reference]:
    """The groups of all prompts, in their order, on all ranks; each rank samples its share."""
    mine, found = prompts[distributed.rank() :: distributed.world_size()], list[Judged]()
    with LoggedBar(total=len(mine), desc="reference samples", unit="prompts") as bar:
        sampled = stages.rollout.generate(mine, k=references.count, seed=seed)
        for rollouts, rewards in side_by_side(stages.reward, partial(_scored, stages), sampled):
            found.append((rollouts, rewards, _embeddings(stages, rollouts) if references.embedded else None))
            bar.update(len(rollouts.prompts))
    # whole records are gathered: each group is a view, and would be sent with the storage of its whole record
    groups = [group for part in distributed.all_gather(found) for judged in part for group in _groups(*judged)]
    return sorted(groups, key=lambda group: group.rollouts.prompts[0].position)


def _scored(stages: Collectors, rollouts: Rollouts) -> tuple[Rollouts, Rewards]:
    rewards = stages.reward.score(rollouts)
    check_rewards(rollouts, rewards)
    return rollouts, rewards


def _embeddings(stages: Collectors, rollouts: Rollouts) -> Tensor:
    embeddings_PKD = stages.embed.encode(rollouts)
    check_embeddings(rollouts, ~rollouts.empty_PK, embeddings_PKD)
    return embeddings_PKD


def _groups(rollouts: Rollouts, rewards: Rewards, embeddings_PKD: Tensor | None) -> list[Reference]:
    return [
        Reference(
            rollouts=group_of(rollouts, rollouts, p),
            rewards=group_of(rewards, rollouts, p),
            embeddings_KD=None if embeddings_PKD is None else embeddings_PKD[p],
        )
        for p in range(len(rollouts.prompts))
    ]


def _fits(group: Reference, references: References) -> bool:
    return group.rollouts.k >= references.count and (group.embeddings_KD is not None or not references.embedded)


def _missing(stream: Sequence[Prompt], found: dict[tuple[int, ...], Reference]) -> list[int]:
    """Where in the stream prompts are that have no samples."""
    return [n for n, prompt in enumerate(stream) if prompt.tokens not in found]


def _refusal(config: Config, file: Path, stream: Sequence[Prompt], missing: Sequence[int], *, known: bool) -> str:
    anew = "start a new run with run_dir=ANOTHER_FOLDER"
    if not known:
        what = "is missing" if not file.exists() else "has not the samples that the configuration asks for"
        return f"resume={config.resume}: {file} {what}, and only the initial policy could make them; {anew}"
    steps = missing[0] // _prompts_per_step(config)
    prompts = len(distinct(stream[n] for n in missing))
    return (
        f"steps={config.steps}: {prompts:,} prompts after step {steps} have no samples in {file}, and only the initial "
        f"policy could make them; type steps={steps}, or {anew}"
    )


def _log_result(groups: Sequence[Reference], seconds: float) -> None:
    tokens = sum(int(group.rollouts.sampled_BT.sum()) for group in groups)
    log.info("reference samples: %d prompts, %d tokens in %s", len(groups), tokens, duration(seconds))
    unjudged = sum(not group.rewards.valid_PK.any() for group in groups)
    unread = sum(bool(group.rollouts.empty_PK.all()) for group in groups)
    for count, what in ((unjudged, "valid"), (unread, "readable")):
        if count:
            log.warning("reference samples: %d of %d prompts have no %s completion", count, len(groups), what)
