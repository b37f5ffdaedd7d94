import pytest
import torch

from dqo.credit.elliptic import Bonus, Elliptic, Features
from dqo.credit.gating.gate import Gate
from dqo.dpp import kernel_matrix, leave_one_out_credits
from tests.credit.builders import gated
from tests.credit.groups import unit_vectors
from tests.credit.properties import assert_only_those_that_pass_take_part, assigned, lone, spread


def elliptic(gate=Gate.none, bonus=Bonus.leave_one_out, features=Features.plain, ridge=0.01):
    return gated(Elliptic, gate, bonus=bonus, features=features, ridge=ridge)


def bonuses(rows_KD, bonus, features, ridge):
    """By the inverse of the covariance of D numbers, for each completion anew."""
    if features == Features.centred:
        rows_KD = rows_KD - rows_KD.mean(0)
    found = []
    for i, row_D in enumerate(rows_KD):
        covariance_DD = ridge * torch.eye(len(row_D), dtype=torch.float64)
        for j, other_D in enumerate(rows_KD):
            if j != i or bonus == Bonus.leverage:
                covariance_DD += torch.outer(other_D, other_D)
        found.append(float(row_D @ torch.linalg.inv(covariance_DD) @ row_D))
    return found


@pytest.mark.parametrize("ridge", [0.01, 0.5])
@pytest.mark.parametrize("features", Features)
@pytest.mark.parametrize("bonus", Bonus)
def test_credits_are_the_bonuses_of_their_definition(bonus, features, ridge):
    for k in (2, 3, 8):
        embeddings_PKD = unit_vectors(2, k, 5)
        credits_PK = assigned(elliptic(Gate.none, bonus, features, ridge), [[1.0] * k] * 2, embeddings_PKD)
        for rows_KD, credits_K in zip(embeddings_PKD.double(), credits_PK.tolist(), strict=True):
            assert credits_K == pytest.approx(bonuses(rows_KD, bonus, features, ridge), rel=1e-4)


@pytest.mark.parametrize("features", Features)
@pytest.mark.parametrize("bonus", Bonus)
def test_only_completions_that_pass_the_gate_take_part(bonus, features):
    assert_only_those_that_pass_take_part(lambda gate: elliptic(gate, bonus, features))


@pytest.mark.parametrize(
    ("bonus", "features", "credit"),
    [
        (Bonus.leave_one_out, Features.plain, 100.0),
        (Bonus.leverage, Features.plain, 1 / 1.01),
        (Bonus.leave_one_out, Features.centred, 0.0),
        (Bonus.leverage, Features.centred, 0.0),
    ],
)
def test_a_completion_that_passes_alone(bonus, features, credit):
    assert lone(lambda gate: elliptic(gate, bonus, features)) == pytest.approx(credit)


@pytest.mark.parametrize(
    ("bonus", "features", "k", "size"),
    [
        (Bonus.leave_one_out, Features.plain, 4, 100 - 1 / 2.01),
        (Bonus.leave_one_out, Features.plain, 8, 100 - 1 / 6.01),
        (Bonus.leave_one_out, Features.centred, 4, 2.832),
        (Bonus.leave_one_out, Features.centred, 8, 6.676),
        (Bonus.leverage, Features.plain, 4, 1 / 1.01 - 1 / 3.01),
        (Bonus.leverage, Features.plain, 8, 1 / 1.01 - 1 / 7.01),
        (Bonus.leverage, Features.centred, 4, 0.662),
        (Bonus.leverage, Features.centred, 8, 0.852),
    ],
)
def test_spread_of_an_outlier_beside_copies(bonus, features, k, size):
    assert spread(elliptic(bonus=bonus, features=features), k) == pytest.approx(size, abs=5e-4)


@pytest.mark.parametrize("k", [2, 8])
def test_copies_share_one_direction_and_are_0_when_centred(k):
    copies_PKD = unit_vectors(1, 1, 384).expand(1, k, 384)
    plain = assigned(elliptic(), [[1.0] * k], copies_PKD)[0]
    assert plain.tolist() == pytest.approx([1 / (0.01 + k - 1)] * k) and len(set(plain.tolist())) == 1
    assert not assigned(elliptic(features=Features.centred), [[1.0] * k], copies_PKD).any()


def test_the_log_of_1_plus_the_bonus_is_the_credit_of_dpp():
    embeddings_PKD = unit_vectors(3, 6, 4)
    credits_PK = assigned(elliptic(ridge=1.0), [[1.0] * 6] * 3, embeddings_PKD)
    torch.testing.assert_close(credits_PK.log1p(), leave_one_out_credits(kernel_matrix(embeddings_PKD)))


def test_the_model_card_says_what_was_paid():
    says = "the elliptic bonus of its embedding in its group (leverage, centred features, ridge 0.01)"
    assert elliptic(bonus=Bonus.leverage, features=Features.centred).description == says
