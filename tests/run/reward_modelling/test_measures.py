import math

import pytest
import torch

from dqo.run.reward_modelling.data import Pair, Scored
from dqo.run.reward_modelling.measures import correlation, pair_measures, score_measures

TOKENS = {"input_ids": [0] * 512}  # of conversations that are cut to one length: answers alone are compared


def test_pairs():
    pairs = [Pair(prompt="a", chosen=TOKENS, rejected=TOKENS, lengths=(n, 2)) for n in (1, 2, 3, 4)]
    chosen_N, rejected_N = torch.tensor([2.0, 1.0, 0.0, 1.0]), torch.tensor([1.0, 1.0, 3.0, -2.0])
    found = pair_measures(pairs, chosen_N, rejected_N)
    assert found["accuracy"] == (1 + 0.5 + 0 + 1) / 4 and found["longer"] == (0 + 0.5 + 1 + 1) / 4
    assert found["nll"] == pytest.approx(sum(math.log1p(math.exp(-d)) for d in (1, 0, -3, 3)) / 4)
    sure = 1 / (1 + math.exp(-3))  # twice: once right, once wrong
    assert [each["pairs"] for each in found["bins"]] == [1, 1, 2]
    assert found["bins"][2] == pytest.approx({"confidence": sure, "right": 0.5, "pairs": 2})
    once = 1 / (1 + math.exp(-1))
    assert found["calibration_error"] == pytest.approx((0 + (1 - once) + 2 * (sure - 0.5)) / 4)
    lengths = torch.tensor([1.0, 2, 3, 4, 2, 2, 2, 2])
    assert found["length_correlation"] == pytest.approx(correlation(torch.cat((chosen_N, rejected_N)), lengths))


def test_scored_texts():
    rows = [
        Scored(prompt=prompt, answer=TOKENS, length=n + 1, score=score)
        for n, (prompt, score) in enumerate([("a", 1.0), ("a", 3.0), ("b", 2.0), ("b", 2.0), ("b", 0.0)])
    ]
    rewards_N = torch.tensor([0.0, 1.0, 0.5, 0.7, 0.6])
    found = score_measures(rows, rewards_N)
    scores_N = torch.tensor([1.0, 3, 2, 2, 0])
    assert found["texts"] == 5
    assert found["mse"] == pytest.approx((rewards_N - scores_N).square().mean().item())
    assert found["correlation"] == pytest.approx(torch.corrcoef(torch.stack((rewards_N, scores_N)))[0, 1].item())
    ranks = torch.tensor([[1.0, 5, 2, 4, 3], [2, 5, 3.5, 3.5, 1]])
    assert found["rank_correlation"] == pytest.approx(torch.corrcoef(ranks)[0, 1].item())
    centred_N = rewards_N - rewards_N.mean()
    assert found["slope"] == pytest.approx((centred_N @ scores_N / centred_N.square().sum()).item(), rel=1e-5)
    assert found["accuracy"] == pytest.approx(2 / 3)  # of a's pair, and of b's two with different scores, one is wrong


def test_what_is_undefined_is_nan():
    alone = [Scored(prompt=prompt, answer=TOKENS, length=1, score=score) for prompt, score in (("a", 0.0), ("b", 1.0))]
    found = score_measures(alone, torch.tensor([1.0, 1.0]))
    assert (
        math.isnan(found["accuracy"]) and math.isnan(found["correlation"]) and math.isnan(found["length_correlation"])
    )
