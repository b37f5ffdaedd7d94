"""Work for many clients in common batches: one worker, and a bound on the texts that wait."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from dqo.errors import ServiceError, StageError

log = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")

FAULTS = 20  # of which a traceback is logged
GATHERING = 0.005  # seconds that an idle worker waits for more requests after the first


class Busy(Exception):
    """As many texts wait as are allowed."""


class WorkFailed(Exception):
    """The work raised something that is a fault of its own: not a StageError."""


@dataclass(eq=False)
class _Request(Generic[Item, Result]):
    """The items of one client's request, and the results so far."""

    items: Sequence[Item]
    answer: asyncio.Future[list[Result]]
    results: dict[int, Result] = field(default_factory=dict)
    taken: int = 0  # items that were put into a batch


Taken = list[tuple[_Request[Item, Result], int]]  # items of a batch: the request, and the index in it


class Lane(Generic[Item, Result]):
    """Calls ``work`` in a thread, for one batch at a time. A batch takes an item of each waiting request in turn, so
    that a large request does not hold up small ones."""

    def __init__(
        self, work: Callable[[list[Item]], Sequence[Result]], texts: Callable[[Item], int], *, most: int, batch: int
    ):  # fmt: skip
        """``work`` gives the result of each item. ``texts``: of an item. ``most``: texts that may wait. ``batch``: a
        batch is full with so many."""
        self._work, self._texts, self._most, self._batch = work, texts, most, batch
        self._pending: deque[_Request[Item, Result]] = deque()
        self._arrived = asyncio.Event()
        self._faults: set[str] = set()
        self.waiting = 0  # texts that were accepted and are not answered

    async def ask(self, items: Sequence[Item]) -> list[Result]:
        """The results of the items. Raises Busy, StageError and WorkFailed. Where the caller is cancelled,
        items that are in no batch yet are dropped."""
        texts = sum(map(self._texts, items))
        if self.waiting + texts > self._most:
            raise Busy
        if not items:
            return []
        request = _Request[Item, Result](items, asyncio.get_running_loop().create_future())
        self.waiting += texts
        self._pending.append(request)
        self._arrived.set()
        try:
            return await request.answer
        finally:
            self.waiting -= texts

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            if not self._pending:
                self._arrived.clear()
                await self._arrived.wait()
                await asyncio.sleep(GATHERING)
            if batch := self._next():
                for request, results in (await self._results(batch)).items():
                    _deliver(request, results)

    def _next(self) -> Taken[Item, Result]:
        """The next batch; requests whose clients have left are dropped."""
        taken: Taken[Item, Result] = []
        texts = 0
        while self._pending and texts < self._batch:
            request = self._pending.popleft()
            if request.answer.done():
                continue
            taken.append((request, request.taken))
            texts += self._texts(request.items[request.taken])
            request.taken += 1
            if request.taken < len(request.items):
                self._pending.append(request)
        return taken

    async def _results(self, taken: Taken[Item, Result]) -> dict[_Request[Item, Result], dict[int, Result] | Exception]:
        """Each request's results, by index, or its error. An error of a batch need not be that of all its requests:
        each is then tried alone, unless a service that the work asks was waited for in vain."""
        requests = dict.fromkeys(request for request, _ in taken)
        found = await self._done([request.items[index] for request, index in taken])
        if isinstance(found, Exception):
            if len(requests) == 1 or isinstance(found, ServiceError):
                return dict.fromkeys(requests, found)
            alone = [[each for each in taken if each[0] is request] for request in requests]
            return {request: each for one in alone for request, each in (await self._results(one)).items()}
        pairs = [*zip(taken, found, strict=True)]
        return {
            request: {index: result for (owner, index), result in pairs if owner is request} for request in requests
        }

    async def _done(self, items: list[Item]) -> Sequence[Result] | Exception:
        """The result of each item, or the error of the batch. The traceback of each fault is logged once."""
        try:
            return await asyncio.to_thread(self._work, items)
        except StageError as error:
            return error
        except Exception as error:
            said = f"{type(error).__name__}: {error}"
            if said not in self._faults and len(self._faults) < FAULTS:
                self._faults.add(said)
                log.exception("a batch failed; later ones with the same error are not logged")
            return WorkFailed(said)


def _deliver(request: _Request[Item, Result], results: dict[int, Result] | Exception) -> None:
    if request.answer.done():
        return
    if isinstance(results, Exception):
        request.answer.set_exception(results)
        return
    request.results |= results
    if len(request.results) == len(request.items):
        request.answer.set_result([request.results[index] for index in range(len(request.items))])
