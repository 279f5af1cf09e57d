"""The rules with two moments, as torch and timm run them: AdamW and LAMB."""

from __future__ import annotations

from typing import Any

from keras_resnet.backend import keras, ops
from keras_resnet.optimizers.policy import Policy


class _TwoMoments(Policy, keras.optimizers.Lamb):
    """What AdamW and LAMB share; of Keras's Lamb it takes the state alone."""

    def __init__(
        self,
        weight_decay: float,
        decay: str,
        rates: dict[str, float] | None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self._set_policy(weight_decay, decay, rates)

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        dtype = variable.dtype
        rate = ops.cast(learning_rate, dtype) * self.rate_of(variable)
        gradient = ops.cast(gradient, dtype)
        weight = ops.convert_to_tensor(variable)
        index = self._get_variable_index(variable)
        moments = []
        for slot, beta, value in (
            (self._momentums[index], self.beta_1, gradient),
            (self._velocities[index], self.beta_2, ops.square(gradient)),
        ):
            moment = beta * ops.convert_to_tensor(slot) + (1 - beta) * value
            self.assign(slot, moment)
            step = ops.cast(self.iterations + 1, dtype)
            # not ops.cast(beta), which rounds to float32 on its way to float64
            moments.append(moment / (1 - ops.power(ops.full_like(step, beta), step)))
        direction = moments[0] / (ops.sqrt(moments[1]) + self.epsilon)
        if self.decays(variable):
            direction = direction + self.policy_decay * weight
            direction = self._adapted(direction, weight)
        self.assign_sub(variable, rate * direction)

    def _adapted(self, direction: Any, weight: Any) -> Any:
        """The direction of a decayed variable."""
        return direction

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), **self._policy_config()}


@keras.saving.register_keras_serializable(package="keras_resnet")
class AdamW(_TwoMoments):
    """AdamW (arXiv 1711.05101) in the form of torch, step for step.

        m <- beta_1 * m + (1 - beta_1) * g,  v <- beta_2 * v + (1 - beta_2) * g^2
        u <- (m / (1 - beta_1^t)) / (sqrt(v / (1 - beta_2^t)) + epsilon)
        w <- w - rate * (u + weight_decay * w)        (decay: decayed variables alone)

    Keras's own adds epsilon before the bias of v is corrected, and when it is saved it
    forgets which variables do not decay.

    Args:
        learning_rate: a number or a schedule.
        beta_1: as above.
        beta_2: as above.
        epsilon: as above.
        weight_decay: times w, beside u.
        decay: "kernels" decays variables of rank above 1; "all" every one.
        rates: as `CoupledSGD`'s.
        global_clipnorm: of all gradients together; None does not clip.
    """

    def __init__(
        self,
        learning_rate: Any = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        weight_decay: float = 0.0,
        decay: str = "kernels",
        rates: dict[str, float] | None = None,
        global_clipnorm: float | None = None,
        name: str = "adamw",
        **kwargs: Any,
    ) -> None:
        super().__init__(
            learning_rate=learning_rate,
            beta_1=beta_1,
            beta_2=beta_2,
            epsilon=epsilon,
            weight_decay=weight_decay,
            decay=decay,
            rates=rates,
            global_clipnorm=global_clipnorm,
            name=name,
            **kwargs,
        )


@keras.saving.register_keras_serializable(package="keras_resnet")
class Lamb(_TwoMoments):
    """LAMB (arXiv 1904.00962, algorithm 2) in the form of timm, step for step.

        m <- beta_1 * m + (1 - beta_1) * g,  v <- beta_2 * v + (1 - beta_2) * g^2
        u <- (m / (1 - beta_1^t)) / (sqrt(v / (1 - beta_2^t)) + epsilon)
        u <- u + weight_decay * w                     (decayed variables, and for them:)
        u <- u * |w| / |u|                            (where neither norm is 0)
        w <- w - rate * u

    for gradients g whose global norm was clipped to `global_clipnorm`. Keras's own
    decays outside the trust ratio, and adapts biases too. "ResNet strikes back" (arXiv
    2110.00476) trained with this form.

    Args:
        learning_rate: a number or a schedule.
        beta_1: as above.
        beta_2: as above.
        epsilon: as above.
        weight_decay: times w, in the direction.
        decay: "kernels" decays, and adapts, variables of rank above 1; "all" every one.
        rates: as `CoupledSGD`'s.
        global_clipnorm: of all gradients together; None does not clip.
    """

    def __init__(
        self,
        learning_rate: Any = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-6,
        weight_decay: float = 0.0,
        decay: str = "kernels",
        rates: dict[str, float] | None = None,
        global_clipnorm: float | None = 1.0,
        name: str = "lamb",
        **kwargs: Any,
    ) -> None:
        super().__init__(
            learning_rate=learning_rate,
            beta_1=beta_1,
            beta_2=beta_2,
            epsilon=epsilon,
            weight_decay=weight_decay,
            decay=decay,
            rates=rates,
            global_clipnorm=global_clipnorm,
            name=name,
            **kwargs,
        )

    def _adapted(self, direction: Any, weight: Any) -> Any:
        norms = [ops.sqrt(ops.sum(ops.square(x))) for x in (weight, direction)]
        both = (norms[0] > 0) & (norms[1] > 0)
        ones = ops.ones_like(norms[0])
        ratio = ops.where(both, norms[0] / ops.where(both, norms[1], ones), ones)
        return ratio * direction
