"""critic=model: values from a model of its own."""

import copy

import torch
from torch.nn import Module
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from dqo.critic.models.folder import CriticFolder
from dqo.critic.models.value_loss import NAMES, Clip, Rate, ValueLoss
from dqo.errors import ConfigError
from dqo.models.heads import ValueHead, head_width, with_value_head
from dqo.models.probing import MODEL_ERRORS, model_fault, probe_precision
from dqo.ranges import CountOrZero, LearningRate, Seed


class ModelCritic:
    """A causal language model whose LM head is replaced by a linear layer to one value: the initial policy, a model of
    its own, or a reward model, whose head is kept. It is trained whole, or with adapters as the policy
    (``learner.lora_r``), by an optimizer of its own."""

    on_policy = False
    names: tuple[str, ...] = NAMES

    def __init__(
        self,
        policy: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        device: torch.device,
        *,
        path: str | None,
        learning_rate: LearningRate | None,
        policy_learning_rate: LearningRate,
        cliprange_value: Clip,
        warmup: CountOrZero,
        seed: Seed,
    ):
        """Raises ConfigError for a folder that cannot be a critic of this policy."""
        self._policy, self._device, self._seed = policy, device, seed
        self._folder = None if path is None else CriticFolder(path, tokenizer)
        self.rate = Rate(learning_rate, policy_learning_rate)
        self.warmup, self.loss = warmup, ValueLoss(cliprange_value)

    def module(self) -> Module:
        """The critic's model on the policy's device. Raises ConfigError for weights that cannot be read, and for a
        model whose head cannot be replaced."""
        model, score = (copy.deepcopy(self._policy), None) if self._folder is None else self._folder.load()
        torch.nn.Module.to(model, self._device)  # in place; transformers' own ``to`` hides its types
        head = ValueHead(head_width(model), seed=self._seed)
        if score is not None:
            head.weight.data = score
        try:
            with probe_precision(model):
                replaced = with_value_head(model, head.to(self._device))
            problem = "its logits are not exactly its head of the last hidden states"
        except MODEL_ERRORS as error:
            replaced, problem = False, f"it cannot be computed with another head ({model_fault(error)})"
        if not replaced:
            raise ConfigError(
                f"critic=model: {type(model).__name__} gives no values, {problem}; type critic.path=FOLDER of another "
                "model with the policy's tokenizer"
            )
        return model.eval().requires_grad_(True)
