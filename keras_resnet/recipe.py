"""Recipe, the hyperparameters of a training run, with checks and file formats."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from keras_resnet.errors import RecipeError
from keras_resnet.info import Protocol
from keras_resnet.legacy import addons
from keras_resnet.tasks import TASKS

MONITORS = tuple(
    prefix + task.measure for prefix in ("val_", "val_ema_") for task in TASKS.values()
)


def _field(group: str, default: Any, help: str, **limits: Any) -> Any:
    """A field of Recipe with its help text and its allowed values.

    Args:
        group: the heading under which `keras-resnet train --help` lists the field.
        default: the default value of the field.
        help: the help text of the field's option.
        **limits: `choices`, the allowed strings; or `low` and `high`, the range of a
            number, with `above=True` to exclude `low` and `below=True` to exclude
            `high`. `example` is a list or a mapping to show in the help text.
    """
    metadata = {"group": group, "help": help, **limits}
    if isinstance(default, dict):
        return field(default_factory=lambda: dict(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Recipe:
    """Everything except the data that determines a training run.

    Section numbers in the help texts are those of arXiv 1812.01187. The value 0 turns a
    trick off. The help text of a field describes it.

    Raises:
        RecipeError: for a value of the wrong type, out of its range, or that does not
            fit the value of another field.
    """

    name: str = _field("run", "bag-of-tricks", "Name of the recipe, shown in titles.")
    task: str = _field(
        "run",
        "classify",
        "What to train for: classes of images, boxes of objects (detect), or the class "
        "of each pixel (segment); the recipe transfer is for the last two.",
        choices=tuple(TASKS),
    )
    model: str = _field(
        "net",
        "resnet50d",
        "Variant: a name that `keras-resnet list` prints; applications:NAME, a "
        "classifier of keras.applications; or FILE.py:FUNCTION, a function that makes "
        "a classifier for a number of classes.",
    )
    preprocessing: str = _field(
        "net",
        "",
        "What a net that is not of this package expects of its pixels, as "
        "keras.applications calls it; empty if the net is known.",
        choices=("", "included", "caffe", "tf", "torch"),
    )
    overrides: dict[str, Any] = _field(
        "net",
        {},
        "Fields of ResNetConfig to change in the variant.",
        example="{width: 32, drop_path: 0.1}",
    )
    weights: str = _field(
        "net",
        "",
        "Weights to start from: the tag of released weights, hf://owner/name, a run "
        "directory or a file.",
    )
    initializer: str = _field(
        "net",
        "he",
        "Initializer of the kernels: that of timm (he), of section 2.1 (xavier), or of "
        "GluonCV's script (msra-prelu).",
        choices=("he", "xavier", "msra-prelu"),
    )
    precision: str = _field(
        "net",
        "auto",
        "Dtype policy; auto uses half precision on hardware that is fast at it.",
        choices=("auto", "float32", "mixed_float16", "mixed_bfloat16"),
    )
    stage_rates: tuple[float, ...] = _field(
        "optimization",
        (),
        "Factors of the learning rate of the stem and each stage; 0 freezes it.",
        example="[0, 0, 0.1, 0.1, 1]",
    )
    freeze_statistics: bool = _field(
        "optimization",
        False,
        "Normalize with the moving statistics in training, and do not update them.",
    )
    batch_statistics: str = _field(
        "optimization",
        "auto",
        "On several devices, normalize by the statistics of each device's images "
        "(per-device, on TensorFlow alone) or of the whole batch (synchronized); auto "
        "does what the backend is made for.",
        choices=("auto", "per-device", "synchronized"),
    )
    train_size: int = _field(
        "augmentation", 224, "Side of training images, in pixels (2.1).", low=1
    )
    progressive_sizes: tuple[int, ...] = _field(
        "augmentation",
        (),
        "Smaller sides of training images to begin with, in pixels (arXiv 2104.00298); "
        "these and train_size share the epochs equally.",
        example="[128, 176]",
    )
    train_interpolation: str = _field(
        "augmentation",
        "bilinear",
        "Interpolation of training images.",
        choices=("bilinear", "bicubic"),
    )
    train_antialias: bool = _field(
        "augmentation",
        False,
        "Antialias when shrinking, as Pillow does; the paper's OpenCV does not.",
    )
    scaled_decode: bool = _field(
        "augmentation",
        True,
        "Decode large JPEGs at 1/2, 1/4 or 1/8 of their size where the crop then is at "
        "least train_size still; in classification, and for training alone.",
    )
    min_area: float = _field(
        "augmentation",
        0.08,
        "Smallest fraction of the image area in a random crop; 1 does not crop.",
        low=0,
        high=1,
        above=True,
    )
    max_aspect: float = _field(
        "augmentation",
        4 / 3,
        "Largest aspect ratio of the random crop; the smallest is its inverse.",
        low=1,
    )
    scales: tuple[int, ...] = _field(
        "augmentation",
        (),
        "Smallest and largest short side before the crop, in pixels (arXiv 1409.1556).",
        example="[256, 480]",
    )
    scale_jitter: tuple[float, ...] = _field(
        "augmentation",
        (),
        "Smallest and largest factor of the size of images in detection and "
        "segmentation (arXiv 2012.07177), relative to the size that fits; none: 1.",
        example="[0.5, 2]",
    )
    flip: float = _field(
        "augmentation", 0.5, "Probability of a horizontal flip.", low=0, high=1
    )
    colour: float = _field(
        "augmentation",
        0.4,
        "Color factors are drawn between 1 minus this value and 1 plus this value.",
        low=0,
        high=1,
    )
    colours: str = _field(
        "augmentation",
        "hue-saturation-brightness",
        "Which color factors are drawn.",
        choices=("hue-saturation-brightness", "brightness-contrast-saturation"),
    )
    lighting: float = _field(
        "augmentation",
        0.1,
        "Standard deviation of the coefficients of the PCA lighting noise.",
        low=0,
    )
    mixup: float = _field(
        "augmentation", 0.2, "Alpha of mixup's Beta(alpha, alpha) (5.4).", low=0
    )
    # not in the paper
    rand_augment: float = _field(
        "augmentation",
        0.0,
        'Magnitude of RandAugment (arXiv 1909.13719, timm\'s "inc1" operations).',
        low=0,
        high=10,
    )
    rand_augment_ops: int = _field(
        "augmentation", 2, "Number of RandAugment operations on each image.", low=1
    )
    rand_augment_std: float = _field(
        "augmentation",
        0.5,
        "Standard deviation of the magnitude of RandAugment.",
        low=0,
    )
    erasing: float = _field(
        "augmentation",
        0.0,
        "Probability of random erasing, of a rectangle with noise (arXiv 1708.04896).",
        low=0,
        high=1,
    )
    cutmix: float = _field(
        "augmentation",
        0.0,
        "Alpha of CutMix (arXiv 1905.04899); with mixup, each is applied to half of "
        "the batches.",
        low=0,
    )
    repeats: int = _field(
        "data",
        1,
        "Copies of each image in a batch, augmented independently (arXiv 1902.05509).",
        low=1,
    )
    test_size: int = _field(
        "evaluation",
        224,
        "Side of evaluation images, in pixels; 0 takes that of the weights.",
        low=0,
    )
    crop_pct: float = _field(
        "evaluation",
        0.875,
        "Side of the evaluation crop, as a fraction of the resized short side; 0 takes "
        "that of the weights.",
        low=0,
        high=1,
    )
    interpolation: str = _field(
        "evaluation",
        "bicubic",
        "Antialiased interpolation of evaluation images; empty takes that of the "
        "weights.",
        choices=("bilinear", "bicubic", ""),
    )
    optimizer: str = _field(
        "optimization",
        "sgd",
        "CoupledSGD (sgd), AdamW (adamw, arXiv 1711.05101) or LAMB (lamb, arXiv "
        "1904.00962); or, if TensorFlow Addons is installed, one of its optimizers, "
        "such as tfa.AdamW.",
        choices=("sgd", "adamw", "lamb"),
    )
    batch_size: int = _field("data", 256, "Images in a training step.", low=1)
    accumulate: int = _field(
        "optimization",
        1,
        "Number of parts in which a batch is processed, to take less memory.",
        low=1,
    )
    remat: str = _field(
        "optimization",
        "",
        "Compute the activations within the blocks of the stages again in the backward "
        "pass (arXiv 1604.06174), to take less memory and more time.",
        choices=("", "stages"),
    )
    epochs: int = _field("optimization", 200, "Passes over the training images.", low=1)
    base_rate: float = _field(
        "optimization",
        0.1,
        "Learning rate at a batch size of 256; it is scaled linearly to batch_size.",
        low=0,
    )
    warmup_epochs: float = _field(
        "optimization", 5.0, "Epochs of linear warm-up from a rate of 0.", low=0
    )
    schedule: str = _field(
        "optimization",
        "cosine",
        "How the learning rate falls: along half a cosine, at --boundaries (steps), or "
        "when top-1 stops improving (plateau).",
        choices=("cosine", "steps", "plateau"),
    )
    final_rate: float = _field(
        "optimization",
        0.0,
        "Learning rate at the end of the cosine, not scaled to batch_size.",
        low=0,
    )
    boundaries: tuple[int, ...] = _field(
        "optimization",
        (),
        "Epochs at which the schedule steps divides the learning rate by 10.",
        example="[30, 60, 80]",
    )
    patience: int = _field(
        "optimization",
        5,
        "Epochs without a better top-1 after which plateau divides the rate by 10.",
        low=1,
    )
    momentum: float = _field(
        "optimization", 0.9, "Momentum of SGD.", low=0, high=1, below=True
    )
    nesterov: bool = _field("optimization", True, "Use Nesterov momentum in SGD.")
    betas: tuple[float, ...] = _field(
        "optimization",
        (0.9, 0.999),
        "Decay rates of the two moments of AdamW and LAMB.",
        example="[0.9, 0.99]",
    )
    weight_decay: float = _field(
        "regularization",
        1e-4,
        "Factor of the weights, added to SGD's gradient or AdamW's or LAMB's update.",
        low=0,
    )
    decay: str = _field(
        "regularization",
        "kernels",
        "Which variables decay: kernels, or all (biases, gammas and betas too).",
        choices=("kernels", "all"),
    )
    clip_norm: float = _field(
        "optimization",
        0.0,
        "Largest norm of all gradients together; larger ones are scaled down. 0: no "
        "limit.",
        low=0,
    )
    ema: float = _field(
        "optimization",
        0.0,
        "Decay per step of a moving average of the weights, such as 0.9999.",
        low=0,
        high=1,
        below=True,
    )
    loss: str = _field(
        "regularization",
        "cross-entropy",
        "Loss function; binary-cross-entropy is that of arXiv 2110.00476.",
        choices=("cross-entropy", "binary-cross-entropy"),
    )
    class_weights: str | dict[str, Any] = _field(
        "regularization",
        "",
        "Weight of each class in the training loss: balanced for the inverse of its "
        "share of the images, or numbers by class name, 1 for the others.",
        choices=("", "balanced"),
        example="{rare: 4}",
    )
    label_smoothing: float = _field(
        "regularization",
        0.1,
        "Fraction e of a label that is spread over the classes (5.2).",
        low=0,
        high=1,
        below=True,
    )
    smoothing: str = _field(
        "regularization",
        "all-classes",
        "Spread it over all K classes, e / K, as implementations do, or over the "
        "others, e / (K - 1), as in section 5.2.",
        choices=("all-classes", "other-classes"),
    )
    binary_threshold: float = _field(
        "regularization",
        0.0,
        "Threshold above which mixed labels become 1 in the binary loss; 0 keeps the "
        "mixed labels.",
        low=0,
        high=1,
        below=True,
    )
    teacher: str = _field(
        "regularization",
        "",
        "Teacher for distillation (5.3): a run directory, a .keras file, or "
        "variant:weights.",
    )
    temperature: float = _field(
        "regularization",
        0.0,
        "Temperature of distillation, such as 20.",
        low=0,
    )
    distillation: str = _field(
        "regularization",
        "paper",
        "Weights of the two losses: 1 and T^2 (paper), or half of each, as in the "
        "script of GluonCV (gluon).",
        choices=("paper", "gluon"),
    )
    teacher_size: int = _field(
        "regularization",
        0,
        "Side of the teacher's input images, in pixels; 0 takes train_size.",
        low=0,
    )
    validate_every: int = _field(
        "evaluation", 1, "Number of epochs between validations.", low=1
    )
    eval_batch_size: int = _field(
        "evaluation",
        0,
        "Images in a validation batch; 0 takes batch_size / accumulate.",
        low=0,
    )
    monitor: str = _field(
        "evaluation",
        "val_top1",
        "Metric that selects the best epoch, val_map for detection and val_mean_iou "
        "for segmentation; val_ema_top1 and so on are of the moving average.",
        choices=MONITORS,
    )
    early_stopping: int = _field(
        "run",
        0,
        "Epochs without a better monitored metric that end training early; 0: never.",
        low=0,
    )
    sampling: str = _field(
        "data",
        "shuffled",
        "The images of an epoch: each once (shuffled), or as many of each class, those "
        "of rare classes several times (balanced).",
        choices=("shuffled", "balanced"),
    )
    max_bad_examples: int = _field(
        "data", 0, "How many images that cannot be decoded may be left out.", low=0
    )
    seed: int = _field(
        "run",
        0,
        "Seed of the initial weights, the order of images and the augmentation.",
        low=0,
        high=2**32 - 1,  # the largest seed that NumPy's generators take
    )

    def __post_init__(self) -> None:
        if self.colour == addons.YIQ:  # names the operation, not its strength
            addons.check("colour", self.colour)
            object.__setattr__(self, "colour", type(self).colour)
            object.__setattr__(self, "colours", addons.YIQ)
        for f in dataclasses.fields(self):
            object.__setattr__(self, f.name, checked(f.name, getattr(self, f.name)))
        if self.monitor == type(self).monitor:  # each task has its own
            object.__setattr__(self, "monitor", f"val_{TASKS[self.task].measure}")
        _check_together(self)
        if self.task != "classify":
            _check_transfer(self)

    @property
    def protocol(self) -> Protocol:
        """How evaluation preprocesses images.

        Raises:
            RecipeError: if a part of it is to be taken from the weights.
        """
        if not self.names_protocol:
            raise RecipeError(
                f"test_size={self.test_size}, crop_pct={self.crop_pct}, "
                f"interpolation={self.interpolation!r}: 0 and '' are taken from "
                f"weights={self.weights!r}; give all three to do without the weights"
            )
        return Protocol(self.test_size, self.crop_pct, self.interpolation)

    @property
    def names_protocol(self) -> bool:
        """Whether the recipe gives all of the protocol, and takes none from weights."""
        return bool(self.test_size and self.crop_pct and self.interpolation)

    def size_in(self, epoch: int) -> int:
        """The side of training images in an epoch, counted from 0, in pixels."""
        sizes = (*self.progressive_sizes, self.train_size)
        return sizes[epoch * len(sizes) // self.epochs]

    def replace(self, **fields: Any) -> Recipe:
        """A copy with other values; a RecipeError for unknown fields or bad values."""
        _check_names(fields)
        if "task" in fields:  # each task has a monitor of its own
            fields = {"monitor": type(self).monitor, **fields}
        return dataclasses.replace(self, **fields)

    def to_dict(self) -> dict[str, Any]:
        """{field: value}, with values that JSON and YAML can hold."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Recipe:
        """The inverse of `to_dict`; a RecipeError for unknown fields or bad values."""
        _check_names(values)
        return cls(**values)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Recipe:
        """A recipe from a .json, .yaml or .yml file.

        A .json file without a field of `BEFORE` was written before that field.
        """
        path = Path(path)
        try:  # JSON is YAML too
            values = read_yaml(path.read_text())
        except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
            raise RecipeError(f"{path}: not a readable recipe: {error}") from error
        if not isinstance(values, dict):
            raise RecipeError(f"{path}: must hold a mapping of Recipe fields")
        if path.suffix == ".json":
            values = BEFORE | values
        return cls.from_dict(values)


def read_yaml(text: str) -> Any:
    """The value of a YAML or JSON text; yaml.YAMLError if it is neither."""
    return yaml.load(text, _Loader)


class _Loader(yaml.SafeLoader):
    """A loader that reads 1e-4 as a number; in YAML 1.1 it is a string."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"),
    list("-+0123456789"),
)
# what was done before there was a field, where its default does otherwise
BEFORE = types.MappingProxyType({"scaled_decode": False})
# fields that may also name a part of TensorFlow Addons, such as "tfa.AdamW"
_OF_ADDONS = ("optimizer", "colours")


def checked(name: str, value: Any) -> Any:
    """The value of a field as the field's type; RecipeError if it cannot have it."""
    _check_names({name: value})
    value = _typed(name, value)
    _check_limits(name, value, Recipe.__dataclass_fields__[name].metadata)
    return value


def _typed(name: str, value: Any) -> Any:
    """The value converted to the type of the field; RecipeError if it cannot be."""
    kind = FIELD_TYPES[name]
    if typing.get_origin(kind) is tuple:
        inner = typing.get_args(kind)[0]
        noun = "integers" if inner is int else "numbers"
        allowed = {int} if inner is int else {int, float}
        if not isinstance(value, (list, tuple)) or {*map(type, value)} - allowed:
            raise RecipeError(f"{name}={value!r}: must be a list of {noun}")
        return tuple(map(inner, value))
    if kind is float and type(value) is int:
        return float(value)
    if isinstance(kind, types.UnionType):  # a word or a mapping
        kind = str if isinstance(value, str) else dict
    kind = typing.get_origin(kind) or kind
    if not isinstance(value, kind) or (kind is int and type(value) is bool):
        raise RecipeError(f"{name}={value!r}: must be {kind.__name__}")
    if kind is not dict:
        return value
    try:  # a copy, and the same values as after saving and reading a file
        return json.loads(json.dumps(value))
    except (TypeError, ValueError) as error:
        raise RecipeError(f"{name}={value!r}: must be JSON-serializable") from error


def _check_limits(name: str, value: Any, limits: Mapping[str, Any]) -> None:
    """Raises a RecipeError for a value outside a field's `choices` or range."""
    if "choices" in limits:
        if name in _OF_ADDONS and value.startswith("tfa."):
            addons.check(name, value)
        elif not isinstance(value, dict) and value not in limits["choices"]:
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
    """Raises a RecipeError for values of several fields that do not fit together."""
    low = recipe.train_size
    if recipe.scales and not (
        len(recipe.scales) == 2 and low <= recipe.scales[0] <= recipe.scales[1]
    ):
        raise RecipeError(
            f"scales={recipe.scales}: must be empty, or the smallest and the largest "
            f"short side in pixels, at least train_size={low}"
        )
    sizes = (0, *recipe.progressive_sizes, low)
    if list(sizes) != sorted({*sizes}) or len(sizes) - 1 > recipe.epochs:
        raise RecipeError(
            f"progressive_sizes={recipe.progressive_sizes}: must be empty, or rising "
            f"sides in pixels below train_size={low}, fewer than epochs={recipe.epochs}"
        )
    if recipe.warmup_epochs >= recipe.epochs:
        raise RecipeError(
            f"warmup_epochs={recipe.warmup_epochs}: must be less than "
            f"epochs={recipe.epochs}"
        )
    if list(recipe.boundaries) != sorted({*recipe.boundaries}):
        raise RecipeError(f"boundaries={recipe.boundaries}: must be increasing")
    if min(recipe.boundaries, default=1) < 1:
        raise RecipeError(f"boundaries={recipe.boundaries}: must each be at least 1")
    if recipe.schedule == "plateau" and (
        recipe.warmup_epochs or recipe.validate_every > 1
    ):
        raise RecipeError(
            f"schedule='plateau', warmup_epochs={recipe.warmup_epochs}, validate_every="
            f"{recipe.validate_every}: plateau needs warmup_epochs=0, validate_every=1"
        )
    if recipe.batch_size % recipe.accumulate:
        raise RecipeError(
            f"accumulate={recipe.accumulate}: must divide "
            f"batch_size={recipe.batch_size}"
        )
    if len(recipe.betas) != 2 or any(not 0 <= beta < 1 for beta in recipe.betas):
        raise RecipeError(f"betas={recipe.betas}: must be two numbers in [0, 1)")
    if any(not 0 <= rate < math.inf for rate in recipe.stage_rates):
        raise RecipeError(f"stage_rates={recipe.stage_rates}: must each be in [0, inf)")
    if bool(recipe.teacher) != bool(recipe.temperature):
        raise RecipeError(
            f"teacher={recipe.teacher!r}, temperature={recipe.temperature}: "
            "distillation needs both, such as teacher='resnet152d:imagenet' and "
            "temperature=20"
        )
    if recipe.teacher_size and not recipe.teacher:
        raise RecipeError(
            f"teacher_size={recipe.teacher_size}: needs a teacher; give one"
        )
    measure = TASKS[recipe.task].measure
    if recipe.monitor.removeprefix("val_").removeprefix("ema_") != measure:
        raise RecipeError(
            f"monitor={recipe.monitor!r}, task={recipe.task!r}: must be val_{measure} "
            f"or val_ema_{measure} for this task"
        )
    if recipe.monitor.startswith("val_ema_") and not recipe.ema:
        raise RecipeError(
            f"monitor={recipe.monitor!r}, ema=0.0: needs a moving average; give ema, "
            "such as 0.9999"
        )
    if recipe.scale_jitter and recipe.task == "classify":
        raise RecipeError(
            f"scale_jitter={recipe.scale_jitter}: for detection and segmentation; "
            "min_area or scales of task='classify'"
        )
    if recipe.scale_jitter and not (
        len(recipe.scale_jitter) == 2
        and 0 < recipe.scale_jitter[0] <= recipe.scale_jitter[1] < math.inf
    ):
        raise RecipeError(
            f"scale_jitter={recipe.scale_jitter}: must be empty, or the smallest and "
            "the largest factor, above 0"
        )
    if recipe.binary_threshold and recipe.loss != "binary-cross-entropy":
        raise RecipeError(
            f"binary_threshold={recipe.binary_threshold}, loss={recipe.loss!r}: needs "
            "loss='binary-cross-entropy'"
        )
    weights = recipe.class_weights
    for name, weight in weights.items() if isinstance(weights, dict) else ():
        if type(weight) not in (int, float) or not 0 < weight < math.inf:
            raise RecipeError(
                f"class_weights={weights}: the weight of {name!r} must be a number "
                "above 0"
            )
    if weights and recipe.binary_threshold:
        raise RecipeError(
            f"class_weights={weights!r}, binary_threshold={recipe.binary_threshold}: "
            "labels above a threshold have no weights; give binary_threshold=0, or "
            "sampling='balanced' in place of class_weights"
        )
    if not (recipe.names_protocol or recipe.weights):
        raise RecipeError(
            f"test_size={recipe.test_size}, crop_pct={recipe.crop_pct}, "
            f"interpolation={recipe.interpolation!r}: 0 and '' are taken from weights, "
            "and weights=''; give all three, such as 224, 0.875 and 'bicubic'"
        )


# what classification alone has
_OF_LABELS = (
    "mixup",
    "cutmix",
    "rand_augment",
    "erasing",
    "scales",
    "progressive_sizes",
    "class_weights",
    "label_smoothing",
    "teacher",
    "teacher_size",
)


def _check_transfer(recipe: Recipe) -> None:
    """Raises a RecipeError for fields that detection and segmentation cannot have."""
    wrong = [f"{name}={it!r}" for name in _OF_LABELS if (it := getattr(recipe, name))]
    if recipe.loss != "cross-entropy":
        wrong.append(f"loss={recipe.loss!r}")
    if recipe.repeats != 1:
        wrong.append(f"repeats={recipe.repeats}")
    if recipe.sampling != "shuffled":
        wrong.append(f"sampling={recipe.sampling!r}")
    if recipe.optimizer.startswith("tfa."):
        wrong.append(f"optimizer={recipe.optimizer!r}")
    if wrong:
        raise RecipeError(
            f"{', '.join(wrong)}: for classification alone, not for "
            f"task={recipe.task!r}; begin with the recipe transfer"
        )
    if recipe.train_size % 32 or recipe.test_size % 32:
        raise RecipeError(
            f"train_size={recipe.train_size}, test_size={recipe.test_size}: must be "
            f"multiples of 32 for task={recipe.task!r}"
        )
    if recipe.task == "detect" and recipe.train_size != recipe.test_size:
        raise RecipeError(
            f"train_size={recipe.train_size}, test_size={recipe.test_size}: must be "
            "equal for task='detect', as a detector takes one size"
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
