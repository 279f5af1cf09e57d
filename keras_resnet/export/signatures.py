"""Writes SavedModels whose signatures take pixels or the bytes of image files."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from keras_resnet.backend import native
from keras_resnet.data import decode_image, eval_crop
from keras_resnet.data.transforms.decode import has_magic
from keras_resnet.evaluate.prediction import class_names
from keras_resnet.export.formats import INPUT, OUTPUT
from keras_resnet.info import Protocol
from keras_resnet.model import ResNet

TOP_K = 5
_PARALLEL = 8  # images that are decoded in parallel


def write_saved_model(model: ResNet, path: str | os.PathLike[str]) -> None:
    """Writes a SavedModel with the signatures of `export.save`.

    Args:
        model: a model with a classifier, which outputs probabilities.
        path: the folder to create.
    """
    size = model.info.protocol.size
    # the original bytes of folder names, which may not be UTF-8
    names = tf.constant([os.fsencode(name) for name in class_names(model)])
    top = min(TOP_K, model.info.classes)
    load = guarded_loader(model.info.protocol)

    def serving_default(images: Any) -> dict[str, Any]:
        # servers do not check shapes, and the model would accept any size
        images = tf.ensure_shape(images, [None, size, size, 3])
        return {OUTPUT: classify(images)}

    def serving_bytes(image_bytes: Any) -> dict[str, Any]:
        images, ok = load(image_bytes)
        # rows that could not be decoded must not get a class
        probabilities = tf.where(ok[:, None], classify(tf.cast(images, tf.float32)), 0)
        likeliest, places = tf.math.top_k(probabilities, top)
        return {
            OUTPUT: probabilities,
            "top_classes": tf.where(ok[:, None], tf.gather(names, places), ""),
            "top_probabilities": likeliest,
            "ok": ok,
        }

    answer = trace(model).get_concrete_function()  # once, not in each signature

    def classify(images: Any) -> Any:
        count = tf.shape(images)[0]
        # oneDNN's convolutions fail on an empty batch, so add one row to it
        more = tf.cast(count == 0, tf.int32)
        images = tf.pad(images, [[0, more], [0, 0], [0, 0], [0, 0]])
        # with unknown sizes TensorFlow does not fuse additions, which might broadcast
        images = tf.ensure_shape(images, [None, size, size, 3])
        return answer(images)[OUTPUT][:count]

    encoded = tf.TensorSpec([None], tf.string, "image_bytes")
    module = tf.Module()
    # TensorFlow's own variables, because Keras's would be written twice
    module.kept = [native(variable) for variable in model.variables]
    tf.saved_model.save(
        module,
        str(path),
        {
            signature.__name__: tf.function(signature, input_signature=[spec])
            for signature, spec in (
                (serving_default, _pixels(model)),
                (serving_bytes, encoded),
            )
        },
    )


def trace(model: ResNet) -> Any:
    """Returns the model as a traced tf.function from images to {"probabilities": p}.

    The graph has no nested functions. On a CPU, Keras compiles grouped convolutions
    with XLA in nested functions, which converters cannot read. The plain operation
    gives the same result and is far faster.
    """
    graph = tf.function(
        lambda images: {OUTPUT: model(images, training=False)},
        input_signature=[_pixels(model)],
        autograph=False,
    )
    before = tf.config.functions_run_eagerly()
    # inlines the nested functions; get_concrete_function traces `graph` in any case
    tf.config.run_functions_eagerly(True)
    try:
        graph.get_concrete_function()
    finally:
        tf.config.run_functions_eagerly(before)
    return graph


def _pixels(model: ResNet) -> Any:
    side = model.info.protocol.size
    return tf.TensorSpec([None, side, side, 3], tf.float32, INPUT)


def guarded_loader(protocol: Protocol) -> Callable[[Any], tuple[Any, Any]]:
    """Returns a function that decodes image files and does not fail on bad ones.

    The function takes the bytes of files, string [N], and returns (images, ok): images
    uint8 [N, S, S, 3], cropped as in evaluation, and ok, bool [N]. A row is zeros and
    false if its first bytes are not those of a JPEG or PNG, if its header has no pixels
    or too many, or if decoding fails.

    A graph cannot catch errors, but a tf.data.Dataset can skip the elements that cause
    them. The rows are therefore decoded as the elements of one dataset, numbered, and
    the results are scattered to the positions of their rows.
    """
    side = protocol.size

    # not inlined, because the dataset would then prepare its body for each request
    @tf.function(
        input_signature=[tf.TensorSpec([], tf.string)],
        experimental_attributes={"_noinline": True},
    )
    def load(data: Any) -> Any:
        served = has_magic(data, "jpeg") | has_magic(data, "png")
        with tf.control_dependencies([tf.debugging.Assert(served, ["no JPEG or PNG"])]):
            image = decode_image(tf.identity(data))
        return eval_crop(image, side, protocol.crop_pct, protocol.interpolation)

    def load_all(image_bytes: Any) -> tuple[Any, Any]:
        count = tf.size(image_bytes)
        rows = tf.data.Dataset.from_tensor_slices((tf.range(count), image_bytes))
        rows = rows.map(
            lambda row, data: (row, load(data)), _PARALLEL, deterministic=False
        ).ignore_errors(log_warning=False)
        # one more row, because an empty dataset has no batch to get
        nothing = (count, tf.zeros([side, side, 3], tf.uint8))
        rows = rows.concatenate(tf.data.Dataset.from_tensors(nothing))
        rows = rows.batch(tf.cast(count + 1, tf.int64)).with_options(_options())
        places, images = rows.get_single_element()
        shape = [count + 1, side, side, 3]
        images = tf.scatter_nd(places[:, None], images, shape)[:count]
        found = tf.scatter_nd(places[:, None], tf.ones_like(places), [count + 1])
        return tf.ensure_shape(images, [None, side, side, 3]), found[:count] > 0

    return load_all


def _options() -> Any:
    """Options for a dataset of one request, which is too short-lived to be tuned."""
    options = tf.data.Options()
    options.autotune.enabled = False
    options.experimental_optimization.apply_default_optimizations = False
    options.experimental_optimization.inject_prefetch = False
    return options
