"""What TensorFlow Serving needs beside a model: configuration, warm-up, a guide."""

from __future__ import annotations

import importlib.util
import os
import re
import string
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from keras_resnet.files import atomic_write

MODELS, BATCHING, GUIDE = "models.config", "batching.config", "README.md"
WARM_UP = "assets.extra/tf_serving_warmup_requests"
_IMAGE = "tensorflow/serving:2.20.0"

_MODELS = """\
# --model_config_file; base_path is as the server sees the folder
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
# --enable_batching --batching_parameters_file
max_batch_size { value: 16 }
batch_timeout_micros { value: 2000 }  # that the first request of a batch waits
max_enqueued_batches { value: 64 }  # more requests are refused, not kept waiting
num_batch_threads { value: 2 }  # batches computed at once; the server's cores
"""


def write_beside(folder: str | os.PathLike[str], variables: Mapping[str, Any]) -> None:
    """Writes models.config, batching.config and README.md into a model folder.

    An existing file is kept: it may have been edited.

    Args:
        folder: with the numbered versions.
        variables: variant, classes, size, top and pixels, for the guide.
    """
    folder = Path(folder)
    names = {"name": model_name(folder), "image": _IMAGE, "models": MODELS}
    names |= {"batching": BATCHING, "tensorflow": tf.__version__}
    guide = Path(__file__).with_suffix(".md").read_text()
    for file, text in ((MODELS, _MODELS), (BATCHING, _BATCHING), (GUIDE, guide)):
        if not (folder / file).exists():
            with atomic_write(folder / file) as partial:
                partial.write_text(string.Template(text).substitute(variables, **names))


def model_name(folder: str | os.PathLike[str]) -> str:
    """What a server calls the model in a folder: its name, with _ for odd letters."""
    return re.sub(r"[^\w.-]+", "_", Path(folder).resolve().name, flags=re.ASCII)


def can_warm_up() -> bool:
    """Whether tensorflow-serving-api, which has the protos of warm-up, is installed."""
    return importlib.util.find_spec("tensorflow_serving") is not None


def write_warm_up(
    version: str | os.PathLike[str], name: str, image: np.ndarray
) -> None:
    """Writes the requests that a server runs before it calls a version available.

    Args:
        version: the version's folder.
        name: of the model.
        image: a picture as the model sees it, uint8 [S, S, 3]; one request has its
            pixels, the other the same as a JPEG.
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
