"""DeepLabV3+ on any net of this package."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

from keras_resnet.backend import keras, layers, ops
from keras_resnet.model import Described, rebuild
from keras_resnet.transfer.encoder import Encoder, freeze, keras_hub, maps_by_stride

STRIDES = (8, 16, 32)
_PYRAMID = "spatial_pyramid_pooling"
# arXiv 1802.02611 section 4: of stride 16, and twice these of stride 8
_RATES = {8: (12, 24, 36), 16: (6, 12, 18), 32: (3, 6, 9)}


@keras.saving.register_keras_serializable(package="keras_resnet")
class PadToMultiple(layers.Layer):
    """Pads images with a color, below and at the right: [N, H, W, 3] -> [N, H', W', 3].

    Args:
        multiple: of the sides H' and W'.
        color: three numbers, such as the mean of the images.
    """

    def __init__(self, multiple: int, color: Sequence[float], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.multiple, self.color = multiple, [float(value) for value in color]

    def call(self, inputs: Any) -> Any:
        height, width = ops.shape(inputs)[1:3]
        below, right = -height % self.multiple, -width % self.multiple
        color = ops.cast(ops.convert_to_tensor(self.color), inputs.dtype)
        padded = ops.pad(inputs - color, [[0, 0], [0, below], [0, right], [0, 0]])
        return padded + color

    def compute_output_shape(self, input_shape: Any) -> Any:
        sides = [
            None if side is None else side + -side % self.multiple
            for side in input_shape[1:3]
        ]
        return (input_shape[0], *sides, input_shape[3])

    def get_config(self) -> dict[str, Any]:
        own = {"multiple": self.multiple, "color": self.color}
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable(package="keras_resnet")
class CropLike(layers.Layer):
    """Crops maps to the size of images: (maps, images) -> [N, H, W, K] of H and W."""

    def call(self, inputs: Any) -> Any:
        maps, images = inputs
        height, width = ops.shape(images)[1:3]
        return maps[:, :height, :width]

    def compute_output_shape(self, input_shape: Any) -> Any:
        maps, images = input_shape
        return (maps[0], *images[1:3], maps[3])


@keras.saving.register_keras_serializable(package="keras_resnet")
class Segmenter(Described):
    """A DeepLabV3+ on a net of this package; made by `segmenter`."""


def segmenter(
    backbone: Any,
    classes: int,
    output_stride: int = 16,
    *,
    frozen: Sequence[str] = (),
    freeze_statistics: bool = False,
    **options: Any,
) -> Any:
    """KerasHub's DeepLabV3+ (arXiv 1802.02611) on a net of this package.

    Atrous convolutions at several rates see the net's last map, whose stride is
    `output_stride`; a decoder joins it with the map of stride 4. The model takes RGB in
    [0, 255] of any size, [N, H, W, 3], and gives logits of that size, float32
    [N, H, W, classes].

    Args:
        backbone: such as `keras_resnet.backbone("resnet50d", weights="imagenet")`, for
            any input size. If its stride is another one, a copy is made that has this
            one, with the same weights; else it becomes a part of the segmenter.
        classes: how many, with the background if that is one.
        output_stride: 8, 16 or 32; the last stages dilate instead of striding.
        frozen: the parts of the backbone that are not trained: "stem", "stage1", ...
        freeze_statistics: whether the backbone's batch normalization uses its moving
            statistics in training.
        **options: of `keras_hub.models.DeepLabV3Backbone`, such as `dilation_rates`.

    Returns:
        A functional keras.Model, a Segmenter.

    Raises:
        ValueError: `classes` is below 2, or `output_stride` is none of these.
        ModelError: the backbone is none of this package, or has no part that is in
            `frozen`.
        Error: KerasHub is not installed.

    Examples:

    >>> net = keras_resnet.backbone("resnet50d", weights="imagenet")
    >>> model = keras_resnet.transfer.segmenter(net, classes=21)
    >>> loss = keras.losses.SparseCategoricalCrossentropy(
    ...     from_logits=True, ignore_class=255
    ... )
    >>> model.compile("adam", loss)
    >>> model.fit(images, masks)
    """
    hub = keras_hub()
    if classes < 2:
        raise ValueError(f"classes={classes}: must be 2 or more")
    if output_stride not in STRIDES:
        raise ValueError(f"output_stride={output_stride}: must be one of {STRIDES}")
    maps_by_stride(backbone)  # refuses what is no net of this package
    config = backbone.info.config
    if config.output_stride != output_stride:
        backbone = rebuild(
            backbone,
            backbone.info.dtype_policy,
            config=dataclasses.replace(config, output_stride=output_stride),
        )
    freeze(backbone, frozen, freeze_statistics)
    last = f"P{output_stride.bit_length() - 1}"
    encoder = Encoder(backbone, ("P2", last), name=f"{backbone.name}_maps")
    policy = backbone.info.dtype_policy
    options = {
        "dilation_rates": list(_RATES[output_stride]),
        "upsampling_size": output_stride // 4,
        "low_level_feature_key": "P2",
        **options,
    }
    body = hub.models.DeepLabV3Backbone(
        encoder,
        spatial_pyramid_pooling_key=last,
        dtype=policy,
        name="deeplab",
        **options,
    )
    _name_by_place(body)
    images = keras.Input((None, None, 3), name="images")
    color = [255 * value for value in config.mean]
    x = PadToMultiple(output_stride, color, dtype="float32", name="pad")(images)
    x = layers.Conv2D(classes, 1, use_bias=False, dtype="float32", name="head")(body(x))
    x = CropLike(dtype="float32", name="crop")([x, images])
    return Segmenter(images, x, name=f"{backbone.name}_segmenter")


def _name_by_place(body: Any) -> None:
    """Renames KerasHub's unnamed layers, which Keras numbers through the process.

    TensorFlow orders a graph by names, and the order of "sequential_9" and
    "sequential_10" moved the last bits of a gradient.
    """
    for place, layer in enumerate(body._flatten_layers()):
        kind = re.sub(r"_\d+$", "", layer.name)
        if kind in ("functional", "input_layer", "sequential", _PYRAMID):
            layer.name = f"{kind}_{place:03}"
