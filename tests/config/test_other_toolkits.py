"""The table of other toolkits' keys, against the configuration that there is."""

import re

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from dqo.config import GROUPS, conf_dir
from dqo.config.other_toolkits import KEYS, OF_RM, in_our_words, named
from dqo.config.refusal import unknown_key
from dqo.config.typed import flat, plain

CHOICES = (
    ("task=hf_dataset", "model=hf"),
    ("task=jsonl", "model=hf", "reward=python", "rollout=hf", "learner=torch_single"),
    ("task=jsonl", "model=hf", "reward=math", "rollout=vllm", "learner=deepspeed_zero"),
    ("task=jsonl", "model=hf", "algorithm=ppo", "critic=head"),
    ("task=jsonl", "model=hf", "algorithm=ppo"),
    ("task=jsonl", "model=hf", "reward=remote"),
    ("task=jsonl", "model=hf", "reward=reward_model"),
)


@pytest.fixture(scope="module")
def ours() -> set[str]:
    """Every key that some choice of options has."""
    with initialize_config_dir(conf_dir(), version_base="1.3"):
        return {key for choice in CHOICES for key in flat(plain(compose("train", [*choice])))}


def test_what_is_to_be_typed_exists(ours):
    options = (*GROUPS, "algorithm")
    chosen = {key.type for key in KEYS.values() if key.type.partition("=")[0] in options}
    typed = {key.type.partition("=")[0] for key in KEYS.values() if key.type} - {*options}
    assert typed <= ours
    with initialize_config_dir(conf_dir(), version_base="1.3"):
        for choice in sorted(chosen):
            compose("train", [choice])


@pytest.mark.parametrize("choice", CHOICES)
def test_every_example_is_a_value_of_its_key(choice):
    typed = sorted({key.type for key in KEYS.values()})
    with initialize_config_dir(conf_dir(), version_base="1.3"):
        known = {*flat(plain(compose("train", [*choice])))}
        config = compose("train", [*choice, *(text for text in typed if text.partition("=")[0] in known)])
    assert OmegaConf.select(config, "k") == 8


def test_no_name_is_a_key_of_ours(ours):
    """Or the table would give advice about a key that exists."""
    assert not {*KEYS} & ours
    assert all(name == name.lower() for name in KEYS)


def test_what_carries_no_value_and_has_no_key_says_why():
    assert all(key.type or key.note for key in KEYS.values())


@pytest.mark.parametrize(
    ("typed", "value", "says"),
    [
        (
            "critic_learning_rate",
            "9e-6",
            "critic_learning_rate is critic.learning_rate here .*; type critic.learning_rate=9e-6",
        ),
        ("algorithm.lam", "0.9", "is advantage.lam here .*; type advantage.lam=0.9"),
        ("vf_coef", "0.5", "; type critic.vf_coef=0.5"),
        ("num_ppo_epochs", "2", "other toolkits' num_ppo_epochs is num_iterations here; type num_iterations=2"),
        ("num_generations", "16", "other toolkits' num_generations is k here; type k=16"),
        (
            "per_device_train_batch_size",
            8,
            "a step's batch is prompts_per_step . k completions.; type prompts_per_step=4",
        ),
        ("actor_rollout_ref.rollout.n", 8, "type k=8"),
        ("actor_rollout_ref", {"rollout": {"n": 5}}, "unknown key actor_rollout_ref.rollout.n: .* type k=5"),
        ("optim.lr", "1e-4", "type learning_rate=1e-4"),
        ("LR", None, "type learning_rate=1e-5"),
        ("use_vllm", True, "type rollout=vllm"),
        ("bf16", True, "type learner.dtype=bfloat16"),
        ("model-name-or-path", "Qwen/Qwen3-0.6B", r"\(with model=hf\); type model.path=Qwen/Qwen3-0.6B"),
        ("push_to_hub", True, "nothing like it here: .*; leave it out"),
        ("lora_alpha", 8, "did you mean learner.lora_alpha"),
        ("trainer.seed", 8, r"did you mean seed\?"),
        ("alhpa", 1, r"did you mean alpha\?"),
    ],
)
def test_a_key_typed_by_habit(ours, typed, value, says):
    assert re.search(says, str(unknown_key(typed, sorted(ours), value)))


@pytest.mark.parametrize(
    ("typed", "value", "says"),
    [
        ("rm.lr", "1e-4", "lr is rm.learning_rate here; type rm.learning_rate=1e-4"),
        ("num_train_epochs", "2", "is rm.epochs here; type rm.epochs=2"),
        ("per_device_train_batch_size", "8", "(pairs or texts of an optimizer step); type rm.batch_size=8"),
        ("gradient_accumulation_steps", "8", "there is nothing like it here: the rm.batch_size rows"),
        ("output_dir", "out", "type run_dir=out"),
    ],
)
def test_a_key_typed_by_habit_at_dqo_rm(typed, value, says):
    assert says in str(unknown_key(typed, [], value, command="rm"))


def test_what_is_to_be_typed_at_dqo_rm_exists():
    typed = [key.type for key in OF_RM.values() if key.type]
    with initialize_config_dir(conf_dir(), version_base="1.3"):
        compose("rm", sorted({*typed}))


def test_the_longest_name_counts():
    assert named("data.train_batch_size") != named("train_batch_size")
    assert named("learner.steps_") is None
    assert in_our_words("num_generations", "") == "k=8" and in_our_words("of-no-toolkit", "3") == "of_no_toolkit=3"
