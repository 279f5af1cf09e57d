"""Isolated workers that decode pictures: one that crashes or hangs is replaced."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from keras_resnet.data.checks.inspector import EXHAUSTED
from keras_resnet.errors import DataError

_PROGRAM = Path(__file__).with_name("inspector.py")
_START = 300.0  # s; TensorFlow takes 3 to 20 to start, more on a busy machine
_IN_FLIGHT = 4  # requests that a worker has at once, so that it never waits for one
_ENVIRONMENT = {
    "CUDA_VISIBLE_DEVICES": "-1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    # without it TensorFlow imports Keras, which takes two seconds
    "TF_USE_LEGACY_KERAS": "1",
    # its allocator waits 10 s for memory that nobody will free
    "TF_ENABLE_ONEDNN_OPTS": "0",
    # there is a process a core, and each thread reserves memory
    "TF_NUM_INTRAOP_THREADS": "1",
    "TF_NUM_INTEROP_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "1",
}

Request = dict[str, Any]
Answer = dict[str, Any]


def cores() -> int:
    """The number of cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def examine(
    requests: Iterable[Request], count: int, seconds: float, memory: int
) -> Generator[tuple[int, Answer]]:
    """Yields (place of the request, answer) from `count` workers, as they come.

    Where a worker takes longer than `seconds` for a picture, takes more than `memory`
    bytes beside TensorFlow's own, or dies, the answer has that as its "reason", and
    another worker replaces it. All workers end with this generator, however it ends.
    """
    waiting = deque[tuple[int, Request]]()
    source = enumerate(requests)
    workers: list[_Worker] = []
    try:
        while True:
            room = max(0, count * _IN_FLIGHT - len(waiting))
            waiting.extend(itertools.islice(source, room))
            for worker in workers:
                worker.give(waiting)
            while waiting and len(workers) < count:
                workers.append(_Worker(seconds, memory))
                workers[-1].give(waiting)
            busy = [worker.deadline for worker in workers if worker.queue]
            if not busy:
                return
            pause = max(0.0, min(busy) - time.monotonic())
            wait([worker.pipe for worker in workers], pause)
            for worker in list(workers):
                yield from worker.answers()
                if reason := worker.problem():
                    workers.remove(worker)
                    worker.end()
                    if worker.queue:
                        guilty, _ = worker.queue.popleft()
                        waiting.extendleft(reversed(worker.queue))
                        yield guilty, {"reason": reason}
    finally:
        for worker in workers:
            worker.end()


class _Worker:
    def __init__(self, seconds: float, memory: int) -> None:
        self.seconds, self.memory = seconds, memory
        self.queue = deque[tuple[int, Request]]()  # given and not answered
        self.dead = self.ready = False
        self.log = tempfile.TemporaryFile()  # noqa: SIM115 `end` closes it
        self.pipe, remote = multiprocessing.Pipe()
        command = [sys.executable, "-P", "-W", "ignore", str(_PROGRAM)]
        with remote:
            self.process = subprocess.Popen(
                [*command, str(remote.fileno()), str(memory)],
                pass_fds=[remote.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self.log,
                start_new_session=True,  # Ctrl-C is for the parent, which ends them all
                env={**os.environ, **_ENVIRONMENT},
            )
        self.deadline = time.monotonic() + _START

    def give(self, waiting: deque[tuple[int, Request]]) -> None:
        """Takes waiting requests until it has enough."""
        while waiting and len(self.queue) < _IN_FLIGHT and not self.dead:
            if self.ready and not self.queue:
                self.deadline = time.monotonic() + self.seconds
            self.queue.append(waiting.popleft())
            try:
                self.pipe.send_bytes(json.dumps(self.queue[-1][1]).encode())
            except OSError:  # `problem` tells how it died
                self.dead = True

    def answers(self) -> Iterator[tuple[int, Answer]]:
        """Yields (place, answer) of what has arrived."""
        try:
            while self.pipe.poll():
                answer: Answer = json.loads(self.pipe.recv_bytes())
                self.deadline = time.monotonic() + self.seconds
                if self.ready:
                    yield self.queue.popleft()[0], answer
                self.ready = True
        except (EOFError, OSError, ValueError):
            self.dead = True

    def problem(self) -> str | None:
        """Why the first of its requests will have no answer, or None.

        Raises:
            DataError: the worker could not start.
        """
        late = self.queue and time.monotonic() > self.deadline
        if not (self.dead or late):
            return None
        if not self.ready:
            self.log.seek(0)
            lines = self.log.read().decode(errors="replace").strip().splitlines()
            raise DataError(
                "a worker that decodes pictures cannot start: "
                + (lines[-1] if lines and self.dead else f"not within {_START:.0f} s")
            )
        if not self.dead:
            return f"took longer than {self.seconds:g} s"
        try:
            code = self.process.wait(1)
        except subprocess.TimeoutExpired:  # it closed the pipe, or wrote no JSON to it
            return "the decoder went astray"
        if code == EXHAUSTED:
            return f"needs more than {self.memory / 2**30:.3g} GiB of memory"
        if code < 0:
            return f"the decoder died of {signal.Signals(-code).name}"
        return f"the decoder ended with exit code {code}"

    def end(self) -> None:
        """Kills the process; one that hangs in the kernel is left there."""
        self.pipe.close()
        self.log.close()
        self.process.kill()
        try:
            self.process.wait(1)
        except subprocess.TimeoutExpired:
            # so that Python does not warn that it still runs
            self.process.returncode = -signal.SIGKILL
