"""int8 exports: what is quantized, on which images, and what it may cost."""

import importlib
import json
import re
import sys

import numpy as np
import pytest
from serving import picture

import keras_resnet
from keras_resnet import evaluate, export
from keras_resnet.data import open_source
from keras_resnet.errors import DataError, DescriptionError, ModelError
from keras_resnet.export import engines, quantizing
from keras_resnet.export.converters import Calibration
from keras_resnet.export.description import Accuracy, read_description
from keras_resnet.export.served import open_served

KINDS = ("onnx", "openvino", "litert")


@pytest.fixture(scope="module")
def versions(trained, folder, tmp_path_factory):
    """{format: (the folder of an int8 version, what was said)}; only to be read."""
    root, made = tmp_path_factory.mktemp("int8"), {}
    for kind in KINDS:
        lines: list[str] = []
        about = {"say": lines.append, "calibrate": folder}
        made[kind] = export.save(trained[1], root / kind, kind, "int8", **about), lines
    return made


@pytest.mark.parametrize("kind", KINDS)
def test_accuracy_of_both_is_printed_and_stored(kind, versions, trained, folder):
    version, lines = versions[kind]
    stored = read_description(version).accuracy
    with engines.open_engine(version) as engine:
        measured = evaluate.run(engine, folder)
    expected = evaluate.run(trained[1], folder)
    assert stored == Accuracy(
        "top1", expected["top1"], measured["top1"], measured["examples"]
    )
    assert lines[0] == f"{kind} in int8: {stored}"
    assert f"of {measured['examples']} held-out images" in lines[0]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["onnx", "openvino"])
def test_int8_is_served(kind, versions):
    engine = open_served(versions[kind][0])
    answer = engine.run("serving_bytes", image_bytes=[picture(5)])
    assert answer["top_classes"][0, 0] == b"red"
    engine.close()


def onnx_model(versions):
    return importlib.import_module("onnx").load(versions["onnx"][0] / "model.onnx")


def test_onnx_has_8_bits_for_weights_per_channel_and_for_activations(versions):
    onnx = importlib.import_module("onnx")
    graph = onnx_model(versions).graph
    stored = {it.name: onnx.numpy_helper.to_array(it) for it in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output}
    kernels = 0
    for node in graph.node:
        if node.op_type == "Conv":
            pixels, kernel = (makers[name] for name in node.input[:2])
            assert pixels.op_type == kernel.op_type == "DequantizeLinear"
            quantized, scale, zero = (stored[name] for name in kernel.input)
            assert quantized.dtype == np.int8
            assert not zero.any()
            assert scale.shape == (quantized.shape[0],)
            # 7 bits, so that no sum of two products overflows 16
            assert np.abs(quantized.astype(int)).max() <= 64
            kernels += 1
    assert kernels > 5
    last = graph.node[-1]
    assert (last.op_type, [*last.output]) == ("Softmax", ["probabilities"])
    assert makers[last.input[0]].op_type == "Add"


def test_openvino_and_litert_have_8_bits_too(versions):
    runtime = importlib.import_module("openvino")
    model = runtime.Core().read_model(versions["openvino"][0] / "model.xml")
    operations = model.get_ordered_ops()
    kernels = [
        it
        for it in operations
        if it.get_type_name() == "Constant"
        and it.get_element_type() == runtime.Type.i8
        and len(it.shape) == 4
    ]
    convolutions = [it for it in operations if it.get_type_name() == "Convolution"]
    assert len(kernels) == len(convolutions) > 5
    assert any(it.get_type_name() == "FakeQuantize" for it in operations)

    interpreter = importlib.import_module("ai_edge_litert.interpreter").Interpreter(
        str(versions["litert"][0] / "model.tflite")
    )
    kinds = [it["dtype"] for it in interpreter.get_tensor_details() if it["shape"].size]
    ends = 2  # the pixels and the probabilities
    assert sum(kind == np.float32 for kind in kinds) == ends
    assert sum(kind == np.int8 for kind in kinds) > 10


def test_images_of_both_splits_are_apart(folder, trained):
    images, held_out = quantizing.divide(folder, trained[1])
    source = open_source(folder)
    assert images.dtype == np.uint8
    assert images.shape == (source.train.size, 32, 32, 3)
    assert held_out.val.files == source.val.files


def test_one_split_is_divided(trained):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (901, 32, 32, 3), np.uint8)
    labels = np.arange(901) % 3
    names = trained[1].info.class_names
    source = {"val": (pixels, labels), "class_names": names}
    images, held_out = quantizing.divide(source, trained[1])
    assert (len(images), held_out.val.size) == (300, 601)
    both = np.concatenate([held_out.train.images, held_out.val.images])
    assert len(np.unique(both, axis=0)) == 901
    few, rest = quantizing.divide(
        {"val": (pixels[:5], labels[:5]), "class_names": names}, trained[1]
    )
    assert (len(few), rest.val.size) == (2, 3)
    with pytest.raises(DataError, match="has one image; calibration needs two"):
        quantizing.divide(
            {"val": (pixels[:1], labels[:1]), "class_names": names}, trained[1]
        )


class Answers:
    """An engine that is right for a share of the images."""

    def __init__(self, right):
        self.right = right

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


@pytest.fixture
def shares(monkeypatch):
    """Lets `quantize` measure what `Answers` says."""
    monkeypatch.setattr(quantizing, "open_engine", lambda right: Answers(right))
    monkeypatch.setattr(quantizing, "_measure", lambda it, _: ("top1", it.right, 1000))


@pytest.mark.parametrize(
    ("kind", "rights", "expected"),
    [
        ("onnx", [0.895], [False]),  # half a point is allowed
        ("onnx", [0.89, 0.897], [False, True]),
        ("openvino", [0.91], [False]),
    ],
)
def test_ends_stay_in_float_where_accuracy_asks_for_it(kind, rights, expected, shares):
    asked: list[Calibration] = []

    def write(calibration):
        asked.append(calibration)
        return rights[len(asked) - 1]

    images = np.zeros((1, 32, 32, 3), np.uint8)
    accuracy = quantizing.quantize(write, images, Answers(0.9), None, 0.51, kind)
    assert [it.float_ends for it in asked] == expected
    assert accuracy == Accuracy("top1", 0.9, rights[-1], 1000)


@pytest.mark.parametrize(("kind", "tries"), [("openvino", 2), ("litert", 1)])
def test_too_great_a_loss_is_refused(kind, tries, shares):
    asked: list[Calibration] = []

    def write(calibration):
        asked.append(calibration)
        return 0.85

    words = (
        "precision='int8': top-1 85.00 % of 1000 held-out images, 90.00 % in float32, "
        "5.00 points less, more than most_loss=0.5; calibrate on more images"
    )
    with pytest.raises(ModelError, match=re.escape(words)):
        quantizing.quantize(write, None, Answers(0.9), None, 0.5, kind)
    assert len(asked) == tries


def test_refused_export_leaves_nothing(trained, folder, tmp_path, monkeypatch):
    measured = iter([("top1", 1.0, 6), ("top1", 0.5, 6), ("top1", 0.5, 6)])
    monkeypatch.setattr(quantizing, "_measure", lambda *_: next(measured))
    with pytest.raises(ModelError, match=r"50\.00 points less"):
        export.save(trained[1], tmp_path, "onnx", "int8", calibrate=folder)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["onnx", "openvino"])
def test_float_ends_are_not_quantized(kind, trained, folder, tmp_path):
    from keras_resnet.export import converters

    images = quantizing.divide(folder, trained[1])[0][:4]
    converters.write(trained[1], tmp_path, kind, "int8", Calibration(images, True))
    if kind == "onnx":
        onnx = importlib.import_module("onnx")
        graph = onnx.load(tmp_path / "model.onnx").graph
        makers = {name: node for node in graph.node for name in node.output}
        quantized = [
            makers[node.input[1]].op_type == "DequantizeLinear"
            if node.input[1] in makers
            else False
            for node in graph.node
            if node.op_type in ("Conv", "MatMul", "Gemm")
        ]
    else:
        runtime = importlib.import_module("openvino")
        model = runtime.Core().read_model(tmp_path / "model.xml")
        quantized = [
            _is_scaled(it)
            for it in model.get_ordered_ops()
            if it.get_type_name() in ("Convolution", "MatMul")
        ]
    assert quantized == [False, *[True] * (len(quantized) - 2), False]


def _is_scaled(operation):
    """Whether the weights of an OpenVINO operation are integers times a scale."""
    weights = operation.input_value(1).get_node()
    while weights.get_type_name() in ("Transpose", "Reshape"):
        weights = weights.input_value(0).get_node()
    return weights.get_type_name() == "Multiply"


@pytest.mark.slow
def test_command_quantizes(call, trained, folder, tmp_path):
    about = ("--format", "litert", "--precision", "int8", "--calibrate", folder)
    done = call("export", trained[0], tmp_path / "out", *about, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.err
    said = json.loads(done.out)
    assert said["accuracy"]["measure"] == "top1"
    assert said["accuracy"]["examples"] == open_source(folder).val.size
    about = ("--format", "onnx", "--precision", "int8")
    done = call("export", trained[0], tmp_path / "out", *about, cwd=tmp_path)
    assert done.returncode == 1
    assert "needs images to calibrate on; give a data set as calib" in done.err


def test_data_of_other_classes_is_refused(trained, data, tmp_path):
    with pytest.raises(ModelError, match="its classes differ from those of the model"):
        export.save(trained[1], tmp_path, "litert", "int8", calibrate=data)
    assert list(tmp_path.iterdir()) == []


def test_missing_package_is_named(trained, folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "nncf", None)
    with pytest.raises(ModelError, match=r"the package nncf .*resnet-d\[openvino"):
        export.save(trained[1], tmp_path, "openvino", "int8", calibrate=folder)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "content",
    [
        3,
        {"measure": "top1"},
        {"measure": "top9", "float32": 1, "int8": 1, "examples": 1},
    ],
)
def test_damaged_accuracy_is_refused(content, versions, tmp_path):
    written = json.loads((versions["litert"][0] / "model.json").read_text())
    written["accuracy"] = content
    (tmp_path / "model.json").write_text(json.dumps(written))
    with pytest.raises(DescriptionError, match="describes no export of keras_resnet"):
        read_description(tmp_path)


@pytest.mark.slow
def test_released_digits_lose_at_most_three_tenths(tmp_path):
    """Of a point of top-1, in every format; 360 held-out images."""
    from keras_resnet import demo

    root = tmp_path / "digits"
    demo.write_digits(root)
    model = keras_resnet.opening.open_model("models/resnet18d-digits")
    for kind in KINDS:
        version = export.save(model, tmp_path / kind, kind, "int8", calibrate=root)
        assert read_description(version).accuracy.lost <= 0.3
