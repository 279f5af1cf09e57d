"""Callbacks of a run: TensorBoard, a rate that falls on plateaus, a watch on losses."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import tensorflow as tf

from keras_resnet.backend import keras
from keras_resnet.errors import RunError
from keras_resnet.runs import layout
from keras_resnet.runs.saver import loss_scale, pace

STREAK = 20  # batches without a finite loss, or halvings of the loss scale
_LOOK = 10  # batches between checks; a check waits for the device


class Events(keras.callbacks.Callback):
    """Writes the metrics of each epoch for TensorBoard, without needing that package.

    An error in writing is ignored; if the disk is full, the checkpoints report it.
    """

    def __init__(self, run: Path) -> None:
        super().__init__()
        self.folder = run / layout.TENSORBOARD

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self.folder.mkdir(exist_ok=True)
        name = f"events.out.tfevents.{time.time_ns()}.{os.getpid()}"
        # TensorFlow's event writer accepts only paths that are UTF-8
        self.writer = tf.io.TFRecordWriter(os.fsencode(self.folder / name))
        self._write(file_version="brain.Event:2")

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        scalars = {**logs, "rate": self.model.optimizer.learning_rate}
        values = [
            tf.compat.v1.Summary.Value(tag=_tag(name), simple_value=float(value))
            for name, value in scalars.items()
        ]
        self._write(summary=tf.compat.v1.Summary(value=values), step=epoch + 1)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        with contextlib.suppress(tf.errors.OpError):
            self.writer.close()

    def _write(self, **fields: Any) -> None:
        event = tf.compat.v1.Event(wall_time=time.time(), **fields)
        with contextlib.suppress(tf.errors.OpError):
            self.writer.write(event.SerializeToString())
            self.writer.flush()


def _tag(name: str) -> str:
    """The tag of a metric, such as loss/train; TensorBoard groups by the first part."""
    kind = "validation" if name.startswith("val_") else "train"
    return f"{name.removeprefix('val_')}/{kind}"


class Plateau(keras.callbacks.Callback):
    """Divides the rate by 10 after `patience` epochs without a better top-1.

    It looks at the history of the whole run, so that resuming changes nothing.
    """

    def __init__(
        self, rate: float, patience: int, history: list[dict[str, Any]]
    ) -> None:
        super().__init__()
        self.rate, self.patience, self.history = rate, patience, history

    def on_epoch_end(
        self, epoch: int, logs: Any = None
    ) -> None:  # it runs before the checkpoint is written
        accuracies = [row["val_top1"] for row in self.history] + [logs["val_top1"]]
        drops = plateau_drops(accuracies, self.patience)
        self.model.optimizer.learning_rate = self.rate / 10**drops


def plateau_drops(accuracies: Iterable[float], patience: int) -> int:
    """How often the rate is divided: after `patience` epochs without a new best."""
    best, waited, drops = float("-inf"), 0, 0
    for accuracy in accuracies:
        if accuracy > best:
            best, waited = accuracy, 0
            continue
        waited += 1
        if waited == patience:
            waited, drops = 0, drops + 1
    return drops


class Watch(keras.callbacks.Callback):
    """Stops a run whose loss is no longer finite; the error has rate and loss scale."""

    def __init__(self, run: Path) -> None:
        super().__init__()
        self.run = run

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self.before = epoch * self.params["steps"]

    def on_train_batch_end(
        self, batch: int, logs: dict[str, Any] | None = None
    ) -> None:
        if (batch + 1) % _LOOK and batch + 1 < self.params["steps"]:
            return
        optimizer = self.model.optimizer
        streak = int(self.model.bad_steps)
        scale = loss_scale(optimizer)
        if streak < STREAK and (
            scale is None or scale > optimizer.initial_scale / 2**STREAK
        ):
            return
        what = (
            f"the loss has not been finite for {streak} steps"
            if streak >= STREAK
            else f"the gradients overflowed {STREAK} times"
        )
        raise RunError(
            f"{self.run}: stopped at step {self.before + batch + 1}: {what}; "
            f"{pace(optimizer)}. The last checkpoint is kept; try a smaller "
            "base_rate, a longer warm-up, or precision=float32, in another directory"
        )
