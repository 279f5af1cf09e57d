"""Knowledge distillation: a student that fits the labels and a teacher's answers."""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_resnet.backend import keras, ops
from keras_resnet.train.trainable import Trainable

# weights of the loss of the labels, and of T^2 times the loss of the teacher
WEIGHTINGS = {"paper": (1.0, 1.0), "gluon": (0.5, 0.5)}


def distill(
    student: Any,
    teacher: Any,
    temperature: float = 20.0,
    weighting: str | tuple[float, float] = "paper",
    teacher_size: int | None = None,
    ema: float = 0.0,
) -> Distiller:
    """Returns a model for `compile` and `fit` that distills a teacher into a student.

    hard * loss(labels, z) + soft * T^2 * CE(softmax(r / T), softmax(z / T)), for the
    student's logits z, the teacher's r, the loss of `compile` and the cross-entropy CE
    (arXiv 1812.01187 section 5.3). The teacher sees the very batch that the student
    sees, mixed or not, in inference mode. `evaluate` has the labels' loss alone; what
    `save` writes is the student.

    Args:
        student: a functional keras.Model, pictures [B, S, S, 3] -> logits [B, K].
        teacher: another of the same classes, of any depth, dtype policy and input
            size. It is frozen: its `trainable` becomes False.
        temperature: T, above 0.
        weighting: (hard, soft); "paper" is (1, 1), "gluon" (0.5, 0.5) as GluonCV's
            DistillationSoftmaxCrossEntropyLoss has it.
        teacher_size: pixels that the teacher sees; None is its own fixed input size,
            or what the student sees.
        ema: decay of the student's moving average, as `Trainable`'s.

    Returns:
        A Trainable, whose `net` is the student.

    Raises:
        ValueError: a model gives probabilities, the classes or the normalization
            differ, or an argument is out of range.
    """
    if not 0 < temperature < float("inf"):
        raise ValueError(f"temperature={temperature}: must be above 0")
    weights: Any = weighting
    if isinstance(weighting, str):
        weights = WEIGHTINGS.get(weighting, weighting)
    if (
        isinstance(weights, str)
        or len(weights) != 2
        or any(not 0 <= w < float("inf") for w in weights)
    ):
        raise ValueError(
            f"weighting={weighting!r}: must be one of {', '.join(WEIGHTINGS)}, or the "
            "two weights, of labels and teacher, 0 or more each"
        )
    for role, model in (("teacher", teacher), ("student", student)):
        if not hasattr(model, "input_shape"):
            raise ValueError(
                f"{role}: {model.name} has no fixed graph; wrap it, as "
                "keras.Model(x, model(x)) of x = keras.Input(shape)"
            )
    taught, classes = teacher.output_shape[-1], student.output_shape[-1]
    if taught != classes:
        raise ValueError(
            f"teacher: {teacher.name} has {taught} classes, the student {classes}; "
            "train a teacher on the same classes"
        )
    normalizes = [
        info.include_preprocessing
        for info in (getattr(model, "info", None) for model in (teacher, student))
        if info
    ]
    if len({*normalizes}) == 2:
        raise ValueError(
            f"include_preprocessing: teacher {normalizes[0]}, student {normalizes[1]}; "
            "must be equal, since both see the same images"
        )
    for role, model in (("teacher", teacher), ("student", student)):
        if _gives_probabilities(model):
            raise ValueError(
                f"{role}: {model.name} ends in a softmax, and distillation needs "
                "logits; build it with classifier_activation=None"
            )
    # only of images, which have a size
    pictures = len(teacher.input_shape) == 4
    fixed = teacher.input_shape[1:3] if pictures else (None, None)
    size: Any = None if teacher_size is None else (teacher_size, teacher_size)
    if None not in fixed:
        if size not in (None, tuple(fixed)):
            raise ValueError(
                f"teacher_size={teacher_size}: {teacher.name} takes {fixed} pixels "
                "only; leave it out"
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
        # losses that the student's layers add are not weighted
        penalty = sum(self.losses, start=0.0)
        answers = self._answers(x, y_pred.dtype)
        soft = self.soft_loss(
            ops.softmax(answers / self.temperature),
            y_pred / self.temperature,
            sample_weight,
        )
        soft = ops.cast(soft, loss.dtype) * self.temperature**2
        return self.hard * loss + (1 - self.hard) * penalty + self.soft * soft

    def _answers(self, images: Any, dtype: Any) -> Any:
        """The teacher's logits."""
        if self.teacher_size and tuple(images.shape[1:3]) != self.teacher_size:
            images = _resize(images, self.teacher_size)
        logits = self.teacher(images, training=False)
        return ops.stop_gradient(ops.cast(logits, dtype))


def _resize(images: Any, size: tuple[int, int]) -> Any:
    """Resizes [B, H, W, C] to float32 [B, h, w, C], bilinear and antialiased.

    The values of `ops.image.resize`, whose operation on TensorFlow XLA cannot compile.
    """
    images = ops.cast(images, "float32")
    height, width = ops.shape(images)[1], ops.shape(images)[2]
    images = ops.einsum("hi,bijc->bhjc", _weights(height, size[0]), images)
    return ops.einsum("wj,bhjc->bhwc", _weights(width, size[1]), images)


def _weights(before: Any, after: int) -> Any:
    """The weights of the source pixels in each resized pixel; rows add up to 1."""
    scale = ops.cast(before, "float32") / after
    stretch = ops.maximum(scale, 1.0)  # antialias: the filter spans source pixels
    centres = (ops.cast(ops.arange(after), "float32")[:, None] + 0.5) * scale
    taps = ops.cast(ops.arange(before), "float32") + 0.5
    weights = ops.relu(1 - ops.abs(taps - centres) / stretch)
    return weights / ops.sum(weights, -1, keepdims=True)


def _gives_probabilities(model: Any) -> bool:
    """Whether the outputs of a model on noise are positive and add up to 1."""
    shape = [side or 64 for side in model.input_shape[1:]]
    noise = np.random.default_rng(0).uniform(0, 255, (2, *shape)).astype("float32")
    outputs = ops.convert_to_numpy(ops.cast(model(noise, training=False), "float32"))
    return bool((outputs >= 0).all() and np.abs(outputs.sum(-1) - 1).max() < 1e-2)
