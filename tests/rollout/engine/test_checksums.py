import pytest
import torch

from dqo.rollout.engine.checksums import (
    checksum,
    equal_up_to_rounding,
    expected_checksums,
    probe_vector,
    weight_checksum,
)

CPU = torch.device("cpu")


def matrix(rows: int, *, seed: int) -> torch.Tensor:
    return torch.randn(rows, 8, generator=torch.Generator().manual_seed(seed))


def expected_of(weights: dict[str, torch.Tensor], names: list[str], **fused_layers: list[str]):
    return expected_checksums(
        iter(weights.items()), names=names, fused_layers=fused_layers, device=CPU, dtype=torch.float32
    )


def test_a_checksum_does_not_depend_on_order_or_padding():
    values = torch.arange(6.0)
    assert torch.equal(checksum(values), checksum(values.flip(0).view(2, 3)))
    assert torch.equal(checksum(values), checksum(torch.cat([values, torch.zeros(2)])))
    assert checksum(values).tolist() == [15.0, 55.0]


def test_a_matrix_is_compared_by_its_output_for_the_probe_vector():
    weight = matrix(5, seed=0)
    output = torch.nn.functional.linear(probe_vector(8, weight)[None], weight)
    assert equal_up_to_rounding(checksum(output), weight_checksum(weight), torch.float32)
    assert torch.equal(probe_vector(8, weight), probe_vector(8, weight))


def test_a_fused_layer_has_the_sum_of_its_parts():
    gate, up, norm = matrix(3, seed=0), matrix(4, seed=1), torch.ones(8)
    weights = {"mlp.gate_proj.weight": gate, "mlp.up_proj.weight": up, "norm.weight": norm, "extra.weight": norm}
    names = ["mlp.gate_up_proj.weight", "norm.weight"]
    expected = expected_of(weights, names, gate_up_proj=["gate_proj", "up_proj"])
    assert list(expected) == names
    whole = weight_checksum(torch.cat([gate, up]))
    assert equal_up_to_rounding(whole, expected["mlp.gate_up_proj.weight"], torch.float32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_another_tensor_has_another_checksum(dtype):
    one, other = (weight_checksum(matrix(64, seed=seed).to(dtype)) for seed in (0, 1))
    assert equal_up_to_rounding(one, one.clone(), dtype)
    assert not equal_up_to_rounding(one, other, dtype)
