"""Views of an image: one crop, ten crops, or the whole image at several scales."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_resnet.backend import keras
from keras_resnet.data import decode_image, load_eval, resize_short, ten_crop
from keras_resnet.data.transforms.decode import MAX_PIXELS
from keras_resnet.errors import DataError, ModelError
from keras_resnet.info import ModelInfo, Protocol

VIEWS = ("center", "ten-crop", "multi-scale")
SCALES = (224, 256, 384, 480, 640)  # short sides (arXiv 1512.03385 section 3.4)
LARGEST = math.isqrt(MAX_PIXELS)  # the longest side in pixels

Load = Callable[[tf.Tensor, Protocol], tf.Tensor]
Classify = Callable[[np.ndarray], np.ndarray]  # images -> float32 [N, classes]


def check_views(
    views: str, size: int | None = None, scales: Sequence[int] = ()
) -> None:
    """Raises a ValueError for arguments that are invalid or exclude each other."""
    if views not in VIEWS:
        raise ValueError(f"views={views!r}: must be one of {VIEWS}")
    if size is not None and not _is_pixels(size):
        raise ValueError(f"size={size!r}: must be pixels, 1 to {LARGEST}")
    if not isinstance(scales, tuple | list) or not all(map(_is_pixels, scales)):
        raise ValueError(
            f"scales={scales!r}: must be a tuple of pixels, each 1 to {LARGEST}"
        )
    if scales and views == "ten-crop":
        raise ValueError(
            f"scales={scales!r} with views='ten-crop': crops have one scale; leave "
            "out one of the two"
        )
    if size is not None and (scales or views == "multi-scale"):
        raise ValueError(
            f"size={size!r} with views='multi-scale': whole images are not cropped; "
            "leave out size and give scales alone"
        )


def open_views(
    model: Any, views: str, scales: Sequence[int], batch_size: int
) -> tuple[Load, int, Classify]:
    """Returns (function that loads an image, batch size, function that classifies)."""
    if views == "ten-crop":

        def classify(crops: np.ndarray) -> np.ndarray:
            images = crops.reshape(-1, *crops.shape[2:])
            outputs = predict_probabilities(model, images, 10 * batch_size)
            return outputs.reshape(len(crops), 10, -1).mean(1)

        return load_ten_crops, batch_size, classify
    if views == "multi-scale":
        multi_scale = MultiScale(model, scales or SCALES)
        return load_whole, 1, lambda images: multi_scale(images[0])[None]
    return (
        load_eval,
        batch_size,
        lambda images: predict_probabilities(model, images, batch_size),
    )


def predict_probabilities(
    model: Any, images: np.ndarray, batch_size: int | None = None
) -> np.ndarray:
    """Returns the probabilities of a batch, float32 [N, classes].

    With `batch_size`, a smaller batch is padded, so that its graph is compiled once.
    """
    model.info.check_classifies(model.name)
    inputs = padded(images, batch_size or 0)
    outputs = np.asarray(model.predict_on_batch(inputs))[: len(images)]
    return to_probabilities(outputs, model.info) if model.info.gives_logits else outputs


def padded(images: np.ndarray, count: int) -> np.ndarray:
    """The images, followed by zeros if there are fewer than `count`."""
    missing = count - len(images)
    if missing <= 0:
        return images
    padding = np.zeros((missing, *images.shape[1:]), images.dtype)
    return np.concatenate([images, padding])


def load_ten_crops(data: tf.Tensor, protocol: Protocol) -> tf.Tensor:
    """Decodes an image and returns its crops, uint8 [10, S, S, 3]."""
    image = decode_image(data)
    return ten_crop(image, protocol.size, protocol.crop_pct, protocol.interpolation)


def load_whole(data: tf.Tensor, protocol: Protocol) -> tf.Tensor:
    """Decodes an image and returns all of it, uint8 [H, W, 3]."""
    return decode_image(data)


class MultiScale:
    """Predicts whole images, averaged over scales and mirror images.

    The fully convolutional form of arXiv 1512.03385: the classifier is applied to every
    window of the feature map that has the size of a crop's feature map. Its logits are
    averaged over the windows, and the probabilities over scales and mirror images.
    Each image is a batch of its own, since sizes differ.

    Args:
        model: a model of this package for any input size that includes its top.
        scales: the short sides in pixels.

    Raises:
        ModelError: the model takes one size only.
    """

    def __init__(self, model: Any, scales: Sequence[int] = SCALES) -> None:
        if model.input_shape[1:3] != (None, None):
            raise ModelError(
                f"{model.name}: takes {model.input_shape[1:3]} pixels only; build it "
                "with input_shape=None for other sizes"
            )
        self.info, protocol = model.info, model.info.protocol
        self.scales, self.interpolation = scales, protocol.interpolation
        self.window = -(-protocol.size // model.info.config.output_stride)
        self.features = keras.Model(model.inputs, [*model.pyramid_outputs.values()][-1])
        self.head = model.get_layer("head")

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Returns the probabilities, float32 [classes], of an image, uint8 [H, W, 3].

        Raises:
            DataError: the image would be too large at one of the scales.
        """
        results = []
        for short in self.scales:
            try:
                view = resize_short(image, short, self.interpolation).numpy()
            except tf.errors.InvalidArgumentError as error:
                raise DataError(
                    f"scales: an image of {image.shape[1]} x {image.shape[0]} pixels "
                    f"is too large at a short side of {short}; leave that scale out"
                ) from error
            results += [self._scores(view), self._scores(view[:, ::-1])]
        views = to_probabilities(np.stack(results), self.info)
        return views.mean(0).astype(np.float32)

    def _scores(self, view: np.ndarray) -> np.ndarray:
        """Returns the mean logits of all windows, computed from the mean features.

        Both are equal, as the classifier is linear.
        """
        maps = np.asarray(self.features.predict_on_batch(view[None]), np.float32)
        window = [min(self.window, side) for side in maps.shape[1:3]]
        windows = tf.nn.avg_pool2d(maps, window, 1, "VALID")
        mean = np.mean(windows, axis=(0, 1, 2), dtype=np.float64)
        return mean @ np.asarray(self.head.kernel) + np.asarray(self.head.bias)


def to_probabilities(logits: np.ndarray, info: ModelInfo) -> np.ndarray:
    """Returns the probabilities of the logits of a model, along the last axis."""
    if info.several_labels:
        return sigmoid(logits)
    exponents = np.exp(logits - logits.max(-1, keepdims=True))
    return exponents / exponents.sum(-1, keepdims=True)


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Returns the sigmoid of each logit."""
    return 1 / (1 + np.exp(-logits))


def _is_pixels(value: Any) -> bool:
    is_integer = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    return is_integer and 0 < value <= LARGEST
