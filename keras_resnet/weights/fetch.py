"""Released weights by their tag: fetched, converted once, kept with their protocol."""

from __future__ import annotations

import dataclasses
import os
import re
from pathlib import Path
from typing import Any

from keras_resnet.complexity import variable_shapes
from keras_resnet.config import IMAGENET_MEAN, IMAGENET_STD, VARIANTS
from keras_resnet.errors import WeightsError
from keras_resnet.files import atomic_write
from keras_resnet.info import MAX_TEXT, ModelInfo, parse
from keras_resnet.runs import layout
from keras_resnet.weights.files import write
from keras_resnet.weights.readers import read
from keras_resnet.weights.released import find, is_tag
from keras_resnet.weights.translate import to_ours

IMAGENET_CLASSES = 1000
_HUB_FILES = ("model.safetensors", "pytorch_model.bin")
_HUB = re.compile(r"hf://([^/@]+/[^/@]+)(?:@([^@]+))?")  # repository, revision


def locate(source, variant: str, refresh: bool = False) -> str:
    """The file that `source` means for a variant, fetched and converted if need be.

    Args:
        source: a released tag, "imagenet" for the variant's best one; "hf://owner/name"
            or "hf://owner/name@revision", a repository of the Hugging Face hub in
            timm's form, at a branch, tag or commit; a run directory; or a file or a
            TensorFlow checkpoint's prefix, as it is. "./imagenet" is such a path.
        variant: a name of VARIANTS.
        refresh: ask the hub anew, though there is a converted file already. Without it
            that file serves for ever, also when the repository has changed since.

    Returns:
        A path. Converted files are in `cache_folder()`.

    Raises:
        WeightsError: no such file or tag, or it cannot be fetched. A converted file
            that was to be refreshed stays.
    """
    source = os.fspath(source)
    if _HUB.fullmatch(source):
        name = source.removeprefix("hf://").replace("/", "--")
        return _converted(source, variant, name, refresh=refresh)
    if not is_tag(source) and os.path.isdir(source):
        return _model_of_run(source)
    if not is_tag(source) and _looks_like_a_file(source):
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
    return _converted(entry.origin, variant, name, protocol, IMAGENET_CLASSES, refresh)


def _model_of_run(folder):
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


def _looks_like_a_file(source):
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


def _converted(origin, variant, name, protocol=None, classes=None, refresh=False):
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
        raise WeightsError(f"{origin}: its config.json is none ({error})") from error
    translated = to_ours(tensors, info.config, variable_shapes(info.config, classes))
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path, translated.values, info)
    return str(path)


def _classes(tensors):
    """Outputs of the file's head, whose bias every framework calls so."""
    for name in ("fc.bias", "out.bias", "head.fc.bias", "fc_0.b_0", "head/bias"):
        if name in tensors:
            return len(tensors[name])
    return 0


def _info(variant, classes, protocol) -> ModelInfo:
    """What the converted file says of its net, checked."""
    normalised = {name: protocol.pop(name) for name in ("mean", "std")}
    return ModelInfo.from_json(
        {
            "variant": variant,
            "config": {**dataclasses.asdict(VARIANTS[variant]), **normalised},
            "classes": classes,
            "protocol": protocol,
        }
    )


def _from_hub(repository, revision=None):
    """(local file, local config.json or None) of a repository in timm's form."""
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError

    for place, name in enumerate(_HUB_FILES):
        try:
            file = huggingface_hub.hf_hub_download(repository, name, revision=revision)
            break
        except EntryNotFoundError:
            if place == len(_HUB_FILES) - 1:
                raise
    try:
        settings = huggingface_hub.hf_hub_download(
            repository, "config.json", revision=revision
        )
    except EntryNotFoundError:
        settings = None
    return file, settings


def _protocol(settings):
    """Of the config.json of a repository; its values are not checked yet."""
    said: Any = {}
    if settings is not None:
        with open(settings, "rb") as file:
            said = parse(file.read(MAX_TEXT + 1))
        said = said.get("pretrained_cfg", {}) if isinstance(said, dict) else None
    if not isinstance(said, dict):
        raise ValueError("pretrained_cfg: must be an object")
    size = said.get("test_input_size") or said.get("input_size") or (3, 224, 224)
    if not isinstance(size, list | tuple) or len(size) != 3:
        raise ValueError(f"input_size={str(size)[:80]}: must be 3 numbers")
    return {
        "size": size[-1],
        "crop_pct": said.get("test_crop_pct") or said.get("crop_pct") or 0.875,
        "interpolation": said.get("interpolation") or "bicubic",
        "mean": said.get("mean") or IMAGENET_MEAN,
        "std": said.get("std") or IMAGENET_STD,
    }


def _from_web(address):
    from keras_resnet.backend import keras

    folder = cache_folder() / "originals"
    path = folder / address.rpartition("/")[2]
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as partial:  # Keras writes it under its last name
            keras.utils.get_file(
                partial.name,
                address,
                cache_dir=str(cache_folder().parent),
                cache_subdir="keras_resnet/originals",
            )
    return str(path)
