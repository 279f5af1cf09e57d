"""An ONNX or OpenVINO folder is served with the paths and answers of a SavedModel."""

import concurrent.futures
import io
import shutil

import numpy as np
import pytest
from PIL import Image
from serving import (
    FAST,
    PREDICT,
    ask,
    ask_bytes,
    assert_refused,
    picture,
    serving,
    wait_for,
)

from keras_resnet import export
from keras_resnet.errors import SavedModelError
from keras_resnet.export.savedmodel import SavedModel
from keras_resnet.export.served import ServedEngine, open_served
from keras_resnet.serve import Settings, check_folder, command

KINDS = ("onnx", "openvino")


@pytest.fixture(scope="module")
def folders(trained, tmp_path_factory):
    """{format: a model folder in float32}; only to be read."""
    root = tmp_path_factory.mktemp("engines")
    for kind in KINDS:
        export.save(trained[1], root / kind, kind)
    return {kind: root / kind for kind in KINDS}


@pytest.fixture(scope="module", params=KINDS)
def engine(request, folders):
    return ServedEngine(folders[request.param] / "1", streams=2)


def files():
    """Good and bad ones: (their bytes, whether each is a picture)."""
    whole = picture(3, (90, 64), "JPEG", (40, 200, 60))
    grey = io.BytesIO()
    Image.new("L", (33, 47), 90).save(grey, "PNG")
    good = [picture(), picture(1, (200, 150), "JPEG"), whole, grey.getvalue()]
    bad = [b"", b"no picture", whole[: len(whole) // 2]]
    return [*good, *bad], [True] * len(good) + [False] * len(bad)


def test_signatures_are_those_of_the_saved_model(engine, served):
    assert engine.signatures == served.signatures
    for name, sides in engine.signatures.items():
        method, *described = engine.metadata[name]
        assert method == served.metadata[name][0]
        for side, tensors in zip(("inputs", "outputs"), described):
            shown = {key: (dtype, shape) for key, (_, dtype, shape) in tensors.items()}
            assert shown == sides[side]


def test_answers_are_those_of_the_saved_model(engine, served):
    data, expected = files()
    ours, theirs = (
        model.run("serving_bytes", image_bytes=data) for model in (engine, served)
    )
    assert ours.keys() == theirs.keys()
    assert ours["ok"].tolist() == theirs["ok"].tolist() == expected
    assert ours["top_classes"].tolist() == theirs["top_classes"].tolist()
    for name in ("probabilities", "top_probabilities"):
        np.testing.assert_allclose(ours[name], theirs[name], atol=1e-5)
        assert not ours[name][~ours["ok"]].any()
    images = np.random.default_rng(0).uniform(0, 255, (5, 32, 32, 3)).astype("f4")
    ours, theirs = (
        model.run("serving_default", images=images) for model in (engine, served)
    )
    np.testing.assert_allclose(
        ours["probabilities"], theirs["probabilities"], atol=1e-5
    )


def test_threads_get_the_answers_to_their_own_images(engine):
    images = np.random.default_rng(1).uniform(0, 255, (40, 1, 32, 32, 3)).astype("f4")

    def run(rows):
        return engine.run("serving_default", images=rows)["probabilities"]

    alone = [run(rows) for rows in images]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        together = [*pool.map(run, images)]
    np.testing.assert_allclose(together, alone, atol=1e-6)


def test_engine_refuses_what_is_late_closed_or_of_no_signature(folders):
    engine = open_served(folders["openvino"] / "1")
    rows = np.zeros((1, 32, 32, 3), np.float32)
    with pytest.raises(SavedModelError, match="its time is over"):
        engine.run("serving_default", -1.0, images=rows)
    with pytest.raises(SavedModelError, match=r"signature='serve': no such signature"):
        engine.run("serve", images=rows)
    engine.close()
    engine.close()
    with pytest.raises(SavedModelError):
        engine.run("serving_default", images=rows)


@pytest.mark.parametrize("kind", KINDS)
def test_server_answers_pictures_and_pixels(kind, folders, exported):
    data, expected = files()
    with SavedModel(exported) as model:
        theirs = model.run("serving_bytes", image_bytes=data)
    with serving(folders[kind], Settings(**FAST)) as client:
        answer = ask_bytes(client, *data)
        rows = answer.json()["predictions"]
        assert [row["ok"] for row in rows] == expected
        for row, likely, names in zip(
            rows, theirs["probabilities"], theirs["top_classes"]
        ):
            assert row["probabilities"] == pytest.approx(likely.tolist(), abs=1e-5)
            assert row["top_classes"] == [name.decode() for name in names]
        pixels = np.zeros((2, 32, 32, 3)).tolist()
        assert len(ask(client, {"instances": pixels}).json()["predictions"]) == 2
        assert_refused(ask(client, {"instances": [[[1]]]}), 400, "any, 32, 32, 3")
        described = client.get("/v1/models/colours/metadata").json()
        signatures = described["metadata"]["signature_def"]["signature_def"]
        assert signatures.keys() == {"serving_default", "serving_bytes"}


def test_formats_take_turns_in_one_folder(folders, exported, tmp_path):
    place = tmp_path / "colours"
    shutil.copytree(exported, place / "1")
    with serving(place, Settings(**FAST)) as client:
        first = ask_bytes(client, picture())
        shutil.copytree(folders["openvino"] / "1", tmp_path / "new")
        (tmp_path / "new").rename(place / "2")
        wait_for(lambda: client.get("/health").json()["version"] == "2")
        second = client.post(PREDICT, content=first.request.content)
        (ours,), (theirs,) = (it.json()["predictions"] for it in (second, first))
        assert second.headers["x-model-version"] == "2"
        assert ours["top_classes"] == theirs["top_classes"]
        assert ours["probabilities"] == pytest.approx(theirs["probabilities"], abs=1e-5)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (
            lambda it: shutil.rmtree(it / "frame"),
            "frame: no such folder; export",
        ),
        (lambda it: (it / "model.json").unlink(), "no model.json beside the model"),
        (lambda it: (it / "model.bin").unlink(), "model.xml: "),
        (lambda it: (it / "model.xml").write_text("<net"), "model.xml: "),
        (lambda it: (it / "frame" / "saved_model.pb").write_bytes(b""), r"\w"),
    ],
)
def test_damaged_export_is_one_error(spoil, words, folders, tmp_path):
    shutil.copytree(folders["openvino"] / "1", tmp_path / "1")
    spoil(tmp_path / "1")
    with pytest.raises(SavedModelError, match=words):
        open_served(tmp_path / "1")


def test_litert_is_named_as_not_served(exports):
    with pytest.raises(SavedModelError, match="litert is not served; export it as sav"):
        open_served(exports["litert", "float32"] / "1")


def test_tensorflow_serving_is_for_saved_models(
    folders, exported, monkeypatch, tmp_path
):
    program = tmp_path / "tensorflow_model_server"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert command(exported.parent, "colours", 8501)
    check_folder(folders["onnx"])
    assert command(folders["onnx"], "colours", 8501) is None
