"""Plots of the learning rate of a recipe, and of the history of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    keys = panels(task)
    for axes, key in zip(figure.subplots(1, len(keys)), keys):
        draw_panel(axes, key, {"": history}, task)
    figure.suptitle(title)
    return png(figure)


def panels(task: str) -> dict[str, str]:
    """{key of a history's rows: its label} of what `curves` shows of a task."""
    kind = TASKS[task]
    unit = "loss" if task == "detect" else "loss, nats"
    return {"loss": unit, kind.measure: kind.label, "rate": "learning rate"}


def draw_panel(
    axes: Any, key: str, histories: Mapping[str, Sequence[dict[str, Any]]], task: str
) -> None:
    """Draws one of `panels` over the epochs: training dashed where runs are compared.

    Args:
        axes: matplotlib axes.
        key: a key of `panels(task)`.
        histories: {name of a run: its rows}; of a single run the name is not shown.
        task: a key of TASKS.
    """
    several = len(histories) > 1
    for number, (name, history) in enumerate(histories.items()):
        for split, prefix in (("training", ""), ("validation", "val_")):
            rows = [row for row in history if prefix + key in row]
            style: dict[str, Any] = {"label": split}
            if several:
                style = {
                    "label": name if key == "rate" else f"{name}, {split}",
                    "color": f"C{number}",
                    "linestyle": "-" if prefix or key == "rate" else "--",
                }
            if rows:
                epochs = [row["epoch"] for row in rows]
                axes.plot(epochs, [row[prefix + key] for row in rows], **style)
    axes.set(title=panels(task)[key], xlabel="epoch")
    axes.grid(alpha=0.3)
    if axes.lines and (several or key != "rate"):
        axes.legend()
