"""Builds the compiled model of a recipe: network, teacher, optimizer and loss."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keras_resnet.backend import keras
from keras_resnet.config import VARIANTS, ResNetConfig
from keras_resnet.errors import RecipeError, WeightsError
from keras_resnet.info import ModelInfo, Protocol
from keras_resnet.layers import BatchNormalization
from keras_resnet.model import assemble, layers_of, rebuild
from keras_resnet.opening import net_fields, open_model, read_model_info
from keras_resnet.recipe import Recipe
from keras_resnet.train import others
from keras_resnet.train.distillation import distill
from keras_resnet.train.objective import loss, metrics, optimizer, parts
from keras_resnet.train.trainable import Trainable
from keras_resnet.transfer import assemble_transfer, net_info
from keras_resnet.transfer.segmentation import STRIDES
from keras_resnet.variants import configure
from keras_resnet.weights import load_weights, locate, read_info

# {name in a recipe: initializer of the convolutions and the classifier}
INITIALIZERS = {
    # as in torchvision and timm
    "he": keras.initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal"),
    # arXiv 1812.01187 section 2.1
    "xavier": keras.initializers.VarianceScaling(1.0, "fan_avg", "uniform"),
    # MXNet's MSRAPrelu() with slope 0.25, which GluonCV's training script uses
    "msra-prelu": keras.initializers.VarianceScaling(
        2 / (1 + 0.25**2), "fan_avg", "untruncated_normal"
    ),
}


@dataclass(frozen=True)
class Setup:
    """A compiled model and the recipe that it was built from.

    Attributes:
        recipe: the Recipe, with the evaluation protocol filled in.
        steps: the number of batches in an epoch.
        model: a compiled Trainable with a built optimizer; its `net` returns logits.
    """

    recipe: Recipe
    steps: int
    model: Trainable


def build(
    recipe: Recipe,
    class_names: Sequence[str],
    steps: int,
    began: ModelInfo | None = None,
    model: Any = None,
    preprocessing: Any = None,
    class_weights: Any = None,
    several_labels: bool = False,
) -> Setup:
    """Builds and compiles the model of a recipe, without writing any file.

    Loads the recipe's weights and teacher, and creates the variables of the moving
    average if the recipe sets `ema`.

    Args:
        recipe: a Recipe.
        class_names: the class names of the data, in order.
        steps: the number of batches in an epoch.
        began: the description of the network in a run that is resumed. The recipe's
            weights are then not read, since a checkpoint replaces them.
        model, preprocessing: a net that is not of this package, as
            `others.build_net` takes it.
        class_weights: what `objective.class_weights` returned for the data.
        several_labels: whether an image of the data may have several.

    Raises:
        RecipeError: a field is invalid for this model or data; the message names it.
        ModelError: the teacher cannot be opened.
        WeightsError: the weights cannot be found, or do not fit the model.
    """
    names = tuple(class_names)
    is_other = others.is_other(recipe)
    if recipe.task != "classify":
        recipe = _with_stride(recipe)
    if is_other:
        others.check(recipe)
    else:
        _check_together(recipe, _config(recipe))
    rule = optimizer(recipe, steps)
    criterion = loss(recipe, len(names), several_labels)
    if recipe.teacher:
        _check_teacher(recipe, names)
    info = file = None
    if recipe.weights and not began:
        file = _locate(recipe)
        info = read_info(file)
    recipe = _with_protocol(recipe, began or info)
    keras.utils.set_random_seed(recipe.seed)
    net: Any
    if is_other:
        policy = began.dtype_policy if began else precision_policy(recipe)
        net = others.build_net(recipe, len(names), policy, model, preprocessing)
        net.info = net.info.replace(class_names=names, protocol=recipe.protocol)
    elif recipe.task == "classify":
        net = assemble(began) if began else _net(recipe, names, file, info)
        _freeze(net, recipe)
    else:
        net = _transfer_net(recipe, names, file, info, began)
    if recipe.remat:
        _recompute(net, recipe)
    if several_labels:
        net.info = net.info.replace(thresholds=(0.5,) * len(names))
    averages = getattr(rule, "averages", None)  # Addons' averaging optimizers
    ema = 0.0 if averages else recipe.ema
    trainable = _distiller(net, recipe, ema) if recipe.teacher else Trainable(net, ema)
    trainable.class_weights = class_weights
    trainable.compile(
        optimizer=rule,
        loss=criterion,
        weighted_metrics=metrics(recipe, several_labels),
        jit_compile=_compiles(),
    )
    trainable.optimizer.build(trainable.trainable_variables)
    if averages:
        trainable.averages = averages(net.weights)
    return Setup(recipe, steps, trainable)


def resolve(recipe: Recipe) -> Recipe:
    """Returns the recipe with the evaluation protocol of its weights filled in.

    Fields of the protocol that the recipe sets are kept.

    Raises:
        WeightsError: the weights cannot be found or read.
    """
    if recipe.names_protocol or not recipe.weights or others.is_other(recipe):
        return recipe
    return _with_protocol(recipe, read_info(_locate(recipe)))


def _with_protocol(recipe: Recipe, info: ModelInfo | None) -> Recipe:
    protocol = Protocol() if info is None else info.protocol
    return recipe.replace(
        test_size=recipe.test_size or protocol.size,
        crop_pct=recipe.crop_pct or protocol.crop_pct,
        interpolation=recipe.interpolation or protocol.interpolation,
    )


def _locate(recipe: Recipe) -> str:
    return locate(recipe.weights, recipe.model)


def _check_together(recipe: Recipe, config: ResNetConfig) -> None:
    """Raises a RecipeError for fields that do not fit the recipe's model."""
    stages = 1 + len(config.depths)
    if len(recipe.stage_rates) not in (0, stages):
        raise RecipeError(
            f"stage_rates={recipe.stage_rates}: must be {stages} numbers for "
            f"{recipe.model}, one for each of {', '.join(parts(range(stages)))}"
        )
    if recipe.freeze_statistics and not config.fused_batch_norm:
        raise RecipeError(
            "freeze_statistics=True: needs this package's batch normalization, and "
            f"the net has normalization={config.normalization!r}, "
            f"fused_batch_norm={config.fused_batch_norm}; leave out freeze_statistics"
        )


def precision_policy(recipe: Recipe) -> str:
    """Returns the name of the dtype policy for the recipe on this machine.

    For `precision="auto"` it is "mixed_float16" on a CUDA or ROCm GPU, "mixed_bfloat16"
    on a CPU with bfloat16 instructions (AMX or AVX512-BF16), and "float32" otherwise.
    """
    if recipe.precision != "auto":
        return recipe.precision
    if on_gpu():
        return "mixed_float16"
    return "mixed_bfloat16" if _cpu_multiplies_bfloat16() else "float32"


def describe_precision(recipe: Recipe) -> str:
    """Returns the line printed before training: model, recipe and dtype policy."""
    auto = ", the fastest on this machine" if recipe.precision == "auto" else ""
    return f"{recipe.model}, {recipe.name}: {precision_policy(recipe)}{auto}"


def audit(model: Trainable) -> list[dict[str, Any]]:
    """Lists how the optimizer of a compiled model treats each variable of its network.

    Moving statistics are left out, as the optimizer does not update them.

    Returns:
        [{"variable": path, "shape": [...], "decays": whether weight decay is applied,
        "rate": the factor of the scheduled learning rate, 0 if frozen}, ...].
    """
    inner: Any = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    trained = {id(variable) for variable in model.trainable_variables}
    return [
        {
            "variable": variable.path,
            "shape": list(variable.shape),
            "decays": id(variable) in trained and inner.decays(variable),
            "rate": inner.rate_of(variable) if id(variable) in trained else 0.0,
        }
        for variable in model.net.weights
        if not variable.path.rpartition("/")[2].startswith("moving_")
    ]


def _compiles() -> bool | str:
    """Returns Keras's `jit_compile`: whether XLA compiles the training step."""
    if keras.backend.backend() != "tensorflow":
        return True
    import tensorflow as tf

    # on a CPU, XLA would replace oneDNN's faster convolutions; devices that share a
    # batch wait for each other within the step
    return "auto" if on_gpu() and not tf.distribute.has_strategy() else False


def on_gpu() -> bool:
    """Returns whether Keras's backend computes on a CUDA or ROCm GPU.

    Hidden GPUs do not count. Neither do Apple's, which lack XLA and are no faster in
    float16.
    """
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return sys.platform != "darwin" and bool(tf.config.get_visible_devices("GPU"))
    return any("cuda" in d or "gpu" in d for d in keras.distribution.list_devices())


def _cpu_multiplies_bfloat16() -> bool:
    try:
        flags = Path("/proc/cpuinfo").read_text().split()
    except OSError:  # not Linux
        return False
    return not {"amx_bf16", "avx512_bf16"}.isdisjoint(flags)


def _config(recipe: Recipe) -> ResNetConfig:
    if recipe.model not in VARIANTS:
        raise RecipeError(
            f"model={recipe.model!r}: must be a name of keras_resnet.list_models()"
        )
    try:
        return configure(recipe.model, recipe.overrides)
    except (ValueError, TypeError) as error:
        raise RecipeError(f"overrides={recipe.overrides}: {error}") from error


def _check_teacher(recipe: Recipe, class_names: Sequence[str]) -> None:
    info = read_model_info(recipe.teacher)
    info.check_classifies(recipe.teacher)
    classes, names = info.classes, info.class_names
    if names is not None and tuple(names) != tuple(class_names):
        differing = ", ".join(sorted({*names} ^ {*class_names})[:5])
        differing = differing or "in their order"
        raise RecipeError(
            f"teacher={recipe.teacher!r}: its classes differ from those of the data "
            f"({differing}); use a teacher that was trained on this data"
        )
    if classes != len(class_names):
        raise RecipeError(
            f"teacher={recipe.teacher!r}: has {classes} classes, but the data has "
            f"{len(class_names)}; use a teacher that was trained on this data"
        )


def _distiller(net: Any, recipe: Recipe, ema: float) -> Trainable:
    try:
        teacher = rebuild(
            open_model(recipe.teacher),
            precision_policy(recipe),
            classifier_activation=None,
        )
        return distill(
            net,
            teacher,
            recipe.temperature,
            recipe.distillation,
            recipe.teacher_size or None,
            ema,
        )
    except ValueError as error:
        raise RecipeError(f"teacher={recipe.teacher!r}: {error}") from error


def _net(
    recipe: Recipe,
    class_names: tuple[str, ...],
    file: str | None,
    described: ModelInfo | None,
) -> Any:
    """Builds the network and loads its weights.

    Args:
        recipe: a Recipe.
        class_names: the class names of the data, in order.
        file: the path of the weights, or None for random weights.
        described: the description stored in `file`, if it has one.
    """
    config = configure(recipe.model, recipe.overrides, described)
    info = ModelInfo(
        variant=recipe.model,
        config=config,
        classes=len(class_names),
        classifier_activation=None,  # the loss takes logits
        dtype_policy=precision_policy(recipe),
    )
    has_head = recipe.task == "classify"
    net = assemble(info if has_head else net_info(info))
    _initialize(net, recipe.initializer)
    if file is not None:
        fresh = net.get_layer("head").get_weights() if has_head else []
        try:
            report = load_weights(net, file, strict=False)
        except WeightsError as error:
            _check_net(recipe, error)
            raise
        names = described and described.class_names
        if has_head and names and names != class_names and not report.initial:
            # the loaded classifier is for as many classes, but different ones
            net.get_layer("head").set_weights(fresh)
    net.info = info.replace(class_names=class_names, protocol=recipe.protocol)
    return net


def _transfer_net(
    recipe: Recipe,
    class_names: tuple[str, ...],
    file: str | None,
    described: ModelInfo | None,
    began: ModelInfo | None,
) -> Any:
    """The detector or segmenter of a recipe, on a net with the recipe's weights."""
    if began:
        net, info = assemble(net_info(began)), began
    else:
        net = _net(recipe, class_names, file, described)
        info = net.info.replace(task=recipe.task)
        net.info = net_info(info)
    _freeze(net, recipe)
    return assemble_transfer(info, net)


def _with_stride(recipe: Recipe) -> Recipe:
    """The recipe with the output stride that its task needs.

    Raises:
        RecipeError: it has another one, or its model is none of this package.
    """
    if others.is_other(recipe):
        raise RecipeError(
            f"model={recipe.model!r}: must be a name of keras_resnet.list_models() for "
            f"task={recipe.task!r}"
        )
    usual, allowed = (32, (32,)) if recipe.task == "detect" else (16, STRIDES)
    stride = recipe.overrides.get("output_stride", usual)
    if stride not in allowed:
        raise RecipeError(
            f"overrides={recipe.overrides}: output_stride must be one of {allowed} for "
            f"task={recipe.task!r}"
        )
    return recipe.replace(overrides={**recipe.overrides, "output_stride": stride})


def _check_net(recipe: Recipe, error: WeightsError) -> None:
    """Raises a WeightsError that names the model of the weights, if it differs."""
    fields = net_fields(recipe.weights)
    overrides = {k: v for k, v in recipe.overrides.items() if k not in ("mean", "std")}
    if fields and fields != {"model": recipe.model, "overrides": overrides}:
        raise WeightsError(
            f"weights={recipe.weights!r}: are for model={fields['model']!r} with "
            f"overrides={fields['overrides']}, not for model={recipe.model!r} with "
            f"overrides={overrides}; change these fields to match the weights"
        ) from error


def _initialize(net: Any, kind: str) -> None:
    """Initializes the kernels again, except for "he", the layers' default."""
    if kind == "he":
        return
    for variable in net.trainable_variables:
        if len(variable.shape) > 1:
            # an unseeded Keras initializer returns the same values on every call
            draw = type(INITIALIZERS[kind]).from_config(INITIALIZERS[kind].get_config())
            variable.assign(draw(variable.shape, dtype=variable.dtype))


def _freeze(net: Any, recipe: Recipe) -> None:
    for part, rate in zip(parts(recipe.stage_rates), recipe.stage_rates):
        if rate == 0:
            for layer in layers_of(net, part):
                layer.trainable = False  # also stops updating its moving statistics
    if recipe.freeze_statistics:
        for layer in net._flatten_layers():
            if isinstance(layer, BatchNormalization):
                layer.frozen_statistics = True


def _recompute(net: Any, recipe: Recipe) -> None:
    if not hasattr(keras, "remat"):
        raise RecipeError(
            f"remat={recipe.remat!r}: needs Keras 3, and this is "
            f"{keras.__version__}; leave it out"
        )
    for layer in net._flatten_layers():
        if hasattr(layer, "recomputes"):
            layer.recomputes = True
