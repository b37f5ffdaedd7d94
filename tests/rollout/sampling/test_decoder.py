import logging

import pytest
import torch
from transformers import LlamaForCausalLM

from dqo.errors import ConfigError
from dqo.models.attention import ATTENTION_NAME
from dqo.models.precision import Dtype
from dqo.rollout.hf import Hf
from dqo.rollout.sampling.decoder import Padded, Uncached, Unpadded, decoder_of
from tests.factories import make_prompts, tiny_llama, word_tokenizer
from tests.rollout.builders import with_sampling


class Forgetful(LlamaForCausalLM):
    """Takes a cache and neither reads nor fills it, as RWKV and models with code of their own do."""

    def forward(self, *args, past_key_values=None, use_cache=None, **kwargs):
        return super().forward(*args, use_cache=False, **kwargs)


class LooksAtPadding(LlamaForCausalLM):
    """Its output depends on the number of padding tokens, as the state of a Mamba does."""

    def forward(self, input_ids, **kwargs):
        out = super().forward(input_ids=input_ids, **kwargs)
        out.logits = out.logits * (1 + (input_ids == 0).sum(1)[:, None, None])
        return out


class LooksAhead(LlamaForCausalLM):
    """Not causal: the last token changes all logits."""

    def forward(self, input_ids, **kwargs):
        out = super().forward(input_ids=input_ids, **kwargs)
        out.logits = out.logits * (1 + input_ids[:, -1:, None] / 10)
        return out


class WithoutLogitsToKeep(LlamaForCausalLM):
    def forward(self, input_ids, attention_mask=None, position_ids=None, past_key_values=None, use_cache=None):
        return super().forward(input_ids=input_ids, past_key_values=past_key_values, use_cache=use_cache)


def made(cls):
    model = cls(tiny_llama().config)
    model.load_state_dict(tiny_llama().state_dict())
    return model.eval()


@pytest.fixture
def log(caplog):
    caplog.set_level(logging.INFO, "dqo")
    return lambda: [record.getMessage() for record in caplog.records]


def sampled(policy, prompts):
    """{prompt position: token ids of its rows}"""
    rollout = Hf(policy, word_tokenizer(), **with_sampling({"batch_rows": 6, "dtype": Dtype.FLOAT32}))
    rows = {}
    for record in rollout.generate(prompts, k=2, seed=0):
        tokens = [row[:length].tolist() for row, length in zip(record.tokens_BT, record.lengths_B, strict=True)]
        for p, prompt in enumerate(record.prompts):
            rows[prompt.position] = tokens[2 * p : 2 * p + 2]
    return rows


def test_a_model_that_takes_padding_and_a_cache_is_sampled_from_without_a_word(log):
    assert decoder_of(tiny_llama()) is Padded
    assert log() == []


def test_a_model_that_padding_changes_is_sampled_one_length_after_the_other(log):
    policy, prompts = made(LooksAtPadding), [*make_prompts(3), *make_prompts(5)[3:]]
    together = sampled(policy, prompts)
    (line,) = log()
    assert line.startswith("rollout=hf: LooksAtPadding: left padding gives log-probabilities that are ")
    assert line.endswith(" nats off; prompts of different lengths are sampled one length after the other")
    assert together == {p.position: sampled(policy, [p])[p.position] for p in prompts} == sampled(tiny_llama(), prompts)


def test_a_model_that_ignores_its_cache_is_sampled_right(log):
    """Each token would be sampled after the one before alone, without a word."""
    policy, prompts = made(Forgetful), make_prompts(3)
    assert sampled(policy, prompts) == sampled(tiny_llama(), prompts)
    (line,) = log()
    assert line.startswith("rollout=hf: Forgetful: its cache fails (Forgetful returns no cache); each token computes")


@pytest.mark.parametrize(("cls", "problem"), [(LooksAhead, "nats off"), (WithoutLogitsToKeep, "'logits_to_keep'")])
def test_a_model_that_cannot_be_sampled_from_is_refused_in_one_line(cls, problem):
    message = (
        rf"^rollout=hf: {cls.__name__} cannot be sampled from with transformers \(.*{problem}.*\); type rollout=vllm"
    )
    with pytest.raises(ConfigError, match=message):
        decoder_of(made(cls))


def test_weights_that_are_not_finite_are_left_to_the_first_step():
    """Which says in which prompts they show."""
    policy = tiny_llama()
    with torch.no_grad():
        policy.model.layers[0].mlp.up_proj.weight[0, 0] = torch.nan
    assert decoder_of(policy) is Padded


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_trying_a_model_changes_nothing_in_it(attention):
    policy = tiny_llama()
    policy.set_attn_implementation(attention)
    decoder_of(policy)
    assert policy.config._attn_implementation == attention != ATTENTION_NAME


@pytest.mark.parametrize("kind", [Padded, Unpadded, Uncached])
@torch.no_grad()
def test_all_decoders_give_the_logits_of_a_forward_pass(kind):
    model, decoder = tiny_llama(), kind(tiny_llama())
    rows = [[5, 6, 7], [8, 9, 10]] if not kind.mixes_lengths else [[5, 6, 7], [8, 9, 10, 11]]
    logits_RV = decoder.prefill(rows)
    for indices, tokens in (([0, 0, 1], [3, 4, 5]), ([2, 0], [6, 7]), ([1], [8])):
        expected = [model(input_ids=torch.tensor([row])).logits[0, -1] for row in rows]
        torch.testing.assert_close(logits_RV, torch.stack(expected), atol=1e-5, rtol=0)
        decoder.select(torch.tensor(indices))
        rows = [[*rows[i], token] for i, token in zip(indices, tokens, strict=True)]
        logits_RV = decoder.step(torch.tensor(tokens))


def test_a_full_gpu_does_not_switch_the_cache_off():
    """The first call with a cache runs out of memory: that says nothing about what the model can do."""

    class Full(LlamaForCausalLM):
        def forward(self, *args, use_cache=None, **kwargs):
            if use_cache:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().forward(*args, use_cache=use_cache, **kwargs)

    with pytest.raises(torch.OutOfMemoryError):
        decoder_of(Full(tiny_llama().config).eval())
