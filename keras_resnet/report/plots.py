"""The curves of a report, as SVG."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from keras_resnet.drawing import svg
from keras_resnet.evaluate.measures import BINS, bins_of
from keras_resnet.report.facts import Answers, Facts
from keras_resnet.train.curves import draw_panel, panels

_SIZE = (4.4, 3.1)  # inches


def history_plots(runs: Mapping[str, Facts]) -> list[str]:
    """The loss, the task's measure and the learning rate over the epochs."""
    from matplotlib.figure import Figure

    task = next(iter(runs.values())).recipe.task
    histories = {name: facts.history for name, facts in runs.items()}
    drawn = []
    for key in panels(task):
        figure = Figure(figsize=_SIZE, layout="constrained")
        draw_panel(figure.add_subplot(), key, histories, task)
        drawn.append(svg(figure))
    return drawn


def calibration_plot(runs: Mapping[str, Answers]) -> str:
    """The accuracy in each bin of confidence, and the share of the images in it.

    The bins are those of the calibration error (arXiv 1706.04599 figure 1).
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2, 4.6), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    upper.plot([0, 1], [0, 1], color="0.5", linestyle=":", label="as sure as right")
    for name, answers in runs.items():
        confidence, accuracy, shares = reliability(answers)
        upper.plot(confidence, accuracy, marker="o", markersize=4, label=name)
        lower.stairs(shares, np.linspace(0, 1, BINS + 1), label=name)
    upper.set(ylabel="accuracy", xlim=(0, 1), ylim=(0, 1.02))
    lower.set(xlabel="confidence", ylabel="images", ylim=(0, 1))
    lower.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    for axes in (upper, lower):
        axes.grid(alpha=0.3)
    upper.legend()
    return svg(figure)


def reliability(answers: Answers) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(mean confidence, accuracy, share of the images) of each bin of confidence.

    The first two leave out empty bins.
    """
    bins = bins_of(answers.confidence)
    counts = np.bincount(bins, minlength=BINS)
    full = counts > 0
    sums = (
        np.bincount(bins, weights, BINS)[full] / counts[full]
        for weights in (answers.confidence, answers.right)
    )
    confidence, accuracy = sums
    return confidence, accuracy, counts / counts.sum()
