"""A recipe and class names -> the model that is trained, compiled."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

from keras_resnet.backend import keras
from keras_resnet.config import VARIANTS
from keras_resnet.distillation import distill
from keras_resnet.layers import BatchNormalization
from keras_resnet.model import ModelError, ModelInfo, Protocol, assemble, rebuild
from keras_resnet.objective import loss, metrics, optimizer, parts
from keras_resnet.recipe import Recipe, RecipeError
from keras_resnet.trainable import Trainable
from keras_resnet.variants import RUN_MODEL, describe, open_model
from keras_resnet.weights import (
    WeightsError,
    is_tag,
    load_weights,
    locate,
    read_info,
)

_NORMALISED = ("mean", "std")  # fields of ResNetConfig that come with the weights

# of convolutions and classifier, under their recipe names
INITIALIZERS = {
    # torchvision's and timm's
    "he": keras.initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal"),
    # arXiv 1812.01187 section 2.1
    "xavier": keras.initializers.VarianceScaling(1.0, "fan_avg", "uniform"),
    # MXNet's MSRAPrelu() of slope 0.25, which GluonCV's script passes
    "msra-prelu": keras.initializers.VarianceScaling(
        2 / (1 + 0.25**2), "fan_avg", "untruncated_normal"
    ),
}


def check(recipe: Recipe, class_names) -> None:
    """Refuses what cannot be trained, before anything is built or written.

    Raises:
        RecipeError, ModelError, WeightsError: naming the field.
    """
    config = _config(recipe)
    stages = 1 + len(config.depths)
    if len(recipe.stage_rates) not in (0, stages):
        raise RecipeError(
            f"stage_rates={recipe.stage_rates}: must be {stages} for {recipe.model}, "
            f"one each for {', '.join(parts(range(stages)))}"
        )
    if recipe.freeze_statistics and not config.fused_batch_norm:
        raise RecipeError(
            "freeze_statistics=True: Keras's own normalisation cannot; leave "
            "fused_batch_norm=True"
        )
    loss(recipe, len(class_names))
    optimizer(recipe, 1)
    if recipe.teacher:
        _check_teacher(recipe, class_names)


def resolve(recipe: Recipe, info: ModelInfo | None = None) -> Recipe:
    """The recipe with the evaluation protocol of its weights where it names none.

    Args:
        recipe: a Recipe.
        info: of the net of a run that goes on; its protocol then, and no weights.

    Raises:
        WeightsError: the weights are not to be had.
    """
    if info is not None:
        return recipe.replace(
            test_size=info.protocol.size,
            crop_pct=info.protocol.crop_pct,
            interpolation=info.protocol.interpolation,
        )
    whole = recipe.test_size and recipe.crop_pct and recipe.interpolation
    if whole or not recipe.weights:
        return recipe
    said = read_info(_weights_file(recipe)) or {}
    theirs = Protocol(**said.get("protocol", {}))
    return recipe.replace(
        test_size=recipe.test_size or theirs.size,
        crop_pct=recipe.crop_pct or theirs.crop_pct,
        interpolation=recipe.interpolation or theirs.interpolation,
    )


def net_of(weights) -> dict:
    """The net that a run directory or a weights file of ours is of, if it says so.

    Returns:
        {"model": a variant, "overrides": of it}, as in a Recipe, but without mean and
        std, which training takes from the weights anyway; {} where nothing is said.
    """
    path = Path(weights)
    if is_tag(weights):
        return {}
    said = read_info(path / RUN_MODEL if path.is_dir() else path)
    if said is None or said["variant"] not in VARIANTS:
        return {}
    variant, config = said["variant"], said["config"]
    usual = json.loads(json.dumps(dataclasses.asdict(VARIANTS[variant])))
    overrides = {
        name: value
        for name, value in config.items()
        if name not in _NORMALISED and usual.get(name) != value
    }
    return {"model": variant, "overrides": overrides}


def precision_policy(recipe: Recipe) -> str:
    """The dtype policy that the recipe's precision means on this machine.

    "auto" is mixed_float16 on a CUDA GPU, mixed_bfloat16 where the CPU multiplies
    bfloat16 itself (AMX or AVX512-BF16), else float32.
    """
    if recipe.precision != "auto":
        return recipe.precision
    if on_gpu():
        return "mixed_float16"
    return "mixed_bfloat16" if _cpu_multiplies_bfloat16() else "float32"


def said_precision(recipe: Recipe) -> str:
    """The line that training begins with: net, recipe and the dtype policy chosen."""
    auto = ", as this machine is fastest" if recipe.precision == "auto" else ""
    return f"{recipe.model}, {recipe.name}: {precision_policy(recipe)}{auto}"


def learner(
    recipe: Recipe, class_names, steps_per_epoch: int, info: ModelInfo | None = None
) -> Trainable:
    """The net that the recipe means, with weights, teacher and average, compiled.

    Args:
        recipe: of `resolve`.
        class_names: of the data, in order.
        steps_per_epoch: whole batches an epoch.
        info: of the net of a run that goes on, whose values are put back anyway: the
            recipe's weights are not read then.

    Returns:
        A Trainable whose net gives logits, its optimizer built.
    """
    net = assemble(info) if info else _net(recipe, tuple(class_names))
    _freeze(net, recipe)
    rule = optimizer(recipe, steps_per_epoch)
    averages = getattr(rule, "averages", None)  # it may keep them itself
    ema = 0.0 if averages else recipe.ema
    model = _distiller(net, recipe, ema) if recipe.teacher else Trainable(net, ema)
    model.compile(
        optimizer=rule,
        loss=loss(recipe, len(class_names)),
        metrics=metrics(),
        # XLA on a CPU gives up oneDNN's convolutions
        jit_compile="auto" if on_gpu() else keras.backend.backend() != "tensorflow",
    )
    model.optimizer.build(model.trainable_variables)
    if averages:
        model.averages = averages(net.weights)
    return model


def audit(model) -> list[dict]:
    """What the optimizer of a compiled model does to each variable of its net.

    Returns:
        [{"variable": path, "shape": [...], "decays": whether weight decay is applied,
        "rate": times the schedule's, 0 where it is frozen}, ...].
    """
    rule = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    learns = {id(variable) for variable in model.trainable_variables}
    return [
        {
            "variable": variable.path,
            "shape": list(variable.shape),
            "decays": id(variable) in learns and rule.decays(variable),
            "rate": rule.rate_of(variable) if id(variable) in learns else 0.0,
        }
        for variable in model.net.weights
        if not variable.path.rpartition("/")[2].startswith("moving_")
    ]


def on_gpu() -> bool:
    """Whether Keras's backend computes on a CUDA or ROCm GPU.

    One that was hidden does not count, and Apple's has neither XLA nor float16 products
    that are faster.
    """
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return sys.platform != "darwin" and bool(tf.config.get_visible_devices("GPU"))
    return any("cuda" in d or "gpu" in d for d in keras.distribution.list_devices())


def _cpu_multiplies_bfloat16():
    try:
        flags = Path("/proc/cpuinfo").read_text().split()
    except OSError:  # not Linux
        return False
    return not {"amx_bf16", "avx512_bf16"}.isdisjoint(flags)


def _config(recipe):
    if recipe.model not in VARIANTS:
        raise RecipeError(f"model={recipe.model!r}: must be a name of list_models()")
    try:
        return VARIANTS[recipe.model].replace(**recipe.overrides)
    except (ValueError, TypeError) as error:
        raise RecipeError(f"overrides={recipe.overrides}: {error}") from error


def _check_teacher(recipe, class_names):
    classes, names = describe(recipe.teacher)
    if names is not None and tuple(names) != tuple(class_names):
        theirs, ours = set(names) - {*class_names}, {*class_names} - {*names}
        differing = ", ".join(sorted(theirs | ours)[:5]) or "in another order"
        raise RecipeError(
            f"teacher={recipe.teacher!r}: its classes are not the data's ({differing});"
            " train it on this data"
        )
    if classes != len(class_names):
        raise RecipeError(
            f"teacher={recipe.teacher!r}: has {classes} classes, the data "
            f"{len(class_names)}; train it on this data"
        )


def _distiller(net, recipe, ema):
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


def _net(recipe, class_names):
    config = _config(recipe)
    file, said = None, {}
    if recipe.weights:
        file = _weights_file(recipe)
        said = read_info(file) or {}
        normalised = {
            name: said["config"][name]
            for name in _NORMALISED
            if name in said.get("config", {}) and name not in recipe.overrides
        }
        config = config.replace(**normalised)
    info = ModelInfo(
        variant=recipe.model,
        config=config,
        classes=len(class_names),
        classifier_activation=None,  # the loss takes logits
        dtype_policy=precision_policy(recipe),
    )
    net = assemble(info)
    _initialize(net, recipe.initializer)
    if file is not None:
        head = net.get_layer("head")
        fresh = head.get_weights()
        try:
            report = load_weights(net, file, strict=False)
        except WeightsError as error:
            _check_net(recipe, error)
            raise
        names = said.get("class_names")
        if names is not None and tuple(names) != class_names and not report.initial:
            head.set_weights(fresh)  # as many classes, but others
    net.info = info.replace(class_names=class_names, protocol=recipe.protocol)
    return net


def _check_net(recipe, error):
    """Names the net that the weights are of, where that is why they do not fit."""
    theirs = net_of(recipe.weights)
    ours = {k: v for k, v in recipe.overrides.items() if k not in _NORMALISED}
    if theirs and theirs != {"model": recipe.model, "overrides": ours}:
        raise WeightsError(
            f"weights={recipe.weights!r}: are of model={theirs['model']!r} with "
            f"overrides={theirs['overrides']}, not of model={recipe.model!r} with "
            f"overrides={ours}; give theirs"
        ) from error


def _initialize(net, kind):
    """Draws the kernels anew; "he" is what the layers draw by themselves."""
    if kind == "he":
        return
    for variable in net.trainable_variables:
        if len(variable.shape) > 1:
            # a copy each: an initializer of no seed draws the same again
            draw = type(INITIALIZERS[kind]).from_config(INITIALIZERS[kind].get_config())
            variable.assign(draw(variable.shape, dtype=variable.dtype))


def _freeze(net, recipe):
    for part, rate in zip(parts(recipe.stage_rates), recipe.stage_rates):
        for layer in net.layers:
            if rate == 0 and (layer.name == part or layer.name.startswith(f"{part}_")):
                layer.trainable = False  # with its batch statistics
    if recipe.freeze_statistics:
        for layer in net._flatten_layers():
            if isinstance(layer, BatchNormalization):
                layer.frozen_statistics = True


def _weights_file(recipe):
    path = Path(recipe.weights)
    if path.is_dir() and not is_tag(recipe.weights):
        if not (path / RUN_MODEL).is_file():
            raise ModelError(f"weights={recipe.weights!r}: no {RUN_MODEL} in it")
        return str(path / RUN_MODEL)
    return locate(recipe.weights, recipe.model)
