"""Evaluation of a policy: quality and diversity of n completions of each held-out prompt."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from dqo import distributed
from dqo.contracts import check_embeddings, check_rewards
from dqo.errors import StageError
from dqo.metrics.diversity import cosine_distance, distinct_n, logdet, vendi
from dqo.metrics.names import pass_sizes
from dqo.metrics.quality import distinct_correct_of, pass_at
from dqo.records import Prompt, Rewards, Rollouts
from dqo.stages import Collectors

DISTINCT_OF = 10  # ``distinct_correct`` is the expectation for this number of completions
# metrics whose expectation does not depend on n, the number of completions of each prompt (see ``comparable``)
ANY_N = ("n", "prompts", "reward", "cosine_distance", "valid", "finished", "mean_length")


@dataclass(frozen=True, kw_only=True)
class Answers:
    """The completions of one prompt. Example: 40 answers to "Recommend a city …", 31 of them correct."""

    prompt: Prompt
    texts: tuple[str, ...]
    keys: tuple[str, ...]  # ``Task.key`` of each text: equal keys are the same answer
    correct: tuple[bool, ...] | None  # None: the reward does not define correctness
    rewards: tuple[float, ...]  # NaN where invalid


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The result of one evaluation; docs/metrics.md defines the keys of ``metrics``."""

    n: int  # completions of each prompt
    seed: int
    metrics: Mapping[str, float]  # means over prompts; NaN where undefined for every prompt
    answers: tuple[Answers, ...]  # ordered by the prompts' positions

    @property
    def texts(self) -> list[str]:
        """All completions, prompt by prompt."""
        return [text for answers in self.answers for text in answers.texts]

    @property
    def prompts(self) -> list[Prompt]:
        """The held-out prompts, in the order of the answers."""
        return [answers.prompt for answers in self.answers]


def comparable(key: str, n: int, other: int) -> bool:
    """Whether a metric over ``n`` completions of each prompt can be compared with the same metric over ``other``.

    Those that name their number can: ``pass@5`` is the same quantity for 10 and for 40 completions.
    """
    if key == "distinct_correct":
        return min(n, DISTINCT_OF) == min(other, DISTINCT_OF)
    return n == other or key in ANY_N or key.startswith(("pass@", "distinct_correct@"))


def evaluate(
    stages: Collectors,
    prompts: Sequence[Prompt],
    *,
    n: int,
    seed: int,
    observe: Callable[[int], Any] = lambda count: None,
) -> Evaluation:
    """Metrics and answers of n completions of each prompt, the same on all ranks. No stage changes its state.

    Collective on the main channel; each rank samples its share of the prompts. Completions are embedded even if the
    credit uses no embeddings. ``observe`` gets the number of prompts that were judged since its last call. Raises
    ValueError without prompts, and StageError if a stage fails: its positions count within the held-out prompts.
    """
    if not prompts:
        raise ValueError("no prompts to evaluate")
    try:
        mine = prompts[distributed.rank() :: distributed.world_size()]
        judged = []
        for rollouts in stages.rollout.generate(mine, k=n, seed=seed):
            judged += _judge(stages, rollouts)
            observe(len(rollouts.prompts))
    except StageError as error:
        raise StageError(error.stage, f"evaluating: {error.message}", positions=error.positions) from error
    judged = [group for part in distributed.all_gather(judged) for group in part]
    judged.sort(key=lambda group: group[0].prompt.position)
    return Evaluation(
        n=n,
        seed=seed,
        metrics={"n": float(n), "prompts": float(len(judged)), **_means([metrics for _, metrics in judged])},
        answers=tuple(answers for answers, _ in judged),
    )


def _judge(stages: Collectors, rollouts: Rollouts) -> list[tuple[Answers, dict[str, float]]]:
    """Answers and metrics of each group."""
    rewards, embeddings_PKD = stages.reward.score(rollouts), stages.embed.encode(rollouts)
    check_rewards(rollouts, rewards)
    empty_PK = rollouts.empty_PK
    check_embeddings(rollouts, rewards.valid_PK & ~empty_PK, embeddings_PKD)
    groups = []
    for p in range(len(rollouts.prompts)):
        answers = _answers(stages, rollouts, rewards, p)
        rows = slice(p * rollouts.k, (p + 1) * rollouts.k)
        form = {
            "valid": float(rewards.valid_PK[p].float().mean()),
            "finished": float(rollouts.finished_B[rows].float().mean()),
            "mean_length": float(rollouts.sampled_BT[rows].sum(1).float().mean()),
        }
        diversity = _diversity(answers, embeddings_PKD[p], empty_PK[p].tolist())
        groups.append((answers, {**_quality(answers), **diversity, **form}))
    return groups


def _answers(stages: Collectors, rollouts: Rollouts, rewards: Rewards, p: int) -> Answers:
    prompt, texts = rollouts.prompts[p], rollouts.texts[p * rollouts.k : (p + 1) * rollouts.k]
    correct_PK = rewards.correct_PK
    return Answers(
        prompt=prompt,
        texts=texts,
        keys=tuple(stages.task.key(prompt, text) for text in texts),
        correct=None if correct_PK is None else tuple((correct_PK[p] & rewards.valid_PK[p]).tolist()),
        rewards=tuple(rewards.total_PK[p].masked_fill(~rewards.valid_PK[p], math.nan).tolist()),
    )


def _quality(answers: Answers) -> dict[str, float]:
    m, few = len(answers.texts), min(DISTINCT_OF, len(answers.texts))
    right = (
        None if answers.correct is None else [key for key, ok in zip(answers.keys, answers.correct, strict=True) if ok]
    )
    known = [reward for reward in answers.rewards if not math.isnan(reward)]
    sizes = pass_sizes(m)
    return {
        "reward": sum(known) / len(known) if known else math.nan,
        "reward_best": max(known, default=math.nan),
        **{f"pass@{n}": math.nan if right is None else pass_at(n, samples=m, correct=len(right)) for n in sizes},
        **{
            name: math.nan if right is None else distinct_correct_of(n, samples=m, keys=right)
            for name, n in (("distinct_correct", few), (f"distinct_correct@{m}", m))
        },
    }


def _diversity(answers: Answers, embeddings_KD: Float[Tensor, "k dim"], empty_K: Sequence[bool]) -> dict[str, float]:
    """Diversity of the valid completions, and under ``…/correct`` of the correct ones, so that noise cannot pass for
    diversity. Empty ones are left out: an embedding of no text is unlike any other."""
    valid = [i for i, reward in enumerate(answers.rewards) if not math.isnan(reward) and not empty_K[i]]
    metrics = _of_group([answers.texts[i] for i in valid], embeddings_KD[valid])
    if answers.correct is None:
        correct = dict.fromkeys([*metrics, "compared"], math.nan)
    else:
        rows = [i for i, ok in enumerate(answers.correct) if ok and not empty_K[i]]
        correct = {**_of_group([answers.texts[i] for i in rows], embeddings_KD[rows]), "compared": float(len(rows) > 1)}
    return {**metrics, **{f"{name}/correct": value for name, value in correct.items()}}


def _of_group(texts: Sequence[str], embeddings_KD: Float[Tensor, "k dim"]) -> dict[str, float]:
    return {
        "cosine_distance": cosine_distance(embeddings_KD),
        "logdet": logdet(embeddings_KD),
        "vendi": vendi(embeddings_KD),
        **{f"distinct_{n}": distinct_n(texts, n) for n in (1, 2, 4)},
    }


def _means(metrics: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Mean of each metric over the prompts where it is defined, NaN if there are none."""
    defined = {key: [row[key] for row in metrics if not math.isnan(row[key])] for key in metrics[0]}
    return {key: sum(values) / len(values) if values else math.nan for key, values in defined.items()}
