"""What a model knows of itself, also in its files: checked before any of it is used."""

from __future__ import annotations

import dataclasses
import json
import re
import reprlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from keras_resnet.config import ResNetConfig

MAX_TEXT = 2**24  # bytes of JSON; names of 20,000 classes take one of these 16 MiB
_MOST_VALUES = 2**19  # in one text: each takes memory, however short it is written
_MOST_CLASSES = 2**19
_MOST_CHANNELS = 1024  # of a picture
_MOST_PIXELS = 2**14  # of a side
_PLAIN = ("float16", "bfloat16", "float32", "float64")
_POLICIES = (*_PLAIN, "mixed_float16", "mixed_bfloat16")


@dataclass(frozen=True)
class Protocol:
    """How pictures become the model's input in evaluation, prediction and serving."""

    size: int = 224  # pixels, the side of the square that the model sees
    crop_pct: float = 0.875  # of the resized short side
    interpolation: str = "bicubic"  # or "bilinear"; antialiased, as Pillow's


@dataclass(frozen=True)
class ModelInfo:
    """What a model of ours knows of itself; it is part of its files."""

    variant: str
    config: ResNetConfig
    include_top: bool = True
    pooling: str | None = None
    classes: int = 1000
    classifier_activation: str | None = "softmax"
    include_preprocessing: bool = True
    input_shape: tuple[int | None, ...] | None = None  # None: any size, RGB
    dtype_policy: str = "float32"  # that it was built under
    class_names: tuple[str, ...] | None = None
    protocol: Protocol = Protocol()

    @property
    def gives_logits(self) -> bool:
        """Whether a softmax is still to come."""
        return self.classifier_activation in (None, "linear")

    def replace(self, **changes) -> ModelInfo:
        """A copy with other values."""
        return dataclasses.replace(self, **changes)

    @classmethod
    def from_json(cls, info: dict) -> ModelInfo:
        """Of what `dataclasses.asdict` gave, from a file or a model's config.

        Raises:
            ValueError: a field of a wrong type or range, and its value.
        """
        check(info)
        parts = {
            "config": ResNetConfig.from_json(info["config"]),
            "protocol": Protocol(**info.get("protocol", {})),
        }
        for name in ("class_names", "input_shape"):  # JSON has lists
            if info.get(name) is not None:
                parts[name] = tuple(info[name])
        return cls(**{**info, **parts})


def parse(text: str | bytes) -> Any:
    """The value of a JSON text from a file that anybody may have written.

    Raises:
        ValueError: it is no JSON, or it is larger, or has more values, than any
            description of a net.
    """
    content = text.encode(errors="replace") if isinstance(text, str) else text
    values = sum(map(content.count, (b",", b"[", b"{")))
    if len(content) > MAX_TEXT or values > _MOST_VALUES:
        raise ValueError(f"{len(content)} bytes of JSON, {values} values: too large")
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("its JSON nests too deep") from error


def check(info) -> None:
    """Refuses an `info`, such as a ModelInfo's fields in JSON, that is none.

    Fields that have a default may be missing, as in files of earlier releases.

    Raises:
        ValueError: with each field that is unknown, missing, or of a wrong type or
            range, and its value.
    """
    if not isinstance(info, dict) or not isinstance(info.get("config"), dict):
        raise ValueError(f"info={reprlib.repr(info)}: must have variant and config")
    _check_fields(info, _INFO, ("variant",))
    _check_fields(info.get("protocol", {}), _PROTOCOL)
    config = info["config"]
    try:
        channels = len(ResNetConfig(**config).mean)  # checks all but the truth values
    except TypeError as error:  # an unknown field, or a missing one
        raise ValueError(f"config: {error}") from error
    if channels > _MOST_CHANNELS:
        raise ValueError(f"mean, std: have {channels} values, one for each channel")
    fields = dataclasses.fields(ResNetConfig)
    flags = {field.name: _is_bool for field in fields if field.type == "bool"}
    _check_fields({name: config[name] for name in flags if name in config}, flags)


def _check_fields(said: dict, fields: dict[str, Callable], required=()):
    wrong = [name for name in required if name not in said]
    if unknown := sorted(said.keys() - fields)[:10]:
        raise ValueError(f"unknown: {', '.join(map(reprlib.repr, unknown))}")
    wrong += [name for name in said if not fields[name](said[name])]
    if "class_names" in said and "class_names" not in wrong and not _are_named(said):
        wrong.append("class_names")
    if wrong:
        values = [f"{name}={reprlib.repr(said.get(name))}" for name in wrong]
        raise ValueError(", ".join(values))


def _are_named(info):
    """Whether there is a name for each class, if there are names and a classifier."""
    names = info["class_names"]
    classified = info.get("include_top", True) and names is not None
    return not classified or len(names) == info.get("classes", 1000)


def _is_name(value):
    return type(value) is str and re.fullmatch(r"[A-Za-z0-9_]{1,64}", value)


def _is_count(most, least=1):
    return lambda value: type(value) is int and least <= value <= most


def _is_shape(value):
    sides = _is_count(_MOST_PIXELS)
    return value is None or (
        isinstance(value, list | tuple)
        and len(value) == 3
        and all(side is None or sides(side) for side in value)
    )


def _are_names(value):
    return value is None or (
        isinstance(value, list | tuple) and all(type(name) is str for name in value)
    )


def _is_bool(value):
    return type(value) is bool


# of ModelInfo, each with the test that a value has to pass
_INFO: dict[str, Callable[[Any], Any]] = {
    "variant": _is_name,
    "config": lambda value: isinstance(value, dict),
    "include_top": _is_bool,
    "pooling": lambda value: value in (None, "avg", "max"),
    "classes": _is_count(_MOST_CLASSES, least=0),  # 0: a checkpoint without a head
    # a name of keras.activations: never a layer, which has capitals, nor its config
    "classifier_activation": lambda value: (
        value is None
        or callable(value)  # of a live model; JSON has none
        or (_is_name(value) and value == value.lower())
    ),
    "include_preprocessing": _is_bool,
    "input_shape": _is_shape,
    "dtype_policy": lambda value: value in _POLICIES,
    "class_names": _are_names,
    "protocol": lambda value: isinstance(value, dict),
}
# of Protocol
_PROTOCOL: dict[str, Callable[[Any], Any]] = {
    "size": _is_count(_MOST_PIXELS),
    "crop_pct": lambda value: type(value) in (int, float) and 0 < value <= 1,
    "interpolation": lambda value: value in ("bicubic", "bilinear"),
}
