"""When a run is measured and kept: the two observers that do more than watch."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dqo.evaluation import Evaluation, evaluate
from dqo.files.checkpoint import Checkpoints
from dqo.records import Prompt, Step
from dqo.stages import Stages

Listener = Callable[[int, Evaluation], None]  # the step after which it was measured, 0 before the first


class Evaluating:
    """Evaluates every ``every`` steps (0: never) and tells the listeners; ``measure`` does it now.

    ``say`` is told what begins, since it takes a while: ``view.say``.
    """

    def __init__(
        self,
        *,
        stages: Stages,
        prompts: Sequence[Prompt],
        listeners: Sequence[Listener],
        say: Callable[[str], None],
        every: int,
        n: int,
        seed: int,
    ):
        self.stages, self.prompts, self.listeners, self.say = stages, prompts, listeners, say
        self.every, self.n, self.seed = every, n, seed
        self.latest: tuple[int, Evaluation] | None = None

    def __call__(self, step: Step) -> None:
        if self.every and step.number % self.every == 0:
            self.measure(step.number)

    def measure(self, number: int) -> Evaluation:
        """The policy as it is after step ``number``; nothing is sampled twice for the same step."""
        if self.latest is None or self.latest[0] != number:
            self.say(f"evaluating {len(self.prompts)} held-out prompts × {self.n}")
            self.latest = (number, evaluate(self.stages, self.prompts, n=self.n, seed=self.seed))
            for listen in self.listeners:
                listen(*self.latest)
        return self.latest[1]


class Saving:
    """Saves a checkpoint every ``every`` steps and after the ``last`` (every=0: never).

    Stands last among the observers, so that ``extra`` (offset of metrics.jsonl, wandb id) includes what the others
    wrote of the step.
    """

    def __init__(
        self, *, checkpoints: Checkpoints, stages: Stages, extra: Callable[[], Mapping[str, Any]], every: int, last: int
    ):
        self.checkpoints, self.stages, self.extra, self.every, self.last = checkpoints, stages, extra, every, last

    def __call__(self, step: Step) -> None:
        if self.every and (step.number % self.every == 0 or step.number == self.last):
            self.checkpoints.save(step.number, step.cursor, self.stages, self.extra())
