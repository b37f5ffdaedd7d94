"""One step of the real loop, credit, advantage, loss and learner, with given rollouts, rewards and embeddings."""

from dataclasses import dataclass

from torch import Tensor

from dqo.loop import Plan, train
from dqo.records import Rewards, Rollouts, Step
from dqo.stages import Stages
from tests.factories import tiny_llama
from tests.helpers.toy_stages import CountingTask
from tests.learner.builders import Recorder, make_learner


@dataclass(frozen=True, kw_only=True)
class Given:
    """Rollout, reward and encoder of one step, which return given records."""

    rollouts: Rollouts
    rewards: Rewards
    embeddings_PKD: Tensor

    def generate(self, prompts, *, k: int, seed: int):
        yield self.rollouts

    def score(self, rollouts) -> Rewards:
        return self.rewards

    def encode(self, rollouts) -> Tensor:
        return self.embeddings_PKD

    def load_weights(self, weights, *, version: int) -> None: ...

    def pause(self) -> None: ...


def step_of(one: Given, *, credit, advantage, **learner) -> tuple[Step, list[dict[str, Tensor]]]:
    """The step, and the gradients of each update by parameter name. ``learner``: arguments of ``make_learner``."""
    recorder, seen = Recorder(), []
    made = make_learner(tiny_llama(), optim=recorder, **learner)
    stages = Stages(
        task=CountingTask(), rollout=one, reward=one, embed=one, credit=credit, advantage=advantage,
        loss=made.loss, learner=made,
    )  # fmt: skip
    train(stages, Plan(steps=1, prompts=3, k=4, alpha=1.0, seed=0), [seen.append])
    return seen[0], recorder.gradients
