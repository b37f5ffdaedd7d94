"""The policy as it was at the start, for the KL term: a frozen copy, or LoRA's base with its adapters switched off."""

import contextlib
import copy
from collections.abc import Iterator

from peft import PeftModel
from transformers import PreTrainedModel


class Reference:
    """Make it before the first update. A frozen copy costs the policy's memory once more; LoRA's costs nothing."""

    def __init__(self, model: PreTrainedModel | PeftModel):
        self.copy = None if isinstance(model, PeftModel) else copy.deepcopy(model).requires_grad_(False)
        self._model = self.copy or model

    @contextlib.contextmanager
    def model(self) -> Iterator[PreTrainedModel | PeftModel]:
        with self._model.disable_adapter() if isinstance(self._model, PeftModel) else contextlib.nullcontext():
            yield self._model
