"""Services over HTTP: how often a failed request is made again, and how long a service that is down is waited for."""

import json
import logging
import os
import random
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from pydantic import Field

from dqo.errors import ConfigError, ServiceError
from dqo.progress import duration
from dqo.ranges import Count, CountOrZero, Seconds

if TYPE_CHECKING:
    import httpx2

log = logging.getLogger(__name__)
T = TypeVar("T")
Part = TypeVar("Part")

DOWN = (429, 502, 503, 504, 529)  # overloaded, starting, or not behind its proxy: as if the connection were refused
FAILED = (408, 409, 425)  # and all from 500 on: the request may be made again
FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0  # seconds; each wait is twice the one before
LONGEST_ASKED = 60.0  # seconds that a service may ask to be left alone (Retry-After)
PROBE_SECONDS = 10.0  # for a service to show that it is there
_NOT_BY_A_PROXY = {f"all://{host}": None for host in ("localhost", "127.0.0.1", "[::1]")}  # whatever $HTTP_PROXY says
_jitter = random.Random()  # the run's own generators must not depend on failures


@dataclass(frozen=True, kw_only=True)
class Calls:
    """The keys of every client of a service."""

    concurrency: Annotated[Count, Field(le=1024, examples=[8])]  # requests at a time
    timeout: Seconds  # of one request
    retries: CountOrZero  # of a request: on a time limit, an error 500, an answer that cannot be read
    patience: Annotated[float, Field(ge=0, examples=["300.0"])]  # seconds that a service that is down is waited for


class Refused(ServiceError):
    """The service refuses a request, which it would refuse again. ``said``: its words."""

    def __init__(
        self, stage: str, message: str, *, positions: Sequence[int] = (), step: int | None = None, status: int = 0,
        said: str = "",
    ):  # fmt: skip
        super().__init__(stage, message, positions=positions, step=step)
        self.status, self.said = status, said


class _Failure(Exception):
    """A request failed and may be made again. ``after``: seconds that the service wants to be left alone."""

    def __init__(self, said: str, *, is_down: bool, after: float | None = None):
        super().__init__(said)
        self.is_down, self.after = is_down, after


@dataclass
class _Host:
    """One address of a service."""

    url: str
    running: int = 0  # requests
    failures: int = 0  # in a row: tries at different times
    next_try: float = 0.0
    down_since: float | None = None


@dataclass
class _Request:
    """One request and its failures."""

    failures: int = 0
    down_since: float | None = None


class Service:
    """A service at one or several addresses, asked by any number of threads.

    A request goes to the address that is up and has the least to do. Where an address is down (refused connection,
    429, 502, 503, 504), the request goes to another one; where all are, it waits, longer and longer, for ``patience``
    seconds. Where the service fails otherwise (500, ``timeout``, an answer that cannot be read), the request is made
    ``retries`` times more. Then ServiceError. An outage is logged once, and its end.

    ``key``: the key of the addresses, such as ``reward.url``; ``stage``: for messages. ``token``: the environment
    variable that holds a bearer token, or none. ``advice``: by HTTP status, what to type.
    """

    def __init__(
        self, urls: Sequence[str], calls: Calls, *, key: str, stage: str, token: str,
        advice: Mapping[int, str] = MappingProxyType({}),
    ):  # fmt: skip
        """Raises ConfigError for an address that is none. Sends nothing."""
        import httpx2

        self.calls, self._key, self._stage, self._token = calls, key, stage, token
        self._advice = {401: f"set {token} in the environment", 403: f"set {token} in the environment", **advice}
        self._hosts = [_Host(_checked(url, key)) for url in urls]
        headers = {"Content-Type": "application/json", **_authorization(token)}
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=calls.concurrency)
        self._client = httpx2.Client(timeout=calls.timeout, headers=headers, limits=limits, mounts=_NOT_BY_A_PROXY)
        self._threads = ThreadPoolExecutor(calls.concurrency)
        self._gate, self._lock = threading.BoundedSemaphore(calls.concurrency), threading.Lock()
        self._down_since: float | None = None  # of the whole service: since then nothing was answered
        self.repeated = 0  # requests made again, since the start

    def probe(
        self, path: str = "", *, refused: Sequence[int] = (401, 403), posted: bytes | None = None
    ) -> bytes | None:
        """What each address answers to GET, the last one's; None: an error. Raises ConfigError where nothing answers,
        and for a status of ``refused``, such as a wrong token: before any work a service is not waited for.
        ``posted``: a request without work, sent where there is nothing to GET; what its answer says counts then."""
        import httpx2

        body = None
        for host in self._hosts:
            try:
                reply = self._client.get(_joined(host.url, path), timeout=PROBE_SECONDS)
                if posted is not None and reply.status_code == 404:
                    reply = self._client.post(_joined(host.url, path), content=posted, timeout=PROBE_SECONDS)
            except (httpx2.HTTPError, httpx2.InvalidURL) as error:
                raise ConfigError(self._no_answer(host, _said_by(error), "")) from error
            if reply.status_code in refused:
                raise ConfigError(self._refusal(host, reply.status_code, _said(reply.status_code, reply.content)))
            body = reply.content if reply.is_success else None
        return body

    def post(self, body: bytes, read: Callable[[bytes], T], *, path: str = "") -> T:
        """What ``read`` makes of the answer to ``body``, JSON. ``read`` raises ValueError for an answer that it cannot
        read, which counts as a failure. Thread-safe.

        Raises Refused for a request that would fail again, and ServiceError where retries or patience are used up.
        """
        request = _Request()
        with self._gate:
            while True:
                host, wait = self._chosen()
                time.sleep(wait)
                try:
                    answer = read(self._sent(host, path, body))
                except _Failure as failure:
                    time.sleep(self._failed(host, request, failure))
                except (ValueError, RecursionError) as error:  # JSON may be nested too deeply
                    failure = _Failure(f"cannot be read: {one_line(error)}", is_down=False)
                    time.sleep(self._failed(host, request, failure))
                else:
                    self._answered(host)
                    return answer
                finally:
                    with self._lock:
                        host.running -= 1

    def submit(self, ask: Callable[..., T], *arguments: Any) -> Future[T]:
        """Call ``ask``, which posts, in one of ``concurrency`` threads."""
        return self._threads.submit(ask, *arguments)

    def side_by_side(self, ask: Callable[[Part], T], parts: Sequence[Part]) -> list[T]:
        """What ``ask``, which posts, makes of each part, in order. After an error what has not begun is dropped."""
        asked = [self.submit(ask, part) for part in parts]
        try:
            return [each.result() for each in asked]
        finally:
            for each in asked:
                each.cancel()

    def close(self) -> None:
        """Close the connections."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._client.close()

    def _chosen(self) -> tuple[_Host, float]:
        """The address for a request, and the seconds to wait before it is asked."""
        with self._lock:
            now = time.monotonic()
            host = min(self._hosts, key=lambda host: (max(host.next_try - now, 0.0), host.running))
            host.running += 1
            return host, max(host.next_try - now, 0.0)

    def _sent(self, host: _Host, path: str, body: bytes) -> bytes:
        """The body of the answer."""
        import httpx2

        until = time.monotonic() + self.calls.timeout
        try:
            with self._client.stream("POST", _joined(host.url, path), content=body) as reply:
                content = b"".join(_within(reply.iter_bytes(), until))
        except httpx2.HTTPError as error:
            slow = isinstance(error, httpx2.TimeoutException) and not isinstance(error, httpx2.ConnectTimeout)
            broken = not isinstance(error, httpx2.TransportError)  # not the compression that its header says
            raise _Failure(_said_by(error), is_down=not slow and not broken) from error
        if reply.is_success:
            return content
        status, said = reply.status_code, _said(reply.status_code, content)
        if status in DOWN or status in FAILED or status >= 500:
            raise _Failure(said, is_down=status in DOWN, after=_asked_wait(reply))
        raise Refused(self._stage, self._refusal(host, status, said), status=status, said=said)

    def _answered(self, host: _Host) -> None:
        with self._lock:
            since, host.down_since, host.failures, host.next_try = host.down_since, None, 0, 0.0
            self._down_since = None
        if since is not None:
            log.info("%s=%s answers again, after %s", self._key, host.url, duration(time.monotonic() - since))

    def _failed(self, host: _Host, request: _Request, failure: _Failure) -> float:
        """Seconds until the request is made again; raises ServiceError where it is not."""
        if failure.is_down:
            self._note_down(host, request, failure)
            return 0.0  # the next address has its own time
        if request.failures >= self.calls.retries:
            many = f" {request.failures + 1} times" if request.failures else ""
            raise ServiceError(self._stage, f"{self._key}={host.url} fails{many} ({failure}); {self._hint()}")
        with self._lock:
            self.repeated += 1
            first = self.repeated == 1
        if first:
            log.warning("%s=%s fails (%s); requests are made again, and counted", self._key, host.url, failure)
        request.failures += 1
        return growing_wait(request.failures) if failure.after is None else min(failure.after, LONGEST_ASKED)

    def _note_down(self, host: _Host, request: _Request, failure: _Failure) -> None:
        """Note when the address is asked next. Raises ServiceError where it was waited for long enough: this request,
        and the whole service, so that requests that come later do not wait as long again."""
        patience = self.calls.patience
        with self._lock:
            now = time.monotonic()
            self._down_since = now if self._down_since is None else self._down_since
            request.down_since = now if request.down_since is None else request.down_since
            left = patience - (now - min(self._down_since, request.down_since))
            first, host.down_since = host.down_since is None, host.down_since or now
            if now >= host.next_try:  # of the requests that fail together, one makes the wait grow
                host.failures += 1
                wait = growing_wait(host.failures) if failure.after is None else min(failure.after, LONGEST_ASKED)
                host.next_try = now + min(wait, max(left, 0.0))
            self.repeated += left > 0
        if left <= 0:
            waited = f", though it was waited for {duration(patience)}" if patience else ""
            raise ServiceError(self._stage, self._no_answer(host, str(failure), waited))
        if first:
            log.warning(
                "%s=%s does not answer (%s); it is waited for, up to %s", self._key, host.url, failure,
                duration(patience),
            )  # fmt: skip

    def _no_answer(self, host: _Host, said: str, waited: str) -> str:
        return f"{self._key}={host.url} does not answer ({said}){waited}; {self._hint()}"

    def _hint(self) -> str:
        return f"start that service, or type another {self._key}"

    def _refusal(self, host: _Host, status: int, said: str) -> str:
        what = "the key" if status in (401, 403) else "the request"
        return f"{self._key}={host.url} refuses {what} ({said}); {self._advice.get(status, self._hint())}"


def growing_wait(failures: int) -> float:
    """Seconds to wait after that many failures in a row, from 1: twice the wait before, up to a quarter less."""
    return min(FIRST_WAIT * 2 ** (min(failures, 10) - 1), LONGEST_WAIT) * _jitter.uniform(0.75, 1.0)


def one_line(text: object) -> str:
    """The beginning of an untrusted text on one line; control characters are escaped where it is printed."""
    return textwrap.shorten(str(text), 200, placeholder=" …")


def _checked(url: str, key: str) -> str:
    """The address. Raises ConfigError."""
    import httpx2

    try:
        parsed = httpx2.URL(url)
    except (httpx2.InvalidURL, ValueError):
        parsed = httpx2.URL("")
    if parsed.scheme not in ("http", "https") or not parsed.host or "%" in parsed.host:
        raise ConfigError(f"{key}={url}: no URL; type {key}=http://HOST:PORT")
    if parsed.userinfo:
        raise ConfigError(f"{key}: a URL with a password in it would be written into files; leave NAME:PASSWORD@ out")
    return url


def _joined(url: str, path: str) -> str:
    return f"{url.rstrip('/')}{path}" if path else url


def _authorization(token: str) -> dict[str, str]:
    """The header with the secret of this environment variable; none without one. Raises ConfigError, which does not
    show the secret."""
    secret = os.environ.get(token, "").strip()
    if not (secret.isascii() and secret.isprintable()):
        raise ConfigError(f"{token} in the environment holds characters that a header cannot have; set it anew")
    return {"Authorization": f"Bearer {secret}"} if secret else {}


def _within(chunks: Iterator[bytes], until: float) -> Iterator[bytes]:
    """The chunks; httpx2's own limit is on each of them alone."""
    import httpx2

    for chunk in chunks:
        if time.monotonic() > until:
            raise httpx2.ReadTimeout("timed out")
        yield chunk


def _asked_wait(reply: "httpx2.Response") -> float | None:
    """Seconds that the service asks to be left alone; None: it does not say, or gives a date."""
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        text = reply.headers.get(name, "")
        if text.strip().isdecimal():
            return float(text) / unit
    return None


def _said_by(error: Exception) -> str:
    return one_line(str(error) or type(error).__name__)


def _said(status: int, content: bytes) -> str:
    """An error's own words, in OpenAI's form or FastAPI's, or its first line."""
    text = content[:10_000].decode("utf-8", "replace")
    try:
        body: Any = json.loads(text)
        found = body.get("error", body)
        text = found if isinstance(found, str) else found.get("message") or found.get("detail") or text
    except (ValueError, AttributeError, RecursionError):  # no JSON, or no object
        pass
    return one_line(f"HTTP {status}: {text}" if str(text).strip() else f"HTTP {status}")
