from pathlib import Path

from transformers import AutoConfig, Qwen2Config, Qwen2ForCausalLM

from dqo.models.folders import save_policy
from dqo.models.hf import Attention, Hf
from dqo.rollout.engine.arguments import config_folder
from tests.factories import tiny_llama, word_tokenizer


def qwen2() -> Qwen2ForCausalLM:
    config = Qwen2Config(
        vocab_size=63, hidden_size=64, intermediate_size=96, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1,
    )  # fmt: skip
    return Qwen2ForCausalLM(config)


def loaded(folder: Path):
    source = Hf(
        path=str(folder), revision=None, packaged=None, trust_remote_code=False, attn_implementation=Attention.AUTO,
        chat_template=None,
    )  # fmt: skip
    return source.load()


def test_equal_models_have_the_same_config_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("DQO_CACHE", str(tmp_path))
    folders = [config_folder(model) for model in (tiny_llama(), tiny_llama(seed=1), qwen2())]
    assert folders[0] == folders[1] != folders[2]
    assert AutoConfig.from_pretrained(folders[2]).architectures == ["Qwen2ForCausalLM"]


def test_policies_of_one_architecture_have_the_same_config_folder_wherever_they_are(tmp_path, monkeypatch):
    """An engine then takes one after the other."""
    monkeypatch.setenv("DQO_CACHE", str(tmp_path))
    save_policy(tiny_llama(), word_tokenizer(), tmp_path / "one")
    save_policy(tiny_llama(seed=1).bfloat16(), word_tokenizer(), tmp_path / "two")
    assert config_folder(loaded(tmp_path / "one")) == config_folder(loaded(tmp_path / "two"))
