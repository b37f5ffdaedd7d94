"""Whether an engine samples with the learner's weights: a loader that leaves a tensor behind says nothing, and the run
goes on learning from another policy's samples. Knows no engine."""

from collections.abc import Iterator, Sequence

from dqo import distributed
from dqo.errors import StageError
from dqo.records import Prompt, Rollouts
from dqo.stages import Checkable, Scoring, Weights

NAMED = 5  # tensors in a message


class Synced:
    """An engine that is compared with the learner after the first sync and each ``check_every``-th: on a group that it
    has sampled itself, its log-probabilities must be the learner's but for rounding (``tolerance``, a mean in nats).

    What moves no log-probability by as much as that, as one bfloat16 tensor left behind by one small step, is not seen.
    """

    def __init__(self, engine: Checkable, learner: Scoring):
        self._engine, self._learner = engine, learner
        self._sample: Rollouts | None = None
        self._syncs = 0

    def generate(self, prompts: Sequence[Prompt], *, k: int, seed: int) -> Iterator[Rollouts]:
        for rollouts in self._engine.generate(prompts, k=k, seed=seed):
            self._sample = rollouts
            yield rollouts

    def load_weights(self, weights: Weights, *, version: int) -> None:
        """Raises StageError that names what is stale where engine and learner differ."""
        self._engine.load_weights(weights, version=version)
        if self._sample is None:
            return
        self._syncs += 1
        if self._syncs == 1 or (self._engine.check_every and self._syncs % self._engine.check_every == 0):
            self._check(self._sample, version)

    def pause(self) -> None:
        self._engine.pause()

    def _check(self, sample: Rollouts, version: int) -> None:
        before = self._difference(sample)
        if before <= self._engine.tolerance:
            return
        stale = self._engine.stale(self._learner.weights())
        self._engine.load_weights(self._learner.weights(), version=version)
        after, still = self._difference(sample), self._engine.stale(self._learner.weights())
        names = f"{', '.join(stale[:NAMED])}{' …' if len(stale) > NAMED else ''}" if stale else "no tensor by its sums"
        outcome = f"sent again, they differ by {after:.3g} and {len(still)} are stale"
        raise StageError(
            "rollout",
            f"after the weights were sent, the engine's log-probabilities differ from the learner's by {before:.3g} "
            f"nats a token (allowed: {self._engine.tolerance:g}); stale: {names}; {outcome}",
        )

    def _difference(self, sample: Rollouts) -> float:
        """Mean absolute difference over the sampled tokens; the largest of all ranks, which then do the same."""
        difference_BT = (self._engine.score(sample) - self._learner.score(sample)).abs()
        return distributed.all_reduce_max(float(difference_BT[sample.sampled_BT].mean()))
