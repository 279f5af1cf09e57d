# ruff: noqa: F401, F811 (fixtures are imported by name)
"""Pictures' headers, health, the start page and the metrics."""

import io
import time

import pytest
from PIL import Image
from serving import (
    PNG,
    ask,
    ask_bytes,
    picture,
    place,
    sample,
    serving,
    shared,
    strict,
    versions,
)

from keras_resnet.serve import header, requests


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
