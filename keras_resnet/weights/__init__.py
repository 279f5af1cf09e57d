"""Foreign checkpoints into our models: names, layouts, and nothing skipped silently."""

from __future__ import annotations

import os
import re
import zipfile
from dataclasses import dataclass

import numpy as np

from keras_resnet.weights.dialects import DIALECTS
from keras_resnet.weights.errors import WeightsError

# bookkeeping of the frameworks that no net of this family computes with
_IGNORED = re.compile(
    r"(.*\.)?num_batches_tracked|StructuredToParameterName@@|global_step"
    r"|.*/(Momentum|ExponentialMovingAverage)"
)


@dataclass(frozen=True)
class LoadReport:
    """What `load_weights` did, in names of the source."""

    dialect: str
    loaded: tuple[str, ...]
    ignored: tuple[str, ...]


def load_weights(model, source, dialect="auto"):
    """Loads a checkpoint into a model of this package, whole or not at all.

    Args:
        model: made by `create`.
        source: {name: array} in the dialect's names and layout, or a file that Keras
            wrote of such a model (.weights.h5, .keras).
        dialect: "timm", "gluon", "paddle", "slim", or "auto" for the one whose names
            the source has.

    Returns:
        A LoadReport.

    Raises:
        WeightsError: listing every missing, unexpected and misshaped tensor. The model
            keeps the weights that it had.
    """
    if isinstance(source, str | os.PathLike):
        return _load_keras_file(model, os.fspath(source))
    if dialect not in ("auto", *DIALECTS):
        raise ValueError(
            f"dialect={dialect!r}: must be one of auto, {', '.join(DIALECTS)}"
        )
    names = {_strip_scope(name): name for name in source}
    tables = {
        candidate: _names(model, candidate)
        for candidate in (DIALECTS if dialect == "auto" else [dialect])
    }
    dialect = max(tables, key=lambda key: len(tables[key].keys() & names.keys()))
    table = tables[dialect]
    values, missing, misshaped = [], [], []
    for name, variable in table.items():
        if name not in names:
            missing.append(name)
            continue
        value = DIALECTS[dialect].to_ours(np.asarray(source[names[name]]))
        if value.shape != tuple(variable.shape):
            misshaped.append(f"{name} {value.shape}, not {tuple(variable.shape)}")
        values.append((variable, value))
    extra = names.keys() - table.keys()
    ignored = sorted(name for name in extra if _IGNORED.fullmatch(name))
    problems = {
        "missing": missing,
        "unexpected": sorted(extra - set(ignored)),
        "misshaped (in our layout)": misshaped,
    }
    if any(problems.values()):
        raise WeightsError(
            f"these {dialect} weights are not of {model.info.variant} with "
            f"{model.info.classes} classes:"
            + "".join(
                f"\n  {what}: {', '.join(it)}" for what, it in problems.items() if it
            )
        )
    for variable, value in values:
        variable.assign(value)
    return LoadReport(dialect, tuple(table), tuple(ignored))


def _names(model, dialect):
    """{the dialect's name: our variable} of every variable that a checkpoint holds."""
    config = model.info.config
    try:
        return {
            DIALECTS[dialect].name(variable.path, config): variable
            for variable in model.variables
            if not variable.path.endswith("seed_generator_state")
        }
    except KeyError:  # this dialect has no such net
        return {}


def _strip_scope(name):
    """TF-slim's names without the net's own scope, and without ":0"."""
    match = re.fullmatch(r"(?:.*/)?((?:C\d|logits)/.*?)(?::0)?", name)
    return match[1] if match else name


def _load_keras_file(model, path):
    if not os.path.isfile(path):
        raise WeightsError(f"weights={path!r}: no such file")
    if not path.endswith((".weights.h5", ".keras")):
        raise WeightsError(f"weights={path!r}: must end in .weights.h5 or .keras")
    before = model.get_weights()
    try:
        model.load_weights(path)
    except (ValueError, KeyError, OSError, zipfile.BadZipFile) as error:
        model.set_weights(before)
        raise WeightsError(
            f"weights={path!r}: not of {model.info.variant} with "
            f"{model.info.classes} classes, or damaged: {error}"
        ) from error
    return LoadReport("keras_resnet", tuple(v.path for v in model.variables), ())
