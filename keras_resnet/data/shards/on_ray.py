"""Writes shards with the workers of a Ray cluster."""

from __future__ import annotations

import contextlib
from pathlib import Path

from keras_resnet.data.shards.plan import Plan
from keras_resnet.data.shards.writing import is_written, stored_pictures, write_shard
from keras_resnet.errors import DataError


def write_on_ray(folder: Path, plan: Plan) -> None:
    """Has the workers write the shards of a plan into the folder, each a task.

    Ray must be connected, and starts the task of a lost worker again.
    """
    import ray

    shared, task = ray.put(plan), ray.remote(_write)
    place = folder.resolve()
    indices = range(len(plan.shards))
    ray.get([task.remote(shared, place, index) for index in indices])


def _write(plan: Plan, folder: Path, index: int) -> None:
    shard = plan.shards[index]
    # the process that started the workers writes missing shards itself, and reports
    # the error then
    with contextlib.suppress(DataError):
        if not is_written(folder, shard):
            write_shard(folder, plan, shard, stored_pictures(plan, [shard]))
