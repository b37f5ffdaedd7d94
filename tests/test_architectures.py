"""Whatever a model's architecture, it is sampled from and scored with the log-probabilities that a forward pass over
each row alone gives: without padding, cache or shared prompt."""

import logging
import math
from dataclasses import replace

import pytest
import torch

from dqo.batching import join
from dqo.learner.update.forms import Form
from dqo.models.attention import sdpa_is_exact
from dqo.models.precision import Dtype
from dqo.records import Rollouts
from dqo.rollout.hf import Hf
from dqo.rollout.sampling.decoder import Decoder, Padded, Uncached, Unpadded
from tests.factories import make_experience, make_prompts, word_tokenizer
from tests.helpers.architectures import CONFIGS, tiny_model
from tests.learner.builders import adamw, learn, make_learner
from tests.rollout.builders import with_sampling

TOLERANCE = 1e-3  # nats; a wrong position, mask or state costs 0.1 and more with these weights
# {decoder: names}: what transformers' code of the architecture allows; all others are padded
DECODERS = {
    Unpadded: ("falcon_mamba", "mamba"),
    Uncached: ("minimax", "openai-gpt", "recurrent_gemma", "rwkv", "xlstm", "zamba2"),
}
SHARED = (
    "deepseek_v3", "glm4", "gpt2", "gpt_neox", "granite", "llama", "mixtral", "opt", "qwen2", "qwen2_moe", "qwen3",
)  # fmt: skip
EAGER = ("gemma2", "vaultgemma")  # SDPA ignores their cap on attention scores
QUICK = (
    "bloom", "falcon with alibi", "gemma2", "gpt2", "gpt_oss", "llama", "mamba", "mistral", "mixtral", "opt", "phi3",
    "qwen3", "qwen3_next", "rwkv",
)  # fmt: skip


def logprobs_alone(model, rollouts: Rollouts) -> torch.Tensor:
    """(B, T), 0.0 where nothing was sampled: one row at a time, all logits."""
    logprobs_BT = torch.zeros(rollouts.tokens_BT.shape)
    for b, length in enumerate(rollouts.lengths_B.tolist()):
        tokens_T = rollouts.tokens_BT[b, :length]
        with torch.no_grad():
            logprobs_TV = model(input_ids=tokens_T[None], use_cache=False).logits[0].float().log_softmax(-1)
        logprobs_BT[b, 1:length] = logprobs_TV[:-1].gather(1, tokens_T[1:, None])[:, 0]
    return logprobs_BT.where(rollouts.sampled_BT, 0.0)


def exact_model(name: str):
    """With the attention that ``model.attn_implementation=auto`` takes."""
    model = tiny_model(name)
    return model if sdpa_is_exact(model) else tiny_model(name, attention="eager")


def decoder_kind(name: str) -> type[Decoder]:
    return next((kind for kind, names in DECODERS.items() if name in names), Padded)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in CONFIGS]
)
def test_an_architecture_samples_and_learns_with_the_same_log_probabilities(name, caplog):
    caplog.set_level(logging.INFO, "dqo")
    policy, reference = exact_model(name), exact_model(name)
    rollout = Hf(policy, word_tokenizer(), **with_sampling({"batch_rows": 64, "dtype": Dtype.FLOAT32}))
    learner = make_learner(policy, optim=adamw(), shared_prompt="auto")
    assert (learner.form is Form.SHARED) == (name in SHARED)
    assert rollout._decoder is decoder_kind(name)
    lines = [record.getMessage() for record in caplog.records]
    assert sum(line.startswith("rollout=hf: ") for line in lines) == (name in sum(DECODERS.values(), ()))
    assert sum("computed once per completion" in line for line in lines) == (name not in SHARED)
    for step in range(2):
        rollouts = join(list(rollout.generate(make_prompts(3, length=3), k=3, seed=step)))
        expected_BT = logprobs_alone(reference, rollouts)
        torch.testing.assert_close(rollouts.logprobs_BT, expected_BT, atol=TOLERANCE, rtol=0)
        torch.testing.assert_close(learner.score(rollouts), expected_BT, atol=TOLERANCE, rtol=0)
        report = learn(learner, replace(make_experience(prompts=3, k=3), rollouts=rollouts))
        assert 0 < report["grad_norm"] < math.inf
        rollout.load_weights(learner.weights(), version=step + 1)
        reference.load_state_dict(dict(learner.weights()))


@pytest.mark.parametrize("name", [*EAGER, "falcon with alibi", "gemma3", "llama", "qwen3_next"])
def test_sdpa_is_left_where_it_ignores_what_the_model_asks_for_and_nowhere_else(name):
    model = tiny_model(name)
    assert model.config._attn_implementation == "sdpa"
    assert sdpa_is_exact(model) == (name not in EAGER)
    assert model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("name", EAGER)
def test_gemma_2_with_sdpa_would_be_another_model(name):
    rollouts = make_experience(prompts=3, k=3, words=9).rollouts
    by_sdpa, by_eager = (logprobs_alone(tiny_model(name, attention=name_), rollouts) for name_ in ("sdpa", "eager"))
    assert (by_sdpa - by_eager).abs().max() > 0.01
