"""Narrow nets of keras.applications, for comparisons that fit a processor.

Each function makes one of a quarter of the filters, for a number of classes: recipes
name it as `tools/narrow.py:FUNCTION`.
"""

from __future__ import annotations

from typing import Any

from keras_resnet.backend import keras

SHARE = 1 / 4  # of the filters and units


def vgg16(classes: int) -> keras.Model:
    """VGG-16 (arXiv 1409.1556) at 64 pixels, which expects "caffe" pixels."""
    return _narrowed(keras.applications.VGG16, classes, 64)


def densenet121(classes: int) -> keras.Model:
    """DenseNet-121 (arXiv 1608.06993) of growth 8 at 64 pixels; "torch" pixels."""
    return _narrowed(keras.applications.DenseNet121, classes, 64)


def inception_v3(classes: int) -> keras.Model:
    """Inception-V3 (arXiv 1512.00567) at 75 pixels, its least; "tf" pixels."""
    return _narrowed(keras.applications.InceptionV3, classes, 75)


def mobilenet(classes: int) -> keras.Model:
    """MobileNet (arXiv 1704.04861) at 75 pixels; "tf" pixels."""
    return _narrowed(keras.applications.MobileNet, classes, 75)


def _narrowed(build: Any, classes: int, side: int) -> keras.Model:
    """A net with fresh weights, of which every layer but the last is narrower."""
    net = build(
        weights=None,
        input_shape=(side, side, 3),
        classes=classes,
        classifier_activation=None,
    )
    last = [layer for layer in net.layers if layer.weights][-1]

    def narrow(layer: Any) -> Any:
        config = layer.get_config()
        for key in ("filters", "units"):
            if key in config and layer is not last:
                config[key] = round(config[key] * SHARE)
        if "kernel_initializer" in config:  # VGG does not start without it
            config["kernel_initializer"] = "he_normal"
        if "momentum" in config:  # Keras's 0.99 is for runs of more than 200 steps
            config["momentum"] = 0.9
        return type(layer).from_config(config)

    return keras.models.clone_model(net, clone_function=narrow)
