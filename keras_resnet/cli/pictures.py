"""The commands for data sets: prepare, validate, preview."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click
from rich.progress import Progress
from rich.table import Table

from keras_resnet import data as datasets
from keras_resnet.cli.base import (
    complain,
    err,
    group,
    json_option,
    make_table,
    plain,
    print_result,
)
from keras_resnet.cli.options import RecipeCommand, chosen_recipe, recipe_options
from keras_resnet.tasks import TASKS

_LISTED = 20  # bad images that `validate` prints


@group.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("destination", type=click.Path(path_type=Path))
@click.option(
    "--val",
    type=float,
    default=0.0,
    help="Fraction of each class to hold out for validation, such as 0.2.",
)
@click.option("--seed", type=int, default=0, help="Seed of this split and the order.")
@click.option(
    "--resize",
    type=int,
    default=0,
    help="Short side in pixels to which larger images are shrunk, such as 256.",
)
@click.option(
    "--upright", is_flag=True, help="Rotate images by their EXIF orientation."
)
@click.option(
    "--background",
    default="",
    help="Color over which images with alpha are composited, such as white.",
)
@click.option(
    "--raw",
    is_flag=True,
    help="Store decoded pixels, which take more space and no decoding in training.",
)
@click.option(
    "--ray",
    metavar="[ADDRESS]",
    is_flag=False,
    flag_value="local",
    help="Write the shards with the workers of a Ray cluster, such as auto; without an "
    "address, with Ray on this machine.",
)
@json_option
def prepare(
    source: Path,
    destination: Path,
    val: float,
    seed: int,
    resize: int,
    upright: bool,
    background: str,
    raw: bool,
    ray: str | None,
    as_json: bool,
) -> None:
    """Write SOURCE as TFRecord shards in DESTINATION; repeat the command to resume.

    SOURCE is a folder with classes in train/ and val/, a folder of classes with --val,
    a folder of TFRecords, or tfds:NAME. The workers of a Ray cluster need SOURCE and
    DESTINATION at the same paths.
    """
    quiet = as_json or not err.is_terminal
    with Progress(console=err, transient=True, disable=quiet) as bar:

        def show(images: Iterable[Any], total: int) -> Iterable[Any]:
            return bar.track(images, total, description="writing")

        written = datasets.prepare(
            source,
            destination,
            val,
            seed,
            resize,
            ray,
            show,
            upright=upright,
            background=background,
            raw=raw,
        )
    result = {"path": str(destination), "classes": len(written.class_names)}
    for name in ("train", "val"):
        split = getattr(written, name)
        result[name] = split.size if split else 0
    print_result(result, as_json, make_table(None, "prepared", "", rows=result.items()))


@group.command()
@click.argument("data", type=click.Path(path_type=Path))
@click.option(
    "--first-label",
    type=click.IntRange(0, 1),
    help="The first class's label in TFRecords that have no dataset.json.",
)
@click.option(
    "--classes",
    type=click.IntRange(1),
    help="Number of classes in TFRecords that have no dataset.json.",
)
@click.option(
    "--seconds", type=float, default=10.0, help="Time limit for an image, in seconds."
)
@click.option(
    "--memory", type=float, default=2.0, help="Memory limit for an image, in GiB."
)
@click.option(
    "--workers",
    type=click.IntRange(1),
    help="Worker processes; by default one per core.",
)
@click.option(
    "--manifest",
    type=click.Path(path_type=Path),
    help="A .json file to write instead if DATA is read-only; then train on this file.",
)
@click.option(
    "--task",
    type=click.Choice(list(TASKS)),
    default="classify",
    show_default=True,
    help="What DATA is for; boxes and masks are checked too, and need no manifest.",
)
@json_option
def validate(
    data: Path,
    first_label: int | None,
    classes: int | None,
    seconds: float,
    memory: float,
    workers: int | None,
    manifest: Path | None,
    task: str,
    as_json: bool,
) -> None:
    """Decode every image of DATA, and write the manifest, dataset.json.

    The exit code is 1 if there are bad images; training then needs --max-bad-examples.
    """
    if task != "classify":
        return _validate_annotated(data, task, as_json)
    quiet = as_json or not err.is_terminal
    with Progress(console=err, transient=True, disable=quiet) as bar:
        report = datasets.validate(
            data,
            first_label,
            classes,
            seconds,
            int(memory * 2**30),
            workers,
            progress=lambda images, total: bar.track(
                images, total, description="decoding"
            ),
            manifest=manifest,
        )
    print_result(report, as_json, *_validate_tables(report))
    if report["manifest"] is None:
        complain(report["problem"])
    if report["bad"] or report["manifest"] is None:
        raise click.exceptions.Exit(1)


def _validate_annotated(data: Path, task: str, as_json: bool) -> None:
    report = datasets.check_annotated(data, task)
    splits = report["counts"]
    names = dict.fromkeys(name for counts in splits.values() for name in counts)
    rows = [
        (name, *(f"{counts.get(name, 0):,}" for counts in splits.values()))
        for name in names
    ]
    rows.append(("cannot be decoded", *(_bad_of(report, name) for name in splits)))
    lines = [
        *report["notes"],
        *(f"{it['where']}: {it['reason']}" for it in report["bad"]),
    ]
    table = make_table(plain(report["path"]), task, *splits, rows=rows)
    print_result(report, as_json, table, *map(plain, lines))
    if report["bad"]:
        raise click.exceptions.Exit(1)


def _bad_of(report: Mapping[str, Any], split: str) -> str:
    return str(sum(entry["split"] == split for entry in report["bad"]))


def _validate_tables(report: Mapping[str, Any]) -> Iterator[Table | str]:
    def counts(what: Mapping[str, int]) -> str:
        return ", ".join(f"{name} {count:,}" for name, count in what.items())

    sizes = report["sizes"]
    classes = [sum(counts.values()) for counts in report["classes"].values()]
    duplicates = report["duplicates"]
    yield make_table(
        plain(report["path"]),
        "good images",
        "",
        rows=[
            ("formats", counts(report["formats"])),
            ("modes", counts(report["modes"])),
            ("EXIF orientations (ignored)", counts(report["exif"])),
            *(
                (f"{side}: min, median, max", ", ".join(f"{n:g}" for n in of.values()))
                for side, of in sizes.items()
                if side != "mean_bytes"
            ),
            ("bytes, mean", f"{sizes.get('mean_bytes', 0):,.0f}"),
            ("classes", len(classes)),
            ("images per class: min, max", f"{min(classes)}, {max(classes)}"),
            ("suffix of another format", report["misnamed"]["count"]),
            ("duplicates within a split", counts(duplicates["within"])),
            ("duplicates across splits", duplicates["across"]),
            ("missing since the last validation", report["gone"]["count"]),
        ],
    )
    if report["turned"]:
        yield (
            f"{report['turned']:,} images have an EXIF rotation, which training and "
            "evaluation ignore; `keras-resnet prepare --upright` applies it"
        )
    if report["alpha"]:
        yield (
            f"{report['alpha']:,} images have alpha, which is dropped; `keras-resnet "
            "prepare --background white` composites them over white"
        )
    for entry in report["bad"][:_LISTED]:
        yield plain(f"{entry['where']}: {entry['reason']}")
    if len(report["bad"]) > _LISTED:
        yield f"... and {len(report['bad']) - _LISTED:,} more"
    total = sum(split["pictures"] for split in report["splits"].values())
    bad = f"{len(report['bad']):,} bad" if report["bad"] else "none bad"
    where = f"; {report['manifest']} lists them" if report["manifest"] else ""
    yield plain(f"{total:,} images, {bad}{where}")


@group.command(cls=RecipeCommand)
@click.argument("data", type=click.Path(path_type=Path))
@click.option(
    "--recipe", default="bag-of-tricks", help="Recipe name, or YAML/JSON file."
)
@click.option("--output", default="preview.png", show_default=True, help="A PNG file.")
@json_option
@recipe_options
def preview(data: Path, recipe: str, output: str, as_json: bool, **fields: Any) -> None:
    """Save a grid of images of DATA as training and evaluation see them."""
    from keras_resnet.train.build import resolve

    chosen = resolve(chosen_recipe(recipe, fields))
    shown = datasets.preview(data, chosen, output)
    counts = ", ".join(f"{count} of {name}" for name, count in shown.items())
    print_result({"path": output, **shown}, as_json, f"{counts} in {output}")
