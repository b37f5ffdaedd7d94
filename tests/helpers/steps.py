"""A step and an evaluation with known numbers."""

import math
from collections.abc import Callable, Mapping

import torch

from dqo.evaluation import Evaluation
from dqo.metrics.training import describe
from dqo.records import Answers, Experience, Prompt, Rewards, Step, Targets
from tests.factories import make_rollouts

HOSTILE = (
    "Paris\x1b[2J\n[bold red]x[/] \u202e"  # clears the screen, breaks the line, has markup, reverses the direction
)


def make_step(number: int = 1, *, texts: tuple[str, ...] = ("Paris", "Paris", "Lima", HOSTILE)) -> Step:
    """Two groups of two completions. The first group is collapsed and correct; in the second both are wrong, and the
    last completion is truncated and invalid.

    Rewards 1 1 | .5 (0); credits .4 .4 | .6 (0); the part "style" does not apply to completion 1.
    """
    prompts = tuple(Prompt(position=p, tokens=(3, 4), content=f"City {p}?", columns={}) for p in range(2))
    rollouts = make_rollouts(texts, 2, prompts=prompts, finished=[True, True, True, False])
    rewards = Rewards(
        total_PK=torch.tensor([[1.0, 1.0], [0.5, 0.0]]),
        parts={"check": torch.tensor([[1.0, 1.0], [0.5, 0.0]]), "style": torch.tensor([[0.2, math.nan], [0.4, 0.0]])},
        correct_PK=torch.tensor([[True, True], [False, False]]),
        valid_PK=torch.tensor([[True, True], [True, False]]),
    )
    experience = Experience(
        rollouts=rollouts,
        rewards=rewards,
        embeddings_PKD=None,
        credits_PK=torch.tensor([[0.4, 0.4], [0.6, 0.0]]),
    )
    advantages_BT = torch.tensor([[1.0], [-0.5], [0.25], [0.0]]) * rollouts.sampled_BT
    return Step(
        number=number,
        cursor=2 * number,
        experience=experience,
        targets=Targets(advantages_BT=advantages_BT),
        report={"loss": 0.1, "entropy": 1.5, "kl": math.nan},
        seconds={"rollout": 2.0, "embed": 3.0, "reward": 0.5, "credit": 0.25, "learner": 1.0, "sync": 0.75},
        elapsed=5.0,
    )


def send(observer: Callable[[Step, Mapping[str, float]], None], step: Step) -> None:
    """Call an observer with a step and its metrics at alpha = 1."""
    observer(step, describe(step, alpha=1.0))


def make_evaluation(share: float = 0.5, *, text: str = "Paris") -> Evaluation:
    """Two prompts with 4 answers each; ``share`` of the answers is correct and is the value of every metric but one,
    which is undefined."""
    prompts = [Prompt(position=p, tokens=(3,), content=f"City {p}?", columns={}) for p in range(2)]
    right = round(4 * share)
    answers = tuple(
        Answers(
            prompt=prompt,
            texts=(text,) * 4,
            keys=("paris",) * 4,
            correct=(True,) * right + (False,) * (4 - right),
            rewards=(1.0,) * right + (math.nan,) * (4 - right),
            finished=(True,) * 4,
            lengths=(2,) * 4,
        )
        for prompt in prompts
    )
    keys = ("reward", "pass@1", "pass@10", "distinct_correct", "cosine_distance", "logdet", "finished")
    metrics = {**dict.fromkeys(keys, share), "cosine_distance/correct": math.nan}
    return Evaluation(
        n=4, seed=0, metrics=metrics, answers=answers, per_prompt={key: (value,) * 2 for key, value in metrics.items()},
        cosines=([[1.0] * 4] * 4,) * 2,
    )  # fmt: skip
