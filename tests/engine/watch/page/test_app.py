"""The page over HTTP: what it answers, that browsers may keep it, and that nothing leads out of it."""

from __future__ import annotations

import io
import os
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
from PIL import Image

from tomoscribe.engine.watch.page import app as app_module
from tomoscribe.engine.watch.page import routes

DEPTH, HEIGHT, WIDTH = 24, 60, 80


@pytest.fixture
def page(session):
    """A page that shows one finished tomogram, and a client of it."""
    number = session.label("grid/a.mrc")
    with httpx.Client(base_url=session.serve().address) as client:
        yield SimpleNamespace(get=client.get, head=client.head, at=f"/api/tomograms/{number}", number=number)


def snapshot(folder):
    paths = [path for path in folder.rglob("*") if "ledger" not in path.name]
    return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in paths}


def picture(response, kind):
    assert response.status_code == 200, response.text
    image = Image.open(io.BytesIO(response.content))
    assert image.format == kind
    assert response.headers["content-type"] == f"image/{kind.lower()}"
    return image


PICTURES = {
    "thumbnail.webp": "WEBP",
    "preview/grey.webp": "WEBP",
    "preview/labels.png": "PNG",
    "slices/5/grey.webp": "WEBP",
    "slices/5/labels.png": "PNG",
}


def test_pictures_are_kept_by_browsers(page):
    for name, kind in PICTURES.items():
        first = page.get(f"{page.at}/{name}")
        assert picture(first, kind).size == (WIDTH, HEIGHT)
        assert first.headers["cache-control"] == "private, no-cache"
        assert "immutable" in page.get(f"{page.at}/{name}?v=7").headers["cache-control"]
        tag = first.headers["etag"]
        for known in (tag, f'"other", W/{tag}', "*"):
            again = page.get(f"{page.at}/{name}", headers={"If-None-Match": known})
            assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
        assert page.get(f"{page.at}/{name}", headers={"If-None-Match": '"other"'}).content == first.content


def test_every_picture_has_a_tag_of_its_own(session, page):
    other = f"/api/tomograms/{session.label('b.mrc')}"
    names = [f"slices/{z}/{kind}" for z in (0, 1, 11) for kind in ("grey.webp", "labels.png")]
    tags = {page.get(f"{at}/{name}").headers["etag"] for at in (page.at, other) for name in names}
    assert len(tags) == 12


def test_labels_are_numbers_in_a_grey_picture(session, page):
    image = picture(page.get(f"{page.at}/slices/7/labels.png"), "PNG")
    assert image.mode == "L"
    assert np.asarray(image).tolist() == session.labels["grid/a.mrc"][7, ::-1].tolist()
    assert picture(page.get(f"{page.at}/preview/labels.png"), "PNG").mode == "L"


def test_a_tomogram_that_is_gone_is_told_and_not_kept(session, page):
    (session.settings.folder / "grid" / "a.mrc").unlink()
    response = page.get(f"{page.at}/slices/5/grey.webp?v=1")
    assert np.asarray(picture(response, "WEBP").convert("L")).max() < 5
    assert response.headers["x-tomogram"] == "gone"
    assert response.headers["cache-control"] == "no-store"
    assert "etag" not in response.headers
    assert "x-tomogram" not in page.get(f"{page.at}/slices/5/labels.png").headers


def test_a_lost_thumbnail_is_drawn_from_the_labels_and_not_written(session, page):
    folder = session.settings.places.pictures / str(page.number)
    for path in folder.iterdir():
        path.unlink()
    response = page.get(f"{page.at}/thumbnail.webp?v=1")
    assert picture(response, "WEBP").size == (WIDTH, HEIGHT)
    assert "immutable" in response.headers["cache-control"]
    assert list(folder.iterdir()) == []
    assert page.get(page.at).json()["preview_z"] is None
    assert page.get(f"{page.at}/preview/grey.webp").status_code == 404


def test_json(session, page):
    assert page.get("/api/status").json()["states"]["done"] == 1
    listed = page.get("/api/tomograms?sort=class&class=ribosome&states=done,running&search=A.&limit=1").json()
    assert [item["number"] for item in listed["items"]] == [page.number]
    shown = page.get(page.at).json()
    assert (shown["preview_z"], shown["slices_available"]) == (DEPTH // 2, True)
    assert len(page.get("/api/throughput?hours=12").json()["bins"]) == 60
    assert page.get("/health").json() == {"healthy": True, "reason": "1 at work"}
    assert 'tomoscribe_tomograms{state="done"} 1' in page.get("/metrics").text


def test_health_is_a_status_too(session, page):
    with session.ledger._file.writing() as (connection, _):
        connection.execute("DELETE FROM watchers")
    response = page.get("/health")
    assert (response.status_code, response.json()["healthy"]) == (503, False)


SENSELESS = [
    "?limit=201", "?limit=0", "?limit=x", "?offset=-1", "?sort=size", "?sort=class", "?sort=class&class=nothing",
    "?states=done,lost", "/0", "/-1", "/x", "/1.5", "/1/slices/-1/grey.webp", "/1/slices/x/labels.png",
    "/9223372036854775808", "/1/slices/9999999999/labels.png",
]  # fmt: skip


def test_what_makes_no_sense_is_refused_in_a_line(page):
    for address in (*SENSELESS, f"?search={'a' * 201}", f"?offset={'9' * 1000}"):
        response = page.get(f"/api/tomograms{address}")
        assert (address, response.status_code) == (address, 422)
        assert "\n" not in response.json()["error"]


ABSENT = [
    "/nothing", "/api", "/api/", "/docs", "/redoc", "/openapi.json", "/static", "/static/", "/static/nothing.js",
    "/static/page.py", "/events/", "/api/tomograms/99", "/api/tomograms/99/thumbnail.webp",
    "/api/tomograms/9223372036854775807", "/api/tomograms/1/grey.webp", "/api/tomograms/1/slices/24/grey.webp",
    "/api/tomograms/1/slices/24/labels.png", "/api/tomograms/1/",
]  # fmt: skip


def test_what_is_not_there(page):
    for address in ABSENT:
        response = page.get(address)
        assert (address, response.status_code) == (address, 404)
        assert response.json()["error"]


UP = ["..", "%2e%2e", "..%2f..", "%2e%2e%2f%2e%2e", "..%5c..", "....//", "%252e%252e", "..%00", "%c0%ae%c0%ae"]
ADDRESSES = [
    "/static/{}/app.py", "/static/{}", "/static//etc/passwd{}", "/static/%2fetc%2fpasswd{}", "/{}/etc/passwd",
    "/api/tomograms/{}/thumbnail.webp", "/api/tomograms/1/preview/{}/ledger.sqlite",
    "/api/tomograms/1/slices/{}/labels.png",
]  # fmt: skip


def test_no_address_leads_anywhere_else(page):
    for address in (address.format(up) for address in ADDRESSES for up in UP):
        # As it stands: a client would tidy it up first.
        response = page.get("/", extensions={"target": address.encode()})
        assert (address, response.status_code) in ((address, 404), (address, 422))
        assert list(response.json()) == ["error"]


def test_pictures_that_were_linked_elsewhere_are_not_read(session, page, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("secret")
    folder = session.settings.places.pictures / str(page.number)
    for path in folder.iterdir():
        path.unlink()
        path.symlink_to(secret)
    for name in ("preview/grey.webp", "preview/labels.png", "thumbnail.webp"):
        assert page.get(f"{page.at}/{name}").status_code == 404
    for path in folder.iterdir():
        path.unlink()
        path.symlink_to(session.settings.places.ledger)
    assert page.get(f"{page.at}/preview/grey.webp").status_code == 404


def test_the_page_s_own_files(page):
    index = page.get("/")
    assert index.headers["content-type"].startswith("text/html")
    assert page.get("/static/main.js").headers["content-type"].startswith("text/javascript")
    assert page.get("/static/page.css").headers["content-type"].startswith("text/css")
    again = page.get("/", headers={"If-None-Match": index.headers["etag"]})
    assert again.status_code == 304
    static = app_module._STATIC
    served = {path.name: page.get(f"/static/{path.name}").status_code for path in static.iterdir() if path.is_file()}
    assert served
    assert set(served.values()) == {200}


def test_head_is_answered_without_a_body(page):
    for address in ("/", "/api/status", "/health", f"{page.at}/thumbnail.webp", "/static/main.js"):
        response = page.head(address)
        assert (response.status_code, response.content) == (200, b"")
        assert int(response.headers["content-length"]) > 0
    assert page.head("/events").status_code == 405


def test_looking_changes_nothing(session, page, tmp_path):
    before = snapshot(tmp_path)
    revision = session.ledger.revision()
    pictures = [f"{page.at}/{name}" for name in PICTURES]
    for address in ("/", "/api/status", "/api/tomograms", page.at, "/metrics", *pictures):
        assert page.get(address).status_code == 200
    assert snapshot(tmp_path) == before
    assert session.ledger.revision() == revision


def test_answers_do_not_name_the_server(page):
    assert "server" not in page.get("/").headers
    assert "server" not in page.get("/nothing").headers


def test_a_ledger_that_is_gone_is_told_without_its_place(session, page, tmp_path):
    session.settings.places.ledger.unlink()
    for address in ("/api/status", page.at, f"{page.at}/thumbnail.webp", "/api/tomograms", "/metrics", "/events"):
        response = page.get(address)
        assert response.status_code == 503
        assert str(tmp_path) not in response.text
        assert "log" in response.json()["error"]
    health = page.get("/health")
    assert (health.status_code, health.json()["healthy"]) == (503, False)
    assert page.get("/").status_code == 200


def test_what_is_unforeseen_is_told_without_its_traceback(page, monkeypatch):
    def fail(*_):
        raise RuntimeError("secret")

    monkeypatch.setattr(routes, "render", fail)
    response = page.get("/metrics")
    assert response.status_code == 500
    assert "secret" not in response.text
    assert "routes" not in response.text


def test_a_token_guards_all_that_holds_data(session):
    number = session.label("a.mrc")
    token = "a-token-of-some-length"
    at = f"/api/tomograms/{number}"
    held = ["/api/status", "/api/tomograms", at, "/api/throughput", "/health", "/metrics", "/events"]
    held += [f"{at}/{name}" for name in PICTURES]
    address = session.serve(token=token).address
    with httpx.Client(base_url=address) as client:
        assert [client.get(one).status_code for one in held] == [401] * len(held)
        assert client.get("/").status_code == 200
        assert client.get(f"/?token={token}", follow_redirects=True).url == address
        assert client.get(held[0]).status_code == 200


def test_no_file_stays_open(session):
    number = session.label("a.mrc")
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    server = session.serve()
    assert httpx.get(f"{server.address}api/tomograms/{number}/slices/3/grey.webp").status_code == 200
    server.stop()
    assert len(os.listdir("/proc/self/fd")) <= before + 1  # noqa: PTH208 - the ledger's own connection
