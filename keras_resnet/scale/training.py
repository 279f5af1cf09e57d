"""Training of one run by the workers of a Ray cluster."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from keras_resnet.errors import RayError
from keras_resnet.opening import open_model
from keras_resnet.ray import connected, last_line
from keras_resnet.recipe import Recipe


def ray_train(
    recipe: Recipe,
    data: str | os.PathLike[str],
    run: str | os.PathLike[str],
    workers: int,
    gpus: int = 0,
    address: str = "local",
    max_failures: int = 3,
    **options: Any,
) -> Any:
    """Trains a run with Ray's JaxTrainer; the same call again resumes it.

    Each worker is one of the processes of `train.fit`, and trains its slice of every
    batch with JAX. When a worker is lost, Ray starts all of them again, and they resume
    from the last checkpoint.

    Args:
        recipe: a Recipe.
        data: a path that all workers have.
        run: the run directory, on a file system that all workers share.
        workers: the number of processes; the batch must divide by them.
        gpus: GPUs of each worker; 0 trains on CPUs.
        address: of the Ray cluster, such as "auto"; "local" starts Ray on this machine.
        max_failures: how often the workers may be started again.
        **options: of `train.fit`, such as `checkpoint_steps`.

    Returns:
        The trained model, as `train.fit` returns it.

    Raises:
        RayError: Ray is not installed, its cluster does not answer, or training failed;
            the message has the reason.

    Examples:

    >>> recipe = keras_resnet.RECIPES["bag-of-tricks"].replace(batch_size=1024)
    >>> scale.ray_train(recipe, "/data/photos", "/runs/photos", workers=8, gpus=1)
    """
    if workers < 1 or gpus < 0:
        raise RayError(f"workers={workers}, gpus={gpus}: must be 1 or more, 0 or more")
    run = Path(run).resolve()
    variables = {"KERAS_BACKEND": "jax"}
    if not gpus:
        variables["JAX_PLATFORMS"] = "cpu"
    with connected(address):
        from ray.exceptions import RayError as AnyRayError
        from ray.train.v2.api.config import FailureConfig, RunConfig, ScalingConfig
        from ray.train.v2.api.exceptions import TrainingFailedError
        from ray.train.v2.jax import JaxConfig, JaxTrainer

        trainer = JaxTrainer(
            _train,
            train_loop_config={
                "recipe": recipe.to_dict(),
                "data": str(Path(data).resolve()),
                "run": str(run),
                "options": options,
            },
            # without it Ray would not connect JAX's processes on CPUs either
            jax_config=JaxConfig(use_gpu=True),
            scaling_config=ScalingConfig(
                num_workers=workers,
                use_gpu=gpus > 0,
                resources_per_worker={"GPU": gpus} if gpus else {"CPU": 1},
            ),
            run_config=RunConfig(
                name=run.name,
                storage_path=str(run.parent / f".{run.name}.ray"),
                failure_config=FailureConfig(max_failures=max_failures),
                worker_runtime_env={"env_vars": variables},
            ),
        )
        try:
            trainer.fit()
        except (TrainingFailedError, AnyRayError) as error:
            raise RayError(f"{run}: {last_line(error)}") from error
    return open_model(run)


def _train(config: dict[str, Any]) -> None:
    """What each worker does."""
    from keras_resnet import train
    from keras_resnet.train.processes import set_up_jax

    set_up_jax()
    recipe = Recipe.from_dict(config["recipe"])
    try:
        train.fit(recipe, config["data"], config["run"], **config["options"])
    except KeyboardInterrupt as error:  # which Ray would not take for a failure
        raise RuntimeError(str(error)) from error
