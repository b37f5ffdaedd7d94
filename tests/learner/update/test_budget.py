"""Micro-batches after a pass that ran out of memory, and as large as a GPU's memory allows."""

from dataclasses import replace

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from dqo.errors import StageError
from dqo.learner.torch_single import TorchSingle
from dqo.learner.update.budget import DEFAULT, Budget, fitting_tokens, free_cache, line_through, peak_bytes
from dqo.loss.clip import Level
from dqo.records import Estimates
from tests.factories import make_experience, tiny_llama
from tests.learner.builders import (
    CPU,
    Recorder,
    adamw,
    assert_same,
    clip,
    learn,
    make_learner,
    run_out_of_memory,
    targets_of,
)


@pytest.fixture
def experience():
    return make_experience(prompts=3, k=4)


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("at", [1, 2])
@pytest.mark.parametrize("settings", [{}, {"gradient_checkpointing": True}, {"loss": clip(level=Level.sequence)}])
def test_a_step_that_runs_out_of_memory_has_the_same_loss_and_gradient(experience, backward, at, settings, caplog):
    expected, got = Recorder(), Recorder()
    report = learn(make_learner(tiny_llama(), optim=expected, budget=40, **settings), experience)
    policy = tiny_llama()
    learner = make_learner(policy, optim=got, budget=40, **settings)
    run_out_of_memory(policy.model.layers[0], at=at, backward=backward)
    split = learn(learner, experience)
    assert_same(got.gradients[0], expected.gradients[0], atol=1e-6)
    assert len(got.gradients) == 1
    for key in ("loss", "entropy", "grad_norm", "trained_tokens", "sampling/kl"):
        assert split[key] == pytest.approx(report[key], rel=1e-5, abs=1e-7), key
    assert (report["update/out_of_memory"], split["update/out_of_memory"]) == (0, 1)
    assert split["micro_batches"] > report["micro_batches"]
    assert f"learner.max_tokens_per_micro_batch={learner.budget.tokens}" in caplog.text
    assert learn(learner, experience)["update/out_of_memory"] == 0  # the smaller micro-batches stay


def test_old_logprobs_that_run_out_of_memory_are_the_same(experience):
    policy = tiny_llama()
    expected = make_learner(tiny_llama(), num_iterations=2).estimate(experience.rollouts)
    learner = make_learner(policy, num_iterations=2)
    run_out_of_memory(policy.model.layers[0])
    torch.testing.assert_close(
        learner.estimate(experience.rollouts).old_logprobs_BT, expected.old_logprobs_BT, rtol=0, atol=1e-5
    )
    assert learn(learner, experience)["update/out_of_memory"] == 1


def test_one_completion_that_does_not_fit_says_what_to_type(experience):
    policy = tiny_llama()
    learner = make_learner(policy, optim=Recorder(), budget=40)
    for at in range(1, 20):
        run_out_of_memory(policy.model.layers[0], at=at)
    with pytest.raises(
        StageError, match=r"one completion .* type learner\.gradient_checkpointing=true, a smaller max_"
    ):
        learn(learner, experience)


def test_a_resumed_run_packs_as_before(policy, experience, tmp_path):
    learner = make_learner(policy, optim=Recorder(), budget=40)
    run_out_of_memory(policy.model.layers[0])
    learn(learner, experience)
    (tmp_path / "policy").mkdir()
    learner.save(tmp_path)
    for budget, tokens in ((40, learner.budget.tokens), (30, 30)):  # what is typed now wins
        resumed = make_learner(tiny_llama(), budget=budget)
        resumed.load(tmp_path)
        assert resumed.budget.tokens == tokens


def test_auto_is_1024_on_a_cpu(policy):
    learner = make_learner(policy, budget="auto")
    assert (learner.budget.tokens, learner.budget.is_measured, learner.budget.state()) == (DEFAULT, True, {})


def test_what_a_gpu_measured_is_kept_and_goes_to_no_cpu():
    gpu = torch.device("cuda")
    measured, resumed, elsewhere = Budget("auto", gpu), Budget("auto", gpu), Budget("auto", CPU)
    measured.tokens = 12288
    for budget in (resumed, elsewhere):
        budget.load(measured.state())
    assert (resumed.tokens, resumed.is_measured, elsewhere.tokens) == (12288, True, DEFAULT)


GB, H100 = 10**9, 80 * 10**9


def test_the_issues_numbers():
    """1.4 G parameters without checkpointing, 4.2 MB a token: with 16,384 tokens an H100 was full."""
    state = 16 * 1.4 * GB  # fp32 weights and gradients, moments
    line = line_through([1024, 4096], [int(4.2e6 * 1024) + GB, int(4.2e6 * 4096) + GB])
    assert line == (pytest.approx(4.2e6), pytest.approx(GB, rel=1e-6))
    tokens = fitting_tokens(4.2e6, GB, free=int(H100 - state - 0.1 * H100))
    assert tokens == 11264
    assert state + GB + 4.2e6 * tokens < H100 < state + GB + 4.2e6 * 16384


@pytest.mark.parametrize(
    ("free", "tokens"), [(-GB, 1024), (0, 1024), (GB + 2047 * 10**6, 1024), (GB + 2048 * 10**6, 2048)]
)
def test_a_budget_is_a_multiple_of_1024_that_fits(free, tokens):
    assert fitting_tokens(1e6, GB, free=free) == tokens


def test_passes_of_one_size_say_nothing():
    assert line_through([512, 512], [GB, GB]) is None
    assert line_through([512, 1024], [GB, GB]) is None


def with_ties(targets, rows: list[int]):
    advantages_BT = targets.advantages_BT.clone()
    advantages_BT[rows] = 0.0
    return replace(targets, advantages_BT=advantages_BT)


@pytest.mark.parametrize("level", Level)
@pytest.mark.parametrize("iterations", [1, 2])
def test_rows_without_an_advantage_are_left_out_at_the_same_gradient(experience, level, iterations):
    """Rows of two groups and a whole group; the loss that does not say so computes them."""
    targets, gradients, reports = with_ties(targets_of(experience), [1, 4, 6, 8, 9, 10, 11]), [], []
    for loss in (clip(level=level), clip(level=level, beta=1e-30)):  # a KL term of no size
        recorder = Recorder()
        learner = make_learner(tiny_llama(), loss=loss, optim=recorder, num_iterations=iterations, budget=40)
        reports.append(learner.update(experience, learner.estimate(experience.rollouts), targets))
        gradients.append(recorder.gradients)
    few, every = reports
    assert len(gradients[0]) == len(gradients[1]) == iterations
    for one, other in zip(*gradients, strict=True):
        assert_same(one, other, atol=1e-6)
    assert few["loss"] == pytest.approx(every["loss"], rel=1e-5)
    assert few["trained_tokens"] == every["trained_tokens"]
    assert (few["update/skipped_rows"], every["update/skipped_rows"]) == (7, 0)
    assert few["micro_batches"] < every["micro_batches"]


def test_a_loss_of_ones_own_with_an_entropy_term_loses_no_row(policy, experience):
    """It inherits from a loss that says so, with another ``__call__``."""

    class WithEntropy(type(clip())):
        def __call__(self, inputs):
            loss, means = super().__call__(inputs)
            return loss + inputs.logprobs_N.exp().sum(), means

    learner = make_learner(policy, optim=Recorder())
    learner.loss.__class__ = WithEntropy
    report = learner.update(experience, Estimates(), with_ties(targets_of(experience), [0, 1, 2, 3]))
    assert report["update/skipped_rows"] == 0


def test_a_step_without_any_advantage_still_steps(experience):
    policy = tiny_llama()
    learner = make_learner(policy)
    learn(learner, experience)
    before = {name: tensor.clone() for name, tensor in learner.weights()}
    report = learner.update(experience, Estimates(), with_ties(targets_of(experience), list(range(12))))
    moved = sum(float((tensor - before[name]).abs().sum()) for name, tensor in learner.weights())
    assert moved > 0
    assert (report["loss"], report["grad_norm"], report["skipped_updates"], report["micro_batches"]) == (0, 0, 0, 0)
    assert report["update/skipped_rows"] == 12
    assert report["entropy"] != report["entropy"]


def on_gpu(*, budget) -> TorchSingle:
    """A learner whose activations take hundreds of MB."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=63, hidden_size=512, intermediate_size=1536, num_hidden_layers=4, num_attention_heads=8,
        max_position_embeddings=128, pad_token_id=0, eos_token_id=1, bos_token_id=None, attn_implementation="sdpa",
    )  # fmt: skip
    settings, gpu = make_learner(tiny_llama(), budget=budget).settings, torch.device("cuda")
    policy = LlamaForCausalLM(config).eval().to(gpu)
    return TorchSingle(policy, gpu, clip(), adamw(learning_rate=1e-5), False, settings=settings)


@pytest.fixture
def large():
    return make_experience(prompts=16, k=16, words=12)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_a_gpu_auto_measures_and_the_passes_fit(large):
    learner, other = on_gpu(budget="auto"), on_gpu(budget=1024)
    assert not learner.budget.is_measured
    report, expected = learn(learner, large), learn(other, large)
    assert learner.budget.is_measured and learner.budget.tokens > DEFAULT and learner.budget.tokens % 1024 == 0
    assert report["update/out_of_memory"] == 0
    for key in ("loss", "grad_norm", "entropy"):
        assert report[key] == pytest.approx(expected[key], rel=1e-3, abs=1e-5), key


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_a_gpu_that_is_full_the_step_is_split(large):
    """Torch may have half of what the passes need."""
    learner, gpu = on_gpu(budget=1 << 20), torch.device("cuda")
    learn(learner, large)  # now moments and workspaces are there
    needed = peak_bytes(gpu, lambda: learn(learner, large))
    free_cache(gpu)
    allowed = torch.cuda.memory_reserved(gpu) + 0.5 * needed
    torch.cuda.set_per_process_memory_fraction(allowed / torch.cuda.get_device_properties(gpu).total_memory, gpu)
    try:
        report = learn(learner, large)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, gpu)
    assert report["update/out_of_memory"] >= 1 and report["micro_batches"] > 1
