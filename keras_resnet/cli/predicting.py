"""The command predict: classes, boxes or masks of pictures."""

from __future__ import annotations

import csv
import itertools
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click
from rich.progress import track

from keras_resnet.cli.base import (
    calibrated_option,
    complain,
    err,
    group,
    json_option,
    make_table,
    out,
    plain,
    print_result,
    printable,
    scaled_decode_option,
    with_scaled_decode,
)
from keras_resnet.files import write_whole
from keras_resnet.runs import layout

_TABLE = 1000  # predictions in one printed table

Result = dict[str, Any]  # what `evaluate.predict_each` yields


@group.command()
@click.argument("model")
@click.argument("picture", nargs=-1, required=True)
@click.option(
    "--top", type=click.IntRange(1), default=5, help="Number of classes to show."
)
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV, one line per class.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Write Parquet files to this folder instead, a row for each image; repeat the "
    "command to resume. Needs pip install keras-resnet-d[ray]. Of a detector or "
    "segmenter: pictures with boxes or masks drawn on them, the masks, and "
    "predictions.json.",
)
@click.option(
    "--threshold",
    type=click.FloatRange(0, 1),
    help="Least probability of a class, by default 0; of a detector, least confidence "
    "of a box, by default 0.5.",
)
@click.option("--ten-crop", is_flag=True, help="Average ten crops of each image.")
@calibrated_option
@scaled_decode_option
@click.option(
    "--features", is_flag=True, help="With --out: write features, not classes."
)
@click.option(
    "--ray",
    metavar="[ADDRESS]",
    is_flag=False,
    flag_value="local",
    help="With --out: compute on a Ray cluster, such as auto; without an address, with "
    "Ray on this machine.",
)
@json_option
def predict(
    model: str,
    picture: tuple[str, ...],
    top: int,
    as_csv: bool,
    out: Path | None,
    threshold: float | None,
    ten_crop: bool,
    calibrated: bool,
    scaled_decode: bool,
    features: bool,
    ray: str | None,
    as_json: bool,
) -> None:
    """Classify images, or all images in folders, with MODEL.

    A detector finds boxes, and --json prints COCO's results; a segmenter finds the
    class of each pixel. MODEL is a run directory, a .keras file, variant:weights, or
    what `export` wrote: its folder, a version in it, or a file. A file that cannot be
    read gets a row that says why, and makes the exit code 1.
    """
    if as_csv and as_json:
        raise click.UsageError("--csv with --json: give only one of them")
    if out and as_csv:
        raise click.UsageError("--csv with --out: give only one of them")
    from keras_resnet.export import open_any, task_of

    model = str(layout.calibrated(model)) if calibrated else model
    if (task := task_of(model)) != "classify":
        if as_csv or features or ten_crop or ray is not None:
            raise click.UsageError(
                f"--csv, --features, --ten-crop, --ray: of a classifier alone; {model} "
                f"is for task={task!r}"
            )
        least = 0.5 if threshold is None else threshold
        net = with_scaled_decode(open_any(model), scaled_decode)
        return _find(net, picture, out, least, as_json)
    if out:
        if ten_crop or threshold is not None or scaled_decode:
            raise click.UsageError(
                "--ten-crop, --threshold, --scaled-decode: not with --out, whose "
                "tables have the --top classes of one exact crop"
            )
        return _predict_to_tables(model, picture, out, top, features, ray, as_json)
    if features or ray is not None:
        name = "--features" if features else "--ray"
        raise click.UsageError(f"{name}: needs --out, the folder of Parquet files")
    from keras_resnet import evaluate as evaluation

    count, bad = 0, 0

    def counted(results: Iterable[Result]) -> Iterator[Result]:
        nonlocal count, bad
        for result in results:
            count, bad = count + 1, bad + ("problem" in result)
            yield result

    if scaled_decode and ten_crop:
        raise click.UsageError("--scaled-decode with --ten-crop: give only one of them")
    show = _print_csv if as_csv else _print_json if as_json else _print_predictions
    net = with_scaled_decode(open_any(model), scaled_decode)
    views = "ten-crop" if ten_crop else "center"
    results = evaluation.predict_each(
        net, picture, top, views=views, threshold=threshold or 0.0
    )
    show(counted(results))
    if bad:
        complain(f"{bad} of {count} files cannot be classified; their rows say why")
        raise click.exceptions.Exit(1)


def _find(
    model: Any,
    pictures: tuple[str, ...],
    folder: Path | None,
    threshold: float,
    as_json: bool,
) -> None:
    """Prints or writes the boxes or masks of pictures."""
    from keras_resnet import evaluate as evaluation

    rows: list[dict[str, Any]] = []
    count = 0
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
    for count, (path, found) in enumerate(
        evaluation.find_each(model, pictures), start=1
    ):
        found = evaluation.confident(found, threshold)
        some = evaluation.as_rows(model, path, found, count)
        if folder and not isinstance(found, str):
            evaluation.write_marked(model, path, found, folder, count)
        rows += some
    if folder:
        write_whole(folder / "predictions.json", json.dumps(rows, indent=1))
    table = make_table(None, "image", "found", rows=map(_found_row, rows))
    where = [plain(f"pictures and predictions.json are in {folder}")] * bool(folder)
    print_result(rows, as_json, table, *where)
    bad = sum("problem" in row for row in rows)
    if bad:
        complain(f"{bad} of {count} files cannot be read; their rows say why")
        raise click.exceptions.Exit(1)


def _found_row(row: Mapping[str, Any]) -> tuple[str, str]:
    if "problem" in row:
        return row["file_name"], row["problem"]
    if "classes" in row:
        shares = row["classes"].items()
        return row["file_name"], ", ".join(f"{it} {share:.1%}" for it, share in shares)
    left, top, width, height = row["bbox"]
    place = f"{width:.0f} x {height:.0f} at ({left:.0f}, {top:.0f})"
    return row["file_name"], f"{row['category']} {row['score']:.1%}, {place}"


def _predict_to_tables(
    model: str,
    pictures: tuple[str, ...],
    folder: Path,
    top: int,
    features: bool,
    ray: str | None,
    as_json: bool,
) -> None:
    from keras_resnet.scale import predict_to_tables

    def bar(blocks: Iterable[int], total: int) -> Iterable[int]:
        if as_json:
            return blocks
        return track(blocks, "predicting", total=total, console=err)

    result = predict_to_tables(model, pictures, folder, top, features, ray, bar)
    table = make_table(None, "predicted", "", rows=result.items())
    print_result(result, as_json, table)
    if result["bad"]:
        bad, count = result["bad"], result["pictures"]
        complain(f"{bad} of {count} files cannot be classified; their rows say why")
        raise click.exceptions.Exit(1)


# The results are printed one by one: a million of them would not fit in memory.


def _print_csv(results: Iterable[Result]) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(("file", "rank", "class", "probability", "problem"))
    for result in results:
        file = printable(result["file"])
        if "problem" in result:
            writer.writerow((file, "", "", "", printable(result["problem"])))
            continue
        if not result["classes"]:
            writer.writerow((file, "", "", "", ""))
        likeliest = zip(result["classes"], result["probabilities"])
        for rank, (name, probability) in enumerate(likeliest, start=1):
            writer.writerow((file, rank, printable(name), probability, ""))


def _print_json(results: Iterable[Result]) -> None:
    separator = "["
    for result in results:
        click.echo(separator + json.dumps(result), nl=False)
        separator = ", "
    click.echo("]" if separator == ", " else "[]")


def _print_predictions(results: Iterator[Result]) -> None:
    while some := list(itertools.islice(results, _TABLE)):
        rows = [(result["file"], _likeliest(result)) for result in some]
        out.print(make_table(None, "image", "classes", rows=rows))


def _likeliest(result: Result) -> str:
    if "problem" in result:
        return result["problem"]
    likeliest = zip(result["classes"], result["probabilities"])
    text = ", ".join(f"{name} {probability:.1%}" for name, probability in likeliest)
    if "labels" not in result:
        return text or "none reaches the threshold"
    return f"{' + '.join(result['labels']) or 'none'} ({text})"
