"""Writes a report: gathers the facts of one run or two, and fills the page."""

from __future__ import annotations

import datetime
import os
import string
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import keras_resnet
from keras_resnet.data.sources import SourceLike
from keras_resnet.errors import RunError
from keras_resnet.files import write_whole
from keras_resnet.report.advice import advise
from keras_resnet.report.contents import Progress
from keras_resnet.report.facts import Facts, gather, read_recipe
from keras_resnet.report.markup import joined, text
from keras_resnet.report.sections import sections
from keras_resnet.runs import layout

PathLike = str | os.PathLike[str]
_PAGE = Path(__file__).with_name("page.html")
_PICTURES = 12  # of the mistakes, and of the doubts


def write(
    run: PathLike,
    data: SourceLike | None = None,
    out: PathLike | None = None,
    other: PathLike | None = None,
    pictures: int = _PICTURES,
    progress: Progress = iter,
) -> dict[str, Any]:
    """Writes a report of a run, or of two beside each other, as one HTML file.

    The file asks for nothing else: curves and images are in it. Each validation image
    is decoded and classified once, and the few that are shown once more; all files of
    the data, those of training too, are read to find duplicates.

    Args:
        run: the run directory.
        data: what `data.open_source` takes; None for the data that the run recorded.
            If that cannot be opened any more, or the run has no model yet, the report
            has the recipe, the curves and the measures that the run recorded, and says
            so. Of a detector or segmenter it has the measures and no images.
        out: the file to write; by default report.html in `run`, or comparison.html if
            there is another run.
        other: the directory of a run of the same task, to compare with.
        pictures: the number of mistakes, and that of uncertain answers, to show.
        progress: a function that wraps each iteration over the images, such as a
            progress bar.

    Returns:
        {"path": the file, "runs": [{"run", "data", "notes", "advice", "duplicates", and
        the single figures of `evaluate.run`, as far as they are known}, ...]};
        "duplicates" is the number of validation images that are training images too.

    Raises:
        RunError: a directory contains no run, the two are one or of different tasks,
            or the file cannot be written there.
        DataError, ModelError: `data` cannot be used with the model of a run.

    Examples:

    >>> keras_resnet.report.write("runs/photos", out="photos.html")
    """
    paths = [Path(it) for it in (run, other) if it is not None]
    default = layout.COMPARISON if other is not None else layout.REPORT
    file = Path(out) if out is not None else paths[0] / default
    if file.is_dir() or (out is not None and not file.parent.is_dir()):
        raise RunError(f"out={file}: must be a file in a directory that exists")
    tasks = [read_recipe(path).task for path in paths]
    if len({path.resolve() for path in paths}) < len(paths):
        raise RunError(f"{paths[1]}: is the first run itself; give another, or none")
    if len({*tasks}) > 1:
        raise RunError(
            f"{paths[1]}: is a run of task={tasks[1]!r}, {paths[0]} of {tasks[0]!r}; "
            "compare runs of one task"
        )
    facts = [gather(path, data, pictures, progress) for path in paths]
    write_whole(file, _page(facts))
    return {"path": str(file), "runs": [_figures(it) for it in facts]}


def _page(facts: Sequence[Facts]) -> str:
    names = [it.name for it in facts]
    if len({*names}) < len(names):
        names = [str(it.run) for it in facts]
    page = string.Template(_PAGE.read_text())
    return page.substitute(
        title=text(" and ".join(names)),
        facts=joined(*_head(names, facts)),
        content=joined(*sections(dict(zip(names, facts)))),
        version=text(keras_resnet.__version__),
        date=text(datetime.date.today()),
    )


def _head(names: Sequence[str], facts: Sequence[Facts]) -> Iterator[str]:
    """A line about each run."""
    for name, it in zip(names, facts):
        line = (
            f"{it.recipe.model} by the recipe {it.recipe.name}, {len(it.history)} of "
            f"{it.recipe.epochs} epochs, seed {it.recipe.seed}"
        )
        yield line if len(facts) == 1 else f"{name}: {line}. "


def _figures(facts: Facts) -> dict[str, Any]:
    single = {
        name: value
        for name, value in facts.metrics.items()
        if isinstance(value, int | float)
    }
    return {
        "run": str(facts.run),
        "data": facts.data,
        "notes": facts.notes,
        "advice": advise(facts),
        "duplicates": len(facts.contents.copies) if facts.contents else None,
        **single,
    }
