"""What the tests of the server share: how they start one and ask it."""

import base64
import contextlib
import http.client
import io
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from keras_resnet import serve
from keras_resnet.errors import SavedModelError
from keras_resnet.serve import Settings

COMMAND = Path(sys.executable).with_name("keras-resnet")
PREDICT, METRICS = "/v1/models/colours:predict", "/metrics"
FAST = {"name": "colours", "poll": 0.05}
PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"


@contextlib.contextmanager
def serving(folder, settings=None):
    application = serve.asgi(folder, settings or Settings(**FAST))
    with TestClient(application, raise_server_exceptions=False) as client:
        yield client


def put(versions, folder, number, source=None):
    """Copies a version into a model folder, whole at once."""
    folder.mkdir(exist_ok=True)
    partial = folder / f".{number}"
    shutil.copytree(versions / str(source or number), partial)
    partial.rename(folder / str(number))
    return folder


def picture(seed=0, size=(40, 36), kind="PNG", colour=(220, 50, 40)):
    noise = np.random.default_rng(seed).normal(0, 12, (*size, 3))
    pixels = np.clip(np.asarray(colour) + noise, 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def b64(data):
    return {"b64": base64.b64encode(data).decode()}


def ask(client, body, path=PREDICT):
    content = body if isinstance(body, (bytes, str)) else json.dumps(body)
    return client.post(path, content=content)


def ask_bytes(client, *pictures, path=PREDICT):
    rows = [b64(data) for data in pictures]
    return ask(client, {"signature_name": "serving_bytes", "instances": rows}, path)


def strict(response):
    def refuse(constant):
        raise AssertionError(constant)

    return json.loads(response.content, parse_constant=refuse)


def wait_for(condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def states(client):
    response = client.get("/v1/models/colours")
    entries = response.json()["model_version_status"]
    return {entry["version"]: entry["state"] for entry in entries}


def assert_refused(response, status, *words):
    assert response.status_code == status, response.text
    content = strict(response)
    assert content.keys() == {"error"}
    for word in words:
        assert word in content["error"]


def sample(client, name, **labels):
    response = client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=")
    for family in text_string_to_metric_families(response.text):
        for entry in family.samples:
            if entry.name == name and labels.items() <= entry.labels.items():
                return entry.value
    return 0


@contextlib.contextmanager
def process(folder, *options):
    """(the process, its URL) of a server on a free port."""
    words = [str(COMMAND), "serve", str(folder), "--here", "--json", "--port", "0"]
    with subprocess.Popen(
        [*words, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as server:
        try:
            facts = json.loads(server.stdout.readline())
            assert facts["model"] == "colours"
            yield server, facts["url"].removeprefix("http://")
        finally:
            server.kill()


def get(address, path):
    connection = http.client.HTTPConnection(address, timeout=30)
    connection.request("GET", path)
    data = connection.getresponse().read()
    connection.close()
    return data


def post(address, body):
    connection = http.client.HTTPConnection(address, timeout=30)
    connection.request("POST", PREDICT, body)
    response = connection.getresponse()
    data = response.read()
    connection.close()
    return response.status, data


def is_closed(client):
    client.settimeout(0)
    with contextlib.suppress(BlockingIOError):
        try:
            return client.recv(4096) == b""
        except ConnectionError:
            return True
    return False


class FakeModel:
    """Adds one; `fails` on rows of 13, and `ran` keeps the batches' sizes."""

    def __init__(self, by_rows=True, seconds=0.0):
        first = None if by_rows else 1
        self.signatures = {
            "add": {
                "inputs": {"x": ("float32", (None,))},
                "outputs": {"y": ("float32", (first,))},
            }
        }
        self.ran, self.seconds = [], seconds

    def run(self, signature, /, x):
        assert signature == "add"
        self.ran.append(len(x))
        time.sleep(self.seconds)
        if 13 in x:
            raise SavedModelError("13")
        return {"y": x + 1}


def bad_rows(rows, refuses):
    """The rows of a table for which a check fails, with the reason."""
    bad = []
    for row in rows:
        try:
            refuses(*row)
        except AssertionError as error:
            bad.append((row, str(error)))
    return bad
