"""Parts of a report that look closer: confusion, images, classes, slices, recipe."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from keras_resnet.recipe import FIELD_TYPES, Recipe
from keras_resnet.report.facts import Facts, interval, slices
from keras_resnet.report.gallery import Shown
from keras_resnet.report.markup import Markup, element, fold, section, table

_MATRIX = 30  # classes whose confusion matrix can be read
_PAIRS = 10  # confused pairs that are listed beside it; without it twice as many
_CLASSES = 15  # rows of a table, beyond which it is in a fold
_COPIES = 20  # duplicates that are listed

Runs = Mapping[str, Facts]  # {name in the report: facts}


def confusion(metrics: Mapping[str, Any]) -> Markup:
    """The confusion matrix, if it can be read, and the pairs most often confused."""
    pairs = metrics.get("confused")
    if pairs is None:
        return Markup()
    counts, names = metrics.get("confusion", []), list(metrics["per_class"])
    matrix = [_matrix(counts, names)] if 0 < len(counts) <= _MATRIX else []
    rows = [
        (it["true"], it["predicted"], it["count"], f"{it['share']:.1%}")
        for it in pairs[: _PAIRS if matrix else 2 * _PAIRS]
    ]
    columns = ("true class", "predicted", "images", "share")
    worst = table(columns, rows) if rows else element("p", "There is no mistake.")
    caption = (
        "Rows of the matrix are true classes, columns predicted ones, in numbers of "
        "images. A share is of the images of the true class."
    )
    return section(
        "Confusion",
        element("p", caption, class_="faint"),
        element("div", *matrix, worst, class_="beside"),
    )


def _matrix(counts: Sequence[Sequence[int]], names: Sequence[str]) -> Markup:
    """A heat map: rows of true classes, whose colour is the share of the row."""
    head = [element("th", element("span", it), scope="col") for it in names]
    lines = []
    for true, row in enumerate(counts):
        cells = [
            element(
                "td",
                count or "",
                class_="right" if predicted == true else "wrong",
                # the root, as a few percent of mistakes would be invisible
                style=f"--share: {math.sqrt(count / max(sum(row), 1)):.3f}",
                title=f"{names[true]} taken for {names[predicted]}: {count}",
            )
            for predicted, count in enumerate(row)
        ]
        lines.append(element("tr", element("th", names[true], scope="row"), *cells))
    grid = element(
        "table", element("tr", element("td"), *head), *lines, class_="matrix"
    )
    return element("div", grid, class_="wide")


def pictures(title: str, why: str, shown: Sequence[Shown]) -> Markup:
    """Images with their heat maps and answers."""
    if not shown:
        return Markup()
    if any(it.heat for it in shown):
        why += " Beside each is where the model looked, by Grad-CAM."
    cards = []
    for it in shown:
        right = it.truth == it.predicted
        images = [
            Markup(f'<img src="{uri}" alt="">') for uri in (it.picture, it.heat) if uri
        ]
        answer = f"{it.predicted} {it.confidence:.0%}"
        cards.append(
            element(
                "figure",
                element("div", *images, class_="pair"),
                element(
                    "figcaption",
                    element("b", answer, class_="good" if right else "bad"),
                    "" if right else f" is {it.truth}",
                    element("small", it.where, title=it.where),
                ),
            )
        )
    return section(
        title,
        element("p", why, class_="faint"),
        element("div", *cards, class_="gallery"),
    )


def classes(runs: Runs) -> Markup:
    """The figures of each class; of two runs their recalls."""
    measured = {n: f for n, f in runs.items() if "per_class" in f.metrics}
    if not measured:
        return Markup()
    if len(measured) == 1:
        columns, rows = _class_rows(next(iter(measured.values())))
    else:
        recalls = [facts.metrics["per_class"] for facts in measured.values()]
        names = list(dict.fromkeys(name for it in recalls for name in it))
        columns = ["class", *(f"recall, {name}" for name in measured)]
        rows = [[name, *(_share(it.get(name)) for it in recalls)] for name in names]
    return section("Classes", *_folded(columns, rows, "classes"))


def _class_rows(facts: Facts) -> tuple[list[str], list[list[object]]]:
    """The figures of each class of one run, that of the lowest recall first."""
    recall, precision = (facts.metrics.get(it, {}) for it in ("per_class", "precision"))
    counts = facts.contents.train_counts if facts.contents else None
    columns = ["class", "recall" if precision else "measure"]
    columns += ["precision"] * bool(precision)
    columns += ["training images"] * (counts is not None)
    rows: list[tuple[float, list[object]]] = []
    for place, (name, value) in enumerate(recall.items()):
        row: list[object] = [name, _share(value)]
        if precision:
            row.append(_share(precision[name]))
        if counts is not None:
            row.append(f"{counts[place]:,}")
        rows.append((2.0 if value is None else value, row))
    return columns, [row for _, row in sorted(rows, key=lambda it: it[0])]


def _folded(
    columns: Sequence[str], rows: Sequence[Sequence[object]], what: str
) -> Iterator[Markup]:
    """A table, of which only the first rows are shown if it has many."""
    yield table(columns, rows[:_CLASSES])
    if len(rows) > _CLASSES:
        yield fold(f"All {len(rows)} {what}", table(columns, rows))


def slice_accuracy(runs: Runs) -> Markup:
    """Top-1 by the size and format of the images."""
    found = {name: slices(facts) for name, facts in runs.items()}
    if not any(found.values()):
        return Markup()
    if len(runs) == 1:
        columns = ["slice", "images", "top-1", "95% interval"]
        rows: list[list[object]] = [
            [name, f"{total:,}", f"{right / total:.1%}", as_interval(right, total)]
            for name, right, total in next(iter(found.values()))
        ]
    else:
        columns = ["slice", *(f"top-1, {name}" for name in runs)]
        cells = [
            {it.name: f"{it.top1:.1%} of {it.total:,}" for it in parts}
            for parts in found.values()
        ]
        names = dict.fromkeys(name for it in cells for name in it)
        rows = [[name, *(it.get(name) for it in cells)] for name in names]
    return section("Slices of the images", table(columns, rows))


def as_interval(right: int, total: int) -> str:
    """The confidence interval of an accuracy as text."""
    low, high = interval(right, total)
    return f"{low:.1%} to {high:.1%}"


def duplicates(facts: Facts) -> Markup:
    """The validation images that are training images too."""
    if facts.contents is None or facts.contents.train_counts is None:
        return Markup()
    copies, title = facts.contents.copies, "Duplicates across the splits"
    if not copies:
        line = "No validation image has the very bytes of a training image."
        return section(title, element("p", line))
    listed = table(
        ["validation image", "training image", "same class"],
        [(a, b, "yes" if same else "no") for a, b, same in copies[:_COPIES]],
    )
    count = len(copies)
    first = f", of which the first {_COPIES} are listed" if count > _COPIES else ""
    line = f"Validation images with the very bytes of a training image: {count}{first}."
    return section(title, element("p", line), listed)


def recipe_fields(runs: Runs) -> Markup:
    """The recipe: what differs from the defaults or between the runs, and all of it."""
    recipes = [facts.recipe for facts in runs.values()]
    default, every = Recipe().to_dict(), [recipe.to_dict() for recipe in recipes]
    columns = ["field", *(runs if len(runs) > 1 else ["value", "default"])]

    def rows(names: Iterable[str]) -> list[list[object]]:
        compared = every if len(runs) > 1 else [*every, default]
        return [[name, *(_value(it[name]) for it in compared)] for name in names]

    if len(runs) > 1:
        chosen = [it for it in FIELD_TYPES if len({str(r[it]) for r in every}) > 1]
        what = "The fields that differ:" if chosen else "Both have the same recipe."
    else:
        chosen = [it for it in FIELD_TYPES if every[0][it] != default[it]]
        what = "The fields that differ from the defaults:"
    return section(
        "Recipe",
        element("p", what, class_="faint"),
        *[table(columns, rows(chosen))] * bool(chosen),
        fold(f"All {len(FIELD_TYPES)} fields", table(columns, rows(FIELD_TYPES))),
    )


def _value(value: Any) -> str | None:
    """A field's value as text, with rounded numbers; None if it is empty."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {_value(it)}" for key, it in value.items()) or None
    if isinstance(value, list):
        return ", ".join(str(_value(it)) for it in value) or None
    return f"{value:.4g}" if isinstance(value, float) else str(value) or None


def _share(value: float | None) -> str | None:
    return None if value is None else f"{value:.1%}"
