"""The command that tunes fields of a recipe: sweep."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import yaml

from keras_resnet.cli.base import (
    group,
    json_option,
    make_table,
    out,
    plain,
    print_result,
)
from keras_resnet.cli.options import RecipeCommand, chosen_recipe, recipe_options
from keras_resnet.cli.training import training_bar
from keras_resnet.errors import RecipeError
from keras_resnet.recipe import Recipe, read_yaml


@group.command(cls=RecipeCommand)
@click.argument("data", type=click.Path(path_type=Path))
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--recipe",
    default="bag-of-tricks",
    help="Name of a recipe, or a YAML or JSON file.",
)
@click.option(
    "--search",
    required=True,
    metavar="YAML",
    help="The fields to search, as text or a file. For example "
    '"{base_rate: {low: 0.01, high: 1, log: true}, mixup: {choices: [0, 0.2]}}".',
)
@click.option(
    "--trials",
    type=click.IntRange(1),
    required=True,
    help="How many runs in all; a larger number continues a finished sweep.",
)
@click.option(
    "--sampler",
    type=click.Choice(["tpe", "random"]),
    default="tpe",
    show_default=True,
    help="How values are chosen: tpe learns from the trials before, after the first "
    "ten.",
)
@json_option
@recipe_options
def sweep(
    data: Path,
    folder: Path,
    recipe: str,
    search: str,
    trials: int,
    sampler: str,
    as_json: bool,
    **fields: Any,
) -> None:
    """Search fields of a recipe for the best result on the validation images of DATA.

    Each trial is a run, FOLDER/0000 and so on, with values that Optuna suggests. Repeat
    the command to resume: the sweep ends with the same result. Ctrl-C, SIGTERM and
    SIGUSR1 stop a trial with exit code 75. FOLDER/sweep.png shows the result over each
    field, and FOLDER/trials.json lists the trials.
    """
    space = _space(search)
    from keras_resnet.train import sweeps

    chosen = chosen_recipe(recipe, fields, folder / "0000")

    @contextlib.contextmanager
    def progress(run: Path, trial: Recipe) -> Iterator[Any]:
        if not as_json:
            values = {name: getattr(trial, name) for name in space}
            out.print(plain(f"{run}: {_text(values)}"))
        with training_bar(trial, as_json) as bar:
            yield bar

    rows = sweeps.sweep(chosen, data, folder, space, trials, sampler, progress)
    best = rows[0]["run"]
    table = make_table(
        None,
        "run",
        *space,
        chosen.monitor,
        "epoch",
        rows=[
            (
                row["run"],
                *map(_text, row["fields"].values()),
                "failed" if row["failed"] else f"{row['value']:.2%}",
                row["epoch"] or "-",
            )
            for row in rows
        ],
    )
    note = (
        f"{folder}/sweep.png shows the trials; the best is {best}, a MODEL for the "
        f"other commands, and {best}/best.keras is its best epoch"
    )
    result = {"path": str(folder), "monitor": chosen.monitor, "trials": rows}
    print_result(result, as_json, table, plain(note))


def _space(search: str) -> Mapping[str, Any]:
    """The value of a YAML text, or of the file that it names."""
    try:
        space = read_yaml(search)
        if isinstance(space, str):
            space = read_yaml(Path(search).read_text())
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise RecipeError(
            f"search={search!r}: is neither YAML nor a readable file ({error})"
        ) from error
    return space


def _text(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_text(it)}" for key, it in value.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)
