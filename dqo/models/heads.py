"""What turns a causal language model's last hidden states into numbers: its LM head, or the head of a critic."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import linear
from transformers import PreTrainedModel

PROBE_LOGIT = 1e3  # far above any cap on logits (Gemma's is 30)
PROBE_TOKENS = (3, 4, 5, 6, 7)


class ValueHead(torch.nn.Linear):
    """Values of hidden states, in float32 whatever the autocast and the dtype of the weights: bfloat16 would round a
    value of 1 to steps of 0.004."""

    def __init__(self, width: int, *, seed: int):
        """Weights are drawn from N(0, 1 / (width + 1)²), as OpenRLHF's: the first values are near 0. Keeps torch's
        generator."""
        super().__init__(width, 1, bias=False)
        weights = torch.randn(1, width, generator=torch.Generator().manual_seed(seed)) / (width + 1)
        self.weight.data = weights.to(self.weight)

    def reset_parameters(self) -> None:
        """Draws nothing: the constructor does."""

    def forward(self, input: Float[Tensor, "... width"]) -> Float[Tensor, "... 1"]:
        """The values of hidden states, float32."""
        with torch.autocast(input.device.type, enabled=False):
            return linear(input.float(), self.weight.float())


def head_width(model: PreTrainedModel) -> int:
    """How many numbers the LM head gets for a token; of models without a linear one the hidden size."""
    head = model.get_output_embeddings()
    return head.in_features if isinstance(head, torch.nn.Linear) else model.config.get_text_config().hidden_size


def plain_head(model: PreTrainedModel, device: torch.device) -> torch.nn.Module | None:
    """The LM head if logits == head(last_hidden_state) exactly (no cap, no scaling), else None. A plain head can run in
    chunks, or be replaced."""
    head = model.get_output_embeddings()
    if isinstance(head, torch.nn.Linear):
        outputs: list[Tensor] = []

        def replace_output(module: torch.nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            outputs.append(torch.linspace(-PROBE_LOGIT, PROBE_LOGIT, output.numel()).view_as(output).to(output))
            return outputs[-1]

        handle = head.register_forward_hook(replace_output)
        try:
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([PROBE_TOKENS], device=device), use_cache=False).logits
        finally:
            handle.remove()
        if len(outputs) == 1 and torch.equal(logits.float(), outputs[0].float()):
            return head
    return None


def with_value_head(model: PreTrainedModel, head: ValueHead) -> bool:
    """Whether the head is now in place of the model's LM head, and its values are what the model returns as logits. An
    LM head that gets more than the last hidden states, or whose logits are changed, cannot be replaced."""
    if plain_head(model, model.device) is None:
        return False
    model.set_output_embeddings(head)
    for config in (model.config, model.config.get_text_config()):
        config.tie_word_embeddings = False  # or a value head would become the embeddings
    return plain_head(model, model.device) is head
