"""Opens a model by its name or file, or reads only its description."""

from __future__ import annotations

import dataclasses
import json
import os
import zipfile
from pathlib import Path
from typing import Any

from keras_resnet.backend import keras
from keras_resnet.complexity import complexity
from keras_resnet.config import VARIANTS
from keras_resnet.errors import DescriptionError, ModelError, WeightsError
from keras_resnet.files import sha256
from keras_resnet.info import ModelInfo
from keras_resnet.model import assemble, freeze_as
from keras_resnet.runs import layout
from keras_resnet.variants import create
from keras_resnet.weights import (
    is_repository,
    is_tag,
    load_weights,
    locate,
    read_info,
)
from keras_resnet.weights.released import find

_MAX_BLOCKS = 1000  # that a file may describe; ResNet-200 has 66


def open_model(name: str | os.PathLike[str]) -> Any:
    """Opens a run directory, a .keras file of this package, or "variant[:weights]".

    A repository that `push_to_hub` wrote says its variant: "hf://owner/name" opens it.

    Files are only read as data, and no code in them is run: this package builds the
    model from the description in the file, and loads the tensors into it.

    If the weights in "variant:weights" are a file that this package wrote, the number
    of classes and the overrides are taken from the description in it.

    A net that is not of this package is built by Keras, in its safe mode, if the file
    is as training left it in its run directory.

    Raises:
        ModelError: if there is no such model.
        WeightsError: if a file is damaged or does not fit, or if it does not describe a
            model of this package; in the last case the error is a ModelError too.
    """
    path = _keras_file(name)
    if path is not None:
        return _open_keras(path)
    variant, weights = _variant(name)
    if not weights:
        return create(variant)
    file = locate(weights, variant)
    info = read_info(file)
    if info is None or info.variant != variant:
        return create(variant, weights=file)
    _check_size(file, info)
    overrides = {
        field.name: getattr(info.config, field.name)
        for field in dataclasses.fields(info.config)
    }
    # the weights of a checkpoint without a head, 0 classes, raise a clear error
    return create(variant, weights=file, classes=info.classes or 1000, **overrides)


def read_model_info(name: str | os.PathLike[str]) -> ModelInfo:
    """The description of the model that `open_model` would open, without building it.

    Released weights are not downloaded: for them it is the description of the variant
    with the 1000 classes of ImageNet, without their names.

    Raises:
        ModelError: if there is no such model, or it is a variant without weights.
        WeightsError: as in `open_model`.
    """
    path = _keras_file(name)
    if path is not None:
        return _info_of(path)
    variant, weights = _variant(name)
    if not weights:
        raise ModelError(
            f"{name}: a variant without weights; give some, such as {variant}:imagenet"
        )
    if is_tag(weights):
        classes = find(variant, weights).classes
        return ModelInfo(variant, VARIANTS[variant], classes=classes)
    info = read_info(locate(weights, variant))
    return info or ModelInfo(variant, VARIANTS[variant])


def net_fields(weights: str | os.PathLike[str]) -> dict[str, Any]:
    """The recipe fields of the model that weights belong to, if their file has them.

    Args:
        weights: a run directory, a weights file, the tag of released weights, or a
            repository of the hub.

    Returns:
        {"model": a variant, "overrides": its changed fields}. Mean and standard
        deviation are left out, since training takes them from the weights anyway. An
        empty dict if the file does not describe its model.
    """
    if is_tag(weights):
        return {}
    if is_repository(weights):
        try:
            weights = locate(weights)
        except WeightsError:  # of timm's own, or it cannot be fetched
            return {}
    path = Path(weights)
    info = read_info(path / layout.MODEL if path.is_dir() else path, any_net=True)
    if info is None or info.config is None or info.variant not in VARIANTS:
        return {}
    config, usual = dataclasses.asdict(info.config), VARIANTS[info.variant]
    overrides = {
        name: value
        for name, value in config.items()
        if name not in ("mean", "std") and value != getattr(usual, name)
    }
    return {"model": info.variant, "overrides": json.loads(json.dumps(overrides))}


def _keras_file(name: str | os.PathLike[str]) -> Path | None:
    """The .keras file in a run directory, or with this name; None for other names."""
    if is_repository(name):
        return None
    path = Path(name)
    if path.is_dir():
        path = path / layout.MODEL
        if not path.is_file():
            raise ModelError(
                f"{path.parent}: has no {path.name}; train a model into it first"
            )
    if path.suffix != ".keras":
        return None
    if not path.is_file():
        raise ModelError(f"{path}: no such file; train a model first")
    return path


def _variant(name: str | os.PathLike[str]) -> tuple[str, str]:
    """Splits "variant[:weights]" into (variant, weights or "")."""
    if is_repository(name):
        info = read_info(locate(name))
        assert info is not None  # `locate` writes it
        return info.variant, str(name)
    variant, _, weights = str(name).partition(":")
    if variant not in VARIANTS:
        raise ModelError(
            f"{name}: neither a run directory, nor a .keras file, nor a variant with "
            "weights; give one of these, such as resnet50d:my.weights.h5"
        )
    return variant, weights


def _open_keras(path: Path) -> Any:
    info = _info_of(path)
    if info.config is None:
        return _open_classifier(path)
    _check_size(path, info)
    if info.task != "classify":
        return _open_transfer(path, info)
    try:
        model = assemble(info)
    except (TypeError, ValueError) as error:
        raise _not_a_model(path, error) from error
    load_weights(model, path)
    with zipfile.ZipFile(path) as file:
        freeze_as(model, json.loads(file.read("config.json"))["config"])
    return model


def _open_transfer(path: Path, info: ModelInfo) -> Any:
    """A detector or segmenter; only tensors are taken from the file."""
    from keras_resnet.transfer import assemble_transfer

    try:
        model = assemble_transfer(info)
        model.load_weights(path)
    except (TypeError, ValueError, OSError, KeyError) as error:
        raise _not_a_model(path, error) from error
    return model


def _open_classifier(path: Path) -> Any:
    """A net that is not of this package, from a file that a run here has written.

    Keras builds what such a file names, so that others' files are refused.
    """
    # both register layers
    from keras_resnet import baselines, classifier  # noqa: F401

    written = layout.finished(path.parent) or {}
    if written.get("sha256", {}).get(path.name) != sha256(path):
        raise ModelError(
            f"{path}: is not of a net of this package, and {layout.FINISHED} beside it "
            "does not say that training wrote it; open it in its run directory, or by "
            "keras.models.load_model if you trust it"
        )
    model = keras.models.load_model(path, compile=False, safe_mode=True)
    if not isinstance(model, classifier.Classifier):
        raise _not_a_model(path, f"it is a {type(model).__name__}")
    return model


def _info_of(path: Path) -> ModelInfo:
    """The ModelInfo in a .keras file; DescriptionError if it has none."""
    try:
        info = read_info(path, any_net=True)
    except WeightsError as error:
        raise DescriptionError(str(error)) from error
    if info is None:
        raise DescriptionError(
            f"{path}: not a complete .keras file of a model of keras_resnet"
        )
    return info


def _check_size(path: str | os.PathLike[str], info: ModelInfo) -> None:
    """Raises an error if the file is too small for the model, before it is built."""
    too_deep = sum(info.config.depths) > _MAX_BLOCKS
    classes = info.classes if info.include_top else 0
    parameters = 0 if too_deep else complexity(info.config, classes=classes)[0]
    # in half precision a parameter takes two bytes
    if too_deep or 2 * parameters > Path(path).stat().st_size:
        sizes = f"depths={info.config.depths}, width={info.config.width}"
        raise _not_a_model(
            path, f"{sizes}, classes={info.classes}: too large for this file"
        )


def _not_a_model(path: str | os.PathLike[str], reason: object) -> DescriptionError:
    return DescriptionError(
        f"{path}: does not describe a model of keras_resnet ({reason})"
    )
