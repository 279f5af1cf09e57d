"""Nets that are not of this package, for a recipe: built, checked and adapted."""

from __future__ import annotations

import re
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from keras_resnet.backend import keras
from keras_resnet.classifier import Classifier, adapt
from keras_resnet.errors import ModelError, RecipeError
from keras_resnet.recipe import Recipe

# keras.applications' classifiers: what they expect of pixels, and the least side
_APPLICATIONS = {
    r"VGG(16|19)": ("caffe", 32),
    r"ResNet(50|101|152)": ("caffe", 32),
    r"ResNet(50|101|152)V2": ("tf", 32),
    r"DenseNet(121|169|201)": ("torch", 32),
    r"InceptionV3|InceptionResNetV2": ("tf", 75),
    r"Xception": ("tf", 71),
    r"MobileNet|MobileNetV2|NASNetMobile|NASNetLarge": ("tf", 32),
    r"MobileNetV3(Small|Large)": ("included", 32),
    r"EfficientNet(B[0-7]|V2(B[0-3]|[SML]))": ("included", 32),
    r"ConvNeXt(Tiny|Small|Base|Large|XLarge)": ("included", 32),
}
# overrides that are of this package's nets, and may be in a published recipe
_OF_OURS = {"mean", "std", "zero_gamma", "drop_path", "dropout"}

Builder = Callable[[int], Any]  # classes -> a keras.Model


def is_other(recipe: Recipe) -> bool:
    """Whether a recipe's `model` is no variant of this package."""
    return ":" in recipe.model


def build_net(
    recipe: Recipe, classes: int, policy: str, model: Any, preprocessing: Any
) -> Classifier:
    """The net of a recipe, which takes pixels and gives logits.

    Args:
        recipe: its `model` is "applications:NAME", "FILE.py:FUNCTION", or the name of
            `model`.
        classes: of the data.
        policy: the dtype policy.
        model: a keras.Model, or a function from classes to one; None: as the recipe
            says.
        preprocessing: as `classifier.adapt` has it; None: the recipe's, or what is
            known of the application.

    Raises:
        RecipeError, ModelError: naming what is wrong and what to do.
    """
    known = None
    if model is None:
        model, known = _named(recipe)
    if preprocessing is None:
        preprocessing = recipe.preprocessing or known
    net = model if isinstance(model, keras.Model) else _built(model, classes, recipe)
    # without the folder of a user's file
    variant = re.sub(r"[^\w.:-]", "_", recipe.model.rpartition("/")[2])
    adapted = adapt(net, classes, preprocessing, variant, policy)
    sides = {recipe.train_size, recipe.test_size or recipe.train_size}
    sides |= {*recipe.progressive_sizes}
    fixed = {side for side in adapted.input_shape[1:3] if side is not None}
    if fixed and fixed != sides:
        raise RecipeError(
            f"train_size={recipe.train_size}, test_size={recipe.test_size}, "
            f"progressive_sizes={recipe.progressive_sizes}: {recipe.model} takes "
            f"{' x '.join(map(str, adapted.input_shape[1:3]))} pixels; give that "
            "size alone, or build it for any size"
        )
    return adapted


def _built(builder: Builder, classes: int, recipe: Recipe) -> Any:
    """What a builder makes; its failure, such as of a download, as one line."""
    try:
        return builder(classes)
    except Exception as error:  # of a user's code, or of Keras's downloads
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ModelError(
            f"model={recipe.model!r}: cannot be built for {classes} classes ({reason})"
        ) from error


def check(recipe: Recipe) -> None:
    """Refuses fields that only nets of this package can have, and notes others.

    Raises:
        RecipeError: naming the field and what to do.
    """
    refused = {
        "weights": "load them where the model is built",
        "stage_rates": "it has no stages of known names",
        "freeze_statistics": "set `trainable` of its layers instead",
        "remat": "use a larger `accumulate`, which takes less memory too",
    }
    for name, remedy in refused.items():
        if value := getattr(recipe, name):
            raise RecipeError(f"{name}={value!r}: not for {recipe.model}; {remedy}")
    if unknown := recipe.overrides.keys() - _OF_OURS:
        raise RecipeError(
            f"overrides={recipe.overrides}: {', '.join(sorted(unknown))} is not for "
            f"{recipe.model}; leave it out"
        )
    notes = [f"overrides {', '.join(sorted(recipe.overrides))}"] * bool(
        recipe.overrides
    )
    if recipe.initializer != "he":
        notes.append(f"initializer={recipe.initializer}")
    if notes:
        print(
            f"{recipe.model}: without {' and '.join(notes)} of the recipe, which are "
            "for this package's nets",
            file=sys.stderr,
        )


def _named(recipe: Recipe) -> tuple[Builder, str | None]:
    """The builder that a recipe's `model` names, and its preprocessing, if known."""
    kind, _, name = recipe.model.rpartition(":")
    if kind != "applications":
        return _from_file(recipe.model, kind, name), None
    found = [
        known for pattern, known in _APPLICATIONS.items() if re.fullmatch(pattern, name)
    ]
    if not found:
        raise RecipeError(
            f"model={recipe.model!r}: must be a classifier of keras.applications, such "
            "as applications:DenseNet121"
        )
    (preprocessing, least), side = found[0], recipe.train_size
    if side < least:
        raise RecipeError(
            f"train_size={side}: {recipe.model} takes {least} pixels at least"
        )

    def builder(classes: int) -> Any:
        return getattr(keras.applications, name)(
            weights=None,
            input_shape=(side, side, 3),
            classes=classes,
            classifier_activation=None,
        )

    return builder, preprocessing


def _from_file(model: str, path: str, name: str) -> Builder:
    """The function of a Python file that the user names, which is run."""
    if not path.endswith(".py"):
        raise RecipeError(
            f"model={model!r}: must be a name of list_models(), applications:NAME, or "
            "FILE.py:FUNCTION; or give the model itself to train.fit"
        )
    if not Path(path).is_file():
        raise RecipeError(f"model={model!r}: no such file")
    function = runpy.run_path(path).get(name)
    if not callable(function):
        raise ModelError(f"model={model!r}: {path} has no function {name}")
    return function
