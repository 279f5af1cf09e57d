"""Checkpoints of any framework <-> our models: exact, complete, nothing skipped."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from keras_resnet.complexity import variable_shapes
from keras_resnet.errors import WeightsError
from keras_resnet.files import atomic_write
from keras_resnet.weights.dialects import DIALECTS
from keras_resnet.weights.fetch import cache_folder, locate
from keras_resnet.weights.files import read_info, stamp, write
from keras_resnet.weights.readers import check_values, read
from keras_resnet.weights.released import is_tag
from keras_resnet.weights.translate import OURS, Translation, to_ours, to_theirs

__all__ = [
    "DIALECTS",
    "OURS",
    "LoadReport",
    "WeightsError",
    "cache_folder",
    "convert",
    "is_tag",
    "load_weights",
    "locate",
    "read_info",
    "save_weights",
]


@dataclass(frozen=True)
class LoadReport:
    """What `load_weights` did; print it."""

    dialect: str
    loaded: tuple[str, ...]  # the source's names
    ignored: tuple[str, ...]  # the source's names that are no part of the net
    initial: tuple[str, ...]  # our paths that kept their initial values

    def __str__(self):
        text = f"{self.dialect}: {len(self.loaded)} tensors loaded"
        if self.ignored:
            text += f"; ignored: {', '.join(self.ignored)}"
        if self.initial:
            text += f"; left at initial values: {', '.join(self.initial)}"
        return text


def load_weights(
    model, source, dialect="auto", strict=True, refresh=False
) -> LoadReport:
    """Loads a checkpoint into a model of this package, whole or not at all.

    Args:
        model: made by `create`.
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
            changed; what was fetched once is kept otherwise, for ever.

    Returns:
        A LoadReport. Class names and evaluation protocol that a file of ours carries
        become the model's.

    Raises:
        WeightsError: listing every missing, unexpected and misshaped tensor, and those
            with NaN; and naming the variant that would fit. The model keeps the weights
            that it had.
    """
    info = None
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
    translated = to_ours(source, model.info.config, shapes, dialect, strict)
    _adopt(model, info, with_head=not translated.initial)
    for path in translated.names:
        variables[path].assign(translated.value(path))
    return _report(translated)


def save_weights(model, path, dialect=OURS) -> None:
    """Writes a model's weights, whole or not at all.

    Args:
        model: made by `create`.
        path: .safetensors or .npz in any dialect, or .weights.h5 in ours. A
            .safetensors file of dialect "timm" loads in timm and torchvision.
        dialect: as `load_weights`, but "auto".

    A .safetensors or .weights.h5 carries the model's class names, evaluation protocol,
    mean and standard deviation.

    Raises:
        WeightsError: another ending, or a dialect that has no names for what the model
            consists of, as none but ours has for one of folded batch normalisation.
    """
    path = Path(path)
    if path.name.endswith(".weights.h5"):
        if dialect != OURS:
            raise WeightsError(
                f"dialect={dialect!r}: a .weights.h5 is in {OURS}; choose .safetensors"
            )
        with atomic_write(path) as partial:
            model.save_weights(partial)
            stamp(partial, model.info)
        return
    values = {variable.path: np.asarray(variable.numpy()) for variable in model.weights}
    tensors = to_theirs(values, model.info.config, _known(dialect))
    write(path, tensors, model.info)


def convert(source, destination, config, classes=None, dialect="auto", to=OURS):
    """Writes a checkpoint in another dialect, without building the model.

    Args:
        source: a file, as for `load_weights`.
        destination: a .safetensors or .npz file.
        config: the net's ResNetConfig.
        classes: of the source's classifier; None: as many as the source says, or 1000.
        dialect: of the source.
        to: dialect of the destination.

    Returns:
        A LoadReport of the source. A .safetensors file carries the mean, standard
        deviation, evaluation protocol and class names that the source does.
    """
    info = read_info(source)
    if classes is None:
        classes = info.classes if info else 1000
    translated = to_ours(
        read(source), config, variable_shapes(config, classes), dialect
    )
    write(destination, to_theirs(translated.values, config, _known(to)), info)
    return _report(translated)


def _report(translated: Translation) -> LoadReport:
    loaded = tuple(translated.names.values())
    return LoadReport(
        translated.dialect, loaded, translated.ignored, translated.initial
    )


def _known(dialect):
    if dialect not in DIALECTS:
        raise ValueError(f"dialect={dialect!r}: must be one of {', '.join(DIALECTS)}")
    return dialect


def _adopt(model, info, with_head=True):
    """Takes over what a file of ours says beside the weights."""
    if info is None:
        return
    ours, theirs = model.info, info
    mean, std = theirs.config.mean, theirs.config.std
    if ours.include_preprocessing and (ours.config.mean, ours.config.std) != (
        mean,
        std,
    ):
        raise WeightsError(
            f"mean={ours.config.mean}, std={ours.config.std}: these weights want "
            f"mean={mean}, std={std}; create the model with those, or with weights= "
            "and neither"
        )
    names = theirs.class_names if with_head and ours.include_top else ours.class_names
    model.info = ours.replace(protocol=theirs.protocol, class_names=names)
