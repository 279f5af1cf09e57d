"""Learning rates by steps: a linear warm-up, then half a cosine, or steps."""

import math

from keras_resnet.backend import keras, ops


class _Warmup(keras.optimizers.schedules.LearningRateSchedule):
    """base_rate * t / warmup_steps before `warmup_steps`, then `_after`."""

    def _remember(self, base_rate, warmup_steps, **rest):
        if not 0 <= base_rate < math.inf:
            raise ValueError(f"base_rate={base_rate}: must be 0 or more, and finite")
        if warmup_steps < 0:
            raise ValueError(f"warmup_steps={warmup_steps}: must be at least 0")
        self._arguments = {
            "base_rate": float(base_rate),
            "warmup_steps": int(warmup_steps),
            **rest,
        }

    def __call__(self, step):
        base, warmup = self._arguments["base_rate"], self._arguments["warmup_steps"]
        step = ops.cast(step, keras.config.floatx())
        rising = base * step / max(warmup, 1)
        return ops.where(step < warmup, rising, self._after(step))

    def _after(self, step):
        return ops.full_like(step, self._arguments["base_rate"])

    def get_config(self):
        return dict(self._arguments)


@keras.saving.register_keras_serializable(package="keras_resnet")
class WarmupCosine(_Warmup):
    """Linear warm-up, then half a cosine (arXiv 1812.01187 sections 3.1 and 5.1).

    Step t, from 0: base_rate * t / warmup_steps before `warmup_steps`; then from
    base_rate at t = warmup_steps to final_rate from t = total_steps on.
    """

    def __init__(self, base_rate, warmup_steps, total_steps, final_rate=0.0):
        if total_steps <= warmup_steps:
            raise ValueError(
                f"total_steps={total_steps}: must be above warmup_steps={warmup_steps}"
            )
        self._remember(
            base_rate,
            warmup_steps,
            total_steps=int(total_steps),
            final_rate=float(final_rate),
        )
        if not 0 <= final_rate <= base_rate:
            raise ValueError(
                f"final_rate={final_rate}: must be in [0, base_rate={base_rate}]"
            )

    def _after(self, step):
        base, warmup, total, final = self._arguments.values()
        part = ops.clip((step - warmup) / (total - warmup), 0.0, 1.0)
        return final + (base - final) * (1 + ops.cos(math.pi * part)) / 2


@keras.saving.register_keras_serializable(package="keras_resnet")
class WarmupSteps(_Warmup):
    """Linear warm-up, then base_rate times `factor` at each boundary (section 2.2).

    Step t, from 0; `boundaries` are steps, and a rate holds from its boundary on.
    """

    def __init__(self, base_rate, warmup_steps, boundaries, factor=0.1):
        boundaries = [int(boundary) for boundary in boundaries]
        if sorted(set(boundaries)) != boundaries:
            raise ValueError(f"boundaries={boundaries}: must rise")
        self._remember(
            base_rate, warmup_steps, boundaries=boundaries, factor=float(factor)
        )

    def _after(self, step):
        base, _, boundaries, factor = self._arguments.values()
        passed = sum(
            (ops.cast(step >= boundary, step.dtype) for boundary in boundaries),
            start=ops.zeros_like(step),
        )
        return base * ops.power(ops.full_like(step, factor), passed)
