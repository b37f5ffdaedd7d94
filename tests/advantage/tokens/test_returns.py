import pytest
import torch

from dqo import distributed
from dqo.advantage.tokens.returns import at_last_token, estimated_advantages, whitened
from tests.helpers.on_ranks import on_ranks

SAMPLED_BT = torch.tensor(
    [[0, 1, 1, 1, 0, 0], [0, 0, 1, 0, 1, 1], [0, 1, 0, 0, 1, 0], [0, 0, 0, 0, 0, 0]], dtype=torch.bool
)


def drawn(seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(4, 6, generator=generator, dtype=torch.float64) * SAMPLED_BT for _ in range(2)]


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.5), (1.0, 1.0), (0.99, 0.0), (0.0, 0.7)])
def test_advantages_are_those_of_the_definition(gamma, lam):
    """A_t = Σ_l (gamma * lam)^l δ_{t+l}, a double loop over the sampled tokens of a row."""
    rewards_BT, values_BT = drawn()
    expected_BT = torch.zeros(4, 6, dtype=torch.float64)
    for b in range(4):
        places = SAMPLED_BT[b].nonzero()[:, 0].tolist()
        r, v = rewards_BT[b, places].tolist(), [*values_BT[b, places].tolist(), 0.0]
        for t in range(len(places)):
            deltas = [r[s] + gamma * v[s + 1] - v[s] for s in range(t, len(places))]
            expected_BT[b, places[t]] = sum((gamma * lam) ** step * delta for step, delta in enumerate(deltas))
    found_BT = estimated_advantages(rewards_BT, values_BT, SAMPLED_BT, gamma=gamma, lam=lam)
    torch.testing.assert_close(found_BT, expected_BT)


def test_with_lambda_1_an_advantage_is_the_return_minus_the_value():
    rewards_BT, values_BT = drawn(1)
    to_come_BT = (rewards_BT.flip(1).cumsum(1).flip(1) - values_BT).masked_fill(~SAMPLED_BT, 0.0)
    found_BT = estimated_advantages(rewards_BT, values_BT, SAMPLED_BT, gamma=1.0, lam=1.0)
    torch.testing.assert_close(found_BT, to_come_BT)


def test_a_score_is_paid_at_the_last_sampled_token_beyond_a_hole():
    paid_BT = at_last_token(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), SAMPLED_BT)
    assert paid_BT.nonzero().tolist() == [[0, 3], [1, 5], [2, 4]]
    assert paid_BT.sum(1).tolist() == [1.0, 2.0, 3.0, 0.0]  # the last row has no token to be paid at


@pytest.mark.parametrize("centred", [True, False])
def test_whitening_is_that_of_the_sampled_tokens(centred):
    values_BT, _ = drawn(2)
    values = values_BT[SAMPLED_BT]
    expected = (values - values.mean()) * torch.rsqrt(values.var() + 1e-8) + (0.0 if centred else values.mean())
    found_BT = whitened(values_BT, SAMPLED_BT, centred=centred)
    torch.testing.assert_close(found_BT[SAMPLED_BT], expected)
    assert found_BT[~SAMPLED_BT].eq(0).all()


def test_one_token_and_none_have_nothing_to_be_compared_with():
    one_BT = torch.zeros(2, 3, dtype=torch.bool)
    one_BT[1, 1] = True
    values_BT = torch.full((2, 3), 5.0, dtype=torch.float64)
    assert whitened(values_BT, one_BT, centred=True).eq(0).all()
    assert whitened(values_BT, one_BT, centred=False)[1, 1] == 5.0
    assert whitened(values_BT, ~one_BT & one_BT, centred=True).eq(0).all()


def test_ranks_are_whitened_together(tmp_path):
    values_BT, _ = drawn(3)

    def on_one(rank: int):
        rows = slice(0, 1) if rank == 0 else slice(1, 4)  # of different size
        assert distributed.world_size() == 2
        return whitened(values_BT[rows], SAMPLED_BT[rows], centred=True).tolist()

    both = [row for rank in on_ranks(2, tmp_path, on_one) for row in rank]
    torch.testing.assert_close(
        torch.tensor(both, dtype=torch.float64), whitened(values_BT, SAMPLED_BT, centred=True), atol=1e-12, rtol=0
    )
