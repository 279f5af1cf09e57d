"""The names and JSON files of a run directory."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from keras_resnet.errors import RunError

RECIPE = "recipe.json"  # for `Recipe.read`
DATA = "data.json"  # identifies the data set
LOCK = ".lock"  # names the process that is training
CHECKPOINTS = "checkpoints"
HISTORY = "history.json"  # a row for each epoch
LOG = "log.csv"  # the history, for a spreadsheet
TENSORBOARD = "tensorboard"  # the history, for TensorBoard
CURVES = "curves.png"  # the history, plotted
MODEL = "model.keras"
AVERAGE = "model_ema.keras"  # only if the recipe sets `ema`
BEST = "best.keras"  # the model of the epoch with the best `monitor`
CALIBRATED = "calibrated.keras"  # model.keras after `keras-resnet calibrate`
FAILED = "failed.json"  # the fields of a trial of a sweep, and why it failed
FINISHED = "finished.json"  # how many epochs the models were trained for
METRICS = "metrics.json"  # the results of `keras-resnet evaluate`
GRID = "predictions.png"
CONFUSION = "confusion.png"
REPORT = "report.html"  # of `keras-resnet report`
COMPARISON = "comparison.html"  # of the same, with another run


def finished(run: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Returns how long the final models of a run were trained, or None without models.

    Returns:
        {"epochs": the number of epochs they were trained for, "of": the number that the
        recipe asked for, "stopped": why training ended early, or ""}.

    Raises:
        RunError: finished.json or history.json cannot be read.
    """
    run = Path(run)
    if not (run / MODEL).is_file():
        return None
    if (run / FINISHED).is_file():
        return {"epochs": 0, "of": 0, "stopped": "", **read_json(run / FINISHED)}
    if not (run / HISTORY).is_file():
        return None
    # older versions wrote no finished.json and trained all epochs of the recipe
    epochs = len(read_json(run / HISTORY, list))
    return {"epochs": epochs, "of": epochs, "stopped": ""}


def calibrated(run: str | os.PathLike[str]) -> Path:
    """The calibrated model of a run.

    Raises:
        RunError: this is no run, or it was not calibrated.
    """
    path = Path(run) / CALIBRATED
    if not path.is_file():
        raise RunError(
            f"{run}: has no {path.name}; write it by `keras-resnet calibrate {run}`"
            if (path.parent / MODEL).is_file()
            else f"{run}: no directory of a trained run, which alone may have a "
            "calibrated model"
        )
    return path


def read_json(path: Path, kind: type = dict) -> Any:
    """Returns the value of a JSON file of a run.

    Raises:
        RunError: the file cannot be read, or its value is not of type `kind`.
    """
    try:
        value = json.loads(path.read_text())
        if not isinstance(value, kind):
            raise ValueError(f"its value is not a {kind.__name__}")
    except (OSError, ValueError) as error:
        raise RunError(
            f"{path}: cannot be read ({error}); choose another run directory"
        ) from error
    return value
