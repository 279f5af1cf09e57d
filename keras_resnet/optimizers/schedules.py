"""Learning rate schedules: a linear warm-up, then cosine or step decay."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from keras_resnet.backend import keras, ops


class _Warmup(keras.optimizers.schedules.LearningRateSchedule):
    """The base class: a linear warm-up from 0 to base_rate, then `_after`."""

    def __init__(self, base_rate: float, warmup_steps: int) -> None:
        if not 0 <= base_rate < math.inf:
            raise ValueError(f"base_rate={base_rate}: must be 0 or more, and finite")
        if warmup_steps < 0:
            raise ValueError(f"warmup_steps={warmup_steps}: must be at least 0")
        self.base_rate, self.warmup_steps = float(base_rate), int(warmup_steps)

    def __call__(self, step: Any) -> Any:
        step = ops.cast(step, keras.config.floatx())
        rising = self.base_rate * step / max(self.warmup_steps, 1)
        return ops.where(step < self.warmup_steps, rising, self._after(step))

    def _after(self, step: Any) -> Any:
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor, which are all of the attributes."""
        return dict(vars(self))


@keras.saving.register_keras_serializable(package="keras_resnet")
class WarmupCosine(_Warmup):
    """A linear warm-up, then half a cosine (arXiv 1812.01187 sections 3.1 and 5.1).

    At step t, counted from 0, the learning rate is base_rate * t / warmup_steps during
    the warm-up. It then falls from base_rate at t = warmup_steps to final_rate at
    t = total_steps, and stays there.

    Args:
        base_rate: the learning rate after the warm-up, 0 or more.
        warmup_steps: the number of warm-up steps, 0 or more.
        total_steps: the number of all steps, above warmup_steps.
        final_rate: the last learning rate, in [0, base_rate].

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(
        self,
        base_rate: float,
        warmup_steps: int,
        total_steps: int,
        final_rate: float = 0.0,
    ) -> None:
        super().__init__(base_rate, warmup_steps)
        if total_steps <= warmup_steps:
            raise ValueError(
                f"total_steps={total_steps}: must be above warmup_steps={warmup_steps}"
            )
        if not 0 <= final_rate <= base_rate:
            raise ValueError(
                f"final_rate={final_rate}: must be in [0, base_rate={base_rate}]"
            )
        self.total_steps, self.final_rate = int(total_steps), float(final_rate)

    def _after(self, step: Any) -> Any:
        falling = self.total_steps - self.warmup_steps
        progress = ops.clip((step - self.warmup_steps) / falling, 0.0, 1.0)
        height = self.base_rate - self.final_rate
        return self.final_rate + height * (1 + ops.cos(math.pi * progress)) / 2


@keras.saving.register_keras_serializable(package="keras_resnet")
class WarmupSteps(_Warmup):
    """A linear warm-up, then step decay (arXiv 1812.01187 section 2.2).

    At step t, counted from 0, the learning rate is base_rate * t / warmup_steps during
    the warm-up, and then base_rate * factor^n, where n is the number of boundaries up
    to and including t.

    Args:
        base_rate: the learning rate after the warm-up, 0 or more.
        warmup_steps: the number of warm-up steps, 0 or more.
        boundaries: the steps at which the learning rate is multiplied by `factor`, in
            increasing order.
        factor: the factor at each boundary.

    Raises:
        ValueError: an argument is out of range, or the boundaries do not increase.
    """

    def __init__(
        self,
        base_rate: float,
        warmup_steps: int,
        boundaries: Sequence[int],
        factor: float = 0.1,
    ) -> None:
        super().__init__(base_rate, warmup_steps)
        self.boundaries = [int(boundary) for boundary in boundaries]
        self.factor = float(factor)
        if sorted(set(self.boundaries)) != self.boundaries:
            raise ValueError(f"boundaries={self.boundaries}: must increase")

    def _after(self, step: Any) -> Any:
        passed = sum(
            (ops.cast(step >= boundary, step.dtype) for boundary in self.boundaries),
            start=ops.zeros_like(step),
        )
        return self.base_rate * ops.power(ops.full_like(step, self.factor), passed)
