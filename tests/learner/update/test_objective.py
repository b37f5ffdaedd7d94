"""Losses that look at the whole step, follow entropies and learn from other completions, in a real learner."""

from dataclasses import replace

import pytest
import torch

from dqo.errors import StageError
from dqo.loss.terms.entropy import Entropy, Tokens
from dqo.loss.terms.top_entropy import TopEntropy
from dqo.records import Estimates, Supervised
from tests.factories import make_experience, tiny_llama
from tests.learner.builders import (
    Exemplars,
    Recorder,
    adamw,
    assert_same,
    clip,
    exemplars,
    gradient,
    learn,
    make_learner,
    run_out_of_memory,
    targets_of,
)

COEFFICIENT = 0.3
ROUNDING = 3e-5  # of gradients with exemplars, which are up to 6.5; how much of it is seen depends on the machine


@pytest.fixture
def experience():
    return make_experience(prompts=3, k=4)


def entropy(tokens: Tokens = Tokens.all, share: float | None = None) -> Entropy:
    return Entropy(coefficient=COEFFICIENT, tokens=tokens, top_entropy_quantile=share)


def distributions(policy, rollouts, row: int):
    """(log-probabilities, entropies) of a completion's tokens, from one pass over its row."""
    end = int(rollouts.lengths_B[row])
    logprobs_TV = policy(input_ids=rollouts.tokens_BT[row, :end][None]).logits[0, :-1].log_softmax(-1)
    logprobs_T = logprobs_TV.gather(1, rollouts.tokens_BT[row, 1:end, None])[:, 0]
    return logprobs_T, -(logprobs_TV.exp() * logprobs_TV).sum(-1)


def by_definition(experience, *, chosen_BT=None, dropped_BT=None, supervised: Supervised | None = None):
    """The gradient of the policy's loss, the bonus and the supervised loss, a row at a time."""
    policy, rollouts, advantages_BT = tiny_llama(), experience.rollouts, targets_of(experience).advantages_BT
    tokens, total = int(rollouts.sampled_BT.sum()), torch.zeros(())
    for row in range(len(rollouts.texts)):
        here = slice(1, int(rollouts.lengths_B[row]))
        logprobs_T, entropies_T = distributions(policy, rollouts, row)
        kept_T = 1.0 if dropped_BT is None else (~dropped_BT[row, here]).float()
        total = total - (kept_T * logprobs_T * advantages_BT[row, here]).sum() / tokens
        if chosen_BT is not None:
            total = total - COEFFICIENT * (entropies_T * chosen_BT[row, here]).sum() / tokens
    if supervised is not None:
        for row in range(len(supervised.rollouts.texts)):
            logprobs_T, _ = distributions(policy, supervised.rollouts, row)
            total = total - (logprobs_T * supervised.weights_BT[row, 1 : len(logprobs_T) + 1]).sum()
    total.backward()
    return {name: p.grad for name, p in policy.named_parameters()}


def before_update(experience):
    """Entropies of the policy that ``tiny_llama`` makes."""
    learner = make_learner(tiny_llama(), loss=clip(terms={"top": TopEntropy(top_entropy_quantile=0.5)}))
    entropies_BT = learner.estimate(experience.rollouts).entropies_BT
    assert entropies_BT is not None
    return entropies_BT


@pytest.mark.parametrize("shared_prompt", [True, False])
@pytest.mark.parametrize("budget", [1000, 40])
def test_the_gradient_with_an_entropy_bonus_is_the_definitions(experience, shared_prompt, budget):
    expected = by_definition(experience, chosen_BT=experience.rollouts.sampled_BT)
    got = gradient(
        tiny_llama(), experience, loss=clip(terms={"entropy": entropy()}), shared_prompt=shared_prompt, budget=budget
    )
    assert_same(got, expected, atol=1e-5)
    without = gradient(tiny_llama(), experience)
    assert max((got[name] - without[name]).abs().max() for name in got) > 0.01


def test_the_bonus_can_be_for_correct_completions_alone(experience):
    """The row of a wrong completion weighs in the denominator."""
    correct_BT = experience.rollouts.sampled_BT & experience.rewards.correct_PK.flatten()[:, None]
    got = gradient(tiny_llama(), experience, loss=clip(terms={"entropy": entropy(Tokens.correct)}), budget=40)
    assert_same(got, by_definition(experience, chosen_BT=correct_BT), atol=1e-5)


def test_the_bonus_and_the_policy_gradient_can_be_for_the_tokens_with_most_entropy(experience):
    sampled_BT, entropies_BT = experience.rollouts.sampled_BT, before_update(experience)
    top_BT = sampled_BT & (entropies_BT >= entropies_BT[sampled_BT].quantile(0.7))
    bonus, policy = entropy(Tokens.top, 0.3), TopEntropy(top_entropy_quantile=0.3)
    got = gradient(tiny_llama(), experience, loss=clip(terms={"bonus": bonus, "policy": policy}), budget=40)
    expected = by_definition(experience, chosen_BT=top_BT, dropped_BT=sampled_BT & ~top_BT)
    assert_same(got, expected, atol=1e-5)


def test_a_bonus_needs_the_rows_that_the_policy_gradient_does_not(experience):
    """Ties: no advantage anywhere."""
    targets = targets_of(experience)
    tied = replace(targets, advantages_BT=targets.advantages_BT * 0)
    for terms, skipped in (({}, 12), ({"entropy": entropy()}, 0), ({"top": TopEntropy(top_entropy_quantile=0.3)}, 12)):
        recorder = Recorder()
        learner = make_learner(tiny_llama(), loss=clip(terms=terms), optim=recorder)
        report = learner.update(experience, learner.estimate(experience.rollouts), tied)
        assert report["update/skipped_rows"] == skipped
        moved = {name for name, each in (recorder.gradients[0].items() if terms else ()) if each.abs().max() > 0}
        assert bool(moved) == (terms.keys() == {"entropy"})


def test_entropies_before_the_update_are_estimated_where_a_term_asks(experience):
    policy = tiny_llama()
    entropies_BT = before_update(experience)
    for row in range(12):
        sampled_T = experience.rollouts.sampled_BT[row]
        _, expected_T = distributions(policy, experience.rollouts, row)
        torch.testing.assert_close(entropies_BT[row][sampled_T], expected_T[sampled_T[1 : len(expected_T) + 1]])
        assert entropies_BT[row][~sampled_T].eq(0).all()
    estimates = make_learner(tiny_llama(), num_iterations=2).estimate(experience.rollouts)
    assert estimates.old_logprobs_BT is not None
    assert estimates.entropies_BT is None
    stale = replace(experience.rollouts, versions_B=experience.rollouts.versions_B - 1)
    learner = make_learner(tiny_llama(), loss=clip(terms={"top": TopEntropy(top_entropy_quantile=0.5)}))
    assert learner.estimate(stale).entropies_BT is not None  # also where all rows are of older weights


@pytest.mark.parametrize("budget", [1000, 20])
@pytest.mark.parametrize("shared_prompt", [True, False])
def test_the_gradient_with_completions_of_others_is_the_definitions(experience, budget, shared_prompt):
    given = exemplars()
    expected = by_definition(experience, supervised=given)
    recorder = Recorder()
    loss = clip(terms={"own": Exemplars(given)})
    learner = make_learner(tiny_llama(), loss=loss, optim=recorder, budget=budget, shared_prompt=shared_prompt)
    report = learn(learner, experience)
    assert_same(recorder.gradients[0], expected, atol=ROUNDING)
    assert len(recorder.gradients) == 1
    plain = learn(make_learner(tiny_llama(), optim=Recorder(), budget=budget, shared_prompt=shared_prompt), experience)
    assert report["micro_batches"] > plain["micro_batches"]
    for key in ("entropy", "sampling/kl", "clip_ratio/region_mean", "trained_tokens"):  # of the step's own tokens
        assert report[key] == pytest.approx(plain[key], rel=1e-5), key
    logprobs = [distributions(tiny_llama(), given.rollouts, row)[0] for row in range(4)]
    own = [given.weights_BT[row, 1 : len(each) + 1] for row, each in enumerate(logprobs)]
    tokens = torch.cat([each[weights != 0] for each, weights in zip(logprobs, own, strict=True)])
    assert report["supervised/nll"] == pytest.approx(-tokens.detach().mean().item(), rel=1e-4)
    added = -sum(float((each * weights).sum().detach()) for each, weights in zip(logprobs, own, strict=True))
    assert report["loss"] - plain["loss"] == pytest.approx(added, rel=1e-4)


def test_terms_with_groups_of_different_sizes_learn_together(experience):
    parts = [exemplars(k=2), exemplars(k=3, seed=4)]
    expected = [gradient(tiny_llama(), experience, loss=clip(terms={"own": Exemplars(part)})) for part in parts]
    plain = gradient(tiny_llama(), experience)

    class Others(Exemplars):
        names = ("others/loss",)

    both = clip(terms={"one": Exemplars(parts[0]), "two": Others(parts[1])})
    assert both.names.count("supervised/nll") == 1
    got = gradient(tiny_llama(), experience, loss=both)
    assert_same({n: got[n] + plain[n] for n in got}, {n: expected[0][n] + expected[1][n] for n in got}, atol=1e-5)


def test_a_step_without_completions_of_others_reports_no_number_for_them(experience):
    report = learn(make_learner(tiny_llama(), loss=clip(terms={"own": Exemplars(None)})), experience)
    assert report["supervised/nll"] != report["supervised/nll"]
    assert "supervised/nll" not in learn(make_learner(tiny_llama()), experience)


@pytest.mark.parametrize("backward", [False, True])
def test_a_step_with_terms_that_runs_out_of_memory_has_the_same_gradient(experience, backward):
    terms = {"own": Exemplars(exemplars()), "entropy": entropy()}
    expected, got, policy = Recorder(), Recorder(), tiny_llama()
    learn(make_learner(tiny_llama(), loss=clip(terms=terms), optim=expected, budget=40), experience)
    learner = make_learner(policy, loss=clip(terms=terms), optim=got, budget=40)
    run_out_of_memory(policy.model.layers[0], at=4, backward=backward)
    assert learn(learner, experience)["update/out_of_memory"] == 1
    assert_same(got.gradients[0], expected.gradients[0], atol=ROUNDING)


def test_terms_act_in_every_iteration_and_with_dropout(experience):
    """A second iteration has another gradient of the exemplars alone; LoRA's noise is in no number."""
    terms = {"own": Exemplars(exemplars()), "entropy": entropy()}
    torch.manual_seed(0)
    learner = make_learner(
        tiny_llama(), loss=clip(terms=terms), optim=adamw(learning_rate=0.01), num_iterations=2, lora_r=4,
        lora_dropout=0.5,
    )  # fmt: skip
    first, second = learn(learner, experience), learn(learner, experience)
    assert {int(state["step"]) for state in learner.optimizers["policy"].state.values()} == {4}
    assert second["supervised/nll"] < first["supervised/nll"]
    noiseless = make_learner(tiny_llama(), loss=clip(terms=terms), optim=Recorder())
    torch.manual_seed(0)
    noisy = make_learner(tiny_llama(), loss=clip(terms=terms), optim=Recorder(), lora_r=4, lora_dropout=0.5)
    reports = [learn(each, experience) for each in (noiseless, noisy)]
    assert reports[1]["entropy"] == pytest.approx(reports[0]["entropy"], rel=1e-5)


def test_a_loss_of_exemplars_that_is_not_finite_names_their_prompts(experience):
    given = exemplars()
    prompts = tuple(replace(prompt, position=70 + p) for p, prompt in enumerate(given.rollouts.prompts))
    broken = Supervised(
        rollouts=replace(given.rollouts, prompts=prompts), weights_BT=given.weights_BT.clone().fill_(torch.inf)
    )
    learner = make_learner(tiny_llama(), loss=clip(terms={"own": Exemplars(broken)}), budget=20)
    with pytest.raises(StageError, match=r"\[learner, step 1, prompts 7[01]\] the loss is not finite"):
        learner.update(experience, Estimates(), targets_of(experience))
