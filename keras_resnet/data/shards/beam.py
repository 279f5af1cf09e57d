"""Writes shards with the workers of an Apache Beam pipeline."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import pickle
from pathlib import Path
from typing import Any

from keras_resnet.data.shards.plan import Plan
from keras_resnet.data.shards.writing import (
    WORK,
    is_written,
    stored_pictures,
    write_shard,
)
from keras_resnet.errors import DataError
from keras_resnet.files import atomic_write

_PICKLE = "plan.pickle"


def open_pipeline(options: str) -> Any:
    """A Beam pipeline with these options.

    Raises:
        DataError: Beam is not installed, or an option is invalid.
    """
    try:
        import apache_beam
        from apache_beam.options.pipeline_options import PipelineOptions

        return apache_beam.Pipeline(options=PipelineOptions(options.split()))
    except ImportError as error:
        raise DataError(
            f"beam={options!r}: needs Apache Beam; pip install keras-resnet-d[beam]"
        ) from error
    except ValueError as error:
        raise DataError(f"beam={options!r}: {error}") from error


def write_on_beam(pipeline: Any, folder: Path, plan: Plan) -> None:
    """Runs the pipeline, whose workers write the shards into the folder."""
    import apache_beam

    content = pickle.dumps(plan)  # too large to be an argument in the pipeline
    with atomic_write(folder / WORK / _PICKLE) as partial:
        partial.write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    with pipeline:
        indices = pipeline | apache_beam.Create(range(len(plan.shards)))
        # otherwise one worker would get all shards
        spread = indices | apache_beam.Reshuffle()
        spread | apache_beam.Map(_write_as_worker, folder.resolve(), digest)


def _write_as_worker(index: int, folder: Path, digest: str) -> None:
    plan = _read_plan(folder, digest)
    shard = plan.shards[index]
    # the process that started the workers writes missing shards itself, and reports
    # the error then
    with contextlib.suppress(DataError):
        if not is_written(folder, shard):
            write_shard(folder, plan, shard, stored_pictures(plan, [shard]))


@functools.lru_cache(maxsize=1)
def _read_plan(folder: Path, digest: str) -> Plan:
    content = (folder / WORK / _PICKLE).read_bytes()
    # unpickling any other file may be unsafe
    if hashlib.sha256(content).hexdigest() != digest:
        raise DataError(
            f"{folder / WORK / _PICKLE}: not the plan of this pipeline; run it again"
        )
    return pickle.loads(content)
