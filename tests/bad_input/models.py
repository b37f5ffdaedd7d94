"""Model folders that cannot be trained: each is a small Llama with one fault added."""

import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertForMaskedLM, T5Config, T5ForConditionalGeneration

from dqo.models.folders import save_policy
from tests.bad_input.harness import Case
from tests.factories import tiny_llama, word_tokenizer
from tests.helpers.architectures import tiny_model

HF = "model=hf model.path=model"
CHAT = "task=cities"
CODE = 'from pathlib import Path\nPath("owned").touch()\n'


def model(spoil: Callable[[Path], object], *says: str, typed: str = "", process: bool = False) -> Case:
    def files(folder: Path) -> None:
        save_policy(tiny_llama(), word_tokenizer(), folder / "model")
        spoil(folder / "model")

    return Case(typed=f"{HF} {typed}", files=files, says=says, process=process)


def edit(file: Path, **changes) -> None:
    content = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def template(text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / "chat_template.jinja").write_text(text)


def only_a_pickle(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def truncated(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:5000])


def other_shape(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    save_file({**tensors, "model.norm.weight": torch.ones(3)}, folder / "model.safetensors", metadata={"format": "pt"})


def without_a_tensor(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.norm.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def capped(folder: Path) -> None:
    """A Gemma 2, whose cap on attention scores SDPA ignores."""
    save_policy(tiny_model("gemma2"), word_tokenizer(), folder)


def windowed(folder: Path) -> None:
    save_policy(tiny_model("mistral"), word_tokenizer(), folder)


def image_token(folder: Path) -> None:
    """A token more than the model has rows, as Gemma has it, and a prompt that names it."""
    tokenizer = word_tokenizer()
    tokenizer.add_tokens(["<image>"], special_tokens=True)
    tokenizer.save_pretrained(folder)
    rows = [{"prompt": prompt, "answer": "w1"} for prompt in ("w1", "w2", "look at <image>")]
    (folder.parent / "my.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def end_token_without_row(folder: Path) -> None:
    tokenizer = word_tokenizer()
    tokenizer.add_special_tokens({"eos_token": "<|im_end|>"})
    tokenizer.save_pretrained(folder)


def encoder(folder: Path) -> None:
    config = BertConfig(vocab_size=63, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    BertForMaskedLM(config).save_pretrained(folder)


def seq2seq(folder: Path) -> None:
    config = T5Config(vocab_size=63, d_model=32, d_kv=16, d_ff=32, num_layers=1, num_heads=2)
    T5ForConditionalGeneration(config).save_pretrained(folder)


def own_code(folder: Path) -> None:
    (folder / "own.py").write_text(CODE)
    edit(
        folder / "config.json", model_type="own", auto_map={"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.M"}
    )


def own_tokenizer_code(folder: Path) -> None:
    (folder / "own.py").write_text(CODE)
    auto_map = {"AutoTokenizer": ["own.Tokenizer", None]}
    edit(folder / "tokenizer_config.json", tokenizer_class="OwnTokenizer", auto_map=auto_map)


def adapter(folder: Path) -> None:
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "meta-llama/Llama-3.2-1B"}')


def without_tokenizer(folder: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        (folder / name).unlink(missing_ok=True)


MODELS = [
    Case(typed="model=hf", says=("model.path=null: no model is named", "type model.path=FOLDER")),
    Case(typed="model=hf model.path=no/where", says=("model.path=no/where", "out of reach", "type model.path=FOLDER")),
    Case(typed="model=hf model.path=a/b/c", says=("model.path=a/b/c", "neither a folder nor a name on the hub")),
    Case(typed="model=hf model.path=f", files={"f": "x"}, says=("model.path=f", "neither a folder nor a name")),
    model(without_tokenizer, "model.path=model: no tokenizer could be read"),
    model(lambda f: (f / "tokenizer.json").write_text("{}"), "no tokenizer could be read"),
    model(lambda f: (f / "tokenizer.json").write_text("{"), "no tokenizer could be read"),
    model(lambda f: edit(f / "tokenizer_config.json", eos_token=None), "no end token", "eos_token in tokenizer_config"),
    model(lambda f: edit(f / "config.json", vocab_size=10), "63 tokens, its config 10", "different models"),
    model(
        image_token,
        "my.jsonl, line 3: the prompt has the token <image>, for which the model has no row",
        "type model.path=FOLDER of a model that has one",
        typed="task=jsonl task.path=my.jsonl task.answer_column=answer task.held_out=1 task.chat_template=false "
        "max_completion_length=8",
    ),
    model(end_token_without_row, "its token <|im_end|> has the number 63", "model.resize_token_embeddings"),
    model(lambda f: f.joinpath("config.json").unlink(), "has no config.json"),
    model(lambda f: f.joinpath("config.json").write_text("{"), "config.json cannot be read", "type model.path=FOLDER"),
    model(lambda f: f.joinpath("config.json").write_text("[]"), "config.json", "type model.path=FOLDER"),
    model(
        lambda f: edit(f / "config.json", hidden_size="wide"),
        "config.json cannot be read",
        "Field 'hidden_size' expected int",
    ),
    model(lambda f: edit(f / "config.json", hidden_size=65), "The hidden size (65) is not a multiple"),
    model(lambda f: edit(f / "config.json", model_type="unheard_of"), "config.json", "unheard_of"),
    model(lambda f: f.joinpath("model.safetensors").unlink(), "has no *.safetensors weights"),
    model(only_a_pickle, "pytorch_model.bin is a pickle, which can run code: save it as safetensors"),
    model(truncated, "the weights could not be read"),
    model(other_shape, "the weights have another shape: model.norm.weight has [3], its config says [64]"),
    model(without_a_tensor, "the weights lack 1 tensors, such as model.norm.weight"),
    model(encoder, "is no causal language model (BertForMaskedLM)"),
    model(seq2seq, "is no causal language model (T5ForConditionalGeneration)"),
    model(own_code, "custom code", "type model.trust_remote_code=true", process=True),
    model(own_tokenizer_code, "type model.trust_remote_code=true"),
    model(adapter, "is an adapter (adapter_config.json); merge it into its model first"),
    model(lambda f: None, "attn_implementation=fast: allowed are auto", typed="model.attn_implementation=fast"),
    model(
        lambda f: None,
        "model.attn_implementation=flash_attention_2: ",
        " cannot use it (FlashAttention2",
        "type model.attn_implementation=auto",
        typed="model.attn_implementation=flash_attention_2",
    ),
    model(
        capped,
        "model.attn_implementation=sdpa: sdpa ignores a part of Gemma2ForCausalLM's attention",
        "type model.attn_implementation=eager",
        typed="model.attn_implementation=sdpa",
    ),
    model(
        windowed,
        "learner.shared_prompt=true: MistralForCausalLM has sliding_attention",
        "type learner.shared_prompt=auto",
        typed="learner.shared_prompt=true",
    ),
    model(
        lambda f: None,
        "model.chat_template=gone.jinja",
        "type model.chat_template=FILE",
        typed="model.chat_template=gone.jinja",
    ),
    model(template("{{ messages | no_such_filter }}"), "chat template", "type model.path=NAME", typed=CHAT),
    model(
        template("{{ raise_exception('never') }}"),
        "chat template refuses this prompt (never)",
        "task.chat_template=false",
        typed=CHAT,
    ),
    model(template("{{ 1 / 0 }}"), "chat template refuses this prompt", "task.chat_template=false", typed=CHAT),
    model(
        template("{{ messages.__class__.__mro__[1].__subclasses__() }}"),
        "chat template refuses this prompt",
        typed=CHAT,
    ),
    model(template("{# nothing #}"), "phrasing 1: the prompt is empty", typed=CHAT),
    model(
        lambda f: None,
        "more than the model's context of 128",
        "type max_completion_length=",
        typed="max_completion_length=128",
    ),
    Case(
        typed="eval.metrics=[nli_disagreement] eval.nli=model",
        files=lambda folder: save_policy(tiny_llama(), word_tokenizer(), folder / "model"),
        says=("eval.nli=model: is no sequence classifier (LlamaForCausalLM)", "type eval.nli=FOLDER"),
    ),
]
