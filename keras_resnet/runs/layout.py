"""The files of a run directory, by name; and which epochs its models are of."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from keras_resnet.errors import RunError

RECIPE = "recipe.json"  # `Recipe.read` reads it
DATA = "data.json"  # of which data the run is
LOCK = ".lock"  # which process trains there, as long as one does
CHECKPOINTS = "checkpoints"
HISTORY = "history.json"  # a row for each epoch
LOG = "log.csv"  # the same, for a spreadsheet
TENSORBOARD = "tensorboard"  # the same, for TensorBoard
CURVES = "curves.png"  # the same, as a picture
MODEL = "model.keras"
AVERAGE = "model_ema.keras"  # where the recipe has an ema
BEST = "best.keras"  # of the epoch with the best monitor
FINISHED = "finished.json"  # of how many epochs these models are
METRICS = "metrics.json"  # what `keras-resnet evaluate` measured
GRID = "predictions.png"
CONFUSION = "confusion.png"


def finished(run: str | os.PathLike[str]) -> dict[str, Any] | None:
    """What the models of a run directory are of, or None where there are none.

    Returns:
        {"epochs": that they were trained for, "of": that the recipe had then,
        "stopped": why those are more, or ""}.
    """
    run = Path(run)
    if not (run / MODEL).is_file():
        return None
    if (run / FINISHED).is_file():
        return {"epochs": 0, "of": 0, "stopped": "", **read_json(run / FINISHED)}
    if not (run / HISTORY).is_file():
        return None
    epochs = len(read_json(run / HISTORY, list))  # of an older version, had no more
    return {"epochs": epochs, "of": epochs, "stopped": ""}


def read_json(path: Path, kind: type = dict) -> Any:
    """The value of a file of a run, of that type; RunError where it is none."""
    try:
        value = json.loads(path.read_text())
        if not isinstance(value, kind):
            raise ValueError(f"no {kind.__name__}")
    except (OSError, ValueError) as error:
        raise RunError(
            f"{path}: unreadable ({error}); choose another directory"
        ) from error
    return value
