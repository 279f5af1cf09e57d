"""The optimizer, loss and metrics of a recipe."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keras_resnet.backend import keras, ops
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
    """The optimizer of a recipe, with its learning-rate schedule.

    With the extra "addons" it may be an optimizer of TensorFlow Addons.
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
    if recipe.accumulate > 1 or {*recipe.stage_rates} - {0, 1}:
        raise RecipeError(
            f"accumulate={recipe.accumulate}, stage_rates={recipe.stage_rates}: must "
            f"be 1, and 0 or 1 each, with optimizer={recipe.optimizer!r}"
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
    """The learning rate as a schedule of steps; for "plateau", the initial rate."""
    rate = recipe.base_rate * recipe.batch_size / 256
    warmup = round(recipe.warmup_epochs * steps_per_epoch)
    if recipe.schedule == "plateau":
        return rate
    if recipe.schedule == "steps":
        steps = [epoch * steps_per_epoch for epoch in recipe.boundaries]
        return WarmupSteps(rate, warmup, steps)
    if recipe.final_rate > rate:
        raise RecipeError(
            f"final_rate={recipe.final_rate}: must be at most {rate}, the rate of "
            f"base_rate={recipe.base_rate} at batch_size={recipe.batch_size}"
        )
    total = max(recipe.epochs * steps_per_epoch, warmup + 1)
    return WarmupCosine(rate, warmup, total, recipe.final_rate)


def parts(rates: Sequence[float] | range) -> list[str]:
    """The parts of the net that `stage_rates` refers to: the stem, then the stages."""
    return ["stem", *(f"stage{number}" for number in range(1, len(rates)))]


def loss(recipe: Recipe, classes: int) -> keras.losses.Loss:
    """The loss of a recipe, of logits and one-hot or mixed labels.

    Smoothing is linear, so that mixed labels need no care: the paper's form, which
    gives e / (K - 1) to each other class, is the codes' form, e / K to every class, of
    the share e K / (K - 1).
    """
    share = recipe.label_smoothing
    if recipe.smoothing == "other-classes":
        share *= classes / max(classes - 1, 1)
    if share > 1:
        raise RecipeError(
            f"label_smoothing={recipe.label_smoothing}: leaves nothing of the label "
            f"among {classes} classes; must be at most {(classes - 1) / classes:.3g}"
        )
    if recipe.loss == "binary-cross-entropy":
        return BinaryCrossentropy(recipe.binary_threshold, share)
    return CategoricalCrossentropy(from_logits=True, label_smoothing=share)


@keras.saving.register_keras_serializable(package="keras_resnet")
class CategoricalCrossentropy(keras.losses.CategoricalCrossentropy):
    """Keras's loss, with a clear error for labels that are not one-hot."""

    def call(self, y_true: Any, y_pred: Any) -> Any:
        _check_labels(y_true, y_pred)
        return super().call(y_true, y_pred)


@keras.saving.register_keras_serializable(package="keras_resnet")
class BinaryCrossentropy(keras.losses.Loss):
    """Binary cross-entropy of each class, from logits (arXiv 2110.00476 section 2.1).

    [B, K] -> the mean over classes, then over the batch, as timm has it.

    Args:
        threshold: labels above it become 1, and others 0; with 0 they stay as they are
            mixed.
        label_smoothing: e; 1 becomes 1 - e + e / K, and 0 becomes e / K.
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
        share = self.label_smoothing
        labels = labels * (1 - share) + share / labels.shape[-1]
        # max(x, 0) - x y + log(1 + exp(-|x|)): never overflows
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
    if ranks[0] != ranks[1] or labels.shape[-1] != logits.shape[-1]:  # might broadcast
        raise ValueError(
            f"labels: {tuple(labels.shape)} for logits {tuple(logits.shape)}; must "
            "be one-hot, such as keras.utils.to_categorical(labels, classes)"
        )


def metrics() -> list[keras.metrics.Metric]:
    """Top-1 and top-5 accuracy on one-hot labels."""
    return [
        keras.metrics.CategoricalAccuracy(name="top1"),
        keras.metrics.TopKCategoricalAccuracy(5, name="top5"),
    ]
