"""The order in which a run's inputs are read: what is quick and most often wrong comes before the weights."""

import pytest
from transformers import LlamaForCausalLM

from dqo.errors import ConfigError
from dqo.models.folders import save_policy
from dqo.models.hf import Hf
from dqo.models.tiny import Tiny
from dqo.run.export import export_policy
from dqo.run.load_policy import load_policy
from tests.factories import tiny_llama, word_tokenizer
from tests.helpers.composing import composed, with_class

GSM = "task=gsm8k", "model=hf", "reward=check", "task.chat_template=false"


@pytest.fixture
def broken_model(tmp_path):
    """A model whose weights cannot be read."""
    save_policy(tiny_llama(), word_tokenizer(), tmp_path / "model")
    for file in (tmp_path / "model").glob("*.safetensors"):
        file.write_bytes(b"nothing")
    return f"model.path={tmp_path}/model"


def test_more_held_out_prompts_than_there_are_is_refused_before_the_weights_are_read(broken_model, tmp_path):
    for name in ("train", "test"):
        (tmp_path / f"{name}.jsonl").write_text(f'{{"question": "{name}?", "answer": "#### 2"}}\n')
    folder = f"task.data_dir={tmp_path}"
    with pytest.raises(ConfigError, match=r"task.held_out=2: the test split has 1 rows; type task.held_out=1"):
        load_policy(composed(*GSM, broken_model, folder, "task.held_out=2"))
    with pytest.raises(ConfigError, match="the weights could not be read"):
        load_policy(composed(*GSM, broken_model, folder, "task.held_out=1", "max_completion_length=8"))


def test_a_prompt_that_is_too_long_is_refused_before_the_weights_are_read(broken_model, tmp_path):
    (tmp_path / "my.jsonl").write_text('{"prompt": "a"}\n' + '{"prompt": "' + "dog " * 999 + '"}\n')
    given = ("task=jsonl", "model=hf", "task.chat_template=false", f"task.path={tmp_path}/my.jsonl", broken_model)
    with pytest.raises(ConfigError, match=r"my.jsonl, line 2: the prompt has 999 tokens"):
        load_policy(composed(*given))


def test_other_rows_than_the_resumed_run_had_are_refused_before_the_weights_are_read(broken_model, tmp_path):
    (tmp_path / "my.jsonl").write_text("".join(f'{{"prompt": "dog {n}"}}\n' for n in range(9)))
    given = ("task=jsonl", "model=hf", "task.chat_template=false", f"task.path={tmp_path}/my.jsonl", broken_model)
    with pytest.raises(ConfigError, match="not the training rows that the run was started with"):
        load_policy(composed(*given, "max_completion_length=8"), {"training rows": "7 rows, 4f0c"})


class Own:
    """A user's source of a model, with the methods that were documented first."""

    name = "own"

    def load_tokenizer(self):
        return word_tokenizer()

    def load(self) -> LlamaForCausalLM:
        return tiny_llama()


def test_a_model_class_of_ones_own_needs_no_load_config():
    policy, task = load_policy(with_class(composed("task.chat_template=false", base=CITIES), "model", Own))
    assert policy.name == "own" and task.held_out() and {"training rows", "weights"} <= policy.inputs.keys()


CITIES = ("task=cities", "model=tiny", "device=cpu", "run_dir=run")
CHAT = "{% for m in messages %}{{ m.content }}{% endfor %}"


def test_a_policy_that_dqo_wrote_says_so_where_it_is_asked_otherwise(tmp_path, caplog):
    """Trained with its chat template, then asked without."""
    tokenizer = word_tokenizer()
    tokenizer.chat_template = CHAT
    save_policy(tiny_llama(), tokenizer, tmp_path / "base")
    (tmp_path / "my.jsonl").write_text("".join(f'{{"prompt": "w{n}"}}\n' for n in range(9)))
    given = ("task=jsonl", f"task.path={tmp_path}/my.jsonl", "model=hf", "max_completion_length=8", "run_dir=run")
    base = composed(f"model.path={tmp_path}/base", base=given)
    export_policy(base, load_policy(base, judged=False)[0], tmp_path / "policy")
    load_policy(composed(f"model.path={tmp_path}/policy", base=given), judged=False)
    assert not [record for record in caplog.records if "rendered otherwise" in record.getMessage()]
    load_policy(composed(f"model.path={tmp_path}/policy", "task.chat_template=false", base=given), judged=False)
    (said,) = [record.getMessage() for record in caplog.records if "rendered otherwise" in record.getMessage()]
    assert said.endswith("plain text now, the chat template in training (task.chat_template=true)")


def test_the_config_is_that_of_the_model():
    sizes = {"hidden_size": 16, "intermediate_size": 32, "layers": 1, "heads": 2, "context_length": 48}
    tiny = Tiny(**sizes, seed=0, words_of="dqo.task.concepts.Concepts")
    assert tiny.load_config().to_dict() == tiny.load().config.to_dict() | {"dtype": None, "architectures": None}
    assert hasattr(Hf, "load_config")
