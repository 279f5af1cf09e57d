"""Concurrent requests joined into batches, run on threads, and taken apart again."""

import asyncio
import collections
import contextlib
import math
import time
from dataclasses import dataclass

import numpy as np

from keras_resnet.export.savedmodel import SavedModelError

RUNNERS = 2  # batches at a time: one decodes pictures while the other convolves
_GRACE = 0.1  # seconds


@dataclass
class _Job:
    inputs: dict
    rows: int
    pixels: int  # to be decoded
    until: float  # when its caller waits no longer, of time.monotonic
    joined_by: float  # until when others may join it, of the loop's clock
    result: asyncio.Future


class Batcher:
    """Runs the requests of one model.

    Args:
        model: has `signatures` and `run` as a SavedModel has.
        max_rows: of a batch; a larger request is run in several.
        max_pixels: of the pictures that are joined in a batch.
        wait: seconds that a request may wait for others.
        executor: of threads that run batches, RUNNERS at a time.
        slots: a semaphore of as many, shared by all that use the executor.
        observe: is called with the rows of each batch.
    """

    def __init__(
        self,
        model,
        max_rows,
        wait,
        executor,
        slots,
        observe=lambda rows: None,
        max_pixels=math.inf,
    ):
        self._max_rows = max_rows
        self._lanes = {
            name: _Lane(
                lambda inputs, until, name=name: _run(model, name, inputs, until),
                max_rows if _is_by_rows(signature) else 0,
                *(max_pixels, wait, executor, slots, observe),
            )
            for name, signature in model.signatures.items()
        }

    async def run(self, signature, inputs, rows, pixels=None, until=math.inf):
        """{key: array} of the outputs for these inputs, alone or joined with others.

        Args:
            pixels: that each row's pictures have, [rows]; None: there are none.
            until: when the caller waits no longer, of time.monotonic; what runs for
                nobody any more is ended.

        Raises:
            SavedModelError: the model refuses these inputs. Those of other requests in
                the batch do not cause it.
        """
        lane = self._lanes[signature]
        step = self._max_rows if lane.joins else rows
        pixels = np.zeros(rows, np.int64) if pixels is None else pixels
        pieces = [
            {key: array[start : start + step] for key, array in inputs.items()}
            for start in range(0, rows, step)
        ]
        # a caller who is cancelled cancels what still waits
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
        return {key: np.concatenate([it[key] for it in results]) for key in results[0]}

    async def drain(self):
        """Returns when nothing waits or runs any more."""
        for lane in self._lanes.values():
            while lane.tasks:
                await asyncio.wait([*lane.tasks])


def _run(model, name, inputs, until):
    if until == math.inf:
        return model.run(name, **inputs)
    # a little later than the callers, who say themselves that it took too long
    seconds = until + _GRACE - time.monotonic()
    if seconds <= _GRACE:
        raise SavedModelError(f"{name}: nobody waits for it any more")
    return model.run(name, seconds, **inputs)


def _is_by_rows(signature):
    """Whether a row of the inputs is a row of the outputs, as far as it says."""
    infos = [*signature["inputs"].values(), *signature["outputs"].values()]
    return all(shape and shape[0] is None for _, shape in infos)


class _Lane:
    """The requests of one signature, in the order that they came."""

    def __init__(self, run, max_rows, max_pixels, wait, executor, slots, observe):
        self.joins = max_rows > 0
        self.tasks = set()
        self._run, self._max_rows, self._max_pixels = run, max_rows, max_pixels
        self._wait = wait if self.joins else 0
        self._executor, self._slots, self._observe = executor, slots, observe
        self._jobs: collections.deque[_Job] = collections.deque()
        self._full, self._collecting = asyncio.Event(), False

    def add(self, inputs, rows, pixels, until):
        """A future of the outputs."""
        loop = asyncio.get_running_loop()
        joined_by, result = loop.time() + self._wait, loop.create_future()
        job = _Job(inputs, rows, pixels, until, joined_by, result)
        self._jobs.append(job)
        if sum(job.rows for job in self._jobs) >= self._max_rows:
            self._full.set()
        if not self._collecting:
            self._collecting = True
            self._start(self._collect())
        return job.result

    def _start(self, work):
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)  # the loop itself keeps only weak references
        task.add_done_callback(self.tasks.discard)

    async def _collect(self):
        try:
            while self._jobs:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout_at(self._jobs[0].joined_by):
                        await self._full.wait()
                await self._slots.acquire()
                # after a slot is free, not before: more may have come meanwhile
                batch = self._take()
                if batch:
                    self._start(self._execute(batch))
                else:
                    self._slots.release()
        finally:
            self._collecting = False

    def _take(self):
        batch: list[_Job] = []
        rows = pixels = 0
        while self._jobs:
            job = self._jobs[0]
            if not job.result.done():  # or its caller has gone
                rows, pixels = rows + job.rows, pixels + job.pixels
                if batch and (rows > self._max_rows or pixels > self._max_pixels):
                    break
                batch.append(job)
            self._jobs.popleft()
        if sum(job.rows for job in self._jobs) < self._max_rows:
            self._full.clear()
        return batch

    async def _execute(self, batch):
        self._observe(sum(job.rows for job in batch))
        inputs = [job.inputs for job in batch]
        sizes = [job.rows for job in batch]
        until = max(job.until for job in batch)
        loop = asyncio.get_running_loop()
        try:
            results = await loop.run_in_executor(
                self._executor, run_joined, self._run, inputs, sizes, until
            )
        except Exception as error:  # of the executor; run_joined returns the model's
            results = [error] * len(batch)
        finally:
            self._slots.release()
        for job, result in zip(batch, results):
            if job.result.done():
                continue
            if isinstance(result, Exception):
                job.result.set_exception(result)
            else:
                job.result.set_result(result)


def run_joined(run, requests, sizes, until):
    """[the outputs, or the error, of each request] from one run of all of them.

    If that fails, each is run by itself: only the culprit gets the error.

    Args:
        run: a function of inputs and `until`.
    """
    if len(requests) > 1:
        with contextlib.suppress(Exception):
            joined = {
                key: np.concatenate([request[key] for request in requests])
                for key in requests[0]
            }
            return _split(run(joined, until), sizes)
    return [_alone(run, request, until) for request in requests]


def _alone(run, request, until):
    try:
        return run(request, until)
    except Exception as error:
        return error


def _split(outputs, sizes):
    ends = np.cumsum(sizes)
    for key, array in outputs.items():
        if array.shape[:1] != (ends[-1],):
            raise SavedModelError(f"output {key} has shape {array.shape}: not by rows")
    return [
        {key: array[end - size : end] for key, array in outputs.items()}
        for end, size in zip(ends, sizes)
    ]
