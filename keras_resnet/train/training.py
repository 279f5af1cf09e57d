"""`fit`: trains a recipe on data into a run directory, and resumes it exactly."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import platform
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from keras_resnet import data as pictures
from keras_resnet import onednn
from keras_resnet.backend import is_out_of_memory, keras
from keras_resnet.errors import DataError, RecipeError, RunError
from keras_resnet.files import PARTIAL, write_whole
from keras_resnet.info import ModelInfo
from keras_resnet.opening import open_model
from keras_resnet.recipe import Recipe
from keras_resnet.runs import layout
from keras_resnet.runs.checkpoints import newest, places
from keras_resnet.runs.process import Interrupted, locked, stoppable
from keras_resnet.runs.saver import Saver, Saving
from keras_resnet.train.build import Setup, build, describe_precision, precision_policy
from keras_resnet.train.finish import write_models
from keras_resnet.train.loop import train_epochs

__all__ = ["Interrupted", "fit", "is_finished"]


def fit(
    recipe: Recipe,
    data: Any,
    run: str | os.PathLike[str],
    progress: keras.callbacks.Callback | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    checkpoint_steps: int = 0,
    checkpoint_seconds: float = 600.0,
    keep: int = 2,
    model: Any = None,
    preprocessing: Any = None,
) -> Any:
    """Trains a recipe on data into a run directory; the same call again resumes it.

    The directory contains

    - recipe.json and data.json, what is trained on what;
    - checkpoints/, written by time, by steps, after each epoch, and when the run is
      stopped;
    - history.json, log.csv and tensorboard/, after each epoch;
    - in the end model.keras, best.keras of the epoch with the best `monitor`,
      model_ema.keras if the recipe has an `ema`, finished.json and curves.png.

    Files are written completely or not at all. A run that was stopped or killed, or
    that ran out of disk space, resumes from its newest valid checkpoint and ends with
    exactly the weights, optimizer state and history of an uninterrupted run.

    SIGTERM, SIGINT and SIGUSR1 write a checkpoint within a step and raise Interrupted;
    a second signal ends the process. A run that `early_stopping` or a callback ends
    before the recipe's last epoch counts as finished, which a line on stderr says; with
    more epochs in the recipe it continues.

    Args:
        recipe: a Recipe. To continue a run, only `epochs` may differ from its recipe,
            and only upwards. The initial weights are needed until the first checkpoint
            is written.
        data: what `data.open_source` accepts, with "train" and "val" images. Up to
            `max_bad_examples` images that cannot be decoded are left out, and listed in
            data.json.
        run: the directory. It is created if necessary, and locked during training.
        progress: a Keras callback that shows the progress; with None, one line tells
            the precision.
        callbacks: further Keras callbacks, whose own state is not resumed. Their
            `model` is a Trainable, and its `net` is the net.
        checkpoint_steps: batches between two checkpoints; 0 writes none by steps.
        checkpoint_seconds: time between two checkpoints; 0 writes none by time.
        keep: how many of the newest checkpoints to keep, 2 or more. The best epoch's is
            kept as well.
        model: a functional or Sequential keras.Model to train in place of the recipe's,
            or a function that makes one for a number of classes. It must give logits or
            probabilities; its classifier is replaced by a fresh one for the classes of
            the data, and the other weights stay. To resume, give the same model again.
        preprocessing: what `model` expects of its pixels: "included" for RGB in
            [0, 255]; "caffe", "tf" or "torch" as in `keras.applications`; (mean, std)
            of RGB in [0, 1]; or a Keras layer. It becomes a part of the trained model.

    Returns:
        The trained model, with softmax, class names and evaluation protocol.

    Raises:
        RunError: the directory belongs to another recipe or other data, is in use, or
            is damaged; a checkpoint could not be written; the loss is no longer finite;
            or memory ran out, with the fields that need less.
        Interrupted: the run was told to stop; it is a KeyboardInterrupt.
        DataError, RecipeError, ModelError, WeightsError, ValueError: for bad arguments,
            before anything is built or written.

    Example:

    >>> recipe = RECIPES["fine-tune"].replace(epochs=10)
    >>> model = train.fit(recipe, "photos", "runs/photos")

    Another net, which the run's files then hold with its preprocessing:

    >>> net = keras.applications.DenseNet121(input_shape=(224, 224, 3))
    >>> recipe = RECIPES["bag-of-tricks"].replace(epochs=30)
    >>> fit(recipe, "photos", "runs/dense", model=net, preprocessing="torch")
    """
    run = Path(run)
    if model is not None:
        name = getattr(model, "name", None) or getattr(model, "__name__", "model")
        # Keras numbers the names that it gives
        name = re.sub(r"_\d+$", "", name)
        recipe = recipe.replace(model=f"given:{name}")
    elif preprocessing is not None:
        raise RecipeError(
            f"preprocessing={preprocessing!r}: is of `model`, and there is none"
        )
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
            print(f"{reason}; ignored", file=sys.stderr)
        as_begun, began = recipe, None
        if checkpoint:
            # in the precision that the run began with, whatever this machine prefers
            as_begun = recipe.replace(precision=checkpoint.facts["precision"])
            net = checkpoint.facts.get("net")  # older versions did not write it
            began = ModelInfo.from_json(net) if net else None
        steps = pictures.steps_per_epoch(source, recipe)
        setup = build(as_begun, source.class_names, steps, began, model, preprocessing)
        facts = _facts(recipe, source, setup)
        if checkpoint and (others := _other_versions(checkpoint.facts, facts)):
            print(
                f"{run}: {checkpoint.place} was written by {others}; resuming, though "
                "results may differ in the last digits from an uninterrupted run",
                file=sys.stderr,
            )
        if not run.is_dir():
            run.mkdir(parents=True)
            held.enter_context(locked(run))
            if places(run):
                raise RunError(
                    f"{run}: another process has trained there meanwhile; run the same "
                    "command to resume"
                )
        # the models of fewer epochs stay until the new ones replace them
        if before := layout.finished(run):
            write_whole(run / layout.FINISHED, json.dumps(before))
        for name, content in reversed(_identity(recipe, source).items()):
            write_whole(run / name, json.dumps(content, indent=1))  # recipe last
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


def is_finished(recipe: Recipe, data: Any, run: str | os.PathLike[str]) -> bool:
    """Whether `run` contains this run, finished; RunError if it contains another."""
    run = Path(run)
    if run.exists() and not run.is_dir():
        raise RunError(f"{run}: is a file; choose a directory")
    if not (run / layout.RECIPE).exists():
        # these are written before the recipe
        early = (layout.LOCK, layout.DATA)
        names = [path.name for path in run.iterdir()] if run.is_dir() else []
        if any(name not in early and not name.startswith(PARTIAL) for name in names):
            raise RunError(
                f"{run}: contains files but no run; choose an empty directory"
            )
        return False
    differing = []
    # defaults of fields that are newer than the run
    usual = {layout.RECIPE: Recipe().to_dict()}
    source, _ = pictures.without_bad(data, recipe.max_bad_examples)
    for name, ours in _identity(recipe, source).items():
        theirs = {**usual.get(name, {}), **layout.read_json(run / name)}
        # data may move; its hash covers the images that are left
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


def _say_early(run: Path) -> None:
    done = layout.finished(run)
    if done and done["stopped"]:
        print(
            f"{run}: finished early, after {done['epochs']} of {done['of']} epochs: "
            f"{done['stopped']}",
            file=sys.stderr,
        )


def _identity(recipe: Recipe, source: Any) -> dict[str, dict[str, Any]]:
    """{file name: content} of the files that identify a run."""
    data = {
        "path": source.path,
        "data_hash": source.fingerprint,
        "class_names": list(source.class_names),
        "bad_examples": list(source.skipped),
    }
    return {layout.RECIPE: recipe.to_dict(), layout.DATA: data}


def _facts(recipe: Recipe, source: Any, setup: Setup) -> dict[str, Any]:
    """The facts that every checkpoint contains beside the state."""
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


def _other_versions(written: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """The versions that differ between two checkpoints, in words, or ''."""
    before, now = written["versions"], here["versions"]
    return ", ".join(
        f"{name} {before.get(name)} (here {version})"
        for name, version in now.items()
        if before.get(name) != version
    )


@contextlib.contextmanager
def _memory_named(recipe: Recipe) -> Iterator[None]:
    """Turns an out-of-memory error into a RunError that says what needs less."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise RunError(
            f"out of memory with batch_size={recipe.batch_size}, accumulate="
            f"{recipe.accumulate}, train_size={recipe.train_size}: use a smaller "
            "batch_size or train_size, or a larger accumulate, which splits a batch "
            "into that many parts; in another directory"
        ) from error
