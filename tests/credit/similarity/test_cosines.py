import math

import torch

from dqo.credit.similarity.cosines import cosines, pair_mask, unit_vectors
from tests.credit import groups


def test_cosines_of_those_that_take_part_and_0_elsewhere():
    embeddings_PKD = groups.unit_vectors(2, 3, 4)
    embeddings_PKD[0, 1] = math.nan
    earning_PK = torch.tensor([[True, False, True], [True, True, True]])
    cosines_PKK = cosines(3 * embeddings_PKD, earning_PK)
    assert cosines_PKK.dtype == torch.float64
    exact_KK = embeddings_PKD[1].double() @ embeddings_PKD[1].double().T
    torch.testing.assert_close(cosines_PKK[1], exact_KK, rtol=0, atol=1e-6)
    torch.testing.assert_close(cosines_PKK[0].diagonal(), torch.tensor([1.0, 0.0, 1.0]).double())
    assert not cosines_PKK[0, 1].any() and not cosines_PKK[0, :, 1].any()


def test_unit_vectors_carry_no_gradient():
    vectors_PKD = unit_vectors(groups.unit_vectors(1, 2, 4).requires_grad_(), torch.ones(1, 2, dtype=torch.bool))
    assert not vectors_PKD.requires_grad


def test_pairs_are_of_different_completions_that_take_part():
    pairs_PKK = pair_mask(torch.tensor([[True, False, True], [False, False, True]]))
    assert pairs_PKK[0].nonzero().tolist() == [[0, 2], [2, 0]]
    assert not pairs_PKK[1].any()
