"""The loop over epochs, which starts or resumes a run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_resnet import data as pictures
from keras_resnet.backend import keras
from keras_resnet.runs.checkpoints import Checkpoint, Place
from keras_resnet.runs.history import is_stalled, write_history
from keras_resnet.runs.saver import ResumableCallbacks, Saver, StopEvaluating, restore
from keras_resnet.tasks import TASKS
from keras_resnet.train.build import Setup
from keras_resnet.train.callbacks import Events, Plateau, Watch
from keras_resnet.train.objective import schedule
from keras_resnet.train.trainable import Trainable
from keras_resnet.transfer import measure

# what the history of a task has of `transfer.measure`
_SHOWN = {"detect": ("map", "map50"), "segment": ("mean_iou", "pixel_accuracy")}


def train_epochs(
    setup: Setup,
    source: Any,
    saver: Saver,
    checkpoint: Checkpoint | None,
    more: Sequence[Any],
    slice_of: pictures.Slice = (0, 1),
    devices: int = 1,
) -> None:
    """Trains the rest of a run: first the rest of an epoch, then whole epochs.

    Args:
        setup: what `build` returned.
        source: a Source with the splits "train" and "val".
        saver: the callback that writes checkpoints.
        checkpoint: the Checkpoint to resume from, or None.
        more: callbacks in addition to the run's own.
        slice_of: which slice of each batch this process reads, and of how many.
        devices: the number of devices of all processes, by which batches are divided.
    """
    model, recipe, steps = setup.model, setup.recipe, setup.steps
    start, metrics = Place(0), dict[str, np.ndarray]()
    if checkpoint:
        restore(model, checkpoint)
        start = checkpoint.place
        # after a whole epoch the metrics start again from zero
        metrics = checkpoint.arrays if start.batch else {}
    history, parts = saver.history, recipe.accumulate
    if history and saver.writes:
        # the run may have been killed between the checkpoint and this file
        write_history(saver.run, history)
    plateau = []
    if recipe.schedule == "plateau":
        rate, measured = schedule(recipe, steps), TASKS[recipe.task].measure
        plateau = [Plateau(rate, recipe.patience, history, f"val_{measured}")]
    size = recipe.eval_batch_size or recipe.batch_size // parts
    size = -(-size // devices) * devices
    validation = pictures.eval_batches(
        source, recipe, batch_size=size, slice_of=slice_of if devices > 1 else None
    )

    def until_stopped(batches: Iterable[Any]) -> Iterator[Any]:
        for batch in batches:
            saver.stop.look()
            if saver.stop.signal:
                return
            yield batch

    def measure_once() -> dict[str, float]:
        if recipe.task == "classify":
            return model.evaluate(
                validation,
                callbacks=[StopEvaluating(saver)],
                return_dict=True,
                verbose=0,
            )
        measured = measure(model.net, source, "val", size, until_stopped)
        return {name: measured[name] or 0.0 for name in _SHOWN[recipe.task]}

    def measure_more() -> dict[str, float]:
        found = {}
        if recipe.task != "classify":  # which Keras has measured already
            found = {f"val_{name}": it for name, it in measure_once().items()}
        if recipe.monitor.startswith("val_ema_"):
            with model.with_averages():
                averages = measure_once()
            found |= {f"val_ema_{name}": it for name, it in averages.items()}
        # handles a stop only now, as a checkpoint needs the network's own weights
        if found:
            saver.on_test_batch_end(0)
        return found

    callbacks = ResumableCallbacks(
        [
            Watch(saver.run),
            *plateau,
            saver,
            *([Events(saver.run)] if saver.writes else []),
            *more,
        ],
        model,
        first=start.batch * parts,
        metrics=metrics,
        measure=measure_more,
        epochs=recipe.epochs,
        steps=steps * parts,
        verbose=0,
    )
    size_in = recipe.size_in
    validated = [
        epoch
        for epoch in range(1, recipe.epochs + 1)
        if epoch % recipe.validate_every == 0 or epoch == recipe.epochs
    ]

    def train_to(epoch: int) -> None:
        # TensorFlow, which has one process, keeps the order of the published scripts
        only = slice_of if keras.backend.backend() == "jax" else None
        side = size_in(start.epoch)
        sized = recipe.replace(train_size=side, progressive_sizes=())
        batches = pictures.train_batches(source, sized, start.epoch, start.batch, only)
        if recipe.progressive_sizes:
            # traced for several sizes, a step would know none, and a resumed run would
            # compute otherwise; `fit` makes a new one
            model.train_function = None
        model.fit(
            _in_parts(batches, parts),
            initial_epoch=start.epoch,
            epochs=epoch,
            steps_per_epoch=(steps - start.batch) * parts,
            validation_data=validation,
            validation_freq=validated,
            callbacks=callbacks,
            shuffle=False,
            verbose=0,
        )

    with pictures.blame_pictures(source):
        if checkpoint and start.batch == steps:
            due = validation if start.epoch + 1 in validated else None
            logs = checkpoint.facts["logs"]
            _end_epoch(model, saver, callbacks, start.epoch, logs, due)
            start = Place(start.epoch + 1)
        while start.epoch < recipe.epochs and not (
            is_stalled(history, recipe.monitor, recipe.early_stopping)
            or model.stop_training
        ):
            epoch = start.epoch + 1
            if not start.batch:  # all epochs of one size
                while epoch < recipe.epochs and size_in(epoch) == size_in(start.epoch):
                    epoch += 1
            train_to(epoch)
            start = Place(epoch)
        callbacks.close()


def _end_epoch(
    model: Trainable,
    saver: Saver,
    callbacks: ResumableCallbacks,
    epoch: int,
    logs: dict[str, float],
    validation: Any,
) -> None:
    """Ends an epoch whose batches are all done, as `fit` would.

    Args:
        model: the Trainable.
        saver: the callback that writes checkpoints.
        callbacks: all callbacks of the run.
        epoch: the index of the epoch, from 0.
        logs: the training metrics of the epoch.
        validation: the validation batches, or None if this epoch is not validated.
    """
    callbacks.metrics = {}
    callbacks.on_train_begin()
    callbacks.on_epoch_begin(epoch)
    saver.logs = logs
    if validation is not None:
        measured = model.evaluate(
            validation, callbacks=callbacks, return_dict=True, verbose=0
        )
        logs = {**logs, **{f"val_{name}": value for name, value in measured.items()}}
    callbacks.on_epoch_end(epoch, logs)


def _in_parts(batches: Any, count: int) -> Any:
    """Splits each batch of a tf.data.Dataset into `count` equal parts."""
    if count == 1:
        return batches
    return batches.flat_map(
        lambda *batch: tf.data.Dataset.from_tensor_slices(
            tf.nest.map_structure(
                lambda x: tf.reshape(x, [count, -1, *x.shape[1:]]), batch
            )
        )
    ).prefetch(count)
