"""The commands for training: recipes, train, status, demo."""

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
from keras_resnet.cli.evaluating import measure, metrics_table, metrics_tables
from keras_resnet.cli.options import RecipeCommand, chosen_recipe, recipe_options
from keras_resnet.recipe import FIELD_TYPES, Recipe
from keras_resnet.recipes import RECIPES
from keras_resnet.tasks import TASKS

_COLUMN = 26  # characters, the width of a recipe's column


@group.command("recipes")
@click.option(
    "--show", metavar="NAME", help="Show all fields of one recipe, a name or a file."
)
@click.option(
    "--output",
    default="rate.png",
    show_default=True,
    help="PNG file for the learning rate curve of that recipe.",
)
@json_option
def recipes_command(show: str | None, output: str, as_json: bool) -> None:
    """Compare the recipes, or show one and save its learning rate curve as a PNG."""
    if show:
        from keras_resnet.train.curves import rate_curve

        chosen = chosen_recipe(show, {})
        Path(output).write_bytes(rate_curve(chosen))
        table = make_table(chosen.name, "field", "value", rows=_rows([chosen]))
        note = f"the learning rate of each epoch is plotted in {output}"
        return print_result(
            {**chosen.to_dict(), "rate_curve": output}, as_json, table, note
        )
    recipes = list(RECIPES.values())
    rows = [row for row in _rows(recipes) if len({*row[1:]}) > 1]
    tables = []
    per_table = max(out.width // _COLUMN - 1, 1)
    for first in range(1, 1 + len(recipes), per_table):
        titles, *values = ([row[0], *row[first : first + per_table]] for row in rows)
        tables.append(make_table(None, *titles, rows=values))
    result = {recipe.name: recipe.to_dict() for recipe in recipes}
    note = "fields that do not differ are omitted; --show NAME prints all of a recipe"
    print_result(result, as_json, *tables, note)


def _rows(recipes: Sequence[Recipe]) -> list[list[str]]:
    """[field, its value in each recipe] for each field, with rounded numbers."""

    def to_text(value: object) -> str:
        if isinstance(value, dict):
            return ", ".join(f"{key} {to_text(value[key])}" for key in value) or "-"
        if isinstance(value, (list, tuple)):
            return " ".join(map(to_text, value)) or "-"
        return f"{value:.4g}" if isinstance(value, float) else str(value) or "-"

    return [
        [name, *(to_text(getattr(recipe, name)) for recipe in recipes)]
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
@click.option("--audit", is_flag=True, help="Print which variables decay, and exit.")
@click.option(
    "--checkpoint-steps",
    type=click.IntRange(0),
    default=0,
    help="Batches between two checkpoints, in addition to those by time; 0: none.",
)
@click.option(
    "--checkpoint-seconds",
    type=click.FloatRange(0),
    default=600.0,
    show_default=True,
    help="Seconds between two checkpoints; 0: none.",
)
@click.option(
    "--keep",
    type=click.IntRange(2),
    default=2,
    show_default=True,
    help="Checkpoints to keep, in addition to the best epoch's.",
)
@click.option(
    "--devices",
    metavar="all|N",
    help="Devices of this machine that share each batch. [default: all GPUs, or one "
    "CPU device]",
)
@click.option(
    "--coordinator",
    metavar="HOST:PORT",
    help="The address of process 0, if several processes train together without a "
    "launcher that tells them.",
)
@click.option("--processes", type=click.IntRange(1), help="How many processes.")
@click.option(
    "--process", type=click.IntRange(0), help="Which of them this is, from 0."
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
    devices: str | None,
    coordinator: str | None,
    processes: int | None,
    process: int | None,
    as_json: bool,
    **fields: Any,
) -> None:
    """Train a recipe on DATA into the directory RUN; repeat the command to resume.

    A run that was stopped or killed, or ran out of disk space, resumes from its last
    checkpoint, and ends with the same result. Ctrl-C, SIGTERM and SIGUSR1 stop it with
    a checkpoint and exit code 75.

    On several machines, the same command under srun, mpirun or Kubeflow's JAX runtime,
    or with --coordinator, --processes and --process, trains one run with all of them.
    """
    from keras_resnet.train.processes import find_job, joined

    job = find_job(coordinator, processes, process)
    is_first = job is None or job.index == 0
    with joined(job):
        # these import Keras, which must wait for `joined`
        from keras_resnet import train as training
        from keras_resnet.train.build import build

        chosen = chosen_recipe(recipe, fields, run)
        # only once, since this reads every file
        source, skipped = datasets.without_bad(
            data, chosen.max_bad_examples, task=chosen.task
        )
        if audit:
            steps = datasets.steps_per_epoch(source, chosen)
            several = source.several_labels
            setup = build(chosen, source.class_names, steps, several_labels=several)
            return _print_audit(setup.model, as_json)
        quiet = as_json or not is_first
        if skipped and not quiet:
            note = f"{len(skipped)} bad images are left out; {run}/data.json lists them"
            out.print(plain(note))
        if training.is_finished(chosen, source, run) and not quiet:
            out.print(plain(f"{run} is already trained"))
        with training_bar(chosen, quiet) as bar:
            model = training.fit(
                chosen,
                source,
                run,
                bar,
                checkpoint_steps=checkpoint_steps,
                checkpoint_seconds=checkpoint_seconds,
                keep=keep,
                devices=devices,
            )
    if not is_first:
        return
    metrics = measure(model, source, "val", as_json, Path(run))
    where = plain(f"all results are in {run}")
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
    """Show the progress of the run in RUN, its checkpoints and its history.

    Every checkpoint is verified; the exit code is 1 if one is damaged.
    """
    from keras_resnet.runs.status import status

    state = status(run)
    print_result(state, as_json, *_status_tables(state))
    if any(row["problem"] for row in state["checkpoints"]):
        raise click.exceptions.Exit(1)


def _status_tables(state: Mapping[str, Any]) -> Iterator[Table]:
    best = state["best"]
    rows = [
        ("recipe", f"{state['recipe']}, {state['model']}"),
        (
            "state",
            (state["process"] and f"running: {state['process']}")
            or (state["early"] and f"finished early: {state['early']}")
            or state["state"],
        ),
        ("epochs done", f"{state['epoch']} of {state['epochs']}"),
        ("batches of the next epoch", state["batch"]),
    ]
    task = TASKS[state["task"]]
    if best and (value := best[f"val_{task.measure}"]) is not None:
        rows.append((f"best {task.label}", f"{value:.2%}, epoch {best['epoch']}"))
    yield make_table(plain(state["run"]), "run", "", rows=rows)
    yield make_table(
        None,
        "checkpoint",
        "MB",
        "intact",
        rows=[
            (row["name"], f"{row['bytes'] / 1e6:.1f}", row["problem"] or "yes")
            for row in state["checkpoints"]
        ],
    )
    columns = {
        "rate": ("rate", ".3g"),
        "loss": ("loss", ".4f"),
        task.measure: (task.label, ".2%"),
        "val_loss": ("val loss", ".4f"),
        f"val_{task.measure}": (f"val {task.label}", ".2%"),
    }
    yield make_table(
        None,
        "epoch",
        *(label for label, _ in columns.values()),
        rows=[
            (
                row["epoch"],
                *(
                    format(row[name], form) if name in row else "-"
                    for name, (_, form) in columns.items()
                ),
            )
            for row in state["history"]
        ],
    )


@group.command()
@click.option("--run", default="runs/demo", show_default=True)
@click.option("--data", default="runs/digits", show_default=True)
@json_option
def demo(run: str, data: str, as_json: bool) -> None:
    """Train and serve a classifier of handwritten digits, in about a minute."""

    from keras_resnet import demo as demonstration

    def say(line: str) -> None:
        (err if as_json else out).print(line)

    with training_bar(RECIPES["demo"], as_json) as bar:
        metrics = demonstration.run(run, data, say, bar)
    rows = [(Path(run) / name, what) for name, what in demonstration.LEFT.items()]
    table = make_table(None, "written", "", rows=rows)
    print_result(metrics, as_json, metrics_table(metrics), table)


@contextlib.contextmanager
def training_bar(recipe: Recipe, as_json: bool) -> Iterator[Any]:
    """A callback that shows the progress of training, or nothing with `as_json`."""
    from keras_resnet.backend import keras
    from keras_resnet.train.progress import TrainingBar

    # with --json not even the precision may be printed
    bar = keras.callbacks.Callback() if as_json else TrainingBar(recipe, out, err)
    try:
        yield bar
    finally:  # an interrupted bar would leave the terminal without a cursor
        if not as_json and bar.bar.live.is_started:
            bar.bar.stop()
