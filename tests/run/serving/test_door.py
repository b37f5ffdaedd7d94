"""Bodies in memory are bounded, whatever their headers say."""

import asyncio
from typing import Any

from prometheus_client import CollectorRegistry, Counter

from dqo.run.serving.door import Door


def asked(door: Door, *headers: tuple[bytes, bytes]) -> Any:
    """The status that the door gives a request."""
    scope = {"type": "http", "path": "/v1/score", "headers": [*headers]}
    sent = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request", "body": b""}

    async def call() -> int:
        await door(scope, receive, send)
        return sent[0]["status"]

    return call()


async def _waits(go: asyncio.Event, send: Any) -> None:
    await go.wait()
    await send({"type": "http.response.start", "status": 200, "headers": []})


def length(number: int) -> tuple[bytes, bytes]:
    return b"content-length", str(number).encode()


def test_bodies_in_memory_are_bounded():
    async def main() -> None:
        go = asyncio.Event()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await _waits(go, send)

        counter = Counter("requests", "of this test", ["path", "status"], registry=CollectorRegistry())
        door = Door(app, token=None, max_body=100, most_bytes=200, requests=counter)
        first = asyncio.create_task(asked(door, length(90)))
        second = asyncio.create_task(asked(door, (b"transfer-encoding", b"chunked")))  # up to 100 bytes
        await asyncio.sleep(0)
        assert await asked(door, length(11)) == 503
        third = asyncio.create_task(asked(door, length(10)))
        without = asyncio.create_task(asked(door))
        await asyncio.sleep(0)
        go.set()
        assert await asyncio.gather(first, second, third, without) == [200] * 4
        huge = asked(door, length(10**12))  # refused by its length, behind the door
        assert await huge == 200, "what was held was given back"

    asyncio.run(main())
