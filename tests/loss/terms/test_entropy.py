from dataclasses import replace

import pytest
import torch

from dqo.capabilities import LossTerm
from dqo.errors import ConfigError
from dqo.loss.terms.entropy import Entropy, Tokens
from dqo.records import Estimates, Targets
from tests.factories import make_experience, make_loss_inputs, make_rewards


def entropy(tokens=Tokens.all, share=None, coefficient=0.2):
    return Entropy(coefficient=coefficient, tokens=tokens, top_entropy_quantile=share)


def chosen(term, experience, entropies_BT=None):
    zeros_BT = torch.zeros(experience.rollouts.sampled_BT.shape)
    marks = term.marks(experience, Estimates(entropies_BT=entropies_BT), Targets(advantages_BT=zeros_BT))
    assert set(marks) == {"chosen"}
    return marks["chosen"]


def test_the_loss_is_minus_the_weighted_entropy_of_the_chosen_tokens():
    entropies_N = torch.tensor([1.0, 2.0, 4.0], requires_grad=True)
    inputs = make_loss_inputs(
        torch.zeros(3), entropies_N=entropies_N, weights_N=torch.tensor([0.1, 0.5, 0.25]),
        marks={"chosen": torch.tensor([True, False, True])},
    )  # fmt: skip
    value, means = entropy()(inputs)
    assert value.item() == pytest.approx(-0.2 * (0.1 + 1.0))
    (gradient_N,) = torch.autograd.grad(value, entropies_N)
    torch.testing.assert_close(gradient_N, -0.2 * torch.tensor([0.1, 0.0, 0.25]))
    got = {name: (total / count).item() for name, (total, count) in means.items()}
    assert got == pytest.approx({"entropy_bonus/coefficient": 0.2, "entropy_bonus/tokens": 2 / 3})


@pytest.mark.parametrize("tokens", Tokens)
def test_it_is_a_term_that_says_what_it_needs(tokens):
    term = entropy(tokens, 0.3 if tokens == Tokens.top else None)
    assert isinstance(term, LossTerm)
    assert term.needs_entropy_gradient
    assert term.needs_old_logprobs == (tokens == Tokens.top)


def test_the_chosen_tokens_are_sampled_tokens_of_valid_completions():
    experience = make_experience(prompts=2, k=3)
    valid_PK = torch.tensor([[True, False, True], [True, True, True]])
    rewards = replace(make_rewards([[1, 1, 0], [0, 1, 0]]), valid_PK=valid_PK)
    experience, sampled_BT = replace(experience, rewards=rewards), experience.rollouts.sampled_BT
    assert chosen(entropy(), experience).equal(sampled_BT & valid_PK.flatten()[:, None])
    right_B = torch.tensor([True, False, False, False, True, False])
    assert chosen(entropy(Tokens.correct), experience).equal(sampled_BT & right_B[:, None])
    entropies_BT = torch.rand(sampled_BT.shape, generator=torch.Generator().manual_seed(0))
    entropies_BT[1] = 9.0  # invalid
    top_BT = chosen(entropy(Tokens.top, 0.25), experience, entropies_BT)
    valid_BT = sampled_BT & valid_PK.flatten()[:, None]
    assert not top_BT[~valid_BT].any()
    assert entropies_BT[top_BT].min() > entropies_BT[valid_BT & ~top_BT].max()
    assert top_BT.sum() / valid_BT.sum() == pytest.approx(0.25, abs=1 / valid_BT.sum().item())


def test_a_reward_that_does_not_say_what_is_correct_is_refused():
    experience = make_experience()
    silent = replace(experience, rewards=replace(experience.rewards, correct_PK=None))
    with pytest.raises(ConfigError, match=r"^loss\.terms\.entropy\.tokens=correct: .*type loss\.terms\.entropy\.tok"):
        chosen(entropy(Tokens.correct), silent)


@pytest.mark.parametrize(
    ("tokens", "share", "typed"), [(Tokens.top, None, "quantile=0.2"), (Tokens.all, 0.2, "tokens=top, or loss")]
)
def test_a_quantile_without_its_choice_of_tokens_is_refused_and_the_other_way_round(tokens, share, typed):
    with pytest.raises(ConfigError, match=rf"^loss\.terms\.entropy\.top_entropy_quantile=.*type .*{typed}"):
        entropy(tokens, share)
