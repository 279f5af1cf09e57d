"""A progress bar for training, and a line of metrics for each epoch."""

from __future__ import annotations

import resource
import sys
import time
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

from keras_resnet.backend import keras, number
from keras_resnet.drawing import drawable
from keras_resnet.recipe import Recipe
from keras_resnet.tasks import TASKS
from keras_resnet.train.build import describe_precision, on_gpu

_SECONDS = 0.5  # between updates; reading the learning rate waits for the device
_LINE_SECONDS = 30.0  # between lines if the output is not a terminal


class TrainingBar(keras.callbacks.Callback):
    """Shows a progress bar with learning rate, images per second, memory and time left.

    If `err` is not a terminal, a line is printed every 30 seconds instead.

    Args:
        recipe: the Recipe that is trained.
        out: a rich.console.Console for the line that training begins with.
        err: a rich.console.Console for the bar, which is removed at the end, and the
            lines above it.
    """

    takes_tensors = True  # as `ResumableCallbacks` has it

    def __init__(self, recipe: Recipe, out: Console, err: Console) -> None:
        super().__init__()
        self.recipe, self.out = recipe, out
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("{task.fields[facts]}"),
            TimeRemainingColumn(),
            console=err,
            transient=True,
        )

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self.out.print(drawable(describe_precision(self.recipe)), markup=False)
        self.steps = self.params["steps"]
        total = self.steps * self.recipe.epochs
        self.task = self.bar.add_task("", total=total, facts="")
        self.updated, self.seen = time.monotonic(), 0
        self.bar.start()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.epoch = epoch
        text = f"epoch {epoch + 1}/{self.recipe.epochs}"
        self.bar.update(self.task, description=text, completed=epoch * self.steps)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.seen += self.recipe.batch_size // self.recipe.accumulate
        seconds = time.monotonic() - self.updated
        on_terminal = self.bar.console.is_terminal
        if seconds > (_SECONDS if on_terminal else _LINE_SECONDS):
            rate = number(self.model.optimizer.learning_rate)
            facts = (
                f"rate {rate:.2g}, {self.seen / seconds:,.0f} pictures/s, {_memory()}"
            )
            self.bar.update(self.task, facts=facts)
            if not on_terminal:
                done, steps = (
                    parts // self.recipe.accumulate for parts in (batch + 1, self.steps)
                )
                line = f"epoch {self.epoch + 1:3d}, step {done} of {steps}"
                line += f": loss {float(logs['loss']):.4f}, {facts}"
                self.bar.console.print(line)
            self.updated, self.seen = time.monotonic(), 0
        self.bar.update(self.task, completed=self.epoch * self.steps + batch + 1)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        line = f"epoch {epoch + 1:3d}: {self._measures(logs, '')}"
        if "val_loss" in logs:
            line += f"; held out: {self._measures(logs, 'val_')}"
        self.bar.console.print(line)
        # leaves validation out of the images per second
        self.updated, self.seen = time.monotonic(), 0

    def _measures(self, logs: dict[str, Any], prefix: str) -> str:
        task = TASKS[self.recipe.task]
        text = f"loss {logs[f'{prefix}loss']:.4f}"
        if (value := logs.get(prefix + task.measure)) is not None:
            text += f", {task.label} {value:.2%}"
        return text

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        self.bar.stop()  # or it would overwrite the lines printed after training


def _memory() -> str:
    """Returns the peak memory of the GPU, or of the process without one, as text."""
    if keras.backend.backend() == "tensorflow" and on_gpu():
        import tensorflow as tf

        peak = tf.config.experimental.get_memory_info("GPU:0")["peak"]
    else:
        unit = 1 if sys.platform == "darwin" else 1024
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return f"{peak / 2**30:.1f} GiB"
