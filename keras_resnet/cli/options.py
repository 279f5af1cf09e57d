"""Recipes as options: a name or a file, and one option a field."""

import dataclasses
import inspect
import re
from pathlib import Path

import click
import yaml

from keras_resnet.errors import RecipeError
from keras_resnet.opening import net_fields
from keras_resnet.recipe import FIELD_TYPES, Recipe, read_yaml
from keras_resnet.recipes import RECIPES
from keras_resnet.runs import layout

_PLAIN = (int, float, str, bool)


def recipe_options(command):
    """One option a field of Recipe, typed as the field is."""
    notes = _notes()
    for field in reversed(dataclasses.fields(Recipe)):
        kind = FIELD_TYPES[field.name]
        plain = kind in _PLAIN
        command = click.option(
            f"--{field.name.replace('_', '-')}",
            field.name,
            type=kind if plain else str,
            help=notes.get(field.name, "") + ("" if plain else " (as YAML)"),
        )(command)
    return command


def _notes():
    """{field: the comment beside it}, which says what it is and in which unit."""
    try:
        source = inspect.getsource(Recipe)
    except OSError:  # not every installation has it
        return {}
    return dict(re.findall(r"^    (\w+): .*?  # (.+)$", source, re.M))


def chosen_recipe(recipe, fields, run=None):
    """The recipe of a name or a file, with the fields given as options.

    Weights of a run or a file of ours bring their net along, if none is given; a `run`
    that began with them has it too, and goes on without the file.
    """
    if recipe in RECIPES:
        chosen = RECIPES[recipe]
    elif Path(recipe).is_file():
        chosen = Recipe.read(recipe)
    else:
        raise click.BadParameter(
            f"{recipe!r}: no such file, nor one of {', '.join(RECIPES)}",
            param_hint="--recipe",
        )
    given = {key: value for key, value in fields.items() if value is not None}
    for key in given:
        if FIELD_TYPES[key] not in _PLAIN:
            try:
                given[key] = read_yaml(given[key])
            except yaml.YAMLError as error:
                raise RecipeError(f"{key}={given[key]!r}: must be YAML") from error
    if "weights" in given and given.keys().isdisjoint({"model", "overrides"}):
        # of our own they say which net they are of
        given |= _net_begun(run, given["weights"]) or net_fields(given["weights"])
    return chosen.replace(**given)


def _net_begun(run, weights):
    if run is None or not (run / layout.RECIPE).is_file():
        return {}
    began = Recipe.read(run / layout.RECIPE)
    same = began.weights == weights
    return {"model": began.model, "overrides": began.overrides} if same else {}
