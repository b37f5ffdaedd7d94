"""critic=none: no values are estimated."""

from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor
from torch.nn import Module


class NoCritic:
    """Of algorithms whose baseline is the group. The learner asks for nothing but ``estimates_nothing``."""

    estimates_nothing = True
    on_policy = False
    warmup = 0
    names: tuple[str, ...] = ()

    def module(self) -> Module:
        """Never called."""
        raise NotImplementedError("critic=none estimates nothing")

    def rate(self, rate: float) -> float:
        """Never called."""
        raise NotImplementedError("critic=none estimates nothing")

    def loss(
        self, values_N: Float[Tensor, " sampled"], **others: Float[Tensor, " sampled"]
    ) -> tuple[Float[Tensor, ""], Mapping[str, tuple[Tensor, Tensor]]]:
        """Never called."""
        raise NotImplementedError("critic=none estimates nothing")
