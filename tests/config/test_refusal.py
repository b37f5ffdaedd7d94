"""Ranges of the stages' keys, by the line that a user gets."""

import re

import pytest

from dqo.config.refusal import suggestion
from dqo.errors import ConfigError
from tests.config.builders import checked

PYTHON, SHARED = ("reward=python", "reward.function=a.b"), ("rollout=vllm", "learner=deepspeed_zero")


@pytest.mark.parametrize(
    ("options", "key", "value", "needed", "example"),
    [
        ((), "rollout.top_p", 1.5, "more than 0 and at most 1 is needed", "1.0"),
        ((), "rollout.top_p", 0, "more than 0 and at most 1 is needed", "1.0"),
        ((), "rollout.top_p", "high", "a number is needed", "1.0"),
        ((), "rollout.top_k", -1, "0 or more is needed", "0"),
        ((), "rollout.min_p", 1, "0 or more and below 1 is needed", "0.0"),
        ((), "rollout.repetition_penalty", float("nan"), "a finite number is needed", "1.0"),
        ((), "rollout.temperature", 0, "0.001 or more and at most 1000 is needed", "1.0"),
        ((), "rollout.max_completion_length", 0, "1 or more and at most 1000000 is needed", "64"),
        ((), "rollout.stop_tokens", "x", "a list is needed", "[x]"),
        ((), "rollout.batch_rows", 0, "1 or more is needed", "64"),
        (("rollout=fake",), "rollout.cut", 1.5, "0 or more and at most 1 is needed", "0.1"),
        (SHARED, "rollout.kv_cache_gb", 0, "1 or more is needed", "4"),
        (SHARED, "rollout.sync_check_every", -1, "0 or more is needed", "50"),
        (SHARED, "rollout.max_model_len", 0, "1 or more is needed, or null", "null"),
        (SHARED, "rollout.gpu_memory_utilization", 1.5, "more than 0 and at most 1 is needed", "0.4"),
        (SHARED, "rollout.tensor_parallel_size", 0, "1 or more is needed", "1"),
        (SHARED, "learner.stage", 4, "0 or more and at most 3 is needed", "2"),
        ((), "learner.num_iterations", 0, "1 or more is needed", "1"),
        ((), "learner.max_tokens_per_micro_batch", 0, "allowed are 1 or more | auto", "1024"),
        ((), "learner.lora_r", 0, "1 or more is needed, or null", "16"),
        ((), "learner.lora_dropout", 1, "0 or more and below 1 is needed", "0.05"),
        ((), "credit.sigma", 0, "more than 0 is needed", "0.4"),
        ((), "credit.degree", 0, "1 or more is needed", "2"),
        ((), "credit.offset", -1, "0 or more is needed", "0"),
        ((), "credit.quality_temperature", 0, "more than 0 is needed", "1.0"),
        ((), "credit.threshold", float("inf"), "a finite number is needed, or null", "0.5"),
        (("advantage=unbiased",), "advantage.baseline_decay", 1, "0 or more and below 1 is needed", "0.9"),
        ((), "loss.epsilon", 1, "0 or more and below 1 is needed", "0.2"),
        ((), "loss.epsilon_high", -0.1, "0 or more is needed, or null", "0.28"),
        ((), "loss.delta", 1, "more than 1 is needed, or null", "4.0"),
        ((), "loss.importance_sampling_clip_min", 1.5, "0 or more and at most 1 is needed, or null", "0.3"),
        ((), "loss.importance_sampling_clip_max", 0.5, "1 or more is needed, or null", "3.0"),
        ((), "optim.adam_beta2", 1, "0 or more and below 1 is needed", "0.999"),
        ((), "optim.adam_epsilon", -1, "0 or more is needed", "1e-8"),
        ((), "optim.weight_decay", float("inf"), "a finite number is needed", "NUMBER"),
        ((), "optim.max_grad_norm", 0, "more than 0 is needed, or null", "1.0"),
        ((), "optim.warmup_steps", -1, "0 or more is needed", "0"),
        (("embed=fake",), "embed.dim", 0, "1 or more is needed", "64"),
        ((), "embed.batch_size", 0, "1 or more is needed", "64"),
        ((), "embed.max_seq_length", 0, "1 or more is needed, or null", "null"),
        ((), "embed.layers", -1, "0 or more is needed, or null", "null"),
        (("reward=math",), "reward.timeout", -1, "more than 0 is needed", "30.0"),
        (PYTHON, "reward.start_timeout", float("nan"), "a finite number is needed", "30.0"),
        (PYTHON, "reward.memory_gb", 0, "more than 0 is needed, or null", "16"),
        (PYTHON, "reward.correct_above", float("inf"), "a finite number is needed, or null", "0.5"),
        (PYTHON, "reward.reward_weights", [1, float("nan")], "a finite number is needed, or null", "[NUMBER]"),
        (PYTHON, "reward.function", {"a": 1}, "allowed are TEXT | [A,B]", None),
        (PYTHON, "reward.on_error", "maybe", "allowed are raise | mask | NUMBER", "mask"),
        ((), "credit.kernel", "cosin", "allowed are cosine | rbf | polynomial", None),
        ((), "rollout.dtype", "int8", "allowed are auto | float32 | bfloat16 | float16", None),
        (("task=cities",), "task.phrasings", 25, "1 or more and at most 24 is needed", "4"),
        (("task=concepts",), "task.held_out", 501, "1 or more and at most 500 is needed", "200"),
        (("task=jsonl",), "task.held_out", 0, "1 or more is needed, or null", "64"),
        (("model=tiny",), "model.layers", 0, "1 or more is needed", "4"),
    ],
)  # fmt: skip
def test_a_value_out_of_range(options, key, value, needed, example):
    with pytest.raises(ConfigError) as caught:
        checked(*options, **{key.replace(".", "__"): value})
    said = str(caught.value)
    assert said.startswith(f"{key}=")
    assert said.endswith(f": {needed}" if example is None else f": {needed}; type {key}={example}")


def test_a_value_in_a_part_of_a_reward_has_its_whole_key():
    options = ("reward=check_and_python", "reward.parts.style.function=a.b")
    with pytest.raises(
        ConfigError, match=re.escape("reward.parts.style.timeout=0: more than 0 is needed; type reward.")
    ):
        checked(*options, reward__parts__style__timeout=0)


def test_what_was_meant():
    assert suggestion("alhpa", ["alpha", "beta"]) == "; did you mean alpha?"
    assert suggestion("gamma", ["beta", "tau"]) == "; allowed are beta, tau"
    assert suggestion("gamma", [f"x{n}" for n in range(30)]) == "; --help lists the keys"
