"""Grad-CAM: which places of an image raise the logit of a class (arXiv 1610.02391)."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from keras_resnet.backend import keras, layers, ops
from keras_resnet.errors import DataError, ModelError
from keras_resnet.model import in_float32

__all__ = ["grad_cam"]

_BATCH = 32  # images that are computed at once
_LAST = (None, "stage4")  # names of the last layer before the pooling
_POOLING = (layers.GlobalAveragePooling2D, layers.GlobalMaxPooling2D)


def grad_cam(
    model: Any, images: Any, classes: Any = None, layer: str | None = "stage4"
) -> np.ndarray:
    """Heat maps of what raises the logit of a class in images, by Grad-CAM.

    The channels of a layer's output are weighted by the mean gradient of the logit, and
    what is positive in their sum is enlarged bilinearly to the size of the images. Nets
    of half precision are computed in float32.

    Args:
        model: an open classifier of this package or of a run; not an exported one.
        images: RGB in [0, 255], [N, H, W, 3], of any real dtype.
        classes: the class to explain: an index, or one for each image; None: the
            likeliest of each image.
        layer: the layer whose output is weighted: "stage1", "stage2", ... for the last
            block of a stage, or the name of any layer with an output [N, H, W, C], also
            in a net within the net. None, or "stage4" where a net has no such layer,
            is the last one before its pooling.

    Returns:
        float32 [N, H, W] in [0, 1], of which each map that is not zero has the maximum
        1. Where a layer's output is 1x1, each map is constant.

    Raises:
        DataError: the images have another shape or dtype, or are not finite.
        ModelError: the model is not such a classifier, or it has no such layer.
        ValueError: `classes` has another shape, or values that are no classes.

    Examples:

    >>> heat = keras_resnet.explain.grad_cam(model, images)
    >>> pyplot.imshow(images[0])
    >>> pyplot.imshow(heat[0], alpha=0.5)
    """
    _check_model(model)
    images = _checked_images(model, images)
    indices = _checked_classes(model, classes, len(images))
    half = model.info.dtype_policy not in ("float32", "float64")
    net = in_float32(model) if half else model
    target = _find(net, layer)
    maps = [np.zeros((0, *images.shape[1:3]), np.float32)]
    for start in range(0, len(images), _BATCH):
        part = slice(start, start + _BATCH)
        maps.append(
            _heat(net, target, images[part], None if indices is None else indices[part])
        )
    return np.concatenate(maps)


def _heat(
    net: Any, target: Any, images: np.ndarray, indices: np.ndarray | None
) -> np.ndarray:
    """The heat maps of a batch."""
    inputs = ops.convert_to_tensor(images, net.inputs[0].dtype)
    logits, features = _run(net, inputs, target)
    if indices is None:
        indices = ops.convert_to_numpy(logits).argmax(1)
    chosen = np.eye(logits.shape[-1], dtype=bool)[indices]

    def score(features: Any) -> Any:
        logits, _ = _run(net, inputs, target, features)
        return ops.sum(ops.where(chosen, logits, ops.zeros_like(logits)))

    # an image's logit depends on its own features alone, so that the sum has them all
    gradients = ops.convert_to_numpy(_gradient(score, features))
    weights = gradients.mean((1, 2), keepdims=True)
    heat = np.maximum((weights * ops.convert_to_numpy(features)).sum(-1), 0)
    if not np.isfinite(heat).all():
        raise DataError(
            f"images: {net.name} computes values of them that are not finite; give "
            "finite RGB in [0, 255], and a net with finite weights"
        )
    small = ops.convert_to_tensor(_of_maximum_one(heat)[..., None], "float32")
    large = ops.image.resize(
        small, images.shape[1:3], interpolation="bilinear", data_format="channels_last"
    )
    return _of_maximum_one(ops.convert_to_numpy(large)[..., 0])


def _of_maximum_one(maps: np.ndarray) -> np.ndarray:
    """Each of the maps over its maximum; maps of zeros stay."""
    peaks = maps.max((1, 2), keepdims=True)
    return np.divide(maps, peaks, out=np.zeros_like(maps), where=peaks > 0)


def _gradient(function: Callable[[Any], Any], point: Any) -> Any:
    """The gradient of a scalar function, by the backend's own differentiation."""
    if keras.backend.backend() == "jax":
        import jax

        return jax.grad(function)(point)
    import tensorflow as tf

    # unless told, it would record all that comes before the point
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(point)
        value = function(point)
    return tape.gradient(value, point, unconnected_gradients="zero")


def _run(net: Any, inputs: Any, target: Any, features: Any = None) -> tuple[Any, Any]:
    """Computes a net in inference; returns (logits, output of the layer `target`).

    Args:
        net: a functional classifier.
        inputs: a tensor of images.
        target: a layer of the net, or of a net within.
        features: what to compute with in place of the output of `target`, if given.
            Halves of the net would not do: branches may pass the layer by.
    """
    head, outputs = net.get_layer("head"), []

    def call(operation: Any) -> Callable[..., Any]:
        if graph := _graph(operation):
            return lambda *args, **_: graph._run_through_graph(args, operation_fn=call)
        if operation is head and not net.info.gives_logits:
            return lambda x: ops.add(ops.matmul(x, head.kernel), head.bias)
        if operation is not target:
            return operation

        def replaced(*args: Any, **kwargs: Any) -> Any:
            computed = features is None
            outputs.append(operation(*args, **kwargs) if computed else features)
            return outputs[-1]

        return replaced

    logits = keras.tree.flatten(net._run_through_graph(inputs, operation_fn=call))[0]
    if len(outputs) != 1:
        raise ModelError(
            f"layer={target.name!r}: {net.name} computes it {len(outputs)} times; give "
            "a layer that it computes once"
        )
    return logits, outputs[0]


def _graph(operation: Any) -> Any:
    """The functional model that a layer is, if it is one without a `call` of its own.

    A Sequential keeps one within.
    """
    graph = getattr(operation, "_functional", None) or operation
    usual = getattr(graph, "call", None)
    of_keras = getattr(usual, "__module__", "").startswith("keras.")
    is_graph = isinstance(graph, keras.Model) and hasattr(graph, "operations")
    return graph if is_graph and of_keras else None


def _operations(graph: Any) -> Iterator[Any]:
    """The layers of a functional model in an order of computation, and those within."""
    for operation in graph.operations:
        if inner := _graph(operation):
            yield from _operations(inner)
        elif not isinstance(operation, layers.InputLayer):
            yield operation


def _find(net: Any, name: str | None) -> Any:
    """The layer that `grad_cam` calls by this name."""
    found: dict[str, Any] = {}
    last, pooled = None, False
    for operation in _operations(net):
        if isinstance(operation, _POOLING):
            pooled = True
            continue
        shape = getattr(operation.output, "shape", ())  # several outputs have none
        if len(shape) != 4:
            continue
        # the last block of a stage comes last, and the outer net's layers come first
        if block := re.fullmatch(r"(stage\d+)_block\d+", operation.name):
            found[block[1]] = operation
        found.setdefault(operation.name, operation)
        # 1x1 are a classifier's convolutions, or what squeezes before it excites
        pooled = pooled and tuple(shape[1:3]) == (1, 1)
        last = last if pooled else operation
    if name in found:
        return found[name]
    if name in _LAST and last is not None:
        stages = [it for it in found if re.fullmatch(r"stage\d+", it)]
        return found[stages[-1]] if stages else last
    near = difflib.get_close_matches(str(name), found, 3) or [*found][-3:]
    raise ModelError(
        f"layer={name!r}: {net.name} has no layer of this name with an output "
        f"[N, H, W, C]; give another, such as {', '.join(near) or 'none: it has none'}"
    )


def _check_model(model: Any) -> None:
    name = getattr(model, "name", model)
    if not isinstance(model, keras.Model) or getattr(model, "info", None) is None:
        raise ModelError(
            f"model={name!r}: cannot be explained; give what open_model returns of a "
            "run directory, a .keras file or variant:weights, not an exported model"
        )
    model.info.check_classifies(name)
    if not model.info.include_top:
        raise ModelError(
            f"model={name!r}: has no classifier; build it with include_top=True"
        )
    quantized = getattr(model.get_layer("head"), "quantization_mode", None)
    if quantized and not model.info.gives_logits:
        raise ModelError(
            f"model={name!r}: its classifier is quantized to {quantized}; explain the "
            "net before `quantize`"
        )


def _checked_images(model: Any, images: Any) -> np.ndarray:
    images = np.asarray(images)
    if images.ndim != 4 or images.shape[-1] != 3 or 0 in images.shape[1:]:
        raise DataError(f"images: {images.shape}; must be [N, H, W, 3]")
    if images.dtype.kind not in "uif":
        raise DataError(f"images: of dtype {images.dtype}; must be real numbers")
    sides = model.input_shape[1:3]
    if any(side not in (None, it) for side, it in zip(sides, images.shape[1:])):
        raise DataError(
            f"images: {images.shape}; {model.name} takes {sides[0]} x {sides[1]} "
            "pixels only"
        )
    return images


def _checked_classes(model: Any, classes: Any, count: int) -> np.ndarray | None:
    """The index of a class for each image; None: the likeliest."""
    if classes is None:
        return None
    indices = np.asarray(classes)
    if indices.size == 0:  # whose dtype is a float
        indices = indices.astype(int)
    if indices.dtype.kind not in "ui" or indices.shape not in ((), (count,)):
        raise ValueError(
            f"classes={classes!r}: must be None, an index, or one for each of the "
            f"{count} images"
        )
    highest = model.info.classes - 1
    if indices.size and not 0 <= indices.min() <= indices.max() <= highest:
        raise ValueError(f"classes={classes!r}: must be indices from 0 to {highest}")
    return np.broadcast_to(indices, (count,))
