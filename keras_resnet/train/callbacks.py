"""Callbacks of a run: TensorBoard logs, the plateau schedule, divergence checks."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import tensorflow as tf

from keras_resnet.backend import keras, number
from keras_resnet.errors import Diverged
from keras_resnet.runs import layout
from keras_resnet.runs.saver import loss_scale, pace

STREAK = 20  # stop after this many non-finite losses, or halvings of the loss scale
_CHECK_EVERY = 10  # batches; each check waits for the device


class Events(keras.callbacks.Callback):
    """Writes the metrics of each epoch for TensorBoard, without that package.

    If the file cannot be written, the run goes on; only a failed checkpoint stops it.

    Args:
        run: the run directory.
    """

    def __init__(self, run: Path) -> None:
        super().__init__()
        self.folder = run / layout.TENSORBOARD

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self.folder.mkdir(exist_ok=True)
        name = f"events.out.tfevents.{time.time_ns()}.{os.getpid()}"
        # TensorFlow's event writer does not accept paths that are not UTF-8
        self.writer = tf.io.TFRecordWriter(os.fsencode(self.folder / name))
        self._write(file_version="brain.Event:2")

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        scalars = {**logs, "rate": self.model.optimizer.learning_rate}
        values = [
            tf.compat.v1.Summary.Value(tag=_tag(name), simple_value=number(value))
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
    """Returns a tag such as "loss/train"; TensorBoard groups tags by the first part."""
    kind = "validation" if name.startswith("val_") else "train"
    return f"{name.removeprefix('val_')}/{kind}"


class Plateau(keras.callbacks.Callback):
    """Divides the learning rate by 10 when a measure stops improving.

    The epochs without improvement are counted in the history, so that a resumed run
    continues the count.

    Args:
        rate: the initial learning rate.
        patience: the number of epochs without a new best after which to divide.
        history: the rows of the completed epochs; shared with the Saver, which extends
            it.
        measure: the measure's name in the history.
    """

    def __init__(
        self,
        rate: float,
        patience: int,
        history: list[dict[str, Any]],
        measure: str = "val_top1",
    ) -> None:
        super().__init__()
        self.rate, self.patience, self.history = rate, patience, history
        self.measure = measure

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        # the Saver, which runs after this, has not yet added this epoch's row
        accuracies = [row[self.measure] for row in [*self.history, logs]]
        drops = plateau_drops(accuracies, self.patience)
        self.model.optimizer.learning_rate = self.rate / 10**drops


def plateau_drops(accuracies: Iterable[float], patience: int) -> int:
    """Returns how many times the learning rate was divided by 10.

    Args:
        accuracies: the validation top-1 of each epoch.
        patience: the number of epochs without a new best after which it is divided.
    """
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
    """Stops a run when its loss or gradients are no longer finite.

    Args:
        run: the run directory.

    Raises:
        Diverged: the loss was not finite for `STREAK` steps in a row, or the loss scale
            was halved `STREAK` times; the message has the learning rate.
    """

    takes_tensors = True  # as `ResumableCallbacks` has it

    def __init__(self, run: Path) -> None:
        super().__init__()
        self.run = run

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self.before = epoch * self.params["steps"]

    def on_train_batch_end(
        self, batch: int, logs: dict[str, Any] | None = None
    ) -> None:
        if (batch + 1) % _CHECK_EVERY and batch + 1 < self.params["steps"]:
            return
        optimizer = self.model.optimizer
        streak = int(number(self.model.bad_steps))
        scale = loss_scale(optimizer)
        if streak < STREAK and (
            scale is None or scale > optimizer.initial_scale / 2**STREAK
        ):
            return
        reason = (
            f"the loss has not been finite for {streak} steps"
            if streak >= STREAK
            else f"the gradients overflowed {STREAK} times"
        )
        raise Diverged(
            f"{self.run}: stopped at step {self.before + batch + 1}: {reason}; "
            f"{pace(optimizer)}. The last checkpoint is kept; try a smaller "
            "base_rate, a longer warm-up or precision=float32 in another run directory"
        )
