"""Updates with a critic: against autograd on plain tensors, against TRL's formulas, and what a learner promises."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn.functional import log_softmax
from transformers import LlamaConfig, LlamaForCausalLM

from dqo.errors import ConfigError, StageError
from dqo.learner.torch_single import TorchSingle
from dqo.learner.update.compiling import compile_layers
from dqo.learner.update.forms import probe
from dqo.learner.update.packing import Form
from dqo.learner.update.values import token_values
from dqo.models.precision import Dtype
from dqo.records import Estimates, Experience, Targets
from tests.factories import make_experience, tiny_llama
from tests.learner.builders import (
    CPU,
    Plain,
    Recorder,
    adamw,
    assert_same,
    clip,
    head_critic,
    make_learner,
    model_critic,
    ppo_targets,
    run_out_of_memory,
)

CRITICS = {"model": model_critic, "head": head_critic}


@pytest.fixture
def experience() -> Experience:
    """Three groups of four; one completion is invalid."""
    whole = make_experience(prompts=3, k=4)
    valid_PK = whole.rewards.valid_PK.clone()
    valid_PK[1, 2] = False
    return replace(whole, rewards=replace(whole.rewards, valid_PK=valid_PK))


def learner_with(kind: str, *, optim=None, loss=None, policy=None, **settings):
    policy = tiny_llama() if policy is None else policy
    own = {key: settings.pop(key) for key in ("warmup", "cliprange_value", "vf_coef") if key in settings}
    critic = CRITICS[kind](policy, **own)
    return make_learner(
        policy, critic=critic, optim=optim or adamw(), loss=loss or clip(), needs_old_logprobs=True, **settings
    )


def step(learner, experience: Experience, *, noise: float = 0.3) -> dict[str, float]:
    estimates = learner.estimate(experience.rollouts)
    return dict(learner.update(experience, estimates, ppo_targets(experience, estimates, noise=noise)))


def rows_of(experience: Experience):
    """(row, tokens, mask of its sampled tokens after the first token) of each valid completion."""
    for row in experience.rewards.valid_PK.flatten().nonzero()[:, 0].tolist():
        length = int(experience.rollouts.lengths_B[row])
        yield row, experience.rollouts.tokens_BT[row, :length], experience.rollouts.sampled_BT[row, 1:length]


def hidden_and_logprobs(policy, tokens_T: Tensor) -> tuple[Tensor, Tensor]:
    """Last hidden states before each token but the first, and the log-probabilities of these tokens."""
    hidden_TD = policy.model(input_ids=tokens_T[None]).last_hidden_state[0, :-1]
    return hidden_TD, log_softmax(policy.lm_head(hidden_TD), -1).gather(1, tokens_T[1:, None])[:, 0]


def losses_by_hand(policy, values_of, experience: Experience, estimates: Estimates, targets: Targets):
    """(policy's loss, values' loss): means over all sampled tokens, row by row, in the order in which PPO states them.
    ``values_of(hidden_TD, tokens_T)``: a value before each token but the first."""
    policy_terms, value_terms = [], []
    for row, tokens_T, sampled_T in rows_of(experience):
        hidden_TD, logprobs_T = hidden_and_logprobs(policy, tokens_T)
        values_T = values_of(hidden_TD, tokens_T)
        old_T, old_values_T, returns_T, advantages_T = (
            field_BT[row, 1 : len(tokens_T)]
            for field_BT in (
                estimates.old_logprobs_BT, estimates.values_BT, targets.returns_BT, targets.advantages_BT
            )
        )  # fmt: skip
        ratios_T = (logprobs_T - old_T).exp()
        surrogate_T = torch.max(-advantages_T * ratios_T, -advantages_T * ratios_T.clamp(0.8, 1.2))
        near_T = torch.clamp(values_T, old_values_T - 0.2, old_values_T + 0.2)
        squares_T = torch.max((values_T - returns_T) ** 2, (near_T - returns_T) ** 2)
        policy_terms.append(surrogate_T[sampled_T])
        value_terms.append(squares_T[sampled_T])
    return torch.cat(policy_terms).mean(), 0.5 * torch.cat(value_terms).mean()


def off_policy(experience: Experience, estimates: Estimates) -> Estimates:
    """As after a first update: ratios and values differ from the old ones, some beyond the clipping range."""
    generator = torch.Generator().manual_seed(3)
    noise_BT = torch.randn(experience.rollouts.sampled_BT.shape, generator=generator) * 0.3
    old_BT, values_BT = estimates.old_logprobs_BT, estimates.values_BT
    assert old_BT is not None and values_BT is not None
    noise_BT = noise_BT.where(experience.rollouts.sampled_BT, 0.0)
    return replace(estimates, old_logprobs_BT=old_BT + noise_BT, values_BT=values_BT - noise_BT)


@pytest.mark.parametrize("budget", [1000, 40])
@pytest.mark.parametrize("shared_prompt", [True, False])
@pytest.mark.parametrize("kind", CRITICS)
def test_one_update_by_hand(kind, shared_prompt, budget, experience):
    recorder = Recorder()
    learner = learner_with(kind, optim=recorder, budget=budget, shared_prompt=shared_prompt)
    estimates = off_policy(experience, learner.estimate(experience.rollouts))
    targets = ppo_targets(experience, estimates)
    report = learner.update(experience, estimates, targets)

    policy = tiny_llama()
    if kind == "model":
        critic = copy.deepcopy(learner.models["critic"])
        modules = {"policy": policy, "critic": critic}
        values_of = lambda _, tokens_T: critic(input_ids=tokens_T[None]).logits[0, :-1, 0]  # noqa: E731
        losses = losses_by_hand(policy, values_of, experience, estimates, targets)
        total = sum(losses)
    else:
        head = copy.deepcopy(learner.models["critic"])
        modules = {"policy": policy, "critic": head}
        losses = losses_by_hand(policy, lambda hidden_TD, _: head(hidden_TD)[:, 0], experience, estimates, targets)
        total = losses[0] + 0.1 * losses[1]
    for module in modules.values():
        module.zero_grad()
    total.backward()
    assert report["loss"] == pytest.approx(losses[0].item(), abs=1e-5)
    assert report["critic/vf_loss"] == pytest.approx(losses[1].item(), abs=1e-5)
    assert 0 < report["critic/vf_clipfrac"] < 1
    for (name, module), gradients in zip(modules.items(), recorder.gradients, strict=True):
        expected = {key: parameter.grad for key, parameter in module.named_parameters() if parameter.grad is not None}
        assert_same(gradients, expected, atol=2e-5)
        norm = "grad_norm" if name == "policy" else "grad_norm/critic"
        total_norm = torch.nn.utils.get_total_norm(list(expected.values()))
        assert report[norm] == pytest.approx(float(total_norm), rel=1e-3) and report[norm] > 1e-3


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    return (values * mask).sum() / mask.sum()


@pytest.mark.parametrize("kind", CRITICS)
def test_the_losses_are_trls(kind, experience):
    """TRL 1.12.0, trl/experimental/ppo/ppo_trainer.py, lines 820-847, with its masks where the score is at the last
    token (values beyond it are not trained): ``loss = pg_loss + vf_coef * vf_loss``."""
    recorder, policy = Recorder(), tiny_llama()
    learner = learner_with(kind, optim=recorder, policy=policy)
    estimates = off_policy(experience, learner.estimate(experience.rollouts))
    targets = ppo_targets(experience, estimates)
    learner.update(experience, estimates, targets)

    rollouts, cliprange, cliprange_value, vf_coef = experience.rollouts, 0.2, 0.2, 0.1
    policy, critic = tiny_llama(), copy.deepcopy(learner.models["critic"])
    hidden = policy.model(input_ids=rollouts.tokens_BT).last_hidden_state  # padding is on the right
    new_logprobs = log_softmax(policy.lm_head(hidden[:, :-1]), -1).gather(2, rollouts.tokens_BT[:, 1:, None])[..., 0]
    vpred = (critic(input_ids=rollouts.tokens_BT).logits if kind == "model" else critic(hidden))[:, :-1, 0]
    mb_logprobs, mb_values = estimates.old_logprobs_BT[:, 1:], estimates.values_BT[:, 1:]
    mb_return, mb_advantage = targets.returns_BT[:, 1:], targets.advantages_BT[:, 1:]
    padding_mask = ~experience.counted_BT[:, 1:]
    new_logprobs = torch.masked_fill(new_logprobs, padding_mask, 1.0)
    mb_logprobs = torch.masked_fill(mb_logprobs, padding_mask, 1.0)
    vpredclipped = torch.clamp(vpred, mb_values - cliprange_value, mb_values + cliprange_value)
    vf_losses1 = torch.square(vpred - mb_return)
    vf_losses2 = torch.square(vpredclipped - mb_return)
    vf_loss = 0.5 * masked_mean(torch.max(vf_losses1, vf_losses2), ~padding_mask)
    ratio = torch.exp(new_logprobs - mb_logprobs)
    pg_losses = -mb_advantage * ratio
    pg_losses2 = -mb_advantage * torch.clamp(ratio, 1.0 - cliprange, 1.0 + cliprange)
    pg_loss = masked_mean(torch.max(pg_losses, pg_losses2), ~padding_mask)
    (pg_loss + (1.0 if kind == "model" else vf_coef) * vf_loss).backward()
    for module, gradients in zip((policy, critic), recorder.gradients, strict=True):
        assert_same(gradients, {name: p.grad for name, p in module.named_parameters()}, atol=2e-5)


@pytest.mark.parametrize("kind", CRITICS)
def test_values_are_of_the_state_before_each_token(kind, experience):
    """So a group's first tokens have one value, and the last token none of its own."""
    learner = learner_with(kind)
    estimates, sampled_BT = learner.estimate(experience.rollouts), experience.rollouts.sampled_BT
    values_BT = estimates.values_BT
    assert values_BT is not None and estimates.entropies_BT is None
    for row, tokens_T, sampled_T in rows_of(experience):
        hidden_TD, logprobs_T = hidden_and_logprobs(learner.policy, tokens_T)
        critic = learner.models["critic"]
        values_T = critic(hidden_TD)[:, 0] if kind == "head" else critic(input_ids=tokens_T[None]).logits[0, :-1, 0]
        for found_BT, wanted_T in ((values_BT, values_T), (estimates.old_logprobs_BT, logprobs_T)):
            found_T = found_BT[row, 1 : len(tokens_T)][sampled_T]
            torch.testing.assert_close(found_T, wanted_T[sampled_T], rtol=0, atol=1e-5)
    assert not values_BT[~sampled_BT].any()
    first_P4 = torch.stack([values_BT[row][sampled_BT[row]][0] for row in range(12)]).view(3, 4)
    torch.testing.assert_close(first_P4, first_P4[:, :1].expand(3, 4), rtol=0, atol=1e-6)


def test_values_and_old_log_probabilities_are_estimated_where_they_are_needed(experience):
    policy = tiny_llama()
    critic = head_critic(policy)
    estimates = make_learner(policy, critic=critic).estimate(experience.rollouts)
    assert estimates.values_BT is not None and estimates.old_logprobs_BT is None
    assert make_learner(tiny_llama()).estimate(experience.rollouts) == Estimates()
    for settings in ({"needs_old_logprobs": True}, {"num_mini_batches": 2}):
        estimates = make_learner(tiny_llama(), **settings).estimate(experience.rollouts)
        assert estimates.old_logprobs_BT is not None and estimates.values_BT is None


@pytest.mark.parametrize("kind", CRITICS)
def test_a_resumed_learner_goes_on_bit_for_bit(kind, experience, tmp_path):
    settings = {"num_iterations": 2, "num_mini_batches": 2, "budget": 40}
    learner = learner_with(kind, **settings)
    for _ in range(2):
        step(learner, experience)
    learner.save(tmp_path)
    assert {folder.name for folder in tmp_path.iterdir() if folder.is_dir()} == {"policy", "critic"}
    resumed = learner_with(kind, **settings)
    resumed.load(tmp_path)
    assert step(resumed, experience) == step(learner, experience)
    for name, model in learner.models.items():
        for key, tensor in model.state_dict().items():
            assert torch.equal(tensor, resumed.models[name].state_dict()[key]), (name, key)


def test_checkpoints_with_and_without_a_critic_are_no_substitutes(experience, tmp_path):
    make_learner(tiny_llama()).save(tmp_path)
    with pytest.raises(ConfigError, match=r"resume with the same critic="):
        learner_with("model").load(tmp_path)


def test_in_the_warm_up_the_critic_alone_learns(experience):
    learner = learner_with("model", warmup=2, num_iterations=2)
    start = {name: copy.deepcopy(model.state_dict()) for name, model in learner.models.items()}
    for number in range(3):
        report = step(learner, experience)
        moved = {
            name: not all(torch.equal(tensor, start[name][key]) for key, tensor in model.state_dict().items())
            for name, model in learner.models.items()
        }
        assert moved == {"policy": number == 2, "critic": True}
        assert (report["learning_rate"] > 0) == (number == 2) and report["learning_rate/critic"] > 0
        assert (report["loss"] == report["loss"]) == (number == 2)  # NaN without a pass of the policy
        assert report["grad_norm/critic"] > 0
    assert {int(state["step"]) for state in learner.optimizers["critic"].state.values()} == {6}
    assert {int(state["step"]) for state in learner.optimizers["policy"].state.values()} == {2}


def test_the_critic_learns_the_returns(experience):
    learner = learner_with("model", num_iterations=4, optim=adamw(learning_rate=3e-3), cliprange_value=None)
    estimates = learner.estimate(experience.rollouts)
    targets = ppo_targets(experience, estimates, noise=1.0)
    for _ in range(8):
        report = learner.update(experience, learner.estimate(experience.rollouts), targets)
    assert report["critic/vf_explained_var"] > 0.8
    returns_N = targets.returns_BT[experience.counted_BT]
    assert report["critic/returns/mean"] == pytest.approx(float(returns_N.mean()), abs=1e-5)


def test_the_critics_rate_follows_the_schedule_of_the_policys():
    critic = model_critic(tiny_llama(), learning_rate=1e-2, policy_learning_rate=1e-3)
    assert critic.rate(5e-4) == pytest.approx(5e-3)
    assert model_critic(tiny_llama()).rate(5e-4) == 5e-4


@pytest.mark.parametrize("kind", CRITICS)
def test_a_split_into_micro_batches_and_recomputed_layers_change_nothing(kind, experience):
    found = []
    for settings in ({}, {"budget": 40}, {"gradient_checkpointing": True}):
        recorder = Recorder()
        step(learner_with(kind, optim=recorder, **settings), experience)
        found.append(recorder.gradients)
    for other in found[1:]:
        for one, two in zip(found[0], other, strict=True):
            assert_same(one, two, atol=2e-5)


def test_an_own_critic_has_adapters_and_a_head_that_is_trained_whole(experience, tmp_path):
    learner = learner_with("model", lora_r=2, lora_dropout=0.1, optim=adamw(learning_rate=1e-2))
    critic = learner.models["critic"]
    trained = {name for name, parameter in critic.named_parameters() if parameter.requires_grad}
    assert "lm_head.weight" in trained and all("lora_" in name or name == "lm_head.weight" for name in trained)
    frozen = {name: tensor.clone() for name, tensor in critic.state_dict().items() if name not in trained}
    head = critic.lm_head.weight.detach().clone()
    first = step(learner, experience)
    assert not torch.equal(critic.lm_head.weight, head)
    assert all(torch.equal(critic.state_dict()[name], tensor) for name, tensor in frozen.items())
    learner.save(tmp_path)
    resumed = learner_with("model", lora_r=2, lora_dropout=0.1, optim=adamw(learning_rate=1e-2))
    resumed.load(tmp_path)
    assert step(resumed, experience) == step(learner, experience) != first


def test_a_value_head_beside_adapters_learns_and_moves_them(experience):
    recorder = Recorder()
    step(learner_with("head", lora_r=2, lora_dropout=0.1, optim=recorder), experience)
    adapters, head = recorder.gradients
    assert all("lora_" in name for name in adapters) and head["weight"].abs().max() > 0


@pytest.mark.parametrize("kind", CRITICS)
def test_in_bfloat16_values_stay_float32_and_all_is_finite(kind, experience):
    exact, rounded = (learner_with(kind, dtype=dtype).estimate(experience.rollouts).values_BT for dtype in
                      (Dtype.FLOAT32, Dtype.BFLOAT16))  # fmt: skip
    assert rounded.dtype == torch.float32 and not torch.equal(rounded.bfloat16().float(), rounded)
    torch.testing.assert_close(rounded, exact, rtol=0, atol=0.05)
    learner = learner_with(kind, dtype=Dtype.BFLOAT16, num_iterations=2)
    assert all(torch.isfinite(torch.tensor(number)) for number in step(learner, experience).values())


@pytest.mark.parametrize("kind", CRITICS)
def test_a_value_that_is_not_finite_stops_all_models_before_the_step(kind, experience):
    learner = learner_with(kind)
    before = copy.deepcopy(learner.policy.state_dict())
    estimates = learner.estimate(experience.rollouts)
    targets = ppo_targets(experience, estimates)
    huge = replace(targets, returns_BT=targets.returns_BT * 1e30)
    with pytest.raises(StageError, match="the critic's loss is not finite"):
        learner.update(experience, estimates, huge)
    assert all(torch.equal(tensor, before[name]) for name, tensor in learner.policy.state_dict().items())


def test_a_gradient_of_the_critic_that_is_not_finite_is_the_critics(experience):
    learner = learner_with("model", cliprange_value=None)
    before = copy.deepcopy(learner.policy.state_dict())
    learner.called["critic"].model.norm.weight.register_hook(lambda gradient: gradient * torch.inf)
    with pytest.raises(StageError, match="the critic's gradient is not finite"):
        step(learner, experience)
    assert all(torch.equal(tensor, before[name]) for name, tensor in learner.policy.state_dict().items())
    assert not learner.optimizers["policy"].state and not learner.optimizers["critic"].state


def test_memory_counts_the_critic():
    alone, both = make_learner(tiny_llama()), learner_with("model")
    parameters = [sum(p.numel() for p in model.parameters()) for model in both.models.values()]
    assert both.memory()["optimizer"] == 8 * sum(parameters) and alone.memory()["optimizer"] == 8 * parameters[0]
    assert both.checkpoint_bytes() == 12 * sum(parameters)


def test_a_policy_whose_logits_are_capped_has_no_value_head():
    policy = tiny_llama()
    forward = policy.forward

    def capped(**inputs):
        out = forward(**inputs)
        out.logits = 30.0 * torch.tanh(out.logits / 30.0)
        return out

    policy.forward = capped
    with pytest.raises(ConfigError, match=r"^critic: the logits of LlamaForCausalLM"):
        make_learner(policy, critic=head_critic(policy))


def test_an_advantage_that_gives_no_returns_is_named(experience):
    learner = learner_with("model")
    estimates = learner.estimate(experience.rollouts)
    targets = replace(ppo_targets(experience, estimates), returns_BT=None)
    with pytest.raises(StageError, match=r"^\[advantage\] it gives no returns_BT"):
        learner.update(experience, estimates, targets)


def test_a_step_of_nothing_valid_leaves_the_critic_alone(experience):
    learner = learner_with("model", optim=Plain())
    nothing = replace(experience.rewards, valid_PK=torch.zeros_like(experience.rewards.valid_PK))
    before = copy.deepcopy(learner.models["critic"].state_dict())
    report = step(learner, replace(experience, rewards=nothing))
    assert report["skipped_updates"] == 1 and report["critic/values/mean"] != report["critic/values/mean"]
    assert all(torch.equal(tensor, before[name]) for name, tensor in learner.models["critic"].state_dict().items())


@pytest.mark.parametrize("backward", [False, True])
def test_a_pass_of_the_critic_that_runs_out_of_memory_is_taken_again(backward, experience):
    expected, learner = (learner_with("model", budget=40, optim=Recorder()) for _ in range(2))
    estimates = learner.estimate(experience.rollouts)
    targets = ppo_targets(experience, estimates)
    run_out_of_memory(learner.models["critic"].model.layers[0], at=2, backward=backward)
    report = learner.update(experience, estimates, targets)
    assert report["update/out_of_memory"] == 1
    assert expected.update(experience, estimates, targets)["update/out_of_memory"] == 0
    for one, other in zip(learner.optim.gradients, expected.optim.gradients, strict=True):
        assert_same(one, other, atol=1e-5)


def test_a_compiled_critic_computes_the_same(experience):
    critic = model_critic(tiny_llama()).module()
    batch = probe(Form.PLAIN)
    before = token_values(critic, batch, device=CPU)
    assert compile_layers(critic, Form.PLAIN, CPU, bf16=False, values=True, backend="eager")
    torch.testing.assert_close(token_values(critic, batch, device=CPU), before, rtol=0, atol=1e-6)


def test_the_policys_rows_without_an_advantage_are_left_out_and_the_critics_are_not(experience):
    """Of an own critic. With a head on the policy's states all rows get the policy's pass."""
    for kind, skipped in (("model", 4), ("head", 0)):
        learner = learner_with(kind, optim=Recorder())
        estimates = learner.estimate(experience.rollouts)
        targets = ppo_targets(experience, estimates)
        tied_BT = targets.advantages_BT.clone()
        tied_BT[:4] = 0.0
        report = learner.update(experience, estimates, replace(targets, advantages_BT=tied_BT))
        assert report["update/skipped_rows"] == skipped
        values = learner_with(kind, optim=Recorder())
        values.update(experience, estimates, targets)
        if kind == "model":
            assert_same(learner.optim.gradients[1], values.optim.gradients[1], atol=1e-7)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", [Dtype.FLOAT32, Dtype.BFLOAT16])
@pytest.mark.parametrize("kind", CRITICS)
def test_on_a_gpu_values_are_the_cpus_and_the_budget_is_measured_with_the_critic(kind, dtype, experience):
    torch.manual_seed(0)
    policy = LlamaForCausalLM(
        LlamaConfig(vocab_size=63, hidden_size=768, intermediate_size=256, num_hidden_layers=2, num_attention_heads=6,
                    num_key_value_heads=2, initializer_range=0.1)
    ).eval()  # fmt: skip
    expected_BT = learner_with(kind, policy=copy.deepcopy(policy)).estimate(experience.rollouts).values_BT
    gpu = torch.device("cuda")
    policy.to(device=gpu)
    settings = make_learner(tiny_llama(), budget="auto", dtype=dtype, num_iterations=2).settings
    learner = TorchSingle(policy, gpu, clip(), adamw(), False, CRITICS[kind](policy), True, settings=settings)
    assert learner.form is Form.FLEX
    found_BT = learner.estimate(experience.rollouts).values_BT
    torch.testing.assert_close(found_BT, expected_BT, rtol=0, atol=1e-2 if dtype is Dtype.FLOAT32 else 0.1)
    report = step(learner, experience)
    assert learner.budget.is_measured and all(torch.isfinite(torch.tensor(number)) for number in report.values())
