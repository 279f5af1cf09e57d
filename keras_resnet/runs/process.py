"""A run's process: the only one at its directory, and one that stops in good order."""

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

_PATIENCE = 0.2  # seconds; one who asks who holds it holds it for an instant


class Interrupted(KeyboardInterrupt):
    """A run that was told to stop, and has written where it stands."""


class Stop:
    """Whether the run was told to stop, and by which signal."""

    signal: int | None = None


@contextlib.contextmanager
def stoppable() -> Iterator[Stop]:
    """SIGTERM, SIGINT and SIGUSR1 ask the run to stop, once; the next ends the process.

    SLURM sends SIGUSR1 some time before the end where it is asked to
    (`--signal=USR1@120`).

    Yields:
        A Stop. Outside the main thread signals stay as they are.
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
            # None: of a library, and not to be put back from here
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


@contextlib.contextmanager
def locked(run: str | os.PathLike[str]) -> Iterator[None]:
    """Holds the lock of a run directory; that of a dead process is free.

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
            # or it was the file of one that just ended, which is gone
            if not _is_still(lock, path):
                continue
            lock.truncate(0)
            lock.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            lock.flush()
            try:
                yield
            finally:
                with contextlib.suppress(OSError):  # of a disk that went read-only
                    path.unlink()
            return


def _is_still(file: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False


def holder(run: str | os.PathLike[str]) -> str | None:
    """Which process trains in a run directory now, if one does."""
    import fcntl

    with contextlib.suppress(FileNotFoundError), open(Path(run, layout.LOCK)) as lock:
        try:
            files.lock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return lock.read().strip() or "another process"
    return None
