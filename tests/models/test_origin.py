import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from dqo.models.folders import save_policy
from dqo.models.origin import Origin, mark, read_origin, rendering_difference
from tests.factories import tiny_llama, word_tokenizer


def origin(folder: Path, hub_name: str | None = None, readme: Path | None = None) -> Origin:
    return read_origin(folder, name="base", hub_name=hub_name, readme=readme)


@pytest.fixture
def folder(tmp_path) -> Path:
    save_policy(tiny_llama(), word_tokenizer(), tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_type_of_the_weights_is_read_from_their_files(tmp_path, dtype):
    """config.json may lack the type, or name another."""
    model = tiny_llama().to(dtype)
    model.save_pretrained(tmp_path, max_shard_size="50KB")
    assert len([*tmp_path.glob("*.safetensors")]) > 1
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"dtype": "float64"}))
    assert origin(tmp_path).dtype == dtype


def test_the_type_is_that_of_most_weights(folder):
    """Some models keep norms or routers in float32."""
    tensors = {name: tensor.bfloat16() for name, tensor in load_file(folder / "model.safetensors").items()}
    kept = {name: tensor.float() for name, tensor in tensors.items() if "norm" in name}
    save_file(tensors | kept, folder / "model.safetensors", metadata={"format": "pt"})
    assert origin(folder).dtype == torch.bfloat16


def test_files_that_cannot_be_read_have_no_known_type(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"nothing")
    assert origin(tmp_path).dtype is None


def test_the_licence_and_the_base_of_a_local_folder_come_from_its_model_card(folder):
    front = "license: other\nlicense_name: llama3\nlicense_link: LICENSE\nbase_model: meta-llama/Llama-3.2-1B\n"
    (folder / "README.md").write_text(f"---\n{front}---\n# A card\n")
    found = origin(folder)
    assert found.license == {"license": "other", "license_name": "llama3", "license_link": "LICENSE"}
    assert found.hub_name == "meta-llama/Llama-3.2-1B"


def test_the_base_of_a_model_of_the_hub_is_the_model_itself(folder, tmp_path):
    (tmp_path / "card").write_text("---\nlicense: [mit, apache-2.0]\nbase_model: some/other\n---\n")
    found = origin(folder, hub_name="Qwen/Qwen3-0.6B", readme=tmp_path / "card")
    assert (found.hub_name, found.license) == ("Qwen/Qwen3-0.6B", {"license": ["mit", "apache-2.0"]})


def test_a_folder_of_the_hubs_cache_names_its_model(tmp_path):
    folder = tmp_path / "models--Qwen--Qwen3-0.6B" / "snapshots" / "0a1b"
    folder.mkdir(parents=True)
    assert origin(folder).hub_name == "Qwen/Qwen3-0.6B"


@pytest.mark.parametrize(
    "text", ["no front matter", "---\n- a\n---\n", "---\na: [\n---\n", "---\nlicense: 3\n---\n", ""]
)
def test_a_model_card_without_a_licence_that_can_be_read_names_none(folder, text):
    (folder / "README.md").write_text(text)
    assert (origin(folder).license, origin(folder).hub_name) == ({}, None)


def test_the_mark_lists_every_warm_start_once(tmp_path):
    (tmp_path / "dqo.json").write_text(mark(Origin(warm_starts=("a",)), warm_start="b"))
    assert origin(tmp_path).warm_starts == ["a", "b"]
    (tmp_path / "dqo.json").write_text(mark(origin(tmp_path), warm_start="a"))
    assert origin(tmp_path).warm_starts == ["a", "b"]


RENDERING = {"chat": True, "template": "4f0c", "system": None, "chat_template_kwargs": {}}


def test_the_mark_says_how_prompts_were_rendered(tmp_path):
    (tmp_path / "dqo.json").write_text(mark(Origin(), rendering=RENDERING))
    assert origin(tmp_path).rendering == RENDERING


@pytest.mark.parametrize("text", [None, "nonsense", "[]", "{}", '{"rendering": 3}', '{"warm_starts": ["a"]}'])
def test_a_folder_without_that_record_says_nothing(tmp_path, text):
    if text is not None:
        (tmp_path / "dqo.json").write_text(text)
    assert origin(tmp_path).rendering is None
    assert rendering_difference(origin(tmp_path).rendering, RENDERING) == ""


@pytest.mark.parametrize(
    ("now", "said"),
    [
        ({}, ""),
        (
            {"chat": False, "template": None},
            "plain text now, the chat template in training (task.chat_template=true)",
        ),
        ({"template": "0a1b"}, "another chat template than in training (model.chat_template=FILE)"),
        ({"system": "Be brief."}, 'system turn "Be brief." now, none in training'),
        ({"system": "x" * 99}, f'system turn "{"x" * 59}… now, none in training'),
        (
            {"chat_template_kwargs": {"enable_thinking": False}},
            'task.chat_template_kwargs {"enable_thinking": false} now, none in training',
        ),
        (
            {"template": "0a1b", "system": "a"},
            'another chat template than in training (model.chat_template=FILE); system turn "a" now, none in training',
        ),
    ],
)
def test_another_rendering_than_in_training_is_said_with_what_to_type(now, said):
    assert rendering_difference(RENDERING, {**RENDERING, **now}) == said


def test_a_policy_that_was_trained_on_plain_text_names_the_key():
    plain = {"chat": False, "template": None, "system": None, "chat_template_kwargs": {}}
    assert rendering_difference(plain, RENDERING).endswith("plain text in training (task.chat_template=false)")
    assert rendering_difference(plain, None) == ""  # a task that does not say
