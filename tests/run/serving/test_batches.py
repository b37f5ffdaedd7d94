"""What several clients ask for is worked on together, and each gets its own results or its own error."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from dqo.errors import ServiceError, StageError
from dqo.run.serving.batches import Busy, Lane, WorkFailed


class Work:
    """Upper case; the first batch waits until ``go``."""

    def __init__(self, *, wait: bool = False):
        self.batches: list[list[str]] = []
        self.go, self.began = threading.Event(), threading.Event()
        if not wait:
            self.go.set()

    def __call__(self, items: list[str]) -> list[str]:
        self.batches.append(items)
        self.began.set()
        self.go.wait()
        if "bad" in items:
            raise StageError("reward", "bad cannot be judged")
        if "away" in items:
            raise ServiceError("reward", "the judge does not answer")
        if "fault" in items:
            raise KeyError("column")
        return [item.upper() for item in items]


def lane_of(work: Work, *, most: int = 100, batch: int = 4) -> Lane[str, str]:
    return Lane(work, lambda item: 1, most=most, batch=batch)


def run(lane: Lane[str, str], clients: Callable[[], Awaitable[Any]]) -> Any:
    """What ``clients`` returns, while the lane works."""

    async def main() -> Any:
        worker = asyncio.create_task(lane.run())
        try:
            return await clients()
        finally:
            worker.cancel()

    return asyncio.run(main())


async def began(work: Work) -> None:
    """The first batch is worked on; whatever is asked from now on waits."""
    await asyncio.to_thread(work.began.wait)


def test_clients_that_come_together_share_a_batch():
    work = Work()
    lane = lane_of(work, batch=8)

    async def clients():
        return await asyncio.gather(lane.ask(["a", "b"]), lane.ask(["c"]), lane.ask([]))

    assert run(lane, clients) == [["A", "B"], ["C"], []]
    assert [sorted(batch) for batch in work.batches] == [["a", "b", "c"]] and lane.waiting == 0


def test_a_large_request_does_not_hold_up_small_ones():
    work = Work(wait=True)
    lane = lane_of(work, batch=2)

    async def clients():
        large = asyncio.create_task(lane.ask([f"l{n}" for n in range(10)]))
        await began(work)
        small = asyncio.create_task(lane.ask(["s"]))
        await asyncio.sleep(0)
        work.go.set()
        return await asyncio.gather(large, small)

    assert run(lane, clients) == [[f"L{n}" for n in range(10)], ["S"]]
    assert "s" in work.batches[1] and all(len(batch) <= 2 for batch in work.batches)


def test_more_than_may_wait_is_refused():
    work = Work(wait=True)
    lane = lane_of(work, most=5)

    async def clients():
        first = asyncio.create_task(lane.ask(["a", "b", "c"]))
        await began(work)
        with pytest.raises(Busy):
            await lane.ask(["d", "e", "f"])
        second = asyncio.create_task(lane.ask(["d", "e"]))
        await asyncio.sleep(0)
        assert lane.waiting == 5
        work.go.set()
        answers = await asyncio.gather(first, second)
        return [*answers, await lane.ask(["f", "g", "h", "i", "j"])]

    assert run(lane, clients) == [["A", "B", "C"], ["D", "E"], ["F", "G", "H", "I", "J"]]


def test_what_a_client_that_has_left_asked_for_is_dropped():
    work = Work(wait=True)
    lane = lane_of(work)

    async def clients():
        first = asyncio.create_task(lane.ask(["a"]))
        await began(work)
        leaving = asyncio.create_task(lane.ask(["x", "y"]))
        await asyncio.sleep(0)
        leaving.cancel()
        work.go.set()
        return [await first, await lane.ask(["b"])]

    assert run(lane, clients) == [["A"], ["B"]]
    assert work.batches == [["a"], ["b"]] and lane.waiting == 0


def test_an_error_is_that_of_its_client_alone(caplog):
    work = Work()
    lane = lane_of(work, batch=8)

    async def clients():
        asked = [lane.ask(["a"]), lane.ask(["bad"]), lane.ask(["fault"]), lane.ask(["fault", "b"])]
        return await asyncio.gather(*asked, return_exceptions=True)

    good, bad, *faults = run(lane, clients)
    assert good == ["A"]
    assert isinstance(bad, StageError) and bad.message == "bad cannot be judged"
    assert all(isinstance(fault, WorkFailed) and "KeyError: 'column'" in str(fault) for fault in faults)
    assert sum("a batch failed" in record.message for record in caplog.records) == 1, "one traceback of each fault"


def test_a_service_that_was_waited_for_in_vain_is_not_waited_for_by_each_request():
    work = Work()
    lane = lane_of(work, batch=8)

    async def clients():
        return await asyncio.gather(*(lane.ask([item]) for item in ("a", "away", "b")), return_exceptions=True)

    assert [type(each) for each in run(lane, clients)] == [ServiceError] * 3 and len(work.batches) == 1
