"""What has changed, told to browsers as it changes: server-sent events.

https://html.spec.whatwg.org/multipage/server-sent-events.html. Each listener has a place in the ledger's revisions, and
is told what changed since; one that was away says where it was (``Last-Event-ID``) and misses nothing. Nothing is kept
for those who are slow.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

from fastapi.sse import KEEPALIVE_COMMENT, EventSourceResponse, format_sse_event
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from tomoscribe.engine.errors import TomoscribeError
from tomoscribe.engine.watch.page.answers import encode_json, error_answer
from tomoscribe.engine.watch.page.views import Views

__all__ = ["EventStream", "Feed"]

_LOOK_SECONDS = 0.25
_STATUS_SECONDS = 10.0
_HEARTBEAT_SECONDS = 15.0
_MOST_LISTENERS = 32
_ROWS_AT_ONCE = 200


class Feed:
    """What listeners are told: the ledger is looked at once for all of them, at most four times a second.

    Args:
        views: of the ledger.
    """

    def __init__(self, views: Views) -> None:
        self._views = views
        self._lock = asyncio.Lock()
        self._looked = -_LOOK_SECONDS
        self._told = -_STATUS_SECONDS
        self._revision = -1
        self._status = ""
        self.listeners = 0

    async def status(self) -> tuple[int, str]:
        """Return the revision, and the status as JSON; the same text as before where there is nothing new to tell."""
        async with self._lock:
            now = time.monotonic()
            if now - self._looked >= _LOOK_SECONDS:
                self._looked = now
                if (
                    now - self._told >= _STATUS_SECONDS
                    or await run_in_threadpool(self._views.revision) != self._revision
                ):
                    status = await run_in_threadpool(self._views.status, time.time())
                    self._told, self._revision, self._status = now, status["revision"], encode_json(status)
            return self._revision, self._status

    async def changed_since(self, revision: int) -> list[tuple[int, str]]:
        """Return entries that have changed, each with its revision, as JSON, those that changed first."""
        found = await run_in_threadpool(self._views.changed_since, revision, _ROWS_AT_ONCE)
        return [(entry.revision, encode_json(self._views.entry(entry))) for entry in found]


class EventStream(EventSourceResponse):
    """The answer to one listener, as long as it listens.

    Args:
        feed: what it is told.
        request: what it asked.
    """

    def __init__(self, feed: Feed, request: Request) -> None:
        # X-Accel-Buffering: nginx is not to wait for more.
        super().__init__(self._events(), headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        self._feed = feed
        last = request.headers.get("last-event-id", "")
        self._since = int(last) if last.isdecimal() and len(last) < 19 else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or refuse where there are too many listeners already."""
        if self._feed.listeners >= _MOST_LISTENERS:
            refusal = error_answer(503, f"{_MOST_LISTENERS} pages listen already; close some", {"Retry-After": "30"})
            await refusal(scope, receive, send)
            return
        self._feed.listeners += 1
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._feed.listeners -= 1

    async def _events(self) -> AsyncIterator[bytes]:
        told, spoken = "", time.monotonic()
        try:
            revision, status = await self._feed.status()
            # A ledger that was begun anew counts from the start.
            since = revision if self._since is None or self._since > revision else self._since
            while True:
                if status != told or revision > since:
                    async for event in self._changes(since):
                        yield event
                    since, told, spoken = revision, status, time.monotonic()
                    yield format_sse_event(event="status", data_str=status, id=str(revision))
                elif time.monotonic() - spoken >= _HEARTBEAT_SECONDS:
                    spoken = time.monotonic()
                    yield KEEPALIVE_COMMENT
                await asyncio.sleep(_LOOK_SECONDS)
                revision, status = await self._feed.status()
        except TomoscribeError:
            # The ledger cannot be read: the browser asks again later, and is told so then.
            return

    async def _changes(self, since: int) -> AsyncIterator[bytes]:
        rows = await self._feed.changed_since(since)
        while rows:
            for since, row in rows:
                yield format_sse_event(event="tomogram", data_str=row, id=str(since))
            rows = await self._feed.changed_since(since) if len(rows) == _ROWS_AT_ONCE else []
