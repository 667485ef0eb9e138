"""The page's application: its own files, its routes, and what it says when something is wrong."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.to_thread
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from tomoscribe.engine.class_map import ClassMap
from tomoscribe.engine.errors import TomoscribeError
from tomoscribe.engine.watch.ledger import Ledger
from tomoscribe.engine.watch.page.access import Access
from tomoscribe.engine.watch.page.answers import error_answer, kept_answer
from tomoscribe.engine.watch.page.routes import picture_routes, state_routes
from tomoscribe.engine.watch.page.slices import NoSliceError, Slices
from tomoscribe.engine.watch.page.views import Views
from tomoscribe.engine.watch.pictures import Pictures
from tomoscribe.engine.watch.settings import WatchSettings

__all__ = ["create_app"]

_LOG = logging.getLogger(__name__)

_THREADS = 8  # requests that read files at the same time; the others wait
_KEPT_OPEN = 30.0  # seconds that a file stays open after it was last read
_STATIC = Path(__file__).with_name("static")
_MEDIA_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}


def create_app(
    ledger_path: Path,
    settings: WatchSettings,
    class_map: ClassMap,
    *,
    token: str | None,
    allowed_hosts: Sequence[str],
) -> FastAPI:
    """Return the page as an ASGI application. It only answers GET and HEAD, see `Access` for whom.

    Args:
        ledger_path: the ledger, made if it is not there yet.
        settings: of the watcher.
        class_map: the model's.
        token: what clients have to know; None for a page that only this machine reaches.
        allowed_hosts: the names and addresses, without ports, that clients may reach it by; ``*`` allows any.

    Raises:
        OutputError: the ledger cannot be opened.
    """
    ledger = Ledger(ledger_path)
    slices = Slices(settings, class_map)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        anyio.to_thread.current_default_thread_limiter().total_tokens = _THREADS
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_close_unused, slices)
            yield
            tasks.cancel_scope.cancel()
        slices.close()
        ledger.close()

    # No description of the interface is served: its pages would load scripts from elsewhere.
    app = FastAPI(title="tomoscribe", openapi_url=None, redirect_slashes=False, lifespan=lifespan)
    views, pictures = Views(ledger, settings, class_map), Pictures(settings.places.pictures, class_map)
    app.include_router(state_routes(views, pictures, class_map, ledger_path))
    app.include_router(picture_routes(views, pictures, slices, settings))
    _add_files(app)
    _add_errors(app)
    app.add_middleware(Access, token=token, allowed_hosts=allowed_hosts)
    return app


async def _close_unused(slices: Slices) -> None:
    while True:
        await anyio.sleep(_KEPT_OPEN / 2)
        await run_in_threadpool(slices.close_unused, _KEPT_OPEN)


def _add_files(app: FastAPI) -> None:
    """Serve the page's own files, which are read now; a name that is asked for is looked up among theirs."""
    files = {path.name: path.read_bytes() for path in _STATIC.iterdir() if path.suffix in _MEDIA_TYPES}

    def file_answer(request: Request, name: str) -> Response:
        if name not in files:
            raise HTTPException(404, "there is no such file")
        tag = hashlib.sha256(files[name]).hexdigest()[:32]
        return kept_answer(request, files[name], _MEDIA_TYPES[Path(name).suffix], tag)

    @app.api_route("/", methods=["GET", "HEAD"])
    async def page(request: Request) -> Response:
        return file_answer(request, "index.html")

    @app.api_route("/static/{name}", methods=["GET", "HEAD"])
    async def static(request: Request, name: str) -> Response:
        return file_answer(request, name)


def _add_errors(app: FastAPI) -> None:
    """Have errors answered with one line, which names neither files nor code."""

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> Response:
        return error_answer(error.status_code, str(error.detail), error.headers)

    @app.exception_handler(RequestValidationError)
    async def not_understood(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        return error_answer(422, f"{first['loc'][-1]}: {first['msg']}")

    @app.exception_handler(NoSliceError)
    async def no_slice(request: Request, error: NoSliceError) -> Response:
        return error_answer(404, str(error))

    @app.exception_handler(TomoscribeError)
    async def failed(request: Request, error: TomoscribeError) -> Response:
        _LOG.error("the page cannot answer: %s", error)
        return error_answer(503, "the ledger cannot be read; the watcher's log has the reason")
