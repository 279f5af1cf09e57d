"""Converts models to the files of other frameworks."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

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


def write(
    model: ResNet,
    folder: str | os.PathLike[str],
    format: str,
    precision: str = "float32",
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
        precision: one of `formats.FORMATS[format]`. "int8" stores weights in 8 bits,
            and the runtime quantizes activations dynamically. An OpenVINO file is the
            same in "bfloat16" and "float32"; its runtime can compute in either.

    Raises:
        ModelError: the format or precision is unknown, a package is not installed, or
            the converter fails.
    """
    check_format(format, precision, _CONVERTERS)
    with quiet():
        graph = trace(model)
        try:
            _CONVERTERS[format](graph, Path(folder) / FILES[format], precision)
        except (ModelError, OSError):
            raise
        except Exception as error:  # each converter has its own exceptions
            raise ModelError(
                f"format={format!r}: {model.name} cannot be converted: {brief(error)}"
            ) from error


def _to_onnx(graph: Any, path: Path, precision: str) -> None:
    convert = require("tf2onnx.convert", "onnx")
    # to catch errors, tf2onnx would copy the whole graph 40 times
    with _environment(TF2ONNX_CATCH_ERRORS="FALSE"):
        proto, _ = convert.from_function(graph, graph.input_signature)
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"  # instead of unk__123
    path.write_bytes(proto.SerializeToString())


def _to_openvino(graph: Any, path: Path, precision: str) -> None:
    # not openvino.convert_model, which sends telemetry to Intel by default
    openvino = require("openvino", "openvino")
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        frozen = Path(scratch, "frozen.pb")
        frozen.write_bytes(_freeze(graph).graph.as_graph_def().SerializeToString())
        model = openvino.Core().read_model(frozen)
        model.inputs[0].get_tensor().set_names({INPUT})
        model.outputs[0].get_tensor().set_names({OUTPUT})
        openvino.save_model(model, path, compress_to_fp16=False)


def _to_litert(graph: Any, path: Path, precision: str) -> None:
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
    path.write_bytes(converter.convert())


_CONVERTERS: dict[str, Callable[[Any, Path, str], None]] = {
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
