"""Finds a learning rate for a recipe: a range test, its suggestion and its plot."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_resnet import data as pictures
from keras_resnet.drawing import png
from keras_resnet.errors import RecipeError, RunError
from keras_resnet.recipe import Recipe
from keras_resnet.train.build import build
from keras_resnet.train.objective import class_weights
from keras_resnet.train.training import explained_memory_errors

SMOOTHING = 0.9  # of the loss: an average of about ten steps
DIVERGED = 4.0  # times the best smoothed loss, at which the test ends
FEWEST = 10  # steps of a test
_SPAN = 10  # steps over which the slope of the smoothed loss is taken


def find_rate(
    recipe: Recipe,
    data: Any,
    least: float = 1e-6,
    most: float = 10.0,
    steps: int = 100,
    progress: Callable[[Iterable], Iterable] = iter,
) -> dict[str, Any]:
    """Trains a few steps at a rising learning rate, and suggests one to train with.

    A learning rate range test (arXiv 1506.01186): the recipe's model is trained for
    `steps` batches, with the recipe's own optimizer, loss and augmentation, while the
    rate rises by the same factor in each step. The recipe's schedule is not used. The
    test ends early if the smoothed loss exceeds 4 times its best, or is not finite. It
    runs on one device, and writes no file. The same call gives the same result.

    Args:
        recipe: a Recipe; `stage_rates` multiply the rate, as they do in training.
        data: what `data.open_source` takes for the recipe's `task`, with the split
            "train".
        least: the learning rate of the first step, above 0.
        most: the learning rate of the last step, above `least`.
        steps: the number of batches, 10 or more. Each is one update of the weights,
            also if the recipe sets `accumulate`.
        progress: a function that wraps the iteration over the batches, such as a
            progress bar.

    Returns:
        {"rates": the rate of each step, "losses": the loss of each batch, "smoothed":
        as `smooth` returns, "suggested": as `suggest` returns, "base_rate": the field
        of a recipe that gives this rate at the recipe's batch_size}. The last two are
        None if the loss did not fall.

    Raises:
        RecipeError: `least`, `most` or `steps` is out of range, or the recipe does not
            fit the data.
        DataError: the data cannot be used, or has fewer images than a batch.
        ModelError, WeightsError: the recipe's teacher or weights cannot be used.
        RunError: the loss was not finite from the start, or memory ran out.

    Examples:

    >>> found = find_rate(RECIPES["fine-tune"], "photos")
    >>> recipe = RECIPES["fine-tune"].replace(base_rate=found["base_rate"])
    """
    rates = _rising(least, most, steps)
    # a plateau schedule keeps the rate in a variable, which each step can set
    flat = recipe.replace(schedule="plateau", warmup_epochs=0.0, validate_every=1)
    source, _ = pictures.without_bad(
        data, recipe.max_bad_examples, ("train",), recipe.task
    )
    per_epoch = pictures.steps_per_epoch(source, recipe)
    losses: list[float] = []
    with explained_memory_errors(recipe), pictures.blame_pictures(source, ("train",)):
        weights = class_weights(recipe, source)
        model = build(
            flat,
            source.class_names,
            per_epoch,
            class_weights=weights,
            several_labels=source.several_labels,
        ).model
        batches = pictures.train_batches(source, recipe).take(steps)
        for rate, batch in zip(rates, progress(batches.as_numpy_iterator())):
            model.optimizer.learning_rate = rate
            parts = [
                model.train_on_batch(*part, return_dict=True)["loss"]
                for part in _parts(batch, recipe)
            ]
            loss = np.mean(parts)
            if not math.isfinite(loss):
                break
            losses.append(float(loss))
            smoothed = smooth(losses)
            if smoothed[-1] > DIVERGED * min(smoothed):
                break
    if not losses:
        raise RunError(
            f"{recipe.name}: the loss is not finite at a rate of {least:g}; try "
            "precision='float32' or a smaller `least`"
        )
    rates, smoothed = rates[: len(losses)], smooth(losses)
    suggested = suggest(rates, smoothed)
    return {
        "rates": rates,
        "losses": losses,
        "smoothed": smoothed,
        "suggested": suggested,
        "base_rate": suggested and suggested * 256 / recipe.batch_size,
    }


def _rising(least: float, most: float, steps: int) -> list[float]:
    """The rates of all steps, from `least` to `most` by equal factors."""
    if not 0 < least < most < math.inf:
        raise RecipeError(
            f"least={least:g}, most={most:g}: must be learning rates above 0, the "
            "first below the second"
        )
    if steps < FEWEST:
        raise RecipeError(f"steps={steps}: must be {FEWEST} or more")
    return np.geomspace(least, most, steps).tolist()


def _parts(batch: Any, recipe: Recipe) -> Iterator[Any]:
    """The parts of a batch, whose gradients the optimizer accumulates."""
    size = recipe.batch_size // recipe.accumulate
    for first in range(0, recipe.batch_size, size):
        places = slice(first, first + size)
        yield tf.nest.map_structure(lambda x, places=places: x[places], batch)


def smooth(losses: Sequence[float]) -> list[float]:
    """The exponential moving average of the losses so far, corrected for its bias."""
    smoothed, average = [], 0.0
    for step, loss in enumerate(losses, start=1):
        average = SMOOTHING * average + (1 - SMOOTHING) * loss
        smoothed.append(average / (1 - SMOOTHING**step))
    return smoothed


def suggest(rates: Sequence[float], smoothed: Sequence[float]) -> float | None:
    """The rate at which the smoothed loss falls most steeply, before its minimum.

    The slope is taken over ten steps, the length of the smoothing, and the suggestion
    is the rate in their middle: between two steps, noise would decide. The first ten
    steps are left out if there are others, as their averages are of a few batches. The
    usual alternative is a tenth of the rate at the minimum, which depends on when the
    loss diverges, and not on where it falls. The average follows the loss by up to ten
    steps, so that a test of few steps suggests too high a rate.

    Args:
        rates: the learning rate of each step, rising by equal factors.
        smoothed: the smoothed loss of each step.

    Returns:
        One of `rates`, or None if the loss is lowest at the first step.
    """
    lowest = int(np.argmin(smoothed))
    if lowest == 0:
        return None
    span = min(_SPAN, lowest)
    first = min(_SPAN, lowest - span)
    falls = [
        smoothed[step] - smoothed[step + span]
        for step in range(first, lowest - span + 1)
    ]
    return rates[first + int(np.argmax(falls)) + span // 2]


def rate_range_plot(result: Mapping[str, Any]) -> bytes:
    """Returns a PNG of the loss over the learning rate, with the suggestion marked.

    Args:
        result: what `find_rate` returns.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogFormatter

    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.add_subplot()
    rates, smoothed = result["rates"], result["smoothed"]
    axes.plot(rates, result["losses"], ".", alpha=0.3, label="batches")
    axes.plot(rates, smoothed, label="smoothed")
    if (suggested := result["suggested"]) is not None:
        label = f"suggested rate {suggested:.2g}"
        axes.axvline(suggested, color="tab:red", linestyle="--", label=label)
    axes.set(xscale="log", xlabel="learning rate", ylabel="loss")
    # `png` draws no formulas, which the usual labels of a logarithmic axis are
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(LogFormatter())
    # what it diverges to would flatten the rest
    axes.set(ylim=(0, 1.5 * smoothed[0] or 1.0))
    axes.grid(alpha=0.3)
    axes.legend()
    return png(figure)
