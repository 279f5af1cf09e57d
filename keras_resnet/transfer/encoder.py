"""A net as KerasHub's heads take it: with named maps, frozen parts, any input size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keras_resnet.backend import keras
from keras_resnet.errors import Error, ModelError
from keras_resnet.layers import BatchNormalization
from keras_resnet.model import ResNet, layers_of


@keras.saving.register_keras_serializable(package="keras_resnet")
class Encoder(keras.Model):
    """The maps of a net, [N, H, W, 3] -> {"P2": map, ...}; the net is shared.

    Args:
        net: a ResNet, such as `backbone` makes.
        levels: the names of the maps; of maps with the same stride the last one counts,
            and the number in a name is log2 of the stride.

    Attributes:
        pyramid_outputs: {name: symbolic tensor}, which KerasHub's heads read.

    Raises:
        ModelError: the net is none of this package, or has no such map.
    """

    def __init__(self, net: Any, levels: Sequence[str], **kwargs: Any) -> None:
        maps = maps_by_stride(net)
        for name in levels:
            if name not in maps:
                raise ModelError(
                    f"backbone={net.name!r}: has no map {name}, of stride "
                    f"{2 ** int(name[1:])}; its output_stride is "
                    f"{net.info.config.output_stride}"
                )
        outputs = {name: maps[name] for name in levels}
        super().__init__(inputs=net.inputs, outputs=outputs, **kwargs)
        self.net, self.levels, self.pyramid_outputs = net, list(levels), outputs

    def get_config(self) -> dict[str, Any]:
        net = keras.saving.serialize_keras_object(self.net)
        return {"net": net, "levels": self.levels, "name": self.name}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Encoder:
        net = keras.saving.deserialize_keras_object(config["net"], custom_objects)
        return cls(**{**config, "net": net})


def maps_by_stride(net: Any) -> dict[str, Any]:
    """{"P2": tensor, ...}: the last map of each stride, by log2 of the stride.

    Raises:
        ModelError: the net is none of this package.
    """
    if not isinstance(net, ResNet):
        raise ModelError(
            f"backbone={getattr(net, 'name', net)!r}: must be a net of this package, "
            'such as keras_resnet.backbone("resnet50d")'
        )
    stride = net.info.config.output_stride
    maps = {}
    for name, tensor in net.pyramid_outputs.items():  # strides do not fall
        level = min(int(name[1:]), stride.bit_length() - 1)
        maps[f"P{level}"] = tensor
    return maps


def freeze(net: Any, parts: Sequence[str], statistics: bool) -> None:
    """Freezes parts of a net, and the statistics of its batch normalization.

    Args:
        net: a ResNet; it is changed.
        parts: "stem", "stage1" and so on, whose weights stay as they are.
        statistics: whether batch normalization uses its moving statistics in training.

    Raises:
        ModelError: the net has no such part.
    """
    for part in parts:
        layers = layers_of(net, part)
        if not layers:
            names = sorted({layer.name.partition("_")[0] for layer in net.layers})
            raise ModelError(
                f"frozen={part!r}: {net.name} has no such part, only {', '.join(names)}"
            )
        for layer in layers:
            layer.trainable = False
    for layer in net._flatten_layers() if statistics else ():
        if isinstance(layer, BatchNormalization):
            layer.frozen_statistics = True
        elif isinstance(layer, keras.layers.BatchNormalization):
            layer.trainable = False


def keras_hub() -> Any:
    """The module of KerasHub.

    Raises:
        Error: it is not installed.
    """
    try:
        import keras_hub
    except ImportError as error:
        raise Error(
            "transfer: needs KerasHub; pip install keras-resnet-d[transfer]"
        ) from error
    return keras_hub
