"""Exported models, run by their own runtimes: they do what the Keras model does."""

import json
import shutil
import sys

import numpy as np
import pytest

from keras_resnet import evaluate
from keras_resnet.errors import ModelError
from keras_resnet.evaluate import views
from keras_resnet.export import description, engines, formats, numbering
from keras_resnet.opening import open_model

ALL = [(kind, some) for kind, those in formats.FORMATS.items() for some in those]
# that every engine answers as the model does, other tests assert: three are enough here
QUICK = [("savedmodel", "float32"), ("openvino", "bfloat16"), ("litert", "int8")]
of_three_engines = pytest.mark.parametrize(
    "engine",
    [
        pytest.param(case, marks=[] if case in QUICK else pytest.mark.slow)
        for case in ALL
    ],
    ids="-".join,
    indirect=True,
)


@pytest.fixture(scope="module", params=ALL, ids=lambda case: "-".join(case))
def engine(request, exports):
    with engines.open_engine(exports[request.param]) as engine:
        yield engine


@pytest.fixture
def own(exports, tmp_path):
    """Copies an export's version, for a test that spoils it."""

    def own(kind, precision="float32"):
        return shutil.copytree(exports[kind, precision] / "1", tmp_path / kind)

    return own


def random_pictures(count, dtype=np.uint8):
    pixels = np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3))
    return pixels.astype(dtype)


@pytest.mark.parametrize(("kind", "precision"), ALL)
def test_engine_knows_what_the_model_knew(kind, precision, exports, trained):
    with engines.open_engine(exports[kind, precision]) as engine:
        assert (engine.format, engine.precision) == (kind, precision)
        assert engine.input_shape == (None, 32, 32, 3)
        assert engine.name == str(exports[kind, precision])
        assert engine.info == trained[1].info.replace(
            input_shape=None, dtype_policy="float32"
        )


@pytest.mark.parametrize("count", [0, 1, 3, 64])
def test_any_number_of_pictures_gets_its_answers(count, engine, trained):
    images = random_pictures(count)
    answers = engine.predict_on_batch(images)
    assert answers.shape == (count, 3)
    assert answers.dtype == np.float32
    if count:
        # noise is not what the others in int8 were calibrated on
        if engine.precision != "int8" or engine.format == "litert":
            expected = trained[1].predict_on_batch(images)
            atol = 1e-5 if engine.precision == "float32" else 0.1
            np.testing.assert_allclose(answers, expected, atol=atol)
        alone = engine.predict_on_batch(images[:1])
        np.testing.assert_allclose(answers[:1], alone, atol=1e-5)


def test_answers_stay_when_others_are_asked_for(engine):
    images = random_pictures(4)
    first = engine.predict_on_batch(images)
    kept = first.copy()
    engine.predict_on_batch(images[::-1])
    np.testing.assert_array_equal(first, kept)


def test_dtype_of_pictures_does_not_matter(engine):
    expected = engine.predict_on_batch(random_pictures(2))
    for dtype in (np.float32, np.float64, np.int64):
        answers = engine.predict_on_batch(random_pictures(2, dtype))
        np.testing.assert_array_equal(answers, expected)


@pytest.mark.parametrize("shape", [(1, 33, 32, 3), (32, 32, 3), (1, 32, 32, 1)])
def test_other_shapes_are_refused(shape, engine):
    with pytest.raises(ModelError, match="takes 32 pixels only"):
        engine.predict_on_batch(np.zeros(shape))


@pytest.fixture(scope="module")
def measured(trained, folder):
    """The Keras model's measures."""
    return evaluate.run(trained[1], folder)


@pytest.fixture(scope="module")
def predicted(trained, folder):
    """The Keras model's predictions."""
    return evaluate.predict(trained[1], [folder / "val"], top=2)


@pytest.mark.slow
@of_three_engines
def test_evaluation_is_that_of_the_model(engine, measured, folder):
    found = evaluate.run(engine, folder)
    assert found["examples"] == measured["examples"] == 12
    for measure in ("top1", "top5", "per_class", "confusion"):
        assert found[measure] == measured[measure]
    tolerance = 1e-5 if engine.precision == "float32" else 0.05
    assert found["loss"] == pytest.approx(measured["loss"], abs=tolerance)


@pytest.mark.slow
def test_ten_crops_and_the_grid_are_those_of_the_model(
    engine, trained, folder, tmp_path
):
    expected = evaluate.run(trained[1], folder, views="ten-crop")
    found = evaluate.run(engine, folder, views="ten-crop", batch_size=5, size=32)
    evaluate.picture_grid(engine, folder, tmp_path / "grid.png")
    assert found["confusion"] == expected["confusion"]
    tolerance = 1e-5 if engine.precision == "float32" else 0.05
    assert found["loss"] == pytest.approx(expected["loss"], abs=tolerance)
    assert (tmp_path / "grid.png").stat().st_size > 1000


@of_three_engines
def test_prediction_is_that_of_the_model(engine, predicted, folder):
    found = evaluate.predict(engine, [folder / "val"], top=2)
    assert [row["file"] for row in found] == [row["file"] for row in predicted]
    assert [row["classes"][0] for row in found] == [
        row["classes"][0] for row in predicted
    ]
    np.testing.assert_allclose(
        [row["probabilities"] for row in found],
        [row["probabilities"] for row in predicted],
        atol=1e-5 if engine.precision == "float32" else 0.1,
    )


@pytest.mark.parametrize(
    "looks", [{"size": 48}, {"views": "multi-scale"}, {"scales": (32, 48)}]
)
def test_other_sizes_need_the_model_itself(looks, engine, folder):
    with pytest.raises(ModelError, match="an exported model takes 32 pixels only"):
        evaluate.run(engine, folder, **looks)
    with pytest.raises(ModelError, match=r"takes \(32, 32\) pixels only"):
        views.MultiScale(engine)


@pytest.mark.parametrize("kind", formats.FORMATS)
def test_folder_version_and_file_are_opened(kind, exports, tmp_path):
    folder = exports[kind, "float32"]
    images = random_pictures(2)
    expected = engines.open_engine(folder).predict_on_batch(images)
    for path in (folder / "1", str(folder / "1" / formats.FILES[kind])):
        with engines.open_engine(path) as engine:
            np.testing.assert_array_equal(engine.predict_on_batch(images), expected)


def test_newest_version_is_opened(exports, tmp_path):
    for number, kind in [("2", "onnx"), ("10", "litert")]:
        shutil.copytree(exports[kind, "float32"] / "1", tmp_path / number)
    (tmp_path / "11.partial").mkdir()
    assert numbering.versions(tmp_path) == [2, 10]
    assert engines.open_engine(tmp_path).format == "litert"
    assert engines.open_engine(tmp_path / "2").format == "onnx"


def test_what_is_exported_is_told_from_what_is_not(exports, trained, tmp_path):
    run, _ = trained
    for folder in exports.values():
        assert engines.is_exported(folder)
        assert engines.is_exported(str(folder / "1"))
    for path in ("gone/model.onnx", "model.xml", "model.tflite"):
        assert engines.is_exported(path)
    for path in (run, run / "model.keras", tmp_path, "resnet50d:a.h5", "resnet50d", ""):
        assert not engines.is_exported(path)
    (tmp_path / "3").mkdir()  # a folder of pictures, by class
    assert not engines.is_exported(tmp_path)


def test_any_model_is_opened(exports, trained):
    opened = engines.open_any(exports["onnx", "float32"])
    assert isinstance(opened, engines.Engine)
    assert type(engines.open_any(trained[0])) is type(open_model(trained[0]))


def test_closed_engine_says_so(exports):
    with engines.open_engine(exports["onnx", "float32"]) as engine:
        pass
    engine.close()
    with pytest.raises(ModelError, match=r"onnx-float32: closed; open it again"):
        engine.predict_on_batch(random_pictures(1))


def test_file_that_is_not_there_is_named(own, tmp_path):
    with pytest.raises(ModelError, match=r"none/model\.onnx: no such file"):
        engines.open_engine(tmp_path / "none" / "model.onnx")
    folder = own("onnx")
    (folder / "model.onnx").unlink()
    with pytest.raises(ModelError, match=r"model\.onnx: no such file; export"):
        engines.open_engine(folder)


def test_foreign_file_is_named(own):
    folder = own("onnx")
    shutil.copy(folder / "model.onnx", folder / "theirs.onnx")
    with pytest.raises(ModelError, match=r"theirs\.onnx: the model\.json beside it"):
        engines.open_engine(folder / "theirs.onnx")
    (folder / "model.json").unlink()
    with pytest.raises(ModelError, match=r"no model\.json beside the model.*export"):
        engines.open_engine(folder / "theirs.onnx")


@pytest.mark.parametrize(
    ("kind", "file"),
    [
        ("savedmodel", "saved_model.pb"),
        ("savedmodel", "variables/variables.index"),
        ("onnx", "model.onnx"),
        ("openvino", "model.xml"),
        ("openvino", "model.bin"),
        ("litert", "model.tflite"),
    ],
)
@pytest.mark.parametrize("damage", ["cut", "emptied"])
def test_damaged_file_is_one_error(kind, file, damage, own, capfd):
    folder = own(kind)
    content = (folder / file).read_bytes()
    (folder / file).write_bytes(
        content[: len(content) // 2] if damage == "cut" else b""
    )
    with pytest.raises(
        ModelError, match=rf"{kind}/.*: not a readable {kind} "
    ) as caught:
        engines.open_engine(folder)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": "coreml"}, "coreml"),
        ({"format": ["onnx"]}, "unhashable"),
        ({"precision": "int4"}, "precision='int4' with format='onnx'"),
        ({"info": None}, "describes no export of keras_resnet"),
        ({"info": {}}, "config"),
        ({"info.classes": 10**12}, "classes=1000000000000"),
        ({"info.classes": 10**12, "info.class_names": None}, r"1000000000000\)"),
        ({"info.classes": True, "info.class_names": None}, "classes=True"),
        ({"info.class_names": ["a", "b", 3]}, "class_names="),
        ({"info.class_names": "abc", "info.classes": 4}, "class_names="),
        ({"info.include_top": False}, "include_top=False"),
        ({"info.classifier_activation": None}, "classifier_activation=None"),
        ({"info.protocol": {"size": 64}}, r"describes \{'images': \(None, 64, 64"),
        ({"info.protocol": {"size": "32"}}, "size='32'"),
        ({"info.protocol": {"size": 32, "crop_pct": 0}}, "crop_pct=0"),
        ({"info.protocol": {"size": 32, "steps": 1}}, "steps"),
        ({"info.config": {"depths": "many"}}, "depths='many'"),
        ({"info.more": 1}, "more"),
        ({"info.classifier_activation": {"class_name": "Dense"}}, "class_name"),
        ({"difference": "none"}, "difference='none'"),
    ],
)
def test_lying_description_is_refused(change, words, own):
    folder = own("onnx")
    path = folder / description.DESCRIPTION
    said = json.loads(path.read_text())
    for name, value in change.items():
        *outer, last = name.split(".")
        (said[outer[0]] if outer else said)[last] = value
    path.write_text(json.dumps(said))
    with pytest.raises(ModelError, match=words):
        engines.open_engine(folder)


@pytest.mark.parametrize("text", ["", "[]", "[" * 100_000, "\0", '{"format": "onnx"}'])
def test_description_that_is_none_is_refused(text, own):
    folder = own("onnx")
    (folder / description.DESCRIPTION).write_text(text)
    with pytest.raises(ModelError, match="json: describes no export of keras_resnet"):
        engines.open_engine(folder)


def test_description_of_any_size_is_not_read(own, monkeypatch):
    monkeypatch.setattr(description, "_MAX_BYTES", 100)
    with pytest.raises(ModelError, match=r"model\.json: larger than 100 bytes"):
        engines.open_engine(own("onnx"))


@pytest.mark.parametrize(
    ("kind", "package"),
    [
        ("onnx", "onnxruntime"),
        ("openvino", "openvino"),
        ("litert", "ai_edge_litert"),
    ],
)
def test_missing_runtime_is_named(kind, package, exports, monkeypatch):
    for name in (package, f"{package}.interpreter"):
        monkeypatch.setitem(sys.modules, name, None)
    words = rf"needs the package {package} .*`pip install keras-resnet-d\[{kind}\]`"
    with pytest.raises(ModelError, match=words):
        engines.open_engine(exports[kind, "float32"])


def test_description_is_what_was_described(trained, tmp_path):
    info = trained[1].info
    description.write_description(tmp_path, info, "openvino", "bfloat16", 0.25)
    read = description.read_description(tmp_path)
    assert (read.format, read.precision) == ("openvino", "bfloat16")
    assert read.difference == 0.25
    assert read.info == trained[1].info.replace(input_shape=None)
