"""Model sizes."""

import torch
from transformers import PreTrainedModel


def parameter_counts(model: torch.nn.Module) -> tuple[int, int]:
    """(all, trained) numbers of parameters. A parameter that ZeRO-3 shards counts in full (``ds_numel``)."""
    sizes = [(getattr(p, "ds_numel", p.numel()), p.requires_grad) for p in model.parameters()]
    return sum(size for size, _ in sizes), sum(size for size, trained in sizes if trained)


def parameter_bytes(model: torch.nn.Module) -> int:
    """Memory of a model's parameters in the types they have."""
    return sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())


def positions_of(model: PreTrainedModel) -> int | None:
    """The longest text in tokens that a model has positions for; None without a limit (T5)."""
    for module in model.modules():
        if isinstance(table := getattr(module, "position_embeddings", None), torch.nn.Embedding):
            first = getattr(module, "padding_idx", None)  # RoBERTa, MPNet: positions begin behind the padding's
            return table.num_embeddings - (first + 1 if isinstance(first, int) else 0)
    return getattr(model.config.get_text_config(), "max_position_embeddings", None)
