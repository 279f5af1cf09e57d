"""Converts models to the files of other frameworks."""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import tensorflow as tf

from keras_resnet.errors import ModelError
from keras_resnet.export.formats import (
    FILES,
    INPUT,
    OUTPUT,
    brief,
    check_format,
    quiet,
    require,
)
from keras_resnet.export.signatures import trace
from keras_resnet.model import ResNet


@dataclass(frozen=True, eq=False)
class Calibration:
    """How to quantize a model to int8, its activations too."""

    images: np.ndarray  # uint8 [N, S, S, 3], from which ranges of activations are taken
    float_ends: bool = False  # the first convolution and the classifier stay in float32


def write(
    model: ResNet,
    folder: str | os.PathLike[str],
    format: str,
    precision: str = "float32",
    calibration: Calibration | None = None,
) -> None:
    """Writes model.onnx, model.xml and model.bin, or model.tflite.

    The input is `images`, float32 [N, S, S, 3] in [0, 255], and the output is
    `probabilities`, float32 [N, K], for any N. S is the size in the model's protocol
    and K the number of its classes. In a LiteRT file, these names are the keys of the
    signature serving_default.

    Args:
        model: a functional model in float32 that normalizes its input and ends in a
            softmax, on Keras's TensorFlow backend.
        folder: an existing folder.
        format: "onnx", "openvino" or "litert".
        precision: one of `formats.FORMATS[format]`. An OpenVINO file is the same in
            "bfloat16" and "float32"; its runtime can compute in either.
        calibration: for "int8". Weights are quantized per channel, symmetrically, and
            activations per tensor. Without it, which LiteRT alone allows, the weights
            are in 8 bits and the runtime quantizes activations dynamically.

    Raises:
        ModelError: the format or precision is unknown, a package is not installed, or
            the converter fails.
    """
    check_format(format, precision, _CONVERTERS, calibration is not None)
    with quiet():
        graph = trace(model)
        try:
            path = Path(folder) / FILES[format]
            _CONVERTERS[format](graph, path, precision, calibration)
        except (ModelError, OSError):
            raise
        except Exception as error:  # each converter has its own exceptions
            raise ModelError(
                f"format={format!r}: {model.name} cannot be converted: {brief(error)}"
            ) from error


def _to_onnx(
    graph: Any, path: Path, precision: str, calibration: Calibration | None
) -> None:
    convert = require("tf2onnx.convert", "onnx")
    # to catch errors, tf2onnx would copy the whole graph 40 times
    with _environment(TF2ONNX_CATCH_ERRORS="FALSE"):
        proto, _ = convert.from_function(graph, graph.input_signature)
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"  # instead of unk__123
    if calibration:
        proto = _quantize_onnx(proto, path, calibration)
    path.write_bytes(proto.SerializeToString())


def _quantize_onnx(proto: Any, path: Path, calibration: Calibration) -> Any:
    quantization = require("onnxruntime.quantization", "onnx")
    onnx = require("onnx", "onnx")
    feeds = ({INPUT: np.float32(image[None])} for image in calibration.images)
    ends = _ends((node.op_type, node.name) for node in proto.graph.node)
    names = [node.name for node in proto.graph.node]
    # in 8 bits, probabilities would be multiples of 1/255
    after = names[names.index(ends[-1]) + 1 :]
    kept = [*ends, *after] if calibration.float_ends else after
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        quantized = Path(scratch, "quantized.onnx")
        quantization.quantize_static(
            proto,
            quantized,
            SimpleNamespace(get_next=lambda: next(feeds, None)),
            per_channel=True,
            # with 8 bits, sums of products overflow on processors without VNNI
            reduce_range=True,
            nodes_to_exclude=kept,
            extra_options={"OpTypesToExcludeOutputQuantization": ["MatMul", "Gemm"]},
        )
        return onnx.load(quantized)


def _to_openvino(
    graph: Any, path: Path, precision: str, calibration: Calibration | None
) -> None:
    # not openvino.convert_model, which sends telemetry to Intel by default
    openvino = require("openvino", "openvino")
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        frozen = Path(scratch, "frozen.pb")
        frozen.write_bytes(_freeze(graph).graph.as_graph_def().SerializeToString())
        model = openvino.Core().read_model(frozen)
        model.inputs[0].get_tensor().set_names({INPUT})
        model.outputs[0].get_tensor().set_names({OUTPUT})
        if calibration:
            model = _quantize_openvino(model, calibration)
        openvino.save_model(model, path, compress_to_fp16=False)


def _quantize_openvino(model: Any, calibration: Calibration) -> Any:
    with _environment(NNCF_CI="1"):  # without it, NNCF sends telemetry to Intel
        nncf = require("nncf", "openvino")
    operations = model.get_ordered_ops()
    ends = _ends((it.get_type_name(), it.get_friendly_name()) for it in operations)
    # NNCF draws progress bars on stdout
    with contextlib.redirect_stdout(io.StringIO()):
        return nncf.quantize(
            model,
            nncf.Dataset(calibration.images, lambda image: np.float32(image[None])),
            subset_size=len(calibration.images),
            preset=nncf.QuantizationPreset.MIXED,
            ignored_scope=nncf.IgnoredScope(ends if calibration.float_ends else []),
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                # with 8 bits, sums of products overflow on processors without VNNI
                overflow_fix=nncf.OverflowFix.ENABLE
            ),
        )


def _to_litert(
    graph: Any, path: Path, precision: str, calibration: Calibration | None
) -> None:
    frozen, module = _freeze(graph), tf.Module()
    module.answer = tf.function(  # frozen: the converter loses Keras's variables
        lambda images: {OUTPUT: frozen(images)[0]},
        input_signature=graph.input_signature,
        autograph=False,
    )
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [module.answer.get_concrete_function()], module
    )
    if precision == "int8":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if calibration:
        images = calibration.images
        converter.representative_dataset = lambda: (
            [np.float32(image[None])] for image in images
        )
        # no operation in float32, but for those that quantize the pixels and the result
        integer = tf.lite.OpsSet.TFLITE_BUILTINS_INT8
        converter.target_spec.supported_ops = [integer]
    path.write_bytes(converter.convert())


def _ends(operations: Iterable[tuple[str, str]]) -> list[str]:
    """The names of the first convolution and the last product of matrices.

    Args:
        operations: (type, name) of each, in the order of computation.
    """
    listed = [*operations]
    convolutions, products = ("Conv", "Convolution"), ("MatMul", "Gemm")
    first = next(name for kind, name in listed if kind in convolutions)
    return [first, next(name for kind, name in listed[::-1] if kind in products)]


_CONVERTERS: dict[str, Callable[[Any, Path, str, Calibration | None], None]] = {
    "onnx": _to_onnx,
    "openvino": _to_openvino,
    "litert": _to_litert,
}


def _freeze(graph: Any) -> Any:
    """Returns the concrete function with variables as constants; it returns a list."""
    from tensorflow.python.framework import convert_to_constants

    return convert_to_constants.convert_variables_to_constants_v2(
        graph.get_concrete_function()
    )


@contextlib.contextmanager
def _environment(**values: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value
