"""ModelInfo, the description of a model that its files contain, and its checks."""

from __future__ import annotations

import dataclasses
import json
import re
import reprlib
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field
from typing import Any

from keras_resnet.config import ResNetConfig
from keras_resnet.errors import ModelError
from keras_resnet.tasks import TASKS

MAX_TEXT = 2**24  # bytes of JSON, 16 MiB; the names of 20,000 classes take 1 MiB
_MAX_VALUES = 2**19  # in one JSON text; even short ones take memory when parsed
_MAX_CLASSES = 2**19
_MAX_CHANNELS = 1024  # of an image
_MAX_PIXELS = 2**14  # of a side of an image
_PLAIN = ("float16", "bfloat16", "float32", "float64")
_POLICIES = (*_PLAIN, "mixed_float16", "mixed_bfloat16")

_Check = Callable[[Any], bool]


def _checked(check: _Check) -> dict[str, _Check]:
    """The metadata of a field whose JSON value has to pass `check`."""
    return {"check": check}


def _is_a(kind: type) -> _Check:
    return lambda value: type(value) is kind


def _is_one_of(*values: str) -> _Check:
    return lambda value: type(value) is str and value in values


def _is_count(most: int, least: int = 1) -> _Check:
    return lambda value: type(value) is int and least <= value <= most


def _is_none_or(check: _Check) -> _Check:
    return lambda value: value is None or check(value)


def _is_shape(value: Any) -> bool:
    side = _is_none_or(_is_count(_MAX_PIXELS))
    return isinstance(value, list | tuple) and len(value) == 3 and all(map(side, value))


def _is_share(value: Any) -> bool:
    return type(value) in (int, float) and 0 < value <= 1


def _are_shares(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(map(_is_share, value))


def _are_strings(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(type(item) is str for item in value)


def _is_name(value: Any) -> bool:
    return type(value) is str and bool(re.fullmatch(r"[A-Za-z0-9_]{1,64}", value))


def _is_variant(value: Any) -> bool:
    """A name of VARIANTS, or of another net, such as applications:DenseNet121."""
    return type(value) is str and bool(re.fullmatch(r"\w[\w.:-]{0,127}", value))


def _is_activation(value: Any) -> bool:
    """Whether it may be in keras.activations; refuses layers, which have capitals."""
    # a model in memory may have a function as its activation
    return callable(value) or (_is_name(value) and value == value.lower())


@dataclass(frozen=True)
class Protocol:
    """How images are preprocessed for evaluation, prediction and serving."""

    # the side of the square crop in pixels
    size: int = field(default=224, metadata=_checked(_is_count(_MAX_PIXELS)))
    # the side of the crop as a fraction of the resized short side
    crop_pct: float = field(default=0.875, metadata=_checked(_is_share))
    # with antialiasing, as in Pillow
    interpolation: str = field(
        default="bicubic", metadata=_checked(_is_one_of("bicubic", "bilinear"))
    )
    # whether large JPEGs are decoded at 1/2, 1/4 or 1/8 of their size, which is faster
    # and not exact
    scaled_decode: bool = field(default=False, metadata=_checked(_is_a(bool)))


@dataclass(frozen=True)
class ModelInfo:
    """The description of a model of this package, which its files contain."""

    variant: str = field(metadata=_checked(_is_variant))
    # a ResNetConfig; None: the net is not of this package
    config: Any = field(metadata=_checked(_is_none_or(_is_a(dict))))
    include_top: bool = field(default=True, metadata=_checked(_is_a(bool)))
    pooling: str | None = field(
        default=None, metadata=_checked(_is_none_or(_is_one_of("avg", "max")))
    )
    # 0 in a checkpoint without a head
    classes: int = field(
        default=1000, metadata=_checked(_is_count(_MAX_CLASSES, least=0))
    )
    classifier_activation: str | None = field(
        default="softmax", metadata=_checked(_is_none_or(_is_activation))
    )
    include_preprocessing: bool = field(default=True, metadata=_checked(_is_a(bool)))
    # [height, width, channels]; None: RGB images of any size
    input_shape: tuple[int | None, ...] | None = field(
        default=None, metadata=_checked(_is_none_or(_is_shape))
    )
    # the policy under which the model was built
    dtype_policy: str = field(
        default="float32", metadata=_checked(_is_one_of(*_POLICIES))
    )
    class_names: tuple[str, ...] | None = field(
        default=None, metadata=_checked(_is_none_or(_are_strings))
    )
    protocol: Protocol = field(default=Protocol(), metadata=_checked(_is_a(dict)))
    # a model of another task than "classify" is one of `transfer`
    task: str = field(default="classify", metadata=_checked(_is_one_of(*TASKS)))
    # of an image's several labels: the probability from which on it has a class
    thresholds: tuple[float, ...] | None = field(
        default=None, metadata=_checked(_is_none_or(_are_shares))
    )

    @property
    def gives_logits(self) -> bool:
        """Whether the model outputs logits rather than probabilities."""
        return self.classifier_activation in (None, "linear")

    @property
    def several_labels(self) -> bool:
        """Whether an image may have several labels, each with its own probability."""
        return self.thresholds is not None

    @property
    def probability(self) -> str:
        """The activation that makes probabilities of the logits."""
        return "sigmoid" if self.several_labels else "softmax"

    def check_classifies(self, name: str) -> None:
        """Raises a ModelError, with the model's name, unless it is of a classifier."""
        if self.task != "classify":
            raise ModelError(
                f"{name}: is for task={self.task!r}; give a classifier instead"
            )

    def replace(self, **changes: Any) -> ModelInfo:
        """A copy with other values."""
        return dataclasses.replace(self, **changes)

    @classmethod
    def from_json(cls, info: dict[str, Any]) -> ModelInfo:
        """A ModelInfo from the dict that `dataclasses.asdict` and JSON make of it.

        Raises:
            ValueError: as in `check`.
        """
        check(info)
        config = info["config"]
        parts: dict[str, Any] = {
            "config": None if config is None else ResNetConfig.from_json(config),
            "protocol": Protocol(**info.get("protocol", {})),
        }
        for name in ("class_names", "input_shape", "thresholds"):  # lists in JSON
            if info.get(name) is not None:
                parts[name] = tuple(info[name])
        return cls(**{**info, **parts})


def parse(text: str | bytes) -> Any:
    """The value of a JSON text from an untrusted file.

    Raises:
        ValueError: if it is not JSON, or it is larger or has more values than any
            description of a model.
    """
    content = text.encode(errors="replace") if isinstance(text, str) else text
    values = sum(map(content.count, (b",", b"[", b"{")))
    if len(content) > MAX_TEXT or values > _MAX_VALUES:
        raise ValueError(
            f"JSON of {len(content)} bytes with {values} values: too large"
        )
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("the JSON is nested too deeply") from error


def check(info: Any) -> None:
    """Raises an error unless `info` is a dict from the JSON of a ModelInfo.

    Fields that have a default may be missing, as in files of earlier releases.

    Raises:
        ValueError: with the fields that are unknown or missing, or that have a wrong
            type or value.
    """
    if not isinstance(info, dict) or not isinstance(info.get("config", 0), dict | None):
        raise ValueError(f"info={reprlib.repr(info)}: must have variant and config")
    _check_fields(info, ModelInfo)
    _check_fields(info.get("protocol", {}), Protocol)
    names = info.get("class_names")
    if (
        info.get("include_top", ModelInfo.include_top)
        and names is not None
        and len(names) != info.get("classes", ModelInfo.classes)
    ):
        raise ValueError(
            f"class_names={reprlib.repr(names)}: must be one name per class"
        )
    thresholds = info.get("thresholds")
    if thresholds is not None and len(thresholds) != info.get("classes"):
        raise ValueError(
            f"thresholds={reprlib.repr(thresholds)}: must be one number per class"
        )
    config = info["config"]
    if config is None:
        return
    try:
        channels = len(ResNetConfig(**config).mean)  # checks all fields except bools
    except TypeError as error:  # an unknown or a missing field
        raise ValueError(f"config: {error}") from error
    if channels > _MAX_CHANNELS:
        raise ValueError(
            f"mean and std: have {channels} values; at most {_MAX_CHANNELS}"
        )
    for each in dataclasses.fields(ResNetConfig):
        value = config.get(each.name, each.default)
        if each.type == "bool" and type(value) is not bool:
            raise ValueError(f"{each.name}={reprlib.repr(value)}: must be a bool")


def _check_fields(values: Mapping[str, Any], kind: type) -> None:
    fields = {each.name: each for each in dataclasses.fields(kind)}
    if unknown := sorted(values.keys() - fields)[:10]:
        raise ValueError(f"unknown fields: {', '.join(map(reprlib.repr, unknown))}")
    wrong = [
        f"{name}={reprlib.repr(values.get(name))}"
        for name, each in fields.items()
        if not (
            each.metadata["check"](values[name])
            if name in values
            else each.default is not MISSING
        )
    ]
    if wrong:
        raise ValueError(f"missing or invalid: {', '.join(wrong)}")
