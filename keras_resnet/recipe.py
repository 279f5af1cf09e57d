"""A run as numbers: Recipe, checked, and both ways through JSON and YAML."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from keras_resnet.errors import RecipeError
from keras_resnet.info import Protocol
from keras_resnet.legacy import addons


def _field(group: str, default: Any, help: str, **limits: Any) -> Any:
    """A field of Recipe with what it is for, and the values that it may have.

    Args:
        group: the heading under which `keras-resnet train --help` lists it.
        default: of the field.
        help: a sentence for a person.
        **limits: `choices`, or `low` and `high`, of which `above` and `below` say that
            the value must not equal them; `example` of a list or a mapping.
    """
    metadata = {"group": group, "help": help, **limits}
    if isinstance(default, dict):
        return field(default_factory=lambda: dict(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Recipe:
    """Everything that a training run depends on but its data.

    Section numbers are arXiv 1812.01187's. Zero switches a trick off.
    """

    name: str = _field("run", "bag-of-tricks", "Name of the recipe, for titles.")
    model: str = _field(
        "net",
        "resnet50d",
        "Variant, a name of `keras-resnet list`; applications:NAME, a classifier of "
        "keras.applications; or FILE.py:FUNCTION, which makes a classifier of so many "
        "classes.",
    )
    preprocessing: str = _field(
        "net",
        "",
        "What a net that is not of this package expects of its pixels, as "
        "keras.applications calls it; empty where the net is known.",
        choices=("", "included", "caffe", "tf", "torch"),
    )
    overrides: dict[str, Any] = _field(
        "net",
        {},
        "Fields of ResNetConfig that differ from the variant's.",
        example="{width: 32, drop_path: 0.1}",
    )
    weights: str = _field(
        "net",
        "",
        "Weights to start from: a released tag, hf://owner/name, a run directory or a "
        "file.",
    )
    initializer: str = _field(
        "net",
        "he",
        "How kernels are drawn: timm's (he), the paper's of section 2.1 (xavier), or "
        "the one of GluonCV's script (msra-prelu).",
        choices=("he", "xavier", "msra-prelu"),
    )
    precision: str = _field(
        "net",
        "auto",
        "Dtype policy; auto takes half precision where the machine is fast at it.",
        choices=("auto", "float32", "mixed_float16", "mixed_bfloat16"),
    )
    stage_rates: tuple[float, ...] = _field(
        "optimisation",
        (),
        "Factors of the learning rate for the stem and each stage; 0 freezes one.",
        example="[0, 0, 0.1, 0.1, 1]",
    )
    freeze_statistics: bool = _field(
        "optimisation",
        False,
        "Normalize by the moving statistics, and leave them as they are.",
    )
    train_size: int = _field(
        "augmentation", 224, "Side of training pictures, in pixels (2.1).", low=1
    )
    train_interpolation: str = _field(
        "augmentation",
        "bilinear",
        "Interpolation of training pictures.",
        choices=("bilinear", "bicubic"),
    )
    train_antialias: bool = _field(
        "augmentation",
        False,
        "Antialias when shrinking, as Pillow does and the paper's OpenCV does not.",
    )
    min_area: float = _field(
        "augmentation",
        0.08,
        "Smallest share of the picture that a random crop takes; 1 takes no crop.",
        low=0,
        high=1,
        above=True,
    )
    max_aspect: float = _field(
        "augmentation",
        4 / 3,
        "Largest width over height of that crop, and of its inverse.",
        low=1,
    )
    scales: tuple[int, ...] = _field(
        "augmentation",
        (),
        "Least and most pixels of the short side before the crop (arXiv 1409.1556).",
        example="[256, 480]",
    )
    flip: float = _field(
        "augmentation", 0.5, "Probability of a horizontal flip.", low=0, high=1
    )
    colour: float = _field(
        "augmentation",
        0.4,
        "Colour factors are drawn from 1 - this to 1 + this.",
        low=0,
        high=1,
    )
    colours: str = _field(
        "augmentation",
        "hue-saturation-brightness",
        "Which colour factors are drawn.",
        choices=("hue-saturation-brightness", "brightness-contrast-saturation"),
    )
    lighting: float = _field(
        "augmentation",
        0.1,
        "Standard deviation of the coefficients of the PCA noise.",
        low=0,
    )
    mixup: float = _field(
        "augmentation", 0.2, "Alpha of mixup's Beta(alpha, alpha) (5.4).", low=0
    )
    # above the paper
    rand_augment: float = _field(
        "augmentation",
        0.0,
        'Magnitude of RandAugment (arXiv 1909.13719, timm\'s "inc1" operations).',
        low=0,
        high=10,
    )
    rand_augment_ops: int = _field(
        "augmentation", 2, "Operations of RandAugment on a picture.", low=1
    )
    rand_augment_std: float = _field(
        "augmentation", 0.5, "Standard deviation of that magnitude.", low=0
    )
    erasing: float = _field(
        "augmentation",
        0.0,
        "Probability that a rectangle becomes noise (arXiv 1708.04896).",
        low=0,
        high=1,
    )
    cutmix: float = _field(
        "augmentation",
        0.0,
        "Alpha of CutMix (arXiv 1905.04899); with mixup, each takes half of the "
        "batches.",
        low=0,
    )
    repeats: int = _field(
        "data",
        1,
        "Times that a picture is in a batch, each augmented anew (arXiv 1902.05509).",
        low=1,
    )
    test_size: int = _field(
        "evaluation",
        224,
        "Side of evaluation pictures, in pixels; 0 takes the one of the weights.",
        low=0,
    )
    crop_pct: float = _field(
        "evaluation",
        0.875,
        "Share of the resized short side that is cropped; 0 takes the one of the "
        "weights.",
        low=0,
        high=1,
    )
    interpolation: str = _field(
        "evaluation",
        "bicubic",
        "Antialiased interpolation of evaluation pictures; empty takes the one of the "
        "weights.",
        choices=("bilinear", "bicubic", ""),
    )
    optimizer: str = _field(
        "optimisation",
        "sgd",
        "CoupledSGD (sgd), AdamW (arXiv 1711.05101) or LAMB (arXiv 1904.00962); or one "
        "of TensorFlow Addons' where that is installed, such as tfa.AdamW.",
        choices=("sgd", "adamw", "lamb"),
    )
    batch_size: int = _field("data", 256, "Pictures of a step.", low=1)
    accumulate: int = _field(
        "optimisation",
        1,
        "Parts in which a batch is computed, to take less memory.",
        low=1,
    )
    epochs: int = _field(
        "optimisation", 200, "Passes over the training pictures.", low=1
    )
    base_rate: float = _field(
        "optimisation",
        0.1,
        "Learning rate for a batch of 256, to which others are scaled linearly.",
        low=0,
    )
    warmup_epochs: float = _field(
        "optimisation", 5.0, "Epochs of linear warm-up from a rate of 0.", low=0
    )
    schedule: str = _field(
        "optimisation",
        "cosine",
        "How the rate falls: by half a cosine, at --boundaries (steps), or where top-1 "
        "stalls (plateau).",
        choices=("cosine", "steps", "plateau"),
    )
    final_rate: float = _field(
        "optimisation",
        0.0,
        "Rate at which the cosine ends, whatever the batch.",
        low=0,
    )
    boundaries: tuple[int, ...] = _field(
        "optimisation",
        (),
        "Epochs at which the schedule steps divides the rate by 10.",
        example="[30, 60, 80]",
    )
    patience: int = _field(
        "optimisation",
        5,
        "Epochs without a better top-1 after which plateau divides the rate by 10.",
        low=1,
    )
    momentum: float = _field(
        "optimisation", 0.9, "Momentum of SGD.", low=0, high=1, below=True
    )
    nesterov: bool = _field("optimisation", True, "Nesterov's momentum in SGD.")
    betas: tuple[float, ...] = _field(
        "optimisation",
        (0.9, 0.999),
        "Decays of the two moments of AdamW and LAMB.",
        example="[0.9, 0.99]",
    )
    weight_decay: float = _field(
        "regularisation",
        1e-4,
        "Factor of the weights in the gradient (SGD) or the direction (AdamW, LAMB).",
        low=0,
    )
    decay: str = _field(
        "regularisation",
        "kernels",
        "What decays: kernels, or all (biases, gammas and betas too).",
        choices=("kernels", "all"),
    )
    ema: float = _field(
        "optimisation",
        0.0,
        "Decay in a step of a moving average of the weights, such as 0.9999.",
        low=0,
        high=1,
        below=True,
    )
    loss: str = _field(
        "regularisation",
        "cross-entropy",
        "The loss; binary-cross-entropy is that of arXiv 2110.00476.",
        choices=("cross-entropy", "binary-cross-entropy"),
    )
    label_smoothing: float = _field(
        "regularisation",
        0.1,
        "Share of a label that is spread over the classes (5.2).",
        low=0,
        high=1,
        below=True,
    )
    smoothing: str = _field(
        "regularisation",
        "all-classes",
        "Spread it over all classes, e / K, as codes do; or over the others, "
        "e / (K - 1), as section 5.2 does.",
        choices=("all-classes", "other-classes"),
    )
    binary_threshold: float = _field(
        "regularisation",
        0.0,
        "Mixed labels above it count as present in the binary loss; 0 leaves them as "
        "they are mixed.",
        low=0,
        high=1,
        below=True,
    )
    teacher: str = _field(
        "regularisation",
        "",
        "Teacher of a distillation (5.3): a run directory, a .keras file, or "
        "variant:weights.",
    )
    temperature: float = _field(
        "regularisation",
        0.0,
        "Temperature of the distillation, such as 20.",
        low=0,
    )
    distillation: str = _field(
        "regularisation",
        "paper",
        "Weights of the two losses: 1 and T^2 (paper), or half of each as GluonCV's "
        "script (gluon).",
        choices=("paper", "gluon"),
    )
    teacher_size: int = _field(
        "regularisation",
        0,
        "Side of the pictures that the teacher sees, in pixels; 0 is train_size.",
        low=0,
    )
    validate_every: int = _field(
        "evaluation", 1, "Epochs from one validation to the next.", low=1
    )
    eval_batch_size: int = _field(
        "evaluation",
        0,
        "Pictures at a time in validation; 0 takes as many as a part of a batch.",
        low=0,
    )
    monitor: str = _field(
        "evaluation",
        "val_top1",
        "Measure that makes an epoch the best; val_ema_top1 is the moving average's.",
        choices=("val_top1", "val_ema_top1"),
    )
    early_stopping: int = _field(
        "run",
        0,
        "Epochs without a better monitor after which the run ends; 0 never ends it.",
        low=0,
    )
    max_bad_examples: int = _field(
        "data", 0, "Pictures that cannot be decoded and may be left out.", low=0
    )
    seed: int = _field(
        "run",
        0,
        "Seed of weights, order and augmentation.",
        low=0,
        high=2**32 - 1,  # what NumPy's generators take
    )

    def __post_init__(self) -> None:
        if self.colour == addons.YIQ:  # says what is done, and not how strongly
            addons.check("colour", self.colour)
            object.__setattr__(self, "colour", type(self).colour)
            object.__setattr__(self, "colours", addons.YIQ)
        for f in dataclasses.fields(self):
            object.__setattr__(self, f.name, _typed(f.name, getattr(self, f.name)))
            _check_limits(f.name, getattr(self, f.name), f.metadata)
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

    def replace(self, **fields: Any) -> Recipe:
        """A copy with other values; an unknown field is a RecipeError that names it."""
        _check_names(fields)
        return dataclasses.replace(self, **fields)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as JSON and YAML hold them."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Recipe:
        """The opposite of `to_dict`; unknown and ill-typed fields are refused."""
        _check_names(values)
        return cls(**values)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Recipe:
        """A recipe from a .json, .yaml or .yml file."""
        path = Path(path)
        try:  # YAML holds JSON
            values = read_yaml(path.read_text())
        except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
            raise RecipeError(f"{path}: not a readable recipe: {error}") from error
        if not isinstance(values, dict):
            raise RecipeError(f"{path}: must hold a mapping of Recipe fields")
        return cls.from_dict(values)


def read_yaml(text: str) -> Any:
    """A YAML or JSON text's value, 1e-4 a number; yaml.YAMLError if it is neither."""
    return yaml.load(text, _Loader)


class _Loader(yaml.SafeLoader):
    """YAML 1.1 takes a number such as 1e-4, without a point, for a word."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"),
    list("-+0123456789"),
)
_OF_ADDONS = ("optimizer", "colours")  # may name a `tfa.` piece instead


def _typed(name: str, value: Any) -> Any:
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


def _check_limits(name: str, value: Any, limits: Mapping[str, Any]) -> None:
    """Refuses a value that is none of a field's `choices`, or out of its range."""
    if "choices" in limits:
        if name in _OF_ADDONS and value.startswith("tfa."):
            addons.check(name, value)
        elif value not in limits["choices"]:
            raise RecipeError(f"{name}={value!r}: must be one of {limits['choices']}")
    if "low" not in limits:
        return
    low, high = limits["low"], limits.get("high", math.inf)
    above, below = limits.get("above", False), limits.get("below", high == math.inf)
    is_inside = (low < value if above else low <= value) and (
        value < high if below else value <= high
    )
    if not is_inside:
        interval = f"{'(' if above else '['}{low}, {high}{')' if below else ']'}"
        raise RecipeError(f"{name}={value!r}: must be in {interval}")


def _check_together(recipe: Recipe) -> None:
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
    if len(recipe.betas) != 2 or any(not 0 <= beta < 1 for beta in recipe.betas):
        raise RecipeError(f"betas={recipe.betas}: must be two numbers in [0, 1)")
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


def _check_names(values: object) -> None:
    if not isinstance(values, dict):
        raise RecipeError(f"{values!r}: must be a mapping of Recipe fields")
    if unknown := sorted(values.keys() - FIELD_TYPES.keys(), key=str):
        raise RecipeError(
            f"unknown recipe field {', '.join(map(repr, unknown))}: must be one of "
            f"{', '.join(FIELD_TYPES)}"
        )


FIELD_TYPES = typing.get_type_hints(Recipe)
