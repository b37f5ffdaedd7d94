import json

import pytest
import torch
from safetensors.torch import load_file

from dqo.errors import ConfigError
from dqo.optim.adamw import Schedule
from tests.factories import make_experience, tiny_llama
from tests.learner.builders import adamw, assert_same, clip, learn, make_learner, model_critic

EXPERIENCES = [make_experience(prompts=2, k=3, seed=seed) for seed in range(4)]


def make(**settings):
    torch.manual_seed(7)  # seed of new adapters
    optim = adamw(learning_rate=0.01, schedule=Schedule.cosine, steps=4)
    return make_learner(tiny_llama(), optim=optim, loss=clip(beta=0.05), num_iterations=2, **settings)


@pytest.mark.parametrize("settings", [{}, {"lora_r": 4}], ids=["full", "lora"])
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(tmp_path, settings):
    whole, first, second = make(**settings), make(**settings), make(**settings)
    uninterrupted = [learn(whole, experience) for experience in EXPERIENCES]
    for experience in EXPERIENCES[:2]:
        learn(first, experience)
    first.save(tmp_path)
    second.load(tmp_path)
    assert second.version == 2
    resumed = [learn(second, experience) for experience in EXPERIENCES[2:]]
    assert resumed == uninterrupted[2:]
    assert_same(dict(whole.weights()), dict(second.weights()), atol=0)


def test_the_files_hold_named_fp32_tensors_and_json(tmp_path):
    learner = make()
    learn(learner, EXPERIENCES[0])
    learner.save(tmp_path)
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.*")} == {
        "policy/parameters.safetensors", "policy/moments.safetensors", "learner.json",
    }  # fmt: skip
    folder = tmp_path / "policy"
    parameters, moments = load_file(folder / "parameters.safetensors"), load_file(folder / "moments.safetensors")
    names = dict(tiny_llama().named_parameters())
    assert parameters.keys() == names.keys()
    assert moments.keys() == {f"{key}/{name}" for name in names for key in ("exp_avg", "exp_avg_sq", "step")}
    assert {tensor.dtype for tensor in (*parameters.values(), *moments.values())} == {torch.float32}
    assert json.loads((tmp_path / "learner.json").read_text()) == {"version": 1, "micro_batches": {}}


def test_a_checkpoint_of_another_version_says_that_a_new_run_is_needed(tmp_path):
    (tmp_path / "learner.json").write_text('{"version": 1}')
    with pytest.raises(ConfigError, match=r"has the models \(none\), and this run trains policy: .*run_dir="):
        make().load(tmp_path)


def test_a_checkpoint_with_a_critic_goes_on_with_one_alone(tmp_path):
    policy = tiny_llama()
    with_critic, without = make_learner(policy, critic=model_critic(policy)), make()
    for saved, other, here in ((with_critic, without, "critic, policy"), (without, with_critic, "policy")):
        folder = tmp_path / here
        folder.mkdir()
        saved.save(folder)
        with pytest.raises(ConfigError, match=rf"^resume: .* has the models {here}, and this run trains policy"):
            other.load(folder)


def test_lora_saves_only_its_adapters(tmp_path):
    make(lora_r=4).save(tmp_path)
    assert all(".lora_" in name for name in load_file(tmp_path / "policy" / "parameters.safetensors"))


def test_before_the_first_update_there_are_no_moments(tmp_path):
    make().save(tmp_path)
    fresh, resumed = make(), make()
    resumed.load(tmp_path)
    assert learn(resumed, EXPERIENCES[0]) == learn(fresh, EXPERIENCES[0])


@pytest.mark.parametrize(
    ("saved", "loading"), [({"lora_r": 4}, {"lora_r": 8}), ({}, {"lora_r": 4}), ({"lora_r": 4}, {})]
)
def test_a_checkpoint_with_other_parameters_is_refused(tmp_path, saved, loading):
    make(**saved).save(tmp_path)
    learner = make(**loading)
    before = {name: tensor.clone() for name, tensor in learner.weights()}
    with pytest.raises(ConfigError, match=r"^resume: .* resume with the same model=, critic= and learner\.lora_\*"):
        learner.load(tmp_path)
    assert_same(before, dict(learner.weights()), atol=0)
