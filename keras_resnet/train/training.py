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
from keras_resnet.errors import DataError, RunError
from keras_resnet.files import PARTIAL, write_whole
from keras_resnet.info import ModelInfo
from keras_resnet.opening import open_model
from keras_resnet.recipe import Recipe
from keras_resnet.runs import layout
from keras_resnet.runs.checkpoints import newest, places
from keras_resnet.runs.process import Interrupted, locked, stoppable
from keras_resnet.runs.saver import Saver, Saving
from keras_resnet.train.build import build, describe_precision, precision_policy
from keras_resnet.train.finish import write_models
from keras_resnet.train.loop import train_epochs

__all__ = ["Interrupted", "fit", "is_finished"]


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
        raise DataError(
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
        as_begun, began = recipe, None
        if checkpoint:
            # in the precision that it began in, on whatever machine
            as_begun = recipe.replace(precision=checkpoint.facts["precision"])
            net = checkpoint.facts.get("net")  # an older version's has none
            began = ModelInfo.from_json(net) if net else None
        steps = pictures.steps_per_epoch(source, recipe)
        setup = build(as_begun, source.class_names, steps, began)
        facts = _facts(recipe, source, setup)
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
        # of fewer epochs: its models stay till the end
        if before := layout.finished(run):
            write_whole(run / layout.FINISHED, json.dumps(before))
        for name, said in reversed(_identity(recipe, source).items()):  # recipe last
            write_whole(run / name, json.dumps(said, indent=1))
        if progress is None:
            print(describe_precision(setup.recipe))
        every = [*callbacks, *([] if progress is None else [progress])]
        history = checkpoint.facts["history"] if checkpoint else []
        saver = Saver(run, setup.recipe, setup.steps, history, facts, stop, saving)
        with contextlib.closing(saver):
            train_epochs(setup, source, saver, checkpoint, every)
        write_models(setup.model, recipe, run, history)
        _say_early(run)
    return open_model(run)


def is_finished(recipe, data, run) -> bool:
    """Whether `run` holds this very run, complete; RunError where it holds another."""
    run = Path(run)
    if run.exists() and not run.is_dir():
        raise RunError(f"{run}: is a file; choose a directory")
    if not (run / layout.RECIPE).exists():
        # these, whole or not, are there before the recipe
        early = (layout.LOCK, layout.DATA)
        names = [path.name for path in run.iterdir()] if run.is_dir() else []
        if any(name not in early and not name.startswith(PARTIAL) for name in names):
            raise RunError(f"{run}: holds files but no run; choose an empty directory")
        return False
    differing = []
    # of fields that are newer than the run
    usual = {layout.RECIPE: Recipe().to_dict()}
    source, _ = pictures.without_bad(data, recipe.max_bad_examples)
    for name, ours in _identity(recipe, source).items():
        theirs = {**usual.get(name, {}), **layout.read_json(run / name)}
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
    done = layout.finished(run)
    return done is not None and done["of"] >= recipe.epochs


def _say_early(run):
    done = layout.finished(run)
    if done and done["stopped"]:
        print(
            f"{run}: finished early, after {done['epochs']} of {done['of']} epochs: "
            f"{done['stopped']}",
            file=sys.stderr,
        )


def _identity(recipe, source):
    """{file: what it says} of the files that tell one run from another."""
    data = {
        "path": source.path,
        "data_hash": source.fingerprint,
        "class_names": list(source.class_names),
        "bad_examples": list(source.skipped),
    }
    return {layout.RECIPE: recipe.to_dict(), layout.DATA: data}


def _facts(recipe, source, setup):
    """What stands in every checkpoint beside the state: what it is of."""
    from keras_resnet import __version__

    return {
        "recipe": recipe.to_dict(),
        "data_hash": source.fingerprint,
        "precision": precision_policy(setup.recipe),
        "net": dataclasses.asdict(setup.model.net.info),
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
