"""Trains a recipe on data into a run directory, or resumes there, bit for bit."""

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
from keras_resnet.recipe import BEFORE, Recipe
from keras_resnet.runs import layout
from keras_resnet.runs.checkpoints import (
    Checkpoint,
    Place,
    newest,
    path_of,
    places,
    read,
)
from keras_resnet.runs.process import Interrupted, Stop, locked, stoppable
from keras_resnet.runs.saver import Saver, Saving
from keras_resnet.train import processes
from keras_resnet.train.build import Setup, build, describe_precision, precision_policy
from keras_resnet.train.devices import choose
from keras_resnet.train.finish import write_models
from keras_resnet.train.loop import train_epochs
from keras_resnet.train.objective import class_weights

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
    devices: int | str | None = None,
) -> Any:
    """Trains a recipe on data into a run directory; the same call again resumes it.

    The run directory contains

    - recipe.json and data.json, from the start;
    - checkpoints/, written at intervals, after each epoch and when the run is stopped;
    - history.json, log.csv and tensorboard/, updated after each epoch;
    - model.keras, finished.json and curves.png, written at the end, with best.keras
      from the epoch with the best `monitor`, and model_ema.keras if the recipe sets
      `ema`.

    All but the TensorBoard logs are written to a temporary name, flushed and renamed. A
    run that was stopped or killed, or whose disk was full, resumes from its newest
    intact checkpoint, and reaches the same weights, optimizer state and history as an
    uninterrupted run.

    SIGTERM, SIGINT or SIGUSR1 makes the run write a checkpoint after the current step
    and raise Interrupted; a second signal ends the process. A run that ended early, by
    `early_stopping` or a callback, counts as finished, and a line on stderr says so. A
    recipe with more epochs continues a finished run.

    Args:
        recipe: a Recipe. To resume a run, it must equal the run's recipe, except that
            `epochs` may be larger. A run of a version before `scaled_decode` goes on
            without it. The recipe's `weights` are read only until the
            first checkpoint is written.
        data: what `data.open_source` takes for the recipe's `task`, with the splits
            "train" and "val". Up to `recipe.max_bad_examples` images that cannot be
            decoded are left out, and listed in data.json.
        run: the run directory. It is created if needed, and locked during training.
        progress: a Keras callback that shows the progress. None prints only the dtype
            policy.
        callbacks: further Keras callbacks. Their own state is not saved or restored.
            Their `model` is a Trainable, and its `net` the network.
        checkpoint_steps: the number of batches between two checkpoints; 0: not by
            steps.
        checkpoint_seconds: the time between two checkpoints, in seconds; 0: not by
            time.
        keep: how many of the newest checkpoints to keep, 2 or more; that of the best
            epoch is kept in addition.
        model: a functional or Sequential keras.Model to train in place of the recipe's,
            or a function that makes one for a number of classes. It must give logits or
            probabilities; its classifier is replaced by a fresh one for the classes of
            the data, and the other weights stay. To resume, give the same model again.
        preprocessing: what `model` expects of its pixels: "included" for RGB in
            [0, 255]; "caffe", "tf" or "torch" as in `keras.applications`; (mean, std)
            of RGB in [0, 1]; or a Keras layer. It becomes a part of the trained model.
        devices: the devices of this machine that share each batch: None for all GPUs,
            or one CPU device if there is none; "all" for all GPUs or CPU devices; or
            how many of these. A run may be resumed on other devices. After
            `keras.distribution.initialize()`, those of each process: all processes call
            this with the same arguments on the same file system, each reads its slice
            of every batch, and process 0 writes the run. Any number of processes reach
            the same weights, but for the order of sums, and may resume the run.

    Returns:
        The trained model, with class names and evaluation protocol: a classifier with a
        softmax, or what `transfer.detector` and `transfer.segmenter` make.

    Raises:
        RunError: the directory belongs to another recipe or other data, is in use, or
            is damaged; a checkpoint cannot be written; the loss is no longer finite; or
            memory ran out, with the fields to change.
        Interrupted: a signal stopped the run; it is a KeyboardInterrupt.
        DataError, RecipeError, ModelError, WeightsError, ValueError: an argument is
            invalid, before anything is written.

    Examples:

    >>> recipe = RECIPES["fine-tune"].replace(epochs=10)
    >>> model = train.fit(recipe, "photos", "runs/photos")

    Another net, which the run's files then hold with its preprocessing:

    >>> net = keras.applications.DenseNet121(input_shape=(224, 224, 3))
    >>> recipe = RECIPES["bag-of-tricks"].replace(epochs=30)
    >>> fit(recipe, "photos", "runs/dense", model=net, preprocessing="torch")
    """
    run = Path(run)
    if model is not None:
        name = str(getattr(model, "name", None) or getattr(model, "__name__", "model"))
        # Keras numbers the names that it gives
        name = re.sub(r"_\d+$", "", name)
        recipe = recipe.replace(model=f"given:{name}")
    elif preprocessing is not None:
        raise RecipeError(
            f"preprocessing={preprocessing!r}: is of `model`, and there is none"
        )
    saving = Saving(checkpoint_steps, checkpoint_seconds, keep)
    source, _ = pictures.without_bad(data, recipe.max_bad_examples, task=recipe.task)
    if source.split("val") is source.train:
        raise DataError(
            "data: is one pair of arrays, so that training and validation images would "
            'be the same; pass {"train": (images, labels), "val": (images, labels)}'
        )
    with contextlib.ExitStack() as held:
        held.enter_context(processes.explained(run))
        held.enter_context(explained_memory_errors(recipe))
        slice_of = processes.index(), processes.count()
        writes = slice_of[0] == 0
        processes.check_shared(run)
        if is_finished(recipe, source, run):
            _report_early_end(run)
            return open_model(run)
        former = former_fields(run / layout.RECIPE)
        recipe = recipe.replace(**former)
        chosen = choose(devices, recipe)
        onednn.recommend()
        stop = processes.SharedStop() if processes.count() > 1 else Stop()
        held.enter_context(stoppable(stop))
        if run.is_dir() and writes:
            held.enter_context(locked(run))
        checkpoint = _checkpoint(run)
        build_recipe, began = recipe, None
        if checkpoint:
            # a run keeps its first dtype policy, even on another kind of machine
            build_recipe = recipe.replace(precision=checkpoint.facts["precision"])
            net = checkpoint.facts.get("net")  # older versions did not store it
            began = ModelInfo.from_json(net) if net else None
        processes.check_same(
            {
                "recipe": recipe.to_dict(),
                "data_hash": source.fingerprint,
                "precision": precision_policy(build_recipe),
                "versions": _versions(),
            }
        )
        steps = pictures.steps_per_epoch(source, recipe)
        scope = held.enter_context(contextlib.ExitStack())
        scope.enter_context(chosen.scope())
        setup = build(
            build_recipe,
            source.class_names,
            steps,
            began,
            model,
            preprocessing,
            class_weights(recipe, source),
            source.several_labels,
        )
        facts = _facts(recipe, source, setup)
        facts["devices"] = [len(chosen.names), chosen.statistics]
        if len(chosen.names) > 1 and writes:
            print(f"{run}: {chosen}", file=sys.stderr)
        if checkpoint and (others := _other_versions(checkpoint.facts, facts)):
            print(
                f"{run}: {checkpoint.place} was written by {others}; resuming from "
                "it may give slightly different results than an uninterrupted run",
                file=sys.stderr,
            )
        if checkpoint and (text := _other_statistics(checkpoint.facts, facts)):
            print(f"{run}: {checkpoint.place} {text}", file=sys.stderr)
        if not run.is_dir() and writes:
            run.mkdir(parents=True)
            held.enter_context(locked(run))
            if places(run):
                raise RunError(
                    f"{run}: another process has trained there in the meantime; run "
                    "the same command again to resume"
                )
        # if a finished run is extended, its models stay until the new ones are written,
        # and finished.json must still say how long they were trained
        if writes and (before := layout.finished(run)):
            write_whole(run / layout.FINISHED, json.dumps(before))
        # recipe.json last, as it marks a complete run directory
        for name, content in reversed(_identity(recipe, source).items()):
            if writes:  # the fields that the run's version lacked are not added
                content = {k: v for k, v in content.items() if k not in former}
                write_whole(run / name, json.dumps(content, indent=1))
        for note in source.notes:
            print(f"{source.path}: {note}", file=sys.stderr)
        if progress is None and writes:
            print(describe_precision(setup.recipe))
        every = [*callbacks, *([] if progress is None else [progress])]
        history = checkpoint.facts["history"] if checkpoint else []
        saver = Saver(
            run, setup.recipe, setup.steps, history, facts, stop, saving, writes
        )
        with contextlib.closing(saver), chosen.synchronizing(setup.model.net):
            train_epochs(
                setup, source, saver, checkpoint, every, slice_of, len(chosen.names)
            )
        scope.close()  # one device of process 0 builds the models
        if writes:
            write_models(setup.model, recipe, run, history, source)
        processes.meet("models")
        _report_early_end(run)
    return open_model(run)


def _checkpoint(run: Path) -> Checkpoint | None:
    """The newest intact checkpoint of a run, which all processes read."""
    if processes.index() == 0:
        checkpoint, rejected = newest(run)
        for reason in rejected:
            print(f"{reason}; left out", file=sys.stderr)
    else:
        checkpoint = None
    place = processes.gathered(checkpoint and checkpoint.place)[0]
    if place and processes.index():
        checkpoint = read(path_of(run, Place(*place)))
    return checkpoint


def is_finished(recipe: Recipe, data: Any, run: str | os.PathLike[str]) -> bool:
    """Returns whether a run directory contains this run, and it is finished.

    Args:
        recipe: a Recipe.
        data: what `data.open_source` takes.
        run: the run directory, which need not exist.

    Raises:
        RunError: `run` is a file, contains other files, or belongs to another recipe
            or other data.
    """
    run = Path(run)
    if run.exists() and not run.is_dir():
        raise RunError(f"{run}: is a file; choose a directory")
    if not (run / layout.RECIPE).exists():
        # a run that was killed before it wrote the recipe leaves only these
        early = (layout.LOCK, layout.DATA)
        names = [path.name for path in run.iterdir()] if run.is_dir() else []
        if any(name not in early and not name.startswith(PARTIAL) for name in names):
            raise RunError(f"{run}: contains files, but no run; use an empty directory")
        return False
    differing = []
    former = former_fields(run / layout.RECIPE)
    recipe = recipe.replace(**former)
    # values of the fields that the run's version did not have yet
    defaults = {layout.RECIPE: Recipe().to_dict() | former}
    source, _ = pictures.without_bad(data, recipe.max_bad_examples, task=recipe.task)
    for name, given in _identity(recipe, source).items():
        stored = {**defaults.get(name, {}), **layout.read_json(run / name)}
        # data may be moved, and the data's hash already covers which images are left
        keys = (stored.keys() | given.keys()) - {"path", "bad_examples", "counts"}
        if stored.get("epochs", 0) < given.get("epochs", 0):
            keys -= {"epochs"}
        differing += [
            f"{key} is {stored.get(key)!r} there and {given.get(key)!r} here"
            for key in sorted(keys)
            if stored.get(key) != given.get(key)
        ]
    if differing:
        raise RunError(
            f"{run}: belongs to another run: {'; '.join(differing)}. Choose another "
            "directory, or use the same recipe and data; only epochs may be larger"
        )
    done = layout.finished(run)
    return done is not None and done["of"] >= recipe.epochs


def former_fields(path: Path) -> dict[str, Any]:
    """Values for the fields of a recipe that the version which wrote a file lacked.

    Args:
        path: recipe.json, or a file of the same fields; it need not exist.

    Returns:
        The items of `BEFORE` that the file does not have; none without a file.

    Raises:
        RunError: the file cannot be read.
    """
    written = layout.read_json(path) if path.exists() else BEFORE
    return {name: value for name, value in BEFORE.items() if name not in written}


def _report_early_end(run: Path) -> None:
    done = layout.finished(run)
    if done and done["stopped"]:
        print(
            f"{run}: finished early, after {done['epochs']} of {done['of']} epochs: "
            f"{done['stopped']}",
            file=sys.stderr,
        )


def _identity(recipe: Recipe, source: Any) -> dict[str, dict[str, Any]]:
    """Returns {name: content} of the files that distinguish one run from another."""
    data: dict[str, Any] = {
        "path": source.path,
        "data_hash": source.fingerprint,
        "class_names": list(source.class_names),
        "bad_examples": list(source.skipped),
        "counts": source.counts
        or {name: {"pictures": split.size} for name, split in source.splits.items()},
    }
    return {layout.RECIPE: recipe.to_dict(), layout.DATA: data}


def _facts(recipe: Recipe, source: Any, setup: Setup) -> dict[str, Any]:
    """Returns the metadata of every checkpoint: recipe, data, network and versions."""
    return {
        "recipe": recipe.to_dict(),
        "data_hash": source.fingerprint,
        "precision": precision_policy(setup.recipe),
        "net": dataclasses.asdict(setup.model.net.info),
        "versions": _versions(),
    }


def _versions() -> dict[str, str]:
    from keras_resnet import __version__

    return {
        "keras_resnet": __version__,
        "keras": keras.__version__,
        "backend": keras.backend.backend(),
        "tensorflow": tf.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def _other_versions(written: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """Returns text about the versions that differ in two checkpoints' facts, or ''."""
    before, now = written["versions"], here["versions"]
    return ", ".join(
        f"{name} {before.get(name)} (here {version})"
        for name, version in now.items()
        if before.get(name) != version
    )


def _other_statistics(written: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """Returns text about batch statistics of other parts of a batch, or ''."""
    before, now = written.get("devices", here["devices"]), here["devices"]
    if before == now or "per-device" not in (before[1], now[1]):
        return ""
    (few, kind), (many, other) = before, now
    return (
        f"was trained on {few} device(s) with batch statistics {kind}, here they are "
        f"{other} on {many}; the run goes on as another one would"
    )


@contextlib.contextmanager
def explained_memory_errors(recipe: Recipe) -> Iterator[None]:
    """Turns an out-of-memory error into a RunError that says which fields to change."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise RunError(
            f"out of memory with batch_size={recipe.batch_size}, accumulate="
            f"{recipe.accumulate}, train_size={recipe.train_size}, remat="
            f"{recipe.remat!r}: use a smaller batch_size or train_size, a larger "
            "accumulate, which splits each batch into that many parts, or "
            "remat='stages', in another run directory"
        ) from error
