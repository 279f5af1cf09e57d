"""The commands that measure models: evaluate, embed, calibrate."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
from rich.progress import track
from rich.table import Table

from keras_resnet import data as datasets
from keras_resnet.cli.base import (
    calibrated_option,
    err,
    group,
    json_option,
    make_table,
    plain,
    print_result,
    scaled_decode_option,
    with_scaled_decode,
)
from keras_resnet.drawing import attempted
from keras_resnet.files import write_whole
from keras_resnet.runs import layout


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
@calibrated_option
@scaled_decode_option
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
    calibrated: bool,
    scaled_decode: bool,
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
    if scaled_decode and (scales or ten_crop):
        other = "--ten-crop" if ten_crop else "--scales"
        raise click.UsageError(f"--scaled-decode with {other}: give only one of them")
    if probe:
        others = (scales, ten_crop, size, split != "val", calibrated, scaled_decode)
        if any(others):
            raise click.UsageError("--probe: takes none of the other measures' options")
        return _probe(model, data, max_bad_examples, as_json)
    from keras_resnet.export import open_any

    model = str(layout.calibrated(model)) if calibrated else model
    net = with_scaled_decode(open_any(model), scaled_decode)
    source, _ = datasets.without_bad(data, max_bad_examples, (split,), net.info.task)
    views: dict[str, Any] = {"views": "ten-crop" if ten_crop else "center"}
    views |= {"size": size, "scales": scales}
    is_default = split == "val" and not ten_crop and not scales
    is_default = is_default and size in (None, net.info.protocol.size)
    is_default = is_default and not scaled_decode
    run = Path(model) if is_default and _is_run_of(model, source) else None
    metrics = measure(net, source, split, as_json, run, **views)
    print_result(metrics, as_json, *metrics_tables(metrics))


def _probe(model: str, data: Path, max_bad_examples: int, as_json: bool) -> None:
    from keras_resnet import evaluate as evaluation

    source, _ = datasets.without_bad(data, max_bad_examples)
    result = evaluation.probe(
        evaluation.Features(model), source, progress=progress_bar("embedding", as_json)
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
    rows = evaluation.embed(features, data, split, progress_bar("embedding", as_json))
    evaluation.write_vectors(out, rows)
    result = {"path": str(out), "images": len(rows.paths), "size": features.size}
    print_result(result, as_json, make_table(None, "embedded", "", rows=result.items()))


@group.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("data", required=False, type=click.Path(path_type=Path))
@click.option("--split", type=click.Choice(["val", "train"]), default="val")
@json_option
def calibrate(run: Path, data: Path | None, split: str, as_json: bool) -> None:
    """Make the model of RUN as sure of its classes as it is right, on DATA.

    DATA is by default what RUN was trained on, of which the validation images are used.
    The result is RUN/calibrated.keras, a MODEL for every other command. For evaluate,
    predict and export, RUN with --calibrated means the same.
    """
    from keras_resnet import evaluate as evaluation
    from keras_resnet.opening import open_model

    model = open_model(run)
    source = data or layout.read_json(run / layout.DATA)["path"]
    bar = progress_bar("calibrating", as_json)
    calibrated, result = evaluation.calibrate(model, source, split, bar)
    path = evaluation.write_calibrated(calibrated, run)
    rows = [
        ("loss, nats", *(f"{result[it]['loss']:.4f}" for it in ("before", "after"))),
        (
            "calibration error",
            *(f"{result[it]['calibration_error']:.2%}" for it in ("before", "after")),
        ),
    ]
    table = make_table(None, "measure", "before", "after", rows=rows)
    line = f"temperature {result['temperature']:.3f}; the model is {path}"
    print_result({"path": str(path), **result}, as_json, table, plain(line))


def progress_bar(what: str, as_json: bool) -> Any:
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

    bar = progress_bar("evaluating", as_json)
    metrics = evaluation.run(model, data, split, progress=bar, **views)
    if run:
        if (run / layout.AVERAGE).is_file():
            average = open_model(run / layout.AVERAGE)
            metrics["ema"] = measure(average, data, split, as_json)
        write_whole(run / layout.METRICS, to_json(metrics))
        with attempted(run / layout.GRID):
            if data.task != "classify":
                evaluation.answer_grid(model, data, run / layout.GRID)
            elif not data.several_labels:
                evaluation.picture_grid(model, data, run / layout.GRID)
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
    from keras_resnet.evaluate.measures import labelled, worst_classes

    rows: list[tuple[str, object]] = [*labelled(metrics)]
    classifies = "top1" in metrics
    if not classifies:
        classes = metrics["per_class"].items()
        rows += [(f"class {name}", _share(value)) for name, value in classes]
    rows.append(("images", metrics["examples"]))
    rows += [("left out", len(bad)) for bad in [metrics.get("bad_examples")] if bad]
    if classifies and len(metrics["per_class"]) > 1:
        worst = worst_classes(metrics)
        rows += [(f"worst: {name}", _share(accuracy)) for name, accuracy in worst]
    return make_table(None, "measure", "value", rows=rows)


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.2%}"
