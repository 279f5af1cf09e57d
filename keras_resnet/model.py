"""A ModelInfo -> a functional Keras model over the layers, which carries it along."""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_resnet.backend import keras, layers, ops
from keras_resnet.complexity import variable_shapes
from keras_resnet.config import ResNetConfig
from keras_resnet.errors import ModelError
from keras_resnet.info import ModelInfo
from keras_resnet.layers.blocks import BLOCKS
from keras_resnet.layers.stems import ConvStem, DeepStem
from keras_resnet.optimizers import attach_loss_scale
from keras_resnet.plan import BlockPlan, plan_blocks, plan_stem


class ScalesLoss:
    """A mixin of models whose `compile` scales the loss where float16 computes it."""

    def get_compile_config(self) -> dict[str, Any] | None:
        parent: Any = super()
        config = parent.get_compile_config()
        # the saved optimizer is scaled already, or was meant not to be
        return {**config, "auto_scale_loss": False} if config else config

    def compile_from_config(self, config: dict[str, Any]) -> None:
        # Keras's refuses a model with a `compile` of its own
        model: Any = self
        model.compile(**keras.saving.deserialize_keras_object(config))
        if model.built and model.optimizer is not None:
            model.optimizer.build(model.trainable_variables)


class Described(ScalesLoss, keras.Model):
    """A functional model that carries its ModelInfo as `info`."""

    def __init__(
        self, inputs: Any, outputs: Any, name: str | None = None, **kwargs: Any
    ) -> None:
        info = kwargs.pop("info", getattr(outputs, "_info", None))
        super().__init__(inputs=inputs, outputs=outputs, name=name, **kwargs)
        self.info = ModelInfo.from_json(info) if isinstance(info, dict) else info

    def get_config(self) -> dict[str, Any]:
        info = None if self.info is None else dataclasses.asdict(self.info)
        return {**super().get_config(), "info": info}

    def _run_through_graph(self, *args: Any, **kwargs: Any) -> Any:
        """As Keras's; its output is all that `clone_model` gives to the clone."""
        outputs = super()._run_through_graph(*args, **kwargs)
        if isinstance(outputs, keras.KerasTensor):
            outputs._info = self.info
        return outputs

    def compile(
        self,
        optimizer: Any = "rmsprop",
        *args: Any,
        auto_scale_loss: bool = True,
        **kwargs: Any,
    ) -> None:
        """As Keras's; but the loss is scaled where any layer computes in float16.

        Keras asks the global policy's name, which a reloaded net need not have.
        """
        if auto_scale_loss:
            optimizer = attach_loss_scale(optimizer, self)
        super().compile(optimizer, *args, auto_scale_loss=False, **kwargs)


@keras.saving.register_keras_serializable(package="keras_resnet")
class ResNet(Described):
    """A net of this package; made by `create`."""

    @property
    def pyramid_outputs(self) -> dict[str, Any]:
        """{"P2": tensor, ..., "P5": tensor}: the last output of stages 1 to 4.

        Strides are 4, 8, 16, 32, or `output_stride` where that is less.
        """
        blocks = (
            (re.fullmatch(r"stage(\d+)_block\d+", layer.name), layer)
            for layer in self.layers  # in order: a stage's last block comes last
        )
        return {
            f"P{int(match[1]) + 1}": block.output for match, block in blocks if match
        }


def assemble(info: ModelInfo, name: str | None = None, images: Any = None) -> ResNet:
    """The functional model that `info` describes, freshly initialized.

    Args:
        info: of the model; its `input_shape` is the shape of `images`, if given.
        name: of the model; None: the variant's.
        images: the Keras tensor to build on; None: an input of the model's own.
    """
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(info.dtype_policy)
    try:
        return _assemble(info, name, images)
    finally:
        keras.config.set_dtype_policy(before)


def _assemble(info: ModelInfo, name: str | None, images: Any) -> ResNet:
    config = info.config
    shape = _checked_input_shape(info)
    inputs = x = keras.Input(shape, name="images") if images is None else images
    if images is not None:  # with what the tensor was made by, as keras.applications
        inputs = keras.utils.get_source_inputs(images)
        inputs = inputs[0] if len(inputs) == 1 else inputs
    # pixels are exact in float32 only, and logits of half precision cost accuracy
    wide = "float64" if _compute_dtype() == "float64" else "float32"
    if info.include_preprocessing:
        x = layers.Rescaling(
            scale=[1 / (255 * std) for std in config.std],
            offset=[-mean / std for mean, std in zip(config.mean, config.std)],
            dtype=wide,
            name="preprocessing",
        )(x)
    x = _stem(config)(x)
    for block in plan_blocks(config):
        x = _block(block, config)(x)
    if info.include_top:
        x = layers.GlobalAveragePooling2D(dtype=wide, name="pool")(x)
        if config.dropout:
            x = layers.Dropout(config.dropout, dtype=wide, name="dropout")(x)
        x = layers.Dense(
            info.classes,
            activation=info.classifier_activation,
            kernel_initializer=keras.initializers.VarianceScaling(
                1 / 3, "fan_in", "uniform"
            ),
            dtype=wide,
            name="head",
        )(x)
    elif info.pooling:
        x = _POOLING[info.pooling](dtype=wide, name="pool")(x)
    else:
        x = layers.Activation("linear", dtype=wide, name="features")(x)
    return ResNet(inputs=inputs, outputs=x, name=name or info.variant, info=info)


def layers_of(net: Any, part: str) -> list[Any]:
    """The layers of a part of a net: "stem", "stage1", ... or "head"."""
    return [
        layer
        for layer in net.layers
        if layer.name == part or layer.name.startswith(f"{part}_")
    ]


def rebuild(model: Any, dtype_policy: str = "float32", **changes: Any) -> Any:
    """The same net and weights under another dtype policy, or with other `info`.

    Raises:
        ModelError: as `check_variables`.
    """
    if not isinstance(model, ResNet):
        return model.rebuilt(dtype_policy, **changes)
    check_variables(model)
    info = model.info.replace(dtype_policy=dtype_policy, **changes)
    other = assemble(info, name=model.name)
    assign(other, {w.path: ops.convert_to_numpy(w) for w in model.weights})
    return other


def in_float32(model: ResNet) -> ResNet:
    """The model itself, or with the same layers, changed ones too, all in float32."""
    if model.info.dtype_policy == "float32":
        return model
    if not isinstance(model, ResNet):
        return rebuild(model)
    config = model.get_config()
    for layer in config["layers"]:
        if layer["class_name"] != "InputLayer":
            layer["config"]["dtype"] = "float32"
    twin = ResNet.from_config(config)
    assign(twin, {w.path: ops.convert_to_numpy(w) for w in model.weights})
    return twin


def check_variables(model: ResNet) -> None:
    """Raises a ModelError where a net has not the variables that its `info` says.

    Such a net was changed since it was built, as by `quantize` and `enable_lora`, and
    what is built anew from its `info` would answer otherwise.
    """
    info = model.info
    usual = variable_shapes(info.config, info.classes if info.include_top else 0)
    now = {weight.path: tuple(weight.shape) for weight in model.weights}
    if now != usual:
        differing = sorted(p for p in now | usual if now.get(p) != usual.get(p))
        raise ModelError(
            f"{model.name}: changed since it was built, in {', '.join(differing[:5])}; "
            "LoRA is merged by saving as .keras and open_model of that file; a "
            "quantized net cannot be rebuilt, so do this before `quantize`"
        )


def has_random_weights(model: keras.Model) -> bool:
    """Whether all normalizations have the statistics that a net begins with.

    Group normalization has none; there the betas tell.
    """
    starts = {"moving_mean": 0, "moving_variance": 1}
    found = {w.path: w for w in model.weights if w.path.rpartition("/")[2] in starts}
    if not found:
        starts = {"beta": 0}
        found = {w.path: w for w in model.weights if w.path.endswith("/beta")}
    return bool(found) and all(
        np.all(ops.convert_to_numpy(weight) == starts[path.rpartition("/")[2]])
        for path, weight in found.items()
    )


def note_random_weights(model: keras.Model) -> None:
    """Prints a line to stderr where a net has only random weights."""
    if isinstance(model, ResNet) and has_random_weights(model):
        print(
            f"{model.name}: its weights are random, and so are its answers; train it, "
            f"or load weights, as in {model.info.variant}:WEIGHTS",
            file=sys.stderr,
        )


def freeze_as(model: ResNet, config: dict[str, Any]) -> None:
    """Freezes what was frozen by a saved model's config, which is not trusted."""
    if isinstance(config.get("trainable"), bool):
        model.trainable = config["trainable"]
    saved = {}
    layer_configs = config.get("layers")
    for layer in layer_configs if isinstance(layer_configs, list) else ():
        if isinstance(layer, dict) and isinstance(layer.get("name"), str):
            saved[layer["name"]] = layer.get("config")
    _freeze_parts(model, saved)


def _freeze_parts(layer: Any, saved: Mapping[str, Any]) -> None:
    for part in layer._flatten_layers(recursive=False, include_self=False):
        config = saved.get(part.name)
        if not isinstance(config, dict):
            continue
        for name in ("trainable", "frozen_statistics"):  # the first for all within
            if hasattr(part, name) and isinstance(config.get(name), bool):
                setattr(part, name, config[name])
        if isinstance(config.get("parts"), dict):
            _freeze_parts(part, config["parts"])


def assign(model: keras.Model, values: Mapping[str, Any]) -> None:
    """Gives each weight the value of its path; of two nets their order may differ."""
    for variable in model.weights:  # in Keras 2 what is frozen comes last
        variable.assign(values[variable.path])


_POOLING = {
    "avg": layers.GlobalAveragePooling2D,
    "max": layers.GlobalMaxPooling2D,
}


def _stem(config: ResNetConfig) -> Any:
    plan = plan_stem(config)
    options: dict[str, Any] = {
        "pool": plan.pool,
        "normalization": config.normalization,
        "fused_batch_norm": config.fused_batch_norm,
        "name": "stem",
    }
    if config.stem == "conv7":
        return ConvStem(plan.filters[0], **options)
    return DeepStem(plan.filters[1], tiered=config.stem == "deep_tiered", **options)


def _block(block: BlockPlan, config: ResNetConfig) -> Any:
    return BLOCKS[config.block](
        block.filters,
        stride=block.stride,
        dilation=block.dilation,
        first_dilation=block.first_dilation,
        groups=config.groups,
        group_width=config.group_width,
        shortcut=config.shortcut,
        project=block.project,
        stride_on_first=config.stride_on_first,
        attention=config.attention,
        anti_alias=block.anti_alias,
        se_ratio=config.se_ratio,
        reduce_first=config.reduce_first,
        projection_size=block.projection_size,
        zero_gamma=config.zero_gamma,
        drop_path=block.drop_path,
        normalization=config.normalization,
        fused_batch_norm=config.fused_batch_norm,
        name=block.name,
    )


def _compute_dtype() -> str:
    return keras.config.dtype_policy().compute_dtype


def _checked_input_shape(info: ModelInfo) -> tuple[int | None, ...]:
    input_shape = info.input_shape
    channels = len(info.config.mean)
    try:
        shape = (None, None, channels) if input_shape is None else tuple(input_shape)
        positive = all(side is None or side >= 1 for side in shape)
    except TypeError:
        shape, positive = (), True
    if len(shape) != 3 or shape[2] is None:
        raise ValueError(
            f"input_shape={input_shape!r}: must be (height, width, channels)"
        )
    if not positive:
        raise ValueError(f"input_shape={input_shape}: sides must be positive or None")
    if info.include_preprocessing and shape[2] != channels:
        raise ValueError(
            f"input_shape={input_shape}: must have {channels} channels, one for each "
            "value of mean and std; give as many, or include_preprocessing=False"
        )
    if info.include_top and info.pooling is not None:
        raise ValueError(
            f"pooling={info.pooling!r}: must be None with include_top=True; the top "
            "pools by average"
        )
    if info.pooling not in (None, *_POOLING):
        raise ValueError(f"pooling={info.pooling!r}: must be None, 'avg' or 'max'")
    if info.include_top and (
        isinstance(info.classes, bool)
        or not isinstance(info.classes, int)
        or info.classes < 1
    ):
        raise ValueError(f"classes={info.classes!r}: must be a positive integer")
    try:
        keras.activations.get(info.classifier_activation)
    except ValueError as error:
        raise ValueError(
            f"classifier_activation={info.classifier_activation!r}: must be 'softmax', "
            "None for logits, or another of Keras's activations"
        ) from error
    if keras.config.image_data_format() != "channels_last":
        raise ValueError(
            "image_data_format='channels_first': these nets are channels_last; call "
            "keras.config.set_image_data_format('channels_last')"
        )
    return shape
