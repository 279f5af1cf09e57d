# ruff: noqa: F401, F811 (fixtures are imported by name)
"""Paths, bodies and refusals are TensorFlow Serving's."""

import asyncio
import base64
import itertools
import json

import numpy as np
import pytest
from serving import (
    FAST,
    INIT,
    PNG,
    PREDICT,
    ask,
    ask_bytes,
    assert_refused,
    b64,
    picture,
    place,
    served,
    serving,
    shared,
    strict,
    versions,
)

from keras_resnet.serve import Settings, answers
from keras_resnet.serve.admission import Admission
from keras_resnet.serve.metrics import Metrics
from keras_resnet.serve.requests import RequestError


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
