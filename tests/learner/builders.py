"""Learners, models and batches for the learners' tests."""

from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import Parameter
from transformers import PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from dqo.advantage.groups.normalization import ScaleRewards
from dqo.advantage.joint import Joint
from dqo.capabilities import LossTerm
from dqo.critic.head import HeadCritic
from dqo.critic.model import ModelCritic
from dqo.learner.torch_single import TorchSingle
from dqo.learner.update.rounding import Rounding
from dqo.learner.update.settings import LearnerSettings
from dqo.loss.clip import Clip, Level, LossType
from dqo.loss.correction.importance_sampling import Mode
from dqo.loss.terms.adaptive_entropy import AdaptiveEntropy
from dqo.loss.terms.entropy import Tokens
from dqo.models.precision import Dtype
from dqo.optim.adamw import AdamW, Schedule
from dqo.records import Estimates, Experience, LossInputs, Supervised, Targets
from dqo.stages import Critic
from tests.factories import make_experience, word_tokenizer

CPU = torch.device("cpu")


class Recorder:
    """An ``Optim`` whose optimizer records the gradients of each step by name and does not change the weights."""

    def __init__(self, max_grad_norm: float | None = None):
        self.max_grad_norm, self.gradients = max_grad_norm, []

    def make(self, parameters: Iterable[tuple[str, Parameter]]) -> torch.optim.Optimizer:
        named, gradients = {name: p for name, p in parameters if p.requires_grad}, self.gradients

        class Recording(torch.optim.SGD):
            def step(self, closure=None):
                gradients.append({name: p.grad.clone() for name, p in named.items()})

        return Recording(named.values(), lr=1.0)

    def rate(self, step: int) -> float:
        return 1.0


class Plain:
    """An ``Optim`` whose steps are -100 times the gradient, so that weights show it within fp32's rounding."""

    max_grad_norm = None

    def make(self, parameters: Iterable[tuple[str, Parameter]]) -> torch.optim.Optimizer:
        return torch.optim.SGD([p for _, p in parameters if p.requires_grad], lr=1.0)

    def rate(self, step: int) -> float:
        return 100.0


def run_out_of_memory(layer: torch.nn.Module, *, at: int = 1, backward: bool = False) -> None:
    """The ``at``-th pass through this layer fails as on a GPU, in the forward pass or once the gradients of all later
    layers are there. ``backward``: passes that have no backward pass do not count."""
    passes: list[int] = []

    def fail(*_) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 1 GiB")

    def hook(module, inputs, output) -> None:
        if backward and not torch.is_grad_enabled():
            return
        passes.append(1)
        if len(passes) == at:
            hidden = output[0] if isinstance(output, tuple) else output
            hidden.register_hook(fail) if backward else fail()

    layer.register_forward_hook(hook)


def clip(
    *,
    loss_type: LossType = LossType.dapo,
    level: Level = Level.token,
    beta: float = 0.0,
    use_bias_correction_kl: bool = True,
    max_completion_length: int = 10,
    terms: dict[str, LossTerm] | None = None,
) -> Clip:
    return Clip(
        loss_type=loss_type,
        importance_sampling_level=level,
        epsilon=0.2,
        epsilon_high=None,
        delta=None,
        beta=beta,
        use_bias_correction_kl=use_bias_correction_kl,
        max_completion_length=max_completion_length,
        importance_sampling_mode=Mode.none,
        importance_sampling_clip_max=3.0,
        importance_sampling_clip_min=None,
        terms=terms,
    )


class Exemplars:
    """A loss term that learns from given completions, in every step."""

    names = ("exemplars/loss",)
    only_advantages = True

    def __init__(self, supervised: Supervised | None):
        self.given = supervised

    def supervised(self, experience: Experience) -> Supervised | None:
        return self.given

    def __call__(self, inputs: LossInputs) -> tuple[Tensor, dict[str, tuple[Tensor, Tensor]]]:
        return torch.zeros(()), {}


def exemplars(*, k: int = 2, weight: float = 0.05, seed: int = 9) -> Supervised:
    """Completions of two prompts that no step samples; token t of the last one weighs t times as much."""
    rollouts = make_experience(prompts=2, k=k, seed=seed).rollouts
    weights_BT = rollouts.sampled_BT * weight
    weights_BT[-1] *= torch.arange(weights_BT.shape[1])
    return Supervised(rollouts=rollouts, weights_BT=weights_BT)


def adamw(*, learning_rate: float = 1e-3, schedule: Schedule = Schedule.constant, steps: int = 10) -> AdamW:
    return AdamW(
        learning_rate=learning_rate,
        adam_beta1=0.9,
        adam_beta2=0.999,
        adam_epsilon=1e-8,
        weight_decay=0.01,
        max_grad_norm=1.0,
        lr_scheduler_type=schedule,
        warmup_steps=0,
        steps=steps,
    )


def make_learner(
    policy: PreTrainedModel,
    *,
    loss: Clip | None = None,
    optim=None,
    temperature: float = 1.0,
    num_iterations: int = 1,
    num_mini_batches: int = 1,
    budget: int | Literal["auto"] = 1024,
    shared_prompt: bool | Literal["auto"] = True,
    gradient_checkpointing: bool = False,
    compile: bool = False,
    dtype: Dtype = Dtype.FLOAT32,
    rounding: Rounding = Rounding.DITHERED,
    lora_r: int | None = None,
    lora_dropout: float = 0.0,
    lora_target_modules: list[str] | str | None = None,
    critic: Critic | None = None,
    needs_old_logprobs: bool = False,
) -> TorchSingle:
    loss = clip() if loss is None else loss
    settings = LearnerSettings(
        temperature=temperature,
        num_iterations=num_iterations,
        num_mini_batches=num_mini_batches,
        max_tokens_per_micro_batch=budget,
        shared_prompt=shared_prompt,
        gradient_checkpointing=gradient_checkpointing,
        compile=compile,
        dtype=dtype,
        rounding=rounding,
        lora_r=lora_r,
        lora_alpha=32,
        lora_dropout=lora_dropout,
        lora_target_modules=lora_target_modules,
    )
    optim = adamw() if optim is None else optim
    return TorchSingle(policy, CPU, loss, optim, loss.needs_reference, critic, needs_old_logprobs, settings=settings)


def model_critic(policy: PreTrainedModel, *, path: str | None = None, **keys) -> ModelCritic:
    settings = {"learning_rate": None, "policy_learning_rate": 1e-3, "cliprange_value": 0.2, "warmup": 0, "seed": 0}
    return ModelCritic(policy, word_tokenizer(), policy.device, path=path, **(settings | keys))


def head_critic(policy: PreTrainedModel, **keys) -> HeadCritic:
    settings = {"vf_coef": 0.1, "learning_rate": None, "policy_learning_rate": 1e-3, "cliprange_value": 0.2, "seed": 0}
    return HeadCritic(policy, policy.device, **(settings | keys))


def ppo_targets(experience: Experience, estimates: Estimates, *, noise: float = 0.3) -> Targets:
    """Advantages and returns that differ from token to token, as those of ``advantage=gae``."""
    sampled_BT, generator = experience.rollouts.sampled_BT, torch.Generator().manual_seed(5)
    advantages_BT, errors_BT = (torch.randn(sampled_BT.shape, generator=generator) for _ in range(2))
    assert estimates.values_BT is not None
    return Targets(
        advantages_BT=torch.where(sampled_BT, advantages_BT, 0.0),
        returns_BT=torch.where(sampled_BT, estimates.values_BT + noise * errors_BT, 0.0),
    )


def tiny_qwen2(vocabulary: int = 63, *, seed: int = 0) -> Qwen2ForCausalLM:
    """A Qwen2 model: attention with biases, another RoPE base, untied head."""
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=vocabulary, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128, tie_word_embeddings=False, initializer_range=0.2,
        pad_token_id=0, eos_token_id=1, bos_token_id=None, attn_implementation="sdpa",
    )  # fmt: skip
    model = Qwen2ForCausalLM(config).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.2)
    return model


def adaptive_entropy(*, coefficient: float = 0.01, target: float = 1.0, step: float = 0.02) -> AdaptiveEntropy:
    return AdaptiveEntropy(
        coefficient=coefficient, target=target, step=step, min_coefficient=0.0, max_coefficient=0.05,
        tokens=Tokens.all, top_entropy_quantile=None,
    )  # fmt: skip


def targets_of(experience: Experience, *, alpha: float = 1.0) -> Targets:
    return Joint(scale_rewards=ScaleRewards.none)(experience, Estimates(), alpha=alpha)


def learn(learner: TorchSingle, experience: Experience, *, alpha: float = 1.0):
    """The report of one step, taken like in the loop."""
    estimates = learner.estimate(experience.rollouts)
    return learner.update(experience, estimates, targets_of(experience, alpha=alpha))


def gradient(policy: PreTrainedModel, experience: Experience, **settings) -> dict[str, Tensor]:
    """{parameter name: gradient} of one step."""
    recorder = Recorder()
    learn(make_learner(policy, optim=recorder, **settings), experience)
    (gradients,) = recorder.gradients
    return gradients


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor], *, atol: float) -> None:
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=0, atol=atol, msg=lambda m, name=name: f"{name}: {m}")
