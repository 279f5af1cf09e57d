"""The commands that make models: recipes, train, demo."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from keras_resnet import data as datasets
from keras_resnet.cli.base import (
    err,
    group,
    json_option,
    make_table,
    out,
    plain,
    print_result,
)
from keras_resnet.cli.models import measure, metrics_table, metrics_tables
from keras_resnet.cli.options import RecipeCommand, chosen_recipe, recipe_options
from keras_resnet.recipe import FIELD_TYPES, Recipe
from keras_resnet.recipes import RECIPES

_COLUMN = 26  # characters that a recipe takes in a table


@group.command("recipes")
@click.option(
    "--show", metavar="NAME", help="Print a single recipe, and draw its learning rate."
)
@click.option(
    "--output", default="rate.png", show_default=True, help="PNG of the learning rate."
)
@json_option
def recipes_command(show: str | None, output: str, as_json: bool) -> None:
    """Print the recipes side by side, or a single one as YAML."""
    if show:
        from keras_resnet.train.curves import rate_curve

        chosen = chosen_recipe(show, {})
        Path(output).write_bytes(rate_curve(chosen))
        table = make_table(chosen.name, "field", "value", rows=_rows([chosen]))
        note = f"its rate, epoch by epoch, is in {output}"
        return print_result(
            {**chosen.to_dict(), "rate_curve": output}, as_json, table, note
        )
    some = list(RECIPES.values())
    rows = [row for row in _rows(some) if len({*row[1:]}) > 1]
    tables = []
    abreast = max(out.width // _COLUMN - 1, 1)
    for first in range(1, 1 + len(some), abreast):
        titles, *values = ([row[0], *row[first : first + abreast]] for row in rows)
        tables.append(make_table(None, *titles, rows=values))
    whole = {recipe.name: recipe.to_dict() for recipe in some}
    print_result(whole, as_json, *tables, "--show NAME prints a single one")


def _rows(recipes: Sequence[Recipe]) -> list[list[str]]:
    """Rows of a field and its value in each recipe, with rounded numbers."""

    def said(value: object) -> str:
        if isinstance(value, dict):
            return ", ".join(f"{key} {said(value[key])}" for key in value) or "-"
        if isinstance(value, (list, tuple)):
            return " ".join(map(said, value)) or "-"
        return f"{value:.4g}" if isinstance(value, float) else str(value) or "-"

    return [
        [name, *(said(getattr(recipe, name)) for recipe in recipes)]
        for name in FIELD_TYPES
    ]


@group.command(cls=RecipeCommand)
@click.argument("data", type=click.Path(path_type=Path))
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--recipe",
    default="bag-of-tricks",
    help="Name of a recipe, or a YAML or JSON file.",
)
@click.option(
    "--audit", is_flag=True, help="Print which variables decay, and do not train."
)
@click.option(
    "--checkpoint-steps",
    type=click.IntRange(0),
    default=0,
    help="Batches between checkpoints; 0 writes none by steps.",
)
@click.option(
    "--checkpoint-seconds",
    type=click.FloatRange(0),
    default=600.0,
    show_default=True,
    help="Seconds between checkpoints; 0 writes none by time.",
)
@click.option(
    "--keep",
    type=click.IntRange(2),
    default=2,
    show_default=True,
    help="Number of newest checkpoints to keep, besides the best epoch's.",
)
@json_option
@recipe_options
def train(
    data: Path,
    run: Path,
    recipe: str,
    audit: bool,
    checkpoint_steps: int,
    checkpoint_seconds: float,
    keep: int,
    as_json: bool,
    **fields: Any,
) -> None:
    """Train a recipe on DATA into the directory RUN; repeat the command to resume.

    A run that was stopped or killed resumes to the same result. Ctrl-C, SIGTERM and
    SIGUSR1 write a checkpoint and end the command with exit code 75.
    """
    from keras_resnet import train as training
    from keras_resnet.train.build import build

    chosen = chosen_recipe(recipe, fields, run)
    # once: it looks at every file
    source, skipped = datasets.without_bad(data, chosen.max_bad_examples)
    if audit:
        steps = datasets.steps_per_epoch(source, chosen)
        setup = build(chosen, source.class_names, steps)
        return _print_audit(setup.model, as_json)
    if skipped and not as_json:
        said = f"{len(skipped)} bad pictures left out; {run}/data.json lists them"
        out.print(plain(said))
    if training.is_finished(chosen, source, run) and not as_json:
        out.print(plain(f"{run} is trained already"))
    with training_bar(chosen, as_json) as bar:
        model = training.fit(
            chosen,
            source,
            run,
            bar,
            checkpoint_steps=checkpoint_steps,
            checkpoint_seconds=checkpoint_seconds,
            keep=keep,
        )
    metrics = measure(model, source, "val", as_json, Path(run))
    where = plain(f"everything is in {run}")
    print_result(metrics, as_json, *metrics_tables(metrics), where)


def _print_audit(model: Any, as_json: bool) -> None:
    from keras_resnet.train.build import audit

    rows = audit(model)
    table = make_table(
        None,
        "variable",
        "shape",
        "decays",
        "rate",
        rows=[
            (
                row["variable"],
                " x ".join(map(str, row["shape"])),
                "yes" if row["decays"] else "no",
                f"x {row['rate']:g}" if row["rate"] else "frozen",
            )
            for row in rows
        ],
    )
    decayed = sum(row["decays"] for row in rows)
    print_result(rows, as_json, table, f"{decayed} of {len(rows)} variables decay")


@group.command("status")
@click.argument("run", type=click.Path(path_type=Path))
@json_option
def status_command(run: Path, as_json: bool) -> None:
    """Show the status of the run in RUN, its checkpoints and its history.

    The exit code is 1 if a checkpoint is damaged.
    """
    from keras_resnet.runs.status import status

    facts = status(run)
    print_result(facts, as_json, *_status_tables(facts))
    if any(row["problem"] for row in facts["checkpoints"]):
        raise click.exceptions.Exit(1)


def _status_tables(facts: Mapping[str, Any]) -> Iterator[Table]:
    best = facts["best"]
    rows = [
        ("recipe", f"{facts['recipe']}, {facts['model']}"),
        (
            "state",
            (facts["process"] and f"running: {facts['process']}")
            or (facts["early"] and f"finished early: {facts['early']}")
            or facts["state"],
        ),
        ("epochs done", f"{facts['epoch']} of {facts['epochs']}"),
        ("batches of the next", facts["batch"]),
    ]
    if best and best["val_top1"] is not None:
        rows.append(("best top-1", f"{best['val_top1']:.2%}, epoch {best['epoch']}"))
    yield make_table(plain(facts["run"]), "run", "", rows=rows)
    yield make_table(
        None,
        "checkpoint",
        "MB",
        "every byte verified",
        rows=[
            (row["name"], f"{row['bytes'] / 1e6:.1f}", row["problem"] or "yes")
            for row in facts["checkpoints"]
        ],
    )
    yield make_table(
        None,
        "epoch",
        "rate",
        "loss",
        "top-1",
        "held out: loss",
        "top-1",
        rows=[
            (
                row["epoch"],
                f"{row['rate']:.3g}",
                f"{row['loss']:.4f}",
                f"{row['top1']:.2%}",
                f"{row['val_loss']:.4f}" if "val_loss" in row else "-",
                f"{row['val_top1']:.2%}" if "val_top1" in row else "-",
            )
            for row in facts["history"]
        ],
    )


@group.command()
@click.option("--run", default="runs/demo", show_default=True)
@click.option("--data", default="runs/digits", show_default=True)
@json_option
def demo(run: str, data: str, as_json: bool) -> None:
    """Train, evaluate, export and serve on small digits, in about a minute."""

    from keras_resnet import demo as demonstration

    def say(line: str) -> None:
        (err if as_json else out).print(line)

    with training_bar(RECIPES["demo"], as_json) as bar:
        metrics = demonstration.run(run, data, say, bar)
    rows = [(Path(run) / name, what) for name, what in demonstration.LEFT.items()]
    table = make_table(None, "left behind", "", rows=rows)
    print_result(metrics, as_json, metrics_table(metrics), table)


@contextlib.contextmanager
def training_bar(recipe: Recipe, as_json: bool) -> Iterator[Any]:
    from keras_resnet.backend import keras
    from keras_resnet.train.progress import TrainingBar

    # with --json one that says nothing, not even the precision
    bar = keras.callbacks.Callback() if as_json else TrainingBar(recipe, out, err)
    try:
        yield bar
    finally:  # an interrupted bar would leave the terminal without a cursor
        if not as_json and bar.bar.live.is_started:
            bar.bar.stop()
