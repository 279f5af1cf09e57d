"""Saving the whole state of a training run, restoring it, and resuming from it."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from keras_resnet.backend import keras
from keras_resnet.errors import RunError
from keras_resnet.recipe import Recipe
from keras_resnet.runs import checkpoints
from keras_resnet.runs.checkpoints import Checkpoint, Place
from keras_resnet.runs.history import Row, best_place, is_stalled, write_history
from keras_resnet.runs.process import Interrupted, Stop

Logs = dict[str, Any] | None  # the metrics that Keras gives a callback

_METRIC = "metric"  # the group of a checkpoint's arrays of metrics


@dataclass(frozen=True)
class Saving:
    """How often a run writes checkpoints, and how many of them it keeps."""

    steps: int = 0  # batches between checkpoints; 0: only by time and epochs
    seconds: float = 600.0  # between checkpoints; 0: only by steps and epochs
    keep: int = 2  # of the newest; the best epoch's stays, too

    def __post_init__(self) -> None:
        if self.steps < 0 or not 0 <= self.seconds < float("inf"):
            raise ValueError(
                f"checkpoint_steps={self.steps}, checkpoint_seconds={self.seconds}: "
                "must be 0 or more"
            )
        if self.keep < 2:
            raise ValueError(
                f"keep={self.keep}: must be at least 2, in case one is damaged"
            )


class Saver(keras.callbacks.Callback):
    """Writes checkpoints: by steps, by time, after each epoch, and when stopped.

    A step waits only for the copy to host memory. A thread writes it, and an error
    there ends the run at the next step.

    Args:
        run: the run directory.
        recipe: a Recipe; its `accumulate`, `monitor` and `early_stopping` are used.
        steps: batches in an epoch.
        history: the rows of the completed epochs, to which new ones are appended.
        facts: JSON values that every checkpoint contains.
        stop: from `process.stoppable`.
        saving: a Saving.
    """

    def __init__(
        self,
        run: Path,
        recipe: Recipe,
        steps: int,
        history: list[Row],
        facts: Mapping[str, Any],
        stop: Stop,
        saving: Saving,
    ) -> None:
        super().__init__()
        self.run, self.history, self.facts = run, history, facts
        self.monitor, self.patience = recipe.monitor, recipe.early_stopping
        self.steps, self.parts = steps, recipe.accumulate
        self.stop, self.saving = stop, saving
        # of an epoch whose batches are done
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
        if part:
            return
        if done == self.steps:
            self.logs = _floats(self.model.get_metrics_result())
        if self.stop.signal:
            self._leave(Place(self.epoch, done))
        if done < self.steps and self._is_due(done) and not self._writing:
            self._save(Place(self.epoch, done))

    def on_test_batch_end(self, batch: int, logs: Logs = None) -> None:
        if self.stop.signal and self.logs is not None:
            self._leave(Place(self.epoch, self.steps))

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        rate = float(self.model.optimizer.learning_rate)
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
        """Waits until nothing is being written; raises the error if there was one."""
        writing, self._writing = self._writing, None
        if writing:
            writing.result()

    def close(self) -> None:
        """Ends the thread once it has written everything."""
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
            f"{self.run}: stopped by {name}; the checkpoint {place} is written, and "
            "the same command resumes from it"
        )

    def _save(self, place: Place) -> None:
        # on JAX `fit` keeps the new values until a callback asks for its model
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
        pace: str,
    ) -> None:
        if not all(
            np.isfinite(array).all()
            for name, array in arrays.items()
            if not name.startswith(_METRIC)  # a single bad batch, as in float16
        ):
            step = place.epoch * self.steps + place.batch
            raise RunError(
                f"{self.run}: the weights are not finite at step {step}, after "
                f"{place.epoch} epochs; {pace}. The last checkpoint is kept; try a "
                "smaller base_rate or a longer warm-up in another directory"
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
                f"{error.strerror or error}; earlier ones are intact. Once that is "
                "fixed, the same command resumes"
            ) from error


class StopEvaluating(keras.callbacks.Callback):
    """Ends an evaluation outside of `fit` when the run has been told to stop."""

    def __init__(self, saver: Saver) -> None:
        super().__init__()
        self.saver = saver

    def on_test_batch_end(self, batch: int, logs: Logs = None) -> None:
        if self.saver.stop.signal and self.saver.logs is not None:
            self.model.stop_evaluating = True


def saved_weights(
    model: Any, checkpoint: Checkpoint, average: bool = False
) -> list[np.ndarray]:
    """The weights of the net in a checkpoint, or their moving average."""
    arrays = {
        id(variable): checkpoint.arrays[name]
        for name, variable in _state(model).items()
        if not name.startswith(_METRIC)
    }
    variables = model.averages if average else model.net.weights
    return [arrays[id(variable)] for variable in variables]


def restore(model: Any, checkpoint: Checkpoint) -> None:
    """Restores all variables of the model and its optimizer.

    Raises:
        RunError: the checkpoint has other variables.
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
            f"checkpoint {checkpoint.place}: it does not fit this model, in "
            f"{', '.join(wrong[:5])}; was it written by another version? "
            f"{checkpoint.facts.get('versions')}"
        )
    for name, variable in ours.items():
        variable.assign(theirs[name])
    # metrics create their variables when they are first used, which must happen before
    # `on_epoch_begin` restores them
    blank = np.zeros((1, model.net.output_shape[-1]), np.float32)
    model.compute_metrics(None, blank, blank)


class ResumableCallbacks(keras.callbacks.CallbackList):
    """The callbacks of one training that consists of several calls of `fit`.

    To the callbacks it is one training: it begins once, it ends with `close`, and
    batches are counted from the start of their epoch even if `fit` starts within it.

    Args:
        first: how many batches of the first epoch are done, or parts of batches where
            gradients are accumulated.
        metrics: {name: array} from a checkpoint, restored when that epoch begins.
        measure: a function that returns further metrics of a validated epoch.
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
        """Ends the training, whichever call of `fit` was the last."""
        self.on_train_begin()  # in case there was nothing left to train
        super().on_train_end(self.logs)

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        super().on_epoch_begin(epoch, logs)
        for name, variable in _state(self.model).items():
            if name in self.metrics:  # `fit` has just reset it
                variable.assign(self.metrics[name])
        self.metrics = {}

    def on_train_batch_begin(self, batch: int, logs: Logs = None) -> None:
        super().on_train_batch_begin(batch + self.first, logs)

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        super().on_train_batch_end(batch + self.first, logs)

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        self.first = 0
        if logs and "val_loss" in logs:
            logs = {**logs, **self.measure()}
        super().on_epoch_end(epoch, logs)


def pace(optimizer: Any) -> str:
    """The learning rate and the loss scale, in words for an error."""
    scale = loss_scale(optimizer)
    said = "none" if scale is None else f"{scale:.3g}"
    return f"rate {float(optimizer.learning_rate):.3g}, loss scale {said}"


def loss_scale(optimizer: Any) -> float | None:
    """The loss scale, or None where the loss is not scaled."""
    scale = getattr(optimizer, "dynamic_scale", None)
    return None if scale is None else float(scale)


def _state(model: Any) -> dict[str, Any]:
    """{name: variable} of everything that training changes, named as in a checkpoint.

    Metrics are among them only once they have variables.
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


def _floats(logs: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in logs.items()}
