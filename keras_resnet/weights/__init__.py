"""Checkpoints of any framework <-> models of this package: exact and complete."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from keras_resnet.complexity import variable_shapes
from keras_resnet.config import ResNetConfig
from keras_resnet.errors import WeightsError
from keras_resnet.files import atomic_write
from keras_resnet.info import ModelInfo
from keras_resnet.weights import torchvision
from keras_resnet.weights.dialects import DIALECTS
from keras_resnet.weights.fetch import cache_folder, locate
from keras_resnet.weights.files import read_info, stamp, write
from keras_resnet.weights.hub import split_source
from keras_resnet.weights.readers import check_values, read
from keras_resnet.weights.released import is_tag
from keras_resnet.weights.translate import NATIVE, LoadReport, from_native, to_native

__all__ = [
    "DIALECTS",
    "LoadReport",
    "WeightsError",
    "cache_folder",
    "convert",
    "is_repository",
    "is_tag",
    "load_weights",
    "locate",
    "read_info",
    "save_weights",
]


def load_weights(
    model: Any,
    source: Mapping[str, Any] | str | os.PathLike[str],
    dialect: str = "auto",
    strict: bool = True,
    refresh: bool = False,
) -> LoadReport:
    """Loads a checkpoint into a model of this package, completely or not at all.

    Args:
        model: made by `create`; or of `baselines`, or a VGG, DenseNet or InceptionV3
            of `keras.applications`, which take checkpoints of torchvision.
        source: {name: array} in the dialect's names and layout, or a file:
            .safetensors, .pth, .pt, .bin, .npz, .params, .pdparams, a TensorFlow
            checkpoint's prefix, or .weights.h5 and .keras of such a model; or a
            released tag, or hf://owner/name, or hf://owner/name@revision. Files are
            read as data, Keras's too; nothing in them is run.
        dialect: "timm", "torchvision", "gluon", "paddle", "slim", "keras_resnet", or
            "auto" for the one whose names the source has.
        strict: False leaves the head at its initial values where the source has none
            or one of other classes, and the report says so.
        refresh: fetch a tag or a repository of the hub again, for a repository that has
            changed; without it, what was fetched once is used for ever.

    Returns:
        A LoadReport. The model takes over the class names and the evaluation protocol
        of a file that this package wrote.

    Raises:
        WeightsError: listing every missing, unexpected and misshaped tensor, and those
            with NaN; and naming the variant that would fit. The model keeps the weights
            that it had.
    """
    info = None
    if getattr(model, "info", None) is None:
        return _load_other(model, source, dialect, strict)
    if isinstance(source, str | os.PathLike):
        path = locate(source, model.info.variant, refresh)
        info = read_info(path)
        source = read(path, on_disk=True)
    elif not isinstance(source, Mapping):
        raise TypeError(
            f"weights={source!r}: must be {{name: array}}, a file, a released tag or "
            "hf://owner/name"
        )
    else:
        source = {name: np.asarray(value) for name, value in source.items()}
        check_values(source)
    variables = {variable.path: variable for variable in model.weights}
    shapes = {path: tuple(variable.shape) for path, variable in variables.items()}
    translated = to_native(source, model.info.config, shapes, dialect, strict)
    if info is not None:
        _adopt(model, info, with_head=not translated.report.initial)
    for path in translated.names:
        variables[path].assign(translated.value(path))
    return translated.report


def is_repository(source: object) -> bool:
    """Whether a source of weights is a repository of the Hugging Face hub."""
    return split_source(source) is not None


def _load_other(model: Any, source: Any, dialect: str, strict: bool) -> LoadReport:
    """Loads a torchvision checkpoint into a net that `create` did not make."""
    if dialect not in ("auto", "torchvision"):
        raise WeightsError(
            f"dialect={dialect!r}: {model.name} takes checkpoints of torchvision"
        )
    if isinstance(source, str | os.PathLike):
        source = read(source)
    elif not isinstance(source, Mapping):
        raise TypeError(f"weights={source!r}: must be {{name: array}} or a file")
    check_values(source)
    return torchvision.load(model, source, strict)


def save_weights(
    model: Any, path: str | os.PathLike[str], dialect: str = NATIVE
) -> None:
    """Writes a model's weights, completely or not at all.

    Args:
        model: made by `create`.
        path: .safetensors or .npz in any dialect, or .weights.h5 in this package's. A
            .safetensors file of dialect "timm" loads in timm and torchvision.
        dialect: as `load_weights`, except "auto".

    A .safetensors or .weights.h5 file holds the model's class names, evaluation
    protocol, mean and standard deviation too.

    Raises:
        WeightsError: another ending, or a dialect that has no names for some of the
            model's variables, as only "keras_resnet" has for folded batch
            normalization.
    """
    path = Path(path)
    if path.name.endswith(".weights.h5"):
        if dialect != NATIVE:
            raise WeightsError(
                f"dialect={dialect!r}: a .weights.h5 is in {NATIVE}; choose "
                ".safetensors"
            )
        with atomic_write(path) as partial:
            model.save_weights(partial)
            stamp(partial, model.info)
        return
    values = {variable.path: np.asarray(variable.numpy()) for variable in model.weights}
    write(path, from_native(values, model.info.config, dialect), model.info)


def convert(
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    config: ResNetConfig,
    classes: int | None = None,
    dialect: str = "auto",
    to: str = NATIVE,
) -> LoadReport:
    """Writes a checkpoint in another dialect, without building the model.

    Args:
        source: a file, as for `load_weights`.
        destination: a .safetensors or .npz file.
        config: the net's ResNetConfig.
        classes: of the source's classifier; None: as many as the source's description
            has, or 1000.
        dialect: of the source.
        to: dialect of the destination.

    Returns:
        A LoadReport of the source. A .safetensors file keeps the mean, standard
        deviation, evaluation protocol and class names that the source has.
    """
    info = read_info(source)
    if classes is None:
        classes = info.classes if info else 1000
    shapes = variable_shapes(config, classes)
    translated = to_native(read(source), config, shapes, dialect)
    write(destination, from_native(translated.values, config, to), info)
    return translated.report


def _adopt(model: Any, info: ModelInfo, with_head: bool) -> None:
    """Gives the model the protocol and class names of the file that it loads."""
    own, config = model.info, info.config
    if own.include_preprocessing and (own.config.mean, own.config.std) != (
        config.mean,
        config.std,
    ):
        raise WeightsError(
            f"mean={own.config.mean}, std={own.config.std}: these weights want "
            f"mean={config.mean}, std={config.std}; create the model with those, or "
            "with weights= and neither"
        )
    adopts_names = with_head and own.include_top
    names = info.class_names if adopts_names else own.class_names
    # a softmax gives no probabilities of several labels
    adopts = adopts_names and own.classifier_activation != "softmax"
    thresholds = info.thresholds if adopts else own.thresholds
    model.info = own.replace(
        protocol=info.protocol, class_names=names, thresholds=thresholds
    )
