"""The parts of a report, in their order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from keras_resnet.evaluate.measures import labelled
from keras_resnet.report import details
from keras_resnet.report.advice import advise
from keras_resnet.report.details import Runs
from keras_resnet.report.markup import (
    Markup,
    element,
    joined,
    section,
    table,
    with_code,
)
from keras_resnet.report.plots import calibration_plot, history_plots

_OF_CALIBRATION = (
    "Each point is a bin of confidence, with the share of the images in it below. "
    "Under the diagonal the model is surer than it is right, above it less sure. The "
    "calibration error is the mean distance from the diagonal, weighted by the images."
)


def sections(runs: Runs) -> Iterator[Markup]:
    """All parts of a report of one run, or of two beside each other."""
    yield _notes(runs)
    yield _measures(runs)
    yield _advice(runs)
    yield _curves(runs)
    yield _calibration(runs)
    yield _disagreement(runs)
    for facts in runs.values() if len(runs) == 1 else ():
        yield details.confusion(facts.metrics)
        yield details.pictures(
            "The most certain mistakes",
            "Their labels may be wrong, or the images of another kind.",
            facts.mistakes,
        )
        yield details.pictures(
            "The least certain answers",
            "Images like these are worth most as further training images.",
            facts.doubts,
        )
    yield details.classes(runs)
    yield details.slice_accuracy(runs)
    for facts in runs.values() if len(runs) == 1 else ():
        yield details.duplicates(facts)
    yield details.recipe_fields(runs)


def _notes(runs: Runs) -> Markup:
    several = len(runs) > 1
    lines = [
        element("p", f"{name}: {note}" if several else note, class_="note")
        for name, facts in runs.items()
        for note in facts.notes
    ]
    return joined(*lines)


def _measures(runs: Runs) -> Markup:
    found = {name: dict(labelled(facts.metrics)) for name, facts in runs.items()}
    labels = list(dict.fromkeys(label for it in found.values() for label in it))
    if not labels:
        return Markup()
    examples = [facts.metrics.get("examples") for facts in runs.values()]
    if len(runs) == 1:
        (values,) = found.values()
        tiles = [
            element("div", element("dt", label), element("dd", values[label]))
            for label in labels
        ]
        body = element("dl", *tiles, class_="tiles")
    else:
        rows = [[label, *(it.get(label) for it in found.values())] for label in labels]
        body = table(["", *runs], [*rows, ["images", *examples]])
    return section("Measures", body, *_on_what(runs, examples))


def _on_what(runs: Runs, examples: Sequence[int | None]) -> Iterator[Markup]:
    for (name, facts), count in zip(runs.items(), examples):
        if count is None:
            continue
        whose = f"{name}: measured" if len(runs) > 1 else "Measured"
        line = f"{whose} on the {count:,} validation images of {facts.data}."
        if left_out := facts.metrics.get("bad_examples"):
            line += f" {len(left_out)} that cannot be decoded are left out."
        if "top1" in facts.metrics:
            right = round(facts.metrics["top1"] * count)
            line += (
                f" The 95% interval of top-1 is {details.as_interval(right, count)}."
            )
        yield element("p", line, class_="faint")


def _advice(runs: Runs) -> Markup:
    whose: dict[str, list[str]] = {}
    for name, facts in runs.items():
        for sentence in advise(facts):
            whose.setdefault(sentence, []).append(name)
    if not whose:
        return Markup()
    lines = [
        joined(f"{', '.join(names)}: " if len(runs) > 1 else "", with_code(sentence))
        for sentence, names in whose.items()
    ]
    return section(
        "What to try next", element("ul", *(element("li", i) for i in lines))
    )


def _curves(runs: Runs) -> Markup:
    if not any(facts.history for facts in runs.values()):
        return Markup()
    plots = [element("figure", Markup(plot)) for plot in history_plots(runs)]
    return section("Curves", element("div", *plots, class_="plots"))


def _calibration(runs: Runs) -> Markup:
    answers = {n: facts.answers for n, facts in runs.items() if facts.answers}
    if not answers:
        return Markup()
    rows = [
        [
            *[name] * (len(runs) > 1),
            f"{it.confidence.mean():.2%}",
            f"{it.right.mean():.2%}",
            f"{runs[name].metrics['calibration_error']:.2%}",
        ]
        for name, it in answers.items()
    ]
    columns = ["mean confidence", "accuracy", "calibration error"]
    if len(runs) == 1:
        answers = {"this model": next(iter(answers.values()))}
    return section(
        "Calibration",
        element(
            "div",
            element("figure", Markup(calibration_plot(answers))),
            element(
                "div",
                table([*["run"] * (len(runs) > 1), *columns], rows),
                element("p", _OF_CALIBRATION, class_="faint"),
            ),
            class_="beside",
        ),
    )


def _disagreement(runs: Runs) -> Markup:
    """Which images one of two runs alone recognizes, if both have the same."""
    if len(runs) != 2:
        return Markup()
    (one, first), (other, second) = runs.items()
    same = first.fingerprint == second.fingerprint
    if not same or first.answers is None or second.answers is None:
        return Markup()
    a, b = first.answers.right, second.answers.right
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    rows = [
        ("both", int((a & b).sum())),
        (f"{one} alone", only_a),
        (f"{other} alone", only_b),
        ("neither", int((~a & ~b).sum())),
    ]
    line = (
        f"If both were equally good, a difference of this size or more would have a "
        f"probability of {sign_test(only_a, only_b):.2g} (McNemar's exact test)."
    )
    return section(
        "Which images they recognize",
        table(["recognized by", "images"], rows),
        element("p", line, class_="faint"),
    )


def sign_test(wins: int, losses: int) -> float:
    """The two-sided p-value of McNemar's exact test, from the pairs that differ."""
    total = wins + losses
    ways, tail = 1, 0  # of k of them by chance, and of so few
    for k in range(min(wins, losses) + 1):
        tail += ways
        ways = ways * (total - k) // (k + 1)
    return min(1.0, 2 * tail / 2**total)
