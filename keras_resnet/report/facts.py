"""What a report says of a run, read from its files and measured on its data."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from keras_resnet import evaluate
from keras_resnet.data import Source, without_bad
from keras_resnet.data.sources import SourceLike
from keras_resnet.errors import DataError, RunError
from keras_resnet.opening import open_model
from keras_resnet.recipe import Recipe
from keras_resnet.report.contents import Contents, Progress, survey
from keras_resnet.report.gallery import Shown, show
from keras_resnet.runs import layout


@dataclass(frozen=True)
class Answers:
    """What a classifier says of the validation images, in their order.

    Attributes:
        truth: the true classes, int64 [N].
        predicted: the likeliest classes, int64 [N].
        confidence: the probabilities of these, [N].
    """

    truth: np.ndarray
    predicted: np.ndarray
    confidence: np.ndarray

    @property
    def right(self) -> np.ndarray:
        """Whether each answer is right, bool [N]."""
        return self.truth == self.predicted


@dataclass(frozen=True)
class Facts:
    """All that a report says of a run.

    Attributes:
        run: the run directory.
        recipe: its recipe.
        history: a row of metrics for each epoch.
        data: where the images are, as a reader would name it.
        fingerprint: of the data that was measured; "" if none was.
        notes: what a reader has to know of the figures, a sentence each.
        metrics: what `evaluate.run` returned, or the run recorded; {} without either.
        answers: of a classifier that was measured.
        contents: of the data on which it was.
        mistakes: the mistakes of the greatest confidence.
        doubts: the answers of the least confidence.
    """

    run: Path
    recipe: Recipe
    history: list[dict[str, Any]]
    data: str
    fingerprint: str
    notes: list[str]
    metrics: dict[str, Any]
    answers: Answers | None = None
    contents: Contents | None = None
    mistakes: Sequence[Shown] = ()
    doubts: Sequence[Shown] = ()

    @property
    def name(self) -> str:
        """The last part of the run directory's path."""
        return self.run.resolve().name


class Slice(NamedTuple):
    """A part of the validation images."""

    name: str
    right: int  # how many are recognized
    total: int

    @property
    def top1(self) -> float:
        """The share of them that is recognized, in [0, 1]."""
        return self.right / self.total


def is_run(path: str | os.PathLike[str]) -> bool:
    """Whether a path is a run directory."""
    return Path(path, layout.RECIPE).is_file()


def read_recipe(run: str | os.PathLike[str]) -> Recipe:
    """The recipe of a run; a RunError if the directory contains none."""
    if not is_run(run):
        raise RunError(
            f"{run}: contains no {layout.RECIPE}; give the directory of a run"
        )
    return Recipe.read(Path(run, layout.RECIPE))


def gather(
    run: str | os.PathLike[str],
    data: SourceLike | None,
    pictures: int,
    progress: Progress,
) -> Facts:
    """Reads a run, and measures its model on the validation images of its data.

    Args:
        run: the run directory.
        data: what `data.open_source` takes; None for the data that the run recorded.
            If that cannot be opened, or there is no model yet, the facts are those of
            the run's files alone, and a note says so.
        pictures: how many mistakes and doubts to show; 0 computes no heat maps.
        progress: wraps each iteration over the images.

    Raises:
        RunError: there is no run, or a file of it cannot be read.
        DataError, ModelError: `data` cannot be used with the model of the run.
    """
    run, recipe = Path(run), read_recipe(run)
    history = _read(run / layout.HISTORY, [])
    recorded = _read(run / layout.DATA, {})
    source, problem = _opened(run, recipe, data)
    if source is None:
        metrics, at = _read(run / layout.METRICS, {}), str(recorded.get("path"))
        return Facts(run, recipe, history, at, "", [problem], metrics)
    notes = []
    if recorded.get("data_hash") not in (None, source.fingerprint):
        notes.append(
            f"{source.path} is not the data of this run as it was trained: the "
            "measures are of other images or labels."
        )
    return _measured(run, recipe, history, source, notes, pictures, progress)


def _read(file: Path, otherwise: Any) -> Any:
    """The value of a JSON file of a run; without the file another of its type."""
    return layout.read_json(file, type(otherwise)) if file.is_file() else otherwise


def _opened(
    run: Path, recipe: Recipe, data: SourceLike | None
) -> tuple[Source | None, str]:
    """The Source to measure on; or None, and why a run is not measured."""
    if data is not None:
        return without_bad(data, recipe.max_bad_examples, task=recipe.task)[0], ""
    rest = (
        f"The measures are those in {layout.METRICS}, if the run has it; there are no "
        "images, calibration curve, slices and duplicates."
    )
    if not (run / layout.MODEL).is_file():
        return None, f"This run has no {layout.MODEL} yet. {rest}"
    path = _read(run / layout.DATA, {}).get("path")
    try:
        if path is None:
            raise DataError(f"{run / layout.DATA} does not name it")
        return without_bad(path, recipe.max_bad_examples, task=recipe.task)[0], ""
    except DataError as error:
        return None, (
            f"The data of this run cannot be opened here ({error}). {rest} Give DATA "
            "for all of it."
        )


def _measured(
    run: Path,
    recipe: Recipe,
    history: list[dict[str, Any]],
    source: Source,
    notes: list[str],
    pictures: int,
    progress: Progress,
) -> Facts:
    model = open_model(run)
    rows: list[tuple[np.ndarray, ...]] = []

    def observe(probabilities: np.ndarray, truth: np.ndarray) -> None:
        rows.append((truth, probabilities.argmax(1), probabilities.max(1)))

    metrics = evaluate.run(model, source, progress=progress, observe=observe)
    facts = Facts(run, recipe, history, source.path, source.fingerprint, notes, metrics)
    if recipe.task != "classify" or source.several_labels:
        return facts
    answers = Answers(*map(np.concatenate, zip(*rows)))
    mistakes = _first(np.where(answers.right, 2, -answers.confidence), pictures)
    mistakes = mistakes[~answers.right[mistakes]]
    doubts = _first(answers.confidence, pictures)
    shown, problem = show(model, source, answers, {*mistakes, *doubts})
    return dataclasses.replace(
        facts,
        notes=[*notes, *filter(None, [problem])],
        answers=answers,
        contents=survey(source, progress),
        mistakes=[shown[it] for it in mistakes],
        doubts=[shown[it] for it in doubts],
    )


def _first(scores: np.ndarray, count: int) -> np.ndarray:
    """The numbers of the `count` lowest scores, the lowest first."""
    return np.argsort(scores, kind="stable")[:count]


def slices(facts: Facts) -> list[Slice]:
    """The validation images by their short side, in doublings, and by file format."""
    if facts.answers is None or facts.contents is None:
        return []
    right, sides = facts.answers.right, facts.contents.short_sides
    lows = 2 ** (np.frexp(sides)[1] - 1)  # powers of two
    formats = np.array(facts.contents.formats)
    parts = [
        (f"short side of {low} to {2 * low - 1} pixels", lows == low)
        for low in np.unique(lows)
    ]
    parts += [(f"{it} files", formats == it) for it in np.unique(formats) if it]
    return [
        Slice(name, int(right[chosen].sum()), int(chosen.sum()))
        for name, chosen in parts
    ]


def interval(right: int, total: int) -> tuple[float, float]:
    """Wilson's 95 % confidence interval of an accuracy, in [0, 1]."""
    z = 1.959964
    share, extra = right / total, z * z / total
    middle = (share + extra / 2) / (1 + extra)
    half = z * np.sqrt(share * (1 - share) / total + extra / (4 * total)) / (1 + extra)
    return float(max(middle - half, 0)), float(min(middle + half, 1))
