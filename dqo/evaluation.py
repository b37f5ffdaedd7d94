"""Evaluation of a policy: quality and diversity of n completions of each held-out prompt."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from dqo import distributed
from dqo.contracts import check_embeddings, check_rewards, failing_together, says
from dqo.distributed import Channel
from dqo.errors import StageError
from dqo.judging import side_by_side
from dqo.metrics.catalogue import compute, with_derived
from dqo.metrics.names import evaluation_metrics, needs_of
from dqo.records import Answers, Prompt, Rewards, Rollouts
from dqo.scorers.asking import ask
from dqo.scorers.bundle import Scorers
from dqo.stages import Collectors, Embed, Reward, Task

SHOWN = 4  # prompts whose matrices of cosines are kept: to look at


@runtime_checkable
class Judges(Protocol):
    """What ``judge`` asks: ``stages.Collectors`` has both."""

    @property
    def task(self) -> Task: ...

    @property
    def reward(self) -> Reward: ...


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The metrics of one prompt's completions."""

    answers: Answers
    metrics: Mapping[str, float]  # NaN where undefined
    cosines: list[list[float]] | None  # (k, k), of each two embeddings; None: no metric needs an encoder


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The result of one evaluation; docs/metrics.md defines the keys of ``metrics``."""

    n: int  # completions of each prompt
    seed: int
    metrics: Mapping[str, float]  # means over prompts; NaN where undefined for every prompt
    answers: tuple[Answers, ...]  # ordered by the prompts' positions
    per_prompt: Mapping[str, tuple[float, ...]]  # the numbers that the means are of, in the order of the answers
    cosines: tuple[list[list[float]], ...]  # of the first prompts' completions; empty: no metric needs an encoder

    @property
    def texts(self) -> list[str]:
        """All completions, prompt by prompt."""
        return [text for answers in self.answers for text in answers.texts]

    @property
    def prompts(self) -> list[Prompt]:
        """The held-out prompts, in the order of the answers."""
        return [answers.prompt for answers in self.answers]


def evaluate(
    stages: Collectors,
    prompts: Sequence[Prompt],
    *,
    n: int,
    seed: int,
    families: Sequence[str],
    scorers: Scorers | None = None,
    observe: Callable[[int], Any] = lambda count: None,
) -> Evaluation:
    """Metrics and answers of n completions of each prompt, the same on all ranks. No stage changes its state.

    Collective on the main channel; each rank samples its share of the prompts. The encoder is asked where one of the
    chosen ``families`` (``metrics.names``) needs it, even if the credit uses no embeddings. ``observe`` gets the number
    of prompts that were judged since its last call. Raises ValueError without prompts, and StageError if a stage fails:
    its positions count within the held-out prompts.
    """
    if not prompts:
        raise ValueError("no prompts to evaluate")
    shown = sorted(prompt.position for prompt in prompts)[:SHOWN]
    try:
        mine = prompts[distributed.rank() :: distributed.world_size()]
        measured: list[Measured] = []
        with failing_together(Channel.MAIN):
            sampled = stages.rollout.generate(mine, k=n, seed=seed)
            for judged in side_by_side(stages.reward, partial(judge, stages), sampled):
                for group in measure(judged, families=families, embed=stages.embed, scorers=scorers):
                    is_shown = group.answers.prompt.position in shown
                    measured.append(group if is_shown else replace(group, cosines=None))  # k² numbers a prompt
                observe(len(judged))
    except StageError as error:
        raise type(error)(error.stage, f"evaluating: {error.message}", positions=error.positions) from error
    finally:
        if scorers:
            scorers.release()
    measured = [group for part in distributed.all_gather(measured) for group in part]
    measured.sort(key=lambda group: group.answers.prompt.position)
    per_prompt = {name: tuple(group.metrics[name] for group in measured) for name in measured[0].metrics}
    return Evaluation(
        n=n,
        seed=seed,
        metrics={"n": float(n), "prompts": float(len(measured)), **means(per_prompt, n, families)},
        answers=tuple(group.answers for group in measured),
        per_prompt=per_prompt,
        cosines=tuple(group.cosines for group in measured[:SHOWN] if group.cosines is not None),
    )


def judge(stages: Judges, rollouts: Rollouts) -> list[Answers]:
    """The completions of each prompt with keys, rewards and correctness; no encoder is asked. Not a collective.

    Raises StageError where a completion cannot be judged.
    """
    rewards = stages.reward.score(rollouts)
    check_rewards(rollouts, rewards)
    return [_answers(stages, rollouts, rewards, p) for p in range(len(rollouts.prompts))]


def _answers(stages: Judges, rollouts: Rollouts, rewards: Rewards, p: int) -> Answers:
    rows = slice(p * rollouts.k, (p + 1) * rollouts.k)
    prompt, texts, correct_PK = rollouts.prompts[p], rollouts.texts[rows], rewards.correct_PK
    return Answers(
        prompt=prompt,
        texts=texts,
        keys=tuple(stages.task.key(prompt, text) for text in texts),
        correct=None if correct_PK is None else tuple((correct_PK[p] & rewards.valid_PK[p]).tolist()),
        rewards=None
        if says(type(stages.reward), "judges_nothing", of="score")
        else tuple(rewards.total_PK[p].masked_fill(~rewards.valid_PK[p], math.nan).tolist()),
        finished=tuple(rollouts.finished_B[rows].tolist()),
        lengths=tuple(rollouts.sampled_BT[rows].sum(1).tolist()),
    )


def measure(
    answers: Sequence[Answers], *, families: Sequence[str], embed: Embed | None, scorers: Scorers | None = None
) -> list[Measured]:
    """The metrics of each prompt's completions; all prompts have the same number of completions. Not a collective.

    ``embed`` is asked only where a chosen family needs it. Raises StageError if encoder or scorers fail.
    """
    embeddings_PKD = _embeddings(embed, answers) if embed and asks_encoder(families, scorers) else None
    asked = ask(scorers, answers, embeddings_PKD, families) if scorers else [{}] * len(answers)
    measured = []
    for p, (group, of_scorers) in enumerate(zip(answers, asked, strict=True)):
        embeddings_KD = None if embeddings_PKD is None else embeddings_PKD[p]
        metrics = {**compute(group, embeddings_KD, families), **of_scorers}
        measured.append(Measured(answers=group, metrics=metrics, cosines=_cosines(embeddings_KD)))
    return measured


def asks_encoder(families: Sequence[str], scorers: Scorers | None) -> bool:
    """Whether a chosen family is computed from embeddings; NoveltyBench is, where its classifier is not there."""
    compared = scorers is not None and scorers.novelty.partition == "words and embeddings"
    return "encoder" in needs_of(families) or ("noveltybench" in families and compared)


def means(per_prompt: Mapping[str, Sequence[float]], n: int, families: Sequence[str]) -> dict[str, float]:
    """Mean of each metric over the prompts where it is defined, NaN if there are none, and what follows from means; in
    the order of ``names.evaluation_metrics``."""
    found = with_derived({name: _defined_mean(values) for name, values in per_prompt.items()})
    return {name: found.get(name, math.nan) for name in evaluation_metrics(n, families)}


def _embeddings(embed: Embed, answers: Sequence[Answers]) -> Float[Tensor, "prompts k dim"]:
    rollouts = _without_tokens(answers)
    embeddings_PKD = embed.encode(rollouts)
    valid_PK = torch.tensor([group.valid for group in answers])
    check_embeddings(rollouts, valid_PK & ~rollouts.empty_PK, embeddings_PKD)
    return embeddings_PKD


def _cosines(embeddings_KD: Float[Tensor, "k dim"] | None) -> list[list[float]] | None:
    """Cosine of each two embeddings of a group, three decimals."""
    if embeddings_KD is None:
        return None
    return [[round(value, 3) for value in row] for row in (embeddings_KD.double() @ embeddings_KD.double().T).tolist()]


def _without_tokens(answers: Sequence[Answers]) -> Rollouts:
    """The completions as an encoder gets them: their texts, without tokens."""
    k = len(answers[0].texts)
    rows = len(answers) * k
    nothing_B = torch.zeros(rows, dtype=torch.long)
    return Rollouts(
        prompts=tuple(group.prompt for group in answers),
        k=k,
        tokens_BT=nothing_B[:, None][:, :0],
        sampled_BT=nothing_B[:, None][:, :0].bool(),
        logprobs_BT=nothing_B[:, None][:, :0].float(),
        lengths_B=nothing_B,
        finished_B=torch.tensor([done for group in answers for done in group.finished or (True,) * k]),
        versions_B=nothing_B,
        texts=tuple(text for group in answers for text in group.texts),
    )


def _defined_mean(values: Sequence[float]) -> float:
    defined = [value for value in values if not math.isnan(value)]
    return sum(defined) / len(defined) if defined else math.nan
