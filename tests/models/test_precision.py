import torch

from dqo.models.precision import Dtype


def test_a_named_type_is_used_on_every_device():
    assert [Dtype(name).on(torch.device("cpu")) for name in ("float32", "bfloat16", "float16")] == [
        torch.float32,
        torch.bfloat16,
        torch.float16,
    ]


def test_auto_is_bfloat16_where_it_is_native(monkeypatch):
    for avx512, amx, expected in (
        (True, False, torch.bfloat16),
        (False, True, torch.bfloat16),
        (False, False, torch.float32),
    ):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda answer=avx512: answer)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda answer=amx: answer)
        assert Dtype.AUTO.on(torch.device("cpu")) == expected
    assert Dtype.AUTO.on(torch.device("mps")) == torch.float32
