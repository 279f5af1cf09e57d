"""Writes the final files of a run: its models and the plot of its history."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from keras_resnet.data.splits import Source
from keras_resnet.drawing import attempted
from keras_resnet.files import atomic_write, sha256, write_whole
from keras_resnet.model import assemble, assign, rebuild
from keras_resnet.recipe import Recipe
from keras_resnet.runs import layout
from keras_resnet.runs.checkpoints import Damaged, path_of, read
from keras_resnet.runs.history import best_place, is_stalled
from keras_resnet.runs.saver import saved_weights
from keras_resnet.train.curves import curves
from keras_resnet.train.thresholds import choose_thresholds
from keras_resnet.train.trainable import Trainable
from keras_resnet.transfer import assemble_transfer


def write_models(
    model: Trainable,
    recipe: Recipe,
    run: Path,
    history: list[dict[str, Any]],
    source: Source,
) -> None:
    """Writes the models, finished.json and the plot of the history.

    Args:
        model: the trained Trainable.
        recipe: its Recipe.
        run: the run directory, which has a checkpoint of the best epoch.
        history: a row of metrics for each epoch.
        source: the data, on whose validation images the thresholds of several labels
            are chosen.
    """
    if model.averages:
        _save(model.net, model.averages, run / layout.AVERAGE, source)
    _save_best(model, recipe, run, history, source)
    _save(model.net, model.net.weights, run / layout.MODEL, source)
    (run / layout.CALIBRATED).unlink(missing_ok=True)  # of the former model
    done: dict[str, Any] = {
        "epochs": len(history),
        "of": recipe.epochs,
        "stopped": "",
    }
    if model.net.info.config is None:  # which `open_model` asks for
        names = (layout.MODEL, layout.BEST, layout.AVERAGE)
        files = [run / name for name in names if (run / name).is_file()]
        done["sha256"] = {path.name: sha256(path) for path in files}
    if len(history) < recipe.epochs:
        stalled = is_stalled(history, recipe.monitor, recipe.early_stopping)
        done["stopped"] = (
            f"no better {recipe.monitor} for {recipe.early_stopping} epochs"
            if stalled
            else "a callback stopped it"
        )
    write_whole(run / layout.FINISHED, json.dumps(done))
    with attempted(run / layout.CURVES):
        title = f"{recipe.name}: {recipe.model}, seed {recipe.seed}"
        write_whole(run / layout.CURVES, curves(title, history, recipe.task))


def _save_best(
    model: Trainable,
    recipe: Recipe,
    run: Path,
    history: list[dict[str, Any]],
    source: Source,
) -> None:
    """Writes the model of the best epoch, from its checkpoint."""
    place = best_place(history, recipe.monitor)
    assert place is not None
    try:
        checkpoint = read(path_of(run, place))
    except Damaged as error:
        print(f"{run / layout.BEST}: not written: {error}", file=sys.stderr)
        return
    average = recipe.monitor.startswith("val_ema_")
    weights = saved_weights(model, checkpoint, average)
    _save(model.net, weights, run / layout.BEST, source)


def _save(net: Any, weights: Iterable[Any], path: Path, source: Source) -> None:
    """Writes a copy of the network, a classifier of probabilities, of these weights."""
    info = net.info
    if info.config is None or info.task != "classify":
        final = (
            rebuild(net, info.dtype_policy, classifier_activation=info.probability)
            if info.task == "classify"
            else assemble_transfer(info)
        )
        for variable, value in zip(final.weights, weights, strict=True):
            variable.assign(value)
    else:
        final = assemble(info.replace(classifier_activation=info.probability))
        assign(final, dict(zip((variable.path for variable in net.weights), weights)))
    if info.several_labels:
        final.info = final.info.replace(thresholds=choose_thresholds(final, source))
    with atomic_write(path) as partial:
        final.save(partial)
