import copy
from dataclasses import replace

import pytest
import torch

from dqo.learner.update.mini_batches import _parts
from dqo.loss.clip import LossType
from dqo.records import Experience
from tests.factories import make_experience, tiny_llama
from tests.learner.builders import (
    Exemplars,
    Recorder,
    adamw,
    adaptive_entropy,
    assert_same,
    clip,
    exemplars,
    make_learner,
    model_critic,
    ppo_targets,
    targets_of,
)


def of_groups(experience: Experience, groups: list[int]) -> Experience:
    """The same step, in which the completions of all other groups are invalid."""
    kept_P = torch.tensor([p in groups for p in range(len(experience.rollouts.prompts))])
    valid_PK = experience.rewards.valid_PK & kept_P[:, None]
    return replace(experience, rewards=replace(experience.rewards, valid_PK=valid_PK))


@pytest.mark.parametrize("groups", [1, 3, 4, 8])
@pytest.mark.parametrize("number", [1, 2, 4])
def test_each_group_is_in_one_part_and_parts_are_of_one_size(groups, number):
    parts = _parts(groups, number, (1, 2, 3))
    assert len(parts) == number and sorted(torch.cat(parts).tolist()) == list(range(groups))
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= 1


def test_parts_depend_on_the_seed_alone_and_differ_between_iterations():
    torch.manual_seed(0)
    one = _parts(8, 2, (1, 2, 3))
    torch.manual_seed(1)
    again, other = _parts(8, 2, (1, 2, 3)), _parts(8, 2, (1, 2, 4))
    assert [part.tolist() for part in one] == [part.tolist() for part in again] != [part.tolist() for part in other]
    assert [part.tolist() for part in _parts(8, 1, (1, 2, 3))] == [list(range(8))]


@pytest.mark.parametrize("loss_type", [LossType.dapo, LossType.grpo, LossType.dr_grpo])
def test_each_mini_batch_is_a_step_with_its_groups_alone(loss_type):
    """Gradients of policy and critic; the optimizer does not change the weights here."""
    experience, settings = make_experience(prompts=4, k=3), {"budget": 60}

    def learner(**more):
        policy = tiny_llama()
        return make_learner(
            policy, loss=clip(loss_type=loss_type), critic=model_critic(policy), optim=Recorder(), **settings, **more
        )

    whole = learner(num_mini_batches=2)
    estimates = whole.estimate(experience.rollouts)
    targets = ppo_targets(experience, estimates)
    report = whole.update(experience, estimates, targets)
    assert report["skipped_updates"] == 0 and report["trained_tokens"] == int(experience.rollouts.sampled_BT.sum())
    found = whole.optim.gradients
    assert len(found) == 4  # policy, critic, policy, critic
    for index, part in enumerate(_parts(4, 2, (whole.seed, 0, 0))):
        alone = learner()
        alone.update(of_groups(experience, part.tolist()), estimates, targets)
        for one, other in zip(found[2 * index :], alone.optim.gradients, strict=False):
            assert_same(one, other, atol=1e-6)


def test_the_steps_of_a_batch_follow_one_another():
    """Two iterations of two mini-batches are four optimizer steps; old log-probabilities are those before the first."""
    experience = make_experience(prompts=4, k=3)
    learner = make_learner(tiny_llama(), num_iterations=2, num_mini_batches=2, optim=adamw(learning_rate=1e-2))
    estimates = learner.estimate(experience.rollouts)
    assert estimates.old_logprobs_BT is not None
    learner.update(experience, estimates, targets_of(experience))
    assert {int(state["step"]) for state in learner.optimizers["policy"].state.values()} == {4}

    by_steps = make_learner(tiny_llama(), optim=adamw(learning_rate=1e-2))
    for iteration in range(2):
        for part in _parts(4, 2, (learner.seed, 0, iteration)):
            by_steps.update(of_groups(experience, part.tolist()), estimates, targets_of(experience))
            by_steps.version = 0  # the rows stay fresh
    for (name, one), (_, other) in zip(learner.weights(), by_steps.weights(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=2e-6, msg=name)


def test_a_mini_batch_without_a_valid_completion_takes_no_step_and_is_counted():
    experience = of_groups(make_experience(prompts=2, k=3), [1])
    learner = make_learner(tiny_llama(), num_mini_batches=2, optim=adamw())
    report = learner.update(experience, learner.estimate(experience.rollouts), targets_of(experience))
    assert report["skipped_updates"] == 0.5
    assert {int(state["step"]) for state in learner.optimizers["policy"].state.values()} == {1}


def test_terms_look_at_the_whole_step_once_and_exemplars_are_in_each_mini_batch():
    experience, entropy = make_experience(prompts=4, k=3), adaptive_entropy()
    seen, marks = [], entropy.marks
    entropy.marks = lambda *inputs: seen.append(1) or marks(*inputs)
    loss = clip(terms={"entropy": entropy, "own": Exemplars(exemplars(k=3))})
    learner = make_learner(tiny_llama(), loss=loss, num_mini_batches=2, num_iterations=2)
    before = copy.deepcopy(learner.policy.state_dict())
    report = learner.update(experience, learner.estimate(experience.rollouts), targets_of(experience))
    assert len(seen) == 1 and report["supervised/nll"] > 0
    assert not torch.equal(before["model.norm.weight"], learner.policy.model.norm.weight)
