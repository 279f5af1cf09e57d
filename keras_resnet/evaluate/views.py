"""How a model looks at a picture: one crop, ten, or several scales of the whole."""

from __future__ import annotations

import math
import numbers

import numpy as np
import tensorflow as tf

from keras_resnet import data as pictures
from keras_resnet.backend import keras
from keras_resnet.data.transforms.decode import MAX_PIXELS
from keras_resnet.errors import DataError, ModelError

VIEWS = ("center", "ten-crop", "multi-scale")
SCALES = (224, 256, 384, 480, 640)  # pixels of the short side (1512.03385 section 3.4)
LARGEST = math.isqrt(MAX_PIXELS)  # pixels of a side


def check(views, size=None, scales=()) -> None:
    """Raises a ValueError for looks that there are not, naming argument and value."""
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
            "out either"
        )
    if size is not None and (scales or views == "multi-scale"):
        raise ValueError(
            f"size={size!r} with views='multi-scale': whole pictures are not cut to a "
            "size; give scales alone"
        )


def open_views(model, views, scales, batch_size):
    """(how a picture is loaded, pictures a batch, images -> float32 [N, classes])."""
    if views == "ten-crop":

        def classify(crops):
            images = crops.reshape(-1, *crops.shape[2:])
            outputs = predict_probabilities(model, images, 10 * batch_size)
            return outputs.reshape(len(crops), 10, -1).mean(1)

        return load_ten_crops, batch_size, classify
    if views == "multi-scale":
        look = MultiScale(model, scales or SCALES)
        return load_whole, 1, lambda images: look(images[0])[None]
    return (
        pictures.load_eval,
        batch_size,
        lambda images: predict_probabilities(model, images, batch_size),
    )


def predict_probabilities(model, images, batch_size=None) -> np.ndarray:
    """float32 [N, classes]; a short batch is padded, so that one graph serves all."""
    count = len(images)
    if batch_size and count < batch_size:
        padding = np.zeros((batch_size - count, *images.shape[1:]), images.dtype)
        images = np.concatenate([images, padding])
    outputs = np.asarray(model.predict_on_batch(images))[:count]
    return softmax(outputs) if model.info.gives_logits else outputs


def load_ten_crops(data, protocol):
    """Encoded bytes -> uint8 [10, S, S, 3], the crops of `data.ten_crop`."""
    image = pictures.decode_image(data)
    return pictures.ten_crop(
        image, protocol.size, protocol.crop_pct, protocol.interpolation
    )


def load_whole(data, protocol):
    """Encoded bytes -> the whole picture, uint8 [H, W, 3]."""
    return pictures.decode_image(data)


class MultiScale:
    """Probabilities of whole pictures, averaged over scales and mirrors.

    The fully convolutional form of arXiv 1512.03385: the classifier is applied wherever
    the window of features fits that a crop of the protocol's size has, and its scores
    are averaged over the places before the softmax; the probabilities are averaged over
    scales and mirrors. A picture is a batch of its own: the sizes differ.

    Args:
        model: with its top, for any input size.
        scales: short sides in pixels.

    Raises:
        ModelError: the model takes one size only.
    """

    def __init__(self, model, scales=SCALES):
        if model.input_shape[1:3] != (None, None):
            raise ModelError(
                f"{model.name}: takes {model.input_shape[1:3]} pixels only; build it "
                "with input_shape=None to see other sizes"
            )
        protocol = model.info.protocol
        self.scales, self.interpolation = scales, protocol.interpolation
        self.window = -(-protocol.size // model.info.config.output_stride)
        self.features = keras.Model(model.inputs, model.pyramid_outputs["P5"])
        self.head = model.get_layer("head")

    def __call__(self, image) -> np.ndarray:
        """uint8 [H, W, 3] -> float32 [classes]; DataError if that is too large."""
        results = []
        for short in self.scales:
            try:
                view = pictures.resize_short(image, short, self.interpolation).numpy()
            except tf.errors.InvalidArgumentError as error:
                raise DataError(
                    f"scales: a picture of {image.shape[1]} x {image.shape[0]} pixels "
                    f"is too large at a short side of {short}; leave that out"
                ) from error
            results += [self._scores(view), self._scores(view[:, ::-1])]
        return softmax(np.stack(results)).mean(0).astype(np.float32)

    def _scores(self, view):
        """The logits of every window, averaged, which is of their averaged features."""
        maps = np.asarray(self.features.predict_on_batch(view[None]), np.float32)
        window = [min(self.window, side) for side in maps.shape[1:3]]
        windows = tf.nn.avg_pool2d(maps, window, 1, "VALID")
        mean = np.mean(windows, axis=(0, 1, 2), dtype=np.float64)
        return mean @ np.asarray(self.head.kernel) + np.asarray(self.head.bias)


def softmax(logits):
    """Probabilities along the last axis."""
    exponents = np.exp(logits - logits.max(-1, keepdims=True))
    return exponents / exponents.sum(-1, keepdims=True)


def _is_pixels(value):
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    return whole and 0 < value <= LARGEST
