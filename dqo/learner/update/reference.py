"""The reference model: the policy before its first update, a frozen copy or LoRA's base model without adapters."""

import contextlib
import copy
from collections.abc import Iterator

from peft import PeftModel
from transformers import PreTrainedModel

from dqo.learner.update.compiling import compile_all, decoder_layers, is_compiled


class Reference:
    """Create it before the first update. A frozen copy needs as much memory as the policy; with LoRA it needs none."""

    def __init__(self, model: PreTrainedModel | PeftModel):
        self.copy = None if isinstance(model, PeftModel) else copy.deepcopy(model).requires_grad_(False)
        self._model = self.copy or model
        if self.copy is not None and is_compiled(model):  # the copy is not
            compile_all(decoder_layers(self.copy))

    @contextlib.contextmanager
    def model(self) -> Iterator[PreTrainedModel | PeftModel]:
        """The reference model, valid within the block; with LoRA the policy's adapters are off until its end."""
        with self._model.disable_adapter() if isinstance(self._model, PeftModel) else contextlib.nullcontext():
            yield self._model
