"""Dropout and other noise of every architecture is off in all log-probabilities; LoRA's acts on the gradient alone."""

from dataclasses import replace

import pytest
import torch
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    FalconConfig,
    FalconForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    RwkvConfig,
    RwkvForCausalLM,
    Starcoder2Config,
    Starcoder2ForCausalLM,
)

from dqo.errors import ConfigError, StageError
from dqo.learner.update.dropout import checkpointing, enable_checkpointing
from dqo.loss.correction.importance_sampling import Mismatch, Mode
from dqo.records import Estimates
from tests.factories import make_experience, tiny_llama
from tests.learner.builders import Recorder, adamw, assert_same, clip, gradient, learn, make_learner, targets_of

SIZES = {"vocab_size": 63, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
SIZES |= {"bos_token_id": None, "eos_token_id": 1, "pad_token_id": 0}
LONG = {"intermediate_size": 48, "max_position_embeddings": 128}
GPT2 = {"vocab_size": 63, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}
# each architecture writes its noise in another way: modules, floats of modules, values read from the configuration
NOISY = {
    "falcon": (FalconForCausalLM, FalconConfig, SIZES, {"hidden_dropout": 0.5, "attention_dropout": 0.5}),
    "falcon with alibi": (FalconForCausalLM, FalconConfig, SIZES | {"alibi": True}, {"hidden_dropout": 0.5}),
    "bloom": (BloomForCausalLM, BloomConfig, SIZES, {"hidden_dropout": 0.5, "attention_dropout": 0.5}),
    "opt": (OPTForCausalLM, OPTConfig, SIZES | {"ffn_dim": 48, "word_embed_proj_dim": 32}, {"dropout": 0.5}),
    "opt without some layers": (
        OPTForCausalLM, OPTConfig, SIZES | {"ffn_dim": 48, "word_embed_proj_dim": 32, "dropout": 0.0},
        {"layerdrop": 0.9},
    ),
    "gpt2": (GPT2LMHeadModel, GPT2Config, GPT2, {"resid_pdrop": 0.5, "embd_pdrop": 0.5, "attn_pdrop": 0.5}),
    "gptneox": (GPTNeoXForCausalLM, GPTNeoXConfig, SIZES | LONG, {"hidden_dropout": 0.5, "attention_dropout": 0.5}),
    "starcoder2": (
        Starcoder2ForCausalLM, Starcoder2Config, SIZES | LONG | {"num_key_value_heads": 2},
        {"residual_dropout": 0.5, "embedding_dropout": 0.5},
    ),
    "mixtral": (
        MixtralForCausalLM, MixtralConfig, SIZES | LONG | {"num_key_value_heads": 2, "num_local_experts": 4},
        {"router_jitter_noise": 0.9, "attention_dropout": 0.5},
    ),
}  # fmt: skip


@pytest.fixture
def experience():
    return make_experience(prompts=2, k=3)


def noisy(name: str, *, noise: bool):
    kind, config, sizes, values = NOISY[name]
    torch.manual_seed(0)
    quiet = dict.fromkeys(values, 0.0)
    if "dropout" in config().to_dict():
        quiet["dropout"] = 0.0
    return kind(config(**{**sizes, **quiet, **(values if noise else {})}))


@pytest.mark.parametrize("gradient_checkpointing", [False, True])
@pytest.mark.parametrize("name", NOISY)
def test_a_model_with_dropout_of_its_own_is_trained_without_it(name, gradient_checkpointing, experience):
    """Falcon and Bloom were a TypeError; OPT, GPT-NeoX, StarCoder 2 and Mixtral kept their noise with checkpointing."""
    settings = {"shared_prompt": False, "gradient_checkpointing": gradient_checkpointing}
    expected = gradient(noisy(name, noise=False), experience, shared_prompt=False)
    assert_same(gradient(noisy(name, noise=True), experience, **settings), expected, atol=1e-6)
    assert max(part.abs().max() for part in expected.values()) > 1e-4


def test_the_configuration_of_the_policy_keeps_its_dropout(experience):
    policy = noisy("bloom", noise=True)
    learn(make_learner(policy, shared_prompt=False, gradient_checkpointing=True), experience)
    assert policy.config.hidden_dropout == 0.5


def test_checkpointing_recomputes_every_layer(experience):
    """In training mode layers call their checkpointing function; it is not lost with the mode."""
    policy, calls = tiny_llama(), []
    learner = make_learner(policy, gradient_checkpointing=True)
    for layer in policy.model.layers:
        layer.get_submodule("self_attn").register_forward_pre_hook(lambda module, inputs: calls.append(module.training))
    report = learn(learner, experience)
    assert calls == [False] * int(2 * 2 * report["micro_batches"])  # two layers, forward and again in the backward pass


def test_recomputing_a_layer_does_not_search_the_whole_model():
    """With LoRA on every matrix of a 7B model the search took half a second for each micro-batch."""
    policy, searches = tiny_llama(), []
    enable_checkpointing(policy)
    with checkpointing(policy):
        policy.modules = lambda: searches.append("search") or iter(())  # type: ignore[assignment]
        policy(input_ids=torch.tensor([[3, 4, 5]]), use_cache=False).logits.sum().backward()
    assert not searches


def test_a_models_own_code_that_calls_the_checkpointing_function_is_checkpointed():
    """Code that comes with a model (trust_remote_code) decides in the model, not in the layer."""

    class Own(LlamaForCausalLM):
        def __init__(self, config):
            super().__init__(config)
            self.model = torch.nn.Linear(2, 2)  # type: ignore[assignment]
            self.gradient_checkpointing, self.modes = False, []
            self.model.register_forward_pre_hook(lambda module, inputs: self.modes.append(self.training))

        def forward(self, x):  # type: ignore[override]
            if self.gradient_checkpointing and self.training:
                return self._gradient_checkpointing_func(self.model, x)  # type: ignore[misc]
            return self.model(x)

    model = Own(tiny_llama().config).eval()
    enable_checkpointing(model)
    with checkpointing(model):
        model(torch.ones(1, 2)).sum().backward()
    assert model.modes == [False, False]
    assert not model.training


def test_checkpointing_a_model_that_cannot_is_refused():
    policy = RwkvForCausalLM(RwkvConfig(vocab_size=63, hidden_size=32, num_hidden_layers=2)).eval()
    policy.supports_gradient_checkpointing = False
    with pytest.raises(ConfigError, match=r"RwkvForCausalLM cannot.*; type learner\.gradient_checkpointing=false"):
        make_learner(policy, gradient_checkpointing=True, shared_prompt=False)


def lora(*, loss=None, seed: int = 0, dropout: float = 0.5, optim=None, **settings):
    """A learner whose adapters have left zero."""
    optim, policy = adamw(learning_rate=0.01) if optim is None else optim, tiny_llama()
    torch.manual_seed(seed)
    learner = make_learner(policy, loss=loss, lora_r=4, lora_dropout=dropout, optim=optim, **settings)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in learner.policy.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1, generator=generator)
    return learner


def sampled_by(learner, experience):
    """The experience as an exact sampler with the learner's weights would have made it."""
    rollouts = experience.rollouts
    versions_B = torch.full_like(rollouts.versions_B, learner.version)
    return replace(experience, rollouts=replace(rollouts, logprobs_BT=learner.score(rollouts), versions_B=versions_B))


def test_a_resumed_run_starts_without_dropout_in_the_old_logprobs(experience, tmp_path):
    first = lora(num_iterations=2)
    learn(first, experience)
    first.save(tmp_path)
    again = lora(num_iterations=2)
    again.load(tmp_path)
    fresh = sampled_by(first, experience).rollouts
    expected = first.score(fresh)
    old_logprobs_BT = again.estimate(fresh).old_logprobs_BT
    assert old_logprobs_BT is not None
    assert torch.equal(old_logprobs_BT, expected)
    for learner in (first, again):
        assert not any(module.training for module in learner.model.modules())


@pytest.mark.parametrize("gradient_checkpointing", [False, True])
@pytest.mark.parametrize("seed_between", [0, 99])
def test_a_lora_run_with_dropout_resumes_bit_for_bit(gradient_checkpointing, seed_between, experience, tmp_path):
    """Whatever else has drawn from the global generator, such as an evaluation."""
    settings = {"num_iterations": 2, "gradient_checkpointing": gradient_checkpointing, "dropout": 0.1}
    first = lora(**settings)
    learn(first, experience)
    first.save(tmp_path)
    expected = learn(first, sampled_by(first, experience))
    again = lora(**settings)
    again.load(tmp_path)
    torch.manual_seed(seed_between)
    assert learn(again, sampled_by(again, experience)) == expected
    assert_same(dict(again.weights()), dict(first.weights()), atol=0)


def test_an_update_draws_nothing_from_the_global_generator(experience):
    learner = lora()
    before = torch.get_rng_state()
    learn(learner, experience)
    assert torch.equal(torch.get_rng_state(), before)


def masks(learner, experience) -> list[torch.Tensor]:
    """What reaches the adapters' first matrix of the first layer in each forward pass with gradient."""
    seen = []

    def keep(module, inputs):
        if torch.is_grad_enabled():
            seen.append(inputs[0].detach() != 0)

    learner.policy.model.layers[0].self_attn.q_proj.lora_A["default"].register_forward_pre_hook(keep)
    learn(learner, experience)
    return seen


def test_every_step_every_iteration_and_every_seed_has_masks_of_its_own(experience):
    learner = lora(num_iterations=2)
    first, second = masks(learner, experience)
    (third, *_), (other, *_) = masks(lora(num_iterations=2, seed=1), experience), masks(learner, experience)
    for one, two in ((first, second), (first, third), (first, other)):
        assert one.shape == two.shape
        assert not torch.equal(one, two)
    assert 0.3 < float(first.float().mean()) < 0.7


def test_the_recomputed_layer_has_the_masks_of_its_forward_pass(experience):
    """The gradient with checkpointing is the one without."""
    gradients = []
    for gradient_checkpointing in (False, True):
        recorder = Recorder()
        learn(lora(optim=recorder, gradient_checkpointing=gradient_checkpointing), experience)
        gradients.append(recorder.gradients[0])
    assert_same(*gradients, atol=1e-6)


@pytest.mark.parametrize("num_iterations", [1, 2])
@pytest.mark.parametrize("mode", Mode)
def test_loras_dropout_is_no_mismatch_of_the_engine(mode, num_iterations, experience):
    """An exact sampler has ratios of 1, however the mismatch is corrected."""
    loss = clip(beta=0.1)
    loss.mismatch = Mismatch(mode, clip_min=None, clip_max=3.0)
    learner = lora(loss=loss, num_iterations=num_iterations, optim=Recorder())
    report = learn(learner, sampled_by(learner, experience))
    for name in ("min", "mean", "max"):
        assert report[f"sampling/importance_sampling_ratio/{name}"] == pytest.approx(1, abs=1e-5)
    assert report["sampling/sampling_logp_difference/max"] < 1e-5
    assert report["clip_ratio/region_mean"] == 0


def test_the_kl_to_the_reference_is_without_dropout(experience):
    quiet, noise = (lora(loss=clip(beta=0.1), dropout=dropout, optim=Recorder()) for dropout in (0.0, 0.5))
    reports = [learn(learner, experience) for learner in (quiet, noise)]
    assert reports[0]["kl"] > 1e-4
    for name in ("kl", "entropy", "loss"):
        assert reports[1][name] == pytest.approx(reports[0][name], abs=1e-7)


def test_the_gradient_has_the_dropout(experience):
    gradients = []
    for dropout in (0.0, 0.5):
        recorder = Recorder()
        learn(lora(dropout=dropout, optim=recorder), experience)
        gradients.append(recorder.gradients[0])
    assert max((gradients[0][name] - gradients[1][name]).abs().max() for name in gradients[0]) > 1e-4


def test_a_failed_update_leaves_no_dropout_behind(experience):
    learner = lora()
    targets = targets_of(experience)
    broken = replace(targets, advantages_BT=torch.full_like(targets.advantages_BT, torch.nan))
    with pytest.raises(StageError, match="loss is not finite"):
        learner.update(experience, Estimates(), broken)
    assert not any(module.training for module in learner.model.modules())
