"""SGD as the 2018 recipes ran it, which is not Keras's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keras_resnet.backend import keras, ops
from keras_resnet.optimizers.policy import Policy


@keras.saving.register_keras_serializable(package="keras_resnet")
class CoupledSGD(Policy):
    """SGD as the 2018 recipes, torch and GluonCV run it.

        g <- g + weight_decay * w        (decayed variables)
        v <- momentum * v + g
        w <- w - rate * (g + momentum * v)   with nesterov, else  w - rate * v

    Keras's own SGD has the rate inside the velocity, which is another rule as soon as
    the rate changes, and decays outside the momentum, which at 0.9 is about eleven
    times weaker.

    Args:
        learning_rate: a number or a schedule.
        momentum: in [0, 1).
        nesterov: look ahead by one step.
        weight_decay: times w, added to the gradient; TF-slim's `l2_regularizer` of the
            same number.
        decay: "kernels" decays variables of rank above 1 ("no bias decay", arXiv
            1812.01187 section 3.1: no biases, gammas and betas), "all" every one.
        rates: factors of the learning rate, such as {"stem": 0.05, "stage1": 0.1}, for
            variables whose path begins with the part's name (Paddle's `lr_mult`).
    """

    def __init__(
        self,
        learning_rate: Any = 0.1,
        momentum: float = 0.9,
        nesterov: bool = True,
        weight_decay: float = 0.0,
        decay: str = "kernels",
        rates: dict[str, float] | None = None,
        name: str = "coupled_sgd",
        **kwargs: Any,
    ) -> None:
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum={momentum}: must be in [0, 1)")
        # the base class would decay once more, decoupled, if it had `weight_decay`
        super().__init__(learning_rate=learning_rate, name=name, **kwargs)
        self.momentum = momentum
        self.nesterov = nesterov
        self._set_policy(weight_decay, decay, rates)

    def build(self, variables: Sequence[Any]) -> None:
        if self.built:
            return
        super().build(variables)
        self.velocities = [
            self.add_variable_from_reference(variable, name="velocity")
            for variable in variables
        ]

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        rate = ops.cast(learning_rate, variable.dtype) * self.rate_of(variable)
        gradient = ops.cast(gradient, variable.dtype)
        if self.decays(variable):
            gradient = gradient + self.policy_decay * ops.convert_to_tensor(variable)
        velocity = self.velocities[self._get_variable_index(variable)]
        new_velocity = self.momentum * ops.convert_to_tensor(velocity) + gradient
        self.assign(velocity, new_velocity)
        step = (
            gradient + self.momentum * new_velocity if self.nesterov else new_velocity
        )
        self.assign_sub(variable, rate * step)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            **self._policy_config(),
            "momentum": self.momentum,
            "nesterov": self.nesterov,
        }
