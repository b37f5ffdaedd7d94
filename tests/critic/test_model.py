import copy

import pytest
import torch
from transformers import LlamaConfig, LlamaForSequenceClassification, MistralConfig, MistralForCausalLM

from dqo.errors import ConfigError
from dqo.learner.update.packing import Form
from tests.factories import make_experience, tiny_llama, word_tokenizer
from tests.learner.builders import make_learner, model_critic

TOKENS = torch.tensor([[5, 6, 7, 8]])


def reward_model(labels: int = 1) -> LlamaForSequenceClassification:
    torch.manual_seed(4)
    config = tiny_llama().config.to_dict()
    config.pop("architectures", None)
    return LlamaForSequenceClassification(LlamaConfig(**config | {"num_labels": labels})).eval()


def saved(model, folder, tokenizer=None) -> str:
    model.save_pretrained(folder)
    (tokenizer or word_tokenizer()).save_pretrained(folder)
    return str(folder)


def test_by_default_it_is_a_copy_of_the_policy_with_another_head():
    policy = tiny_llama()
    before = copy.deepcopy(policy.state_dict())
    critic = model_critic(policy).module()
    hidden = policy.model(input_ids=TOKENS).last_hidden_state
    values = critic(input_ids=TOKENS).logits
    torch.testing.assert_close(values, hidden @ critic.lm_head.weight.T)
    assert values.abs().max() < 1
    mine = {id(parameter) for parameter in policy.parameters()}
    assert all(parameter.requires_grad and id(parameter) not in mine for parameter in critic.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in policy.state_dict().items())
    assert policy.config.tie_word_embeddings and policy(input_ids=TOKENS).logits.shape[-1] == 63


def test_a_reward_models_head_is_kept(tmp_path):
    model = reward_model()
    critic = model_critic(tiny_llama(), path=saved(model, tmp_path)).module()
    hidden = model.model(input_ids=TOKENS).last_hidden_state
    torch.testing.assert_close(critic(input_ids=TOKENS).logits, model.score(hidden))


def test_a_language_model_gets_a_new_head(tmp_path):
    other = tiny_llama(seed=5, layers=1, tied=False)
    policy = tiny_llama()
    critic = model_critic(policy, path=saved(other, tmp_path))
    hidden, module = other.model(input_ids=TOKENS).last_hidden_state, critic.module()
    torch.testing.assert_close(module(input_ids=TOKENS).logits, hidden @ module.lm_head.weight.T)
    learner = make_learner(policy, critic=critic)
    values_BT = learner.estimate(make_experience(prompts=2, k=2).rollouts).values_BT
    assert values_BT is not None and values_BT.abs().max() > 0


def test_policy_and_critic_take_the_form_that_both_can(tmp_path):
    """The critic's sliding window rules shared prompts out; the policy computes the same without them."""
    torch.manual_seed(2)
    config = tiny_llama().config.to_dict()
    for key in ("architectures", "model_type", "layer_types"):
        config.pop(key, None)
    sliding = MistralForCausalLM(MistralConfig(**config | {"sliding_window": 8})).eval()
    policy, rollouts = tiny_llama(), make_experience(prompts=2, k=3).rollouts
    critic = model_critic(policy, path=saved(sliding, tmp_path))
    both = make_learner(policy, critic=critic, needs_old_logprobs=True, shared_prompt="auto")
    alone = make_learner(tiny_llama(), needs_old_logprobs=True)
    assert (both.form, alone.form) == (Form.PLAIN, Form.SHARED)
    logprobs_BT, expected_BT = (learner.estimate(rollouts).old_logprobs_BT for learner in (both, alone))
    torch.testing.assert_close(logprobs_BT, expected_BT, rtol=0, atol=1e-5)


def test_what_cannot_be_a_critic_is_refused_in_one_line(tmp_path):
    policy = tiny_llama()
    other = saved(tiny_llama(), tmp_path / "other", word_tokenizer(["another"]))
    two = saved(reward_model(labels=2), tmp_path / "two")
    (tmp_path / "empty").mkdir()
    for path, problem in (
        (other, "its tokenizer is not the policy's"),
        (two, "it is a classifier of 2 labels"),
        (str(tmp_path / "empty"), "has no config.json"),
        ("no such folder!", "is neither a folder nor a name on the hub"),
        ("nobody/nothing-of-this-name", "the hub is out of reach"),
    ):
        with pytest.raises(ConfigError, match=problem) as raised:
            model_critic(policy, path=path)
        assert str(raised.value).startswith("critic.path=") and "\n" not in str(raised.value)


def test_weights_that_are_not_those_of_the_config_are_refused(tmp_path):
    model = reward_model()
    path = saved(model, tmp_path)
    config = model.config
    config.intermediate_size = 48
    config.save_pretrained(path)
    with pytest.raises(ConfigError, match="of their shape, such as model"):
        model_critic(tiny_llama(), path=path).module()


def test_a_policy_whose_head_cannot_be_replaced_is_refused():
    policy = tiny_llama()

    class Capped(type(policy)):
        def forward(self, **inputs):
            out = super().forward(**inputs)
            out.logits = torch.tanh(out.logits)
            return out

    policy.__class__ = Capped
    with pytest.raises(ConfigError, match=r"^critic=model: Capped gives no values.*critic\.path=FOLDER"):
        model_critic(policy).module()
