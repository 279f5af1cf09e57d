"""Weight decay and learning rate factors by variable, shared by the optimizers."""

from __future__ import annotations

import math
from typing import Any

from keras_resnet.backend import keras


class Policy(keras.optimizers.Optimizer):
    """The base class of this package's optimizers.

    List it before a Keras optimizer among the base classes. Unlike Keras's
    `exclude_from_weight_decay`, these settings are part of the config, and so are kept
    when an optimizer is saved.
    """

    def _set_policy(
        self, weight_decay: float, decay: str, rates: dict[str, float] | None
    ) -> None:
        if weight_decay is None or not 0 <= weight_decay < math.inf:
            raise ValueError(f"weight_decay={weight_decay}: must be finite, 0 or more")
        if decay not in ("kernels", "all"):
            raise ValueError(f"decay={decay!r}: must be 'kernels' or 'all'")
        rates = dict(rates or {})
        for part, rate in rates.items():
            if not isinstance(rate, (int, float)) or not 0 <= rate < math.inf:
                raise ValueError(
                    f"rates[{part!r}]={rate!r}: must be a number, 0 or more and finite"
                )
        # named `policy_decay`, as the base class would also apply `weight_decay`
        self.policy_decay, self.decay, self.rates = weight_decay, decay, rates

    def decays(self, variable: Any) -> bool:
        """Returns whether weight decay is applied to the variable."""
        return self.policy_decay > 0 and (
            self.decay == "all" or len(variable.shape) > 1
        )

    def rate_of(self, variable: Any) -> float:
        """Returns the variable's factor from `rates`, by the longest name that matches.

        It is 1.0 if none matches.
        """
        if not hasattr(variable, "path"):
            # a tf.Variable has no path, and its name may differ from Keras's path
            variable = self._trainable_variables[self._get_variable_index(variable)]
        part = getattr(variable, "path", variable.name).partition("/")[0]
        names = [n for n in self.rates if part == n or part.startswith(f"{n}_")]
        return self.rates[max(names, key=len)] if names else 1.0

    def _get_current_learning_rate(self) -> Any:
        schedule = self._learning_rate
        if isinstance(schedule, keras.optimizers.schedules.LearningRateSchedule):
            # Keras would also count the batches that only accumulate gradients
            return schedule(self.iterations)
        return super()._get_current_learning_rate()

    def _policy_config(self) -> dict[str, Any]:
        return {
            "weight_decay": self.policy_decay,
            "decay": self.decay,
            "rates": dict(self.rates),
        }
