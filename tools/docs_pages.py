"""Pages that are made when the site is built: of the package's data, and of notebooks.

A hook of mkdocs.yml. It reads the commands, the recipe's fields, the table of variants
and that of released checkpoints, none of which needs TensorFlow. Notebooks are shown
with the outputs that they were committed with; none is run.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click

from keras_resnet.cli.base import group
from keras_resnet.cli.options import RecipeCommand
from keras_resnet.complexity import complexity
from keras_resnet.config import VARIANTS, constructor_name
from keras_resnet.recipe import FIELD_TYPES, Recipe
from keras_resnet.weights.released import Released, find, released

COMMAND_LINE = """# Command line

`keras-resnet COMMAND --help` prints the same. An error is one line on stderr. The exit
code is 0 for success, 1 for an error, 2 for wrong usage, and 75 where the same command,
run again, goes on."""
FIELDS_TOO = """Each [field of a recipe](recipe-fields.md) is an option too:
`--batch-size` is `batch_size`."""
RECIPE_FIELDS = """# Recipe fields

A recipe is everything but the data that determines a training run. Each field is an
argument of [`Recipe`](api/train.md) and of its `replace`, a line of a YAML or JSON
file, and an option of [`keras-resnet train`](command-line.md#train): `batch_size` is
`--batch-size`. The value 0 turns a trick off. Numbers in parentheses are sections of
arXiv 1812.01187. `keras-resnet recipes` prints the published recipes side by side."""
TAGS = """---
hide: [toc]
---

# Variants and weights

{variants} nets and {checkpoints} released checkpoints. `keras-resnet list` prints them
too, and `keras-resnet show VARIANT:TAG` tells how one was trained and tested.

## Every released checkpoint

Accuracy is what the publishers measured, in percent of ImageNet's validation images, at
the test size in pixels and the crop. A bold tag is what `weights="imagenet"` loads; any
of them loads as `keras_resnet.create("VARIANT", weights="TAG")`, with `classes=11821`
for those of ImageNet-12k, and with `include_top=False` for those without classes.
"""
EVERY_VARIANT = """
## Every variant

Parameters are exact. GMACs are multiply-adds of convolutions and classifier at 224
pixels, in 10^9. The builders are functions of `keras_resnet`.
"""
# nbconvert's page, with each output in a block of its own, and with the comment that a
# cell begins with as the text of its picture
NOTEBOOK = """{% extends "markdown/index.md.j2" %}
{% block input %}
```python
{{ cell.source }}
```
{% endblock %}
{% block stream %}
{{ shown(output.text) }}
{% endblock %}
{% block data_text scoped %}
{{ shown(output.data["text/plain"]) }}
{% endblock %}
{% block data_png scoped %}
![{{ cell.source.split("\n")[0].strip("# ") }}]({{
output.metadata.filenames["image/png"] }})
{% endblock %}
{% macro shown(text) %}
``` { .text .output .no-copy }
{{ text.rstrip() }}
```
{% endmacro %}
"""
DOWNLOAD = """
This page is a [notebook]({name}.ipynb){{ download }}. In a clone of the repository,
`pip install ".[demo]" jupyterlab` installs what it needs.
"""
NO_BREAK = "&#8209;"  # a hyphen at which no line ends


def on_files(files: Any, config: Any) -> Any:
    """Adds the pages to those in docs/; mkdocs calls it."""
    from mkdocs.structure.files import File

    for path, write in PAGES.items():
        files.append(File.generated(config, path, content=write()))
    for file in [it for it in files if it.src_uri.endswith(".ipynb")]:
        for path, content in notebook(config.docs_dir, file.src_uri).items():
            files.append(File.generated(config, path, content=content))
    return files


def notebook(docs: str, path: str) -> dict[str, str | bytes]:
    """{path in docs/: content} of a notebook's page and of the pictures in it."""
    from nbconvert import MarkdownExporter

    place = Path(path)
    text, resources = MarkdownExporter(raw_template=NOTEBOOK).from_filename(
        str(Path(docs, path)), {"unique_key": place.stem}
    )
    title, rest = text.strip().split("\n", 1)
    page = "\n".join([title, DOWNLOAD.format(name=place.stem), rest, ""])
    pictures = resources["outputs"]
    return {
        str(place.with_suffix(".md")): page,
        **{str(place.with_name(name)): pictures[name] for name in pictures},
    }


def command_line() -> str:
    """The commands, their arguments and options, as click's own help has them."""
    context = click.Context(group, info_name="keras-resnet")
    names = group.list_commands(context)
    commands = {name: group.get_command(context, name) for name in names}
    lines = [COMMAND_LINE]
    for name, command in commands.items():
        assert command is not None
        lines += ["", *_command(name, command, click.Context(command, context, name))]
    return _page(lines)


def _command(name: str, command: click.Command, context: click.Context) -> list[str]:
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    lines = [f"## {name}", "", "```sh", usage, "```", "", _prose(command.help or "")]
    rows = []
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        is_field = isinstance(command, RecipeCommand) and parameter.name in FIELD_TYPES
        if record and record[1] and not is_field and "--help" not in record[0]:
            rows.append((f"`{record[0]}`", record[1]))
    lines += ["", *_table(["option", "meaning"], rows)]
    if isinstance(command, RecipeCommand):
        lines += ["", FIELDS_TOO]
    return lines


def recipe_fields() -> str:
    """The fields of Recipe by group, from the metadata that the options are made of."""
    groups: dict[str, list[dataclasses.Field]] = defaultdict(list)
    for field in dataclasses.fields(Recipe):
        groups[field.metadata["group"]].append(field)
    lines = [RECIPE_FIELDS]
    for title, fields in groups.items():
        rows = [
            (f"`{it.name}`", _default(it), _allowed(it), it.metadata["help"])
            for it in fields
        ]
        names = ["field", "default", "allowed", "meaning"]
        lines += ["", f"## {title.capitalize()}", "", *_table(names, rows)]
    return _page(lines)


def _default(field: dataclasses.Field) -> str:
    value = getattr(Recipe(), field.name)
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return "" if value in ("", (), {}) else f"`{text}`"


def _allowed(field: dataclasses.Field) -> str:
    limits = field.metadata
    if "choices" in limits:
        return ", ".join(f"`{it}`" if it else "empty" for it in limits["choices"])
    if "low" in limits:
        above = "above" if limits.get("above") else "at least"
        text = f"{above} {limits['low']:,}"
        if "high" in limits:
            text += f", {'below' if limits.get('below') else 'at most'} "
            text += f"{limits['high']:,}"
        return text
    kind = FIELD_TYPES[field.name]
    text = {bool: "true or false", str: "text"}.get(kind, "")
    example = limits.get("example")
    return text or (f"such as `{example}`" if example else "")


def tags() -> str:
    """Every variant with its cost, and every released checkpoint of it."""
    variants = []
    for name, config in VARIANTS.items():
        parameters, macs = complexity(config)
        builder = f"`{constructor_name(name)}`"
        variants.append((f"`{name}`", builder, f"{parameters:,}", f"{macs / 1e9:.3f}"))
    checkpoints = [
        _checkpoint(it)
        for variant in VARIANTS
        for it in sorted(
            released().get(variant, {}).values(), key=lambda it: -(it.top1 or 0)
        )
    ]
    return _page(
        [
            TAGS.format(variants=len(variants), checkpoints=len(checkpoints)),
            *_table(
                "variant, tag, top-1:, top-5:, size:, crop:, classes:, licence, source",
                checkpoints,
            ),
            EVERY_VARIANT,
            *_table("variant, builder, parameters:, GMACs:", variants),
        ]
    )


def _checkpoint(it: Released) -> tuple[str, ...]:
    bold = "**" if it == find(it.variant, "imagenet") else ""
    address = it.origin.replace("hf://", "https://huggingface.co/")
    publisher = "timm" if "/timm/" in address else "PaddleClas"
    return (
        f"`{it.variant}`",
        f"{bold}`{it.tag}`{bold}",
        "" if it.top1 is None else f"{it.top1:.2f}",
        "" if it.top5 is None else f"{it.top5:.2f}",
        f"{it.test_size}",
        f"{it.crop_pct:g}",
        f"{it.classes:,}" if it.classes else "none",
        it.licence.replace("-", NO_BREAK),
        f"[{publisher}]({address})",
    )


def _table(names: str | list[str], rows: Iterable[Iterable[str]]) -> list[str]:
    """A table as Markdown; a name that ends with a colon is of numbers."""
    names = names.split(", ") if isinstance(names, str) else names
    lines = [
        f"| {' | '.join(name.rstrip(':') for name in names)} |",
        f"|{'|'.join('---:' if name.endswith(':') else '---' for name in names)}|",
    ]
    for row in rows:
        lines.append(f"| {' | '.join(map(_cell, row))} |")
    return lines if len(lines) > 2 else []


def _cell(text: str) -> str:
    return _prose(text).replace("\n", " ").replace("|", "\\|")


def _prose(text: str) -> str:
    """Text of a help page as Markdown."""
    return inspect.cleandoc(text).replace("\b\n", "").replace("<", "&lt;")


def _page(lines: Iterable[str]) -> str:
    return "\n".join(lines) + "\n"


# {path in docs/: what writes the page}
PAGES: dict[str, Callable[[], str]] = {
    "reference/command-line.md": command_line,
    "reference/recipe-fields.md": recipe_fields,
    "reference/tags.md": tags,
}
