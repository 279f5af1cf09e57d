"""The command report: all about a run, or two, in one HTML file."""

from __future__ import annotations

from pathlib import Path

import click

from keras_resnet.cli.base import (
    complain,
    group,
    json_option,
    make_table,
    plain,
    print_result,
)
from keras_resnet.cli.evaluating import progress_bar
from keras_resnet.runs import layout


@group.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument(
    "more", nargs=-1, type=click.Path(path_type=Path), metavar="[RUN2] [DATA]"
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help=f"HTML file to write. [default: RUN/{layout.REPORT}, or with RUN2 "
    f"RUN/{layout.COMPARISON}]",
)
@click.option(
    "--pictures",
    type=click.IntRange(0),
    default=12,
    show_default=True,
    help="How many mistakes, and how many uncertain answers, to show.",
)
@json_option
def report(
    run: Path, more: tuple[Path, ...], out: Path | None, pictures: int, as_json: bool
) -> None:
    """Write a report of RUN as one HTML file that can be sent to anyone.

    It has the recipe, curves, measures, calibration, confusion, the most certain
    mistakes and least certain answers with heat maps, the accuracy by image size and
    file format, duplicates across the splits, and what to try next. With RUN2, another
    run directory, it compares the two.

    DATA is by default what RUN was trained on. If that is not there any more, or RUN
    has no model yet, the report has the recipe, the curves and the measures that RUN
    recorded, and says so. Of a detector, a segmenter or a model for several labels
    it shows no images.
    """
    from keras_resnet import report as reports
    from keras_resnet.evaluate.measures import labelled
    from keras_resnet.report.facts import is_run

    others = list(more)
    other = others.pop(0) if others and is_run(others[0]) else None
    if len(others) > 1:
        raise click.UsageError(
            f"{' '.join(map(str, others))}: give at most a second run directory, which "
            f"contains {layout.RECIPE}, and one DATA"
        )
    data = others[0] if others else None
    bar = progress_bar("looking at the images", as_json)
    result = reports.write(run, data, out, other, pictures, bar)
    runs = result["runs"]
    columns = [dict(labelled(it)) for it in runs]
    labels = dict.fromkeys(label for column in columns for label in column)
    rows = [[label, *(it.get(label, "-") for it in columns)] for label in labels]
    titles = [plain(it["run"]) for it in runs]
    table = make_table(None, "measure", *titles, rows=rows)
    print_result(
        result, as_json, *[table] * bool(rows), plain(f"the report is {result['path']}")
    )
    for it in runs:
        for note in it["notes"]:
            complain(f"{it['run']}: {note}")
