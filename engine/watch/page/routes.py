"""What a page answers: a route each, and all of them only read."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, HTTPException, Query, Request
from fastapi import Path as PathParameter
from fastapi.responses import Response

from tomoscribe.engine.class_map import ClassMap
from tomoscribe.engine.errors import TomoscribeError
from tomoscribe.engine.watch.entry import Entry, State
from tomoscribe.engine.watch.ledger_queries import Sort
from tomoscribe.engine.watch.metrics import CONTENT_TYPE, render
from tomoscribe.engine.watch.page.answers import has_tag, json_answer, kept_answer
from tomoscribe.engine.watch.page.events import EventStream, Feed
from tomoscribe.engine.watch.page.inside import open_inside
from tomoscribe.engine.watch.page.slices import NoSliceError, SlicePicture, Slices
from tomoscribe.engine.watch.page.views import Views
from tomoscribe.engine.watch.pictures import Pictures, content_key
from tomoscribe.engine.watch.settings import Places, WatchSettings

__all__ = ["picture_routes", "state_routes"]

_READ = ["GET", "HEAD"]
_WEBP, _PNG = "image/webp", "image/png"
_LONGEST_SPAN = 24.0 * 366  # hours

Number = Annotated[int, PathParameter(ge=1, le=2**63 - 1)]
Z = Annotated[int, PathParameter(ge=0, le=10**6)]


def state_routes(views: Views, pictures: Pictures, class_map: ClassMap, ledger_path: Path) -> APIRouter:
    """Return the routes for what the ledger knows.

    Args:
        views: of the ledger.
        pictures: for which slice a preview is of.
        class_map: the model's.
        ledger_path: the ledger, for the metrics.
    """
    router = APIRouter()
    feed = Feed(views)
    names = [label_class.name for label_class in class_map.classes]

    @router.api_route("/api/status", methods=_READ)
    def status() -> Response:
        return json_answer(views.status(time.time()))

    @router.api_route("/api/tomograms", methods=_READ)
    def tomograms(
        sort: Sort = "time",
        class_name: Annotated[str | None, Query(alias="class", max_length=200)] = None,
        descending: bool = True,
        states: Annotated[str, Query(max_length=200)] = "",
        search: Annotated[str, Query(max_length=200)] = "",
        offset: Annotated[int, Query(ge=0, le=10**9)] = 0,
        limit: Annotated[int, Query(ge=1, le=200)] = 50,
    ) -> Response:
        if sort == "class" and class_name not in names:
            raise HTTPException(422, f"class: expected one of {', '.join(names)} to sort by")
        return json_answer(
            views.tomograms(
                sort=sort,
                class_name=class_name,
                descending=descending,
                states=_parse_states(states),
                search=search,
                offset=offset,
                limit=limit,
            )
        )

    @router.api_route("/api/tomograms/{number}", methods=_READ)
    def tomogram(number: Number) -> Response:
        entry = _entry(views, number)
        preview = pictures.preview(entry)
        return json_answer(views.tomogram(entry, None if preview is None else preview[2]))

    @router.api_route("/api/throughput", methods=_READ)
    def throughput(hours: Annotated[float, Query(gt=0.01, le=_LONGEST_SPAN)] = 12.0) -> Response:
        return json_answer(views.throughput(time.time(), hours))

    @router.api_route("/health", methods=_READ)
    def health() -> Response:
        try:
            healthy, reason = views.health(time.time())
        except TomoscribeError:
            healthy, reason = False, "the ledger cannot be read"
        return json_answer({"healthy": healthy, "reason": reason}, 200 if healthy else 503)

    @router.api_route("/metrics", methods=_READ)
    def metrics() -> Response:
        views.revision()  # where the ledger was removed, `render` would make another
        return Response(render(ledger_path), headers={"Content-Type": CONTENT_TYPE})

    @router.get("/events")
    async def events(request: Request) -> Response:
        await feed.status()  # what fails can only be told before a stream begins
        return EventStream(feed, request)

    return router


def picture_routes(views: Views, pictures: Pictures, slices: Slices, settings: WatchSettings) -> APIRouter:
    """Return the routes for pictures of a tomogram, which are named by numbers alone.

    Args:
        views: of the ledger.
        pictures: those that are on the disk.
        slices: those that are made.
        settings: for the output folder, in which pictures have to lie.
    """
    router = APIRouter(prefix="/api/tomograms/{number}")

    @router.api_route("/thumbnail.webp", methods=_READ)
    def thumbnail(request: Request, number: Number) -> Response:
        entry = _entry(views, number)
        path = pictures.thumbnail(entry, make=False)
        if path is not None:
            return saved(request, path, _WEBP)
        # It was removed, or the labels were found complete after a restart.
        return made(request, slices.thumbnail(entry), _slice_tag(entry, 0, "thumbnail"))

    @router.api_route("/preview/grey.webp", methods=_READ)
    def preview_grey(request: Request, number: Number) -> Response:
        preview = pictures.preview(_entry(views, number))
        return saved(request, None if preview is None else preview[0], _WEBP)

    @router.api_route("/preview/labels.png", methods=_READ)
    def preview_labels(request: Request, number: Number) -> Response:
        preview = pictures.preview(_entry(views, number))
        return saved(request, None if preview is None else preview[1], _PNG)

    @router.api_route("/slices/{z}/grey.webp", methods=_READ)
    def slice_grey(request: Request, number: Number, z: Z) -> Response:
        entry = _entry(views, number)
        tag = _slice_tag(entry, z, "grey")
        known = has_tag(request, tag)
        return made(request, SlicePicture(b"") if known else slices.grey(entry, z), tag)

    @router.api_route("/slices/{z}/labels.png", methods=_READ)
    def slice_labels(request: Request, number: Number, z: Z) -> Response:
        entry = _entry(views, number)
        tag = _slice_tag(entry, z, "labels")
        known = has_tag(request, tag)
        return kept_answer(request, b"" if known else slices.labels(entry, z), _PNG, tag)

    def made(request: Request, picture: SlicePicture, tag: str) -> Response:
        if picture.tomogram != "here":
            # The tomogram may come back, so that this is not to be kept.
            return Response(picture.data, headers={"X-Tomogram": picture.tomogram}, media_type=_WEBP)
        return kept_answer(request, picture.data, _WEBP, tag)

    def saved(request: Request, path: Path | None, media_type: str) -> Response:
        if path is None:
            raise NoSliceError("there is no picture of this tomogram yet")
        try:
            with open_inside(Places(settings.output.resolve()).pictures, f"{path.parent.name}/{path.name}") as file:
                data = file.read()
        except OSError as error:
            raise NoSliceError("this picture is not there any more") from error
        return kept_answer(request, data, media_type, hashlib.sha256(data).hexdigest()[:32])

    return router


def _entry(views: Views, number: int) -> Entry:
    entry = views.get(number)
    if entry is None:
        raise HTTPException(404, f"there is no tomogram {number}")
    return entry


def _parse_states(text: str) -> list[State]:
    try:
        return [State(part.strip()) for part in text.split(",") if part.strip()]
    except ValueError:
        raise HTTPException(422, f"states: expected some of {', '.join(State)}, with commas between") from None


def _slice_tag(entry: Entry, z: int, kind: str) -> str:
    return f"{entry.number}-{content_key(entry)}-{entry.finished or 0:.6f}-{z}-{kind}"
