"""Which variables decay, and how fast each learns: what the update rules share."""

import math

from keras_resnet.backend import keras


class Policy(keras.optimizers.Optimizer):
    """The base of our rules; comes before a Keras rule among the bases.

    Keras forgets `exclude_from_weight_decay` when an optimizer is saved; this is part
    of its config.
    """

    def _set_policy(self, weight_decay, decay, rates):
        if weight_decay is None or not 0 <= weight_decay < math.inf:
            raise ValueError(f"weight_decay={weight_decay}: must be 0 or more, finite")
        if decay not in ("kernels", "all"):
            raise ValueError(f"decay={decay!r}: must be 'kernels' or 'all'")
        rates = dict(rates or {})
        for part, rate in rates.items():
            if not isinstance(rate, (int, float)) or not 0 <= rate < math.inf:
                raise ValueError(
                    f"rates[{part!r}]={rate!r}: must be a number, 0 or more, finite"
                )
        # not `weight_decay`, which the base class acts upon
        self.policy_decay, self.decay, self.rates = weight_decay, decay, rates

    def decays(self, variable) -> bool:
        """Whether the variable's norm is decayed."""
        return self.policy_decay > 0 and (
            self.decay == "all" or len(variable.shape) > 1
        )

    def rate_of(self, variable) -> float:
        """Times the schedule's rate; of several names that fit, the longest counts."""
        if not hasattr(variable, "path"):
            # TensorFlow's own variable, the name of which need not be Keras's path
            variable = self._trainable_variables[self._get_variable_index(variable)]
        part = getattr(variable, "path", variable.name).partition("/")[0]
        fit = [n for n in self.rates if part == n or part.startswith(f"{n}_")]
        return self.rates[max(fit, key=len)] if fit else 1.0

    def _get_current_learning_rate(self):
        schedule = self._learning_rate
        if isinstance(schedule, keras.optimizers.schedules.LearningRateSchedule):
            # Keras counts batches here, also those whose gradients are only gathered
            return schedule(self.iterations)
        return super()._get_current_learning_rate()

    def _policy_config(self):
        return {
            "weight_decay": self.policy_decay,
            "decay": self.decay,
            "rates": dict(self.rates),
        }
