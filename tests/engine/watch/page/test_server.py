from __future__ import annotations

import asyncio
import gc
import socket
import threading
import time
from urllib.parse import urlsplit

import httpx
import pytest

from tomoscribe.engine import ParameterError
from tomoscribe.engine.watch.page import server as module
from tomoscribe.engine.watch.page.server import PageError, PageServer


async def answer(scope, receive, send):
    """Say who asks, and stream without an end at /stream."""
    if scope["type"] == "lifespan":
        while (await receive())["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    if scope["path"] == "/broken":
        raise ValueError("a fault")
    while scope["path"] == "/stream":
        await send({"type": "http.response.body", "body": b"more\n", "more_body": True})
        await asyncio.sleep(0.01)
    await send({"type": "http.response.body", "body": repr((scope["client"][0], scope["scheme"])).encode()})


async def refuse_to_start(scope, receive, send):
    await receive()
    await send({"type": "lifespan.startup.failed", "message": "no"})


@pytest.fixture
def server():
    with PageServer(lambda: answer, "127.0.0.1", 0) as server:
        yield server


@pytest.fixture
def server_of_its_own():
    """A server that is served as a watcher does it: the server, what stops it, and the thread."""
    server, stop = PageServer(lambda: answer, "127.0.0.1", 0), threading.Event()

    class Serving(threading.Thread):
        error = None

        def run(self):
            try:
                server.serve(stop)
            except PageError as error:
                self.error = error

    thread = Serving()
    thread.start()
    deadline = time.monotonic() + 20
    while not server._server.started:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    yield server, stop, thread
    stop.set()
    thread.join()


def logged(caplog):
    return [record for record in caplog.records if record.name == module.__name__]


def test_it_answers_at_its_address(server):
    assert server.address.startswith("http://127.0.0.1:")
    assert server.is_alive()
    response = httpx.get(server.address)
    assert (response.status_code, response.text) == (200, "('127.0.0.1', 'http')")


def test_it_does_not_say_what_it_is(server):
    assert "server" not in httpx.get(server.address).headers


def test_what_a_proxy_says_of_a_client_is_not_believed(server):
    headers = {"X-Forwarded-For": "192.0.2.7", "X-Forwarded-Proto": "https"}
    assert httpx.get(server.address, headers=headers).text == "('127.0.0.1', 'http')"


def test_a_head_without_an_end_is_not_gathered_for_ever(server):
    with socket.create_connection((urlsplit(server.address).hostname, urlsplit(server.address).port), 20) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nX-Long: " + b"x" * 20_000)
        assert client.recv(100).startswith(b"HTTP/1.1 400 ")


def test_after_a_stop_nothing_answers_and_no_thread_is_left():
    server = PageServer(lambda: answer, "127.0.0.1", 0)
    server.start()
    server.stop()
    server.stop()
    assert not server.is_alive()
    assert "page" not in {thread.name for thread in threading.enumerate()}
    with pytest.raises(httpx.ConnectError):
        httpx.get(server.address)


def test_a_fault_is_logged_and_not_told(server, caplog):
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.get(f"{server.address}broken")
    (record,) = logged(caplog)
    assert record.message == "the page could not answer a request"
    assert str(record.exc_info[1]) == "a fault"


def test_a_stop_does_not_wait_for_streams_without_an_end(caplog, capsys):
    server = PageServer(lambda: answer, "127.0.0.1", 0)
    server.start()
    with httpx.stream("GET", f"{server.address}stream", timeout=20) as response:
        lines = response.iter_lines()
        assert next(lines) == "more"
        server.stop()
        with pytest.raises(httpx.RemoteProtocolError):
            list(lines)
    assert not server.is_alive()
    assert logged(caplog) == []
    assert capsys.readouterr().err == ""


def test_a_port_that_is_taken_is_one_error_before_anything_is_served(server):
    port = urlsplit(server.address).port
    with pytest.raises(ParameterError, match=rf"^port {port} of 127\.0\.0\.1 is taken.*another --port, or --no-page"):
        PageServer(lambda: pytest.fail("begun all the same"), "127.0.0.1", port)


def test_the_port_of_a_server_that_was_stopped_is_free_at_once(server):
    # The side that closes a connection first has it linger.
    with httpx.Client() as client:
        client.get(server.address)
        server.stop()
    port = urlsplit(server.address).port
    with PageServer(lambda: answer, "127.0.0.1", port) as second:
        assert httpx.get(second.address).status_code == 200


@pytest.mark.parametrize(
    ("host", "message"),
    [
        ("no.such.host.invalid", "--host no.such.host.invalid: expected a name or an address of this machine"),
        ("a" * 300, "expected a name or an address"),
        ("192.0.2.1", "--host 192.0.2.1, --port 0: nothing can listen there"),
    ],
)
def test_a_host_that_is_not_this_machine_is_one_error(host, message):
    with pytest.raises(ParameterError, match=message):
        PageServer(lambda: answer, host, 0)


def test_a_port_of_the_administrator_s_is_one_error(monkeypatch):
    def refuse(self, address):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(module.socket.socket, "bind", refuse)
    with pytest.raises(ParameterError, match=r"^port 80: only the administrator may take it"):
        PageServer(lambda: answer, "127.0.0.1", 80)


def test_a_server_that_listens_everywhere_has_an_address_that_works_here():
    with PageServer(lambda: answer, "0.0.0.0", 0) as server:
        assert httpx.get(server.address).status_code == 200


@pytest.mark.skipif(not socket.has_ipv6, reason="this machine has no IPv6")
def test_ipv6_has_its_brackets():
    try:
        server = PageServer(lambda: answer, "::1", 0)
    except ParameterError as error:
        pytest.skip(f"this machine has no IPv6: {error}")
    with server:
        assert server.address.startswith("http://[::1]:")
        assert httpx.get(server.address).status_code == 200


def test_an_application_that_cannot_be_made_leaves_no_port_behind():
    def fail():
        raise ParameterError("no")

    with pytest.raises(ParameterError, match=r"^no$"):
        PageServer(fail, "127.0.0.1", 0)  # an open socket would be a warning
    gc.collect()


def test_an_application_that_does_not_start_is_an_error_and_the_port_is_free_again():
    server = PageServer(lambda: refuse_to_start, "127.0.0.1", 0)
    with pytest.raises(PageError, match="the page's server does not start"), server:
        pass
    port = urlsplit(server.address).port
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=20)


def test_it_serves_until_it_is_to_stop(server_of_its_own):
    server, stop, thread = server_of_its_own
    assert httpx.get(server.address).status_code == 200
    stop.set()
    thread.join(20)
    assert (server.is_alive(), thread.is_alive(), thread.error) == (False, False, None)


def test_a_server_that_ends_by_itself_is_an_error(server_of_its_own):
    server, _, thread = server_of_its_own
    server._server.should_exit = True
    thread.join(20)
    assert isinstance(thread.error, PageError)
    assert str(thread.error).startswith(f"{server.address}: the page's server ended")
    assert thread.error.exit_status == 1


def test_beyond_the_most_connections_it_refuses(monkeypatch):
    monkeypatch.setattr(module, "_MOST_CONNECTIONS", 3)
    with PageServer(lambda: answer, "127.0.0.1", 0) as server, httpx.Client() as first, httpx.Client() as second:
        streams = [client.stream("GET", f"{server.address}stream", timeout=20) for client in (first, second)]
        for stream in streams:
            stream.__enter__()
        deadline = time.monotonic() + 20
        while httpx.get(server.address).status_code != 503:
            assert time.monotonic() < deadline
        for stream in streams:
            stream.__exit__(None, None, None)
