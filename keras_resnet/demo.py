"""A demonstration of all steps: trains, evaluates and serves a digit classifier."""

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

HELD_OUT = 360  # of the 1,797 images
GOAL = 0.99  # the least top-1
TOLERANCE = 1e-5  # of the served probabilities, against model.predict

LEFT = {  # files in the run directory, and what they are
    layout.RECIPE: "the hyperparameters of the run",
    layout.DATA: "the data that it was trained on",
    layout.HISTORY: "the loss, accuracy and learning rate of each epoch",
    layout.LOG: "the same as CSV",
    layout.TENSORBOARD: "the same for TensorBoard",
    layout.CURVES: "the same as a figure",
    layout.GRID: "the least certain predictions",
    layout.CONFUSION: "the confusion matrix",
    layout.METRICS: "top-1, top-5, loss, calibration, serving difference",
    layout.MODEL: "the Keras model after the last epoch",
    layout.BEST: "the Keras model after the best epoch",
    layout.FINISHED: "the number of epochs of these models",
    layout.CHECKPOINTS: "the complete training state, to resume",
    "export/1": "the SavedModel",
}


def run(
    folder: str | os.PathLike[str] = "runs/demo",
    data: str | os.PathLike[str] = "runs/digits",
    say: Callable[[str], None] = print,
    progress: keras.callbacks.Callback | None = None,
) -> dict[str, Any]:
    """Trains a narrow ResNet-18-D on scikit-learn's digits, and serves it.

    Steps whose results exist already are not repeated.

    Args:
        folder: the run directory, which also gets the figures, the metrics and the
            export.
        data: the folder of the TFRecords.
        say: a function that is called with a line of text for each step.
        progress: a Keras callback that shows the progress of training.

    Returns:
        The metrics, with "serving_difference": the largest absolute difference between
        the probabilities of `model.predict` and those of the exported graph, which
        TensorFlow's C++ loader runs.

    Raises:
        DemoError: top-1 is below 99 %, or the served probabilities differ by more than
            1e-5.
    """
    folder, data = Path(folder), Path(data)
    recipe = RECIPES["demo"]
    if data.exists():
        say(f"digits: using the existing {data}")
    else:
        write_digits(data)
        say(f"digits: 1,797 images from scikit-learn, written as TFRecords to {data}")
    source = pictures.open_source(data)
    if train.is_finished(recipe, source, folder):
        say(f"training: using the existing {folder / layout.MODEL}")
    else:
        say(f"training: {recipe.model}, width 16, {recipe.epochs} epochs, from scratch")
    model = train.fit(recipe, source, folder, progress)
    metrics = evaluate.run(model, source)
    if metrics["examples"] != HELD_OUT:
        raise DemoError(f"{metrics['examples']} images evaluated, not {HELD_OUT}")
    say(f"evaluation: top-1 {metrics['top1']:.2%} on {HELD_OUT} held-out digits")
    evaluate.picture_grid(model, source, folder / layout.GRID)
    confusion_map(metrics, folder / layout.CONFUSION)
    versions = export.versions(folder / "export")
    if versions:
        exported = folder / "export" / str(versions[-1])
        say(f"export: using the existing {exported}")
    else:
        exported = export.save(model, folder / "export")
        say(f"export: SavedModel in {exported}")
    metrics["serving_difference"] = serving_difference(model, source, exported)
    say(
        "serving: PNG bytes to TensorFlow's C++ loader, without Keras; largest "
        f"difference from model.predict {metrics['serving_difference']:.1e}"
    )
    write_whole(folder / layout.METRICS, to_json(metrics))
    if metrics["top1"] < GOAL:
        raise DemoError(f"top-1 {metrics['top1']:.2%} is below {GOAL:.0%}")
    if not metrics["serving_difference"] <= TOLERANCE:
        raise DemoError(
            "served probabilities differ from model.predict by "
            f"{metrics['serving_difference']:.1e}, more than {TOLERANCE:.0e}"
        )
    return metrics


def write_digits(destination: str | os.PathLike[str]) -> None:
    """Writes `digits` as TFRecords, with 360 of them, stratified, held out."""
    images, labels, names = digits()
    from sklearn.model_selection import train_test_split

    parts = train_test_split(
        np.arange(len(labels)), test_size=HELD_OUT, stratify=labels, random_state=0
    )
    source = {
        name: (images[indices], labels[indices])
        for name, indices in zip(("train", "val"), parts)
    }
    pictures.prepare(source | {"class_names": names}, destination)


def digits() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """scikit-learn's 1,797 handwritten digits, enlarged from 8 x 8 to 32 x 32 pixels.

    Returns:
        (images, uint8 [1797, 32, 32, 3]; labels, int64 [1797]; names of the classes).

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
    """The largest difference of the served probabilities from `model.predict`.

    The held-out images are classified by another process, which runs the SavedModel,
    and by the model in float32, the precision of the export.
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
        # this module imports neither Keras nor the layers of this package
        command = [sys.executable, "-m", "keras_resnet.export.savedmodel"]
        done = subprocess.run(
            [*command, exported, "serving_bytes", inputs, outputs],
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise DemoError(
                f"{exported}: cannot be served: {done.stderr.strip()[-500:]}"
            )
        served = read_npz(outputs)["probabilities"]
    return float(np.abs(served - expected).max())
