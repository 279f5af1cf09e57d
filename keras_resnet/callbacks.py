"""What a run does beside its steps: keeps its state, logs, and stops in time."""

from __future__ import annotations

import csv
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_resnet.objective import plateau_drops
from keras_resnet.weights import aside

HISTORY = "history.json"
LOG = "log.csv"  # the same, for a spreadsheet
TENSORBOARD = "tensorboard"  # the same, for TensorBoard
CHECKPOINT = "checkpoint.npz"
STREAK = 20  # batches without a finite loss, or halvings of the loss scale
_LOOK = 10  # batches between looks, each of which waits for the device


class RunError(ValueError):
    """A run directory that cannot be used as asked, with its path and what to do."""


def write_whole(path: Path, content: str | bytes):
    """Writes a file aside, flushes it to the disk and renames it into place."""
    with aside(path) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)


class Checkpoint(keras.callbacks.Callback):
    """After each epoch: the whole state and the history, atomically."""

    def __init__(self, run, history):
        super().__init__()
        self.run, self.history = run, history

    def on_epoch_end(self, epoch, logs=None):
        rate = float(self.model.optimizer.learning_rate)
        logs = {key: float(value) for key, value in logs.items()}
        row = {"epoch": epoch + 1, "rate": rate, **logs}
        arrays: dict[str, Any] = {
            name: np.asarray(keras.ops.convert_to_numpy(variable))
            for name, variable in _state(self.model).items()
        }
        if not all(np.isfinite(array).all() for array in arrays.values()):
            step = (epoch + 1) * self.params["steps"]
            raise RunError(
                f"{self.run}: the weights are not finite after epoch {epoch + 1}, step "
                f"{step}; {_pace(self.model.optimizer)}. The epoch is not kept; try a "
                "smaller base_rate, or a longer warm-up, in another directory"
            )
        self.history.append(row)
        text = json.dumps(self.history, indent=1)
        stream = io.BytesIO()
        np.savez(stream, history=np.frombuffer(text.encode(), np.uint8), **arrays)
        write_whole(self.run / CHECKPOINT, stream.getvalue())
        write_whole(self.run / HISTORY, text)
        write_whole(self.run / LOG, _table(self.history))


def restore(model, run):
    """Loads the checkpoint if there is one: the rows of the epochs that are done."""
    path = run / CHECKPOINT
    if not path.exists():
        return []
    try:
        with np.load(path) as arrays:  # a zip: it knows its checksums
            values = dict(arrays)
        history = json.loads(values.pop("history").tobytes())
        state = _state(model)
        if state.keys() != values.keys():
            raise KeyError("its variables are not this model's")
        for name, variable in state.items():
            variable.assign(values[name])
    except (ValueError, KeyError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise RunError(
            f"{path}: damaged ({error}); remove the run directory to start afresh"
        ) from error
    return history


class Events(keras.callbacks.Callback):
    """The same for TensorBoard, by epochs, with no need for that package here."""

    def __init__(self, run):
        super().__init__()
        self.folder = run / TENSORBOARD

    def on_train_begin(self, logs=None):
        with tf.Graph().as_default():  # it refuses eager execution
            self.writer = tf.compat.v1.summary.FileWriter(str(self.folder))

    def on_epoch_end(self, epoch, logs=None):
        scalars = {**logs, "rate": self.model.optimizer.learning_rate}
        values = [
            tf.compat.v1.Summary.Value(tag=_tag(name), simple_value=float(value))
            for name, value in scalars.items()
        ]
        self.writer.add_summary(tf.compat.v1.Summary(value=values), epoch + 1)
        self.writer.flush()

    def on_train_end(self, logs=None):
        self.writer.close()


def _tag(name):
    """TensorBoard draws names of one group together: loss/train, loss/validation."""
    kind = "validation" if name.startswith("val_") else "train"
    return f"{name.removeprefix('val_')}/{kind}"


class Plateau(keras.callbacks.Callback):
    """Divides the rate by 10 after `patience` epochs without a better top-1.

    It counts the history, which a resumed run has as well.
    """

    def __init__(self, rate, patience, history):
        super().__init__()
        self.rate, self.patience, self.history = rate, patience, history

    def on_epoch_end(self, epoch, logs=None):  # before the checkpoint
        accuracies = [row["val_top1"] for row in self.history] + [logs["val_top1"]]
        drops = plateau_drops(accuracies, self.patience)
        self.model.optimizer.learning_rate = self.rate / 10**drops


class Watch(keras.callbacks.Callback):
    """Stops a run whose steps are no longer finite, with what there is to know."""

    def __init__(self, run):
        super().__init__()
        self.run = run

    def on_epoch_begin(self, epoch, logs=None):
        self.before = epoch * self.params["steps"]

    def on_train_batch_end(self, batch, logs=None):
        if (batch + 1) % _LOOK and batch + 1 < self.params["steps"]:
            return
        if keras.backend.backend() == "jax":
            self.model.jax_state_sync()
        optimizer = self.model.optimizer
        streak = int(self.model.bad_steps)
        scale = _scale(optimizer)
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
            f"{_pace(optimizer)}. The last whole epoch is kept; try a smaller "
            "base_rate, a longer warm-up, or precision=float32, in another directory"
        )


def _pace(optimizer):
    """The rate and the loss scale, for an error."""
    scale = _scale(optimizer)
    said = "none" if scale is None else f"{scale:.3g}"
    return f"rate {float(optimizer.learning_rate):.3g}, loss scale {said}"


def _scale(optimizer):
    """The loss scale, or None where the loss is not scaled."""
    scale = getattr(optimizer, "dynamic_scale", None)
    return None if scale is None else float(scale)


def curves(title, history) -> bytes:
    """Loss, top-1 and rate over the epochs, as PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 4), layout="constrained")
    panels = {"loss": "loss, nats", "top1": "top-1", "rate": "learning rate"}
    for place, (key, said) in enumerate(panels.items(), start=1):
        axes = figure.add_subplot(1, len(panels), place)
        for kind, prefix in (("training", ""), ("validation", "val_")):
            rows = [row for row in history if prefix + key in row]
            epochs = [row["epoch"] for row in rows]
            if rows:
                axes.plot(epochs, [row[prefix + key] for row in rows], label=kind)
        axes.set(title=said, xlabel="epoch")
        axes.grid(alpha=0.3)
        if key != "rate":
            axes.legend()
    figure.suptitle(title)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110)
    return stream.getvalue()


def _state(model):
    # by place: seed generators have another name each time a process builds the net
    everything = [*model.state, *model.optimizer.variables]
    return {f"{place:05d}": variable for place, variable in enumerate(everything)}


def _table(history):
    names = list(dict.fromkeys(name for row in history for name in row))
    stream = io.StringIO()
    writer = csv.DictWriter(stream, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    return stream.getvalue()
