"""Which variables decay, and how fast each learns: what the update rules share."""

import math

import keras


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
            if not 0 <= rate < math.inf:
                raise ValueError(f"rates[{part!r}]={rate}: must be 0 or more, finite")
        # not `weight_decay`, which the base class acts upon
        self.policy_decay, self.decay, self.rates = weight_decay, decay, rates

    def decays(self, variable) -> bool:
        """Whether the variable's norm is decayed."""
        return self.policy_decay > 0 and (
            self.decay == "all" or len(variable.shape) > 1
        )

    def rate_of(self, variable) -> float:
        """Times the schedule's rate."""
        part = getattr(variable, "path", variable.name).partition("/")[0]
        for name, rate in self.rates.items():
            if part == name or part.startswith(f"{name}_"):
                return rate
        return 1.0

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
