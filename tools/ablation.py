"""The tricks one after the other on 20 written digits a class -> models/ablation/.

The order of arXiv 1812.01187's tables 4, 5 and 6, on resnet18 of width 16: trained on
20 of scikit-learn's digits a class, tested on the 1,597 others, at five seeds that each
draw their own. Runs are kept in runs/ablation/, and the same command goes on.

    python tools/ablation.py [--seeds 5] [--epochs 60] [--workers 2]
"""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import multiprocessing
import os
import platform
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from keras_resnet.recipe import Recipe

PER_CLASS = 20
SMALL, LARGE = 16, 64  # pictures a batch, as 256 and 1024 of ImageNet
MIXED = 200 / 120  # epochs of a run with mixup over those of one without
Measured = dict[int, tuple[float, float]]  # {seed: (top-1, loss)}
TEACHERS = {"cosine": "teacher", "mixup": "teacher with mixup"}


def rows(epochs: int) -> dict[str, Recipe]:
    """{row: recipe}, and the teachers' own."""
    from keras_resnet.recipes import RECIPES

    width = {"width": 16}
    baseline = RECIPES["baseline"].replace(
        model="resnet18b",
        overrides={**width, "zero_gamma": False},
        train_size=32,
        min_area=0.7,
        max_aspect=1.15,
        flip=0.0,
        colour=0.0,
        lighting=0.0,
        test_size=32,
        crop_pct=1.0,
        batch_size=SMALL,
        epochs=epochs,
        base_rate=0.8,
        boundaries=[round(epochs * share) for share in (1 / 4, 1 / 2, 3 / 4)],
        validate_every=epochs,
    )
    scaled = baseline.replace(batch_size=LARGE)
    warm = scaled.replace(warmup_epochs=epochs / 24)
    zero = warm.replace(overrides=width)
    bare = zero.replace(decay="kernels")
    half = bare.replace(precision="mixed_bfloat16")
    tweaked = half.replace(model="resnet18d")
    cosine = tweaked.replace(schedule="cosine", boundaries=[])
    smooth = cosine.replace(label_smoothing=0.1, smoothing="other-classes")
    longer = round(epochs * MIXED)
    mixed = smooth.replace(
        mixup=0.2, epochs=longer, validate_every=longer, warmup_epochs=longer / 40
    )
    distilled = {"temperature": 20.0, "distillation": "paper"}
    return {
        "teacher": smooth.replace(model="resnet34d"),
        "teacher with mixup": mixed.replace(model="resnet34d"),
        "baseline": baseline,
        "+ linear scaling": scaled,
        "+ warm-up": warm,
        "+ zero gamma": zero,
        "+ no bias decay": bare,
        "+ half precision": half,
        "+ ResNet-D": tweaked,
        "+ cosine": cosine,
        "+ label smoothing": smooth,
        "+ distillation, without mixup": smooth.replace(teacher="teacher", **distilled),
        "+ mixup, without distillation": mixed,
        "+ distillation and mixup": mixed.replace(
            teacher="teacher with mixup", **distilled
        ),
    }


def one(
    row: str, seed: int, epochs: int, runs: str | os.PathLike[str]
) -> tuple[float, float]:
    """Trains and tests one run: its top-1 on the digits that it did not see."""
    import keras
    import tensorflow as tf

    import keras_resnet
    from keras_resnet import demo

    if not tf.config.threading.get_intra_op_parallelism_threads():
        tf.config.threading.set_intra_op_parallelism_threads(1)
        tf.config.threading.set_inter_op_parallelism_threads(1)
    keras.backend.clear_session()
    recipe = rows(epochs)[row].replace(seed=seed)
    if recipe.teacher:
        recipe = recipe.replace(teacher=str(folder(runs, recipe.teacher, seed)))
    images, labels, names = demo.digits()
    drawn = np.random.default_rng(seed).permutation(len(labels))
    chosen = np.concatenate(
        [drawn[labels[drawn] == number][:PER_CLASS] for number in range(10)]
    )
    others = np.setdiff1d(np.arange(len(labels)), chosen)
    data = {
        "train": (images[chosen], labels[chosen]),
        "val": (images[others], labels[others]),
        "class_names": names,
    }
    model = keras_resnet.train.fit(recipe, data, folder(runs, row, seed))
    result = keras_resnet.evaluate.run(model, data)
    assert result["examples"] == len(labels) - 10 * PER_CLASS
    return result["top1"], result["loss"]


def folder(runs: str | os.PathLike[str], row: str, seed: int) -> Path:
    """The run directory of a row and a seed."""
    return (
        Path(runs)
        / row.replace("+ ", "").replace(",", "").replace(" ", "-")
        / str(seed)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=60, help="of runs without mixup")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--runs", default="runs/ablation")
    parser.add_argument("--output", default="models/ablation", type=Path)
    options = parser.parse_args()
    started = time.monotonic()
    names = list(rows(options.epochs))
    measured: dict[str, Measured] = {name: {} for name in names}
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(options.workers, context) as pool:
        for some in (names[:2], names[2:]):  # the teachers first
            jobs = {
                pool.submit(one, name, seed, options.epochs, options.runs): (name, seed)
                for seed in range(options.seeds)
                for name in some
            }
            for job in concurrent.futures.as_completed(jobs):
                name, seed = jobs[job]
                measured[name][seed] = job.result()
                seconds = time.monotonic() - started
                print(f"{seconds:6.0f} s  {name}, seed {seed}: {job.result()[0]:.2%}")
    write(measured, options, time.monotonic() - started)


def write(
    measured: Mapping[str, Measured], options: argparse.Namespace, seconds: float
) -> None:
    """README.md, results.json and ablation.png."""
    options.output.mkdir(parents=True, exist_ok=True)
    seeds = range(options.seeds)
    tops = {
        name: np.array([100 * by_seed[seed][0] for seed in seeds])
        for name, by_seed in measured.items()
    }
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True
    ).stdout.strip()
    command = (
        f"python tools/ablation.py --seeds {options.seeds} --epochs {options.epochs}"
    )
    lines = [
        "# The tricks, one after the other",
        "",
        "The rows of arXiv 1812.01187's tables 4, 5 and 6 on written digits: resnet18 "
        f"of width 16, {PER_CLASS} training",
        "pictures a class, tested on the other 1,597. Each row has what stands above "
        "it, but of the last three each has the",
        "rows up to label smoothing. Top-1 in percent: mean and standard deviation of "
        f"{options.seeds} seeds, each of which draws",
        "its own training pictures; the difference to the row before (of the last "
        "three: to label smoothing) is of the same",
        "seeds, with its standard error.",
        "",
        "| | batch | epochs | top-1 | difference |",
        "|---|---:|---:|---:|---:|",
    ]
    recipes, before = rows(options.epochs), None
    for name, values in tops.items():
        if name.startswith("teacher"):
            continue
        recipe = recipes[name]
        change = ""
        if before is not None:
            gained = values - tops[before]
            error = gained.std(ddof=1) / len(gained) ** 0.5 if len(gained) > 1 else 0
            change = f"{gained.mean():+.2f} ± {error:.2f}"
        spread = values.std(ddof=1) if len(values) > 1 else 0
        lines.append(
            f"| {name} | {recipe.batch_size} | {recipe.epochs} | "
            f"{values.mean():.2f} ± {spread:.2f} | {change} |"
        )
        before = before if before == "+ label smoothing" else name
    said = ", ".join(
        f"{tops[name].mean():.2f} {('with', 'without')[name == 'teacher']} mixup"
        for name in TEACHERS.values()
    )
    lines += [
        "",
        f"Teachers, resnet34d of width 16 on the same pictures: {said}.",
        "",
        f"`{command}`, commit {commit}, {os.cpu_count()} cores of "
        f"{platform.machine()}, {seconds / 60:.0f} minutes. Half precision is",
        "mixed_bfloat16, since CPUs have no fast float16. Every run's numbers are in "
        "results.json.",
        "",
        "![top-1 of each row and seed](ablation.png)",
        "",
    ]
    (options.output / "README.md").write_text("\n".join(lines))
    results = {
        name: {
            "recipe": recipes[name].to_dict(),
            "top1": [measured[name][seed][0] for seed in seeds],
            "loss": [measured[name][seed][1] for seed in seeds],
        }
        for name in measured
    }
    (options.output / "results.json").write_text(json.dumps(results, indent=1))
    plot({k: v for k, v in tops.items() if not k.startswith("teacher")}, options.output)
    print("\n".join(lines))


def plot(tops: Mapping[str, np.ndarray], output: Path) -> None:
    """Every run a dot, every row its mean."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.add_subplot()
    for place, values in enumerate(tops.values()):
        axes.plot(values, [place] * len(values), "o", color="tab:blue", alpha=0.4)
        axes.plot(values.mean(), place, "|", color="black", markersize=18)
    axes.set_yticks(range(len(tops)), list(tops))
    axes.invert_yaxis()
    axes.set(xlabel=f"top-1 in percent, {PER_CLASS} training pictures a class")
    axes.grid(alpha=0.3)
    figure.savefig(output / "ablation.png", dpi=110)


if __name__ == "__main__":
    main()
