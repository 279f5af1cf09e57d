"""The optimizers and color augmentation of TensorFlow Addons, for use in recipes.

They need the versions that the extra "addons" installs, and will be removed together
with `legacy.keras2`. On other versions, an error names a replacement.
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
    "TensorFlow Addons ended in May 2024 and needs TensorFlow 2.15 or older, which the "
    "extra 'addons' installs"
)
YIQ = "tfa.yiq"
# {name in a recipe: what to use instead without Addons}
COLOURS = {
    YIQ: "colour=0.4 and colours=hue-saturation-brightness, which give the same pixels "
    "to within one level of 255",
}
_NONE = "this optimizer has no equivalent; use "
OPTIMIZERS = {
    "tfa.AdaBelief": f"{_NONE}optimizer=lamb, or keras.optimizers.AdamW outside of "
    "recipes",
    "tfa.AdamW": "use optimizer=lamb, or outside of recipes keras.optimizers.AdamW "
    "with its weight_decay divided by the learning rate",
    "tfa.LAMB": "use optimizer=lamb with the same weight_decay, which is the same rule "
    "with gradients clipped to a global norm of 1",
    "tfa.LazyAdam": "use optimizer=lamb, or outside of recipes keras.optimizers.Adam, "
    "which is the same for dense gradients",
    "tfa.Lookahead": f"{_NONE}optimizer=sgd, with ema=0.9999 to average the weights",
    "tfa.MovingAverage": "use optimizer=sgd with ema = average_decay, which averages "
    "as with dynamic_decay=True",
    "tfa.NovoGrad": f"{_NONE}optimizer=lamb, which is closest, and tune base_rate",
    "tfa.RectifiedAdam": f"{_NONE}optimizer=lamb with warmup_epochs, or "
    "keras.optimizers.Adam outside of recipes",
    "tfa.SGDW": "use optimizer=sgd with its weight_decay times (1 - momentum) / rate, "
    "or outside of recipes the equivalent keras.optimizers.SGD with its weight_decay "
    "divided by the rate",
    "tfa.SWA": f"{_NONE}optimizer=sgd with ema=0.9999, an exponential moving average",
    "tfa.Yogi": f"{_NONE}optimizer=lamb, or keras.optimizers.Adam outside of recipes",
}
_WRAPPERS = ("tfa.Lookahead", "tfa.MovingAverage", "tfa.SWA")
_WITHOUT_DECAY = ("tfa.LazyAdam", "tfa.Yogi")
_DECAY_ALL = ("tfa.AdaBelief", "tfa.NovoGrad", "tfa.RectifiedAdam")
# regular expressions for the TensorFlow names of layers' variables of rank 1
_VECTORS = [r"(^|/)(gamma|beta|bias)(:0)?$"]


def check(field: str, name: Any) -> None:
    """Checks that a `tfa.` name exists and that Addons is installed.

    Args:
        field: the field of the recipe, such as "optimizer".
        name: its value.

    Raises:
        AddonsError: the name is unknown, or Addons is not installed; the message then
            says what to use instead.
    """
    known = COLOURS if field.startswith("colour") else OPTIMIZERS
    if name not in known:
        raise AddonsError(f"{field}={name!r}: must be one of {', '.join(known)}")
    if importlib.util.find_spec(_MODULE) is None:
        raise _unavailable(field, name)


def optimizer(
    name: str,
    rate: Any,
    momentum: float,
    nesterov: bool,
    weight_decay: float,
    decay: str,
    ema: float,
) -> AddonsOptimizer:
    """Returns an optimizer of Addons, configured with the fields of a recipe.

    Args:
        name: one of OPTIMIZERS. Lookahead, MovingAverage and SWA wrap SGDW if there is
            weight decay, and SGD otherwise.
        rate: the learning rate, a number or a schedule.
        momentum: the momentum of SGD and SGDW.
        nesterov: whether SGD and SGDW use Nesterov momentum.
        weight_decay: SGDW and AdamW subtract this fraction of a weight in each step,
            independent of the learning rate; the other optimizers add it, times the
            weight, to the update.
        decay: which variables are decayed, "kernels" or "all".
        ema: the `average_decay` of MovingAverage, which is used with
            `dynamic_decay=True`.

    Raises:
        AddonsError: Addons cannot be imported, or the optimizer does not support
            `weight_decay`, `decay` or `ema`.
    """
    tfa = _load("optimizer", name)
    excluded = {"exclude_from_weight_decay": _VECTORS} if decay == "kernels" else {}
    decayed = {"weight_decay": weight_decay}
    sgd = {"learning_rate": rate, "momentum": momentum, "nesterov": nesterov}
    if name in _WITHOUT_DECAY and weight_decay:
        raise AddonsError(f"weight_decay={weight_decay}: {name} has none; set it to 0")
    if name in _DECAY_ALL and weight_decay and decay != "all":
        raise AddonsError(f"decay={decay!r}: {name} decays all; set it to 'all'")
    if name == "tfa.SWA" and ema:
        raise AddonsError(f"ema={ema}: {name} averages by itself; set it to 0")
    if name == "tfa.MovingAverage" and not ema:
        raise AddonsError(f"ema={ema}: is the average_decay of {name}; try 0.9999")
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
            return kind(inner, average_decay=ema, dynamic_decay=True)  # as `Trainable`
        return kind(inner)
    if name == "tfa.SGDW":
        return kind(**decayed, **excluded, **sgd)
    if name in ("tfa.LAMB", "tfa.AdamW"):
        return kind(learning_rate=rate, **decayed, **excluded)
    return kind(rate, **({} if name in _WITHOUT_DECAY else decayed))


class _Mixin:
    """The base of classes that precede a Keras 2 class in a list of base classes."""

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...


class AddonsOptimizer(_Mixin):
    """Gives an optimizer of Addons the interface that this package expects."""

    @property
    def _rule(self) -> Any:
        """The optimizer inside a wrapper, or this optimizer itself."""
        return getattr(self, "_optimizer", self)

    @property
    def learning_rate(self) -> Any:
        """The learning rate of the current step."""
        rate = self._rule._get_hyper("learning_rate")
        return rate(self.iterations) if callable(rate) else rate

    @property
    def variables(self) -> _CallableList:
        """The variables, as a list that can also be called, as Keras 2 does."""
        return _CallableList(self.weights)

    def build(self, variables: Sequence[Any]) -> None:
        """Creates the slots of the variables."""
        self._create_all_weights(variables)
        self._learning = {id(variable) for variable in variables}
        if hasattr(self._rule, "_set_decay_var_list"):  # wrappers do not call it
            self._rule._set_decay_var_list(variables)

    def decays(self, variable: Any) -> bool:
        """Returns whether the optimizer, which selects by name, decays the variable."""
        is_decayed = getattr(self._rule, "_do_use_weight_decay", lambda variable: False)
        return bool(is_decayed(variable))

    def rate_of(self, variable: Any) -> float:
        """Returns 1.0, as Addons has the same learning rate for all variables."""
        return 1.0

    def with_loss_scale(self) -> Any:
        """Returns this optimizer wrapped in Keras 2's loss scaling for float16."""
        import tensorflow as tf

        any_legacy = tf.keras.optimizers.legacy.SGD()
        legacy = type(tf.keras.mixed_precision.LossScaleOptimizer(any_legacy))
        return type("LossScale", (_Scaled, legacy), {})(self)


class _Averaging(AddonsOptimizer):
    """An optimizer that averages the weights by itself."""

    def averages(self, weights: Sequence[Any]) -> list[Any]:
        """Returns the average of each trained weight, and other weights themselves."""
        return [
            self.get_slot(weight, "average") if id(weight) in self._learning else weight
            for weight in weights
        ]


class _Scaled(_Mixin):
    """Gives Keras 2's LossScaleOptimizer the names of Keras 3."""

    @property
    def variables(self) -> _CallableList:
        scale = self._loss_scale
        return _CallableList(
            [*self._optimizer.variables, scale.current_loss_scale, scale.counter]
        )

    @property
    def dynamic_scale(self) -> Any:
        return self.loss_scale

    def build(self, variables: Sequence[Any]) -> None:
        self._optimizer.build(variables)


class _CallableList(list):
    """A list that returns itself when called."""

    def __call__(self) -> _CallableList:
        return self


def adjust_hsv(images: Any, factors: Any) -> Any:
    """Applies `tfa.image.adjust_hsv_in_yiq` to each image.

    Args:
        images: float32 [B, S, S, 3] in [0, 255].
        factors: [B, 3]; the hue is rotated by pi * (factors[:, 0] - 1), and saturation
            and value are multiplied by factors[:, 1] and factors[:, 2].

    Returns:
        float32 [B, S, S, 3], not clipped.
    """
    import math

    import tensorflow as tf

    adjust = _load("colours", YIQ).image.adjust_hsv_in_yiq

    def adjust_one(pair: Any) -> Any:
        image, (hue, saturation, value) = pair[0], tf.unstack(pair[1])
        return adjust(image, math.pi * (hue - 1), saturation, value)

    return tf.map_fn(adjust_one, (images, factors), fn_output_signature=tf.float32)


def _load(field: str, name: str) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Addons warns that it has ended
            return importlib.import_module(_MODULE)
    except ImportError as error:
        raise _unavailable(field, name) from error


def _unavailable(field: str, name: str) -> AddonsError:
    instead = {**COLOURS, **OPTIMIZERS}[name]
    return AddonsError(f"{field}={name}: {_ENDED}. Without it: {instead}")
