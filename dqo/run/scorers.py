"""From ``eval.nli``, ``eval.judge`` and ``eval.novelty`` to the scorers of an evaluation."""

from collections.abc import Sequence
from pathlib import Path

import torch

from dqo.config.schema import Eval, Novelty
from dqo.metrics.names import SCORERS
from dqo.models.precision import Dtype
from dqo.scorers.bundle import Scorers
from dqo.scorers.judge import JudgeDiversity
from dqo.scorers.nli import NliDisagreement
from dqo.scorers.novelty import NoveltyBench, RewardModel, SameAnswer


def scorers_of(config: Eval, device: torch.device, folder: Path | None, *, others: Sequence[Path] = ()) -> Scorers:
    """The scorers that are configured. ``folder``: of the run, where the judge's answers are kept; ``others``: of runs
    that may have asked it the same.

    Raises ConfigError for a model that cannot be used and for a service that is not there. Reads no weights. Not a
    collective.
    """
    dtype = Dtype.AUTO.on(device) if device.type == "cuda" else torch.float32
    given = {"nli": config.nli, "judge": config.judge.base_url, "novelty": config.novelty.reward_model}
    metrics = {"nli": "nli_disagreement", "judge": "judge_diversity", "novelty": "noveltybench"}
    return Scorers(
        nli=NliDisagreement(config.nli, device=device, dtype=dtype) if config.nli else None,
        judge=JudgeDiversity(**config.judge.model_dump(), folder=folder, others=others)
        if config.judge.base_url
        else None,
        novelty=_novelty(config.novelty, device, dtype),
        missing={metrics[need]: SCORERS[need] for need, value in given.items() if not value},
    )


def _novelty(config: Novelty, device: torch.device, dtype: torch.dtype) -> NoveltyBench:
    return NoveltyBench(
        same=SameAnswer(config.classifier, device=device) if config.classifier else None,
        reward=RewardModel(config.reward_model, device=device, dtype=dtype) if config.reward_model else None,
    )
