"""The commands that use models: evaluate, predict, export, convert."""

from __future__ import annotations

import csv
import dataclasses
import itertools
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click
from rich.progress import track
from rich.table import Table

import keras_resnet
from keras_resnet import data as datasets
from keras_resnet.cli.base import (
    complain,
    err,
    group,
    json_option,
    make_table,
    out,
    plain,
    print_result,
    printable,
)
from keras_resnet.drawing import attempted
from keras_resnet.export.formats import FORMATS
from keras_resnet.files import write_whole
from keras_resnet.runs import layout

_TABLE = 1000  # predictions in one printed table

Result = dict[str, Any]  # what `evaluate.predict_each` yields


def _pixels(
    context: click.Context, parameter: click.Parameter, text: str | None
) -> Any:
    """The value of --size or --scales: sides in pixels, within the allowed range."""
    from keras_resnet.evaluate.views import LARGEST, SCALES

    if text is None:
        return None if parameter.name == "size" else ()
    if parameter.name == "scales" and text == "paper":
        return SCALES
    sides: click.ParamType = click.IntRange(1, LARGEST)
    if parameter.name == "size":
        return sides.convert(text, parameter, context)
    return tuple(sides.convert(side, parameter, context) for side in text.split(","))


@group.command()
@click.argument("model")
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--split", type=click.Choice(["val", "train"]), default="val")
@click.option(
    "--max-bad-examples",
    type=click.IntRange(0),
    default=0,
    help="How many images that cannot be decoded may be left out.",
)
@click.option("--ten-crop", is_flag=True, help="Average ten crops of each image.")
@click.option(
    "--size",
    callback=_pixels,
    help="Side of the crop in pixels; by default that of the model's protocol.",
)
@click.option(
    "--scales",
    callback=_pixels,
    help="Average whole images and their mirror images over these short sides in "
    'pixels, such as 224,256,384, or "paper".',
)
@click.option(
    "--probe",
    is_flag=True,
    help="Measure instead how well k nearest neighbours and a linear classifier tell "
    "the classes of DATA, which may be others, by the features of MODEL.",
)
@json_option
def evaluate(
    model: str,
    data: Path,
    split: str,
    max_bad_examples: int,
    ten_crop: bool,
    size: int | None,
    scales: tuple[int, ...],
    probe: bool,
    as_json: bool,
) -> None:
    """Measure top-1, top-5, loss and calibration of MODEL on each image of DATA.

    Of a detector these are COCO's average precisions, of a segmenter the mean
    intersection over union. MODEL is a run directory, a .keras file, variant:weights,
    or an exported model.
    """
    if scales and (ten_crop or size):
        other = "--ten-crop" if ten_crop else "--size"
        raise click.UsageError(f"{other} with --scales: give only one of them")
    if probe:
        if scales or ten_crop or size or split != "val":
            raise click.UsageError("--probe: takes none of the other measures' options")
        return _probe(model, data, max_bad_examples, as_json)
    from keras_resnet.export import open_any

    net = open_any(model)
    source, _ = datasets.without_bad(data, max_bad_examples, (split,), net.info.task)
    views: dict[str, Any] = {"views": "ten-crop" if ten_crop else "center"}
    views |= {"size": size, "scales": scales}
    is_default = split == "val" and not ten_crop and not scales
    is_default = is_default and size in (None, net.info.protocol.size)
    run = Path(model) if is_default and _is_run_of(model, source) else None
    metrics = measure(net, source, split, as_json, run, **views)
    print_result(metrics, as_json, *metrics_tables(metrics))


def _probe(model: str, data: Path, max_bad_examples: int, as_json: bool) -> None:
    from keras_resnet import evaluate as evaluation

    source, _ = datasets.without_bad(data, max_bad_examples)
    result = evaluation.probe(
        evaluation.Features(model), source, progress=_bar("embedding", as_json)
    )
    rows = [
        (f"{result['neighbours']} nearest neighbours", f"{result['knn']:.2%}"),
        ("linear classifier", f"{result['linear']:.2%}"),
        ("images", result["examples"]),
    ]
    print_result(result, as_json, make_table(None, "features", "top-1", rows=rows))


@group.command()
@click.argument("model")
@click.argument("data", type=click.Path(path_type=Path))
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="File to write: .npz or .parquet, with path, label and vector of each image.",
)
@click.option("--split", type=click.Choice(["val", "train"]), default="val")
@click.option("--normalize", is_flag=True, help="Divide each vector by its L2 norm.")
@json_option
def embed(
    model: str, data: Path, out: Path, split: str, normalize: bool, as_json: bool
) -> None:
    """Write the features that MODEL computes of the images of DATA, in their order.

    MODEL is a run directory, a .keras file or variant:weights.
    """
    if out.suffix not in (".npz", ".parquet"):
        raise click.BadParameter(
            f"{str(out)!r}: must end in .npz or .parquet", param_hint="--out"
        )
    from keras_resnet import evaluate as evaluation

    features = evaluation.Features(model, normalize)
    rows = evaluation.embed(features, data, split, _bar("embedding", as_json))
    evaluation.write_vectors(out, rows)
    result = {"path": str(out), "images": len(rows.paths), "size": features.size}
    print_result(result, as_json, make_table(None, "embedded", "", rows=result.items()))


def _bar(what: str, as_json: bool) -> Any:
    """A function that shows the progress of an iteration over batches."""
    if as_json:
        return iter
    return lambda batches: track(batches, what, total=len(batches), console=err)


def _is_run_of(model: str, source: datasets.Source) -> bool:
    """Whether `model` is the directory of a run, trained on exactly `source`."""
    try:
        recorded = json.loads(Path(model, layout.DATA).read_text())
        return recorded["data_hash"] == source.fingerprint
    except (OSError, ValueError, KeyError, TypeError):
        return False


def measure(
    model: Any,
    data: datasets.Source,
    split: str,
    as_json: bool,
    run: Path | None = None,
    **views: Any,
) -> dict[str, Any]:
    """Evaluates a model with a progress bar, unless the output is JSON.

    With `run`, a run directory, its moving average is evaluated too, if it has one, and
    the metrics and figures are written to the directory.
    """

    from keras_resnet import evaluate as evaluation
    from keras_resnet.evaluate.figures import confusion_map
    from keras_resnet.evaluate.measures import to_json
    from keras_resnet.opening import open_model

    bar = _bar("evaluating", as_json)
    metrics = evaluation.run(model, data, split, progress=bar, **views)
    if run:
        if (run / layout.AVERAGE).is_file():
            average = open_model(run / layout.AVERAGE)
            metrics["ema"] = measure(average, data, split, as_json)
        write_whole(run / layout.METRICS, to_json(metrics))
        with attempted(run / layout.GRID):
            if data.task == "classify":
                evaluation.picture_grid(model, data, run / layout.GRID)
            else:
                evaluation.answer_grid(model, data, run / layout.GRID)
        with attempted(run / layout.CONFUSION):
            confusion_map(metrics, run / layout.CONFUSION)
    return metrics


def metrics_tables(metrics: Mapping[str, Any]) -> Iterator[Table | str]:
    """The table of a model, and that of its moving average if it was evaluated."""
    yield metrics_table(metrics)
    if "ema" in metrics:
        yield f"moving average of the weights, {layout.AVERAGE}:"
        yield metrics_table(metrics["ema"])


def metrics_table(metrics: Mapping[str, Any]) -> Table:
    from keras_resnet.evaluate.measures import worst_classes

    if "top1" not in metrics:
        return _transfer_table(metrics)
    several = len(metrics["per_class"]) > 1
    rows = [
        ("top-1", f"{metrics['top1']:.2%}"),
        ("top-5", f"{metrics['top5']:.2%}"),
        ("loss, nats", f"{metrics['loss']:.4f}"),
        ("calibration error", f"{metrics['calibration_error']:.2%}"),
        ("images", metrics["examples"]),
        *[("left out", len(bad)) for bad in [metrics.get("bad_examples")] if bad],
        *[
            (f"worst: {name}", f"{accuracy:.2%}")
            for name, accuracy in worst_classes(metrics)
            if several
        ],
    ]
    return make_table(None, "measure", "value", rows=rows)


def _transfer_table(metrics: Mapping[str, Any]) -> Table:
    """The measures of a detector or segmenter, and of each class."""
    rows = [
        (label, _share(metrics[name]))
        for name, label in _TRANSFER.items()
        if name in metrics
    ]
    classes = metrics["per_class"].items()
    rows += [(f"class {name}", _share(value)) for name, value in classes]
    bad = metrics.get("bad_examples", ())
    rows += [("left out", str(len(bad)))] * bool(bad)
    rows.append(("images", str(metrics["examples"])))
    return make_table(None, "measure", "value", rows=rows)


_TRANSFER = {
    "map": "mAP, IoU 0.5 to 0.95",
    "map50": "mAP, IoU 0.5",
    "map75": "mAP, IoU 0.75",
    "map_small": "mAP of small boxes, to 32 x 32",
    "map_medium": "mAP of medium boxes, to 96 x 96",
    "map_large": "mAP of large boxes",
    "mean_iou": "mean IoU",
    "pixel_accuracy": "pixel accuracy",
}


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.2%}"


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
    default=0.5,
    show_default=True,
    help="Least confidence of a box.",
)
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
    threshold: float,
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

    if (task := task_of(model)) != "classify":
        if as_csv or features or ray is not None:
            raise click.UsageError(
                f"--csv, --features, --ray: of a classifier alone; {model} is for "
                f"task={task!r}"
            )
        return _find(open_any(model), picture, out, threshold, as_json)
    if out:
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

    show = _print_csv if as_csv else _print_json if as_json else _print_predictions
    show(counted(evaluation.predict_each(open_any(model), picture, top)))
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
    return ", ".join(f"{name} {probability:.1%}" for name, probability in likeliest)


@group.command()
@click.argument("model")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--format",
    "kind",
    type=click.Choice(list(FORMATS)),
    default="savedmodel",
    show_default=True,
)
@click.option(
    "--precision",
    default="float32",
    show_default=True,
    help="; ".join(f"{kind}: {', '.join(some)}" for kind, some in FORMATS.items()),
)
@click.option(
    "--picture",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Image to compare the exported model on; repeatable. [default: a photograph]",
)
@click.option(
    "--warm-up/--no-warm-up",
    default=None,
    help="Whether to write requests with which TensorFlow Serving warms up; by default "
    "if tensorflow-serving-api is installed.",
)
@json_option
def export(
    model: str,
    folder: Path,
    kind: str,
    precision: str,
    picture: tuple[Path, ...],
    warm_up: bool | None,
    as_json: bool,
) -> None:
    """Export MODEL to FOLDER/<next version>, for TensorFlow Serving or elsewhere."""
    from keras_resnet import export as exporting
    from keras_resnet.export.description import read_description
    from keras_resnet.opening import open_model

    lines: list[str] = []
    net = open_model(model)
    version = exporting.save(
        net, folder, kind, precision, picture, warm_up, lines.append
    )
    result = {
        "path": str(version),
        "format": kind,
        "precision": precision,
        "difference": read_description(version).difference,
    }
    print_result(result, as_json, *lines, f"{kind} in {plain(version)}")


@group.command()
@click.argument("source")
@click.argument("destination", type=click.Path(path_type=Path))
@click.option("--model", required=True, help="A variant, such as resnet50d.")
@click.option(
    "--from",
    "dialect",
    default="auto",
    help="Framework of SOURCE's names; auto recognises it.",
)
@click.option("--to", default="keras_resnet", help="Framework of DESTINATION's names.")
@click.option(
    "--classes",
    type=click.IntRange(0),
    help="Number of classes of SOURCE; by default what SOURCE says, or 1000.",
)
@json_option
def convert(
    source: str,
    destination: Path,
    model: str,
    dialect: str,
    to: str,
    classes: int | None,
    as_json: bool,
) -> None:
    """Convert the weights file SOURCE to another dialect, as .safetensors or .npz."""
    weights = keras_resnet.weights
    if model not in keras_resnet.VARIANTS:
        raise click.BadParameter(
            f"{model!r}: see `keras-resnet list`", param_hint="--model"
        )
    for name, value in (("--from", dialect), ("--to", to)):
        if value not in ("auto", *weights.DIALECTS) or to == "auto":
            raise click.BadParameter(
                f"{value!r}: not a dialect; give one of {', '.join(weights.DIALECTS)}",
                param_hint=name,
            )
    config = keras_resnet.VARIANTS[model]
    report = weights.convert(source, destination, config, classes, dialect, to)
    print_result(
        dataclasses.asdict(report), as_json, f"{report}; written to {destination}"
    )
