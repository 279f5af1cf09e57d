"""Adapts any Keras classifier: from pixels to logits, with a description of itself.

The net is cut before its classifier, which is replaced; what normalizes its pixels
becomes a layer. Evaluation, export and serving then treat it as a net of this package.
"""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import numpy as np

from keras_resnet.backend import keras, layers, ops
from keras_resnet.config import IMAGENET_MEAN, IMAGENET_STD
from keras_resnet.errors import ModelError
from keras_resnet.info import ModelInfo
from keras_resnet.layers.auxiliary import AuxiliaryHead, AuxiliaryOutputs
from keras_resnet.model import Described

_CAFFE_MEAN = (103.939, 116.779, 123.68)  # of BGR in 0-255
# mode of keras.applications: (factor, offset) of the pixels, and whether they are BGR
_MODES: dict[str, tuple[Any, Any, bool]] = {
    "caffe": ([1.0] * 3, [-mean for mean in _CAFFE_MEAN], True),
    "tf": ([1 / 127.5] * 3, [-1.0] * 3, False),
    "torch": (
        [1 / (255 * std) for std in IMAGENET_STD],
        [-mean / std for mean, std in zip(IMAGENET_MEAN, IMAGENET_STD)],
        False,
    ),
}
PREPROCESSING = ("included", *_MODES)
_HEAD = "head"  # the name of the classifier


@keras.saving.register_keras_serializable(package="keras_resnet")
class PixelScale(layers.Layer):
    """RGB in [0, 255] -> what a net was made for: scale * x + offset, perhaps of BGR.

    [N, H, W, 3] -> the same, in float32 under half-precision policies too.

    Args:
        scale, offset: three numbers each, in the order of the result's channels.
        reverse: turns RGB into BGR first.
    """

    def __init__(
        self, scale: Any, offset: Any, reverse: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.scale, self.offset = [float(v) for v in scale], [float(v) for v in offset]
        self.reverse = reverse

    def call(self, inputs: Any) -> Any:
        x = ops.cast(inputs, self.compute_dtype)
        x = ops.flip(x, axis=-1) if self.reverse else x
        scale, offset = (
            ops.convert_to_tensor(np.array(it), self.compute_dtype)
            for it in (self.scale, self.offset)
        )
        return x * scale + offset

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        own = {"scale": self.scale, "offset": self.offset, "reverse": self.reverse}
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable(package="keras_resnet")
class Classifier(Described):
    """A functional model over any Keras net; made by `adapt`."""

    @property
    def auxiliary_outputs(self) -> AuxiliaryOutputs | None:
        """The layer that has the logits of auxiliary heads, such as GoogLeNet's."""
        found = [it for it in self.layers if isinstance(it, AuxiliaryOutputs)]
        return found[0] if found else None

    def rebuilt(self, dtype_policy: str, **changes: Any) -> Classifier:
        """The same net and weights under another dtype policy, or with other `info`.

        Raises:
            ModelError: a change of `info` that is not of its classifier's activation.
        """
        info = self.info.replace(dtype_policy=dtype_policy, **changes)
        usual = dataclasses.asdict(self.info)
        allowed = {"dtype_policy", "classifier_activation", "class_names", "protocol"}
        if other := {k for k, v in changes.items() if v != usual[k]} - allowed:
            raise ModelError(
                f"{self.name}: cannot be rebuilt with another {min(other)}"
            )
        config = copy.deepcopy(self.get_config())
        config["info"] = dataclasses.asdict(info)
        for layer in config["layers"]:
            if layer["name"] == _HEAD:
                layer["config"]["activation"] = info.classifier_activation or "linear"
            elif layer["name"] == "body":
                _set_policy(layer, dtype_policy)
        twin = type(self).from_config(config)
        twin.set_weights(self.get_weights())
        return twin


def _set_policy(layer: dict[str, Any], policy: str) -> None:
    """Sets the dtype policy of a layer's config, and of all layers within."""
    config = layer["config"]
    if "dtype" in config and layer["class_name"] != "InputLayer":
        config["dtype"] = policy
    for inner in config.get("layers", ()):
        _set_policy(inner, policy)


def adapt(
    net: Any,
    classes: int,
    preprocessing: Any,
    variant: str,
    dtype_policy: str = "float32",
) -> Classifier:
    """A classifier of `classes` over a net, from pixels to logits.

    Args:
        net: a functional or Sequential keras.Model of one input [N, H, W, 3] that gives
            logits or probabilities [N, K]; it is not changed. All but its last dense
            layer or 1x1 convolution, and what follows that, is taken over with its
            weights.
        classes: of the new classifier, whose weights are fresh.
        preprocessing: what the net expects: "included" for RGB in [0, 255], "caffe",
            "tf" or "torch" as in `keras.applications`, (mean, std) of RGB in [0, 1], or
            a Keras layer.
        variant: the name of the net in its info.
        dtype_policy: of the net; the classifier computes in float32.

    Raises:
        ModelError: the net is no such classifier, or preprocessing is missing or
            unknown.
    """
    _check(net)
    scale = _scale(preprocessing, net)
    heads = [it for it in net.layers if isinstance(it, AuxiliaryHead)]
    outputs = [_features(net), *(head.input for head in heads)]
    body = _copy(keras.Model(net.inputs[0], outputs, name="body"), dtype_policy)
    inputs = x = keras.Input(net.input_shape[1:], name="images")
    x = x if scale is None else scale(x)
    x, *middle = body(x)
    x = layers.Flatten(dtype="float32", name="features")(x)
    x = layers.Dense(classes, dtype="float32", name=_HEAD)(x)
    if heads:
        logits = [
            AuxiliaryHead(classes, dtype="float32", name=head.name)(tensor)
            for head, tensor in zip(heads, middle)
        ]
        x = AuxiliaryOutputs(dtype="float32", name="auxiliaries")([x, *logits])
    info = ModelInfo(
        variant=variant,
        config=None,
        classes=classes,
        classifier_activation=None,
        input_shape=tuple(net.input_shape[1:]),
        dtype_policy=dtype_policy,
    )
    return Classifier(inputs=inputs, outputs=x, name=net.name, info=info)


def _copy(model: Any, policy: str) -> Any:
    """A copy of a functional model under a dtype policy, with layers of its own."""
    config = copy.deepcopy(model.get_config())
    _set_policy({"class_name": "Functional", "config": config}, policy)
    twin = keras.Model.from_config(config)
    twin.set_weights(model.get_weights())
    return twin


def _check(net: Any) -> None:
    """Refuses what is no classifier of images."""

    def refuse(problem: str) -> None:
        raise ModelError(f"model={getattr(net, 'name', net)!r}: {problem}")

    if not isinstance(net, keras.Model):
        raise ModelError(f"model=<{type(net).__name__}>: must be a keras.Model")
    if not (hasattr(net, "inputs") and net.inputs):
        refuse(
            "has no fixed graph; wrap it, as keras.Model(x, net(x)) of a keras.Input"
        )
    if len(net.inputs) != 1:
        refuse(f"has {len(net.inputs)} inputs; must have one, of images")
    if len(net.outputs) != 1:
        refuse(f"has {len(net.outputs)} outputs; must have one, of classes")
    if len(net.input_shape) != 4 or net.input_shape[-1] != 3:
        refuse(f"takes {net.input_shape}; must take images [N, H, W, 3], channels last")
    if len(net.output_shape) != 2:
        refuse(f"gives {net.output_shape}; must give [N, classes]: add a classifier")
    for layer in net._flatten_layers(include_self=False):
        if isinstance(layer, layers.Lambda):
            refuse(f"has the Lambda layer {layer.name!r}, whose code no file holds")
        if getattr(layer, "data_format", None) == "channels_first":
            refuse(f"{layer.name!r} is channels_first; must be channels_last")


def _features(net: Any) -> Any:
    """The tensor that the classifier of a net is computed from."""
    tensor = net.outputs[0]
    while True:
        layer = tensor._keras_history.operation
        if isinstance(layer, (layers.Dense, layers.Conv2D)):
            return layer.input
        if isinstance(layer, AuxiliaryOutputs):
            tensor = layer.input[0]
            continue
        if layer.weights or isinstance(layer, layers.InputLayer):
            break
        if isinstance(layer.input, (list, tuple)):
            break
        tensor = layer.input
    raise ModelError(
        f"model={net.name!r}: ends in {layer.name!r}; must end in a dense layer, or "
        "one and a softmax"
    )


def _scale(preprocessing: Any, net: Any) -> Any:
    """The layer that normalizes pixels for a net; None: the net does it by itself."""
    if isinstance(preprocessing, layers.Layer):
        return type(preprocessing).from_config(
            {**preprocessing.get_config(), "name": "preprocessing"}
        )
    if isinstance(preprocessing, str):
        if preprocessing == "included":
            return None
        if preprocessing in _MODES:
            scale, offset, reverse = _MODES[preprocessing]
            return PixelScale(
                scale, offset, reverse, dtype="float32", name="preprocessing"
            )
    elif isinstance(preprocessing, (tuple, list)) and len(preprocessing) == 2:
        mean, std = (np.broadcast_to(np.asarray(it, float), 3) for it in preprocessing)
        return PixelScale(
            1 / (255 * std), -mean / std, dtype="float32", name="preprocessing"
        )
    raise ModelError(
        f"preprocessing={preprocessing!r}: must say what {net.name} expects, one of "
        f"{', '.join(PREPROCESSING)}, (mean, std) of RGB in [0, 1], or a Keras layer; "
        "a wrong guess would go unnoticed"
    )
