"""Writes configuration, warm-up requests and a guide for TensorFlow Serving."""

from __future__ import annotations

import importlib.util
import os
import string
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from keras_resnet.export.numbering import model_name
from keras_resnet.files import atomic_write
from keras_resnet.info import ModelInfo

MODELS, BATCHING, GUIDE = "models.config", "batching.config", "README.md"
WARM_UP = "assets.extra/tf_serving_warmup_requests"
_IMAGE = "tensorflow/serving:2.20.0"

_MODELS = """\
# for --model_config_file; base_path is the path of this folder on the server
model_config_list {
  config {
    name: "$name"
    base_path: "/models/$name"
    model_platform: "tensorflow"
    model_version_policy { latest { num_versions: 1 } }
  }
}
"""
_BATCHING = """\
# for --enable_batching --batching_parameters_file
max_batch_size { value: 16 }
batch_timeout_micros { value: 2000 }  # how long the first request of a batch waits
max_enqueued_batches { value: 64 }  # further requests are refused
num_batch_threads { value: 2 }  # batches computed in parallel; the server's cores
"""


def write_beside(folder: str | os.PathLike[str], variables: Mapping[str, Any]) -> None:
    """Writes models.config, batching.config and README.md into a model folder.

    Existing files are kept, because they may have been edited.

    Args:
        folder: the model folder, which has the numbered versions.
        variables: values for the guide: variant, classes, size, pixels, and what
            `said_of` returns.
    """
    folder = Path(folder)
    names = {"name": model_name(folder), "image": _IMAGE, "models": MODELS}
    names |= {"batching": BATCHING, "tensorflow": tf.__version__}
    guide = Path(__file__).with_suffix(".md").read_text()
    for file, text in ((MODELS, _MODELS), (BATCHING, _BATCHING), (GUIDE, guide)):
        if not (folder / file).exists():
            with atomic_write(folder / file) as partial:
                partial.write_text(string.Template(text).substitute(variables, **names))


def said_of(info: ModelInfo, top: int) -> dict[str, str]:
    """What the guide says of the outputs of a model.

    Args:
        info: of the model.
        top: how many likely classes a classifier names.
    """
    side, classes = info.protocol.size, info.classes
    if info.task == "detect":
        found = "`classes`, `confidence` and `labels` [N, 100], filled up with -1"
        return {
            "outputs": f"`boxes` [N, 100, 4] in pixels of the images, {found}",
            "bytes_outputs": "the same, with boxes (left, top, right, bottom) in "
            "pixels of each file",
            "blank": "-1",
            "show": 'print(*zip(answer["classes"], answer["boxes"]), sep="\\n")',
            "first": "boxes",
        }
    if info.task == "segment":
        return {
            "outputs": f"`logits` [N, {side}, {side}, {classes}]",
            "bytes_outputs": f"`mask` [N, {side}, {side}], a class for each pixel, of "
            "which the top left `size` [N, 2] (height, width) shows the picture, "
            f"`class_names` [N, {classes}]",
            "blank": "-1 or 0",
            "show": 'print(answer["size"], answer["class_names"])',
            "first": "mask",
        }
    return {
        "outputs": "`probabilities`",
        "bytes_outputs": f"`probabilities` [N, {classes}], `top_classes` and "
        f"`top_probabilities` [N, {top}]",
        "blank": "zeros",
        "show": 'print(dict(zip(answer["top_classes"], answer["top_probabilities"])))',
        "first": "top_classes",
    }


def can_warm_up() -> bool:
    """Returns whether tensorflow-serving-api, which `write_warm_up` needs, is there."""
    return importlib.util.find_spec("tensorflow_serving") is not None


def write_warm_up(
    version: str | os.PathLike[str], name: str, image: np.ndarray
) -> None:
    """Writes the requests that a server runs before it makes a version available.

    Args:
        version: the folder of the version.
        name: the name of the model.
        image: an image of the model's input size, uint8 [S, S, 3]. One request has its
            pixels, the other has it as a JPEG.
    """
    from tensorflow_serving.apis import prediction_log_pb2

    path = Path(version, WARM_UP)
    path.parent.mkdir()
    inputs = {
        "serving_default": ("images", np.float32(image[None])),
        "serving_bytes": ("image_bytes", [tf.io.encode_jpeg(image).numpy()]),
    }
    with tf.io.TFRecordWriter(str(path)) as writer:
        for signature, (key, value) in inputs.items():
            log = prediction_log_pb2.PredictionLog()
            request = log.predict_log.request
            request.model_spec.name = name
            request.model_spec.signature_name = signature
            request.inputs[key].CopyFrom(tf.make_tensor_proto(value))
            writer.write(log.SerializeToString())
