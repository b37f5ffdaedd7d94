import pytest
from hydra import compose, initialize_config_dir

from dqo.config import conf_dir, gpu


def options(*overrides: str) -> tuple[str, str]:
    with initialize_config_dir(conf_dir(), version_base="1.3"):
        config = compose("train", [*overrides])
    return config.rollout["_target_"].rpartition(".")[2], config.learner["_target_"].rpartition(".")[2]


def test_a_gpu_gets_vllm_and_zero_and_a_cpu_does_not(monkeypatch):
    monkeypatch.setattr(gpu.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(gpu, "has_gpu", lambda: True)
    assert options() == ("Vllm", "DeepSpeedZero")
    assert options("task=gsm8k", "rollout=hf") == ("Hf", "DeepSpeedZero")
    monkeypatch.setattr(gpu, "has_gpu", lambda: False)
    assert options() == options("task=gsm8k") == ("Hf", "TorchSingle")


def test_what_is_not_installed_is_no_default(monkeypatch):
    monkeypatch.setattr(gpu, "has_gpu", lambda: True)
    monkeypatch.setattr(gpu.importlib.util, "find_spec", lambda name: None if name == "vllm" else object())
    assert options() == ("Hf", "DeepSpeedZero")


@pytest.mark.parametrize("hidden", ["", "-1"])
def test_a_hidden_gpu_is_none(monkeypatch, hidden):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    assert not gpu.has_gpu()
