"""The status of a run, read from its directory."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from keras_resnet.errors import RunError
from keras_resnet.recipe import Recipe
from keras_resnet.runs import checkpoints, layout
from keras_resnet.runs.checkpoints import Damaged
from keras_resnet.runs.history import best_place
from keras_resnet.runs.process import holder
from keras_resnet.tasks import TASKS


def status(run: str | os.PathLike[str]) -> dict[str, Any]:
    """Returns the status of a run, without building a model or changing any file.

    Args:
        run: the run directory.

    Returns:
        A dictionary of:

        - "run": the directory.
        - "recipe", "model": the names of the recipe and of the model variant.
        - "state": "finished", "running" or "stopped".
        - "process": the process that is training it, or None.
        - "epoch", "batch": completed epochs, and completed batches of the next one, at
          the newest intact checkpoint.
        - "epochs": the number of epochs in the recipe.
        - "early": why the run finished after fewer epochs, or None.
        - "task": what it is trained for.
        - "best": {"epoch", the task's measure, such as "val_top1", and the recipe's
          monitor} or None.
        - "checkpoints": [{"name", "bytes", "problem"}, ...], the newest last; "problem"
          is None if every byte was verified.
        - "history": a row of metrics for each epoch.

    Raises:
        RunError: the directory contains no run.
        RecipeError: the run's recipe cannot be read.
    """
    run = Path(run)
    if not (run / layout.RECIPE).is_file():
        raise RunError(f"{run}: contains no {layout.RECIPE}; train a run there first")
    recipe = Recipe.read(run / layout.RECIPE)
    rows, history, place = [], [], checkpoints.Place(0)
    for where in checkpoints.places(run):
        path = checkpoints.path_of(run, where)
        problem = None
        try:
            history = checkpoints.read(path).facts["history"]
            place = where
        except Damaged as error:
            problem = str(error)
        size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        rows.append({"name": path.name, "bytes": size, "problem": problem})
    process = holder(run)
    end = layout.finished(run)
    done = end and end["of"] >= recipe.epochs and place.epoch >= end["epochs"]
    best = best_place(history, recipe.monitor)
    return {
        "run": str(run),
        "recipe": recipe.name,
        "model": recipe.model,
        "task": recipe.task,
        "state": "running" if process else "finished" if done else "stopped",
        "process": process,
        "epoch": place.epoch,
        "batch": place.batch,
        "epochs": recipe.epochs,
        "early": end["stopped"] or None if end and done else None,
        "best": best
        and {
            "epoch": best.epoch,
            **{
                name: history[best.epoch - 1].get(name)
                for name in (f"val_{TASKS[recipe.task].measure}", recipe.monitor)
            },
        },
        "checkpoints": rows,
        "history": history,
    }
