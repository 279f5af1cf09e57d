"""The demonstration: trains, evaluates, exports and serves a net on digits."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from keras_resnet import data as pictures
from keras_resnet import evaluate, export, train
from keras_resnet.backend import keras
from keras_resnet.errors import DemoError
from keras_resnet.evaluate.figures import confusion_map
from keras_resnet.evaluate.measures import to_json
from keras_resnet.export.npz import read_npz, write_npz
from keras_resnet.files import write_whole
from keras_resnet.model import rebuild
from keras_resnet.recipes import RECIPES
from keras_resnet.runs import layout

HELD_OUT = 360  # of 1,797
GOAL = 0.99  # top-1
TOLERANCE = 1e-5  # between model.predict and the served answers

LEFT = {  # in the run directory
    layout.RECIPE: "every number of the run",
    layout.DATA: "of which data it is",
    layout.HISTORY: "the log: loss, accuracy and rate of each epoch",
    layout.LOG: "the same for a spreadsheet",
    layout.TENSORBOARD: "the same for TensorBoard",
    layout.CURVES: "the same as a picture",
    layout.GRID: "the least certain predictions",
    layout.CONFUSION: "which digit is taken for which",
    layout.METRICS: "top-1, top-5, loss, calibration, serving difference",
    layout.MODEL: "the Keras model",
    layout.BEST: "the same after its best epoch",
    layout.FINISHED: "of how many epochs these are",
    layout.CHECKPOINTS: "all state, to resume",
    "export/1": "the SavedModel",
}


def run(
    folder: str | os.PathLike[str] = "runs/demo",
    data: str | os.PathLike[str] = "runs/digits",
    say: Callable[[str], None] = print,
    progress: keras.callbacks.Callback | None = None,
) -> dict[str, Any]:
    """Trains a narrow ResNet-18-D on scikit-learn's digits, and serves it.

    Args:
        folder: the run directory, which will also contain the export.
        data: the folder for the TFRecords, written if it does not exist.
        say: a function that is called with a line for each step.
        progress: a Keras callback that shows the progress of training.

    Returns:
        The metrics, and "serving_difference": the largest difference between the
        probabilities of `model.predict` and of the export in TensorFlow's C++ loader.

    Raises:
        DemoError: top-1 is below 99 %, or the served probabilities differ.
    """
    folder, data = Path(folder), Path(data)
    recipe = RECIPES["demo"]
    if data.exists():
        say(f"digits: re-using {data}")
    else:
        write_digits(data)
        say(f"digits: 1,797 written digits of scikit-learn as PNG TFRecords in {data}")
    source = pictures.open_source(data)
    if train.is_finished(recipe, source, folder):
        say(f"training: re-using {folder / layout.MODEL}")
    else:
        say(f"training: {recipe.model}, width 16, {recipe.epochs} epochs, from scratch")
    model = train.fit(recipe, source, folder, progress)
    metrics = evaluate.run(model, source)
    if metrics["examples"] != HELD_OUT:
        raise DemoError(f"{metrics['examples']} pictures evaluated, not {HELD_OUT}")
    say(f"evaluation: top-1 {metrics['top1']:.2%} of {HELD_OUT} held-out digits")
    evaluate.picture_grid(model, source, folder / layout.GRID)
    confusion_map(metrics, folder / layout.CONFUSION)
    versions = export.versions(folder / "export")
    if versions:
        exported = folder / "export" / str(versions[-1])
        say(f"export: re-using {exported}")
    else:
        exported = export.save(model, folder / "export")
        say(f"export: SavedModel in {exported}")
    metrics["serving_difference"] = serving_difference(model, source, exported)
    say(
        "serving: C++ loader, no Keras in the process, PNG bytes in; largest "
        f"difference to model.predict {metrics['serving_difference']:.1e}"
    )
    write_whole(folder / layout.METRICS, to_json(metrics))
    if metrics["top1"] < GOAL:
        raise DemoError(f"top-1 {metrics['top1']:.2%} is below {GOAL:.0%}")
    if not metrics["serving_difference"] <= TOLERANCE:
        raise DemoError(
            f"served answers differ by {metrics['serving_difference']:.1e}, more than "
            f"{TOLERANCE:.0e}"
        )
    return metrics


def write_digits(destination: str | os.PathLike[str]) -> None:
    """Writes `digits` as TFRecords, split 80/20 in each class with seed 0."""
    images, labels, names = digits()
    from sklearn.model_selection import train_test_split

    halves = train_test_split(
        np.arange(len(labels)), test_size=HELD_OUT, stratify=labels, random_state=0
    )
    source = {
        name: (images[indices], labels[indices])
        for name, indices in zip(("train", "val"), halves)
    }
    pictures.prepare(source | {"class_names": names}, destination)


def digits() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """scikit-learn's 1,797 written digits, 8x8 in 17 greys, enlarged.

    Returns:
        (uint8 [1797, 32, 32, 3], int64 [1797], names of the 10 classes).

    Raises:
        DemoError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise DemoError(
            "scikit-learn: not installed; run `pip install keras-resnet-d[demo]`"
        ) from error
    loaded = load_digits()
    grey = np.minimum(loaded.images * 16, 255)[..., None]
    large = tf.round(tf.image.resize(grey, [32, 32], "bicubic"))
    images = np.repeat(np.clip(large, 0, 255).astype(np.uint8), 3, axis=3)
    return images, loaded.target, loaded.target_names


def serving_difference(
    model: keras.Model, source: pictures.Source, exported: Path
) -> float:
    """The largest difference in a probability, over the held-out images.

    It is between the model in float32, whatever it was trained in, and its export in
    another process.
    """
    encoded = [data.numpy() for data, _ in source.split("val").ordered()]
    images = np.stack(
        [pictures.load_eval(data, model.info.protocol).numpy() for data in encoded]
    )
    model = rebuild(model, "float32")
    expected = model.predict(images, batch_size=64, verbose=0)
    with tempfile.TemporaryDirectory() as scratch:
        inputs, outputs = Path(scratch, "inputs.npz"), Path(scratch, "outputs.npz")
        write_npz(inputs, {"image_bytes": np.array(encoded, object)})
        # which imports neither Keras nor a layer of this package
        command = [sys.executable, "-m", "keras_resnet.export.savedmodel"]
        done = subprocess.run(
            [*command, exported, "serving_bytes", inputs, outputs],
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise DemoError(f"{exported}: not servable: {done.stderr.strip()[-500:]}")
        served = read_npz(outputs)["probabilities"]
    return float(np.abs(served - expected).max())
