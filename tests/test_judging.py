"""Which threads judge, and what a service's error does to the groups of a step."""

import threading
from dataclasses import replace

import pytest

from dqo import distributed
from dqo.contracts import failing_together
from dqo.distributed import Channel
from dqo.errors import ServiceError
from dqo.evaluation import evaluate
from dqo.judging import judges
from dqo.loop import collect, train
from dqo.metrics.clock import Clock
from dqo.services import Refused
from tests.factories import make_rollouts
from tests.helpers.families import OF_TRAINING
from tests.helpers.on_ranks import on_ranks
from tests.helpers.scripted_stages import CityReward, scripted_stages
from tests.helpers.toy_stages import PLAN, EvenReward, OneHotEmbed, toy_stages

GROUP = make_rollouts(["w1", "w2"], 2)


class Meeting:
    """Counts who is there at once; ``meet`` waits until as many as ``wanted`` were."""

    def __init__(self, wanted: int):
        self.now = self.most = 0
        self.wanted, self.changed = wanted, threading.Condition()

    def meet(self) -> None:
        with self.changed:
            self.now += 1
            self.most = max(self.most, self.now)
            self.changed.notify_all()
            assert self.changed.wait_for(lambda: self.most >= self.wanted, timeout=30)
            self.now -= 1


class Meet(EvenReward):
    def __init__(self, meeting: Meeting):
        self.meeting = meeting

    def score(self, rollouts):
        self.meeting.meet()
        return super().score(rollouts)


class MeetInFives(Meet):
    calls_at_a_time = 5


def judged_by(stages, groups: int) -> None:
    with judges(stages) as judging:
        pending = [judging.submit(stages, Clock(), GROUP) for _ in range(groups)]
        assert all(each.rewards.result().valid_PK.all() for each in pending)


def test_a_reward_that_waits_for_a_service_judges_as_many_groups_as_it_says():
    meeting = Meeting(5)
    judged_by(replace(toy_stages(), reward=MeetInFives(meeting)), 12)
    assert meeting.most == 5


def test_other_rewards_and_encoders_share_two_threads():
    meeting = Meeting(2)

    class MeetToo(OneHotEmbed):
        def encode(self, rollouts):
            meeting.meet()
            return super().encode(rollouts)

    judged_by(replace(toy_stages(), reward=Meet(meeting), embed=MeetToo()), 6)
    assert meeting.most == 2


def test_after_an_error_the_groups_that_wait_are_not_judged():
    begun, go_on = threading.Semaphore(0), threading.Event()

    class Down(EvenReward):
        calls = 0

        def score(self, rollouts):
            Down.calls += 1
            begun.release()
            assert go_on.wait(30)
            raise ServiceError("reward", "down")

    stages = replace(toy_stages(), reward=Down())

    def both_at_work() -> None:
        assert begun.acquire(timeout=30) and begun.acquire(timeout=30)

    with pytest.raises(ZeroDivisionError), judges(stages) as judging:
        pending = [judging.submit(replace(stages, credit=NoEmbeddings()), Clock(), GROUP) for _ in range(9)]
        pending[-1].rewards.add_done_callback(lambda dropped: go_on.set())
        both_at_work()
        raise ZeroDivisionError
    assert Down.calls == 2


class NoEmbeddings:
    uses_embeddings = False

    def assign(self, rollouts, rewards, embeddings_PKD):
        raise AssertionError("nothing is credited")


def test_an_evaluation_judges_side_by_side_and_keeps_the_order():
    meeting = Meeting(3)

    class Cities(CityReward):
        calls_at_a_time = 3

        def score(self, rollouts):
            meeting.meet()
            return super().score(rollouts)

    stages, prompts = scripted_stages({0: ["Paris", "cut"], 1: ["Lima", "so"], 2: ["Oslo", "paris"]})
    alone = evaluate(stages, prompts, n=2, seed=0, families=OF_TRAINING)
    counts = []
    together = evaluate(
        replace(stages, reward=Cities()), prompts, n=2, seed=0, families=OF_TRAINING, observe=counts.append
    )
    assert together.metrics == pytest.approx(alone.metrics, nan_ok=True)
    assert [answers.texts for answers in together.answers] == [answers.texts for answers in alone.answers]
    assert (meeting.most, counts) == (3, [1, 1, 1])


class DownOnRank1(EvenReward):
    def score(self, rollouts):
        if distributed.rank() == 1 and rollouts.prompts[0].position > 5:
            raise Refused("reward", "reward.url=http://x refuses the request", status=413)
        return super().score(rollouts)


def test_a_service_s_error_on_one_rank_ends_the_step_on_all(tmp_path):
    def run(rank: int):
        finished = []
        stages = replace(toy_stages(), reward=DownOnRank1())
        try:
            train(stages, replace(PLAN, redraws=1), [lambda step: finished.append(step.number)])
        except ServiceError as error:
            return finished, error.stage, error.message, error.step

    told = on_ranks(2, tmp_path, run)
    assert told == [([1], "reward", "reward.url=http://x refuses the request", 2)] * 2


def test_without_an_error_ranks_go_on_with_what_is_theirs(tmp_path):
    def run(rank: int) -> str:
        with failing_together(Channel.MAIN):
            return f"of rank {rank}"

    assert on_ranks(2, tmp_path, run) == ["of rank 0", "of rank 1"]


def test_the_step_is_named_and_the_kind_of_the_error_stays():
    class Down(EvenReward):
        def score(self, rollouts):
            raise Refused("reward", "no", positions=[7], status=401, said="no")

    with pytest.raises(Refused, match=r"^\[reward, step 1, prompts 7\] no$"):
        train(replace(toy_stages(), reward=Down()), PLAN)
    with judges(stages := replace(toy_stages(), reward=Down())) as judging, pytest.raises(ServiceError):
        collect(stages, PLAN, judging, 0)
