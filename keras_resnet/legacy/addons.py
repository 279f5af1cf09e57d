"""The pieces of TensorFlow Addons that a recipe may name, and what replaces them.

They work only on the stack of the extra "addons", and go with `legacy.keras2`.
"""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from keras_resnet.errors import AddonsError

_MODULE = "tensorflow_addons"
_ENDED = (
    "TensorFlow Addons ended in May 2024 and imports up to TensorFlow 2.15 alone, the "
    "stack of the extra 'addons'"
)
YIQ = "tfa.yiq"
# what takes the place of each on the main stack
COLOURS = {
    YIQ: "colour=0.4 and colours=hue-saturation-brightness, the same map to one level "
    "of 255",
}
_NONE = "nothing has this rule; "
OPTIMIZERS = {
    "tfa.AdaBelief": f"{_NONE}optimizer=lamb, or keras.optimizers.AdamW outside of "
    "recipes",
    "tfa.AdamW": "optimizer=lamb; outside of recipes keras.optimizers.AdamW with "
    "weight_decay = wd / rate",
    "tfa.LAMB": "optimizer=lamb with the same weight_decay: the same rule, gradients "
    "cut to a global norm of 1",
    "tfa.LazyAdam": "optimizer=lamb; outside of recipes keras.optimizers.Adam is the "
    "same on dense gradients",
    "tfa.Lookahead": f"{_NONE}optimizer=sgd, and ema=0.9999 for an average of weights",
    "tfa.MovingAverage": "optimizer=sgd with ema = average_decay, the same average as "
    "with dynamic_decay=True",
    "tfa.NovoGrad": f"{_NONE}nearest is optimizer=lamb, at a rate of its own",
    "tfa.RectifiedAdam": f"{_NONE}optimizer=lamb with warmup_epochs, or "
    "keras.optimizers.Adam outside of recipes",
    "tfa.SGDW": "optimizer=sgd with weight_decay = wd * (1 - momentum) / rate; the "
    "same is keras.optimizers.SGD with wd / rate",
    "tfa.SWA": f"{_NONE}optimizer=sgd with ema=0.9999 has an exponential mean",
    "tfa.Yogi": f"{_NONE}optimizer=lamb, or keras.optimizers.Adam outside of recipes",
}
_WRAPPERS = ("tfa.Lookahead", "tfa.MovingAverage", "tfa.SWA")
_WITHOUT_DECAY = ("tfa.LazyAdam", "tfa.Yogi")
_DECAY_ALL = ("tfa.AdaBelief", "tfa.NovoGrad", "tfa.RectifiedAdam")
# the variables of rank 1 that layers have, by their TensorFlow names
_VECTORS = [r"(^|/)(gamma|beta|bias)(:0)?$"]


def check(field: str, name: Any) -> None:
    """Refuses a `tfa.` name that is unknown, or where Addons is not installed.

    Raises:
        AddonsError: one line, with what takes its place.
    """
    known = COLOURS if field.startswith("colour") else OPTIMIZERS
    if name not in known:
        raise AddonsError(f"{field}={name!r}: must be one of {', '.join(known)}")
    if importlib.util.find_spec(_MODULE) is None:
        raise _gone(field, name)


def optimizer(
    name: str,
    rate: Any,
    momentum: float,
    nesterov: bool,
    weight_decay: float,
    decay: str,
    ema: float,
) -> AddonsOptimizer:
    """A rule of Addons, whose arguments are a recipe's in the sense of Addons.

    Args:
        name: of OPTIMIZERS. A wrapper is around SGD, or SGDW where there is a decay.
        rate: a number or a schedule.
        momentum, nesterov: of SGD and SGDW.
        weight_decay: SGDW and AdamW subtract this part of a weight at each step,
            whatever the rate; the other rules add it to the direction.
        decay: "kernels", or "all" variables.
        ema: MovingAverage's `average_decay`, which is dynamic.

    Raises:
        AddonsError: Addons cannot be imported, or the rule has no such decay.
    """
    tfa = _load("optimizer", name)
    excluded = {"exclude_from_weight_decay": _VECTORS} if decay == "kernels" else {}
    decayed = {"weight_decay": weight_decay}
    sgd = {"learning_rate": rate, "momentum": momentum, "nesterov": nesterov}
    if name in _WITHOUT_DECAY and weight_decay:
        raise AddonsError(f"weight_decay={weight_decay}: {name} has none; must be 0")
    if name in _DECAY_ALL and weight_decay and decay != "all":
        raise AddonsError(f"decay={decay!r}: {name} decays all; must be 'all'")
    if name == "tfa.SWA" and ema:
        raise AddonsError(f"ema={ema}: {name} averages by itself; must be 0")
    if name == "tfa.MovingAverage" and not ema:
        raise AddonsError(f"ema={ema}: is the average_decay of {name}; such as 0.9999")
    short = name.removeprefix("tfa.")
    base = _Averaging if short in ("MovingAverage", "SWA") else AddonsOptimizer
    kind = type(short, (base, getattr(tfa.optimizers, short)), {})
    if name in _WRAPPERS:
        import tensorflow as tf

        inner = (
            tfa.optimizers.SGDW(**decayed, **excluded, **sgd)
            if weight_decay
            else tf.keras.optimizers.legacy.SGD(**sgd)
        )
        if short == "MovingAverage":
            return kind(inner, average_decay=ema, dynamic_decay=True)  # as ours
        return kind(inner)
    if name == "tfa.SGDW":
        return kind(**decayed, **excluded, **sgd)
    if name in ("tfa.LAMB", "tfa.AdamW"):
        return kind(learning_rate=rate, **decayed, **excluded)
    return kind(rate, **({} if name in _WITHOUT_DECAY else decayed))


class _Above:
    """A class that is put before one of Keras 2's among the bases."""

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...


class AddonsOptimizer(_Above):
    """What this package asks of an optimizer, above one of Keras 2's legacy class."""

    @property
    def _rule(self) -> Any:
        """The rule that a wrapper is around, or this one."""
        return getattr(self, "_optimizer", self)

    @property
    def learning_rate(self) -> Any:
        """The rate of this step."""
        rate = self._rule._get_hyper("learning_rate")
        return rate(self.iterations) if callable(rate) else rate

    @property
    def variables(self) -> _Called:
        """A list that may also be called, as Keras 2 does."""
        return _Called(self.weights)

    def build(self, variables: Sequence[Any]) -> None:
        """Makes the slots of the variables."""
        self._create_all_weights(variables)
        self._learning = {id(variable) for variable in variables}
        if hasattr(self._rule, "_set_decay_var_list"):  # a wrapper never calls it
            self._rule._set_decay_var_list(variables)

    def decays(self, variable: Any) -> bool:
        """Whether a decay by name reaches the variable."""
        asked = getattr(self._rule, "_do_use_weight_decay", lambda variable: False)
        return bool(asked(variable))

    def rate_of(self, variable: Any) -> float:
        """The factor of the schedule's rate: Addons has one rate for all."""
        return 1.0

    def with_loss_scale(self) -> Any:
        """The same rule within Keras 2's loss scale for float16."""
        import tensorflow as tf

        any_legacy = tf.keras.optimizers.legacy.SGD()
        legacy = type(tf.keras.mixed_precision.LossScaleOptimizer(any_legacy))
        return type("LossScale", (_Scaled, legacy), {})(self)


class _Averaging(AddonsOptimizer):
    def averages(self, weights: Sequence[Any]) -> list[Any]:
        """The average of each weight that is trained, and the others themselves."""
        return [
            self.get_slot(weight, "average") if id(weight) in self._learning else weight
            for weight in weights
        ]


class _Scaled(_Above):
    @property
    def variables(self) -> _Called:
        scale = self._loss_scale
        return _Called(
            [*self._optimizer.variables, scale.current_loss_scale, scale.counter]
        )

    @property
    def dynamic_scale(self) -> Any:
        return self.loss_scale

    def build(self, variables: Sequence[Any]) -> None:
        self._optimizer.build(variables)


class _Called(list):
    def __call__(self) -> _Called:
        return self


def adjust_hsv(images: Any, factors: Any) -> Any:
    """`tfa.image.adjust_hsv_in_yiq` of each picture.

    Args:
        images: float32 [B, S, S, 3] in [0, 255].
        factors: [B, 3], of hue (the half circle times it less 1), saturation and value.

    Returns:
        float32 [B, S, S, 3], not clipped.
    """
    import math

    import tensorflow as tf

    adjust = _load("colours", YIQ).image.adjust_hsv_in_yiq

    def one(each: Any) -> Any:
        image, (hue, saturation, value) = each[0], tf.unstack(each[1])
        return adjust(image, math.pi * (hue - 1), saturation, value)

    return tf.map_fn(one, (images, factors), fn_output_signature=tf.float32)


def _load(field: str, name: str) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Addons warns that it has ended
            return importlib.import_module(_MODULE)
    except ImportError as error:
        raise _gone(field, name) from error


def _gone(field: str, name: str) -> AddonsError:
    instead = {**COLOURS, **OPTIMIZERS}[name]
    return AddonsError(f"{field}={name}: {_ENDED}; here: {instead}")
