"""The command that finds a learning rate: find-rate."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click
from rich.progress import track

from keras_resnet.cli.base import err, group, json_option, plain, print_result
from keras_resnet.cli.options import RecipeCommand, chosen_recipe, recipe_options


@group.command("find-rate", cls=RecipeCommand)
@click.argument("data", type=click.Path(path_type=Path))
@click.option(
    "--recipe",
    default="bag-of-tricks",
    help="Name of a recipe, or a YAML or JSON file.",
)
@click.option("--output", default="rates.png", show_default=True, help="A PNG file.")
@click.option(
    "--least",
    type=float,
    default=1e-6,
    show_default=True,
    help="Learning rate of the first batch.",
)
@click.option(
    "--most",
    type=float,
    default=10.0,
    show_default=True,
    help="Learning rate of the last batch, which is not reached if the loss diverges.",
)
@click.option(
    "--steps", type=int, default=100, show_default=True, help="How many batches."
)
@json_option
@recipe_options
def find_rate(
    data: Path,
    recipe: str,
    output: str,
    least: float,
    most: float,
    steps: int,
    as_json: bool,
    **fields: Any,
) -> None:
    """Suggest a base_rate for a recipe on DATA, by a learning rate range test.

    Trains for a few batches at a rising learning rate, and plots the loss over it. The
    suggestion is where the loss falls most steeply. No run is left behind.
    """
    from keras_resnet.train import rates

    chosen = chosen_recipe(recipe, fields)
    if not Path(output).absolute().parent.is_dir():  # before minutes of training
        raise click.BadParameter(
            f"{output!r}: its directory does not exist", param_hint="--output"
        )
    bar = _bar(steps, as_json)
    found = rates.find_rate(chosen, data, least, most, steps, bar)
    Path(output).write_bytes(rates.rate_range_plot(found))
    if found["suggested"] is None:
        text = "the loss did not fall at any rate, so that none is suggested"
    else:
        text = (
            f"base_rate {found['base_rate']:.2g} (a rate of {found['suggested']:.2g} "
            f"at batch_size {chosen.batch_size})"
        )
    note = plain(f"{text}; {output} shows the loss over the rate")
    print_result({**found, "path": output}, as_json, note)


def _bar(steps: int, as_json: bool) -> Callable[[Iterable], Iterable]:
    """A function that shows the progress of an iteration over batches."""

    def shown(batches: Iterable) -> Iterable:
        return track(batches, "trying rates", total=steps, console=err, transient=True)

    return iter if as_json else shown
