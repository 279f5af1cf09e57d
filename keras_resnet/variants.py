"""Names -> nets: create, backbone, and one function for each variant."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from keras_resnet.backend import keras
from keras_resnet.config import VARIANTS, ResNetConfig, constructor_name, python_scalar
from keras_resnet.info import ModelInfo
from keras_resnet.model import ResNet, assemble
from keras_resnet.weights import is_repository, load_weights, locate, read_info


def create(
    variant: str | None = None,
    weights: str | os.PathLike[str] | Mapping[str, np.ndarray] | None = None,
    include_top: bool = True,
    input_shape: Sequence[int | None] | None = None,
    pooling: str | None = None,
    classes: int = 1000,
    classifier_activation: str | None = "softmax",
    include_preprocessing: bool = True,
    *,
    input_tensor: Any = None,
    name: str | None = None,
    **overrides: Any,
) -> ResNet:
    """Builds a net of VARIANTS.

    Args:
        variant: a name of `list_models()`, such as "resnet50d"; as `name` too, where it
            is left out. A repository that `push_to_hub` wrote says its variant, classes
            and overrides itself: `create(weights="hf://owner/name")`.
        weights: None for a fresh initialization; "imagenet" for the variant's best
            released weights, or a released tag such as "ra2_in1k"; hf://owner/name or
            hf://owner/name@revision; a file; or {name: array}. Released weights, and
            this package's files, load with their evaluation protocol, mean and
            standard deviation.
        include_top: with the classifier; without it the features come out.
        input_shape: (height, width, channels); None is (None, None, 3), any size.
        pooling: without the top, None for [N, h, w, C], "avg" or "max" for [N, C].
        classes: of the classifier.
        classifier_activation: "softmax" for probabilities, which is "sigmoid" with
            weights for several labels; None or "linear" for logits.
        include_preprocessing: input is RGB in [0, 255], uint8 or float, and is
            normalized in the graph by the config's mean and std; False: used as it is.
        input_tensor: a Keras tensor [N, H, W, C] to build on, in place of an input of
            the model's own; it brings its shape and dtype, and what it is made from
            becomes part of the model, as in `keras.applications`.
        name: of the model; None: the variant's. Two models that are parts of one must
            have different names.
        **overrides: fields of ResNetConfig.

    Returns:
        A functional `keras.Model`, [N, H, W, 3] -> [N, classes]. Its output is float32
        under half-precision policies too (float64 under a float64 policy).

    Raises:
        ValueError, TypeError: naming the argument, its value and what is allowed.
    """
    if variant is None and name is None and is_repository(weights):
        variant, classes, overrides = _described(str(weights), classes, overrides)
    elif variant is None:
        variant, name = name, None
    if variant not in VARIANTS:
        raise ValueError(f"name={variant!r}: {_suggest(variant)}")
    config = configure(variant, overrides)
    if input_tensor is not None:
        input_shape = _shape_of(input_tensor, input_shape)
    if isinstance(weights, str | os.PathLike):
        weights = locate(weights, variant)
        described = read_info(weights)
        config = configure(variant, overrides, described)
        if described and described.several_labels and described.classes == classes:
            usual = classifier_activation == "softmax"  # the default
            classifier_activation = "sigmoid" if usual else classifier_activation
    info = ModelInfo(
        variant=variant,
        config=config,
        include_top=python_scalar(include_top),
        pooling=pooling,
        classes=python_scalar(classes),
        classifier_activation=classifier_activation,
        include_preprocessing=python_scalar(include_preprocessing),
        input_shape=_python_shape(input_shape),
        dtype_policy=keras.config.dtype_policy().name,
    )
    model = assemble(info, name, input_tensor)
    if weights is not None:
        load_weights(model, weights)
    return model


def _described(
    repository: str, classes: int, overrides: Mapping[str, Any]
) -> tuple[str, int, dict[str, Any]]:
    """Variant, classes and overrides of a repository, but for those that are given."""
    info = read_info(locate(repository))
    assert info is not None  # `locate` writes it
    fields = {
        field.name: getattr(info.config, field.name)
        for field in dataclasses.fields(info.config)
    }
    if classes == 1000:  # the default
        classes = info.classes
    return info.variant, classes, {**fields, **overrides}


def configure(
    variant: str, overrides: Mapping[str, Any], info: ModelInfo | None = None
) -> ResNetConfig:
    """The config of a variant with overrides.

    Mean and standard deviation are those of `info`, the description in a file of
    weights, unless they are among the overrides.
    """
    of_file = {} if info is None else {"mean": info.config.mean, "std": info.config.std}
    return VARIANTS[variant].replace(**{**of_file, **overrides})


def backbone(
    variant: str | None = None,
    weights: str | os.PathLike[str] | Mapping[str, np.ndarray] | None = None,
    input_shape: Sequence[int | None] | None = None,
    output_stride: int = 32,
    include_preprocessing: bool = True,
    *,
    input_tensor: Any = None,
    name: str | None = None,
    **overrides: Any,
) -> ResNet:
    """A net without classifier, for detection and segmentation: see `create`.

    Its output is the last stage's; `.pyramid_outputs` has every stage's. At
    `output_stride` 16 or 8 the last stages dilate instead of striding, with the same
    weights.
    """
    return create(
        variant,
        weights=weights,
        include_top=False,
        input_shape=input_shape,
        include_preprocessing=include_preprocessing,
        input_tensor=input_tensor,
        name=name,
        output_stride=output_stride,
        **overrides,
    )


def _shape_of(input_tensor: Any, input_shape: Any) -> tuple[int | None, ...]:
    """(height, width, channels) of a Keras tensor, which `input_shape` must fit."""
    if not keras.backend.is_keras_tensor(input_tensor):
        raise ValueError(
            f"input_tensor=<{type(input_tensor).__name__}>: must be a Keras tensor, "
            "such as keras.Input((224, 224, 3)); call the model on anything else"
        )
    shape = tuple(input_tensor.shape)
    if len(shape) != 4:
        raise ValueError(f"input_tensor: has shape {shape}; must be [N, H, W, C]")
    if input_shape is not None and _python_shape(input_shape) != shape[1:]:
        raise ValueError(
            f"input_shape={input_shape!r} with an input_tensor of shape {shape}: leave "
            "out input_shape"
        )
    return shape[1:]


def _python_shape(input_shape: Any) -> Any:
    if not isinstance(input_shape, tuple | list):
        return input_shape
    return tuple(map(python_scalar, input_shape))


def _suggest(name: Any) -> str:
    exact = [f"{name}{letter}" for letter in "abcd" if f"{name}{letter}" in VARIANTS]
    if exact:
        return (
            "the field means different nets by it; must say which, one of "
            f"{', '.join(exact)}"
        )
    close = difflib.get_close_matches(str(name), VARIANTS, n=3)
    hint = f"nearest are {', '.join(close)}; " if close else ""
    return (
        f"must be a name of keras_resnet.list_models(); {hint}it lists {len(VARIANTS)}"
    )


def _constructor(variant: str) -> Callable[..., ResNet]:
    def constructor(*args: Any, **kwargs: Any) -> ResNet:
        return create(variant, *args, **kwargs)

    signature = inspect.signature(create)
    _, *parameters = signature.parameters.values()
    vars(constructor)["__signature__"] = signature.replace(parameters=parameters)
    constructor.__name__ = constructor.__qualname__ = constructor_name(variant)
    constructor.__doc__ = f"`create({variant!r}, ...)`: see `keras_resnet.create`."
    return constructor


# ResNet50D, SEResNet152D, ...
globals().update({constructor_name(name): _constructor(name) for name in VARIANTS})
