"""Processes that look at pictures and may die of it: kept busy, watched, replaced."""

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
from collections.abc import Generator, Iterable
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from keras_resnet.data.checks.inspector import EXHAUSTED
from keras_resnet.errors import DataError

_PROGRAM = Path(__file__).with_name("inspector.py")
_START = 300.0  # s; TensorFlow takes 3 to 20 to start, more on a busy machine
_IN_FLIGHT = 4  # requests a worker has at once, so that it never waits for us


def cores() -> int:
    """Those that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def examine(
    requests: Iterable[dict], count: int, seconds: float, memory: int
) -> Generator[tuple[int, dict]]:
    """Has `count` processes look at all: (place of the request, answer), as they come.

    A picture on which a process takes longer than `seconds`, takes `memory` bytes more
    than TensorFlow has, or dies, is answered with that as its "reason"; another process
    takes its place. All are gone when this ends, whatever ends it.
    """
    left = deque[tuple[int, dict]]()
    source = enumerate(requests)
    workers: list[_Worker] = []
    try:
        while True:
            room = max(0, count * _IN_FLIGHT - len(left))
            left.extend(itertools.islice(source, room))
            for worker in workers:
                worker.give(left)
            while left and len(workers) < count:
                workers.append(_Worker(seconds, memory))
                workers[-1].give(left)
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
                        left.extendleft(reversed(worker.queue))
                        yield guilty, {"reason": reason}
    finally:
        for worker in workers:
            worker.end()


class _Worker:
    def __init__(self, seconds, memory):
        self.seconds, self.memory = seconds, memory
        self.queue: deque[tuple[int, dict]] = deque()  # given and not answered
        self.dead = self.ready = False
        self.log = tempfile.TemporaryFile()  # noqa: SIM115 `end` closes it
        self.pipe, theirs = multiprocessing.Pipe()
        command = [sys.executable, "-P", "-W", "ignore", str(_PROGRAM)]
        with theirs:
            self.process = subprocess.Popen(
                [*command, str(theirs.fileno()), str(memory)],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self.log,
                start_new_session=True,  # Ctrl-C is for the parent, who ends them all
                env={
                    **os.environ,
                    "CUDA_VISIBLE_DEVICES": "-1",
                    "TF_CPP_MIN_LOG_LEVEL": "3",
                    # whose allocator waits 10 s for memory that nobody will free
                    "TF_ENABLE_ONEDNN_OPTS": "0",
                    # there is a process a core, and each thread reserves memory
                    "TF_NUM_INTRAOP_THREADS": "1",
                    "TF_NUM_INTEROP_THREADS": "1",
                    "OPENBLAS_NUM_THREADS": "1",
                    "MALLOC_ARENA_MAX": "1",
                },
            )
        self.deadline = time.monotonic() + _START

    def give(self, left):
        """Takes requests from `left` until it has enough."""
        while left and len(self.queue) < _IN_FLIGHT and not self.dead:
            if self.ready and not self.queue:
                self.deadline = time.monotonic() + self.seconds
            self.queue.append(left.popleft())
            try:
                self.pipe.send_bytes(json.dumps(self.queue[-1][1]).encode())
            except OSError:  # `problem` will say how it died
                self.dead = True

    def answers(self):
        """(place, answer) of all that has come."""
        try:
            while self.pipe.poll():
                answer: dict[str, Any] = json.loads(self.pipe.recv_bytes())
                self.deadline = time.monotonic() + self.seconds
                if self.ready:
                    yield self.queue.popleft()[0], answer
                self.ready = True
        except (EOFError, OSError, ValueError):
            self.dead = True

    def problem(self):
        """Why the first of its requests has no answer and will have none, or None."""
        late = self.queue and time.monotonic() > self.deadline
        if not (self.dead or late):
            return None
        if not self.ready:
            self.log.seek(0)
            said = self.log.read().decode(errors="replace").strip().splitlines()
            raise DataError(
                "a process that looks at pictures cannot start: "
                + (said[-1] if said and self.dead else f"not within {_START:.0f} s")
            )
        if not self.dead:
            return f"took longer than {self.seconds:g} s"
        try:
            code = self.process.wait(1)
        except subprocess.TimeoutExpired:  # it closed the pipe, or wrote nonsense there
            return "the decoder went astray"
        if code == EXHAUSTED:
            return f"needs more than {self.memory / 2**30:.3g} GiB of memory"
        if code < 0:
            return f"the decoder died of {signal.Signals(-code).name}"
        return f"the decoder ended with exit code {code}"

    def end(self):
        """Ends the process; one that hangs in the kernel is left to it."""
        self.pipe.close()
        self.log.close()
        self.process.kill()
        try:
            self.process.wait(1)
        except subprocess.TimeoutExpired:
            # nor a warning of Python's that it still runs
            self.process.returncode = -signal.SIGKILL
