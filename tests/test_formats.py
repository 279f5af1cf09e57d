"""Files of other frameworks: what they take and answer, and how that is judged."""

import importlib
import logging
import os
import shutil
import sys

import keras
import numpy as np
import pytest

import keras_resnet
from keras_resnet.errors import DataError, ModelError
from keras_resnet.export import comparing, converters, engines, formats
from keras_resnet.export.description import write_description
from keras_resnet.model import rebuild

ALL = [
    (kind, precision)
    for kind, precisions in formats.FORMATS.items()
    for precision in precisions
    if kind != "savedmodel"
]
NAMES = {
    "onnx": {"model.onnx"},
    "openvino": {"model.xml", "model.bin"},
    "litert": {"model.tflite"},
}


def write(model, folder, kind, precision="float32"):
    """An export of nothing but the file and what describes it."""
    folder.mkdir(exist_ok=True)
    converters.write(model, folder, kind, precision)
    write_description(folder, model.info, kind, precision)
    return folder


@pytest.fixture(scope="module")
def files(exports):
    """{(format, precision): folder} of the tiny trained net."""
    return {case: exports[case] / "1" for case in ALL}


@pytest.fixture(scope="module")
def pictures(trained, folder):
    """Real ones: the photograph's ten crops, and the validation set."""
    protocol = trained[1].info.protocol
    own = sorted((folder / "val").rglob("*.*"))
    return np.concatenate(
        [comparing.photographs(protocol), comparing.photographs(protocol, own)]
    )


@pytest.mark.parametrize(("kind", "precision"), ALL)
def test_nothing_but_the_named_files_is_written(kind, precision, files):
    there = {path.name for path in files[kind, precision].iterdir()}
    assert there == {*NAMES[kind], "model.json"}


def test_onnx_file_takes_and_gives_what_is_promised(files):
    runtime = importlib.import_module("onnxruntime")
    path = files["onnx", "float32"] / "model.onnx"
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    ends = [*session.get_inputs(), *session.get_outputs()]
    assert [(end.name, end.type, end.shape) for end in ends] == [
        ("images", "tensor(float)", ["batch", 32, 32, 3]),
        ("probabilities", "tensor(float)", ["batch", 3]),
    ]


@pytest.mark.parametrize("precision", formats.FORMATS["openvino"])
def test_openvino_file_takes_and_gives_what_is_promised(precision, files):
    runtime = importlib.import_module("openvino")
    model = runtime.Core().read_model(files["openvino", precision] / "model.xml")
    ends = [*model.inputs, *model.outputs]
    said = [(end.names, end.get_element_type().to_dtype()) for end in ends]
    assert said == [({"images"}, np.float32), ({"probabilities"}, np.float32)]
    shapes = [end.partial_shape.to_string() for end in ends]
    assert shapes == ["[?,32,32,3]", "[?,3]"]


@pytest.mark.parametrize("precision", formats.FORMATS["litert"])
def test_litert_file_takes_and_gives_what_is_promised(precision, files):
    runtime = importlib.import_module("ai_edge_litert.interpreter")
    path = files["litert", precision] / "model.tflite"
    interpreter = runtime.Interpreter(model_path=str(path))
    assert interpreter.get_signature_list() == {
        "serving_default": {"inputs": ["images"], "outputs": ["probabilities"]}
    }
    (taken,), (given,) = (
        interpreter.get_input_details(),
        interpreter.get_output_details(),
    )
    assert taken["shape_signature"].tolist() == [-1, 32, 32, 3]
    assert given["shape_signature"].tolist() == [-1, 3]
    assert taken["dtype"] == given["dtype"] == np.float32
    interpreter.resize_tensor_input(taken["index"], [5, 32, 32, 3])
    interpreter.allocate_tensors()
    interpreter.set_tensor(taken["index"], np.zeros([5, 32, 32, 3], np.float32))
    interpreter.invoke()
    assert interpreter.get_tensor(given["index"]).shape == (5, 3)


# those that are calibrated are judged by their accuracy, in test_quantizing.py
@pytest.mark.parametrize(
    ("kind", "precision"),
    [it for it in ALL if it not in (("onnx", "int8"), ("openvino", "int8"))],
)
def test_answers_are_those_of_predict(kind, precision, files, trained, pictures):
    with engines.open_engine(files[kind, precision]) as engine:
        found = comparing.check(engine, trained[1], pictures)
        answers = engine.predict_on_batch(pictures)
    expected = trained[1].predict(pictures, verbose=0)
    assert found == pytest.approx(np.abs(answers - expected).max(), rel=0.2, abs=1e-6)
    assert found <= (
        1e-5 if precision == "float32" else comparing.TOLERANCES[precision]
    )
    np.testing.assert_array_equal(answers.argmax(1)[10:], expected.argmax(1)[10:])


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """(a net whose kernels are large enough for 8 bits, {precision: its folder})."""
    options = {"width": 32, "depths": (1,), "zero_gamma": False}
    model = keras_resnet.create("resnet18d", classes=3, **options)
    model.info = model.info.replace(protocol=keras_resnet.Protocol(size=32))
    tell_apart(model, comparing.photographs(model.info.protocol))
    folder = tmp_path_factory.mktemp("wide")
    return model, {
        precision: write(model, folder / precision, "litert", precision)
        for precision in formats.FORMATS["litert"]
    }


def test_int8_is_at_work(wide, pictures):
    model, folders = wide
    with engines.open_engine(folders["int8"]) as engine:
        assert comparing.difference(engine, model, pictures) > 1e-4


def test_bfloat16_is_at_work_where_the_runtime_says_so(files, trained, pictures):
    runtime = importlib.import_module("openvino")
    path = files["openvino", "bfloat16"]
    asked = {"INFERENCE_PRECISION_HINT": "bf16"}
    compiled = runtime.Core().compile_model(path / "model.xml", "CPU", asked)
    computes_in = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
    with engines.open_engine(path) as engine:
        difference = comparing.difference(engine, trained[1], pictures)
    # OpenVINO falls back to float32 on a processor without bfloat16 instructions
    bounds = {"bf16": (1e-4, comparing.TOLERANCES["bfloat16"]), "f32": (0, 1e-5)}
    least, most = bounds[computes_in]
    assert least <= difference <= most


def test_int8_file_is_a_third_or_less(wide):
    sizes = {
        precision: (folder / "model.tflite").stat().st_size
        for precision, folder in wide[1].items()
    }
    assert sizes["int8"] < 0.35 * sizes["float32"]


def tell_apart(model, images):
    """Gives an untrained net a head whose answers differ from picture to picture."""
    head = model.get_layer("head")
    features = keras.Model(model.inputs, head.input).predict_on_batch(images)
    centre = features.mean(0)
    kernel = head.kernel.numpy() / ((features - centre) @ head.kernel.numpy()).std()
    head.set_weights([kernel, -centre @ kernel])
    assert np.ptp(model.predict_on_batch(images), axis=0).max() > 0.1


@pytest.fixture(
    scope="module",
    params=[
        ("resnetblur50", {}),
        *(
            pytest.param(net, marks=pytest.mark.slow)
            for net in (
                ("resnext50d_32x4d", {"width": 16, "groups": 4, "attention": "se"}),
                ("resnet50t", {"attention": "eca", "output_stride": 8}),
                ("resnet18b", {"shortcut": "zero_pad"}),
                ("resnet50_gn", {"width": 32}),
                ("resnetaa50d", {}),
                ("resnetrs50", {}),
                ("senet154", {"groups": 4, "group_width": 64}),
            )
        ),
    ],
    ids=lambda net: net[0],
)
def odd_net(request):
    """(a net of unusual layers, pictures that it tells apart)."""
    variant, overrides = request.param
    fields = {"width": 8, "depths": (1, 1, 1, 1), "zero_gamma": False, **overrides}
    model = keras_resnet.create(variant, classes=7, **fields)
    model.info = model.info.replace(protocol=keras_resnet.Protocol(size=64))
    images = comparing.photographs(model.info.protocol)
    tell_apart(model, images)
    return model, images


@pytest.mark.parametrize("kind", NAMES)
def test_every_kind_of_layer_is_converted(kind, odd_net, tmp_path):
    model, images = odd_net
    with engines.open_engine(write(model, tmp_path, kind)) as engine:
        assert comparing.check(engine, model, images) < 2e-5


@pytest.mark.parametrize(
    ("kind", "precision"),
    [
        *(("onnx", "float32"), ("openvino", "bfloat16"), ("litert", "int8")),
        pytest.param("openvino", "float32", marks=pytest.mark.slow),
        pytest.param("litert", "float32", marks=pytest.mark.slow),
    ],
)
def test_converters_keep_quiet(kind, precision, trained, tmp_path, capfd, caplog):
    write(trained[1], tmp_path, kind, precision)
    with engines.open_engine(tmp_path) as engine:
        engine.predict_on_batch(np.zeros((1, 32, 32, 3)))
    assert capfd.readouterr() == ("", "")
    assert not caplog.records


def test_quiet_puts_everything_back(capfd):
    def fail():
        os.write(2, b"lost")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), formats.quiet():
        fail()
    os.write(2, b"kept")
    assert capfd.readouterr().err == "kept"
    assert logging.getLogger().isEnabledFor(logging.ERROR)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("coreml",), r"format='coreml': must be one of onnx, openvino, litert"),
        (("onnx", "int8"), r"precision='int8' with format='onnx': needs images to c"),
        (("onnx", "bfloat16"), r"precision='bfloat16' with format='onnx': must be o"),
    ],
)
def test_unknown_format_is_named(arguments, words, trained, tmp_path):
    with pytest.raises(ModelError, match=words):
        converters.write(trained[1], tmp_path, *arguments)


@pytest.mark.parametrize(
    ("kind", "package"), [("onnx", "tf2onnx"), ("openvino", "openvino")]
)
def test_missing_converter_is_named(kind, package, trained, tmp_path, monkeypatch):
    for name in [package, f"{package}.convert"]:
        monkeypatch.setitem(sys.modules, name, None)
    words = rf"format='{kind}': needs the package {package} .*resnet-d\[{kind}\]`"
    with pytest.raises(ModelError, match=words):
        converters.write(trained[1], tmp_path, kind)
    assert list(tmp_path.iterdir()) == []


def test_failed_conversion_is_one_error_and_leaves_no_file(
    trained, tmp_path, monkeypatch
):
    def fail(*_, **__):
        raise RuntimeError("Exception from core.cpp:1:\nno such operation\nmore")

    monkeypatch.setattr(importlib.import_module("openvino"), "save_model", fail)
    with pytest.raises(
        ModelError, match=r"format='openvino': resnet18d .*: no such operation$"
    ):
        converters.write(trained[1], tmp_path, "openvino")
    assert list(tmp_path.iterdir()) == []


def scale_an_initializer(folder):
    """Makes one kernel of an ONNX file a tenth larger."""
    onnx = importlib.import_module("onnx")
    proto = onnx.load(folder / "model.onnx")
    kernel = next(it for it in proto.graph.initializer if len(it.dims) == 4)
    values = onnx.numpy_helper.to_array(kernel) * np.float32(1.1)
    kernel.CopyFrom(onnx.numpy_helper.from_array(values, kernel.name))
    onnx.save(proto, folder / "model.onnx")


def test_file_with_a_spoiled_kernel_is_refused(files, trained, tmp_path, pictures):
    shutil.copytree(files["onnx", "float32"], tmp_path, dirs_exist_ok=True)
    scale_an_initializer(tmp_path)
    with (
        engines.open_engine(tmp_path) as engine,
        pytest.raises(
            ModelError, match=r"off by .* on 22 pictures, more than .*float32"
        ),
    ):
        comparing.check(engine, trained[1], pictures)


def test_file_of_another_net_is_refused(files, trained, pictures):
    other = rebuild(trained[1])
    head = other.get_layer("head")
    head.set_weights([head.kernel.numpy()[:, ::-1], head.bias.numpy()])
    for (_, precision), folder in files.items():
        words = f"more than .* of {precision}; do not use it"
        with (
            engines.open_engine(folder) as engine,
            pytest.raises(ModelError, match=words),
        ):
            comparing.check(engine, other, pictures)


def test_weights_of_half_precision_are_no_float32(files, trained, pictures):
    other = rebuild(trained[1])
    half = [w.astype(np.float16).astype(np.float32) for w in other.get_weights()]
    other.set_weights(half)
    with engines.open_engine(files["openvino", "float32"]) as engine:
        with pytest.raises(ModelError, match="off by"):
            comparing.check(engine, other, pictures)
        other.get_layer("head").bias.assign([np.nan, 0, 0])
        with pytest.raises(ModelError, match="off by nan"):
            comparing.check(engine, other, pictures)


def test_file_that_answers_nan_is_refused(files, trained, pictures):
    with engines.open_engine(files["onnx", "float32"]) as engine:
        answers = engine.predict_on_batch(pictures)
        answers[3, 1] = np.nan
        engine.predict_on_batch = lambda images: answers[: len(images)]
        with pytest.raises(ModelError, match="off by nan"):
            comparing.check(engine, trained[1], pictures)


def test_photographs_are_what_the_protocol_shows(trained, folder, tmp_path):
    protocol = trained[1].info.protocol
    crops = comparing.photographs(protocol)
    assert crops.shape == (10, 32, 32, 3)
    assert crops.dtype == np.uint8
    np.testing.assert_array_equal(crops[:5, :, ::-1], crops[5:])
    with pytest.raises(DataError, match=r"none\.png: no such file"):
        comparing.photographs(protocol, [tmp_path / "none.png"])


def test_missing_photograph_is_named(trained, monkeypatch):
    monkeypatch.setattr(comparing, "PHOTOGRAPH", "nobody.jpg")
    with pytest.raises(ModelError, match=r"nobody\.jpg: the installed matplotlib"):
        comparing.photographs(trained[1].info.protocol)
