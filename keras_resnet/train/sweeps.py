"""Tunes fields of a recipe: trials that Optuna suggests, each a run of its own."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_resnet import data as pictures
from keras_resnet.drawing import attempted, png
from keras_resnet.errors import Diverged, RecipeError, RunError
from keras_resnet.files import PARTIAL, write_whole
from keras_resnet.recipe import FIELD_TYPES, Recipe, checked
from keras_resnet.runs import layout
from keras_resnet.runs.history import best_place
from keras_resnet.train.training import fit, former_fields, is_finished

SAMPLERS = {"tpe": "TPESampler", "random": "RandomSampler"}  # of optuna.samplers
_FORM = "{low: ..., high: ..., log: true or false} or {choices: [...]}"

Space = Mapping[str, Mapping[str, Any]]
Row = dict[str, Any]


def sweep(
    recipe: Recipe,
    data: Any,
    folder: str | os.PathLike[str],
    space: Space,
    trials: int,
    sampler: str = "tpe",
    progress: Callable[[Path, Recipe], Any] = lambda *_: contextlib.nullcontext(),
) -> list[Row]:
    """Trains a recipe with several values of some fields; the same call resumes it.

    Each trial is a run that `fit` trains, folder/0000 and so on. Its values depend on
    `recipe.seed` and the trials before it alone, which are read from the folder, so
    that a sweep that was stopped or killed ends as it would have without. The folder
    also gets sweep.json, which tells one sweep from another, trials.json and sweep.png.

    A trial whose fields do not fit together, or whose loss is no longer finite, counts
    as failed: failed.json in its directory says why, and the next trial begins.

    Args:
        recipe: a Recipe, for all fields that are not searched. The value of a trial is
            the `monitor` of its best epoch, the higher the better.
        data: what `fit` takes.
        folder: the directory of the sweep, which is created if needed.
        space: {field of the recipe: {"low": least, "high": most, "log": whether the
            scale is logarithmic} for a number, or {"choices": [value, ...]}}.
        trials: the number of trials, 1 or more. A larger one continues a sweep.
        sampler: "tpe" for Optuna's tree-structured Parzen estimator (arXiv 2304.11127),
            whose first ten trials are random, or "random".
        progress: a function of a trial's directory and recipe. It returns a context
            with a Keras callback that shows the training, or None.

    Returns:
        A row for each trial, the best first: {"run": its directory, "fields": {name:
        value}, "value": the best `monitor` or None, "epoch": the epoch of that or None,
        "failed": why it failed, or ""}.

    Raises:
        RecipeError: an argument is invalid, or Optuna is not installed.
        RunError: the folder belongs to another sweep or has other files, every trial
            failed, or what `fit` raises it for, but for a loss that is not finite.
        Interrupted: a signal stopped a trial, as `fit` raises it.
        DataError, ModelError, WeightsError: as `fit` raises them.

    Examples:

    >>> space = {"base_rate": {"low": 0.01, "high": 1, "log": True}}
    >>> best = sweep(RECIPES["fine-tune"], "photos", "sweeps/rate", space, 20)[0]
    """
    try:
        import optuna
    except ImportError as error:
        raise RecipeError(
            f"sampler={sampler!r}: needs Optuna; pip install keras-resnet-d[sweep]"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if not isinstance(space, Mapping) or not space:
        raise RecipeError(f"space={space!r}: must map fields of a recipe to {_FORM}")
    space = {name: _checked_axis(name, axis) for name, axis in space.items()}
    if trials < 1:
        raise RecipeError(f"trials={trials}: must be 1 or more")
    if sampler not in SAMPLERS:
        raise RecipeError(f"sampler={sampler!r}: must be one of {', '.join(SAMPLERS)}")
    folder = Path(folder)
    source, _ = pictures.without_bad(data, recipe.max_bad_examples, task=recipe.task)
    identity = {"data_hash": source.fingerprint, "space": space, "sampler": sampler}
    former = former_fields(folder / "sweep.json")
    recipe = recipe.replace(**former)
    _claim(folder, recipe.to_dict() | identity, former)
    rows: list[Row] = []
    try:
        for number in range(trials):
            run = folder / f"{number:04d}"
            fields = _begun(run, space) or suggest(recipe, space, sampler, rows)
            rows.append(_trial(recipe, fields, source, run, progress))
    finally:
        write_whole(folder / "trials.json", json.dumps(rows, indent=1))
        with attempted(folder / "sweep.png"):
            picture = sweep_plot(rows, space, recipe.monitor)
            write_whole(folder / "sweep.png", picture)
    if all(row["failed"] for row in rows):
        raise RunError(f"{folder}: every trial failed, as {rows[0]['failed']}")
    return sorted(
        rows, key=lambda row: -1.0 if row["failed"] else row["value"], reverse=True
    )


def _checked_axis(name: str, axis: Any) -> dict[str, Any]:
    """A field's part of the space with values of its type; RecipeError if invalid."""
    given = f"{name}={axis!r}"
    keys = axis.keys() if isinstance(axis, Mapping) else set()
    if name in ("monitor", "task"):
        raise RecipeError(f"{given}: cannot be searched, as it says what is compared")
    if keys == {"choices"} and isinstance(axis["choices"], list) and axis["choices"]:
        return {"choices": [checked(name, choice) for choice in axis["choices"]]}
    if not {"low", "high"} <= keys <= {"low", "high", "log"}:
        raise RecipeError(f"{given}: must be {_FORM}")
    if FIELD_TYPES.get(name, int) not in (int, float):
        raise RecipeError(
            f"{given}: the field is not a number; give {{choices: [...]}}"
        )
    low, high = checked(name, axis["low"]), checked(name, axis["high"])
    log = axis.get("log", False)
    if type(log) is not bool or not low < high or (log and low <= 0):
        raise RecipeError(
            f"{given}: low must be less than high, and above 0 if log is true"
        )
    return {"low": low, "high": high, "log": log}


def _claim(folder: Path, identity: dict[str, Any], former: dict[str, Any]) -> None:
    """Writes sweep.json; RunError if the folder has trials of another sweep."""
    identity, path = json.loads(json.dumps(identity)), folder / "sweep.json"
    folder.mkdir(parents=True, exist_ok=True)
    names = {it.name for it in folder.iterdir() if not it.name.startswith(PARTIAL)}
    if names and path.name not in names:
        raise RunError(f"{folder}: contains files, but no sweep; use an empty folder")
    if names > {path.name}:
        # with values of the fields that the sweep's version did not have yet
        stored = Recipe().to_dict() | former | layout.read_json(path)
        differing = [
            f"{key} is {stored.get(key)!r} there and {value!r} here"
            for key, value in identity.items()
            if stored.get(key) != value
        ]
        if differing:
            raise RunError(
                f"{folder}: belongs to another sweep: {'; '.join(differing)}. Choose "
                "another folder; only the number of trials may differ"
            )
    kept = {name: value for name, value in identity.items() if name not in former}
    write_whole(path, json.dumps(kept, indent=1))


def _begun(run: Path, space: Space) -> dict[str, Any] | None:
    """The searched fields of a trial that was begun, or None."""
    for name in (layout.FAILED, layout.RECIPE):
        if (run / name).is_file():
            values = layout.read_json(run / name)
            values = values.get("fields", values)
            return {field: checked(field, values[field]) for field in space}
    return None


def suggest(
    recipe: Recipe, space: Space, sampler: str, rows: Sequence[Row]
) -> dict[str, Any]:
    """The fields of the next trial, which the trials before it and the seed determine.

    Args:
        recipe: a Recipe, for its seed.
        space: as in `sweep`, with "log" in each range.
        sampler: a key of SAMPLERS.
        rows: the trials before, in their order. Failed ones count as the worst.

    Returns:
        {field: value}.
    """
    import optuna

    kinds, states = optuna.distributions, optuna.trial.TrialState
    numbers = {int: kinds.IntDistribution, float: kinds.FloatDistribution}
    seed = np.random.SeedSequence([recipe.seed, len(rows)]).generate_state(1)[0]
    chosen = getattr(optuna.samplers, SAMPLERS[sampler])(seed=int(seed))
    with warnings.catch_warnings():  # of choices that a database could not hold
        warnings.simplefilter("ignore")
        axes = {
            name: kinds.CategoricalDistribution(axis["choices"])
            if "choices" in axis
            else numbers[FIELD_TYPES[name]](**axis)
            for name, axis in space.items()
        }
        study = optuna.create_study(direction="maximize", sampler=chosen)
        for row in rows:
            trial = optuna.trial.create_trial(
                state=states.PRUNED if row["failed"] else states.COMPLETE,
                value=row["value"],
                params=row["fields"],
                distributions=axes,
            )
            study.add_trial(trial)
        return study.ask(axes).params


def _trial(
    recipe: Recipe,
    fields: dict[str, Any],
    source: Any,
    run: Path,
    progress: Callable[[Path, Recipe], Any],
) -> Row:
    """The row of a trial, which is trained unless it has finished or failed."""
    row = {"run": str(run), "fields": fields, "value": None, "epoch": None}
    try:
        if (run / layout.FAILED).is_file():
            raise RecipeError(layout.read_json(run / layout.FAILED)["failed"])
        trial = recipe.replace(**fields)
        if not is_finished(trial, source, run):
            with progress(run, trial) as bar:
                fit(trial, source, run, bar)
    except (RecipeError, Diverged) as error:
        why = " ".join(str(error).removeprefix(f"{run}: ").split())
        failed = {"fields": fields, "failed": why}
        run.mkdir(exist_ok=True)
        write_whole(run / layout.FAILED, json.dumps(failed, indent=1))
        print(f"{run}: failed: {why}", file=sys.stderr)
        return row | failed
    history = layout.read_json(run / layout.HISTORY, list)
    best = best_place(history, recipe.monitor)
    if best is None:
        raise RunError(f"{run}: its history has no epoch; remove it to train it again")
    value = history[best.epoch - 1][recipe.monitor]
    return row | {"value": value, "epoch": best.epoch, "failed": ""}


def sweep_plot(rows: Sequence[Row], space: Space, monitor: str) -> bytes:
    """Returns a PNG with a panel for each field: the trials' values over the field's.

    Args:
        rows: the trials, as `sweep` returns them; those that failed are left out.
        space: as `suggest` takes it.
        monitor: the label of the values.
    """
    from matplotlib.figure import Figure

    done = [row for row in rows if not row["failed"]]
    figure = Figure(figsize=(1 + 3 * len(space), 3.5), layout="constrained")
    panels = figure.subplots(1, len(space), sharey=True, squeeze=False).flat
    for axes, (name, axis) in zip(panels, space.items()):
        places = [row["fields"][name] for row in done]
        if "choices" in axis:
            places = [*map(str, places)]
        elif axis["log"]:
            axes.set(xscale="log")
            # `png` draws no formulas, which the usual labels of such an axis are
            ticks = np.geomspace(axis["low"], axis["high"], 4)
            axes.set_xticks(ticks, [f"{tick:.2g}" for tick in ticks])
            axes.minorticks_off()
        axes.plot(places, [row["value"] for row in done], "o", alpha=0.6)
        axes.set(xlabel=name)
        axes.grid(alpha=0.3)
    figure.supylabel(monitor)
    return png(figure)
