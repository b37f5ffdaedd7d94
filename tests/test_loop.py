"""The loop with toy stages built to the Protocols: order, repeatability, overlap, redraws."""

from concurrent.futures import Executor, Future
from dataclasses import replace

import pytest
import torch

from dqo.errors import StageError
from dqo.judging import Judges, judges
from dqo.loop import Plan, collect, train
from dqo.records import Experience
from dqo.stages import Stages
from tests.helpers.toy_stages import (
    PLAN,
    EvenReward,
    RareCredit,
    ShuffledRollout,
    SumAdvantage,
    SummingLearner,
    toy_stages,
)


@pytest.fixture
def log() -> list[str]:
    return []


@pytest.fixture
def stages(log) -> Stages:
    return toy_stages(log)


def observed(stages: Stages, plan: Plan, **start: int) -> list[tuple]:
    seen = []
    train(
        stages,
        plan,
        [lambda done: seen.append((done.number, done.cursor, done.experience.rollouts.texts, done.report["weight"]))],
        **start,
    )
    return seen


def test_groups_finishing_in_any_order_give_the_same_run(stages, log):
    first = observed(stages, PLAN)
    torch.seed()
    stages = replace(stages, learner=SummingLearner(), rollout=ShuffledRollout([]))
    assert observed(stages, PLAN) == first
    assert [step[:2] for step in first] == [(1, 3), (2, 6), (3, 9), (4, 12)]


class Inline(Executor):
    """Does at once what it is given: no overlap."""

    def submit(self, function, /, *arguments):
        done = Future()
        done.set_result(function(*arguments))
        return done


def test_judging_while_others_are_sampled_gives_what_judging_in_turn_gives(stages):
    """Groups arrive in another order each time."""
    with judges(stages) as judging:
        overlapping, cursor, _ = collect(stages, PLAN, judging, 0)
    inline = Judges(reward=Inline(), embed=Inline())
    taking_turns, same, _ = collect(replace(stages, rollout=ShuffledRollout([])), PLAN, inline, 0)
    overlapped, in_turn = overlapping.experience(), taking_turns.experience()
    assert cursor == same == 3
    for name in ("tokens_BT", "sampled_BT", "logprobs_BT", "lengths_B", "texts"):
        one, other = getattr(overlapped.rollouts, name), getattr(in_turn.rollouts, name)
        assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other, name
    assert torch.equal(overlapped.rewards.total_PK, in_turn.rewards.total_PK)
    assert torch.equal(overlapped.credits_PK, in_turn.credits_PK)


def test_credit_of_each_completion_is_its_own(stages):
    steps = []
    train(stages, replace(PLAN, steps=1), [steps.append])
    experience = steps[0].experience
    for p in range(3):
        texts = experience.rollouts.texts[4 * p : 4 * p + 4]
        assert experience.credits_PK[p].tolist() == pytest.approx([1 / texts.count(text) for text in texts])


def test_sampling_waits_for_the_new_weights(stages, log):
    observed(stages, replace(PLAN, steps=2))
    assert log == ["sampled 0 at 0", "pause", "weights 1", "sampled 3 at 1", "pause", "weights 2"]


def test_one_step_ahead_lags_by_exactly_one_version(stages):
    lags = []
    train(
        stages,
        replace(PLAN, ahead=1),
        [lambda done: lags.append(done.number - 1 - int(done.experience.rollouts.versions_B[0]))],
    )
    assert lags == [0, 1, 1, 1]


def test_a_resumed_run_goes_on_as_the_uninterrupted_one(stages):
    whole = observed(stages, PLAN)
    rest = replace(stages, learner=SummingLearner(), rollout=ShuffledRollout([]))
    rest.learner.weight = torch.tensor(whole[1][3])
    assert observed(rest, PLAN, step=2, cursor=whole[1][1]) == whole[2:]


class EvenPositionsTeach(SumAdvantage):
    def has_signal(self, experience: Experience, *, alpha: float) -> bool:
        return experience.rollouts.prompts[0].position % 2 == 0


def test_redraws_replace_groups_without_signal(stages):
    stages = replace(stages, advantage=EvenPositionsTeach())
    positions = []
    plan = replace(PLAN, steps=1, redraws=3)
    train(stages, plan, [lambda done: positions.extend(p.position for p in done.experience.rollouts.prompts)])
    assert positions == [0, 2, 4]  # 0 1 2, then 3, then 4: each round draws what is missing


def test_without_enough_signal_the_step_is_filled_up(stages):
    stages = replace(stages, advantage=EvenPositionsTeach())
    steps = []
    train(stages, replace(PLAN, steps=1, redraws=1), [steps.append])
    assert [p.position for p in steps[0].experience.rollouts.prompts] == [0, 2, 1]
    assert steps[0].cursor == 4


def test_the_rollout_is_judged_without_embeddings_where_the_credit_has_no_use_for_them(stages):
    class Nothing(RareCredit):
        uses_embeddings = False

        def assign(self, rollouts, rewards, embeddings_PKD):
            assert embeddings_PKD is None
            return torch.zeros_like(rewards.total_PK)

    steps = []
    train(replace(stages, credit=Nothing()), replace(PLAN, steps=1), [steps.append])
    assert steps[0].experience.embeddings_PKD is None
    assert "embed" not in steps[0].seconds


def test_a_failing_reward_ends_the_run_with_its_own_error(stages):
    class Broken(EvenReward):
        def score(self, rollouts):
            raise RuntimeError("reward server is gone")

    with pytest.raises(RuntimeError, match="reward server is gone"):
        observed(replace(stages, reward=Broken()), PLAN)


def test_an_empty_completion_earns_nothing_by_any_credit_and_needs_no_embedding(stages):
    class Silent(ShuffledRollout):
        def generate(self, prompts, *, k, seed):
            for rollouts in super().generate(prompts, k=k, seed=seed):
                texts = tuple(" " if i % k == 1 else text for i, text in enumerate(rollouts.texts))
                yield replace(rollouts, texts=texts)

    class Equal(EvenReward):
        def score(self, rollouts):
            return super().score(replace(rollouts, texts=("w0",) * len(rollouts.texts)))

    class Blind:
        """Knows no vector for what has no words."""

        def encode(self, rollouts):
            words = replace(rollouts, texts=tuple(text.strip() or "w0" for text in rollouts.texts))
            return stages.embed.encode(words).masked_fill(rollouts.empty_PK[..., None], 0.0)

    class Everywhere(RareCredit):
        def assign(self, rollouts, rewards, embeddings_PKD):
            return torch.ones_like(rewards.total_PK)

    steps = []
    silent = replace(stages, rollout=Silent([]), reward=Equal(), embed=Blind(), credit=Everywhere())
    train(silent, replace(PLAN, steps=1), [steps.append])
    assert steps[0].experience.credits_PK.tolist() == [[1.0, 0.0, 1.0, 1.0]] * 3


class TokensInOrder(RareCredit):
    """Pays the first sampled token of a completion 1, 2, 3 … by its place in the group; no completion as a whole."""

    def assign(self, rollouts, rewards, embeddings_PKD):
        return torch.zeros_like(rewards.total_PK)

    def assign_tokens(self, rollouts, rewards):
        first_BT = rollouts.sampled_BT & (rollouts.sampled_BT.cumsum(1) == 1)
        return first_BT * (torch.arange(len(rollouts.texts)) % rollouts.k + 1.0)[:, None]


class FirstIsMasked(EvenReward):
    def score(self, rollouts):
        rewards = super().score(rollouts)
        valid_PK = torch.ones_like(rewards.valid_PK)
        valid_PK[:, 0] = False
        return replace(rewards, total_PK=rewards.total_PK.masked_fill(~valid_PK, 0.0), valid_PK=valid_PK)


@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_credits_of_tokens_are_added_to_the_advantages_of_valid_completions(stages, alpha):
    plan, seen = replace(PLAN, steps=1, alpha=alpha), []
    stages = replace(stages, reward=FirstIsMasked())
    train(replace(stages, credit=TokensInOrder()), plan, [seen.append])
    rollouts, rewards = seen[0].experience.rollouts, seen[0].experience.rewards
    first_BT = rollouts.sampled_BT & (rollouts.sampled_BT.cumsum(1) == 1)
    paid_BT = first_BT * torch.tensor([0.0, 2.0, 3.0, 4.0]).repeat(3)[:, None]
    assert torch.equal(seen[0].experience.token_credits_BT, paid_BT)
    assert torch.equal(
        seen[0].targets.advantages_BT, rewards.total_PK.view(-1, 1) * rollouts.sampled_BT + alpha * paid_BT
    )


def test_a_credit_that_pays_no_tokens_leaves_the_advantages_as_they_are(stages):
    steps = []
    train(stages, replace(PLAN, steps=1), [steps.append])
    assert steps[0].experience.token_credits_BT is None


def test_a_token_s_credit_that_is_not_finite_stops_the_run(stages):
    class Broken(TokensInOrder):
        def assign_tokens(self, rollouts, rewards):
            return super().assign_tokens(rollouts, rewards) / 0

    with pytest.raises(StageError, match=r"\[credit, step 1, prompts \d\] a token's credit is not finite"):
        observed(replace(stages, credit=Broken()), PLAN)


@pytest.mark.parametrize(("alpha", "drawn"), [(1.0, 3), (0.0, 12)])
def test_groups_whose_tokens_are_paid_are_not_redrawn(stages, alpha, drawn):
    class Never(SumAdvantage):
        def has_signal(self, experience, *, alpha):
            return False

    steps = []
    stages = replace(stages, credit=TokensInOrder(), advantage=Never())
    train(stages, replace(PLAN, steps=1, redraws=3, alpha=alpha), [steps.append])
    assert steps[0].cursor == drawn
