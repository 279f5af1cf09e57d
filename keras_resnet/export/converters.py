"""A net -> a file of another framework; and whether that answers as the net does."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import tempfile
from pathlib import Path

import numpy as np
import tensorflow as tf

from keras_resnet.errors import ModelError
from keras_resnet.evaluate import views as looks
from keras_resnet.evaluate.prediction import load_picture
from keras_resnet.export.formats import FILES
from keras_resnet.export.formats import FORMATS as ALL_FORMATS
from keras_resnet.export.signatures import INPUT, OUTPUT, trace
from keras_resnet.info import Protocol
from keras_resnet.model import ResNet

FORMATS = {kind: some for kind, some in ALL_FORMATS.items() if kind != "savedmodel"}
PHOTOGRAPH = "grace_hopper.jpg"  # 512 x 606 pixels, in matplotlib's wheel
# precision: the largest |p - p'| that passes. Measured on 360 held-out digits and the
# photograph, with resnet18d-digits and a resnet50d trained on digits for 6 epochs:
# float32 1.4e-6 in every format; bfloat16 1.9e-2, int8 2.9e-2. With a resnet50d of
# random weights whose head is stretched over what little its features differ: float32
# 1.2e-4, bfloat16 0.48, int8 0.71. Such a net is refused: it is all rounding.
TOLERANCES = {"float32": 5e-5, "bfloat16": 0.05, "int8": 0.1}
_BATCH = 16  # pictures at a time: a list of files may be long


def write(model: ResNet, folder, format: str, precision: str = "float32") -> None:
    """Writes a net as model.onnx, model.xml and model.bin, or model.tflite.

    The file takes `images`, float32 [N, S, S, 3] in [0, 255], and gives
    `probabilities`, float32 [N, K], for any N; S is the side that the model's protocol
    names, and K its classes. In a LiteRT file these are the keys of the signature
    serving_default.

    Args:
        model: functional, in float32, with normalisation and softmax; on Keras's
            TensorFlow backend.
        folder: an existing one.
        format: one of FORMATS.
        precision: one of FORMATS[format]. "int8" stores weights of 8 bits a number,
            and the runtime rounds what it multiplies them with. An OpenVINO file is the
            same in "bfloat16" and "float32", which its engine computes in.

    Raises:
        ModelError: of an unknown format or precision, a package that is not installed,
            or in the converter's words.
    """
    check_format(format, precision)
    converter = _CONVERTERS[format]
    with quiet():
        graph = trace(model)
        try:
            converter(graph, Path(folder) / FILES[format], precision)
        except (ModelError, OSError):
            raise
        except Exception as error:  # converters raise whatever they like
            raise ModelError(
                f"format={format!r}: {model.name} cannot be converted: {brief(error)}"
            ) from error


def check_format(format: str, precision: str = "float32", known=FORMATS) -> None:
    """Raises a ModelError for a format or precision that is not among the known."""
    if format not in known:
        raise ModelError(f"format={format!r}: must be one of {', '.join(known)}")
    if precision not in known[format]:
        raise ModelError(
            f"precision={precision!r} with format={format!r}: must be one of "
            f"{', '.join(known[format])}"
        )


def photographs(protocol: Protocol, files=()) -> np.ndarray:
    """Real pictures as a model sees them, uint8 [N, S, S, 3].

    Args:
        protocol: the model's.
        files: pictures, seen as evaluation does; without any, the ten crops of a
            photograph that comes with matplotlib.

    Raises:
        DataError: naming a file that is missing or no picture.
        ModelError: matplotlib has no photograph.
    """
    if files:
        return np.stack([load_picture(file, protocol) for file in files])
    from matplotlib.cbook import get_sample_data

    path = get_sample_data(PHOTOGRAPH, asfileobj=False)
    if not os.path.isfile(path):  # some distributions leave it out
        raise ModelError(f"{path}: matplotlib came without it; give pictures instead")
    return looks.load_ten_crops(tf.io.read_file(os.fsencode(path)), protocol).numpy()


def difference(engine, model, images) -> float:
    """The largest |p - p'| of two models' probabilities; NaN where either has one.

    Args:
        engine: of `engines.open_engine`, or a model.
        model: what it was written from.
        images: [N, S, S, 3] in [0, 255], N at least 1.
    """
    largest = [
        np.abs(
            looks.predict_probabilities(engine, part)
            - looks.predict_probabilities(model, part)
        ).max()
        for part in np.split(images, range(_BATCH, len(images), _BATCH))
    ]
    return float(np.max(largest))


def check(engine, model, images) -> float:
    """`difference`, or a ModelError if it is more than the precision's tolerance."""
    found, allowed = difference(engine, model, images), TOLERANCES[engine.precision]
    if not found <= allowed:  # NaN is not
        raise ModelError(
            f"{engine.name}: its probabilities are off by {found:.1e} on {len(images)} "
            f"pictures, more than the {allowed:.0e} of {engine.precision}; do not use "
            "it; choose another format or precision, and report this"
        )
    return found


def need(module: str, extra: str):
    """Imports a module of an optional package, or says which extra brings it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ModelError(
            f"format={extra!r}: needs the package {module.partition('.')[0]} "
            f"({brief(error)}); run `pip install keras-resnet-d[{extra}]`"
        ) from error


def brief(error) -> str:
    """An error's first line that says something, or its type's name."""
    lines = (line.strip() for line in str(error).splitlines())
    # OpenVINO's errors begin with where in its source they come from
    telling = [
        it for it in lines if it and not it.startswith(("Exception ", "Check '"))
    ]
    return telling[0][:300] if telling else type(error).__name__


@contextlib.contextmanager
def quiet():
    """Keeps off the terminal what converters and runtimes log, in Python and in C++.

    For the whole process: what another thread writes to file descriptor 2 is lost too.
    """
    before = logging.root.manager.disable
    stderr = os.dup(2)
    try:
        logging.disable(logging.CRITICAL)
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        logging.disable(before)


def _to_onnx(graph, path, precision):
    convert = need("tf2onnx.convert", "onnx")
    with _environment(TF2ONNX_CATCH_ERRORS="FALSE"):  # else it copies all, 40 times
        proto, _ = convert.from_function(graph, graph.input_signature)
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"  # not unk__123
    path.write_bytes(proto.SerializeToString())


def _to_openvino(graph, path, precision):
    # not openvino.convert_model, which reports its use to Intel unless told not to
    openvino = need("openvino", "openvino")
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        frozen = Path(scratch, "frozen.pb")
        frozen.write_bytes(_freeze(graph).graph.as_graph_def().SerializeToString())
        model = openvino.Core().read_model(frozen)
        model.inputs[0].get_tensor().set_names({INPUT})
        model.outputs[0].get_tensor().set_names({OUTPUT})
        openvino.save_model(model, path, compress_to_fp16=False)


def _to_litert(graph, path, precision):
    frozen, module = _freeze(graph), tf.Module()
    module.answer = tf.function(  # the converter loses Keras's variables
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


_CONVERTERS = {"onnx": _to_onnx, "openvino": _to_openvino, "litert": _to_litert}


def _freeze(graph):
    """The concrete function with constants for variables; it gives a list."""
    from tensorflow.python.framework import convert_to_constants

    return convert_to_constants.convert_variables_to_constants_v2(
        graph.get_concrete_function()
    )


@contextlib.contextmanager
def _environment(**values):
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value
