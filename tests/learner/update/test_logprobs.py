import pytest
import torch
import torch.nn.attention.flex_attention
from peft import LoraConfig, get_peft_model

from dqo.learner.update.logprobs import MAX_LOGIT_BYTES, logit_rows, token_logprobs
from dqo.learner.update.packing import Form, micro_batches
from dqo.models.attention import use_dqo_attention
from dqo.models.heads import plain_head
from tests.factories import make_experience, tiny_llama
from tests.learner.builders import CPU, tiny_qwen2

FORMS = [Form.FLEX, Form.SHARED, Form.PLAIN, Form.MASKED]
MODELS = {"tied": tiny_llama, "untied": lambda: tiny_llama(tied=False), "qwen2": tiny_qwen2}


pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without")


@pytest.fixture(autouse=True)
def flex_backward(monkeypatch):
    """torch refuses flex attention's backward pass on a CPU, though its dense form, which runs there, has one."""
    monkeypatch.setattr(torch.nn.attention.flex_attention, "_validate_device", lambda query, key, value: None)


def by_definition(model, rollouts, temperature):
    """Log-probabilities and entropies of the sampled tokens: one row at a time, all logits, log_softmax."""
    logprobs, entropies = [], []
    for row in range(len(rollouts.texts)):
        tokens_T = rollouts.tokens_BT[row, : int(rollouts.lengths_B[row])]
        logprobs_TV = (model(input_ids=tokens_T[None]).logits[0, :-1] / temperature).log_softmax(-1)
        sampled_T = rollouts.sampled_BT[row, 1 : len(tokens_T)]
        logprobs.append(logprobs_TV.gather(1, tokens_T[1:, None])[sampled_T, 0])
        entropies.append(-(logprobs_TV.exp() * logprobs_TV).sum(-1)[sampled_T])
    return torch.cat(logprobs), torch.cat(entropies)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_all_forms_equal_the_definition_in_values_and_gradients(name, form, temperature):
    model, rollouts = MODELS[name](), make_experience(prompts=3, k=4).rollouts
    use_dqo_attention(model)
    (batch,) = micro_batches(rollouts, list(range(12)), budget=1000, form=form)
    logprobs_N, entropies_N = token_logprobs(model, batch, temperature=temperature, device=CPU)
    expected_N, expected_entropies_N = by_definition(model, rollouts, temperature)
    torch.testing.assert_close(logprobs_N, expected_N, rtol=0, atol=1e-5)
    torch.testing.assert_close(entropies_N, expected_entropies_N, rtol=0, atol=1e-5)
    assert not entropies_N.requires_grad

    weights_N = torch.randn(len(expected_N), generator=torch.Generator().manual_seed(1)) / len(expected_N)
    got, expected = (
        torch.autograd.grad((values_N * weights_N).sum(), list(model.parameters()))
        for values_N in (logprobs_N, expected_N)
    )
    for parameter, gradient, expected_gradient in zip(model.parameters(), got, expected, strict=True):
        assert expected_gradient.abs().max() > 1e-4, parameter.shape
        torch.testing.assert_close(gradient, expected_gradient, rtol=0, atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("max_logit_rows", [1, 5, 7])
def test_a_head_that_runs_in_chunks_gives_the_same(form, temperature, max_logit_rows):
    """The same log-probabilities, entropies and gradients of all parameters, the tied head included."""
    rollouts = make_experience(prompts=3, k=4).rollouts
    (batch,) = micro_batches(rollouts, list(range(12)), budget=1000, form=form)
    results = []
    for settings in ({}, {"max_logit_rows": max_logit_rows}):
        policy = tiny_llama()
        use_dqo_attention(policy)
        head = plain_head(policy, CPU)
        assert head is policy.lm_head
        logprobs_N, entropies_N = token_logprobs(
            policy, batch, temperature=temperature, device=CPU, head=head, **settings
        )
        (logprobs_N * torch.linspace(-1, 1, len(logprobs_N))).sum().backward()
        results.append([logprobs_N, entropies_N, *(p.grad for p in policy.parameters())])
    for whole, chunked in zip(*results, strict=True):
        torch.testing.assert_close(chunked, whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("max_logit_rows", [1000, 5])
def test_the_gradient_of_entropies_is_the_definitions_where_it_is_asked_for(form, max_logit_rows, monkeypatch):
    """Over several chunks of rows, with a head that runs at once or in chunks."""
    monkeypatch.setattr("dqo.learner.update.logprobs.ENTROPY_CHUNK", 4)
    rollouts, model = make_experience(prompts=3, k=4).rollouts, tiny_llama()
    use_dqo_attention(model)
    (batch,) = micro_batches(rollouts, list(range(12)), budget=1000, form=form)
    found = token_logprobs(
        model, batch, temperature=0.7, device=CPU, head=plain_head(model, CPU), max_logit_rows=max_logit_rows,
        entropy_gradient=True,
    )  # fmt: skip
    expected = by_definition(model, rollouts, 0.7)
    weights_N = torch.linspace(-1, 1, len(expected[0])) / len(expected[0])
    for part in (slice(1, 2), slice(0, 2)):  # entropies, and both in one backward pass
        got, wanted = (
            torch.autograd.grad((sum(values[part]) * weights_N).sum(), list(model.parameters()), retain_graph=True)
            for values in (found, expected)
        )
        for gradient, expected_gradient in zip(got, wanted, strict=True):
            assert expected_gradient.abs().max() > 1e-3
            torch.testing.assert_close(gradient, expected_gradient, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        _, entropies_N = token_logprobs(model, batch, temperature=0.7, device=CPU, entropy_gradient=True)
    torch.testing.assert_close(entropies_N, expected[1], rtol=0, atol=1e-5)


def test_a_head_runs_in_chunks_inside_a_peft_model_and_keeps_no_hook():
    torch.manual_seed(0)
    policy = tiny_llama()
    use_dqo_attention(policy)
    head = plain_head(policy, CPU)
    model = get_peft_model(policy, LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    (batch,) = micro_batches(make_experience(prompts=3, k=4).rollouts, list(range(12)), budget=1000, form=Form.SHARED)
    whole, chunked = (
        token_logprobs(model, batch, temperature=1.0, device=CPU, head=head, max_logit_rows=rows) for rows in (1000, 5)
    )
    for expected, got in zip(whole, chunked, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    assert not head._forward_pre_hooks and not head._forward_hooks


@pytest.mark.parametrize(("vocabulary", "rows"), [(49_152, 2688), (151_936, 768), (10_000_000, 128)])
def test_chunks_of_the_head_take_the_same_memory_for_any_vocabulary(vocabulary, rows):
    assert logit_rows(torch.nn.Linear(1, vocabulary, device="meta")) == rows
    assert rows == 128 or 0.8 * MAX_LOGIT_BYTES < 4 * rows * vocabulary <= MAX_LOGIT_BYTES
