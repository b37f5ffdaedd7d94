"""How large a model is."""

import torch


def parameter_counts(model: torch.nn.Module) -> tuple[int, int]:
    """Numbers of all parameters and of those that are trained. One that ZeRO has spread over processes knows how many
    it is of."""
    sizes = [(getattr(p, "ds_numel", p.numel()), p.requires_grad) for p in model.parameters()]
    return sum(size for size, _ in sizes), sum(size for size, trained in sizes if trained)
