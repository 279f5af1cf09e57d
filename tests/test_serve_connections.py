"""Connections are bounded in number and idle time, and meant for this host."""

import asyncio
import contextlib
import json
import socket
import threading

import uvicorn
from serving import assert_refused, is_closed, wait_for
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient

from keras_resnet.serve import Settings
from keras_resnet.serve.connections import bounded
from keras_resnet.serve.gate import Gate


@contextlib.contextmanager
def listening(app, **limits):
    """(a function that connects, uvicorn) of an ASGI application in a thread."""
    settings = Settings("m", **limits)
    config = uvicorn.Config(
        app,
        http=bounded(settings),
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="error",
    )
    with socket.create_server(("127.0.0.1", 0)) as place:
        server, clients = uvicorn.Server(config), contextlib.ExitStack()
        thread = threading.Thread(target=server.run, args=([place],))
        thread.start()

        def connect(data=b""):
            client = socket.create_connection(place.getsockname(), timeout=30)
            clients.enter_context(client).sendall(data)
            return client

        try:
            wait_for(lambda: server.started)
            with clients:
                yield connect, server
        finally:
            server.should_exit = True
            thread.join()


GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
HELLO = PlainTextResponse("hello")


def assert_says_hello(client):
    answer = b""
    while not answer.endswith(b"\r\n\r\nhello"):
        part = client.recv(4096)
        assert part, answer
        answer += part
    assert answer.startswith(b"HTTP/1.1 200")


def test_connection_without_a_request_is_closed_also_if_bytes_drip_in():
    begun = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999\r\n"
    with listening(HELLO, idle_seconds=0.5) as (connect, server):
        silent, answered = connect(), connect(GET)
        half, body = connect(begun), connect(begun + b"\r\n")
        assert_says_hello(answered)
        assert_says_hello(body)  # nobody waits for the rest of it

        def drip():
            for client in (half, body):
                with contextlib.suppress(ConnectionError):
                    client.sendall(b"x")
            return all(map(is_closed, (silent, answered, half, body)))

        wait_for(drip)
        wait_for(lambda: not server.server_state.connections)


def test_request_under_way_is_waited_for_and_its_connection_kept():
    async def slow(scope, receive, send):
        await asyncio.sleep(0.6)
        await HELLO(scope, receive, send)

    with listening(slow, idle_seconds=0.3) as (connect, _):
        client = connect()
        for _ in range(2):
            client.sendall(GET)
            assert_says_hello(client)


def test_client_that_takes_no_answer_is_closed():
    large = PlainTextResponse("x" * 50_000_000)
    with listening(large, idle_seconds=0.5) as (connect, server):
        client = connect(GET)
        wait_for(lambda: server.server_state.connections)
        wait_for(lambda: not server.server_state.connections)
        wait_for(lambda: not server.server_state.tasks)
        client = connect(GET)  # and one that takes it has all of it
        taken = 0
        while taken < 50_000_000:
            data = client.recv(2**20)
            assert data, f"closed after {taken} bytes"
            taken += len(data)


def test_one_connection_too_many_takes_the_place_of_the_longest_idle():
    started, go_on = threading.Semaphore(0), threading.Event()

    async def busy(scope, receive, send):
        if scope["path"] == "/busy":
            started.release()
            await asyncio.to_thread(go_on.wait, 30)
        await HELLO(scope, receive, send)

    with listening(busy, max_connections=3) as (connect, _):
        first, second = connect(GET), connect(GET)
        assert_says_hello(first)
        assert_says_hello(second)
        busy_ones = [connect(GET.replace(b"/ ", b"/busy ", 1))]
        assert started.acquire(timeout=30)
        third = connect(GET)
        assert_says_hello(third)
        wait_for(lambda: is_closed(first))
        assert not is_closed(second)
        for _ in range(2):
            busy_ones.append(connect(GET.replace(b"/ ", b"/busy ", 1)))
            assert started.acquire(timeout=30)
        refused = connect(GET)
        content = b"".join(iter(lambda: refused.recv(4096), b""))
        assert content.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
        assert b"too many connections" in content
        go_on.set()
        for client in busy_ones:
            assert_says_hello(client)


def test_what_is_no_http_is_told_so_in_json():
    with listening(HELLO) as (connect, _):
        client = connect(b"nonsense\r\n\r\n")
        content = b"".join(iter(lambda: client.recv(4096), b""))
    head, _, body = content.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert json.loads(body).keys() == {"error"}


def test_request_of_two_lengths_is_refused_and_its_connection_closed():
    two = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n"
    two += b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    with listening(Gate(HELLO, None)) as (connect, _):
        client = connect(two + GET)
        content = b"".join(iter(lambda: client.recv(4096), b""))
    assert content.startswith(b"HTTP/1.1 400")
    assert content.count(b"HTTP/1.1") == 1  # no second answer
    assert b"not both" in content


def test_host_that_is_not_ours_is_refused():
    client = TestClient(Gate(HELLO, ["localhost", "GPU.example.", ""]))
    for host in (
        *("localhost", "LOCALHOST.:8501", "127.0.0.1:8501"),
        *("[::1]:8501", "10.1.2.3", "gpu.example:80"),
    ):
        assert client.get("/", headers={"Host": host}).status_code == 200, host
    for host in (
        *("evil.example", "localhost.evil.example:8501", "127.0.0.1.evil.example"),
        *("[x", "evil@:1", "", "x" * 5000),
    ):
        response = client.get("/", headers={"Host": host})
        assert_refused(response, 403, "is not allowed", "--allow-host")
