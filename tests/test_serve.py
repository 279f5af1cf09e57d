"""A served model answers as TensorFlow Serving does, whatever it is sent."""

import asyncio
import base64
import concurrent.futures
import contextlib
import http.client
import io
import itertools
import json
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import uvicorn
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient

from keras_resnet import export, serve
from keras_resnet.errors import SavedModelError, ServeError
from keras_resnet.export import engines
from keras_resnet.export.savedmodel import SavedModel
from keras_resnet.model import rebuild
from keras_resnet.serve import Settings, answers, header, requests
from keras_resnet.serve.admission import Admission
from keras_resnet.serve.batching import RUNNERS, Batcher
from keras_resnet.serve.connections import bounded
from keras_resnet.serve.gate import Gate
from keras_resnet.serve.metrics import Metrics
from keras_resnet.serve.requests import RequestError
from keras_resnet.serve.versions import Versions

COMMAND = Path(sys.executable).with_name("keras-resnet")
PREDICT, METRICS = "/v1/models/colours:predict", "/metrics"
INIT = "__saved_model_init_op"
FAST = {"name": "colours", "poll": 0.05}
PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"


@pytest.fixture(scope="module")
def versions(trained, tmp_path_factory):
    """A folder of two versions that answer differently."""
    folder = tmp_path_factory.mktemp("versions")
    export.save(trained[1], folder)
    other = rebuild(trained[1], "float32", classifier_activation="softmax")
    head = other.get_layer("head")
    head.kernel.assign(-head.kernel)
    export.save(other, folder)
    return folder


@pytest.fixture(scope="module")
def served(versions):
    """Version 1 as the server's own loader has it."""
    with SavedModel(versions / "1") as model:
        yield model


@pytest.fixture
def place(versions, tmp_path):
    """A model folder of version 1, for a test that changes it."""
    return put(versions, tmp_path / "colours", 1)


@pytest.fixture(scope="module")
def shared(versions, tmp_path_factory):
    """A server of version 1 for the tests that only ask."""
    folder = put(versions, tmp_path_factory.mktemp("served") / "colours", 1)
    settings = Settings("colours", max_body=4_000_000, max_rows=40, max_pixels=10_000)
    with serving(folder, settings) as client:
        yield client


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


# REST as TensorFlow Serving documents it


def test_status_is_tensorflow_servings(shared):
    whole = shared.get("/v1/models/colours")
    assert whole.status_code == 200
    entry = {"version": "1", "state": "AVAILABLE"}
    entry["status"] = {"error_code": "OK", "error_message": ""}
    assert whole.json() == {"model_version_status": [entry]}
    assert shared.get("/v1/models/colours/versions/1").json() == whole.json()


def test_metadata_names_each_tensor(shared, served):
    content = shared.get("/v1/models/colours/metadata").json()
    spec = {"name": "colours", "signature_name": "", "version": "1"}
    assert content["model_spec"] == spec
    signatures = content["metadata"]["signature_def"]["signature_def"]
    assert signatures.keys() == served.signatures.keys() | {INIT}
    assert signatures[INIT] == {
        "inputs": {},
        "outputs": {
            INIT: {
                "dtype": "DT_INVALID",
                "tensor_shape": {"dim": [], "unknown_rank": True},
                "name": "NoOp",
            }
        },
        "method_name": "",
        "defaults": {},
    }
    method = signatures["serving_default"]["method_name"]
    assert method == "tensorflow/serving/predict"
    images = signatures["serving_default"]["inputs"]["images"]
    assert images["dtype"] == "DT_FLOAT"
    sizes = [dim["size"] for dim in images["tensor_shape"]["dim"]]
    assert sizes == ["-1", "32", "32", "3"]
    assert images["tensor_shape"]["unknown_rank"] is False
    classes = signatures["serving_bytes"]["outputs"]["top_classes"]
    assert classes["dtype"] == "DT_STRING"
    versioned = shared.get("/v1/models/colours/versions/1/metadata")
    assert versioned.json() == content


def test_the_real_protos_read_status_and_metadata(shared):
    from google.protobuf import json_format
    from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2

    text = shared.get("/v1/models/colours").text
    status = json_format.Parse(text, get_model_status_pb2.GetModelStatusResponse())
    assert [entry.version for entry in status.model_version_status] == [1]
    content = shared.get("/v1/models/colours/metadata").json()
    read = json_format.ParseDict(
        content["metadata"]["signature_def"], get_model_metadata_pb2.SignatureDefMap()
    )
    name = read.signature_def["serving_bytes"].inputs["image_bytes"].name
    assert name.endswith(":0")


@pytest.mark.parametrize("path", [PREDICT, "/v1/models/colours/versions/1:predict"])
def test_pixels_by_rows_and_by_columns_are_those_of_predict(path, shared, trained):
    images = np.random.default_rng(0).uniform(0, 255, (3, 32, 32, 3))
    expected = trained[1].predict(images.astype(np.float32), verbose=0)
    for body in (
        {"instances": images.tolist()},
        {"instances": [{"images": image} for image in images.tolist()]},
        {"signature_name": "serving_default", "instances": images.tolist()},
    ):
        predictions = strict(ask(shared, body, path))["predictions"]
        np.testing.assert_allclose(predictions, expected, atol=1e-5)
    for inputs in (images.tolist(), {"images": images.tolist()}):
        outputs = strict(ask(shared, {"inputs": inputs}, path))["outputs"]
        np.testing.assert_allclose(outputs, expected, atol=1e-5)


def test_bytes_by_rows_and_by_columns_are_those_of_the_model(shared, served):
    pictures = [picture(1), picture(2, (90, 61), "JPEG"), picture(3, (8, 70))]
    expected = served.run("serving_bytes", image_bytes=pictures)
    rows = [b64(data) for data in pictures]
    for instances in (rows, [{"image_bytes": row} for row in rows]):
        body = {"signature_name": "serving_bytes", "instances": instances}
        predictions = strict(ask(shared, body))["predictions"]
        assert [row["top_classes"] for row in predictions] == [
            [name.decode() for name in names] for names in expected["top_classes"]
        ]
        for key in ("probabilities", "top_probabilities"):
            got = [row[key] for row in predictions]
            np.testing.assert_allclose(got, expected[key], atol=1e-5)
        assert [row["ok"] for row in predictions] == [True] * 3
    for inputs in (rows, {"image_bytes": rows}):
        body = {"signature_name": "serving_bytes", "inputs": inputs}
        outputs = strict(ask(shared, body))["outputs"]
        np.testing.assert_allclose(
            outputs["probabilities"], expected["probabilities"], atol=1e-5
        )
    assert outputs["top_classes"][0][0] == "red"
    for data in (data + bytes(n) for data in pictures[:1] for n in range(3)):
        bare = base64.b64encode(data).decode().rstrip("=")  # no padding
        row = {"signature_name": "serving_bytes", "instances": [{"b64": bare}]}
        assert strict(ask(shared, row))["predictions"][0]["ok"]


def test_bad_pictures_are_rows_that_are_not_ok(shared, served):
    good = picture(1)
    large = picture(2, (200, 100))  # 20,000 pixels, and the limit is 10,000
    gif = picture(3, kind="GIF")
    lying = PNG + (60_000).to_bytes(4, "big") * 2 + bytes(40)
    bad = [b"", b"no picture", large, gif, lying, good[:120]]
    rows = strict(ask_bytes(shared, *bad, good))["predictions"]
    assert [row["ok"] for row in rows] == [False] * len(bad) + [True]
    for row in rows[:-1]:
        assert set(row["probabilities"]) == {0.0}
        assert set(row["top_classes"]) == {""}
    expected = served.run("serving_bytes", image_bytes=[good])["probabilities"]
    np.testing.assert_allclose(rows[-1]["probabilities"], expected[0], atol=1e-5)


# what is refused, and how


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        (b"\xff\xfe{", "not JSON"),
        ('{"instances": [1e400]}', "images has shape [1]"),
        ('{"instances": [NaN]}', "NaN is not JSON; numbers must be finite"),
        ('{"instances": [-Infinity]}', "-Infinity is not JSON"),
        ('{"instances": [' + "1" * 5000 + "]}", "not JSON"),
        ("[1]", "must be a JSON object"),
        ("{}", "either instances"),
        ({"instances": [1], "inputs": [1]}, "either instances"),
        ({"instances": 1}, "must be a list of rows"),
        ({"instances": {}}, "must be a list of rows"),
        ({"instances": []}, "images has shape [0]"),
        ({"inputs": []}, "images has shape [0]"),
        ({"instances": [[[1]]]}, "[1, 1, 1]: must be [any, 32, 32, 3]"),
        ({"instances": [{"image": 1}]}, 'must have images, and has "image"'),
        ({"instances": [{"images": 1}, 2]}, "instances[1] must have images"),
        ({"inputs": {"images": 1, "x": 2}}, 'has "images", "x"'),
        ({"inputs": 1}, "images has shape []"),
        ({"signature_name": "serve", "instances": [1]}, 'signature_name="serve"'),
        ({"signature_name": 7, "instances": [1]}, "signature_name=7"),
        ({"signature_name": [], "instances": [1]}, "signature_name=a list"),
    ],
)
def test_bad_body_is_a_400_that_says_what_must_be(body, words, shared):
    assert_refused(ask(shared, body), 400, words)


def image(value=0.0, shape=(32, 32, 3)):
    pixels = np.zeros(shape).tolist()
    pixels[0][0][0] = value
    return pixels


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (image("1"), 'holds "1": must be a number, float32'),
        (image(None), "holds null"),
        (image(True), "holds true"),
        (image({"b64": "AA=="}), "holds an object"),
        (image([1, 2]), "ragged"),
        (image(1e39), "a number beyond float32"),
        (image(10**400), "does not fit into float32"),
        (image(shape=(32, 32, 4)), "[1, 32, 32, 4]: must be [any, 32, 32, 3]"),
        (image(shape=(32, 31, 3)), "[1, 32, 31, 3]"),
        ([*image()[:31], [[0, 0, 0]]], "ragged"),
    ],
)
def test_bad_pixels_are_a_400_that_says_what_must_be(row, words, shared):
    assert_refused(ask(shared, {"instances": [row]}), 400, words)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"b64": "!"}, "not base64"),
        ({"b64": "AAAAA"}, "not base64"),
        ({"b64": "AA="}, "not base64"),
        ({"b64": 1}, 'must have image_bytes, and has "b64"'),
        (1, 'holds 1: must be {"b64": "..."} or a string'),
        (None, "holds null"),
        ("\ud800", "no Unicode"),
        ([b64(b"a")], "image_bytes has shape [1, 1]: must be [any]"),
    ],
)
def test_bad_bytes_are_a_400_that_says_what_must_be(row, words, shared):
    body = {"signature_name": "serving_bytes", "instances": [row]}
    assert_refused(ask(shared, body), 400, words)


def test_no_rows_are_a_400(shared):
    for form in ("instances", "inputs"):
        body = {"signature_name": "serving_bytes", form: []}
        assert_refused(ask(shared, body), 400, "must be at least one")


@pytest.mark.parametrize("kind", ["[", '{"a":'])
@pytest.mark.parametrize("start", ["", '{"instances": '])
def test_nested_json_is_a_400(kind, start, shared):
    body = start + kind * 500_000
    for content in (body, body + ("]" if kind == "[" else "1}") * 500_000):
        assert_refused(ask(shared, content), 400, "nested too deep")
    assert shared.get("/health").status_code == 200


@pytest.mark.parametrize("depth", [5, 20, 60, 400])
def test_lists_deeper_than_the_input_are_a_400(depth, shared):
    body = '{"instances": ' + "[" * depth + "1" + "]" * depth + "}"
    assert_refused(ask(shared, body), 400, "images")


@pytest.mark.parametrize(
    ("method", "path", "status", "words"),
    [
        ("GET", "/v1/models/other", 404, "no model 'other': this is 'colours'"),
        ("POST", "/v1/models/other:predict", 404, "no model 'other'"),
        ("GET", "/v1/models/colours/versions/7", 404, "version 7"),
        ("GET", "/v1/models/colours/versions/7/metadata", 404, "1 is served"),
        ("POST", "/v1/models/colours/versions/7:predict", 404, "version 7"),
        ("POST", "/v1/models/colours:classify", 400, ":predict"),
        ("GET", "/v1/models/colours/labels/stable", 400, "no such path"),
        ("GET", "/v1/models/colours/versions/x", 400, "no such path"),
        ("GET", "/v1/models/colours/versions/1/", 400, "no such path"),
        ("GET", f"/v1/models/colours/versions/{2**63}", 400, f"at most {2**63 - 1}"),
        ("GET", f"/v1/models/colours/versions/{2**63 - 1}", 404, "could not find"),
        ("GET", f"/v1/models/colours/versions/{'1' * 5000}", 400, "no such path"),
        ("GET", "/v1/", 400, "no such path"),
        ("GET", "/nothing", 404, "Not Found"),
        ("GET", PREDICT, 405, "Method Not Allowed"),
        ("PUT", PREDICT, 405, "Method Not Allowed"),
        ("POST", "/v1/models/colours", 405, "Method Not Allowed"),
        ("DELETE", "/v1/models/colours/metadata", 405, "Method Not Allowed"),
        ("POST", "/", 405, "Method Not Allowed"),
    ],
)
def test_wrong_paths_and_methods_are_named(method, path, status, words, shared):
    assert_refused(shared.request(method, path), status, words)


def test_too_many_rows_or_bytes_are_a_413(shared):
    rows = [b64(b"")] * 41
    body = {"signature_name": "serving_bytes", "instances": rows}
    assert_refused(ask(shared, body), 413, "41 rows: must be at most 40")
    body = {"signature_name": "serving_bytes", "inputs": rows}
    assert_refused(ask(shared, body), 413, "41 rows")
    assert_refused(ask(shared, b" " * 4_000_001), 413, "at most 4000000 bytes")
    # without a content-length
    chunks = itertools.repeat(b" " * 100_000, 100)
    assert_refused(shared.post(PREDICT, content=chunks), 413, "at most 4000000 bytes")
    assert_refused(ask(shared, b" " * 4_000_000), 400, "not JSON")


@pytest.mark.parametrize("name", ["x", "\u00e9", "%01"])
def test_error_repeats_at_most_a_kilobyte_of_the_request(name, shared):
    long = name * 5000
    for response in (
        shared.get(f"/v1/models/{long}"),
        ask(shared, {"instances": [{f"{long}{n}": 1 for n in range(99)}]}),
        ask(shared, {"signature_name": long, "instances": [1]}),
        ask(shared, {"instances": [long]}),
    ):
        assert 400 <= response.status_code < 500
        assert len(strict(response)["error"].encode()) <= 1000


def test_pixels_of_a_request_are_bounded_by_the_headers_alone(place):
    limits = {"max_pixels": 10_000, "max_request_pixels": 15_000}
    with serving(place, Settings(**FAST, **limits)) as client:
        good, large = picture(size=(100, 60)), picture(size=(120, 90))
        # what is not decoded does not count
        response = ask_bytes(client, good, large, good, b"none")
        oks = [row["ok"] for row in strict(response)["predictions"]]
        assert oks == [True, False, True, False]
        response = ask_bytes(client, good, good, good)
        assert_refused(response, 413, "18000 pixels: must be at most 15000 a request")


class Trickle:
    """A request whose body comes in chunks, each after some seconds."""

    def __init__(self, *chunks, seconds=0.0, **headers):
        self.chunks, self.seconds, self.headers = chunks, seconds, headers

    async def stream(self):
        for chunk in self.chunks:
            await asyncio.sleep(self.seconds)
            yield chunk


def test_bodies_are_bounded_in_number_time_and_memory():
    metrics = Metrics()
    limits = {"max_queue": 2, "body_seconds": 0.05, "max_body": 10}
    admission = Admission(Settings("m", **limits), metrics.queue)

    async def read(*chunks, **options):
        async with admission.body(Trickle(*chunks, **options)) as body:
            return body

    async def main():
        assert await read(b"0123", b"456789") == b"0123456789"
        for chunks, options, status in (
            ([b"0123", b"4567890"], {}, 413),
            ([], {"content-length": "11"}, 413),
            ([b"0"] * 4, {"seconds": 0.03}, 408),
        ):
            with pytest.raises(RequestError) as caught:
                await read(*chunks, **options)
            assert caught.value.status == status
        async with admission.body(Trickle(b"0")), admission.body(Trickle(b"1")):
            assert metrics.registry.get_sample_value("keras_resnet_queue") == 2
            with pytest.raises(RequestError, match="the queue is full") as caught:
                await read(b"2")
            assert caught.value.status == 503
        admission._bytes = 75  # of 8 times max_body
        with pytest.raises(RequestError, match="too many bytes wait") as caught:
            await read(b"012345")
        assert caught.value.status == 503
        assert await read(b"01234") == b"01234"
        assert (admission._bytes, admission._requests) == (75, 0)

    asyncio.run(main())


def test_output_that_json_cannot_say_is_a_400():
    outputs = {"y": np.array([1.0, np.nan], np.float32)}
    with pytest.raises(RequestError, match=r"y is not finite.*\[0, 255\]") as caught:
        answers.write(outputs, by_rows=True)
    assert caught.value.status == 400


def test_answers_are_rows_or_columns_and_bytes_are_base64():
    one = {"y": np.array([[1.5], [2.0]], np.float32)}
    assert json.loads(answers.write(one, True)) == {"predictions": [[1.5], [2.0]]}
    assert json.loads(answers.write(one, False)) == {"outputs": [[1.5], [2.0]]}
    names = np.array([b"a", b"\xc3\xa9"], object)
    two = {"s": names, "s_bytes": names}
    rows = [{"s": "a", "s_bytes": {"b64": "YQ=="}}]
    rows.append({"s": "\u00e9", "s_bytes": {"b64": "w6k="}})
    assert json.loads(answers.write(two, True)) == {"predictions": rows}


# batches


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


def run_all(model, requests, max_rows=4, wait=0.05):
    """[outputs or error] of concurrent requests, each a list of numbers."""

    async def main():
        with concurrent.futures.ThreadPoolExecutor(RUNNERS) as executor:
            slots = asyncio.Semaphore(RUNNERS)
            batcher = Batcher(model, max_rows, wait, executor, slots)
            calls = [
                batcher.run("add", {"x": np.array(rows, np.float32)}, len(rows))
                for rows in requests
            ]
            results = await asyncio.gather(*calls, return_exceptions=True)
            await asyncio.wait_for(batcher.drain(), 10)
            return results

    return asyncio.run(main())


def test_concurrent_requests_are_joined_and_get_their_own_answers():
    model = FakeModel()
    requests = [[1], [2, 3], [4], [5, 6, 7], [8]]
    results = run_all(model, requests)
    for rows, result in zip(requests, results):
        np.testing.assert_array_equal(result["y"], np.array(rows) + 1)
    assert sorted(model.ran) == [4, 4]


def test_large_request_is_run_in_several_batches():
    model = FakeModel()
    [result] = run_all(model, [range(10)])
    np.testing.assert_array_equal(result["y"], np.arange(10) + 1)
    assert sorted(model.ran) == [2, 4, 4]


def test_batch_has_no_more_pixels_than_it_may():
    async def main():
        model = FakeModel()
        with concurrent.futures.ThreadPoolExecutor(RUNNERS) as executor:
            slots = asyncio.Semaphore(RUNNERS)
            batcher = Batcher(model, 9, 0.05, executor, slots, max_pixels=100)
            x, each = np.zeros(2, np.float32), np.array([10, 35])
            calls = [batcher.run("add", {"x": x}, 2, each) for _ in range(5)]
            await asyncio.wait_for(asyncio.gather(*calls), 10)
        return model.ran

    assert sorted(asyncio.run(main())) == [2, 4, 4]


def test_only_the_culprit_of_a_batch_gets_its_error():
    results = run_all(FakeModel(), [[1], [13], [2], [3]])
    assert isinstance(results[1], SavedModelError)
    for value, index in ((1, 0), (2, 2), (3, 3)):
        np.testing.assert_array_equal(results[index]["y"], [value + 1])


def test_what_does_not_answer_by_rows_is_not_joined():
    model = FakeModel(by_rows=False)
    run_all(model, [[1], [2, 3], list(range(9))])
    assert sorted(model.ran) == [1, 2, 9]


def test_callers_who_go_away_leave_no_trace():
    async def main():
        model = FakeModel(seconds=0.05)
        with concurrent.futures.ThreadPoolExecutor(RUNNERS) as executor:
            batcher = Batcher(model, 2, 0.01, executor, asyncio.Semaphore(RUNNERS))

            def start(value):
                x = np.full(1, value, np.float32)
                return asyncio.ensure_future(batcher.run("add", {"x": x}, 1))

            gone = [start(n) for n in range(20)]
            await asyncio.sleep(0.02)
            for task in gone:
                task.cancel()
            kept = await asyncio.wait_for(start(40), 10)
            await asyncio.wait_for(batcher.drain(), 10)
            return kept, sum(model.ran)

    kept, rows = asyncio.run(main())
    np.testing.assert_array_equal(kept["y"], [41])
    assert rows <= 2 * RUNNERS + 1  # those that ran already, and the last


def test_joined_requests_of_the_real_model_get_their_own_answers(shared, served):
    sizes = itertools.cycle([(40, 36), (90, 61), (33, 32)])
    colours = itertools.cycle([(220, 50, 40), (40, 200, 60), (30, 60, 220)])
    pictures = [picture(n, next(sizes), colour=next(colours)) for n in range(24)]
    expected = [
        served.run("serving_bytes", image_bytes=[data])["probabilities"][0]
        for data in pictures
    ]
    before = sample(shared, "keras_resnet_batch_rows_count")
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda data: ask_bytes(shared, data), pictures))
    for answer, row in zip(answers, expected):
        got = strict(answer)["predictions"][0]["probabilities"]
        np.testing.assert_allclose(got, row, atol=1e-5)
    batches = sample(shared, "keras_resnet_batch_rows_count") - before
    assert batches < len(pictures)


# versions


def test_newer_version_takes_over_while_requests_run(place, versions):
    data = picture(5)
    expected = {}
    for number in (1, 2):
        with SavedModel(versions / str(number)) as model:
            answer = model.run("serving_bytes", image_bytes=[data])
            expected[str(number)] = answer["probabilities"][0]
    assert np.abs(expected["1"] - expected["2"]).max() > 0.1
    stop, answers = threading.Event(), []
    with serving(place) as client, concurrent.futures.ThreadPoolExecutor() as pool:

        def go_on():
            while not stop.is_set():
                answers.append(ask_bytes(client, data))

        workers = [pool.submit(go_on) for _ in range(4)]
        wait_for(lambda: len(answers) > 10)
        put(versions, place, 2)
        wait_for(lambda: states(client).get("2") == "AVAILABLE")
        enough = len(answers) + 10
        wait_for(lambda: len(answers) > enough)
        stop.set()
        for worker in workers:
            worker.result()
        wait_for(lambda: states(client) == {"2": "AVAILABLE", "1": "END"})
        old = client.get("/v1/models/colours/versions/1").json()
        assert old["model_version_status"][0]["status"]["error_code"] == "OK"
        path = "/v1/models/colours/versions/1:predict"
        assert_refused(ask_bytes(client, data, path=path), 404, "2 is served")
        assert sample(client, "keras_resnet_loaded_version") == 2
    assert {answer.status_code for answer in answers} == {200}
    seen = [answer.headers["x-model-version"] for answer in answers]
    assert set(seen) == {"1", "2"}
    for number, answer in zip(seen, answers):
        got = strict(answer)["predictions"][0]["probabilities"]
        np.testing.assert_allclose(got, expected[number], atol=1e-5)


def test_corrupt_version_is_named_and_the_old_one_keeps_serving(place, versions):
    with serving(place) as client:
        put(versions, place, 2)
        [weights] = (place / "2" / "variables").glob("*.data-*")
        wait_for(lambda: states(client) == {"2": "AVAILABLE", "1": "END"})
        partial = place / ".4"
        shutil.copytree(versions / "1", partial)
        victim = partial / "variables" / weights.name
        whole = victim.read_bytes()
        victim.write_bytes(whole[: len(whole) // 2])
        partial.rename(place / "4")
        wait_for(lambda: states(client).get("4") == "END")
        wait_for(lambda: states(client).get("2") == "AVAILABLE")
        entry = client.get("/v1/models/colours/versions/4").json()
        status = entry["model_version_status"][0]["status"]
        assert status["error_code"] == "UNKNOWN"
        assert "Read less bytes" in status["error_message"]
        assert ask_bytes(client, picture()).headers["x-model-version"] == "2"
        (place / "4" / "variables" / weights.name).write_bytes(whole)
        wait_for(lambda: states(client).get("4") == "AVAILABLE")
        assert ask_bytes(client, picture()).headers["x-model-version"] == "4"


def test_versions_that_disappear_are_unloaded_till_others_come(place, versions):
    with serving(place) as client:
        shutil.rmtree(place / "1")
        wait_for(lambda: client.get("/health").status_code == 503)
        assert client.get("/health").json()["status"] == "unavailable"
        wait_for(lambda: states(client) == {"1": "END"})
        assert_refused(ask_bytes(client, picture()), 503, "no version")
        assert_refused(client.get("/v1/models/colours/metadata"), 503, "no version")
        assert sample(client, "keras_resnet_loaded_version") == 0
        shutil.rmtree(place)
        time.sleep(0.2)
        put(versions, place, 1)
        wait_for(lambda: client.get("/health").status_code == 200)
        assert ask_bytes(client, picture()).status_code == 200


def test_version_without_its_variables_does_not_load(place, versions):
    with serving(place) as client:
        shutil.copytree(versions / "2", tmp := place / ".2")
        shutil.move(tmp / "variables", place / ".variables")
        tmp.rename(place / "2")  # TensorFlow's loader takes it so
        wait_for(lambda: states(client) == {"2": "END", "1": "AVAILABLE"})
        assert ask_bytes(client, picture()).headers["x-model-version"] == "1"
        shutil.move(place / ".variables", place / "2" / "variables")
        wait_for(lambda: states(client).get("2") == "AVAILABLE")
        assert ask_bytes(client, picture()).headers["x-model-version"] == "2"


class Loads:
    """A loader of fakes: a version's folder says in a file what becomes of it."""

    def __init__(self):
        self.tried, self.closed = [], []

    def __call__(self, path):
        self.tried.append(path.name)
        if (path / "saved_model.pb").read_text() == "bad":
            raise SavedModelError(f"{path.name} is bad")
        model = FakeModel()
        model.close = lambda: self.closed.append(path.name)
        return model


def write(folder, number, content="good"):
    path = folder / str(number)
    path.mkdir(parents=True, exist_ok=True)
    (path / "saved_model.pb").write_text(content)


def watching(folder, story):
    """Runs `story(versions, loads)`, a coroutine function, and stops the versions."""

    async def main():
        loads = Loads()
        versions = Versions(folder, Settings("m", poll=0), Metrics(), loads)
        try:
            await versions.start()
            await story(versions, loads)
        finally:
            await versions.stop()
        return loads

    return asyncio.run(main())


def test_newest_loadable_version_is_served_and_a_bad_one_tried_once(tmp_path):
    async def story(versions, loads):
        assert versions.current.number == 9
        assert loads.tried == ["10", "9"]
        await versions.poll()
        assert loads.tried == ["10", "9"]
        write(tmp_path, 10, "good now")
        await versions.poll()
        assert versions.current.number == 10
        write(tmp_path, 3)
        await versions.poll()
        assert loads.tried == ["10", "9", "10"]
        shutil.rmtree(tmp_path / "10")  # taken back: the one before serves again
        await versions.poll()
        assert versions.current.number == 9

    for number in (2, 9):
        write(tmp_path, number)
    write(tmp_path, 10, "bad")
    for name in ("x", "-1", "\u00b2", "\u0661", "1.5", str(2**63)):
        (tmp_path / name).mkdir()
    (tmp_path / "77").write_text("no folder")
    loads = watching(tmp_path, story)
    assert loads.closed == ["9", "10", "9"]


def test_zeros_may_come_before_a_version(tmp_path):
    async def story(versions, loads):
        assert versions.current.number == 123
        assert loads.tried == ["00000123"]
        write(tmp_path, "124")
        write(tmp_path, "0124")  # as in TensorFlow Serving, the last by its name
        await versions.poll()
        assert versions.current.number == 124
        assert loads.tried == ["00000123", "124"]

    write(tmp_path, "00000123")
    write(tmp_path, "9")
    watching(tmp_path, story)
    assert engines.versions(tmp_path) == [9, 123, 124]


def test_old_version_is_closed_when_its_last_request_has_ended(tmp_path):
    async def story(versions, loads):
        with versions.current.use() as old:
            write(tmp_path, 2)
            await versions.poll()
            assert versions.current.number == 2
            await asyncio.sleep(0.05)
            assert loads.closed == []
            entry = versions.statuses()[1]
            assert (entry["version"], entry["state"]) == ("1", "UNLOADING")
            x = np.zeros(1, np.float32)
            assert (await old.batcher.run("add", {"x": x}, 1))["y"] == [1]
        for _ in range(100):
            await asyncio.sleep(0.01)
        assert loads.closed == ["1"]
        assert versions.statuses()[1]["state"] == "END"

    write(tmp_path, 1)
    watching(tmp_path, story)


def test_ended_versions_are_forgotten_in_time(tmp_path):
    async def story(versions, loads):
        for number in range(2, 60):
            write(tmp_path, number)
            await versions.poll()
            shutil.rmtree(tmp_path / str(number - 1))
        await asyncio.sleep(0.1)
        await versions.poll()
        assert len(versions.statuses()) < 25

    write(tmp_path, 1)
    watching(tmp_path, story)


# limits of the header, health and metrics


@pytest.mark.parametrize("size", [(40, 36), (1, 1), (3, 500)])
@pytest.mark.parametrize(
    "options",
    [
        {"format": "PNG"},
        {"format": "JPEG"},
        {"format": "JPEG", "progressive": True, "comment": b"\xff\xc0" * 90},
        {"format": "JPEG", "exif": b"Exif\0\0MM\0*\0\0\0\x08\0\0", "subsampling": 0},
    ],
)
def test_pixels_are_read_from_the_header_alone(size, options):
    file = io.BytesIO()
    Image.new("RGB", size[::-1]).save(file, **options)
    data = file.getvalue()
    assert header.pixels(data) == size[0] * size[1]
    counted = [header.pixels(data[:end]) for end in range(len(data))]
    assert set(counted) <= {None, size[0] * size[1]}
    assert counted[11] is None


def test_jpeg_of_endless_scans_is_no_picture(shared):
    file = io.BytesIO()
    Image.new("RGB", (40, 36)).save(file, "JPEG", progressive=True)
    data = file.getvalue()
    last = data[data.rindex(b"\xff\xda") : -2]
    assert header.pixels(data[:-2] + last * 20 + data[-2:]) == 40 * 36
    endless = data[:-2] + last * 99 + data[-2:]
    assert header.pixels(endless) is None
    rows = strict(ask_bytes(shared, endless, data))["predictions"]
    assert [row["ok"] for row in rows] == [False, True]


def test_header_that_never_ends_costs_little():
    start = time.monotonic()
    for filler in (b"\xff\x00", b"\xff\xd0", b"\xff\xff", b"\xff\xe0\0\x02", b"x"):
        assert header.pixels(b"\xff\xd8\xff\xd0" + filler * 5_000_000) is None
    assert time.monotonic() - start < 5
    assert header.pixels(PNG + bytes(3)) is None
    assert header.pixels(PNG + (2**31 - 1).to_bytes(4, "big") * 2) == (2**31 - 1) ** 2


def sample(client, name, **labels):
    response = client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=")
    for family in text_string_to_metric_families(response.text):
        for entry in family.samples:
            if entry.name == name and labels.items() <= entry.labels.items():
                return entry.value
    return 0


def test_metrics_count_requests_rows_and_batches(place):
    with serving(place) as client:
        for _ in range(3):
            assert ask_bytes(client, picture(), b"none").status_code == 200
        ask(client, {"instances": [1]})
        requests = "keras_resnet_requests_total"
        assert sample(client, requests, signature="serving_bytes", code="200") == 3
        assert sample(client, requests, signature="none", code="400") == 1
        assert sample(client, "keras_resnet_rows_refused_total") == 3
        assert sample(client, "keras_resnet_batch_rows_sum") == 6
        assert sample(client, "keras_resnet_batch_rows_count") == 3
        seconds = "keras_resnet_request_seconds_count"
        assert sample(client, seconds, signature="serving_bytes") == 3
        assert sample(client, "keras_resnet_loaded_version") == 1
        assert sample(client, "keras_resnet_queue") == 0
        theirs = client.get("/monitoring/prometheus/metrics")
        assert "keras_resnet_requests_total" in theirs.text


def test_health_names_what_is_served(shared):
    response = shared.get("/health")
    assert response.status_code == 200
    facts = response.json()
    assert (facts["status"], facts["model"]) == ("available", "colours")
    assert (facts["version"], facts["max_pixels"]) == ("1", 10_000)


def test_start_page_is_whole_in_itself(shared):
    response = shared.get("/")
    assert response.status_code == 200
    assert "default-src 'none'" in response.headers["content-security-policy"]
    assert "https://" not in response.text
    assert 'for="file"' in response.text
    assert "TensorFlow Serving is for production" in response.text


# the command


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


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("max_rows", 0), ("poll", -1), ("wait_ms", float("inf")), ("name", "a:b")),
        *(("max_connections", 0), ("idle_seconds", -1), ("max_pixels", float("nan"))),
    ],
)
def test_settings_out_of_range_are_named(field, value):
    with pytest.raises(ServeError, match=f"{field}="):
        Settings(**{"name": "m", field: value})


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


def test_sigterm_ends_what_is_in_flight_and_exits_with_0(place):
    with process(place) as (server, address):
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
        time.sleep(0.3)
        assert server.poll() is None
        slow.send(body[50:])
        response = slow.getresponse()
        assert response.status == 200
        assert json.loads(response.read())["predictions"][0]["ok"]
        out, err = server.communicate(timeout=30)
        assert (server.returncode, out, err) == (0, "", "")
        idle.close()
        slow.close()


def get(address, path):
    connection = http.client.HTTPConnection(address, timeout=30)
    connection.request("GET", path)
    data = connection.getresponse().read()
    connection.close()
    return data


def test_lines_of_the_guide_get_their_answers(place, versions, tmp_path):
    guide = (versions / "README.md").read_text().replace(versions.name, "colours")
    shell, rest = (
        re.findall(rf"```{language}\n(.*?)```", guide, re.S)[position]
        for language, position in (("sh", 1), ("python", 0))
    )
    (tmp_path / "cat.jpg").write_bytes(picture(kind="JPEG"))
    with process(place) as (_, address):
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


def test_clients_that_break_off_do_not_wedge_the_server(place):
    with process(place, "--max-body", "1", "--max-queue", "3") as (server, address):
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
        server.send_signal(signal.SIGINT)
        assert server.wait(30) == 0
        assert server.stderr.read() == ""


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
    """A request of 100 KB that takes a minute and more to answer."""
    file = io.BytesIO()
    Image.new("1", (2000, 2000)).save(file, "PNG")
    rows = [b64(file.getvalue())] * 150
    return json.dumps({"signature_name": "serving_bytes", "instances": rows}).encode()


def test_work_that_takes_too_long_is_ended_and_so_is_the_server(place):
    limits = {"max_request_pixels": 10**9, "answer_seconds": 2, "idle_seconds": 2}
    limits |= {"drain_seconds": 5, "max_connections": 20}
    with limited(place, **limits) as (server, address), contextlib.ExitStack() as stack:
        where = tuple(address.split(":"))
        silent = [
            stack.enter_context(socket.create_connection(where)) for _ in range(50)
        ]
        assert b"available" in get(address, "/health")
        wait_for(lambda: all(is_closed(client) for client in silent))
        status, content = post(address, laborious())
        assert (status, json.loads(content).keys()) == (504, {"error"})
        # its place is free for others
        body = {"signature_name": "serving_bytes", "instances": [b64(picture())]}
        wait_for(lambda: post(address, json.dumps(body).encode())[0] == 200)
        server.send_signal(signal.SIGTERM)
        assert server.wait(30) == 0


def test_stop_is_not_delayed_by_what_is_in_flight(place):
    limits = {"max_request_pixels": 10**9, "answer_seconds": 600, "drain_seconds": 5}
    with (
        limited(place, **limits) as (server, address),
        concurrent.futures.ThreadPoolExecutor() as pool,
    ):
        answer = pool.submit(post, address, laborious())
        wait_for(
            lambda: b"\nkeras_resnet_batch_rows_count 0.0" not in get(address, METRICS)
        )
        server.send_signal(signal.SIGTERM)
        assert server.wait(30) == 0  # and not when all is decoded, a minute later
        status, content = answer.result()
        assert (status, json.loads(content).keys()) == (503, {"error"})
        assert "the server was stopped" in json.loads(content)["error"]
        assert "Traceback" not in server.stderr.read()


def test_stop_is_not_delayed_by_what_never_ends(tmp_path):
    (tmp_path / "1").mkdir()
    with (
        limited(tmp_path, "stuck", drain_seconds=4) as (server, address),
        concurrent.futures.ThreadPoolExecutor() as pool,
    ):
        body = json.dumps({"signature_name": "add", "inputs": [1.0]}).encode()
        answer = pool.submit(post, address, body)
        wait_for(
            lambda: b"\nkeras_resnet_batch_rows_count 0.0" not in get(address, METRICS)
        )
        server.send_signal(signal.SIGTERM)
        assert server.wait(30) == 0
        assert answer.result()[0] == 503
        assert server.stderr.read().splitlines()[-1] == "what ran did not end in time"


def is_closed(client):
    client.settimeout(0)
    with contextlib.suppress(BlockingIOError):
        try:
            return client.recv(4096) == b""
        except ConnectionError:
            return True
    return False


# connections


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
        await asyncio.sleep(1)
        await HELLO(scope, receive, send)

    with listening(slow, idle_seconds=0.6) as (connect, _):
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


@pytest.mark.parametrize(
    ("host", "status"),
    [
        *((host, 200) for host in ("localhost", "LOCALHOST.:8501", "127.0.0.1:8501")),
        *((host, 200) for host in ("[::1]:8501", "10.1.2.3", "gpu.example:80")),
        *((host, 403) for host in ("evil.example", "localhost.evil.example:8501")),
        *((host, 403) for host in ("127.0.0.1.evil.example", "[x", "evil@:1", "")),
        ("x" * 5000, 403),
    ],
)
def test_host_that_is_not_ours_is_refused(host, status):
    client = TestClient(Gate(HELLO, ["localhost", "GPU.example.", ""]))
    response = client.get("/", headers={"Host": host})
    assert response.status_code == status
    if status == 403:
        assert_refused(response, 403, "no such Host", "--allow-host")


def test_command_answers_for_its_own_names_and_those_it_is_given(place):
    with process(place, "--allow-host", "cats.example") as (_, address):
        for host, status in (
            *((address, 200), ("cats.example", 200), ("dogs.example", 403)),
        ):
            connection = http.client.HTTPConnection(address, timeout=30)
            connection.request("GET", "/health", headers={"Host": host})
            assert connection.getresponse().status == status
            connection.close()


def post(address, body):
    connection = http.client.HTTPConnection(address, timeout=30)
    connection.request("POST", PREDICT, body)
    response = connection.getresponse()
    data = response.read()
    connection.close()
    return response.status, data


def test_read_says_413_for_rows_before_it_converts_them(served):
    body = json.dumps({"instances": [0] * 9}).encode()
    with pytest.raises(RequestError) as caught:
        requests.read(body, served.signatures, max_rows=8)
    assert caught.value.status == 413
