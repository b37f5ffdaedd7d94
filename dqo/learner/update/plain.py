"""A trained module that each rank holds as a whole, with an optimizer of torch."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, distributed
from torch.nn import Module, Parameter

from dqo.distributed import world_size
from dqo.learner.update.saved_state import Saved
from dqo.stages import Optim


class PlainModel:
    """What an engine does with one of its models: gradient, step, and the state to save."""

    def __init__(self, module: Module, optim: Optim):
        self.trained: Mapping[str, Parameter] = {
            name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad
        }
        self.optimizer = optim.make(module.named_parameters())
        self._max_norm = optim.max_grad_norm

    @property
    def gradients(self) -> list[Tensor]:
        """Those of the parameters that have any."""
        return [parameter.grad for parameter in self.trained.values() if parameter.grad is not None]

    def average_gradients(self) -> None:
        """The mean over all ranks, 0 for a rank without a gradient. A collective."""
        if world_size() > 1:
            for parameter in self.trained.values():
                parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                distributed.all_reduce(parameter.grad)
                parameter.grad /= world_size()

    def norm(self) -> Tensor:
        """Of the gradient."""
        return torch.nn.utils.get_total_norm(self.gradients)

    def step(self, rate: float, norm: Tensor) -> None:
        """The optimizer's step with the gradient clipped. ``norm``: what ``norm`` returned."""
        if self._max_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(self.trained.values(), self._max_norm, norm)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()

    def parameters(self) -> Iterator[tuple[str, Tensor]]:
        """Each with its name."""
        yield from self.trained.items()

    def moments(self) -> Iterator[tuple[str, Tensor]]:
        """The optimizer's state as (<key>/<parameter>, tensor)."""
        for key, parameter in self.trained.items():
            for moment, tensor in self.optimizer.state.get(parameter, {}).items():
                yield f"{moment}/{key}", tensor

    @torch.no_grad()
    def restore_parameters(self, saved: Saved) -> None:
        """Copy saved parameters."""
        for key, parameter in self.trained.items():
            parameter.copy_(saved.parameter(key))

    def restore_moments(self, saved: Saved) -> None:
        """Take back the optimizer's state that ``moments`` returned."""
        keys = {parameter: key for key, parameter in self.trained.items()}
        order = [keys[p] for group in self.optimizer.param_groups for p in group["params"]]
        restored = self.optimizer.state_dict()
        restored["state"] = {i: moments for i, key in enumerate(order) if (moments := saved.moments(key))}
        self.optimizer.load_state_dict(restored)
