"""Recipe and data -> a run directory; running again resumes at the last whole epoch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import keras
import tensorflow as tf

from keras_resnet import data as pictures
from keras_resnet.callbacks import (
    CHECKPOINT,
    HISTORY,
    LOG,
    TENSORBOARD,
    Checkpoint,
    Events,
    Plateau,
    RunError,
    Watch,
    curves,
    restore,
    write_whole,
)
from keras_resnet.learner import (
    check,
    learner,
    precision_policy,
    resolve,
    said_precision,
)
from keras_resnet.model import assemble
from keras_resnet.objective import schedule
from keras_resnet.recipe import Recipe
from keras_resnet.trainable import Trainable
from keras_resnet.variants import RUN_MODEL, open_model
from keras_resnet.weights import aside

__all__ = [
    "CHECKPOINT",
    "CURVES",
    "DATA",
    "HISTORY",
    "LOG",
    "RECIPE",
    "RUN_AVERAGE",
    "TENSORBOARD",
    "RunError",
    "fit",
    "is_finished",
    "precision_policy",
    "prepare",
    "write_whole",
]

RECIPE = "recipe.json"  # `Recipe.read` reads it
DATA = "data.json"  # of which data the run is
CURVES = "curves.png"
RUN_AVERAGE = "model_ema.keras"  # where the recipe has an ema


def fit(
    recipe: Recipe,
    data,
    run,
    progress: keras.callbacks.Callback | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
):
    """Trains a recipe on data into a run directory.

    The directory gets recipe.json and data.json; history.json, log.csv, tensorboard/
    and checkpoint.npz (all variables of model and optimizer) after each epoch; at the
    end curves.png, model.keras and, with `ema`, model_ema.keras. Each file is written
    aside and renamed. The same call again resumes after the last whole epoch, with the
    results of an uninterrupted run, or returns the finished model.

    Args:
        recipe: a Recipe.
        data: what `data.open_source` takes, with train and val pictures; up to the
            recipe's `max_bad_examples` that cannot be decoded are left out, and listed
            in data.json.
        run: a directory, made if need be.
        progress: a Keras callback that shows how it goes; None prints the choice of
            precision and nothing else.
        callbacks: further Keras callbacks; what they remember is not resumed. Their
            `model` is a Trainable, whose `net` is the net.

    Returns:
        The trained model, with softmax, class names and evaluation protocol.

    Raises:
        RunError: the directory is of another recipe or other data, or damaged; or the
            run came to no finite loss any more.
        DataError, RecipeError, ModelError, WeightsError, ValueError: before anything
            is built or written.
    """
    run = Path(run)
    source, _ = pictures.without_bad(data, recipe.max_bad_examples)
    if source.split("val") is source.train:
        raise pictures.DataError(
            "data: one pair of arrays, which would be its own validation; give "
            '{"train": (images, labels), "val": (images, labels)}'
        )
    if is_finished(recipe, source, run):
        return open_model(run)
    model, whole, steps = prepare(recipe, source)
    run.mkdir(parents=True, exist_ok=True)
    for name, facts in reversed(_identity(recipe, source).items()):  # recipe.json last
        write_whole(run / name, json.dumps(facts, indent=1))
    history = restore(model, run)
    if len(history) < recipe.epochs:
        every = list(callbacks) if progress is None else [*callbacks, progress]
        if progress is None:
            print(said_precision(whole))
        _train(model, whole, source, steps, run, history, every)
    title = f"{recipe.name}: {recipe.model}, seed {recipe.seed}"
    write_whole(run / CURVES, curves(title, history))
    if recipe.ema:
        _save(model.net, model.averages, run / RUN_AVERAGE)
    _save(model.net, model.net.weights, run / RUN_MODEL)
    return open_model(run)


def prepare(recipe: Recipe, source) -> tuple[Trainable, Recipe, int]:
    """(the model before its first step, the recipe of `resolve`, steps an epoch)."""
    steps = pictures.steps_per_epoch(source, recipe)
    check(recipe, source.class_names)
    whole = resolve(recipe)
    keras.utils.set_random_seed(recipe.seed)
    return learner(whole, source.class_names, steps), whole, steps


def is_finished(recipe, data, run) -> bool:
    """Whether `run` holds this very run, complete; RunError where it holds another."""
    run = Path(run)
    if run.exists() and not run.is_dir():
        raise RunError(f"{run}: is a file; choose a directory")
    if not (run / RECIPE).exists():
        if run.is_dir() and any(run.iterdir()):
            raise RunError(f"{run}: holds files but no run; choose an empty directory")
        return False
    differing = []
    source, _ = pictures.without_bad(data, recipe.max_bad_examples)
    for name, ours in _identity(recipe, source).items():
        try:
            theirs = json.loads((run / name).read_text())
            # data may move, and its hash is of what is left of it
            keys = (theirs.keys() | ours.keys()) - {"path", "bad_examples"}
        except (AttributeError, OSError, ValueError) as error:
            raise RunError(
                f"{run / name}: unreadable ({error}); choose another directory"
            ) from error
        differing += [
            f"{key} is {theirs.get(key)!r} there and {ours.get(key)!r} here"
            for key in sorted(keys)
            if theirs.get(key) != ours.get(key)
        ]
    if differing:
        raise RunError(
            f"{run}: belongs to another run: {'; '.join(differing)}. Choose another "
            "directory, or the same recipe and data"
        )
    return (run / RUN_MODEL).is_file()


def _identity(recipe, source):
    """{file: what it says} of the files that tell one run from another."""
    data = {
        "path": source.path,
        "data_hash": source.fingerprint,
        "class_names": list(source.class_names),
        "bad_examples": list(source.skipped),
    }
    return {RECIPE: recipe.to_dict(), DATA: data}


def _train(model, recipe, source, steps, run, history, more):
    plateau = recipe.schedule == "plateau"
    done, last = len(history), recipe.epochs
    with pictures.blame_pictures(source):
        model.fit(
            _in_parts(pictures.train_batches(source, recipe, done), recipe.accumulate),
            initial_epoch=done,
            epochs=last,
            steps_per_epoch=steps * recipe.accumulate,
            validation_data=pictures.eval_batches(source, recipe),
            validation_freq=[
                epoch
                for epoch in range(1, last + 1)
                if epoch % recipe.validate_every == 0 or epoch == last
            ],
            callbacks=[
                Watch(run),
                *[
                    Plateau(schedule(recipe, steps), recipe.patience, history)
                    for _ in range(plateau)
                ],
                Checkpoint(run, history),
                Events(run),
                *more,
            ],
            shuffle=False,
            verbose=0,
        )


def _in_parts(batches, count):
    """Each batch as so many smaller ones."""
    if count == 1:
        return batches
    return batches.flat_map(
        lambda *batch: tf.data.Dataset.from_tensor_slices(
            tuple(tf.reshape(x, [count, -1, *x.shape[1:]]) for x in batch)
        )
    ).prefetch(tf.data.AUTOTUNE)


def _save(net, weights, path):
    """Writes a model of the net with a softmax, and these weights."""
    final = assemble(net.info.replace(classifier_activation="softmax"))
    for variable, value in zip(final.weights, weights):
        variable.assign(value)
    with aside(path) as partial:
        final.save(partial)
