"""A run as numbers: Recipe, checked, and both ways through JSON and YAML."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from keras_resnet.errors import RecipeError
from keras_resnet.info import Protocol
from keras_resnet.legacy import addons


@dataclass(frozen=True)
class Recipe:
    """Everything that a training run depends on but its data.

    Section numbers are arXiv 1812.01187's. Zero switches a trick off.
    """

    name: str = "bag-of-tricks"
    # the net
    model: str = "resnet50d"  # a name of list_models()
    overrides: dict[str, Any] = field(default_factory=dict)  # fields of ResNetConfig
    weights: str = ""  # to start from: a tag, hf://owner/name, a file; "": none
    initializer: str = "he"  # timm's; "xavier": 2.1; "msra-prelu": GluonCV's script
    precision: str = "auto"  # half where the machine is fast at it; or a dtype policy
    # what is trained
    stage_rates: tuple[float, ...] = ()  # of stem and stages, times the rate; 0: frozen
    freeze_statistics: bool = False  # normalise by the moving ones, and keep them
    # training pictures (2.1)
    train_size: int = 224  # pixels
    train_interpolation: str = "bilinear"  # or "bicubic"
    train_antialias: bool = False  # as Pillow; the paper's OpenCV has none
    min_area: float = 0.08  # of the picture, the smallest random crop; 1: no crop
    max_aspect: float = 4 / 3  # width over height of that crop, and its inverse
    scales: tuple[int, ...] = ()  # (256, 480): the short sides of arXiv 1409.1556
    flip: float = 0.5  # probability
    colour: float = 0.4  # colour factors from 1 - it to 1 + it
    colours: str = "hue-saturation-brightness"  # or "brightness-contrast-saturation"
    lighting: float = 0.1  # standard deviation of the PCA noise's coefficients
    mixup: float = 0.2  # alpha of Beta(alpha, alpha) (5.4)
    # above the paper
    rand_augment: float = 0.0  # magnitude, to 10 (arXiv 1909.13719, timm's "inc1" set)
    rand_augment_ops: int = 2  # operations a picture
    rand_augment_std: float = 0.5  # standard deviation of the magnitude
    erasing: float = 0.0  # probability of a rectangle of noise (arXiv 1708.04896)
    cutmix: float = 0.0  # alpha (arXiv 1905.04899); with mixup, half of the batches
    repeats: int = 1  # of a picture in a batch, each augmented anew (arXiv 1902.05509)
    # evaluation pictures; where there are weights, 0 and "" mean as they want it
    test_size: int = 224  # pixels
    crop_pct: float = 0.875  # of the resized short side
    interpolation: str = "bicubic"  # or "bilinear"; antialiased
    # optimisation (2.1, 3.1, 5.1)
    optimizer: str = "sgd"  # CoupledSGD; or "lamb" (arXiv 1904.00962); or of addons.py
    batch_size: int = 256  # pictures a step
    accumulate: int = 1  # parts that a batch is computed in, for less memory
    epochs: int = 200
    base_rate: float = 0.1  # per 256 pictures of a batch: linear scaling
    warmup_epochs: float = 5.0  # linear, from 0
    schedule: str = "cosine"  # or "steps", or "plateau"
    final_rate: float = 0.0  # that the cosine ends at, whatever the batch
    boundaries: tuple[int, ...] = ()  # epochs at which "steps" divides the rate by 10
    patience: int = 5  # epochs without a better top-1 till "plateau" divides it by 10
    momentum: float = 0.9  # of SGD
    nesterov: bool = True
    weight_decay: float = 1e-4  # times w: in SGD's gradient, in LAMB's direction
    decay: str = "kernels"  # "all": biases, gammas and betas too
    ema: float = 0.0  # a step's decay of the weights' moving average, as 0.9999
    # loss (5.2, 5.3)
    loss: str = "cross-entropy"  # or "binary-cross-entropy" (arXiv 2110.00476)
    label_smoothing: float = 0.1  # the share that is spread
    smoothing: str = "all-classes"  # e / K, as codes; "other-classes": e / (K - 1), 5.2
    binary_threshold: float = 0.0  # mixed labels above it count as present; 0: as mixed
    teacher: str = ""  # a run directory, a .keras file, or variant:weights
    temperature: float = 0.0  # of the distillation
    distillation: str = "paper"  # 1 and T^2; "gluon": half of each, as its script
    teacher_size: int = 0  # pixels that the teacher sees; 0: train_size
    # the run
    validate_every: int = 1  # epochs
    eval_batch_size: int = 0  # pictures at a time in validation; 0: a part of a batch
    monitor: str = "val_top1"  # what makes an epoch the best; or "val_ema_top1"
    early_stopping: int = 0  # epochs without a better monitor that end the run; 0: none
    max_bad_examples: int = 0  # pictures that cannot be decoded and may be left out
    seed: int = 0

    def __post_init__(self):
        if self.colour == addons.YIQ:  # says what is done, and not how strongly
            addons.check("colour", self.colour)
            object.__setattr__(self, "colour", type(self).colour)
            object.__setattr__(self, "colours", addons.YIQ)
        for f in dataclasses.fields(self):
            object.__setattr__(self, f.name, _typed(f.name, getattr(self, f.name)))
        for names, allowed in _ALLOWED.items():
            for name in names.split():
                _require(name, getattr(self, name), **allowed)
        for name, choices in _CHOICES.items():
            value = getattr(self, name)
            if name in _OF_ADDONS and value.startswith("tfa."):
                addons.check(name, value)
            elif value not in choices:
                raise RecipeError(f"{name}={value!r}: must be one of {choices}")
        _check_together(self)

    @property
    def protocol(self) -> Protocol:
        """How evaluation prepares pictures."""
        if not self.names_protocol:
            raise RecipeError(
                f"test_size={self.test_size}, crop_pct={self.crop_pct}, "
                f"interpolation={self.interpolation!r}: depend on weights="
                f"{self.weights!r}; give all three to see the pictures without those"
            )
        return Protocol(self.test_size, self.crop_pct, self.interpolation)

    @property
    def names_protocol(self) -> bool:
        """Whether the protocol is the recipe's own, and none of its weights'."""
        return bool(self.test_size and self.crop_pct and self.interpolation)

    def replace(self, **fields) -> Recipe:
        """A copy with other values; an unknown field is a RecipeError that names it."""
        _check_names(fields)
        return dataclasses.replace(self, **fields)

    def to_dict(self) -> dict:
        """Plain values, as JSON and YAML hold them."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    @classmethod
    def from_dict(cls, values: dict) -> Recipe:
        """The opposite of `to_dict`; unknown and ill-typed fields are refused."""
        _check_names(values)
        return cls(**values)

    @classmethod
    def read(cls, path) -> Recipe:
        """A recipe from a .json, .yaml or .yml file."""
        path = Path(path)
        try:  # YAML holds JSON
            values = read_yaml(path.read_text())
        except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
            raise RecipeError(f"{path}: not a readable recipe: {error}") from error
        if not isinstance(values, dict):
            raise RecipeError(f"{path}: must hold a mapping of Recipe fields")
        return cls.from_dict(values)


def read_yaml(text: str):
    """A YAML or JSON text's value, 1e-4 a number; yaml.YAMLError if it is neither."""
    return yaml.load(text, _Loader)


class _Loader(yaml.SafeLoader):
    """YAML 1.1 takes a number such as 1e-4, without a point, for a word."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"),
    list("-+0123456789"),
)
_CHOICES = {
    "initializer": ("he", "xavier", "msra-prelu"),
    "precision": ("auto", "float32", "mixed_float16", "mixed_bfloat16"),
    "train_interpolation": ("bilinear", "bicubic"),
    "interpolation": ("bilinear", "bicubic", ""),
    "colours": ("hue-saturation-brightness", "brightness-contrast-saturation"),
    "optimizer": ("sgd", "lamb"),
    "schedule": ("cosine", "steps", "plateau"),
    "decay": ("kernels", "all"),
    "loss": ("cross-entropy", "binary-cross-entropy"),
    "smoothing": ("all-classes", "other-classes"),
    "distillation": ("paper", "gluon"),
    "monitor": ("val_top1", "val_ema_top1"),
}
_OF_ADDONS = ("optimizer", "colours")  # may name a `tfa.` piece instead
_ALLOWED: dict[str, dict] = {
    "train_size batch_size accumulate epochs rand_augment_ops repeats": {"low": 1},
    "patience validate_every": {"low": 1},
    "min_area": {"low": 0, "high": 1, "open_low": True},
    "max_aspect": {"low": 1},
    "flip colour erasing crop_pct": {"low": 0, "high": 1},
    "rand_augment": {"low": 0, "high": 10},
    "label_smoothing momentum ema binary_threshold": {
        "low": 0,
        "high": 1,
        "open_high": True,
    },
    "lighting mixup cutmix rand_augment_std base_rate final_rate": {"low": 0},
    "warmup_epochs weight_decay temperature": {"low": 0},
    "test_size teacher_size max_bad_examples": {"low": 0},
    "eval_batch_size early_stopping": {"low": 0},
    "seed": {"low": 0, "high": 2**32 - 1},  # what NumPy's generators take
}


def _typed(name, value):
    """The value in the field's type, or a RecipeError."""
    kind = FIELD_TYPES[name]
    if typing.get_origin(kind) is tuple:
        inner = typing.get_args(kind)[0]
        said = "whole numbers" if inner is int else "numbers"
        allowed = {int} if inner is int else {int, float}
        if not isinstance(value, (list, tuple)) or {*map(type, value)} - allowed:
            raise RecipeError(f"{name}={value!r}: must be a list of {said}")
        return tuple(map(inner, value))
    if kind is float and type(value) is int:
        return float(value)
    kind = typing.get_origin(kind) or kind
    if not isinstance(value, kind) or (kind is int and type(value) is bool):
        raise RecipeError(f"{name}={value!r}: must be {kind.__name__}")
    if kind is not dict:
        return value
    try:  # a copy of its own, the same as after a way through a file
        return json.loads(json.dumps(value))
    except (TypeError, ValueError) as error:
        raise RecipeError(f"{name}={value!r}: must be as JSON has it") from error


def _require(name, value, low, high=None, open_low=False, open_high=False):
    below = value <= low if open_low else value < low
    above = high is not None and (value >= high if open_high else value > high)
    if below or above or not math.isfinite(value):
        bracket = f"{'(' if open_low else '['}{low}, {'inf' if high is None else high}"
        closing = ")" if open_high or high is None else "]"
        raise RecipeError(f"{name}={value!r}: must be in {bracket}{closing}")


def _check_together(recipe):
    """What one field means for another."""
    low = recipe.train_size
    if recipe.scales and not (
        len(recipe.scales) == 2 and low <= recipe.scales[0] <= recipe.scales[1]
    ):
        raise RecipeError(
            f"scales={recipe.scales}: must be empty, or the least and the most pixels "
            f"of the short side, from train_size={low} on"
        )
    if recipe.warmup_epochs >= recipe.epochs:
        raise RecipeError(
            f"warmup_epochs={recipe.warmup_epochs}: must be less than "
            f"epochs={recipe.epochs}"
        )
    if list(recipe.boundaries) != sorted({*recipe.boundaries}):
        raise RecipeError(f"boundaries={recipe.boundaries}: must rise")
    if min(recipe.boundaries, default=1) < 1:
        raise RecipeError(f"boundaries={recipe.boundaries}: must be 1 or more each")
    if recipe.schedule == "plateau" and (
        recipe.warmup_epochs or recipe.validate_every > 1
    ):
        raise RecipeError(
            f"schedule='plateau': with warmup_epochs={recipe.warmup_epochs} and "
            f"validate_every={recipe.validate_every}; must be 0 and 1"
        )
    if recipe.batch_size % recipe.accumulate:
        raise RecipeError(
            f"accumulate={recipe.accumulate}: must divide "
            f"batch_size={recipe.batch_size}"
        )
    if any(not 0 <= rate < math.inf for rate in recipe.stage_rates):
        raise RecipeError(f"stage_rates={recipe.stage_rates}: must be 0 or more each")
    if bool(recipe.teacher) != bool(recipe.temperature):
        raise RecipeError(
            f"teacher={recipe.teacher!r}, temperature={recipe.temperature}: "
            "distillation needs both, such as teacher='resnet152d:imagenet' and "
            "temperature=20"
        )
    if recipe.teacher_size and not recipe.teacher:
        raise RecipeError(
            f"teacher_size={recipe.teacher_size}: is of a teacher, and there is none"
        )
    if recipe.monitor == "val_ema_top1" and not recipe.ema:
        raise RecipeError(
            "monitor='val_ema_top1': is of the moving average, and ema=0.0; give ema, "
            "such as 0.9999"
        )
    if recipe.binary_threshold and recipe.loss != "binary-cross-entropy":
        raise RecipeError(
            f"binary_threshold={recipe.binary_threshold}: is of "
            f"loss='binary-cross-entropy', not of {recipe.loss!r}"
        )
    if not (recipe.names_protocol or recipe.weights):
        raise RecipeError(
            f"test_size={recipe.test_size}, crop_pct={recipe.crop_pct}, "
            f"interpolation={recipe.interpolation!r}: nothing tells them without "
            "weights; must be given, as 224, 0.875 and 'bicubic'"
        )


def _check_names(values):
    if not isinstance(values, dict):
        raise RecipeError(f"{values!r}: must be a mapping of Recipe fields")
    if unknown := sorted(values.keys() - FIELD_TYPES.keys(), key=str):
        raise RecipeError(
            f"unknown recipe field {', '.join(map(repr, unknown))}: must be one of "
            f"{', '.join(FIELD_TYPES)}"
        )


FIELD_TYPES = typing.get_type_hints(Recipe)
