"""Starts the runtime of each format, as a function from images to probabilities."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from keras_resnet.errors import ModelError
from keras_resnet.export.formats import INPUT, OUTPUT, brief, require
from keras_resnet.export.metagraph import Shape
from keras_resnet.export.savedmodel import SavedModel

# OpenVINO's names; in an int8 file, what is not quantized is computed in this
_HINTS = {"float32": "f32", "bfloat16": "bf16", "int8": "f32"}
Run = Callable[[np.ndarray], Any]
Started = tuple[dict[str, Shape], Run]


def start(format: str, path: Path, precision: str, streams: int = 1) -> Started:
    """Starts a runtime on the CPU with its default number of threads.

    Args:
        format: one of `formats.FORMATS`.
        path: the model file; for a SavedModel, its saved_model.pb.
        precision: one of `formats.FORMATS[format]`.
        streams: of OpenVINO, runs at a time, which share the cores among them.

    Returns:
        (shapes, run). `shapes` is {tensor: its shape, with None for sizes that may
        vary}. `run` takes float32 images and returns probabilities, in an array whose
        memory may belong to the runtime, and is used again by the thread's next run; of
        a detector {name: array}. Several threads may call it, but for LiteRT's.

    Raises:
        ModelError: a package is not installed, or the file cannot be read.
    """
    try:
        if format == "openvino":
            return _start_openvino(path, precision, streams)
        return _STARTERS[format](path)
    except ModelError:
        raise
    except Exception as error:  # each runtime has its own exceptions
        raise ModelError(
            f"{path}: not a readable {format} model: {brief(error)}"
        ) from error


def _start_savedmodel(path: Path) -> Started:
    model = SavedModel(path.parent)
    try:
        sides = model.signatures["serving_default"].values()
    except KeyError:
        model.close()
        raise
    shapes = {key: shape for side in sides for key, (_, shape) in side.items()}

    def run(images: np.ndarray) -> Any:
        outputs = model.run("serving_default", images=images)
        return next(iter(outputs.values())) if len(outputs) == 1 else outputs

    return shapes, run


def _start_onnx(path: Path) -> Started:
    runtime = require("onnxruntime", "onnx")
    options = runtime.SessionOptions()
    options.log_severity_level = 4  # fatal only, because errors are also raised
    session = runtime.InferenceSession(
        path, options, providers=["CPUExecutionProvider"], enable_fallback=0
    )
    shapes: dict[str, Shape] = {
        port.name: tuple(size if isinstance(size, int) else None for size in port.shape)
        for port in (*session.get_inputs(), *session.get_outputs())
    }
    return shapes, lambda images: session.run([OUTPUT], {INPUT: images})[0]


def _start_openvino(path: Path, precision: str, streams: int) -> Started:
    runtime = require("openvino", "openvino")
    # by default, OpenVINO chooses bfloat16 on CPUs with bfloat16 instructions
    config = {"INFERENCE_PRECISION_HINT": _HINTS[precision]}
    if streams > 1:
        config["NUM_STREAMS"] = str(streams)
    model = runtime.Core().compile_model(path, "CPU", config)
    shapes: dict[str, Shape] = {
        port.any_name: tuple(
            None if size.is_dynamic else size.get_length()
            for size in port.partial_shape
        )
        for port in (*model.inputs, *model.outputs)
    }
    threads = threading.local()  # a request is for one thread at a time

    def run(images: np.ndarray) -> Any:
        if not hasattr(threads, "request"):
            threads.request = model.create_infer_request()
        return threads.request.infer({INPUT: images})[OUTPUT]

    return shapes, run


def _start_litert(path: Path) -> Started:
    runtime = require("ai_edge_litert.interpreter", "litert")
    interpreter = runtime.Interpreter(model_path=str(path))
    signature = interpreter.get_signature_runner("serving_default")
    details = {**signature.get_input_details(), **signature.get_output_details()}
    shapes: dict[str, Shape] = {
        name: tuple(None if size < 0 else int(size) for size in info["shape_signature"])
        for name, info in details.items()
    }
    blank = np.zeros([1, *details[INPUT]["shape"][1:]], np.float32)
    signature(**{INPUT: blank})  # the first run logs; the caller silences only `start`
    return shapes, lambda images: signature(**{INPUT: images})[OUTPUT]


_STARTERS: dict[str, Callable[[Path], Started]] = {
    "savedmodel": _start_savedmodel,
    "onnx": _start_onnx,
    "litert": _start_litert,
}
