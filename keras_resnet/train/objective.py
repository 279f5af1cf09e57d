"""Builds the optimizer, loss, class weights and metrics of a recipe."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_resnet.backend import keras, ops
from keras_resnet.data.splits import Source
from keras_resnet.data.transforms.letterbox import IGNORED
from keras_resnet.errors import RecipeError
from keras_resnet.legacy import addons
from keras_resnet.optimizers import (
    AdamW,
    CoupledSGD,
    Lamb,
    WarmupCosine,
    WarmupSteps,
)
from keras_resnet.recipe import Recipe


def optimizer(recipe: Recipe, steps_per_epoch: int) -> keras.optimizers.Optimizer:
    """Returns the recipe's optimizer with its learning rate schedule.

    Args:
        recipe: a Recipe.
        steps_per_epoch: the number of batches in an epoch, before they are split by
            `accumulate`.

    Returns:
        A CoupledSGD or Lamb, or an optimizer of TensorFlow Addons for a "tfa." name.

    Raises:
        RecipeError: Addons does not support `accumulate` or `stage_rates`, or
            `final_rate` is above the learning rate after the warm-up.
        AddonsError: Addons cannot be imported, or its optimizer does not support the
            recipe's weight decay or `ema`.
    """
    if recipe.optimizer in addons.OPTIMIZERS:
        return _addons_optimizer(recipe, steps_per_epoch)
    options: dict[str, Any] = {
        "learning_rate": schedule(recipe, steps_per_epoch),
        "weight_decay": recipe.weight_decay,
        "decay": recipe.decay,
        "rates": {
            part: rate
            for part, rate in zip(parts(recipe.stage_rates), recipe.stage_rates)
            if rate not in (0, 1)
        },
    }
    if recipe.clip_norm:
        options["global_clipnorm"] = recipe.clip_norm
    if recipe.accumulate > 1:
        options["gradient_accumulation_steps"] = recipe.accumulate
    if recipe.optimizer == "sgd":
        return CoupledSGD(momentum=recipe.momentum, nesterov=recipe.nesterov, **options)
    beta_1, beta_2 = recipe.betas
    rule = {"adamw": AdamW, "lamb": Lamb}[recipe.optimizer]
    return rule(beta_1=beta_1, beta_2=beta_2, **options)


def _addons_optimizer(
    recipe: Recipe, steps_per_epoch: int
) -> keras.optimizers.Optimizer:
    if recipe.accumulate > 1 or {*recipe.stage_rates} - {0, 1} or recipe.clip_norm:
        raise RecipeError(
            f"accumulate={recipe.accumulate}, stage_rates={recipe.stage_rates}, "
            f"clip_norm={recipe.clip_norm}: with optimizer={recipe.optimizer!r}, "
            "accumulate must be 1, stage_rates 0 or 1 each and clip_norm 0"
        )
    return addons.optimizer(
        recipe.optimizer,
        schedule(recipe, steps_per_epoch),
        recipe.momentum,
        recipe.nesterov,
        recipe.weight_decay,
        recipe.decay,
        recipe.ema,
    )


def schedule(recipe: Recipe, steps_per_epoch: int) -> Any:
    """Returns the learning rate: a schedule over steps, or a number for "plateau".

    Raises:
        RecipeError: `final_rate` is above the learning rate after the warm-up.
    """
    rate = recipe.base_rate * recipe.batch_size / 256
    warmup = round(recipe.warmup_epochs * steps_per_epoch)
    if recipe.schedule == "plateau":
        return rate
    if recipe.schedule == "steps":
        steps = [epoch * steps_per_epoch for epoch in recipe.boundaries]
        return WarmupSteps(rate, warmup, steps)
    if recipe.final_rate > rate:
        raise RecipeError(
            f"final_rate={recipe.final_rate}: must be at most {rate}, which is "
            f"base_rate={recipe.base_rate} scaled to batch_size={recipe.batch_size}"
        )
    total = max(recipe.epochs * steps_per_epoch, warmup + 1)
    return WarmupCosine(rate, warmup, total, recipe.final_rate)


def parts(rates: Sequence[float] | range) -> list[str]:
    """Returns the part of the network for each of `rates`: the stem, then stages."""
    return ["stem", *(f"stage{number}" for number in range(1, len(rates)))]


def loss(
    recipe: Recipe, classes: int, several_labels: bool = False
) -> keras.losses.Loss | None:
    """Returns the recipe's loss of logits and one-hot, several or mixed labels.

    For segmentation it is the mean cross-entropy of the pixels that have a label. A
    detector has a loss of its own, and the result is None.

    With smoothing e and K classes, the paper's form gives e / (K - 1) to each other
    class. It equals the usual form, which gives e' / K to every class, with
    e' = e K / (K - 1). Both are linear in the labels, and so apply to mixed labels.

    Args:
        recipe: a Recipe.
        classes: the number of classes, K.
        several_labels: whether an image may have several.

    Raises:
        RecipeError: `label_smoothing` is too large for the number of classes, or a
            field is for one label an image, and there are several.
    """
    if several_labels:
        _check_several(recipe)
    if recipe.task == "detect":
        return None
    if recipe.task == "segment":
        return keras.losses.SparseCategoricalCrossentropy(
            from_logits=True, ignore_class=IGNORED
        )
    smoothing = recipe.label_smoothing
    if recipe.smoothing == "other-classes":
        smoothing *= classes / max(classes - 1, 1)
    if smoothing > 1:
        raise RecipeError(
            f"label_smoothing={recipe.label_smoothing}: must be at most "
            f"{(classes - 1) / classes:.3g} for {classes} classes"
        )
    if recipe.loss == "binary-cross-entropy":
        return BinaryCrossentropy(recipe.binary_threshold, smoothing)
    return CategoricalCrossentropy(from_logits=True, label_smoothing=smoothing)


def _check_several(recipe: Recipe) -> None:
    """Raises a RecipeError for fields that need one label an image."""
    if recipe.loss != "binary-cross-entropy":
        raise RecipeError(
            f"loss={recipe.loss!r}: the images of the data may have several labels; "
            "give loss='binary-cross-entropy'"
        )
    names = ("class_weights", "teacher")
    wrong = [f"{name}={it!r}" for name in names if (it := getattr(recipe, name))]
    if recipe.sampling != "shuffled":
        wrong.append(f"sampling={recipe.sampling!r}")
    if wrong:
        raise RecipeError(
            f"{', '.join(wrong)}: for one label an image, and the data has several; "
            "leave it out"
        )


@keras.saving.register_keras_serializable(package="keras_resnet")
class CategoricalCrossentropy(keras.losses.CategoricalCrossentropy):
    """Keras's loss, with a clearer error for labels that are not one-hot."""

    def call(self, y_true: Any, y_pred: Any) -> Any:
        _check_labels(y_true, y_pred)
        return super().call(y_true, y_pred)


@keras.saving.register_keras_serializable(package="keras_resnet")
class BinaryCrossentropy(keras.losses.Loss):
    """Binary cross-entropy of each class, as in ResNet strikes back.

    See arXiv 2110.00476 section 2.1. Takes labels and logits of shape [B, K], and
    returns the mean over classes and batch, as timm does.

    Args:
        threshold: labels above it become 1 and all others 0, so that a mixed image
            belongs to several classes. 0 keeps mixed labels unchanged.
        label_smoothing: e; a label of 1 becomes 1 - e + e / K, and one of 0 becomes
            e / K.
    """

    def __init__(
        self, threshold: float = 0.0, label_smoothing: float = 0.0, **kwargs: Any
    ) -> None:
        super().__init__(name=kwargs.pop("name", "binary_crossentropy"), **kwargs)
        self.threshold = threshold
        self.label_smoothing = label_smoothing

    def call(self, y_true: Any, y_pred: Any) -> Any:
        _check_labels(y_true, y_pred)
        labels = ops.cast(y_true, y_pred.dtype)
        if self.threshold:
            labels = ops.cast(labels > self.threshold, y_pred.dtype)
        smoothing = self.label_smoothing
        labels = labels * (1 - smoothing) + smoothing / labels.shape[-1]
        # max(x, 0) - x y + log(1 + exp(-|x|)), a form that never overflows
        losses = (
            ops.relu(y_pred) - y_pred * labels + ops.log1p(ops.exp(-ops.abs(y_pred)))
        )
        return ops.mean(losses, -1)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "threshold": self.threshold,
            "label_smoothing": self.label_smoothing,
        }


def _check_labels(labels: Any, logits: Any) -> None:
    ranks = len(labels.shape), len(logits.shape)
    if ranks[0] != ranks[1] or labels.shape[-1] != logits.shape[-1]:
        # unchecked, some of these shapes would broadcast
        raise ValueError(
            f"labels: {tuple(labels.shape)} for logits {tuple(logits.shape)}; must "
            "be one-hot, such as keras.utils.to_categorical(labels, classes) returns"
        )


def class_weights(recipe: Recipe, source: Source) -> np.ndarray | None:
    """Returns the weight of each class in the loss, float32 [K], or None.

    The "balanced" weight of a class with n of N training images is N / (K n), so that
    the weights of all images have a mean of 1, as in scikit-learn.

    Raises:
        RecipeError: `class_weights` names a class that the data does not have, or the
            weights are to be balanced and a class has no training image.
    """
    given, names = recipe.class_weights, source.class_names
    if not given:
        return None
    if isinstance(given, dict):
        if unknown := sorted(set(given) - set(names)):
            raise RecipeError(
                f"class_weights={given}: {source.path} has no class {unknown[0]!r}; "
                f"its classes are {', '.join(names[:10])}{', ...' * (len(names) > 10)}"
            )
        return np.array([given.get(name, 1) for name in names], np.float32)
    classes = source.split("train").all_labels()
    counts = np.bincount(classes, minlength=len(names))
    if not counts.all():
        raise RecipeError(
            f"class_weights='balanced': class {names[int(counts.argmin())]!r} of "
            f"{source.path} has no training images; add some, or remove the class"
        )
    return (len(classes) / (len(names) * counts)).astype(np.float32)


def metrics(
    recipe: Recipe, several_labels: bool = False
) -> list[keras.metrics.Metric] | None:
    """Returns the metrics "top1" and "top5", accuracy on one-hot labels.

    Of several labels, it is the share of images of which the likeliest class, or one of
    the five likeliest, is a label. Other tasks have none: `transfer.measure` follows
    each validation.
    """
    if recipe.task != "classify":
        return None
    if several_labels:
        return [
            keras.metrics.MeanMetricWrapper(_any_hit, name=f"top{count}", count=count)
            for count in (1, 5)
        ]
    return [
        keras.metrics.CategoricalAccuracy(name="top1"),
        keras.metrics.TopKCategoricalAccuracy(5, name="top5"),
    ]


def _any_hit(labels: Any, logits: Any, count: int) -> Any:
    """Whether one of the `count` largest logits is of a label: [B, K] -> [B]."""
    _, places = ops.top_k(logits, min(count, logits.shape[-1]))
    return ops.max(ops.take_along_axis(labels, places, -1), -1)
