"""Released weights by their tag: fetched, converted once, cached with protocol."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from keras_resnet.complexity import variable_shapes
from keras_resnet.config import VARIANTS
from keras_resnet.errors import WeightsError
from keras_resnet.files import atomic_write
from keras_resnet.info import ModelInfo
from keras_resnet.runs import layout
from keras_resnet.weights import hub
from keras_resnet.weights.files import write
from keras_resnet.weights.readers import read
from keras_resnet.weights.released import find, is_tag
from keras_resnet.weights.translate import to_native


def locate(
    source: str | os.PathLike[str], variant: str | None = None, refresh: bool = False
) -> str:
    """The file that `source` means for a variant, fetched and converted if needed.

    Args:
        source: a released tag, "imagenet" for the variant's best one; "hf://owner/name"
            or "hf://owner/name@revision", a repository of the Hugging Face hub in
            timm's form or ours, at a branch, tag or commit; a run directory; or a file
            or a TensorFlow checkpoint's prefix, as it is. "./imagenet" is such a path.
        variant: a name of VARIANTS; None for that of a repository that `push_to_hub`
            wrote, which says it.
        refresh: ask the hub again though there is a converted file. Without it, that
            file is used for ever, also when the repository has changed since.

    Returns:
        A path. Converted files are in `cache_folder()`.

    Raises:
        WeightsError: no such file or tag, or it cannot be fetched. If refreshing
            fails, the converted file stays.
    """
    source = os.fspath(source)
    if hub.split_source(source):
        name = source.removeprefix("hf://").replace("/", "--")
        return _converted(source, variant, name, refresh=refresh)
    if not is_tag(source):
        if os.path.isdir(source):
            return _model_of_run(source)
        if _looks_like_a_file(source):
            return source
    entry = find(variant or "", source)
    protocol = {
        "size": entry.test_size,
        "crop_pct": entry.crop_pct,
        "interpolation": entry.interpolation,
        "mean": entry.mean,
        "std": entry.std,
    }
    name = f"{variant}.{entry.tag}"
    return _converted(entry.origin, variant, name, protocol, entry.classes, refresh)


def _model_of_run(folder: str) -> str:
    model = os.path.join(folder, layout.MODEL)
    # a checkpoint's prefix may be the name of a folder too
    if not os.path.isfile(model) and os.path.exists(f"{folder}.index"):
        return folder
    if not os.path.isfile(model):
        raise WeightsError(f"weights={folder!r}: no {layout.MODEL} in it")
    return model


def cache_folder() -> Path:
    """Where converted weights are kept: keras_resnet/ in Keras's own folder."""
    home = os.environ.get("KERAS_HOME") or Path.home() / ".keras"
    return Path(home) / "keras_resnet"


def _looks_like_a_file(source: str) -> bool:
    return (
        os.path.exists(source)
        or os.path.exists(f"{source}.index")
        or os.sep in source
        or bool(
            re.search(
                r"\.(safetensors|pth|pt|bin|npz|params|pdparams|h5|keras)$", source
            )
        )
    )


def _converted(
    origin: str,
    variant: str | None,
    name: str,
    protocol: dict[str, Any] | None = None,
    classes: int | None = None,
    refresh: bool = False,
) -> str:
    path = cache_folder() / f"{name}.safetensors"
    if path.is_file() and not refresh:
        return str(path)
    repository = hub.split_source(origin)
    info, settings = None, {}
    if repository and protocol is None:
        with _fetching(origin):
            file = hub.download_settings(*repository, optional=variant is not None)
        with _describing(origin):
            settings = {} if file is None else hub.read_settings(file)
            info = hub.description(settings)
    if info is None and variant is None:
        raise WeightsError(
            f"{origin}: does not say which net it is of; give the variant too, such as "
            f"resnet50d:{origin}"
        )
    with _fetching(origin):
        file = hub.download_weights(*repository) if repository else _from_web(origin)
    tensors = read(file)
    with _describing(origin):
        if info is None:
            classes = _classes(tensors) if classes is None else classes
            info = _info(str(variant), classes, protocol or hub.protocol(settings))
        elif sum(info.config.depths) > len(tensors):  # before all are named
            raise ValueError(f"depths={info.config.depths}: too large for its weights")
    shapes = variable_shapes(info.config, info.classes)
    translated = to_native(tensors, info.config, shapes)
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path, translated.values, info)
    return str(path)


@contextlib.contextmanager
def _fetching(origin: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # the libraries' own, of network and hub
        first = (str(error).strip() or type(error).__name__).partition("\n")[0]
        raise WeightsError(
            f"{origin}: cannot be fetched ({first}); with the file from elsewhere, "
            "give its path instead"
        ) from error


@contextlib.contextmanager
def _describing(origin: str) -> Iterator[None]:
    try:
        yield
    except (ValueError, TypeError) as error:
        raise WeightsError(
            f"{origin}: its config.json describes no net ({error})"
        ) from error


def _classes(tensors: Mapping[str, np.ndarray]) -> int:
    """The classes of the file's head, whose bias has one of these names."""
    for name in ("fc.bias", "out.bias", "head.fc.bias", "fc_0.b_0", "head/bias"):
        if name in tensors:
            return len(tensors[name])
    return 0


def _info(variant: str, classes: int, protocol: dict[str, Any]) -> ModelInfo:
    """The checked description of the net of a converted file."""
    normalized = {name: protocol.pop(name) for name in ("mean", "std")}
    return ModelInfo.from_json(
        {
            "variant": variant,
            "config": {**dataclasses.asdict(VARIANTS[variant]), **normalized},
            "classes": classes,
            "protocol": protocol,
        }
    )


def _from_web(address: str) -> str:
    from keras_resnet.backend import keras

    folder = cache_folder() / "originals"
    path = folder / address.rpartition("/")[2]
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as partial:  # Keras would write to its final name
            keras.utils.get_file(
                partial.name,
                address,
                cache_dir=str(cache_folder().parent),
                cache_subdir="keras_resnet/originals",
            )
    return str(path)
