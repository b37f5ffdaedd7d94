import json
import logging
import threading
from contextlib import ExitStack

import pytest

from dqo import services
from dqo.errors import ConfigError, ServiceError
from dqo.services import LONGEST_WAIT, Calls, Service, growing_wait
from tests.helpers.http_server import Hangup, http_server


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    monkeypatch.setattr(services, "FIRST_WAIT", 0.01)


def service(*servers, **changes) -> Service:
    settings = {"concurrency": 4, "retries": 5, "timeout": 5.0, "patience": 30.0}
    urls = [server if isinstance(server, str) else server.url for server in servers]
    return Service(urls, Calls(**(settings | changes)), key="reward.url", stage="reward", token="DQO_TOKEN")


def number_in(body: bytes) -> int:
    """The answer of a server that repeats what was sent."""
    value = json.loads(body)["said"]
    if not isinstance(value, int):
        raise ValueError(f"said is {value!r}, a number is needed")
    return value


def echo(number, request):
    return 200, {"said": request["say"]}


def ask(given: Service, number: int = 7) -> int:
    return given.post(json.dumps({"say": number}).encode(), number_in, path="/echo")


def test_a_request_and_its_answer(monkeypatch):
    monkeypatch.setenv("DQO_TOKEN", " the token\n")
    with http_server(echo) as server:
        given = service(f"{server.url}/")
        assert [ask(given, 1), ask(given, 2)] == [1, 2]
    assert (server.paths, server.keys) == (["/echo"] * 2, ["Bearer the token"] * 2)
    assert given.repeated == 0


@pytest.mark.parametrize("status", [500, 408, 520])
def test_five_failures_are_repeated_and_counted(status, caplog):
    with http_server(lambda number, request: (status, b"oh") if number < 5 else echo(number, request)) as server:
        given = service(server)
        assert ask(given) == 7
    assert (given.repeated, len(server.requests)) == (5, 6)
    assert [record.message for record in caplog.records if record.levelno == logging.WARNING] == [
        f"reward.url={server.url} fails (HTTP {status}: oh); requests are made again, and counted"
    ]


@pytest.mark.parametrize("broken", [b"{", b"", b"<html>", {"said": "7"}, {"other": 1}, b"\xff", b"[" * 100_000])
def test_an_answer_that_cannot_be_read_is_asked_for_again_and_then_ends_the_work(broken):
    def read(body: bytes) -> int:
        try:
            return number_in(body)
        except KeyError as error:
            raise ValueError("said is missing") from error

    with http_server(lambda number, request: (200, broken) if number < 2 else echo(number, request)) as server:
        assert service(server).post(b'{"say": 3}', read) == 3
    with (
        http_server(lambda number, request: (200, broken)) as server,
        pytest.raises(ServiceError, match=r"fails 3 times \(cannot be read: .*\); start that service, or type another"),
    ):
        service(server, retries=2).post(b'{"say": 3}', read)


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_a_service_that_is_down_is_waited_for_longer_than_retries(status, caplog):
    caplog.set_level(logging.INFO)
    with http_server(lambda number, request: (status, b"later") if number < 9 else echo(number, request)) as server:
        given = service(server, retries=0)
        assert ask(given) == 7
    assert given._down_since is None, "the next outage has its own patience"
    said = [record.message for record in caplog.records if record.name == "dqo.services"]
    assert said == [
        f"reward.url={server.url} does not answer (HTTP {status}: later); it is waited for, up to 30 s",
        f"reward.url={server.url} answers again, after 0 s",
    ]


def test_a_service_that_dies_in_the_middle_of_requests_and_comes_back_loses_nothing():
    """It hangs up on two requests and is gone; another one starts at its address once a request was refused."""
    refused = threading.Event()

    class Watched(Service):
        def _note_down(self, host, request, failure):
            super()._note_down(host, request, failure)
            if "refused" in str(failure):
                refused.set()

    def die(number, request):
        raise Hangup

    found: dict[int, int] = {}
    with ExitStack() as stack:
        first = stack.enter_context(http_server(die))
        calls = Calls(concurrency=4, retries=0, timeout=5.0, patience=60.0)
        given = Watched([first.url], calls, key="reward.url", stage="reward", token="DQO_TOKEN")
        threads = [threading.Thread(target=lambda n=n: found.update({n: ask(given, n)})) for n in range(4)]
        for thread in threads:
            thread.start()
        stack.close()
        assert refused.wait(30)
        with http_server(echo, port=first.port) as second:
            for thread in threads:
                thread.join(30)
    assert found == {n: n for n in range(4)}
    assert sorted(request["say"] for request in second.requests) == [0, 1, 2, 3]


def test_a_service_that_does_not_come_back_ends_the_work_with_its_name(caplog):
    with http_server(echo) as server:
        pass
    given = service(server, patience=0.3, retries=0)
    with pytest.raises(
        ServiceError,
        match=rf"^\[reward\] reward.url={server.url} does not answer \(.*Connection refused\), though it was waited "
        r"for 0 s; start that service, or type another reward.url$",
    ):
        ask(given)
    caplog.clear()
    with pytest.raises(ServiceError):  # at once: nothing was answered since then
        ask(given)
    assert not caplog.records


def test_without_patience_a_service_that_is_down_is_not_waited_for():
    with http_server(lambda number, request: (503, b"")) as server, pytest.raises(ServiceError, match="HTTP 503"):
        ask(service(server, patience=0.0))
    assert len(server.requests) == 1


def test_a_slow_service_is_repeated_after_the_time_limit():
    stop = threading.Event()

    def answer(number, request):
        if number == 0:
            stop.wait(30)
        return echo(number, request)

    with http_server(answer) as server:
        try:
            assert ask(service(server, timeout=0.2)) == 7
        finally:
            stop.set()
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (400, {"detail": "bad\nrequest"}, r"refuses the request \(HTTP 400: bad request\)"),
        (401, {"error": "no token"}, r"refuses the key \(HTTP 401: no token\); set DQO_TOKEN in the environment"),
        (403, b"", r"refuses the key \(HTTP 403\); set DQO_TOKEN in the environment"),
        (413, {"error": {"message": "large"}}, r"refuses the request \(HTTP 413: large\)"),
        (307, b"moved", r"refuses the request \(HTTP 307: moved\)"),
    ],
)
def test_what_a_service_refuses_is_not_repeated(status, body, message):
    with (
        http_server(lambda number, request: (status, body)) as server,
        pytest.raises(ServiceError, match=rf"^\[reward\] reward.url={server.url} {message}"),
    ):
        ask(service(server))
    assert len(server.requests) == 1


def test_requests_go_to_the_address_that_is_up(caplog):
    with http_server(echo) as gone:
        pass
    with http_server(echo) as up:
        given = service(gone, up)
        assert [ask(given, n) for n in range(20)] == [*range(20)]
    assert len(up.requests) == 20
    assert len([record for record in caplog.records if "does not answer" in record.message]) == 1


def test_requests_are_spread_over_the_addresses():
    barrier = threading.Barrier(4, timeout=30)

    def together(number, request):
        barrier.wait()
        return echo(number, request)

    with http_server(together) as one, http_server(together) as other:
        given = service(one, other)
        threads = [threading.Thread(target=ask, args=(given,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert (len(one.requests), len(other.requests)) == (2, 2)


def test_waits_grow_to_a_limit():
    waits = [growing_wait(failures) for failures in range(1, 30)]
    for failures, wait in enumerate(waits, 1):
        full = min(services.FIRST_WAIT * 2 ** min(failures - 1, 9), LONGEST_WAIT)
        assert 0.75 * full <= wait <= full


def test_a_service_is_probed_before_any_work():
    with http_server(echo, got=(200, {"status": "ok"})) as server:
        assert service(server).probe("/health") == b'{"status": "ok"}'
    with pytest.raises(ConfigError, match=r"^reward.url=.* does not answer \(.*refused\); start that service, or type"):
        service(server).probe()
    with http_server(echo, got=(404, {})) as server:
        assert service(server).probe() is None
    with (
        http_server(echo, got=(401, {"detail": "no"})) as server,
        pytest.raises(ConfigError, match=r"refuses the key \(HTTP 401: no\); set DQO_TOKEN in the environment"),
    ):
        service(server).probe()


@pytest.mark.parametrize("url", ["localhost:5000", "", "http://", "ftp://host", "http://[bad", "http://a b", "/score"])
def test_what_is_no_url_is_refused(url):
    with pytest.raises(ConfigError, match=r"^reward.url=.*: no URL; type reward.url=http://HOST:PORT$"):
        service(url)


def test_a_password_is_no_part_of_a_url():
    with pytest.raises(ConfigError, match="leave NAME:PASSWORD@ out") as refused:
        service("http://me:hunter22@host:80")
    assert "hunter22" not in str(refused.value)


def test_a_token_that_no_header_can_hold_is_refused_and_not_shown(monkeypatch):
    monkeypatch.setenv("DQO_TOKEN", "secret\nvalue")
    with pytest.raises(ConfigError, match=r"^DQO_TOKEN in the environment holds characters") as refused:
        service("http://host")
    assert "secret" not in str(refused.value)


def test_a_service_of_this_machine_is_not_asked_by_a_proxy(monkeypatch):
    with http_server(echo) as gone:
        pass
    monkeypatch.setenv("HTTP_PROXY", gone.url)
    monkeypatch.delenv("NO_PROXY", raising=False)
    with http_server(echo) as server:
        assert ask(service(server)) == 7
    assert server.paths == ["/echo"]


def test_parts_are_asked_side_by_side_in_order_by_as_many_threads_as_concurrency():
    barrier = threading.Barrier(3, timeout=30)

    def together(number, request):
        barrier.wait()
        return echo(number, request)

    with http_server(together) as server:
        given = service(server, concurrency=3)
        callers = [threading.Thread(target=lambda: found.append(given.side_by_side(say, range(6)))) for _ in range(2)]

        def say(number: int) -> int:
            names.add(threading.current_thread().name)
            return ask(given, number)

        found: list[list[int]] = []
        names: set[str] = set()
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
        given.close()
    assert found == [[*range(6)]] * 2
    assert (server.most_at_once, len(names)) == (3, 3)


def test_after_an_error_no_further_part_is_asked():
    with http_server(lambda number, request: (400, b"bad")) as server, pytest.raises(ServiceError, match="HTTP 400"):
        given = service(server, concurrency=1)
        given.side_by_side(lambda number: ask(given, number), range(50))
    assert len(server.requests) < 50
