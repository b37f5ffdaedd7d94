"""Tiny sequence classifiers: random ones of several architectures, and one whose logits are made by hand."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoModelForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

WORDS = ("yes", "no", "so", "a", "b", "c", "d", "user", "assistant")
SPECIAL = ("[PAD]", "[CLS]", "[SEP]", "[UNK]")
TEMPLATE = "{% for turn in messages %}{{ turn.role }} {{ turn.content }} {% endfor %}"  # ends in the answer's last word


def pair_tokenizer(*, pad: str = "[PAD]") -> PreTrainedTokenizerFast:
    """Word-level; pairs are [CLS] a [SEP] b [SEP]."""
    vocabulary = {word: i for i, word in enumerate((*SPECIAL, *WORDS))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=pad, cls_token="[CLS]", sep_token="[SEP]", unk_token="[UNK]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )  # fmt: skip


def save_classifier(folder: Path, config: PreTrainedConfig, tokenizer: PreTrainedTokenizerFast | None = None) -> Path:
    """A random classifier of the config's architecture, sharp enough that its logits differ."""
    torch.manual_seed(0)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    (tokenizer or pair_tokenizer()).save_pretrained(folder)
    return folder


def save_last_word_classifier(folder: Path, logits: Mapping[str, Sequence[float]], labels: Sequence[str]) -> Path:
    """A classifier whose logits are a table: those of the last word of its input, 0 for other words.

    It is a Llama without layers, which reads its last token that is no padding, and [SEP] is padding here. Word i is
    the unit vector i; the square root of the width, by which its norm layer multiplies, is divided out.
    """
    width = len(SPECIAL) + len(WORDS) + 3
    config = LlamaConfig(
        vocab_size=width, hidden_size=width, intermediate_size=8, num_hidden_layers=0, num_attention_heads=1,
        pad_token_id=2, id2label=dict(enumerate(labels)), label2id={label: i for i, label in enumerate(labels)},
    )  # fmt: skip
    model = AutoModelForSequenceClassification.from_config(config)
    with torch.no_grad():
        model.model.embed_tokens.weight.copy_(torch.eye(width))
        model.score.weight.zero_()
        for word, values in logits.items():
            column = (*SPECIAL, *WORDS).index(word)
            model.score.weight[:, column] = torch.tensor(values) / width**0.5
    model.save_pretrained(folder)
    tokenizer = pair_tokenizer(pad="[SEP]")
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    return folder


def edit_config(folder: Path, **changes) -> None:
    """Changes keys of config.json."""
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def save_adapter(folder: Path, base: Path, *, labels: int = 1) -> PreTrainedModel:
    """Writes a causal Llama to ``base`` and a random LoRA of a classifier of it to ``folder``, as training with peft
    leaves them; returns that classifier."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=16, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        initializer_range=0.5,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(base)
    tokenizer = pair_tokenizer()
    tokenizer.save_pretrained(base)
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=labels)
    model.config.pad_token_id = tokenizer.pad_token_id
    adapted = get_peft_model(model, LoraConfig(task_type="SEQ_CLS", r=4, target_modules="all-linear"))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name or "modules_to_save" in name:
                parameter.normal_()
    adapted.save_pretrained(str(folder))
    return adapted.eval()
