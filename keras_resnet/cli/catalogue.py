"""The commands about the nets and weights that exist: list, show."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from keras_resnet.cli.base import group, json_option, make_table, plain, print_result
from keras_resnet.complexity import complexity
from keras_resnet.config import VARIANTS, ResNetConfig, constructor_name, list_models
from keras_resnet.errors import ModelError
from keras_resnet.weights.released import Released, find, released
from keras_resnet.weights.tags import explain

# beside a tag, by whether its licence allows commercial use; None: there is no tag
_NOTES = {True: "", None: "", False: " (not for commercial use)"}
# how `list` sorts: the key of a row
_ORDERS = {
    "top1": lambda row: -(row["top1"] or 0),
    "parameters": lambda row: row["parameters"],
    "gmacs": lambda row: row["macs"],
}


@group.command("list")
@click.argument("pattern", default="*")
@click.option(
    "--sort",
    type=click.Choice(list(_ORDERS)),
    help="Order: most accurate first, or smallest first. By family if not given.",
)
@click.option(
    "--licence",
    type=click.Choice(["commercial"]),
    help="List only variants with weights that allow commercial use.",
)
@click.option(
    "--plot",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write a PNG of accuracy against multiply-adds and parameters.",
)
@json_option
def list_command(
    pattern: str,
    sort: str | None,
    licence: str | None,
    plot: Path | None,
    as_json: bool,
) -> None:
    """List the variants that match PATTERN, such as '*50*', with their best weights.

    Multiply-adds are at 224 pixels. The tag is the one that weights="imagenet" loads,
    with its published top-1 accuracy in percent at its test size.
    """
    rows = [_row(name) for name in list_models(pattern)]
    if licence:
        rows = [row for row in rows if row["commercial"]]
    if sort:
        rows.sort(key=_ORDERS[sort])
    if plot:
        from keras_resnet.cli.accuracy import draw

        draw(_tags([row["name"] for row in rows], licence is not None), plot)
    table = make_table(
        None,
        *("variant", "parameters", "GMACs", "top-1", "size", "imagenet"),
        rows=(
            (
                row["name"],
                f"{row['parameters']:,}",
                f"{row['macs'] / 1e9:.3f}",
                f"{row['top1']:.2f}" if row["top1"] else "-",
                row["test_size"] or "-",
                (row["imagenet"] or "-") + _NOTES[row["commercial"]],
            )
            for row in rows
        ),
    )
    print_result(rows, as_json, table, *([f"drawn: {plain(plot)}"] if plot else []))


def _row(name: str) -> dict[str, Any]:
    """The row of a variant."""
    parameters, macs = complexity(VARIANTS[name])
    tags = released().get(name, {})
    best = find(name, "imagenet") if tags else None
    return {
        "name": name,
        "parameters": parameters,
        "macs": macs,
        "imagenet": best and best.tag,
        "top1": best and best.top1,
        "top5": best and best.top5,
        "test_size": best and best.test_size,
        "licence": best and best.licence,
        "commercial": best and best.commercial,
        "tags": list(tags),
    }


def _tags(names: Iterable[str], commercial: bool) -> list[Released]:
    """The released tags of some variants that have a top-1."""
    return [
        tag
        for name in names
        for tag in released().get(name, {}).values()
        if tag.top1 is not None and (tag.commercial or not commercial)
    ]


@group.command()
@click.argument("name")
@json_option
def show(name: str, as_json: bool) -> None:
    """Describe NAME, a variant, or its released weights NAME:TAG.

    For a variant: its architecture and cost. For weights: their accuracy and test
    protocol, how they were trained, and their licence.
    """
    variant, _, tag = name.partition(":")
    if variant not in VARIANTS:
        close = list_models(f"*{variant}*")[:5]
        hint = f"; similar ones are {', '.join(close)}" if close else ""
        raise ModelError(f"{name}: not a variant{hint}; see `keras-resnet list`")
    facts = _net_facts(variant)
    lines = _net_lines(variant, facts)
    if tag:
        entry = find(variant, tag)
        facts |= dataclasses.asdict(entry)
        facts |= {"commercial": entry.commercial, "training": explain(entry.tag)}
        lines += _tag_lines(entry, tag)
    elif tags := released().get(variant, {}):
        best = find(variant, "imagenet").tag
        facts["tags"] = list(tags)
        told = (f"{name} (imagenet)" if name == best else name for name in tags)
        lines.append(f"Released weights: {', '.join(told)}.")
        lines.append(f"More of one: keras-resnet show {variant}:{best}")
    else:
        facts["tags"] = []
        lines.append("Released weights: none.")
    print_result(facts, as_json, *map(plain, lines))


def _net_facts(variant: str) -> dict[str, Any]:
    parameters, macs = complexity(VARIANTS[variant])
    config = dataclasses.asdict(VARIANTS[variant])
    return {
        "variant": variant,
        "parameters": parameters,
        "macs": macs,
        "config": config,
    }


def _net_lines(variant: str, facts: dict[str, Any]) -> list[str]:
    return [
        f"{variant}, keras_resnet.{constructor_name(variant)}()",
        "",
        f"{facts['parameters']:,} parameters, {facts['macs'] / 1e9:.2f} GMACs at 224.",
        describe(VARIANTS[variant]),
    ]


def describe(config: ResNetConfig) -> str:
    """A sentence about the architecture of a net."""
    stems = {
        "conv7": "a 7x7 stem",
        "deep": "a stem of three 3x3",
        "deep_tiered": "a tiered stem of three 3x3",
    }
    shortcuts = {
        "projection": "projection shortcuts",
        "avg_pool": "average-pool shortcuts (ResNet-D)",
        "zero_pad": "zero-padded shortcuts",
        "none": "no shortcuts",
    }
    attention = {"se": "squeeze-and-excitation", "eca": "efficient channel attention"}
    anti_alias = {"avg": "average pools", "blur": "blur pools"}
    parts = [
        f"{', '.join(map(str, config.depths))} {config.block} blocks",
        stems[config.stem],
        shortcuts[config.shortcut],
    ]
    if config.groups > 1:
        parts.append(f"{config.groups} groups of {config.group_width} channels")
    elif config.group_width != 64:
        parts.append(f"a 3x3 of {config.group_width / 64:g} times the width")
    if config.attention:
        parts.append(attention[config.attention])
    if config.anti_alias:
        parts.append(f"{anti_alias[config.anti_alias]} before each stride")
    if config.stem_pool == "conv":
        parts.append("a convolution for the stem's pool")
    if config.normalization == "group":
        parts.append("group normalization")
    sentence = ", ".join(parts)
    return f"{sentence[:1].upper()}{sentence[1:]}."


def _tag_lines(entry: Released, asked: str) -> list[str]:
    """The lines about released weights; `asked` is the tag on the command line."""
    mean, std = (" ".join(f"{v:g}" for v in it) for it in (entry.mean, entry.std))
    classes = f"{entry.classes:,} classes" if entry.classes else "no classifier"
    use = "allows" if entry.commercial else "does not allow"
    licence = f"{entry.licence}, which {use} commercial use"
    if entry.licence == "unknown":
        licence = "not stated"
    lines = ["", f"Weights {entry.tag}: {classes}."]
    if entry.top1 is not None:
        lines.append(
            f"Top-1 {entry.top1:.2f} %, top-5 {entry.top5:.2f} % on ImageNet, as "
            "published."
        )
    lines.append(
        f"Tested at {entry.test_size} pixels, a crop of {entry.crop_pct:g}, "
        f"{entry.interpolation}; mean {mean}, standard deviation {std}."
    )
    trained = f"Trained at {entry.train_size} pixels"
    if entry.train_top1 is not None:
        trained += (
            f"; there top-1 {entry.train_top1:.2f} % at a crop of "
            f"{entry.train_crop_pct:g}"
        )
    options = f", classes={entry.classes}" if entry.classes > 1000 else ""
    if not entry.classes:
        options = ", include_top=False"
    return [
        *lines,
        f"{trained}.",
        *explain(entry.tag),
        f"Licence: {licence}; ask the origin before you rely on it.",
        f"Origin: {entry.origin}",
        "",
        f'keras_resnet.create("{entry.variant}", weights="{asked}"{options})',
    ]
