"""Which variables decay, and how fast each learns: what the update rules share."""

from __future__ import annotations

import math
from typing import Any

from keras_resnet.backend import keras


class Policy(keras.optimizers.Optimizer):
    """The base of this package's rules; it comes before a Keras rule among the bases.

    Keras forgets `exclude_from_weight_decay` when an optimizer is saved; what is set
    here is in the config.
    """

    def _set_policy(
        self, weight_decay: float, decay: str, rates: dict[str, float] | None
    ) -> None:
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

    def decays(self, variable: Any) -> bool:
        """Whether the variable is decayed."""
        return self.policy_decay > 0 and (
            self.decay == "all" or len(variable.shape) > 1
        )

    def rate_of(self, variable: Any) -> float:
        """The factor of the schedule's rate, by the longest of `rates` that matches."""
        if not hasattr(variable, "path"):
            # a variable of TensorFlow, whose name need not be Keras's path
            variable = self._trainable_variables[self._get_variable_index(variable)]
        part = getattr(variable, "path", variable.name).partition("/")[0]
        names = [n for n in self.rates if part == n or part.startswith(f"{n}_")]
        return self.rates[max(names, key=len)] if names else 1.0

    def _get_current_learning_rate(self) -> Any:
        schedule = self._learning_rate
        if isinstance(schedule, keras.optimizers.schedules.LearningRateSchedule):
            # Keras counts batches, also those whose gradients are only accumulated
            return schedule(self.iterations)
        return super()._get_current_learning_rate()

    def _policy_config(self) -> dict[str, Any]:
        return {
            "weight_decay": self.policy_decay,
            "decay": self.decay,
            "rates": dict(self.rates),
        }
