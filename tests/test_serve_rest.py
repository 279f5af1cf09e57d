"""The server answers as TensorFlow Serving's REST interface does."""

import base64

import numpy as np
from serving import PNG, PREDICT, ask, ask_bytes, b64, picture, sample, strict

INIT = "__saved_model_init_op"


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


def test_pixels_by_rows_and_by_columns_are_those_of_predict(shared, trained):
    images = np.random.default_rng(0).uniform(0, 255, (3, 32, 32, 3))
    expected = trained[1].predict(images.astype(np.float32), verbose=0)
    for body in (
        {"instances": images.tolist()},
        {"instances": [{"images": image} for image in images.tolist()]},
        {"signature_name": "serving_default", "instances": images.tolist()},
    ):
        predictions = strict(ask(shared, body))["predictions"]
        np.testing.assert_allclose(predictions, expected, atol=1e-5)
    for inputs in (images.tolist(), {"images": images.tolist()}):
        for path in (PREDICT, "/v1/models/colours/versions/1:predict"):
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


def test_metrics_count_requests_rows_and_batches(shared):
    counted = (
        ("requests_total", {"signature": "serving_bytes", "code": "200"}, 3),
        ("requests_total", {"signature": "none", "code": "400"}, 1),
        ("rows_refused_total", {"reason": "unreadable"}, 3),
        ("rows_refused_total", {"reason": "pixels"}, 3),
        ("batch_rows_sum", {}, 9),
        ("batch_rows_count", {}, 3),
        ("request_seconds_count", {"signature": "serving_bytes"}, 3),
    )

    def samples():
        return [
            sample(shared, f"keras_resnet_{n}", **labels) for n, labels, _ in counted
        ]

    before = samples()
    for _ in range(3):
        large = picture(2, (200, 100))
        assert ask_bytes(shared, picture(), b"none", large).status_code == 200
    ask(shared, {"instances": [1]})
    grown = [after - was for was, after in zip(before, samples())]
    assert grown == [count for _, _, count in counted]
    assert sample(shared, "keras_resnet_loaded_version") == 1
    assert sample(shared, "keras_resnet_queue") == 0
    response = shared.get("/monitoring/prometheus/metrics")
    assert "keras_resnet_requests_total" in response.text


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
