import math
from dataclasses import replace

import pytest
import torch

from dqo.credit.constant import Constant, equal_cosine_credit
from dqo.credit.gating.gate import Gate, Gating
from dqo.dpp import leave_one_out_credits
from dqo.references import References
from dqo.stages import Credit
from tests.credit.builders import dpp
from tests.credit.groups import group


def constant(size=None, cosine=0.5, gate=Gate.correct, threshold=None):
    return Constant(References(), size=size, cosine=cosine, gating=Gating(gate=gate, threshold=threshold))


def test_is_a_credit_that_needs_no_embeddings():
    assert isinstance(constant(), Credit) and not constant().uses_embeddings and Constant.pairs_tie


@pytest.mark.parametrize("cosine", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_the_size_is_dpps_credit_at_equal_cosines(count, cosine):
    kernel_KK = torch.full((count, count), cosine, dtype=torch.float64).fill_diagonal_(1.0)
    whole, rest = (torch.logdet(kernel_KK[i:, i:] + torch.eye(count - i)) for i in (0, 1))
    size = equal_cosine_credit(torch.tensor(float(count), dtype=torch.float64), cosine)
    torch.testing.assert_close(size, whole - rest)
    torch.testing.assert_close(leave_one_out_credits(kernel_KK), size.expand(count))


def test_rare_success_is_paid_more_as_by_dpp():
    """One, two and no correct completion of three; two correct ones have the cosine 0.5."""
    rewards = [[1.0, 0.0, 0.0], [1.0, 0.0, 1.0], [0.0, 0.0, 0.0]]
    credits_PK = constant().assign(*group(rewards), None)
    embeddings_PKD = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.5, math.sqrt(0.75)]]).expand(3, 3, 2)
    torch.testing.assert_close(credits_PK, dpp(Gate.correct).assign(*group(rewards), embeddings_PKD))
    assert credits_PK[0].tolist() == pytest.approx([math.log(2), 0.0, 0.0])
    assert 0 < credits_PK[1, 0] < math.log(2)
    assert credits_PK.dtype == torch.float32


def test_a_number_is_paid_to_whoever_passes():
    credits_PK = constant(size=0.25).assign(*group([[1.0, 0.0, 2.0]]), None)
    assert credits_PK.tolist() == [[0.25, 0.0, 0.25]]


def test_invalid_and_empty_completions_are_not_counted():
    rollouts, rewards = group([[1.0, 1.0, 1.0]], [[True, False, True]])
    rollouts = replace(rollouts, texts=("w1", "w2", " "))
    assert constant().assign(rollouts, rewards, None)[0].tolist() == pytest.approx([math.log(2), 0.0, 0.0])


def test_the_model_card_says_what_was_paid():
    says = "passing the gate, whatever it says (as much as dpp pays at cosines of 0.5), among the correct completions"
    assert constant().description == says
    assert constant(size=0.25, gate=Gate.none).description == "passing the gate, whatever it says (0.25 each)"
