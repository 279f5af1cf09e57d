"""Joins concurrent requests into batches, which run on a pool of threads."""

import asyncio
import collections
import contextlib
import functools
import math
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from keras_resnet.errors import SavedModelError

RUNNERS = 2  # concurrent batches: one can decode images while the other computes
_GRACE = 0.1  # seconds that a run may take after its callers have timed out
Arrays = dict[str, np.ndarray]


@dataclass
class _Job:
    inputs: Arrays
    rows: int
    pixels: int  # of all its images
    until: float  # when its caller times out, in time.monotonic()
    joined_by: float  # until when other requests may join, in the event loop's time
    result: asyncio.Future[Arrays]


@dataclass(frozen=True)
class Pool:
    """The threads that run the batches of all versions, and the limits of batches."""

    max_rows: int  # of a batch; larger requests are split
    wait: float  # seconds that a request waits for others to join it
    max_pixels: float = math.inf  # of all images of a batch of several requests
    observe: Callable[[int], object] = lambda rows: None  # called for each batch
    executor: Executor = field(
        default_factory=lambda: ThreadPoolExecutor(RUNNERS, "batch")
    )
    # one slot per thread, so that a batch is formed only when it can run
    slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(RUNNERS))


class Batcher:
    """Runs requests to one model in batches.

    Args:
        model: a SavedModel, or another object with `signatures`, `run` and its errors.
        pool: the threads and limits, shared with the batchers of other versions.
    """

    def __init__(self, model: Any, pool: Pool) -> None:
        self._max_rows = pool.max_rows
        self._lanes = {
            name: _Lane(
                functools.partial(_run, model, name), pool, _is_by_rows(signature)
            )
            for name, signature in model.signatures.items()
        }

    async def run(
        self,
        signature: str,
        inputs: Arrays,
        rows: int,
        pixels: np.ndarray | None = None,
        until: float = math.inf,
    ) -> Arrays:
        """Runs a signature on inputs, alone or in a batch with other requests.

        Args:
            signature: the name of the signature.
            inputs: {key: array}.
            rows: the number of rows of the inputs.
            pixels: the number of pixels in each row's images, [rows]; None: there are
                no images.
            until: the time.monotonic() at which the caller times out. A batch is
                stopped when all its callers have timed out.

        Returns:
            {key: array} of the outputs for these inputs.

        Raises:
            SavedModelError: the model fails on these inputs. Inputs of other requests
                in the batch do not cause it.
        """
        lane = self._lanes[signature]
        step = self._max_rows if lane.joins else rows
        pixels = np.zeros(rows, np.int64) if pixels is None else pixels
        pieces = [
            {key: array[start : start + step] for key, array in inputs.items()}
            for start in range(0, rows, step)
        ]
        # gather, because cancelling it cancels the pieces that still wait
        results = await asyncio.gather(
            *(
                lane.add(
                    *(piece, min(step, rows - step * n)),
                    *(int(pixels[step * n : step * (n + 1)].sum()), until),
                )
                for n, piece in enumerate(pieces)
            )
        )
        if len(results) == 1:
            return results[0]
        return {
            key: np.concatenate([result[key] for result in results])
            for key in results[0]
        }

    async def drain(self) -> None:
        """Waits until no request waits or runs."""
        for lane in self._lanes.values():
            while lane.tasks:
                await asyncio.wait([*lane.tasks])


def _run(model: Any, name: str, inputs: Arrays, until: float) -> Arrays:
    if until == math.inf:
        return model.run(name, **inputs)
    # a little longer, so that the callers, who report it, time out first
    seconds = until + _GRACE - time.monotonic()
    if seconds <= _GRACE:
        raise SavedModelError(f"{name}: not run, since all its callers have timed out")
    return model.run(name, seconds, **inputs)


def _is_by_rows(signature: dict[str, Any]) -> bool:
    """Returns whether rows of inputs correspond to rows of outputs, by their shapes."""
    infos = [*signature["inputs"].values(), *signature["outputs"].values()]
    return all(shape and shape[0] is None for _, shape in infos)


class _Lane:
    """The queue of the requests to one signature.

    Args:
        run: runs the signature; its arguments are inputs and the time to stop at.
        pool: the threads and limits.
        joins: whether requests may be joined and split by rows.
    """

    def __init__(
        self, run: Callable[[Arrays, float], Arrays], pool: Pool, joins: bool
    ) -> None:
        self._run, self._pool, self.joins = run, pool, joins
        self.tasks: set[asyncio.Task[None]] = set()
        self._max_rows = pool.max_rows if joins else 0
        self._jobs: collections.deque[_Job] = collections.deque()
        self._full, self._collecting = asyncio.Event(), False

    def add(
        self, inputs: Arrays, rows: int, pixels: int, until: float
    ) -> asyncio.Future[Arrays]:
        """Queues a request, and returns a future of its outputs."""
        loop = asyncio.get_running_loop()
        joined_by = loop.time() + (self._pool.wait if self.joins else 0)
        job = _Job(inputs, rows, pixels, until, joined_by, loop.create_future())
        self._jobs.append(job)
        if sum(job.rows for job in self._jobs) >= self._max_rows:
            self._full.set()
        if not self._collecting:
            self._collecting = True
            self._start(self._collect())
        return job.result

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)  # the event loop keeps only weak references
        task.add_done_callback(self.tasks.discard)

    async def _collect(self) -> None:
        try:
            while self._jobs:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout_at(self._jobs[0].joined_by):
                        await self._full.wait()
                await self._pool.slots.acquire()
                # after acquiring a slot, because more requests may have come meanwhile
                batch = self._take()
                if batch:
                    self._start(self._execute(batch))
                else:
                    self._pool.slots.release()
        finally:
            self._collecting = False

    def _take(self) -> list[_Job]:
        batch: list[_Job] = []
        rows = pixels = 0
        while self._jobs:
            job = self._jobs[0]
            if not job.result.done():  # a cancelled request is done
                rows, pixels = rows + job.rows, pixels + job.pixels
                if batch and (rows > self._max_rows or pixels > self._pool.max_pixels):
                    break
                batch.append(job)
            self._jobs.popleft()
        if sum(job.rows for job in self._jobs) < self._max_rows:
            self._full.clear()
        return batch

    async def _execute(self, batch: list[_Job]) -> None:
        self._pool.observe(sum(job.rows for job in batch))
        inputs = [job.inputs for job in batch]
        sizes = [job.rows for job in batch]
        until = max(job.until for job in batch)
        loop = asyncio.get_running_loop()
        results: list[Arrays | Exception]
        try:
            results = await loop.run_in_executor(
                self._pool.executor, run_joined, self._run, inputs, sizes, until
            )
        except Exception as error:  # of the executor; run_joined returns the model's
            results = [error] * len(batch)
        finally:
            self._pool.slots.release()
        for job, result in zip(batch, results):
            if job.result.done():
                continue
            if isinstance(result, Exception):
                job.result.set_exception(result)
            else:
                job.result.set_result(result)


def run_joined(
    run: Callable[[Arrays, float], Arrays],
    requests: list[Arrays],
    sizes: list[int],
    until: float,
) -> list[Arrays | Exception]:
    """Runs several requests as one batch.

    If the batch fails, each request is run separately, so that only those that cause
    the error get it.

    Args:
        run: a function of inputs and `until` that returns outputs.
        requests: the inputs of each request.
        sizes: the number of rows of each request.
        until: the time.monotonic() to stop at.

    Returns:
        The outputs or the error of each request.
    """
    if len(requests) > 1:
        with contextlib.suppress(Exception):
            joined = {
                key: np.concatenate([request[key] for request in requests])
                for key in requests[0]
            }
            return [*_split(run(joined, until), sizes)]
    return [_alone(run, request, until) for request in requests]


def _alone(
    run: Callable[[Arrays, float], Arrays], request: Arrays, until: float
) -> Arrays | Exception:
    try:
        return run(request, until)
    except Exception as error:
        return error


def _split(outputs: Arrays, sizes: list[int]) -> list[Arrays]:
    ends = np.cumsum(sizes)
    for key, array in outputs.items():
        if array.shape[:1] != (ends[-1],):
            raise SavedModelError(f"output {key} has shape {array.shape}: not by rows")
    return [
        {key: array[end - size : end] for key, array in outputs.items()}
        for end, size in zip(ends, sizes)
    ]
