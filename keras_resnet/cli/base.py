"""What the commands share: the group, consoles, tables."""

import json

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

import keras_resnet

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False)


def complain(problem):
    one_line = " ".join(str(problem).split())
    click.echo(f"keras-resnet: {one_line}", err=True)


@click.group()
@click.version_option(keras_resnet.__version__, prog_name="keras-resnet")
def group():
    """ResNet-D: prepare pictures, train, evaluate, predict, export."""


json_option = click.option("--json", "as_json", is_flag=True, help="For machines.")


def print_result(result, as_json, *tables):
    if as_json:
        click.echo(json.dumps(result))
    else:
        for table in tables:
            out.print(table)


def make_table(title, *columns, rows):
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, justify="left" if column == columns[0] else "right")
    for row in rows:
        table.add_row(*map(plain, row))
    return table


def plain(value):
    """As it is: a file's name may have brackets, and bytes that are no UTF-8."""
    return escape(printable(value))


def printable(value):
    """As UTF-8 takes it."""
    return str(value).encode(errors="backslashreplace").decode()
