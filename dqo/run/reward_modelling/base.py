"""The model that a reward model is trained from: any that transformers has a sequence classifier of."""

import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from dqo.errors import ConfigError
from dqo.models.folders import first_line, folder_fault, no_progress_bars
from dqo.progress import elapsed

LENGTH = 1024  # tokens of prompt and completion (TRL's default)
NEW = ("classifier.", "score.", "pooler.", "head.")  # layers that a base model may lack: they are trained from nothing


@dataclass(frozen=True, kw_only=True)
class Base:
    """A model of which tokenizer and config are read; the weights are yet to be loaded."""

    name: str
    folder: Path
    config: PreTrainedConfig
    tokenizer: PreTrainedTokenizerBase

    @classmethod
    def read(cls, folder: Path, name: str) -> "Base":
        """With one label, and one padding token for config and tokenizer.

        One label is a number (``problem_type="regression"``), which vLLM's servers then return without a sigmoid.
        Raises ConfigError that names ``model.path``.
        """
        if fault := folder_fault(folder):
            raise _refusal(name, fault)
        try:
            config = AutoConfig.from_pretrained(folder, local_files_only=True, num_labels=1, problem_type="regression")
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        except Exception as error:  # tokenizers raises bare Exceptions; transformers any error on unexpected JSON
            raise _refusal(name, f"its config or tokenizer cannot be read ({first_line(error)})") from error
        _agree_on_padding(name, config.get_text_config(), tokenizer)
        return cls(name=name, folder=folder, config=config, tokenizer=tokenizer)

    def longest(self, max_length: int | None) -> int:
        """``rm.max_length``; None: LENGTH, or the model's positions if these are fewer. Raises ConfigError for more
        than the model has."""
        positions = getattr(self.config.get_text_config(), "max_position_embeddings", None) or math.inf
        if max_length is not None and max_length > positions:
            raise ConfigError(
                f"rm.max_length={max_length}: the model reads at most {positions} tokens; type "
                f"rm.max_length={positions}"
            )
        return max_length or int(min(LENGTH, positions))

    def load(self) -> PreTrainedModel:
        """The sequence classifier, in float32 on the CPU; what the base lacks of it, such as the head, is new: random
        numbers of torch's generator. Raises ConfigError that names ``model.path``."""
        logger = logging.getLogger("transformers.modeling_utils")
        level = logger.level
        logger.setLevel(logging.ERROR)  # its report of the new head; what else is missing is refused
        try:
            with no_progress_bars(), elapsed(f"reading the weights of {self.name}"):
                model, report = AutoModelForSequenceClassification.from_pretrained(  # pyright: ignore[reportGeneralTypeIssues]
                    self.folder, config=self.config, dtype=torch.float32, use_safetensors=True, local_files_only=True,
                    output_loading_info=True,
                )  # fmt: skip
        except (ImportError, OSError, ValueError, RuntimeError, SafetensorError) as error:
            what = f"no sequence classifier of it could be loaded ({first_line(error)})"
            raise _refusal(self.name, what) from error
        finally:
            logger.setLevel(level)
        if missing := [key for key in report["missing_keys"] if not any(part in key for part in NEW)]:
            raise _refusal(self.name, f"the weights lack {len(missing)} tensors, such as {min(missing)}")
        return model


def with_lora(model: PreTrainedModel, *, rank: int, alpha: int, gradient_checkpointing: bool) -> PeftModel:
    """The model with new adapters in all linear layers but the head, which is trained whole."""
    if gradient_checkpointing:
        model.enable_input_require_grads()
    settings = LoraConfig(task_type="SEQ_CLS", r=rank, lora_alpha=alpha, target_modules="all-linear")
    return cast(PeftModel, get_peft_model(model, settings))


def _agree_on_padding(name: str, config, tokenizer: PreTrainedTokenizerBase) -> None:
    """A decoder's reward is read at the last token that is not the config's padding token; batches are padded with the
    tokenizer's."""
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.sep_token
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id >= config.vocab_size:
        raise _refusal(name, "its tokenizer has no padding token; name it as pad_token in tokenizer_config.json")
    config.pad_token_id = tokenizer.pad_token_id


def _refusal(name: str, what: str) -> ConfigError:
    return ConfigError(f"model.path={name}: {what}; type model=hf model.path=FOLDER or ORG/NAME of the hub")
