"""Credits with the values of their YAML files."""

from dqo.credit.dpp import Dpp, Precision, Quality
from dqo.credit.gating.gate import Gate, Gating
from dqo.dpp import Kernel


def dpp(gate=Gate.none, threshold=None, **changes):
    keys = {
        "kernel": Kernel.cosine, "sigma": 0.4, "degree": 2, "offset": 0.0,
        "quality": Quality.none, "quality_temperature": 1.0, "dtype": Precision.float32,
    }  # fmt: skip
    return Dpp(**(keys | changes), gating=Gating(gate=gate, threshold=threshold))
