"""A critic's weights from a folder or the hub: a causal language model, or a reward model with its head."""

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from dqo.errors import ConfigError
from dqo.models.attention import sdpa_is_exact
from dqo.models.folders import HUB_NAME, as_typed, first_line, folder_fault, hub_folder, no_progress_bars
from dqo.progress import elapsed

KEY = "critic.path"
ADVICE = f"type {KEY}=FOLDER or ORG/NAME of a model with the policy's tokenizer, or {KEY}=null for a copy of the policy"
CLASSIFIER = "ForSequenceClassification"
SCORE = "score.weight"  # transformers' name of a decoder's classification head


class CriticFolder:
    """Raises ConfigError that names ``critic.path`` for whatever cannot be used. Reads no pickles, and runs no code of
    the model's own. The weights are read by ``load`` alone."""

    def __init__(self, path: str, tokenizer: PreTrainedTokenizerBase):
        self._name = as_typed(path)
        folder = Path(path).expanduser()
        if not folder.is_dir():
            if folder.exists() or not HUB_NAME.fullmatch(path):
                raise self._error("is neither a folder nor a name on the hub")
            folder = hub_folder(path, revision=None, key=KEY)
        if fault := folder_fault(folder):
            raise self._error(fault)
        self._folder = folder
        try:
            self._config = AutoConfig.from_pretrained(folder, local_files_only=True)
            own = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        except Exception as error:  # tokenizers raises bare Exceptions; transformers any error on unexpected JSON
            raise self._error(f"its config or tokenizer cannot be read ({first_line(error)})") from error
        if own.get_vocab() != tokenizer.get_vocab():
            raise self._error("its tokenizer is not the policy's")
        self._is_classifier = any(name.endswith(CLASSIFIER) for name in self._config.architectures or [])
        if self._is_classifier and self._config.num_labels != 1:
            raise self._error(f"it is a classifier of {self._config.num_labels} labels, and a critic has one value")

    def load(self) -> tuple[PreTrainedModel, torch.Tensor | None]:
        """(float32 model on the CPU with an LM head, weights of a reward model's head or None)."""
        config = self._config
        config._attn_implementation = None
        try:
            with no_progress_bars(), elapsed(f"reading the critic's weights of {self._name}"):
                model, report = AutoModelForCausalLM.from_pretrained(  # pyright: ignore[reportGeneralTypeIssues]
                    self._folder, config=config, dtype=torch.float32, use_safetensors=True, local_files_only=True,
                    ignore_mismatched_sizes=True, output_loading_info=True,
                )  # fmt: skip
            score = self._score() if self._is_classifier else None
        except (ImportError, OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise self._error(f"the weights could not be read ({first_line(error)})") from error
        head = model.get_output_embeddings()
        replaced = {name for name, module in model.named_modules() if module is head} if self._is_classifier else set()
        missing = [name for name in report["missing_keys"] if name.rpartition(".")[0] not in replaced]
        if wrong := sorted([*missing, *(name for name, *_ in report["mismatched_keys"])]):
            raise self._error(f"the weights lack {len(wrong)} tensors of their shape, such as {wrong[0]}")
        if self._is_classifier and score is None:
            raise self._error(f"its classification head is not {SCORE}")
        if not sdpa_is_exact(model):
            model.set_attn_implementation("eager")
        return model.eval(), score

    def _score(self) -> torch.Tensor | None:
        for path in sorted(self._folder.glob("*.safetensors")):
            with safe_open(path, "pt") as file:
                if SCORE in file.keys():  # noqa: SIM118 - not a mapping
                    return file.get_tensor(SCORE).float()
        return None

    def _error(self, what: str) -> ConfigError:
        return ConfigError(f"{KEY}={self._name}: {what}; {ADVICE}")
