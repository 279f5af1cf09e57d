"""SGD with coupled weight decay, as in PyTorch and GluonCV."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keras_resnet.backend import keras, ops
from keras_resnet.optimizers.policy import Policy


@keras.saving.register_keras_serializable(package="keras_resnet")
class CoupledSGD(Policy):
    """SGD with momentum and coupled weight decay, as in PyTorch and GluonCV.

        g <- g + weight_decay * w             (only decayed variables)
        v <- momentum * v + g
        w <- w - rate * (g + momentum * v)    (with nesterov)
        w <- w - rate * v                     (without nesterov)

    Keras's own SGD differs in two ways. Its velocity contains the learning rate, so
    that the updates differ once the learning rate changes. Its weight decay bypasses
    the momentum, which makes it about eleven times weaker at a momentum of 0.9.

    Args:
        learning_rate: a number or a schedule.
        momentum: in [0, 1).
        nesterov: whether to use Nesterov momentum.
        weight_decay: the factor of w that is added to the gradient, 0 or more; the same
            as the scale of TF-slim's `l2_regularizer`.
        decay: which variables are decayed: "kernels" for those of rank 2 or more, which
            leaves out biases, gammas and betas ("no bias decay", arXiv 1812.01187
            section 3.1), or "all".
        rates: factors of the learning rate by part of the network, such as
            {"stem": 0.05, "stage1": 0.1} (Paddle's `lr_mult`). A part contains the
            variables whose path begins with its name.

    Raises:
        ValueError: momentum, weight_decay, decay or rates is invalid.
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
        # `weight_decay` is not passed on, or the base class would decay a second time
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
