"""Knowledge distillation: a student learns from labels and from a teacher's outputs."""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_resnet.backend import keras, ops
from keras_resnet.train.trainable import Trainable

# {name: (weight of the labels' loss, weight of the teacher's loss)}
WEIGHTINGS = {"paper": (1.0, 1.0), "gluon": (0.5, 0.5)}


def distill(
    student: Any,
    teacher: Any,
    temperature: float = 20.0,
    weighting: str | tuple[float, float] = "paper",
    teacher_size: int | None = None,
    ema: float = 0.0,
) -> Distiller:
    """Returns a model for `compile` and `fit` that distills `teacher` into `student`.

    The training loss is (arXiv 1812.01187 section 5.3)

        hard * loss(labels, z) + soft * T^2 * CE(softmax(r / T), softmax(z / T))

    where z are the student's logits, r the teacher's, `loss` is the loss passed to
    `compile`, and CE is the cross-entropy. The teacher receives the same batch as the
    student, including mixup or CutMix, and runs in inference mode. `evaluate` returns
    only the labels' loss, and `save` writes only the student.

    Args:
        student: a functional keras.Model, images [B, S, S, 3] -> logits [B, K].
        teacher: a functional keras.Model for the same classes, of any depth, dtype
            policy and input size. It is frozen: its `trainable` becomes False.
        temperature: T, above 0.
        weighting: (hard, soft), each 0 or more. "paper" means (1, 1), and "gluon"
            (0.5, 0.5), as in GluonCV's DistillationSoftmaxCrossEntropyLoss.
        teacher_size: side in pixels to which images are resized for the teacher. None
            uses the teacher's fixed input size, or else the student's images unchanged.
        ema: decay of the student's moving average, as for `Trainable`.

    Returns:
        A Trainable whose `net` is the student.

    Raises:
        ValueError: a model returns probabilities, the classes or the normalization
            differ, or an argument is out of range.
    """
    if not 0 < temperature < float("inf"):
        raise ValueError(f"temperature={temperature}: must be above 0 and finite")
    weights: Any = weighting
    if isinstance(weighting, str):
        weights = WEIGHTINGS.get(weighting, weighting)
    if (
        isinstance(weights, str)
        or len(weights) != 2
        or any(not 0 <= w < float("inf") for w in weights)
    ):
        raise ValueError(
            f"weighting={weighting!r}: must be one of {', '.join(WEIGHTINGS)}, or a "
            "pair of weights (labels, teacher), each 0 or more"
        )
    for role, model in (("teacher", teacher), ("student", student)):
        if not hasattr(model, "input_shape"):
            raise ValueError(
                f"{role}: {model.name} has no fixed graph; wrap it in a "
                "functional model: keras.Model(x, model(x)) with x = keras.Input(shape)"
            )
    teacher_classes, classes = teacher.output_shape[-1], student.output_shape[-1]
    if teacher_classes != classes:
        raise ValueError(
            f"teacher: {teacher.name} has {teacher_classes} classes, but the student "
            f"has {classes}; use a teacher for the same classes"
        )
    preprocessing = [
        info.include_preprocessing
        for info in (getattr(model, "info", None) for model in (teacher, student))
        if info
    ]
    if len({*preprocessing}) == 2:
        raise ValueError(
            f"include_preprocessing: is {preprocessing[0]} for the teacher and "
            f"{preprocessing[1]} for the student; must be the same, since both receive "
            "the same images"
        )
    for role, model in (("teacher", teacher), ("student", student)):
        if _gives_probabilities(model):
            raise ValueError(
                f"{role}: {model.name} ends in a softmax, but distillation needs "
                "logits; build it with classifier_activation=None"
            )
    takes_images = len(teacher.input_shape) == 4  # other inputs cannot be resized
    fixed = teacher.input_shape[1:3] if takes_images else (None, None)
    size: Any = None if teacher_size is None else (teacher_size, teacher_size)
    if None not in fixed:
        if size not in (None, tuple(fixed)):
            raise ValueError(
                f"teacher_size={teacher_size}: {teacher.name} takes only {fixed} "
                "pixels; leave teacher_size out"
            )
        size = fixed
    return Distiller(student, teacher, temperature, weights, size, ema)


class Distiller(Trainable):
    """The model that `distill` returns."""

    def __init__(
        self,
        student: Any,
        teacher: Any,
        temperature: float,
        weights: tuple[float, float],
        teacher_size: tuple[int, int] | None,
        ema: float,
    ) -> None:
        super().__init__(student, ema)
        teacher.trainable = False
        self.teacher = teacher
        self.temperature = temperature
        self.hard, self.soft = weights
        self.teacher_size = teacher_size
        self.soft_loss = keras.losses.CategoricalCrossentropy(from_logits=True)

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        loss = super().compute_loss(x, y, y_pred, sample_weight, training)
        if not training:
            return loss
        # the student's regularization losses, which `hard` must not scale
        penalty = sum(map(self._share, self.losses), start=0.0)
        answers = self._answers(x, y_pred.dtype)
        _, sample_weight = self.weigh(y, sample_weight)
        soft = self.soft_loss(
            ops.softmax(answers / self.temperature),
            y_pred / self.temperature,
            sample_weight,
        )
        soft = ops.cast(soft, loss.dtype) * self.temperature**2
        return self.hard * loss + (1 - self.hard) * penalty + self.soft * soft

    def _share(self, penalty: Any) -> Any:
        """Returns this device's part of a loss, as Keras divides the others."""
        divide = getattr(self, "_aggregate_additional_loss", ops.convert_to_tensor)
        return divide(penalty)

    def _answers(self, images: Any, dtype: Any) -> Any:
        """Returns the teacher's logits [B, K], without gradient."""
        if self.teacher_size and tuple(images.shape[1:3]) != self.teacher_size:
            images = _resize(images, self.teacher_size)
        logits = self.teacher(images, training=False)
        return ops.stop_gradient(ops.cast(logits, dtype))


def _resize(images: Any, size: tuple[int, int]) -> Any:
    """Resizes images: [B, H, W, C] -> float32 [B, h, w, C], bilinear, antialiased.

    Returns the values of `ops.image.resize`, but as two matrix products, since XLA
    cannot compile TensorFlow's resize operation.
    """
    images = ops.cast(images, "float32")
    height, width = ops.shape(images)[1], ops.shape(images)[2]
    images = ops.einsum("hi,bijc->bhjc", _weights(height, size[0]), images)
    return ops.einsum("wj,bhjc->bhwc", _weights(width, size[1]), images)


def _weights(before: Any, after: int) -> Any:
    """Returns the resize weights [after, before] along one axis; each row sums to 1."""
    scale = ops.cast(before, "float32") / after
    stretch = ops.maximum(scale, 1.0)  # antialiasing: widens the filter when shrinking
    centers = (ops.cast(ops.arange(after), "float32")[:, None] + 0.5) * scale
    taps = ops.cast(ops.arange(before), "float32") + 0.5
    weights = ops.relu(1 - ops.abs(taps - centers) / stretch)
    return weights / ops.sum(weights, -1, keepdims=True)


def _gives_probabilities(model: Any) -> bool:
    """Returns whether the outputs for noise are non-negative and sum to 1."""
    shape = [side or 64 for side in model.input_shape[1:]]
    noise = np.random.default_rng(0).uniform(0, 255, (2, *shape)).astype("float32")
    outputs = ops.convert_to_numpy(ops.cast(model(noise, training=False), "float32"))
    return bool((outputs >= 0).all() and np.abs(outputs.sum(-1) - 1).max() < 1e-2)
