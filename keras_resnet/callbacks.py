"""What a run does beside its steps: keeps its state, logs, and stops in time."""

from __future__ import annotations

import csv
import io
import json
import signal
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from keras_resnet import checkpoints
from keras_resnet.checkpoints import Place, RunError
from keras_resnet.objective import plateau_drops
from keras_resnet.process import Interrupted
from keras_resnet.weights import aside

HISTORY = "history.json"
LOG = "log.csv"  # the same, for a spreadsheet
TENSORBOARD = "tensorboard"  # the same, for TensorBoard
_METRIC = "metric"  # where a checkpoint's arrays are of metrics
STREAK = 20  # batches without a finite loss, or halvings of the loss scale
_LOOK = 10  # batches between looks, each of which waits for the device


def write_whole(path: Path, content: str | bytes):
    """Writes a file aside, flushes it to the disk and renames it into place."""
    with aside(path) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)


@dataclass(frozen=True)
class Saving:
    """How often a run writes where it stands, and how many of these it keeps."""

    steps: int = 0  # batches from one to the next; 0: by time and epochs alone
    seconds: float = 600.0  # the same by time; 0: by steps and epochs alone
    keep: int = 2  # the newest; the best epoch's is kept besides

    def __post_init__(self):
        if self.steps < 0 or not 0 <= self.seconds < float("inf"):
            raise ValueError(
                f"checkpoint_steps={self.steps}, checkpoint_seconds={self.seconds}: "
                "must be 0 or more"
            )
        if self.keep < 2:
            raise ValueError(f"keep={self.keep}: must be at least 2, should one rot")


class Keeper(keras.callbacks.Callback):
    """Writes where the run stands: by steps, by time, after epochs, and when stopped.

    A step waits for the copy to host memory alone; a thread does the rest, and what
    goes wrong there ends the run at the next step.

    Args:
        run: the run directory.
        history: the rows of the epochs that are done; grows.
        steps: batches an epoch.
        parts: that a batch is computed in.
        facts: of every manifest, as JSON has them.
        stop: of `process.stoppable`.
        saving: a Saving.
    """

    def __init__(self, run, history, steps, parts, facts, stop, saving):
        super().__init__()
        self.run, self.history, self.facts = run, history, facts
        self.steps, self.parts = steps, parts
        self.stop, self.saving = stop, saving
        self.logs: dict[str, float] | None = None  # of an epoch's batches, once done
        self._saved = time.monotonic()
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._writing: Future | None = None

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch, self.logs = epoch, None

    def on_train_batch_end(self, batch, logs=None):
        if self._writing and self._writing.done():
            self.wait()
        done, part = divmod(batch + 1, self.parts)
        if part:
            return
        if done == self.steps:
            _sync(self.model)
            self.logs = _floats(self.model.get_metrics_result())
        if self.stop.signal:
            self._leave(Place(self.epoch, done))
        if done < self.steps and self._is_due(done) and not self._writing:
            self._save(Place(self.epoch, done))

    def on_test_batch_end(self, batch, logs=None):
        if self.stop.signal and self.logs is not None:
            self._leave(Place(self.epoch, self.steps))

    def on_epoch_end(self, epoch, logs=None):
        rate = float(self.model.optimizer.learning_rate)
        self.history.append({"epoch": epoch + 1, "rate": rate, **_floats(logs)})
        self.logs = None
        self.wait()
        self._save(Place(epoch + 1))
        if self.stop.signal:
            self._leave(Place(epoch + 1), saved=True)

    def on_train_end(self, logs=None):
        self.wait()

    def wait(self):
        """Returns when nothing is being written, or raises what went wrong."""
        writing, self._writing = self._writing, None
        if writing:
            writing.result()

    def close(self):
        """Ends the thread when it has written what it was given."""
        self._thread.shutdown()

    def _is_due(self, done):
        steps, seconds = self.saving.steps, self.saving.seconds
        by_steps = steps and (self.epoch * self.steps + done) % steps == 0
        return by_steps or (seconds and time.monotonic() - self._saved >= seconds)

    def _leave(self, place, saved=False):
        self.wait()
        if not saved:
            self._save(place)
            self.wait()
        name = signal.Signals(self.stop.signal).name
        raise Interrupted(
            f"{self.run}: stopped by {name}, and written at {place}; "
            "the same command goes on from there"
        )

    def _save(self, place):
        _sync(self.model)
        arrays = {
            name: np.array(keras.ops.convert_to_numpy(variable))  # a copy
            for name, variable in _state(self.model).items()
        }
        facts = {**self.facts, "logs": self.logs, "history": list(self.history)}
        pace = _pace(self.model.optimizer)
        self._writing = self._thread.submit(self._write, place, arrays, facts, pace)
        self._saved = time.monotonic()

    def _write(self, place, arrays, facts, pace):
        if not all(
            np.isfinite(array).all()
            for name, array in arrays.items()
            if not name.startswith(_METRIC)  # of one bad batch, and float16 has such
        ):
            step = place.epoch * self.steps + place.batch
            raise RunError(
                f"{self.run}: the weights are not finite at step {step}, after "
                f"{place.epoch} epochs; {pace}. The last checkpoint is kept; try a "
                "smaller base_rate, or a longer warm-up, in another directory"
            )
        rows = facts["history"]
        try:
            checkpoints.write(self.run, place, arrays, facts)
            checkpoints.prune(self.run, place, self.saving.keep, best_place(rows))
            if not place.batch:
                write_history(self.run, rows)
        except OSError as error:
            raise RunError(
                f"{self.run}: the checkpoint of {place} cannot be written: "
                f"{error.strerror or error}; those before it are whole. When that is "
                "mended, the same command goes on"
            ) from error


def best_place(history) -> Place | None:
    """Of the epoch with the best validation top-1, the first of such."""
    scores = [row.get("val_top1", -1.0) for row in history]
    return Place(history[int(np.argmax(scores))]["epoch"]) if scores else None


def write_history(run, history):
    """Writes history.json and log.csv."""
    write_whole(run / HISTORY, json.dumps(history, indent=1))
    write_whole(run / LOG, _table(history))


def restore(model, checkpoint):
    """Puts back all variables of model and optimizer.

    Raises:
        RunError: they are not this model's.
    """
    ours = {n: v for n, v in _state(model).items() if not n.startswith(_METRIC)}
    theirs = {n: a for n, a in checkpoint.arrays.items() if not n.startswith(_METRIC)}
    wrong = [
        name
        for name in sorted(ours.keys() | theirs.keys())
        if name not in ours
        or name not in theirs
        or tuple(ours[name].shape) != theirs[name].shape
        or keras.backend.standardize_dtype(ours[name].dtype) != theirs[name].dtype
    ]
    if wrong:
        raise RunError(
            f"checkpoint {checkpoint.place}: its variables are not this model's "
            f"({', '.join(wrong[:5])}); was it written by another version? "
            f"{checkpoint.facts.get('versions')}"
        )
    for name, variable in ours.items():
        variable.assign(theirs[name])
    # the metrics' variables are there from their first use on, which may be no later
    # than the epoch in the middle of which training goes on
    blank = np.zeros((1, model.net.output_shape[-1]), np.float32)
    model.compute_metrics(None, blank, blank)


class Several(keras.callbacks.CallbackList):
    """The callbacks of one training that is several `fit`s.

    They see one training: it begins and ends once, and batches are counted from the
    beginning of their epoch, also where the first `fit` starts within one.

    Args:
        first: batches, or parts of such, of the first epoch that are done.
        metrics: {name: array} of a checkpoint, put back when that epoch begins.
    """

    def __init__(self, callbacks, model, first, metrics, **params):
        super().__init__(callbacks, add_history=True, model=model, **params)
        self.first, self.metrics = first, metrics
        self.begun, self.last = False, False

    def on_train_begin(self, logs=None):
        if not self.begun:
            super().on_train_begin(logs)
        self.begun = True

    def on_train_end(self, logs=None):
        if self.last:
            super().on_train_end(logs)

    def on_epoch_begin(self, epoch, logs=None):
        super().on_epoch_begin(epoch, logs)
        for name, variable in _state(self.model).items():
            if name in self.metrics:  # which fit has just reset
                variable.assign(self.metrics[name])
        self.metrics = {}

    def on_train_batch_begin(self, batch, logs=None):
        super().on_train_batch_begin(batch + self.first, logs)

    def on_train_batch_end(self, batch, logs=None):
        super().on_train_batch_end(batch + self.first, logs)

    def on_epoch_end(self, epoch, logs=None):
        self.first = 0
        super().on_epoch_end(epoch, logs)


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
        _sync(self.model)
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
            f"{_pace(optimizer)}. The last checkpoint is kept; try a smaller "
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
    """{name: variable} of all that training changes; metrics only once they are built.

    The names are those of a checkpoint's arrays.
    """
    groups = {
        "model": model.state,
        "optimizer": model.optimizer.variables,
        _METRIC: model.metrics_variables,
    }
    return {
        f"{group}/{place:05d}": variable
        for group, variables in groups.items()
        for place, variable in enumerate(variables)
    }


def _sync(model):
    """On JAX variables are old until this; `fit` keeps the new values to itself."""
    if keras.backend.backend() == "jax":
        model.jax_state_sync()


def _floats(logs):
    return {name: float(value) for name, value in logs.items()}


def _table(history):
    names = list(dict.fromkeys(name for row in history for name in row))
    stream = io.StringIO()
    writer = csv.DictWriter(stream, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    return stream.getvalue()
