"""Repositories of the Hugging Face hub: their files, and config.json both ways."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from keras_resnet.config import IMAGENET_MEAN, IMAGENET_STD, VARIANTS
from keras_resnet.info import MAX_TEXT, ModelInfo, parse

WEIGHTS = "model.safetensors"
SETTINGS = "config.json"
_DESCRIPTION = "keras_resnet"  # the field of config.json that holds a ModelInfo
_SOURCE = re.compile(r"hf://([^/@]+/[^/@]+)(?:@([^@]+))?")  # repository, revision

# variants that timm 1.0.31 does not have
_OURS = re.compile(r"resnet\d+(a|vd)|resnet(18|26|34|200)c|seresnet50d")
# what changes neither a tensor's name or shape nor the answer to normalized pixels
_INDIFFERENT = ("mean", "std", "zero_gamma", "drop_path", "dropout", "fused_batch_norm")


def split_source(source: object) -> tuple[str, str | None] | None:
    """("owner/name", revision or None) of hf://owner/name@revision; None of others."""
    match = _SOURCE.fullmatch(source) if isinstance(source, str) else None
    return None if match is None else (match[1], match[2])


def download_weights(repository: str, revision: str | None) -> str:
    """The local file of a repository's weights."""
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        return _download(repository, WEIGHTS, revision)
    except LocalEntryNotFoundError:  # the hub is out of reach: do not ask it again
        raise
    except EntryNotFoundError:
        return _download(repository, "pytorch_model.bin", revision)


def download_settings(
    repository: str, revision: str | None, optional: bool
) -> str | None:
    """The local file of a repository's config.json; None if it may have none."""
    from huggingface_hub.errors import EntryNotFoundError

    try:
        return _download(repository, SETTINGS, revision)
    except EntryNotFoundError:
        if optional:
            return None
        raise


def _download(repository: str, name: str, revision: str | None) -> str:
    import huggingface_hub

    return huggingface_hub.hf_hub_download(repository, name, revision=revision)


def read_settings(path: str) -> dict[str, Any]:
    """The object in a config.json; ValueError if it holds none, or is too large."""
    with open(path, "rb") as file:
        settings = parse(file.read(MAX_TEXT + 1))
    if not isinstance(settings, dict):
        raise ValueError("must be an object")
    return settings


def description(settings: dict[str, Any]) -> ModelInfo | None:
    """The ModelInfo that `to_settings` wrote; None in the config.json of others.

    Raises:
        ValueError: it is not valid.
    """
    if _DESCRIPTION not in settings:
        return None
    info = ModelInfo.from_json(settings[_DESCRIPTION])
    if info.config is None or info.variant not in VARIANTS:
        raise ValueError(f"it is of {info.variant}")
    return info


def protocol(settings: dict[str, Any]) -> dict[str, Any]:
    """The protocol, mean and std in timm's config.json; they are not checked yet."""
    config = settings.get("pretrained_cfg", {})
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


def to_settings(info: ModelInfo) -> dict[str, Any]:
    """The config.json of a net: its description, and what timm reads if it has the net.

    timm takes the net from `architecture`, and normalization and evaluation crop from
    `pretrained_cfg`, as `timm.models.save_for_hf` writes them (timm 1.0.31).
    """
    described = {_DESCRIPTION: dataclasses.asdict(info)}
    architecture = timm_name(info)
    if architecture is None:
        return described
    names = {"label_names": list(info.class_names)} if info.class_names else {}
    return {
        "architecture": architecture,
        "num_classes": info.classes,
        **names,
        "pretrained_cfg": {
            "input_size": [3, info.protocol.size, info.protocol.size],
            "fixed_input_size": False,
            "interpolation": info.protocol.interpolation,
            "crop_pct": info.protocol.crop_pct,
            "crop_mode": "center",
            "mean": list(info.config.mean),
            "std": list(info.config.std),
            "num_classes": info.classes,
            "first_conv": "conv1" if info.config.stem == "conv7" else "conv1.0",
            "classifier": "fc",
        },
        **described,
    }


def timm_name(info: ModelInfo) -> str | None:
    """What timm calls a net, or None if it has no such net.

    That depends on the whole config: timm's nets have the width, the blocks and the
    stride of the variant, and take RGB.
    """
    usual, config = VARIANTS.get(info.variant), info.config
    if usual is None or config is None or _OURS.fullmatch(info.variant):
        return None
    as_usual = {name: getattr(usual, name) for name in _INDIFFERENT}
    if (
        config.fused_batch_norm is None
        or len(config.mean) != 3
        or config.replace(**as_usual) != usual
    ):
        return None
    return re.sub(r"^(resnet\d+)b$", r"\1", info.variant)
