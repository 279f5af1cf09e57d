"""Recipe and data -> a run directory; running again resumes at the last whole epoch."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_resnet import data as pictures
from keras_resnet.config import VARIANTS
from keras_resnet.model import ModelInfo, assemble, rebuild
from keras_resnet.recipe import Recipe, RecipeError, loss, metrics, optimizer
from keras_resnet.variants import RUN_MODEL, open_model
from keras_resnet.weights import aside

RECIPE = "recipe.json"  # `Recipe.read` reads it
DATA = "data.json"  # of which data the run is
HISTORY = "history.json"
CURVES = "curves.png"
CHECKPOINT = "checkpoint.npz"


class RunError(ValueError):
    """A run directory that cannot be used as asked, with its path and what to do."""


def fit(recipe: Recipe, data, run, progress: keras.callbacks.Callback | None = None):
    """Trains a recipe on data into a run directory.

    The directory gets recipe.json and data.json, history.json and checkpoint.npz (all
    variables of model and optimizer, rewritten after each epoch), and at the end
    model.keras and curves.png. Each file is written aside and renamed. The same call
    again resumes after the last whole epoch, with the results of an uninterrupted run,
    or returns the finished model.

    Args:
        recipe: a Recipe.
        data: what `data.open_source` takes, with train and val pictures; up to the
            recipe's `max_bad_examples` that cannot be decoded are left out, and listed
            in data.json.
        run: a directory, made if need be.
        progress: a Keras callback that shows how it goes; None is silent.

    Returns:
        The trained model, with softmax, class names and evaluation protocol.

    Raises:
        RunError: the directory is of another recipe or other data, or damaged.
        DataError, RecipeError, ValueError: before anything is written.
    """
    run = Path(run)
    source, _ = pictures.without_bad(data, recipe.max_bad_examples)
    if source.split("val") is source.train:
        raise pictures.DataError(
            "data: one pair of arrays, which would be its own validation; give "
            '{"train": (images, labels), "val": (images, labels)}'
        )
    steps = pictures.steps_per_epoch(source, recipe)
    if is_finished(recipe, source, run):
        return open_model(run)
    keras.utils.set_random_seed(recipe.seed)
    model = _trainable_model(recipe, source, steps)
    run.mkdir(parents=True, exist_ok=True)
    for name, facts in reversed(_identity(recipe, source).items()):  # recipe.json last
        write_whole(run / name, json.dumps(facts, indent=1))
    epoch, history = _restore(model, run / CHECKPOINT)
    if epoch < recipe.epochs:
        with pictures.blame_pictures(source):
            model.fit(
                pictures.train_batches(source, recipe, epoch),
                initial_epoch=epoch,
                epochs=recipe.epochs,
                steps_per_epoch=steps,
                validation_data=pictures.eval_batches(source, recipe),
                callbacks=[_Checkpoint(run, history), *filter(None, [progress])],
                shuffle=False,
                verbose=0,
            )
    final = rebuild(model, model.info.dtype_policy, classifier_activation="softmax")
    write_whole(run / CURVES, _curves(recipe, history))
    with aside(run / RUN_MODEL) as partial:
        final.save(partial)
    return open_model(run)


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


def precision_policy(recipe: Recipe) -> str:
    """The dtype policy that the recipe's precision means on this machine."""
    if recipe.precision != "auto":
        return recipe.precision
    return "mixed_float16" if _on_gpu() else "float32"


def write_whole(path: Path, content: str | bytes):
    """Writes a file aside, flushes it to the disk and renames it into place."""
    with aside(path) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)


def _identity(recipe, source):
    """{file: what it says} of the files that tell one run from another."""
    data = {
        "path": source.path,
        "data_hash": source.fingerprint,
        "class_names": list(source.class_names),
        "bad_examples": list(source.skipped),
    }
    return {RECIPE: recipe.to_dict(), DATA: data}


def _trainable_model(recipe, source, steps):
    if recipe.model not in VARIANTS:
        raise RecipeError(f"model={recipe.model!r}: must be a name of list_models()")
    try:
        config = VARIANTS[recipe.model].replace(**recipe.overrides)
    except (ValueError, TypeError) as error:
        raise RecipeError(f"overrides={recipe.overrides}: {error}") from error
    info = ModelInfo(
        variant=recipe.model,
        config=config,
        classes=len(source.class_names),
        classifier_activation=None,  # the loss takes logits
        class_names=source.class_names,
        protocol=recipe.protocol,
        dtype_policy=precision_policy(recipe),
    )
    model = assemble(info)
    model.compile(
        optimizer=optimizer(recipe, steps),
        loss=loss(recipe),
        metrics=metrics(),
        # XLA on a CPU gives up oneDNN's convolutions
        jit_compile="auto" if _on_gpu() else keras.backend.backend() != "tensorflow",
    )
    model.optimizer.build(model.trainable_variables)
    return model


def _on_gpu():
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return bool(tf.config.list_physical_devices("GPU"))
    return any("cuda" in d or "gpu" in d for d in keras.distribution.list_devices())


def _state(model):
    # by place: seed generators have another name each time a process builds the net
    everything = [*model.variables, *model.optimizer.variables]
    return {f"{place:05d}": variable for place, variable in enumerate(everything)}


class _Checkpoint(keras.callbacks.Callback):
    """After each epoch: the whole state and the history, atomically."""

    def __init__(self, run, history):
        super().__init__()
        self.run, self.history = run, history

    def on_epoch_end(self, epoch, logs=None):
        self.history.append(
            {"epoch": epoch + 1, **{k: float(v) for k, v in logs.items()}}
        )
        text = json.dumps(self.history, indent=1)
        arrays: dict[str, Any] = {
            name: np.asarray(keras.ops.convert_to_numpy(variable))
            for name, variable in _state(self.model).items()
        }
        stream = io.BytesIO()
        np.savez(stream, history=np.frombuffer(text.encode(), np.uint8), **arrays)
        write_whole(self.run / CHECKPOINT, stream.getvalue())
        write_whole(self.run / HISTORY, text)


def _restore(model, path):
    """Loads the checkpoint if there is one: (epochs done, their history)."""
    if not path.exists():
        return 0, []
    try:
        with np.load(path) as arrays:  # a zip: it knows its checksums
            values = dict(arrays)
        history = json.loads(values.pop("history").tobytes())
        state = _state(model)
        if state.keys() != values.keys():
            raise KeyError("its variables are not this model's")
        for name, variable in state.items():
            variable.assign(values[name])
    except (ValueError, KeyError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise RunError(
            f"{path}: damaged ({error}); remove the run directory to start afresh"
        ) from error
    return len(history), history


def _curves(recipe, history):
    from matplotlib.figure import Figure

    epochs = [row["epoch"] for row in history]
    figure = Figure(figsize=(10, 4), layout="constrained")
    for place, (key, title) in enumerate(
        {"loss": "loss, nats", "top1": "top-1"}.items(), start=1
    ):
        axes = figure.add_subplot(1, 2, place)
        axes.plot(epochs, [row[key] for row in history], label="training")
        axes.plot(epochs, [row[f"val_{key}"] for row in history], label="validation")
        axes.set(title=title, xlabel="epoch")
        axes.grid(alpha=0.3)
        axes.legend()
    figure.suptitle(f"{recipe.name}: {recipe.model}, seed {recipe.seed}")
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110)
    return stream.getvalue()
