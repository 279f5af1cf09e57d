"""Worker processes that decode images; one that crashes or hangs is replaced."""

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
_START = 300.0  # seconds; TensorFlow needs 3 to 20 to start, more on a busy machine
_IN_FLIGHT = 4  # requests sent ahead to a worker, so that it never has to wait
_ENVIRONMENT = {
    "CUDA_VISIBLE_DEVICES": "-1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    # otherwise TensorFlow imports Keras, which takes two seconds
    "TF_USE_LEGACY_KERAS": "1",
    # oneDNN's allocator would wait 10 s for memory that will not be freed
    "TF_ENABLE_ONEDNN_OPTS": "0",
    # one thread is enough, as there is a process per core, and each reserves memory
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
    """Yields (index of the request, answer) from `count` workers, as answers arrive.

    If a worker takes more than `seconds` for an image, needs more than `memory` bytes
    in addition to TensorFlow's own, or dies, another worker replaces it, and the
    "reason" of the answer says so. All workers end when this generator ends or is
    closed.
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
        self.queue = deque[tuple[int, Request]]()  # sent and not yet answered
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
                start_new_session=True,  # Ctrl-C reaches only the parent, which ends it
                env={**os.environ, **_ENVIRONMENT},
            )
        self.deadline = time.monotonic() + _START

    def give(self, waiting: deque[tuple[int, Request]]) -> None:
        """Sends waiting requests to the process, up to _IN_FLIGHT of them."""
        while waiting and len(self.queue) < _IN_FLIGHT and not self.dead:
            if self.ready and not self.queue:
                self.deadline = time.monotonic() + self.seconds
            self.queue.append(waiting.popleft())
            try:
                self.pipe.send_bytes(json.dumps(self.queue[-1][1]).encode())
            except OSError:  # the process has died; `problem` returns the reason
                self.dead = True

    def answers(self) -> Iterator[tuple[int, Answer]]:
        """Yields (index of the request, answer) for the answers that have arrived."""
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
        """The reason why the first request will not be answered, or None.

        Raises:
            DataError: the process could not start.
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
        except subprocess.TimeoutExpired:  # it closed the pipe or wrote invalid JSON
            return "the decoder went astray"
        if code == EXHAUSTED:
            return f"needs more than {self.memory / 2**30:.3g} GiB of memory"
        if code < 0:
            return f"the decoder died of {signal.Signals(-code).name}"
        return f"the decoder ended with exit code {code}"

    def end(self) -> None:
        """Kills the process, without waiting longer if it hangs in the kernel."""
        self.pipe.close()
        self.log.close()
        self.process.kill()
        try:
            self.process.wait(1)
        except subprocess.TimeoutExpired:
            # so that Python does not warn about a process that still runs
            self.process.returncode = -signal.SIGKILL
