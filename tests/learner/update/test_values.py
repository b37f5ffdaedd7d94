import math
import re

import pytest
import torch
import torch.nn.attention.flex_attention

from dqo.learner.update.forms import Trial, fastest_form, weaker
from dqo.learner.update.logprobs import token_logprobs
from dqo.learner.update.packing import Form, micro_batches
from dqo.learner.update.values import captured_hidden, head_values, token_values, value_metrics
from dqo.models.attention import use_dqo_attention
from dqo.models.heads import ValueHead, with_value_head
from tests.factories import make_experience, tiny_llama
from tests.helpers.on_ranks import on_ranks
from tests.learner.builders import CPU, tiny_qwen2

FORMS = [Form.FLEX, Form.SHARED, Form.PLAIN, Form.MASKED]
MODELS = {"tied": tiny_llama, "untied": lambda: tiny_llama(tied=False), "qwen2": tiny_qwen2}
pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without")


@pytest.fixture(autouse=True)
def flex_backward(monkeypatch):
    """torch refuses flex attention's backward pass on a CPU, though its dense form, which runs there, has one."""
    monkeypatch.setattr(torch.nn.attention.flex_attention, "_validate_device", lambda query, key, value: None)


def critic_of(name: str):
    model = MODELS[name]()
    assert with_value_head(model, ValueHead(64, seed=1))
    use_dqo_attention(model)
    return model


def by_definition(model, rollouts) -> torch.Tensor:
    """The value at the token before each sampled one, a row at a time."""
    found = []
    for row in range(len(rollouts.texts)):
        length = int(rollouts.lengths_B[row])
        values_T = model(input_ids=rollouts.tokens_BT[row : row + 1, :length]).logits[0, :-1, 0]
        found.append(values_T[rollouts.sampled_BT[row, 1:length]])
    return torch.cat(found)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("form", FORMS)
def test_all_forms_equal_the_definition_in_values_and_gradients(name, form):
    model, rollouts = critic_of(name), make_experience(prompts=3, k=4).rollouts
    (batch,) = micro_batches(rollouts, list(range(12)), budget=1000, form=form)
    weights_N = torch.randn(len(batch.rows_N), generator=torch.Generator().manual_seed(1))
    results = []
    for values_N in (token_values(model, batch, device=CPU), by_definition(model, rollouts)):
        gradients = torch.autograd.grad((values_N * weights_N).sum(), list(model.parameters()))
        results.append([values_N.detach(), *gradients])
    for got, expected in zip(*results, strict=True):
        assert expected.abs().max() > 1e-3
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("rows", [1000, 5])  # of logits at a time: the LM head runs at once or in chunks
def test_values_of_a_head_on_the_policys_states_are_those_of_a_model_with_that_head(form, rows):
    policy, critic, rollouts = tiny_llama(), critic_of("tied"), make_experience(prompts=3, k=4).rollouts
    use_dqo_attention(policy)
    (batch,) = micro_batches(rollouts, list(range(12)), budget=1000, form=form)
    with captured_hidden(policy.lm_head) as hidden:
        token_logprobs(policy, batch, temperature=1.0, device=CPU, head=policy.lm_head, max_logit_rows=rows)
    found_N = head_values(critic.lm_head, hidden[0], batch)
    torch.testing.assert_close(found_N, token_values(critic, batch, device=CPU), rtol=0, atol=1e-6)
    assert not policy.lm_head._forward_pre_hooks


def test_the_form_of_a_critic_is_found_by_its_values():
    critic = critic_of("tied")
    assert fastest_form(critic, CPU, shared_prompt=True, bf16=False, values=True) is Form.SHARED
    assert weaker(Form.SHARED, Form.MASKED) is weaker(Form.MASKED, Form.SHARED) is Form.MASKED
    trial = Trial.of(critic, Form.MASKED, CPU, bf16=False, values=True)
    assert trial.problem(lambda: Trial.of(critic, Form.PLAIN, CPU, bf16=False, values=True)) is None
    with torch.no_grad():
        critic.lm_head.weight *= 2
    problem = trial.problem(lambda: Trial.of(critic, Form.PLAIN, CPU, bf16=False, values=True))
    assert problem is not None and re.fullmatch(r"gives values that are \S+ off", problem)


def test_a_critic_whose_values_differ_by_rounding_alone_takes_the_fastest_form():
    """Tokens that the model was never trained on, such as those of single bytes, have one embedding."""
    critic = critic_of("tied")
    with torch.no_grad():
        critic.get_input_embeddings().weight[:] = torch.randn(64, generator=torch.Generator().manual_seed(2))
    assert fastest_form(critic, CPU, shared_prompt=True, bf16=False, values=True) is Form.SHARED


def test_metrics_of_values_are_their_definitions():
    counted_BT = torch.tensor([[True, True, False], [True, True, True]])
    values_BT = torch.tensor([[1.0, 2.0, 99.0], [0.0, 1.0, 3.0]])
    returns_BT = torch.tensor([[1.5, 1.0, -99.0], [0.5, 0.0, 4.0]])
    metrics = value_metrics(values_BT, returns_BT, counted_BT)
    values_N, returns_N = values_BT[counted_BT], returns_BT[counted_BT]
    explained = 1 - (returns_N - values_N).var() / returns_N.var()
    assert metrics["critic/values/mean"] == pytest.approx(float(values_N.mean()))
    assert metrics["critic/returns/mean"] == pytest.approx(float(returns_N.mean()))
    assert metrics["critic/vf_explained_var"] == pytest.approx(float(explained), abs=1e-6)
    same = value_metrics(values_BT, torch.ones(2, 3), counted_BT)
    assert math.isnan(same["critic/vf_explained_var"])
    assert all(math.isnan(value) for value in value_metrics(values_BT, returns_BT, counted_BT & False).values())


def test_metrics_of_values_are_over_all_ranks(tmp_path):
    generator = torch.Generator().manual_seed(0)
    values_BT, returns_BT = torch.randn(2, 4, 3, generator=generator)
    counted_BT = torch.rand(4, 3, generator=generator) < 0.7
    whole = value_metrics(values_BT, returns_BT, counted_BT)

    def of_rank(rank: int) -> dict[str, float]:
        mine = slice(0, 3) if rank == 0 else slice(3, 4)
        return value_metrics(values_BT[mine], returns_BT[mine], counted_BT[mine])

    assert on_ranks(2, tmp_path, of_rank) == [pytest.approx(whole, abs=1e-6)] * 2
