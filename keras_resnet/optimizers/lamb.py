"""LAMB as the large-batch recipes ran it: the decay is inside the trust ratio."""

from keras_resnet.backend import keras, ops
from keras_resnet.optimizers.policy import Policy


@keras.saving.register_keras_serializable(package="keras_resnet")
class Lamb(Policy, keras.optimizers.Lamb):
    """LAMB (arXiv 1904.00962, algorithm 2) in the form of timm, step for step.

        m <- beta_1 * m + (1 - beta_1) * g,  v <- beta_2 * v + (1 - beta_2) * g^2
        u <- (m / (1 - beta_1^t)) / (sqrt(v / (1 - beta_2^t)) + epsilon)
        u <- u + weight_decay * w                     (decayed variables, and for them:)
        u <- u * |w| / |u|                            (where neither norm is 0)
        w <- w - rate * u

    for gradients g of which the global norm was cut to `global_clipnorm`. Keras's own
    decays apart from the trust ratio, and adapts biases too. ResNet strikes back (arXiv
    2110.00476) trained with this form.

    Args:
        learning_rate: a number or a schedule.
        beta_1, beta_2, epsilon: as above.
        weight_decay: times w, in the direction.
        decay: "kernels" decays, and adapts, variables of rank above 1; "all" every one.
        rates: as `CoupledSGD`'s.
        global_clipnorm: of all gradients together; None leaves them.
    """

    def __init__(
        self,
        learning_rate=0.001,
        beta_1=0.9,
        beta_2=0.999,
        epsilon=1e-6,
        weight_decay=0.0,
        decay="kernels",
        rates=None,
        global_clipnorm=1.0,
        name="lamb",
        **kwargs,
    ):
        super().__init__(
            learning_rate=learning_rate,
            beta_1=beta_1,
            beta_2=beta_2,
            epsilon=epsilon,
            global_clipnorm=global_clipnorm,
            name=name,
            **kwargs,
        )
        self._set_policy(weight_decay, decay, rates)

    def update_step(self, gradient, variable, learning_rate):
        kind = variable.dtype
        rate = ops.cast(learning_rate, kind) * self.rate_of(variable)
        gradient = ops.cast(gradient, kind)
        weight = ops.convert_to_tensor(variable)
        index = self._get_variable_index(variable)
        moments = []
        for slot, beta, value in (
            (self._momentums[index], self.beta_1, gradient),
            (self._velocities[index], self.beta_2, ops.square(gradient)),
        ):
            moment = beta * ops.convert_to_tensor(slot) + (1 - beta) * value
            self.assign(slot, moment)
            step = ops.cast(self.iterations + 1, kind)
            # not ops.cast(beta), which rounds to float32 on its way to float64
            moments.append(moment / (1 - ops.power(ops.full_like(step, beta), step)))
        direction = moments[0] / (ops.sqrt(moments[1]) + self.epsilon)
        if self.decays(variable):
            direction = direction + self.policy_decay * weight
            norms = [ops.sqrt(ops.sum(ops.square(x))) for x in (weight, direction)]
            both = (norms[0] > 0) & (norms[1] > 0)
            ones = ops.ones_like(norms[0])
            ratio = ops.where(both, norms[0] / ops.where(both, norms[1], ones), ones)
            direction = ratio * direction
        self.assign_sub(variable, rate * direction)

    def get_config(self):
        return {**super().get_config(), **self._policy_config()}
