from dataclasses import replace

import pytest
import torch

from dqo.errors import ConfigError
from tests.factories import make_experience, tiny_llama
from tests.learner.builders import adamw, assert_same, clip, learn, make_learner, tiny_qwen2


@pytest.fixture
def experience():
    return make_experience(prompts=2, k=3)


def trained(policy, experience, **settings):
    torch.manual_seed(0)
    learner = make_learner(policy, lora_r=4, optim=adamw(learning_rate=0.01), **settings)
    for _ in range(3):
        learn(learner, experience)
    return learner


@pytest.mark.parametrize("make_policy", [tiny_llama, lambda: tiny_llama(tied=False), tiny_qwen2])
@pytest.mark.parametrize("target_modules", [None, ["q_proj", "down_proj"]])
def test_merged_weights_give_the_same_outputs_as_the_adapters(make_policy, target_modules, experience):
    learner = trained(make_policy(), experience, lora_target_modules=target_modules)
    tokens = experience.rollouts.tokens_BT
    fresh = make_policy()
    start = fresh(input_ids=tokens).logits
    fresh.load_state_dict(dict(learner.weights()))  # fails for a missing or unknown name
    with_adapters, merged = learner.model(input_ids=tokens).logits, fresh(input_ids=tokens).logits
    torch.testing.assert_close(merged, with_adapters, rtol=0, atol=1e-4)
    assert (merged - start).abs().max() > 0.1


def test_merged_weights_do_not_change_the_model(experience):
    learner = trained(tiny_llama(), experience)
    before = {name: tensor.clone() for name, tensor in learner.policy.state_dict().items()}
    first, second = dict(learner.weights()), dict(learner.weights())
    assert_same(first, second, atol=0)
    assert_same(before, learner.policy.state_dict(), atol=0)


def test_only_the_adapters_are_trained(experience):
    start = dict(tiny_llama().named_parameters())
    learner = trained(tiny_llama(), experience, lora_target_modules=["q_proj"])
    weights = dict(learner.weights())
    changed = {name for name in start if not torch.equal(weights[name], start[name])}
    assert changed == {f"model.layers.{i}.self_attn.q_proj.weight" for i in range(2)}
    for name, parameter in learner.policy.named_parameters():
        assert parameter.requires_grad == ("lora_" in name)


def test_the_reference_is_the_base_model_without_adapters(experience):
    plain = make_learner(tiny_llama(), loss=clip(beta=0.1))
    learner = trained(tiny_llama(), experience, loss=clip(beta=0.1))
    reference_BT = learner.estimate(experience.rollouts).ref_logprobs_BT
    assert torch.equal(reference_BT, plain.estimate(experience.rollouts).ref_logprobs_BT)
    assert learn(learner, experience)["kl"] > 1e-4


def test_lora_dropout_is_active_only_in_the_update(experience):
    without, noisy = (trained(tiny_llama(), experience, lora_dropout=p, num_iterations=2) for p in (0.0, 0.5))
    without, again = dict(without.weights()), dict(noisy.weights())
    assert max((without[name] - again[name]).abs().max() for name in without) > 1e-3
    fresh = replace(experience.rollouts, versions_B=torch.full((6,), noisy.version))
    first, second = (noisy.estimate(fresh).old_logprobs_BT for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize("gradient_checkpointing", [True, False])
def test_gradient_checkpointing_trains_the_adapters(gradient_checkpointing, experience):
    learner = trained(tiny_llama(), experience, gradient_checkpointing=gradient_checkpointing)
    assert all(p.abs().max() > 0 for name, p in learner.policy.named_parameters() if "lora_B" in name)


def test_an_unknown_module_is_refused_with_the_list_of_modules(policy):
    with pytest.raises(
        ConfigError, match=r"no 'query' in LlamaForCausalLM; type learner\.lora_target_modules=all-linear"
    ):
        make_learner(policy, lora_r=4, lora_target_modules=["q_proj", "query"])


@pytest.mark.parametrize("module", ["lm_head", "embed_tokens"])
def test_head_and_embedding_as_target_modules_are_refused(policy, module):
    with pytest.raises(ConfigError, match=r"tied to another weight; type learner\.lora_target_modules=all-linear"):
        make_learner(policy, lora_r=4, lora_target_modules=["q_proj", module])
