"""Names -> nets: create, backbone, one function a variant, and saved models."""

from __future__ import annotations

import dataclasses
import difflib
import json
import os
import re
import zipfile
from pathlib import Path

from keras_resnet.backend import keras
from keras_resnet.complexity import complexity
from keras_resnet.config import VARIANTS, python_scalar
from keras_resnet.model import ModelError, ModelInfo, ResNet, assemble, freeze_as
from keras_resnet.weights import (
    WeightsError,
    is_tag,
    load_weights,
    locate,
    read_info,
)

RUN_MODEL = "model.keras"  # in a run directory
_MOST_BLOCKS = 1000  # in a file's description; ResNet-200 has 66


class DescriptionError(ModelError, WeightsError):
    """A file that does not say which net it holds, or says what no net of ours is."""


def create(
    variant=None,
    weights=None,
    include_top=True,
    input_shape=None,
    pooling=None,
    classes=1000,
    classifier_activation="softmax",
    include_preprocessing=True,
    *,
    input_tensor=None,
    name=None,
    **overrides,
):
    """Builds a net of VARIANTS.

    Args:
        variant: a name of `list_models()`, such as "resnet50d"; as `name` too, where it
            is left out.
        weights: None for a fresh initialisation; "imagenet" for the best released
            ones of the variant, or a released tag such as "ra2_in1k"; hf://owner/name
            or hf://owner/name@revision; a file; or {name: array}. Released ones, and
            files of ours, bring their evaluation protocol, mean and deviation along.
        include_top: with the classifier; without it the features come out.
        input_shape: (height, width, channels); None is (None, None, 3), any size.
        pooling: without the top, None for [N, h, w, C], "avg" or "max" for [N, C].
        classes: of the classifier.
        classifier_activation: "softmax" for probabilities, None or "linear" for logits.
        include_preprocessing: input is RGB in [0, 255], uint8 or float, and is
            normalised in the graph by the config's mean and std; False: used as it is.
        input_tensor: a Keras tensor [N, H, W, C] to build on, in place of an input of
            the model's own; it brings its shape and dtype, and what it is made from
            becomes part of the model, as in `keras.applications`.
        name: of the model; None: the variant's. Of two models that are called in one,
            the names must differ.
        **overrides: fields of ResNetConfig.

    Returns:
        A functional `keras.Model`, [N, H, W, 3] -> [N, classes]. Its output is float32
        under half-precision policies too (float64 under a float64 policy).

    Raises:
        ValueError, TypeError: naming the argument, its value and what is allowed.
    """
    if variant is None:
        variant, name = name, None
    if variant not in VARIANTS:
        raise ValueError(f"name={variant!r}: {_suggest(variant)}")
    config = VARIANTS[variant].replace(**overrides)
    if input_tensor is not None:
        input_shape = _shape_of(input_tensor, input_shape)
    if isinstance(weights, str | os.PathLike):
        weights = locate(weights, variant)
        theirs = (read_info(weights) or {}).get("config", {})
        config = config.replace(
            **{
                field: theirs[field]
                for field in ("mean", "std")
                if field in theirs and field not in overrides
            }
        )
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


def backbone(
    variant=None,
    weights=None,
    input_shape=None,
    output_stride=32,
    include_preprocessing=True,
    *,
    input_tensor=None,
    name=None,
    **overrides,
):
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


def open_model(name) -> ResNet:
    """The model of a run directory, a .keras file of ours, or "variant[:weights]".

    A file is read as data: the net is built from what it says of itself, by this
    package alone, and its tensors are loaded.

    With "variant:weights" the net has the classes and overrides that a file of ours
    says.

    Raises:
        ModelError: there is no such thing to open.
        WeightsError: a file that is damaged, does not fit or says what it must not; it
            is a ModelError too where that is what the file says of its net.
    """
    path = Path(name)
    if path.is_dir():
        if not (path / RUN_MODEL).is_file():
            raise ModelError(f"{path}: no {RUN_MODEL} in it; train there first")
        path = path / RUN_MODEL
    if path.suffix == ".keras":
        return _open_keras(path)
    variant, _, weights = str(name).partition(":")
    if variant not in VARIANTS:
        raise ModelError(
            f"{name}: neither a run directory, nor a .keras file, nor a variant with "
            "weights, such as resnet50d:my.weights.h5"
        )
    return _create_as_said(variant, weights) if weights else create(variant)


def _create_as_said(variant, weights):
    """The net of a variant, with the classes and overrides that its weights name."""
    file = locate(weights, variant)
    said = read_info(file)
    if said is None or said["variant"] != variant:
        return create(variant, weights=file)
    info = _bounded(file, said)
    overrides = {
        field.name: getattr(info.config, field.name)
        for field in dataclasses.fields(info.config)
    }
    # a checkpoint without a head, of 0 classes, does not fit, and is told so
    return create(variant, weights=file, classes=info.classes or 1000, **overrides)


def describe(name) -> tuple[int, tuple[str, ...] | None]:
    """(classes, their names if known) of what `open_model` would open, not built.

    Weights that are yet to be fetched have ImageNet's classes, of unknown names.

    Raises:
        ModelError: there is nothing to open, or a net without weights.
        WeightsError: as `open_model`.
    """
    path = Path(name)
    if path.is_dir():
        path = path / RUN_MODEL
    if path.suffix == ".keras":
        if not path.is_file():
            raise ModelError(f"{path}: no such file; train there first")
        said = _info_of(path)
    else:
        variant, _, weights = str(name).partition(":")
        if variant not in VARIANTS or not weights:
            raise ModelError(
                f"{name}: neither a run directory, nor a .keras file, nor a variant "
                "with weights, such as resnet152d:imagenet"
            )
        said = {} if is_tag(weights) else read_info(weights) or {}
    names = said.get("class_names")
    return said.get("classes", 1000), names and tuple(names)


def _open_keras(path):
    if not path.is_file():
        raise ModelError(f"{path}: no such file")
    said = _info_of(path)
    try:
        model = assemble(_bounded(path, said))
    except (TypeError, ValueError) as error:
        raise _no_net(path, error) from error
    load_weights(model, path)
    with zipfile.ZipFile(path) as file:
        freeze_as(model, json.loads(file.read("config.json"))["config"])
    return model


def _shape_of(input_tensor, input_shape):
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


def _python_shape(input_shape):
    if not isinstance(input_shape, tuple | list):
        return input_shape
    return tuple(map(python_scalar, input_shape))


def _info_of(path):
    """The info of a .keras file, which is to have one."""
    try:
        said = read_info(path)
    except WeightsError as error:
        raise DescriptionError(str(error)) from error
    if said is None:
        raise DescriptionError(f"{path}: not a whole .keras file of a net of ours")
    return said


def _bounded(path, said) -> ModelInfo:
    """The ModelInfo, of a net that the file's size bears out: memory is taken for it.

    Raises:
        DescriptionError: of a larger one.
    """
    info = ModelInfo.from_json(said)
    deep = sum(info.config.depths) > _MOST_BLOCKS
    classes = info.classes if info.include_top else 0
    parameters = 0 if deep else complexity(info.config, classes=classes)[0]
    # in half precision a parameter takes two bytes
    if deep or 2 * parameters > Path(path).stat().st_size:
        sizes = f"depths={info.config.depths}, width={info.config.width}"
        raise _no_net(path, f"{sizes}, classes={info.classes}")
    return info


def _no_net(path, reason):
    return DescriptionError(f"{path}: describes no net of ours ({reason})")


def _suggest(name):
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


def _constructor(variant):
    def constructor(
        weights=None,
        include_top=True,
        input_shape=None,
        pooling=None,
        classes=1000,
        classifier_activation="softmax",
        include_preprocessing=True,
        *,
        input_tensor=None,
        name=None,
        **overrides,
    ):
        return create(
            variant,
            weights=weights,
            include_top=include_top,
            input_shape=input_shape,
            pooling=pooling,
            classes=classes,
            classifier_activation=classifier_activation,
            include_preprocessing=include_preprocessing,
            input_tensor=input_tensor,
            name=name,
            **overrides,
        )

    constructor.__name__ = constructor.__qualname__ = _cap_words(variant)
    constructor.__doc__ = f"`create({variant!r}, ...)`: see `keras_resnet.create`."
    return constructor


def _cap_words(variant):
    """resnet50d -> ResNet50D, seresnext26d_32x4d -> SEResNeXt26D_32x4d."""
    prefix, family, depth, rest = re.findall(
        r"(.*?)(resnet|resnext)(\d+[a-z]+)(.*)", variant
    )[0]
    family = {"resnet": "ResNet", "resnext": "ResNeXt"}[family]
    return prefix.upper() + family + depth.upper() + rest


CONSTRUCTORS = {_cap_words(name): _constructor(name) for name in VARIANTS}
