"""Model sizes."""

import torch


def parameter_counts(model: torch.nn.Module) -> tuple[int, int]:
    """(all, trained) numbers of parameters. A parameter that ZeRO-3 shards counts in full (``ds_numel``)."""
    sizes = [(getattr(p, "ds_numel", p.numel()), p.requires_grad) for p in model.parameters()]
    return sum(size for size, _ in sizes), sum(size for size, trained in sizes if trained)


def parameter_bytes(model: torch.nn.Module) -> int:
    """Memory of a model's parameters in the types they have."""
    return sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
