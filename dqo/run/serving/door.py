"""Who may ask, and how much is read at a time: checked by the header, before a body is read or parsed."""

import hmac

from prometheus_client import Counter
from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

OPEN = "/health"  # answers without a token
RETRY = {"Retry-After": "1"}


class Door:
    """ASGI middleware: 401 without the token, 503 where the bodies in memory would exceed ``most_bytes``."""

    def __init__(self, app: ASGIApp, *, token: str | None, max_body: int, most_bytes: int, requests: Counter):
        """``max_body``: bytes that a body without a Content-Length may have. ``requests``: counts answers by path and
        status."""
        self._app, self._max_body, self._most_bytes, self._requests = app, max_body, most_bytes, requests
        self._wanted = None if token is None else f"Bearer {token}".encode()
        self._held = 0  # bytes of the bodies of requests that are not answered

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or hand it on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._requests.labels(_path(scope), str(message["status"])).inc()
            await send(message)

        refusal = self._refusal(scope["path"], headers)
        size = 0 if refusal else self._size(headers)
        self._held += size
        try:
            await (refusal or self._app)(scope, receive, counted)
        finally:
            self._held -= size

    def _refusal(self, path: str, headers: Headers) -> JSONResponse | None:
        given = headers.get("authorization", "").encode("latin-1")
        if path != OPEN and self._wanted is not None and not hmac.compare_digest(given, self._wanted):
            said = "the token is wrong or missing: Authorization: Bearer $DQO_TOKEN"
            return JSONResponse({"detail": said}, 401, {"WWW-Authenticate": "Bearer"})
        if self._size(headers) and self._held + self._size(headers) > self._most_bytes:
            return JSONResponse({"detail": "too many requests are being read; try again"}, 503, RETRY)
        return None

    def _size(self, headers: Headers) -> int:
        """Bytes that the request's body may take; a longer one is refused by its length."""
        length = headers.get("content-length", "")
        if length.isdecimal():
            return min(int(length), self._max_body)
        return self._max_body if "transfer-encoding" in headers else 0


def _path(scope: Scope) -> str:
    """The path if the service has it: strangers' paths must not fill the metrics."""
    return scope["path"] if scope.get("route") is not None or scope["path"] == OPEN else "other"
