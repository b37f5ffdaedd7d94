"""What stages promise one another, checked where the loop and an evaluation hand results on: a user's encoder or reward
may return anything. Invalid completions keep their slot in every tensor; their values are ignored."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields

from torch import Tensor

from dqo import distributed
from dqo.capabilities import Counting, Reporting
from dqo.distributed import Channel
from dqo.errors import ServiceError, StageError
from dqo.records import Rewards, Rollouts
from dqo.stages import Collectors

UNIT_TOLERANCE = 1e-3  # how far an embedding's length may be from 1


def says(cls: type, what: str, *, of: str) -> bool:
    """Whether a stage's class says ``what`` of its method ``of``, as True or as a property. A subclass with another
    method does not inherit what was said of the first."""
    owner = next((base for base in cls.__mro__ if {what, of} & vars(base).keys()), object)
    return bool(vars(owner).get(what, False))


def check_rewards(rollouts: Rollouts, rewards: Rewards) -> None:
    """Raises StageError unless each valid completion has a finite total and each of its sampled tokens a finite
    log-probability."""
    shape = (len(rollouts.prompts), rollouts.k)
    tensors = {"total_PK": rewards.total_PK, "valid_PK": rewards.valid_PK, "correct_PK": rewards.correct_PK}
    for name, tensor in {**tensors, **rewards.parts}.items():
        if tensor is not None:
            _check_shape("reward", name, tensor, shape)
    _refuse("reward", "the total is not finite", rollouts, rewards.valid_PK & ~rewards.total_PK.isfinite())
    broken_B = (rollouts.sampled_BT & ~rollouts.logprobs_BT.isfinite()).any(1)
    problem = "a sampled token's log-probability is not finite"
    _refuse("rollout", problem, rollouts, rewards.valid_PK & broken_B.view(shape))


def check_embeddings(rollouts: Rollouts, counted_PK: Tensor, embeddings_PKD: Tensor) -> None:
    """Raises StageError unless each completion that counts has an embedding of length 1."""
    shape = (len(rollouts.prompts), rollouts.k)
    if embeddings_PKD.ndim != 3:
        raise StageError("embed", f"embeddings of shape {tuple(embeddings_PKD.shape)}: (prompts, k, dim) is needed")
    _check_shape("embed", "embeddings", embeddings_PKD[:, :, 0], shape)
    unit_PK = (embeddings_PKD.float().norm(dim=-1) - 1).abs() < UNIT_TOLERANCE
    _refuse("embed", "no finite embedding of length 1", rollouts, counted_PK & ~unit_PK)


def checked_credits(rollouts: Rollouts, earning_PK: Tensor, credits_PK: Tensor) -> Tensor:
    """The credits (P, k), 0.0 for completions that cannot earn any: invalid or empty ones. Raises StageError for one of
    the others whose credit is not finite."""
    _check_shape("credit", "credits", credits_PK, (len(rollouts.prompts), rollouts.k))
    _refuse("credit", "the credit is not finite", rollouts, earning_PK & ~credits_PK.isfinite())
    return credits_PK.masked_fill(~earning_PK, 0.0)


def checked_token_credits(rollouts: Rollouts, earning_PK: Tensor, credits_BT: Tensor | None) -> Tensor | None:
    """The credits of tokens (B, T), 0.0 in completions that cannot earn any and where nothing was sampled; None stays
    None. Raises StageError for another shape, and for a completion with a credit that is not finite."""
    if credits_BT is None:
        return None
    if credits_BT.shape != rollouts.tokens_BT.shape:
        got, needed = tuple(credits_BT.shape), tuple(rollouts.tokens_BT.shape)
        raise StageError("credit", f"credits of tokens have the shape {got}: {needed} is needed")
    credits_BT = credits_BT.masked_fill(~(rollouts.sampled_BT & earning_PK.flatten()[:, None]), 0.0)
    broken_PK = (~credits_BT.isfinite()).any(1).view(earning_PK.shape)
    _refuse("credit", "a token's credit is not finite", rollouts, broken_PK)
    return credits_BT


def refuse_negative(
    stage: str, rollouts: Rollouts, rewards: Rewards, counted_PK: Tensor, *, option: str, remedy: str
) -> None:
    """Raises StageError where a completion that counts has a negative reward. ``option``: what was typed that needs
    rewards of at least 0; ``remedy``: what to type instead."""
    negative_PK = counted_PK & (rewards.total_PK < 0)
    if negative_PK.any():
        positions = [rollouts.prompts[p].position for p in negative_PK.any(1).nonzero()[:, 0].tolist()]
        lowest = float(rewards.total_PK[negative_PK].min())
        problem = f"{option} needs rewards of at least 0, and one is {lowest:g}; type {remedy}"
        raise StageError(stage, problem, positions=positions)


@contextmanager
def failing_together(channel: Channel) -> Iterator[None]:
    """Raises a ServiceError of one rank's block on all ranks, at the end of their blocks: the run can then save a
    checkpoint. A collective on ``channel``."""
    mine = None
    try:
        yield
    except ServiceError as error:
        mine = error
    told = distributed.all_gather(mine and (mine.stage, mine.message, mine.positions), channel)
    if mine is not None:
        raise mine
    for stage, message, positions in filter(None, told):
        raise ServiceError(stage, message, positions=positions)


def failure_counts(stages: Collectors, earlier: Mapping[str, int | float] | None = None) -> dict[str, int | float]:
    """What stages have counted since the run started, such as failures, over all ranks, by metric name:
    ``rewards/<name>`` for the reward, ``<stage>/<name>`` for any other stage. ``earlier``: totals of the processes
    before a resume. A collective."""
    mine = {
        f"{'rewards' if f.name == 'reward' else f.name}/{name}": count
        for f in fields(stages)
        if isinstance(stage := getattr(stages, f.name), Counting)
        for name, count in stage.counters().items()
    }
    ranks = distributed.all_gather(mine)
    return {name: sum(rank[name] for rank in ranks) + (earlier or {}).get(name, 0) for name in ranks[0]}


def stage_numbers(stages: Collectors, earlier: Mapping[str, int | float] | None = None) -> dict[str, float]:
    """What stages report of themselves, by the metric's name: ``Reporting.metrics`` and ``failure_counts``. A
    collective."""
    reporting = [stage for f in fields(stages) if isinstance(stage := getattr(stages, f.name), Reporting)]
    metrics = {name: number for stage in reporting for name, number in stage.metrics().items()}
    return {**metrics, **{name: float(count) for name, count in failure_counts(stages, earlier).items()}}


def _check_shape(stage: str, name: str, tensor: Tensor, shape: tuple[int, int]) -> None:
    if tuple(tensor.shape) != shape:
        got, needed = tuple(tensor.shape), f"{shape[0]} prompts × {shape[1]} completions"
        raise StageError(stage, f"{name} has the shape {got} for {needed}")


def _refuse(stage: str, problem: str, rollouts: Rollouts, bad_PK: Tensor) -> None:
    """Raises StageError that names the prompts and the first text, if any entry is True."""
    if bad_PK.any():
        positions = [rollouts.prompts[p].position for p in bad_PK.any(1).nonzero()[:, 0].tolist()]
        text = rollouts.texts[int(bad_PK.flatten().nonzero()[0])]
        raise StageError(stage, f"{problem} for {text!r:.80}", positions=positions)
