"""Writes SavedModels whose signatures take pixels or the bytes of image files."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from keras_resnet.backend import native
from keras_resnet.data import load_eval, load_square
from keras_resnet.data.transforms.decode import has_magic, on_call
from keras_resnet.evaluate.prediction import class_names
from keras_resnet.export import other_tasks
from keras_resnet.export.formats import INPUT, OUTPUT
from keras_resnet.info import Protocol
from keras_resnet.model import ResNet

TOP_K = 5
_PARALLEL = 8  # images that are decoded in parallel
_ENCODED = tf.TensorSpec([None], tf.string, "image_bytes")


def write_saved_model(model: ResNet, path: str | os.PathLike[str]) -> None:
    """Writes a SavedModel with the signatures of `export.save`.

    Args:
        model: a model with a classifier, which outputs probabilities; or a Detector or
            Segmenter in float32.
        path: the folder to create.
    """
    size, is_transfer = model.info.protocol.size, model.info.task != "classify"
    rank = _ranker(model)
    load = guarded_loader(
        model.info.protocol, load_square if is_transfer else _load_crop
    )

    def serving_default(images: Any) -> dict[str, Any]:
        # servers do not check shapes, and the model would accept any size
        return compute(tf.ensure_shape(images, [None, size, size, 3]))

    def serving_bytes(image_bytes: Any) -> dict[str, Any]:
        (images, *sizes), ok = load(image_bytes)
        outputs = compute(tf.cast(images, tf.float32))
        if is_transfer:
            # a row that could not be decoded has the size 0
            sizes = [tf.maximum(it, 1) for it in sizes]
            outputs = other_tasks.in_pictures(model, outputs, *sizes)
            return {**{k: _blank(it, ok) for k, it in outputs.items()}, "ok": ok}
        return rank(outputs[OUTPUT], ok)

    answer = trace(model).get_concrete_function()  # once, not in each signature

    def compute(images: Any) -> dict[str, Any]:
        count = tf.shape(images)[0]
        # oneDNN's convolutions fail on an empty batch, so add one row to it
        more = tf.cast(count == 0, tf.int32)
        images = tf.pad(images, [[0, more], [0, 0], [0, 0], [0, 0]])
        # with unknown sizes TensorFlow does not fuse additions, which might broadcast
        images = tf.ensure_shape(images, [None, size, size, 3])
        return {name: it[:count] for name, it in answer(images).items()}

    module = tf.Module()
    # TensorFlow's own variables, because Keras's would be written twice
    module.kept = [native(variable) for variable in model.variables]
    _save(module, path, (serving_default, _pixels(model)), (serving_bytes, _ENCODED))


def write_frame(model: ResNet, path: str | os.PathLike[str]) -> None:
    """Writes a SavedModel of what `serving_bytes` does before and after the net.

    With it, `served.ServedEngine` answers as a SavedModel of the model would. It has
    the signatures decode, from image_bytes to images uint8 [None, S, S, 3] and ok; and
    rank, from probabilities and ok to the outputs of serving_bytes.

    Args:
        model: a classifier.
        path: the folder to create.
    """
    load, ranked = guarded_loader(model.info.protocol, _load_crop), _ranker(model)

    def decode(image_bytes: Any) -> dict[str, Any]:
        (images,), ok = load(image_bytes)
        return {INPUT: images, "ok": ok}

    def rank(probabilities: Any, ok: Any) -> dict[str, Any]:
        return ranked(probabilities, ok)

    likely = tf.TensorSpec([None, model.info.classes], tf.float32, OUTPUT)
    good = tf.TensorSpec([None], tf.bool, "ok")
    _save(tf.Module(), path, (decode, _ENCODED), (rank, likely, good))


def _save(
    module: Any, path: str | os.PathLike[str], *signatures: tuple[Any, ...]
) -> None:
    """Writes functions of tensors as signatures; each is followed by its inputs."""
    functions = {
        answer.__name__: tf.function(answer, input_signature=specs, autograph=False)
        for answer, *specs in signatures
    }
    tf.saved_model.save(module, str(path), functions)


def _ranker(model: ResNet) -> Callable[[Any, Any], dict[str, Any]]:
    """Returns a function from probabilities and ok to the outputs of serving_bytes."""
    # the original bytes of folder names, which may not be UTF-8
    names = tf.constant([os.fsencode(name) for name in class_names(model)])
    top = min(TOP_K, model.info.classes)

    def rank(probabilities: Any, ok: Any) -> dict[str, Any]:
        # rows that could not be decoded must not get a class
        probabilities = tf.where(ok[:, None], probabilities, 0)
        likeliest, places = tf.math.top_k(probabilities, top)
        return {
            OUTPUT: probabilities,
            "top_classes": tf.where(ok[:, None], tf.gather(names, places), ""),
            "top_probabilities": likeliest,
            "ok": ok,
        }

    return rank


def _blank(values: Any, ok: Any) -> Any:
    """The values, with -1, 0 or "" in the rows that are not ok."""
    blank = "" if values.dtype == tf.string else 0
    if values.dtype in (tf.float32, tf.int32):
        blank = -1
    shape = tf.concat([tf.shape(ok), tf.ones([values.shape.rank - 1], tf.int32)], 0)
    return tf.where(tf.reshape(ok, shape), values, tf.cast(blank, values.dtype))


def trace(model: Any) -> Any:
    """Returns the model as a traced tf.function from images to {"probabilities": p}.

    For a detector or segmenter it gives what `other_tasks.outputs_of` returns.

    The graph has no nested functions. On a CPU, Keras compiles grouped convolutions
    with XLA in nested functions, which converters cannot read. The plain operation
    gives the same result and is far faster.
    """
    graph = tf.function(
        lambda images: (
            {OUTPUT: model(images, training=False)}
            if model.info.task == "classify"
            else other_tasks.outputs_of(model, images)
        ),
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


def _load_crop(data: Any, protocol: Protocol) -> tuple[Any, ...]:
    return (load_eval(data, protocol),)


def guarded_loader(
    protocol: Protocol, load_one: Callable[[Any, Protocol], tuple[Any, ...]]
) -> Callable[[Any], tuple[tuple[Any, ...], Any]]:
    """Returns a function that decodes image files and does not fail on bad ones.

    The function takes the bytes of files, string [N], and returns (parts, ok): what
    `load_one` makes of each file, of which images uint8 [N, S, S, 3] are the first; and
    ok, bool [N]. A row is zeros and false if its first bytes are not those of a JPEG or
    PNG, if its header has no pixels or too many, or if decoding fails.

    A graph cannot catch errors, but a tf.data.Dataset can skip the elements that cause
    them. The rows are therefore decoded as the elements of one dataset, numbered, and
    the results are scattered to the positions of their rows.
    """

    # inlined, the dataset would prepare its body for each request
    @on_call(input_signature=[tf.TensorSpec([], tf.string)])
    def load(data: Any) -> Any:
        served = has_magic(data, "jpeg") | has_magic(data, "png")
        with tf.control_dependencies([tf.debugging.Assert(served, ["no JPEG or PNG"])]):
            return load_one(tf.identity(data), protocol)

    def load_all(image_bytes: Any) -> tuple[tuple[Any, ...], Any]:
        count = tf.size(image_bytes)
        rows = tf.data.Dataset.from_tensor_slices((tf.range(count), image_bytes))
        rows = rows.map(
            lambda row, data: (row, *load(data)), _PARALLEL, deterministic=False
        ).ignore_errors(log_warning=False)
        # one more row, because an empty dataset has no batch to get
        _, *parts = rows.element_spec
        nothing = (count, *(tf.zeros(part.shape, part.dtype) for part in parts))
        rows = rows.concatenate(tf.data.Dataset.from_tensors(nothing))
        rows = rows.batch(tf.cast(count + 1, tf.int64)).with_options(_options())
        places, *read = rows.get_single_element()

        def in_order(values: Any, shape: Any) -> Any:
            whole = tf.scatter_nd(places[:, None], values, [count + 1, *shape])
            return tf.ensure_shape(whole[:count], [None, *shape])

        sorted_parts = (in_order(it, part.shape) for it, part in zip(read, parts))
        return tuple(sorted_parts), in_order(tf.ones_like(places), []) > 0

    return load_all


def _options() -> Any:
    """Options for a dataset of one request, which is too short-lived to be tuned."""
    options = tf.data.Options()
    options.autotune.enabled = False
    options.experimental_optimization.apply_default_optimizations = False
    options.experimental_optimization.inject_prefetch = False
    return options
