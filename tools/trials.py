"""Trains recipes, each in a process of one core, and prints what each measures."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# before a process imports TensorFlow, which leaves it off on processors with AVX2 alone
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

from keras_resnet.recipe import Recipe


@dataclass(frozen=True)
class Trial:
    """A recipe to train, on what a function makes of its seed, into a run directory."""

    recipe: Recipe
    data: Callable[[int], dict[str, Any]]
    folder: Path


@dataclass(frozen=True)
class Measured:
    """On the validation pictures, after the last epoch."""

    top1: float  # in [0, 1]
    loss: float
    seconds: float  # that training took, of a run that was not stopped


def measure(
    trials: Mapping[tuple[str, int], Trial], workers: int | None
) -> dict[str, dict[int, Measured]]:
    """Trains all, and goes on with runs that were stopped.

    Args:
        trials: {(name, seed): trial}.
        workers: how many train at the same time; None: one a core.

    Returns:
        {name: {seed: what it measured}}.
    """
    started = time.monotonic()
    results: dict[str, dict[int, Measured]] = {name: {} for name, _ in trials}
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(workers, context) as pool:
        jobs = {pool.submit(_one, trial): key for key, trial in trials.items()}
        for job in concurrent.futures.as_completed(jobs):
            name, seed = jobs[job]
            results[name][seed] = job.result()
            print(
                f"{time.monotonic() - started:6.0f} s  {name}, seed {seed}: "
                f"{job.result().top1:.2%}",
                flush=True,
            )
    return results


def _one(trial: Trial) -> Measured:
    import keras
    import tensorflow as tf

    import keras_resnet

    if not tf.config.threading.get_intra_op_parallelism_threads():
        tf.config.threading.set_intra_op_parallelism_threads(1)
        tf.config.threading.set_inter_op_parallelism_threads(1)
    keras.backend.clear_session()
    data = trial.data(trial.recipe.seed)
    began = time.monotonic()
    model = keras_resnet.train.fit(trial.recipe, data, trial.folder)
    seconds = time.monotonic() - began
    result = keras_resnet.evaluate.run(model, data)
    assert result["examples"] == len(data["val"][1])
    return Measured(result["top1"], result["loss"], seconds)
