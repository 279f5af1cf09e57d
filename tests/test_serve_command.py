"""The command says what it serves, and stops when it is told to."""

import concurrent.futures
import contextlib
import http.client
import io
import json
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time

import pytest
from PIL import Image
from serving import (
    METRICS,
    PREDICT,
    b64,
    get,
    is_closed,
    picture,
    post,
    process,
    wait_for,
)

from keras_resnet import serve
from keras_resnet.errors import ServeError
from keras_resnet.serve import Settings


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """A PATH with nothing on it but what the test puts there."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))

    def add(name, script="exit 0"):
        path = folder / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    return add


def test_command_of_tensorflow_serving_is_printed(call, programs, place, tmp_path):
    programs("tensorflow_model_server")
    done = call("serve", "colours", "--port", 8600, cwd=tmp_path)
    assert done.returncode == 0
    assert done.out == (
        "env TF_ENABLE_ONEDNN_OPTS=1 TF_ONEDNN_ASSUME_FROZEN_WEIGHTS=1"
        " tensorflow_model_server --port=8500 --rest_api_port=8600"
        f" --model_name=colours --model_base_path={place}\n"
    )
    assert "--here" in done.err
    odd = place.rename(tmp_path / "it's mine")
    done = call("serve", odd, "--name", "cats", "--json", cwd=tmp_path)
    words = json.loads(done.out)["command"]
    assert words[-2:] == ["--model_name=cats", f"--model_base_path={odd}"]


def test_command_of_docker_is_printed_where_its_daemon_is(
    call, programs, place, tmp_path, monkeypatch
):
    monkeypatch.setattr(serve, "run", lambda *_: print("served here"))
    programs("docker", "echo 27.1")
    done = call("serve", place, cwd=tmp_path)
    assert done.returncode == 0
    assert done.out == (
        f"docker run -p 8500:8500 -p 8501:8501 -v {place}:/models/colours"
        " -e MODEL_NAME=colours -e TF_ENABLE_ONEDNN_OPTS=1"
        " -e TF_ONEDNN_ASSUME_FROZEN_WEIGHTS=1"
        " tensorflow/serving\n"
    )
    assert call("serve", place, "--here", cwd=tmp_path).out == "served here\n"
    for script in ("exit 1", "exit 0", "echo 27.1; exit 1"):
        programs("docker", script)
        assert call("serve", place, cwd=tmp_path).out == "served here\n"


def test_what_cannot_be_served_is_one_line(call, place, tmp_path):
    (tmp_path / "empty").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        for words, message in (
            (["nowhere"], "nowhere: no such folder"),
            (["empty"], "empty: has no version"),
            (["colours/1"], f"is one version; give {place}"),
            (["colours", "--name", "a/b"], "name='a/b'"),
            (["colours", "--port", port], f"port={port}: Address already in use"),
        ):
            done = call("serve", *words, "--here", cwd=tmp_path)
            assert (done.returncode, done.out) == (1, "")
            assert len(done.err.splitlines()) == 1, done.err
            assert message in done.err
    done = call("serve", "colours", "--max-rows", 0, cwd=tmp_path)
    assert done.returncode == 2


def test_missing_extra_is_named(place, monkeypatch):
    for name in [
        name for name in sys.modules if name.startswith("keras_resnet.serve.")
    ]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "starlette.applications", None)
    with pytest.raises(ServeError, match=r"pip install keras-resnet-d\[serve\]"):
        serve.asgi(place)


def test_settings_out_of_range_are_named():
    for field, value in (
        *(("max_rows", 0), ("poll", -1), ("wait_ms", float("inf")), ("name", "a:b")),
        *(("max_connections", 0), ("idle_seconds", -1), ("max_pixels", float("nan"))),
    ):
        with pytest.raises(ServeError, match=f"{field}="):
            Settings(**{"name": "m", field: value})


@pytest.fixture(scope="module")
def running(exported, tmp_path_factory):
    """(the process, its address) of the command, for all tests up to its end."""
    folder = tmp_path_factory.mktemp("served") / "colours"
    shutil.copytree(exported, folder / "1")
    options = ("--max-body", "1", "--max-queue", "3", "--allow-host", "cats.example")
    with process(folder, *options) as started:
        yield started


def test_lines_of_the_guide_get_their_answers(running, two_versions, tmp_path):
    _, address = running
    guide = (two_versions / "README.md").read_text().replace("my_colours", "colours")
    shell, rest = (
        re.findall(rf"```{language}\n(.*?)```", guide, re.S)[position]
        for language, position in (("sh", 1), ("python", 0))
    )
    (tmp_path / "cat.jpg").write_bytes(picture(kind="JPEG"))
    answers = [
        subprocess.run(
            [*program, lines.replace("localhost:8501", address)],
            cwd=tmp_path,
            capture_output=True,
            text=True,
        ).stdout
        for program, lines in (
            (("bash", "-c"), shell),
            ((sys.executable, "-c"), rest),
        )
    ]
    (row,) = json.loads(answers[0])["predictions"]
    assert row["ok"]
    pairs = zip(row["top_classes"], row["top_probabilities"])
    assert answers[1] == f"{dict(pairs)}\n"


def test_command_answers_for_its_own_names_and_those_it_is_given(running):
    _, address = running
    for host, status in ((address, 200), ("cats.example", 200), ("dogs.example", 403)):
        connection = http.client.HTTPConnection(address, timeout=30)
        connection.request("GET", "/health", headers={"Host": host})
        assert connection.getresponse().status == status
        connection.close()


def test_clients_that_break_off_do_not_wedge_the_server(running):
    _, address = running
    host, port = address.split(":")
    for _ in range(20):  # goes away in the middle of its body
        with socket.create_connection((host, int(port))) as client:
            head = f"POST {PREDICT} HTTP/1.1\r\nHost: localhost\r\n"
            client.sendall(f"{head}Content-Length: 900000\r\n\r\n{{".encode())
    for _ in range(20):  # or with the answer under way
        with socket.create_connection((host, int(port))) as client:
            content = json.dumps({"inputs": [[0]]})
            client.sendall(
                f"{head}Content-Length: {len(content)}\r\n\r\n{content}".encode()
            )
    wait_for(lambda: b"keras_resnet_queue 0.0" in get(address, "/metrics"))
    held = []
    for _ in range(3):  # holds the queue's places
        held.append(socket.create_connection((host, int(port))))
        held[-1].sendall(f"{head}Content-Length: 900000\r\n\r\n{{".encode())
    wait_for(lambda: b"keras_resnet_queue 3.0" in get(address, "/metrics"))
    assert post(address, b"{}")[0] == 503
    for client in held:
        client.close()
    wait_for(lambda: b"keras_resnet_queue 0.0" in get(address, "/metrics"))
    assert post(address, b"{}")[0] == 400
    status, content = post(address, b" " * 3_000_000)  # announced, and too large
    assert (status, b"at most 1048576" in content) == (413, True)


def test_sigterm_ends_what_is_in_flight_and_exits_with_0(running):
    server, address = running  # the last test of it
    body = {"signature_name": "serving_bytes", "instances": [b64(picture())]}
    body = json.dumps(body).encode()
    idle = http.client.HTTPConnection(address, timeout=30)
    idle.request("GET", "/health")
    assert idle.getresponse().read()
    slow = http.client.HTTPConnection(address, timeout=30)
    slow.putrequest("POST", PREDICT)
    slow.putheader("Content-Length", str(len(body)))
    slow.endheaders()
    slow.send(body[:50])
    wait_for(lambda: b"keras_resnet_queue 1.0" in get(address, "/metrics"))
    server.send_signal(signal.SIGTERM)
    time.sleep(0.2)
    assert server.poll() is None
    slow.send(body[50:])
    response = slow.getresponse()
    assert response.status == 200
    assert json.loads(response.read())["predictions"][0]["ok"]
    idle.close()
    slow.close()
    out, err = server.communicate(timeout=30)
    assert (server.returncode, out, err) == (0, "", "")


LIMITED = """
import json, sys
from keras_resnet import serve
settings = serve.Settings("colours", **json.loads(sys.argv[2]))
if sys.argv[3:]:  # a model that answers its warm-up, and nothing else
    import time
    from keras_resnet.serve import server, versions
    class Model:
        x = {"x": ("float32", (None,))}
        signatures = {"add": {"inputs": x, "outputs": x}}
        def __init__(self, path): self.ran = False
        def run(self, *_, **inputs):
            while self.ran: time.sleep(1)
            self.ran = True
        def end(self): pass
    Versions = versions.Versions
    server.Versions = lambda *arguments: Versions(*arguments, Model)
def announce(url, version): print(url.removeprefix("http://"), flush=True)
serve.run(sys.argv[1], settings, "127.0.0.1", 0, announce)
"""


@contextlib.contextmanager
def limited(folder, *options, **limits):
    """(the process, its address) of a server with such Settings."""
    words = [sys.executable, "-c", LIMITED, folder, json.dumps(limits), *options]
    with subprocess.Popen(
        list(map(str, words)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as server:
        try:
            yield server, server.stdout.readline().strip()
        finally:
            server.kill()


def laborious():
    """A request of 10,000 million pixels, far more than the deadline allows."""
    file = io.BytesIO()
    Image.new("1", (2000, 2000)).save(file, "PNG")
    rows = [b64(file.getvalue())] * 2500
    return json.dumps({"signature_name": "serving_bytes", "instances": rows}).encode()


def wait_for_a_batch(address, more_than=0):
    wait_for(lambda: batches_of(address) > more_than)


def batches_of(address):
    found = re.search(rb"\nkeras_resnet_batch_rows_count (\S+)", get(address, METRICS))
    return float(found[1])


@pytest.mark.slow
def test_work_that_takes_too_long_is_ended_and_so_is_the_server(place):
    limits = {"max_request_pixels": 10**11, "max_rows": 2500, "answer_seconds": 6}
    limits |= {"idle_seconds": 2, "drain_seconds": 4, "max_connections": 20}
    with (
        limited(place, **limits) as (server, address),
        contextlib.ExitStack() as stack,
        concurrent.futures.ThreadPoolExecutor() as pool,
    ):
        answer = pool.submit(post, address, laborious())
        wait_for_a_batch(address)
        where = tuple(address.split(":"))
        silent = [
            stack.enter_context(socket.create_connection(where)) for _ in range(50)
        ]
        assert b"available" in get(address, "/health")
        wait_for(lambda: all(is_closed(client) for client in silent))
        status, content = answer.result()
        assert (status, json.loads(content).keys()) == (504, {"error"})
        # its place is free for others
        body = {"signature_name": "serving_bytes", "instances": [b64(picture())]}
        wait_for(lambda: post(address, json.dumps(body).encode())[0] == 200)
        # and a stop is not delayed by what is in flight
        batches = batches_of(address)
        answer = pool.submit(post, address, laborious())
        wait_for_a_batch(address, batches)
        server.send_signal(signal.SIGINT)
        assert server.wait(30) == 0  # and not when all is decoded, a minute later
        status, content = answer.result()
        assert (status, json.loads(content).keys()) == (503, {"error"})
        assert "the server was stopped" in json.loads(content)["error"]
        assert "Traceback" not in server.stderr.read()


def test_stop_is_not_delayed_by_what_never_ends(tmp_path):
    (tmp_path / "1").mkdir()
    with (
        limited(tmp_path, "stuck", drain_seconds=2) as (server, address),
        concurrent.futures.ThreadPoolExecutor() as pool,
    ):
        body = json.dumps({"signature_name": "add", "inputs": [1.0]}).encode()
        answer = pool.submit(post, address, body)
        wait_for_a_batch(address)
        server.send_signal(signal.SIGTERM)
        assert server.wait(30) == 0
        assert answer.result()[0] == 503
        line = server.stderr.read().splitlines()[-1]
        assert line == "some requests did not end in time; stopped without them"


_BARE = """
import os, sys
from keras_resnet import cli, serve

run = serve.run

def check(url, version):
    found = {"tensorflow", "keras", "keras_resnet.layers"} & {*sys.modules}
    os._exit(1 if found else 42)

serve.run = lambda folder, settings, host, port, announce: run(
    folder, settings, host, port, check
)
sys.argv = ["keras-resnet", "serve", sys.argv[1], "--here", "--port", "0"]
cli.main()
"""


def test_command_imports_no_python_of_tensorflow(two_versions):
    words = [sys.executable, "-c", _BARE, two_versions]
    assert subprocess.run(words).returncode == 42
