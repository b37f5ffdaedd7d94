import http.server
import multiprocessing
import os
import socket
import threading
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from dqo.errors import ConfigError
from dqo.models.folders import (
    HubUnreachable,
    as_typed,
    cached_folder,
    hub_answers,
    hub_folder,
    packaged_files,
    save_policy,
)
from tests.factories import tiny_llama


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DQO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def write_number(folder: Path) -> None:
    (folder / "number").write_text("7")


def test_a_cached_folder_is_built_once(cache):
    first = cached_folder("seven", write_number)
    assert first == cache / "seven"
    assert (first / "number").read_text() == "7"

    def again(folder: Path) -> None:
        raise AssertionError("the folder exists already")

    assert cached_folder("seven", again) == first


def test_a_failed_build_leaves_no_folder_and_the_next_build_works(cache):
    def fails(folder: Path) -> None:
        (folder / "half").write_text("")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        cached_folder("seven", fails)
    assert [path.name for path in cache.iterdir()] == ["seven.lock"]
    assert (cached_folder("seven", write_number) / "number").exists()


def test_a_cache_that_cannot_be_written_names_the_variable(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DQO_CACHE", str(tmp_path / "file"))
    with pytest.raises(ConfigError, match="DQO_CACHE=FOLDER"):
        cached_folder("seven", write_number)


def count_builds(home: str, barrier, builds) -> None:
    os.environ["DQO_CACHE"] = home

    def build(folder: Path) -> None:
        with builds.get_lock():
            builds.value += 1
        for part in range(200):
            (folder / str(part)).write_text("x" * 1000)

    barrier.wait()
    assert len(list(cached_folder("big", build).iterdir())) == 200


def test_two_processes_at_once_build_once(cache):
    context = multiprocessing.get_context("fork")
    barrier, builds = context.Barrier(2), context.Value("i", 0)
    processes = [context.Process(target=count_builds, args=(str(cache), barrier, builds)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
    assert [process.exitcode for process in processes] == [0, 0]
    assert builds.value == 1


@pytest.mark.parametrize("tied", [True, False])
def test_a_saved_policy_is_read_back_exactly(tmp_path, tokenizer, tied):
    model = tiny_llama(tied=tied)
    save_policy(model, tokenizer, tmp_path / "policy")
    back = AutoModelForCausalLM.from_pretrained(tmp_path / "policy")
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in back.state_dict().items())
    assert back.generation_config.eos_token_id == 1
    assert AutoTokenizer.from_pretrained(tmp_path / "policy")("w1 w2")["input_ids"] == [4, 5]
    assert [path.name for path in tmp_path.iterdir()] == ["policy"]


def test_a_saved_policy_replaces_an_older_one(tmp_path, tokenizer):
    for seed in (1, 2):
        save_policy(tiny_llama(seed=seed), tokenizer, tmp_path / "policy")
    back = AutoModelForCausalLM.from_pretrained(tmp_path / "policy")
    assert torch.equal(back.lm_head.weight, tiny_llama(seed=2).lm_head.weight)
    assert [path.name for path in tmp_path.iterdir()] == ["policy"]


@pytest.mark.parametrize("tied", [True, False])
def test_the_learners_weights_are_saved_without_its_adapters(tmp_path, tokenizer, tied):
    """LoRA changes the model in place; the learner's weights are the merged ones, a tied head under both names."""
    trained = tiny_llama(tied=tied, seed=5)
    weights = {name: tensor.clone() for name, tensor in trained.state_dict().items()}
    model = tiny_llama(tied=tied)
    get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"]))
    save_policy(model, tokenizer, tmp_path / "policy", weights=iter(weights.items()))
    back, report = AutoModelForCausalLM.from_pretrained(tmp_path / "policy", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert ("lm_head.weight" in load_file(tmp_path / "policy" / "model.safetensors")) != tied
    assert all(torch.equal(tensor, weights[name]) for name, tensor in back.state_dict().items())


def test_a_small_update_is_in_a_policy_saved_in_bfloat16(tmp_path, tokenizer):
    model = tiny_llama(tied=False)
    start = {name: tensor.bfloat16().float() for name, tensor in model.state_dict().items()}
    update = {name: 1e-5 * torch.randn_like(tensor) for name, tensor in start.items()}
    weights = iter({name: start[name] + update[name] for name in start}.items())
    save_policy(model, tokenizer, tmp_path / "policy", weights=weights, dtype=torch.bfloat16)
    saved = load_file(tmp_path / "policy" / "model.safetensors")
    assert {tensor.dtype for tensor in saved.values()} == {torch.bfloat16}
    product = sum(float(((saved[name].float() - start[name]) * update[name]).sum()) for name in start)
    assert product / sum(float(u.square().sum()) for u in update.values()) == pytest.approx(1, abs=0.2)


def test_a_generation_config_that_transformers_refuses_to_write_is_saved(tmp_path, tokenizer, policy):
    policy.generation_config = GenerationConfig(temperature=0.7, eos_token_id=[1, 2])
    save_policy(policy, tokenizer, tmp_path / "policy")
    back = GenerationConfig.from_pretrained(tmp_path / "policy")
    assert (back.temperature, back.do_sample, back.eos_token_id) == (0.7, True, [1, 2])


def test_offline_the_hub_is_reported_unreachable_at_once(monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(HubUnreachable, match=r"model.path=some/model: no such folder, .* type model.path=FOLDER"):
        hub_folder("some/model", revision=None, key="model.path")


def test_a_hub_that_never_answers_is_given_up_after_the_timeout(monkeypatch, tmp_path):
    monkeypatch.setattr("dqo.models.folders.HUB_TIMEOUT", 0.2)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(HubUnreachable):  # without a timeout this waits for ever
            hub_folder("some/model", revision=None, key="model.path")


def test_a_hub_that_answers_with_an_error_is_in_reach(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    server = http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)  # answers 501 to HEAD
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    assert hub_answers()
    server.shutdown()
    server.server_close()
    assert not hub_answers()


def test_without_network_the_hubs_local_cache_is_used(monkeypatch, tmp_path):
    commit = "0" * 40
    snapshot = tmp_path / "models--some--model" / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (tmp_path / "models--some--model" / "refs").mkdir()
    (tmp_path / "models--some--model" / "refs" / "main").write_text(commit)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    assert hub_folder("some/model", revision=None, key="model.path") == snapshot


def test_a_name_that_the_hub_does_not_allow_is_refused():
    with pytest.raises(ConfigError, match=r"model\.path=some--/model: the hub says"):
        hub_folder("some--/model", revision=None, key="model.path")


def test_files_of_a_package_are_found_without_importing_it(monkeypatch, tmp_path):
    package = tmp_path / "explosive"
    package.mkdir()
    (package / "__init__.py").write_text("raise ImportError")
    (package / "weights.gguf").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    assert packaged_files("explosive", "*.gguf") == [package / "weights.gguf"]
    assert packaged_files("nowhere_to_be_found", "*") == []


def test_a_path_under_the_working_folder_is_shown_as_it_was_typed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert as_typed(f"{tmp_path}/models/a") == "models/a"
    for text in (str(tmp_path), f"{tmp_path}-2/a", "/elsewhere/a", "ORG/NAME"):
        assert as_typed(text) == text
