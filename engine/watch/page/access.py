"""Who may ask a page for what, and how often; what is refused gets no further.

A page without a token is for its own machine alone. A website that is open in a browser there must not read it all the
same: the ``Host`` header has to name this machine (or a name that is made to point here later, DNS rebinding, would
do), and no other origin may embed what is sent.

With a token, everything but the page's own files asks for it: as ``Authorization: Bearer``, or as the cookie that is
given for ``/?token=…``. The files hold no data, and a page that was reached from another site has no cookie yet.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
from collections.abc import Sequence

from limits import RateLimitItemPerSecond
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tomoscribe.engine.watch.page.answers import error_answer

__all__ = ["Access"]

_LOG = logging.getLogger(__name__)

_LONGEST_ADDRESS = 2048
_LARGEST_HEADERS = 16 * 1024
# A slider that is dragged asks for a hundred pictures a second.
_REQUESTS = RateLimitItemPerSecond(2000, 10)
_COST_OF_WRONG_TOKEN = 100
_COOKIE_SECONDS = 30 * 24 * 3600

_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
        "frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Access:
    """ASGI middleware, the outermost one.

    Args:
        app: what answers the requests that pass.
        token: what a client has to know; None asks for nothing.
        allowed_hosts: names and addresses that the page is reached by, without ports; ``*`` allows any.
    """

    def __init__(self, app: ASGIApp, *, token: str | None, allowed_hosts: Sequence[str]) -> None:
        self._app = app
        self._token = None if token is None else _Token(token)
        self._hosts = frozenset(_host_name(host) for host in allowed_hosts if host)
        self._limiter = SlidingWindowCounterRateLimiter(MemoryStorage())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request or pass it on."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        request = Request(scope)
        answer = _Answer(send)
        try:
            refusal = await self._refusal(request)
            await (refusal or self._app)(scope, receive, answer.send)
        except ClientDisconnect:
            return
        except Exception:
            _LOG.exception("the page cannot answer %.200r", scope["path"])
            if not answer.begun:
                await error_answer(500, "something went wrong; the watcher's log has it")(scope, receive, answer.send)

    async def _refusal(self, request: Request) -> Response | None:
        """Return what is answered in place of what was asked for."""
        refusal = _malformed(request)
        if refusal is not None:
            return refusal
        if "*" not in self._hosts and _host_name(request.headers.get("host", "")) not in self._hosts:
            return error_answer(400, "this page has another name; open it by the address that the watcher printed")
        client = request.client.host if request.client else ""
        if not await self._limiter.hit(_REQUESTS, client):
            return _too_many()
        if self._token is None:
            return None
        if request.scope["path"] == "/" and "token" in request.query_params:
            if self._token.is_given(request.query_params["token"]):
                return self._token.welcome()
        elif _is_public(request.scope["path"]) or self._token.is_known(request):
            return None
        # Guessing uses the client's requests up.
        if not await self._limiter.hit(_REQUESTS, client, cost=_COST_OF_WRONG_TOKEN):
            return _too_many()
        return error_answer(
            401, "expected the watcher's token; open the page with /?token=…", {"WWW-Authenticate": "Bearer"}
        )


class _Token:
    """A token and the cookie that stands for it, from which it cannot be had back.

    Browsers tell cookies of one host's ports not apart, so the cookie's name is another for every token.
    """

    def __init__(self, token: str) -> None:
        self._token = token.encode()
        self._cookie = hmac.new(self._token, b"tomoscribe page", hashlib.sha256).hexdigest()
        self._name = f"tomoscribe_{hashlib.sha256(self._cookie.encode()).hexdigest()[:8]}"

    def is_given(self, text: str) -> bool:
        """Return whether a text is the token; how long this takes does not tell how much of it is right."""
        return hmac.compare_digest(text.encode("utf-8", "replace"), self._token)

    def is_known(self, request: Request) -> bool:
        """Return whether a request has the token or the cookie."""
        kind, _, text = request.headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and self.is_given(text.strip()):
            return True
        cookie = request.cookies.get(self._name, "")
        return hmac.compare_digest(cookie.encode("utf-8", "replace"), self._cookie.encode())

    def welcome(self) -> Response:
        """Return what gives the cookie, and leads to the page without the token in its address."""
        # A relative address, for a proxy may have the page under a path of its own.
        response = Response(status_code=303, headers={"Location": "./"})
        response.set_cookie(self._name, self._cookie, max_age=_COOKIE_SECONDS, httponly=True, samesite="strict")
        return response


class _Answer:
    """Sends an answer with the headers that all of them have.

    Attributes:
        begun: whether its first part was sent.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self.begun = False

    async def send(self, message: Message) -> None:
        """Send a part of it."""
        if message["type"] == "http.response.start":
            self.begun = True
            headers = MutableHeaders(scope=message)
            for name, value in _HEADERS.items():
                headers[name] = value
            headers.setdefault("Cache-Control", "no-store")
        await self._send(message)


def _malformed(request: Request) -> Response | None:
    scope = request.scope
    if request.method not in ("GET", "HEAD"):
        return error_answer(405, "expected GET or HEAD; this page changes nothing", {"Allow": "GET, HEAD"})
    if len(scope.get("raw_path") or scope["path"].encode()) + len(scope["query_string"]) > _LONGEST_ADDRESS:
        return error_answer(414, f"expected an address of at most {_LONGEST_ADDRESS} characters")
    if sum(len(name) + len(value) for name, value in scope["headers"]) > _LARGEST_HEADERS:
        return error_answer(431, f"expected headers of at most {_LARGEST_HEADERS} bytes")
    if request.headers.get("content-length", "0") != "0" or "transfer-encoding" in request.headers:
        return error_answer(413, "expected a request without a body", {"Connection": "close"})
    return None


def _too_many() -> Response:
    return error_answer(429, "too many requests; wait a moment", {"Retry-After": "2"})


def _is_public(path: str) -> bool:
    return path == "/" or path.startswith("/static/")


def _host_name(host: str) -> str:
    """Return the name in a ``Host`` header, without its port."""
    host = host.strip().lower()
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    # More than one colon without brackets is an IPv6 address as users write it.
    return f"[{host}]" if host.count(":") > 1 else host.partition(":")[0].removesuffix(".")
