import pytest
import torch

from dqo.learner.update import saved_state
from dqo.learner.update.plain import PlainModel
from tests.helpers.on_ranks import on_ranks
from tests.learner.builders import Plain, adamw


def linear(seed: int = 0) -> torch.nn.Linear:
    torch.manual_seed(seed)
    return torch.nn.Linear(3, 1)


def test_the_gradient_is_clipped_and_the_rate_is_the_steps():
    module, optim = linear(), adamw()
    optim.max_grad_norm = 0.5
    expected = linear()
    plain = PlainModel(module, optim)
    (10 * module(torch.ones(3))).sum().backward()
    norm = plain.norm()
    assert float(norm) == pytest.approx(20.0)  # |(10, 10, 10, 10)|
    plain.step(0.01, norm)
    optimizer = optim.make(expected.named_parameters())
    (10 * expected(torch.ones(3))).sum().backward()
    torch.nn.utils.clip_grad_norm_(expected.parameters(), 0.5)
    optimizer.param_groups[0]["lr"] = 0.01
    optimizer.step()
    torch.testing.assert_close(module.weight, expected.weight, rtol=0, atol=1e-7)


def test_a_restored_model_takes_the_same_step(tmp_path):
    one, other = PlainModel(linear(), adamw()), PlainModel(linear(1), adamw())
    for plain in (one,):
        for parameter in plain.trained.values():
            parameter.grad = torch.ones_like(parameter)
        plain.step(0.01, plain.norm())
    saved_state.save(tmp_path / "m", parameters=one.trained.items(), moments=one.moments())
    saved = saved_state.Saved(tmp_path / "m", {name: tuple(p.shape) for name, p in other.trained.items()})
    other.restore_parameters(saved)
    other.restore_moments(saved)
    for plain in (one, other):
        for parameter in plain.trained.values():
            parameter.grad = torch.full_like(parameter, 2.0)
        plain.step(0.01, plain.norm())
    assert all(torch.equal(one.trained[name], other.trained[name]) for name in one.trained)
    assert dict(one.moments()).keys() == dict(other.moments()).keys() != set()


def test_gradients_are_averaged_over_ranks_and_a_rank_without_one_counts_as_zero(tmp_path):
    def averaged(rank: int) -> list[list[float]]:
        plain = PlainModel(linear(), Plain())
        if rank == 0:
            plain.trained["weight"].grad = torch.tensor([[2.0, 4.0, 6.0]])
        plain.average_gradients()
        return [gradient.flatten().tolist() for gradient in plain.gradients]

    assert on_ranks(2, tmp_path, averaged) == [[[1.0, 2.0, 3.0], [0.0]]] * 2
