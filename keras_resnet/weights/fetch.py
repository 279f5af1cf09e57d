"""Released weights by their tag: fetched, converted once, kept with their protocol."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from pathlib import Path

from keras_resnet.complexity import variable_shapes
from keras_resnet.config import IMAGENET_MEAN, IMAGENET_STD, VARIANTS
from keras_resnet.weights.errors import WeightsError
from keras_resnet.weights.files import write
from keras_resnet.weights.readers import read
from keras_resnet.weights.released import find
from keras_resnet.weights.translate import to_ours

IMAGENET_CLASSES = 1000
_HUB_FILES = ("model.safetensors", "pytorch_model.bin")


def locate(source, variant: str) -> str:
    """The file that `source` means for a variant, fetched and converted if need be.

    Args:
        source: a file or a TensorFlow checkpoint's prefix, as it is; a released tag,
            "imagenet" for the variant's best one; or "hf://owner/name", a repository
            of the Hugging Face hub in timm's form.
        variant: a name of VARIANTS.

    Returns:
        A path. Converted files are in `cache_folder()`.

    Raises:
        WeightsError: no such file or tag, or it cannot be fetched.
    """
    source = os.fspath(source)
    if re.fullmatch(r"hf://[^/]+/[^/]+", source):
        name = source.removeprefix("hf://").replace("/", "--")
        return _converted(source, variant, name)
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
    return _converted(
        entry.origin, variant, f"{variant}.{entry.tag}", protocol, IMAGENET_CLASSES
    )


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


def _converted(origin, variant, name, protocol=None, classes=None):
    path = cache_folder() / f"{name}.safetensors"
    if path.is_file():
        return str(path)
    try:
        if origin.startswith("hf://"):
            file, hub_protocol = _from_hub(origin.removeprefix("hf://"))
            protocol = protocol or hub_protocol
        else:
            file = _from_web(origin)
    except Exception as error:  # the libraries' own, of network and hub
        first = (str(error).strip() or type(error).__name__).partition("\n")[0]
        raise WeightsError(
            f"{origin}: cannot be fetched ({first}); with the file from elsewhere, "
            "give its path instead"
        ) from error
    tensors = read(file)
    config = VARIANTS[variant].replace(mean=protocol["mean"], std=protocol["std"])
    classes = _classes(tensors) if classes is None else classes
    translated = to_ours(tensors, config, variable_shapes(config, classes))
    info = {
        "variant": variant,
        "config": dataclasses.asdict(config),
        "classes": classes,
        "class_names": None,
        "protocol": {k: protocol[k] for k in ("size", "crop_pct", "interpolation")},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path, translated.values, info)
    return str(path)


def _classes(tensors):
    """Outputs of the file's head, whose bias every framework calls so."""
    for name in ("fc.bias", "out.bias", "head.fc.bias", "fc_0.b_0", "head/bias"):
        if name in tensors:
            return len(tensors[name])
    return 0


def _from_hub(repository):
    """(local file, protocol) of a repository in timm's form."""
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError

    for place, name in enumerate(_HUB_FILES):
        try:
            file = huggingface_hub.hf_hub_download(repository, name)
            break
        except EntryNotFoundError:
            if place == len(_HUB_FILES) - 1:
                raise
    try:
        settings = huggingface_hub.hf_hub_download(repository, "config.json")
        said = json.loads(Path(settings).read_text()).get("pretrained_cfg", {})
    except EntryNotFoundError:
        said = {}
    size = said.get("test_input_size") or said.get("input_size") or (3, 224, 224)
    return file, {
        "size": size[-1],
        "crop_pct": said.get("test_crop_pct") or said.get("crop_pct") or 0.875,
        "interpolation": said.get("interpolation") or "bicubic",
        "mean": said.get("mean") or IMAGENET_MEAN,
        "std": said.get("std") or IMAGENET_STD,
    }


def _from_web(address):
    from keras_resnet.backend import keras

    name = address.rpartition("/")[2]
    return keras.utils.get_file(name, address, cache_subdir="keras_resnet/originals")
