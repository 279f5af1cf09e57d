"""Released weights by their tag: fetched, converted once, cached with protocol."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from keras_resnet.complexity import variable_shapes
from keras_resnet.config import IMAGENET_MEAN, IMAGENET_STD, VARIANTS
from keras_resnet.errors import WeightsError
from keras_resnet.files import atomic_write
from keras_resnet.info import MAX_TEXT, ModelInfo, parse
from keras_resnet.runs import layout
from keras_resnet.weights.files import write
from keras_resnet.weights.readers import read
from keras_resnet.weights.released import find, is_tag
from keras_resnet.weights.translate import to_native

_HUB = re.compile(r"hf://([^/@]+/[^/@]+)(?:@([^@]+))?")  # repository, revision


def locate(source: str | os.PathLike[str], variant: str, refresh: bool = False) -> str:
    """The file that `source` means for a variant, fetched and converted if needed.

    Args:
        source: a released tag, "imagenet" for the variant's best one; "hf://owner/name"
            or "hf://owner/name@revision", a repository of the Hugging Face hub in
            timm's form, at a branch, tag or commit; a run directory; or a file or a
            TensorFlow checkpoint's prefix, as it is. "./imagenet" is such a path.
        variant: a name of VARIANTS.
        refresh: ask the hub again though there is a converted file. Without it, that
            file is used for ever, also when the repository has changed since.

    Returns:
        A path. Converted files are in `cache_folder()`.

    Raises:
        WeightsError: no such file or tag, or it cannot be fetched. If refreshing
            fails, the converted file stays.
    """
    source = os.fspath(source)
    if _HUB.fullmatch(source):
        name = source.removeprefix("hf://").replace("/", "--")
        return _converted(source, variant, name, refresh=refresh)
    if not is_tag(source):
        if os.path.isdir(source):
            return _model_of_run(source)
        if _looks_like_a_file(source):
            return source
    entry = find(variant, source)
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
    variant: str,
    name: str,
    protocol: dict[str, Any] | None = None,
    classes: int | None = None,
    refresh: bool = False,
) -> str:
    path = cache_folder() / f"{name}.safetensors"
    if path.is_file() and not refresh:
        return str(path)
    try:
        if match := _HUB.fullmatch(origin):
            file, settings = _from_hub(*match.groups())
        else:
            file, settings = _from_web(origin), None
    except Exception as error:  # the libraries' own, of network and hub
        first = (str(error).strip() or type(error).__name__).partition("\n")[0]
        raise WeightsError(
            f"{origin}: cannot be fetched ({first}); with the file from elsewhere, "
            "give its path instead"
        ) from error
    tensors = read(file)
    classes = _classes(tensors) if classes is None else classes
    try:
        info = _info(variant, classes, protocol or _protocol(settings))
    except (ValueError, TypeError) as error:
        raise WeightsError(
            f"{origin}: its config.json describes no net ({error})"
        ) from error
    shapes = variable_shapes(info.config, classes)
    translated = to_native(tensors, info.config, shapes)
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path, translated.values, info)
    return str(path)


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


def _from_hub(repository: str, revision: str | None) -> tuple[str, str | None]:
    """(local file, local config.json or None) of a repository in timm's form."""
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError

    def download(name: str) -> str:
        return huggingface_hub.hf_hub_download(repository, name, revision=revision)

    try:
        file = download("model.safetensors")
    except EntryNotFoundError:
        file = download("pytorch_model.bin")
    try:
        return file, download("config.json")
    except EntryNotFoundError:
        return file, None


def _protocol(settings: str | None) -> dict[str, Any]:
    """The protocol in a repository's config.json; its values are not checked yet."""
    config: Any = {}
    if settings is not None:
        with open(settings, "rb") as file:
            config = parse(file.read(MAX_TEXT + 1))
        config = config.get("pretrained_cfg", {}) if isinstance(config, dict) else None
    if not isinstance(config, dict):
        raise ValueError("pretrained_cfg: must be an object")
    size = config.get("test_input_size") or config.get("input_size") or (3, 224, 224)
    if not isinstance(size, list | tuple) or len(size) != 3:
        raise ValueError(f"input_size={str(size)[:80]}: must be 3 numbers")
    return {
        "size": size[-1],
        "crop_pct": config.get("test_crop_pct") or config.get("crop_pct") or 0.875,
        "interpolation": config.get("interpolation") or "bicubic",
        "mean": config.get("mean") or IMAGENET_MEAN,
        "std": config.get("std") or IMAGENET_STD,
    }


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
