"""Layers made of layers, whose parts keep what is changed on them."""

from __future__ import annotations

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

    def __init__(
        self,
        arguments: dict[str, Any],
        parts: dict[str, dict[str, Any]] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.arguments = {name: python_scalar(it) for name, it in arguments.items()}
        # not as attributes of the usual kind, which Keras tracks
        self.__dict__.update(_changes=parts or {}, _as_made={})

    def make(self, cls: Callable, *args: Any, name: str, **kwargs: Any) -> Any:
        """A part under this layer's dtype policy, with what was changed on it."""
        args = tuple(map(python_scalar, args))
        kwargs = {key: python_scalar(value) for key, value in kwargs.items()}
        common = {"dtype": self.dtype_policy, "trainable": self.trainable}
        part = cls(*args, name=name, **common, **kwargs)
        if isinstance(part, layers.Identity):  # which has no config
            return part
        self._as_made[name] = _without_ids(part.get_config())
        if changes := self._changes.get(name):
            part = type(part).from_config(self._as_made[name] | changes)
        return part

    def get_config(self) -> dict[str, Any]:
        config = {**super().get_config(), **self.arguments}
        # a part follows this layer's policy, and is frozen where this layer is
        inherited = _without_ids({key: config[key] for key in ("dtype", "trainable")})
        # parts that `build` is still to make stay as the config had them
        parts = {k: v for k, v in self._changes.items() if k not in self._as_made}
        for part in self._flatten_layers(recursive=False, include_self=False):
            if part.name in self._as_made:
                usual = self._as_made[part.name] | inherited
                if changes := _changes(_without_ids(part.get_config()), usual):
                    parts[part.name] = changes
        # in files only where it is needed, so that they open in former versions too
        return {**config, "parts": parts} if parts else config


def _changes(config: dict[str, Any], usual: dict[str, Any]) -> dict[str, Any]:
    """What of a part's config is not as its layer makes it."""
    return {
        key: value
        for key, value in config.items()
        # Keras 2 rewrites the axis when a normalization is built
        if key != "axis" and (key not in usual or value != usual[key])
    }


def _without_ids(config: Any) -> Any:
    """A config without the ids of objects that Keras adds while it saves and loads."""
    if not isinstance(config, dict):
        return config
    return {
        key: _without_ids(value)
        for key, value in config.items()
        if key != "shared_object_id"
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
    """He initialization over the fan-out, as in timm and torchvision."""
    return keras.initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal")
