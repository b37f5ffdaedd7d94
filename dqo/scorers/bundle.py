"""The scorers of an evaluation, and which metrics lack theirs."""

from collections.abc import Mapping
from dataclasses import dataclass

from dqo.scorers.judge import JudgeDiversity
from dqo.scorers.nli import NliDisagreement
from dqo.scorers.novelty import NoveltyBench


@dataclass(frozen=True, kw_only=True)
class Scorers:
    """What ``run.scorers.scorers_of`` builds from ``eval.nli``, ``eval.judge`` and ``eval.novelty``. Weights are read
    at the first question, and again after ``release``."""

    nli: NliDisagreement | None = None
    judge: JudgeDiversity | None = None
    novelty: NoveltyBench
    # {"nli_disagreement": "eval.nli=FOLDER …"}: metrics without their scorer, and what to type for it
    missing: Mapping[str, str]

    def release(self) -> None:
        """Frees the memory of all models, and logs what the judge was asked: at the end of an evaluation."""
        if self.nli:
            self.nli.release()
        self.novelty.release()
        if self.judge:
            self.judge.report()
