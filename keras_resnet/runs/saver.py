"""Callbacks and functions that save the state of a run and resume from it."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from keras_resnet.backend import keras, number
from keras_resnet.errors import Diverged, RunError
from keras_resnet.recipe import Recipe
from keras_resnet.runs import checkpoints
from keras_resnet.runs.checkpoints import Checkpoint, Place
from keras_resnet.runs.history import Row, best_place, is_stalled, write_history
from keras_resnet.runs.process import Interrupted, Stop

Logs = dict[str, Any] | None  # the metrics that Keras passes to a callback

_METRIC = "metric"  # begins the names of the metrics' arrays in a checkpoint


@dataclass(frozen=True)
class Saving:
    """How often a run writes checkpoints, and how many of them it keeps.

    A checkpoint is also written after each epoch.

    Attributes:
        steps: the number of batches between two checkpoints; 0: not by steps.
        seconds: the time between two checkpoints, in seconds; 0: not by time.
        keep: how many of the newest to keep, 2 or more; that of the best epoch is kept
            in addition.

    Raises:
        ValueError: a value is out of range.
    """

    steps: int = 0
    seconds: float = 600.0
    keep: int = 2

    def __post_init__(self) -> None:
        if self.steps < 0 or not 0 <= self.seconds < float("inf"):
            raise ValueError(
                f"checkpoint_steps={self.steps}, checkpoint_seconds={self.seconds}: "
                "must be 0 or more, and finite"
            )
        if self.keep < 2:
            raise ValueError(
                f"keep={self.keep}: must be 2 or more, in case the newest is damaged"
            )


class Saver(keras.callbacks.Callback):
    """Writes checkpoints at intervals, after each epoch and when the run is stopped.

    Training waits only for the copy of the state to host memory. A thread writes the
    files; if it fails, its error is raised after a later step or at the end of the
    epoch.

    Args:
        run: the run directory.
        recipe: a Recipe; `accumulate`, `monitor` and `early_stopping` are used.
        steps: the number of batches in an epoch.
        history: the rows of the completed epochs; a row is appended after each epoch.
        facts: JSON-serializable metadata for every checkpoint.
        stop: the Stop that `process.stoppable` yields.
        saving: when to write checkpoints, and how many to keep.
        writes: whether to write files; False in all but one of several processes.
    """

    takes_tensors = True  # as `ResumableCallbacks` has it

    def __init__(
        self,
        run: Path,
        recipe: Recipe,
        steps: int,
        history: list[Row],
        facts: Mapping[str, Any],
        stop: Stop,
        saving: Saving,
        writes: bool = True,
    ) -> None:
        super().__init__()
        self.writes = writes
        self.run, self.history, self.facts = run, history, facts
        self.monitor, self.patience = recipe.monitor, recipe.early_stopping
        self.steps, self.parts = steps, recipe.accumulate
        self.stop, self.saving = stop, saving
        # the training metrics of an epoch, from its last batch to its end
        self.logs: dict[str, float] | None = None
        self._saved = time.monotonic()
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._writing: Future | None = None

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        self.epoch, self.logs = epoch, None

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        if self._writing and self._writing.done():
            self.wait()
        done, part = divmod(batch + 1, self.parts)
        if part:  # the weights change only after the last part of a batch
            return
        if done == self.steps:
            self.logs = _floats(self.model.get_metrics_result())
        self.stop.look()
        if self.stop.signal:
            self._leave(Place(self.epoch, done))
        if done < self.steps and self._is_due(done) and not self._writing:
            self._save(Place(self.epoch, done))

    def on_test_batch_end(self, batch: int, logs: Logs = None) -> None:
        self.stop.look()
        if self.stop.signal and self.logs is not None:
            self._leave(Place(self.epoch, self.steps))

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        rate = number(self.model.optimizer.learning_rate)
        self.history.append({"epoch": epoch + 1, "rate": rate, **_floats(logs or {})})
        self.logs = None
        if is_stalled(self.history, self.monitor, self.patience):
            self.model.stop_training = True
        self.wait()
        self._save(Place(epoch + 1))
        if self.stop.signal:
            self._leave(Place(epoch + 1), saved=True)

    def on_train_end(self, logs: Logs = None) -> None:
        self.wait()

    def wait(self) -> None:
        """Waits for the thread to finish a checkpoint, and raises its error if any."""
        writing, self._writing = self._writing, None
        if writing:
            writing.result()

    def close(self) -> None:
        """Ends the thread after it has written its last checkpoint."""
        self._thread.shutdown()

    def _is_due(self, done: int) -> bool:
        steps, seconds = self.saving.steps, self.saving.seconds
        if steps and (self.epoch * self.steps + done) % steps == 0:
            return True
        return seconds > 0 and time.monotonic() - self._saved >= seconds

    def _leave(self, place: Place, saved: bool = False) -> NoReturn:
        self.wait()
        if not saved:
            self._save(place)
            self.wait()
        assert self.stop.signal is not None
        name = signal.Signals(self.stop.signal).name
        raise Interrupted(
            f"{self.run}: stopped by {name}; checkpoint {place} was written; "
            "run the same command to resume from it"
        )

    def _save(self, place: Place) -> None:
        if not self.writes:
            return
        # on JAX, `fit` updates the variables only when a callback reads `self.model`
        arrays = {
            name: np.array(keras.ops.convert_to_numpy(variable))  # a copy
            for name, variable in _state(self.model).items()
        }
        facts = {**self.facts, "logs": self.logs, "history": list(self.history)}
        rate = pace(self.model.optimizer)
        self._writing = self._thread.submit(self._write, place, arrays, facts, rate)
        self._saved = time.monotonic()

    def _write(
        self,
        place: Place,
        arrays: Mapping[str, np.ndarray],
        facts: Mapping[str, Any],
        rates: str,
    ) -> None:
        # metrics may be infinite or NaN after one bad batch, which is normal in float16
        if not all(
            np.isfinite(array).all()
            for name, array in arrays.items()
            if not name.startswith(_METRIC)
        ):
            step = place.epoch * self.steps + place.batch
            raise Diverged(
                f"{self.run}: the weights are not finite at step {step}, after "
                f"{place.epoch} epochs; {rates}. The last checkpoint is kept; try a "
                "smaller base_rate or a longer warm-up in another run directory"
            )
        rows = facts["history"]
        try:
            checkpoints.write(self.run, place, arrays, facts)
            best = best_place(rows, self.monitor)
            checkpoints.prune(self.run, place, self.saving.keep, best)
            if not place.batch:
                write_history(self.run, rows)
        except OSError as error:
            raise RunError(
                f"{self.run}: the checkpoint of {place} cannot be written: "
                f"{error.strerror or error}; earlier checkpoints are intact. Fix the "
                "cause, then run the same command to resume"
            ) from error


class StopEvaluating(keras.callbacks.Callback):
    """Ends a separate call of `evaluate` when a signal asks the run to stop.

    Args:
        saver: the run's Saver, which itself stops the validation within `fit`.
    """

    def __init__(self, saver: Saver) -> None:
        super().__init__()
        self.saver = saver

    def on_test_batch_end(self, batch: int, logs: Logs = None) -> None:
        self.saver.stop.look()
        if self.saver.stop.signal and self.saver.logs is not None:
            self.model.stop_evaluating = True


def saved_weights(
    model: Any, checkpoint: Checkpoint, average: bool = False
) -> list[np.ndarray]:
    """Returns the network's weights, or their moving average, from a checkpoint.

    Args:
        model: a Trainable with the same variables as the saved one.
        checkpoint: the Checkpoint to read from.
        average: whether to return the moving average.
    """
    arrays = {
        id(variable): checkpoint.arrays[name]
        for name, variable in _state(model).items()
        if not name.startswith(_METRIC)
    }
    variables = model.averages if average else model.net.weights
    return [arrays[id(variable)] for variable in variables]


def restore(model: Any, checkpoint: Checkpoint) -> None:
    """Restores the variables of the model and its optimizer from a checkpoint.

    Also builds the metrics, so that their variables can be restored later.

    Raises:
        RunError: names, shapes or dtypes differ from those of this model.
    """
    current = {n: v for n, v in _state(model).items() if not n.startswith(_METRIC)}
    saved = {n: a for n, a in checkpoint.arrays.items() if not n.startswith(_METRIC)}
    wrong = [
        name
        for name in sorted(current.keys() | saved.keys())
        if name not in current
        or name not in saved
        or tuple(current[name].shape) != saved[name].shape
        or keras.backend.standardize_dtype(current[name].dtype) != saved[name].dtype
    ]
    if wrong:
        raise RunError(
            f"checkpoint {checkpoint.place}: its variables do not match this model's "
            f"({', '.join(wrong[:5])}); resume with the versions that wrote it "
            f"({checkpoint.facts.get('versions')}), or train in another directory"
        )
    for name, variable in current.items():
        variable.assign(saved[name])
    model.build_metrics()


class ResumableCallbacks(keras.callbacks.CallbackList):
    """The callbacks of a training that takes several calls of `fit`.

    To the callbacks it is a single training: it begins once, it ends with `close`, and
    batches are counted from the start of their epoch, even if the first `fit` starts in
    the middle of one.

    Args:
        callbacks: the Keras callbacks.
        model: the Trainable that is trained.
        first: how many batches of the first epoch are already done; with `accumulate`,
            each part of a batch counts.
        metrics: {name: array} of a checkpoint, restored when the first epoch begins.
        measure: returns additional metrics of an epoch that was validated.
        **params: what `fit` would pass to its CallbackList, such as `epochs`.
    """

    def __init__(
        self,
        callbacks: Sequence[Any],
        model: Any,
        first: int,
        metrics: Mapping[str, np.ndarray],
        measure: Callable[[], dict[str, float]],
        **params: Any,
    ) -> None:
        super().__init__(callbacks, add_history=True, model=model, **params)
        self.first, self.metrics, self.measure = first, metrics, measure
        self.begun = False
        self.logs: Logs = None

    def on_train_begin(self, logs: Logs = None) -> None:
        if not self.begun:
            super().on_train_begin(logs)
        self.begun = True

    def on_train_end(self, logs: Logs = None) -> None:
        self.logs = logs

    def close(self) -> None:
        """Ends the training after the last `fit`."""
        self.on_train_begin()  # not yet called if no epoch was left to train
        super().on_train_end(self.logs)

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        super().on_epoch_begin(epoch, logs)
        for name, variable in _state(self.model).items():
            if name in self.metrics:  # `fit` has just reset them
                variable.assign(self.metrics[name])
        self.metrics = {}

    def on_train_batch_begin(self, batch: int, logs: Logs = None) -> None:
        super().on_train_batch_begin(batch + self.first, logs)

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        """As Keras's, which makes all of `logs` numbers, and waits for the device.

        Here that is done only for a callback that wants them: one with a method for
        batches and without `takes_tensors`.
        """
        numbers = None
        for callback in self.callbacks:
            if getattr(callback, "takes_tensors", False):
                given = logs
            elif _looks_at_batches(callback):
                given = numbers = numbers or _floats(logs or {})
            else:
                continue
            callback.on_train_batch_end(batch + self.first, given)

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        self.first = 0
        if logs and "val_loss" in logs:
            logs = {**logs, **self.measure()}
        super().on_epoch_end(epoch, logs)


def _looks_at_batches(callback: Any) -> bool:
    usual = keras.callbacks.Callback
    methods = callback.on_train_batch_end, callback.on_batch_end
    return [getattr(method, "__func__", None) for method in methods] != [
        usual.on_train_batch_end,
        usual.on_batch_end,
    ]


def pace(optimizer: Any) -> str:
    """Returns text about the learning rate and loss scale, for error messages."""
    scale = loss_scale(optimizer)
    scale_text = "none" if scale is None else f"{scale:.3g}"
    return f"rate {number(optimizer.learning_rate):.3g}, loss scale {scale_text}"


def loss_scale(optimizer: Any) -> float | None:
    """Returns the optimizer's loss scale, or None if the loss is not scaled."""
    scale = getattr(optimizer, "dynamic_scale", None)
    return None if scale is None else number(scale)


def _state(model: Any) -> dict[str, Any]:
    """Returns {name: variable} of all that training changes.

    The names are those of a checkpoint's arrays. Metrics are included once built.
    """
    groups = {
        "model": model.state,
        "optimizer": model.optimizer.variables,
        _METRIC: model.metrics_variables,
    }
    return {
        f"{group}/{index:05d}": variable
        for group, variables in groups.items()
        for index, variable in enumerate(variables)
    }


def _floats(logs: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in logs.items()}
