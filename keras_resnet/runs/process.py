"""The lock that keeps a run to one process, and the signals that stop it safely."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from keras_resnet import files
from keras_resnet.errors import RunError
from keras_resnet.runs import layout

_LOCK_WAIT = 0.2  # seconds; `holder` also takes the lock, for an instant


_outer: Stop | None = None  # of the enclosing `stoppable` of the main thread


class Interrupted(KeyboardInterrupt):
    """Raised when a signal stopped a run, after its checkpoint was written."""


class Stop:
    """A request to stop a run.

    Attributes:
        signal: the number of the signal that asked for it, or None if none did.
    """

    signal: int | None = None

    def ask(self, number: int) -> bool:
        """Asks to stop; returns whether another signal shall end the process."""
        self.signal = number
        return True

    def look(self) -> None:
        """Called after each batch; `signal` changes only here if processes share it."""


@contextlib.contextmanager
def stoppable(stop: Stop | None = None) -> Iterator[Stop]:
    """Turns the first SIGTERM, SIGINT or SIGUSR1 into a request to stop the run.

    A second signal ends the process. SLURM can send SIGUSR1 before the time limit
    (`--signal=USR1@120`). One within another passes its request on.

    Args:
        stop: the Stop to ask; by default a new one.

    Yields:
        The Stop. Outside the main thread, no signal handlers are installed.
    """
    global _outer
    stop = stop or Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def ask(number: int, frame: object) -> None:
        if stop.ask(number):
            for handled in numbers:
                signal.signal(handled, signal.SIG_DFL)

    names = ("SIGTERM", "SIGINT", "SIGUSR1")  # Windows lacks the last
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    before = {number: signal.signal(number, ask) for number in numbers}
    outer, _outer = _outer, stop
    if outer and outer.signal:
        stop.ask(outer.signal)
    try:
        yield stop
    finally:
        _outer = outer
        if outer and stop.signal:
            outer.ask(stop.signal)
        for number, handler in before.items():
            # None: a handler not installed from Python, which cannot be restored here
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


@contextlib.contextmanager
def locked(run: str | os.PathLike[str]) -> Iterator[None]:
    """Holds the lock of a run directory, which the system releases if the process dies.

    Raises:
        RunError: another process holds it.
    """
    import fcntl  # not on Windows, where the rest of the package works

    path, deadline = Path(run, layout.LOCK), time.monotonic() + _LOCK_WAIT
    while True:
        with open(path, "a+") as lock:
            try:
                files.lock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                if time.monotonic() < deadline:
                    time.sleep(_LOCK_WAIT / 10)
                    continue
                raise RunError(
                    f"{run}: is being trained by {holder(run) or 'another process'}; "
                    "wait for it, or stop it"
                ) from error
            # the previous holder may have deleted this file after it was opened
            if not _is_same_file(lock, path):
                continue
            lock.truncate(0)
            lock.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            lock.flush()
            try:
                yield
            finally:
                with contextlib.suppress(OSError):  # the disk may have become read-only
                    path.unlink()
            return


def _is_same_file(file: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False


def holder(run: str | os.PathLike[str]) -> str | None:
    """Returns which process is training in a run directory, or None if none is."""
    import fcntl

    with contextlib.suppress(FileNotFoundError), open(Path(run, layout.LOCK)) as lock:
        try:
            files.lock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return lock.read().strip() or "another process"
    return None
