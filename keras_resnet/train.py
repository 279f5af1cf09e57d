"""Recipe and data -> a run directory; running again resumes, bit for bit."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import platform
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from keras_resnet import data as pictures
from keras_resnet import onednn
from keras_resnet.backend import is_out_of_memory, keras
from keras_resnet.callbacks import TENSORBOARD, Events, Plateau, Watch, curves
from keras_resnet.checkpoints import FOLDER as CHECKPOINTS
from keras_resnet.checkpoints import (
    Damaged,
    Place,
    RunError,
    newest,
    path_of,
    places,
    read,
)
from keras_resnet.drawing import attempted
from keras_resnet.files import PARTIAL, aside
from keras_resnet.keeper import (
    HISTORY,
    LOG,
    Keeper,
    Saving,
    Several,
    StopEvaluating,
    best_place,
    is_stalled,
    restore,
    saved_weights,
    write_history,
    write_whole,
)
from keras_resnet.learner import (
    check,
    learner,
    precision_policy,
    resolve,
    said_precision,
)
from keras_resnet.model import ModelInfo, assemble, assign
from keras_resnet.objective import schedule
from keras_resnet.process import LOCK, Interrupted, locked, stoppable
from keras_resnet.recipe import Recipe
from keras_resnet.trainable import Trainable
from keras_resnet.variants import RUN_MODEL, open_model

__all__ = [
    "CHECKPOINTS",
    "CURVES",
    "DATA",
    "FINISHED",
    "HISTORY",
    "LOG",
    "RECIPE",
    "RUN_AVERAGE",
    "RUN_BEST",
    "TENSORBOARD",
    "Interrupted",
    "RunError",
    "finished",
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
RUN_BEST = "best.keras"  # of the epoch with the best monitor
FINISHED = "finished.json"  # of how many epochs these models are


def fit(
    recipe: Recipe,
    data,
    run,
    progress: keras.callbacks.Callback | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    checkpoint_steps: int = 0,
    checkpoint_seconds: float = 600.0,
    keep: int = 2,
):
    """Trains a recipe on data into a run directory; the same call again resumes.

    The directory gets recipe.json and data.json; checkpoints/ by time, by steps, after
    each epoch and when the run is stopped; history.json, log.csv and tensorboard/ after
    each epoch; at the end model.keras, best.keras of the epoch with the best `monitor`,
    model_ema.keras with `ema`, finished.json, and curves.png. Each is written aside,
    flushed and renamed. A run that was stopped, killed or out of disk goes on from its
    newest checkpoint that verifies, to the very weights, optimizer state and history of
    one that never stopped. SIGTERM, SIGINT and SIGUSR1 write a checkpoint within a step
    and raise Interrupted; a second one ends the process. A run that `early_stopping` or
    a callback ended before the recipe's epochs is finished, and says so on stderr; a
    recipe of more epochs goes on.

    Args:
        recipe: a Recipe. Of one whose run is there, `epochs` alone may be another, and
            more. The weights that it starts from are needed for a run's first
            checkpoint, and no more after it.
        data: what `data.open_source` takes, with train and val pictures; up to the
            recipe's `max_bad_examples` that cannot be decoded are left out, and listed
            in data.json.
        run: a directory, made if need be, and locked while this lasts.
        progress: a Keras callback that shows how it goes; None prints the choice of
            precision and nothing else.
        callbacks: further Keras callbacks; what they remember is not resumed. Their
            `model` is a Trainable, whose `net` is the net.
        checkpoint_steps: batches between two checkpoints; 0: as below.
        checkpoint_seconds: between two checkpoints; 0: after epochs alone.
        keep: of checkpoints the newest, 2 or more; that of the best epoch stays too.

    Returns:
        The trained model, with softmax, class names and evaluation protocol.

    Raises:
        RunError: the directory is of another recipe or other data, in use, or damaged;
            a checkpoint could not be written; the run came to no finite loss any more;
            or memory ran out, with the fields that take less.
        Interrupted: a KeyboardInterrupt; the run was told to stop.
        DataError, RecipeError, ModelError, WeightsError, ValueError: before anything
            is built or written.
    """
    run = Path(run)
    saving = Saving(checkpoint_steps, checkpoint_seconds, keep)
    source, _ = pictures.without_bad(data, recipe.max_bad_examples)
    if source.split("val") is source.train:
        raise pictures.DataError(
            "data: one pair of arrays, which would be its own validation; give "
            '{"train": (images, labels), "val": (images, labels)}'
        )
    if is_finished(recipe, source, run):
        _say_early(run)
        return open_model(run)
    onednn.recommend()
    with contextlib.ExitStack() as held:
        held.enter_context(_memory_named(recipe))
        stop = held.enter_context(stoppable())
        if run.is_dir():
            held.enter_context(locked(run))
        checkpoint, rejected = newest(run)
        for reason in rejected:
            print(f"{reason}; left out", file=sys.stderr)
        # as it began, on whatever machine
        began = checkpoint.facts["precision"] if checkpoint else recipe.precision
        said = checkpoint.facts.get("net") if checkpoint else None  # older: none
        info = ModelInfo.from_json(said) if said else None
        model, whole, steps = prepare(recipe.replace(precision=began), source, info)
        facts = _facts(recipe, source, precision_policy(whole), model.net.info)
        if checkpoint and (others := _other_versions(checkpoint.facts, facts)):
            print(
                f"{run}: {checkpoint.place} was written by {others}; goes on from it, "
                "perhaps to other last digits than in one piece",
                file=sys.stderr,
            )
        if not run.is_dir():
            run.mkdir(parents=True)
            held.enter_context(locked(run))
            if places(run):
                raise RunError(
                    f"{run}: another process has trained there meanwhile; the same "
                    "command goes on from there"
                )
        if before := finished(run):  # with fewer epochs: its models stay till the end
            write_whole(run / FINISHED, json.dumps(before))
        for name, said in reversed(_identity(recipe, source).items()):  # recipe last
            write_whole(run / name, json.dumps(said, indent=1))
        if progress is None:
            print(said_precision(whole))
        every = [*callbacks, *([] if progress is None else [progress])]
        history = checkpoint.facts["history"] if checkpoint else []
        keeper = Keeper(
            run,
            history,
            steps,
            recipe.accumulate,
            facts,
            stop,
            saving,
            recipe.monitor,
            recipe.early_stopping,
        )
        with contextlib.closing(keeper):
            _train(model, whole, source, steps, keeper, checkpoint, every)
        _finish(model, recipe, run, history)
    return open_model(run)


def prepare(
    recipe: Recipe, source, info: ModelInfo | None = None
) -> tuple[Trainable, Recipe, int]:
    """(the model before its first step, the recipe of `resolve`, steps an epoch).

    With the `info` of a net that was begun, the recipe's weights are not read.
    """
    steps = pictures.steps_per_epoch(source, recipe)
    check(recipe, source.class_names)
    whole = resolve(recipe, info)
    keras.utils.set_random_seed(recipe.seed)
    return learner(whole, source.class_names, steps, info), whole, steps


def is_finished(recipe, data, run) -> bool:
    """Whether `run` holds this very run, complete; RunError where it holds another."""
    run = Path(run)
    if run.exists() and not run.is_dir():
        raise RunError(f"{run}: is a file; choose a directory")
    if not (run / RECIPE).exists():
        # these, whole or not, are there before the recipe
        early = (LOCK, DATA)
        names = [path.name for path in run.iterdir()] if run.is_dir() else []
        if any(name not in early and not name.startswith(PARTIAL) for name in names):
            raise RunError(f"{run}: holds files but no run; choose an empty directory")
        return False
    differing = []
    usual = {RECIPE: Recipe().to_dict()}  # of fields that an older version had not
    source, _ = pictures.without_bad(data, recipe.max_bad_examples)
    for name, ours in _identity(recipe, source).items():
        theirs = {**usual.get(name, {}), **_read(run / name)}
        # data may move, and its hash is of what is left of it
        keys = (theirs.keys() | ours.keys()) - {"path", "bad_examples"}
        if theirs.get("epochs", 0) < ours.get("epochs", 0):
            keys -= {"epochs"}
        differing += [
            f"{key} is {theirs.get(key)!r} there and {ours.get(key)!r} here"
            for key in sorted(keys)
            if theirs.get(key) != ours.get(key)
        ]
    if differing:
        raise RunError(
            f"{run}: belongs to another run: {'; '.join(differing)}. Choose another "
            "directory, or the same recipe and data; epochs alone may change, upwards"
        )
    done = finished(run)
    return done is not None and done["of"] >= recipe.epochs


def finished(run) -> dict | None:
    """What the models of a run directory are of, or None where there are none.

    Returns:
        {"epochs": that they were trained for, "of": that the recipe had then,
        "stopped": why those are more, or ""}.
    """
    run = Path(run)
    if not (run / RUN_MODEL).is_file():
        return None
    if (run / FINISHED).is_file():
        return {"epochs": 0, "of": 0, "stopped": "", **_read(run / FINISHED)}
    if not (run / HISTORY).is_file():
        return None
    epochs = len(_read(run / HISTORY, list))  # of an older version, which had no more
    return {"epochs": epochs, "of": epochs, "stopped": ""}


def _say_early(run):
    done = finished(run)
    if done and done["stopped"]:
        print(
            f"{run}: finished early, after {done['epochs']} of {done['of']} epochs: "
            f"{done['stopped']}",
            file=sys.stderr,
        )


def _read(path, kind=dict):
    try:
        said = json.loads(path.read_text())
        if not isinstance(said, kind):
            raise ValueError(f"no {kind.__name__}")
    except (OSError, ValueError) as error:
        raise RunError(
            f"{path}: unreadable ({error}); choose another directory"
        ) from error
    return said


def _identity(recipe, source):
    """{file: what it says} of the files that tell one run from another."""
    data = {
        "path": source.path,
        "data_hash": source.fingerprint,
        "class_names": list(source.class_names),
        "bad_examples": list(source.skipped),
    }
    return {RECIPE: recipe.to_dict(), DATA: data}


def _facts(recipe, source, precision, info):
    """What stands in every checkpoint beside the state: what it is of."""
    from keras_resnet import __version__

    return {
        "recipe": recipe.to_dict(),
        "data_hash": source.fingerprint,
        "precision": precision,
        "net": dataclasses.asdict(info),
        "versions": {
            "keras_resnet": __version__,
            "keras": keras.__version__,
            "backend": keras.backend.backend(),
            "tensorflow": tf.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
    }


def _other_versions(theirs, ours):
    """Which of them differ, in words, or ''."""
    theirs, ours = theirs["versions"], ours["versions"]
    return ", ".join(
        f"{name} {theirs.get(name)} (here {said})"
        for name, said in ours.items()
        if theirs.get(name) != said
    )


def _train(model, recipe, source, steps, keeper, checkpoint, more):
    """What is left of the run: the rest of an epoch, then whole ones."""
    start, metrics = Place(0), dict[str, np.ndarray]()
    if checkpoint:
        restore(model, checkpoint)
        start = checkpoint.place
        metrics = checkpoint.arrays if start.batch else {}  # else an epoch's that ended
    history, parts = keeper.history, recipe.accumulate
    if history:
        write_history(keeper.run, history)  # it may have been killed before
    plateau = recipe.schedule == "plateau"
    size = recipe.eval_batch_size or recipe.batch_size // parts
    validation = pictures.eval_batches(source, recipe, batch_size=size)

    def measure_average():
        if recipe.monitor != "val_ema_top1":
            return {}
        with model.with_averages():
            measured = model.evaluate(
                validation,
                callbacks=[StopEvaluating(keeper)],
                return_dict=True,
                verbose=0,
            )
        keeper.on_test_batch_end(None)  # with the net's own weights again
        return {f"val_ema_{name}": value for name, value in measured.items()}

    callbacks = Several(
        [
            Watch(keeper.run),
            *[
                Plateau(schedule(recipe, steps), recipe.patience, history)
                for _ in range(plateau)
            ],
            keeper,
            Events(keeper.run),
            *more,
        ],
        model,
        first=start.batch * parts,
        metrics=metrics,
        measure=measure_average,
        epochs=recipe.epochs,
        steps=steps * parts,
        verbose=0,
    )
    validated = [
        epoch
        for epoch in range(1, recipe.epochs + 1)
        if epoch % recipe.validate_every == 0 or epoch == recipe.epochs
    ]

    def train_to(epoch):
        batches = pictures.train_batches(source, recipe, start.epoch, start.batch)
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
        if start.batch == steps:
            due = validation if start.epoch + 1 in validated else None
            logs = checkpoint.facts["logs"]
            _end_epoch(model, keeper, callbacks, start.epoch, logs, due)
        elif start.batch:
            train_to(start.epoch + 1)
        if start.batch:
            start = Place(start.epoch + 1)
        stalled = is_stalled(history, recipe.monitor, recipe.early_stopping)
        if start.epoch < recipe.epochs and not (stalled or model.stop_training):
            train_to(recipe.epochs)
        callbacks.close()


@contextlib.contextmanager
def _memory_named(recipe):
    """Turns a lack of memory into an error that says what takes less."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise RunError(
            f"out of memory with batch_size={recipe.batch_size}, accumulate="
            f"{recipe.accumulate}, train_size={recipe.train_size}: take a smaller "
            "batch_size or train_size, or a larger accumulate, which computes a batch "
            "in as many parts; in another directory"
        ) from error


def _end_epoch(model, keeper, callbacks, epoch, logs, validation):
    """What `fit` does after an epoch's last batch; with validation if it is due."""
    callbacks.metrics = {}
    callbacks.on_train_begin()
    callbacks.on_epoch_begin(epoch)
    keeper.logs = logs
    if validation is not None:
        measured = model.evaluate(
            validation, callbacks=callbacks, return_dict=True, verbose=0
        )
        logs = {**logs, **{f"val_{name}": value for name, value in measured.items()}}
    callbacks.on_epoch_end(epoch, logs)


def _in_parts(batches, count):
    """Each batch as so many smaller ones."""
    if count == 1:
        return batches
    return batches.flat_map(
        lambda *batch: tf.data.Dataset.from_tensor_slices(
            tuple(tf.reshape(x, [count, -1, *x.shape[1:]]) for x in batch)
        )
    ).prefetch(count)


def _finish(model, recipe, run, history):
    """Writes the models, of how many epochs they are, and the curves."""
    if model.averages:
        _save(model.net, model.averages, run / RUN_AVERAGE)
    _save_best(model, recipe, run, history)
    _save(model.net, model.net.weights, run / RUN_MODEL)
    done = {"epochs": len(history), "of": recipe.epochs, "stopped": ""}
    if len(history) < recipe.epochs:
        stalled = is_stalled(history, recipe.monitor, recipe.early_stopping)
        done["stopped"] = (
            f"no better {recipe.monitor} for {recipe.early_stopping} epochs"
            if stalled
            else "a callback stopped it"
        )
    write_whole(run / FINISHED, json.dumps(done))
    _say_early(run)
    with attempted(run / CURVES):
        title = f"{recipe.name}: {recipe.model}, seed {recipe.seed}"
        write_whole(run / CURVES, curves(title, history))


def _save_best(model, recipe, run, history):
    """Writes the model of the best epoch, of which there is a checkpoint."""
    place = best_place(history, recipe.monitor)
    assert place is not None
    try:
        checkpoint = read(path_of(run, place))
    except Damaged as error:
        print(f"{run / RUN_BEST}: not written: {error}", file=sys.stderr)
        return
    average = recipe.monitor == "val_ema_top1"
    _save(model.net, saved_weights(model, checkpoint, average), run / RUN_BEST)


def _save(net, weights, path):
    """Writes a model of the net with a softmax, and these weights."""
    final = assemble(net.info.replace(classifier_activation="softmax"))
    assign(final, dict(zip((variable.path for variable in net.weights), weights)))
    with aside(path) as partial:
        final.save(partial)
