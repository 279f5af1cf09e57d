"""The history of a run: a row of metrics for each completed epoch."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_resnet.files import write_whole
from keras_resnet.runs import layout
from keras_resnet.runs.checkpoints import Place

Row = dict[str, Any]  # {name: value} of an epoch's metrics


def best_place(history: Sequence[Row], monitor: str = "val_top1") -> Place | None:
    """Returns the place after the first epoch with the highest `monitor`, if any."""
    scores = [row.get(monitor, -1.0) for row in history]
    return Place(history[int(np.argmax(scores))]["epoch"]) if scores else None


def is_stalled(history: Sequence[Row], monitor: str, patience: int) -> bool:
    """Returns whether `monitor` has not improved for `patience` epochs.

    False if `patience` is 0, or if the last epoch was not validated.
    """
    if not patience or not history or monitor not in history[-1]:
        return False
    best = best_place(history, monitor)
    return best is not None and history[-1]["epoch"] - best.epoch >= patience


def write_history(run: Path, history: Sequence[Row]) -> None:
    """Writes history.json and log.csv to the run directory."""
    write_whole(run / layout.HISTORY, json.dumps(history, indent=1))
    write_whole(run / layout.LOG, _table(history))


def _table(history: Sequence[Row]) -> str:
    names = list(dict.fromkeys(name for row in history for name in row))
    stream = io.StringIO()
    writer = csv.DictWriter(stream, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    return stream.getvalue()
