"""The completions of one prompt with rewards, credits and similarities, as training would judge them."""

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dqo.capabilities import PaysTokens
from dqo.config.schema import SampleConfig
from dqo.contracts import check_embeddings, check_rewards, checked_credits, checked_token_credits, says
from dqo.metrics.diversity import cosine_distance
from dqo.observe.group import Group, mean
from dqo.progress import elapsed
from dqo.records import Prompt, Rewards, Rollouts
from dqo.references import References
from dqo.run.sampling.choosing import choose
from dqo.stages import Collectors, Credit


def sampled_group(stages: Collectors, config: SampleConfig, prompt: Prompt, *, number: int) -> Group:
    """``config.k`` completions of a prompt, judged. ``number``: how many prompts this process had before; another
    number gives other completions. Raises StageError if a stage fails."""
    with elapsed("sampling"):
        asked = replace(prompt, position=number)
        (rollouts,) = stages.rollout.generate([asked], k=config.k, seed=config.seed)
    judges_nothing = says(type(stages.reward), "judges_nothing", of="score")
    needed = [] if judges_nothing else sorted(columns_of_rows(stages) - prompt.columns.keys())
    is_judged = not needed and not judges_nothing
    rewards = _no_rewards(rollouts) if needed else stages.reward.score(rollouts)
    check_rewards(rollouts, rewards)
    embeddings_PKD, earning_PK = stages.embed.encode(rollouts), rewards.valid_PK & ~rollouts.empty_PK
    check_embeddings(rollouts, earning_PK, embeddings_PKD)
    embeddings_KD, texts = embeddings_PKD[0].double(), rollouts.texts
    candidates = earning_PK[0].nonzero()[:, 0].tolist()
    alpha = config.alpha or 1.0
    chosen = None
    if config.choose is not None:
        chosen = choose(
            texts, rewards.total_PK[0], embeddings_KD, candidates, config.choose, alpha=alpha, pick=config.pick,
            seed=config.seed + number,
        )  # fmt: skip
    group = Group(
        policy=config.policies[0].name,
        prompt=prompt.text,
        completions=texts,
        rewards=_defined(rewards.total_PK[0], rewards.valid_PK[0] & is_judged),
        correct=_correct(rewards),
        credits=_credits(stages.credit, rollouts, rewards, embeddings_PKD, is_judged=is_judged),
        lengths=tuple(rollouts.sampled_BT.sum(1).tolist()),
        finished=tuple(rollouts.finished_B.tolist()),
        cosines=_cosines(embeddings_KD, rollouts.empty_PK[0]),
        chosen=chosen,
        notes=(),
    )
    summary = _summary(stages, asked, group, cosine_distance(embeddings_PKD[0][candidates]), is_judged=is_judged)
    notes = (summary, _about_reward(needed), _about_credit(stages.credit, group, config.alpha))
    return replace(group, notes=tuple(filter(None, (*notes, _about_choice(config, group, alpha)))))


def columns_of_rows(stages: Collectors) -> set[str]:
    """The names of the columns that the task's prompts have beside the text, of which a reward may need some."""
    return {*stages.task.held_out()[0].columns}


def _no_rewards(rollouts: Rollouts) -> Rewards:
    """In place of rewards, where nothing can judge: no number in it is shown."""
    shape = (len(rollouts.prompts), rollouts.k)
    return Rewards(total_PK=torch.zeros(shape), parts={}, correct_PK=None, valid_PK=torch.ones(shape, dtype=torch.bool))


def _credits(
    credit: Credit, rollouts: Rollouts, rewards: Rewards, embeddings_PKD: Float[Tensor, "p k d"], *, is_judged: bool
) -> tuple[float, ...] | None:
    """None for a credit that pays nothing; NaN where completions are invalid, or the credit asks for rewards or for
    reference samples that are not there. Of a credit that pays tokens, the mean over a completion's tokens."""
    if getattr(credit, "pays_nothing", False):
        return None
    if (not is_judged and getattr(credit, "needs_rewards", True)) or _lacks_references(credit):
        return (math.nan,) * rollouts.k
    earning_PK = rewards.valid_PK & ~rollouts.empty_PK
    credits_PK = credit.assign(rollouts, rewards, embeddings_PKD if credit.uses_embeddings else None)
    credits_PK = checked_credits(rollouts, earning_PK, credits_PK)
    if isinstance(credit, PaysTokens):
        credits_BT = checked_token_credits(rollouts, earning_PK, credit.assign_tokens(rollouts, rewards))
        assert credits_BT is not None
        credits_PK = credits_PK + rollouts.token_means(credits_BT)
    return _defined(credits_PK[0], rewards.valid_PK[0])


def _lacks_references(credit: Credit) -> bool:
    """Whether a credit compares with the initial policy's completions: a training run samples them."""
    references = getattr(credit, "references", None)
    return isinstance(references, References) and references.count > 0 and references.is_empty


def _correct(rewards: Rewards) -> tuple[bool | None, ...]:
    if rewards.correct_PK is None:
        return (None,) * rewards.total_PK.shape[1]
    pairs = zip(rewards.correct_PK[0].tolist(), rewards.valid_PK[0].tolist(), strict=True)
    return tuple(bool(right) if valid else None for right, valid in pairs)


def _cosines(embeddings_KD: Float[Tensor, "k d"], empty_K: Bool[Tensor, " k"]) -> tuple[tuple[float, ...], ...]:
    """NaN for an empty completion: the embedding of no text means nothing."""
    cosines_KK = (embeddings_KD @ embeddings_KD.mT).clamp(-1, 1)
    cosines_KK = cosines_KK.masked_fill(empty_K[:, None] | empty_K[None, :], math.nan)
    return tuple(map(tuple, cosines_KK.tolist()))


def _defined(values_K: Float[Tensor, " k"], defined_K: Bool[Tensor, " k"]) -> tuple[float, ...]:
    return tuple(values_K.masked_fill(~defined_K, math.nan).tolist())


def _summary(stages: Collectors, prompt: Prompt, group: Group, distance: float, *, is_judged: bool) -> str:
    k = len(group.completions)
    parts = [f"{k} completions"]
    if is_judged:
        different = len({stages.task.key(prompt, text) for text in group.completions})
        parts += [f"{different} different answers", f"mean reward {mean(group.rewards):.3f}"]
    return ", ".join([*parts, *([] if math.isnan(distance) else [f"mean cosine distance {distance:.3f}"])])


def _about_reward(needed: Sequence[str]) -> str:
    if not needed:
        return ""
    return f"reward –: this task judges a completion by the {', '.join(needed)} of its own prompts"


def _about_credit(credit: Credit, group: Group, alpha: float) -> str:
    if group.credits is None:
        return ""
    if _lacks_references(credit):
        return "credit –: it compares with completions of the initial policy, which only a training run samples"
    if all(map(math.isnan, group.credits)):
        return "credit –: it depends on the reward"
    what = getattr(credit, "description", f"the credit of {type(credit).__name__}")
    return f"credit: {what}; in training it counts alpha={alpha:g} times"


def _about_choice(config: SampleConfig, group: Group, alpha: float) -> str:
    if group.chosen is None:
        return ""
    how = "the greedy maximum of" if config.pick == "map" else "a random set, its probability proportional to"
    quality = "1" if all(map(math.isnan, group.rewards)) else f"exp(reward / {2 * alpha:g})"
    less = "the others repeat them, are not judged, or weigh nothing at this alpha"
    fewer = len(group.chosen) < (config.choose or 0)
    return (
        f"chosen: {how} the determinant of q_i q_j cosine_ij, q = {quality}"
        + (f"; alpha={alpha:g} in place of 0" if alpha != config.alpha else "")
        + (f"; {len(group.chosen)}, not {config.choose}: {less}" if fewer else "")
    )
