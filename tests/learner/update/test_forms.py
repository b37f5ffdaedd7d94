import logging
import re

import pytest
import torch
import torch.nn.attention.flex_attention
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from dqo.errors import ConfigError
from dqo.learner.update.forms import Form, Trial, _flex_if_right, fastest_form, probe
from dqo.models.attention import ATTENTION_NAME, FLEX_BLOCK
from tests.factories import make_experience, tiny_llama
from tests.learner.builders import CPU, learn, make_learner, tiny_qwen2

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
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
    assert fastest_form(policy, CPU, shared_prompt=shared_prompt, bf16=False) is Form.SHARED
    assert policy.config._attn_implementation == ATTENTION_NAME
    assert log() == []


def test_gpt2_can_share_prompts():
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=63, n_embd=32, n_layer=2, n_head=2, n_positions=64, initializer_range=0.2)
    assert fastest_form(GPT2LMHeadModel(config).eval(), CPU, shared_prompt=True, bf16=False) is Form.SHARED


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
    assert fastest_form(make(), CPU, shared_prompt="auto", bf16=False) is Form.PLAIN
    (line,) = log()
    assert re.search(f"^learner: {why}.*; a group's prompt is computed once per completion$", line)


@pytest.mark.parametrize("case", CANNOT_SHARE)
def test_whoever_typed_shared_prompt_true_is_told_why_not(case):
    make, why = CANNOT_SHARE[case]
    message = rf"^learner\.shared_prompt=true: {why}[^\n]*; type learner\.shared_prompt=auto$"
    with pytest.raises(ConfigError, match=message):
        fastest_form(make(), CPU, shared_prompt=True, bf16=False)


def test_whoever_typed_shared_prompt_false_gets_the_plain_form_without_a_word(log):
    assert fastest_form(tiny_llama(), CPU, shared_prompt=False, bf16=False) is Form.PLAIN
    assert log() == []


@pytest.mark.parametrize("shared_prompt", [False, "auto"])
def test_a_model_that_padding_changes_gets_one_completion_per_pass(shared_prompt, log):
    model = small_llama(LooksAtPadding)
    assert fastest_form(model, CPU, shared_prompt=shared_prompt, bf16=False) is Form.SINGLE
    (line,) = log()
    assert re.search("^learner: LooksAtPadding gives .* nats off .*; completions are computed one by one", line)
    learner, experience = make_learner(model, shared_prompt="auto"), make_experience(prompts=2, k=3)
    batches = learner._micro_batches(experience.rollouts, list(range(6)), learner.budget.tokens)
    assert [len(batch.tokens_RL) for batch in batches] == [1] * 6
    assert sum(batch.padding for batch in batches) == 0
    learn(learner, experience)


def test_a_model_that_cannot_be_computed_is_refused_in_one_line():
    message = r"^learner: Broken cannot be computed \(no such kernel\); type model\.path=FOLDER of another model$"
    with pytest.raises(ConfigError, match=message):
        fastest_form(small_llama(Broken), CPU, shared_prompt="auto", bf16=False)


@pytest.mark.parametrize("scale", [1e-3, 1.0])
def test_an_untrained_model_is_tried_as_strictly_as_a_trained_one(scale):
    """Its log-probabilities are close together, so a wrong form is off by little."""
    model = small_llama(IgnoresPositions)
    with torch.no_grad():
        model.lm_head.weight *= scale
    assert fastest_form(model, CPU, shared_prompt="auto", bf16=False) is Form.PLAIN


@pytest.mark.parametrize("form", Form)
def test_trying_a_model_takes_one_small_batch(form):
    assert probe(form).tokens_RL.numel() <= (2 * FLEX_BLOCK if form is Form.FLEX else 36)


def test_a_full_gpu_is_not_called_a_fault_of_the_model():
    """Advice to take another model would be wrong: the error says what is the matter, and may pass."""

    class Full(LlamaForCausalLM):
        def forward(self, *args, **kwargs):
            raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        fastest_form(small_llama(Full), CPU, shared_prompt="auto", bf16=False)


class NeedsMask(LlamaForCausalLM):
    """Wrong without a mask over padding, as a model that looks at all tokens' mean may be."""

    def forward(self, input_ids, attention_mask=None, **kwargs):
        out = super().forward(input_ids=input_ids, attention_mask=attention_mask, **kwargs)
        if attention_mask is None and (input_ids == 0).any():
            out.logits = out.logits * 1.1
        return out


def test_a_model_that_needs_the_padding_masked_gets_a_mask(log):
    assert fastest_form(small_llama(NeedsMask), CPU, shared_prompt=False, bf16=False) is Form.MASKED
    (line,) = log()
    assert re.search("^learner: NeedsMask gives .* nats off .* plain form .*; attention gets a mask over padding", line)


def test_flex_attention_that_cannot_do_the_backward_pass_is_found_at_the_start(log):
    """On a CPU torch refuses it."""
    policy = tiny_llama()
    fastest_form(policy, CPU, shared_prompt=True, bf16=False)
    assert _flex_if_right(policy, CPU, bf16=False) is Form.SHARED
    (line,) = log()
    assert re.search(r"^learner: flex attention of LlamaForCausalLM cannot be computed \(.*backward.*\); shared", line)
    assert all(parameter.grad is None for parameter in policy.parameters())


@pytest.mark.filterwarnings("ignore:flex_attention called without")
@pytest.mark.parametrize("bf16", [False, True])
def test_flex_attention_that_gives_the_same_is_taken(bf16, monkeypatch, log):
    monkeypatch.setattr(torch.nn.attention.flex_attention, "_validate_device", lambda query, key, value: None)
    policy = tiny_llama()
    fastest_form(policy, CPU, shared_prompt=True, bf16=bf16)
    assert _flex_if_right(policy, CPU, bf16=bf16) is Form.FLEX
    assert log() == []


def test_a_wrong_gradient_is_found_at_the_start():
    policy = tiny_llama()
    expected = Trial.of(policy, Form.PLAIN, CPU, bf16=False)
    assert expected.problem(lambda: Trial.of(policy, Form.MASKED, CPU, bf16=False)) is None
    policy.model.layers[0].register_forward_hook(
        lambda module, inputs, output: output + 0.1 * (output - output.detach())
    )
    problem = expected.problem(lambda: Trial.of(policy, Form.MASKED, CPU, bf16=False))
    assert problem is not None and problem.startswith("gives gradients that are 0.")


def half_llama():
    """On the GPU, with heads of a width that its attention kernels take."""
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=63, hidden_size=768, intermediate_size=256, num_hidden_layers=2,
                         num_attention_heads=6, num_key_value_heads=2, initializer_range=0.1)  # fmt: skip
    return LlamaForCausalLM(config).eval().to(device="cuda")


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("bf16", [False, True])
def test_on_a_gpu_prompts_are_shared_by_flex_attention(bf16, log):
    assert fastest_form(half_llama(), torch.device("cuda"), shared_prompt=True, bf16=bf16) is Form.FLEX
    assert not [line for line in log() if "slower" in line]


@pytest.mark.gpu
@needs_gpu
def test_on_a_gpu_the_plain_form_takes_flash_attention():
    """torch raises where the only kernel that is allowed cannot be taken."""
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        Trial.of(half_llama(), Form.PLAIN, torch.device("cuda"), bf16=True)
