"""Whether an inference engine samples with the learner's weights. A weight loader that leaves a tensor behind says
nothing, and the run would go on learning from another policy's samples."""

from collections.abc import Sequence

from dqo import distributed
from dqo.errors import StageError
from dqo.records import Rollouts
from dqo.stages import Checkable, Scoring

NAMED = 5  # tensors listed in a message


class SyncCheck:
    """Compares engine and learner after the first transfer of weights and each ``check_every``-th: on a group that the
    engine has sampled, both must give the same log-probabilities up to rounding (``tolerance``, mean nats a token).

    A difference too small for that is not seen, such as one bfloat16 tensor that missed one small step.
    """

    def __init__(self, engine: Checkable, learner: Scoring):
        self._engine, self._learner = engine, learner
        self._transfers = 0

    def __call__(self, sample: Rollouts, version: int) -> None:
        """To be called after each transfer of weights, with a group that was sampled before it. A collective.

        Raises StageError that names the stale tensors where engine and learner differ.
        """
        self._transfers += 1
        every = self._engine.check_every
        if self._transfers > 1 and not (every and self._transfers % every == 0):
            return
        before = self._difference(sample)
        if before <= self._engine.tolerance:
            return
        stale = self._engine.stale(self._learner.weights())
        self._engine.load_weights(self._learner.weights(), version=version)
        after, still = self._difference(sample), self._engine.stale(self._learner.weights())
        raise StageError(
            "rollout",
            f"after the weights were sent, the engine's log-probabilities differ from the learner's by {before:.3g} "
            f"nats a token (allowed: {self._engine.tolerance:g}); stale: {_listed(stale)}; "
            f"sent again, they differ by {after:.3g} and {len(still)} are stale",
        )

    def _difference(self, sample: Rollouts) -> float:
        """Mean absolute difference over the sampled tokens, the largest over all ranks: they then act alike. The engine
        gives its memory back before the learner's pass."""
        engine_BT = self._engine.score(sample)
        self._engine.pause()
        difference_BT = (engine_BT - self._learner.score(sample)).abs()
        return distributed.all_reduce_max(float(difference_BT[sample.sampled_BT].mean()))


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(names[:NAMED])}{' …' if len(names) > NAMED else ''}" if names else "no tensor by its sums"
