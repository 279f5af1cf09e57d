"""The command line: arguments, one call, a few lines of output."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
import typing
from pathlib import Path

import click
import keras
import yaml
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    track,
)
from rich.table import Table

import keras_resnet
from keras_resnet import data as pictures
from keras_resnet import demo as demonstration
from keras_resnet import evaluate as evaluation
from keras_resnet import export as exporting
from keras_resnet import train as training
from keras_resnet import weights
from keras_resnet.complexity import complexity
from keras_resnet.model import ModelError
from keras_resnet.recipe import RECIPES, Recipe, RecipeError
from keras_resnet.variants import open_model

_LISTED = 20  # bad pictures that `validate` prints
INTERRUPTED = 75  # EX_TEMPFAIL: the same command again goes on
out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False)


def main():
    """Runs the command line; failures are one line on stderr and exit code 1."""
    try:
        # not group.main, which prints a line of its own when it is interrupted
        with group.make_context("keras-resnet", sys.argv[1:]) as context:
            group.invoke(context)
    except click.exceptions.Exit as done:  # --help, --version
        sys.exit(done.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        _complain("interrupted; the same command again goes on from what is whole")
        sys.exit(INTERRUPTED)
    except (
        pictures.DataError,
        RecipeError,
        ModelError,
        training.RunError,
        demonstration.DemoError,
        keras_resnet.WeightsError,
    ) as error:
        _complain(error)
        sys.exit(1)
    except OSError as error:
        _complain(f"{error.filename or ''}: {error.strerror or error}")
        sys.exit(1)


def _complain(problem):
    one_line = " ".join(str(problem).split())
    click.echo(f"keras-resnet: {one_line}", err=True)


@click.group()
@click.version_option(keras_resnet.__version__, prog_name="keras-resnet")
def group():
    """ResNet-D: prepare pictures, train, evaluate, predict, export."""


json_option = click.option("--json", "as_json", is_flag=True, help="For machines.")


def _print(result, as_json, *tables):
    if as_json:
        click.echo(json.dumps(result))
    else:
        for table in tables:
            out.print(table)


def _table(title, *columns, rows):
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, justify="left" if column == columns[0] else "right")
    for row in rows:
        table.add_row(*map(_plain, row))
    return table


def _plain(value):
    """As it is: a file's name may have brackets, and bytes that are no UTF-8."""
    return escape(str(value).encode(errors="backslashreplace").decode())


@group.command("list")
@click.argument("pattern", default="*")
@json_option
def list_command(pattern, as_json):
    """Variants that match PATTERN, with parameters and multiply-adds at 224."""
    rows = [
        (name, *complexity(keras_resnet.VARIANTS[name]))
        for name in keras_resnet.list_models(pattern)
    ]
    _print(
        [dict(zip(("name", "parameters", "macs"), row)) for row in rows],
        as_json,
        _table(
            None,
            "variant",
            "parameters",
            "GMACs",
            rows=[(n, f"{p:,}", f"{m / 1e9:.3f}") for n, p, m in rows],
        ),
    )


@group.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("destination", type=click.Path(path_type=Path))
@click.option("--val", type=float, default=0.0, help="Share to hold out, as 0.2.")
@click.option("--seed", type=int, default=0, help="Of that split and of the order.")
@click.option("--resize", type=int, default=0, help="Longest short side, as 256.")
@click.option("--beam", metavar="OPTIONS", help="Of an Apache Beam pipeline.")
@json_option
def prepare(source, destination, val, seed, resize, beam, as_json):
    """Write SOURCE as TFRecord shards in DESTINATION; again, to go on.

    SOURCE is a folder of train/ and val/ classes, or of classes with --val, or of
    records; or tfds:NAME. The workers of --beam "--runner=FlinkRunner" share its disks.
    """
    quiet = as_json or not err.is_terminal
    with Progress(console=err, transient=True, disable=quiet) as bar:

        def show(them, total):
            return bar.track(them, total, description="writing")

        written = pictures.prepare(source, destination, val, seed, resize, beam, show)
    facts = {"path": str(destination), "classes": len(written.class_names)}
    for name in ("train", "val"):
        split = getattr(written, name)
        facts[name] = split.size if split else 0
    _print(facts, as_json, _table(None, "prepared", "", rows=facts.items()))


@group.command()
@click.argument("data", type=click.Path(path_type=Path))
@click.option(
    "--first-label",
    type=click.IntRange(0, 1),
    help="What TFRecords without dataset.json call their first class.",
)
@click.option("--classes", type=click.IntRange(1), help="How many, of those.")
@click.option("--seconds", type=float, default=10.0, help="That a picture may take.")
@click.option("--memory", type=float, default=2.0, help="GiB that a picture may take.")
@click.option("--workers", type=click.IntRange(1), help="Processes; one a core.")
@json_option
def validate(data, first_label, classes, seconds, memory, workers, as_json):
    """Look at every picture of DATA, and write its manifest, dataset.json.

    Exit code 1 if there are bad ones; training then needs --max-bad-examples.
    """
    quiet = as_json or not err.is_terminal
    with Progress(console=err, transient=True, disable=quiet) as bar:
        report = pictures.validate(
            data,
            first_label,
            classes,
            seconds,
            int(memory * 2**30),
            workers,
            progress=lambda them, total: bar.track(them, total, description="looking"),
        )
    _print(report, as_json, *_validate_tables(report))
    if report["manifest"] is None:
        _complain(report["problem"])
    if report["bad"] or report["manifest"] is None:
        raise click.exceptions.Exit(1)


def _validate_tables(report):
    def counts(what):
        return ", ".join(f"{name} {count:,}" for name, count in what.items())

    sizes = report["sizes"]
    classes = [sum(counts.values()) for counts in report["classes"].values()]
    duplicates = report["duplicates"]
    yield _table(
        _plain(report["path"]),
        "of the good pictures",
        "",
        rows=[
            ("formats", counts(report["formats"])),
            ("modes", counts(report["modes"])),
            ("EXIF orientations (ignored)", counts(report["exif"])),
            *(
                (f"{side}: min, median, max", ", ".join(f"{n:g}" for n in of.values()))
                for side, of in sizes.items()
                if side != "mean_bytes"
            ),
            ("bytes, mean", f"{sizes.get('mean_bytes', 0):,.0f}"),
            ("classes", len(classes)),
            ("pictures a class: min, max", f"{min(classes)}, {max(classes)}"),
            ("named as another format", report["misnamed"]["count"]),
            ("twice in one split", counts(duplicates["within"])),
            ("in both splits", duplicates["across"]),
            ("gone since the last look", report["gone"]["count"]),
        ],
    )
    for entry in report["bad"][:_LISTED]:
        yield _plain(f"{entry['where']}: {entry['reason']}")
    if len(report["bad"]) > _LISTED:
        yield f"... and {len(report['bad']) - _LISTED:,} more"
    total = sum(split["pictures"] for split in report["splits"].values())
    bad = f"{len(report['bad']):,} bad" if report["bad"] else "none bad"
    where = f"; {report['manifest']} lists them" if report["manifest"] else ""
    yield _plain(f"{total:,} pictures, {bad}{where}")


def _recipe_options(command):
    """One option a field of Recipe, typed as the field is."""
    hints = typing.get_type_hints(Recipe)
    for field in reversed(dataclasses.fields(Recipe)):
        kind = hints[field.name]
        plain = kind in (int, float, str, bool)
        command = click.option(
            f"--{field.name.replace('_', '-')}",
            field.name,
            type=kind if plain else str,
            help=None if plain else "As YAML.",
        )(command)
    return command


@group.command()
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--recipe", default="bag-of-tricks", help="A name, or a YAML/JSON file.")
@click.option("--output", default="preview.png", show_default=True, help="A PNG file.")
@json_option
@_recipe_options
def preview(data, recipe, output, as_json, **fields):
    """Save a grid of what training and evaluation see of DATA."""
    shown = pictures.preview(data, _chosen_recipe(recipe, fields), output)
    counts = ", ".join(f"{count} of {name}" for name, count in shown.items())
    _print({"path": output, **shown}, as_json, f"{counts} in {output}")


@group.command()
@click.argument("data", type=click.Path(path_type=Path))
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--recipe", default="bag-of-tricks", help="A name, or a YAML/JSON file.")
@json_option
@_recipe_options
def train(data, run, recipe, as_json, **fields):
    """Train a recipe on DATA into the directory RUN; again, to resume."""
    chosen = _chosen_recipe(recipe, fields)
    # once: it looks at every file
    source, skipped = pictures.without_bad(data, chosen.max_bad_examples)
    if skipped and not as_json:
        out.print(f"{len(skipped)} bad pictures left out; {run}/data.json lists them")
    if training.is_finished(chosen, source, run) and not as_json:
        out.print(f"{run} is trained already")
    with _training_bar(chosen, as_json) as bar:
        model = training.fit(chosen, source, run, bar)
    metrics = _measure(model, source, "val", as_json, Path(run))
    _print(metrics, as_json, _metrics_table(metrics), f"everything is in {run}")


def _chosen_recipe(recipe, fields):
    """The recipe of a name or a file, with the fields given as options."""
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
    for key in given.keys() & {"overrides", "boundaries", "scales"}:
        given[key] = yaml.safe_load(given[key])
    return chosen.replace(**given)


@group.command()
@click.argument("model")
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--split", type=click.Choice(["val", "train"]), default="val")
@click.option(
    "--max-bad-examples",
    type=click.IntRange(0),
    default=0,
    help="Pictures that cannot be decoded and may be left out.",
)
@click.option(
    "--views",
    type=click.Choice(evaluation.VIEWS),
    default="center",
    help="Looks at a picture: 1, 10, or whole at 5 scales and mirrored.",
)
@json_option
def evaluate(model, data, split, max_bad_examples, views, as_json):
    """Top-1, top-5 and loss of MODEL on DATA, each picture once."""
    usual = split == "val" and views == "center"
    run = Path(model) if Path(model).is_dir() and usual else None
    source, _ = pictures.without_bad(data, max_bad_examples, (split,))
    metrics = _measure(open_model(model), source, split, as_json, run, views)
    _print(metrics, as_json, _metrics_table(metrics))


def _measure(model, data, split, as_json, run=None, views="center"):
    def bar(batches):
        if as_json:
            return batches
        return track(batches, "evaluating", total=len(batches), console=err)

    metrics = evaluation.run(model, data, split, views=views, progress=bar)
    if run:
        training.write_whole(run / evaluation.METRICS, json.dumps(metrics, indent=1))
        evaluation.picture_grid(model, data, run / evaluation.GRID)
    return metrics


def _metrics_table(metrics):
    rows = [
        ("top-1", f"{metrics['top1']:.2%}"),
        ("top-5", f"{metrics['top5']:.2%}"),
        ("loss, nats", f"{metrics['loss']:.4f}"),
        ("pictures", metrics["examples"]),
        *[("left out", len(bad)) for bad in [metrics.get("bad_examples")] if bad],
    ]
    return _table(None, "measure", "value", rows=rows)


@group.command()
@click.argument("model")
@click.argument("picture", nargs=-1, required=True)
@click.option("--top", type=click.IntRange(1), default=5, help="Classes to show.")
@json_option
def predict(model, picture, top, as_json):
    """Classify pictures, or all those in folders, with MODEL."""
    results = evaluation.predict(open_model(model), picture, top)
    rows = [
        (
            result["file"],
            ", ".join(
                f"{name} {probability:.1%}"
                for name, probability in zip(result["classes"], result["probabilities"])
            ),
        )
        for result in results
    ]
    _print(results, as_json, _table(None, "picture", "classes", rows=rows))


@group.command()
@click.argument("model")
@click.argument("folder", type=click.Path(path_type=Path))
@json_option
def export(model, folder, as_json):
    """Write MODEL as FOLDER/<next version> for TensorFlow Serving."""
    version = exporting.save(open_model(model), folder)
    _print({"path": str(version)}, as_json, f"SavedModel in {version}")


@group.command()
@click.argument("source")
@click.argument("destination", type=click.Path(path_type=Path))
@click.option("--model", required=True, help="A variant, such as resnet50d.")
@click.option("--from", "dialect", default="auto", help="Dialect of SOURCE.")
@click.option("--to", default="keras_resnet", help="Dialect of DESTINATION.")
@click.option("--classes", type=click.IntRange(0), default=1000, show_default=True)
@json_option
def convert(source, destination, model, dialect, to, classes, as_json):
    """Write the weights file SOURCE in another dialect, as .safetensors or .npz."""
    if model not in keras_resnet.VARIANTS:
        raise click.BadParameter(
            f"{model!r}: see `keras-resnet list`", param_hint="--model"
        )
    for name, value in (("--from", dialect), ("--to", to)):
        if value not in ("auto", *weights.DIALECTS) or to == "auto":
            raise click.BadParameter(f"{value!r}: no dialect", param_hint=name)
    config = keras_resnet.VARIANTS[model]
    report = weights.convert(source, destination, config, classes, dialect, to)
    _print(dataclasses.asdict(report), as_json, f"{report}; written to {destination}")


@group.command()
@click.option("--run", default="runs/demo", show_default=True)
@click.option("--data", default="runs/digits", show_default=True)
@json_option
def demo(run, data, as_json):
    """Digits, from pictures to a served net, in about a minute."""

    def say(line):
        (err if as_json else out).print(line)

    with _training_bar(RECIPES["demo"], as_json) as bar:
        metrics = demonstration.run(run, data, say, bar)
    rows = [(Path(run) / name, what) for name, what in demonstration.LEFT.items()]
    table = _table(None, "left behind", "", rows=rows)
    _print(metrics, as_json, _metrics_table(metrics), table)


@contextlib.contextmanager
def _training_bar(recipe, as_json):
    bar = None if as_json else TrainingBar(recipe)
    try:
        yield bar
    finally:  # an interrupted bar would leave the terminal without a cursor
        if bar and bar.bar.live.is_started:
            bar.bar.stop()


class TrainingBar(keras.callbacks.Callback):
    """A bar over all batches, and a line an epoch."""

    def __init__(self, recipe):
        super().__init__()
        self.recipe = recipe
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=err,
            transient=True,
        )

    def on_train_begin(self, logs=None):
        policy = training.precision_policy(self.recipe)
        out.print(f"{self.recipe.model}, {self.recipe.name}, {policy}")
        self.steps = self.params["steps"]
        self.task = self.bar.add_task("", total=self.steps * self.recipe.epochs)
        self.bar.start()

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch
        text = f"epoch {epoch + 1}/{self.recipe.epochs}"
        self.bar.update(self.task, description=text, completed=epoch * self.steps)

    def on_train_batch_end(self, batch, logs=None):
        self.bar.update(self.task, completed=self.epoch * self.steps + batch + 1)

    def on_epoch_end(self, epoch, logs=None):
        self.bar.console.print(
            f"epoch {epoch + 1:3d}: loss {logs['loss']:.4f}, top-1 {logs['top1']:.2%}; "
            f"held out: loss {logs['val_loss']:.4f}, top-1 {logs['val_top1']:.2%}"
        )

    def on_train_end(self, logs=None):
        self.bar.stop()  # before the lines that follow
