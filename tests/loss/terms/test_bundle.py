import pytest
import torch

from dqo.capabilities import Marking, Stateful, Supervising
from dqo.errors import ConfigError
from dqo.loss.clip import Level
from dqo.loss.terms.bundle import Terms
from dqo.loss.terms.entropy import Entropy, Tokens
from dqo.loss.terms.top_entropy import TopEntropy
from dqo.records import Estimates, Targets
from dqo.stages import Loss
from tests.factories import make_experience, make_loss_inputs
from tests.learner.builders import Exemplars, adaptive_entropy, clip, exemplars


class Dropping:
    """Leaves the tokens of some rows out of the policy gradient; its metric is how many of these it sees."""

    only_advantages = True

    def __init__(self, name: str, *rows: int):
        self.names, self.rows = (f"{name}/seen",), list(rows)

    def marks(self, experience, estimates, targets):
        dropped_BT = torch.zeros_like(experience.rollouts.sampled_BT)
        dropped_BT[self.rows] = True
        return {"dropped": dropped_BT}

    def __call__(self, inputs):
        assert set(inputs.marks) == {"dropped"}
        return torch.zeros(()), {self.names[0]: (inputs.marks["dropped"].sum(), torch.ones(()))}


class Others(Exemplars):
    names = ("others/loss",)


def of_step(loss, experience, *, advantage: float = 1.0):
    """(loss, metrics) of a step as one micro-batch, with log-probabilities of 0."""
    sampled_BT = experience.rollouts.sampled_BT
    targets = Targets(advantages_BT=sampled_BT * advantage)
    marks = loss.marks(experience, Estimates(entropies_BT=torch.rand(sampled_BT.shape)), targets)
    zeros_N = torch.zeros(int(sampled_BT.sum()))
    inputs = make_loss_inputs(
        zeros_N, advantages_N=targets.advantages_BT[sampled_BT], entropies_N=torch.ones_like(zeros_N),
        marks={name: mark_BT[sampled_BT] for name, mark_BT in marks.items()},
    )  # fmt: skip
    return loss(inputs)


def test_terms_add_to_the_loss_and_report_beside_it():
    experience = make_experience()
    bonus = Entropy(coefficient=0.5, tokens=Tokens.all, top_entropy_quantile=None)
    plain, means = of_step(clip(), experience)
    loss = clip(terms={"bonus": bonus})
    with_bonus, more = of_step(loss, experience)
    tokens = int(experience.rollouts.sampled_BT.sum())
    assert with_bonus - plain == pytest.approx(-0.5 * tokens)
    assert set(more) - set(means) == set(bonus.names)
    assert set(more) == set(loss.names)


def test_tokens_that_any_term_drops_have_no_policy_gradient_and_each_term_sees_its_own_marks():
    experience = make_experience(prompts=2, k=2)
    counts = experience.rollouts.sampled_BT.sum(1)
    loss = clip(terms={"one": Dropping("one", 0, 1), "two": Dropping("two", 1)})
    value, means = of_step(loss, experience)
    assert value == -counts[2:].sum()
    assert means["one/seen"][0] == counts[:2].sum()
    assert means["two/seen"][0] == counts[1]


def test_at_sequence_level_a_dropped_token_has_no_gradient_and_the_others_keep_theirs():
    """A completion's ratio contains every token, the dropped one too."""

    def gradient(**marks):
        logprobs_N = torch.tensor([-1.0, -2.0, -0.5], requires_grad=True)
        inputs = make_loss_inputs(
            logprobs_N, old_logprobs_N=torch.tensor([-1.1, -2.0, -0.6]), advantages_N=torch.full((3,), 2.0), marks=marks
        )
        loss, _ = clip(level=Level.sequence)(inputs)
        return torch.autograd.grad(loss, logprobs_N)[0]

    whole_N = gradient()
    assert (whole_N != 0).all()
    dropped_N = gradient(dropped=torch.tensor([False, True, False]))
    torch.testing.assert_close(dropped_N, whole_N * torch.tensor([1.0, 0.0, 1.0]))


def test_the_kl_keeps_the_tokens_that_a_term_drops():
    logprobs_N = torch.zeros(2, requires_grad=True)
    inputs = make_loss_inputs(
        logprobs_N, ref_logprobs_N=torch.tensor([0.5, 0.5]), advantages_N=torch.ones(2),
        marks={"dropped": torch.tensor([True, False])},
    )  # fmt: skip
    value, _ = clip(beta=0.1, use_bias_correction_kl=False)(inputs)
    (gradient_N,) = torch.autograd.grad(value, logprobs_N)
    kl = 0.1 * (1 - torch.tensor(0.5).exp())
    torch.testing.assert_close(gradient_N, torch.stack([kl, kl - 1]))


@pytest.mark.parametrize(
    ("terms", "needs"),
    [
        ({}, (False, False, False, True)),
        ({"a": adaptive_entropy()}, (False, False, True, False)),
        ({"a": TopEntropy(top_entropy_quantile=0.2)}, (False, True, False, True)),
        ({"a": Exemplars(None), "b": adaptive_entropy()}, (False, False, True, False)),
    ],
)
def test_a_loss_needs_what_its_terms_need(terms, needs):
    loss = clip(terms=terms)
    assert isinstance(loss, Loss) and isinstance(loss, Marking)
    assert isinstance(loss, Supervising) and isinstance(loss, Stateful)
    got = (loss.needs_reference, loss.needs_old_logprobs, loss.needs_entropy_gradient, loss.only_advantages)
    assert got == needs
    assert clip(terms=terms, beta=0.1).only_advantages is False


def test_a_term_that_needs_the_reference_makes_the_loss_need_it_without_a_kl():
    class Needy(Exemplars):
        needs_reference = True

    loss = clip(terms={"a": Needy(None)})
    assert loss.needs_reference
    assert "kl" not in loss.names
    loss(make_loss_inputs(torch.zeros(2)))  # no log-probabilities of the reference, and no KL


@pytest.mark.parametrize("given", [0.5, {"coefficient": 1.0}, "entropy", None])
def test_what_is_no_term_is_refused(given):
    with pytest.raises(ConfigError, match=r"^loss\.terms\.mine=.*as in loss/entropy\.yaml; type loss=entropy"):
        clip(terms={"mine": given})


def test_two_terms_with_one_metric_are_refused():
    with pytest.raises(ConfigError, match=r"^loss\.terms\.b: loss\.terms\.a reports .*type '~loss\.terms\.b'"):
        clip(terms={"a": adaptive_entropy(), "b": adaptive_entropy()})

    class Clashing(Exemplars):
        names = ("clip_ratio/low_mean",)

    with pytest.raises(ConfigError, match="the loss reports the metric clip_ratio/low_mean, too"):
        clip(terms={"a": Clashing(None)})


def test_completions_of_several_terms_are_one_record():
    one, two = exemplars(k=2), exemplars(k=3, seed=4)
    experience = make_experience()
    assert Terms({"a": Exemplars(None)}, ()).supervised(experience) is None
    assert Terms({"a": Exemplars(one), "b": Others(None)}, ()).supervised(experience).rollouts.k == 2
    both = Terms({"a": Exemplars(one), "b": Others(two)}, ()).supervised(experience)
    assert both.rollouts.k == 1
    assert len(both.rollouts.prompts) == len(both.rollouts.texts) == 10
    assert both.weights_BT.sum() == pytest.approx((one.weights_BT.sum() + two.weights_BT.sum()).item())
    last = two.rollouts
    assert both.rollouts.prompts[-1] == last.prompts[-1]
    assert both.rollouts.texts[-1] == last.texts[-1]


def test_states_go_back_to_their_terms():
    class Other(Exemplars):
        names = ("other/x",)
        state = 0

        def state_dict(self):
            return {"state": self.state}

        def load_state_dict(self, state):
            self.state = state["state"]

    one, two = adaptive_entropy(coefficient=0.04), Other(None)
    two.state = 7
    saved = clip(terms={"one": one, "two": two, "three": TopEntropy(top_entropy_quantile=0.5)}).state_dict()
    assert saved == {"one": {"coefficient": 0.04}, "two": {"state": 7}}
    again = clip(terms={"two": Other(None), "one": adaptive_entropy()})
    again.load_state_dict(saved)
    assert again.state_dict() == saved
    with pytest.raises(ConfigError, match=r"the checkpoint's loss\.terms\.two has a state and this run's has none"):
        clip(terms={"one": adaptive_entropy()}).load_state_dict(saved)
    with pytest.raises(ConfigError, match=r"this run's loss\.terms\.one has a state and the checkpoint's has none"):
        clip(terms={"one": adaptive_entropy()}).load_state_dict({})
    assert clip().state_dict() == {}


def test_without_terms_nothing_is_marked_or_added():
    experience, loss = make_experience(), clip()
    targets = Targets(advantages_BT=experience.rollouts.sampled_BT * 1.0)
    assert loss.marks(experience, Estimates(), targets) == {}
    assert loss.supervised(experience) is None
