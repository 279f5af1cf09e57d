"""The SavedModels of detectors and segmenters, and the check of their answers."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import tensorflow as tf

from keras_resnet.backend import ops
from keras_resnet.errors import ModelError
from keras_resnet.evaluate.prediction import class_names
from keras_resnet.transfer import answer, assemble_transfer

# the largest differences that are accepted: between boxes in pixels, and between the
# confidence of boxes or the probabilities of pixels
_PIXELS, _SHARES = 0.1, 1e-3
# what `check` compares
WHERE = {"detect": "pixels in the boxes", "segment": "in the pixels' probabilities"}


def in_float32(model: Any) -> Any:
    """The same detector or segmenter in float32."""
    twin = assemble_transfer(model.info.replace(dtype_policy="float32"))
    for variable, value in zip(twin.weights, model.weights, strict=True):
        variable.assign(ops.convert_to_numpy(value))
    return twin


def outputs_of(model: Any, images: Any) -> dict[str, Any]:
    """The outputs of a model as TensorFlow's operations.

    Args:
        model: a Detector or Segmenter.
        images: float32 [N, S, S, 3].

    Returns:
        {"boxes": float32 [N, M, 4], "classes": string [N, M], "confidence": float32
        [N, M], "labels": int32 [N, M]} of a detector, where -1 and "" fill up;
        {"logits": float32 [N, S, S, K]} of a segmenter.
    """
    raw = model(images, training=False)
    if model.info.task == "segment":
        return {"logits": raw}
    found = model.decode_predictions(raw, images)
    labels = tf.cast(found["labels"], tf.int32)
    names = tf.constant([os.fsencode(name) for name in class_names(model)])
    classes = tf.gather(names, tf.maximum(labels, 0))
    return {
        "boxes": found["boxes"],
        "classes": tf.where(labels >= 0, classes, ""),
        "confidence": found["confidence"],
        "labels": labels,
    }


def in_pictures(model: Any, outputs: dict[str, Any], inner: Any, sizes: Any) -> Any:
    """The outputs in terms of the pictures that the images were made from.

    Args:
        model: a Detector or Segmenter.
        outputs: what `outputs_of` returns.
        inner: int32 [N, 2], the heights and widths of the pictures in the images.
        sizes: int32 [N, 2], those of the pictures themselves.

    Returns:
        A detector's boxes in pixels of the pictures; or {"mask": uint8 [N, S, S], of
        which the top left `size` is of the picture, "size": int32 [N, 2],
        "class_names": string [N, K]}.
    """
    if model.info.task == "segment":
        names = tf.constant([os.fsencode(name) for name in class_names(model)])
        return {
            "mask": tf.cast(tf.argmax(outputs["logits"], -1), tf.uint8),
            "size": inner,
            "class_names": tf.tile(names[None], [tf.shape(inner)[0], 1]),
        }
    limits = tf.cast(tf.gather(sizes, [1, 0, 1, 0], axis=1), tf.float32)[:, None]
    ratio = (
        limits / tf.cast(tf.gather(inner, [1, 0, 1, 0], axis=1), tf.float32)[:, None]
    )
    # what fills up stays -1
    real = outputs["labels"][..., None] >= 0
    boxes = tf.clip_by_value(outputs["boxes"] * ratio, 0.0, limits)
    return {**outputs, "boxes": tf.where(real, boxes, outputs["boxes"])}


def check(engine: Any, model: Any, loaded: tuple[np.ndarray, ...]) -> float:
    """The largest difference between what an export and its model say of images.

    Args:
        engine: the exported model, an Engine.
        model: the model in float32.
        loaded: what `data.load_square` makes, of several pictures.

    Returns:
        For a detector in pixels, for a segmenter in probabilities.

    Raises:
        ModelError: it exceeds the tolerance, or they find other boxes.
    """
    squares, inner, sizes = loaded
    if model.info.task == "segment":
        ours, theirs = (
            tf.nn.softmax(np.asarray(it.predict_on_batch(squares), np.float32)).numpy()
            for it in (model, engine)
        )
        away, allowed = float(np.abs(ours - theirs).max()), _SHARES
    else:
        pairs = zip(
            *(answer(it, squares, inner, sizes, len(squares)) for it in (model, engine))
        )
        away, allowed = 0.0, _PIXELS
        for mine, its in pairs:
            if not np.array_equal(mine["labels"], its["labels"]) or not np.allclose(
                mine["confidence"], its["confidence"], rtol=0, atol=_SHARES
            ):
                raise ModelError(
                    f"{engine.name}: finds other boxes than {model.name}; do not use "
                    "it, and report this"
                )
            away = max(away, np.abs(mine["boxes"] - its["boxes"]).max(initial=0.0))
    if not away <= allowed:  # not `away > allowed`, which NaN would pass
        raise ModelError(
            f"{engine.name}: its answers are off by {away:.1e}, more than {allowed:g}; "
            "do not use it, and report this"
        )
    return float(away)
