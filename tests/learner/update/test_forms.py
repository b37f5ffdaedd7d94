import logging
import re

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from dqo.errors import ConfigError
from dqo.learner.update.forms import Form, fastest_form, probe
from dqo.models.attention import ATTENTION_NAME
from tests.factories import make_experience, tiny_llama
from tests.learner.builders import CPU, learn, make_learner, tiny_qwen2

MODELS = {"tied": tiny_llama, "untied": lambda: tiny_llama(tied=False), "qwen2": tiny_qwen2}


def small_llama(cls=LlamaForCausalLM):
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=63, hidden_size=32, intermediate_size=32, num_hidden_layers=2,
                         num_attention_heads=2, initializer_range=0.5)  # fmt: skip
    return cls(config).eval()


def mistral():
    config = MistralConfig(vocab_size=63, hidden_size=32, intermediate_size=32, num_hidden_layers=1,
                           num_attention_heads=2, num_key_value_heads=2, sliding_window=8)  # fmt: skip
    return MistralForCausalLM(config).eval()


class IgnoresPositions(LlamaForCausalLM):
    def forward(self, *args, position_ids=None, **kwargs):
        return super().forward(*args, **kwargs)


class WithoutKeyword(LlamaForCausalLM):
    def forward(self, input_ids, attention_mask=None, logits_to_keep=0, use_cache=None, position_ids=None):
        return super().forward(
            input_ids=input_ids, attention_mask=attention_mask, logits_to_keep=logits_to_keep, use_cache=use_cache
        )


class LooksAtPadding(LlamaForCausalLM):
    """Right only without padding, as a model with bidirectional or chunked layers may be."""

    def forward(self, input_ids, attention_mask=None, **kwargs):
        out = super().forward(input_ids=input_ids, attention_mask=attention_mask, **kwargs)
        out.logits = out.logits * (1 + (input_ids == 0).float().mean())
        return out


class Broken(LlamaForCausalLM):
    def forward(self, input_ids, **kwargs):
        raise AttributeError("no such kernel")


@pytest.fixture
def log(caplog):
    caplog.set_level(logging.INFO, "dqo")
    return lambda: [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize("shared_prompt", [True, "auto"])
@pytest.mark.parametrize("name", MODELS)
def test_models_with_sdpa_attention_share_prompts_without_a_word(name, shared_prompt, log):
    policy = MODELS[name]()
    assert fastest_form(policy, CPU, shared_prompt=shared_prompt) is Form.SHARED
    assert policy.config._attn_implementation == ATTENTION_NAME
    assert log() == []


def test_gpt2_can_share_prompts():
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=63, n_embd=32, n_layer=2, n_head=2, n_positions=64, initializer_range=0.2)
    assert fastest_form(GPT2LMHeadModel(config).eval(), CPU, shared_prompt=True) is Form.SHARED


def eager():
    model = tiny_llama()
    model.set_attn_implementation("eager")
    return model


CANNOT_SHARE = {
    "a sliding window, which the shared mask would switch off": (mistral, "MistralForCausalLM has sliding_attention"),
    "eager attention": (eager, "LlamaForCausalLM uses eager attention, which cannot"),
    "other log-probabilities": (lambda: small_llama(IgnoresPositions), r"IgnoresPositions gives .* nats off"),
    "no such keyword": (lambda: small_llama(WithoutKeyword), "WithoutKeyword cannot take .*'shared_prompt'"),
}


@pytest.mark.parametrize("case", CANNOT_SHARE)
def test_by_default_a_model_that_cannot_share_prompts_computes_them_anew_and_says_so_in_one_line(case, log):
    make, why = CANNOT_SHARE[case]
    assert fastest_form(make(), CPU, shared_prompt="auto") is Form.PLAIN
    (line,) = log()
    assert re.search(f"^learner: {why}.*; a group's prompt is computed once per completion$", line)


@pytest.mark.parametrize("case", CANNOT_SHARE)
def test_whoever_typed_shared_prompt_true_is_told_why_not(case):
    make, why = CANNOT_SHARE[case]
    message = rf"^learner\.shared_prompt=true: {why}[^\n]*; type learner\.shared_prompt=auto$"
    with pytest.raises(ConfigError, match=message):
        fastest_form(make(), CPU, shared_prompt=True)


def test_whoever_typed_shared_prompt_false_gets_the_plain_form_without_a_word(log):
    assert fastest_form(tiny_llama(), CPU, shared_prompt=False) is Form.PLAIN
    assert log() == []


@pytest.mark.parametrize("shared_prompt", [False, "auto"])
def test_a_model_that_padding_changes_gets_one_completion_per_pass(shared_prompt, log):
    model = small_llama(LooksAtPadding)
    assert fastest_form(model, CPU, shared_prompt=shared_prompt) is Form.SINGLE
    (line,) = log()
    assert re.search("^learner: LooksAtPadding gives .* nats off .*; completions are computed one by one", line)
    learner, experience = make_learner(model, shared_prompt="auto"), make_experience(prompts=2, k=3)
    batches = learner._micro_batches(experience.rollouts, list(range(6)))
    assert [len(batch.tokens_RL) for batch in batches] == [1] * 6
    assert sum(batch.padding for batch in batches) == 0
    learn(learner, experience)


def test_a_model_that_cannot_be_computed_is_refused_in_one_line():
    message = r"^learner: Broken cannot be computed \(no such kernel\); type model\.path=FOLDER of another model$"
    with pytest.raises(ConfigError, match=message):
        fastest_form(small_llama(Broken), CPU, shared_prompt="auto")


@pytest.mark.parametrize("scale", [1e-3, 1.0])
def test_an_untrained_model_is_tried_as_strictly_as_a_trained_one(scale):
    """Its log-probabilities are close together, so a wrong form is off by little."""
    model = small_llama(IgnoresPositions)
    with torch.no_grad():
        model.lm_head.weight *= scale
    assert fastest_form(model, CPU, shared_prompt="auto") is Form.PLAIN


@pytest.mark.parametrize("form", Form)
def test_trying_a_model_takes_one_small_batch(form):
    assert probe(form).tokens_RL.numel() <= 36


def test_a_full_gpu_is_not_called_a_fault_of_the_model():
    """Advice to take another model would be wrong: the error says what is the matter, and may pass."""

    class Full(LlamaForCausalLM):
        def forward(self, *args, **kwargs):
            raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        fastest_form(small_llama(Full), CPU, shared_prompt="auto")
