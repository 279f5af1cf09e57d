"""More than one look at a picture: ten crops, or several scales of the whole."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf

from keras_resnet import data as pictures
from keras_resnet.model import ModelError

SCALES = (224, 256, 384, 480, 640)  # pixels of the short side (1512.03385 section 3.4)


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
        """uint8 [H, W, 3] -> float32 [classes]."""
        results = []
        for short in self.scales:
            view = pictures.resize_short(image, short, self.interpolation).numpy()
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
