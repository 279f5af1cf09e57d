"""Shared by the commands: their group, the consoles, and tables."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterable
from typing import Any

import click
from rich.console import Console, JustifyMethod
from rich.markup import escape
from rich.table import Table

import keras_resnet

# the module of each command, which imports neither Keras nor TensorFlow by itself
_MODULES = {
    "convert": "models",
    "demo": "training",
    "evaluate": "models",
    "export": "models",
    "list": "catalogue",
    "predict": "models",
    "prepare": "pictures",
    "preview": "pictures",
    "recipes": "training",
    "serve": "serving",
    "show": "catalogue",
    "status": "training",
    "train": "training",
    "validate": "pictures",
}

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False)


def complain(problem: object) -> None:
    """Prints a problem as one line on stderr."""
    one_line = " ".join(str(problem).split())
    click.echo(f"keras-resnet: {one_line}", err=True)


class _Group(click.Group):
    """Imports the module of a command when the command is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_MODULES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in _MODULES:
            importlib.import_module(f"keras_resnet.cli.{_MODULES[cmd_name]}")
        return super().get_command(ctx, cmd_name)


@click.group(cls=_Group)
@click.version_option(keras_resnet.__version__, prog_name="keras-resnet")
def group() -> None:
    """ResNet-D for Keras: prepare images, train, evaluate, predict, export, serve."""


json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print JSON instead of tables."
)


def print_result(result: Any, as_json: bool, *tables: Table | str) -> None:
    """Prints the result as JSON, or as tables."""
    if as_json:
        click.echo(json.dumps(result))
    else:
        for table in tables:
            out.print(table)


def make_table(
    title: str | None, *columns: str, rows: Iterable[Iterable[object]]
) -> Table:
    table = Table(title=title, title_justify="left")
    for column in columns:
        justify: JustifyMethod = "left" if column == columns[0] else "right"
        table.add_column(column, justify=justify, overflow="fold")
    for row in rows:
        table.add_row(*map(plain, row))
    return table


def plain(value: object) -> str:
    """The text of a value, without rich's markup and with printable characters only."""
    return escape(printable(value))


def printable(value: object) -> str:
    """The text of a value, with escapes for what UTF-8 cannot encode."""
    return str(value).encode(errors="backslashreplace").decode()
