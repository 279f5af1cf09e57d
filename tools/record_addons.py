"""Writes what TensorFlow Addons answers: PY tools/record_addons.py tests/goldens/addons

PY is a Python that has tensorflow-addons, which ended in May 2024; of keras_resnet it
needs nothing but for net.keras. Addons keeps the numbers that a rule takes in float32,
also where the variables are float64: here they are sums of a few powers of two, which
that holds.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import numpy as np

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # its farewell
    import keras
    import tensorflow as tf
    import tensorflow_addons as tfa

STEPS = 20
SHAPES = {"kernel4": (2, 2, 2, 3), "kernel2": (4, 3), "bias": (3,)}
RATE = 1 / 16
DECAY = 1 / 64  # times the rate; of SGDW and AdamW, which leave that out, RATE * DECAY
MOMENTUM = 7 / 8
ADAM = {"beta_1": 7 / 8, "beta_2": 1 - 2**-10, "epsilon": 2**-20}
EXCLUDE = {"exclude_from_weight_decay": ["bias"]}
AVERAGE = 1 - 2**-6
SCHEDULED = "RATE * DECAY, falling with the rate"

# name -> (class, arguments, whether the rate falls)
RULES: dict[str, tuple[str, dict, bool]] = {
    "lamb": ("LAMB", {**ADAM, "weight_decay": DECAY}, False),
    "lamb_kernels": ("LAMB", {**ADAM, "weight_decay": DECAY, **EXCLUDE}, True),
    "lamb_clipped": (
        "LAMB",
        {**ADAM, "weight_decay": DECAY, **EXCLUDE, "global_clipnorm": 1.0},
        False,
    ),
    "lamb_plain": ("LAMB", ADAM, False),
    "adamw": ("AdamW", {**ADAM, "weight_decay": RATE * DECAY}, False),
    "adamw_scheduled": ("AdamW", {**ADAM, "weight_decay": SCHEDULED}, True),
    "radam": ("RectifiedAdam", ADAM, False),
    "novograd": (
        "NovoGrad",
        {**ADAM, "weight_decay": DECAY, "grad_averaging": True},
        False,
    ),
    "yogi": (
        "Yogi",
        {
            "beta1": ADAM["beta_1"],
            "beta2": ADAM["beta_2"],
            "epsilon": 2**-10,
            "initial_accumulator_value": 2**-20,
        },
        False,
    ),
    "adabelief": ("AdaBelief", {**ADAM, "rectify": False}, False),
    "lazy_adam": ("LazyAdam", ADAM, False),
    "lookahead": ("Lookahead", {"sync_period": 5, "slow_step_size": 0.5}, False),
    "average": ("MovingAverage", {"average_decay": AVERAGE}, False),
    "average_from_1": (
        "MovingAverage",
        {"average_decay": AVERAGE, "start_step": 1},
        False,
    ),
    "average_dynamic": (
        "MovingAverage",
        {"average_decay": 0.625, "dynamic_decay": True},  # is reached at step 14
        False,
    ),
    "average_sgdw": (
        "MovingAverage",
        {"average_decay": AVERAGE, "inner_weight_decay": RATE * DECAY},
        False,
    ),
    "swa": ("SWA", {"start_averaging": 4, "average_period": 5}, False),
}
for nesterov in (False, True):
    name = "sgdw_nesterov" if nesterov else "sgdw"
    sgd = {"momentum": MOMENTUM, "nesterov": nesterov}
    RULES[name] = ("SGDW", {**sgd, "weight_decay": RATE * DECAY}, False)
    RULES[f"{name}_falling"] = ("SGDW", {**sgd, "weight_decay": RATE * DECAY}, True)
    RULES[f"{name}_scheduled"] = ("SGDW", {**sgd, "weight_decay": SCHEDULED}, True)
RULES["sgdw_still"] = (
    "SGDW",
    {"momentum": 0.0, "nesterov": False, "weight_decay": RATE * DECAY},
    False,
)
# around SGD of RATE and MOMENTUM, or SGDW that excludes the bias from its decay
WRAPPERS = ("Lookahead", "MovingAverage", "SWA")


def rates(falling: bool) -> list[float]:
    """Of each step: all RATE, or down from it in a straight line."""
    return [RATE * (1 - step / 32 if falling else 1) for step in range(STEPS)]


def wave(place: int, step: int) -> np.ndarray:
    """Values of all tensors in a row, each with a phase of its own."""
    parts = [
        np.sin(0.7 * np.arange(np.prod(shape)) + 1.3 * (place + t) + 0.9 * step + 0.1)
        for t, shape in enumerate(SHAPES.values())
    ]
    return np.concatenate(parts)


def start_and_gradients() -> tuple[np.ndarray, np.ndarray]:
    """[39] and [STEPS, 39]: the bias starts at 0; norms are on both sides of 1."""
    start = wave(0, -1)
    start[-SHAPES["bias"][0] :] = 0
    scales = [0.05 * 3.0 ** (step % 4) for step in range(STEPS)]
    return start, np.stack([scale * wave(0, s) for s, scale in enumerate(scales)])


def split(row: np.ndarray) -> list[np.ndarray]:
    ends = np.cumsum([np.prod(shape) for shape in SHAPES.values()])[:-1]
    parts = zip(np.split(row, ends), SHAPES.values())
    return [part.reshape(shape) for part, shape in parts]


def row(tensors: Iterable[Any]) -> np.ndarray:
    return np.concatenate([tensor.numpy().ravel() for tensor in tensors])


def steps(
    kind: str,
    arguments: dict[str, Any],
    falling: bool,
    start: np.ndarray,
    gradients: np.ndarray,
) -> tuple[np.ndarray, np.ndarray | None]:
    """The variables after each step [STEPS, 39], and their averages if there are."""
    # it multiplies by a float32 count
    dtype = np.float32 if kind == "SWA" else np.float64
    arguments, rule_rates = dict(arguments), rates(falling)
    rate = rule_rates[0]
    if arguments.get("weight_decay") == SCHEDULED:
        arguments["weight_decay"] = lambda: rate * DECAY
    if kind in WRAPPERS:
        decay = arguments.pop("inner_weight_decay", 0)
        inner = (
            tfa.optimizers.SGDW(decay, RATE, MOMENTUM, **EXCLUDE)
            if decay
            else tf.keras.optimizers.legacy.SGD(RATE, MOMENTUM)
        )
        rule = getattr(tfa.optimizers, kind)(inner, **arguments)
    else:
        rule = getattr(tfa.optimizers, kind)(learning_rate=RATE, **arguments)
    variables = [
        tf.Variable(value.astype(dtype), name=name)
        for name, value in zip(SHAPES, split(start))
    ]
    weights, averages = [], []
    for rate, gradient in zip(rule_rates, gradients):
        if falling:
            rule.learning_rate = rate
        parts = [tf.constant(part.astype(dtype)) for part in split(gradient)]
        rule.apply_gradients(zip(parts, variables))
        weights.append(row(variables))
        if kind in ("MovingAverage", "SWA"):
            averages.append(row(rule.get_slot(v, "average") for v in variables))
    return np.stack(weights), np.stack(averages) if averages else None


def optimizers() -> dict[str, np.ndarray]:
    start, gradients = start_and_gradients()
    arrays = {"start": start, "gradients": gradients}
    for name, (kind, arguments, falling) in RULES.items():
        arrays[f"{name}.rates"] = np.array(rates(falling))
        weights, averages = steps(kind, arguments, falling, start, gradients)
        arrays[name] = weights
        if averages is not None:
            arrays[f"{name}.average"] = averages
    return arrays


def pictures() -> dict[str, np.ndarray]:
    """A noisy gradient [32, 32, 3] of all values, and what is made of it."""
    generator = np.random.default_rng(0)
    ramp = np.linspace(10, 245, 32)
    smooth = np.stack(np.broadcast_arrays(ramp[:, None], ramp[None], 255 - ramp), -1)
    noise = generator.normal(0, 12, (32, 32, 3))
    picture = np.clip(smooth + noise, 0, 255).astype(np.uint8)
    factors = np.array(
        [
            [0.0, 1.0, 1.0],
            [0.5, 1.0, 1.0],
            [-1.25, 1.0, 1.0],
            [0.0, 1.3, 1.0],
            [0.0, 1.0, 0.8],
            [0.4, 1.2, 0.9],
            [-0.75, 0.65, 1.35],
        ]
    )
    colour = tfa.image.adjust_hsv_in_yiq
    arrays = {"picture": picture, "yiq.factors": factors}
    arrays["yiq.uint8"] = np.stack([colour(picture, *f).numpy() for f in factors])
    # pixels in [0, 255] as they are: nothing in the map is of their range
    tfa.options.disable_custom_kernel()  # which has no float64
    few = picture[::2, ::2].astype(np.float64)
    floats = [colour(few, *f).numpy() for f in factors]
    tfa.options.enable_custom_kernel()
    arrays["yiq.float64"] = np.stack(floats)
    # beyond 255 the cast to uint8 has no defined result
    arrays["yiq.white"] = colour(np.full((5, 5, 3), 255, np.uint8), 0.0, 1.0, 1.25)
    arrays["equalize"] = tfa.image.equalize(picture).numpy()
    for factor in (0.55, 1.45):
        arrays[f"sharpness.{factor}"] = tfa.image.sharpness(picture, factor).numpy()
    for degrees in (15, -30):
        arrays[f"rotate.{degrees}"] = tfa.image.rotate(
            picture, np.radians(degrees), "bilinear"
        ).numpy()
    for move in (7.2, -14.4):
        arrays[f"translate.{move}"] = tfa.image.translate(
            picture, [-move, 0.0], "bilinear"
        ).numpy()
    return arrays


def losses_and_metrics() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(1)
    classes, count = 5, 64
    truth = generator.integers(0, classes, count)
    logits = 2 * generator.normal(size=(count, classes))
    logits[np.arange(count), truth] += 1.5
    logits[0] = [-40, 40, -40, 40, 0]  # as sure as can be, and wrong somewhere
    one_hot = np.eye(classes)[truth]
    chances = np.exp(logits - logits.max(1, keepdims=True))
    chances /= chances.sum(1, keepdims=True)
    arrays = {"truth": truth, "logits": logits, "probabilities": chances}
    mixed = 0.75 * one_hot + 0.25 * one_hot[::-1]
    for name, labels in (("one_hot", one_hot), ("mixed", mixed)):
        focal = tfa.losses.SigmoidFocalCrossEntropy(from_logits=True)
        arrays[f"focal.logits.{name}"] = focal(labels, logits).numpy()
        focal = tfa.losses.SigmoidFocalCrossEntropy()
        arrays[f"focal.{name}"] = focal(labels, chances).numpy()
    for average in ("micro", "macro", "weighted"):
        for threshold in (None, 0.25):
            # in float32 alone, whatever its dtype says
            metric = tfa.metrics.F1Score(classes, average, threshold=threshold)
            metric.update_state(one_hot, chances)
            arrays[f"f1.{average}.{threshold}"] = metric.result().numpy()
    for weights in (None, "linear", "quadratic"):
        metric = tfa.metrics.CohenKappa(classes, weightage=weights)
        metric.update_state(one_hot, chances)
        arrays[f"kappa.{weights}"] = metric.result().numpy()
    return arrays


def layers() -> dict[str, np.ndarray]:
    x = np.random.default_rng(2).normal(size=(2, 6, 6, 8))
    residual = np.random.default_rng(3).normal(size=x.shape)
    options = {"dtype": "float64"}
    return {
        "x": x,
        "residual": residual,
        "group_normalization": tfa.layers.GroupNormalization(4, **options)(x).numpy(),
        "instance_normalization": tfa.layers.InstanceNormalization(**options)(
            x
        ).numpy(),
        "adaptive_pooling": tfa.layers.AdaptiveAveragePooling2D(3, **options)(
            x
        ).numpy(),
        "stochastic_depth": tfa.layers.StochasticDepth(0.75, **options)(
            [tf.constant(x), tf.constant(residual)], training=False
        ).numpy(),
    }


def net(folder: Path) -> dict[str, np.ndarray]:
    """A file of keras_resnet's from Keras 2, and what it answers there."""
    import keras_resnet

    keras.utils.set_random_seed(0)
    model = keras_resnet.create(
        "seresnet50d", width=4, depths=(1, 1, 1, 1), classes=3, zero_gamma=False
    )
    model.compile("sgd", "categorical_crossentropy", metrics=["accuracy"])
    images = np.random.default_rng(4).integers(0, 256, (4, 32, 32, 3), np.uint8)
    model.fit(images, np.eye(3)[[0, 1, 2, 0]], verbose=0)  # statistics of its own
    model.save(folder / "net.keras")
    return {"images": images, "probabilities": model.predict(images, verbose=0)}


def main(folder: str | os.PathLike[str]) -> None:
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    parts = {
        "optimizers": optimizers,
        "pictures": pictures,
        "measures": losses_and_metrics,
        "layers": layers,
    }
    for name, record in parts.items():
        np.savez_compressed(
            folder / f"{name}.npz",
            **record(),  # type: ignore[arg-type]
        )
    np.savez_compressed(folder / "net.npz", **net(folder))  # type: ignore[arg-type]
    settings = {
        "tensorflow_addons": tfa.__version__,
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "numpy": np.__version__,
        "shapes": SHAPES,
        "inner": {"rate": RATE, "momentum": MOMENTUM},
        "rules": {
            name: {"class": kind, **arguments}
            for name, (kind, arguments, _) in RULES.items()
        },
    }
    (folder / "settings.json").write_text(json.dumps(settings, indent=1) + "\n")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
