"""What is no request to predict is refused in one line that names its fault."""

import asyncio
import io
import itertools
import json
import time

import numpy as np
import pytest
from PIL import Image
from serving import (
    PNG,
    PREDICT,
    ask,
    ask_bytes,
    assert_refused,
    b64,
    bad_rows,
    picture,
    strict,
)

from keras_resnet.serve import Settings, answers, header, requests
from keras_resnet.serve.admission import Admission
from keras_resnet.serve.metrics import Metrics
from keras_resnet.serve.requests import RequestError

BODIES = (
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
)


def test_bad_body_is_a_400_that_says_what_must_be(shared):
    def refuses(body, words):
        assert_refused(ask(shared, body), 400, words)

    assert not bad_rows(BODIES, refuses)


def image(value=0.0, shape=(32, 32, 3)):
    pixels = np.zeros(shape).tolist()
    pixels[0][0][0] = value
    return pixels


PIXELS = (
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
)


def test_bad_pixels_are_a_400_that_says_what_must_be(shared):
    def refuses(row, words):
        assert_refused(ask(shared, {"instances": [row]}), 400, words)

    assert not [words for (_, words), _ in bad_rows(PIXELS, refuses)]


BYTES = (
    ({"b64": "!"}, "not base64"),
    ({"b64": "AAAAA"}, "not base64"),
    ({"b64": "AA="}, "not base64"),
    ({"b64": 1}, 'must have image_bytes, and has "b64"'),
    (1, 'holds 1: must be {"b64": "..."} or a string'),
    (None, "holds null"),
    ("\ud800", "not Unicode"),
    ([b64(b"a")], "image_bytes has shape [1, 1]: must be [any]"),
)


def test_bad_bytes_are_a_400_that_says_what_must_be(shared):
    def refuses(row, words):
        body = {"signature_name": "serving_bytes", "instances": [row]}
        assert_refused(ask(shared, body), 400, words)

    assert not bad_rows(BYTES, refuses)


def test_no_rows_are_a_400(shared):
    for form in ("instances", "inputs"):
        body = {"signature_name": "serving_bytes", form: []}
        assert_refused(ask(shared, body), 400, "must be at least one")


def test_nested_json_is_a_400(shared):
    for start in ("", '{"instances": '):
        for opening, closing in (("[", "]"), ('{"a":', "1}")):
            body = start + opening * 500_000
            for content in (body, body + closing * 500_000):
                assert_refused(ask(shared, content), 400, "nested too deep")
    assert shared.get("/health").status_code == 200


def test_lists_deeper_than_the_input_are_a_400(shared):
    for depth in (5, 20, 60, 400):
        body = '{"instances": ' + "[" * depth + "1" + "]" * depth + "}"
        assert_refused(ask(shared, body), 400, "images")


PATHS = (
    ("GET", "/v1/models/other", 404, "no model 'other': must be 'colours'"),
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
)


def test_wrong_paths_and_methods_are_named(shared):
    def refuses(method, path, status, words):
        assert_refused(shared.request(method, path), status, words)

    assert not bad_rows(PATHS, refuses)


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


def test_error_repeats_at_most_a_kilobyte_of_the_request(shared):
    for name in ("x", "\u00e9", "%01"):
        long = name * 5000
        for response in (
            shared.get(f"/v1/models/{long}"),
            ask(shared, {"instances": [{f"{long}{n}": 1 for n in range(99)}]}),
            ask(shared, {"signature_name": long, "instances": [1]}),
            ask(shared, {"instances": [long]}),
        ):
            assert 400 <= response.status_code < 500
            assert len(strict(response)["error"].encode()) <= 1000


def test_pixels_of_a_request_are_bounded_by_the_headers_alone(shared):
    good, large = picture(size=(100, 60)), picture(size=(120, 90))
    # what is not decoded does not count
    response = ask_bytes(shared, good, large, good, b"none")
    oks = [row["ok"] for row in strict(response)["predictions"]]
    assert oks == [True, False, True, False]
    response = ask_bytes(shared, good, good, good)
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
        with pytest.raises(RequestError, match="too many bytes in the queue") as caught:
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


def test_pixels_are_read_from_the_header_alone():
    kinds = (
        {"format": "PNG"},
        {"format": "JPEG"},
        {"format": "JPEG", "progressive": True, "comment": b"\xff\xc0" * 90},
        {"format": "JPEG", "exif": b"Exif\0\0MM\0*\0\0\0\x08\0\0", "subsampling": 0},
    )
    for size, options in itertools.product(((40, 36), (1, 1), (3, 500)), kinds):
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


def test_read_says_413_for_rows_before_it_converts_them(served):
    body = json.dumps({"instances": [0] * 9}).encode()
    with pytest.raises(RequestError) as caught:
        requests.read(body, served.signatures, max_rows=8)
    assert caught.value.status == 413
