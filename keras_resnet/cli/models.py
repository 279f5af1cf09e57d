"""The commands that write models: export, convert."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import click

import keras_resnet
from keras_resnet.cli.base import (
    calibrated_option,
    group,
    json_option,
    plain,
    print_result,
    scaled_decode_option,
    with_scaled_decode,
)
from keras_resnet.export.formats import FORMATS, MOST_LOSS
from keras_resnet.runs import layout


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
@click.option(
    "--calibrate",
    metavar="DATA",
    help="Data set with the model's classes, for int8: activations get the ranges that "
    "they have on its images, and the accuracy before and after is compared.",
)
@click.option(
    "--most-loss",
    type=click.FloatRange(0, 100),
    default=MOST_LOSS,
    show_default=True,
    help="Percentage points of top-1 that int8 may lose.",
)
@calibrated_option
@scaled_decode_option
@json_option
def export(
    model: str,
    folder: Path,
    kind: str,
    precision: str,
    picture: tuple[Path, ...],
    warm_up: bool | None,
    calibrate: str | None,
    most_loss: float,
    calibrated: bool,
    scaled_decode: bool,
    as_json: bool,
) -> None:
    """Export MODEL to FOLDER/<next version>, for TensorFlow Serving or elsewhere."""
    from keras_resnet import export as exporting
    from keras_resnet.export.description import read_description
    from keras_resnet.opening import open_model

    lines: list[str] = []
    net = open_model(layout.calibrated(model) if calibrated else model)
    net = with_scaled_decode(net, scaled_decode)
    about = (kind, precision, picture, warm_up, lines.append)
    version = exporting.save(net, folder, *about, calibrate, most_loss)
    written = read_description(version)
    result: dict[str, Any] = {
        "path": str(version),
        "format": kind,
        "precision": precision,
        "difference": written.difference,
    }
    if written.accuracy:
        result["accuracy"] = dataclasses.asdict(written.accuracy)
    print_result(result, as_json, *map(plain, lines), f"{kind} in {plain(version)}")


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
