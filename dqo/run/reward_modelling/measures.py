"""How good a reward model is on held-out data."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from dqo.run.reward_modelling.data import Pair, Scored

BINS = 10  # of confidence, from .5 to 1


def pair_measures(pairs: Sequence[Pair], chosen_N: Tensor, rejected_N: Tensor) -> dict[str, Any]:
    """Of the rewards of held-out pairs, (N,) each:

    - ``accuracy``: share with a higher reward of the chosen answer, ties count half; ``longer``: of choosing the longer
      one (in tokens, without the prompt);
    - ``nll``: mean -log σ(difference), nats; .693 knows nothing;
    - ``calibration_error``: the mean over pairs of |share right - mean σ(|difference|)| in their bin of ten
      (Guo et al., arXiv 1706.04599, of the confidence from .5 to 1), and ``bins``: confidence, share right, pairs;
    - ``length_correlation``: Pearson's, of reward and tokens of the answer, over all answers.
    """
    difference_N = (chosen_N - rejected_N).double()
    lengths_N2 = torch.tensor([pair.lengths for pair in pairs], dtype=torch.float64)
    bins, error = _calibration(difference_N)
    return {
        "pairs": len(pairs),
        "accuracy": _won(difference_N),
        "longer": _won(lengths_N2[:, 0] - lengths_N2[:, 1]),
        "nll": -logsigmoid(difference_N).mean().item(),
        "calibration_error": error,
        "length_correlation": correlation(torch.cat((chosen_N, rejected_N)), lengths_N2.T.flatten()),
        "bins": bins,
    }


def score_measures(rows: Sequence[Scored], rewards_N: Tensor) -> dict[str, Any]:
    """Of the rewards of held-out scored texts, (N,):

    - ``mse`` in units of the scores' variance: 1 is what the mean alone has;
    - ``correlation`` (Pearson's) and ``rank_correlation`` (Spearman's, ties share their mean rank);
    - ``slope``: of the regression of scores on rewards: 1 is calibrated, below 1 too sure;
    - ``accuracy``: of ordering two answers of one prompt with different scores, NaN where there are none;
    - ``length_correlation``: Pearson's, of reward and tokens of the answer.
    """
    scores_N, rewards_N = torch.tensor([row.score for row in rows], dtype=torch.float64), rewards_N.double()
    centred_N = rewards_N - rewards_N.mean()
    lengths_N = torch.tensor([row.length for row in rows], dtype=torch.float64)
    return {
        "texts": len(rows),
        "mse": (rewards_N - scores_N).square().mean().item(),
        "correlation": correlation(rewards_N, scores_N),
        "rank_correlation": correlation(_ranks(rewards_N), _ranks(scores_N)),
        "slope": ((centred_N @ scores_N) / centred_N.square().sum()).item(),
        "accuracy": _order([row.prompt for row in rows], rewards_N, scores_N),
        "length_correlation": correlation(rewards_N, lengths_N),
    }


def correlation(a_N: Tensor, b_N: Tensor) -> float:
    """Pearson's; NaN if one of the two is constant."""
    return torch.corrcoef(torch.stack((a_N.double(), b_N.double())))[0, 1].item()


def _won(difference_N: Tensor) -> float:
    return ((difference_N > 0).double() + 0.5 * (difference_N == 0)).mean().item()


def _calibration(difference_N: Tensor) -> tuple[list[Mapping[str, float]], float]:
    confidence_N = difference_N.abs().sigmoid()
    right_N = (difference_N > 0).double() + 0.5 * (difference_N == 0)
    bin_N = ((confidence_N - 0.5) * 2 * BINS).long().clamp(max=BINS - 1)
    bins = []
    for number in bin_N.unique().tolist():
        inside_N = bin_N == number
        bins.append({
            "confidence": confidence_N[inside_N].mean().item(),
            "right": right_N[inside_N].mean().item(),
            "pairs": int(inside_N.sum()),
        })  # fmt: skip
    return bins, sum(abs(each["right"] - each["confidence"]) * each["pairs"] for each in bins) / len(difference_N)


def _order(prompts: Sequence[str], rewards_N: Tensor, scores_N: Tensor) -> float:
    rows: dict[str, list[int]] = defaultdict(list)
    for row, prompt in enumerate(prompts):
        rows[prompt].append(row)
    pairs = [pair for group in rows.values() for pair in combinations(group, 2)]
    signs = [
        ((scores_N[a] - scores_N[b]).sign() * (rewards_N[a] - rewards_N[b])).item()
        for a, b in pairs
        if scores_N[a] != scores_N[b]
    ]
    return _won(torch.tensor(signs)) if signs else float("nan")


def _ranks(values_N: Tensor) -> Tensor:
    _, places_N, counts = values_N.unique(return_inverse=True, return_counts=True)
    ends = counts.cumsum(0).double()
    return (ends - (counts.double() - 1) / 2)[places_N]
