"""The process of a run: it has the directory to itself, and stops when told to."""

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

_PATIENCE = 0.2  # seconds; `holder` holds the lock for a moment, too


class Interrupted(KeyboardInterrupt):
    """A run was told to stop, and has written a checkpoint."""


class Stop:
    """The signal that told the run to stop, or None."""

    signal: int | None = None


@contextlib.contextmanager
def stoppable() -> Iterator[Stop]:
    """Makes SIGTERM, SIGINT and SIGUSR1 ask the run to stop.

    The first signal asks, and the second one ends the process. SLURM sends SIGUSR1 some
    time before its limit if a job says so (`--signal=USR1@120`).

    Yields:
        A Stop. Outside the main thread no signal handler is installed.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def ask(number: int, frame: object) -> None:
        stop.signal = number
        for each in numbers:
            signal.signal(each, signal.SIG_DFL)

    names = ("SIGTERM", "SIGINT", "SIGUSR1")  # Windows lacks the last
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    before = {number: signal.signal(number, ask) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            # None: a handler in C, which cannot be put back from here
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


@contextlib.contextmanager
def locked(run: str | os.PathLike[str]) -> Iterator[None]:
    """Holds the lock of a run directory, which a process that dies releases.

    Raises:
        RunError: another process holds it.
    """
    import fcntl  # not on Windows, where the rest of the package works

    path, until = Path(run, layout.LOCK), time.monotonic() + _PATIENCE
    while True:
        with open(path, "a+") as lock:
            try:
                files.lock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                if time.monotonic() < until:
                    time.sleep(_PATIENCE / 10)
                    continue
                raise RunError(
                    f"{run}: is being trained by {holder(run) or 'another process'}; "
                    "wait for it, or stop it"
                ) from error
            # the process that had it may have just ended, and removed the file
            if not _is_still(lock, path):
                continue
            lock.truncate(0)
            lock.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            lock.flush()
            try:
                yield
            finally:
                with contextlib.suppress(OSError):  # the disk may be read-only by now
                    path.unlink()
            return


def _is_still(file: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False


def holder(run: str | os.PathLike[str]) -> str | None:
    """The process that is training in a run directory, or None."""
    import fcntl

    with contextlib.suppress(FileNotFoundError), open(Path(run, layout.LOCK)) as lock:
        try:
            files.lock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return lock.read().strip() or "another process"
    return None
