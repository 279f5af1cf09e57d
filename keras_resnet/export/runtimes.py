"""A file of another framework -> its own runtime's answers, and the shapes it takes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from keras_resnet.export.converters import INPUT, OUTPUT, need
from keras_resnet.export.savedmodel import SavedModel

_HINTS = {"float32": "f32", "bfloat16": "bf16"}  # OpenVINO's names of them
Shapes = dict[str, tuple[int | None, ...] | None]  # of each tensor, by its name


def start(format, path, precision) -> tuple[Shapes, Callable]:
    """Starts a runtime on the CPU, with its usual number of threads.

    Args:
        format: of `engines.FORMATS`.
        path: the file; of a SavedModel its saved_model.pb.
        precision: of `engines.FORMATS[format]`.

    Returns:
        ({tensor: shape with None for what may vary}, the function from float32 pictures
        to probabilities, which may be the runtime's own memory).

    Raises:
        ModelError: a package is not installed. And whatever the runtime raises.
    """
    return _STARTERS[format](path, precision)


def _start_savedmodel(path, precision):
    model = SavedModel(path.parent)
    try:
        sides = model.signatures["serving_default"].values()
    except KeyError:
        model.close()
        raise
    shapes = {key: shape for side in sides for key, (_, shape) in side.items()}

    def run(images):
        return model.run("serving_default", images=images)[OUTPUT]

    return shapes, run


def _start_onnx(path, precision):
    runtime = need("onnxruntime", "onnx")
    options = runtime.SessionOptions()
    options.log_severity_level = 4  # fatal; what goes wrong is raised too
    session = runtime.InferenceSession(
        path, options, providers=["CPUExecutionProvider"], enable_fallback=0
    )
    shapes = {
        tensor.name: tuple(size if isinstance(size, int) else None for size in shape)
        for tensor in (*session.get_inputs(), *session.get_outputs())
        for shape in [tensor.shape]
    }
    return shapes, lambda images: session.run([OUTPUT], {INPUT: images})[0]


def _start_openvino(path, precision):
    runtime = need("openvino", "openvino")
    # or it would choose bfloat16 for itself on a CPU that multiplies it
    config = {"INFERENCE_PRECISION_HINT": _HINTS[precision]}
    model = runtime.Core().compile_model(path, "CPU", config)
    shapes = {
        port.any_name: tuple(
            None if size.is_dynamic else size.get_length()
            for size in port.partial_shape
        )
        for port in (*model.inputs, *model.outputs)
    }
    return shapes, lambda images: model({INPUT: images})[OUTPUT]


def _start_litert(path, precision):
    runtime = need("ai_edge_litert.interpreter", "litert")
    interpreter = runtime.Interpreter(model_path=str(path))
    signature = interpreter.get_signature_runner("serving_default")
    details = {**signature.get_input_details(), **signature.get_output_details()}
    shapes = {
        name: tuple(None if size < 0 else int(size) for size in it["shape_signature"])
        for name, it in details.items()
    }
    blank = np.zeros([1, *details[INPUT]["shape"][1:]], np.float32)
    signature(**{INPUT: blank})  # the first time it logs, which the caller keeps quiet
    return shapes, lambda images: signature(**{INPUT: images})[OUTPUT]


_STARTERS = {
    "savedmodel": _start_savedmodel,
    "onnx": _start_onnx,
    "openvino": _start_openvino,
    "litert": _start_litert,
}
