"""Rounding to fewer bits: numbers of the narrower type stay, others go up or down so that the mean is right."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dqo.models.rounding import LOST_BITS, chunk_size, rounded

NARROW = sorted(LOST_BITS, key=str)


@pytest.mark.parametrize("dtype", NARROW)
def test_numbers_of_the_narrower_type_stay_what_they_are(dtype):
    numbers = torch.randn(3, 70_001).to(dtype)
    assert torch.equal(rounded(numbers.float(), dtype), numbers)


@pytest.mark.parametrize("dtype", NARROW)
def test_a_number_becomes_one_of_its_two_neighbours(dtype):
    numbers = torch.randn(100_003)
    got, near = rounded(numbers, dtype), numbers.to(dtype)
    towards = torch.where(near.float() > numbers, -torch.inf, torch.inf).to(dtype)
    other = near.nextafter(towards)
    assert ((got == near) | (got == other)).all()
    assert (got != near).float().mean() == pytest.approx(0.25, abs=0.01)  # nearest is wrong by a fourth on average


@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("share", [0.03, 0.5, 0.9])
def test_the_share_of_numbers_rounded_up_is_how_far_they_are_on_the_way_up(dtype, share):
    low = torch.tensor(0.75, dtype=dtype)
    high = low.nextafter(torch.tensor(1.0, dtype=dtype))
    for sign in (1, -1):
        numbers = sign * (low.float() + share * (high.float() - low.float())).expand(300, 1000)
        up = (rounded(numbers, dtype) == sign * high).float()
        assert up.mean() == pytest.approx(share, abs=2e-3)
        for axis in (0, 1):  # no row or column is rounded one way
            assert up.mean(axis).sub(share).abs().max() < 5 * (share * (1 - share) / up.shape[axis]) ** 0.5


@pytest.mark.parametrize("size", [0, 1, chunk_size(torch.device("cpu")), chunk_size(torch.device("cpu")) + 1])
def test_every_size_is_rounded_whole(size):
    numbers = torch.full((size,), 1.001)
    assert rounded(numbers, torch.bfloat16).float().sub(numbers).abs().lt(0.008).all()


def test_the_result_depends_on_the_numbers_and_their_place_alone():
    numbers = torch.randn(40, 30)
    assert torch.equal(rounded(numbers, torch.bfloat16), rounded(numbers.t().contiguous().t(), torch.bfloat16))
    assert torch.equal(rounded(numbers, torch.bfloat16), rounded(numbers.double(), torch.bfloat16))


@pytest.mark.parametrize("dtype", NARROW)
def test_what_is_not_finite_stays_so(dtype):
    numbers = torch.tensor([torch.inf, -torch.inf, torch.nan, 0.0, -0.0]).repeat(50)
    torch.testing.assert_close(rounded(numbers, dtype), numbers.to(dtype), equal_nan=True)


@given(st.floats(-(2.0**90), 2.0**90, width=32))
def test_one_number_is_off_by_less_than_the_distance_of_its_neighbours(number):
    (got,) = rounded(torch.tensor([number]), torch.bfloat16).tolist()
    assert abs(got - number) <= abs(number) * 2**-7 + 1e-37


def test_other_types_are_cast():
    numbers = torch.tensor([0.1, 2.7])
    assert rounded(numbers, torch.float32) is not None
    assert torch.equal(rounded(numbers.bfloat16(), torch.float32), numbers.bfloat16().float())
    whole = torch.tensor([1, 2])
    assert torch.equal(rounded(whole, torch.bfloat16), whole)
