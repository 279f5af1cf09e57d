"""The options that give a recipe: a name or a file, and one option for each field."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import yaml

from keras_resnet.errors import RecipeError
from keras_resnet.recipe import FIELD_TYPES, Recipe, read_yaml
from keras_resnet.recipes import RECIPES
from keras_resnet.runs import layout

_PLAIN = (int, float, str, bool)
_FIELDS = {field.name: field for field in dataclasses.fields(Recipe)}


def recipe_options(command: Callable) -> Callable:
    """Adds one option for each field of Recipe, of the same type as the field."""
    for field in reversed(_FIELDS.values()):
        kind = FIELD_TYPES[field.name]
        command = click.option(
            f"--{field.name.replace('_', '-')}",
            field.name,
            type=kind if kind in _PLAIN else str,
            metavar=None if kind in _PLAIN else "YAML",
            help=_help_of(field),
        )(command)
    return command


def _help_of(field: dataclasses.Field) -> str:
    """The help text of a field, with its choices, an example and its default."""
    text = field.metadata["help"]
    if choices := [choice for choice in field.metadata.get("choices", ()) if choice]:
        text += f" One of {', '.join(choices)}."
    if example := field.metadata.get("example"):
        text += f' For example "{example}".'
    default = getattr(Recipe(), field.name)
    if isinstance(default, float):
        default = f"{default:.4g}"
    return f"{text} [default: {default if default or default == 0 else 'none'}]"


class RecipeCommand(click.Command):
    """A command that lists the options of the recipe in groups in its help text."""

    def format_options(
        self, ctx: click.Context, formatter: click.HelpFormatter
    ) -> None:
        groups: dict[str, list] = defaultdict(list)
        for parameter in self.get_params(ctx):
            field = _FIELDS.get(parameter.name or "")
            if record := parameter.get_help_record(ctx):
                groups[field.metadata["group"] if field else "command"].append(record)
        for name, records in groups.items():
            title = "Options" if name == "command" else f"Recipe: {name}"
            with formatter.section(title):
                formatter.write_dl(records)


def chosen_recipe(recipe: str, fields: dict, run: Path | None = None) -> Recipe:
    """The recipe with this name or in this file, with the fields given as options.

    If `weights` is given without `model` or `overrides`, these are taken from the
    weights' run directory or file, if it describes its net. If `run` was started from
    the same weights, they are taken from its recipe, so that resuming does not need the
    weights any more.
    """
    if recipe in RECIPES:
        chosen = RECIPES[recipe]
    elif Path(recipe).is_file():
        chosen = Recipe.read(recipe)
    else:
        raise click.BadParameter(
            f"{recipe!r}: neither a file nor one of {', '.join(RECIPES)}",
            param_hint="--recipe",
        )
    given: dict[str, Any] = {k: v for k, v in fields.items() if v is not None}
    for name in given:
        if FIELD_TYPES[name] not in _PLAIN:
            try:
                given[name] = read_yaml(given[name])
            except yaml.YAMLError as error:
                raise RecipeError(f"{name}={given[name]!r}: must be YAML") from error
    if "weights" in given and given.keys().isdisjoint({"model", "overrides"}):
        given |= _net_of_run(run, given["weights"]) or _net_of(given["weights"])
    return chosen.replace(**given)


def _net_of(weights: str) -> dict:
    from keras_resnet.opening import net_fields

    return net_fields(weights)


def _net_of_run(run: Path | None, weights: str) -> dict:
    if run is None or not (run / layout.RECIPE).is_file():
        return {}
    recipe = Recipe.read(run / layout.RECIPE)
    same = recipe.weights == weights
    return {"model": recipe.model, "overrides": recipe.overrides} if same else {}
