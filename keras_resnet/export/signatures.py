"""A net -> the graph that a model server runs: pixels in, or the bytes of pictures."""

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
_PARALLEL = 8  # pictures that are decoded at a time


def write_saved_model(model: ResNet, path: str | os.PathLike[str]) -> None:
    """Writes a SavedModel with the signatures of `export.save`.

    Args:
        model: a net with its top, that gives probabilities.
        path: of the folder to create.
    """
    size = model.info.protocol.size
    # as they are in the file system, which may not be in UTF-8
    names = tf.constant([os.fsencode(name) for name in class_names(model)])
    top = min(TOP_K, model.info.classes)
    load = guarded_loader(model.info.protocol)

    def serving_default(images: Any) -> dict[str, Any]:
        # a server checks no shape, and the net would take any size
        images = tf.ensure_shape(images, [None, size, size, 3])
        return {OUTPUT: classify(images)}

    def serving_bytes(image_bytes: Any) -> dict[str, Any]:
        images, ok = load(image_bytes)
        # a row that is no picture gets no class
        probabilities = tf.where(ok[:, None], classify(tf.cast(images, tf.float32)), 0)
        likeliest, places = tf.math.top_k(probabilities, top)
        return {
            OUTPUT: probabilities,
            "top_classes": tf.where(ok[:, None], tf.gather(names, places), ""),
            "top_probabilities": likeliest,
            "ok": ok,
        }

    answer = trace(model).get_concrete_function()  # inside it would be traced again

    def classify(images: Any) -> Any:
        count = tf.shape(images)[0]
        # oneDNN's convolutions fail on an empty batch, so it gets a row
        more = tf.cast(count == 0, tf.int32)
        images = tf.pad(images, [[0, more], [0, 0], [0, 0], [0, 0]])
        # sums of unknown sizes are not fused, because they might broadcast
        images = tf.ensure_shape(images, [None, size, size, 3])
        return answer(images)[OUTPUT][:count]

    encoded = tf.TensorSpec([None], tf.string, "image_bytes")
    module = tf.Module()
    # TensorFlow's own variables: it would write Keras's twice
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
    """The net as a tf.function, traced once: images -> {"probabilities"}.

    It has no nested functions. On a CPU Keras compiles grouped convolutions by XLA, in
    functions that converters cannot see into; the plain operation gives the same, and
    is far faster.
    """
    graph = tf.function(
        lambda images: {OUTPUT: model(images, training=False)},
        input_signature=[_pixels(model)],
        autograph=False,
    )
    before = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(True)  # nested ones; `graph` is traced all the same
    try:
        graph.get_concrete_function()
    finally:
        tf.config.run_functions_eagerly(before)
    return graph


def _pixels(model: ResNet) -> Any:
    side = model.info.protocol.size
    return tf.TensorSpec([None, side, side, 3], tf.float32, INPUT)


def guarded_loader(protocol: Protocol) -> Callable[[Any], tuple[Any, Any]]:
    """A loader that no file makes fail: string [N], files' bytes -> images, ok.

    Images are uint8 [N, S, S, 3], as evaluation crops them; ok is bool [N]. A row that
    is no JPEG or PNG by its first bytes, has no pixels or too many by its header, or
    does not decode, is zeros and false.

    A graph cannot catch an error, but a data set can leave out the element that had
    it: the rows are read as one data set, with their numbers, and scattered back into
    their places.
    """
    side = protocol.size

    # a function of its own, or its body would be prepared anew at each request
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
        # one more row, since an empty data set gives no batch
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
    """For a data set that lives for one request, which leaves nothing to tune."""
    options = tf.data.Options()
    options.autotune.enabled = False
    options.experimental_optimization.apply_default_optimizations = False
    options.experimental_optimization.inject_prefetch = False
    return options
