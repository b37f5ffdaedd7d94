"""An encoder's first layers alone."""

from torch.nn import ModuleList
from transformers import PreTrainedModel

from dqo.errors import ConfigError


def keep_layers(model: PreTrainedModel | None, wanted: int | None) -> None:
    """Leave out all but the first ``wanted`` layers; None keeps all. Raises ConfigError if there are fewer. A model
    that is None (static embeddings) has none."""
    if wanted is None:
        return
    own = model.config.get_text_config().num_hidden_layers if model is not None else 0
    stacks = [part for part in model.modules() if isinstance(part, ModuleList) and len(part) == own] if model else []
    if wanted > own or not stacks:
        has = f"has {own} layers; type embed.layers={own}" if stacks else "has no layers; type embed.layers=null"
        raise ConfigError(f"embed.layers={wanted}: the encoder {has}")
    del stacks[0][wanted:]
