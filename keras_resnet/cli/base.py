"""What all commands share: the command group, consoles and tables."""

from __future__ import annotations

import dataclasses
import importlib
import json
from collections.abc import Iterable
from typing import Any

import click
from rich.console import Console, JustifyMethod
from rich.markup import escape
from rich.table import Table

import keras_resnet

# {command: its module, which must not import Keras or TensorFlow at its top level}
_MODULES = {
    "calibrate": "evaluating",
    "convert": "models",
    "demo": "training",
    "embed": "evaluating",
    "evaluate": "evaluating",
    "explain": "explaining",
    "export": "models",
    "find-rate": "rates",
    "list": "catalogue",
    "predict": "predicting",
    "prepare": "pictures",
    "preview": "pictures",
    "push": "sharing",
    "recipes": "training",
    "report": "reporting",
    "serve": "serving",
    "show": "catalogue",
    "soup": "souping",
    "status": "training",
    "sweep": "sweeping",
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
    """A group that imports the module of a command only when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_MODULES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in _MODULES:
            importlib.import_module(f"keras_resnet.cli.{_MODULES[cmd_name]}")
        return super().get_command(ctx, cmd_name)


@click.group(cls=_Group)
@click.version_option(keras_resnet.__version__, prog_name="keras-resnet")
def group() -> None:
    """ResNet-D: prepare images, train, evaluate, predict, explain, export, serve."""


json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print JSON instead of tables."
)

calibrated_option = click.option(
    "--calibrated",
    is_flag=True,
    help="Use the model that `keras-resnet calibrate` has written into the run MODEL.",
)

scaled_decode_option = click.option(
    "--scaled-decode",
    is_flag=True,
    help="Decode large JPEGs at 1/2, 1/4 or 1/8 of their size, where that is enough "
    "for the crop: faster, with pixels that differ a little.",
)


def with_scaled_decode(net: Any, is_wanted: bool) -> Any:
    """The net itself; if wanted, its protocol has `scaled_decode`."""
    if is_wanted:
        protocol = dataclasses.replace(net.info.protocol, scaled_decode=True)
        net.info = net.info.replace(protocol=protocol)
    return net


def print_result(result: Any, as_json: bool, *tables: Table | str) -> None:
    """Prints the result as JSON, or the tables and lines that show it to a reader."""
    if as_json:
        click.echo(json.dumps(result))
    else:
        for table in tables:
            out.print(table)


def make_table(
    title: str | None, *columns: str, rows: Iterable[Iterable[object]]
) -> Table:
    """A table with its first column left-aligned, and the others right-aligned."""
    table = Table(title=title, title_justify="left")
    for column in columns:
        justify: JustifyMethod = "left" if column == columns[0] else "right"
        table.add_column(column, justify=justify, overflow="fold")
    for row in rows:
        table.add_row(*map(plain, row))
    return table


def plain(value: object) -> str:
    """Text that rich prints literally, even if it has brackets or is not UTF-8."""
    return escape(printable(value))


def printable(value: object) -> str:
    """Text that UTF-8 can encode, with escapes for what it cannot."""
    return str(value).encode(errors="backslashreplace").decode()
