"""A run as numbers: Recipe, RECIPES, and the optimizer, loss and metrics they mean."""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import yaml

from keras_resnet.model import Protocol
from keras_resnet.optimizers import CoupledSGD, WarmupCosine, WarmupSteps


class RecipeError(ValueError):
    """A recipe that cannot be meant, with the field, its value and what is allowed."""


@dataclass(frozen=True)
class Recipe:
    """Everything that a training run depends on but its data.

    Section numbers are arXiv 1812.01187's. Zero switches a trick off.
    """

    name: str = "bag-of-tricks"
    # the net
    model: str = "resnet50d"  # a name of list_models()
    overrides: dict[str, Any] = field(default_factory=dict)  # fields of ResNetConfig
    precision: str = "auto"  # mixed_float16 on a CUDA GPU, else float32; or a policy
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
    # evaluation pictures
    test_size: int = 224  # pixels
    crop_pct: float = 0.875  # of the resized short side
    interpolation: str = "bicubic"  # or "bilinear"; antialiased
    # optimisation (2.1, 3.1, 5.1, 5.2)
    batch_size: int = 256
    epochs: int = 200
    base_rate: float = 0.1  # per 256 pictures of a batch: linear scaling
    warmup_epochs: float = 5.0  # linear, from 0
    schedule: str = "cosine"  # or "steps"
    boundaries: tuple[int, ...] = ()  # epochs at which "steps" divides the rate by 10
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 1e-4  # times w, in the gradient
    decay: str = "kernels"  # "all": biases, gammas and betas too
    label_smoothing: float = 0.1  # share spread evenly over all classes
    max_bad_examples: int = 0  # pictures that cannot be decoded and may be left out
    seed: int = 0

    def __post_init__(self):
        for name in ("boundaries", "scales"):
            value = getattr(self, name)
            if not isinstance(value, (list, tuple)) or {*map(type, value)} - {int}:
                raise RecipeError(f"{name}={value!r}: must be a list of whole numbers")
            object.__setattr__(self, name, tuple(value))
        hints = typing.get_type_hints(Recipe)
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            if hints[f.name] is float and type(value) is int:
                object.__setattr__(self, f.name, value := float(value))
            kind = typing.get_origin(hints[f.name]) or hints[f.name]
            if not isinstance(value, kind) or (kind is int and type(value) is bool):
                raise RecipeError(f"{f.name}={value!r}: must be {kind.__name__}")
        for names, allowed in _ALLOWED.items():
            for name in names.split():
                _require(self, name, **allowed)
        for f in dataclasses.fields(self):
            choices = _CHOICES.get(f.name)
            if choices and getattr(self, f.name) not in choices:
                raise RecipeError(
                    f"{f.name}={getattr(self, f.name)!r}: must be one of {choices}"
                )
        if self.scales and not (
            len(self.scales) == 2
            and self.train_size <= self.scales[0] <= self.scales[1]
        ):
            raise RecipeError(
                f"scales={self.scales}: must be empty, or the least and the most "
                f"pixels of the short side, from train_size={self.train_size} on"
            )

    @property
    def protocol(self) -> Protocol:
        """How evaluation prepares pictures."""
        return Protocol(self.test_size, self.crop_pct, self.interpolation)

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
            values = yaml.safe_load(path.read_text())
        except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
            raise RecipeError(f"{path}: not a readable recipe: {error}") from error
        if not isinstance(values, dict):
            raise RecipeError(f"{path}: must hold a mapping of Recipe fields")
        return cls.from_dict(values)


_CHOICES = {
    "precision": ("auto", "float32", "mixed_float16", "mixed_bfloat16"),
    "train_interpolation": ("bilinear", "bicubic"),
    "interpolation": ("bilinear", "bicubic"),
    "colours": ("hue-saturation-brightness", "brightness-contrast-saturation"),
    "schedule": ("cosine", "steps"),
    "decay": ("kernels", "all"),
}
_ALLOWED: dict[str, dict] = {
    "train_size test_size batch_size epochs rand_augment_ops": {"low": 1},
    "min_area crop_pct": {"low": 0, "high": 1, "open_low": True},
    "max_aspect": {"low": 1},
    "flip colour erasing": {"low": 0, "high": 1},
    "rand_augment": {"low": 0, "high": 10},
    "label_smoothing momentum": {"low": 0, "high": 1, "open_high": True},
    "lighting mixup cutmix rand_augment_std base_rate warmup_epochs": {"low": 0},
    "weight_decay max_bad_examples seed": {"low": 0},
}


def _require(recipe, name, low, high=None, open_low=False, open_high=False):
    value = getattr(recipe, name)
    below = value <= low if open_low else value < low
    above = high is not None and (value >= high if open_high else value > high)
    if below or above or value != value:
        bracket = f"{'(' if open_low else '['}{low}, {'inf' if high is None else high}"
        closing = ")" if open_high or high is None else "]"
        raise RecipeError(f"{name}={value!r}: must be in {bracket}{closing}")


def _check_names(values):
    known = [f.name for f in dataclasses.fields(Recipe)]
    if unknown := sorted(values.keys() - set(known)):
        raise RecipeError(
            f"unknown recipe field {', '.join(map(repr, unknown))}: must be one of "
            f"{', '.join(known)}"
        )


_BASELINE = Recipe(
    name="baseline",
    model="resnet50b",
    overrides={"zero_gamma": False},
    precision="float32",
    mixup=0.0,
    epochs=120,
    warmup_epochs=0.0,
    schedule="steps",
    boundaries=(30, 60, 90),
    decay="all",
    label_smoothing=0.0,
)
_EFFICIENT = _BASELINE.replace(
    name="efficient",
    model="resnet50d",
    overrides={},
    precision="auto",
    batch_size=1024,
    warmup_epochs=5.0,
    decay="kernels",
)
RECIPES = types.MappingProxyType(
    {
        recipe.name: recipe
        for recipe in (
            _BASELINE,  # section 2
            _EFFICIENT,  # sections 3 and 4
            Recipe(name="bag-of-tricks", batch_size=1024),  # section 5, no distillation
            Recipe(  # a narrow net on small pictures of written digits, in a minute
                name="demo",
                model="resnet18d",
                overrides={"width": 16},
                train_size=32,
                min_area=0.7,
                max_aspect=1.15,
                flip=0.0,  # a mirrored digit is no digit
                colour=0.0,
                lighting=0.0,
                mixup=0.0,
                test_size=32,
                crop_pct=1.0,
                batch_size=64,
                epochs=25,
                base_rate=0.4,
                warmup_epochs=2.0,
            ),
        )
    }
)


def optimizer(recipe: Recipe, steps_per_epoch: int) -> CoupledSGD:
    """The recipe's update rule on its schedule, in steps."""
    rate = recipe.base_rate * recipe.batch_size / 256
    warmup = round(recipe.warmup_epochs * steps_per_epoch)
    schedule: Any
    if recipe.schedule == "cosine":
        total = max(recipe.epochs * steps_per_epoch, warmup + 1)
        schedule = WarmupCosine(rate, warmup, total)
    else:
        steps = [epoch * steps_per_epoch for epoch in recipe.boundaries]
        schedule = WarmupSteps(rate, warmup, steps)
    return CoupledSGD(
        schedule,
        momentum=recipe.momentum,
        nesterov=recipe.nesterov,
        weight_decay=recipe.weight_decay,
        decay=recipe.decay,
    )


def loss(recipe: Recipe) -> keras.losses.Loss:
    """Cross-entropy of logits; smoothing as the published codes run it, e / K each."""
    return keras.losses.CategoricalCrossentropy(
        from_logits=True, label_smoothing=recipe.label_smoothing
    )


def metrics() -> list[keras.metrics.Metric]:
    """Top-1 and top-5 accuracy on one-hot labels."""
    return [
        keras.metrics.CategoricalAccuracy(name="top1"),
        keras.metrics.TopKCategoricalAccuracy(5, name="top5"),
    ]
