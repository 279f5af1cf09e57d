"""Learning rates by steps: a linear warm-up, then half a cosine, or steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from keras_resnet.backend import keras, ops


class _Warmup(keras.optimizers.schedules.LearningRateSchedule):
    """base_rate * t / warmup_steps before `warmup_steps`, then `_after`."""

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
        """The arguments of the constructor, which are this object's attributes."""
        return dict(vars(self))


@keras.saving.register_keras_serializable(package="keras_resnet")
class WarmupCosine(_Warmup):
    """Linear warm-up, then half a cosine (arXiv 1812.01187 sections 3.1 and 5.1).

    Step t, from 0: base_rate * t / warmup_steps before `warmup_steps`; then from
    base_rate at t = warmup_steps to final_rate from t = total_steps on.
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
    """Linear warm-up, then base_rate times `factor` at each boundary (section 2.2).

    Step t, from 0; `boundaries` are steps, and a rate holds from its boundary on.
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
            raise ValueError(f"boundaries={self.boundaries}: must rise")

    def _after(self, step: Any) -> Any:
        passed = sum(
            (ops.cast(step >= boundary, step.dtype) for boundary in self.boundaries),
            start=ops.zeros_like(step),
        )
        return self.base_rate * ops.power(ops.full_like(step, self.factor), passed)
