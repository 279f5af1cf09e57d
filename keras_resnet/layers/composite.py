"""Layers made of layers, whose parts keep what is changed on them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from keras_resnet.backend import keras, layers
from keras_resnet.config import python_scalar

Shape = tuple[Any, ...]  # of ints; None where a side may vary


class Composite(layers.Layer):
    """A layer made of layers, built explicitly and computing under one dtype policy.

    A subclass makes its parts with `make`, builds them with `build_in_order`, and names
    them in its `call`.

    What is changed on a part comes back from files too: a part that is frozen,
    quantized or given LoRA, another momentum. `parts` in the config has by name what of
    a part's own config is not as this layer makes it.

    Args:
        arguments: those of the subclass's constructor, which are its config.
        parts: changes of parts, from a config.
    """

    def __init__(self, arguments: dict[str, Any], parts: dict | None = None, **kwargs):
        super().__init__(**kwargs)
        self.arguments = {name: python_scalar(it) for name, it in arguments.items()}
        # not as attributes of the usual kind, which Keras tracks
        self.__dict__.update(_changes=parts or {}, _makers={})

    def make(self, cls: Callable, *args: Any, name: str, **kwargs: Any) -> Any:
        """A part under this layer's dtype policy, with what was changed on it."""
        args = tuple(map(python_scalar, args))
        kwargs = {key: python_scalar(value) for key, value in kwargs.items()}
        self._makers[name] = functools.partial(cls, *args, name=name, **kwargs)
        part = self._unchanged(name)
        if changes := self._changes.get(name):
            part = type(part).from_config(part.get_config() | changes)
        return part

    def _unchanged(self, name: str) -> Any:
        """A part as this layer makes it, which decides what is frozen within."""
        return self._makers[name](dtype=self.dtype_policy, trainable=self.trainable)

    def get_config(self) -> dict[str, Any]:
        config = {**super().get_config(), **self.arguments}
        # parts that `build` is still to make stay as the config had them
        parts = {k: v for k, v in self._changes.items() if k not in self._makers}
        parts |= {
            part.name: changes
            for part in self._flatten_layers(recursive=False, include_self=False)
            if part.name in self._makers and (changes := self._changes_of(part))
        }
        # in files only where it is needed, so that they open in former versions too
        return {**config, "parts": parts} if parts else config

    def _changes_of(self, part: Any) -> dict[str, Any]:
        """What of a part's config is not as this layer makes it."""
        if isinstance(part, layers.Identity):  # which has no config
            return {}
        usual = self._unchanged(part.name).get_config()
        return {
            key: value
            for key, value in part.get_config().items()
            # Keras 2 rewrites the axis when a normalisation is built
            if key != "axis" and (key not in usual or value != usual[key])
        }


def build_in_order(shape: Shape, *parts: Any) -> Shape:
    """Builds parts, each on the shape that the one before gives; the last one's shape.

    A part that is None is left out.
    """
    for part in filter(None, parts):
        part.build(shape)
        shape = tuple(part.compute_output_shape(shape))
    return shape


def strided(shape: Shape, stride: int, channels: int) -> Shape:
    """[N, H, W, C] -> [N, ceil(H / stride), ceil(W / stride), channels]."""
    sides = (None if side is None else -(-side // stride) for side in shape[1:3])
    return (shape[0], *sides, channels)


def he_fan_out() -> Any:
    """He initialisation over the fan-out, as in timm and torchvision."""
    return keras.initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal")
