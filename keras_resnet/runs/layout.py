"""The names of the files in a run directory, and what its models were trained for."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from keras_resnet.errors import RunError

RECIPE = "recipe.json"  # `Recipe.read` reads it
DATA = "data.json"  # the data set of the run
LOCK = ".lock"  # names the process that is training
CHECKPOINTS = "checkpoints"
HISTORY = "history.json"  # a row for each epoch
LOG = "log.csv"  # the same, for a spreadsheet
TENSORBOARD = "tensorboard"  # the same, for TensorBoard
CURVES = "curves.png"  # the same, as a picture
MODEL = "model.keras"
AVERAGE = "model_ema.keras"  # where the recipe has an ema
BEST = "best.keras"  # of the epoch with the best monitor
FINISHED = "finished.json"  # for how many epochs the models were trained
METRICS = "metrics.json"  # the results of `keras-resnet evaluate`
GRID = "predictions.png"
CONFUSION = "confusion.png"


def finished(run: str | os.PathLike[str]) -> dict[str, Any] | None:
    """How long the models of a run directory were trained; None without models.

    Returns:
        {"epochs": how many they were trained for, "of": how many the recipe asked for,
        "stopped": why training ended early, or ""}.
    """
    run = Path(run)
    if not (run / MODEL).is_file():
        return None
    if (run / FINISHED).is_file():
        return {"epochs": 0, "of": 0, "stopped": "", **read_json(run / FINISHED)}
    if not (run / HISTORY).is_file():
        return None
    epochs = len(read_json(run / HISTORY, list))  # all that older versions wrote
    return {"epochs": epochs, "of": epochs, "stopped": ""}


def read_json(path: Path, kind: type = dict) -> Any:
    """The value in a JSON file of a run; RunError if it is not of the given type."""
    try:
        value = json.loads(path.read_text())
        if not isinstance(value, kind):
            raise ValueError(f"not a {kind.__name__}")
    except (OSError, ValueError) as error:
        raise RunError(
            f"{path}: unreadable ({error}); choose another directory"
        ) from error
    return value
