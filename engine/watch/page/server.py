"""The page's server: uvicorn in a thread, on a socket that is bound before anything else begins."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

import uvicorn
from starlette.types import ASGIApp

from tomoscribe.engine.errors import ParameterError, TomoscribeError
from tomoscribe.engine.watch.page.tokens import host_needs_token

__all__ = ["PageError", "PageServer", "host_needs_token"]

_LOG = logging.getLogger(__name__)
_UVICORN = logging.getLogger("uvicorn.error")

_LARGEST_HEAD = 16 * 1024  # bytes of a request's line and headers, before h11 answers 431
_MOST_CONNECTIONS = 128  # beyond which 503 is answered
_START_SECONDS = 30.0
_STOP_SECONDS = 2.0
_LOOK = 0.1


class PageError(TomoscribeError, RuntimeError):
    """A page that cannot be served."""

    exit_status = 1


class PageServer:
    """Serves an application from a thread of this process; a context manager that starts and stops it.

    What a proxy says of a client is not believed, responses do not name the server, and streams that are still read
    when it stops are cut off.

    Attributes:
        address: of the page, as a browser takes it.

    Args:
        make_app: makes the ASGI application, which is not begun where the port is taken.
        host: a name or an address of this machine; empty for all of its addresses.
        port: 0 takes one that is free.

    Raises:
        ParameterError: there is no such host, or the port is taken or not allowed.
    """

    def __init__(self, make_app: Callable[[], ASGIApp], host: str, port: int) -> None:
        self._listener = _bind(host, port)
        self.address = _address_of(self._listener)
        self._server = uvicorn.Server(
            uvicorn.Config(
                self._make(make_app),
                http="h11",
                ws="none",
                loop="asyncio",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                h11_max_incomplete_event_size=_LARGEST_HEAD,
                limit_concurrency=_MOST_CONNECTIONS,
                timeout_keep_alive=15,
                timeout_graceful_shutdown=0,
            )
        )
        self._thread = threading.Thread(target=self._run, name="page", daemon=True)
        self._error: BaseException | None = None
        self._relay = _Relay()

    def start(self) -> None:
        """Begin to answer.

        Raises:
            PageError: the server does not start; it is stopped.
        """
        _UVICORN.addHandler(self._relay)
        _UVICORN.propagate = False
        self._thread.start()
        deadline = time.monotonic() + _START_SECONDS
        while not self._server.started:
            if not self._thread.is_alive() or time.monotonic() > deadline:
                self.stop()
                raise PageError(
                    f"{self.address}: the page's server does not start ({self._error or 'no answer'}); "
                    "the log says more, and --no-page goes on without it"
                )
            time.sleep(0.01)

    def is_alive(self) -> bool:
        """Return whether it answers."""
        return self._thread.is_alive()

    def serve(self, stop: threading.Event) -> None:
        """Answer until it is to stop.

        Raises:
            PageError: the server does not start, or ends before.
        """
        with self:
            while not stop.wait(_LOOK):
                if not self.is_alive():
                    raise PageError(
                        f"{self.address}: the page's server ended ({self._error or 'the log says more'}); start again"
                    )

    def stop(self) -> None:
        """End all connections and close the socket; it may be stopped twice."""
        self._server.should_exit = True
        if self._thread.ident is not None:
            self._thread.join(_STOP_SECONDS)
        self._listener.close()
        _UVICORN.removeHandler(self._relay)
        _UVICORN.propagate = True

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _make(self, make_app: Callable[[], ASGIApp]) -> ASGIApp:
        try:
            return make_app()
        except BaseException:
            self._listener.close()
            raise

    def _run(self) -> None:
        try:
            self._server.run(sockets=[self._listener])
        except BaseException as error:  # uvicorn exits where the application does not start
            self._error = error
            _LOG.exception("the page's server ended")


class _Relay(logging.Handler):
    """Logs what uvicorn says of an application that fails; the rest of it is of browsers that come and go."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and not isinstance(record.exc_info[1], asyncio.CancelledError):
            _LOG.error("the page could not answer a request", exc_info=record.exc_info)


def _bind(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError) as error:
        raise ParameterError(
            f"--host {host}: expected a name or an address of this machine ({error}); "
            "leave it out for this machine alone"
        ) from error
    listener = socket.socket(family, kind, protocol)
    try:
        # Or a watcher that is started again would find the port of the one before taken for a minute.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_MOST_CONNECTIONS)
    except OSError as error:
        listener.close()
        raise ParameterError(_why_not(error, host, port)) from error
    return listener


def _address_of(listener: socket.socket) -> str:
    """Return the address of the page that answers on a socket; where all of this machine's do, one that works here."""
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - nothing is bound here
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def _why_not(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"port {port} of {host} is taken, maybe by another watcher; pass another --port, "
            "or --no-page if that one shows the same output folder"
        )
    if error.errno == errno.EACCES:
        return f"port {port}: only the administrator may take it; pass a --port of 1024 or above"
    return f"--host {host}, --port {port}: nothing can listen there ({error.strerror}); check both"
