"""Who gets through to a page, and who does not."""

from __future__ import annotations

import asyncio
import logging

import httpx
import pytest
from starlette.requests import ClientDisconnect
from starlette.responses import PlainTextResponse, StreamingResponse

from tomoscribe.engine.watch.page import access

TOKEN = "an-example-of-a-token"
SECRET = "secret in the traceback"
HOSTS = "127.0.0.1", "localhost", "::1", "Microscope.lab."


async def answer(scope, receive, send):
    """Stands for the page behind."""
    if scope["type"] == "lifespan":
        return
    if scope["path"] == "/fails":
        raise RuntimeError(SECRET)
    if scope["path"] == "/leaves":
        raise ClientDisconnect
    if scope["path"] == "/breaks":

        async def parts():
            yield b"begun"
            raise RuntimeError(SECRET)

        await StreamingResponse(parts())(scope, receive, send)
        return
    headers = {"Cache-Control": "private"} if scope["path"] == "/kept" else {}
    await PlainTextResponse("passed", headers=headers)(scope, receive, send)


class Client:
    """Asks without a server between; keeps cookies."""

    def __init__(self, token=None, hosts=HOSTS, app=None, address="10.0.0.1"):
        self.app = app or access.Access(answer, token=token, allowed_hosts=hosts)
        self.address = address
        self.cookies = httpx.Cookies()

    def request(self, method, address, **options):
        async def ask():
            transport = httpx.ASGITransport(app=self.app, client=(self.address, 5000))
            base = "http://127.0.0.1:8642"
            async with httpx.AsyncClient(transport=transport, base_url=base, cookies=self.cookies) as client:
                response = await client.request(method, address, **options)
                self.cookies.update(client.cookies)
                return response

        return asyncio.run(ask())

    def get(self, address, **options):
        return self.request("GET", address, **options)


@pytest.fixture
def client():
    return Client()


@pytest.fixture
def guarded():
    return Client(TOKEN)


def error_of(response):
    assert response.headers["content-type"] == "application/json"
    (error,) = response.json().values()
    assert error
    assert "\n" not in error
    return error


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "127.0.0.1:8642", "LOCALHOST:1", "localhost.", "[::1]", "[::1]:8642", "microscope.lab:80"],
)
def test_the_page_s_own_names_pass(client, host):
    assert client.get("/api/status", headers={"Host": host}).text == "passed"


@pytest.mark.parametrize(
    "host",
    ["evil.example", "127.0.0.1.evil.example", "localhost.evil.org:1", "", "x@127.0.0.1", "[::2]", "127.0.0.2", "*"],
)
def test_names_that_were_made_to_point_here_do_not(client, host):
    response = client.get("/api/status", headers={"Host": host})
    assert response.status_code == 400
    assert "address" in error_of(response)


def test_any_name_passes_where_that_is_wanted():
    assert Client(hosts=["*"]).get("/", headers={"Host": "anything.example"}).text == "passed"


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"])
def test_nothing_can_be_changed(client, method):
    response = client.request(method, "/")
    assert response.status_code == 405
    assert response.headers["allow"] == "GET, HEAD"
    error_of(response)


def test_sizes_are_bounded(client):
    assert client.get("/" + "a" * 2040).status_code == 200
    for address in ("/" + "a" * 2048, "/?" + "a" * 2048, "/" + "%41" * 700):
        assert client.get(address).status_code == 414
    assert client.get("/", headers={"X-A": "a" * 15_000}).status_code == 200
    response = client.get("/", headers={"X-A": "a" * 9_000, "X-B": "b" * 9_000})
    assert response.status_code == 431
    error_of(response)


def test_a_body_is_refused_unread(client):
    async def parts():
        yield b"a"

    assert client.request("GET", "/", content=b"a").status_code == 413
    assert client.request("GET", "/", content=parts()).status_code == 413
    assert client.request("GET", "/", content=b"").status_code == 200


def test_every_answer_has_the_headers_of_safety(client):
    for address in ("/", "/fails", "/?" + "a" * 3000):
        headers = client.get(address).headers
        policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
        assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert headers["cache-control"] == "no-store"
        assert "access-control-allow-origin" not in headers
    assert client.get("/kept").headers["cache-control"] == "private"


def test_what_goes_wrong_is_logged_and_not_told(client, caplog):
    with caplog.at_level(logging.ERROR, "tomoscribe.engine.watch"):
        response = client.get("/fails")
    assert response.status_code == 500
    assert SECRET not in response.text
    assert "Traceback" not in response.text
    error_of(response)
    assert SECRET in caplog.text


def test_what_goes_wrong_half_way_is_logged_and_ends_there(client, caplog):
    with pytest.raises(AssertionError):  # of httpx, for the answer has no end
        client.get("/breaks")
    assert SECRET in caplog.text


def test_a_client_that_leaves_is_no_error(client, caplog):
    with pytest.raises(AssertionError):  # of httpx, which has no answer
        client.get("/leaves")
    assert caplog.text == ""


def test_no_web_sockets(client):
    sent = []

    async def send(message):
        sent.append(message)

    asyncio.run(client.app({"type": "websocket", "path": "/", "headers": []}, None, send))
    assert [message["type"] for message in sent] == ["websocket.close"]


def test_the_rate_is_bounded_for_each_client(monkeypatch):
    monkeypatch.setattr(access, "_REQUESTS", access.RateLimitItemPerSecond(20, 10))
    one = Client()
    other = Client(app=one.app, address="10.0.0.2")
    statuses = [one.get("/").status_code for _ in range(30)]
    assert statuses == [200] * 20 + [429] * 10
    assert int(one.get("/").headers["retry-after"]) > 0
    error_of(one.get("/"))
    assert other.get("/").status_code == 200


def test_without_the_token_there_are_only_the_page_s_own_files(guarded):
    assert guarded.get("/").status_code == 200
    assert guarded.get("/static/main.js").status_code == 200
    for address in ("/api/status", "/events", "/metrics", "/health", "/statics", "/static", "/API/status", "/x"):
        response = guarded.get(address)
        assert response.status_code == 401
        assert response.headers["www-authenticate"] == "Bearer"
        assert TOKEN not in response.text
        error_of(response)


@pytest.mark.parametrize("kind", ["Bearer", "bearer", "BEARER"])
def test_the_token_in_a_header(guarded, kind):
    assert guarded.get("/api/status", headers={"Authorization": f"{kind} {TOKEN}"}).text == "passed"


@pytest.mark.parametrize(
    "header",
    ["Bearer", "Bearer ", f"Bearer {TOKEN[:-1]}", f"Bearer {TOKEN}x", f"Basic {TOKEN}", TOKEN, "Bearer tökën".encode()],
)
def test_a_wrong_token(guarded, header):
    assert guarded.get("/api/status", headers={"Authorization": header}).status_code == 401


def test_an_address_with_the_token_gives_a_cookie_and_leads_to_one_without(guarded):
    response = guarded.get(f"/?token={TOKEN}")
    assert response.status_code == 303
    assert response.headers["location"] == "./"
    cookie = response.headers["set-cookie"]
    assert TOKEN not in cookie
    assert {"HttpOnly", "SameSite=strict", "Path=/"} <= set(cookie.split("; "))
    assert guarded.get("/api/status").text == "passed"  # the client has kept it
    guarded.cookies.clear()
    assert guarded.get("/api/status").status_code == 401


@pytest.mark.parametrize("address", ["/?token=", "/?token=wrong", f"/?token={TOKEN}x", f"/?token=wrong&token={TOKEN}x"])
def test_an_address_with_a_wrong_token(guarded, address):
    response = guarded.get(address)
    assert response.status_code == 401
    assert "set-cookie" not in response.headers


def test_the_token_is_only_taken_at_the_page_s_address(guarded):
    assert guarded.get(f"/api/status?token={TOKEN}").status_code == 401


@pytest.mark.parametrize("value", ["", "x", TOKEN, "0" * 64])
def test_a_made_up_cookie(guarded, value):
    name = guarded.get(f"/?token={TOKEN}").headers["set-cookie"].partition("=")[0]
    guarded.cookies.clear()
    assert guarded.get("/api/status", headers={"Cookie": f"{name}={value}"}).status_code == 401


def test_cookies_of_two_watchers_do_not_meet():
    names = set()
    for token in (TOKEN, TOKEN + "2"):
        names.add(Client(token).get(f"/?token={token}").headers["set-cookie"].partition("=")[0])
    assert len(names) == 2


def test_guessing_uses_up_what_a_client_may_ask(guarded):
    statuses = [guarded.get("/api/status").status_code for _ in range(40)]
    assert statuses[:10] == [401] * 10
    assert set(statuses[-10:]) == {429}
