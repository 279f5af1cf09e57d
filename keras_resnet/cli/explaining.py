"""The command explain: heat maps of what speaks for a class, over the pictures."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

from keras_resnet.cli.base import (
    complain,
    group,
    json_option,
    make_table,
    plain,
    print_result,
)
from keras_resnet.drawing import png
from keras_resnet.errors import ModelError
from keras_resnet.files import write_whole

_BATCH = 32  # pictures that are computed at once
_MOST = 240  # pictures in a grid; a PNG file has at most 65,535 rows of pixels
_PAIRS = 3  # in a row of the grid


@group.command()
@click.argument("model")
@click.argument("picture", nargs=-1, required=True)
@click.option(
    "--class",
    "class_name",
    metavar="NAME",
    help="The class to explain; by default the likeliest of each picture.",
)
@click.option(
    "--layer",
    metavar="NAME",
    help="The layer to look at, such as stage2; earlier ones are finer. By default the "
    "last one before the pooling.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    default="explained.png",
    show_default=True,
    help="A PNG file.",
)
@json_option
def explain(
    model: str,
    picture: tuple[str, ...],
    class_name: str | None,
    layer: str | None,
    out: Path,
    as_json: bool,
) -> None:
    """Save a grid of pictures with heat maps of what raises a class, by Grad-CAM.

    PICTURE is an image or a folder of images. MODEL is a run directory, a .keras file
    or variant:weights. A file that cannot be read gets a row that says why, and makes
    the exit code 1.
    """
    from keras_resnet import evaluate as evaluation
    from keras_resnet.evaluate.prediction import list_pictures
    from keras_resnet.model import note_random_weights
    from keras_resnet.opening import open_model

    files = list(list_pictures(picture))
    if len(files) > _MOST:
        raise click.UsageError(f"{len(files)} pictures: a grid has at most {_MOST}")
    net = open_model(model)
    net.info.check_classifies(net.name)
    note_random_weights(net)
    names = evaluation.class_names(net)
    index = None if class_name is None else _index_of(class_name, names, model)
    rows, explained = [], []
    for file, found in zip(files, _explained(net, files, index, layer)):
        if isinstance(found, str):
            rows.append({"file": file, "problem": found})
            continue
        image, heat, label, probability = found
        row = {"file": file, "class": names[label], "probability": float(probability)}
        rows.append(row)
        explained.append((row, image, heat))
    if explained:
        write_whole(out, png(_grid(explained)))
    path = str(out) if explained else None
    table = make_table(None, "image", "class", rows=map(_table_row, rows))
    lines = [plain(f"the heat maps are in {path}")] * bool(path)
    print_result({"path": path, "pictures": rows}, as_json, table, *lines)
    if explained and all(np.ptp(heat) == 0 for _, _, heat in explained):
        complain("each heat map is the same everywhere; give an earlier --layer")
    if bad := len(rows) - len(explained):
        complain(f"{bad} of {len(rows)} files cannot be read; their rows say why")
        raise click.exceptions.Exit(1)


def _index_of(name: str, names: Sequence[str], model: str) -> int:
    if name in names:
        return names.index(name)
    near = difflib.get_close_matches(name, names, 3) or names[:3]
    raise ModelError(
        f"--class={name!r}: not a class of {model}; give one of its "
        f"{len(names)} classes, such as {', '.join(near)}"
    )


def _explained(
    net: Any, files: Sequence[str], index: int | None, layer: str | None
) -> Iterator[Any]:
    """For each file (image, heat map, class, probability), or why it is unreadable."""
    from keras_resnet.evaluate.prediction import outputs
    from keras_resnet.evaluate.views import predict_probabilities
    from keras_resnet.explain import grad_cam

    def compute(net: Any, images: np.ndarray, size: int) -> Iterator[Any]:
        probabilities = predict_probabilities(net, images, size)
        likeliest = probabilities.argmax(1)
        labels = likeliest if index is None else np.full_like(likeliest, index)
        heat = grad_cam(net, images, labels, layer)
        chosen = np.take_along_axis(probabilities, labels[:, None], 1)[:, 0]
        return zip(images, heat, labels, chosen)

    size = min(_BATCH, len(files)) or 1
    for start in range(0, len(files), size):
        yield from outputs(net, files[start : start + size], size, compute)


def _table_row(row: dict[str, Any]) -> tuple[str, str]:
    if "problem" in row:
        return row["file"], row["problem"]
    return row["file"], f"{row['class']} {row['probability']:.1%}"


def _grid(explained: Sequence[tuple[dict[str, Any], np.ndarray, np.ndarray]]) -> Any:
    """A figure of each picture, and beside it the same under its heat map."""
    from matplotlib.figure import Figure

    pairs = min(_PAIRS, len(explained))
    rows = -(-len(explained) // pairs)
    figure = Figure(figsize=(4.2 * pairs, 2.3 * rows), layout="constrained")
    axes = figure.subplots(rows, 2 * pairs, squeeze=False).ravel()
    for each in axes:
        each.set_axis_off()
    for (row, image, heat), left, right in zip(explained, axes[::2], axes[1::2]):
        left.imshow(image, interpolation="nearest")
        left.set_title(Path(row["file"]).name[-24:], fontsize=8)
        right.imshow(image, interpolation="nearest")
        right.imshow(heat, "inferno", vmin=0, vmax=1, alpha=0.6)
        right.set_title(f"{row['class']} {row['probability']:.1%}", fontsize=9)
    return figure
