"""Plots of the learning rate of a recipe, and of the history of a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_resnet.backend import ops
from keras_resnet.drawing import png
from keras_resnet.recipe import Recipe
from keras_resnet.tasks import TASKS
from keras_resnet.train.objective import schedule


def rate_curve(recipe: Recipe) -> bytes:
    """Returns a PNG of the scheduled learning rate over the epochs."""
    from matplotlib.figure import Figure

    steps = 100  # per epoch; the curve's shape does not depend on the data's size
    rate = schedule(recipe, steps)
    places = np.arange(recipe.epochs * steps)
    rates = ops.convert_to_numpy(rate(places)) if callable(rate) else rate + 0 * places
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(places / steps, rates)
    until = ", until a plateau" if recipe.schedule == "plateau" else ""
    axes.set(title=f"{recipe.name}{until}", xlabel="epoch", ylabel="learning rate")
    axes.grid(alpha=0.3)
    return png(figure)


def curves(
    title: str, history: Sequence[dict[str, Any]], task: str = "classify"
) -> bytes:
    """Returns a PNG of loss, the task's measure and learning rate over the epochs.

    Args:
        title: the title of the figure.
        history: a row of metrics for each epoch.
        task: a key of TASKS.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 4), layout="constrained")
    kind = TASKS[task]
    unit = "loss" if task == "detect" else "loss, nats"
    panels = {"loss": unit, kind.measure: kind.label, "rate": "learning rate"}
    for place, (key, label) in enumerate(panels.items(), start=1):
        axes = figure.add_subplot(1, len(panels), place)
        for split, prefix in (("training", ""), ("validation", "val_")):
            rows = [row for row in history if prefix + key in row]
            epochs = [row["epoch"] for row in rows]
            if rows:
                axes.plot(epochs, [row[prefix + key] for row in rows], label=split)
        axes.set(title=label, xlabel="epoch")
        axes.grid(alpha=0.3)
        if key != "rate":
            axes.legend()
    figure.suptitle(title)
    return png(figure)
