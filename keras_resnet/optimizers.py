"""The published update rule and schedules that Keras lacks."""

from __future__ import annotations

import math

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="keras_resnet")
class CoupledSGD(keras.optimizers.Optimizer):
    """SGD as the 2018 recipes, torch and GluonCV run it.

        g <- g + weight_decay * w        (decayed variables)
        v <- momentum * v + g
        w <- w - rate * (g + momentum * v)   with nesterov, else  w - rate * v

    Keras's own SGD has the rate inside the velocity, which is another rule as soon as
    the rate changes, and decays outside of the momentum, which at 0.9 is about eleven
    times weaker.

    Args:
        learning_rate: a number or a schedule.
        momentum: in [0, 1).
        nesterov: look ahead by one step.
        weight_decay: times w, added to the gradient; TF-slim's `l2_regularizer` of the
            same number.
        decay: "kernels" decays variables of rank above 1 ("no bias decay", arXiv
            1812.01187 section 3.1: no biases, gammas and betas), "all" every one.
    """

    def __init__(
        self,
        learning_rate=0.1,
        momentum=0.9,
        nesterov=True,
        weight_decay=0.0,
        decay="kernels",
        name="coupled_sgd",
        **kwargs,
    ):
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum={momentum}: must be in [0, 1)")
        if weight_decay is None or weight_decay < 0:
            raise ValueError(f"weight_decay={weight_decay}: must be at least 0")
        if decay not in ("kernels", "all"):
            raise ValueError(f"decay={decay!r}: must be 'kernels' or 'all'")
        # the base class would decay once more, decoupled, if it were told
        super().__init__(learning_rate=learning_rate, name=name, **kwargs)
        self.momentum = momentum
        self.nesterov = nesterov
        self.coupled_decay = weight_decay
        self.decay = decay

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        self.velocities = [
            self.add_variable_from_reference(variable, name="velocity")
            for variable in variables
        ]

    def decays(self, variable):
        """Whether the variable's norm is decayed."""
        return self.coupled_decay > 0 and (
            self.decay == "all" or len(variable.shape) > 1
        )

    def update_step(self, gradient, variable, learning_rate):
        rate = ops.cast(learning_rate, variable.dtype)
        gradient = ops.cast(gradient, variable.dtype)
        if self.decays(variable):
            gradient = gradient + self.coupled_decay * ops.convert_to_tensor(variable)
        velocity = self.velocities[self._get_variable_index(variable)]
        new_velocity = self.momentum * ops.convert_to_tensor(velocity) + gradient
        self.assign(velocity, new_velocity)
        step = (
            gradient + self.momentum * new_velocity if self.nesterov else new_velocity
        )
        self.assign_sub(variable, rate * step)

    def get_config(self):
        return {
            **super().get_config(),
            "momentum": self.momentum,
            "nesterov": self.nesterov,
            "weight_decay": self.coupled_decay,
            "decay": self.decay,
        }


class _Warmup(keras.optimizers.schedules.LearningRateSchedule):
    """base_rate * t / warmup_steps before `warmup_steps`, then `_after`."""

    def _remember(self, base_rate, warmup_steps, **rest):
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
