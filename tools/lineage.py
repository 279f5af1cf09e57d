"""From AlexNet to SE-ResNet, and the degradation of plain nets -> docs/lineage.*

Narrow nets, trained by one recipe on scikit-learn's digits pasted on its photographs.
Runs are kept in runs/lineage/, and the same command goes on.

    python tools/lineage.py [--seeds 3] [--workers 2]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import narrow
import numpy as np
import trials
import turns

from keras_resnet.recipe import Recipe
from keras_resnet.runs import layout

if TYPE_CHECKING:
    import keras

SIDE = 64  # of a picture
LEAST = 48  # of a digit
HELD_OUT = 360  # digits, of 1,797
COPIES = {"train": 2, "val": 2}
EPOCHS = 12
ALPHA = narrow.SHARE
WIDTH = {"width": 16}  # a quarter of 64
RESNEXT = {"groups": 8, "group_width": 16}  # 4 channels a group, as ResNeXt-50-32x4d's


@dataclass(frozen=True)
class Net:
    """A stop of the road: what is trained, and where it comes from."""

    title: str
    paper: str
    model: str
    preprocessing: str = ""
    overrides: Mapping[str, Any] | None = None


NETS = {
    "alexnet": Net("AlexNet", "2012", "tools/lineage.py:alexnet", "torch"),
    "vgg16": Net("VGG-16", "1409.1556", "tools/narrow.py:vgg16", "caffe"),
    "googlenet": Net("GoogLeNet", "1409.4842", "tools/lineage.py:googlenet", "torch"),
    "resnet26a": Net("ResNet-26", "1512.03385", "resnet26a", overrides=WIDTH),
    "densenet121": Net(
        "DenseNet-121", "1608.06993", "tools/narrow.py:densenet121", "torch"
    ),
    "resnext26": Net(
        "ResNeXt-26", "1611.05431", "resnet26b", overrides={**WIDTH, **RESNEXT}
    ),
    "seresnet26": Net(
        "SE-ResNet-26",
        "1709.01507",
        "resnet26b",
        overrides={**WIDTH, "attention": "se", "se_ratio": 1 / 4},
    ),
    "resnet26d": Net("ResNet-26-D", "1812.01187", "resnet26d", overrides=WIDTH),
}
PLAIN = {**WIDTH, "shortcut": "none", "zero_gamma": False}
DEGRADATION = {
    "plain18": Net("plain, 18 layers", "", "resnet18b", overrides=PLAIN),
    "plain34": Net("plain, 34 layers", "", "resnet34b", overrides=PLAIN),
    "residual18": Net(
        "residual, 18 layers",
        "",
        "resnet18b",
        overrides={**WIDTH, "zero_gamma": False},
    ),
    "residual34": Net(
        "residual, 34 layers",
        "",
        "resnet34b",
        overrides={**WIDTH, "zero_gamma": False},
    ),
}
RECIPE = Recipe(
    name="lineage",
    precision="float32",
    train_size=SIDE,
    min_area=0.8,
    max_aspect=1.1,
    flip=0.0,
    colour=0.0,
    lighting=0.0,
    mixup=0.0,
    test_size=SIDE,
    crop_pct=1.0,
    optimizer="adamw",
    weight_decay=0.05,
    batch_size=64,
    epochs=EPOCHS,
    base_rate=4e-3,  # 1e-3 at a batch of 64
    warmup_epochs=1.0,
    validate_every=EPOCHS,
)


def recipe(net: Net) -> Recipe:
    return RECIPE.replace(
        model=net.model,
        preprocessing=net.preprocessing,
        overrides=dict(net.overrides or {}),
    )


def alexnet(classes: int) -> keras.Model:
    from keras_resnet import baselines

    return baselines.AlexNet(
        None, classes, None, input_shape=(SIDE,) * 2 + (3,), alpha=ALPHA
    )


def googlenet(classes: int, auxiliary: bool = True) -> keras.Model:
    from keras_resnet import baselines

    shape = (SIDE, SIDE, 3)
    return baselines.GoogLeNet(
        None, classes, None, input_shape=shape, alpha=ALPHA, auxiliary=auxiliary
    )


def digits(seed: int) -> dict[str, Any]:
    """Digits in random colours and places, on crops of two photographs.

    Each digit and each part of a photograph is in the training or in the validation
    pictures. What is held out does not depend on the seed.
    """
    from PIL import Image
    from sklearn.datasets import load_sample_images

    from keras_resnet import demo

    shapes, labels, names = demo.digits()
    photos = load_sample_images().images  # [427, 640, 3] each
    middle = photos[0].shape[1] // 2
    order = np.random.default_rng(0).permutation(len(labels))
    parts = {"val": order[:HELD_OUT], "train": order[HELD_OUT:]}
    found: dict[str, Any] = {"class_names": names}
    for part, indices in parts.items():
        draw = np.random.default_rng(seed if part == "train" else 0)
        indices = np.repeat(indices, COPIES[part])
        images = np.empty((len(indices), SIDE, SIDE, 3), np.uint8)
        for image, index in zip(images, indices, strict=True):
            photo = photos[draw.integers(len(photos))]
            left = draw.integers(middle - SIDE) + (0 if part == "train" else middle)
            top = draw.integers(photo.shape[0] - SIDE)
            image[:] = photo[top : top + SIDE, left : left + SIDE]
            size = int(draw.integers(LEAST, SIDE + 1))
            shape = Image.fromarray(shapes[index][..., 0]).resize((size, size))
            ink = np.asarray(shape, np.float32)[..., None] / 255
            top, left = draw.integers(SIDE - size + 1, size=2)
            under = image[top : top + size, left : left + size]
            is_dark = under.mean() < 128
            colour = draw.uniform(*((145, 255) if is_dark else (0, 110)), size=3)
            under[:] = np.round(under * (1 - ink) + colour * ink)
        found[part] = images, labels[indices]
    return found


def costs(classes: int = 10) -> dict[str, dict[str, float]]:
    """{net: parameters, multiply-adds, milliseconds a step}, the steps in turns."""
    from keras_resnet.complexity import complexity
    from keras_resnet.train.build import build

    setups: dict[str, Any] = {}
    found: dict[str, dict[str, float]] = {}
    for name, net in NETS.items():
        setup = build(recipe(net), list(map(str, range(classes))), 100)
        setups[name] = setup.model
        if net.preprocessing:
            parameters, macs = _counted(name, net, classes)
        else:
            parameters, macs = complexity(setup.model.net.info.config, SIDE, classes)
        found[name] = {"parameters": parameters, "multiply_adds": macs}
    draw = np.random.default_rng(0)
    images = draw.uniform(0, 255, (RECIPE.batch_size, SIDE, SIDE, 3)).astype("float32")
    labels = np.eye(classes, dtype="float32")[draw.integers(classes, size=len(images))]
    times: dict[str, list[float]] = {name: [] for name in NETS}
    for turn in range(6):
        for name, model in setups.items():
            began = time.perf_counter()
            for _ in range(5):
                model.train_on_batch(images, labels)
            if turn:  # the first compiles
                times[name].append((time.perf_counter() - began) / 5)
    for name, seconds in times.items():
        found[name]["step_ms"] = round(1000 * statistics.median(seconds), 1)
    return found


def _counted(name: str, net: Net, classes: int) -> tuple[int, int]:
    """Trainable parameters and multiply-adds of a net that is not of ResNetConfig."""
    import runpy

    import tensorflow as tf

    path, _, function = net.model.rpartition(":")
    if name == "googlenet":  # without what is for training alone
        model = googlenet(classes, auxiliary=False)
    else:
        model = runpy.run_path(path)[function](classes)
    shape = tf.TensorSpec((1, SIDE, SIDE, 3), tf.float32)
    graph = tf.function(lambda x: model(x, training=False)).get_concrete_function(shape)
    total = 0
    for operation in graph.graph.get_operations():
        if operation.type in ("Conv2D", "MatMul"):
            kernel = int(np.prod(operation.inputs[1].shape))
            total += kernel * int(np.prod(operation.outputs[0].shape[1:-1]))
    return sum(int(np.prod(v.shape)) for v in model.trainable_weights), total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workers", type=int, help="processes; one a core")
    parser.add_argument("--runs", default="runs/lineage")
    parser.add_argument("--output", default="docs", type=Path)
    options = parser.parse_args()
    began = time.monotonic()
    nets = {**NETS, **DEGRADATION}
    jobs = {
        (name, seed): trials.Trial(
            recipe(net).replace(seed=seed),
            digits,
            Path(options.runs, name, str(seed)),
        )
        for seed in range(options.seeds)
        for name, net in nets.items()
    }
    measured = trials.measure(jobs, options.workers)
    minutes = round((time.monotonic() - began) / 60)
    cost = costs()
    results = {
        "how": {
            "command": f"python tools/lineage.py --seeds {options.seeds}",
            **turns.machine(),
            "minutes": minutes,
        },
        "nets": {
            name: {
                **cost.get(name, {}),
                "top1": [measured[name][seed].top1 for seed in range(options.seeds)],
                "train_error": [
                    _errors(jobs[name, seed].folder) for seed in range(options.seeds)
                ],
            }
            for name in nets
        },
    }
    (options.output / "lineage.json").write_text(json.dumps(results, indent=1))
    plot(results, options.output / "lineage.png")
    print("\n".join(table(results)))


def _errors(folder: Path) -> list[float]:
    """The training error of each epoch of a run."""
    history = json.loads((folder / layout.HISTORY).read_text())
    return [round(1 - row["top1"], 5) for row in history if "top1" in row]


def table(results: Mapping[str, Any]) -> list[str]:
    """The two tables of the page of explanation, as Markdown."""
    base = results["nets"]["resnet26a"]["step_ms"]
    lines = [
        "| net | paper | parameters | million multiply-adds | time a step | top-1 |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for name, net in NETS.items():
        it = results["nets"][name]
        lines.append(
            f"| {net.title} | {net.paper} | {it['parameters']:,} | "
            f"{it['multiply_adds'] / 1e6:.1f} | {it['step_ms'] / base:.2f} | "
            f"{_spread(it['top1'])} |"
        )
    lines += ["", "| net | training error | top-1 |", "|---|---:|---:|"]
    for name, net in DEGRADATION.items():
        it = results["nets"][name]
        last = [errors[-1] for errors in it["train_error"]]
        lines.append(f"| {net.title} | {_spread(last)} | {_spread(it['top1'])} |")
    return lines


def _spread(values: Sequence[float]) -> str:
    percent = 100 * np.array(values)
    spread = f" ± {percent.std(ddof=1):.1f}" if len(percent) > 1 else ""
    return f"{percent.mean():.1f}{spread}"


def plot(results: Mapping[str, Any], path: Path) -> None:
    """Accuracy over cost, and training error over epochs."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, net in NETS.items():
        it = results["nets"][name]
        macs, tops = it["multiply_adds"] / 1e6, 100 * np.array(it["top1"])
        left.plot([macs] * len(tops), tops, ".", color="tab:blue", alpha=0.4)
        left.plot(macs, tops.mean(), "o", color="tab:blue")
        side = -1 if name in ("vgg16", "resnet26a", "resnet26d") else 1  # of the dot
        left.annotate(
            net.title,
            (macs, tops.mean()),
            (6 * side, 4),
            textcoords="offset points",
            ha="left" if side > 0 else "right",
        )
    left.set(xlabel="million multiply-adds", ylabel="top-1, percent", xscale="log")
    for name, net in DEGRADATION.items():
        errors = 100 * np.mean(results["nets"][name]["train_error"], axis=0)
        style = {
            "color": "tab:red" if name.startswith("plain") else "tab:blue",
            "linewidth": 2.5 if name.endswith("34") else 1.2,
        }
        right.plot(range(1, len(errors) + 1), errors, label=net.title, **style)
    right.set(xlabel="epoch", ylabel="training error, percent")
    right.legend()
    for axes in (left, right):
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
