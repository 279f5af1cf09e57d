"""The command push, which shares a run on the Hugging Face hub."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import click

from keras_resnet.cli.base import group, json_option, make_table, plain, print_result


@group.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("repository")
@click.option(
    "--dry-run/--upload",
    default=None,
    help="Only list the files and print the model card, or upload them. [default: "
    "upload from a terminal, dry run if standard output is not one]",
)
@click.option("--private", is_flag=True, help="Create a private repository.")
@click.option(
    "--licence",
    help="Licence of the weights, such as apache-2.0; by default that of the released "
    "weights that RUN started from, and otherwise none is stated.",
)
@json_option
def push(
    run: Path,
    repository: str,
    dry_run: bool | None,
    private: bool,
    licence: str | None,
    as_json: bool,
) -> None:
    """Upload the best model of RUN to hf://OWNER/NAME of the Hugging Face hub.

    One commit holds weights that this package and timm load, the recipe, the measures
    of the epoch and a model card. `hf auth login` logs in.
    """
    from keras_resnet.sharing import push_to_hub

    if dry_run is None:
        dry_run = not sys.stdout.isatty()
    done = push_to_hub(run, repository, dry_run, private, licence)
    rows = [(name, f"{size:,}") for name, size in done.files.items()]
    lines = [f"uploaded: {plain(done.url)}"]
    if dry_run:
        lines = [plain(done.card), "dry run: nothing was uploaded; --upload does"]
    title = f"hf://{done.repository}"
    table = make_table(title, "file", "bytes", rows=rows)
    print_result(dataclasses.asdict(done), as_json, table, *lines)
