"""A model -> a SavedModel for TensorFlow Serving that takes JPEG bytes or pixels."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import keras
import tensorflow as tf

from keras_resnet.data import load_eval
from keras_resnet.evaluate import class_names
from keras_resnet.model import ModelError, ResNet, rebuild

TOP_K = 5


def save(model: ResNet, folder) -> Path:
    """Writes `folder`/<next version>/, whole or not at all, and returns that path.

    Signatures, for S the side that the model's protocol names and K classes:
        serving_default: images float32 [None, S, S, 3] in [0, 255]
            -> probabilities float32 [None, K]
        serving_bytes: image_bytes string [None], JPEG or PNG files of any sizes
            -> probabilities, and the k = min(5, K) likeliest: top_classes string
            [None, k], top_probabilities float32 [None, k]

    The graph computes in float32 whatever the training policy, normalises, and for
    bytes decodes and crops as evaluation does. assets/labels.txt has the class names.

    Raises:
        ModelError: a model without classifier or without normalisation in its graph, or
            a Keras backend that is not TensorFlow.
    """
    _check(model)
    serving = rebuild(
        model,
        "float32",
        classifier_activation=model.info.classifier_activation or "softmax",
    )
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=".export.", dir=folder))
    try:
        _write(serving, partial / "model")
        (partial / "model" / "assets").mkdir(exist_ok=True)
        labels = "".join(f"{name}\n" for name in class_names(model))
        (partial / "model" / "assets" / "labels.txt").write_text(labels)
        target = folder / str(max(versions(folder), default=0) + 1)
        os.replace(partial / "model", target)  # a polling server sees all of it or none
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def _write(model, path):
    protocol = model.info.protocol
    names = tf.constant(class_names(model))
    top = min(TOP_K, model.info.classes)

    def serving_default(images):
        return {"probabilities": model(images, training=False)}

    def serving_bytes(image_bytes):
        images = tf.map_fn(
            lambda data: load_eval(data, protocol),
            image_bytes,
            fn_output_signature=tf.TensorSpec([protocol.size] * 2 + [3], tf.uint8),
        )
        probabilities = model(tf.cast(images, tf.float32), training=False)
        likeliest, places = tf.math.top_k(probabilities, top)
        return {
            "probabilities": probabilities,
            "top_classes": tf.gather(names, places),
            "top_probabilities": likeliest,
        }

    archive = keras.export.ExportArchive()
    archive.track(model)
    pixels = tf.TensorSpec(
        [None, protocol.size, protocol.size, 3], tf.float32, "images"
    )
    archive.add_endpoint("serving_default", serving_default, [pixels])
    encoded = tf.TensorSpec([None], tf.string, "image_bytes")
    archive.add_endpoint("serving_bytes", serving_bytes, [encoded])
    archive.write_out(str(path), verbose=False)


def versions(folder) -> list[int]:
    """The version numbers in a model folder, rising."""
    folder = Path(folder)
    entries = folder.iterdir() if folder.is_dir() else ()
    return sorted(int(entry.name) for entry in entries if entry.name.isdigit())


def _check(model):
    if keras.backend.backend() != "tensorflow":
        raise ModelError(
            f"backend={keras.backend.backend()!r}: a SavedModel is written on the "
            "TensorFlow backend; set KERAS_BACKEND=tensorflow"
        )
    if not model.info.include_top or not model.info.include_preprocessing:
        raise ModelError(
            f"{model.name}: built with include_top={model.info.include_top}, "
            f"include_preprocessing={model.info.include_preprocessing}; "
            "serving needs both"
        )
